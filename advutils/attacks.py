"""Attacks: callables `(model, x, y, *, eps) -> x_adv`, each a few lines that look like its equation.

Every attack crafts in eval mode, computes no weight gradients, and leaves the model, its modes and its inputs as it
found them. It returns detached images inside the eps-ball around `x` and inside [0, 1]. `eps` is the radius of the
l_inf ball in pixel units; an attack that takes `norm="l2"` then reads it as a Euclidean length.
"""

import contextlib
import logging
import math
import sys
import warnings

import torch
from torch.nn import functional as F

from advutils import checks
from advutils.models import answer, evaluating

# Raise an attack's when the images that it returns change (tests/test_golden.py says when). Results keep it.
VERSIONS = dict(fgsm=1, pgd=1, targeted=1, square=1, grey=1, random_noise=1, autoattack=1)


BLIND = (
    "the gradient is exactly zero for most of the images that are not fooled: attacks that follow it leave them as "
    "they are, so the model looks more robust than it is (another loss, BPDA or `square` may help: "
    "06_strong_attacks.ipynb)"
)
WARNED = {}  # emptied when a measurement begins, so that each one warns once


def input_gradient(model, x, y, loss=None):
    """The gradient of each image's own loss with respect to its pixels: grad_x CE(model(x), y).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        loss: a callable (logits (N, K), y (N,)) -> (N,) in place of the cross-entropy, `dlr` for one.

    Returns:
        Tensor shaped like x. The losses are summed, not averaged, so an image's gradient does not depend on its batch.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Taught in 02_fgsm_attack.ipynb.
    """
    checks.loss(loss)
    _check(model, x, y)
    return climb(model, x, y, loss or cross_entropy)[0]


def fgsm(model, x, y, *, eps):
    """The fast gradient sign method, one step to the corner of the ball: x_adv = clip(x + eps sign(grad_x CE)).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the l_inf ball in pixel units, 0 to 1.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Goodfellow, Shlens and Szegedy, 2015, arXiv:1412.6572. Taught in 02_fgsm_attack.ipynb.
    """
    eps = checks.eps(eps)
    return fgsm_step(x, input_gradient(model, x, y), eps)


def fgsm_step(x, gradient, eps):
    """Clip(x + eps sign(gradient)): the part of FGSM that depends on eps, so one gradient serves any number of them."""
    return x.detach().add(gradient.sign(), alpha=eps).clamp_(0, 1)


def fgsm_sweep(model, x, y, eps_values):
    """(x_adv, logits or None) for each eps: at 0, where x_adv is x, the gradient's forward pass has brought them."""
    _check(model, x, y)
    gradient, logits = climb(model, x, y, cross_entropy)
    return ((fgsm_step(x, gradient, eps), None if eps else logits) for eps in eps_values)


def random_noise(model, x, y, *, eps, generator=None):
    """Noise as large as FGSM's and blind to the model: x_adv = clip(x + eps s), each s a fair coin's -1 or +1.

    Args:
        model: ignored; it is there because an attack takes one.
        x: images (N, C, H, W), float32 in [0, 1].
        y: ignored, likewise.
        eps: radius of the l_inf ball in pixel units, 0 to 1.
        generator: torch.Generator to draw from; the global one if None.

    Returns:
        Noisy images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Taught in 03_visualize.ipynb.
    """
    eps = checks.eps(eps)
    checks.images(x)
    return fgsm_step(x, _uniform(x, generator).sub(0.5), eps)


def grey(model, x, y, *, eps, norm="linf"):
    """The constant grey image, or as near to it as the ball allows: x_adv = project(0.5).

    At eps = 0.5 (l_inf) it is grey for *every* image, so no classifier keeps more than the share of the class that it
    gives to grey. `model` and `y` are ignored; the other arguments are those of `pgd`.

    Returns:
        Images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Taught in 05_reattack.ipynb.
    """
    eps = checks.eps(eps, norm=norm)
    checks.images(x)
    return project(torch.full_like(x, 0.5), x, eps, norm)


