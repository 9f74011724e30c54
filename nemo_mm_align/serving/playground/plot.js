// A small plot as SVG: values against what was asked for. Its table stands beside it; the picture has a text of its own.

import { spell } from "./dom.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 280, HEIGHT = 190, LEFT = 36, RIGHT = 12, TOP = 12, BOTTOM = 40;
let numbered = 0;

function draw(tag, attributes, text = null) {
  const element = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

/** Round steps that cover a range. @returns {number[]} three to six values from at most `low` to at least `high` */
export function ticks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9), last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, place) => (first + place) * step);
}

/**
 * A line through points.
 * @param {{title: string, xLabel: string, points: [number, number][], low?: number, high?: number, asAsked?: boolean}} plot
 *   low, high: of the vertical axis, else from 0 to the largest value; asAsked: a guide where both are equal
 */
export function plot({ title, xLabel, points, low = 0, high = undefined, asAsked = false }) {
  const id = `plot-${++numbered}`;
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const marks = ticks(low, high ?? Math.max(...ys, low + 1e-9));
  const [least, most] = [Math.min(...xs), Math.max(...xs)];
  const across = (x) => LEFT + ((x - least) / (most - least || 1)) * (WIDTH - LEFT - RIGHT);
  const up = (y) => HEIGHT - BOTTOM - ((y - marks[0]) / (marks.at(-1) - marks[0])) * (HEIGHT - TOP - BOTTOM);
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "plot", "aria-labelledby": `${id}-title ${id}-text` });
  const told = points.map(([x, y]) => `${spell(y)} at ${spell(x)}`).join(", ");
  svg.append(draw("title", { id: `${id}-title` }, title), draw("desc", { id: `${id}-text` }, `${title} against ${xLabel}: ${told}.`));
  for (const y of marks) {
    svg.append(draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: up(y), y2: up(y), class: "grid" }));
    svg.append(draw("text", { x: LEFT - 7, y: up(y) + 4, class: "tick end" }, spell(y)));
  }
  for (const x of xs) svg.append(draw("text", { x: across(x), y: HEIGHT - BOTTOM + 18, class: "tick middle" }, spell(x)));
  svg.append(draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 5, class: "label middle" }, asAsked ? `${xLabel}; dashed: as asked` : xLabel));
  if (asAsked) svg.append(draw("line", { x1: across(least), y1: up(least), x2: across(most), y2: up(most), class: "guide" }));
  svg.append(draw("polyline", { points: points.map(([x, y]) => `${across(x)},${up(y)}`).join(" "), class: "curve" }));
  for (const [x, y] of points) svg.append(draw("circle", { cx: across(x), cy: up(y), r: 4.5, class: "point" }));
  return svg;
}
