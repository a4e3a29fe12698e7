// What the page draws: images, perturbations, probabilities, and the margin against epsilon.

import { CLASSES, SIDE } from "./network.js";
import { sprite } from "./panel.js"; // of advutils/widgets: the slider of the notebooks draws its images with it

const BLUE = [33, 102, 172], RED = [178, 24, 43]; // ends of the diverging scale that colour-blind readers tell apart
const SVG = "http://www.w3.org/2000/svg";

/** An image of grey levels, a canvas pixel for each. */
export function image(canvas, levels) {
  show(canvas, Uint8Array.from(levels, (level) => Math.round(255 * level)));
}

/** The colour of an element's ground. */
export function groundOf(element) {
  return getComputedStyle(element).backgroundColor.match(/\d+/g).slice(0, 3).map(Number);
}

/** A perturbation: blue where a pixel was darkened, red where it was brightened, the ground where nothing changed. */
export function perturbation(canvas, original, attacked, eps, ground) {
  const scale = Array.from({ length: 256 }, (_, place) => {
    const part = place / 127.5 - 1, end = part < 0 ? BLUE : RED;
    return ground.map((level, c) => level + (end[c] - level) * Math.abs(part));
  }).flat();
  const delta = attacked.map((value, at) => (value - original[at]) / Math.max(eps, 1e-3));
  show(canvas, Uint8Array.from(delta, (part) => Math.round(127.5 * (Math.max(-1, Math.min(1, part)) + 1))), scale);
}

function show(canvas, bytes, scale) {
  const pen = canvas.getContext("2d");
  pen.drawImage(sprite(bytes, 0, 1, [1, SIDE, SIDE], scale), 0, 0);
}

/** Ten rows for the probabilities of the classes; returns what shows some, with the class y and the one read. */
export function bars(element) {
  const rows = Array.from({ length: CLASSES }, (_, k) => {
    const row = made("div", "bar", element);
    made("b", "", row, k);
    return { row, bar: made("i", "", made("span", "", row)), share: made("small", "", row) };
  });
  element.setAttribute("role", "img");
  return (probabilities, y, read) => {
    rows.forEach(({ row, bar, share }, k) => {
      row.className = `bar${k === y ? " true" : ""}${k === read && k !== y ? " wrong" : ""}`;
      bar.style.width = `${100 * probabilities[k]}%`;
      share.textContent = percent(probabilities[k]);
    });
    const likely = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 3);
    const words = likely.map((k) => `${k} ${percent(probabilities[k])}`).join(", ");
    element.setAttribute("aria-label", `class probabilities: ${words}`);
  };
}

/** A share in whole percent; what is not quite 0 or 1 does not look like it. */
export function percent(share) {
  if (share > 0.995 && share < 0.9995) return `${(100 * share).toFixed(1)}%`;
  return `${Math.round(100 * share)}%`;
}

export function made(tag, name, parent, text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  parent?.append(element);
  return element;
}

function drawn(tag, attributes, parent, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

/** The marks by which networks are told apart beside their colours, around a point. */
const MARKS = [
  (x, y, r) => ["circle", { cx: x, cy: y, r }],
  (x, y, r) => ["rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r }],
  (x, y, r) => ["path", { d: `M${x} ${y - 1.2 * r}L${x + 1.2 * r} ${y + r}H${x - 1.2 * r}Z` }],
];

/** The mark of a network, beside its name. */
export function mark(number) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 14 14");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("shape", `of-${number}`);
  drawn(...MARKS[number](7, 7, 5), svg);
  return svg;
}

/**
 * Margins against epsilon, as wide as the slider below, half of whose handle is as wide as `inset`.
 * curves: for each network null or a margin at each radius; now: the margins at eps; proved: null or a radius for each.
 */
export function chart(svg, { labels, radii, curves, now, eps, proved }, { wide, high, inset }) {
  const last = radii.at(-1);
  const [least, most] = bounds([...curves.flatMap((values) => values ?? []), ...now]);
  const across = (radius) => inset + ((wide - 2 * inset) * radius) / last;
  const down = (value) => 8 + ((high - 16) * (most - value)) / (most - least);
  svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  svg.replaceChildren();
  drawn("rect", { class: "misread", x: 0, y: down(0), width: wide, height: Math.max(0, high - down(0)) }, svg);
  proved.forEach((radius, i) => {
    const width = across(radius ?? 0) - across(0);
    if (radius) drawn("rect", { class: `proved of-${i}`, x: across(0), y: 0, width, height: down(0) }, svg);
  });
  ticks(least, most, high / 30).forEach((value) => {
    drawn("line", { class: value ? "grid" : "zero", x1: 0, x2: wide, y1: down(value), y2: down(value) }, svg);
    const place = { x: wide - 4, y: down(value) - 4, "text-anchor": "end" };
    if (down(value) > 16) drawn("text", place, svg, String(value).replace("-", "−"));
  });
  if (high > 100) drawn("text", { class: "side", x: 6, y: down(0) - 6 }, svg, "read correctly");
  drawn("text", { class: "side", x: 6, y: down(0) + 15 }, svg, "misread");
  drawn("line", { class: "now", x1: across(eps), x2: across(eps), y1: 0, y2: high }, svg);
  curves.forEach((values, i) => {
    const points = values?.map((value, k) => `${across(radii[k]).toFixed(1)} ${down(value).toFixed(1)}`);
    if (points) drawn("path", { class: `curve of-${i}`, d: `M${points.join("L")}` }, svg);
  });
  now.forEach((value, i) => drawn(...MARKS[i](across(eps), down(value), 5), svg).classList.add("point", `of-${i}`));
  const said = labels.map((label, i) => `${label} ${signed(now[i])}`).join(", ");
  const words = `Margin against epsilon. At epsilon ${eps.toFixed(3)}: ${said}. Below 0 the digit is misread.`;
  svg.setAttribute("aria-label", words);
}

/** A margin with its sign. */
export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

function bounds(values) {
  const least = Math.min(-4, ...values), most = Math.max(4, ...values), room = (most - least) * 0.06;
  return [least - room, most + room];
}

function ticks(least, most, count) {
  const step = [2, 5, 10, 20, 50, 100, 200, 500].find((size) => (most - least) / size <= count) ?? 1000;
  const first = Math.ceil(least / step);
  return Array.from({ length: Math.floor(most / step) - first + 1 }, (_, k) => (first + k) * step);
}
