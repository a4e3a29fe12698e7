"""The exercises of notebook 6, strong attacks."""

import torch
from exercises import Notebook

from advutils import cross_entropy

here = Notebook(__file__)


@here.write(
    "bpda_gradient",
    r"""BPDA with several levels

Write the gradient of BPDA for images `x` with labels `y`; `model` is the network behind the rounding. Each pixel is rounded to the nearest of `levels` values: with 3 levels to 0, 0.5 or 1. The loss is `cross_entropy(logits, y)`, one number for each image. The gradient of their sum holds the gradient of each.""",
    hints=(
        "With $L$ levels, multiply by $L - 1$, round, divide by $L - 1$. What does PyTorch say about the slope of this?",
        "`detach()` hides a part of a formula from the gradient. Write the rounded image as the pixels plus a difference. Which of the two parts do you hide?",
        "`through = pixels + (rounded - pixels).detach()` has the value of `rounded` and the slope of `pixels`. Then `torch.autograd.grad(loss, pixels)[0]`.",
    ),
    early=True,
)
def my_bpda_gradient(model, x, y, levels):
    """The gradient for x of the loss behind the rounding, passed straight through it."""
    ### BEGIN SOLUTION
    pixels = x.clone().requires_grad_()
    rounded = (pixels * (levels - 1)).round() / (levels - 1)
    through = pixels + (rounded - pixels).detach()
    loss = cross_entropy(model(through), y).sum()
    return torch.autograd.grad(loss, pixels)[0]
    ### END SOLUTION


def gradient_behind(model, x, y, layer):
    pixels = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(layer(pixels)), y).sum(), pixels)[0]


def straight(pixels, levels):
    return pixels + ((pixels * (levels - 1)).round() / (levels - 1) - pixels).detach()


@here.mistake("bpda_gradient", "zero for every pixel")
def through_the_rounding(model, x, y, levels):
    return gradient_behind(model, x, y, lambda pixels: (pixels * (levels - 1)).round() / (levels - 1))


@here.mistake("bpda_gradient", "before it is rounded")
def without_the_defence(model, x, y, levels):
    return gradient_behind(model, x, y, lambda pixels: pixels)


@here.mistake("bpda_gradient", "levels.")
def one_level_more(model, x, y, levels):
    return my_bpda_gradient(model, x, y, levels + 1)


@here.mistake("bpda_gradient", "times as large in a batch")
def of_the_mean_loss(model, x, y, levels):
    return gradient_behind(model, x, y, lambda pixels: straight(pixels, levels)) / len(x)


@here.mistake("bpda_gradient", "stopped with an error")
def everything_detached(model, x, y, levels):
    return gradient_behind(model, x, y, lambda pixels: straight(pixels, levels).detach())


here.predict(
    "saturated",
    r"""saturated logits

A defence multiplies the logits of a network by 100,000. All images are read correctly. Which of the three losses still has a gradient that is not zero?

- `"a"`: the cross-entropy alone
- `"b"`: the margin loss alone
- `"c"`: DLR alone
- `"d"`: the margin loss and DLR""",
    answer="d",
    wrong={"a": "slope of a 0", "b": "blind to the factor", "c": "is a margin"},
)


@here.write(
    "zero_gradients",
    r"""count the blind images

Write the share of images whose gradient is *exactly* zero in every pixel. An image with tiny numbers has a gradient: its sign is all that PGD needs.""",
    hints=(
        "An image is blind if *none* of its pixels has a gradient. Which function of PyTorch says whether any of several is true?",
        "Bring each image's gradient into one row, ask for each row whether any number is not 0, and turn the answer around.",
        "`(gradient.flatten(1) != 0).any(1)` is true for the images that are not blind.",
    ),
)
def my_zero_gradients(gradient):
    """For gradients (N, C, H, W): the share of images, 0 to 1, without any."""
    ### BEGIN SOLUTION
    sees = (gradient.flatten(1) != 0).any(1)
    return 1 - sees.double().mean().item()
    ### END SOLUTION


@here.mistake("zero_gradients", "No image of this batch")
def share_of_the_pixels(gradient):
    return (gradient == 0).double().mean().item()


@here.mistake("zero_gradients", "No image of this batch")
def with_a_threshold(gradient):
    return (gradient.flatten(1).abs().amax(1) < 1e-12).double().mean().item()


