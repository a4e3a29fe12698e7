"""What checks the exercises of notebook 11: units of work, a clock read, what fits, gradients of several processes."""

import itertools

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from advutils.exercises.framework import Exercise, Prediction, expect, expect_like


def times_a_plain_training():
    """How many times a plain step a mixed step with PGD-3 costs, in counted FLOPs of 20 linear layers."""
    with torch.device("meta"):  # shapes alone: nothing is computed or drawn
        net, x = nn.Sequential(*(nn.Linear(32, 32) for _ in range(20))), torch.empty(8, 32)

    def flops(images):
        with FlopCounterMode(display=False) as counter:
            net(images).sum().backward()
        return counter.get_total_flops()

    training_step = flops(x)
    net.requires_grad_(False)
    attack_step = flops(x.requires_grad_())
    return (3 * attack_step + 2 * training_step) / training_step


mixed_cost = Prediction(
    "mixed_cost", 11, times_a_plain_training, within=0.15,
    remarks={
        (4.9, 5.1): "That counts passes: three for the attack, two for the training. An attack step costs less.",
        (2.9, 3.1): "That is PGD-3 alone. Here the network is trained on the clean images, too.",
        (11.9, 12.1): "Those are the units. How many units has a plain training?",
        (2.6, 2.75): "That is mixed FGSM. The attack has three steps here.",
    },
    reason="Three attack steps of 2 units and two training steps of 3 units are 12 units, against 3 for a plain "
    "training: {truth} times. (The counted number is not exactly 4, because nobody asks for the gradient of the input "
    "in the first layer of a training step.)",
)  # fmt: skip


seconds_an_image = Exercise("seconds_an_image", 11)


def clock(case, epochs):
    """When each epoch of a rehearsal ended, the first of which is slow, and its number of images."""
    lengths = [10.0, *(case.number(1, 2) for _ in range(epochs - 1))]
    return [round(end, 3) for end in itertools.accumulate(lengths)], 100 + case.seed % 300


@seconds_an_image.test("two epochs: the second one alone")
def _(mine, case):
    (first, both), n = clock(case, 2)
    value = float(mine([first, both], n))
    seen = {
        "That is the first epoch.": first / n,
        "It ended then; when did it begin?": both / n,
        "The first epoch counts in it.": both / n / 2,
        "That is the time of the whole epoch.": both - first,
    }
    near = next((text for text, other in seen.items() if abs(value - other) < 1e-5), "")
    told = f"The first epoch of {n} images ended after {first} s, the second after {both} s: "
    expect(abs(value - (both - first) / n) < 1e-6, f"{told}{(both - first) / n:.5f} s, yours {value:.5f}. {near}")


@seconds_an_image.test("a slower first epoch changes nothing")
def _(mine, case):
    seconds, n = clock(case, 4)
    one, two = float(mine(seconds, n)), float(mine([10 + at for at in seconds], n))
    expect(abs(one - two) < 1e-6, f"The first epoch took 10 s more, no other did: {one:.5f} s became {two:.5f} s.")


@seconds_an_image.test("more epochs: the mean of all but the first")
def _(mine, case):
    seconds, n = [12.0, 14.0, 15.0, 19.0], 200 + case.seed % 300
    value, truth = float(mine(seconds, n)), (2 + 1 + 4) / 3 / n
    seen = {"That is the second epoch alone.": 2 / n, "That is the last epoch alone.": 4 / n,
            "That is the sum of the epochs.": 7 / n, "The sum of three epochs is divided by 4.": 7 / 4 / n}  # fmt: skip
    near = next((text for text, other in seen.items() if abs(value - other) < 1e-6), "")
    told = f"Epochs 2 to 4 took 2, 1 and 4 s for {n} images: {truth:.5f} s, yours {value:.5f}."
    expect(abs(value - truth) < 1e-6, f"{told} {near}")


largest_k = Exercise("largest_k", 11)


def hours_of(k, seconds, n_images, epochs, error):
    """By the counting rule, with its error."""
    return seconds * (2 * k + 3) / 3 * n_images * epochs * error / 3600


def plan(case, k, part):
    """A training of which PGD-k fits, and PGD-(k + 1) does not: part of the hours between the two are there."""
    job = (case.number(0.002, 0.004), 60_000, 10 + case.seed % 5, 1.56)
    below, above = hours_of(k, *job), hours_of(k + 1, *job)
    return below + part * (above - below), job


def enumerated(hours, job):
    k = -1
    while hours_of(k + 1, *job) <= hours:
        k += 1
    return k


