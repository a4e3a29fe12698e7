"""The exercises of notebook 8, robust training."""

from exercises import Notebook
from torch.nn import functional as F

here = Notebook(__file__)


@here.write(
    "divergence",
    r"""the divergence of two predictions

Above we computed the divergence for one image. Write it for a batch, from the logits:

$$\mathrm{KL}(p \,\|\, q) = \sum_k p_k \, (\ln p_k - \ln q_k)$$

Here $p$ is the prediction for the clean image, $q$ for the attacked one. A very sure network has probabilities that are 0 in the computer. So use `log_softmax`, not the logarithm of a softmax.""",
    hints=(
        "You need the logarithms of both predictions, and the probabilities of one of them. Of which?",
        "`log_softmax(1)` gives $\\ln p$ without ever computing a 0. Then $p$ is its exponential.",
        "`log_p = logits.log_softmax(1)`, `log_q = logits_adv.log_softmax(1)`, then the sum along axis 1 of `log_p.exp() * (log_p - log_q)`.",
    ),
    early=True,
)
def my_divergence(logits, logits_adv):
    """For logits (N, K) of clean and attacked images: KL(p || q) of each image, (N,)."""
    ### BEGIN SOLUTION
    log_p, log_q = logits.log_softmax(1), logits_adv.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
    ### END SOLUTION


@here.mistake("divergence", "the other way round")
def turned_around(logits, logits_adv):
    return my_divergence(logits_adv, logits)


@here.mistake("divergence", "Logits of 200")
def logarithm_of_a_softmax(logits, logits_adv):
    p, q = logits.softmax(1), logits_adv.softmax(1)
    return (p * (p.log() - q.log())).sum(1)


@here.mistake("divergence", "four classes")
def mean_over_the_classes(logits, logits_adv):
    return my_divergence(logits, logits_adv) / logits.shape[1]


@here.mistake("divergence", "not a tensor of numbers of shape")
def one_for_the_batch(logits, logits_adv):
    return my_divergence(logits, logits_adv).mean()


@here.mistake("divergence", "never negative")
def sign_turned(logits, logits_adv):
    return -my_divergence(logits, logits_adv)


@here.mistake("divergence", "equal predictions are")
def of_the_logits(logits, logits_adv):
    return (logits.softmax(1) * (logits - logits_adv)).sum(1)


here.predict(
    "passes",
    r"""what a step costs

Count in *gradients*, the unit of notebook 7, not in passes: one gradient is a pass forward and a pass backward. Clean training needs one gradient for each batch. How many does PGD training with 3 steps need?""",
    answer=4,
    wrong={3: "attack alone", 1: "a new gradient", 7: "counts once"},
)


@here.write(
    "trades_loss",
    r"""the loss of TRADES

Write the loss of the aside: the mean cross-entropy of the *clean* images (`logits`), plus $\beta$ times the mean of the divergence (exercise 1).""",
    hints=(
        "Two terms, each of them a mean over the images. Which of them does $\\beta$ multiply?",
        "Use your `my_divergence`: it has one number for each image. What do you still have to do with them?",
        "`F.cross_entropy(logits, y) + beta * my_divergence(logits, logits_adv).mean()`",
    ),
)
def my_trades_loss(logits, logits_adv, y, beta):
    """The loss of TRADES for a batch, a scalar tensor."""
    ### BEGIN SOLUTION
    log_p, log_q = logits.log_softmax(1), logits_adv.log_softmax(1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1)
    return F.cross_entropy(logits, y) + beta * divergence.mean()
    ### END SOLUTION


@here.mistake("trades_loss", "loss of the attacked images")
def of_the_attacked_images(logits, logits_adv, y, beta):
    return F.cross_entropy(logits_adv, y) + beta * my_divergence(logits, logits_adv).mean()


@here.mistake("trades_loss", "the other way round")
def with_the_divergence_turned(logits, logits_adv, y, beta):
    return F.cross_entropy(logits, y) + beta * my_divergence(logits_adv, logits).mean()


@here.mistake("trades_loss", "is the sum over the images")
def with_a_sum(logits, logits_adv, y, beta):
    return F.cross_entropy(logits, y) + beta * my_divergence(logits, logits_adv).sum()


@here.mistake("trades_loss", "by the classes as well")
def mean_of_everything(logits, logits_adv, y, beta):
    kl = F.kl_div(logits_adv.log_softmax(1), logits.softmax(1), reduction="none").mean()
    return F.cross_entropy(logits, y) + beta * kl


@here.mistake("trades_loss", "The mean cross-entropy of the clean images is")
def beta_on_the_first_term(logits, logits_adv, y, beta):
    return beta * F.cross_entropy(logits, y) + my_divergence(logits, logits_adv).mean()


@here.mistake("trades_loss", "makes your loss smaller")
def minus_the_divergence(logits, logits_adv, y, beta):
    return F.cross_entropy(logits, y) - beta * my_divergence(logits, logits_adv).mean()


@here.mistake("trades_loss", "A loss is a single number")
def a_loss_for_each_image(logits, logits_adv, y, beta):
    return F.cross_entropy(logits, y, reduction="none") + beta * my_divergence(logits, logits_adv)


here.explain(
    "never_clean",
    r"""no clean image

`pgd_training` never shows a clean image to the network. Why is its clean accuracy high all the same?""",
    r"""The clean image lies in its own ball: it is the centre. Training makes the largest loss in the ball small, as far as the attack finds it. No point of the ball has a larger loss than that, so the loss at the centre is small, too. But an attack of a few steps may miss the largest loss. And for an image that was not in the training nothing is promised.""",
    contains=(
        "the clean image is a point of its ball;",
        "the loss there is at most the largest loss in the ball;",
        "what the attack finds is not always this largest loss.",
    ),
)

here.more(r"""- **Measure:** attack the test digits `x` on `live_vgg`: `pgd(live_vgg, x, y, eps=eps, steps=1, step_size=1.25 * eps)`, then with `steps=3` and no `step_size`. How many misread images does each find (in `eval_mode`)? Digits misread without an attack count, too. Divide the first number by the second. On B this gives 34%.
- **Change:** load the steep network of the last aside: `trained("random-fgsm-0.3", contrast=10, dataset=dataset, depth=depth, width=width)`. Attack the 200 test digits of `loader` at 0.3, with PGD-40 and with `square` (import `trained` and `square` from `advutils`). Which attack leaves less?
- **Look:** on photographs, robust accuracy on unseen images can *fall* late in a training: **robust overfitting** (Rice et al., 2020). `load_measurement("robust_overfitting")` holds 60 epochs of PGD-3 on 1,000 digits, for two seeds. Draw `training` and `validation` against `epoch`. Is there a gap? Is there a fall?""")
