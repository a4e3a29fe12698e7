// The elements of the page: images, perturbations, probabilities, and the margin against epsilon.

import * as drawing from "./drawing.js"; // of advutils/widgets: the slider of the notebooks draws with it too
import { CLASSES, SIDE } from "./network.js";

const SVG = "http://www.w3.org/2000/svg";

/** An image of grey levels, a canvas pixel for each. */
export function image(canvas, levels) {
  show(canvas, Uint8Array.from(levels, (level) => Math.round(255 * level)));
}

/** A perturbation: blue where a pixel was darkened, red where it was brightened, clear where nothing changed. */
export function perturbation(canvas, original, attacked, eps) {
  const delta = attacked.map((value, at) => (value - original[at]) / Math.max(eps, 1e-3));
  const places = Uint8Array.from(delta, (part) => Math.round(127.5 * (Math.max(-1, Math.min(1, part)) + 1)));
  show(canvas, places, drawing.diverging());
}

function show(canvas, bytes, scale) {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, SIDE, SIDE);
  pen.drawImage(drawing.sprite(bytes, 0, 1, [1, SIDE, SIDE], scale), 0, 0);
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
      row.className = `bar ${drawing.role(k, y, read)}`;
      bar.style.width = `${100 * probabilities[k]}%`;
      share.textContent = percent(probabilities[k]);
    });
    const likely = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 3);
    const words = likely.map((k) => `${k} ${percent(probabilities[k])}`).join(", ");
    element.setAttribute("aria-label", `class probabilities: ${words}`);
  };
}

/** A share in whole percent; just below the whole with a tenth. */
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

/** Add a shape of drawing.js to an SVG. */
function add(svg, [tag, attributes, text = ""]) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  svg.append(element);
}

/** The mark of a network, beside its name. */
export function mark(number) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 14 14");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("shape", `of-${number}`);
  add(svg, drawing.mark(number, 7, 7, 5));
  return svg;
}

/**
 * Margins against epsilon, as wide as the slider below, half of whose handle is as wide as `inset`.
 * facts: the labels, and what `chart` in drawing.js takes, but for the ticks.
 */
export function chart(svg, facts, { wide, high, inset }) {
  const { labels, radii, curves, now, eps } = facts, last = radii.at(-1);
  const [least, most] = bounds([...curves.flatMap((values) => values ?? []), ...now]);
  const across = (radius) => inset + ((wide - 2 * inset) * Math.min(radius, last)) / last;
  const down = (value) => 8 + ((high - 16) * (most - value)) / (most - least), zero = down(0);
  const lines = { left: 0, right: wide, high: 0, low: high, beside: [wide - 4, -4] };
  const text = (value) => (down(value) > 16 ? String(value).replace("-", "−") : "");
  const ticks = ticksOf(least, most, high / 30).map((value) => [value, text(value)]);
  const shapes = drawing.chart({ ...facts, ticks }, { across, down, top: 0, floor: zero, ...lines });
  const sides = [["text", { class: "side", x: 6, y: zero + 15 }, "misread"]];
  if (high > 100) sides.push(["text", { class: "side", x: 6, y: zero - 6 }, "read correctly"]);
  svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  svg.replaceChildren();
  const misread = ["rect", { class: "misread", x: 0, y: zero, width: wide, height: Math.max(0, high - zero) }];
  for (const shape of [misread, ...sides, ...shapes]) add(svg, shape);
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

function ticksOf(least, most, count) {
  const step = [2, 5, 10, 20, 50, 100, 200, 500].find((size) => (most - least) / size <= count) ?? 1000;
  const first = Math.ceil(least / step);
  return Array.from({ length: Math.floor(most / step) - first + 1 }, (_, k) => (first + k) * step);
}
