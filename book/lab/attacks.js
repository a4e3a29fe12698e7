// The attacks, and what they do to a reading: as in advutils/attacks, for images that are arrays of grey levels.

import { CLASSES, PIXELS } from "./network.js";

export const ATTACKS = ["none", "noise", "FGSM", "PGD"], STEPS = 10, LARGEST = 0.3;

const within = (value, low, high) => Math.min(Math.max(value, low), high);

/** clip(x + eps sign(direction)): the part of FGSM that depends on eps, so one gradient serves every eps. */
export function signStep(x, direction, eps) {
  const step = Math.fround(eps);
  return x.map((value, at) => within(value + step * Math.sign(direction[at]), 0, 1));
}

/** Noise as large as FGSM's and blind to the network: for each pixel a coin, the same at every visit. */
export function coins(seed = 1) {
  let state = seed;
  return Float32Array.from({ length: PIXELS }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
    return state >>> 31 ? 1 : -1;
  });
}

/** What lowers the true class's logits, or with a target raises the target's: a direction for each image of x. */
export function direction(network, x, { y, target }) {
  const aim = target ?? y, gradient = network.gradient(x, new Array(x.length / PIXELS).fill(aim));
  return target === null ? gradient : gradient.map((value) => -value);
}

/** One step of PGD for n images, each with its own radius, around their originals: STEPS cross a ball and return. */
export function pgdStep(network, x, current, aim, radii) {
  const uphill = direction(network, current, aim);
  return current.map((value, at) => {
    const eps = Math.fround(radii[Math.floor(at / PIXELS)]), step = Math.fround((2.5 * eps) / STEPS);
    const moved = within(value + step * Math.sign(uphill[at]), Math.fround(x[at] - eps), Math.fround(x[at] + eps));
    return within(moved, 0, 1);
  });
}

/** x, n times. */
export function repeated(x, n) {
  const all = new Float32Array(n * x.length);
  for (let i = 0; i < n; i++) all.set(x, i * x.length);
  return all;
}

/** What one image's logits say: the class that is read, all probabilities, and the margin of the true class. */
export function reading(logits, y) {
  const best = logits.reduce((most, value, k) => (value > logits[most] ? k : most), 0), top = logits[best];
  const parts = Array.from(logits, (value) => Math.exp(value - top)), sum = parts.reduce((a, b) => a + b);
  return { read: best, probabilities: parts.map((part) => part / sum), margin: margin(logits, y) };
}

/** The true logit minus the best other one: positive where the image is read correctly. */
export function margin(logits, y) {
  return logits[y] - Math.max(...Array.from(logits).filter((_, k) => k !== y));
}

/** Of n images, the margins. */
export function margins(network, x, y) {
  const logits = network.logits(x);
  const each = (_, i) => margin(logits.subarray(i * CLASSES, (i + 1) * CLASSES), y);
  return Array.from({ length: x.length / PIXELS }, each);
}

/** The margin at each radius under an attack; PGD takes a breath (`pause`) between its steps, in which it may end. */
export async function curve(network, { x, y, target, attack, radii, noise }, pause) {
  const originals = repeated(x, radii.length);
  if (attack === "none") return margins(network, originals, y);
  let images = originals;
  if (attack === "PGD") {
    for (let k = 0; k < STEPS; k++) {
      images = pgdStep(network, originals, images, { y, target }, radii);
      if (!(await pause())) return null;
    }
  } else {
    const aim = attack === "noise" ? noise : direction(network, x, { y, target });
    radii.forEach((eps, i) => images.set(signStep(x, aim, eps), i * PIXELS));
  }
  return margins(network, images, y);
}
