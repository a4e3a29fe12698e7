"""The exercises of notebook 5, attack it again: PGD."""

import torch
from exercises import Notebook

from advutils import input_gradient

here = Notebook(__file__)


@here.write(
    "project",
    r"""the projection

Write $\Pi$ for a batch. `x_adv` holds the images after a step ($z$ in the formula), `x` the images at the start, and `eps` is $\epsilon$. Each pixel goes to the *nearest* value that is allowed, so what is allowed already stays where it is.""",
    hints=(
        "Each pixel has its own lower and upper limit. Which are they, for the ball alone?",
        r"The ball allows $x_i - \epsilon$ to $x_i + \epsilon$. `torch.clamp` takes tensors as its limits, too.",
        "First `torch.clamp(x_adv, min=..., max=...)` with the two limits, then `clamp(0, 1)`.",
    ),
    early=True,
)
def my_project(x_adv, x, eps):
    """The images nearest to x_adv in the ball of radius eps around x, and in [0, 1]."""
    ### BEGIN SOLUTION
    in_ball = torch.clamp(x_adv, min=x - eps, max=x + eps)
    return in_ball.clamp(0, 1)
    ### END SOLUTION


@here.mistake("project", "are no image")
def into_the_ball_alone(x_adv, x, eps):
    return torch.clamp(x_adv, min=x - eps, max=x + eps)


@here.mistake("project", "away from the image")
def into_the_range_alone(x_adv, x, eps):
    return x_adv.clamp(0, 1)


@here.mistake("project", "away from the image")
def around_zero(x_adv, x, eps):
    return x_adv.clamp(-eps, eps).clamp(0, 1)


@here.mistake("project", "yet one was moved")
def to_the_edge(x_adv, x, eps):
    return (x + eps * (x_adv - x).sign()).clamp(0, 1)


@here.mistake("project", "nearest to them")
def shrunk_as_a_whole(x_adv, x, eps):
    delta = x_adv - x
    return (x + delta * (eps / delta.abs().max()).clamp(max=1)).clamp(0, 1)


here.predict(
    "small_steps",
    r"""steps that are too small

Somebody runs PGD with 20 steps of size 0.001 at $\epsilon = 0.1$, from the image itself. How far is a pixel from its start at most? Give the answer in thousandths. The ball allows 100 of them.""",
    answer=20,
    wrong={100: "how far the ball allows", 1: "makes twenty", 250: "the usual step size"},
)


@here.write(
    "random_start",
    r"""a random start

Draw a random point of the ball: each pixel moves by its own random number between $-\epsilon$ and $+\epsilon$, all of them equally likely. The result must be an image. Draw with `torch.rand(..., generator=generator)`, so that a run can be repeated.""",
    hints=(
        "`torch.rand` gives numbers from 0 to 1. Which numbers do you need?",
        r"$2u - 1$ lies between $-1$ and $1$ if $u$ lies between 0 and 1. How many numbers $u$ does a batch need?",
        "`u = torch.rand(x.shape, generator=generator)`, then a step of `eps * (2 * u - 1)`, then the clip.",
    ),
)
def my_random_start(x, eps, generator):
    """A random point of each image's ball, inside [0, 1]."""
    ### BEGIN SOLUTION
    u = torch.rand(x.shape, generator=generator)
    return (x + eps * (2 * u - 1)).clamp(0, 1)
    ### END SOLUTION


@here.mistake("random_start", "are no image")
def start_without_the_clip(x, eps, generator):
    return x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)


@here.mistake("random_start", "go from 0.00 to 0.20")
def to_one_side(x, eps, generator):
    return (x + eps * torch.rand(x.shape, generator=generator)).clamp(0, 1)


