"""The bugs of notebook 13 as they came, their mended functions, and other repairs that do not repair them."""

import copy

import torch
from exercises import Notebook
from torch import nn
from torch.nn import functional as F

from advutils import Normalize

here = Notebook(
    __file__,
    introduction="""## How to work here

Your aim is a test of the *result*, even if you see the fault in the code at once. Each bug has these cells:

1. The wrong number. Ask what must be true of it before you read on.
2. The function `bug_N`, and a cell that runs it. Our test follows at once for bugs 1 to 3. For bugs 4 to 10 it stands last, below **Stop**.
3. A task with hints and, folded, *What was wrong*, with a place where it happened.
4. A cell for your function `my_bug_N`. Copy the lines of `bug_N` into it and mend them. Then `check` runs it on small data and says what is wrong with its result.

Run the cells in order, also those of a bug that you skip. Bug 3 needs batch norm (notebook 1). With little time, take bugs 1, 2 and 8. All mended functions lie in `notebooks/solutions/{name}`.""",
)


# 1


@here.write(
    "bug_1",
    r"""FGSM for a network that takes images in [−1, 1]

Mend the attack. `x` and the result are images in [0, 1], and `eps` is a distance of *their* pixels. The network takes images in [−1, 1].""",
    hints=(
        "The pixels have moved by 0.1. In the code they move by 0.2. Where does one half get lost?",
        "In `x`, the distance from black to white is 1. How large is this distance in what the network takes?",
        r"A distance $\epsilon$ in [0, 1] is a distance $2\epsilon$ in [−1, 1].",
    ),
    explanation=r"""`eps` is added where the distance from black to white is 2 and not 1: an **epsilon in the wrong unit**. Follow one grey pixel: 0.5 becomes 0 in [−1, 1], moves to 0.2, and comes back as 0.6, so it has moved by 0.1. With the right unit, FGSM leaves 53.5% in place of 87.0%.

*Where it happened:* in the code of a defence with proofs (notebook 12), which added $\epsilon$ to images divided by a standard deviation. The author confirmed that $\epsilon$ has to be divided, too ([locuslab/convex_adversarial, issue 31](https://github.com/locuslab/convex_adversarial/issues/31)).

*How to see it:* print the largest move (*look*).""",
)
def my_bug_1(bare, x, y, eps):
    """FGSM for x in [0, 1] and a network that takes images in [-1, 1]: images in [0, 1]."""
    ### BEGIN SOLUTION
    z = (2 * x - 1).requires_grad_()
    loss = F.cross_entropy(bare(z), y, reduction="sum")
    gradient = torch.autograd.grad(loss, z)[0]
    z_adv = (z + 2 * eps * gradient.sign()).clamp(-1, 1)
    return (z_adv + 1) / 2
    ### END SOLUTION


@here.bug("bug_1", "moved by 0.50 to 0.50 epsilon")
def bug_1(bare, x, y, eps):
    """FGSM for x in [0, 1] and a network that takes images in [-1, 1]: images in [0, 1]."""
    z = (2 * x - 1).requires_grad_()
    loss = F.cross_entropy(bare(z), y, reduction="sum")
    gradient = torch.autograd.grad(loss, z)[0]
    z_adv = (z + eps * gradient.sign()).clamp(-1, 1)
    return (z_adv + 1) / 2


@here.mistake("bug_1", "moved by 0.25 to 0.25 epsilon")
def halved_again(bare, x, y, eps):
    return bug_1(bare, x, y, eps / 2)


@here.mistake("bug_1", "moved by 2.00 to 2.00 epsilon")
def too_much(bare, x, y, eps):
    return bug_1(bare, x, y, 4 * eps)


@here.mistake("bug_1", "asked about values from 0.00 to 1.00")
def images_as_they_are(bare, x, y, eps):
    z = x.clone().requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(bare(z), y, reduction="sum"), z)[0]
    return (x + eps * gradient.sign()).clamp(0, 1)


@here.mistake("bug_1", "their values go from -")
def not_brought_back(bare, x, y, eps):
    return 2 * my_bug_1(bare, x, y, eps) - 1


@here.mistake("bug_1", "moved by 0.")
def clipped_to_the_other_range(bare, x, y, eps):
    z = (2 * x - 1).requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(bare(z), y, reduction="sum"), z)[0]
    return ((z + 2 * eps * gradient.sign()).clamp(0, 1) + 1) / 2


# 2


