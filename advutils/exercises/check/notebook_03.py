"""What checks the exercises of notebook 3: two lengths, one pattern for all, the smallest epsilon."""

import math

import torch

from advutils.attacks.gradient import fgsm_step, input_gradient
from advutils.data import load_data
from advutils.evaluation import predict
from advutils.exercises.cases import Case, Window
from advutils.exercises.framework import Choice, Exercise, expect, expect_images, expect_like
from advutils.pretrained import trained


def way_of_a_white_ground():
    """The letter, from the moves of 3,600 white pixels."""
    case = Case(0)
    x = torch.ones(100, 1, 6, 6)
    moves = fgsm_step(x, case.uniform(100, 1, 6, 6, low=-1, high=1), 0.2) - x
    return {(True, False): "a", (False, True): "b", (True, True): "c", (False, False): "d"}[
        bool((moves > 0).any()), bool((moves < 0).any())
    ]


white_ground = Choice(
    "white_ground", 3, way_of_a_white_ground,
    remarks={
        "a": "Can a white pixel get brighter?",
        "c": "The gradient asks for both. What does the clip do with one of them?",
        "d": "A white pixel has room on one side.",
    },
    reason="A white pixel (1) cannot get brighter: the clip takes this step back. It can only get darker, and about "
    "half of them do. On black ground it was the other way round. So the clip decides the colour, not the network.",
)  # fmt: skip


lengths = Exercise("lengths", 3)


def two(result, like):
    expect(isinstance(result, tuple | list) and len(result) == 2, "Your function does not give back two tensors.")
    return expect_like(result[0], like, "lengths"), expect_like(result[1], like, "lengths")


@lengths.test("two numbers for each image")
def _(mine, case):
    two(mine(case.uniform(5, 1, 6, 6, low=-1, high=1)), torch.zeros(5))


@lengths.test("a length does not depend on the sign of the change")
def _(mine, case):
    delta = case.uniform(5, 1, 6, 6, low=-1, high=0.4)
    there, back = two(mine(delta), torch.zeros(5)), two(mine(-delta), torch.zeros(5))
    for name, a, b in zip(("largest move", "l_2 length"), there, back):
        expect(torch.allclose(a, b), f"The {name} of a change is {a[0]:.3f}, that of the opposite change {b[0]:.3f}.")


@lengths.test("an image's lengths do not depend on the other images")
def _(mine, case):
    delta = case.uniform(5, 1, 6, 6, low=-1, high=1)
    whole, alone = mine(delta), mine(delta[:1])
    for name, a, b in zip(("largest move", "l_2 length"), whole, alone):
        expect(abs(a[0] - b[0]) < 1e-4, f"The {name} of the first image: {b[0]:.3f} alone, {a[0]:.3f} in a batch.")


@lengths.test("both lengths of each image, counted pixel by pixel")
def _(mine, case):
    delta = case.uniform(5, 3, 4, 4, low=-1, high=1)
    largest, length = two(mine(delta), torch.zeros(5))
    for i, pixels in enumerate(delta.flatten(1).tolist()):
        true = max(map(abs, pixels)), math.sqrt(sum(v * v for v in pixels))
        symptom = f"Image {i}: by hand {true[0]:.3f} and {true[1]:.3f}, yours {largest[i]:.3f} and {length[i]:.3f}."
        expect(abs(largest[i] - true[0]) + abs(length[i] - true[1]) < 1e-3, symptom)


def one_pattern_for_100_digits(mine):
    """A picture: the learner's pattern, made from 100 test digits, on some of them."""
    from advutils import plots

    x, y = load_data("mnist-5k", train=False)[::10]
    clean_vgg = trained("clean", width=0.25, epochs=8)
    gradients = input_gradient(clean_vgg, x, y)
    x_adv = mine(x, gradients, 0.3)
    read = predict(clean_vgg, x_adv).argmax(1)
    own = predict(clean_vgg, fgsm_step(x, gradients, 0.3)).argmax(1)
    print(f"At epsilon 0.3 the one pattern leaves {(read == y).sum()} of 100 digits, FGSM {(own == y).sum()}.")
    wrong = (read != y)[::12].tolist()
    plots.gallery(x_adv[::12], [f"{a} → {b}" for a, b in zip(y[::12], read[::12])], wrong=wrong, columns=9)


