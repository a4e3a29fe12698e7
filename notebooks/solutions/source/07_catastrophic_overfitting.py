"""The exercises of notebook 7, catastrophic overfitting."""

import torch
from exercises import Notebook
from torch.nn import functional as F

from advutils import input_gradient

here = Notebook(__file__)


@here.write(
    "n_fgsm",
    r"""the images of N-FGSM

Write the three steps above as a function that turns images `x` with labels `y` into training images. The noise is $k \epsilon u$: `k` stands for the 2. Each pixel has its own $u$, so draw with `torch.rand(x.shape, generator=generator)`.""",
    hints=(
        "Besides `x` there are two images: the noisy one and the result. From which one does the step start?",
        "You need $u$ between −1 and 1, but `torch.rand` draws between 0 and 1: how do you make $u$ from it?",
        "`u = 2 * torch.rand(...) - 1`, `noisy = (x + k * eps * u).clamp(0, 1)`, then `input_gradient(model, noisy, y)` and FGSM's step from `noisy`.",
    ),
    early=True,
)
def my_n_fgsm(model, x, y, eps, k, generator):
    """Training images: noise of k eps, then a step of eps, inside [0, 1] and not projected."""
    ### BEGIN SOLUTION
    u = 2 * torch.rand(x.shape, generator=generator) - 1
    noisy = (x + k * eps * u).clamp(0, 1)
    g = input_gradient(model, noisy, y)
    return (noisy + eps * g.sign()).clamp(0, 1)
    ### END SOLUTION


def noise(x, size, generator):
    return (x + size * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)


@here.mistake("n_fgsm", "the farthest of 7,200 pixels moved by 0.10")
def projected(model, x, y, eps, k, generator):
    images = my_n_fgsm(model, x, y, eps, k, generator)
    return torch.clamp(images, min=x - eps, max=x + eps).clamp(0, 1)


