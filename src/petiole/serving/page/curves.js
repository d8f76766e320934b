// Losses by step, one line a run, each with its own dash so that colour alone tells nothing; accuracy by number of labels.
import { element, percent } from "./api.js";

const SPACE = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 4", "2 4", "12 4 2 4", "4 4", "14 5"];
const WIDTH = 640;
const HEIGHT = 220;
const EDGE = { left: 66, right: 8, top: 14, bottom: 24 };

function drawn(tag, attributes, text = "") {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

export function curves(figure, runs) {
  const lines = runs.filter((run) => run.points.length > 1);
  figure.hidden = !lines.length;
  if (!lines.length) return;
  const points = lines.flatMap((run) => run.points);
  const last = Math.max(...points.map(([step]) => step));
  const [low, high] = [Math.min(...points.map(([, loss]) => loss)), Math.max(...points.map(([, loss]) => loss))];
  const x = (step) => EDGE.left + (step / (last || 1)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (loss) => EDGE.top + ((high - loss) / (high - low || 1)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": "curves-text" });
  for (const loss of [low, high]) {
    svg.append(drawn("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(loss), y2: y(loss), class: "axis" }));
    svg.append(drawn("text", { x: EDGE.left - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toPrecision(3)));
  }
  svg.append(drawn("text", { x: WIDTH - EDGE.right, y: HEIGHT - 6, "text-anchor": "end" }, `step ${last.toLocaleString("en")}`));
  const legend = element("ul", { className: "legend" });
  lines.forEach((run, i) => {
    const style = { class: `line line-${i}`, "stroke-dasharray": DASHES[i] };
    svg.append(drawn("polyline", { points: run.points.map(([step, loss]) => `${x(step)},${y(loss)}`).join(" "), ...style }));
    const key = drawn("svg", { viewBox: "0 0 40 8", "aria-hidden": "true" });
    key.append(drawn("line", { x1: 0, x2: 40, y1: 4, y2: 4, ...style }));
    legend.append(element("li", {}, key, `${run.name}: loss ${run.points.at(-1)[1].toPrecision(3)}`));
  });
  const caption = element("figcaption", { id: "curves-text" }, `Loss by step of ${lines.map((run) => run.name).join(", ")}`);
  figure.replaceChildren(svg, caption, legend);
}

// What was measured, and what is to be expected of more labels, dashed; the numbers of labels stand on a logarithmic scale.
export function learning(figure, caption, { measured, expected }) {
  figure.hidden = measured.length < 2;
  if (figure.hidden) return;
  const points = [...measured, ...expected];
  const [few, many, low, high] = [0, 1].flatMap((i) => [Math.min, Math.max].map((best) => best(...points.map((point) => point[i]))));
  const x = (n) => 20 + (190 * Math.log(n / few)) / (Math.log(many / few) || 1);
  const y = (accuracy) => 84 - (62 * (accuracy - low)) / (high - low || 1);
  const line = (some, dashes) =>
    drawn("polyline", { points: some.map(([n, a]) => `${x(n)},${y(a)}`).join(" "), fill: "none", stroke: "currentColor", "stroke-width": 1.6, "stroke-dasharray": dashes });
  const last = expected.at(-1);
  const told = [measured[0], measured.at(-1), last ?? []].filter((point) => point.length);
  const texts = told.map(([n, a]) => drawn("text", { x: x(n), y: y(a) - 7, "text-anchor": "middle" }, percent(a, 0)));
  figure.querySelector("svg").replaceChildren(line(measured, ""), line([measured.at(-1), ...expected], "4 4"), ...texts);
  caption.textContent = last
    ? `Measured with ${measured[0][0]} to ${measured.at(-1)[0]} labels; about ${percent(last[1], 0)} is to be expected with ${last[0]}`
    : `Measured with ${measured[0][0]} to ${measured.at(-1)[0]} labels`;
}