@here.mistake("random_start", "a pixel moved by")
def normal(x, eps, generator):
    return (x + eps * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@here.mistake("random_start", "in quarters of epsilon")
def corners(x, eps, generator):
    return (x + eps * (torch.rand(x.shape, generator=generator) - 0.5).sign()).clamp(0, 1)


@here.mistake("random_start", "in quarters of epsilon")
def clipped_normal(x, eps, generator):
    return (x + (eps * torch.randn(x.shape, generator=generator)).clamp(-eps, eps)).clamp(0, 1)


@here.mistake("random_start", "All images of the batch")
def one_for_the_batch(x, eps, generator):
    return (x + eps * (2 * torch.rand(x[:1].shape, generator=generator) - 1)).clamp(0, 1)


@here.mistake("random_start", "All pixels of an image")
def one_for_each_image(x, eps, generator):
    return (x + eps * (2 * torch.rand(len(x), 1, 1, 1, generator=generator) - 1)).clamp(0, 1)


@here.mistake("random_start", "two different starts")
def without_the_generator(x, eps, generator):
    return (x + eps * (2 * torch.rand(x.shape) - 1)).clamp(0, 1)


@here.mistake("random_start", "gave the same start")
def with_a_seed_of_its_own(x, eps, generator):
    torch.manual_seed(0)
    return without_the_generator(x, eps, generator)


@here.write(
    "pgd",
    r"""PGD in one function

Put it together: `steps` steps of size `step_size` along the sign of the gradient, and the projection after each of them. Start from the image itself. (`input_gradient(model, images, y)` gives the gradient of the loss of the labels `y` at any images.)""",
    hints=(
        "You need two images: the one that moves, and the one around which the ball lies. Which of them changes in the loop?",
        "Three lines in the loop: the gradient where the image is *now*, a step, the projection around the image at the *start*.",
        "`x_adv = x`. Then in the loop `g = input_gradient(model, x_adv, y)` and `x_adv = x_adv + step_size * g.sign()`. Then the two clamps of the projection around `x`.",
    ),
)
def my_pgd(model, x, y, eps, step_size, steps):
    """Adversarial images in the ball of radius eps around x, and in [0, 1]."""
    ### BEGIN SOLUTION
    x_adv = x
    for _ in range(steps):
        g = input_gradient(model, x_adv, y)
        stepped = x_adv + step_size * g.sign()
        in_ball = torch.clamp(stepped, min=x - eps, max=x + eps)
        x_adv = in_ball.clamp(0, 1)
    return x_adv
    ### END SOLUTION


@here.mistake("pgd", "epsilon away from the image after 4 steps")
def around_the_iterate(model, x, y, eps, step_size, steps):
    x_adv = x
    for _ in range(steps):
        stepped = x_adv + step_size * input_gradient(model, x_adv, y).sign()
        x_adv = torch.clamp(stepped, min=x_adv - eps, max=x_adv + eps).clamp(0, 1)
    return x_adv


@here.mistake("pgd", "where the gradient beyond the ball leads them")
def projected_once_at_the_end(model, x, y, eps, step_size, steps):
    x_adv = x
    for _ in range(steps):
        x_adv = (x_adv + step_size * input_gradient(model, x_adv, y).sign()).clamp(0, 1)
    return torch.clamp(x_adv, min=x - eps, max=x + eps)


@here.mistake("pgd", "accepts [0, 1]")
def pgd_without_the_range(model, x, y, eps, step_size, steps):
    x_adv = x
    for _ in range(steps):
        stepped = x_adv + step_size * input_gradient(model, x_adv, y).sign()
        x_adv = torch.clamp(stepped, min=x - eps, max=x + eps)
    return x_adv


@here.mistake("pgd", "where our own PGD puts them")
def with_the_first_gradient(model, x, y, eps, step_size, steps):
    g, x_adv = input_gradient(model, x, y), x
    for _ in range(steps):
        x_adv = torch.clamp(x_adv + step_size * g.sign(), min=x - eps, max=x + eps).clamp(0, 1)
    return x_adv


@here.mistake("pgd", "The loss of the labels went from")
def downhill(model, x, y, eps, step_size, steps):
    x_adv = x
    for _ in range(steps):
        stepped = x_adv - step_size * input_gradient(model, x_adv, y).sign()
        x_adv = torch.clamp(stepped, min=x - eps, max=x + eps).clamp(0, 1)
    return x_adv


@here.mistake("pgd", "one step moved the pixels by 0.00")
def one_step_too_few(model, x, y, eps, step_size, steps):
    return my_pgd(model, x, y, eps, step_size, steps - 1)


@here.mistake("pgd", "two steps by")
def steps_as_long_as_the_radius(model, x, y, eps, step_size, steps):
    return my_pgd(model, x, y, eps, eps, steps)


@here.mistake("pgd", "two steps by")
def from_the_image_each_time(model, x, y, eps, step_size, steps):
    x_adv = x
    for _ in range(steps):
        x_adv = my_pgd(model, x, y, eps, step_size, 1)
    return x_adv


@here.write(
    "worse_of_two",
    r"""two attacks together

An attacker who has two attacks may use the better one for each image. So an image counts as read correctly only if it is read correctly after *both*. Write the share of images that are left. (Each attack is called as `attack(model, x, y, eps=eps)`.)""",
    hints=(
        "Two accuracies are not enough to know the answer. What has to be kept of each attack?",
        "Keep for each image whether it survived the first attack, and whether it survived the second one. Then count those that survived both.",
        "`model(x_adv).argmax(1) == y` is a tensor of true and false. Two of them are joined by `&`.",
    ),
)
def my_worse_of_two(model, x, y, first_attack, second_attack, eps):
    """The share of images, 0 to 1, that are read correctly after each of the two attacks."""
    ### BEGIN SOLUTION
    survived_first = model(first_attack(model, x, y, eps=eps)).argmax(1) == y
    survived_second = model(second_attack(model, x, y, eps=eps)).argmax(1) == y
    return (survived_first & survived_second).double().mean().item()
    ### END SOLUTION


def share(model, x, y, attack, eps):
    return (model(attack(model, x, y, eps=eps)).argmax(1) == y).double().mean().item()


@here.mistake("worse_of_two", "choose one attack for all images")
def smaller_accuracy(model, x, y, first_attack, second_attack, eps):
    return min(share(model, x, y, first_attack, eps), share(model, x, y, second_attack, eps))


@here.mistake("worse_of_two", "help the defender")
def mean_of_two(model, x, y, first_attack, second_attack, eps):
    return (share(model, x, y, first_attack, eps) + share(model, x, y, second_attack, eps)) / 2


@here.mistake("worse_of_two", "given twice, leaves 6 of 12")
def product(model, x, y, first_attack, second_attack, eps):
    return share(model, x, y, first_attack, eps) * share(model, x, y, second_attack, eps)


@here.mistake("worse_of_two", "With a second attack your number rises")
def survived_either(model, x, y, first_attack, second_attack, eps):
    left = [model(attack(model, x, y, eps=eps)).argmax(1) == y for attack in (first_attack, second_attack)]
    return (left[0] | left[1]).double().mean().item()


here.explain(
    "which_label",
    r"""which label?

FGSM and PGD raise the loss of the *true* label. What would change if they raised the loss of the label that the network *predicts* before the attack, and for which digits? Say also what it would do to the robust accuracy that is printed.""",
    r"""For a digit that the network reads correctly, nothing changes: both labels are the same. It changes for the digits that are misread before the attack (1.7% of the 1,000 for the clean VGG, 1.5% for the defended one). There, the attack would lead the image away from the *wrong* answer. Some of them may then be read correctly, by the attack's own help, and count as survivors. So the robust accuracy can get too high, by at most the share that was misread at first.""",
    contains=(
        "only digits that are misread before the attack are concerned;",
        "they may become right, so the number can get too high;",
        "how large the error can be at most: the share that was misread at first.",
    ),
)

here.more(
    r"""- **Predict, then change:** train the defence at 0.3 instead (`trained("mixed-fgsm-0.3")`, some minutes). What will FGSM leave at 0.3, and what will PGD leave?"""
)
