"""The exercises of notebook 12, certificates."""

import torch
from exercises import Notebook
from torch.nn import functional as F

here = Notebook(__file__)


@here.write(
    "margin_bound",
    r"""the last layer, folded into differences

Write this bound for each image and each class $k$. Each input of the last layer has an interval from `lower` to `upper`, and `y` holds the true classes. The shapes are `weight (K, m)`, `bias (K,)`, `lower` and `upper (N, m)`, `y (N,)`. The result is `(N, K)`, with 0 for the true class.""",
    hints=(
        "The cell with `through_linear` above computes the centre and the radius of intervals.",
        "`weight[y]` has the row of the true class for each image, `(N, m)`. `weight[y][:, None] - weight` is `(N, K, m)`: a neuron for each image and class.",
        "Let `rows = weight[y][:, None] - weight`. The centres are `(rows * centre[:, None]).sum(2)` plus the difference of the biases. The radii are `(rows.abs() * radius[:, None]).sum(2)`.",
    ),
    early=True,
)
def my_margin_bound(weight, bias, lower, upper, y):
    """For each image and class, (N, K): the smallest possible true logit minus this logit."""
    ### BEGIN SOLUTION
    rows = weight[y][:, None] - weight
    biases = bias[y][:, None] - bias
    centre = (upper + lower) / 2
    radius = (upper - lower) / 2
    new_centre = (rows * centre[:, None]).sum(2) + biases
    new_radius = (rows.abs() * radius[:, None]).sum(2)
    return new_centre - new_radius
    ### END SOLUTION


def folded(weight, bias, lower, upper, y, sign=-1, size=torch.abs):
    rows = weight[y][:, None] - weight
    centre, radius = (upper + lower) / 2, (upper - lower) / 2
    middle = (rows * centre[:, None]).sum(2) + bias[y][:, None] - bias
    return middle + sign * (size(rows) * radius[:, None]).sum(2)


def both_ends(weight, bias, lower, upper):
    centre, radius = (upper + lower) / 2, (upper - lower) / 2
    middle, around = F.linear(centre, weight, bias), F.linear(radius, weight.abs())
    return middle - around, middle + around


@here.mistake("margin_bound", "The true logit minus itself is")
def two_intervals(weight, bias, lower, upper, y):
    low, high = both_ends(weight, bias, lower, upper)
    return low.gather(1, y[:, None]) - high


@here.mistake("margin_bound", "what two separate intervals give")
def two_intervals_and_a_zero(weight, bias, lower, upper, y):
    bound = two_intervals(weight, bias, lower, upper, y)
    return bound.scatter(1, y[:, None], 0.0)


@here.mistake("margin_bound", "the opposite sign")
def rival_minus_true(weight, bias, lower, upper, y):
    return -folded(weight, bias, lower, upper, y, sign=1)


@here.mistake("margin_bound", "without the bias")
def bias_forgotten(weight, bias, lower, upper, y):
    return my_margin_bound(weight, 0 * bias, lower, upper, y)


@here.mistake("margin_bound", "are no bound")
def radius_with_the_signs(weight, bias, lower, upper, y):
    return folded(weight, bias, lower, upper, y, size=torch.clone)


@here.mistake("margin_bound", "are no bound")
def the_largest_difference(weight, bias, lower, upper, y):
    return folded(weight, bias, lower, upper, y, sign=1)


@here.mistake("margin_bound", "smaller than what any corner reaches")
def the_width_as_radius(weight, bias, lower, upper, y):
    half = (upper - lower) / 2
    return my_margin_bound(weight, bias, lower - half, upper + half, y)


@here.mistake("margin_bound", "both ends are the same point")
def bias_in_the_radius(weight, bias, lower, upper, y):
    return my_margin_bound(weight, bias, lower, upper, y) - (bias[y][:, None] - bias).abs()


@here.mistake("margin_bound", "The true logit minus itself is")
def of_the_answer_and_not_of_the_label(weight, bias, lower, upper, y):
    answer = F.linear((upper + lower) / 2, weight, bias).argmax(1)
    return my_margin_bound(weight, bias, lower, upper, answer)


@here.mistake("margin_bound", "not a tensor of numbers of shape")
def the_smallest_of_all_classes(weight, bias, lower, upper, y):
    return my_margin_bound(weight, bias, lower, upper, y).amin(1)


here.predict(
    "lost_width",
    r"""a difference that is always 0

A network has one input $h$, which may be any number from 0.2 to 0.5. Its first linear layer computes $a = h$ and $b = 2h$. Its second linear layer computes $2a - b$. So the output is always 0. How wide is the interval of the output, if the two intervals of $a$ and $b$ go through the second layer?""",
    answer=1.2,
    wrong={0: "know nothing of each other", 0.6: "That is the radius", 0.3: "the width of h"},
)


@here.write(
    "worst_loss",
    r"""the loss of the worst logits

Now only the intervals of the *logits* are given, `lower` and `upper`, both `(N, K)`. Write the largest mean cross-entropy that any logits in these intervals can have. Which end of each interval is the worst one?""",
    hints=(
        "The cross-entropy grows if the true logit falls. What happens to it if another logit rises?",
        "Each image needs the lower end for its true class, and the upper end for each other class. Begin with a copy of one of the two.",
        "`worst = upper.clone()`; with `images = torch.arange(len(y))` the true logits are `worst[images, y]`, and you can assign to them.",
    ),
)
def my_worst_loss(lower, upper, y):
    """The largest mean cross-entropy of logits between lower and upper."""
    ### BEGIN SOLUTION
    worst = upper.clone()
    images = torch.arange(len(y))
    worst[images, y] = lower[images, y]
    return F.cross_entropy(worst, y)
    ### END SOLUTION