@here.write(
    "bug_2",
    r"""a robust accuracy

Mend the count. `loader` gives batches `(x, y)`. `attack` is called as `attack(model, x, y, eps=eps)`.""",
    hints=(
        "What should the number say to somebody who uses the network?",
        "By how many images does the function divide? Is that all of them?",
        "Divide by *all* images. An image that is misread without an attack counts as misread.",
    ),
    explanation=r"""The function **divides by the digits read before the attack** and not by all. Of the 200 shifted digits the small CNN reads 153 (76.5%), and after FGSM it reads 94. So the function gives 94/153 = 61.4%, but the robust accuracy is 94/200 = 47.0%.

*Where it happened:* the authors of a benchmark of attacks were asked what their robust accuracy is divided by, and answered: by the images that were read correctly at first ([SCLBD/BlackboxBench, issue 1](https://github.com/SCLBD/BlackboxBench/issues/1)).

*How to see it:* call the function at $\epsilon = 0$ (*zero*).""",
)
def my_bug_2(model, loader, attack, eps):
    """The robust accuracy: the share of images, 0 to 1, read correctly after the attack."""
    ### BEGIN SOLUTION
    right, n = 0, 0
    for x, y in loader:
        x_adv = attack(model, x, y, eps=eps)
        right += (model(x_adv).argmax(1) == y).sum().item()
        n += len(y)
    return right / n
    ### END SOLUTION


@here.bug("bug_2", "stays the same if the network misreads ten more")
def bug_2(model, loader, attack, eps):
    """The robust accuracy: the share of images, 0 to 1, read correctly after the attack."""
    right, n = 0, 0
    for x, y in loader:
        worth_it = model(x).argmax(1) == y  # a misread image needs no attack
        x, y = x[worth_it], y[worth_it]
        x_adv = attack(model, x, y, eps=eps)
        right += (model(x_adv).argmax(1) == y).sum().item()
        n += len(y)
    return right / n


@here.mistake("bug_2", "rises if the network misreads more images before")
def misread_ones_count_as_survivors(model, loader, attack, eps):
    right, n = 0, 0
    for x, y in loader:
        first = model(x).argmax(1) == y
        right += (~first | (model(attack(model, x, y, eps=eps)).argmax(1) == y)).sum().item()
        n += len(y)
    return right / n


@here.mistake("bug_2", "in batches of 4, 4 and 3")
def mean_of_the_batches(model, loader, attack, eps):
    shares = [(model(attack(model, x, y, eps=eps)).argmax(1) == y).double().mean().item() for x, y in loader]
    return sum(shares) / len(shares)


@here.mistake("bug_2", "if the attack is left out")
def clean_images(model, loader, attack, eps):
    return my_bug_2(model, loader, lambda model, x, y, eps: x, eps)


@here.mistake("bug_2", "if the attack gets stronger")
def share_of_the_fooled(model, loader, attack, eps):
    return 1 - my_bug_2(model, loader, attack, eps)


@here.mistake("bug_2", "twice for an image")
def times_the_clean_accuracy(model, loader, attack, eps):
    return my_bug_2(model, loader, attack, eps) * my_bug_2(model, loader, lambda model, x, y, eps: x, eps)


@here.mistake("bug_2", "A share lies between 0 and 1")
def in_percent(model, loader, attack, eps):
    return 100 * my_bug_2(model, loader, attack, eps)


# 3


@here.write(
    "bug_3",
    r"""FGSM between two epochs

Mend the attack. It must work whether the network comes in train mode or in eval mode, and leave it in that mode. Attack the network itself and not a copy: `check` looks in which mode this network is called.""",
    hints=(
        "What does `.train()` do in the cell that runs the function?",
        "In train mode, batch norm uses the mean and the variance of the current batch. In eval mode it uses those kept from the training. In which mode is the gradient taken here?",
        "Keep `mode = model.training`. Then `model.eval()` before the gradient, `model.train(mode)` after it.",
    ),
    explanation=r"""The gradient is taken in **train mode**, where batch norm mixes the digits of the batch (notebook 1). A 2 becomes 1 in the batch 0, 2, but −1 in the batch 2, 4. (The VGG also takes the mean over all places of an image, so a digit alone has one.) The network is judged in eval mode, where mean and deviation are fixed. With the gradient in eval mode, FGSM leaves 39.0% in place of 70.0%.

*Where it happened:* in 2017 a user of the attack library Foolbox reported that attacks on PyTorch networks mostly failed, because the network was in train mode ([bethgelab/foolbox, issue 74](https://github.com/bethgelab/foolbox/issues/74)).

*How to see it:* attack a digit *alone*, then in a batch.""",
)
def my_bug_3(model, x, y, eps):
    """FGSM: the images, one step of size eps away from x, in [0, 1]."""
    ### BEGIN SOLUTION
    mode = model.training
    model.eval()
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(model(pixels), y, reduction="sum")
    gradient = torch.autograd.grad(loss, pixels)[0]
    model.train(mode)
    x_adv = x + eps * gradient.sign()
    return x_adv.clamp(0, 1)
    ### END SOLUTION