@here.mistake("zero_gradients", "a +1 and a -1")
def by_the_sum(gradient):
    return (gradient.flatten(1).sum(1) == 0).double().mean().item()


@here.mistake("zero_gradients", "No number is above 0.")
def by_the_largest_number(gradient):
    return (gradient.flatten(1).max(1).values == 0).double().mean().item()


@here.mistake("zero_gradients", "A share lies between 0 and 1")
def as_a_count(gradient):
    return int((gradient.flatten(1) == 0).all(1).sum())


@here.mistake("zero_gradients", "no gradient at all")
def only_if_all_are_blind(gradient):
    return float(not gradient.any())


@here.write(
    "eot_gradient",
    r"""the gradient of a random defence

A defence blackens pixels at random, anew at each call: `defence(x, generator)` gives the logits. One gradient sees one draw. Expectation over transformation (EOT) takes the *mean* of the gradients over several draws. Write it. Use the generator that you are given, for one call after the other.""",
    hints=(
        "You need one gradient for each draw. What do you keep from one draw to the next?",
        "Add up the gradients of the draws, and divide once. Each draw needs its own call of the defence.",
        "In the loop: `loss = cross_entropy(defence(pixels, generator), y).sum()`, then `total = total + torch.autograd.grad(loss, pixels)[0]`.",
    ),
)
def my_eot_gradient(defence, x, y, draws, generator):
    """The mean over the draws of the gradient of each image's own cross-entropy."""
    ### BEGIN SOLUTION
    total = torch.zeros_like(x)
    for _ in range(draws):
        pixels = x.clone().requires_grad_()
        loss = cross_entropy(defence(pixels, generator), y).sum()
        total = total + torch.autograd.grad(loss, pixels)[0]
    return total / draws
    ### END SOLUTION


def one_draw(defence, x, y, generator):
    return my_eot_gradient(defence, x, y, 1, generator)


@here.mistake("eot_gradient", "what the first one alone gives")
def a_single_draw(defence, x, y, draws, generator):
    return one_draw(defence, x, y, generator)


@here.mistake("eot_gradient", "what the last one alone gives")
def the_last_draw(defence, x, y, draws, generator):
    return [one_draw(defence, x, y, generator) for _ in range(draws)][-1]


@here.mistake("eot_gradient", "times as long as with one")
def the_sum_of_the_draws(defence, x, y, draws, generator):
    return sum(one_draw(defence, x, y, generator) for _ in range(draws))


@here.mistake("eot_gradient", "With a single draw")
def mean_of_the_signs(defence, x, y, draws, generator):
    return torch.stack([one_draw(defence, x, y, generator).sign() for _ in range(draws)]).mean(0)


@here.mistake("eot_gradient", "what the first one alone gives")
def the_same_draw_each_time(defence, x, y, draws, generator):
    state = generator.get_state()
    return torch.stack([one_draw(defence, x, y, generator.set_state(state)) for _ in range(draws)]).mean(0)


@here.mistake("eot_gradient", "With a single draw")
def of_the_mean_loss_of_the_batch(defence, x, y, draws, generator):
    return my_eot_gradient(defence, x, y, draws, generator) / len(x)


here.explain(
    "wrong_gradient",
    r"""a gradient that is wrong

BPDA uses a gradient that is wrong: the rounding has the slope 0, and BPDA does as if it had the slope 1. Why does the attack find anything all the same? For which kind of layer could it fail?""",
    r"""Over a larger distance the rounded image follows the image. Where a pixel rises from 0 to 1, its rounded value rises from 0 to 1, too. So on average the rounding has the slope 1. The wrong gradient says which way the *rounded* pixel should go, and one large step or several small ones get it there. It can fail for a layer that is not close to the identity. For example, a layer that rounds and inverts computes $1 - \mathrm{round}(x)$, so with the identity each step would go the wrong way. It needs a stand-in that does roughly what the layer does, here $1 - x$.""",
    contains=(
        "the layer is close to the identity, seen over a larger distance than one step;",
        "only the direction has to be right, not the number;",
        "an example of a layer for which the direction is wrong.",
    ),
)

here.more(
    r"""- **Change:** give `bpda` five restarts at 0.3 (`pgd` takes `restarts=5`). Does it find what Square found (84% of the 200 digits survived)? Then go backward through `torch.sigmoid(10 * (x - 0.5))` instead of the identity."""
)
