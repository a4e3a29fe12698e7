"""What checks the mended functions of notebook 13, find the bug. A test passes what is right in whatever way."""

from functools import partial

import torch
from torch import nn

from advutils.attacks.gradient import fgsm
from advutils.exercises.cases import Case, FirstPixels, Linear, batches, clear, lower_label
from advutils.exercises.framework import Exercise, expect, expect_like

FOUND: set = set()  # the bugs that this session has mended, so that a check that is run twice counts once


def bugs_found() -> str:
    """How many of the ten bugs this session has mended; one sentence."""
    return f"You have found {len(FOUND)} of 10 bugs."


def found(name, mine):
    FOUND.add(name)
    print(bugs_found())


def bug(number):
    return Exercise(f"bug_{number}", 13, show=partial(found, f"bug_{number}"))


class Watched(Linear):
    """A linear model that remembers the first and the last batch of n images that it was asked about, and extremes."""

    def __init__(self, weight, n, mean=0.0, std=1.0):
        super().__init__(weight)
        self.mean, self.std = mean, std
        self.register_buffer("first", torch.full((n, weight.shape[1]), torch.nan))
        self.register_buffer("last", torch.full((n, weight.shape[1]), torch.nan))
        self.register_buffer("extremes", torch.tensor([torch.inf, -torch.inf]))

    def forward(self, x):
        flat = x.detach().flatten(1)
        if flat.shape == self.last.shape:
            self.first.copy_(flat if self.first.isnan().all() else self.first)
            self.last.copy_(flat)
        self.extremes.copy_(
            torch.stack([self.extremes[0].minimum(flat.min()), self.extremes[1].maximum(flat.max())]),
        )
        return super().forward(x)


class Turning(Linear):
    """A linear model whose first pass gives a gradient that points the wrong way."""

    def forward(self, x):
        first = self.passes[0] == 0
        logits = super().forward(x)
        return -logits if first else logits


class Turns(FirstPixels):
    """Remembers what runs of an attack on it were given: how many runs, the fewest images, the farthest pixel."""

    def __init__(self, clean):
        super().__init__()
        for name, value in dict(clean=clean, runs=0.0, least=float(len(clean)), away=0.0).items():
            self.register_buffer(name, torch.as_tensor(value).clone())

    def begin(self, x):
        """Note the images that a run is given, and say which run it is."""
        self.runs += 1
        self.least.clamp_(max=len(x))
        if len(x) == len(self.clean):
            self.away.clamp_(min=(x - self.clean).abs().max().item())
        return int(self.runs.item()) - 1


TURNS = (6, 2, 5, 3)  # how many images each run of `in_turns` fools, each image by one run only


def in_turns(model, x, y, eps):
    """An attack on `Turns`: the first run darkens the labels of the first six images, the next one of two more."""
    run = model.begin(x) % len(TURNS)
    rows = torch.arange(sum(TURNS[:run]), sum(TURNS[: run + 1]))
    rows = rows[rows < len(x)]  # those that are there, where only a part was given
    x_adv = x.clone()
    x_adv[rows, 0, 0, y[rows]] -= eps
    return x_adv


def darker(model, x, y, eps):
    """Another one: the same in each run, the label's pixel of all images darker by eps."""
    model.begin(x)
    return lower_label(model, x, y, eps=eps)


def span(low, high):
    return f"from {low:.2f} to {high:.2f}"


def expect_images(result, x):
    """The result, which must be a batch of images like x."""
    result = expect_like(result, x)
    inside = (result >= 0).all() and (result <= 1).all()
    expect(inside, f"Your images are no images: their values go {span(result.min(), result.max())}.")
    return result


def expect_in_ball(x_adv, x, eps):
    far = (x_adv - x).abs().max()
    expect(far <= eps + 1e-5, f"At epsilon {eps:.3f} a pixel lies {far / eps:.2f} epsilon away from the image.")


