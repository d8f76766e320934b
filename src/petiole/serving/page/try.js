// One image, every chosen adapter's answer side by side.
import { ask, element, get, percent, say } from "./api.js";

const by = (id) => document.getElementById(id);
const SHOWN = 6;
let image = null;
let asked = 0;

export async function openTry() {
  const { adapters } = await get("/v1/adapters");
  const chosen = new Set(choices());
  const first = !by("adapters").querySelector("input");
  const rows = adapters
    .filter((one) => one.does.includes("predict"))
    .map((one, i) => {
      const box = element("input", { type: "checkbox", value: one.name, checked: first ? i < 3 : chosen.has(one.name) });
      box.addEventListener("change", answer);
      return element("label", {}, box, ` ${one.name} `, element("span", { className: "note" }, `${one.classes.length} classes, ${one.method}`));
    });
  by("adapters").replaceChildren(by("adapters").querySelector("legend"), ...rows);
  if (!rows.length) say("No adapter labels images here yet.");
}

const choices = () => [...by("adapters").querySelectorAll("input:checked")].map((box) => box.value);

function take(file) {
  if (!file) return;
  image = file;
  URL.revokeObjectURL(by("shown").src);
  by("shown").src = URL.createObjectURL(file);
  by("shown").alt = file.name || "the pasted image";
  by("shown").hidden = false;
  by("drop-text").hidden = true;
  answer();
}

async function answer() {
  if (!image) return;
  const turn = ++asked;
  say("");
  const cards = await Promise.all(choices().map(card));
  if (turn === asked) by("answers").replaceChildren(...cards);
}

async function card(name) {
  const body = new FormData();
  body.append("images", image);
  body.append("adapter", name);
  body.append("top", SHOWN);
  for (const id of ["coverage", "abstain"]) if (by(id).value) body.append(id, by(id).value);
  const shown = element("article", {}, element("h2", {}, name));
  try {
    const told = await (await ask("/v1/predict", { method: "POST", body })).json();
    const row = told.predictions[0];
    const list = element("dl");
    for (const [label, p] of Object.entries(row.probabilities)) {
      const bar = element("meter", { min: 0, max: 1, value: p });
      bar.setAttribute("aria-label", label);
      list.append(element("dt", { title: label }, label), bar, element("dd", {}, percent(p)));
    }
    shown.append(element("p", { className: "label" }, row.label), list);
    if (row.label_set.length) shown.append(element("p", { className: "note" }, `Label set: ${row.label_set.join(", ")}`));
    if (row.outside) shown.append(element("p", { className: "mark" }, "Looks like none of the training images"));
    if (row.abstain) shown.append(element("p", { className: "mark" }, "Leave it to a person"));
    for (const note of told.notes) shown.append(element("p", { className: "note" }, note));
  } catch (error) {
    shown.append(element("p", { className: "note" }, error.message));
  }
  return shown;
}

const drop = by("drop");
by("file").addEventListener("change", (event) => take(event.target.files[0]));
for (const id of ["coverage", "abstain"]) by(id).addEventListener("change", answer);
for (const kind of ["dragover", "dragleave", "drop"])
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => {
  if (!by("try").hidden) take([...event.clipboardData.files].find((file) => file.type.startsWith("image/")));
});
