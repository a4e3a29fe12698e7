"""What checks the exercises of notebook 7: N-FGSM's images, two directions compared, when to stop."""

import math

import torch

from advutils.exercises.cases import Case, clear
from advutils.exercises.framework import Exercise, Prediction, expect, expect_images, expect_like


def farthest():
    """How far a training image of N-FGSM with k = 2 lies from its image at most, at 0.1, in percent."""
    case = Case(0)
    x, y, model = torch.full((500, 1, 6, 6), 0.5), case.labels(500), case.linear()
    noisy = x + 0.2 * case.uniform(500, 1, 6, 6, low=-1, high=1)
    return 100 * (noisy + 0.1 * model.gradient(noisy, y).sign() - x).abs().max().item()


beyond_the_ball = Prediction(
    "beyond_the_ball", 7, farthest, within=1.5,
    remarks={
        (9, 11): "That is the radius of the attack. N-FGSM does not project its images back into it.",
        (19, 21): "That is the noise alone. A step follows.",
        (11.1, 13): "1.25 epsilon is the step of the random start. N-FGSM has another one, and noise before it.",
    },
    reason="The noise moves a pixel by up to 2 epsilon, the step by one more: {truth}% of the way from black to white, "
    "three times the radius. There is no projection. These are training images, and not an attack's result.",
)  # fmt: skip


n_fgsm = Exercise("n_fgsm", 7)


@n_fgsm.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.linear(), x, case.labels(), 0.1, 2.0, case.generator), x)


@n_fgsm.test("without noise it is FGSM")
def _(mine, case):
    x, y, model, eps = case.images(low=0.4, high=0.6), case.labels(), case.linear(), case.number(0.1, 0.2)
    moves = mine(model, x, y, eps, 0.0, case.generator) - x
    gradient = model.gradient(x, y)
    far = moves.abs().max()
    expect(abs(far - eps) < 1e-4, f"With k = 0 and epsilon {eps:.3f}, the farthest pixel moved by {far:.3f}.")
    off = ((moves.sign() != gradient.sign()) & clear(gradient)).sum()
    expect(off == 0, f"With k = 0, {off} of {x.numel()} pixels go against their gradient.")


@n_fgsm.test("the noise reaches as far as k epsilon, and the step goes on from there")
def _(mine, case):
    x, y, model = torch.full((200, 1, 6, 6), 0.5), case.labels(200), case.linear()
    moves = mine(model, x, y, 0.1, 2.0, case.generator) - x
    far = moves.abs().max()
    expect(0.28 < far < 0.3001, f"At epsilon 0.1 and k = 2, the farthest of 7,200 pixels moved by {far:.2f}.")


@n_fgsm.test("each pixel of each image draws its own number")
def _(mine, case):
    x, y, model = torch.full((200, 1, 6, 6), 0.5), case.labels(200), case.linear()
    noise = mine(model, x, y, 1e-6, 2e5, case.generator) - x  # up to 0.2, and a step of nearly nothing
    expect(noise.std(0).mean() > 0.03, "The noise is the same for all images of the batch.")
    expect(noise.flatten(1).std(1).mean() > 0.03, "The noise is the same for all pixels of an image.")


@n_fgsm.test("on both sides of the image, all distances up to k epsilon are equally frequent")
def _(mine, case):
    x, y, model = torch.full((200, 1, 6, 6), 0.5), case.labels(200), case.linear()
    moves = mine(model, x, y, 1e-6, 2e5, case.generator) - x
    least, most, noise = moves.min(), moves.max(), moves.abs()
    symptom = f"At k epsilon = 0.2 the noise of 7,200 pixels goes from {least:.2f} to {most:.2f}."
    expect(least < -0.19 and most > 0.19, symptom)
    parts = [((noise >= low - 1e-5) & (noise < low + 0.05 + 1e-5)).double().mean() for low in (0, 0.05, 0.1, 0.15)]
    symptom = "The share of pixels by the length of the noise, in quarters of k epsilon: "
    expect(all(0.2 < part < 0.3 for part in parts), symptom + ", ".join(f"{part:.0%}" for part in parts) + ".")


@n_fgsm.test("the same generator gives the same images")
def _(mine, case):
    x, y, model = case.images(), case.labels(), case.linear()
    seeds = (case.seed, case.seed, case.seed + 1)
    one, two, other = (mine(model, x, y, 0.1, 2.0, torch.Generator().manual_seed(seed)) for seed in seeds)
    expect(torch.equal(one, two), "Two generators with the same seed gave two different batches.")
    expect(not torch.equal(one, other), "Two generators with different seeds gave the same batch.")


