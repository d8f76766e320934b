// Runs, the newest first; chosen ones side by side, with curves that grow while a run goes on.
import { element, get, percent, say, url } from "./api.js";
import { curves } from "./curves.js";

const by = (id) => document.getElementById(id);
const EVERY = 2000;
const MOST = 6;
const cell = (text, className = "") => element("td", { className }, text);
const chosen = new Set();
const opened = new Set();
let timer = 0;

export async function openRuns() {
  clearTimeout(timer);
  const { runs } = await get("/v1/runs");
  const known = new Set(runs.map((run) => run.name));
  for (const name of chosen) if (!known.has(name)) chosen.delete(name);
  const at = document.activeElement?.dataset.at;
  by("run-rows").replaceChildren(...together(runs));
  if (at) by("run-rows").querySelector(`[data-at="${CSS.escape(at)}"]`)?.focus();
  by("run-rows").closest(".scroll").hidden = !runs.length;
  if (!runs.length) say("No runs yet: petiole fit writes them below this folder.");
  await compare();
  if (runs.some((run) => run.state === "running" || run.state === "stopped")) timer = setTimeout(again, EVERY);
}

function again() {
  if (by("runs").hidden || document.hidden) timer = setTimeout(again, EVERY);
  else openRuns().catch((error) => say(error.message, true));
}

// Runs below one folder, as a comparison makes them, stand under one row, which opens.
function together(runs) {
  const heads = new Map();
  for (const run of runs) {
    const head = run.name.split("/")[0];
    heads.set(head, [...(heads.get(head) ?? []), run]);
  }
  return [...heads].flatMap(([head, some]) => {
    const inner = some.filter((run) => run.state !== "page");
    if (some.length === 1 && inner.length) return inner.map(row);
    const page = some.find((run) => run.name === head && run.page);
    const below = opened.has(head) ? some.filter((run) => run !== page || run.state !== "page") : [];
    return [folder(head, page, inner), ...below.map((run) => (run.state === "page" ? folder(run.name, run, []) : row(run)))];
  });
}

function folder(head, page, inner) {
  const name = element("th", { scope: "row" }, page ? link(page) : head);
  if (!inner.length) return element("tr", {}, cell(""), name, element("td", { colSpan: 6 }, "a page"));
  const button = element("button", { type: "button" }, `${opened.has(head) ? "Hide" : "Show"} ${inner.length} ${inner.length === 1 ? "run" : "runs"}`);
  button.setAttribute("aria-expanded", opened.has(head));
  button.dataset.at = head;
  button.addEventListener("click", () => {
    opened[opened.has(head) ? "delete" : "add"](head);
    openRuns().catch((error) => say(error.message, true));
  });
  const active = inner.filter((run) => run.state === "running").length;
  const when = active ? `${active} running` : (inner.map(day).sort().at(-1) ?? "");
  return element("tr", {}, cell(""), name, element("td", { colSpan: 5 }, button), cell(when));
}

const day = (run) => run.created?.slice(0, 16).replace("T", " ") ?? run.state ?? "";

function row(run) {
  const box = element("input", { type: "checkbox", value: run.name, checked: chosen.has(run.name), disabled: Boolean(run.error) });
  box.dataset.at = run.name;
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
    "tr", {}, ...start, cell(score(run), "number"), cell(run.method), cell(run.backbone), cell(run.parameters?.toLocaleString("en") ?? "", "number"),
    cell(run.seconds?.toFixed(1) ?? "", "number"), cell(day(run)),
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
  const scored = runs.map((run) => Object.fromEntries(Object.entries(run.scores ?? {}).map(([name, value]) => [name, String(Number(value.toPrecision(4)))])));
  const costs = runs.map((run) => ({ "trained parameters": run.parameters?.toLocaleString("en"), "training seconds": run.seconds?.toFixed(1) }));
  const differing = table(runs.map((run) => run.asked), true);
  by("run-compared").replaceChildren(...table(scored, false), ...table(costs, false), ...differing);
  const same = differing.length ? "" : runs.length > 1 ? " They were asked for the same thing." : " Choose another run to see what differs.";
  by("run-note").textContent = `Scores, costs, and the settings that differ; those of one method alone are left out.${same}`;
}

function table(columns, onlyDiffering) {
  const names = [...new Set(columns.flatMap(Object.keys))];
  return names
    .map((name) => [name, columns.map((column) => column[name] ?? "–")])
    .filter(([, values]) => !onlyDiffering || (new Set(values).size > 1 && !values.includes("–")))
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