def pgd(
    model,
    x,
    y,
    *,
    eps,
    step_size=None,
    steps=40,
    random_start=True,
    restarts=1,
    norm="linf",
    loss=None,
    target=None,
    momentum=0.0,
    early_exit=False,
    generator=None,
):
    """Projected gradient descent: FGSM in small steps, x_adv <- project(x_adv + step_size sign(grad CE(x_adv))).

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        eps: radius of the ball in pixel units, 0 to 1 (l_2: a Euclidean length, at least 0).
        step_size: length of a step in the same units; 2.5 eps / steps if None, enough to cross the ball and come back.
        steps: gradient steps of each run, at least 1.
        random_start: start each run from a random point of the ball, not from x.
        restarts: number of runs; for each image the one of smallest margin is kept, so more never help the defender.
        norm: "linf", or "l2", for which a step is the gradient at unit length and the projection shrinks.
        loss: what to climb, a callable (logits, y) -> (N,): `cross_entropy` if None, or `cw`, `dlr`, your own.
        target: None, or the labels (N,) that the images are to be taken for: the loss towards them is descended, and an
            image counts as fooled when its target is reached.
        momentum: share of the last direction that is kept (MI-FGSM has 1.0); helps images to fool other networks.
        early_exit: leave an image as soon as it is fooled. `accuracy` asks for this; it costs no pass through the
            network and saves most of them where a defence is weak.
        generator: torch.Generator to draw the starts from; the global one if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Madry et al., 2018, arXiv:1706.06083; momentum: Dong et al., 2018, arXiv:1710.06081. Taught in 05_reattack.ipynb
    and, with its variations, in 06_strong_attacks.ipynb; momentum in 09_transfer_and_black_box.ipynb.
    """
    eps, steps, restarts = checks.eps(eps, norm=norm), checks.count(steps, "steps"), checks.count(restarts, "restarts")
    step_size = 2.5 * eps / steps if step_size is None else checks.positive(step_size, "step_size")
    checks.loss(loss)
    momentum, loss = checks.share(momentum, "momentum"), loss or cross_entropy
    _check(model, x, y)
    if target is not None:
        checks.labels(target, x, "target")
    runs, left = [], torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        x_adv = _start(x, eps, norm, generator) if random_start else x.detach().clone()
        runs.append(x_adv)
        going, velocity = left, torch.zeros_like(x)
        for _ in range(steps):
            aim = y[going] if target is None else target[going]
            gradient, logits = climb(model, x_adv[going], aim, loss, away=target is None)
            if target is not None:
                checks.classes(y[going], logits.shape[1])
            if early_exit:
                open_ = _lead(logits, y[going], None if target is None else target[going]) <= 0
                going, gradient = going[open_], gradient[open_]
                if len(going) == 0:
                    break
            if momentum:
                gradient = momentum * velocity[going] + gradient / _length(gradient, 1)
                velocity[going] = gradient
            step = step_size * _direction(gradient, norm)
            x_adv[going] = project(x_adv[going] + step, x[going], eps, norm)
        left = going if early_exit else left
        if len(left) == 0:
            break
    return _strongest(model, runs, y, target)


def targeted(model, x, y, *, eps, attack=pgd, targets=9, early_exit=False, generator=None):
    """Aim at each wrong class in turn, the likeliest first, and keep for each image what misleads the model most.

    Args:
        model, x, y, eps: as for `pgd`.
        attack: `pgd`, or a partial of it, that takes a `target`.
        targets: how many wrong classes to try; all of them where there are fewer.
        early_exit: aim an image that is misclassified already at no further class; handed on to `attack` as well.
        generator: torch.Generator to draw the starts from; that of `attack` if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: what `attack` refuses.

    Taught in 06_strong_attacks.ipynb.
    """
    targets = checks.count(targets, "targets")
    options = dict(early_exit=True) if early_exit else {}  # what is left out stays as it is bound to the attack
    options |= {} if generator is None else dict(generator=generator)
    _check(model, x, y)
    with evaluating(model) as model, torch.no_grad():
        logits = _answer(model, x, y)
    by_rank = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]  # (N, K - 1)
    runs, left = [x.detach().clone()], torch.arange(len(x), device=x.device)
    for rank in range(min(targets, by_rank.shape[1])):
        x_adv = x.detach().clone()
        x_adv[left] = attack(model, x[left], y[left], eps=eps, target=by_rank[left, rank], **options)
        runs.append(x_adv)
        if early_exit:
            with evaluating(model) as model, torch.no_grad():
                left = left[cw(answer(model, x_adv[left]), y[left]) <= 0]
            if len(left) == 0:
                break
    return _strongest(model, runs, y)


