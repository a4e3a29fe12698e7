// What the slider in notebooks and the laboratory in the book both draw: images, perturbations, curves against epsilon.
//
// The slider draws on a canvas, the laboratory in the elements of its page, so a chart is a list of shapes: the name,
// the attributes and the text of an SVG element. book/lab/elements.js makes elements of them, `paint` here paints them.

const BLUE = [33, 102, 172], RED = [178, 24, 43]; // ends of the diverging scale that colour-blind readers tell apart
const DASHES = ["", "9 4", "2 4"]; // networks are told apart by these and by their marks, beside their colours
const MARKS = [
  (x, y, r) => ["circle", { cx: x, cy: y, r }],
  (x, y, r) => ["rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r }],
  (x, y, r) => ["path", { d: `M${x} ${y - 1.2 * r}L${x + 1.2 * r} ${y + r}H${x - 1.2 * r}Z` }],
];

/** n images of bytes, one or three a pixel, below each other on a canvas; with a scale, one byte is a place on it. */
export function sprite(pixels, start, n, [channels, high, wide], scale) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [wide, n * high];
  const pen = canvas.getContext("2d", { willReadFrequently: true }), image = pen.createImageData(wide, n * high);
  for (let at = 0; at < n * high * wide; at++) {
    for (let c = 0; c < 3; c++) {
      const value = pixels[start + at * channels + (channels === 3 ? c : 0)];
      image.data[4 * at + c] = scale ? scale[4 * value + c] : value;
    }
    image.data[4 * at + 3] = scale ? scale[4 * pixels[start + at] + 3] : 255;
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

/** The scale of a perturbation, 256 colours: blue where a pixel is darker, red where brighter, and clear between. */
export function diverging() {
  return Array.from({ length: 256 }, (_, place) => {
    const part = place / 127.5 - 1;
    return [...(part < 0 ? BLUE : RED), 255 * Math.abs(part)];
  }).flat();
}

/** How the k-th class stands out among the bars: "true" if it is the class y, "wrong" if it is read for it, or "". */
export const role = (k, y, read) => (k === y ? "true" : k === read ? "wrong" : "");

/** The mark of a network around a point, of radius r, as a shape. */
export function mark(number, x, y, r, name = "") {
  const [tag, attributes] = MARKS[number % MARKS.length](x, y, r);
  return [tag, { class: `${name} of-${number}`, ...attributes }];
}

/**
 * Values against epsilon as shapes, a curve for each network and its mark at eps.
 * curves: for each network null or a value at each radius; now: the values at eps; proved: for each 0 or null, or the
 * radius up to which no attack matters; ticks: pairs of a value and its text.
 * across, down: where a radius and a value stand; top, floor: ends of what is marked as proved; left, right, high, low:
 * those of the lines; beside: where the ticks' texts end, across and from their lines down.
 */
export function chart({ radii, curves, now, eps, proved, ticks }, place) {
  const { across, down, top, floor, left, right, high, low, beside } = place;
  const certificates = [...proved.entries()].filter(([, radius]) => radius).map(([i, radius]) => {
    const size = { width: across(radius) - across(0), height: floor - top };
    return ["rect", { class: `proved of-${i}`, x: across(0), y: top, ...size }];
  });
  const lines = ticks.map(([value]) =>
    ["line", { class: value ? "grid" : "zero", x1: left, x2: right, y1: down(value), y2: down(value) }]);
  const texts = ticks.map(([value, text]) =>
    ["text", { x: beside[0], y: down(value) + beside[1], "text-anchor": "end" }, text]);
  const paths = [...curves.entries()].filter(([, values]) => values).map(([i, values]) => {
    const d = `M${values.map((value, k) => `${across(radii[k]).toFixed(1)} ${down(value).toFixed(1)}`).join("L")}`;
    return ["path", { class: `curve of-${i}`, d, "stroke-dasharray": DASHES[i % DASHES.length] }];
  });
  const here = ["line", { class: "now", x1: across(eps), x2: across(eps), y1: high, y2: low }];
  const points = now.map((value, i) => mark(i, across(eps), down(value), 5, "point"));
  return [...certificates, ...lines, here, ...paths, ...texts, ...points];
}

/** Paint shapes on a canvas; `style(name, number)` is the { fill, stroke, width, dash } of a class, of a network. */
export function paint(pen, shapes, style) {
  pen.save();
  [pen.textBaseline, pen.textAlign] = ["alphabetic", "right"];
  for (const [tag, attributes, text] of shapes) {
    const [name, number] = (attributes.class ?? tag).split(" of-");
    const { fill, stroke, width = 1, dash } = style(name, number);
    Object.assign(pen, { fillStyle: fill, strokeStyle: stroke, lineWidth: width });
    pen.setLineDash(attributes["stroke-dasharray"]?.split(" ").map(Number) ?? dash ?? []);
    if (text) pen.fillText(text, attributes.x, attributes.y);
    else if (fill) pen.fill(outline(tag, attributes));
    if (stroke) pen.stroke(outline(tag, attributes));
  }
  pen.restore();
}

function outline(tag, { d, x, y, width, height, cx, cy, r, x1, y1, x2, y2 }) {
  const path = new Path2D(tag === "path" ? d : tag === "line" ? `M${x1} ${y1}L${x2} ${y2}` : "");
  if (tag === "rect") path.rect(x, y, width, height);
  if (tag === "circle") path.arc(cx, cy, r, 0, 2 * Math.PI);
  return path;
}