@largest_k.test("the training fits into the hours, even on the slow end of the range")
def _(mine, case):
    hours, job = plan(case, 9 + case.seed % 4, 0.8)
    k, error = float(mine(hours, *job)), job[-1]
    expect(k == int(k), f"Your number of steps is {k:.2f}; an attack has a whole number of steps.")
    seen = {
        "That would fit if the prediction were exact.": enumerated(hours * error, job),
        "The error makes your training faster.": enumerated(hours * error**2, job),
        "That would fit into 60 times as many hours.": enumerated(hours * 60, job),
    }
    near = next((text for text, other in seen.items() if abs(k - other) <= 1), "")
    needs = hours_of(k, *job)
    expect(needs <= hours, f"There are {hours:.1f} hours. PGD-{k:.0f} takes {needs:.1f}. {near}")


@largest_k.test("one step more would not fit")
def _(mine, case):
    hours, job = plan(case, 9 + case.seed % 4, 0.3)
    k = float(mine(hours, *job))
    seen = {
        "Your rule counts an attack step as much as a training step.": hours / hours_of(0, *job) - 1,
        "Your rule counts 2k + 3 plain trainings.": (hours / hours_of(0, *job) - 3) / 2,
    }
    near = next((text for text, other in seen.items() if 0 <= other - k < 1), "")
    needs = hours_of(k + 1, *job)
    expect(
        needs > hours, f"There are {hours:.1f} hours. PGD-{k + 1:.0f} takes {needs:.1f}: it would fit as well. {near}"
    )


@largest_k.test("0 where only plain training fits, and -1 where nothing fits")
def _(mine, case):
    hours, job = plan(case, 0, 0.5)
    k = float(mine(hours, *job))
    expect(k == 0, f"Plain training fits and PGD-1 does not, yours is {k:g}.")
    for part in (0.9, 0.5, 0.1):
        k = float(mine(part * hours_of(0, *job), *job))
        expect(k == -1, f"There is {part:.0%} of the time of a plain training, yours is {k:g}.")


joined_gradient = Exercise("joined_gradient", 11)


def processes(case, sizes):
    """Gradients of the mean loss of each process's images, (G, D), and that of all images in one batch, (D,)."""
    n, model = sum(sizes), case.linear()
    x, y = case.images(n), case.labels(n)
    p = (x.flatten(1).double() @ model.weight.detach().double().T).softmax(1) - torch.eye(4).double()[y]
    each = (p[:, :, None] * x.flatten(1)[:, None]).flatten(1)
    own = [part.mean(0) if len(part) else torch.zeros(each.shape[1]) for part in each.split(sizes)]
    return torch.stack(own).float(), torch.tensor(sizes), each.mean(0)


@joined_gradient.test("one gradient, as long as that of a process")
def _(mine, case):
    gradients, sizes, whole = processes(case, [4, 4, 4])
    expect_like(mine(gradients, sizes), whole, "numbers")


@joined_gradient.test("parts of equal size: the mean of the gradients")
def _(mine, case):
    gradients, sizes, whole = processes(case, [4, 4, 4])
    joined = mine(gradients, sizes).double()
    ratio = (joined @ whole / (whole @ whole)).item()
    symptom = f"Three processes with 4 images each: your gradient is {ratio:.2f} times as long as that of the batch."
    expect((joined - whole).abs().max() < 1e-4 * whole.abs().max(), symptom)


@joined_gradient.test("parts of unequal size: the gradient of the whole batch, worked out by hand")
def _(mine, case):
    counts = [1, 3 + case.seed % 3, 8]
    gradients, sizes, whole = processes(case, counts)
    joined, rows = mine(gradients, sizes), gradients.double()
    n = sizes.double()
    seen = {
        "Each process has the same say, whether it has one image or eight.": rows.mean(0),
        "The process with the fewest images has the most to say.": (rows / n[:, None]).sum(0) / (1 / n).sum(),
    }
    near = next((text for text, g in seen.items() if (g - joined).abs().max() < 1e-4 * g.abs().max()), "")
    off = ((joined - whole).norm() / whole.norm()).item()
    expect(
        off < 1e-4, f"Processes with {counts} images: your gradient is {off:.0%} away from that of the batch. {near}"
    )


@joined_gradient.test("a process without images has no say")
def _(mine, case):
    gradients, sizes, whole = processes(case, [5, 0, 3])
    off = ((mine(gradients, sizes) - whole).norm() / whole.norm()).item()
    expect(off < 1e-4, f"Processes with 5, 0 and 3 images: your gradient is {off:.0%} away from that of the batch.")