def square(model, x, y, *, eps, queries=1000, p_init=0.8, early_exit=False, generator=None):
    """The Square attack, a random search that asks the model for its answers and for no gradient (l_inf).

    It begins with vertical stripes of +-eps; then, once a query, it repaints a random square of each image with +-eps
    and keeps the change where the margin fell. The squares shrink as the queries are used up.

    Args:
        model, x, y: as for `pgd`; the model is only ever asked for its logits.
        eps: radius of the l_inf ball in pixel units, 0 to 1.
        queries: forward passes an image may cost, at least 1; the first paints the stripes.
        p_init: share of the image that the first squares cover, 0 to 1.
        early_exit: leave an image as soon as it is misclassified; it takes nothing from the attack.
        generator: torch.Generator to draw from; the global one if None.

    Returns:
        Adversarial images, shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Andriushchenko et al., 2020, arXiv:1912.00049. Taught in 09_transfer_and_black_box.ipynb.
    """
    eps, queries, p_init = checks.eps(eps), checks.count(queries, "queries"), checks.share(p_init, "p_init")
    _check(model, x, y)
    n, channels, height, width = x.shape

    def coins(*shape):
        return _uniform(x.new_empty(shape), generator).sub(0.5).sign()

    with evaluating(model) as model, torch.no_grad():
        x_adv = fgsm_step(x, coins(n, channels, 1, width), eps)
        best = _leads(model, x_adv, y)
        for query in range(1, queries):
            left = (best <= 0).nonzero().flatten() if early_exit else torch.arange(n, device=x.device)
            if len(left) == 0:
                break
            side = max(1, min(round(math.sqrt(p_init * _shrunk(query / queries) * height * width)), height, width))
            corner = _uniform(x.new_empty(2, n, 1), generator)
            rows = _within((corner[0] * (height - side + 1)).floor(), side, height)[:, None, :, None]  # (N, 1, H, 1)
            cols = _within((corner[1] * (width - side + 1)).floor(), side, width)[:, None, None, :]  # (N, 1, 1, W)
            painted = fgsm_step(x, coins(n, channels, 1, 1).expand_as(x), eps)
            tried = torch.where(rows & cols, painted, x_adv)[left]
            leads = _leads(model, tried, y[left])
            better = leads > best[left]
            x_adv[left[better]], best[left[better]] = tried[better], leads[better]
    return x_adv


