"""The exercises of notebook 4, adversarial training."""

import math

import torch
from exercises import Notebook
from torch.nn import functional as F

here = Notebook(__file__)


@here.write(
    "mixed_loss",
    r"""a loss on two halves

Write steps 1 to 3 as one function that returns the loss of the formula, for any attack. `model` is the network, `x` a batch of images, and `y` holds their labels. `attack(model, x, y, eps=eps)` returns the attacked images, but does not switch the mode. So your function switches to eval mode for the attack. For the loss it goes back to the mode that it found.""",
    hints=(
        "Three parts: switch and attack, switch back, one loss for both halves. What has to be remembered before the first one?",
        "`model.training` is the mode. `torch.cat([x, x_adv])` joins the halves. How many labels do you need then?",
        "`mode = model.training`, `model.eval()`, the attack, `model.train(mode)`, then the cross-entropy of `torch.cat([x, x_adv])` with `torch.cat([y, y])`.",
    ),
    early=True,
)
def my_mixed_loss(model, x, y, attack, eps):
    """The mean cross-entropy over the images and their attacked twins, a scalar tensor."""
    ### BEGIN SOLUTION
    mode = model.training
    model.eval()
    x_adv = attack(model, x, y, eps=eps)
    model.train(mode)
    return F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y]))
    ### END SOLUTION


@here.mistake("mixed_loss", "the attack was made on a network that is not the one in use")
def attacked_in_train_mode(model, x, y, attack, eps):
    x_adv = attack(model, x, y, eps=eps)
    return F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y]))


@here.mistake("mixed_loss", "left it in eval mode")
def left_in_eval_mode(model, x, y, attack, eps):
    return attacked_in_train_mode(model.eval(), x, y, attack, eps)


@here.mistake("mixed_loss", "attacked images alone")
def the_attacked_half(model, x, y, attack, eps):
    x_adv = attack(model.eval(), x, y, eps=eps)
    return F.cross_entropy(model.train()(x_adv), y)


@here.mistake("mixed_loss", "as they are")
def the_clean_half(model, x, y, attack, eps):
    attack(model.eval(), x, y, eps=eps)
    return F.cross_entropy(model.train()(x), y)


@here.mistake("mixed_loss", "twice the loss")
def sum_of_two_means(model, x, y, attack, eps):
    return the_attacked_half(model, x, y, attack, eps) + F.cross_entropy(model(x), y)


@here.mistake("mixed_loss", "In which mode does a network learn?")
def learned_in_eval_mode(model, x, y, attack, eps):
    loss = attacked_in_train_mode(model.eval(), x, y, attack, eps)
    model.train()
    return loss


@here.mistake("mixed_loss", "left it in train mode")
def always_to_train_mode(model, x, y, attack, eps):
    x_adv = attack(model.eval(), x, y, eps=eps)
    model.train()
    return F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y]))


here.predict(
    "fair_coins",
    r"""ten to two

Two networks are tested on the same 1,000 images. On 988 of them both are right or both are wrong. Of the other 12, one network reads 10 and the other one 2. What is McNemar's p-value, in %? (How often do twelve fair coins fall at least as unevenly?)""",
    answer=3.9,
    wrong={1.9: "second one might have won", 16.7: "share 2 of 12", 1.0: "4,096 ways"},
)


@here.write(
    "mcnemar",
    r"""McNemar's test

Two networks, or two attacks, leave two records of the same images: true where the image is read correctly. Count the images that only the first reads, and those that only the second reads. The p-value is the probability that fair coins, one for each of *these* images, fall at least as unevenly, to either side.""",
    hints=(
        "Of the four kinds of images, which two does the test need?",
        "The smaller of the two counts is the number of heads. Unevenness to the other side has the same probability.",
        "Twice the sum up to the smaller count. If both counts are equal, this is more than 1; a probability is at most 1.",
    ),
)
def my_mcnemar(first, second):
    """(only the first, only the second, p-value) of two bool tensors (n,)."""
    ### BEGIN SOLUTION
    only_first = int((first & ~second).sum())
    only_second = int((~first & second).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return only_first, only_second, min(1.0, 2 * tail)
    ### END SOLUTION


def tail(n, k):
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def only(first, second):
    return int((first & ~second).sum()), int((~first & second).sum())


@here.mistake("mcnemar", "7 to 2: ")
def one_sided(first, second):
    a, b = only(first, second)
    return a, b, tail(a + b, min(a, b))


@here.mistake("mcnemar", "2 to 7 has")
def in_favour_of_the_first(first, second):
    a, b = only(first, second)
    return a, b, min(1.0, 2 * tail(a + b, b))


@here.mistake("mcnemar", "on which both agree")
def coins_for_all_images(first, second):
    a, b = only(first, second)
    return a, b, min(1.0, 2 * tail(len(first), min(a, b)))


@here.mistake("mcnemar", "A probability is at most 1")
def above_one(first, second):
    a, b = only(first, second)
    return a, b, 2 * tail(a + b, min(a, b))


@here.mistake("mcnemar", "by the first alone")
def all_that_each_reads(first, second):
    a, b = int(first.sum()), int(second.sum())
    return a, b, min(1.0, 2 * tail(a + b, min(a, b)))


@here.mistake("mcnemar", "7 to 2: ")
def chi_square(first, second):
    a, b = only(first, second)
    return a, b, math.erfc(abs(a - b) / math.sqrt(2 * (a + b)))


here.explain(
    "eval_mode",
    r"""why eval mode?

The attack puts the network into eval mode, although the network is being trained. Why? Think of batch norm: what would it see in train mode, and what would be left behind after the attack?""",
    r"""In train mode batch norm uses the mean and the variance of the present batch. So the answer for one image depends on the other images. The finished network is used in eval mode, and that is another function. The attack would be made for a function that nobody uses. And each pass in train mode also moves the stored averages, which are used in eval mode later.""",
    contains=(
        "batch norm in train mode depends on the whole batch;",
        "the stored averages would be changed by the attack's passes;",
        "the attacked function should be the one in use.",
    ),
)

here.more(
    r"""- **Change:** make the boxes in two dimensions larger: set `box_eps = 0.1`, then `steps` and `moves` anew, in a cell *after* the one that chooses the points. Now two pairs of boxes of different classes overlap a little. What can adversarial training still do, and does it cost anything at the points themselves?"""
)
