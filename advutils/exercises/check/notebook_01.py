"""What checks the exercises of notebook 1: Wilson's interval, an accuracy, one step of training."""

import math

import torch
from torch.nn import functional as F

from advutils.evaluation import wilson as library_wilson
from advutils.exercises.cases import FirstPixels, batches
from advutils.exercises.framework import Exercise, Prediction, Symptom, expect


def lowest_with_100_of_100():
    """In percent."""
    return 100 * library_wilson(torch.ones(100, dtype=torch.bool)).low


no_error_in_100 = Prediction(
    "no_error_in_100", 1, lowest_with_100_of_100, within=1.5,
    remarks={
        (98.5, 100): "Think of a network that misreads one digit in a hundred. How often does it read all of 100 "
        "correctly?",
        (90, 94): "A network that reads 92% misreads 8 of 100 on average. To see none would be a great surprise.",
        (0, 90): "A network that reads 90% reads 100 digits without an error once in 38,000 tests.",
    },
    reason="The interval goes from {truth}% to 100%. No error in 100 images does not show that there are no errors: a "
    "network that misreads 1 of 100 reads 100 images without an error in 37 of 100 tests.",
)  # fmt: skip


wilson = Exercise("wilson", 1)


def ends_by_definition(k, n, z):
    """The accuracies p from which k/n lies exactly z standard errors away, each found by halving."""

    def find(inside, outside):
        for _ in range(80):
            p = (inside + outside) / 2
            near = abs(k / n - p) <= z * math.sqrt(p * (1 - p) / n)
            inside, outside = (p, outside) if near else (inside, p)
        return inside

    return find(k / n, 0.0), find(k / n, 1.0)


def pair(result):
    """The two ends, as numbers, of whatever holds two."""
    try:
        low, high = map(float, result)
    except (TypeError, ValueError):
        raise Symptom("Your function does not give back two numbers.") from None
    return low, high


@wilson.test("two ends between 0 and 1, the lower one first")
def _(mine, case):
    low, high = pair(mine(30 + case.seed % 10, 50, 1.96))
    expect(low >= 0 and high <= 1, f"Your interval goes from {low:g} to {high:g}; a share lies between 0 and 1.")
    expect(low < high, f"Your lower end {low:.3f} is not below the upper end {high:.3f}.")


@wilson.test("20 right of 20 is no proof of 100%")
def _(mine, case):
    low, high = pair(mine(20, 20, 1.96))
    expect(low < 0.99, f"For 20 of 20 your interval goes from {low:.3f} to {high:.3f}: as if no error were possible.")


@wilson.test("more certainty, a larger z, needs a wider interval")
def _(mine, case):
    (low, high), (lower, higher) = pair(mine(40, 50, 1.0)), pair(mine(40, 50, 2.5))
    symptom = f"At z = 1 your interval is {high - low:.3f} wide, at z = 2.5 {higher - lower:.3f}."
    expect(higher - lower > 1.5 * (high - low), symptom)


