// Images, every chosen adapter's answer side by side; of several images, those on which adapters differ first.
import { ask, element, get, percent, say } from "./api.js";
import { look, nearest } from "./look.js";

const by = (id) => document.getElementById(id);
const SHOWN = 6;
const MOST = 200;
const TOGETHER = 8;
let image = null;
let images = [];
let asked = 0;
let training = false;

export async function openTry() {
  const { adapters } = await get("/v1/adapters");
  const has = await get("/v1/page");
  training = has.training;
  const chosen = new Set(choices());
  const first = !by("adapters").querySelector("input");
  const rows = adapters
    .filter((one) => one.does.includes("predict"))
    .map((one, i) => {
      const box = element("input", { type: "checkbox", value: one.name, checked: first ? i < 3 : chosen.has(one.name) });
      box.addEventListener("change", answerAll);
      return element("label", {}, box, ` ${one.name} `, element("span", { className: "note" }, `${one.classes.length} classes, ${one.method}`));
    });
  by("adapters").replaceChildren(by("adapters").querySelector("legend"), ...rows);
  if (!rows.length) say(`No adapter labels images here yet: ${has.teach ? "Teach makes one" : "PUT /v1/adapters/NAME takes one in"}.`);
}

const choices = () => [...by("adapters").querySelectorAll("input:checked")].map((box) => box.value);

function take(files) {
  const given = [...files].filter((file) => file.type.startsWith("image/"));
  if (!given.length) return;
  images = given.slice(0, MOST);
  if (given.length > MOST) say(`The first ${MOST} of ${given.length} images are taken.`);
  show(images[0]);
  answerAll();
}

function show(file) {
  image = file;
  URL.revokeObjectURL(by("shown").src);
  by("shown").src = URL.createObjectURL(file);
  by("shown").alt = file.name || "the pasted image";
  by("shown").hidden = false;
  by("drop-text").hidden = true;
}

async function answerAll() {
  await Promise.all([answer(), flips()]);
}

async function answer() {
  if (!image) return;
  const turn = ++asked;
  const cards = await Promise.all(choices().map(card));
  if (turn === asked) by("answers").replaceChildren(...cards);
}

// Several images: a row each, those that the adapters call differently first.
async function flips() {
  const names = choices();
  const [mine, view] = [images, by("flips")];
  view.hidden = images.length < 2 || !names.length;
  if (view.hidden) return;
  const rows = mine.map((file) => ({ file, labels: names.map(() => "") }));
  for (let start = 0; start < rows.length; start += TOGETHER) {
    const some = rows.slice(start, start + TOGETHER);
    await Promise.all(names.map((name, i) => labels(name, some, i)));
    if (mine !== images || names.join("\n") !== choices().join("\n")) return; // asked anew meanwhile
    by("flips-note").textContent = `${start + some.length} of ${rows.length} images`;
  }
  const differ = (row) => new Set(row.labels).size > 1;
  const count = rows.filter(differ).length;
  by("flips-note").textContent =
    names.length > 1 ? `The adapters differ on ${count} of ${rows.length} images.` : "Choose a second adapter to see on which images they differ.";
  by("flips-heads").replaceChildren(...["Image", ...names].map((name) => element("th", { scope: "col" }, name)));
  by("flips-rows").replaceChildren(...rows.sort((a, b) => differ(b) - differ(a)).map((row) => line(row, differ(row))));
}

function line(row, differs) {
  const open = element("button", { type: "button" }, row.file.name);
  open.addEventListener("click", () => {
    show(row.file);
    answer();
    by("shown").scrollIntoView({ block: "center" });
  });
  const cells = row.labels.map((label) => element("td", { className: differs ? "mark" : "" }, label));
  return element("tr", {}, element("th", { scope: "row" }, open), ...cells);
}

async function labels(name, rows, column) {
  const body = new FormData();
  for (const row of rows) body.append("images", row.file);
  body.append("adapter", name);
  body.append("top", 1);
  try {
    const told = await (await ask("/v1/predict", { method: "POST", body })).json();
    rows.forEach((row, i) => (row.labels[column] = told.predictions[i].label));
  } catch (error) {
    say(error.message, true);
    for (const row of rows) row.labels[column] = "?";
  }
}

async function card(name) {
  const asking = image;
  const body = new FormData();
  body.append("images", asking);
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
      list.append(element("dt", { title: label }, label), element("dd", {}, bar), element("dd", {}, percent(p)));
    }
    shown.append(element("p", { className: "label" }, row.label), list);
    if (row.label_set.length) shown.append(element("p", { className: "note" }, `Label set: ${row.label_set.join(", ")}`));
    if (row.outside) shown.append(element("p", { className: "mark" }, "Looks like none of the training images"));
    if (row.abstain) shown.append(element("p", { className: "mark" }, "Leave it to a person"));
    const more = [action("Where it looks", () => look(asking, name, row.label))];
    if (training) more.push(action("Nearest training images", () => nearest(asking, name)));
    shown.append(element("div", { className: "more" }, ...more));
    for (const note of told.notes) shown.append(element("p", { className: "note" }, note));
  } catch (error) {
    shown.append(element("p", { className: "note" }, error.message));
  }
  return shown;
}

function action(title, make) {
  const button = element("button", { type: "button" }, title);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      button.replaceWith(await make());
    } catch (error) {
      button.disabled = false;
      say(error.message, true);
    }
  });
  return button;
}

const drop = by("drop");
by("file").addEventListener("change", (event) => take(event.target.files));
for (const id of ["coverage", "abstain"]) by(id).addEventListener("change", answer);
for (const kind of ["dragover", "dragleave", "drop"])
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
document.addEventListener("paste", (event) => {
  if (!by("try").hidden) take(event.clipboardData.files);
});