@here.bug("bug_3", "and once it was not as it is")
def bug_3(model, x, y, eps):
    """FGSM: the images, one step of size eps away from x, in [0, 1]."""
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(model(pixels), y, reduction="sum")
    gradient = torch.autograd.grad(loss, pixels)[0]
    x_adv = x + eps * gradient.sign()
    return x_adv.clamp(0, 1)


@here.mistake("bug_3", "came in train mode and was left in eval mode")
def left_in_eval_mode(model, x, y, eps):
    return bug_3(model.eval(), x, y, eps)


@here.mistake("bug_3", "came in eval mode and was left in train mode")
def left_in_train_mode(model, x, y, eps):
    x_adv = bug_3(model.eval(), x, y, eps)
    model.train()
    return x_adv


@here.mistake("bug_3", "and 5 times it was not as it is")
def mean_of_five_gradients_in_train_mode(model, x, y, eps):
    pixels = x.clone().requires_grad_()
    loss = sum(F.cross_entropy(model(pixels), y, reduction="sum") for _ in range(5))
    return (x + eps * torch.autograd.grad(loss, pixels)[0].sign()).clamp(0, 1)


@here.mistake("bug_3", "their values go from")
def without_the_clip(model, x, y, eps):
    mode = model.training
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(model.eval()(pixels), y, reduction="sum")
    model.train(mode)
    return x + eps * torch.autograd.grad(loss, pixels)[0].sign()


@here.mistake("bug_3", "moves the other way")
def downhill(model, x, y, eps):
    return my_bug_3(model, x, y, -eps)


# 4


@here.write(
    "bug_4",
    r"""PGD with a projection

Mend the attack. It takes `steps` steps of size `step_size` in the ball of radius `eps` around `x`.""",
    hints=(
        "Call `look(x_adv, x)`. Could these images be saved as files, without a change?",
        "There are two limits for a pixel: the ball, and black and white. Which of them does the function know?",
        "`.clamp(0, 1)` after the projection, *inside* the loop: the network should only get images.",
    ),
    explanation=r"""No line keeps the images in [0, 1]: a **missing clip**. Follow a black pixel: four steps down lead from 0 to −0.2. With the clip, PGD leaves 25.5% in place of 7.0%.

*Where it happened:* in 2019 the PGD of the Adversarial Robustness Toolbox (ART) had the projection onto the ball, but no clip ([Trusted-AI/adversarial-robustness-toolbox, issue 148](https://github.com/Trusted-AI/adversarial-robustness-toolbox/issues/148)).

*How to see it:* print the smallest and the largest value (*look*).""",
)
def my_bug_4(model, x, y, eps, step_size, steps):
    """PGD from x: images in [0, 1] that are no farther than eps from x."""
    ### BEGIN SOLUTION
    x_adv = x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x_adv)[0]
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = x_adv.clamp(min=x - eps, max=x + eps).clamp(0, 1)
    return x_adv
    ### END SOLUTION


@here.bug("bug_4", "their values go from -0.")
def bug_4(model, x, y, eps, step_size, steps):
    """PGD from x: images in [0, 1] that are no farther than eps from x."""
    x_adv = x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x_adv)[0]
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = x_adv.clamp(min=x - eps, max=x + eps)
    return x_adv


@here.mistake("bug_4", "on the way the network was asked about values")
def clipped_at_the_end(model, x, y, eps, step_size, steps):
    return bug_4(model, x, y, eps, step_size, steps).clamp(0, 1)


def with_limits(model, x, y, step_size, steps, low, high):
    x_adv = x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)[0]
        x_adv = (x_adv.detach() + step_size * gradient.sign()).clamp(min=low, max=high)
    return x_adv


@here.mistake("bug_4", "epsilon away from the image")
def clip_in_place_of_the_projection(model, x, y, eps, step_size, steps):
    return with_limits(model, x, y, step_size, steps, torch.zeros_like(x), torch.ones_like(x))


@here.mistake("bug_4", "their values go from 0.00 to 1.")
def no_darker_than_black_only(model, x, y, eps, step_size, steps):
    return with_limits(model, x, y, step_size, steps, (x - eps).clamp_min(0), x + eps)


@here.mistake("bug_4", "to 1.00")
def no_brighter_than_white_only(model, x, y, eps, step_size, steps):
    return with_limits(model, x, y, step_size, steps, x - eps, (x + eps).clamp_max(1))


@here.mistake("bug_4", "of the pixels are where our own PGD")
def one_large_step(model, x, y, eps, step_size, steps):
    return with_limits(model, x, y, step_size * steps, 1, (x - eps).clamp_min(0), (x + eps).clamp_max(1))


# 5


