// The picture of the epsilon slider: drawn where it is seen, from numbers, as a picture on its way takes too long.
//
// A column a model: the attacked images, then the chosen one larger, its perturbation and its class probabilities;
// below them the accuracy of all models against epsilon, with a marker at the present one.

import { chart, diverging, mark, paint, role, sprite } from "./drawing.js";

const TILE = 84, GAP = 5, ACROSS = 5; // pixels of an image, between two of them, and how many are in a row
const CAPTION = 17, LARGE = 112, CURVE = 150; // heights of a line of text, of the chosen image, of the curve
const MARGIN = 10, BETWEEN = 26, COLUMN = ACROSS * TILE + (ACROSS - 1) * GAP;
const GREY = "#BBBBBB", PALE = "#E4E4E4", INK = "#222222", SCALE = diverging();

/** What stays while the slider moves (`scene`), what it shows now (`shown`, `pixels`): see Panel in panel.py. */
function draw(canvas, scene, shown, pixels) {
  const { models, curve } = scene;
  const width = 2 * MARGIN + models.length * COLUMN + (models.length - 1) * BETWEEN;
  const below = MARGIN + CAPTION + 10 + Math.ceil(shown.y.length / ACROSS) * (TILE + CAPTION + GAP);
  const top = below + CAPTION + LARGE + 2 * CAPTION + 4;
  const pen = prepare(canvas, width, top + (curve ? CURVE : 0));
  const image = shown.size[0] * shown.size[1] * shown.size[2], square = shown.size[1] * shown.size[2];
  models.forEach((model, column) => {
    const left = MARGIN + column * (COLUMN + BETWEEN), start = column * (shown.y.length * image + square);
    const images = sprite(pixels, start, shown.y.length, shown.size);
    const delta = sprite(pixels, start + shown.y.length * image, 1, [1, ...shown.size.slice(1)], SCALE);
    tiles(pen, left, images, scene, shown, column);
    chosen(pen, left, below, images, delta, scene, shown, column);
  });
  if (curve) accuracies(pen, width, top, scene, shown);
}

/** An empty canvas of this size, in as many dots as the screen has. */
function prepare(canvas, width, height) {
  const dots = window.devicePixelRatio || 1, wide = Math.round(width * dots), high = Math.round(height * dots);
  if (canvas.width !== wide || canvas.height !== high) {
    [canvas.width, canvas.height] = [wide, high];
    canvas.style.width = `${width}px`;
  }
  const pen = canvas.getContext("2d", { willReadFrequently: true }); // held in memory: these pictures are small
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.textBaseline = "top";
  rectangle(pen, 0, 0, width, height, "white");
  return pen;
}

function tiles(pen, left, images, scene, shown, column) {
  const predicted = shown.predicted[column], right = predicted.filter((k, i) => k === shown.y[i]).length;
  const { label, color } = scene.models[column];
  write(pen, left, MARGIN, `${label}: reads ${right} of ${shown.y.length}`, color, { size: 14 });
  predicted.forEach((k, i) => {
    const across = left + (i % ACROSS) * (TILE + GAP);
    const down = MARGIN + CAPTION + 6 + Math.floor(i / ACROSS) * (TILE + CAPTION + GAP);
    const wrong = k !== shown.y[i];
    paste(pen, images, i, shown.size, across, down, TILE);
    if (wrong || i === shown.chosen) frame(pen, across, down, TILE, wrong ? scene.wrong : INK, 3);
    if (i === shown.chosen) rectangle(pen, across, down + TILE + 15, TILE, 2, INK);
    write(pen, across, down + TILE + 2, read(shown, column, i), wrong ? scene.wrong : INK);
  });
}

function chosen(pen, left, top, images, delta, scene, shown, column) {
  const y = shown.y[shown.chosen], k = shown.predicted[column][shown.chosen], bars = shown.bars[column];
  const middle = left + LARGE + 8, third = left + 2 * (LARGE + 8) + 8, floor = top + CAPTION + LARGE;
  write(pen, left, top, "attacked", scene.muted);
  write(pen, middle, top, `perturbation ±${shown.eps.toFixed(3)}`, scene.muted);
  write(pen, third, top, "class probabilities", scene.muted);
  paste(pen, images, shown.chosen, shown.size, left, top + CAPTION, LARGE);
  paste(pen, delta, 0, shown.size, middle, top + CAPTION, LARGE);
  frame(pen, middle, top + CAPTION, LARGE, GREY, 1);
  const wide = (left + COLUMN - third) / bars.length;
  bars.forEach((p, number) => {
    const part = role(number, y, k), color = { true: scene.right, wrong: scene.wrong }[part] ?? GREY;
    const start = Math.round(third + number * wide) + 1, end = Math.round(third + (number + 1) * wide) - 1;
    const high = Math.round(p * (LARGE - 2)) + 1;
    rectangle(pen, start, floor - high + 1, Math.max(1, end - start), high, color);
    const ink = part ? INK : scene.muted;
    if (bars.length <= 10) write(pen, (start + end) / 2, floor + 4, number, ink, { align: "center" });
  });
  rectangle(pen, third, floor + 1, left + COLUMN - third, 1, scene.muted);
  write(pen, left, floor + 4, read(shown, column, shown.chosen), k === y ? INK : scene.wrong, { size: 12 });
}

