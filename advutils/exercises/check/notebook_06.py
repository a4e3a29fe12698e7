"""What checks the exercises of notebook 6: hidden gradients counted, passed by (BPDA), averaged (EOT)."""

import torch

from advutils.attacks.losses import cross_entropy, cw, dlr
from advutils.exercises.cases import Case, Linear, Masked
from advutils.exercises.framework import Choice, Exercise, expect, expect_like


def losses_that_still_climb():
    """The letter, from the gradients of a linear model whose logits are multiplied by 100,000."""
    case = Case(0)
    x, model = case.images(), Linear(1e5 * case.linear().weight.detach())
    y = model(x).argmax(1)  # all of them read correctly
    x.requires_grad_()
    climbs = [bool(torch.autograd.grad(loss(model(x), y).sum(), x)[0].any()) for loss in (cross_entropy, cw, dlr)]
    return {(True, False, False): "a", (False, True, False): "b", (False, False, True): "c", (False, True, True): "d"}[
        tuple(climbs)
    ]


saturated = Choice(
    "saturated", 6, losses_that_still_climb,
    remarks={
        "a": "The cross-entropy of an image that is read correctly is exactly 0 here. What is the slope of a 0?",
        "b": "That one has a gradient. Another one is blind to the factor, and has one, too.",
        "c": "That one does not see the factor. But is a margin that is multiplied by 100,000 flat?",
    },
    reason="The softmax is saturated: the cross-entropy is exactly 0, and so is its gradient. The margin loss is "
    "multiplied by the factor, and DLR does not see it. Both have the same signs as before, so an attack goes on.",
)  # fmt: skip


zero_gradients = Exercise("zero_gradients", 6)


def gradients(case, dead, n=10):
    """Gradients of n images, `dead` of which are zero everywhere; the others are tiny, with half of the pixels zero."""
    made = 1e-20 * case.uniform(n, 1, 6, 6, low=-1, high=1)
    made[:, :, :3] = 0
    made[torch.randperm(n, generator=case.generator)[:dead]] = 0
    return made


@zero_gradients.test("the result is a share")
def _(mine, case):
    value = float(mine(gradients(case, 3)))
    expect(0 <= value <= 1, f"Your number is {value:g}. A share lies between 0 and 1.")


@zero_gradients.test("an image with a gradient anywhere is not blind")
def _(mine, case):
    some = gradients(case, 0)
    for made, which in ((some, ""), (some.abs(), " No number is below 0."), (-some.abs(), " No number is above 0.")):
        value = float(mine(made))
        symptom = f"No image of this batch has a gradient of zero everywhere.{which} Your number is {value:.2f}."
        expect(value == 0, symptom)


@zero_gradients.test("positive and negative numbers are no zero together")
def _(mine, case):
    made = torch.zeros(10, 1, 6, 6)
    made[:, 0, 0, 0], made[:, 0, 5, 5] = 1, -1
    value = float(mine(made))
    expect(value == 0, f"Each gradient holds a +1 and a -1. Your number is {value:.2f}.")


@zero_gradients.test("the share of the images that are blind, counted one by one")
def _(mine, case):
    dead = 2 + case.seed % 6
    value = float(mine(gradients(case, dead)))
    expect(abs(value - dead / 10) < 1e-6, f"{dead} of 10 images have no gradient at all. Your number is {value:.2f}.")


bpda_gradient = Exercise("bpda_gradient", 6)


def rounded(x, levels):
    return torch.tensor([round(v * (levels - 1)) / (levels - 1) for v in x.flatten().tolist()]).view_as(x)


@bpda_gradient.test("one gradient for each image, and not zero")
def _(mine, case):
    x = case.images()
    slope = expect_like(mine(case.curved(), x, case.labels(), 4), x, "gradients")
    expect(slope.abs().max() > 0, "Your gradient is zero for every pixel of every image.")


@bpda_gradient.test("an image's gradient does not depend on the other images")
def _(mine, case):
    x, y, model = case.images(), case.labels(), case.linear()
    whole, alone = mine(model, x, y, 4)[:1], mine(model, x[:1], y[:1], 4)
    ratio = whole.abs().sum() / alone.abs().sum()
    expect(abs(ratio - 1) < 1e-3, f"The gradient of the first image is {ratio:.2f} times as large in a batch of 6.")


@bpda_gradient.test("the gradient at the image that the network sees, worked out by hand")
def _(mine, case):
    x, y, model, levels = case.images(), case.labels(), case.curved(), 2 + case.seed % 4
    truth, slope = model.gradient(rounded(x, levels), y), mine(model, x, y, levels)
    seen = {
        "the image before it is rounded": model.gradient(x, y),
        f"an image with {levels + 1} levels": model.gradient(rounded(x, levels + 1), y),
    }
    scale = truth.abs().max()
    alike = [what for what, gradient in seen.items() if (gradient - slope).abs().max() < 1e-3 * scale]
    near = f" It is the gradient at {alike[0]}." if alike else ""
    off = (slope - truth).abs().max() / scale
    expect(off < 1e-3, f"Your gradient is {off:.0%} away from the one at the rounded image, {levels} levels.{near}")


eot_gradient = Exercise("eot_gradient", 6)


def fresh(seed):
    return torch.Generator().manual_seed(seed)


def draws_of(model, x, y, draws, seed):
    """The gradients of the first draws of a generator, (draws, N, C, H, W)."""
    generator = fresh(seed)
    return torch.stack([model.gradient_of_draw(x, y, generator) for _ in range(draws)])


@eot_gradient.test("with one draw, the gradient behind this draw")
def _(mine, case):
    x, y, model = case.images(), case.labels(), Masked(case.linear().weight.detach())
    truth = draws_of(model, x, y, 1, case.seed)[0]
    slope = expect_like(mine(model, x, y, 1, fresh(case.seed)), x, "gradients")
    off = (slope - truth).abs().max() / truth.abs().max()
    expect(off < 1e-3, f"With a single draw, your gradient is {off:.0%} away from the gradient behind this draw.")


@eot_gradient.test("more draws do not make the gradient longer")
def _(mine, case):
    x, y, model = case.images(), case.labels(), Masked(case.linear().weight.detach())
    few, many = (mine(model, x, y, draws, fresh(case.seed)).abs().sum() for draws in (1, 40))
    expect(many < 2 * few, f"With 40 draws your gradient is {many / few:.0f} times as long as with one.")


@eot_gradient.test("the mean over all draws, worked out by hand")
def _(mine, case):
    x, y, model = case.images(), case.labels(), Masked(case.linear().weight.detach())
    each = draws_of(model, x, y, 8, case.seed)
    slope = mine(model, x, y, 8, fresh(case.seed))
    seen = {
        "Eight draws give what the first one alone gives.": each[0],
        "Eight draws give what the last one alone gives.": each[-1],
        "Every draw has one vote for each pixel, however large its gradient is.": each.sign().mean(0),
    }
    near = next((text for text, g in seen.items() if (g - slope).abs().max() < 1e-3), "")
    off = (slope - each.mean(0)).abs().max() / each.mean(0).abs().max()
    expect(off < 1e-3, f"Your gradient is {off:.0%} away from the mean of the gradients of eight draws. {near}")
