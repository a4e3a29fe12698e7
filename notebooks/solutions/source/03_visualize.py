"""The exercises of notebook 3, what the perturbation looks like."""

import torch
from exercises import Notebook

from advutils import fgsm_step, predict

here = Notebook(__file__)


@here.write(
    "lengths",
    r"""two lengths of a change

Write both norms, for a batch of changes at once: `delta` holds them, shape `(N, C, H, W)`. Each change has its own two numbers.""",
    hints=(
        "A change has four axes: images, channels, rows, columns. Over which of them do you take the largest move?",
        "`delta.flatten(1)` has one row for each image. A move of −0.3 is as large as one of +0.3.",
        "`flat.abs().max(1).values` is the first one. The second one is a root of a sum over the same rows.",
    ),
    early=True,
)
def my_lengths(delta):
    """For changes (N, C, H, W): the l_inf and the l_2 norms, two tensors (N,)."""
    ### BEGIN SOLUTION
    flat = delta.flatten(1)
    largest = flat.abs().max(1).values
    length = (flat**2).sum(1).sqrt()
    return largest, length
    ### END SOLUTION


@here.mistake("lengths", "of shape (5,)")
def of_the_batch(delta):
    return delta.abs().max(), delta.norm()


@here.mistake("lengths", "the pair (values, indices) of `max`")
def with_the_places(delta):
    return delta.flatten(1).abs().max(1), delta.flatten(1).norm(dim=1)


@here.mistake("lengths", "opposite change")
def largest_without_size(delta):
    return delta.flatten(1).max(1).values, delta.flatten(1).norm(dim=1)


@here.mistake("lengths", "by hand")
def root_of_the_mean(delta):
    flat = delta.flatten(1)
    return flat.abs().max(1).values, (flat**2).mean(1).sqrt()


@here.mistake("lengths", "by hand")
def without_the_root(delta):
    flat = delta.flatten(1)
    return flat.abs().max(1).values, (flat**2).sum(1)


@here.mistake("lengths", "in a batch")
def shared_by_the_batch(delta):
    ones = torch.ones(len(delta))
    return delta.abs().max() * ones, delta.norm() * ones


@here.mistake("lengths", "does not give back two")
def one_of_them(delta):
    return delta.flatten(1).norm(dim=1)


here.predict(
    "white_ground",
    r"""a dark digit on white ground

We attack `1 - x`, a dark digit on a white ground. What does FGSM do to the white ground?

- `"a"`: pixels there get brighter, none gets darker
- `"b"`: pixels there get darker, none gets brighter
- `"c"`: some get brighter, some darker
- `"d"`: nothing""",
    answer="b",
    wrong={"a": "white pixel get brighter", "c": "asks for both", "d": "room on one side"},
)


@here.write(
    "universal",
    r"""one pattern for all

Moosavi-Dezfooli and others (arXiv:1610.08401) look for *one* change that makes a network misread most images, a **universal** perturbation. Here is a simple one. For each pixel, every image has one vote: the sign of its gradient. Add the votes and take the sign of the sum. Move all images by $\epsilon$ along this pattern, and clip.

`gradients` holds the gradients of the images, `(N, C, H, W)`.""",
    hints=(
        "A vote is +1 or −1, however large the gradient is. What do you have to do before you add?",
        "Add over the images, which is axis 0. The sum says by how many votes a pixel goes up. How far may it go?",
        "`pattern = gradients.sign().sum(0).sign()` has the shape of one image; PyTorch adds it to each image of `x`.",
    ),
)
def my_universal(x, gradients, eps):
    """The images x, all moved by eps along the same pattern, inside [0, 1]."""
    ### BEGIN SOLUTION
    pattern = gradients.sign().sum(0).sign()
    return (x + eps * pattern).clamp(0, 1)
    ### END SOLUTION


@here.mistake("universal", "in different ways")
def each_its_own(x, gradients, eps):
    return (x + eps * gradients.sign()).clamp(0, 1)


@here.mistake("universal", "the largest gradient")
def mean_of_the_gradients(x, gradients, eps):
    return (x + eps * gradients.mean(0).sign()).clamp(0, 1)


@here.mistake("universal", "the pixels moved by")
def mean_of_the_signs(x, gradients, eps):
    return (x + eps * gradients.sign().mean(0)).clamp(0, 1)


@here.mistake("universal", "are no image")
def pattern_without_the_clip(x, gradients, eps):
    return x + eps * gradients.sign().sum(0).sign()


