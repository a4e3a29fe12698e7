"""The exercises of notebook 11, how long it will take."""

from exercises import Notebook

here = Notebook(__file__)


@here.write(
    "largest_k",
    r"""what fits into an evening

You have `hours` hours and plan `epochs` epochs of `n_images` images. Plain training takes `seconds` for an image. To be safe, suppose that PGD-k takes `error` times the hours of the formula. Write the largest whole `k` that then fits into your hours. If not even plain training ($k=0$) fits, return -1.""",
    hints=(
        "How many hours does plain training take, with the error? How many such trainings fit into your hours?",
        "Call this number `times`. The rule says $(2k+3)/3 \\le$ `times`. Solve it for $k$; then $k$ has to be a whole number. Rounded in which direction?",
        "`k = (3 * times - 3) // 2` rounds down, also below 0. What is then left to do for the case that nothing fits?",
    ),
    early=True,
)
def my_largest_k(hours, seconds, n_images, epochs, error):
    """The largest number of attack steps that fits; -1 if not even plain training does."""
    ### BEGIN SOLUTION
    plain_hours = seconds * n_images * epochs * error / 3600
    times = hours / plain_hours
    k = (3 * times - 3) // 2
    return max(k, -1)
    ### END SOLUTION


@here.mistake("largest_k", "if the prediction were exact")
def without_the_error(hours, seconds, n_images, epochs, error):
    return my_largest_k(hours, seconds, n_images, epochs, 1)


@here.mistake("largest_k", "The error makes your training faster")
def on_the_fast_end(hours, seconds, n_images, epochs, error):
    return my_largest_k(hours, seconds, n_images, epochs, 1 / error)


@here.mistake("largest_k", "60 times as many hours")
def in_minutes(hours, seconds, n_images, epochs, error):
    return my_largest_k(60 * hours, seconds, n_images, epochs, error)


@here.mistake("largest_k", "PGD-")
def rounded_to_the_nearest(hours, seconds, n_images, epochs, error):
    times = hours / (seconds * n_images * epochs * error / 3600)
    return max(round((3 * times - 3) / 2), -1)


@here.mistake("largest_k", "a whole number of steps")
def a_part_of_a_step(hours, seconds, n_images, epochs, error):
    times = hours / (seconds * n_images * epochs * error / 3600)
    return max((3 * times - 3) / 2, -1)