universal = Exercise("universal", 3, show=one_pattern_for_100_digits)


@universal.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images(5)
    expect_images(mine(x, case.uniform(5, 1, 6, 6, low=-1, high=1), 0.3), x)


@universal.test("every image gets the same pattern")
def _(mine, case):
    x = case.images(5, low=0.4, high=0.6)
    moves = mine(x, case.uniform(5, 1, 6, 6, low=-1, high=1), 0.2) - x
    expect((moves - moves[:1]).abs().max() < 1e-4, "The first image and another one are moved in different ways.")


@universal.test("every pixel moves by epsilon")
def _(mine, case):
    x, eps = case.images(5, low=0.4, high=0.6), case.number(0.1, 0.3)
    moves = (mine(x, case.uniform(5, 1, 6, 6, low=-1, high=1), eps) - x).abs()
    symptom = f"At epsilon {eps:.3f} the pixels moved by {moves.min():.3f} to {moves.max():.3f}."
    expect((moves - eps).abs().max() < 1e-3, symptom)


@universal.test("each image has one vote for each pixel")
def _(mine, case):
    x = case.images(5, low=0.4, high=0.6)
    gradients = case.uniform(5, 1, 6, 6, low=-1, high=1)
    gradients[0] *= 1e4  # one loud image
    votes = [sum(1 if g > 0 else -1 for g in pixel) for pixel in gradients.flatten(1).T.tolist()]
    moved = (mine(x, gradients, 0.1) - x)[0].flatten()
    off = sum((m > 0) != (vote > 0) for m, vote in zip(moved.tolist(), votes))
    own = ((moved > 0) == (gradients[0].flatten() > 0)).double().mean() > 0.9
    symptom = f"{off} of 36 pixels go against the majority of the five images."
    expect(off == 0, symptom + (" Nearly all of them follow the image with the largest gradient." if own else ""))


smallest_eps = Exercise("smallest_eps", 3)


def windows():
    """Images for `Window`, all of class 1, that are misread from 0.2 on, between 0.2 and 0.4, at once, and never."""
    x = torch.zeros(4, 1, 6, 6)
    limits = [(0.0, 0.25), (0.0, 0.25), (0.3, 0.35), (0.0, 1.0)]
    x.view(4, 36)[:, 1:3] = torch.tensor(limits)
    x.view(4, 36)[:, 0] = torch.tensor([0.1, 0.1, 0.1, 0.1])
    gradient = torch.zeros(4, 1, 6, 6)
    gradient[:, 0, 0, 0] = 1
    gradient[1, 0, 0, 2] = 1e-3  # the window of the second image grows with the pixel
    return x, gradient


EPS_VALUES = [0.0, 0.1, 0.2, 0.3]


@smallest_eps.test("one number for each image")
def _(mine, case):
    x, gradient = windows()
    expect_like(torch.as_tensor(mine(Window(), x, torch.ones(4).long(), gradient, EPS_VALUES)).nan_to_num(posinf=9),
                torch.zeros(4), "radii")  # fmt: skip


@smallest_eps.test("the first epsilon that fools the image, also where a larger one does not")
def _(mine, case):
    x, gradient = windows()
    y = torch.tensor([1, 0, 1, 1])
    x[1, 0, 0, :3] = torch.tensor([0.1, 0.15, 0.35])  # class 0, and inside the window at 0.1 and 0.2 only
    gradient[1, 0, 0, 2] = 0
    found = [float(value) for value in mine(Window(), x, y, gradient, EPS_VALUES)]
    expect(abs(found[0] - 0.2) < 1e-6, f"The first image is misread at 0.2 and 0.3; its number is {found[0]:g}.")
    expect(
        abs(found[1] - 0.1) < 1e-6,
        f"One image is misread at 0.1 and 0.2, and read correctly again at 0.3; its number is {found[1]:g}.",
    )


@smallest_eps.test("an image that is misread already has 0, one that never is has infinity")
def _(mine, case):
    x, gradient = windows()
    found = mine(Window(), x, torch.ones(4).long(), gradient, EPS_VALUES)
    expect(found[2] == 0, f"An image that is misread without an attack got {found[2]:g}.")
    expect(found[3] == math.inf, f"An image that no epsilon of the list fools got {found[3]:g}.")