def autoattack(model, x, y, *, eps, norm="linf", only=None, batch_size=250, seed=0, flags=None):
    """AutoAttack, the judge whose settings nobody chooses: APGD-CE, APGD-T, FAB-T and Square, each on what is left.

    The implementation is that of the package pyautoattack, an optional extra.

    Args:
        model, x, y, eps, norm: as for `pgd`.
        only: None for the complete standard version, or a list of some of "apgd-ce", "apgd-dlr", "apgd-t", "fab-t" and
            "square".
        batch_size: images that are attacked together.
        seed: of its random starts; the caller's own random state is left alone.
        flags: a list to which its warnings are added: that the evaluation may be unreliable, and why. Without one, they
            become Python warnings.

    Returns:
        Adversarial images, shaped like x; x itself where it found none.

    Raises:
        ImportError: pyautoattack is not installed.
        TypeError, ValueError: an argument that is not as above; the message names it.

    Croce and Hein, 2020, arXiv:2003.01690. Taught in 06_strong_attacks.ipynb.
    """
    eps, batch_size = checks.eps(eps, norm=norm), checks.count(batch_size, "batch_size")
    for name in [] if only is None else only or [None]:
        checks.one_of(name, "only", ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"))
    _check(model, x, y)
    with evaluating(model) as model, torch.no_grad():
        logits = torch.cat([_answer(model, *part) for part in zip(x.split(batch_size), y.split(batch_size))])
    if logits.shape[1] < 4:
        raise ValueError(f"model: got {logits.shape[1]} classes; accepts at least 4, as AutoAttack's losses need them")
    try:
        import pyautoattack
    except ImportError as error:
        raise ImportError("autoattack needs the package pyautoattack: pip install 'advutils[autoattack]'") from error
    if set(only or ["apgd-ce"]) != {"square"}:
        input_gradient(model, x[:1], y[:1])  # it raises where there is none
    heard, tracer = _Heard(), sys.gettrace()  # its check for dynamic defences replaces the caller's tracer, and counts
    pyautoattack.checks.funcs.update(dict.fromkeys(pyautoattack.checks.funcs, 0))  # on from one model to the next
    log = logging.getLogger("auto-attack")
    log.addHandler(heard)
    try:
        with torch.random.fork_rng(), torch.inference_mode(False), _unmoved(model), evaluating(model) as model:
            x, y = x.detach().clone(), y.clone()
            judge = pyautoattack.AutoAttack(
                _Asked(model),
                attacks=only,
                device=x.device,
                eps=eps,
                norm={"linf": "Linf", "l2": "L2"}[norm],
                seed=seed,
                version="custom" if only else "standard",
            )
            judge.apgd.n_restarts = judge.fab.n_restarts = 1  # as in the standard version
            judge.apgd_targeted.n_target_classes = judge.fab.n_target_classes = min(9, logits.shape[1] - 1)
            x_adv, _ = judge.run_standard_evaluation(x, y, batch_size=batch_size)
    finally:
        log.removeHandler(heard)
        sys.settrace(tracer)
    for flag in dict.fromkeys(heard.flags):
        if flags is None:
            warnings.warn(f"AutoAttack: {flag}", stacklevel=2)
        else:
            flags.append(flag)
    return project(x_adv, x, eps, norm)  # it stays inside but for rounding


class _Asked(torch.nn.Module):
    """The model as another library may call it: with images that it may change, and answers in float32."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return answer(self.model, x).float()


@contextlib.contextmanager
def _unmoved(model):
    """No weight of the model gathers a gradient inside the block; their own are left alone (FAB would add to them)."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class _Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.flags = []

    def emit(self, record):
        self.flags.append(record.getMessage().split(" See ")[0])


def project(x_adv, x, eps, norm="linf"):
    """The nearest point to x_adv in the ball of radius eps around x (l_inf), brought into [0, 1].

    For "l2" the difference is shrunk to length eps where it is longer; clipping to [0, 1] then shortens it further.
    """
    if norm == "linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1).detach()
    delta = x_adv - x
    return (x + delta * (eps / _length(delta, 2)).clamp(max=1)).clamp(0, 1).detach()


def cross_entropy(logits, y):
    """Each image's own cross-entropy, (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits, y):
    """How far the true class is ahead of the best wrong one, (N,): positive where the image is read correctly."""
    return -cw(logits, y)


def cw(logits, y):
    """The margin with its sign turned, (N,): a loss that is positive exactly where the image is misclassified.

    Carlini and Wagner, 2017, arXiv:1608.04644, their f_6 without its clamp. Taught in 06_strong_attacks.ipynb.
    """
    true = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf).amax(1) - logits[true]


def dlr(logits, y):
    """`cw` over the distance from first to third logit, (N,): unlike cross-entropy, blind to the logits' scale.

    Difference of logits ratio: Croce and Hein, 2020, arXiv:2003.01690. Needs at least three classes. Taught in
    06_strong_attacks.ipynb.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"logits: got {logits.shape[1]} classes; accepts at least 3, as dlr divides by first - third")
    first, _, third = logits.topk(3).values.unbind(1)
    return cw(logits, y) / (first - third).clamp_min(1e-12)


