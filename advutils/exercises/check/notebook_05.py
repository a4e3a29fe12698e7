"""What checks the exercises of notebook 5: projection, random start, PGD, and the comparison of two attacks."""

import torch

from advutils.attacks.gradient import pgd as library_pgd
from advutils.exercises.cases import Case, FirstPixels, Linear, lower_label, raise_rival
from advutils.exercises.framework import Exercise, Prediction, expect, expect_images


def longest_way():
    """How far a pixel moves at most with 20 steps of 0.001 from the image, in thousandths of the pixel range."""
    case = Case(0)
    x, y = case.images(low=0.4, high=0.6), case.labels()
    x_adv = library_pgd(case.linear(), x, y, eps=0.1, steps=20, step_size=0.001, random_start=False)
    return 1000 * (x_adv - x).abs().max().item()


small_steps = Prediction(
    "small_steps", 5, longest_way, within=0.5,
    remarks={
        (95, 105): "0.1 is how far the ball allows a pixel to move. Count how far the steps carry it.",
        (0, 2): "That is one step. The attack makes twenty of them.",
        (240, 260): "2.5 epsilon is the length of the way with the usual step size. This one is shorter.",
    },
    reason="Twenty steps of 0.001 are a way of {truth} thousandths, and the ball has a radius of 100. The attack never "
    "comes near the edge, so it looks weak, and the network looks strong. Look at how far the pixels moved.",
)  # fmt: skip


project = Exercise("project", 5)


@project.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(x + case.uniform(6, 1, 6, 6, low=-0.5, high=0.5), x, 0.1), x)


@project.test("no pixel lies farther than epsilon from the image")
def _(mine, case):
    x, eps = case.images(low=0.3, high=0.7), case.number(0.05, 0.2)
    far = (mine(x + case.uniform(6, 1, 6, 6, low=-0.3, high=0.3), x, eps) - x).abs().max()
    expect(far <= eps + 1e-5, f"At epsilon {eps:.3f} a pixel lies {far:.3f} away from the image.")


@project.test("what lies inside the ball stays where it is")
def _(mine, case):
    x, eps = case.images(), 0.1
    inside = (x + case.uniform(6, 1, 6, 6, low=-0.04, high=0.04)).clamp(0, 1)
    moved = (mine(inside, x, eps) - inside).abs().max()
    expect(moved < 1e-5, f"No pixel was farther away than 0.04 at epsilon 0.1, and yet one was moved by {moved:.3f}.")


@project.test("each pixel by itself goes to its nearest allowed value")
def _(mine, case):
    x, eps = case.images(), case.number(0.05, 0.2)
    x_adv = x + case.uniform(6, 1, 6, 6, low=-0.3, high=0.3)
    pairs = zip(x_adv.flatten().tolist(), x.flatten().tolist())
    truth = torch.tensor([min(max(a, b - eps, 0), b + eps, 1) for a, b in pairs]).view_as(x)
    off = ((mine(x_adv, x, eps) - truth).abs() > 1e-5).sum()
    expect(off == 0, f"{off} of {x.numel()} pixels are not at the allowed value that is nearest to them.")


random_start = Exercise("random_start", 5)


@random_start.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(x, 0.2, case.generator), x)


@random_start.test("each pixel of each image draws its own number")
def _(mine, case):
    x = case.images(200, low=0.4, high=0.6)
    moves = mine(x, 0.2, case.generator) - x
    expect(moves.std(0).mean() > 0.03, "All images of the batch are moved in the same way.")
    expect(moves.flatten(1).std(1).mean() > 0.03, "All pixels of an image are moved by the same number.")


@random_start.test("every point lies in the ball, on both sides of the image")
def _(mine, case):
    x, eps = case.images(200, low=0.4, high=0.6), 0.2
    moves = mine(x, eps, case.generator) - x
    low, high = moves.min().item(), moves.max().item()
    expect(max(-low, high) <= eps + 1e-5, f"At epsilon 0.2 a pixel moved by {max(-low, high):.2f}.")
    symptom = f"At epsilon 0.2 the moves of 7,200 pixels go from {low:.2f} to {high:.2f}."
    expect(low < -0.19 and high > 0.19, symptom)


@random_start.test("all distances up to epsilon are equally frequent")
def _(mine, case):
    x = case.images(200, low=0.4, high=0.6)
    moves = (mine(x, 0.2, case.generator) - x).abs()
    parts = [((moves >= 0.05 * k - 1e-6) & (moves < 0.05 * k + 0.05 + 1e-6)).double().mean().item() for k in range(4)]
    symptom = "The share of pixels by the length of the move, in quarters of epsilon: "
    expect(all(0.2 < part < 0.3 for part in parts), symptom + ", ".join(f"{part:.0%}" for part in parts) + ".")


@random_start.test("the same generator gives the same start")
def _(mine, case):
    x = case.images()
    one, two, other = (mine(x, 0.2, torch.Generator().manual_seed(case.seed + more)) for more in (0, 0, 1))
    expect(torch.equal(one, two), "Two generators with the same seed gave two different starts.")
    expect(not torch.equal(one, other), "Two generators with different seeds gave the same start.")


pgd = Exercise("pgd", 5)


def reference(model, x, y, eps, step_size, steps):
    """PGD in double precision, with the closed form of the gradient."""
    x = x.double()
    x_adv = x.clone()
    for _ in range(steps):
        x_adv = x_adv + step_size * model.gradient(x_adv, y).sign()
        x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def loss(model, x, y):
    return torch.nn.functional.cross_entropy(model(x.float()), y).item()