@here.mistake("n_fgsm", "the same for all images of the batch")
def one_noise_for_the_batch(model, x, y, eps, k, generator):
    noisy = (x + noise(torch.zeros_like(x[:1]) + 0.5, k * eps, generator) - 0.5).clamp(0, 1)
    return (noisy + eps * input_gradient(model, noisy, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "the same for all pixels of an image")
def one_number_for_each_image(model, x, y, eps, k, generator):
    noisy = (x + k * eps * (2 * torch.rand(len(x), 1, 1, 1, generator=generator) - 1)).clamp(0, 1)
    return (noisy + eps * input_gradient(model, noisy, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "The step agrees in")
def gradient_at_the_image(model, x, y, eps, k, generator):
    noisy = noise(x, k * eps, generator)
    return (noisy + eps * input_gradient(model, x, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "the farthest of 7,200 pixels moved by 0.10")
def step_from_the_image(model, x, y, eps, k, generator):
    noisy = noise(x, k * eps, generator)
    return (x + eps * input_gradient(model, noisy, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "the farthest of 7,200 pixels moved by 0.50")
def noise_in_pixel_units(model, x, y, eps, k, generator):
    noisy = noise(x, k, generator)
    return (noisy + eps * input_gradient(model, noisy, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "the noise of 7,200 pixels goes from")
def noise_to_one_side(model, x, y, eps, k, generator):
    noisy = (x + k * eps * torch.rand(x.shape, generator=generator)).clamp(0, 1)
    return (noisy + eps * input_gradient(model, noisy, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "in quarters of k epsilon")
def noise_in_the_corners(model, x, y, eps, k, generator):
    noisy = (x + k * eps * (torch.rand(x.shape, generator=generator) - 0.5).sign()).clamp(0, 1)
    return (noisy + eps * input_gradient(model, noisy, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "Two generators with the same seed")
def noise_without_the_generator(model, x, y, eps, k, generator):
    return my_n_fgsm(model, x, y, eps, k, None)


@here.mistake("n_fgsm", "Two generators with different seeds")
def noise_with_a_seed_of_its_own(model, x, y, eps, k, generator):
    return my_n_fgsm(model, x, y, eps, k, torch.Generator().manual_seed(0))


@here.mistake("n_fgsm", "go against their gradient")
def step_downhill(model, x, y, eps, k, generator):
    noisy = noise(x, k * eps, generator)
    return (noisy - eps * input_gradient(model, noisy, y).sign()).clamp(0, 1)


@here.mistake("n_fgsm", "are no image")
def without_the_last_clip(model, x, y, eps, k, generator):
    noisy = noise(x, k * eps, generator)
    return noisy + eps * input_gradient(model, noisy, y).sign()


here.predict(
    "beyond_the_ball",
    r"""how far N-FGSM goes

N-FGSM trains at $\epsilon = 0.1$, and its noise moves each pixel by up to $2\epsilon$. How far from its clean image may a pixel of a training image lie at most, in % of the way from black to white?""",
    answer=30,
    wrong={10: "does not project", 20: "A step follows", 12.5: "the step of the random start"},
)


@here.write(
    "alignment",
    r"""the alignment of two gradients

Write the gradient alignment (first aside) for a batch: for each image the **cosine** of its two gradients, their dot product divided by both lengths.""",
    hints=(
        "Each image has its own cosine. Over which axes do you add?",
        "With one row for each image: the sum of the products, and the root of the sum of the squares, both along axis 1.",
        "`a, b = first.flatten(1), second.flatten(1)`; PyTorch's `F.cosine_similarity(a, b)` does the rest, or three sums.",
    ),
)
def my_alignment(first, second):
    """For two batches of gradients (N, C, H, W): the cosine for each image, (N,)."""
    ### BEGIN SOLUTION
    return F.cosine_similarity(first.flatten(1), second.flatten(1))
    ### END SOLUTION


@here.mistake("alignment", "not a tensor of numbers of shape (7,)")
def of_the_whole_batch(first, second):
    return F.cosine_similarity(first.flatten(), second.flatten(), dim=0)


@here.mistake("alignment", "A cosine lies between")
def dot_product(first, second):
    return (first * second).sum((1, 2, 3))


@here.mistake("alignment", "by hand")
def of_the_signs(first, second):
    return F.cosine_similarity(first.sign().flatten(1), second.sign().flatten(1))


@here.mistake("alignment", "the opposite one")
def without_the_sign(first, second):
    return my_alignment(first, second).abs()


@here.mistake("alignment", "Shorter and longer gradients")
def with_one_length(first, second):
    return (first * second).sum((1, 2, 3)) / (first**2).sum((1, 2, 3)).clamp_min(0.5) / 9


@here.write(
    "stop_step",
    r"""when to stop

`accuracies` holds the PGD accuracy at each measurement of a training. The training should stop when the accuracy has been *below half of the best value so far* three times *in a row*. Write a function that gives the number of that measurement, counted from 0, or −1 if it never happens.""",
    hints=(
        "Go through the list once. Which two numbers do you have to carry along?",
        "Carry the best value so far, and how many low ones there were in a row. What happens to the second one when a value is not low?",
        "Loop over `enumerate(accuracies)`. First `best = max(best, value)`, then `low = low + 1 if value < best / 2 else 0`. Give back the number when `low` is 3.",
    ),
)
def my_stop_step(accuracies):
    """The number of the measurement at which to stop, from 0; -1 for never."""
    ### BEGIN SOLUTION
    best, low = 0.0, 0
    for number, value in enumerate(accuracies):
        best = max(best, value)
        low = low + 1 if value < best / 2 else 0
        if low == 3:
            return number
    return -1
    ### END SOLUTION


@here.mistake("stop_step", "numbers 4 to 6")
def three_in_all(accuracies):
    best, low = 0.0, 0
    for number, value in enumerate(accuracies):
        best = max(best, value)
        low += value < best / 2
        if low == 3:
            return number
    return -1


@here.mistake("stop_step", "measured before it")
def best_of_all(accuracies):
    low = 0
    for number, value in enumerate(accuracies):
        low = low + 1 if value < max(accuracies) / 2 else 0
        if low == 3:
            return number
    return -1


@here.mistake("stop_step", "the third low one in a row")
def at_the_first_low_one(accuracies):
    return next((n for n, value in enumerate(accuracies) if value < max(accuracies[: n + 1]) / 2), -1)


@here.mistake("stop_step", "the third low one in a row")
def below_half_of_the_one_before(accuracies):
    falls = [n for n in range(1, len(accuracies)) if accuracies[n] < accuracies[n - 1] / 2]
    return falls[0] + 1 if falls else -1


@here.mistake("stop_step", "not below it")
def down_to_half(accuracies):
    best, low = 0.0, 0
    for number, value in enumerate(accuracies):
        best = max(best, value)
        low = low + 1 if value <= best / 2 else 0
        if low == 3:
            return number
    return -1


@here.mistake("stop_step", "accuracy that only rises was stopped")
def one_after_the_end(accuracies):
    found = my_stop_step(accuracies)
    return len(accuracies) if found < 0 else found


here.explain(
    "two_steps",
    r"""two steps in place of one

Why might PGD with two steps during the training be harder to overfit to than FGSM? Say what the network learned in the fall, and why this does not protect it against a second step. What does the second step cost?""",
    r"""In the fall, the network learned a loss that is low at the end of FGSM's full step and high at some other points of the ball. This works because that end depends on one gradient alone, the one at the clean image. With two steps, the second gradient is taken at another point. If the loss is not linear, the second step can go elsewhere. So the network would have to be right in more places: harder to learn, but not impossible. The cost is one more gradient for each batch: three in place of two.""",
    contains=(
        "what the network learned: a loss that is far from linear;",
        "the second gradient is taken at another point;",
        "that it is no proof: one has to measure with more steps;",
        "the cost, in gradients.",
    ),
)

here.more(r"""- **Predict, then change:** set `eps = 0.1` in the parameters cell. Is there still a fall? And at 0.3? (Two more networks are then trained. The stored runs stay at 0.2.)
- **Measure:** train once: `net, log = train(random_fgsm)`. Does `log["PGD"][-1].value` lie among the five stored ends, `[run["PGD"][-1] for run in methods["random start"]]`?
- **Measure:** at which step would your `my_stop_step` have stopped each of the five stored runs?""")
