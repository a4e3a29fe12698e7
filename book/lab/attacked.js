// One digit under one attack, for each network: what was computed once is kept.

import { LARGEST, STEPS, coins, curve, direction, pgdStep, reading, signStep } from "./attacks.js";

const NOISE = coins();
const radii = (count) => Array.from({ length: count }, (_, k) => (LARGEST * k) / (count - 1));

export class Attacked {
  #gradients = [];
  #paths = [];
  #radii = [];

  /** subject: the image x, its class y, the attack, and the target class or null. */
  constructor(networks, subject) {
    Object.assign(this, { networks, ...subject });
    this.radii = radii(this.attack === "PGD" ? 16 : 31);
    this.curves = networks.map(() => null);
  }

  /** What the attack makes of the image for the i-th network; of PGD's steps, as many as were taken up to `step`. */
  image(i, eps, step) {
    if (this.attack === "none") return this.x;
    if (this.attack === "noise") return signStep(this.x, NOISE, eps);
    if (this.attack === "PGD") return this.#paths[i]?.images[this.taken(eps, step)] ?? this.x;
    this.#gradients[i] ??= direction(this.networks[i], this.x, this);
    return signStep(this.x, this.#gradients[i], eps);
  }

  /** How many of PGD's first `step` steps at this radius are taken. */
  taken(eps, step) {
    return this.#paths[0]?.eps === eps ? Math.min(step, this.#paths[0].images.length - 1) : 0;
  }

  /** What the i-th network makes of it: the image x, the class read, the probabilities and the margin. */
  seen(i, eps, step) {
    const x = this.image(i, eps, step);
    return { x, ...reading(this.networks[i].logits(x), this.y) };
  }

  /** Take PGD's steps, one for every network between two breaths (`pause`); false if a breath said to stop. */
  async climb(eps, pause, shown) {
    if (this.attack !== "PGD") return true;
    if (this.#paths[0]?.eps !== eps) this.#paths = this.networks.map(() => ({ eps, images: [this.x] }));
    while (this.#paths[0].images.length <= STEPS) {
      this.#paths.forEach(({ images }, i) => {
        images.push(pgdStep(this.networks[i], this.x, images.at(-1), this, [eps]));
      });
      shown();
      if (!(await pause())) return false;
    }
    return true;
  }

  /** The margins at all radii for each network, where they are not known yet; false if a breath said to stop. */
  async draw(pause, shown) {
    for (const [i, network] of this.networks.entries()) {
      if (!this.curves[i]) {
        if (!(await pause())) return false;
        this.curves[i] = await curve(network, { ...this, noise: NOISE }, pause);
        if (!this.curves[i]) return false;
        shown();
      }
    }
    return true;
  }

  /** For a certified network the radius within which no image is read as another class than y, else null. */
  proved(i) {
    const network = this.networks[i];
    return (this.#radii[i] ??= network.certified ? network.certifiedRadius(this.x, this.y) : null);
  }
}