@here.write(
    "bug_5",
    r"""FGSM on the cross-entropy

Mend the attack. The network returns logits.""",
    hints=(
        "Look at a single image for which the network is very sure, before and after the attack.",
        "Print the gradient of such an image. Which line makes it exactly zero? What is the derivative of `clamp` outside its limits?",
        "`F.cross_entropy` takes logits. It never takes the logarithm of 0, so it needs no clamp. Use it in place of the three lines.",
    ),
    explanation=r"""The loss is taken from **clamped probabilities**. Whether the probability of the label is 0.9995 or 0.9999, the clamp makes 0.999 of it. So the gradient is exactly zero, and these digits come back as they were. With the cross-entropy of the logits, FGSM leaves 39.0% in place of 75.0%.

*Where it happened:* another fault had a similar effect. In 2018 a user of CleverHans saw that FGSM left 45% of the test digits unchanged. A maintainer named a common cause: the attack gets probabilities and takes them for logits ([cleverhans-lab/cleverhans, issue 350](https://github.com/cleverhans-lab/cleverhans/issues/350)).

*How to see it:* count the digits that come back unchanged (*look*).""",
)
def my_bug_5(model, x, y, eps):
    """FGSM on the cross-entropy: the images, one step of size eps away from x, in [0, 1]."""
    ### BEGIN SOLUTION
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(model(pixels), y, reduction="sum")
    gradient = torch.autograd.grad(loss, pixels)[0]
    return (x + eps * gradient.sign()).clamp(0, 1)
    ### END SOLUTION


@here.bug("bug_5", "leads by 20 or more")
def bug_5(model, x, y, eps):
    """FGSM on the cross-entropy: the images, one step of size eps away from x, in [0, 1]."""
    pixels = x.clone().requires_grad_()
    p = model(pixels).softmax(1)
    p_label = p.gather(1, y[:, None]).clamp(1e-3, 1 - 1e-3)  # the log of 0 is minus infinity
    loss = -p_label.log().sum()
    gradient = torch.autograd.grad(loss, pixels)[0]
    return (x + eps * gradient.sign()).clamp(0, 1)


def on_loss(model, x, eps, loss_of):
    pixels = x.clone().requires_grad_()
    gradient = torch.autograd.grad(loss_of(model(pixels)), pixels)[0]
    return (x + eps * gradient.sign()).clamp(0, 1)


@here.mistake("bug_5", "lies 20 or more behind")
def no_upper_limit(model, x, y, eps):
    return on_loss(model, x, eps, lambda z: -z.softmax(1).gather(1, y[:, None]).clamp_min(1e-7).log().sum())


@here.mistake("bug_5", "lies 110 or more behind")
def no_limit(model, x, y, eps):
    return on_loss(model, x, eps, lambda z: -z.softmax(1).gather(1, y[:, None]).log().sum())


@here.mistake("bug_5", "of the pixels move against what")
def a_second_softmax(model, x, y, eps):
    return on_loss(model, x, eps, lambda z: F.cross_entropy(z.softmax(1), y, reduction="sum"))


@here.mistake("bug_5", "of the pixels move against what")
def the_logit_of_the_label_alone(model, x, y, eps):
    return on_loss(model, x, eps, lambda z: F.nll_loss(z, y, reduction="sum"))


@here.mistake("bug_5", "moves the other way")
def a_sign_lost(model, x, y, eps):
    return on_loss(model, x, eps, lambda z: F.log_softmax(z, 1).gather(1, y[:, None]).sum())


@here.mistake("bug_5", "a pixel moved by")
def larger_where_it_is_sure(model, x, y, eps):
    return my_bug_5(model, x, y, 2 * eps)


# 6


@here.write(
    "bug_6",
    r"""restarts

Mend the choice among the runs. Call `attack(model, x, y, eps=eps)` `restarts` times, each time on all clean images. The result must lie within `eps` of `x`.""",
    hints=(
        "The attacker may send any image that fools the network. How does the function decide which ones to keep?",
        "Take four images. The first run fools the images 1 and 2, and the second run the images 3 and 4. What should come back, and what does come back?",
        "Keep a batch `best`. After each run replace only the images that this run fools: `best[fooled] = x_adv[fooled]`.",
    ),
    explanation=r"""The function keeps the best *batch*, not the best version of each image: **restarts chosen per batch**. Of the four images of hint 2, each run leaves 50%. But an attacker can choose another run for each image, which leaves 0%.

Here the best batch leaves 59.0%. Chosen for each image, the same 20 runs leave 39.5%.

*Where it happened:* the PGD of the Adversarial Robustness Toolbox (ART) kept the run with the best mean over the data. It was reported in 2020 ([issue 714](https://github.com/Trusted-AI/adversarial-robustness-toolbox/issues/714)) and mended in [pull request 765](https://github.com/Trusted-AI/adversarial-robustness-toolbox/pull/765).

*How to see it:* attack each image *alone*.""",
)
def my_bug_6(model, x, y, attack, eps, restarts):
    """For each image the strongest version, within eps of it, that several runs find."""
    ### BEGIN SOLUTION
    best = x.clone()
    for _ in range(restarts):
        x_adv = attack(model, x, y, eps=eps)
        fooled = model(x_adv).argmax(1) != y
        best[fooled] = x_adv[fooled]
    return best
    ### END SOLUTION


