// Label a folder: what is chosen here goes to the server, which answers with all that is known then.
import { ask, element, get, percent, post, say, url } from "./api.js";
import { learning } from "./curves.js";
import { colour, Map } from "./map.js";

const by = (id) => document.getElementById(id);
const A_PAGE = 60;
const LOOK_AGAIN = 3000; // milliseconds: another page may have labelled
let images = null;
let state = null;
let view = "suggested";
let page = 0;
let listed = []; // rows that a view shows though the state does not name them: look-alikes
const chosen = new Set();
const pictures = new window.Map();
const map = new Map(by("map"), (rows) => choose(rows));

export async function openTeach() {
  if (images) return;
  say("Reading the images; this takes a while the first time.");
  while (!(await get("/v1/teach/ready")).ready) await new Promise((done) => setTimeout(done, 500));
  images = await get("/v1/teach/images");
  say(`${images.names.length.toLocaleString("en")} images of ${images.name}, seen by ${images.backbone}.`);
  by("map-note").textContent = `${images.projection} of the frozen backbone's vectors: neighbours look alike to it. Draw around images to choose them.`;
  await take(await get("/v1/teach/state"));
  setInterval(look, LOOK_AGAIN);
}

async function look() {
  if (by("teach").hidden) return;
  const news = await get(`/v1/teach/state?since=${state.version}`).catch(() => ({}));
  if (news.version > state.version) take(news);
}

async function take(news) {
  state = news;
  chosen.clear();
  const count = state.labels.filter((label) => label >= 0).length;
  by("labelled").textContent = count.toLocaleString("en");
  const known = state.accuracy;
  by("accuracy").textContent = known ? percent(known.value) : "–";
  by("accuracy-note").textContent = known
    ? `accuracy on left-out labels, 95 % interval ${percent(known.low)} to ${percent(known.high)}; labels were chosen, so other images may differ`
    : "accuracy on left-out labels: label two images of two classes";
  by("classes").replaceChildren(...state.classes.map(chip));
  draw();
  curve();
}

function chip(name, index) {
  const dot = element("span", { className: "dot" });
  dot.style.background = colour(index);
  const count = state.labels.filter((label) => label === index).length;
  const parts = [dot, `${name} `, element("span", { className: "note" }, String(count))];
  if (index < 9) parts.push(" ", element("kbd", {}, String(index + 1)));
  const made = element("button", { type: "button" }, ...parts);
  made.addEventListener("click", () => label([...chosen], name));
  return made;
}

async function change(path, value, what) {
  try {
    listed = [];
    if (view === "alike") view = "suggested";
    await take(await post(path, value));
    say(`${what}; the head was fitted again in ${state.milliseconds.toFixed(0)} ms.`);
  } catch (error) {
    say(error.message, true);
  }
}

const counted = (rows) => `${rows.length.toLocaleString("en")} image${rows.length === 1 ? "" : "s"}`;

async function label(rows, name) {
  if (!rows.length) return say("Choose images first.", true);
  await change("/v1/teach/label", { rows, label: name }, name === null ? `${counted(rows)} without a label` : `${counted(rows)} labelled ${name}`);
}

async function accept() {
  // Guesses of what is chosen, or of all that is shown.
  const rows = (chosen.size ? [...chosen] : shown()).filter((row) => state.labels[row] < 0 && state.guesses[row] >= 0);
  if (!rows.length) return say("Nothing here has a guess to accept: label two classes first.", true);
  const names = rows.map((row) => state.classes[state.guesses[row]]);
  await change("/v1/teach/label", { rows, label: names }, `${counted(rows)} labelled as guessed`);
}

async function alike() {
  if (!chosen.size) return say("Choose an image first; its look-alikes are shown then.", true);
  const { rows } = await get(`/v1/teach/alike/${[...chosen][0]}`);
  view = "alike";
  listed = rows;
  draw();
  choose(rows.filter((row) => state.labels[row] < 0));
}

function rows() {
  if (view === "suggested") return state.suggested;
  if (view === "errors") return state.errors;
  if (view === "alike") return listed;
  if (view === "map") return [...chosen];
  return [...images.names.keys()];
}

const shown = () => rows().slice(page * A_PAGE, (page + 1) * A_PAGE);