def expect_way(moved, gradient):
    """Each pixel moves as the sign of the gradient says, wherever that sign can be relied on."""
    off = (moved.sign() != gradient.sign())[clear(gradient)].double().mean()
    expect(off < 0.9, "Every pixel moves the other way: the loss of the labels falls.")
    expect(off == 0, f"{off:.0%} of the pixels move against what the loss of the labels asks for.")


def often(times):
    return "once" if times == 1 else f"{times} times"


def mode_of(model):
    return "train mode" if model.training else "eval mode"


# 1: the unit of epsilon

bug_1 = bug(1)


@bug_1.test("the result is a batch of images in [0, 1], as x is")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.linear(), x, case.labels(), 0.1), x)


@bug_1.test("the network gets what it was trained on")
def _(mine, case):
    x = torch.cat([torch.zeros(1, 1, 6, 6), torch.ones(1, 1, 6, 6), case.images(4)])
    model = Watched(case.linear().weight.detach(), 6)
    mine(model, x, case.labels(), 0.1)
    low, high = model.first.min(), model.first.max()
    symptom = f"The images have black and white pixels. The network was asked about values {span(low, high)}; in its "
    expect(abs(low + 1) < 1e-4 and abs(high - 1) < 1e-4, symptom + "training they went from -1 to 1.")


@bug_1.test("in pixels from 0 to 1, each one moves by epsilon where it has room")
def _(mine, case):
    x, eps = case.images(low=0.4, high=0.6), case.number(0.1, 0.18)
    moves = (expect_like(mine(case.linear(), x, case.labels(), eps), x) - x).abs() / eps
    symptom = f"At epsilon {eps:.3f}, black is 0 and white is 1. The pixels moved by {moves.min():.2f} to "
    expect((moves - 1).abs().max() < 0.01, symptom + f"{moves.max():.2f} epsilon.")


@bug_1.test("each pixel moves as it should on a linear model, worked out by hand")
def _(mine, case):
    x, y, model = case.images(low=0.4, high=0.6), case.labels(), case.linear(scale=0.3)
    expect_way(expect_like(mine(model, x, y, 0.1), x) - x, model.gradient(2 * x - 1, y))


# 2: what is divided by

bug_2 = bug(2)


@bug_2.test("the result is a share")
def _(mine, case):
    value = float(mine(FirstPixels().eval(), batches(*case.three_kinds(6, 3, 2), 4), lower_label, 0.3))
    expect(0 <= value <= 1, f"Your number is {value:g}. A share lies between 0 and 1.")


@bug_2.test("the size of the batches does not matter")
def _(mine, case):
    x, y = case.three_kinds(5, 3, 3)
    order = torch.tensor([0, 10, 1, 5, 2, 9, 6, 3, 7, 8, 4])
    values = [
        float(mine(FirstPixels().eval(), batches(x[order], y[order], size), lower_label, 0.3)) for size in (11, 4)
    ]
    symptom = f"The same 11 images: {values[0]:.3f} in one batch, {values[1]:.3f} in batches of 4, 4 and 3."
    expect(abs(values[0] - values[1]) < 1e-6, symptom)


@bug_2.test("what a user sees: of all images, those that are read correctly under attack")
def _(mine, case):
    strong, weak, wrong = 6 + case.seed % 4, 3, 2
    n = strong + weak + wrong
    value = float(mine(FirstPixels().eval(), batches(*case.three_kinds(strong, weak, wrong), 4), lower_label, 0.3))
    seen = {
        strong / (strong + weak): "It stays the same if the network misreads ten more images before the attack.",
        (strong + wrong) / n: "It rises if the network misreads more images before the attack.",
        (strong + weak) / n: "It stays the same if the attack is left out.",
        weak / n: "It rises if the attack gets stronger.",
        1 - strong / n: "It rises if the attack gets stronger.",
        (strong + weak) / n * strong / n: "It falls twice for an image that was misread at first.",
    }
    near = next((text for other, text in seen.items() if abs(value - other) < 1e-6), "")
    told = f"Of {n} images {wrong} are misread at first, {weak} more after the attack. Yours: {value:.3f}. {near}"
    expect(abs(value - strong / n) < 1e-6, told)


