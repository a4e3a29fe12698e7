"""The exercises of notebook 10, photographs and files."""

import torch
from exercises import Notebook
from torch import nn

from advutils import input_gradient, project

here = Notebook(__file__)


@here.write(
    "save_levels",
    r"""whole levels, inside the ball

Write this rounding, for attacked images `x_adv` and clean ones `x`, both with values between 0 and 1. Return whole levels from 0 to 255. The clean images have whole levels already: if a value at level 100 was moved to 107.65, return 107; if it was moved to 92.35, return 93.""",
    hints=(
        "What has to be rounded is the *change*, not the level. In which direction, for a change of 7.65? And for one of -7.65?",
        "Bring both images to the scale of levels. Round the clean one, so that it is whole. Then the difference has to come closer to 0.",
        "`trunc()` cuts off what stands behind the point: 7.65 becomes 7, and -7.65 becomes -7. Add this to the clean level.",
    ),
    early=True,
)
def my_save_levels(x_adv, x):
    """For images in [0, 1]: whole levels 0 to 255, each rounded towards the clean one."""
    ### BEGIN SOLUTION
    levels = (255 * x).round()
    change = 255 * x_adv - levels
    return levels + change.trunc()
    ### END SOLUTION


@here.mistake("save_levels", "attacked")
def to_the_nearest_level(x_adv, x):
    return (255 * x_adv).round()


@here.mistake("save_levels", "only where the attack made a pixel darker")
def always_down(x_adv, x):
    return (255 * x_adv + 1e-3).floor()


@here.mistake("save_levels", "only where the attack made a pixel brighter")
def always_up(x_adv, x):
    return (255 * x_adv - 1e-3).ceil()


@here.mistake("save_levels", "white is 255")
def between_0_and_1(x_adv, x):
    return my_save_levels(x_adv, x) / 255


@here.mistake("save_levels", "no whole numbers")
def without_rounding(x_adv, x):
    return 255 * x_adv


@here.mistake("save_levels", "nothing of the attack is left")
def the_clean_image(x_adv, x):
    return (255 * x).round()


@here.mistake("save_levels", "the largest difference")
def a_level_too_careful(x_adv, x):
    change = my_save_levels(x_adv, x) - (255 * x).round()
    return (255 * x).round() + change.sign() * (change.abs() - 1).clamp_min(0)


here.predict(
    "behind_the_layer",
    r"""the wrong side of a layer

A program normalises photographs before the attack sees them: it subtracts 0.5 from each pixel and divides by 0.25. Then it attacks the *normalised* values with $\epsilon = 8/255$. By how many grey levels can a pixel of the photograph move?""",
    answer=2,
    wrong={8: "nothing were divided", 32: "Here you come back", 0.0078: "scale from 0 to 1"},
)


@here.write(
    "quantiser_gradient",
    r"""BPDA with a soft stand-in

Here is a JPEG without waves and colours. Each pixel, in grey levels, is divided by the divisor `step` and rounded to a whole number. Then it is multiplied by `step` again. Write the gradient that an adaptive attack needs. *Forward* the network reads the true file. *Backward* the slope is that of the soft rounding, $\mathrm{round}(a) + (a - \mathrm{round}(a))^3$. Pixels are between 0 and 1, and `step` is in levels. Sum the cross-entropy over the images (`reduction="sum"`): then the gradient of the sum holds each image's own gradient.""",
    hints=(
        "Two things come out of the pixels: the file, and a soft copy of it. Which of them is the value that the network reads, and which of them gives the slope? Look at the last line of `ReadsJpeg`.",
        "`a = 255 * pixels / step`. Both the file and the copy are made from `a`, and both are multiplied by `step / 255` at the end.",
        "`whole = a.detach().round()`, `soft = whole + (a - whole) ** 3`, and the network reads `step / 255 * (soft + (whole - soft).detach())`.",
    ),
)
def my_quantiser_gradient(net, x, y, step):
    """The gradient of each image's loss behind the file, by the slope of the soft rounding."""
    ### BEGIN SOLUTION
    pixels = x.clone().requires_grad_()
    a = 255 * pixels / step
    whole = a.detach().round()
    soft = whole + (a - whole) ** 3
    read = step / 255 * (soft + (whole - soft).detach())
    loss = nn.functional.cross_entropy(net(read), y, reduction="sum")
    return torch.autograd.grad(loss, pixels)[0]
    ### END SOLUTION


def behind(net, x, y, file, reduction="sum"):
    pixels = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(net(file(pixels)), y, reduction=reduction)
    return torch.autograd.grad(loss, pixels)[0]


def softly(a):
    return a.detach().round() + (a - a.detach().round()) ** 3


def bpda(value, stand_in):
    return stand_in + (value - stand_in).detach()


@here.mistake("quantiser_gradient", "zero for every pixel")
def through_the_stairs(net, x, y, step):
    return behind(net, x, y, lambda pixels: step / 255 * (255 * pixels / step).round())


@here.mistake("quantiser_gradient", "read the soft copy")
def soft_in_both_directions(net, x, y, step):
    return behind(net, x, y, lambda pixels: step / 255 * softly(255 * pixels / step))


@here.mistake("quantiser_gradient", "The slope is 1 for every pixel")
def the_image_as_stand_in(net, x, y, step):
    return behind(net, x, y, lambda pixels: bpda(step / 255 * (255 * pixels / step).round(), pixels))


@here.mistake("quantiser_gradient", "no rounding in it")
def no_file_at_all(net, x, y, step):
    return behind(net, x, y, lambda pixels: pixels)


@here.mistake("quantiser_gradient", "read the image before it was rounded")
def the_clean_value_with_the_soft_slope(net, x, y, step):
    return behind(net, x, y, lambda pixels: bpda(pixels, step / 255 * softly(255 * pixels / step)))


