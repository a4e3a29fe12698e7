// What a reader chose, in the page's address: whoever opens that address sees the same.

import { ATTACKS, LARGEST, STEPS } from "./attacks.js";

export const START = { digit: 14, strokes: null, meant: null, attack: "FGSM", eps: 0.12, target: null, step: STEPS };
const GRID = 64; // a drawing's points lie on a grid of 64 x 64, and each takes two characters
export const MOST = 2000; // points of a drawing: enough for half a minute of scribbling
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** The address's part after "#" for a state. */
export function write(state) {
  const parts = new URLSearchParams();
  if (state.strokes) parts.set("drawn", state.strokes.map((stroke) => stroke.map(letters).join("")).join("."));
  else parts.set("digit", state.digit);
  if (state.strokes && state.meant !== null) parts.set("meant", state.meant);
  parts.set("attack", state.attack);
  parts.set("eps", state.eps.toFixed(3));
  if (state.target !== null) parts.set("target", state.target);
  if (state.attack === "PGD" && state.step < STEPS) parts.set("step", state.step);
  return parts.toString();
}

/** The state that an address stands for; what is missing or makes no sense is as at the start. */
export function read(address, digits) {
  const parts = new URLSearchParams(address.replace(/^#/, ""));
  const whole = (name, last, otherwise) => {
    const value = Number(parts.get(name) || NaN);
    return Number.isInteger(value) && value >= 0 && value <= last ? value : otherwise;
  };
  const eps = Math.round(200 * Number(parts.get("eps") || NaN)) / 200, drawn = points(parts.get("drawn") ?? "");
  return {
    digit: whole("digit", digits - 1, START.digit),
    strokes: drawn,
    meant: drawn && whole("meant", 9, null),
    attack: ATTACKS.includes(parts.get("attack")) ? parts.get("attack") : START.attack,
    eps: eps >= 0 && eps <= LARGEST ? eps : START.eps,
    target: whole("target", 9, null),
    step: whole("step", STEPS, STEPS),
  };
}

const letter = (part) => LETTERS[Math.min(GRID - 1, Math.max(0, Math.floor(part * GRID)))];
const letters = (point) => point.map(letter).join("");

/** Strokes of points (across, down) between 0 and 1, or null if there are none. */
function points(text) {
  if (text.length > 3 * MOST || !/^([\w-]{2})+(\.([\w-]{2})+)*$/.test(text)) return null; // no more with its dots
  return text.split(".").map((stroke) => stroke.match(/../g).map(([across, down]) => [place(across), place(down)]));
}

const place = (letter) => (LETTERS.indexOf(letter) + 0.5) / GRID;

/** A point as the address will hold it, so that a drawing does not change when it is shared. */
export const snapped = (point) => point.map((part) => place(letter(part)));