# 3: the mode of the network

bug_3 = bug(3)


@bug_3.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.linear(), x, case.labels(), 0.3), x)


@bug_3.test("the network is attacked as it will be used")
def _(mine, case):
    model, x = case.linear().train(), case.images()
    mine(model, x, case.labels(), 0.3)
    asked, training = model.passes.int().tolist()
    expect(asked > 0, "The network was not asked at all.")
    symptom = f"The network came in train mode. You asked it {often(asked)}, and {often(training)} it was not as it is "
    expect(training == 0, symptom + "when somebody uses it to read digits.")


@bug_3.test("the network is left as it was found")
def _(mine, case):
    for mode in (True, False):
        model, x = case.linear().train(mode), case.images()
        came = mode_of(model)
        mine(model, x, case.labels(), 0.3)
        expect(model.training == mode, f"The network came in {came} and was left in {mode_of(model)}.")


@bug_3.test("each pixel moves by epsilon, as it should on a linear model, worked out by hand")
def _(mine, case):
    x, y, eps = case.images(low=0.4, high=0.6), case.labels(), case.number(0.1, 0.3)
    model = case.linear(scale=0.3).train()
    moved = expect_like(mine(model, x, y, eps), x) - x
    expect_way(moved, model.gradient(x, y))
    expect((moved.abs() - eps).abs().max() < 1e-3, f"At epsilon {eps:.3f} a pixel moved by {moved.abs().min():.3f}.")


# 4: the clip

bug_4 = bug(4)


@bug_4.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.linear(), x, case.labels(), 0.2, 0.08, 5), x)


@bug_4.test("the network is asked about images only")
def _(mine, case):
    x, model = case.images(), Watched(case.linear().weight.detach(), 6)
    mine(model, x, case.labels(), 0.2, 0.08, 5)
    low, high = model.extremes.tolist()
    symptom = f"What you give back are images. But on the way the network was asked about values {span(low, high)}."
    expect(low >= 0 and high <= 1, symptom)


@bug_4.test("no pixel lies farther than epsilon from the image at the start")
def _(mine, case):
    x, eps = case.images(low=0.4, high=0.6), case.number(0.05, 0.1)
    expect_in_ball(expect_like(mine(case.linear(), x, case.labels(), eps, eps, 4), x), x, eps)


@bug_4.test("the same images as our own PGD")
def _(mine, case):
    x, y, model = case.images(40, low=-0.1, high=1.1), case.labels(40), case.curved()
    same = ((expect_like(mine(model, x, y, 0.2, 0.05, 10), x) - path(model, x, y)).abs() < 1e-3).double().mean()
    expect(same > 0.97, f"{same:.0%} of the pixels are where our own PGD puts them.")


def path(model, x, y):
    """PGD with 10 steps of 0.05 at epsilon 0.2, in double precision, with the closed form of the gradient."""
    start = x_adv = x.double()
    for _ in range(10):
        x_adv = x_adv + 0.05 * model.gradient(x_adv, y).sign()
        x_adv = torch.minimum(torch.maximum(x_adv, start - 0.2), start + 0.2).clamp(0, 1)
    return x_adv


# 5: the loss

bug_5 = bug(5)


def sharp(case, lead, rank):
    """A linear model, eight images and their labels: the label leads by `lead`, or with rank 3 lies as far behind."""
    x, model = case.images(300, low=0.4, high=0.6), case.linear()
    logits = model(x).detach().sort(1, descending=True)
    gap = logits.values[:, 0] - logits.values[:, rank or 1]
    middle = gap.argsort()[146:154]  # their gaps are nearly the same
    model.weight.data *= lead / gap[middle].min()
    return model, x[middle], logits.indices[middle, rank]