function draw() {
  for (const button of by("views").children) button.setAttribute("aria-pressed", button.dataset.view === view);
  by("map-view").hidden = view !== "map";
  const pages = Math.max(1, Math.ceil(rows().length / A_PAGE));
  page = Math.min(page, pages - 1);
  by("pager").hidden = pages < 2;
  by("page-of").textContent = `${page + 1} of ${pages}`;
  by("before").disabled = page === 0;
  by("after").disabled = page === pages - 1;
  by("grid").replaceChildren(...shown().map(tile));
  if (!shown().length) {
    const empty = { errors: "No label looks wrong.", suggested: "Every image has a label.", map: "Draw around images to see them here." };
    by("grid").replaceChildren(element("li", { className: "note" }, empty[view] || "No images."));
  }
  if (view === "map") map.draw(images.map, state, chosen);
  mark();
}

function tile(row) {
  const picture = element("img", { alt: images.names[row], loading: "lazy" });
  load(row, picture);
  const given = state.labels[row];
  const guess = state.guesses[row];
  const dots = Math.max(given, guess) < 0 ? [] : [element("span", { className: "dot" })];
  for (const dot of dots) dot.style.background = colour(given >= 0 ? given : guess);
  const text = given >= 0 ? state.classes[given] : guess >= 0 ? `${state.classes[guess]}? ${percent(state.sure[row], 0)}` : "no label";
  const doubt = view === "errors" && guess >= 0 && guess !== given ? ` (rather ${state.classes[guess]})` : "";
  const made = element("button", { type: "button" }, picture, element("span", {}, ...dots, text + doubt), element("span", { className: "name" }, images.names[row]));
  made.dataset.row = row;
  made.addEventListener("click", (event) => {
    if (event.shiftKey && chosen.size) between([...chosen].at(-1), row);
    else if (!chosen.delete(row)) chosen.add(row);
    mark();
  });
  return element("li", {}, made);
}

function between(from, to) {
  const there = shown();
  const [a, b] = [there.indexOf(from), there.indexOf(to)].sort((x, y) => x - y);
  for (const row of there.slice(Math.max(a, 0), b + 1)) chosen.add(row);
}

async function load(row, picture) {
  if (!pictures.has(row)) pictures.set(row, url(`/v1/teach/thumbnails/${row}`));
  try {
    picture.src = await pictures.get(row);
  } catch {
    pictures.delete(row);
  }
}

function choose(found) {
  for (const row of found) chosen.add(row);
  if (view === "map") draw();
  mark();
}

function mark() {
  for (const button of by("grid").querySelectorAll("button")) button.setAttribute("aria-pressed", chosen.has(Number(button.dataset.row)));
  by("chosen").textContent = chosen.size
    ? `${chosen.size} chosen: click a class, or press its number.`
    : "Nothing is chosen: click images, then a class or its number key.";
}

async function curve() {
  const found = await get("/v1/teach/curve").catch(() => ({ measured: [], expected: [] }));
  learning(by("curve"), by("curve-text"), found);
}

function show(name) {
  [view, page] = [name, 0];
  chosen.clear();
  draw();
}

function clear() {
  chosen.clear();
  if (view === "map") draw();
  mark();
}

const unlabel = () => label([...chosen], null);
const undo = () => change("/v1/teach/undo", {}, "The last step is undone");
for (const [id, act] of Object.entries({ accept, alike, unlabel, undo, clear })) by(id).addEventListener("click", act);
for (const button of by("views").children) button.addEventListener("click", () => show(button.dataset.view));
for (const [id, step] of [["before", -1], ["after", 1]])
  by(id).addEventListener("click", () => {
    page += step;
    draw();
  });

by("new-class").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = by("class-name").value.trim();
  if (!name || !chosen.size) return say("Choose images and name their class.", true);
  by("class-name").value = "";
  by("class-name").blur(); // so that keys label again
  label([...chosen], name);
});

by("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const served = await post("/v1/teach/adapter", { name: by("publish-name").value.trim() });
    say(`Served as ${served.name}, with ${served.classes.length} classes: see Try.`);
  } catch (error) {
    say(error.message, true);
  }
});

for (const button of document.querySelectorAll("[data-export]"))
  button.addEventListener("click", async () => {
    try {
      const answer = await ask(`/v1/teach/export/${button.dataset.export}`);
      const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition"))[1];
      element("a", { href: URL.createObjectURL(await answer.blob()), download: name }).click();
    } catch (error) {
      say(error.message, true);
    }
  });

const keys = { a: accept, l: alike, u: undo, 0: unlabel, Escape: clear };
document.addEventListener("keydown", (event) => {
  const busy = event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
  if (by("teach").hidden || busy || !state) return;
  const name = state.classes[Number(event.key) - 1];
  if (name !== undefined) label([...chosen], name);
  else keys[event.key]?.();
});
