"""What checks the exercises of notebook 10: units, whole levels, BPDA behind a rounding, averaged gradients."""

import math

import torch

from advutils.exercises.cases import clear
from advutils.exercises.framework import Exercise, Prediction, expect, expect_images, expect_like


def levels_on_the_photograph():
    """How far a pixel moves, in levels, where its normalised value moves by 8/255 and is divided by 0.25."""
    pixel = torch.tensor(0.4, dtype=torch.float64)
    moved = ((pixel - 0.5) / 0.25 + 8 / 255) * 0.25 + 0.5
    return 255 * (moved - pixel).item()


behind_the_layer = Prediction(
    "behind_the_layer", 10, levels_on_the_photograph, within=0.05,
    remarks={
        (7.9, 8.1): "That would be so if nothing were divided. The attack works behind the division.",
        (31, 33): "That is the way from the pixels to the normalised values. Here you come back.",
        (0.0001, 0.1): "That is on the scale from 0 to 1. How many grey levels is it?",
    },
    reason="A change behind the division by 0.25 is four times as large as on the pixels. So 8/255 there are {truth} "
    "levels here: a quarter of the attack that was promised, and a network that looks more robust than it is.",
)  # fmt: skip


save_levels = Exercise("save_levels", 10)


def attacked(case):
    """Images of whole levels, and attacked ones, each pixel moved by up to 8 levels, none of them by a whole number."""
    x = (255 * case.images()).round() / 255
    part, whole = (case.uniform(*x.shape, low=low, high=high) for low, high in ((0.1, 0.9), (0, 7.99)))
    moves = torch.where(case.uniform(*x.shape) < 0.5, 1, -1) * (whole.floor() + part) / 255
    inside = (x + moves - 0.5).abs() <= 0.5  # a clip to [0, 1] would make whole numbers
    return x + torch.where(inside, moves, -moves), x


def in_levels(*images):
    """Numbers from 0 to 255, in double precision."""
    return [255 * one.double() for one in images]


@save_levels.test("the result holds whole numbers from 0 to 255")
def _(mine, case):
    x_adv, x = attacked(case)
    saved = expect_like(mine(x_adv, x), x, "levels").double()
    low, high = saved.min(), saved.max()
    expect(low >= 0 and high <= 255, f"Your levels go from {low:g} to {high:g}.")
    expect(high > 1, f"Your levels go from {low:g} to {high:g}; white is 255 in a file.")
    off = (saved != saved.round()).sum()
    expect(off == 0, f"{off} of {x.numel()} levels are no whole numbers.")


@save_levels.test("an image without an attack is saved as it was")
def _(mine, case):
    _, x = attacked(case)
    off = (mine(x.clone(), x).double() != in_levels(x)[0].round()).sum()
    expect(off == 0, f"{off} of {x.numel()} pixels of a clean image are saved with another level.")


@save_levels.test("no level lies farther from the clean one than the attacked pixel")
def _(mine, case):
    x_adv, x = attacked(case)
    saved, (a, b) = mine(x_adv, x).double(), in_levels(x_adv, x)
    far = (saved - b).abs() > (a - b).abs() + 1e-3
    where = far.flatten().nonzero()[:1]
    clean, made, kept = (one.flatten()[where].sum() for one in (b, a, saved))
    symptom = (
        f"Clean {clean:.0f}, attacked {made:.2f}, saved {kept:.0f}: a change of {(kept - clean).abs():.0f} levels."
    )
    ways = {name: bool(far.any() and way[far].all()) for name, way in (("darker", a < b), ("brighter", a > b))}
    symptom += "".join(f" It happens only where the attack made a pixel {name}." for name, way in ways.items() if way)
    expect(not far.any(), symptom)


@save_levels.test("each pixel has the level next to the attacked one, on the side of the clean one")
def _(mine, case):
    x_adv, x = attacked(case)
    a, b = in_levels(x_adv, x)
    pairs = zip(a.flatten().tolist(), b.round().flatten().tolist())
    truth = torch.tensor([math.floor(p) if p > q else math.ceil(p) for p, q in pairs]).view_as(a)
    saved = mine(x_adv, x).double()
    off = (saved - truth).abs()
    none = " It is the clean image: nothing of the attack is left." if torch.equal(saved, b.round()) else ""
    symptom = f"{(off > 0).sum()} pixels have another level; the largest difference is {off.max():.0f}."
    expect(off.max() == 0, symptom + none)


quantiser_gradient = Exercise("quantiser_gradient", 10)


def near_steps(case, n=6):
    """Images, a step, and the number of steps of each pixel with its part: whole + part, |part| < 0.45."""
    step = 30 + 10 * (case.seed % 3)
    whole = case.uniform(n, 1, 6, 6, low=1, high=4.99).floor().double()
    part = case.uniform(n, 1, 6, 6, low=-0.45, high=0.45).double()
    return (step * (whole + part) / 255).float(), step, whole, part


