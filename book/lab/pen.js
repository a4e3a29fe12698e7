// From strokes of a pen to an image like MNIST's: white on black, 20 pixels long, centred by mass in 28x28.

import { PIXELS, SIDE } from "./network.js";

const PEN = 1.1, SOFT = 1.1, LONG = 20; // half the pen's width and the width of its edge, in pixels; a digit's length

/** The image of strokes, which are lists of points (across, down) between 0 and 1. */
export function digitOf(strokes) {
  const points = strokes.flat(), sides = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, top] = sides.map((side) => Math.min(...side)), [right, bottom] = sides.map((side) => Math.max(...side));
  const scale = (LONG - 2 * PEN) / Math.max(right - left, bottom - top, 0.1);
  const placed = (across, down) =>
    strokes.map((stroke) => stroke.map(([x, y]) => [(x - left) * scale + across, (y - top) * scale + down]));
  const corner = [14 - ((right - left) * scale) / 2, 14 - ((bottom - top) * scale) / 2];
  const mass = centre(painted(placed(...corner)));
  return painted(placed(...corner.map((start, axis) => start + 14 - mass[axis])));
}

/** The image of strokes in pixels; each part of a stroke reaches a few pixels, so only these are looked at. */
function painted(strokes) {
  const away = new Float32Array(PIXELS).fill(Infinity), reach = PEN + SOFT;
  for (const stroke of strokes) {
    for (const [i, end] of stroke.entries()) {
      const start = stroke[i - 1] ?? end;
      const [columns, rows] = [0, 1].map((axis) => pixels(start[axis], end[axis], reach));
      for (const row of rows) {
        for (const column of columns) {
          const at = SIDE * row + column;
          away[at] = Math.min(away[at], distance([column + 0.5, row + 0.5], start, end));
        }
      }
    }
  }
  return away.map((far) => Math.min(1, Math.max(0, 0.5 + (PEN - far) / SOFT)));
}

/** The rows, or columns, of pixels between two places and as far beyond them as `reach`. */
function pixels(start, end, reach) {
  const first = Math.max(0, Math.floor(Math.min(start, end) - reach));
  const last = Math.min(SIDE - 1, Math.floor(Math.max(start, end) + reach));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, k) => first + k);
}

/** How far a point is from the line between two others. */
function distance([x, y], [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0], square = dx * dx + dy * dy;
  const part = square ? Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / square)) : 0;
  return Math.hypot(x - x0 - part * dx, y - y0 - part * dy);
}

function centre(image) {
  const sum = image.reduce((a, b) => a + b), axis = (of) => image.reduce((all, ink, at) => all + ink * of(at), 0) / sum;
  return [axis((at) => (at % SIDE) + 0.5), axis((at) => Math.floor(at / SIDE) + 0.5)];
}

/** Let a canvas be drawn on, by mouse, pen, finger or keys; `changed(strokes)` is told after each part of a stroke. */
export function pad(canvas, { snapped, most, changed }) {
  let strokes = [], drawing = false, cursor = [0.5, 0.3];
  const full = () => strokes.flat().length >= most;
  const add = (points) => {
    const stroke = strokes.at(-1), before = stroke.length;
    for (const next of points.map(snapped)) {
      const last = stroke.at(-1);
      if (!(last && last[0] === next[0] && last[1] === next[1]) && !full()) stroke.push(next);
    }
    if (stroke.length === before) return;
    show(canvas, strokes);
    changed(strokes); // once for all points: the networks read the drawing each time, and a fast hand would wait
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0 || full()) return; // no second finger
    canvas.setPointerCapture(event.pointerId);
    drawing = true;
    strokes.push([]);
    add([place(event)]);
  });
  canvas.addEventListener("pointermove", (event) => {
    const pressed = drawing && event.isPrimary && event.buttons; // while keys draw, the mouse may only pass by
    if (pressed) add((event.getCoalescedEvents?.() ?? [event]).map(place));
  });
  for (const end of ["pointerup", "pointercancel", "blur"]) canvas.addEventListener(end, () => (drawing = false));
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const from = cursor;
    cursor = cursor.map((part, axis) => Math.min(0.95, Math.max(0.05, part + way[axis] / 20)));
    if (event.shiftKey && !full()) {
      if (!drawing) strokes.push([]);
      drawing = true;
      add([from, cursor]);
    }
    show(canvas, strokes, cursor);
  });
  canvas.addEventListener("keyup", (event) => event.key === "Shift" && (drawing = false));
  return (kept) => {
    drawing = false; // a hand may still be down
    strokes = (kept ?? []).map((stroke) => [...stroke]);
    show(canvas, strokes);
  };
}

/** Draw strokes on the pad, and a ring where keys would go on. */
function show(canvas, strokes, cursor) {
  const side = canvas.width, pen = canvas.getContext("2d");
  pen.fillStyle = "black";
  pen.fillRect(0, 0, side, side);
  Object.assign(pen, { strokeStyle: "white", lineWidth: side * 0.085, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    pen.beginPath();
    for (const [x, y] of [stroke[0], ...stroke]) pen.lineTo(x * side, y * side);
    pen.stroke();
  }
  if (!cursor) return;
  Object.assign(pen, { strokeStyle: "#56B4E9", lineWidth: 2 });
  pen.beginPath();
  pen.arc(cursor[0] * side, cursor[1] * side, side * 0.05, 0, 2 * Math.PI);
  pen.stroke();
}
