// Which patches of an image speak for a class, drawn over the image as the model sees it.
import { ask, element } from "./api.js";

const SIDE = 320;

export async function look(image, adapter, label) {
  const body = new FormData();
  for (const [name, value] of [["image", image], ["adapter", adapter], ["label", label]]) body.append(name, value);
  const told = await (await ask("/v1/look", { method: "POST", body })).json();
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