@n_fgsm.test("the gradient is the one at the noisy image")
def _(mine, case):
    x, y, model, seed = torch.full((60, 1, 6, 6), 0.5), case.labels(60), case.curved(), case.seed
    # the same noise of up to 0.3 twice, first with a step of nearly nothing
    noisy = mine(model, x, y, 1e-6, 3e5, torch.Generator().manual_seed(seed)).double()
    stepped = mine(model, x, y, 0.05, 6.0, torch.Generator().manual_seed(seed)).double()
    share = {}
    for name, at in {"the noisy image": noisy, "the image without noise": x}.items():
        gradient = model.gradient(at, y)
        share[name] = ((stepped - noisy).sign() == gradient.sign())[clear(gradient)].double().mean().item()
    symptom = ", ".join(f"{part:.0%} with the gradient at {name}" for name, part in share.items())
    expect(share["the noisy image"] > 0.95, f"The step agrees in {symptom}.")


alignment = Exercise("alignment", 7)


@alignment.test("one number for each image, between -1 and 1")
def _(mine, case):
    one, two = (3 * case.uniform(7, 1, 6, 6, low=-1, high=1) for _ in range(2))
    values = expect_like(mine(one, two), torch.zeros(7), "numbers")
    expect(values.abs().max() <= 1 + 1e-5, f"A cosine lies between -1 and 1; one of yours is {values.abs().max():.2f}.")


@alignment.test("the length of a gradient does not matter")
def _(mine, case):
    one, two = (case.uniform(7, 1, 6, 6, low=-1, high=1) for _ in range(2))
    a, b = mine(one, two), mine(1e-3 * one, 1e3 * two)
    expect((a - b).abs().max() < 1e-3, f"Shorter and longer gradients: {a[0]:.3f} became {b[0]:.3f}.")


@alignment.test("the same direction gives 1, the opposite one -1")
def _(mine, case):
    one = case.uniform(7, 1, 6, 6, low=-1, high=1)
    same, opposite = mine(one, 2 * one), mine(one, -one)
    symptom = f"The same direction gives {same[0]:.3f}, the opposite one {opposite[0]:.3f}."
    expect((same - 1).abs().max() + (opposite + 1).abs().max() < 1e-3, symptom)


@alignment.test("the cosine of each image, counted by hand")
def _(mine, case):
    one, two = (case.uniform(7, 1, 6, 6, low=-0.2, high=1) for _ in range(2))
    values = mine(one, two)
    for i, (a, b) in enumerate(zip(one.flatten(1).tolist(), two.flatten(1).tolist())):
        truth = sum(map(float.__mul__, a, b)) / math.hypot(*a) / math.hypot(*b)
        expect(abs(values[i] - truth) < 1e-3, f"Image {i}: by hand {truth:.3f}, yours {values[i]:.3f}.")


stop_step = Exercise("stop_step", 7)


@stop_step.test("a training that never falls is not stopped")
def _(mine, case):
    found = mine([0.1, 0.3, 0.5, 0.6, 0.6, 0.7])
    expect(found == -1, f"An accuracy that only rises was stopped at measurement {found}; -1 stands for never.")


@stop_step.test("three low measurements in a row, and not before")
def _(mine, case):
    low = case.seed % 3
    values = [0.2, 0.6] + [0.5] * low + [0.2, 0.2, 0.2, 0.1]
    found, truth = mine(values), 4 + low
    expect(found == truth, f"{values}: the third low one in a row is number {truth} (from 0); yours is {found}.")
    values = [0.6, 0.3, 0.3, 0.3]
    found = mine(values)
    expect(found == -1, f"{values}: 0.3 is half of 0.6 and not below it, so never, -1; yours is {found}.")


@stop_step.test("a recovery in between begins the count anew")
def _(mine, case):
    values = [0.6, 0.2, 0.2, 0.5, 0.2, 0.2, 0.2]
    found = mine(values)
    expect(found == 6, f"{values}: numbers 4 to 6 are the first three low ones in a row; yours is {found}.")


@stop_step.test("the best value is the best one so far")
def _(mine, case):
    values = [0.3, 0.2, 0.2, 0.2, 0.9]
    found = mine(values)
    expect(found == -1, f"{values}: no value is below half of what was measured before it; yours is {found}.")
    values = [0.2, 0.8, 0.3, 0.3, 0.3]
    found = mine(values)
    expect(found == 4, f"{values}: the last three are below half of 0.8; yours is {found}.")