@here.mistake("worst_loss", "the network chooses the ends")
def the_best_logits(lower, upper, y):
    return my_worst_loss(upper, lower, y)


@here.mistake("worst_loss", "the loss of the upper ends")
def all_upper_ends(lower, upper, y):
    return F.cross_entropy(upper, y)


@here.mistake("worst_loss", "the loss of the lower ends")
def all_lower_ends(lower, upper, y):
    return F.cross_entropy(lower, y)


@here.mistake("worst_loss", "the loss of the centres")
def the_centres(lower, upper, y):
    return F.cross_entropy((lower + upper) / 2, y)


@here.mistake("worst_loss", "the sum over the images")
def summed(lower, upper, y):
    return len(y) * my_worst_loss(lower, upper, y)


@here.mistake("worst_loss", "the network would answer")
def answers_for_labels(lower, upper, y):
    return my_worst_loss(lower, upper, lower.argmax(1))


@here.mistake("worst_loss", "A loss is a single number")
def a_loss_for_each(lower, upper, y):
    return F.cross_entropy(upper, y, reduction="none")


@here.mistake("worst_loss", "was changed in place")
def into_the_argument(lower, upper, y):
    upper[torch.arange(len(y)), y] = lower[torch.arange(len(y)), y]
    return F.cross_entropy(upper, y)


@here.mistake("worst_loss", "have a loss above")
def a_whole_width_for_each(lower, upper, y):
    return my_worst_loss(lower - (upper - lower), upper, y)


@here.write(
    "halved_radius",
    r"""a radius by halving

`proved(eps)` is true where there is a certificate at the radius `eps`. If there is one at a radius, there is one at every smaller radius. Write the search by bisection: begin with the interval from 0 to `high`, and halve it `times` times. Give back a radius that *has* a certificate (or 0, if you have found none). `high` itself need not be tried.""",
    hints=(
        "Two numbers are carried from step to step: the ends of the interval. Which end stays proved all the time?",
        "Ask in the middle. If there is a proof there, the lower end moves to the middle; if there is none, the upper end does.",
        "Begin with `low = 0.0`; in the loop `middle = (low + high) / 2`, then `if proved(middle): low = middle`, `else: high = middle`. Which of the two is a proof at the end?",
    ),
)
def my_halved_radius(proved, high, times):
    """The largest radius below high for which a proof was found, by halving 0 to high."""
    ### BEGIN SOLUTION
    low = 0.0
    for _ in range(times):
        middle = (low + high) / 2
        if proved(middle):
            low = middle
        else:
            high = middle
    return low
    ### END SOLUTION


def halved(proved, low, high, times):
    for _ in range(times):
        middle = (low + high) / 2
        low, high = (middle, high) if proved(middle) else (low, middle)
    return low, high


@here.mistake("halved_radius", "There is no proof at all")
def the_upper_end(proved, high, times):
    return halved(proved, 0.0, high, times)[1]


@here.mistake("halved_radius", "There is no proof at all")
def the_middle_at_the_end(proved, high, times):
    return sum(halved(proved, 0.0, high, times)) / 2


@here.mistake("halved_radius", "The highest radius to try was")
def always_from_0_to_1(proved, high, times):
    return halved(proved, 0.0, 1.0, times)[0]


@here.mistake("halved_radius", "may be missing")
def the_first_proof(proved, high, times):
    for _ in range(times):
        high = high / 2
        if proved(high):
            return high
    return 0.0


@here.mistake("halved_radius", "proofs; 12 halvings need 12")
def one_radius_after_the_other(proved, high, times):
    radius = 0.0
    while radius + high / 2**times < high and proved(radius + high / 2**times):
        radius += high / 2**times
    return radius


@here.mistake("halved_radius", "your radius is")
def the_ends_mixed_up(proved, high, times):
    return halved(lambda eps: not proved(eps), 0.0, high, times)[0]


here.explain(
    "above_the_attack",
    r"""above the attack

Somebody shows you a table: at 0.1, PGD leaves 90.5%, and 92% are certified. What do you conclude? What would you look at first?""",
    r"""A digit with a certificate is read correctly in its whole box. So PGD leaves it, if PGD stays in the same box and attacks the same digits and the same network. The certified share cannot be larger. So it is an error, not chance.

I would look for a single digit that is certified, and on which PGD succeeds. Is each pixel of its attacked image at most 0.1 away from the clean one, and between 0 and 1?

- **The image is in the box, and the network misreads it:** then the certificate is wrong. Perhaps the absolute values are missing, or the normalisation rescaled the pixels and not the radius. Or the clean digit is misread already, and its wrong answer was proved.
- **The image is not in the box:** then the attack is wrong. Perhaps epsilon has other units, or a projection is missing.
- **There is no such digit:** then the two numbers are about different digits, weights or radii.""",
    contains=(
        "it is an error, not luck;",
        "the reason: the certified digits are a part of those that the attack leaves;",
        "one certified digit on which PGD succeeds decides which of the two is wrong;",
        "two examples of errors, such as another radius, other digits, answers in place of labels.",
    ),
)

here.more(r"""- **Predict, then change:** set `eps = 0.2` in the parameters. What happens to the certified and the clean accuracy of your network? (The texts are about 0.1.)
- **Predict:** in the example with one ReLU, let $p$ lie between 0.3 and 0.8. What do intervals prove for $p - h$, and what do the two lines?""")
