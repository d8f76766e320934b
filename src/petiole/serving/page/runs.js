// Runs, the newest first; chosen ones side by side, with curves that grow while a run goes on.
import { element, get, percent, say, url } from "./api.js";
import { curves } from "./curves.js";

const by = (id) => document.getElementById(id);
const EVERY = 2000;
const MOST = 6;
const cell = (text, className = "") => element("td", { className }, text);
const chosen = new Set();
let timer = 0;

export async function openRuns() {
  clearTimeout(timer);
  const { runs } = await get("/v1/runs");
  const known = new Set(runs.map((run) => run.name));
  for (const name of chosen) if (!known.has(name)) chosen.delete(name);
  const at = document.activeElement?.value;
  by("run-rows").replaceChildren(...runs.map(row));
  if (at) by("run-rows").querySelector(`input[value="${CSS.escape(at)}"]`)?.focus();
  if (!runs.length) say("No runs yet.");
  await compare();
  if (runs.some((run) => run.state && run.state !== "finished")) timer = setTimeout(again, EVERY);
}

function again() {
  if (by("runs").hidden || document.hidden) timer = setTimeout(again, EVERY);
  else openRuns().catch((error) => say(error.message, true));
}

function row(run) {
  const box = element("input", { type: "checkbox", value: run.name, checked: chosen.has(run.name), disabled: Boolean(run.error) });
  box.setAttribute("aria-label", `Compare ${run.name}`);
  box.addEventListener("change", () => {
    if (box.checked && chosen.size === MOST) {
      box.checked = false;
      say(`At most ${MOST} runs stand side by side.`);
      return;
    }
    chosen[box.checked ? "add" : "delete"](run.name);
    compare().catch((error) => say(error.message, true));
  });
  const name = element("th", { scope: "row" }, run.page ? link(run) : run.name);
  const start = [element("td", {}, box), name];
  if (run.error) return element("tr", {}, ...start, element("td", { colSpan: 6 }, run.error));
  return element(
    "tr", {}, ...start, cell(run.method), cell(run.backbone), cell(score(run), "number"), cell(run.parameters?.toLocaleString("en") ?? "", "number"),
    cell(run.seconds?.toFixed(1) ?? "", "number"), cell(run.created?.slice(0, 16).replace("T", " ") ?? run.state),
  );
}

function score(run) {
  if (run.state !== "finished") return run.steps ? `step ${run.step} of ${run.steps}` : `step ${run.step}`;
  const [metric, value] = Object.entries(run.scores)[0];
  return metric === "accuracy" ? percent(value, 2) : `${value.toFixed(1)} ${metric}`;
}

async function compare() {
  by("compared").hidden = !chosen.size;
  if (!chosen.size) return;
  const asked = [...chosen].map((name) => `name=${encodeURIComponent(name)}`).join("&");
  const { runs } = await get(`/v1/runs?${asked}`);
  curves(by("run-curves"), runs.map((run) => ({ name: run.name, points: run.curve })));
  by("run-heads").replaceChildren(cell(""), ...runs.map((run) => element("th", { scope: "col" }, run.name)));
  const scored = runs.map((run) => Object.fromEntries(Object.entries(run.scores ?? {}).map(([name, value]) => [name, value.toPrecision(4)])));
  const costs = runs.map((run) => ({ "trained parameters": run.parameters?.toLocaleString("en"), "training seconds": run.seconds?.toFixed(1) }));
  const differing = table(runs.map((run) => run.asked), true);
  by("run-compared").replaceChildren(...table(scored, false), ...table(costs, false), ...differing);
  const same = differing.length ? "" : runs.length > 1 ? " They were asked for the same thing." : " Choose another run to see what differs.";
  by("run-note").textContent = `Scores, costs, and the settings that differ.${same}`;
}

function table(columns, onlyDiffering) {
  const names = [...new Set(columns.flatMap(Object.keys))];
  return names
    .map((name) => [name, columns.map((column) => column[name] ?? "–")])
    .filter(([, values]) => (onlyDiffering ? new Set(values).size > 1 : true))
    .map(([name, values]) => element("tr", {}, element("th", { scope: "row" }, name), ...values.map((value) => cell(value))));
}

function link(run) {
  const path = `/runs/${run.name.split("/").map(encodeURIComponent).join("/")}/report.html`;
  const shown = element("a", { href: path }, run.name);
  shown.addEventListener("click", async (event) => {
    if (!sessionStorage.getItem("petiole-key")) return; // a plain link is enough
    event.preventDefault();
    window.open(await url(path), "_blank");
  });
  return shown;
}
