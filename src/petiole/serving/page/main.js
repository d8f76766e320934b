import { get, onKey, say } from "./api.js";
import { openRuns } from "./runs.js";
import { openTeach } from "./teach.js";
import { openTry } from "./try.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const openers = { try: openTry, teach: openTeach, runs: openRuns };

function show(name) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  say("");
  openers[name]().catch((error) => say(error.message, true));
}

for (const tab of tabs) {
  tab.addEventListener("click", () => show(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const there = tabs.filter((one) => !one.hidden);
    const next = there[(there.indexOf(tab) + step + there.length) % there.length];
    next.focus();
    next.click();
  });
}

async function begin() {
  try {
    const has = await get("/v1/page");
    document.getElementById("tab-teach").hidden = !has.teach;
    document.getElementById("tab-runs").hidden = !has.runs;
    const wanted = location.hash.slice(1);
    show(has[wanted] ? wanted : "try");
  } catch (error) {
    say(error.message, true);
  }
}

onKey(begin);
begin();
