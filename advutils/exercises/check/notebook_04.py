"""What checks the exercises of notebook 4: a loss on two halves, and McNemar's test."""

from itertools import product

import torch
from torch.nn import functional as F

from advutils.evaluation import mcnemar as library_mcnemar
from advutils.exercises.cases import Moody, step_in_eval_mode
from advutils.exercises.framework import Exercise, Prediction, expect


def ten_to_two():
    """McNemar's p-value, in percent."""
    first = torch.tensor([True] * 10 + [False] * 2)
    return 100 * library_mcnemar(first, ~first).p_value


fair_coins = Prediction(
    "fair_coins", 4, ten_to_two, within=0.5,
    remarks={
        (1.5, 2.4): "That is the probability of so uneven a split in favour of the first network. The second one might "
        "have won as well.",
        (15, 18): "That is the share 2 of 12. How often do twelve fair coins fall 10 to 2, or more unevenly?",
        (0.5, 1.5): "Twelve coins can fall in 4,096 ways. How many of them are 10 to 2, 11 to 1 or 12 to 0, on either "
        "side?",
    },
    reason="158 of the 4,096 ways are at least as uneven as 10 to 2, which is {truth}%. The 988 images on which the "
    "networks agree play no part.",
)  # fmt: skip


mixed_loss = Exercise("mixed_loss", 4)


def cross_entropy(model, x, y, factor):
    return F.cross_entropy(factor * (x.double().flatten(1) @ model.weight.detach().double().T), y).item()


@mixed_loss.test("the result is one number")
def _(mine, case):
    loss = mine(Moody(case.linear().weight.detach()), case.images(), case.labels(), step_in_eval_mode, 0.1)
    expect(isinstance(loss, torch.Tensor | float) and torch.as_tensor(loss).ndim == 0, "A loss is a single number.")


@mixed_loss.test("the model is left in the mode in which it came")
def _(mine, case):
    model = Moody(case.linear().weight.detach()).train()
    mine(model, case.images(), case.labels(), step_in_eval_mode, 0.1)
    expect(model.training, "The model came in train mode, and you left it in eval mode: the training goes on with it.")


@mixed_loss.test("the mean over both halves: attacked in eval mode, learned in train mode")
def _(mine, case):
    x, y, eps = case.images(8), case.labels(8), case.number(0.1, 0.2)
    model = Moody(case.linear(scale=0.5).weight.detach()).train()
    loss = float(mine(model, x, y, step_in_eval_mode, eps))
    away, wrong = (step_in_eval_mode(model.train(mode), x, y, eps=eps) for mode in (False, True))
    clean, adv = (cross_entropy(model, images, y, 0.5) for images in (x, away))
    seen = {
        clean: "That is the loss of the images as they are.",
        adv: "That is the loss of the attacked images alone.",
        clean + adv: "That is twice the loss: each half counts as a whole batch.",
        (clean + cross_entropy(model, wrong, y, 0.5)) / 2: "In train mode batch norm looks at the whole batch; the "
        "attack was made on a network that is not the one in use.",
        (cross_entropy(model, x, y, 1) + cross_entropy(model, away, y, 1)) / 2: "That is the loss of the network in "
        "eval mode. In which mode does a network learn?",
    }
    near = next((text for wrong_loss, text in seen.items() if abs(loss - wrong_loss) < 1e-4), "")
    truth = (clean + adv) / 2
    expect(abs(loss - truth) < 1e-4, f"Clean images {clean:.4f}, attacked ones {adv:.4f}; yours {loss:.4f}. {near}")


@mixed_loss.test("a model that comes in eval mode is left in it, too")
def _(mine, case):
    model = Moody(case.linear().weight.detach()).eval()
    mine(model, case.images(), case.labels(), step_in_eval_mode, 0.1)
    expect(not model.training, "The model came in eval mode, and you left it in train mode.")


mcnemar = Exercise("mcnemar", 4)


def marks(both, first, second, neither):
    """Two records: how many images both read, only the first, only the second, and neither."""
    a = [True] * both + [True] * first + [False] * second + [False] * neither
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    return torch.tensor(a), torch.tensor(b)


def three(result):
    expect(isinstance(result, tuple | list) and len(result) == 3, "Your function does not give back three numbers.")
    return tuple(float(value) for value in result)


@mcnemar.test("the images that only one of the two reads are counted")
def _(mine, case):
    first, second = 2 + case.seed % 3, 5
    got = three(mine(*marks(20, first, second, 3)))
    symptom = f"{first} images are read by the first alone and {second} by the second alone; yours: {got[0]:g} and "
    expect(got[:2] == (first, second), symptom + f"{got[1]:g}.")


@mcnemar.test("the images on which both agree change nothing")
def _(mine, case):
    p = [three(mine(*marks(both, 7, 2, both)))[2] for both in (0, 40)]
    expect(abs(p[0] - p[1]) < 1e-6, f"7 to 2 has p = {p[0]:.3f}; with 80 more images on which both agree, {p[1]:.3f}.")


@mcnemar.test("the same p-value if the two are exchanged, and never above 1")
def _(mine, case):
    p, q = (three(mine(*marks(5, *split, 5)))[2] for split in ((7, 2), (2, 7)))
    expect(abs(p - q) < 1e-6, f"7 to 2 has p = {p:.3f}, 2 to 7 has {q:.3f}.")
    even = three(mine(*marks(5, 4, 4, 5)))[2]
    expect(even <= 1, f"4 to 4 has p = {even:.3f}. A probability is at most 1.")


@mcnemar.test("the share of the ways in which fair coins fall as unevenly, counted one by one")
def _(mine, case):
    for a, b in ((7, 2), (3, 3), (0, 5), (10, 1 + case.seed % 2)):
        falls = [abs(2 * sum(coins) - a - b) >= abs(a - b) for coins in product((0, 1), repeat=a + b)]
        truth, p = sum(falls) / len(falls), three(mine(*marks(5, a, b, 5)))[2]
        symptom = f"{a} to {b}: {sum(falls)} of {len(falls)} ways are as uneven, p = {truth:.4f}; yours {p:.4f}."
        expect(abs(p - truth) < 1e-6, symptom)
