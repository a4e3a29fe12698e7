// The laboratory: controls on the left, what the networks make of it on the right, all of it from one state.

import { ATTACKS, LARGEST, STEPS } from "./attacks.js";
import { Attacked } from "./attacked.js";
import { card } from "./card.js";
import { chart, groundOf, image, made, mark, signed } from "./drawing.js";
import { load } from "./load.js";
import { PIXELS } from "./network.js";
import { digitOf, pad } from "./pen.js";
import { read, snapped, write } from "./state.js";

const find = (id) => document.getElementById(id), frame = () => new Promise(requestAnimationFrame);
const INSET = 14; // half the width of the slider's handle: the chart above begins and ends where its middle does

/** Everything that the page knows; `change` is the only way to another state. */
async function laboratory({ networks, digits }) {
  let state = read(location.hash, digits.length), attacked, turn = 0, playing;
  const cards = networks.map((network, i) => card(network, i, find("networks")));
  const tell = later((words) => (find("status").textContent = words), 500);
  const remember = later((now) => history.replaceState(null, "", `#${write(now)}`), 150);

  function subject() {
    const digit = digits[state.digit], x = state.strokes ? digitOf(state.strokes) : digit.x;
    const first = () => new Attacked(networks, { x, y: 0, attack: "none" }).seen(0, 0, 0).read;
    const y = state.strokes ? (state.meant ?? first()) : digit.y;
    return { x, y, attack: state.attack, target: state.target === y ? null : state.target };
  }

  function show() {
    const { eps, step } = state, seen = networks.map((_, i) => attacked.seen(i, eps, step));
    const { width: wide, height: high } = find("chart").getBoundingClientRect(), ground = groundOf(find("networks").firstChild);
    cards.forEach((tell, i) => tell(attacked, seen[i], eps, ground)); // all is measured by now, so the page is laid out once
    controls(state, attacked);
    const proved = networks.map((_, i) => attacked.proved(i)), labels = networks.map(({ label }) => label);
    const now = seen.map(({ margin }) => margin), { curves, radii } = attacked;
    chart(find("chart"), { labels, radii, curves, now, eps, proved }, { wide, high, inset: INSET });
    proof(networks, proved);
    tell(described(state, attacked, networks, seen, proved));
    remember(state);
  }

  async function change(part) {
    const mine = ++turn, pause = async () => (await frame(), mine === turn);
    state = { ...state, ...part };
    if (!attacked || Object.keys(part).some((key) => !["eps", "step"].includes(key))) attacked = new Attacked(networks, subject());
    show();
    if (await attacked.climb(state.eps, pause, show)) await attacked.draw(pause, show);
  }

  function play() {
    clearInterval(playing);
    change({ step: 0 });
    playing = setInterval(() => (state.step < STEPS ? change({ step: state.step + 1 }) : clearInterval(playing)), 450);
  }

  connect(change, play, digits, () => clearInterval(playing));
  addEventListener("hashchange", () => location.hash.slice(1) !== write(state) && restore());
  new ResizeObserver(show).observe((await change({}), find("chart")));
  const redraw = pad(find("pad"), { snapped, changed: (strokes) => change({ strokes, meant: null }) });
  const restore = () => (change(read(location.hash, digits.length)), redraw(state.strokes));
  find("clear").addEventListener("click", () => (change({ strokes: null }), redraw(null)));
  find("digits").addEventListener("change", () => redraw(null));
  redraw(state.strokes);
  globalThis.laboratory = { networks, digits, Attacked, digitOf, PIXELS, state: () => state }; // for tests and for the curious
  document.body.dataset.ready = "";
}

