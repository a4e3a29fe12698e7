// The small laboratory on the book's first page: one digit, one slider, two networks.

import { LARGEST } from "./attacks.js";
import { Attacked } from "./attacked.js";
import { card } from "./card.js";
import { made } from "./elements.js";
import { load } from "./load.js";
import { START, write } from "./state.js";

const DIGIT = 7; // its place among the ten of this page, and its class

async function small(place) {
  const { networks, digits } = await load();
  const columns = made("div", "columns"), cards = networks.map((network, i) => card(network, i, columns));
  const attacked = new Attacked(networks, { ...digits[DIGIT], attack: "FGSM", target: null });
  const label = made("label", "epsilon", null, "Each pixel may change by at most ");
  const value = made("output", "", label), slider = made("input");
  Object.assign(slider, { type: "range", min: 0, max: LARGEST, step: 0.005, value: START.eps, id: "eps" });
  label.htmlFor = "eps";
  const show = () => {
    const eps = Number(slider.value), seen = networks.map((_, i) => attacked.seen(i, eps));
    cards.forEach((tell, i) => tell(attacked, seen[i], eps));
    value.textContent = eps.toFixed(3);
    const words = networks.map(({ label }, i) => `${label} reads ${seen[i].read}`).join(", ");
    slider.setAttribute("aria-valuetext", `${eps.toFixed(3)}: ${words}`);
    place.querySelector("a").href = `lab.html#${write({ ...START, eps })}`;
  };
  slider.addEventListener("input", show);
  place.prepend(columns, slider, label);
  show();
  place.dataset.ready = "";
}

const place = document.querySelector(".lab.first");
small(place).catch((error) => {
  made("p", "failed", place, `Here they cannot run: ${error.message}.`);
  throw error;
});