@here.mistake("largest_k", "counts an attack step as much as a training step")
def by_passes(hours, seconds, n_images, epochs, error):
    times = hours / (seconds * n_images * epochs * error / 3600)
    return max(times // 1 - 1, -1)


@here.mistake("largest_k", "counts 2k + 3 plain trainings")
def units_taken_for_trainings(hours, seconds, n_images, epochs, error):
    return my_largest_k(hours / 3, seconds, n_images, epochs, error)


@here.mistake("largest_k", "of the time of a plain training")
def cut_off_towards_0(hours, seconds, n_images, epochs, error):
    times = hours / (seconds * n_images * epochs * error / 3600)
    return int((3 * times - 3) / 2)


here.predict(
    "mixed_cost",
    r"""both kinds of images, three steps

Mixed training attacks with FGSM, and trains on the clean *and* on the attacked images. Put PGD-3 in the place of FGSM. How many times as long as a plain training does this take, by the counting rule?""",
    answer=4,
    wrong={5: "That counts passes", 3: "PGD-3 alone", 12: "Those are the units", 2.67: "mixed FGSM"},
)


@here.write(
    "seconds_an_image",
    r"""read the clock

`fit` returns `history.seconds`: for each epoch, the time from the *start of the training* to the end of that epoch. Write the seconds that one image takes, for a rehearsal of two or more epochs with `n` images each. The first epoch warms up: leave it out, and take the mean over all later ones.""",
    hints=(
        "`seconds` holds times of a clock, not lengths. How long did the last epochs take together?",
        "From the end of the first epoch to the end of the last one. How many epochs lie between, and how many images did they show?",
        "`(seconds[-1] - seconds[0])` is the time of `len(seconds) - 1` epochs.",
    ),
)
def my_seconds_an_image(seconds, n):
    """Seconds for one image, from the times at which the epochs ended, without the first epoch."""
    ### BEGIN SOLUTION
    later_epochs = len(seconds) - 1
    return (seconds[-1] - seconds[0]) / later_epochs / n
    ### END SOLUTION


@here.mistake("seconds_an_image", "when did it begin")
def the_end_of_the_last_epoch(seconds, n):
    return seconds[-1] / n


@here.mistake("seconds_an_image", "The first epoch counts")
def mean_of_all_epochs(seconds, n):
    return seconds[-1] / len(seconds) / n


@here.mistake("seconds_an_image", "That is the first epoch.")
def the_first_epoch(seconds, n):
    return seconds[0] / n


@here.mistake("seconds_an_image", "the whole epoch")
def of_an_epoch(seconds, n):
    return n * my_seconds_an_image(seconds, n)


@here.mistake("seconds_an_image", "the second epoch alone")
def second_minus_first(seconds, n):
    return (seconds[1] - seconds[0]) / n


@here.mistake("seconds_an_image", "the last epoch alone")
def only_the_last_epoch(seconds, n):
    return (seconds[-1] - seconds[-2]) / n


@here.mistake("seconds_an_image", "the sum of the epochs")
def not_divided_by_the_epochs(seconds, n):
    return (seconds[-1] - seconds[0]) / n


@here.mistake("seconds_an_image", "yours")
def ends_taken_for_lengths(seconds, n):
    return sum(seconds[1:]) / (len(seconds) - 1) / n


@here.write(
    "joined_gradient",
    r"""parts of unequal size

Several processes share a batch, but not evenly. Each process has the gradient of the *mean* loss of its own images. Write the gradient of the mean loss of the *whole* batch (without batch norm, so that no image depends on another). `gradients` has the shape `(processes, weights)`; `sizes` holds the number of images of each process, which may be 0 (then its gradient is 0 too).""",
    hints=(
        "What would you get if each process had the *sum* over its images, and not the mean?",
        "A mean times the number of images is a sum. Add the sums of all processes. By what is the total divided?",
        "`sizes[:, None] * gradients` holds the sums. Add them along the first axis, and divide by `sizes.sum()`.",
    ),
)
def my_joined_gradient(gradients, sizes):
    """The gradient (weights,) of the mean loss over the images of all processes."""
    ### BEGIN SOLUTION
    sums = sizes[:, None] * gradients
    return sums.sum(0) / sizes.sum()
    ### END SOLUTION


@here.mistake("joined_gradient", "the same say")
def a_plain_mean(gradients, sizes):
    return gradients.mean(0)


@here.mistake("joined_gradient", "times as long as that of the batch")
def a_sum(gradients, sizes):
    return gradients.sum(0)


@here.mistake("joined_gradient", "times as long as that of the batch")
def sums_that_nobody_divides(gradients, sizes):
    return (sizes[:, None] * gradients).sum(0)


@here.mistake("joined_gradient", "the fewest images")
def weighted_the_wrong_way(gradients, sizes):
    shares = 1 / sizes.clamp_min(1)
    return (shares[:, None] * gradients).sum(0) / shares.sum()


@here.mistake("joined_gradient", "not a tensor of numbers of shape")
def one_for_each_process(gradients, sizes):
    return sizes[:, None] * gradients / sizes.sum()


@here.mistake("joined_gradient", "5, 0 and 3 images")
def every_process_counts_at_least_one(gradients, sizes):
    return my_joined_gradient(gradients, sizes.clamp_min(1))


here.explain(
    "small_parts",
    r"""small parts

Ten processes share a batch of 50 images. Compare them with two processes that share the same batch. What changes for the computing of a process, for the exchange, and for batch norm? And which training suffers more from the exchange, plain or PGD-10?""",
    r"""- **Computing:** each process has 5 images in place of 25. So it has a fifth of the multiplications.
- **Exchange:** the gradient has one number for each weight, however many images it came from. So the exchange does not become shorter, and it takes a larger part of each step.
- **Batch norm:** the mean of 5 images is usually farther from the mean of all 50 than the mean of 25 images is. So the step usually differs more from the step of one process.
- **Plain training suffers more.** It computes 3 units for each exchange, and PGD-10 computes 23. The attack steps exchange nothing: no other process needs the gradient for the pixels.""",
    contains=(
        "the computing falls with the images of a process, the exchange does not;",
        "batch norm sees fewer images, so its mean differs more;",
        "plain training suffers more than PGD-10, and why.",
    ),
)

here.more(
    r"""- **Predict, then change:** what would a random start of width 1/4 with 18 epochs cost, by the counting rule? Compare it with PGD-3, wide."""
)