@bug_5.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.linear(), x, case.labels(), 0.3), x)


@bug_5.test("an image that the network is sure of is attacked, too")
def _(mine, case):
    model, x, y = sharp(case, 20, 0)
    still = ((expect_like(mine(model, x, y, 0.1), x) - x) == 0).flatten(1).all(1).sum()
    symptom = f"{still} of 8 images came back as they were: not one pixel moved. On each of them the logit of the label"
    expect(still == 0, symptom + " leads by 20 or more.")


@bug_5.test("so is an image that it is sure to misread")
def _(mine, case):
    for lead in (20, 110):
        model, x, y = sharp(case, lead, 3)
        still = ((expect_like(mine(model, x, y, 0.1), x) - x) == 0).flatten(1).all(1).sum()
        symptom = f"{still} of 8 images came back as they were. On each of them the logit of the label lies {lead} or "
        expect(still == 0, symptom + "more behind.")


@bug_5.test("each pixel moves by epsilon, as the loss of the logits asks for")
def _(mine, case):
    for lead, rank in ((20, 3), (1, 0), (5, 0)):
        model, x, y = sharp(case, lead, rank)
        moved = expect_like(mine(model, x, y, 0.1), x) - x
        expect_way(moved, model.gradient(x, y))
        expect((moved.abs() - 0.1).abs().max() < 1e-3, f"At epsilon 0.1 a pixel moved by {moved.abs().max():.2f}.")


# 6: the restarts

bug_6 = bug(6)


def of_turns(mine, case):
    """What a call with four restarts gives back on 16 images, and the model: (x_adv, x, y, model)."""
    x, y = case.three_kinds(sum(TURNS), 0, 0)
    model = Turns(x).eval()
    return expect_like(mine(model, x, y, in_turns, 0.6, len(TURNS)), x), x, y, model


@bug_6.test("each run gets all images")
def _(mine, case):
    seen = of_turns(mine, case)[-1].least
    expect(seen == 16, f"A run of the attack was given {seen:g} of the 16 images, not all of them.")


@bug_6.test("as many runs as were asked for")
def _(mine, case):
    runs = int(of_turns(mine, case)[-1].runs.item())
    expect(runs == len(TURNS), f"{len(TURNS)} restarts were asked for. The attack was called {often(runs)}.")


@bug_6.test("each run begins at the clean images")
def _(mine, case):
    away = of_turns(mine, case)[-1].away.item()
    expect(away == 0, f"At epsilon 0.6, a run of the attack was given images in which a pixel is {away:.1f} away from "
           "the clean one. It may move this pixel by another 0.6.")  # fmt: skip


@bug_6.test("no pixel lies farther than epsilon from the clean image")
def _(mine, case):
    x, y = case.three_kinds(0, 12, 0)  # one run does not fool them, two would
    expect_in_ball(expect_like(mine(Turns(x).eval(), x, y, darker, 0.06, 4), x), x, 0.06)


@bug_6.test("every image comes from one of the runs, or is the clean one")
def _(mine, case):
    x_adv, x, y, _ = of_turns(mine, case)
    lowered = x.clone()
    lowered[torch.arange(len(y)), 0, 0, y] -= 0.6
    either = torch.minimum((x_adv - x).abs(), (x_adv - lowered).abs()).flatten(1).amax(1) < 1e-6
    expect(either.all(), f"{(~either).sum()} of your images are none that a run of the attack has made.")


@bug_6.test("an image that one of the runs fools is fooled")
def _(mine, case):
    x_adv, _, y, model = of_turns(mine, case)
    left = int((model(x_adv).argmax(1) == y).sum())
    seen = {
        16 - TURNS[0]: "So many does the best run leave, and so many did the first run leave.",
        16 - TURNS[-1]: "So many does the last run leave.",
        16: "It looks as if no run had fooled any.",
    }
    told = f"Each of 16 images was fooled by one of the four runs. Of those that you give back, {left} are read "
    expect(left == 0, told + f"correctly. {seen.get(left, '')}")


