"""What checks the exercises of notebook 8: a divergence, TRADES, and what a step costs."""

import math

import torch

from advutils.attacks.gradient import pgd
from advutils.exercises.cases import Case
from advutils.exercises.framework import Exercise, Prediction, expect, expect_like


def passes_of_pgd_training():
    """How many passes forward and backward a batch takes with PGD of 3 steps, counted by the model."""
    case = Case(0)
    model = case.linear()
    pgd(model, case.images(), case.labels(), eps=0.1, steps=3)
    return model.passes[0].item() + 1  # and the one for the weights


passes = Prediction(
    "passes", 8, passes_of_pgd_training, within=0.1,
    remarks={
        (3, 3): "That is the attack alone. The weights want a gradient, too.",
        (1, 2): "Each step of PGD asks the network for a new gradient.",
        (5, 8): "A pass forward with its pass backward counts once here.",
    },
    reason="Three gradients for the attack, and one for the weights: {truth} in place of 1. So one epoch of PGD-3 "
    "costs as much as four epochs of plain training. Methods are compared at equal cost.",
)  # fmt: skip


divergence = Exercise("divergence", 8)


def by_hand(p_logits, q_logits):
    """KL(p, q) of two rows of logits, with Python's numbers."""
    p, q = ([math.exp(z - max(row)) for z in row] for row in (p_logits, q_logits))
    p, q = ([v / sum(row) for v in row] for row in (p, q))
    return sum(a * math.log(a / b) for a, b in zip(p, q))


@divergence.test("one number for each image")
def _(mine, case):
    logits, other = (case.uniform(6, 4, low=-2, high=2) for _ in range(2))
    expect_like(mine(logits, other), torch.zeros(6), "numbers")


@divergence.test("zero for equal predictions, above zero for others")
def _(mine, case):
    logits, other = (case.uniform(6, 4, low=-2, high=2) for _ in range(2))
    same, apart = mine(logits, logits + 3), mine(logits, other)
    expect(same.abs().max() < 1e-4, f"Two equal predictions are {same.abs().max():.3f} apart.")
    expect(apart.min() > 0, f"A divergence is never negative; the smallest of yours is {apart.min():.3f}.")


@divergence.test("predictions of which one is very sure give no nan and no infinity")
def _(mine, case):
    sure = torch.tensor([[200.0, 0.0, 0.0, 0.0]])
    value = mine(sure, torch.tensor([[0.0, 100.0, 0.0, 0.0]]))
    expect(value.isfinite().all(), f"Logits of 200 and 100 give {value[0]:g}.")


@divergence.test("the sum over the classes, with the clean prediction as the weight, by hand")
def _(mine, case):
    logits, other = (case.uniform(6, 4, low=-2, high=2) for _ in range(2))
    values = mine(logits, other)
    for i, (a, b) in enumerate(zip(logits.tolist(), other.tolist())):
        truth, turned = by_hand(a, b), by_hand(b, a)
        near = " It is the divergence the other way round." if abs(values[i] - turned) < 1e-4 else ""
        near = " It is a quarter of it; there are four classes." if abs(4 * values[i] - truth) < 1e-4 else near
        expect(abs(values[i] - truth) < 1e-4, f"Image {i}: by hand {truth:.4f}, yours {values[i]:.4f}.{near}")


trades_loss = Exercise("trades_loss", 8)


def parts(case):
    """Logits of clean and attacked images, labels, and their two mean losses and divergences by hand."""
    logits, other, y = case.uniform(6, 4, low=-2, high=2), case.uniform(6, 4, low=-2, high=2), case.labels()

    def loss(rows):
        return sum(math.log(sum(map(math.exp, row))) - row[t] for row, t in zip(rows.tolist(), y.tolist())) / 6

    pairs = list(zip(logits.tolist(), other.tolist()))
    there, back = sum(by_hand(a, b) for a, b in pairs) / 6, sum(by_hand(b, a) for a, b in pairs) / 6
    return logits, other, y, loss(logits), loss(other), there, back


@trades_loss.test("the result is one number")
def _(mine, case):
    logits, other, y, *_ = parts(case)
    loss = torch.as_tensor(mine(logits, other, y, 6.0))
    expect(loss.ndim == 0, f"A loss is a single number; yours has the shape {tuple(loss.shape)}.")


@trades_loss.test("at beta 0 it is the loss of the clean images")
def _(mine, case):
    logits, other, y, clean, adv, *_ = parts(case)
    loss = float(mine(logits, other, y, 0.0))
    near = " It is the loss of the attacked images." if abs(loss - adv) < 1e-4 else ""
    expect(
        abs(loss - clean) < 1e-4, f"The mean cross-entropy of the clean images is {clean:.4f}; yours {loss:.4f}.{near}"
    )


@trades_loss.test("beta times the mean divergence is added")
def _(mine, case):
    logits, other, y, clean, _, there, back = parts(case)
    beta = case.number(2, 8)
    loss = float(mine(logits, other, y, beta))
    seen = {
        "The divergence goes the other way round.": clean + beta * back,
        "The divergence is the sum over the images; the cross-entropy is a mean.": clean + 6 * beta * there,
        "The divergence is divided by the classes as well.": clean + beta * there / 4,
        "It is the first term that beta multiplies.": beta * clean + there,
        "The divergence makes your loss smaller.": clean - beta * there,
    }
    near = next((text for text, value in seen.items() if abs(loss - value) < 1e-3), "")
    truth = clean + beta * there
    told = f"Cross-entropy {clean:.3f}, divergence {there:.3f}, beta {beta:.2f}: "
    expect(abs(loss - truth) < 1e-3, f"{told}{truth:.3f}, yours {loss:.3f}. {near}")
