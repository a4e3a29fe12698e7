"""The exercises of notebook 2, the fast gradient sign method."""

import torch
from exercises import Notebook
from torch.nn import functional as F

from advutils import input_gradient

here = Notebook(__file__)


@here.write(
    "fgsm",
    r"""FGSM

Write the attack: the gradient, its sign, the step, the clip. `x` is a batch of images, shape `(N, 1, height, width)`, and `y` holds their labels.""",
    hints=(
        "You need the gradient of the loss with respect to the pixels. Which cell above has taken one?",
        "The cell above takes a copy of the image with `requires_grad_()`, then the loss, then `torch.autograd.grad`. The same lines work for a batch.",
        r"With the gradient `g`, the formula $\mathrm{clip}_{[0,1]}\big(x + \epsilon \, \mathrm{sign}(g)\big)$ needs `g.sign()` and `clamp(0, 1)`.",
    ),
    early=True,
)
def my_fgsm(model, x, y, eps):
    """Images x, each pixel moved by eps along the sign of its gradient, and in [0, 1]."""
    ### BEGIN SOLUTION
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(model(pixels), y)
    g = torch.autograd.grad(loss, pixels)[0]
    return (x + eps * g.sign()).clamp(0, 1)
    ### END SOLUTION


@here.mistake("fgsm", "are no image")
def no_clip(model, x, y, eps):
    return x + eps * input_gradient(model, x, y).sign()


@here.mistake("fgsm", "Some have room left")
def no_sign(model, x, y, eps):
    g = input_gradient(model, x, y)
    return (x + eps * g / g.abs().max()).clamp(0, 1)


@here.mistake("fgsm", "The probability of the label rose")
def downhill(model, x, y, eps):
    return (x - eps * input_gradient(model, x, y).sign()).clamp(0, 1)


@here.mistake("fgsm", "do not depend on the label")
def from_the_answer(model, x, y, eps):
    return (x + eps * input_gradient(model, x, model(x).argmax(1)).sign()).clamp(0, 1)


here.predict(
    "best_at_half",
    r"""the best attack at 0.5

At $\epsilon = 0.5$ a plain grey image lies in the ball around every digit. So the attacker may send it for each of the 1,000 test digits. What is the largest share that any network can read correctly then, in %?""",
    answer=10,
    wrong={0: "the same digit for every image", 50: "the same image each time", 98: "tell apart"},
)


@here.write(
    "targeted_fgsm",
    r"""FGSM with a target

FGSM leads an image away from its label, and any wrong answer will do. Another attacker wants a *certain* wrong answer, for example that a 4 is read as a 9. The label that they want is called the **target**. Write the attack that takes one step of size $\epsilon$ towards the target.""",
    hints=(
        "Training makes the loss of a label small. What would you do with the loss of the *target*?",
        "Start from your FGSM. The gradient is now the one of the target's loss. Which way must the image go so that this loss falls?",
        r"$x_\text{adv} = \mathrm{clip}_{[0,1]}\big(x - \epsilon \, \mathrm{sign}(\nabla_x \mathrm{CE}(f(x), t))\big)$ with the target $t$. `input_gradient(model, x, target)` gives the gradient.",
    ),
)
def my_targeted_fgsm(model, x, target, eps):
    """Images x, one step of size eps nearer to being read as target (N,)."""
    ### BEGIN SOLUTION
    g = input_gradient(model, x, target)
    return (x - eps * g.sign()).clamp(0, 1)
    ### END SOLUTION


@here.mistake("targeted_fgsm", "The probability of the target fell")
def away_from_the_target(model, x, target, eps):
    return (x + eps * input_gradient(model, x, target).sign()).clamp(0, 1)


@here.mistake("targeted_fgsm", "are no image")
def without_the_clip(model, x, target, eps):
    return x - eps * input_gradient(model, x, target).sign()


@here.mistake("targeted_fgsm", "but not by epsilon")
def in_the_other_unit(model, x, target, eps):
    return (x - eps / 2 * input_gradient(model, x, target).sign()).clamp(0, 1)


@here.mistake("targeted_fgsm", "Some have room left")
def the_gradient_itself(model, x, target, eps):
    g = input_gradient(model, x, target)
    return (x - eps * g / g.abs().max()).clamp(0, 1)


@here.mistake("targeted_fgsm", "do not depend on the target")
def away_from_the_answer(model, x, target, eps):
    return (x + eps * input_gradient(model, x, model(x).argmax(1)).sign()).clamp(0, 1)


@here.mistake("targeted_fgsm", "was changed in place")
def in_place(model, x, target, eps):
    return x.sub_(eps * input_gradient(model, x, target).sign()).clamp_(0, 1)


@here.write(
    "robust_accuracy",
    r"""a robust accuracy with an honest denominator

Count how many images are read correctly after the attack, and divide by the number of *all* images. Three mistakes are common: (a) to leave out the images that were misread before the attack; (b) to take the mean of the batches, though the last one is smaller; (c) to give the attack the network's answers in place of the labels.

`loader` gives batches `(x, y)`. `attack` is called as `attack(model, x, y, eps=eps)`.""",
    hints=(
        "You need two counters over all batches. Which two?",
        "One counter holds the images that are read correctly after the attack, the other one the images. Divide once, at the end.",
        "`x_adv = attack(model, x, y, eps=eps)`, then `(model(x_adv).argmax(1) == y).sum()` for the first counter, `len(y)` for the second.",
    ),
)
def my_robust_accuracy(model, loader, attack, eps):
    """The share of all images, 0 to 1, that the model reads correctly after the attack."""
    ### BEGIN SOLUTION
    right, n = 0, 0
    for x, y in loader:
        x_adv = attack(model, x, y, eps=eps)
        right += (model(x_adv).argmax(1) == y).sum().item()
        n += len(y)
    return right / n
    ### END SOLUTION