# 7: the test set

bug_7 = bug(7)


def of_pool(mine, case, generator=None):
    """What a call gives back for a pool of 20 images with their number as first pixel, and what was trained on."""
    x, y = case.images(20), torch.arange(20)
    x[:, 0, 0, 0] = torch.arange(20) / 20
    trained_on = torch.randperm(20, generator=case.generator)[:12]
    result = mine(x, y, trained_on, generator or case.generator)
    expect(isinstance(result, tuple | list) and len(result) == 2, "Your function does not give back images and labels.")
    images, labels = result
    expect(len(images) == len(labels), f"You give back {len(images)} images and {len(labels)} labels.")
    expect(len(images) > 0, "You give back no image.")
    numbers = (20 * images[:, 0, 0, 0]).round().long()
    return numbers, labels, trained_on


@bug_7.test("each image keeps its label")
def _(mine, case):
    numbers, labels, _ = of_pool(mine, case)
    off = (numbers != labels).sum()
    expect(off == 0, f"{off} of {len(labels)} test images have the label of another image.")


@bug_7.test("no test image is one that the network was trained on")
def _(mine, case):
    numbers, _, trained_on = of_pool(mine, case)
    known = torch.isin(numbers, trained_on).sum()
    which = "All" if known == len(numbers) else f"{known}"
    symptom = f"{which} of your {len(numbers)} test images are images that the network was trained on."
    expect(known == 0, symptom)


@bug_7.test("every image that it was not trained on is a test image, once")
def _(mine, case):
    numbers, _, _ = of_pool(mine, case)
    expect(len(numbers.unique()) == len(numbers), "The same image is there twice.")
    expect(len(numbers) == 8, f"The network was not trained on 8 images. You give back {len(numbers)} of them.")


@bug_7.test("in an order drawn from the generator")
def _(mine, case):
    orders = [of_pool(mine, case)[0] for _ in range(4)]
    sorted_ones = sum(torch.equal(order, order.sort().values) for order in orders)
    expect(sorted_ones < 4, "The test images come in the order in which they stood in the pool.")
    for seeds, same in (((5, 5, 5), True), ((5, 6, 7, 8), False)):
        orders = [of_pool(mine, Case(case.seed), torch.Generator().manual_seed(seed))[0].tolist() for seed in seeds]
        how = {True: "the same seed gave different orders", False: "different seeds gave the same order"}[same]
        expect((orders.count(orders[0]) == len(orders)) == same, f"Generators with {how} of the test images.")


# 8: the size of the steps

bug_8 = bug(8)


@bug_8.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.linear(), x, case.labels(), 0.2, 5), x)


@bug_8.test("no pixel lies farther than epsilon from the image")
def _(mine, case):
    x, eps = case.images(low=0.4, high=0.6), case.number(0.05, 0.1)
    expect_in_ball(expect_like(mine(case.linear(), x, case.labels(), eps, 4), x), x, eps)


@bug_8.test("as many steps as were asked for")
def _(mine, case):
    x, model = case.images(), case.linear()
    mine(model, x, case.labels(), 0.2, 10)
    asked = int(model.passes[0])
    expect(10 <= asked <= 11, f"10 steps were asked for. The network was asked {often(asked)}.")


@bug_8.test("whatever epsilon and the number of steps, the edge of the ball is reached")
def _(mine, case):
    for eps, steps in ((0.2, 10), (0.4, 10), (0.3, 3), (0.05, 40)):
        x, y, model = case.images(low=0.45, high=0.55), case.labels(), case.linear(scale=0.1)
        reached = (expect_like(mine(model, x, y, eps, steps), x) - x).abs().max().item() / eps
        symptom = f"At epsilon {eps} and {steps} steps, if all steps have the same sign, the farthest pixel came to "
        expect(reached > 0.99, symptom + f"{reached:.2f} epsilon.")


