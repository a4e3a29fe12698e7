"""The exercises of notebook 9, transfer and black box."""

import torch
from exercises import Notebook
from torch.nn import functional as F

from advutils import input_gradient, project

here = Notebook(__file__)


@here.write(
    "transfer_rate",
    r"""a transfer rate

Write the transfer rate. `before` and `after` hold an entry for each image: true where the target reads it correctly before, or after, the attack.""",
    hints=(
        "Two groups of images: those that count at all, and those among them that were fooled.",
        "An image was fooled if it was read before *and* is misread after. `~` turns true into false and false into true.",
        "`fooled = before & ~after`; divide the number of them by the number of true values in `before`.",
    ),
    early=True,
)
def my_transfer_rate(before, after):
    """The share, 0 to 1, of fooled images among those that were read before."""
    ### BEGIN SOLUTION
    fooled = before & ~after
    return fooled.sum().item() / before.sum().item()
    ### END SOLUTION


@here.mistake("transfer_rate", "misread before and after")
def all_misread_ones(before, after):
    return (~after).double().mean().item()


@here.mistake("transfer_rate", "4 were misread before")
def of_all_images(before, after):
    return (before & ~after).double().mean().item()


@here.mistake("transfer_rate", "set off against it")
def difference_of_the_counts(before, after):
    return (before.sum() - after.sum()).item() / before.sum().item()


@here.mistake("transfer_rate", "No image was fooled")
def share_that_survived(before, after):
    return 1 - my_transfer_rate(before, after)


@here.mistake("transfer_rate", "A share lies between 0 and 1")
def in_percent(before, after):
    return 100 * my_transfer_rate(before, after)


here.predict(
    "of_which",
    r"""forty or not

A network reads 96 of 100 images. After a transfer attack it reads 60, all of them among the 96. What share of the images that *can* be fooled was fooled, in %?""",
    answer=37.5,
    wrong={40: "misread without any attack", 36: "Out of how many", 60: "survived"},
)


@here.write(
    "ensemble_fgsm",
    r"""several surrogates at once

Write FGSM on the *mean of the losses* of several surrogates: one step of $\epsilon$ along the sign of its gradient, and the clip. (`Together` took the mean of the *scores*.)""",
    hints=(
        "The gradient of a mean is the mean of the gradients. So what do you have to do before you take the sign?",
        "Add the gradients of all surrogates. To divide by their number changes no sign. Then one step.",
        "`g = sum(input_gradient(model, x, y) for model in models)`, then the step of FGSM.",
    ),
)
def my_ensemble_fgsm(models, x, y, eps):
    """One FGSM step on the mean loss of all the models, inside [0, 1]."""
    ### BEGIN SOLUTION
    g = sum(input_gradient(model, x, y) for model in models)
    return (x + eps * g.sign()).clamp(0, 1)
    ### END SOLUTION


@here.mistake("ensemble_fgsm", "majority of the surrogates")
def a_vote_of_the_signs(models, x, y, eps):
    votes = sum(input_gradient(model, x, y).sign() for model in models)
    return (x + eps * votes.sign()).clamp(0, 1)


@here.mistake("ensemble_fgsm", "loss of the mean of the logits")
def on_the_mean_of_the_logits(models, x, y, eps):
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(sum(model(pixels) for model in models) / len(models), y, reduction="sum")
    return (x + eps * torch.autograd.grad(loss, pixels)[0].sign()).clamp(0, 1)


@here.mistake("ensemble_fgsm", "has the same length first")
def each_surrogate_at_length_1(models, x, y, eps):
    g = sum(at_length_1(input_gradient(model, x, y)) for model in models)
    return (x + eps * g.sign()).clamp(0, 1)


@here.mistake("ensemble_fgsm", "the pixels moved by")
def mean_of_the_steps(models, x, y, eps):
    steps = torch.stack([input_gradient(model, x, y).sign() for model in models])
    return (x + eps * steps.mean(0)).clamp(0, 1)


@here.mistake("ensemble_fgsm", "changes nothing")
def the_first_one_alone(models, x, y, eps):
    return my_ensemble_fgsm(models[:1], x, y, eps)


@here.mistake("ensemble_fgsm", "the pixels moved by")
def one_after_the_other(models, x, y, eps):
    for model in models:
        x = my_ensemble_fgsm([model], x, y, eps)
    return x


@here.mistake("ensemble_fgsm", "They go the other way")
def towards_the_label(models, x, y, eps):
    return (x - eps * sum(input_gradient(model, x, y) for model in models).sign()).clamp(0, 1)


@here.mistake("ensemble_fgsm", "are no image")
def ensemble_without_the_clip(models, x, y, eps):
    return x + eps * sum(input_gradient(model, x, y) for model in models).sign()


