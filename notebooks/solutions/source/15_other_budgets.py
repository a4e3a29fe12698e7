"""The exercises of notebook 15, other budgets."""

import torch
from exercises import Notebook

here = Notebook(__file__)


@here.write(
    "stuck_on",
    r"""stick it on

Write point 1: the images `x` with the sticker on them. `x` holds `N` images, `(N, C, H, W)`, and `patch` is the sticker, `(C, side, side)`. `places` has $r$ and $c$ for each image, `(N, 2)`. The images that you are given must stay as they are.""",
    hints=(
        "A sticker covers: what was beneath it is gone. Work on a copy of the images.",
        "A loop over `zip(x, places)` is good enough: each image is `(C, H, W)`, and a slice of it can be assigned to.",
        "`image[:, row : row + side, column : column + side] = patch`, on the images of `x.clone()`.",
    ),
    early=True,
)
def my_stuck_on(x, patch, places):
    """The images x (N, C, H, W) with the patch at the places (N, 2): row, column."""
    ### BEGIN SOLUTION
    side = patch.shape[-1]
    stuck = x.clone()
    for image, (row, column) in zip(stuck, places.tolist()):
        image[:, row : row + side, column : column + side] = patch
    return stuck
    ### END SOLUTION


@here.mistake("stuck_on", "the first number of a place is the row")
def column_before_row(x, patch, places):
    return my_stuck_on(x, patch, places.flip(1))


@here.mistake("stuck_on", "shines through")
def added(x, patch, places):
    return (x + my_stuck_on(torch.zeros_like(x), patch, places)).clamp(0, 1)


@here.mistake("stuck_on", "was changed in place")
def into_the_images_themselves(x, patch, places):
    x.copy_(my_stuck_on(x, patch, places))
    return x


@here.mistake("stuck_on", "pixels outside the stickers")
def on_an_empty_page(x, patch, places):
    return my_stuck_on(torch.zeros_like(x), patch, places)


@here.mistake("stuck_on", "of 6 images the sticker lies at its place")
def the_first_place_for_all(x, patch, places):
    return my_stuck_on(x, patch, places[:1].expand(len(x), 2))


here.predict(
    "nested_share",
    r"""a nested curve

A network reads 100 images correctly. For 25 of them the smallest change that fools the network has the size 0.05, for 45 it has 0.15, and for 30 it has 0.4. A perfect attack runs with `nested=True`: first at 0.2, then at 0.1. Which share of the images does it attack at 0.1, in per cent?""",
    answer=70,
    wrong={30: "still read at 0.2", 100: "begins anew", 75: "still read at 0.1", 25: "what happened at 0.2"},
)


@here.write(
    "plane_step",
    r"""the step to the plane, in two norms

Each image has a gap `d` above 0, of shape `(N,)`: the true logit minus the wrong one. It also has a gradient `g` of shape `(N, pixels)`: that of "wrong logit minus true logit". Take the network for linear. Write the smallest step that closes the gap, for `norm="l2"` and for `norm="linf"`. Leave the 2% and the range of the pixels out.""",
    hints=(
        "Along a step `s` the wrong class gains $g \\cdot s$. The step must gain exactly `d`. In which direction does a step of length 1 gain most, in each of the two norms?",
        "In $\\ell_2$ the best direction is the gradient itself. In $\\ell_\\infty$ every pixel moves by the same amount, in the direction of the sign. How much does a step of size 1 gain in each case?",
        "A step `t * g.sign()` gains $t \\sum_j |g_j|$, so `t = d / g.abs().sum(1)`. A step `t * g` gains $t \\sum_j g_j^2$. Mind the shapes: `t[:, None]`.",
    ),
)
def my_plane_step(d, g, norm):
    """The smallest step (N, pixels) that closes the gap d (N,); g is the gradient (N, pixels)."""
    ### BEGIN SOLUTION
    if norm == "l2":
        t = d / (g**2).sum(1)
        return t[:, None] * g
    t = d / g.abs().sum(1)
    return t[:, None] * g.sign()
    ### END SOLUTION


@here.mistake("plane_step", "leads away from the plane")
def the_other_way(d, g, norm):
    return -my_plane_step(d, g, norm)


