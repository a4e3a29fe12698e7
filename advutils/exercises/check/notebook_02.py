"""What checks the exercises of notebook 2: FGSM, the same with a target, an honest denominator, the margin."""

from functools import partial

import torch

from advutils.data import load_data
from advutils.evaluation import predict
from advutils.exercises.cases import FirstPixels, batches, clear, lower_label
from advutils.exercises.framework import Exercise, Prediction, expect, expect_images, expect_like
from advutils.pretrained import trained


def share_of_the_largest_class():
    """In percent, among the test digits."""
    y = load_data("mnist-5k", train=False).tensors[1]
    return 100 * y.bincount().max().item() / len(y)


best_at_half = Prediction(
    "best_at_half", 2, share_of_the_largest_class, within=1,
    remarks={
        (-1, 9): "A network that answers with the same digit for every image is right more often than that.",
        (11, 89): "How many of the test digits does a network read correctly if it sees the same image each time?",
        (89, 101): "The attacker may choose the same image for all digits. What can the network then tell apart?",
    },
    reason="At 0.5 the plain grey image lies in the ball around every digit. If the attacker shows it each time, a "
    "network gives the same answer each time. This answer is right for the digits of one class: {truth}% at most.",
)  # fmt: skip


def eight_digits(mine, target=False):
    """A picture: eight digits, led away from their class, or to the next one, by the learner's function."""
    from advutils import plots

    x, y = (part[:8] for part in load_data("mnist-5k", train=False)[::125])
    x_adv = mine(trained("clean", width=0.25, epochs=8), x, (y + 1) % 10 if target else y, 0.2)
    read = predict(trained("clean", width=0.25, epochs=8), x_adv).argmax(1)
    reached, goal = (read == (y + 1) % 10, "read as their target (label + 1)") if target else (read != y, "misread")
    print(f"At epsilon 0.2, {reached.sum()} of these 8 digits are {goal}.")
    plots.gallery(x_adv, [f"{a} → {b}" for a, b in zip(y, read)], wrong=(read != y).tolist(), columns=8)


fgsm = Exercise("fgsm", 2, show=eight_digits)
targeted_fgsm = Exercise("targeted_fgsm", 2, show=partial(eight_digits, target=True))


@fgsm.test("the result is a batch of images in [0, 1]")
@targeted_fgsm.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.linear(), x, case.labels(), 0.3), x)


@fgsm.test("every pixel that has room moves by epsilon")
@targeted_fgsm.test("every pixel that has room moves by epsilon")
def _(mine, case):
    x, eps = case.images(low=0.4, high=0.6), case.number(0.1, 0.3)
    moves = (mine(case.linear(), x, case.labels(), eps) - x).abs()
    symptom = f"At epsilon {eps:.3f} the pixels moved by {moves.min():.3f} to {moves.max():.3f}."
    expect(moves.max() - moves.min() < 1e-3, symptom + " Some have room left.")
    expect((moves - eps).abs().max() < 1e-3, symptom + " Each of them as far as the others, but not by epsilon.")


@fgsm.test("another label gives other images")
def _(mine, case):
    x, model, y = case.images(low=0.4, high=0.6), case.linear(), case.labels()
    same = torch.equal(mine(model, x, y, 0.1), mine(model, x, (y + 1) % 4, 0.1))
    expect(not same, "Your images do not depend on the label: for two different labels they are the same.")


@fgsm.test("the network comes to believe less in the label")
def _(mine, case):
    x, model, y = case.images(low=0.4, high=0.6), case.linear(scale=0.3), case.labels()
    before = model(x).softmax(1)[torch.arange(6), y]
    after = model(mine(model, x, y, 0.05).float()).softmax(1)[torch.arange(6), y]
    rose = (after > before).sum()
    expect(rose == 0, f"The probability of the label rose on {rose} of 6 images: {mean(before)} → {mean(after)}.")


@fgsm.test("each pixel moves as it should on a linear model, worked out by hand")
def _(mine, case):
    x, model, y = case.images(low=0.4, high=0.6), case.linear(scale=0.3), case.labels()
    gradient = model.gradient(x, y)
    moved = mine(model, x, y, 0.1) - x
    off = (moved.sign() != gradient.sign())[clear(gradient)].sum()
    expect(off == 0, f"{off} of {x.numel()} pixels move against what the loss of the label asks for.")


@targeted_fgsm.test("another target gives other images")
def _(mine, case):
    x, model, target = case.images(low=0.4, high=0.6), case.linear(), case.labels()
    same = torch.equal(mine(model, x, target, 0.1), mine(model, x, (target + 1) % 4, 0.1))
    expect(not same, "Your images do not depend on the target: for two different targets they are the same.")


@targeted_fgsm.test("the network comes to believe more in the target")
def _(mine, case):
    x, model, target = case.images(low=0.4, high=0.6), case.linear(scale=0.3), case.labels()
    before = model(x).softmax(1)[torch.arange(6), target]
    after = model(mine(model, x, target, 0.05).float()).softmax(1)[torch.arange(6), target]
    fell = (after < before).sum()
    expect(fell == 0, f"The probability of the target fell on {fell} of 6 images: {mean(before)} → {mean(after)}.")