@bug_8.test("it is also reached by a path with one step in a wrong direction")
def _(mine, case):
    x, y, model = case.images(low=0.45, high=0.55), case.labels(), Turning(case.linear(scale=0.1).weight.detach())
    reached = (expect_like(mine(model, x, y, 0.2, 10), x) - x).abs().mean().item() / 0.2
    symptom = "A network led the first of 10 steps the wrong way. After that all steps had the same sign. The pixels "
    expect(reached > 0.99, symptom + f"came to {reached:.2f} epsilon only.")


# 9: the normalisation

bug_9 = bug(9)


def normalised(case):
    """A model that was trained on (x - mean) / std, images with black and white pixels, and labels."""
    mean, std = case.number(0.3, 0.6), case.number(0.15, 0.25)
    x = torch.cat([torch.zeros(1, 1, 6, 6), torch.ones(1, 1, 6, 6), case.images(22)])
    return Watched(case.linear(scale=0.3).weight.detach(), 24, mean, std), x, case.labels(24)


@bug_9.test("the result is a share")
def _(mine, case):
    value = float(mine(*normalised(case), 0.1))
    expect(0 <= value <= 1, f"Your number is {value:g}. A share lies between 0 and 1.")


@bug_9.test("the network gets what it was trained on, at the first question and at the last")
def _(mine, case):
    model, x, y = normalised(case)
    mine(model, x, y, 0.0)
    right = span(-model.mean / model.std, (1 - model.mean) / model.std)
    for when, seen in dict(first=model.first, last=model.last).items():
        got = span(seen.min(), seen.max())
        symptom = f"At epsilon 0 the network was asked, the {when} time, about values {got}. In its training black and "
        expect(got == right, symptom + f"white were values {right}.")


@bug_9.test("epsilon is a distance of pixels in [0, 1]")
def _(mine, case):
    model, x, y = normalised(case)
    mine(model, x, y, 0.1)
    moves = (model.last - model.first).abs().max() * model.std / 0.1
    expect(
        abs(moves - 1) < 0.01, f"At epsilon 0.1 the pixel that moved most, from 0 to 1, moved by {moves:.2f} epsilon."
    )
    low, high = (model.last.min() * model.std + model.mean), (model.last.max() * model.std + model.mean)
    symptom = f"Back in pixels, the last images of which the network was asked have values {span(low, high)}."
    expect(low > -1e-4 and high < 1 + 1e-4, symptom)


@bug_9.test("the same share as our own FGSM finds")
def _(mine, case):
    for eps in (0.0, 0.02, 0.1):
        model, x, y = normalised(case)
        gradient = model.gradient((x - model.mean) / model.std, y)
        x_adv = (x.double() + eps * gradient.sign()).clamp(0, 1)
        logits = ((x_adv - model.mean) / model.std).flatten(1) @ model.weight.detach().double().T
        truth = (logits.argmax(1) == y).double().mean().item()
        value = float(mine(model, x, y, eps))
        expect(
            abs(value - truth) < 1e-6, f"At epsilon {eps} your number is {value:.3f}, that of our own FGSM {truth:.3f}."
        )


# 10: whose gradient

bug_10 = bug(10)


def training(case):
    """A model with batch norm before its training, and its weights after each of three epochs.

    In the third epoch nothing but the statistics of batch norm changes.
    """
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.ReLU(), nn.Linear(36, 4)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = [dict(before) for _ in range(4)]
    means = [case.uniform(36, low=0.1, high=0.9) for _ in range(2)]
    common = case.uniform(4, 36, low=-1)
    weights = [common + 0.5 * case.uniform(4, 36, low=-1) for _ in range(3)]
    for state, mean, weight in zip(states, (means[0], *means[:1] * 2, means[1]), (*weights, weights[2])):
        state["1.running_mean"], state["3.weight"] = mean, weight
    model.load_state_dict(states[0])
    x = case.images(200, low=0.2, high=0.8)
    common_part = dict(states[0], **{"3.weight": common})
    return model, states[1:], x, logits_of(common_part, x).argmax(1)


