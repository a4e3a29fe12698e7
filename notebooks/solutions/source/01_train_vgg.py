"""The exercises of notebook 1, training a VGG."""

import math

import torch
from exercises import Notebook
from torch.nn import functional as F

here = Notebook(__file__)


@here.write(
    "train_step",
    r"""one step of training

Write the step for any network `model`: the mean cross-entropy of its logits, then the three calls in the right order. `x` is a batch of images, `y` holds their labels. Give the loss back, as a number.""",
    hints=(
        "Which of the three calls needs the new gradients? And which one must find no old ones?",
        "`backward` adds to the old gradients, so they must be forgotten before it. `step` needs the new ones, so it comes last.",
        "`loss = F.cross_entropy(model(x), y)`, then `optimizer.zero_grad()`, `loss.backward()`, `optimizer.step()`; give back `loss.item()`.",
    ),
    early=True,
)
def my_train_step(model, x, y, optimizer):
    """One step on the batch; the mean loss before it, a number."""
    ### BEGIN SOLUTION
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
    ### END SOLUTION


def step_on(loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@here.mistake("train_step", "The first step is right")
def without_zero_grad(model, x, y, optimizer):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


@here.mistake("train_step", "you give back")
def of_the_probabilities(model, x, y, optimizer):
    return step_on(F.cross_entropy(model(x).softmax(1), y), optimizer)


@here.mistake("train_step", "you give back")
def the_sum_of_the_losses(model, x, y, optimizer):
    return step_on(F.cross_entropy(model(x), y, reduction="sum"), optimizer)


@here.mistake("train_step", "a step of gradient descent moves them by")
def step_on_the_sum(model, x, y, optimizer):
    return step_on(F.cross_entropy(model(x), y, reduction="sum"), optimizer) / len(x)


@here.mistake("train_step", "the weights are what they were")
def zero_before_the_step(model, x, y, optimizer):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@here.mistake("train_step", "Your losses:")
def uphill(model, x, y, optimizer):
    return -step_on(-F.cross_entropy(model(x), y), optimizer)


here.predict(
    "no_error_in_100",
    r"""no error at all

A network reads 100 of 100 test images correctly. Where does the lower end of its 95% Wilson interval lie, in %? Estimate it first. (With all $n$ right, it lies at $n / (n + z^2)$, where $z = 1.96$.)""",
    answer=96.3,
    wrong={100: "misreads one digit in a hundred", 92: "great surprise", 85: "once in 38,000"},
)


@here.write(
    "wilson",
    r"""the interval of an accuracy

Of $n$ images, $k$ are read correctly, the share $s = k/n$. The Wilson interval goes from $c - h$ to $c + h$ with

$$c = \frac{s + \frac{z^2}{2n}}{1 + \frac{z^2}{n}}, \qquad h = \frac{z}{1 + \frac{z^2}{n}} \sqrt{\frac{s(1-s)}{n} + \frac{z^2}{4n^2}}.$$

For 95% one takes $z = 1.96$. Write a function that gives back both ends.""",
    hints=(
        "Give a name to what appears in both formulas.",
        "With `zz = z * z / n` the centre is `(s + zz / 2) / (1 + zz)`. What stands under the root, in `zz`?",
        "Under the root: `s * (1 - s) / n + zz / (4 * n)`. Give back `centre - half, centre + half`.",
    ),
)
def my_wilson(k, n, z):
    """The ends (low, high) of the Wilson interval for k of n, as shares from 0 to 1."""
    ### BEGIN SOLUTION
    s, zz = k / n, z * z / n
    centre = (s + zz / 2) / (1 + zz)
    half = z * math.sqrt(s * (1 - s) / n + zz / (4 * n)) / (1 + zz)
    return max(0.0, centre - half), min(1.0, centre + half)
    ### END SOLUTION


@here.mistake("wilson", "as if no error were possible")
def around_the_share(k, n, z):
    s = k / n
    half = z * math.sqrt(s * (1 - s) / n)
    return s - half, s + half


@here.mistake("wilson", "a share lies between 0 and 1")
def ends_in_percent(k, n, z):
    return tuple(100 * end for end in my_wilson(k, n, z))


@here.mistake("wilson", "At z = 1 your interval is")
def always_95(k, n, z):
    return my_wilson(k, n, 1.96)


@here.mistake("wilson", "is not below the upper end")
def ends_exchanged(k, n, z):
    return my_wilson(k, n, z)[::-1]


@here.mistake("wilson", "by the definition")
def without_the_second_term(k, n, z):
    s, zz = k / n, z * z / n
    centre = (s + zz / 2) / (1 + zz)
    half = z * math.sqrt(s * (1 - s) / n) / (1 + zz)
    return max(0.0, centre - half), min(1.0, centre + half)


@here.mistake("wilson", "does not give back two numbers")
def the_half_width(k, n, z):
    low, high = my_wilson(k, n, z)
    return (high - low) / 2


@here.write(
    "accuracy",
    r"""an accuracy

`loader` gives batches `(x, y)`; the last one may be smaller. Count the images that the network reads correctly, and divide by the number of all images. The network may come in train mode. Measure it in eval mode, and leave it in the mode in which it came.""",
    hints=(
        "You need two counters over all batches, and you have to remember one property of the network.",
        "`model.training` says in which mode a network is. `model.eval()` and `model.train(mode)` change it.",
        "For each batch: `right += (model(x).argmax(1) == y).sum().item()` and `n += len(y)`. Divide once, after the loop.",
    ),
)
def my_accuracy(model, loader):
    """The share of images, 0 to 1, that the model reads correctly in eval mode."""
    ### BEGIN SOLUTION
    mode = model.training
    model.eval()
    right, n = 0, 0
    with torch.no_grad():
        for x, y in loader:
            right += (model(x).argmax(1) == y).sum().item()
            n += len(y)
    model.train(mode)
    return right / n
    ### END SOLUTION


@here.mistake("accuracy", "It came in train mode, and you measure")
def as_it_came(model, loader):
    right = torch.cat([model(x).argmax(1) == y for x, y in loader])
    return right.double().mean().item()


@here.mistake("accuracy", "you left it in eval mode")
def left_in_eval_mode(model, loader):
    return as_it_came(model.eval(), loader)


@here.mistake("accuracy", "in batches of 4, 4 and 3")
def mean_of_the_batches(model, loader):
    mode = model.training
    model.eval()
    shares = [(model(x).argmax(1) == y).double().mean().item() for x, y in loader]
    model.train(mode)
    return sum(shares) / len(shares)


@here.mistake("accuracy", "A share lies between 0 and 1")
def divided_by_the_batches(model, loader):
    return sum((model(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader)


@here.mistake("accuracy", "are read correctly, which is")
def the_share_of_the_errors(model, loader):
    return 1 - my_accuracy(model, loader)


here.explain(
    "exchanged",
    r"""why an 8?

With black and white exchanged, the clean VGG says "8" for 91.2% of the digits. What do these images have in common with an 8, from the point of view of a network that expects white ink? Think of an experiment that could show you wrong, and make it.""",
    r"""A guess: an 8 is the digit with the most white in the middle. In the training images, the mean of the middle 8 × 8 pixels is 0.54 for the 8, and less for every other digit. An exchanged image is white almost everywhere. The experiment: show the network an image that is white everywhere. It says "8" with a probability of 0.61, which fits the guess. By the guess, a black image should be a 0, which has the least white in the middle (0.20). But it is read as a 1 (probability 1.00). So white in the middle is at most a part of the reason. Nothing is proved: the network has never seen such images.""",
    contains=(
        "a reason that speaks of white ink, as the network sees it;",
        "an experiment whose result could have been another one;",
        "its result, with the network's answer and the probability;",
        "a word on what it does not prove.",
    ),
)

here.more(r"""When you change the code, a folded check may fail, because its numbers belong to the unchanged notebook. Then leave it out.

- **Predict, then run:** set `own_epochs = 1`, and then 8, and run the notebook again. Is the difference larger than the width of the interval that 400 validation images give?
- **Keep your network:** `save_weights(own_vgg, "own.safetensors")`, from `advutils`, writes its weights, and `load_weights` reads them into a new `small_vgg()`. Such a file holds no program. A *pickle* file, as `torch.save` writes it, can hold one: never open an unknown one without `weights_only=True`.
- **Compare:** write an augmentation that exchanges black and white in about half of the images, and then moves them as `shift` does. How many exchanged digits does your small VGG read after it?

<details><summary>Our trial of the last one</summary>

In our run it reads 95.6% of the exchanged test digits, but 13.2% after `shift` alone.

</details>""")