@here.mistake("plane_step", "should close the whole gap")
def a_unit_direction_times_d(d, g, norm):
    return d[:, None] * g / g.norm(dim=1, keepdim=True) if norm == "l2" else my_plane_step(d, g, norm)


@here.mistake("plane_step", "In l_inf your step closes")
def divided_by_the_squares(d, g, norm):
    return my_plane_step(d, g, norm) if norm == "l2" else (d / (g**2).sum(1))[:, None] * g.sign()


@here.mistake("plane_step", "as large as it must be in l_inf")
def one_step_for_both_norms(d, g, norm):
    return my_plane_step(d, g, "l2")


@here.mistake("plane_step", "as long as the distance to the plane")
def signs_for_both_norms(d, g, norm):
    return my_plane_step(d, g, "linf")


@here.write(
    "curve_of",
    r"""a curve from radii

`radii` is a tensor with one number for each image: the size of the change at which it is misread. It is 0 where the image is misread from the start, and `inf` where no attack was found. Write the accuracy at each of the `eps_values` (a list). It is the share of all images that are still read correctly after a change of that size.""",
    hints=(
        "An image with radius 0.13 is read correctly at 0.1 and misread at 0.2. Which comparison says this? `still_read` above makes it for one size.",
        "`radii > eps` is True for the images that are still read correctly, for `inf` as well. What is it at eps = 0 for an image that is misread from the start?",
        "`[(radii > eps).float().mean() for eps in eps_values]`, as one tensor.",
    ),
)
def my_curve_of(radii, eps_values):
    """The share of images that are read correctly at each eps, a tensor as long as eps_values."""
    ### BEGIN SOLUTION
    shares = []
    for eps in eps_values:
        shares.append((radii > eps).float().mean())
    return torch.stack(shares)
    ### END SOLUTION


def curve(radii, eps_values, keep=slice(None)):
    return torch.stack([(radii[keep] > eps).float().mean() for eps in eps_values])


@here.mistake("curve_of", "counts the images that have fallen")
def the_fallen(radii, eps_values):
    return 1 - curve(radii, eps_values)


@here.mistake("curve_of", "it is missing in your count")
def without_those_that_hold(radii, eps_values):
    return torch.stack([((radii > eps) & radii.isfinite()).float().mean() for eps in eps_values])


@here.mistake("curve_of", "divides by the images that are read correctly at first")
def of_the_correct_ones(radii, eps_values):
    return curve(radii, eps_values, radii > 0)


@here.mistake("curve_of", "divides by the images for which a change was found")
def of_the_found_ones(radii, eps_values):
    return curve(radii, eps_values, radii.isfinite())


@here.mistake("curve_of", "misread from the start")
def zero_as_a_survivor(radii, eps_values):
    return torch.stack([((radii > eps) | (radii == 0)).float().mean() for eps in eps_values])


@here.mistake("curve_of", "A share is at most 1")
def counts_and_no_shares(radii, eps_values):
    return curve(radii, eps_values) * len(radii)


@here.mistake("curve_of", "so 0.50")
def at_least_eps(radii, eps_values):
    return torch.stack([(radii >= eps).float().mean() for eps in eps_values])


here.explain(
    "promise",
    r"""what a promise is worth

A company writes: "Our classifier is robust: at $\epsilon = 0.1$ in $\ell_\infty$, 92% of the test images are *certified*." A colleague concludes that nobody can fool it by a sticker of a few centimetres. What do you answer? And is the certificate then worth nothing?""",
    r"""The certificate speaks about images in which *every* pixel moves by at most 0.1. A sticker moves its pixels by up to 1, so the certificate says nothing about an image with a sticker. In this notebook a plain white square fools the certified network for more than half of the digits. Inside the ball the certificate is worth what it says: no attack, known or not, can change the answer for these 92%. The company should name the attackers it has in mind, and give one number for each.""",
    contains=(
        "a sticker lies outside the ball, since its pixels change by more than 0.1;",
        "a certificate says nothing about images outside its ball;",
        "it keeps its full worth inside: no attack, known or unknown;",
        "a claim names the attacker that it is about.",
    ),
)

here.more(r"""- **Find a rule:** write a third rule for two pixels, `C`. It misreads some images, but it withstands all three attackers of the first example.
- **Change:** run `few_pixels` with `n_tries=1`: the gradient alone decides. How many more pixels does it need?""")