@here.mistake("quantiser_gradient", "read a black image")
def pixels_taken_for_levels(net, x, y, step):
    return behind(net, x, y, lambda pixels: step * bpda((pixels / step).round(), softly(pixels / step)))


@here.mistake("quantiser_gradient", "numbers of steps")
def not_multiplied_again(net, x, y, step):
    return behind(net, x, y, lambda pixels: bpda((255 * pixels / step).round(), softly(255 * pixels / step)))


@here.mistake("quantiser_gradient", "times as large in a batch of 6")
def of_the_mean_over_the_batch(net, x, y, step):
    return my_quantiser_gradient(net, x, y, step) / len(x)


@here.write(
    "averaged_step",
    r"""one step along averaged gradients

Write *one* step of `averaged_pgd`, with the noise given: `noises` has the shape `(draws, N, C, H, W)`. Shake the image with each of the draws, clamp the shaken images to 0 and 1, and take the mean of the gradients there. Then move the image *that was not shaken* by the step, along the sign of this mean. Go back into the ball with `project(x_adv, x, eps)`. `input_gradient(model, images, y)` gives the gradients.""",
    hints=(
        "How many gradients do you need, and at which images? What is averaged: the images, the gradients, or their signs?",
        "Go through `noises` in a loop and add up the gradients. The image itself does not change in the loop.",
        "In the loop: `total = total + input_gradient(model, (x_adv + noise).clamp(0, 1), y)`. After the loop: a step from `x_adv` along `total.sign()`.",
    ),
)
def my_averaged_step(model, x_adv, x, y, noises, eps, step_size):
    """x_adv after one step along the mean gradient of its shaken images, in the ball around x."""
    ### BEGIN SOLUTION
    total = torch.zeros_like(x)
    for noise in noises:
        total = total + input_gradient(model, (x_adv + noise).clamp(0, 1), y)
    return project(x_adv + step_size * total.sign(), x, eps)
    ### END SOLUTION


def gradients_at_shaken(model, x_adv, y, noises):
    return torch.stack([input_gradient(model, (x_adv + noise).clamp(0, 1), y) for noise in noises])


@here.mistake("averaged_step", "pixels moved by")
def the_noise_stays(model, x_adv, x, y, noises, eps, step_size):
    for noise in noises:
        x_adv = (x_adv + noise).clamp(0, 1)
    return my_averaged_step(model, x_adv, x, y, 0 * noises, eps, step_size)


@here.mistake("averaged_step", "one vote")
def a_vote_of_the_draws(model, x_adv, x, y, noises, eps, step_size):
    votes = gradients_at_shaken(model, x_adv, y, noises).sign().sum(0)
    return project(x_adv + step_size * votes.sign(), x, eps)


@here.mistake("averaged_step", "pixels moved by")
def mean_of_the_signs(model, x_adv, x, y, noises, eps, step_size):
    mean = gradients_at_shaken(model, x_adv, y, noises).sign().mean(0)
    return project(x_adv + step_size * mean, x, eps)


@here.mistake("averaged_step", "shaken by the mean of the noise")
def at_the_mean_of_the_noise(model, x_adv, x, y, noises, eps, step_size):
    return my_averaged_step(model, x_adv, x, y, noises.mean(0, keepdim=True), eps, step_size)


@here.mistake("averaged_step", "the last draw alone")
def only_the_last_draw(model, x_adv, x, y, noises, eps, step_size):
    return my_averaged_step(model, x_adv, x, y, noises[-1:], eps, step_size)


@here.mistake("averaged_step", "was not shaken")
def without_noise(model, x_adv, x, y, noises, eps, step_size):
    return my_averaged_step(model, x_adv, x, y, 0 * noises[:1], eps, step_size)


@here.mistake("averaged_step", "away from the clean image")
def around_the_attacked_image(model, x_adv, x, y, noises, eps, step_size):
    return my_averaged_step(model, x_adv, x_adv, y, noises, eps, step_size)


@here.mistake("averaged_step", "stopped with an error")
def shaken_beyond_black_and_white(model, x_adv, x, y, noises, eps, step_size):
    total = sum(input_gradient(model, x_adv + noise, y) for noise in noises)
    return project(x_adv + step_size * total.sign(), x, eps)


@here.mistake("averaged_step", "where the loss falls")
def averaged_towards_the_label(model, x_adv, x, y, noises, eps, step_size):
    return my_averaged_step(model, x_adv, x, y, noises, eps, -step_size)


here.explain(
    "copy_forward",
    r"""the copy in both directions

`ReadsJpeg` without its last line would hand the soft copy to the network: forward as well as backward. Each gradient would then belong exactly to what the network was given. What could go wrong for the attackers all the same? How would they notice?""",
    r"""The attack would then be made against the copy, and not against the file. So an image may be misread behind the copy, and its file may still be read correctly.

An extreme case: with the identity in both directions, the attack is plain PGD. On the stored networks it seems to leave 3.3% (in PNG files), and in truth it leaves 92.3% behind quality 75.

To notice this, compare the shares of the saved images that are misread behind `jpeg_copy` and behind `jpeg`. If the first is much larger, then the attack has broken only the copy.""",
    contains=(
        "forward, the copy is not the file, and the network is judged on the file;",
        "what follows: a success on the copy that may be none on the file;",
        "how to notice: measure on true files, after the attack.",
    ),
)

here.more(r"""- **Predict, then change:** set `quality = 95`, then `quality = 30`. Behind which one does plain PGD fool your network more often? And averaged PGD?
- **Change:** the owner resizes each image to 24 × 24 pixels and back in place of the JPEG. Write the adaptive attack. Why does it need no stand-in?""")
