// Which patches of an image speak for a class, drawn over the image as the model sees it; training images that look alike.
import { ask, element } from "./api.js";

const SIDE = 320;

async function about(path, fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return (await ask(path, { method: "POST", body })).json();
}

export async function nearest(image, adapter) {
  const { images } = await about("/v1/nearest", { image, adapter });
  const tiles = images.map((one) => {
    const shown = element("img", { src: `data:image/jpeg;base64,${one.thumbnail}`, alt: "" });
    return element("li", {}, shown, element("span", {}, `${one.label} ${one.alike.toFixed(2)}`));
  });
  const note = "Training images most alike: cosine of the frozen backbone's vectors.";
  return element("figure", {}, element("ul", { className: "alike" }, ...tiles), element("figcaption", {}, note));
}

export async function look(image, adapter, label) {
  const told = await about("/v1/look", { image, adapter, label });
  const [rows, columns] = [told.patches.length, told.patches[0].length];
  const canvas = element("canvas", { width: SIDE, height: (SIDE * rows) / columns });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Patches that speak for ${told.label}: ${where(told.patches)}`);
  const brush = canvas.getContext("2d");
  const seen = element("img", { src: `data:image/jpeg;base64,${told.seen}` });
  await seen.decode();
  brush.filter = "grayscale(1)";
  brush.drawImage(seen, 0, 0, canvas.width, canvas.height);
  brush.filter = "none";
  const most = Math.max(...told.patches.flat().map(Math.abs)) || 1;
  told.patches.forEach((row, r) =>
    row.forEach((value, c) => {
      brush.fillStyle = value > 0 ? "#ff8c1a" : "#3a78ff";
      brush.globalAlpha = (0.75 * Math.abs(value)) / most;
      brush.fillRect((c * SIDE) / columns, (r * canvas.height) / rows, SIDE / columns, canvas.height / rows);
    }),
  );
  const note = `Orange patches speak for ${told.label}, blue ones against it (gradient × input).`;
  return element("figure", {}, canvas, element("figcaption", {}, note));
}

function where(patches) {
  const flat = patches.flatMap((row, r) => row.map((value, c) => [value, r + 1, c + 1]));
  const best = flat.sort((a, b) => b[0] - a[0]).slice(0, 3);
  return `most in ${best.map(([, r, c]) => `row ${r} column ${c}`).join(", ")} of ${patches.length} by ${patches[0].length}`;
}