@here.mistake("universal", "against the majority")
def against_the_votes(x, gradients, eps):
    return (x - eps * gradients.sign().sum(0).sign()).clamp(0, 1)


@here.write(
    "smallest_eps",
    r"""the smallest epsilon

Which digit falls first? For each image, find the smallest $\epsilon$ of a rising list at which FGSM makes the network misread it. An image that is never misread gets `math.inf` (or `torch.inf`). Take care: an image that is misread at some $\epsilon$ may be read correctly again at a larger one.

`fgsm_step(x, gradient, eps)` gives the attacked images, `predict(model, images)` the probabilities.""",
    hints=(
        "Start with a tensor that says infinity for every image. When may a number in it be changed?",
        "Go through the list from the smallest to the largest. Change a number only where the image is misread now *and* the number is still infinite.",
        "`misread = predict(model, x_adv).argmax(1) != y`, then `found[misread & found.isinf()] = eps`.",
    ),
)
def my_smallest_eps(model, x, y, gradient, eps_values):
    """For each image the smallest of the rising eps_values at which it is misread, (N,)."""
    ### BEGIN SOLUTION
    found = torch.full((len(x),), torch.inf)
    for eps in eps_values:
        x_adv = fgsm_step(x, gradient, eps)
        misread = predict(model, x_adv).argmax(1) != y
        found[misread & found.isinf()] = eps
    return found
    ### END SOLUTION


@here.mistake("smallest_eps", "misread at 0.2 and 0.3; its number is 0.3")
def the_largest_one(model, x, y, gradient, eps_values):
    found = torch.full((len(x),), torch.inf)
    for eps in eps_values:
        found[predict(model, fgsm_step(x, gradient, eps)).argmax(1) != y] = eps
    return found


@here.mistake("smallest_eps", "correctly again at 0.3")
def by_counting(model, x, y, gradient, eps_values):
    misread = torch.stack([predict(model, fgsm_step(x, gradient, eps)).argmax(1) != y for eps in eps_values])
    values = torch.tensor([*eps_values, torch.inf])
    return values[(~misread).sum(0)]


@here.mistake("smallest_eps", "that no epsilon of the list fools got")
def zero_for_never(model, x, y, gradient, eps_values):
    found = my_smallest_eps(model, x, y, gradient, eps_values)
    return torch.where(found.isinf(), torch.zeros(()), found)


@here.mistake("smallest_eps", "misread without an attack got")
def attacked_ones_only(model, x, y, gradient, eps_values):
    return my_smallest_eps(model, x, y, gradient, eps_values[1:])


@here.mistake("smallest_eps", "of shape (4,)")
def of_the_first_image(model, x, y, gradient, eps_values):
    return my_smallest_eps(model, x, y, gradient, eps_values)[:1]


here.explain(
    "rare_accident",
    r"""an accident?

Somebody says: "Noise of size 0.2 does no harm. So a harmful direction is very rare, and nobody will meet it by accident. The network is safe." What is right about it, and what is wrong? Use the sum $\sum_i m_i s_i$ of the section "A sum whose terms add up, or cancel". Let all 784 gradients $m_i$ have the same size. How much does a step of $\epsilon$ change the margin along FGSM's signs, and how much along coins?""",
    r"""It is nearly right that this noise does no harm: under our coins 95.7% are still read, of 98.3%. And chance hardly ever finds the direction. If all gradients have size $c$ and all of FGSM's moves lower the margin, it falls by about $784 \, \epsilon c$. The moves of coins mostly cancel. The change is then about $\sqrt{784} \, \epsilon c = 28 \, \epsilon c$ in size, as often up as down. What is wrong is the last sentence. An attacker does not wait for an accident. They compute the direction, with one gradient. A test with noise does not measure whether the network withstands somebody who wants it to be wrong. At 0.2 FGSM leaves 40.0%.""",
    contains=(
        "784 against its root, 28: terms that add up, and terms that cancel;",
        "the attacker chooses the direction, chance does not;",
        "noise and attack answer two different questions;",
        "the measured numbers, with their epsilon.",
    ),
)

here.more(r"""- **Predict, then drag:** which of the ten digits needs the smallest $\epsilon$? Which one withstands the longest, and on which of the two networks?
- **Change:** find, with "next example", a digit that the clean VGG misreads at $\epsilon = 0$. FGSM raises the loss of the label. Can it make this digit right?""")
