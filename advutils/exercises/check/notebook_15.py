"""What checks the exercises of notebook 15: the nearest plane, a curve from radii, a sticker stuck on."""

import math

import torch

from advutils.exercises.framework import Exercise, Prediction, expect, expect_images, expect_like


def attacked_at_the_second():
    """What a nested run attacks at 0.1, after 0.2, in %: 100 images, the radii of which are known."""
    radii = torch.tensor([0.05] * 25 + [0.15] * 45 + [0.4] * 30)
    return 100 * (radii <= 0.2).float().mean().item()


nested_share = Prediction(
    "nested_share", 15, attacked_at_the_second, within=0.5,
    remarks={
        (29, 31): "That is the share that is still read at 0.2. Does the run attack these again?",
        (99, 101): "So many are attacked when each size begins anew. What does the run know after 0.2?",
        (74, 76): "That is the share that is still read at 0.1. The question is which images are attacked there.",
        (24, 26): "These are misread at 0.1. But before it attacks there, the run knows only what happened at 0.2.",
    },
    reason="The run begins with the largest ball: at 0.2 it finds 25 + 45 images that are misread. Only these {truth}% "
    "are attacked again at 0.1. The other 30 count as read at 0.1, too, without an attack. That saves passes.",
)  # fmt: skip


plane_step = Exercise("plane_step", 15)


def gaps(case, n=6, pixels=5):
    """How far the wrong class is behind, (n,), above 0, and its gradients (n, pixels), none of them near 0."""
    sign = (torch.arange(n * pixels).view(n, pixels) + case.seed) % 2 * 2 - 1
    return case.uniform(n, low=0.5, high=2), sign * case.uniform(n, pixels, low=0.2, high=1)


@plane_step.test("in l_2 the step ends on the plane")
def _(mine, case):
    d, g = gaps(case)
    step = expect_like(mine(d, g, "l2"), g, "numbers")
    climbed = (step * g).sum(1) / d
    share = f"{climbed.min():.2f} to {climbed.max():.2f}"
    expect((climbed > 0).all(), "Your step leads away from the plane: along it the wrong class falls behind further.")
    expect(
        (climbed - 1).abs().max() < 1e-3,
        f"The step should close the whole gap d, which is 1 times d; yours closes {share} times d.",
    )


@plane_step.test("in l_2 no step to the plane is shorter")
def _(mine, case):
    d, g = gaps(case)
    length, least = mine(d, g, "l2").norm(dim=1), d / g.norm(dim=1)
    worst = (length / least).max()
    expect(worst < 1.001, f"Your step is up to {worst:.2f} times as long as the distance to the plane.")


@plane_step.test("in l_inf the step ends on the plane")
def _(mine, case):
    d, g = gaps(case)
    climbed = (expect_like(mine(d, g, "linf"), g, "numbers") * g).sum(1) / d
    share = f"{climbed.min():.2f} to {climbed.max():.2f}"
    expect((climbed - 1).abs().max() < 1e-3, f"In l_inf your step closes {share} times d, not 1 times d.")


@plane_step.test("in l_inf no step to the plane is smaller")
def _(mine, case):
    d, g = gaps(case)
    size, least = mine(d, g, "linf").abs().amax(1), d / g.abs().sum(1)
    worst = (size / least).max()
    expect(worst < 1.001, f"Your largest change of a pixel is up to {worst:.2f} times as large as it must be in l_inf.")


curve_of = Exercise("curve_of", 15)


@curve_of.test("one share for each epsilon")
def _(mine, case):
    radii = 0.3 * case.uniform(50)
    curve = expect_like(torch.as_tensor(mine(radii, [0.05, 0.1, 0.2])), torch.zeros(3), "shares")
    expect(curve.max() <= 1 + 1e-6, f"A share is at most 1; yours is {curve.max():.3g}.")


@curve_of.test("the share of images that are still read correctly")
def _(mine, case):
    radii = torch.tensor([0.0, 0.04, 0.15, 0.15, 0.25, 0.35, math.inf, 0.45, 0.02, 0.0])[torch.randperm(10)]
    told = [0.01, 0.1, 0.3]
    truth = torch.tensor([0.8, 0.6, 0.3])
    curve = torch.as_tensor(mine(radii, told)).float()
    seen = {
        "It counts the images that have fallen.": 1 - truth,
        "An image with radius inf withstands every change; it is missing in your count.": truth - 0.1,
        "An image with radius 0 is misread from the start.": truth + 0.2,
        "It divides by the images that are read correctly at first, not by all.": truth / 0.8,
        "It divides by the images for which a change was found.": (truth - 0.1) / 0.9,
    }
    near = next((text for text, other in seen.items() if (curve - other).abs().max() < 1e-3), "")
    shown = ", ".join(f"{share:.2f}" for share in curve.tolist())
    expect(
        (curve - truth).abs().max() < 1e-3, f"Of ten known radii the shares are 0.80, 0.60, 0.30; yours {shown}. {near}"
    )


@curve_of.test("at epsilon = 0 it is the clean accuracy")
def _(mine, case):
    curve = torch.as_tensor(mine(torch.tensor([0.0, 0.0, 0.1, 0.2]), [0.0])).float()
    symptom = f"Two of four images are read correctly at first, so 0.50; yours is {curve.flatten()[0]:.2f}."
    expect((curve - 0.5).abs().max() < 1e-3, symptom)


stuck_on = Exercise("stuck_on", 15)


def scene(case, side=3):
    """Images, a patch, and a place in each image."""
    places = torch.stack([torch.tensor([0, 3, 1, 2, 0, 3]), torch.tensor([3, 0, 2, 1, 0, 3])], 1)
    return case.images(6, low=0, high=0.4), case.uniform(1, side, side, low=0.6, high=1), places


@stuck_on.test("the pixels beneath the sticker are the sticker's")
def _(mine, case):
    x, patch, places = scene(case)
    stuck = expect_images(mine(x, patch, places), x)
    right = [stuck[i, :, r : r + 3, c : c + 3] for i, (r, c) in enumerate(places.tolist())]
    turned = [stuck[i, :, c : c + 3, r : r + 3] for i, (r, c) in enumerate(places.tolist())]
    good = torch.stack([(part - patch).abs().amax() < 1e-6 for part in right])
    swapped = all(torch.equal(part, patch) for part in turned)
    near = " Its corner is at (column, row): the first number of a place is the row." if swapped else ""
    added = all((part - patch).amin() >= 0 for part in right) and not good.all()
    near = near or (" What lies beneath shines through: a sticker covers, it is not added." if added else "")
    expect(good.all(), f"In {good.sum()} of 6 images the sticker lies at its place.{near}")


@stuck_on.test("all other pixels are as before")
def _(mine, case):
    x, patch, places = scene(case)
    stuck = mine(x, patch, places)
    outside = torch.ones_like(x, dtype=torch.bool)
    for i, (r, c) in enumerate(places.tolist()):
        outside[i, :, r : r + 3, c : c + 3] = False
    count = ((stuck != x) & outside).sum()
    expect(count == 0, f"{count} pixels outside the stickers have changed.")


@stuck_on.test("each image has its own place")
def _(mine, case):
    x, patch, places = scene(case)
    same = mine(x, patch, places[:1].expand(6, 2).clone())
    own = mine(x, patch, places)
    expect(
        not torch.equal(same, own), "Your result is the same for six different places as for six times the first one."
    )