/** Build the controls, and let each bring its part of the state. */
function connect(change, play, digits, halt) {
  digits.forEach(({ x, y }, i) => {
    const choice = made("label", "digit", find("digits")), radio = made("input", "", choice), canvas = made("canvas", "", choice);
    Object.assign(radio, { type: "radio", name: "digit", value: i, ariaLabel: `test digit ${y}, number ${(i % 2) + 1}` });
    [canvas.width, canvas.height] = [28, 28];
    image(canvas, x);
    radio.addEventListener("change", () => change({ digit: i, strokes: null, meant: null }));
  });
  ATTACKS.forEach((attack) => {
    const choice = made("label", "", find("attacks")), radio = made("input", "", choice);
    Object.assign(radio, { type: "radio", name: "attack", value: attack });
    made("span", "", choice, attack);
    radio.addEventListener("change", () => change({ attack }));
  });
  for (const id of ["target", "meant"]) {
    for (let k = 0; k < 10; k++) made("option", "", find(id), k).value = k;
    find(id).addEventListener("change", ({ target }) => change({ [id]: target.value === "" ? null : Number(target.value) }));
  }
  find("eps").addEventListener("input", ({ target }) => change({ eps: Number(target.value) }));
  find("step").addEventListener("input", ({ target }) => (halt(), change({ step: Number(target.value) })));
  find("play").addEventListener("click", play);
  drag(find("chart"), (eps) => change({ eps }));
  find("share").addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    find("shared").textContent = "The address is copied.";
  });
}

/** The chart is a part of the slider above it: a hand may move epsilon there too. */
function drag(svg, moved) {
  const at = (event) => {
    const box = svg.getBoundingClientRect(), part = (event.clientX - box.left - INSET) / (box.width - 2 * INSET);
    moved(Math.round(Math.min(1, Math.max(0, part)) * LARGEST * 200) / 200);
  };
  svg.addEventListener("pointerdown", (event) => (svg.setPointerCapture(event.pointerId), at(event)));
  svg.addEventListener("pointermove", (event) => event.buttons && at(event));
}

/** Bring the controls to a state. */
function controls(state, attacked) {
  const { eps, step, strokes, digit, meant } = state, { y, attack, target } = attacked;
  for (const radio of document.querySelectorAll("input[name=digit]")) radio.checked = !strokes && Number(radio.value) === digit;
  for (const radio of document.querySelectorAll("input[name=attack]")) radio.checked = radio.value === attack;
  find("eps").value = eps;
  find("eps").setAttribute("aria-valuetext", `epsilon ${eps.toFixed(3)}`);
  find("value").textContent = eps.toFixed(3);
  find("target").value = target ?? "";
  for (const option of find("target").options) option.disabled = option.value === String(y);
  find("target").disabled = attack === "none" || attack === "noise";
  find("meaning").hidden = !strokes;
  find("meant").value = meant ?? "";
  find("steps").hidden = attack !== "PGD";
  find("step").value = step;
  find("taken").textContent = `${attacked.taken(eps, step)} of ${STEPS}`;
}

/** The certificate on the slider, and what it says. */
function proof(networks, proved) {
  const i = proved.findIndex((radius) => radius !== null);
  find("proof").hidden = find("proven").hidden = i < 0;
  if (i < 0) return;
  find("proof").style.width = `calc((100% - ${2 * INSET}px) * ${Math.min(1, proved[i] / LARGEST)})`;
  const words = proved[i] ? `no attack changes it up to ${proved[i].toFixed(3)}` : "nothing is proved for this digit";
  find("proven").replaceChildren(mark(i), `certified: ${words}`);
}

/** The whole in words, for those who hear it. */
function described({ eps, step }, attacked, networks, seen, proved) {
  const { y, attack, target } = attacked, taken = attacked.taken(eps, step);
  const how = { none: "no attack", noise: "noise", FGSM: "FGSM", PGD: `PGD, step ${taken} of ${STEPS}` }[attack];
  const aim = target === null || attack === "none" || attack === "noise" ? "" : ` towards ${target}`;
  const each = networks.map(({ label }, i) => `${label} reads ${seen[i].read}, margin ${signed(seen[i].margin)}` +
    (proved[i] ? `, certified up to ${proved[i].toFixed(3)}` : ""));
  return `A ${y} under ${how}${aim}, epsilon ${eps.toFixed(3)}. ${each.join("; ")}.`;
}

/** A function that runs when it was not called again for some milliseconds. */
function later(act, wait) {
  let timer;
  return (argument) => (clearTimeout(timer), (timer = setTimeout(act, wait, argument)));
}

load().then(laboratory).catch((error) => {
  find("status").textContent = `The laboratory cannot run here: ${error.message}.`;
  find("status").className = "failed";
  throw error;
});