@here.bug("bug_6", "So many does the best run leave")
def bug_6(model, x, y, attack, eps, restarts):
    """For each image the strongest version, within eps of it, that several runs find."""
    best, least = x, 1.0
    for _ in range(restarts):
        x_adv = attack(model, x, y, eps=eps)
        right = model(x_adv).argmax(1) == y
        accuracy = right.double().mean().item()
        if accuracy < least:
            best, least = x_adv, accuracy
    return best


@here.mistake("bug_6", "So many does the last run leave")
def the_last_run(model, x, y, attack, eps, restarts):
    for _ in range(restarts):
        x_adv = attack(model, x, y, eps)
    return x_adv


@here.mistake("bug_6", "no run had fooled any")
def those_that_failed(model, x, y, attack, eps, restarts):
    best = x.clone()
    for _ in range(restarts):
        x_adv = attack(model, x, y, eps)
        right = model(x_adv).argmax(1) == y
        best[right] = x_adv[right]
    return best


@here.mistake("bug_6", "The attack was called once")
def until_one_image_is_fooled(model, x, y, attack, eps, restarts):
    for _ in range(restarts):
        x_adv = attack(model, x, y, eps)
        if (model(x_adv).argmax(1) != y).any():
            break
    return x_adv


@here.mistake("bug_6", "The attack was called 8 times")
def two_calls_for_each_restart(model, x, y, attack, eps, restarts):
    best = x.clone()
    for _ in range(restarts):
        fooled = model(attack(model, x, y, eps)).argmax(1) != y
        best[fooled] = attack(model, x, y, eps)[fooled]
    return best


@here.mistake("bug_6", "none that a run of the attack has made")
def mean_of_the_runs(model, x, y, attack, eps, restarts):
    return sum(attack(model, x, y, eps) for _ in range(restarts)) / restarts


@here.mistake("bug_6", "given images in which a pixel is 0.6 away")
def from_the_best_batch_so_far(model, x, y, attack, eps, restarts):
    best, least = x, 1.0
    for _ in range(restarts):
        x_adv = attack(model, best, y, eps)
        accuracy = (model(x_adv).argmax(1) == y).double().mean().item()
        if accuracy < least:
            best, least = x_adv, accuracy
    return best


@here.mistake("bug_6", "given images in which a pixel is 0.6 away")
def one_run_after_the_other(model, x, y, attack, eps, restarts):
    for _ in range(restarts):
        x = attack(model, x, y, eps)
    return x


@here.mistake("bug_6", "2.00 epsilon away")
def with_twice_the_radius(model, x, y, attack, eps, restarts):
    return my_bug_6(model, x, y, attack, 2 * eps, restarts)


@here.mistake("bug_6", "of the 16 images, not all of them")
def only_those_that_are_left(model, x, y, attack, eps, restarts):
    best = x.clone()
    for _ in range(restarts):
        left = model(best).argmax(1) == y
        best[left] = attack(model, x[left], y[left], eps)
    return best


# 7


@here.write(
    "bug_7",
    r"""test images

Mend the choice of the test images. All images of the pool that the network was not trained on shall come back, in an order drawn from the generator.""",
    hints=(
        "Take an image that comes back, and look for it in the training: `(image == pool_x[trained_on]).flatten(1).all(1).any()`.",
        "`trained_on` holds positions. Positions in what? Follow `x` line by line.",
        "Leave out the images first, and shuffle the rest afterwards.",
    ),
    explanation=r"""The pool is shuffled *before* the images are left out. Take a pool of four images. `trained_on` is 0 and 1: A and B.

| position | 0 | 1 | 2 | 3 |
|---|---|---|---|---|
| the pool | A | B | C | D |
| shuffled | C | A | D | B |

C and A are now at the positions 0 and 1, so they are left out, and D and B come back. But the network was trained on B.

So the **test set is in the training**, here 146 of 200 images. On the 200 digits that the network has not seen, FGSM leaves 33.0% in place of 73.0%.

*Where it happened:* in a similar way, the script that measured a defence under attack loaded the *training* part of CIFAR-10 ([xuanqing94/RobGAN, issue 9](https://github.com/xuanqing94/RobGAN/issues/9)).

*How to see it:* *compare* the test images with those of the training.""",
)
def my_bug_7(x, y, trained_on, generator):
    """Test images and labels: those of the pool that are not trained_on, in random order."""
    ### BEGIN SOLUTION
    unseen = torch.ones(len(x), dtype=torch.bool)
    unseen[trained_on] = False
    x, y = x[unseen], y[unseen]
    order = torch.randperm(len(x), generator=generator)
    return x[order], y[order]
    ### END SOLUTION


