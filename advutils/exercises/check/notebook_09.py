"""What checks the exercises of notebook 9: a transfer rate, several surrogates at once, momentum."""

import torch
from torch import nn

from advutils.exercises.cases import Linear, clear
from advutils.exercises.framework import Exercise, Prediction, expect, expect_images, expect_like


def fooled_of_those_read():
    """In percent, of 96 images that are read and of which the attack leaves 60."""
    before = torch.arange(100) < 96
    after = torch.arange(100) < 60
    return 100 * (before & ~after).sum().item() / before.sum().item()


of_which = Prediction(
    "of_which", 9, fooled_of_those_read, within=0.4,
    remarks={
        (39.7, 40.3): "That counts four images as fooled that were misread without any attack.",
        (35.7, 36.3): "36 images were fooled. Out of how many that could be fooled?",
        (60, 63): "That is the share that survived.",
    },
    reason="36 of the 96 images that were read correctly are fooled: {truth}%. The four that were misread at first "
    "cannot be fooled. A success rate and an accuracy have different denominators; say which one you print.",
)  # fmt: skip


transfer_rate = Exercise("transfer_rate", 9)


def records(fooled, kept, lost, gained):
    """Two records: images fooled by the attack, kept, misread before and after, and misread only before."""
    before = [True] * fooled + [True] * kept + [False] * lost + [False] * gained
    after = [False] * fooled + [True] * kept + [False] * lost + [True] * gained
    return torch.tensor(before), torch.tensor(after)


@transfer_rate.test("the result is a share")
def _(mine, case):
    value = float(mine(*records(5, 4, 2, 1)))
    expect(0 <= value <= 1, f"Your number is {value:g}. A share lies between 0 and 1.")


@transfer_rate.test("an attack that changes nothing has the rate 0")
def _(mine, case):
    value = float(mine(*records(0, 6, 4, 0)))
    expect(value == 0, f"No image was fooled, 4 of 10 were misread before and after. Your rate is {value:.2f}.")


@transfer_rate.test("an attack that fools every image that was read has the rate 1")
def _(mine, case):
    value = float(mine(*records(6, 0, 4, 0)))
    expect(abs(value - 1) < 1e-6, f"All 6 images that were read are fooled, 4 were misread before. Yours: {value:.2f}.")


@transfer_rate.test("fooled images, of those that were read before")
def _(mine, case):
    fooled, kept, lost, gained = 3 + case.seed % 4, 5, 2, 3
    value = float(mine(*records(fooled, kept, lost, gained)))
    truth = fooled / (fooled + kept)
    symptom = f"{fooled + kept} images are read before, {fooled} of them are fooled: {truth:.3f}; yours {value:.3f}. "
    net = "Images that became right by the attack are set off against it." if value < truth else ""
    expect(abs(value - truth) < 1e-6, symptom + net)


ensemble_fgsm = Exercise("ensemble_fgsm", 9)


def several(case):
    """Three surrogates, the first of which has much larger gradients, and images."""
    models = [case.linear(scale=scale) for scale in (0.5, 0.1, 0.1)]
    return models, case.images(low=0.4, high=0.6), case.labels()


@ensemble_fgsm.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    models, _, y = several(case)
    x = case.images()
    expect_images(mine(models, x, y, 0.2), x)


@ensemble_fgsm.test("every pixel that has room moves by epsilon")
def _(mine, case):
    models, x, y = several(case)
    moves = (mine(models, x, y, 0.2) - x).abs()
    symptom = f"At epsilon 0.2 the pixels moved by {moves.min():.3f} to {moves.max():.3f}."
    expect((moves - 0.2).abs().max() < 1e-3, symptom)


@ensemble_fgsm.test("every surrogate has a say")
def _(mine, case):
    models, x, y = several(case)
    first = mine(models, x, y, 0.1)
    for place in (1, 2):
        others = list(models)
        others[place] = case.linear(scale=0.5)
        expect(not torch.equal(first, mine(others, x, y, 0.1)), f"Another surrogate number {place} changes nothing.")


@ensemble_fgsm.test("along the gradient of the mean of the losses, worked out by hand")
def _(mine, case):
    models, x, y = several(case)
    each = torch.stack([model.gradient(x, y) for model in models])
    moved, votes = (mine(models, x, y, 0.1) - x).sign(), each.sign().sum(0)

    def off(direction):
        return (moved != direction.sign())[clear(direction)].sum()

    seen = {
        "They follow the majority of the surrogates: a small gradient counts as much as a large one.": votes,
        "They follow the loss of the mean of the logits: that is the loss of one network that is made of all.": Linear(
            torch.stack([model.weight.detach() for model in models]).mean(0)
        ).gradient(x, y),
        "Each surrogate's gradient has the same length first, so a small one counts too much.": (
            each / each.abs().sum((2, 3, 4), keepdim=True)
        ).sum(0),
        "They go the other way.": -each.mean(0),
    }
    near = next((text for text, direction in seen.items() if off(direction) == 0), "")
    wrong = off(each.mean(0))
    expect(wrong == 0, f"{wrong} of {x.numel()} pixels do not go where the mean loss rises. {near}")


momentum_pgd = Exercise("momentum_pgd", 9)


def sum_of_sizes(gradient):
    """The l_1 length of each image's gradient."""
    return gradient.abs().sum((1, 2, 3), keepdim=True)


