// Finished runs, the newest first.
import { element, get, percent, say, url } from "./api.js";

const rows = document.getElementById("run-rows");
const cell = (text, className = "") => element("td", { className }, text);

export async function openRuns() {
  const { runs } = await get("/v1/runs");
  rows.replaceChildren(...runs.map(row));
  if (!runs.length) say("No finished runs yet.");
}

function row(run) {
  const name = element("th", { scope: "row" }, run.page ? link(run) : run.name);
  if (run.error) return element("tr", {}, name, element("td", { colSpan: 6 }, run.error));
  const [metric, value] = Object.entries(run.scores)[0];
  const score = metric === "accuracy" ? percent(value, 2) : `${value.toFixed(1)} ${metric}`;
  return element(
    "tr", {}, name, cell(run.method), cell(run.backbone), cell(score, "number"), cell(run.parameters.toLocaleString("en"), "number"),
    cell(run.seconds.toFixed(1), "number"), cell(run.created.slice(0, 16).replace("T", " ")),
  );
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
