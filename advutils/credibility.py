"""The checklist for a robust accuracy: what to ask of a model and of its attackers before the number is believed."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import TensorDataset

from advutils.attacks.black_box import grey, square
from advutils.attacks.gradient import fgsm, input_gradient, pgd, targeted
from advutils.attacks.losses import cw
from advutils.data import make_loader
from advutils.evaluation import WorstCase, mcnemar, predict, survivors, wilson, worst_case
from advutils.utils import validation
from advutils.utils.contracts import Attack, Loader
from advutils.utils.inference import predict_logits

ALONE = 8  # images that are also asked about one by one
TELLING = 6  # images: McNemar's p cannot fall below 0.05 for fewer
CASCADED = ("margin", "targeted", "Square")  # attacks of which only the worst case is asked, not what each finds alone
BLACK_BOX = 0.002  # what a black-box attack may still find after the white-box ones


class Check(NamedTuple):
    """One line of the checklist: its name, what was measured, what an honest evaluation shows, and whether it does."""

    name: str
    measured: str
    expected: str
    passed: bool


class Checklist(NamedTuple):
    """The checks, and the worst case over all the attacks that were run on the way.

    FGSM and PGD attack all images, as lines compare them; the others only what is left (`worst_case`'s cascade).
    """

    checks: list
    worst: WorstCase

    @property
    def passed(self):
        """Whether every answer is as an honest evaluation shows it."""
        return all(check.passed for check in self.checks)

    def __str__(self):
        columns = [list(map(str, column)) for column in zip(*(check[:3] for check in self.checks))]
        asked, measured, accepts = (max(map(len, column)) + 2 for column in columns)
        lines = [
            f"{'ok   ' if holds else 'LOOK '} {ask:{asked}}{got:{measured}}{want:{accepts}}".rstrip()
            for ask, got, want, holds in self.checks
        ]
        return "\n".join([*lines, "", f"worst case, clean and grey included: {self.worst.accuracy}"])


def panel(steps: int = 40, n_queries: int = 1000, **options) -> dict[str, Attack]:
    """The attacks of `checklist`, the cheap ones first; `options` go to all of them but FGSM."""
    one = partial(pgd, steps=steps, **options)
    return {
        "FGSM": fgsm,
        f"PGD-{steps}": one,
        f"PGD-{2 * steps}": partial(pgd, steps=2 * steps, **options),
        "margin": partial(one, loss=cw),
        "targeted": partial(targeted, attack=one, n_target_classes=3, **options),
        "Square": partial(square, n_queries=n_queries, **options),
    }


def checklist(model: nn.Module, loader: Loader, *, eps: float, steps: int = 40, n_queries: int = 1000) -> Checklist:
    """Attack a model in the ways that tell a robust accuracy from an illusion, and say which answers are suspicious.

    A line that says LOOK is no verdict on the model: it says that the attacks so far cannot be trusted, and that an
    attack made for this defence comes next (06_strong_attacks.ipynb).

    Args:
        model: nn.Module that maps images to logits (N, K).
        loader: batches (x, y) of images in [0, 1] and labels, in a fixed order, as it is read twice; the batches of one
            that can be read once, a generator, are kept. Of fewer than 500 images, one alone is more than Square may
            find.
        eps: radius of the l_inf ball in pixel units, 0 to 1.
        steps: of PGD; it is also run with twice as many.
        n_queries: of the Square attack.

    Returns:
        Checklist(checks, worst); print it. `passed` is True when no line says LOOK.

    Raises:
        TypeError, ValueError: what `worst_case` refuses. That covers what no evaluation should go on with: outputs that
            are probabilities, images outside [0, 1] or of the training set, an attack that leaves its ball.

    Carlini et al., 2019, arXiv:1902.06705; Athalye et al., 2018, arXiv:1802.00420, section 3.1; Croce and Hein, 2020,
    arXiv:2003.01690. Taught in 06_strong_attacks.ipynb.
    """
    eps, steps = validation.eps(eps), validation.count(steps, "steps")
    n_queries = validation.count(n_queries, "n_queries")
    attacks = panel(steps, n_queries)
    loader = list(loader) if isinstance(loader, Iterator) else loader  # it is read twice
    worst = worst_case(model, loader, attacks, eps=eps, cascade=CASCADED)
    shares = {label: record.value for label, record in worst.individual.items()}
    x, y = (torch.cat(parts) for parts in zip(*(validation.pair(batch, "loader") for batch in loader)))
    device = validation.device_of(model) or x.device
    batches = make_loader(TensorDataset(x, y), batch_size=500)
    apart, neighbours = _repeats(model, x[:500].to(device))
    blind = torch.cat([_blind(model, *(part.to(device) for part in batch)) for batch in batches]).float().mean().item()
    leaked = mcnemar(survivors(model, batches, fgsm, eps=eps), survivors(model, batches, _fgsm_on_predicted, eps=eps))
    black_box = worst.cumulative["targeted"].value - worst.cumulative["Square"].value
    half = survivors(model, batches, attacks[f"PGD-{steps}"], eps=0.5)
    everywhere_grey = _grey_share(model, x, y, device)

    def points(share):
        return f"{100 * share:.1f}%"

    def at_most(asked, measured, bound):
        return Check(asked, points(measured), f"at most {points(bound)}", measured <= bound + 1e-9)

    return Checklist(
        [
            Check("the same answer twice", f"{apart:g} apart", "0 apart", apart == 0),
            Check("an image alone as among others", f"{neighbours:.0e} apart", "at most 1e-02", neighbours <= 1e-2),
            at_most("images whose gradient is zero", blind, 0.0),
            at_most("FGSM leaves no more than no attack", shares["FGSM"], shares["clean"]),
            at_most("PGD leaves no more than FGSM", shares[f"PGD-{steps}"], shares["FGSM"]),
            Check(
                "FGSM's images give their label away",
                f"{leaked.only_first} against {leaked.only_second}",
                "no more than chance" if leaked.only_first + leaked.only_second >= TELLING else "too few to tell",
                leaked.only_first <= leaked.only_second or leaked.p_value > 0.05,
            ),
            at_most("steps doubled still find", shares[f"PGD-{steps}"] - shares[f"PGD-{2 * steps}"], 0.01),
            at_most("Square finds after all others", black_box, BLACK_BOX),
            at_most("PGD leaves at eps 0.5", wilson(half).value, everywhere_grey),
        ],
        worst,
    )


def _repeats(model, x):
    """How far apart the answers are when asked twice, and, relative to their size, when asked one by one."""
    first, again = predict_logits(model, x), predict_logits(model, x)
    alone = torch.cat([predict_logits(model, image[None]) for image in x[:ALONE]])
    size = first[:ALONE].abs().amax().clamp_min(1e-12)
    return (first - again).abs().max().item(), ((first[:ALONE] - alone).abs().amax() / size).item()


def _blind(model, x, y):
    return input_gradient(model, x, y).flatten(1).abs().amax(1) == 0


def _fgsm_on_predicted(model, x, y, *, eps):
    return fgsm(model, x, predict(model, x).argmax(1), eps=eps)


def _grey_share(model, x, y, device):
    """The share of the class that the model gives to grey: all that the optimal attack leaves at eps = 0.5."""
    chosen = predict(model, grey(model, x[:1].to(device), y[:1], eps=0.5)).argmax(1).cpu()
    return (y == chosen).float().mean().item()