@here.mistake("robust_accuracy", "in batches of 4, 4 and 3")
def mean_of_the_batches(model, loader, attack, eps):
    shares = [(model(attack(model, x, y, eps=eps)).argmax(1) == y).double().mean() for x, y in loader]
    return sum(shares) / len(shares)


@here.mistake("robust_accuracy", "misread already")
def of_those_right_at_first(model, loader, attack, eps):
    right, n = 0, 0
    for x, y in loader:
        first = model(x).argmax(1) == y
        right += (first & (model(attack(model, x, y, eps=eps)).argmax(1) == y)).sum().item()
        n += first.sum().item()
    return right / n


@here.mistake("robust_accuracy", "Whose label was it given?")
def with_the_answers_as_labels(model, loader, attack, eps):
    right, n = 0, 0
    for x, y in loader:
        x_adv = attack(model, x, model(x).argmax(1), eps=eps)
        right, n = right + (model(x_adv).argmax(1) == y).sum().item(), n + len(y)
    return right / n


@here.mistake("robust_accuracy", "before the attack")
def of_the_clean_images(model, loader, attack, eps):
    right = [model(x).argmax(1) == y for x, y in loader]
    return torch.cat(right).double().mean().item()


@here.mistake("robust_accuracy", "grows when the attack gets stronger")
def of_the_misread(model, loader, attack, eps):
    return 1 - my_robust_accuracy(model, loader, attack, eps)


@here.mistake("robust_accuracy", "A share lies between 0 and 1")
def in_percent(model, loader, attack, eps):
    return 100 * my_robust_accuracy(model, loader, attack, eps)


@here.write(
    "margin",
    r"""the margin

The **margin** of an image is the logit of its label minus the largest of the *other* logits. It is positive where the image is read correctly. Write it for a whole batch, without a loop.""",
    hints=(
        "The largest of all logits may be the one of the label. How can you keep it out?",
        r"Make a copy of the logits in which the label's own logit is $-\infty$. Then take the largest of each row.",
        "`logits.gather(1, y[:, None])[:, 0]` gives the labels' logits. `logits.scatter(1, y[:, None], -torch.inf)` is the copy.",
    ),
)
def my_margin(logits, y):
    """For logits (N, K) and labels (N,): one number for each image, (N,)."""
    ### BEGIN SOLUTION
    true = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf)
    return true - others.max(1).values
    ### END SOLUTION


@here.mistake("margin", "above 0 on none")
def with_the_label_among_the_others(logits, y):
    return logits.gather(1, y[:, None])[:, 0] - logits.max(1).values


@here.mistake("margin", "below 0 on none")
def first_minus_second(logits, y):
    first, second = logits.topk(2).values.unbind(1)
    return first - second


@here.mistake("margin", "not that of right and wrong on any")
def sign_turned(logits, y):
    return -my_margin(logits, y)


@here.mistake("margin", "are no logits")
def of_probabilities(logits, y):
    return my_margin(logits.softmax(1), y)


@here.mistake("margin", "All logits are below 0 here")
def the_label_counts_as_zero(logits, y):
    one_hot = F.one_hot(y, logits.shape[1])
    return (logits * one_hot).sum(1) - (logits * (1 - one_hot)).max(1).values


@here.mistake("margin", "not a tensor of numbers of shape")
def of_the_whole_batch(logits, y):
    return my_margin(logits, y).mean().item()


@here.mistake("margin", "not a tensor of numbers of shape")
def the_mean_loss(logits, y):
    return F.cross_entropy(logits, y)


here.explain(
    "subtract",
    r"""the step that helps

What happens if you *subtract* FGSM's step, $x - \epsilon \, \mathrm{sign}(g)$ with the gradient for the true label? First write down what you expect, then measure the accuracy at 0.1. Who could use this, and what would they have to know?""",
    r"""The step lowers the loss of the true label, so the network becomes surer of the right answer. In our trial at 0.1 (not run here), the clean VGG then reads 99.7% of the 1,000 digits in place of 98.3%.

But this is no defence. The step needs the true label, and whoever knows the label needs no network to read the image. With the network's *own answers* in place of the labels, the step goes towards these answers, also the wrong ones. In our trial the accuracy then stays at 98.3%.

Who could use the step? Somebody who wants an image of theirs to be read as what it is, such as the owner of a sign with unclear digits. They know the label, but they also need the network, for its gradient.""",
    contains=(
        "the direction: the loss of the true label falls;",
        "a measurement, with its epsilon and the number of images;",
        "the label has to be known, so it is no defence;",
        "what happens with the network's own answers in place of the labels.",
    ),
)

here.more(r"""- **Draw:** the 5 of the first figure becomes a 3 at 0.3. Plot its gradient. Which stroke would you draw or remove to make a 3 of it? Do it by hand and ask the network.
- **Attack a digit of yours:** `read_digit(path)` of notebook 1 reads an image file. At which $\epsilon$ is your digit misread first?
- **Attack a model of yours:** it must take images in [0, 1] and return logits. If it was trained on normalised inputs, put the normalisation in front: `nn.Sequential(Normalize(mean, std), yours)`, with `Normalize` from `advutils`. If it ends in a softmax, take the softmax off, because the loss applies its own. With two in a row the gradient can become exactly 0. The attack then does nothing, and the network *looks* robust.""")
