"""What checks the exercises of notebook 12: intervals, the last layer, a loss of bounds, a radius found by halving."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from advutils.certify import interval_bounds
from advutils.exercises.framework import Exercise, Prediction, expect, expect_like


def width_of_nothing():
    """How wide the interval of 2h - (2h) is, for h from 0.2 to 0.5, computed in two layers."""
    twice, minus = nn.utils.skip_init(nn.Linear, 1, 2, bias=False), nn.utils.skip_init(nn.Linear, 2, 1, bias=False)
    with torch.no_grad():
        twice.weight[:], minus.weight[:] = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0, -1.0]])
        low, high = interval_bounds(nn.Sequential(twice, minus), torch.tensor([[0.2]]), torch.tensor([[0.5]]))
    return (high - low).item()


lost_width = Prediction(
    "lost_width", 12, width_of_nothing, within=0.02,
    remarks={
        (0, 0.02): "That is the true width. The rule treats a and b as two numbers that know nothing of each other.",
        (0.55, 0.65): "That is the radius, or half of the two terms. Which values can 2a and b take, each by itself?",
        (0.25, 0.35): "That is the width of h. Each of the two layers makes it wider.",
    },
    reason="a has the radius 0.15 and b has 0.3. The last layer gives the radius 2 · 0.15 + 1 · 0.3 = 0.6, so the "
    "interval goes from -0.6 to 0.6, a width of {truth}. The true value is always 0. The bound is right, and loose: "
    "the rule has forgotten that a and b come from the same h.",
)  # fmt: skip


margin_bound = Exercise("margin_bound", 12)


def last_layer(case, n=6, inputs=5, classes=4):
    """Weights, bias, two ends of the interval of each input, labels."""
    lower = case.uniform(n, inputs)
    upper = lower + case.uniform(n, inputs, low=0.1, high=1)
    weight, bias = case.uniform(classes, inputs, low=-1, high=1), case.uniform(classes, low=-1, high=1)
    return weight, bias, lower, upper, case.labels(n)


def margins_at(weight, bias, inputs, y):
    """True logit minus each logit, (N, M, K) for inputs (N, M, m), in double precision."""
    logits = inputs.double() @ weight.double().T + bias.double()
    return logits.gather(2, y[:, None, None].expand(-1, logits.shape[1], 1)) - logits


def smallest_at_a_corner(weight, bias, lower, upper, y):
    """The smallest difference over all corners of the box, (N, K): a linear function has its minimum at one of them."""
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=lower.shape[1])))
    inputs = lower[:, None] + corners * (upper - lower)[:, None]
    return margins_at(weight, bias, inputs, y).amin(1)


@margin_bound.test("one number for each image and class, 0 for the true class")
def _(mine, case):
    weight, bias, lower, upper, y = last_layer(case)
    bound = expect_like(mine(weight, bias, lower, upper, y), torch.zeros(6, 4), "numbers")
    own = bound.gather(1, y[:, None])
    expect(
        own.abs().max() < 1e-4, f"The true logit minus itself is {own[own.abs().argmax()].item():.2f} in your result."
    )


@margin_bound.test("a box of a single point: the differences of its logits")
def _(mine, case):
    weight, bias, point, _, y = last_layer(case)
    bound, truth = mine(weight, bias, point, point.clone(), y), margins_at(weight, bias, point[:, None], y)[:, 0]
    unbiased = margins_at(weight, 0 * bias, point[:, None], y)[:, 0]
    seen = {"It has the opposite sign.": -truth, "It is the difference without the bias.": unbiased}
    near = next((text for text, other in seen.items() if (bound - other).abs().max() < 1e-4), "")
    off = (bound - truth).abs().max()
    expect(off < 1e-4, f"Where both ends are the same point, one of your differences is {off:.2f} off. {near}")


@margin_bound.test("no point of the box has a smaller difference")
def _(mine, case):
    box = last_layer(case)
    bound, truth = mine(*box), smallest_at_a_corner(*box)
    high = (bound > truth + 1e-4).sum()
    symptom = f"{high} of 24 numbers are no bound: a corner of the box has a difference that is smaller, by up to "
    expect(high == 0, symptom + f"{(bound - truth).max():.2f}.")


@margin_bound.test("some corner of the box has exactly this difference")
def _(mine, case):
    weight, bias, lower, upper, y = last_layer(case)
    bound, truth = mine(weight, bias, lower, upper, y), smallest_at_a_corner(weight, bias, lower, upper, y)
    loose = (truth - bound).max()
    centre, radius = (lower + upper) / 2 @ weight.T + bias, (upper - lower) / 2 @ weight.abs().T
    apart = (centre - radius).gather(1, y[:, None]) - (centre + radius)
    other = torch.arange(4) != y[:, None]
    near = " It is what two separate intervals give." if (bound - apart)[other].abs().max() < 1e-4 else ""
    expect(loose < 1e-4, f"Your bound holds, but is up to {loose:.2f} smaller than what any corner reaches.{near}")


worst_loss = Exercise("worst_loss", 12)


def logit_intervals(case, width, n=6):
    """Both ends of the intervals of four logits, and labels."""
    lower = case.uniform(n, 4, low=-2, high=2)
    return lower, lower + width * case.uniform(n, 4, low=0.5, high=1), case.labels(n)


def loss_by_hand(logits, label):
    return math.log(sum(map(math.exp, logits))) - logits[label]


def losses_at_corners(lower, upper, y):
    """For each image the losses of all 16 ways to choose an end of each interval."""
    rows = zip(lower.tolist(), upper.tolist(), y.tolist())
    return [[loss_by_hand(ends, label) for ends in itertools.product(*zip(low, high))] for low, high, label in rows]


@worst_loss.test("the result is one number")
def _(mine, case):
    loss = torch.as_tensor(mine(*logit_intervals(case, 1)))
    expect(loss.ndim == 0, f"A loss is a single number; yours has the shape {tuple(loss.shape)}.")


@worst_loss.test("where the intervals are points, the mean cross-entropy")
def _(mine, case):
    lower, _, y = logit_intervals(case, 1)
    value = float(mine(lower, lower.clone(), y))
    each = [loss_by_hand(row, label) for row, label in zip(lower.tolist(), y.tolist())]
    seen = {
        "That is the sum over the images.": sum(each),
        "That is the loss of the classes that the network would answer.": F.cross_entropy(
            lower, lower.argmax(1)
        ).item(),
        "A better reading gives you a larger number.": -sum(each) / 6,
    }
    near = next((text for text, other in seen.items() if abs(value - other) < 1e-4), "")
    expect(abs(value - sum(each) / 6) < 1e-4, f"By hand {sum(each) / 6:.3f}, yours {value:.3f}. {near}")


@worst_loss.test("no logits of the intervals have a larger loss")
def _(mine, case):
    lower, upper, y = logit_intervals(case, 3)
    value, each = float(mine(lower, upper, y)), losses_at_corners(lower, upper, y)
    worst = sum(map(max, each)) / 6
    seen = {
        "It is the smallest loss: the network chooses the ends, not the attackers.": sum(map(min, each)) / 6,
        "It is the loss of the upper ends; the true class is too high in it.": sum(one[-1] for one in each) / 6,
        "It is the loss of the lower ends; the other classes are too low in it.": sum(one[0] for one in each) / 6,
        "It is the loss of the centres.": F.cross_entropy((lower + upper) / 2, y).item(),
    }
    near = next((text for text, other in seen.items() if abs(value - other) < 1e-4), "")
    expect(
        value > worst - 1e-4, f"Some logits in the intervals have the loss {worst:.3f}; yours is {value:.3f}. {near}"
    )


@worst_loss.test("some logits of the intervals have exactly this loss")
def _(mine, case):
    lower, upper, y = logit_intervals(case, 3)
    value, worst = float(mine(lower, upper, y)), sum(map(max, losses_at_corners(lower, upper, y))) / 6
    expect(value < worst + 1e-4, f"No logits in the intervals have a loss above {worst:.3f}; yours is {value:.3f}.")


halved_radius = Exercise("halved_radius", 12)


class Proof(nn.Module):
    """`proof(eps)`: whether there is a proof at eps, up to a limit. Counts how often it was asked."""

    passes: torch.Tensor
    limit: torch.Tensor

    def __init__(self, limit):
        super().__init__()
        self.register_buffer("limit", torch.tensor(limit, dtype=torch.float64))
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, eps):
        self.passes += 1
        return bool(eps <= self.limit)


@halved_radius.test("there is a proof at the radius that comes out, or it is 0")
def _(mine, case):
    for limit in (-1.0, case.number(0.1, 0.4), case.number(0.4, 0.6), case.number(0.6, 0.9)):
        value = float(mine(Proof(limit), 1.0, 10))
        what = f"There are proofs up to {limit:.3f}" if limit > 0 else "There is no proof at all"
        expect(value <= max(limit, 0), f"{what}; your radius is {value:.4g}.")


@halved_radius.test("no radius above the highest one to try")
def _(mine, case):
    high = case.number(0.2, 0.5)
    value = float(mine(Proof(2.0), high, 10))
    expect(value <= high, f"The highest radius to try was {high:.3f}; your radius is {value:.3f}.")


@halved_radius.test("as near to the limit as the halvings allow")
def _(mine, case):
    for times, limit in ((3, case.number(0.1, 0.3)), (12, case.number(0.02, 0.1)), (12, 0.4)):
        value, missing = float(mine(Proof(limit), 0.4, times)), 0.4 / 2**times
        told = f"There are proofs up to {limit:.5f}. After {times} halvings of 0 to 0.4, at most {missing:.5f} may be "
        expect(value >= limit - missing - 1e-9, f"{told}missing; yours is {value:.5f}.")


@halved_radius.test("one question for each halving")
def _(mine, case):
    proof = Proof(case.number(0.1, 0.4))
    mine(proof, 0.5, 12)
    asked = int(proof.passes.item())
    expect(asked <= 13, f"Your search asked for {asked} proofs; 12 halvings need 12.")