@targeted_fgsm.test("each pixel moves as it should on a linear model, worked out by hand")
def _(mine, case):
    x, model, target = case.images(low=0.4, high=0.6), case.linear(scale=0.3), case.labels()
    gradient = model.gradient(x, target)
    moved = mine(model, x, target, 0.1) - x
    off = (moved.sign() != -gradient.sign())[clear(gradient)].sum()
    expect(off == 0, f"{off} of {x.numel()} pixels move against what the loss of the target asks for.")


def mean(p):
    return f"{p.mean():.2f}"


robust_accuracy = Exercise("robust_accuracy", 2)


@robust_accuracy.test("the result is a share")
def _(mine, case):
    value = float(mine(FirstPixels().eval(), batches(*case.three_kinds(6, 3, 2), 4), lower_label, 0.3))
    expect(0 <= value <= 1, f"Your number is {value:g}. A share lies between 0 and 1.")


@robust_accuracy.test("the size of the batches does not matter")
def _(mine, case):
    x, y = case.three_kinds(5, 3, 3)
    values = [float(mine(FirstPixels().eval(), batches(x, y, size), lower_label, 0.3)) for size in (11, 4)]
    symptom = f"The same 11 images: {values[0]:.3f} in one batch, {values[1]:.3f} in batches of 4, 4 and 3."
    expect(abs(values[0] - values[1]) < 1e-6, symptom)


@robust_accuracy.test("the count over all images, each attacked with its label")
def _(mine, case):
    strong, weak, wrong = 7 + case.seed % 4, 4, 2
    n = strong + weak + wrong
    value = float(mine(FirstPixels().eval(), batches(*case.three_kinds(strong, weak, wrong), 4), lower_label, 0.3))
    told = f"Of {n} images {strong + weak} are read correctly, and {strong} of them also after the attack."
    seen = {
        (strong + weak) / n: "Your number is the one of the images before the attack.",
        strong / (strong + weak): "Your number leaves out the images that were misread already: as if nobody would "
        "send them.",
        (strong + wrong) / n: "Images that were misread at first count as right after the attack: the attack helped "
        "them. Whose label was it given?",
        weak / n: "Your number grows when the attack gets stronger.",
        1 - strong / n: "Your number grows when the attack gets stronger.",
    }
    near = next((text for wrong_value, text in seen.items() if abs(value - wrong_value) < 1e-6), "")
    expect(abs(value - strong / n) < 1e-6, f"{told} Yours is {value:.3f}. {near}")


margin = Exercise("margin", 2)


@margin.test("one number for each image")
def _(mine, case):
    logits = case.uniform(12, 5, low=-3, high=3)
    expect_like(mine(logits, case.labels(12, 5)), logits[:, 0], "numbers")


@margin.test("positive where the image is read correctly, negative where it is misread")
def _(mine, case):
    for low, high, where in ((-30, -20, " All logits are below 0 here."), (-3, 3, "")):
        logits, y = case.uniform(40, 5, low=low, high=high), case.labels(40, 5)
        right, size = logits.argmax(1) == y, mine(logits, y)
        off = ((size > 0) != right).sum()
        read, misread = f"{right.sum()} images are read correctly", f"{(~right).sum()} images are misread"
        expect(off < 40, f"The sign is not that of right and wrong on any of 40 images.{where}")
        expect((size[right] > 0).any(), f"{read}, and your margin is above 0 on none.{where}")
        expect((size[~right] < 0).any(), f"{misread}, and your margin is below 0 on none.{where}")
        expect(off == 0, f"The sign is not that of right and wrong on {off} of 40 images.{where}")


@margin.test("twice the logits give twice the margin")
def _(mine, case):
    logits, y = case.uniform(12, 5, low=-3, high=3), case.labels(12, 5)
    once, twice = mine(logits, y), mine(2 * logits, y)
    symptom = f"With twice the logits, {once[0]:.3f} became {twice[0]:.3f}. What you subtract are no logits."
    expect((twice - 2 * once).abs().max() < 1e-3, symptom)


@margin.test("the true logit minus the best of the others, counted by hand")
def _(mine, case):
    logits, y = case.uniform(12, 5, low=-3, high=3), case.labels(12, 5)
    rows = zip(logits.tolist(), y.tolist())
    truth = torch.tensor([row[t] - max(row[:t] + row[t + 1 :]) for row, t in rows])
    off = ((mine(logits, y) - truth).abs() > 1e-4).sum()
    row, t = [f"{z:.2f}" for z in logits[0].tolist()], y[0].item()
    shown = f"logits {', '.join(row)}, label {t}: {truth[0]:.2f} by hand, yours {mine(logits, y)[0]:.2f}"
    expect(off == 0, f"{off} of 12 margins are others than by hand. The first image: {shown}.")