@here.write(
    "momentum_pgd",
    r"""PGD with momentum

MI-FGSM is PGD with **momentum**, made for transfer (Dong et al., 2018). It steps along a *direction* that remembers all gradients so far. The new direction is `decay` times the old one plus the gradient at length 1. (The length is the sum of the absolute values of the gradient's entries. Each image has its own.) Step along the sign of the *direction*, and bring the image back to at most `eps` from `x`, and to [0, 1]. Start from the image, with the direction 0.""",
    hints=(
        "Two things are carried from step to step: the image and the direction. Which of them must stay near `x`?",
        "Bring each image's gradient to length 1 first, then add it to `decay * direction`. Take the sign only for the step.",
        "`length = g.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)` (the clamp keeps a gradient of 0 from becoming 0/0), `direction = decay * direction + g / length`, and a step of `step_size * direction.sign()`.",
    ),
)
def my_momentum_pgd(model, x, y, eps, step_size, steps, decay):
    """Adversarial images of PGD with momentum, in the ball around x and in [0, 1]."""
    ### BEGIN SOLUTION
    x_adv, direction = x, torch.zeros_like(x)
    for _ in range(steps):
        g = input_gradient(model, x_adv, y)
        length = g.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
        direction = decay * direction + g / length
        change = x_adv + step_size * direction.sign() - x
        x_adv = (x + change.clamp(-eps, eps)).clamp(0, 1)
    return x_adv
    ### END SOLUTION


def momentum(model, x, y, eps, step_size, steps, update, centre=None):
    x_adv, direction = x, torch.zeros_like(x)
    for _ in range(steps):
        direction = update(direction, input_gradient(model, x_adv, y))
        x_adv = project(x_adv + step_size * direction.sign(), x if centre is None else x_adv, eps)
    return x_adv


def at_length_1(g):
    return g / g.abs().sum(dim=(1, 2, 3), keepdim=True)


@here.mistake("momentum_pgd", "without momentum")
def without_momentum(model, x, y, eps, step_size, steps, decay):
    return momentum(model, x, y, eps, step_size, steps, lambda old, g: g)


@here.mistake("momentum_pgd", "a large gradient counted more")
def with_gradients_of_any_length(model, x, y, eps, step_size, steps, decay):
    return momentum(model, x, y, eps, step_size, steps, lambda old, g: decay * old + g)


@here.mistake("momentum_pgd", "as if the sign of each gradient")
def with_signs(model, x, y, eps, step_size, steps, decay):
    return momentum(model, x, y, eps, step_size, steps, lambda old, g: decay * old + g.sign())


def with_lengths(model, x, y, eps, step_size, steps, decay, length):
    return momentum(model, x, y, eps, step_size, steps, lambda old, g: decay * old + g / length(g))


@here.mistake("momentum_pgd", "in one batch")
def with_one_l1_length_for_the_batch(*args):
    return with_lengths(*args, lambda g: g.abs().sum())


@here.mistake("momentum_pgd", "in one batch")
def with_one_l2_length_for_the_batch(*args):
    return with_lengths(*args, lambda g: g.norm())


@here.mistake("momentum_pgd", "in one batch")
def with_the_largest_entry_of_the_batch(*args):
    return with_lengths(*args, lambda g: g.abs().max())


@here.mistake("momentum_pgd", "root of the sum of the squares")
def with_the_l2_length_of_each_image(*args):
    return with_lengths(*args, lambda g: (g**2).sum((1, 2, 3), keepdim=True).sqrt())


@here.mistake("momentum_pgd", "absolute value of the largest one")
def with_the_largest_entry_of_each_image(*args):
    return with_lengths(*args, lambda g: g.abs().amax((1, 2, 3), keepdim=True))


@here.mistake("momentum_pgd", "With decay 0")
def as_an_average(model, x, y, eps, step_size, steps, decay):
    return momentum(model, x, y, eps, step_size, steps, lambda old, g: old + (1 - decay) * at_length_1(g))


@here.mistake("momentum_pgd", "away from the image after 4 steps")
def around_the_iterate(model, x, y, eps, step_size, steps, decay):
    return momentum(model, x, y, eps, step_size, steps, lambda old, g: decay * old + at_length_1(g), centre="iterate")


here.explain(
    "rounded_scores",
    r"""rounded scores

An owner rounds each score to a whole number before it is returned. The class with the highest score is returned as before. What happens to the comparisons of Square? What happens to the label-only search? Is this a defence?""",
    r"""Square keeps a change where the margin has fallen. A margin of rounded scores is a whole number. So a small fall is often rounded away: the margin looks the same, and Square does not keep the change. Square may then need more queries, or get stuck (we did not measure this). The label-only search never looks at a score. For it nothing changes: after 2,000 queries the clean VGG still reads 2.5%. So the attackers may pay more queries, but images that fool the network still lie in the ball.""",
    contains=(
        "what Square compares: the margin before and after a change;",
        "that a small fall of the margin is rounded away, and a large one is not;",
        "that the label-only search uses only the class, so nothing changes for it;",
        "that hiding information costs the attackers queries, and makes no network robust.",
    ),
)

here.more(r"""- **Change:** set `cnn_seed = 1`. Your machine then trains another small CNN. Does the accuracy under the transfer attack stay inside the interval that was printed for seed 0? Must it?
- **Change:** start `come_closer` from the outsider's direction, `(from_outsider - x).sign()[::10]`, in place of the stripes. Does this save queries?""")