@pgd.test("the result is a batch of images in [0, 1]")
def _(mine, case):
    x = case.images()
    expect_images(mine(case.curved(), x, case.labels(), 0.2, 0.08, 5), x)


@pgd.test("no pixel lies farther than epsilon from the image at the start")
def _(mine, case):
    x, eps = case.images(low=0.4, high=0.6), case.number(0.05, 0.1)
    far = (mine(case.linear(), x, case.labels(), eps, eps, 4) - x).abs().max()
    expect(
        far <= eps + 1e-5,
        f"At epsilon {eps:.3f} a pixel lies {far / eps:.1f} epsilon away from the image after 4 steps.",
    )


@pgd.test("two steps go twice as far as one")
def _(mine, case):
    x, y, model = case.images(low=0.4, high=0.6), case.labels(), case.linear(scale=0.1)
    went = [(mine(model, x, y, 0.2, 0.03, steps) - x).abs().mean().item() / 0.03 for steps in (1, 2)]
    symptom = f"In a ball that is large enough, one step moved the pixels by {went[0]:.2f} step sizes, two steps by "
    expect(abs(went[0] - 1) < 0.05 and abs(went[1] - 2) < 0.1, symptom + f"{went[1]:.2f}.")


@pgd.test("the loss of the label rises")
def _(mine, case):
    x, y, model = case.images(low=0.4, high=0.6), case.labels(), case.linear(scale=0.3)
    before, after = loss(model, x, y), loss(model, mine(model, x, y, 0.1, 0.03, 5), y)
    expect(after > before, f"The loss of the labels went from {before:.2f} to {after:.2f}.")


class Fenced(Linear):
    """Two classes; beyond eps from 0.5 in any pixel, the gradient of every other pixel points the other way."""

    def __init__(self, weight, eps):
        super().__init__(weight)
        self.eps = eps

    def forward(self, x):
        beyond = ((x - 0.5).abs() > self.eps + 1e-4).flatten(1).any(1)
        turn = 1 - 2 * (torch.arange(36) % 2 * beyond[:, None]).view(x.shape)
        return super().forward(turn * (x - 0.5))


@pgd.test("the projection follows each step, not only the last one")
def _(mine, case):
    one, eps = case.uniform(1, 36, low=0.2, high=1), case.number(0.1, 0.2)
    model, x, y = Fenced(torch.cat([one, -one]), eps), torch.full((4, 1, 6, 6), 0.5), case.labels(4, 2)
    off = ((mine(model, x, y, eps, eps / 4, 10) - reference(model, x, y, eps, eps / 4, 10)).abs() > 1e-3).sum()
    symptom = f"This network's gradient is the same everywhere in the ball, and another one beyond it. {off} of "
    expect(off == 0, symptom + f"{x.numel()} pixels went where the gradient beyond the ball leads them.")


@pgd.test("the same images as our own PGD, with a new gradient at each step")
def _(mine, case):
    x, y, model = case.images(40, low=0.2, high=0.8), case.labels(40), case.curved()
    truth = reference(model, x, y, 0.2, 0.05, 10)
    result = mine(model, x, y, 0.2, 0.05, 10)
    same = ((result - truth).abs() < 1e-3).double().mean()
    mine_loss, truth_loss = loss(model, result, y), loss(model, truth, y)
    symptom = f"{same:.0%} of the pixels are where our own PGD puts them; your loss is {mine_loss:.2f}, its loss "
    expect(same > 0.97, symptom + f"{truth_loss:.2f}.")


worse_of_two = Exercise("worse_of_two", 5)


@worse_of_two.test("the result is a share")
def _(mine, case):
    x, y = case.three_kinds(6, 4, 2)
    x[::2, 0, 5, 5] = 1
    value = float(mine(FirstPixels().eval(), x, y, lower_label, raise_rival, 0.3))
    expect(0 <= value <= 1, f"Your number is {value:g}. A share lies between 0 and 1.")


@worse_of_two.test("two attacks that fool the same images leave what one of them leaves")
def _(mine, case):
    x, y = case.three_kinds(6, 4, 2)
    value = float(mine(FirstPixels().eval(), x, y, lower_label, lower_label, 0.3))
    expect(abs(value - 6 / 12) < 1e-6, f"One attack, given twice, leaves 6 of 12 images. Your number is {value:.3f}.")


@worse_of_two.test("the images that survive both, counted one by one")
def _(mine, case):
    strong = 6 + case.seed % 4
    x, y = case.three_kinds(strong, 5, 2)
    n = strong + 7
    x[::2, 0, 5, 5] = 1
    model = FirstPixels().eval()
    left = [[(model(attack(model, x[i : i + 1], y[i : i + 1], eps=0.3)).argmax(1) == y[i]).item() for i in range(n)]
            for attack in (lower_label, raise_rival)]  # fmt: skip
    both, a, b = sum(map(min, *left)), sum(left[0]), sum(left[1])
    value = float(mine(model, x, y, lower_label, raise_rival, 0.3))
    seen = {
        1 - both / n: "Your number grows with the number of images that are misread.",
        min(a, b) / n: "That is the number of the better attack alone: as if the attacker had to choose one attack "
        "for all images.",
        (a + b) / 2 / n: "That lies between the two: a second attack seems to help the defender.",
        sum(map(max, *left)) / n: "With a second attack your number rises.",
    }
    near = next((text for wrong, text in seen.items() if abs(value - wrong) < 1e-6), "")
    told = f"Of {n} images the first attack leaves {a}, the second {b}; yours: {value * n:.1f}. {near}"
    expect(abs(value - both / n) < 1e-6, told)