@wilson.test("the ends lie z standard errors of their own away, found by halving")
def _(mine, case):
    for n in (10 + case.seed % 20, 200):
        for k in (0, 1, n // 2, n - 2, n):
            low, high = pair(mine(k, n, 1.96))
            true_low, true_high = ends_by_definition(k, n, 1.96)
            symptom = f"For {k} of {n}: yours {low:.3f} to {high:.3f}, by the definition {true_low:.3f} to "
            expect(abs(low - true_low) + abs(high - true_high) < 1e-4, symptom + f"{true_high:.3f}.")


accuracy = Exercise("accuracy", 1)


@accuracy.test("the result is a share")
def _(mine, case):
    value = float(mine(FirstPixels().eval(), batches(*case.three_kinds(6, 3, 2), 4)))
    expect(0 <= value <= 1, f"Your number is {value:g}. A share lies between 0 and 1.")


@accuracy.test("the size of the batches does not matter")
def _(mine, case):
    x, y = case.three_kinds(5, 3, 3)
    values = [float(mine(FirstPixels().eval(), batches(x, y, size))) for size in (11, 4)]
    symptom = f"The same 11 images: {values[0]:.3f} in one batch, {values[1]:.3f} in batches of 4, 4 and 3."
    expect(abs(values[0] - values[1]) < 1e-6, symptom)


@accuracy.test("the count of the images that are read correctly")
def _(mine, case):
    right, wrong = 6 + case.seed % 4, 3
    value = float(mine(FirstPixels().eval(), batches(*case.three_kinds(right, 0, wrong), 4)))
    told = f"{right} of {right + wrong} images are read correctly, which is {right / (right + wrong):.3f}. "
    expect(abs(value - right / (right + wrong)) < 1e-6, f"{told}Yours is {value:.3f}.")


@accuracy.test("a network that comes in train mode is measured as it is used")
def _(mine, case):
    x, y = case.three_kinds(9, 0, 3)
    used, value = (float(mine(FirstPixels().train(mode), batches(x, y, 4))) for mode in (False, True))
    symptom = f"In eval mode the network reads {used:.3f}. It came in train mode, and you measure {value:.3f}."
    expect(abs(used - value) < 1e-6, symptom)


@accuracy.test("the network is left in the mode in which it came")
def _(mine, case):
    for mode in (True, False):
        model = FirstPixels().train(mode)
        mine(model, batches(*case.three_kinds(4, 0, 2), 4))
        names = {True: "train", False: "eval"}
        expect(model.training == mode, f"It came in {names[mode]} mode, and you left it in {names[not mode]} mode.")


train_step = Exercise("train_step", 1)


def stepped(mine, case, lr, steps, n=8):
    """The weights before and after calls of the learner's function, what it returned, and the data."""
    model, x, y = case.linear(), case.images(n), case.labels(n)
    before, optimizer = model.weight.detach().clone(), torch.optim.SGD(model.parameters(), lr=lr)
    losses = [float(mine(model, x, y, optimizer)) for _ in range(steps)]
    return before.double(), model.weight.detach().double(), losses, x.flatten(1).double(), y


def descended(weight, x, y, lr):
    """The weights after one step of gradient descent on the mean cross-entropy, in closed form."""
    error = (x @ weight.T).softmax(1) - F.one_hot(y, len(weight))
    return weight - lr * error.T @ x / len(x)


@train_step.test("the result is the mean loss before the step")
def _(mine, case):
    weight, _, (loss,), x, y = stepped(mine, case, 0.1, 1)
    truth = F.cross_entropy(x @ weight.T, y).item()
    expect(abs(loss - truth) < 1e-3, f"The mean cross-entropy of the batch is {truth:.3f}; you give back {loss:.3f}.")


@train_step.test("the loss falls from step to step")
def _(mine, case):
    before, after, losses, *_ = stepped(mine, case, 0.05, 4)
    expect((after - before).abs().max() > 1e-6, "After four steps the weights are what they were.")
    expect(losses == sorted(losses, reverse=True), f"Your losses: {', '.join(f'{loss:.3f}' for loss in losses)}.")


@train_step.test("one step is one step of gradient descent, worked out by hand")
def _(mine, case):
    before, after, _, x, y = stepped(mine, case, 0.1, 1)
    asked, made = (descended(before, x, y, 0.1) - before).norm(), (after - before).norm()
    off = (after - descended(before, x, y, 0.1)).norm() / asked
    expect(off < 1e-3, f"The weights moved by {made:.4f}; a step of gradient descent moves them by {asked:.4f}.")


@train_step.test("the second step knows nothing of the first one's gradient")
def _(mine, case):
    weight, after, _, x, y = stepped(mine, case, 0.1, 3)
    first = weight
    for _ in range(3):
        weight = descended(weight, x, y, 0.1)
    moved, asked = (after - first).norm(), (weight - first).norm()
    symptom = f"The first step is right. After three steps the weights moved by {moved:.3f} in place of {asked:.3f}."
    expect((after - weight).norm() < 1e-3 * asked, symptom)