@quantiser_gradient.test("one gradient for each image, and not zero")
def _(mine, case):
    x, step, *_ = near_steps(case)
    slope = expect_like(mine(case.curved(), x, case.labels(), step), x, "gradients")
    expect(slope.abs().max() > 0, "Your gradient is zero for every pixel of every image.")


@quantiser_gradient.test("an image's gradient does not depend on the other images")
def _(mine, case):
    (x, step, *_), y, model = near_steps(case), case.labels(), case.linear()
    whole, alone = mine(model, x, y, step)[:1], mine(model, x[:1], y[:1], step)
    ratio = whole.abs().sum() / alone.abs().sum()
    expect(abs(ratio - 1) < 1e-3, f"The gradient of the first image is {ratio:.2f} times as large in a batch of 6.")


@quantiser_gradient.test("the network's gradient at the rounded image, times the slope of the soft rounding")
def _(mine, case):
    x, step, whole, part = near_steps(case)
    y, model, slope = case.labels(), case.curved(), 3 * part**2
    at = {name: model.gradient(step / 255 * levels, y) for name, levels in
          (("rounded", whole), ("soft", whole + part**3), ("clean", whole + part), ("black", 0 * whole))}  # fmt: skip
    seen = {
        "The network read the soft copy; the real one is given the rounded image.": at["soft"] * slope,
        "The slope is 1 for every pixel, near an edge of a stair or far from it.": at["rounded"],
        "The network read the image before it was rounded.": at["clean"] * slope,
        "There is no rounding in it at all.": at["clean"],
        "The network read a black image: every pixel was rounded to 0.": at["black"] * 3 * (x.double() / step) ** 2,
        "The network read numbers of steps; a pixel lies between 0 and 1.": model.gradient(whole, y)
        * slope * 255 / step,
    }  # fmt: skip
    truth, result = at["rounded"] * slope, mine(model, x, y, step)
    alike = (text for text, g in seen.items() if (g - result).abs().max() < 1e-3 * g.abs().max())
    off = (result - truth).abs().max() / truth.abs().max()
    expect(
        off < 1e-3,
        f"With a step of {step} levels your gradient is {off:.0%} away from the closed form. {next(alike, '')}",
    )


averaged_step = Exercise("averaged_step", 10)


def shaken(case, n=30, draws=5):
    """Images of middle values, somewhat attacked, their labels, a model, and noise that leaves them in [0, 1]."""
    x = case.images(n, low=0.35, high=0.65)
    x_adv = x + case.uniform(n, 1, 6, 6, low=-0.05, high=0.05)
    return case.curved(), x_adv, x, case.labels(n), case.uniform(draws, n, 1, 6, 6, low=-0.3, high=0.3)


@averaged_step.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    model, _, _, y, noises = shaken(case)
    x = case.images(30)
    expect_images(mine(model, x, x, y, noises, 0.2, 0.1), x)


@averaged_step.test("the image moves by the step, and not by the noise")
def _(mine, case):
    model, x_adv, x, y, noises = shaken(case)
    moves = (mine(model, x_adv, x, y, noises, 0.3, 0.02) - x_adv).abs()
    symptom = f"With a step of 0.02 in a ball that is large enough, pixels moved by {moves.min():.3f} to "
    expect((moves - 0.02).abs().max() < 1e-4, symptom + f"{moves.max():.3f}.")


@averaged_step.test("no pixel lies farther than epsilon from the clean image")
def _(mine, case):
    model, x_adv, x, y, noises = shaken(case)
    far = (mine(model, x_adv, x, y, noises, 0.06, 0.04) - x).abs().max()
    expect(far <= 0.06 + 1e-5, f"At epsilon 0.06 a pixel lies {far:.2f} away from the clean image.")


@averaged_step.test("along the mean of the gradients at the shaken images, worked out by hand")
def _(mine, case):
    model, x_adv, x, y, noises = shaken(case)
    each = torch.stack([model.gradient(x_adv + noise, y) for noise in noises])
    moved = (mine(model, x_adv, x, y, noises, 0.3, 0.02) - x_adv).sign()

    def off(direction):
        return (moved != direction.sign())[clear(direction)].sum()

    seen = {
        "They follow the image that was not shaken.": model.gradient(x_adv, y),
        "They follow one gradient, at the image shaken by the mean of the noise.": model.gradient(
            x_adv + noises.mean(0), y
        ),
        "They follow the first draw alone.": each[0],
        "They follow the last draw alone.": each[-1],
        "Each draw has one vote for each pixel, however large its gradient is.": each.sign().sum(0),
        "They go where the loss falls.": -each.mean(0),
    }
    near = next((text for text, direction in seen.items() if off(direction) == 0), "")
    wrong = off(each.mean(0))
    expect(wrong == 0, f"{wrong} of {x.numel()} pixels do not follow the mean of five gradients. {near}")