@here.bug("bug_7", "are images that the network was trained on")
def bug_7(x, y, trained_on, generator):
    """Test images and labels: those of the pool that are not trained_on, in random order."""
    order = torch.randperm(len(x), generator=generator)
    x, y = x[order], y[order]
    unseen = torch.ones(len(x), dtype=torch.bool)
    unseen[trained_on] = False
    return x[unseen], y[unseen]


@here.mistake("bug_7", "have the label of another image")
def labels_left_behind(x, y, trained_on, generator):
    unseen = torch.ones(len(x), dtype=torch.bool)
    unseen[trained_on] = False
    order = torch.randperm(int(unseen.sum()), generator=generator)
    return x[unseen][order], y[unseen]


@here.mistake("bug_7", "All of your 12 test images")
def the_training_images(x, y, trained_on, generator):
    order = trained_on[torch.randperm(len(trained_on), generator=generator)]
    return x[order], y[order]


@here.mistake("bug_7", "in which they stood in the pool")
def not_shuffled(x, y, trained_on, generator):
    unseen = torch.ones(len(x), dtype=torch.bool)
    unseen[trained_on] = False
    return x[unseen], y[unseen]


@here.mistake("bug_7", "the same seed gave different orders")
def shuffled_without_the_generator(x, y, trained_on, generator):
    return my_bug_7(x, y, trained_on, None)


@here.mistake("bug_7", "different seeds gave the same order")
def shuffled_with_a_seed_of_its_own(x, y, trained_on, generator):
    return my_bug_7(x, y, trained_on, torch.Generator().manual_seed(0))


@here.mistake("bug_7", "of your 20 test images")
def the_whole_pool(x, y, trained_on, generator):
    order = torch.randperm(len(x), generator=generator)
    return x[order], y[order]


@here.mistake("bug_7", "You give back 4 of them")
def half_of_them(x, y, trained_on, generator):
    x, y = my_bug_7(x, y, trained_on, generator)
    return x[::2], y[::2]


@here.mistake("bug_7", "The same image is there twice")
def drawn_with_replacement(x, y, trained_on, generator):
    x, y = my_bug_7(x, y, trained_on, generator)
    drawn = torch.tensor([0, *range(len(x) - 1)])
    return x[drawn], y[drawn]


# 8


@here.write(
    "bug_8",
    r"""PGD for any epsilon

Mend the attack. It is called with many values of `eps` and of `steps`. Use exactly `steps` gradients.""",
    hints=(
        "Look at the three printed numbers. What changes from call to call, and what does the attack make of it?",
        r"Multiply: how far can a pixel go in 10 steps of 0.007? How far does the ball at $\epsilon = 0.2$ reach?",
        r"For any number of steps, all of them together should be able to cross the ball from edge to edge, a way of $2\epsilon$. In one of their measurements, Madry and others used $2.5\,\epsilon / \text{steps}$.",
    ),
    explanation=r"""The **steps are too small**. Ten steps of 0.007 move a pixel by 0.07 at most, although the ball has a radius of 0.2. So the same images come back for every $\epsilon$ above 0.07. With steps of $2.5\,\epsilon/10$, PGD at 0.2 leaves 17.0% in place of 90.5%.

*Where it happened:* in the public code of a defence, the step of PGD was fixed at 0.007. A user reported that different values of $\epsilon$ gave the same images ([xuanqing94/BayesianDefense, issue 8](https://github.com/xuanqing94/BayesianDefense/issues/8)).

*How to see it:* print the largest move (*look*).""",
)
def my_bug_8(model, x, y, eps, steps):
    """PGD with `steps` steps that can move a pixel by eps, and by no more: images in [0, 1]."""
    ### BEGIN SOLUTION
    x_adv, step_size = x.clone(), 2.5 * eps / steps
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x_adv)[0]
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = x_adv.clamp(min=x - eps, max=x + eps).clamp(0, 1)
    return x_adv
    ### END SOLUTION


@here.bug("bug_8", "if all steps have the same sign")
def bug_8(model, x, y, eps, steps):
    """PGD with `steps` steps that can move a pixel by eps, and by no more: images in [0, 1]."""
    x_adv, step_size = x.clone(), 0.007
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x_adv)[0]
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = x_adv.clamp(min=x - eps, max=x + eps).clamp(0, 1)
    return x_adv


def with_step(model, x, y, eps, step_size, steps):
    return my_bug_4(model, x, y, eps, step_size, steps)


@here.mistake("bug_8", "came to 0.50 epsilon")
def another_fixed_step(model, x, y, eps, steps):
    return with_step(model, x, y, eps, 0.05, steps)


