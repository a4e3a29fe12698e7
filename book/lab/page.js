// The laboratory: controls on the left, what the networks make of it on the right, all of it from one state.

import { ATTACKS, LARGEST, STEPS } from "./attacks.js";
import { Attacked } from "./attacked.js";
import { card } from "./card.js";
import { chart, image, made, mark, signed } from "./elements.js";
import { load } from "./load.js";
import { CLASSES, PIXELS, SIDE } from "./network.js";
import { digitOf, pad } from "./pen.js";
import { MOST, read, snapped, write } from "./state.js";

const find = (id) => document.getElementById(id), frame = () => new Promise(requestAnimationFrame);
const AIMING = ["FGSM", "PGD"]; // the others know no class
const INSET = 14; // half the width of the slider's handle: the chart above begins and ends where its middle does

/** Everything that the page knows; `change` is the only way to another state. */
class Laboratory {
  #attacked;
  #turn = 0; // counts the changes: what was begun before the last one stops
  #playing;

  constructor({ networks, digits }) {
    for (const id of ["networks", "digits", "attacks"]) find(id).replaceChildren(); // a browser saves them too
    for (const id of ["target", "meant"]) find(id).length = 1;
    Object.assign(this, { networks, digits, state: read(location.hash, digits.length) });
    this.cards = networks.map((network, i) => card(network, i, find("networks")));
    this.tell = later((words) => (find("status").textContent = words), 500);
    this.remember = later((now) => history.replaceState(null, "", `#${write(now)}`), 150);
    const changed = (strokes) => this.change({ strokes, meant: null });
    this.redraw = pad(find("pad"), { snapped, most: MOST, changed });
    connect(this);
    this.change({});
    this.redraw(this.state.strokes);
    new ResizeObserver(() => this.show()).observe(find("chart"));
  }

  async change(part) {
    const mine = ++this.#turn, pause = async () => (await frame(), mine === this.#turn), show = () => this.show();
    const same = Object.keys(part).every((key) => key === "eps" || key === "step");
    this.state = { ...this.state, ...part };
    if (!this.#attacked || !same) this.#attacked = new Attacked(this.networks, this.#subject());
    show();
    if (await this.#attacked.climb(this.state.eps, pause, show)) await this.#attacked.draw(pause, show);
  }

  /** The image that is attacked, its class, the attack and its target. */
  #subject() {
    const { strokes, meant, digit, attack, target } = this.state, x = strokes ? digitOf(strokes) : this.digits[digit].x;
    const first = () => new Attacked(this.networks, { x, y: 0, attack: "none" }).seen(0).read;
    const y = strokes ? (meant ?? first()) : this.digits[digit].y, aims = AIMING.includes(attack);
    return { x, y, attack, target: aims && target !== y ? target : null };
  }

  show() {
    const { networks, state } = this, attacked = this.#attacked, { eps, step } = state, { curves, radii } = attacked;
    const seen = networks.map((_, i) => attacked.seen(i, eps, step)), now = seen.map(({ margin }) => margin);
    const proved = networks.map((_, i) => attacked.proved(i)), labels = networks.map(({ label }) => label);
    const { width: wide, height: high } = find("chart").getBoundingClientRect();
    this.cards.forEach((tell, i) => tell(attacked, seen[i], eps));
    controls(state, attacked);
    chart(find("chart"), { labels, radii, curves, now, eps, proved }, { wide, high, inset: INSET });
    proof(proved);
    this.tell(described(state, attacked, networks, seen, proved));
    this.remember(state);
  }

  /** PGD's steps, one after the other. */
  play() {
    this.halt();
    this.change({ step: 0 });
    this.#playing = setInterval(() => {
      if (this.state.step < STEPS) this.change({ step: this.state.step + 1 });
      else this.halt();
    }, 450);
  }

  halt() {
    clearInterval(this.#playing);
  }

  /** Go to the state in the address. */
  restore() {
    if (location.hash.slice(1) === write(this.state)) return;
    this.halt(); // slow motion would go on from the step in the address
    this.change(read(location.hash, this.digits.length));
    this.redraw(this.state.strokes);
  }
}

/** Let every control bring its part of the state. */
function connect(laboratory) {
  const change = (part) => laboratory.change(part);
  const number = (target) => (target.value === "" ? null : Number(target.value));
  laboratory.digits.forEach((digit, i) => choice(digit, i, () => {
    change({ digit: i, strokes: null, meant: null });
    laboratory.redraw(null);
  }));
  ATTACKS.forEach((attack) => {
    const label = made("label", "", find("attacks")), radio = made("input", "", label);
    Object.assign(radio, { type: "radio", name: "attack", value: attack });
    made("span", "", label, attack);
    radio.addEventListener("change", () => change({ attack }));
  });
  for (const id of ["target", "meant"]) {
    for (let k = 0; k < CLASSES; k++) made("option", "", find(id), k).value = k;
    find(id).addEventListener("change", ({ target }) => change({ [id]: number(target) }));
  }
  find("eps").addEventListener("input", ({ target }) => change({ eps: number(target) }));
  find("step").addEventListener("input", ({ target }) => (laboratory.halt(), change({ step: number(target) })));
  find("play").addEventListener("click", () => laboratory.play());
  find("clear").addEventListener("click", () => (change({ strokes: null }), laboratory.redraw(null)));
  find("share").addEventListener("click", () => share(laboratory.state));
  drag(find("chart"), (eps) => change({ eps }));
  addEventListener("hashchange", () => laboratory.restore());
}