def climb(model, x, y, loss, *, away=True):
    """The direction in which to move each x, and the logits there: (grad_x loss(model(x), y), model(x)).

    The one place where the package differentiates for pixels. Checks logits and gradient, not x: a caller may stand
    outside [0, 1]. With `away=False` the loss is descended: the direction leads towards y.
    """
    with evaluating(model) as model, torch.inference_mode(False):  # which also records gradients, under no_grad too
        checks.differentiable(model)
        x, y = x.detach().clone().requires_grad_(), y.clone()  # copies are free of a caller's inference mode
        z = answer(model, x)
        checks.logits(z, len(x))
        checks.classes(y, z.shape[1], "y" if away else "target")
        logits = z.detach().requires_grad_()
        losses = loss(logits, y)
        checks.path(losses.requires_grad, "loss")
        slope = torch.autograd.grad(losses, logits, torch.ones_like(losses))[0]  # of each image's own loss
        exponent = slope.abs().amax(1).frexp().exponent.clamp(-99, 99)  # a power of two is exact, and
        scaled = slope.ldexp(-exponent[:, None])  # keeps a small gradient from vanishing in half precision
        gradient = torch.autograd.grad(z, x, scaled, allow_unused=True)[0] if z.requires_grad else None
        checks.path(gradient is not None, "model")
        checks.gradient(gradient)
        unfooled = (cw(logits, y) if away else -cw(logits, y)).detach() <= 0
        if unfooled.any() and gradient[unfooled].flatten(1).any(1).float().mean() < 0.5:
            warnings.warn_explicit(BLIND, UserWarning, __file__, 1, "advutils", WARNED)
        gradient = gradient.ldexp(exponent.view(-1, 1, 1, 1))
    return (gradient if away else -gradient), logits.detach()


def _direction(gradient, norm):
    if norm == "linf":
        return gradient.sign()
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = gradient / largest  # tiny numbers have no squares
    return scaled / _length(scaled, 2)


def _length(delta, p):
    """The l_p length of each image's delta, (N, 1, 1, 1), never zero."""
    return torch.linalg.vector_norm(delta, p, dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)


def _start(x, eps, norm, generator):
    """A random point of each image's ball: uniform for l_inf; for l_2, a random direction and a uniform length."""
    if norm == "linf":
        return project(x + eps * (2 * _uniform(x, generator) - 1), x, eps)
    toward = torch.erfinv((2 * _uniform(x, generator) - 1).clamp(-1 + 1e-6, 1 - 1e-6))  # normal, from the same stream
    length = eps * _uniform(x[:, :1, :1, :1], generator)
    return project(x + length * toward / _length(toward, 2), x, eps, norm)


def _lead(logits, y, target):
    """Above 0 where the attack has what it wants: y is beaten or, with a target, the target is first."""
    return cw(logits, y) if target is None else -cw(logits, target)


def _strongest(model, runs, y, target=None):
    if len(runs) == 1:
        return runs[0]
    with evaluating(model) as model, torch.no_grad():
        leads = torch.stack([_lead(answer(model, x_adv), y, target) for x_adv in runs])  # (restarts, N)
    return torch.stack(runs)[leads.argmax(0), torch.arange(len(y), device=y.device)]


def _leads(model, x, y):
    return cw(_answer(model, x, y), y)


def _answer(model, x, y):
    z = answer(model, x)
    checks.logits(z, len(x))
    checks.classes(y, z.shape[1])
    return z


def _shrunk(spent):
    """The size of Square's squares beside the first, by the share of queries that are spent: halved nine times."""
    milestones = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    return 0.5 ** sum(spent > milestone for milestone in milestones)


def _within(start, size, total):
    """Which of `total` positions lie in [start, start + size): bool (N, total) for start (N, 1)."""
    at = torch.arange(total, device=start.device)
    return (at >= start) & (at < start + size)


def _uniform(x, generator):
    """Uniform draws from [0, 1), shaped like x."""
    device = x.device if generator is None else generator.device
    return torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def _check(model, x, y):
    checks.images(x)
    checks.labels(y, x)
    checks.model(model, x)