@here.mistake("bug_8", "led the first of 10 steps the wrong way")
def just_enough_on_a_straight_way(model, x, y, eps, steps):
    return with_step(model, x, y, eps, eps / steps, steps)


@here.mistake("bug_8", "The network was asked 100 times")
def ten_times_as_many_steps(model, x, y, eps, steps):
    return with_step(model, x, y, eps, 0.007, 10 * steps)


@here.mistake("bug_8", "epsilon away from the image")
def without_the_projection(model, x, y, eps, steps):
    return with_step(model, x, y, 1.0, 2.5 * eps / steps, steps)


@here.mistake("bug_8", "their values go from")
def without_the_clip_to_images(model, x, y, eps, steps):
    return bug_4(model, x, y, eps, 2.5 * eps / steps, steps)


@here.mistake("bug_8", "came to 0.75 epsilon")
def step_that_knows_epsilon_only(model, x, y, eps, steps):
    return with_step(model, x, y, eps, eps / 4, steps)


# 9


@here.write(
    "bug_9",
    r"""FGSM on somebody else's network

Mend the measurement. `x` are images in [0, 1], and `eps` is a distance of their pixels. The network was trained on `(x - bare.mean) / bare.std`.""",
    hints=(
        "Run the function at `eps=0`. Is this the accuracy that you know of this network?",
        "Which values did black and white pixels have in the training of this network? Which do they have here?",
        "`Normalize(bare.mean, bare.std)` in place of the two fixed numbers. All the rest can stay.",
    ),
    explanation=r"""The network was trained on $(x - 0.5)/0.5$. It gets $(x - 0.1307)/0.3081$, with the mean and the standard deviation of MNIST: the **wrong normalisation**.

| | black | white | a move of 0.1 |
|---|---|---|---|
| as in the training | −1 | 1 | 0.20 |
| as `bug_9` gives it | −0.42 | 2.82 | 0.32 |

This has two effects. Without an attack, the network reads 89.0% in place of 97.0%. And a move is 1.6 times as large for it, as if $\epsilon$ were 0.16. But even at 0.2 a correct FGSM leaves 53.5%, so the larger move alone does not explain 44.5%. With the network's own numbers, FGSM at 0.1 leaves 87.0%, as in *One bug together*.

*Where it happened:* in PyTorch's own tutorial on FGSM. Its network, trained on normalised digits, was fed digits that were not. A user asked about it in 2020 ([pytorch/tutorials, issue 1032](https://github.com/pytorch/tutorials/issues/1032)) and it was mended in 2023 ([pull request 2419](https://github.com/pytorch/tutorials/pull/2419)).

*How to see it:* compare its number at $\epsilon = 0$ with the known clean accuracy (*zero*).""",
)
def my_bug_9(bare, x, y, eps):
    """The share that FGSM leaves to a network trained on (x - bare.mean) / bare.std."""
    ### BEGIN SOLUTION
    model = nn.Sequential(Normalize(bare.mean, bare.std), bare)
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(model(pixels), y, reduction="sum")
    gradient = torch.autograd.grad(loss, pixels)[0]
    x_adv = (x + eps * gradient.sign()).clamp(0, 1)
    return (model(x_adv).argmax(1) == y).double().mean().item()
    ### END SOLUTION


@here.bug("bug_9", "the first time, about values from -0.42 to 2.82")
def bug_9(bare, x, y, eps):
    """The share that FGSM leaves to a network trained on (x - bare.mean) / bare.std."""
    model = nn.Sequential(Normalize(0.1307, 0.3081), bare)  # mean, standard deviation of MNIST
    pixels = x.clone().requires_grad_()
    loss = F.cross_entropy(model(pixels), y, reduction="sum")
    gradient = torch.autograd.grad(loss, pixels)[0]
    x_adv = (x + eps * gradient.sign()).clamp(0, 1)
    return (model(x_adv).argmax(1) == y).double().mean().item()


def share_of(first, last, x, y, eps, low=0, high=1):
    pixels = x.clone().requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(first(pixels), y, reduction="sum"), pixels)[0]
    x_adv = (x + eps * gradient.sign()).clamp(low, high)
    return (last(x_adv).argmax(1) == y).double().mean().item()


@here.mistake("bug_9", "the first time, about values from 0.00 to 1.00")
def not_at_all(bare, x, y, eps):
    return share_of(bare, bare, x, y, eps)


@here.mistake("bug_9", "the last time, about values from 0.00 to 1.00")
def for_the_gradient_only(bare, x, y, eps):
    return share_of(nn.Sequential(Normalize(bare.mean, bare.std), bare), bare, x, y, eps)


@here.mistake("bug_9", "the first time, about values from -")
def divided_before_the_mean(bare, x, y, eps):
    model = nn.Sequential(Normalize(bare.mean * bare.std, bare.std), bare)
    return share_of(model, model, x, y, eps)


