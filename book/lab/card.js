// A network's column: what it is shown, what was changed, and what it reads.

import { bars, image, made, mark, percent, perturbation, signed } from "./elements.js";

/** Build the column of the i-th network; returns what shows there what the network makes of an attacked digit. */
export function card(network, i, parent) {
  const article = made("article", `card of-${i}`, parent), title = made("h2", "", article);
  title.append(mark(i), network.label);
  const verdict = made("p", "verdict", article), all = made("div", "seen", article);
  const pictures = made("div", "pictures", all);
  const [attackedImage, difference] = ["what it is shown", "perturbation"].map((words) => {
    const figure = made("figure", "", pictures), canvas = made("canvas", "", figure);
    [canvas.width, canvas.height] = [28, 28];
    canvas.setAttribute("role", "img");
    return { canvas, caption: made("figcaption", "", figure, words) };
  });
  difference.canvas.classList.add("difference");
  const tellBars = bars(made("div", "bars", all)), lead = made("p", "margin", article);
  return ({ x, y, target }, seen, eps) => {
    const right = seen.read === y, hit = seen.read === target;
    article.classList.toggle("fooled", !right);
    const sign = made("span", "sign", null, right ? "✓" : "✗");
    verdict.replaceChildren(sign, made("span", "reads", null, " reads "), " ", made("strong", "", null, seen.read));
    made("small", "", verdict, hit ? " the target" : ` ${percent(seen.probabilities[seen.read])}`);
    image(attackedImage.canvas, seen.x);
    attackedImage.canvas.setAttribute("aria-label", `the digit ${y} as the attack on ${network.label} leaves it`);
    perturbation(difference.canvas, x, seen.x, eps);
    difference.caption.textContent = `change, ±${eps.toFixed(3)}`;
    const change = `change of each pixel, at most ${eps.toFixed(3)}: red is brighter, blue is darker`;
    difference.canvas.setAttribute("aria-label", change);
    tellBars(seen.probabilities, y, seen.read);
    lead.replaceChildren("margin ", made("strong", "", null, signed(seen.margin)));
  };
}