function accuracies(pen, width, top, scene, { eps, proved = [] }) {
  const { radii, values, title } = scene.curve, last = radii.at(-1);
  const now = values.map((line) => between(radii, line, eps));
  const left = MARGIN + 44, right = width - 24, floor = top + CURVE - 34.5, ceiling = top + 21.5;
  const across = (radius) => left + ((right - left) * Math.min(radius, last)) / last;
  const down = (share) => floor + (ceiling - floor) * share, ticks = [[0, "0%"], [0.5, "50%"], [1, "100%"]];
  for (let part = 0; part < 7; part++) {
    const radius = (part * last) / 6;
    write(pen, across(radius), floor + 5, Number(radius.toPrecision(3)), scene.muted, { align: "center" });
  }
  write(pen, right, top + CURVE - 15, "epsilon", scene.muted, { align: "right" });
  write(pen, MARGIN, top, title, scene.muted);
  const place = { across, down, top: ceiling, floor, left, right, high: ceiling, low: floor, beside: [left - 6, 4] };
  paint(pen, chart({ radii, curves: values, now, eps, proved, ticks }, place), styles(scene));
  proved.filter((radius) => radius > 0).forEach((radius, row) => { // no attack matters to the chosen image up to here
    const end = across(radius), at = floor - 4 - 12 * row;
    rectangle(pen, left, at, end - left, 4, scene.proved);
    if (end + 44 < width) write(pen, end + 4, at - 8, "proved", scene.proved);
    else write(pen, right, at - 13, "proved", scene.proved, { align: "right" }); // no room beside it
  });
  legend(pen, right, top, scene);
}

/** The looks of a chart's shapes, which the laboratory has in its lab.css. */
function styles({ models, muted, proved }) {
  return (name, number) => ({
    proved: { fill: `${proved}24` }, // 14% of it
    grid: { stroke: PALE },
    zero: { stroke: INK },
    text: { fill: muted },
    now: { stroke: INK, dash: [3, 3] },
    curve: { stroke: models[number]?.color, width: 2.5 },
    point: { fill: models[number]?.color, stroke: "white", width: 1.5 },
  })[name];
}

/** The models' names with their marks, the last one ending at `right`. */
function legend(pen, right, top, scene) {
  [...scene.models.entries()].reverse().forEach(([number, { label, color }]) => {
    right -= write(pen, right, top, label, color, { align: "right" }) + 10;
    paint(pen, [mark(number, right, top + 6, 4, "point")], styles(scene));
    right -= 20;
  });
}

/** The value at eps on the line through these points. */
function between(radii, values, eps) {
  const above = radii.findIndex((radius) => radius >= eps), i = above < 0 ? radii.length - 1 : Math.max(1, above);
  return values[i - 1] + ((values[i] - values[i - 1]) * (eps - radii[i - 1])) / (radii[i] - radii[i - 1]);
}

function read(shown, column, i) {
  const k = shown.predicted[column][i];
  return `${k === shown.y[i] ? "" : "✗ "}${shown.y[i]} → ${k} (${shown.confidence[column][i].toFixed(2)})`;
}

function paste(pen, images, i, [, high, wide], across, down, side) {
  pen.drawImage(images, 0, i * high, wide, high, across, down, side, side);
}

function frame(pen, across, down, side, color, thick) {
  pen.strokeStyle = color;
  pen.lineWidth = thick;
  pen.strokeRect(across + thick / 2, down + thick / 2, side - thick, side - thick);
}

function rectangle(pen, across, down, wide, high, color) {
  pen.fillStyle = color;
  pen.fillRect(across, down, wide, high);
}

/** Words, and how wide they are. */
function write(pen, across, down, words, color, { size = 11, align = "left" } = {}) {
  pen.font = `${size}px "DejaVu Sans", Verdana, system-ui, sans-serif`;
  pen.textAlign = align;
  pen.fillStyle = color;
  pen.fillText(words, across, down);
  return pen.measureText(words).width;
}

/** A canvas and, above it, the same in words: those that a screen reader speaks when they change. */
export function build(element) {
  const words = document.createElement("div"), canvas = document.createElement("canvas");
  words.setAttribute("role", "status");
  words.setAttribute("aria-live", "polite");
  canvas.setAttribute("role", "img");
  canvas.style.maxWidth = "100%";
  words.style.marginLeft = `${MARGIN}px`;
  element.append(words, canvas);
  return (scene, shown, pixels, said) => {
    if (shown.y) draw(canvas, scene, shown, pixels);
    canvas.setAttribute("aria-label", said);
    words.textContent = said;
  };
}

/** ipywidgets writes the name of a control beside it, where a screen reader does not know whose it is. */
function name(box) {
  for (const control of box?.querySelectorAll(".widget-slider, .widget-toggle-buttons") ?? []) {
    const named = control.querySelector(".noUi-handle") ?? control;
    if (named === control) control.setAttribute("role", "group");
    named.setAttribute("aria-label", control.querySelector(".widget-label").textContent);
  }
}

export default {
  render({ model, el }) {
    const tell = build(el);
    requestAnimationFrame(() => name(el.parentElement)); // by then it stands beside the controls
    const show = () => {
      const { buffer, byteOffset, byteLength } = model.get("pixels");
      tell(model.get("scene"), model.get("shown"), new Uint8Array(buffer, byteOffset, byteLength), model.get("words"));
    };
    model.on("change", show);
    show();
    return () => model.off("change", show);
  },
};