def logits_of(weights, x):
    """The logits of the model with these weights, in double precision."""
    z = (x.double().flatten(1) - weights["1.running_mean"]) / (weights["1.running_var"].double() + 1e-5).sqrt()
    return z.relu() @ weights["3.weight"].double().T + weights["3.bias"]


def left(made_on, read_by, x, y, eps):
    """The share that one step of size eps on some weights leaves to a network with others."""
    pixels = x.double().requires_grad_()
    loss = nn.functional.cross_entropy(logits_of(made_on, pixels), y, reduction="sum")
    x_adv = (x.double() + eps * torch.autograd.grad(loss, pixels)[0].sign()).clamp(0, 1)
    return (logits_of(read_by, x_adv).argmax(1) == y).double().mean().item()


@bug_10.test("one number for each epoch, each of them a share")
def _(mine, case):
    model, epochs, x, y = training(case)
    values = mine(model, epochs, fgsm, x, y, 0.05)
    expect(isinstance(values, tuple | list), f"You give back a {type(values).__name__}, not a list of numbers.")
    expect(len(values) == 3, f"The training has 3 epochs. You give back {len(values)} numbers.")
    expect(all(0 <= value <= 1 for value in values), "A share lies between 0 and 1.")


@bug_10.test("what an attack on the network of each epoch leaves of that network")
def _(mine, case):
    for _ in range(4):  # in a single training, another attack may happen to leave as much
        model, epochs, x, y = training(case)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        values = [float(value) for value in mine(model, [dict(epoch) for epoch in epochs], fgsm, x, y, 0.04)]
        expect_of_epochs(values, before, epochs, x, y, 0.04)


@bug_10.test("the order of the epochs changes the order of the numbers, nothing else")
def _(mine, case):
    model, epochs, x, y = training(case)
    other = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.ReLU(), nn.Linear(36, 4)).eval()
    other.load_state_dict(model.state_dict())
    forwards = [float(value) for value in mine(model, [dict(epoch) for epoch in epochs], fgsm, x, y, 0.04)]
    backwards = [float(value) for value in mine(other, [dict(epoch) for epoch in epochs[::-1]], fgsm, x, y, 0.04)]
    symptom = f"The epochs as they came: {shown(forwards)}. From the last to the first: {shown(backwards)}."
    expect(distance(forwards, backwards[::-1]) < 0.015, symptom)


def expect_of_epochs(values, before, epochs, x, y, eps):
    truths = [left(epoch, epoch, x, y, eps) for epoch in epochs]
    others = {
        "images made on the weights before the training": [left(before, epoch, x, y, eps) for epoch in epochs],
        "images made on the weights of one epoch earlier": [
            left(old, epoch, x, y, eps) for old, epoch in zip([before, *epochs], epochs)
        ],
        "images made on the weights after the training": [left(epochs[-1], epoch, x, y, eps) for epoch in epochs],
        "images made and read with the weights before the training": [left(before, before, x, y, eps)] * 3,
        "images made and read with the weights after the training": [left(epochs[-1], epochs[-1], x, y, eps)] * 3,
    }
    text, those = min(others.items(), key=lambda one: distance(values, one[1]))
    near = f"They are those of {text}." if distance(values, those) < 0.015 else ""
    off = [number for number, (value, truth) in enumerate(zip(values, truths), 1) if abs(value - truth) > 0.015]
    told = f"After epoch {', '.join(map(str, off))} your numbers are others than those of an attack on these weights. "
    expect(not off, told + (near or f"Yours are {shown(values)}, those of a reference {shown(truths)}."))


def distance(values, those):
    return max(abs(a - b) for a, b in zip(values, those))


def shown(values):
    return ", ".join(f"{value:.2f}" for value in values)