@here.mistake("bug_9", "moved by 0.")
def epsilon_in_the_unit_of_the_network(bare, x, y, eps):
    z, black, white = ((v - bare.mean) / bare.std for v in (x, torch.tensor(0.0), torch.tensor(1.0)))
    return share_of(bare, bare, z, y, eps, black, white)


@here.mistake("bug_9", "Back in pixels")
def without_the_clip_to_pixels(bare, x, y, eps):
    model = nn.Sequential(Normalize(bare.mean, bare.std), bare)
    return share_of(model, model, x, y, eps, -9, 9)


# 10


@here.write(
    "bug_10",
    r"""the accuracy under attack, epoch by epoch

Mend the measurement. `epochs` holds the weights after each epoch, as `state_dict()` gives them. `attack` is called as `attack(network, x, y, eps=eps)`.""",
    hints=(
        "After each epoch, one network is attacked, and one reads the images. An `attack` of your own can print the logits of the first: `def listen(attacked, x, y, eps): print(attacked(x)); return x`.",
        "When was the copy made, and when do the weights change? Which weights does the copy have in the second epoch?",
        "Make the copy inside the loop, *after* `load_state_dict`.",
    ),
    explanation=r"""The copy is made once, before the loop, so it does not change when the weights of the network change: a **stale copy**. After epoch 2 the network has the weights of the defended VGG, the copy still those of the clean VGG. So the images are made on the old network and shown to the new one. An attack on the network itself leaves 18.0% in place of 88.0%.

*Where it happened:* not in a stale copy, but in the plan of a whole comparison. The images of the benchmark DEEPSEC were made on an undefended network and then shown to all defended ones ([ryderling/DEEPSEC, issue 1](https://github.com/ryderling/DEEPSEC/issues/1)).

*How to see it:* *compare* the logits of the two networks.""",
)
def my_bug_10(model, epochs, attack, x, y, eps):
    """A list: the accuracy after each epoch, under an attack on the model of that epoch."""
    ### BEGIN SOLUTION
    model.eval()
    left = []
    for weights in epochs:
        model.load_state_dict(weights)
        twin = copy.deepcopy(model)
        x_adv = attack(twin, x, y, eps=eps)
        right = model(x_adv).argmax(1) == y
        left.append(right.double().mean().item())
    return left
    ### END SOLUTION


@here.bug("bug_10", "made on the weights before the training")
def bug_10(model, epochs, attack, x, y, eps):
    """A list: the accuracy after each epoch, under an attack on the model of that epoch."""
    model.eval()
    twin = copy.deepcopy(model)  # for the attack
    left = []
    for weights in epochs:
        model.load_state_dict(weights)
        x_adv = attack(twin, x, y, eps=eps)
        right = model(x_adv).argmax(1) == y
        left.append(right.double().mean().item())
    return left


@here.mistake("bug_10", "weights of one epoch earlier")
def copied_before_the_weights_are_loaded(model, epochs, attack, x, y, eps):
    left = []
    for weights in epochs:
        twin = copy.deepcopy(model).eval()
        model.load_state_dict(weights)
        left += bug_10_of(twin, model, attack, x, y, eps)
    return left


def bug_10_of(twin, model, attack, x, y, eps):
    return [(model.eval()(attack(twin, x, y, eps=eps)).argmax(1) == y).double().mean().item()]


@here.mistake("bug_10", "After epoch 3 your numbers are others")
def the_parameters_without_the_statistics(model, epochs, attack, x, y, eps):
    twin, left = copy.deepcopy(model).eval(), []
    for weights in epochs:
        model.load_state_dict(weights)
        for old, new in zip(twin.parameters(), model.parameters()):
            old.data.copy_(new.data)
        left += bug_10_of(twin, model, attack, x, y, eps)
    return left


@here.mistake("bug_10", "made and read with the weights before the training")
def read_by_the_copy(model, epochs, attack, x, y, eps):
    twin = copy.deepcopy(model).eval()
    return [bug_10_of(twin, twin, attack, x, y, eps)[0] for _ in epochs]


@here.mistake("bug_10", "made and read with the weights after the training")
def the_last_weights_for_all(model, epochs, attack, x, y, eps):
    model.load_state_dict(epochs[-1])
    return [bug_10_of(model, model, attack, x, y, eps)[0] for _ in epochs]


@here.mistake("bug_10", "not a list of numbers")
def the_last_epoch_only(model, epochs, attack, x, y, eps):
    return my_bug_10(model, epochs, attack, x, y, eps)[-1]


@here.mistake("bug_10", "made on the weights after the training")
def copied_at_the_end(model, epochs, attack, x, y, eps):
    model.load_state_dict(epochs[-1])
    return bug_10(model, epochs, attack, x, y, eps)