/** A digit to choose. */
function choice({ x, y }, i, chosen) {
  const label = made("label", "digit", find("digits"));
  const radio = made("input", "", label), canvas = made("canvas", "", label);
  Object.assign(radio, { type: "radio", name: "digit", value: i, ariaLabel: `test digit ${y}, number ${(i % 2) + 1}` });
  [canvas.width, canvas.height] = [SIDE, SIDE];
  image(canvas, x);
  radio.addEventListener("change", chosen);
}

async function share(state) {
  history.replaceState(null, "", `#${write(state)}`); // by itself it follows when PGD is done
  const copied = navigator.clipboard?.writeText(location.href).then(() => true, () => false); // a browser may refuse
  const words = (await copied) ? "The address is copied." : "Copy it from the bar of addresses: the browser refused.";
  find("shared").textContent = words;
}

/** The chart is a part of the slider above it: a hand may move epsilon there too. */
function drag(svg, moved) {
  const at = (event) => {
    const box = svg.getBoundingClientRect(), part = (event.clientX - box.left - INSET) / (box.width - 2 * INSET);
    moved(Math.round(Math.min(1, Math.max(0, part)) * LARGEST * 200) / 200);
  };
  let before;
  svg.addEventListener("pointerdown", (event) => {
    before = Number(find("eps").value);
    if (event.button === 0) svg.setPointerCapture(event.pointerId), at(event);
  });
  svg.addEventListener("pointermove", (event) => svg.hasPointerCapture(event.pointerId) && at(event));
  svg.addEventListener("pointercancel", () => moved(before)); // the finger scrolls the page
}

/** Bring the controls to a state. */
function controls(state, attacked) {
  const { eps, step, strokes, digit, meant } = state, { y, attack, target } = attacked;
  const radios = (name) => document.querySelectorAll(`input[name=${name}]`);
  for (const radio of radios("digit")) radio.checked = !strokes && Number(radio.value) === digit;
  for (const radio of radios("attack")) radio.checked = radio.value === attack;
  find("eps").value = eps;
  find("eps").setAttribute("aria-valuetext", `epsilon ${eps.toFixed(3)}`);
  find("value").textContent = eps.toFixed(3);
  find("target").value = target ?? "";
  for (const option of find("target").options) option.disabled = option.value === String(y);
  find("target").disabled = !AIMING.includes(attack);
  find("meaning").hidden = !strokes;
  find("meant").value = meant ?? "";
  find("steps").hidden = attack !== "PGD";
  find("step").value = step;
  find("taken").textContent = `${attacked.taken(eps, step)} of ${STEPS}`;
}

/** The certificate on the slider, and what it says. */
function proof(proved) {
  const i = proved.findIndex((radius) => radius !== null);
  find("proof").hidden = find("proven").hidden = i < 0;
  if (i < 0) return;
  find("proof").style.width = `calc((100% - ${2 * INSET}px) * ${Math.min(1, proved[i] / LARGEST)})`;
  const words = sure(proved[i]) ? `no attack changes it up to ${sure(proved[i])}` : "nothing is proved for this digit";
  find("proven").replaceChildren(mark(i), `certified: ${words}`);
}

/** A proved radius, rounded down, as beyond it nothing is proved; "" if there is none. */
const sure = (radius) => (radius >= 0.001 ? (Math.floor(1000 * radius) / 1000).toFixed(3) : "");

/** The whole in words, for those who hear it. */
function described({ eps, step }, attacked, networks, seen, proved) {
  const { y, attack, target } = attacked, taken = attacked.taken(eps, step);
  const how = { none: "no attack", noise: "noise", FGSM: "FGSM", PGD: `PGD, step ${taken} of ${STEPS}` }[attack];
  const aim = target === null ? "" : ` towards ${target}`;
  const each = networks.map(({ label }, i) => `${label} reads ${seen[i].read}, margin ${signed(seen[i].margin)}` +
    (sure(proved[i]) ? `, certified up to ${sure(proved[i])}` : ""));
  return `A ${y} under ${how}${aim}, epsilon ${eps.toFixed(3)}. ${each.join("; ")}.`;
}

/** A function that runs when it was not called again for some milliseconds. */
function later(act, wait) {
  let timer;
  return (argument) => (clearTimeout(timer), (timer = setTimeout(act, wait, argument)));
}

load().then((loaded) => {
  const laboratory = new Laboratory(loaded);
  globalThis.laboratory = Object.assign(laboratory, { Attacked, PIXELS }); // for tests and for the curious
  document.body.dataset.ready = "";
}).catch((error) => {
  find("status").textContent = `The laboratory cannot run here: ${error.message}.`;
  find("status").className = "failed";
  throw error;
});