def reference(model, x, y, eps, step_size, steps, decay, length=sum_of_sizes):
    """Momentum PGD in double precision, with the closed form of the gradient."""
    x = x.double()
    x_adv, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        gradient = model.gradient(x_adv, y)
        velocity = decay * velocity + gradient / length(gradient)
        x_adv = torch.minimum(torch.maximum(x_adv + step_size * velocity.sign(), x - eps), x + eps).clamp(0, 1)
    return x_adv


def same_share(a, b):
    return ((a - b).abs() < 1e-3).double().mean().item()


class Clocked(nn.Module):
    """Two classes, label 0, and a gradient that is read from a table (rows, steps, 36).

    The last pixel names the row, in tenths; the gradient leaves it alone. The first pixel tells the step, in steps of
    0.05 from 0.5 on: its gradient has to be above 0 each time.
    """

    slopes: torch.Tensor

    def __init__(self, slopes):
        super().__init__()
        self.register_buffer("slopes", slopes)

    def gradient(self, x, y):
        flat = x.detach().flatten(1)
        row, step = (10 * flat[:, -1]).round().long(), ((flat[:, 0] - 0.5) / 0.05).round().long()
        return self.slopes[row, step.clamp(0, self.slopes.shape[1] - 1)].view(x.shape)

    def forward(self, x):
        rise = ((x - x.detach()) * self.gradient(x, None).to(x.dtype)).flatten(1).sum(1)
        return torch.stack([-rise, rise], 1)  # the logits are 0, their slopes are not


def clocked(*rows):
    """A model and an image for each row of lists (steps of 36 slopes)."""
    x = torch.full((len(rows), 1, 6, 6), 0.5)
    x[:, 0, 5, 5] = torch.arange(len(rows)) / 10
    return Clocked(torch.tensor(rows)), x, torch.zeros(len(rows)).long()


@momentum_pgd.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.curved(), x, case.labels(), 0.2, 0.08, 4, 1.0), x)


@momentum_pgd.test("no pixel lies farther than epsilon from the image at the start")
def _(mine, case):
    x = case.images(low=0.4, high=0.6)
    far = (mine(case.linear(), x, case.labels(), 0.1, 0.1, 4, 1.0) - x).abs().max()
    expect(far <= 0.1 + 1e-5, f"At epsilon 0.1 a pixel lies {far:.2f} away from the image after 4 steps.")


@momentum_pgd.test("with decay 0 it is PGD")
def _(mine, case):
    x, y, model = case.images(40, low=0.2, high=0.8), case.labels(40), case.curved()
    truth, result = reference(model, x, y, 0.2, 0.05, 6, 0.0), mine(model, x, y, 0.2, 0.05, 6, 0.0)
    same = same_share(result, truth)
    expect(same > 0.97, f"With decay 0, {same:.0%} of the pixels are where PGD puts them, the others are not.")


@momentum_pgd.test("an image's result does not depend on the other images")
def _(mine, case):
    first, second = [1.0, *[3.0] * 17, *[-1.0] * 17, 0.0], [1.0, *[-1.0] * 17, *[3.0] * 17, 0.0]
    loud = 10 ** case.number(1, 3)
    rows = [[first, [loud * v for v in second]], [[loud * v for v in first], second]]  # one grows, one shrinks
    model, x, y = clocked(*rows)
    whole = expect_like(mine(model, x, y, 0.2, 0.05, 2, 1.0), x)
    alone = torch.cat([mine(model, x[i : i + 1], y[i : i + 1], 0.2, 0.05, 2, 1.0) for i in range(2)])
    off = ((whole - alone).abs() > 1e-3).sum()
    symptom = f"{off} of 72 pixels go elsewhere when two images are attacked in one batch than when each is attacked "
    expect(off == 0, symptom + "alone. The gradient of one image grows from step to step, that of the other shrinks.")


@momentum_pgd.test("the length is the sum of the absolute values")
def _(mine, case):
    spread = [1.0, *[-1.0] * 34, 0.0]
    few = [0.3, 30.0, 15.0, 3.0, *[0.0] * 32]  # the largest, a half and a tenth of it
    model, x, y = clocked([spread, few])
    moves = (expect_like(mine(model, x, y, 0.2, 0.05, 2, 1.0), x) - x).flatten()
    half, tenth = ((moves[place] / 0.05).round().item() for place in (2, 3))  # 0: there and back again
    near = {
        (0, -2): "It looks like the root of the sum of the squares.",
        (-2, -2): "It looks like the absolute value of the largest one.",
        (-1, -1): "It looks as if the sign of each gradient were kept, and not the gradient.",
    }.get((half, tenth), "")
    symptom = "A gradient is spread over all pixels first, then it sits in a few. Its length is not the sum of the "
    expect(half == tenth == 0, symptom + f"absolute values of its entries. {near}")


@momentum_pgd.test("with decay 1 old directions are kept, each at length 1")
def _(mine, case):
    x, y, model = case.images(40, low=0.2, high=0.8), case.labels(40), case.curved()

    def like(decay, length=sum_of_sizes):
        return same_share(result, reference(model, x, y, 0.2, 0.05, 6, decay, length))

    result = mine(model, x, y, 0.2, 0.05, 6, 1.0)
    seen = {
        "They are where PGD without momentum puts them.": like(0.0),
        "It looks as if a large gradient counted more than a small one.": like(1.0, torch.ones_like),
        "It looks as if the sign of each gradient were kept, and not the gradient.": like(1.0, torch.abs),
    }
    near = next((text for text, share in seen.items() if share > 0.99), "")
    same = like(1.0)
    expect(same > 0.97, f"With decay 1, {1 - same:.0%} of the pixels are not where they should be. {near}")
