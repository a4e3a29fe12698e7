"""The objectives that train robust networks: which images they train on, in which mode, and what loss comes out."""

from functools import partial

import pytest
import torch
from bad_input import BAD_EPS, table
from helpers import batch, conv_net, images, labels, linear, refused, untouched
from torch.nn import functional as F

from advutils import adversarial, clean, fgsm, input_gradient, mixed, n_fgsm, pgd, random_fgsm, trades

ROBUST = {
    "mixed": mixed,
    "FGSM": partial(adversarial, attack=fgsm),
    "PGD": partial(adversarial, attack=partial(pgd, steps=2)),
    "random FGSM": random_fgsm,
    "N-FGSM": n_fgsm,
    "TRADES": partial(trades, steps=2),
}
every_objective = pytest.mark.parametrize("objective", ROBUST.values(), ids=ROBUST)


def passes(model):
    """What goes through the model from now on: a list of (in train mode, images)."""
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append((module.training, inputs[0].detach().clone())))
    return seen


def learnt_from(model, objective, x, y, **kwargs):
    """The batches that the model gets in train mode."""
    seen = passes(model.train())
    objective(model, x, y, **kwargs)
    return [x for training, x in seen if training]


@every_objective
def test_an_objective_crafts_asleep_and_trains_awake(objective):
    model, (x, y) = conv_net().train(), batch()
    seen = passes(model)
    loss = objective(model, x, y, eps=0.1)
    awake = [training for training, _ in seen]
    assert not seen[-1][1].requires_grad
    assert awake == sorted(awake) and not awake[0] and awake[-1]  # first all crafting, then the training passes
    assert loss.ndim == 0 and loss.requires_grad
    assert all(p.grad is None for p in model.parameters()) and x.grad is None
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(module.training for module in model.modules()) and x.grad is None


@every_objective
def test_a_radius_of_zero_trains_too(objective):
    model, (x, y) = conv_net().eval(), batch()
    torch.testing.assert_close(objective(model, x, y, eps=0.0), clean(model, x, y), rtol=1e-4, atol=1e-5)
    with untouched(model, x, y):
        objective(model, x, y, eps=0.1)


@every_objective
@table(BAD_EPS)
def test_bad_eps_is_refused(objective, bad, fragment):
    with refused("eps", fragment):
        objective(linear(), *batch(), eps=bad)


@pytest.mark.parametrize("objective, both", [(mixed, True), (adversarial, False)])
def test_mixed_and_adversarial_are_cross_entropy_on_their_images(objective, both):
    model, (x, y) = conv_net().eval(), batch()
    x_adv = fgsm(model, x, y, eps=0.2)
    got, attacked = objective(model, x, y, eps=0.2, attack=fgsm), clean(model, x_adv, y)
    torch.testing.assert_close(got, (clean(model, x, y) + attacked) / 2 if both else attacked, rtol=1e-4, atol=1e-6)
    [seen] = learnt_from(model, objective, x, y, eps=0.2, attack=fgsm)
    assert torch.equal(seen, torch.cat([x, x_adv]) if both else x_adv)  # in one pass


@pytest.mark.parametrize("options, alpha", [({}, 1.25), (dict(alpha=0.5), 0.5), (dict(alpha=2.0), 2.0)])
def test_random_fgsm_trains_on_images_of_the_ball_one_step_from_a_random_start(options, alpha):
    model, x, y = linear(), 0.45 + 0.1 * images(60), labels(60)
    torch.manual_seed(0)
    [seen] = learnt_from(model, random_fgsm, x, y, eps=0.1, **options)
    torch.manual_seed(0)
    start = x + 0.1 * (2 * torch.rand_like(x) - 1)
    step = 0.1 * alpha * input_gradient(model, start, y).sign()
    torch.testing.assert_close(seen, torch.minimum(torch.maximum(start + step, x - 0.1), x + 0.1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options, k", [({}, 2.0), (dict(k=0.5), 0.5)])
def test_n_fgsm_trains_on_noisy_images_that_leave_the_ball_and_stay_images(options, k):
    model, (x, y), eps = linear(), batch(60), 0.1
    torch.manual_seed(0)
    [seen] = learnt_from(model, n_fgsm, x, y, eps=eps, **options)
    torch.manual_seed(0)
    noisy = (x + k * eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    weight = model[1].weight.detach()
    p = F.softmax(noisy.flatten(1) @ weight.T + model[1].bias.detach(), 1) - F.one_hot(y, 4)
    uphill = (p @ weight).view_as(x)
    sure = uphill.abs() > 1e-5
    stepped = (noisy + eps * uphill.sign()).clamp(0, 1)
    torch.testing.assert_close(seen[sure], stepped[sure], rtol=0, atol=1e-6)
    assert seen.min() == 0 and seen.max() == 1 and (seen - x).abs().max() > eps


def kl(p, logits):
    return (p * (p.log() - logits.log_softmax(1))).sum(1)


DEFAULTS = dict(beta=6.0, steps=10, step_size=None)


@pytest.mark.parametrize("options", [{}, dict(beta=1.0, steps=2, step_size=0.02), dict(beta=0.0, steps=1)])
def test_trades_is_what_its_paper_writes(options):
    beta, steps, step_size = (DEFAULTS | options).values()
    model, (x, y), eps = conv_net().eval(), batch(), 0.5
    torch.manual_seed(3)
    got = trades(model, x, y, eps=eps, **options)
    torch.manual_seed(3)
    with torch.no_grad():
        p = model(x).softmax(1)
    at = x + 0.001 * torch.randn_like(x)
    for _ in range(steps):
        at = at.detach().requires_grad_()
        [gradient] = torch.autograd.grad(kl(p, model(at)).sum(), at)
        at = at + (2.5 * eps / steps if step_size is None else step_size) * gradient.sign()
        at = torch.minimum(torch.maximum(at, x - eps), x + eps).clamp(0, 1)
    expected = F.cross_entropy(model(x), y) + beta * kl(model(x).softmax(1), model(at.detach())).mean()
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)
    assert beta == 0 or got > clean(model, x, y)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (got, expected)]
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


def test_the_climb_of_trades_does_not_know_the_labels():
    (x, y), climbs = batch(), []
    for those in (y, (y + 1) % 4):
        torch.manual_seed(0)
        climbs.append(learnt_from(conv_net(), trades, x, those, eps=0.1, steps=3)[-1])
    assert torch.equal(*climbs)


def test_trades_has_a_gradient_where_a_probability_is_zero():
    model, (x, y) = linear(), batch(4)
    with torch.no_grad():
        model[1].weight.mul_(1000)
    trades(model, x, y, eps=0.1, steps=2).backward()
    assert model(x).softmax(1).min() == 0  # else nothing is tested
    assert model[1].weight.grad.isfinite().all()


@pytest.mark.parametrize("objective, argument, value", [
    (random_fgsm, "alpha", 0), (random_fgsm, "alpha", -1), (n_fgsm, "k", -1), (trades, "beta", -1),
    (trades, "step_size", 0), (trades, "beta", "6"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(objective, argument, value):
    with refused(argument):
        objective(linear(), *batch(4), eps=0.1, **{argument: value})
