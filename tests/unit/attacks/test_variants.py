"""The strong attacks, beyond what all attacks promise: l_2, losses, targets, early exit, Square, AutoAttack."""

import random
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import (
    RaisesAt,
    batch,
    conv_net,
    few,
    images,
    in_ball,
    in_l2_ball,
    labels,
    linear,
    loader,
    mixed_modes,
    refused,
    small_net_and_digits,
    untouched,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advutils import (
    accuracy,
    autoattack,
    cross_entropy,
    cw,
    dlr,
    eval_mode,
    fgsm,
    grey,
    input_gradient,
    ledger,
    pgd,
    project,
    random_noise,
    square,
    survivors,
    targeted,
)

seeds = st.integers(0, 2**16)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def leads(model, x, y):
    with eval_mode(model), torch.no_grad():
        return cw(model(x), y)


def grey_images(n, classes=2, *, seed=0):
    """Images far enough from black and white that a small ball is not clipped."""
    return 0.4 + 0.2 * images(n, seed=seed), labels(n, classes, seed=seed)


def right(model, x):
    with eval_mode(model), torch.no_grad():
        return model(x).argmax(1)


def certain(model, x, y, eps):
    """The largest margin that a linear model can be driven to in the l_inf ball and [0, 1], exactly."""
    weight, bias = (p.detach().double() for p in model[1].parameters())
    low, high = ((x + s * eps).clamp(0, 1).flatten(1).double() for s in (-1, 1))
    best = []
    for k in range(len(bias)):
        w = weight[k] - weight[y]  # (N, D)
        reach = torch.where(w > 0, w * high, w * low).sum(1) + bias[k] - bias[y]
        best.append(reach.masked_fill(y == k, -torch.inf))
    return torch.stack(best).amax(0)


# the l_2 ball


def test_the_l2_projection_is_the_nearest_point_of_the_ball():
    x, far = images(50, seed=1), 3 * images(50, seed=2) - 1
    for eps in (0.0, 0.3, 2.0, 50.0):
        delta = far.double().numpy() - x.double().numpy()
        lengths = np.sqrt((delta**2).sum((1, 2, 3), keepdims=True))
        nearest = x.double().numpy() + delta * np.minimum(1, eps / lengths)
        np.testing.assert_allclose(project(far, x, eps, "l2"), nearest.clip(0, 1), atol=1e-6)
    assert torch.equal(project(x, x, 0.0, "l2"), x) and torch.equal(project(x, x, 1.0, "l2"), x)


@few
@given(seed=seeds, eps=st.floats(0.01, 5))
def test_to_project_twice_is_to_project_once(seed, eps):
    x, far = images(4, seed=seed), 3 * images(4, seed=seed + 1) - 1
    for norm in ("linf", "l2"):
        once = project(far, x, eps, norm)
        torch.testing.assert_close(project(once, x, eps, norm), once, rtol=0, atol=1e-6)


def test_an_l2_ball_lies_in_the_linf_ball_of_the_same_radius():
    model, (x, y) = conv_net(), batch()
    assert in_ball(pgd(model, x, y, eps=0.3, norm="l2", steps=5), x, 0.3)


def test_l2_pgd_on_a_linear_two_class_model_goes_eps_along_the_gradient():
    model, (x, y) = linear(2), grey_images(9)
    g = input_gradient(model, x, y)
    best = x + 0.5 * g / g.flatten(1).norm(dim=1)[:, None, None, None]
    straight = pgd(model, x, y, eps=0.5, norm="l2", steps=3, random_start=False)
    torch.testing.assert_close(straight, best, rtol=0, atol=1e-5)
    roundabout = pgd(model, x, y, eps=0.5, norm="l2", steps=40, step_size=0.5, generator=seeded())
    torch.testing.assert_close(roundabout, best, rtol=0, atol=1e-5)


def test_one_short_l2_step_is_as_long_as_it_was_told():
    model, (x, y) = linear(3), grey_images(9, 3)
    for momentum in (0, 1):
        x_adv = pgd(model, x, y, eps=1, norm="l2", steps=1, step_size=0.05, random_start=False, momentum=momentum)
        torch.testing.assert_close((x_adv - x).flatten(1).norm(dim=1), torch.full((9,), 0.05), rtol=1e-3, atol=0)


def test_l2_starts_have_a_random_direction_and_a_uniform_length():
    x, y = torch.full((400, 1, 8, 8), 0.5), torch.zeros(400, dtype=torch.int64)
    model = linear(2)
    nn.init.zeros_(model[1].weight)  # no gradient: what comes out is the start
    delta = (pgd(model, x, y, eps=0.4, norm="l2", steps=1, generator=seeded()) - x).flatten(1)
    lengths = delta.norm(dim=1) / 0.4
    assert lengths.max() <= 1 + 1e-5
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs((lengths < share).float().mean() - share) < 0.08
    directions = delta / delta.norm(dim=1, keepdim=True)
    assert directions.mean(0).abs().max() < 4 / 8 / 20  # 64 dimensions and 400 draws: 1/8 each, 1/20 of that the mean
    assert abs(directions.pow(2).mean() - 1 / 64) < 1e-4 and directions.abs().max() < 0.7
    assert len(delta.unique(dim=0)) == 400


def test_a_model_without_gradient_is_no_l2_attackers_division_by_zero():
    model, (x, y) = linear(3), batch(classes=3)
    nn.init.zeros_(model[1].weight)
    for momentum in (0, 0.5):
        x_adv = pgd(model, x, y, eps=1, norm="l2", steps=2, random_start=False, momentum=momentum)
        assert torch.equal(x_adv, x)


# losses


def test_cross_entropy_is_each_images_own():
    z, y = torch.randn(5, 3, generator=seeded()), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.logsumexp(z, 1) - z[torch.arange(5), y]
    torch.testing.assert_close(cross_entropy(z, y), expected)


def test_dlr_is_the_margin_over_first_minus_third():
    z = torch.tensor([[4.0, 1.0, 2.0, -3.0], [4.0, 1.0, 2.0, -3.0], [4.0, 1.0, 2.0, -3.0]])
    got = dlr(z, torch.tensor([0, 2, 3]))
    torch.testing.assert_close(got, torch.tensor([(2 - 4) / (4 - 1), (4 - 2) / (4 - 1), (4 - -3) / (4 - 1)]))


@few
@given(seed=seeds, scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10), classes=st.integers(3, 10))
def test_dlr_is_blind_to_scale_and_shift_and_has_the_margins_sign(seed, scale, shift, classes):
    z, y = torch.randn(20, classes, generator=seeded(seed), dtype=torch.float64), labels(20, classes, seed=seed)
    torch.testing.assert_close(dlr(scale * z + shift, y), dlr(z, y), rtol=1e-6, atol=1e-9)
    assert torch.equal(dlr(z, y) > 0, z.argmax(1) != y) and torch.equal(dlr(z, y) > 0, cw(z, y) > 0)
    assert (dlr(z, y) >= -1).all()


def test_dlr_of_three_equal_logits_is_finite_and_of_two_classes_refused():
    assert dlr(torch.zeros(2, 4), torch.tensor([0, 1])).isfinite().all()
    with refused("logits", "2 classes", "at least 3"):
        dlr(torch.zeros(2, 2), torch.tensor([0, 1]))


def test_the_gradient_of_another_loss_is_that_losss():
    model, x, y = linear(4), images(9), labels(9, 4)
    weight = model[1].weight.detach()
    z = model(x).detach()
    runner_up = z.scatter(1, y[:, None], -torch.inf).argmax(1)
    uphill = weight[runner_up] - weight[y]
    torch.testing.assert_close(input_gradient(model, x, y, cw).flatten(1), uphill, rtol=1e-4, atol=1e-6)
    order = z.argsort(1, descending=True)
    spread = (z.gather(1, order[:, :1]) - z.gather(1, order[:, 2:3])).squeeze(1)
    m = cw(z, y)
    widening = weight[order[:, 0]] - weight[order[:, 2]]
    quotient = (uphill * spread[:, None] - m[:, None] * widening) / spread[:, None] ** 2
    torch.testing.assert_close(input_gradient(model, x, y, dlr).flatten(1), quotient, rtol=1e-3, atol=1e-6)


def test_a_scaled_model_blinds_cross_entropy_but_neither_dlr_nor_margin():
    model, (x, _) = linear(4), batch(20)
    y = right(model, x)
    plain = {loss: pgd(model, x, y, eps=0.2, steps=3, loss=loss, random_start=False) for loss in (dlr, cw)}
    with torch.no_grad():
        model[1].weight *= 2.0**17
        model[1].bias *= 2.0**17
    blind = pgd(model, x, y, eps=0.2, steps=3, random_start=False)
    assert (blind == x).all((1, 2, 3)).sum() >= 15
    for loss, expected in plain.items():
        x_adv = pgd(model, x, y, eps=0.2, steps=3, loss=loss, random_start=False)
        assert (x_adv - expected).abs().gt(1e-5).float().mean() < 0.01
        assert (x_adv != x).any(1).flatten(1).any(1).all()


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("loss", [cw, cross_entropy])
def test_pgd_on_a_linear_two_class_model_reaches_the_largest_margin_there_is(eps, loss):
    model, x, y = linear(2), images(20), labels(20, 2)
    got = leads(model, pgd(model, x, y, eps=eps, steps=10, loss=loss), y).double()
    torch.testing.assert_close(got, certain(model, x, y, eps), rtol=1e-4, atol=1e-5)


@few
@given(seed=seeds, eps=st.floats(0.01, 0.4), classes=st.integers(3, 6))
def test_no_attack_passes_the_largest_margin_of_a_linear_model(seed, eps, classes):
    model, x, y = linear(classes, seed=seed), images(12, seed=seed), labels(12, classes, seed=seed)
    most = certain(model, x, y, eps)
    short = partial(pgd, steps=8)
    attacks = (
        short,
        partial(short, loss=cw),
        partial(short, loss=dlr),
        partial(short, momentum=1),
        partial(short, norm="l2"),
        partial(targeted, attack=short),
        partial(square, n_queries=40),
    )
    for attack in attacks:
        assert (leads(model, attack(model, x, y, eps=eps, generator=seeded(seed)), y) <= most + 1e-4).all()
    assert (leads(model, grey(model, x, y, eps=eps), y) <= most + 1e-4).all()


def test_targets_and_the_margin_together_reach_the_largest_margin_of_a_linear_model():
    model, x, y = linear(5), images(40), labels(40, 5)
    most = certain(model, x, y, 0.1)

    def towards(z, target):  # descended: the target's lead over the true class
        return z.gather(1, y[:, None])[:, 0] - z.gather(1, target[:, None])[:, 0]

    got = leads(model, targeted(model, x, y, eps=0.1, attack=partial(pgd, steps=5, loss=towards)), y).double()
    torch.testing.assert_close(got, most, rtol=1e-4, atol=1e-5)
    alone = leads(model, pgd(model, x, y, eps=0.1, steps=5, loss=cw, random_start=False), y).double()
    assert (alone - most).abs().lt(1e-4).float().mean() > 0.5


# targets


@few
@given(seed=seeds)
def test_a_targeted_step_is_the_downhill_closed_form(seed):
    model, x, y, aim = linear(4, seed=seed), *grey_images(9, 4, seed=seed), labels(9, 4, seed=seed + 1)
    weight = model[1].weight.detach().double()
    p = model(x).detach().double().softmax(1) - nn.functional.one_hot(aim, 4)
    downhill = -(p @ weight).view_as(x)
    x_adv = pgd(model, x, y, eps=0.1, steps=1, step_size=0.1, random_start=False, target=aim)
    sure = downhill.abs() > 1e-5
    assert torch.equal((x_adv - x)[sure].sign().double(), downhill[sure].sign())


def test_no_corner_of_the_ball_brings_a_linear_model_nearer_to_the_target_than_pgd():
    model, x, y, aim = linear(4), *grey_images(12, 4), labels(12, 4, seed=3)
    x_adv = pgd(model, x, y, eps=0.1, steps=20, random_start=False, target=aim)
    with torch.no_grad():
        reached = cross_entropy(model(x_adv), aim)
        assert (reached < cross_entropy(model(x), aim)).all()
        for seed in range(60):
            corner = random_noise(model, x, y, eps=0.1, generator=seeded(seed))
            assert (cross_entropy(model(corner), aim) > reached).all()


def test_for_two_classes_the_way_to_the_other_is_the_way_from_the_true_one():
    model, x, y = linear(2), images(9), labels(9, 2)
    away = pgd(model, x, y, eps=0.1, steps=4, generator=seeded())
    torch.testing.assert_close(
        pgd(model, x, y, eps=0.1, steps=4, generator=seeded(), target=1 - y), away, rtol=0, atol=1e-5
    )


def test_restarts_towards_a_target_keep_the_run_that_comes_nearest_to_it():
    model, (x, y), aim, shared = conv_net(), batch(30), labels(30, seed=5), seeded(7)
    attack = partial(pgd, model, x, y, eps=0.2, step_size=0.02, steps=1, target=aim)
    runs = torch.stack([leads(model, attack(generator=shared), aim) for _ in range(3)])
    kept = leads(model, attack(restarts=3, generator=seeded(7)), aim)
    assert len(runs.argmin(0).unique()) == 3
    torch.testing.assert_close(kept, runs.amin(0), rtol=1e-4, atol=1e-5)


def test_with_a_target_an_image_leaves_when_the_target_is_first_not_when_the_label_is_beaten():
    model, x, y = linear(4), *grey_images(30, 4)
    aim = (y + 1) % 4
    x_adv = pgd(model, x, y, eps=0.3, step_size=0.01, steps=40, target=aim, early_exit=True, random_start=False)
    z = model(x_adv).detach()
    assert (z.argmax(1) == aim).all()
    already = right(model, x) == aim
    beaten = (right(model, x) != y) & ~already
    assert beaten.sum() > 5 and already.sum() > 1
    assert torch.equal(x_adv[already], x[already])
    assert ((x_adv[beaten] - x[beaten]).abs().amax((1, 2, 3)) > 0.005).all()


@few
@given(seed=seeds, early_exit=st.booleans())
def test_one_more_target_never_helps_the_defender(seed, early_exit):
    model, (x, y) = conv_net(seed % 5), batch(20, classes=4, seed=seed)
    attack = partial(targeted, model, x, y, eps=0.1, attack=partial(pgd, steps=2), early_exit=early_exit)
    marks = [leads(model, attack(n_target_classes=k, generator=seeded(seed)), y) for k in (1, 2, 3)]
    for fewer, more in zip([leads(model, x, y), *marks], marks):
        assert (more >= fewer - 1e-5).all()


def aims(model, x, y, **kwargs):
    """The targets that `targeted` tries, call by call, and the rows that it tries them on."""
    calls = []

    def spy(model, x, y, *, eps, target, early_exit=False, generator=None):
        calls.append((x.clone(), y.clone(), target.clone()))
        return x

    targeted(model, x, y, eps=0.1, attack=spy, **kwargs)
    return calls


def test_targets_are_the_wrong_classes_from_the_likeliest_down():
    model, (x, y) = conv_net(), batch(20)
    with torch.no_grad():
        z = model.eval()(x)
    expected = [[k for k in row.argsort(descending=True).tolist() if k != true] for row, true in zip(z, y.tolist())]
    for n_target_classes in (1, 2, 3, 9):
        tried = torch.stack([target for _, _, target in aims(model, x, y, n_target_classes=n_target_classes)], 1)
        assert tried.tolist() == [row[:n_target_classes] for row in expected]


def test_targets_leave_an_image_when_it_is_misclassified_if_told_so():
    model, (x, y) = conv_net(), batch(20)
    y = torch.where(torch.arange(20) < 8, right(model, x), y)
    correct = right(model, x) == y
    assert 8 <= correct.sum() < 18
    calls = aims(model, x, y, early_exit=True)  # the spy changes nothing: who is fooled is who was wrong before
    assert [len(x) for x, _, _ in calls] == [20, correct.sum(), correct.sum()]
    assert torch.equal(calls[1][0], x[correct]) and torch.equal(calls[1][1], y[correct])
    assert [len(x) for x, _, _ in aims(model, x, y)] == [20, 20, 20]


def test_targets_never_return_less_than_the_image_itself():
    model, (x, y) = conv_net(), batch(30)

    def helpful(model, x, y, *, eps, target, early_exit=False, generator=None):
        return (x - eps * input_gradient(model, x, y).sign()).clamp(0, 1)

    assert torch.equal(targeted(model, x, y, eps=0.05, attack=helpful, n_target_classes=2), x)


def test_l2_targets():
    model, (x, y) = conv_net(), batch()
    assert in_l2_ball(targeted(model, x, y, eps=1.5, attack=partial(pgd, steps=2, norm="l2")), x, 1.5)


# early exit


@few
@given(
    seed=seeds,
    momentum=st.sampled_from([0, 0.5]),
    norm=st.sampled_from(["linf", "l2"]),
    loss=st.sampled_from([None, dlr]),
)
def test_early_exit_returns_the_first_iterate_that_fools(seed, momentum, norm, loss):
    model, (x, y) = linear(4, seed=seed), batch(25, seed=seed)
    y = torch.where(torch.arange(25) % 3 == 0, y, right(model, x))
    step = {"linf": 0.005, "l2": 0.03}[norm]
    attack = partial(
        pgd, model, x, y, eps=10 * step, step_size=step, norm=norm, loss=loss, momentum=momentum, random_start=False
    )
    road = torch.stack([x, *(attack(steps=k) for k in range(1, 7))])
    fooled = torch.stack([leads(model, at, y) > 0 for at in road])
    first = torch.where(fooled.any(0), fooled.int().argmax(0), 6)
    expected = road[first, torch.arange(25)]
    torch.testing.assert_close(attack(steps=6, early_exit=True), expected, rtol=0, atol=1e-5)


@few
@given(seed=seeds, restarts=st.integers(1, 3), eps=st.floats(0.01, 0.3))
def test_early_exit_fools_at_least_whom_the_whole_run_fools(seed, restarts, eps):
    model, (x, y) = conv_net(seed % 5), batch(30, seed=seed)
    attack = partial(pgd, model, x, y, eps=eps, steps=3, restarts=restarts)
    whole, early = (leads(model, attack(early_exit=e, generator=seeded(seed)), y) for e in (False, True))
    assert not ((whole > 1e-5) & (early <= 0)).any()


@few
@given(seed=seeds, restarts=st.integers(1, 3), eps=st.floats(0.01, 0.3))
def test_one_more_restart_with_early_exit_never_helps_the_defender(seed, restarts, eps):
    model, (x, y) = conv_net(seed % 5), batch(30, seed=seed)
    attack = partial(pgd, model, x, y, eps=eps, steps=2, early_exit=True)
    fewer, more = (leads(model, attack(restarts=k, generator=seeded(seed)), y) for k in (restarts, restarts + 1))
    assert (more >= fewer - 1e-5).all()


def spent_on(model, *args, **kwargs):
    with ledger(model) as spent:
        pgd(model, *args, **kwargs)
    return spent.forwards, spent.backwards


def test_early_exit_costs_no_pass_where_nobody_is_fooled():
    model, (x, _) = linear(4), batch(10)
    y = right(model, x)
    sure = leads(model, x, y) < -0.05
    x, y = x[sure], y[sure]
    n = len(x)
    for early_exit in (False, True):
        assert spent_on(model, x, y, eps=1e-4, steps=7, early_exit=early_exit) == (7 * n, 7 * n)
        assert spent_on(model, x, y, eps=1e-4, steps=7, restarts=2, early_exit=early_exit) == (16 * n, 14 * n)


def test_early_exit_saves_most_passes_on_a_weak_model():
    model, (x, y) = linear(4), batch(40)
    assert spent_on(model, x, y, eps=0.3, steps=20, early_exit=True)[1] < 4 * 40
    assert spent_on(model, x, y, eps=0.3, steps=20) == (20 * 40, 20 * 40)


def test_early_exit_skips_the_restarts_when_all_are_fooled():
    model, (x, y) = linear(4), batch(40)
    with ledger(model) as spent:
        x_adv = pgd(model, x, y, eps=0.3, steps=20, restarts=50, early_exit=True)
    assert spent.forwards < 4 * 40 and (leads(model, x_adv, y) > 0).all()


def test_an_image_that_was_wrong_from_the_beginning_takes_one_pass():
    model, (x, _) = linear(4), batch(10)
    y = (right(model, x) + 1) % 4
    assert spent_on(model, x, y, eps=1e-6, steps=7, early_exit=True) == (10, 10)
    assert torch.equal(pgd(model, x, y, eps=0.2, steps=7, early_exit=True, random_start=False), x)


# momentum


def test_momentum_is_a_running_sum_of_gradients_of_unit_l1_length():
    model, (x, y) = small_net_and_digits()[0], small_net_and_digits()[1:]
    x, y = x[:10], y[:10]
    at, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(3):
        g = input_gradient(model, at, y)
        velocity = 0.8 * velocity + g / g.abs().sum((1, 2, 3), keepdim=True)
        step = 0.02 * velocity / velocity.pow(2).sum((1, 2, 3), keepdim=True).sqrt()
        at = (at + step).clamp(0, 1)
    ours = pgd(model, x, y, eps=1, norm="l2", steps=3, step_size=0.02, momentum=0.8, random_start=False)
    torch.testing.assert_close(ours, at, rtol=0, atol=1e-5)
    without = pgd(model, x, y, eps=1, norm="l2", steps=3, step_size=0.02, random_start=False)
    assert not torch.allclose(ours, without, atol=1e-5)


def test_each_restart_begins_without_momentum():
    model, (x, y), shared = conv_net(), batch(30), seeded(4)
    attack = partial(pgd, model, x, y, eps=0.2, step_size=0.05, steps=2, momentum=1)
    runs = torch.stack([leads(model, attack(generator=shared), y) for _ in range(3)])
    torch.testing.assert_close(
        leads(model, attack(restarts=3, generator=seeded(4)), y), runs.amax(0), rtol=1e-4, atol=1e-5
    )


# grey


def test_grey_is_grey_where_the_ball_allows_it():
    x, y = batch(20)
    assert (grey(None, x, None, eps=0.5) == 0.5).all() and (grey(None, x, None, eps=4, norm="l2") == 0.5).all()
    for eps in (0.0, 0.1, 0.3):
        left = (grey(conv_net(), x, y, eps=eps) - 0.5).abs()
        torch.testing.assert_close(left, ((x - 0.5).abs() - eps).clamp(min=0), rtol=0, atol=1e-6)


# Square


class Threshold(nn.Module):
    """A linear model behind a threshold: its gradient is zero wherever it has one."""

    def __init__(self, classes=4):
        super().__init__()
        self.net, self.name = linear(classes), []

    def forward(self, x):
        assert not torch.is_grad_enabled() or x.requires_grad
        self.name.append(x.detach().clone())
        return self.net((x > 0.5).float() + 0 * x)


def test_square_fools_what_gradients_cannot():
    model, (x, _) = Threshold(), batch(20)
    y = right(model, x)
    assert torch.equal(pgd(model, x, y, eps=0.3, steps=3, random_start=False), x)
    assert torch.equal(fgsm(model, x, y, eps=0.3), x)
    assert (leads(model, square(model, x, y, eps=0.3, n_queries=100, generator=seeded()), y) > 0).float().mean() > 0.5


class NoGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        assert not torch.is_grad_enabled() and not x.requires_grad
        return torch.from_numpy(self.net(x).detach().numpy())  # autograd would end here


def test_square_never_differentiates():
    model, (x, y) = NoGradient(), batch()
    with ledger(model) as spent:
        assert in_ball(square(model, x.requires_grad_(), y, eps=0.2, n_queries=9), x.detach(), 0.2)
    assert (spent.forwards, spent.backwards) == (6 * 9, 0)


@pytest.mark.parametrize("n_queries", [1, 2, 17])
def test_each_query_is_one_forward_pass(n_queries):
    model, (x, y) = conv_net(), batch(5)
    with ledger(model) as spent:
        square(model, x, y, eps=0.1, n_queries=n_queries)
    assert (spent.forwards, spent.backwards) == (5 * n_queries, 0)


@few
@given(seed=seeds, eps=st.floats(0.01, 1), n_queries=st.integers(2, 30))
def test_square_never_falls_behind_its_stripes_nor_behind_any_picture_it_tried(seed, eps, n_queries):
    model, (x, y) = Threshold(), batch(8, seed=seed)
    stripes = square(model, x, y, eps=eps, n_queries=1, generator=seeded(seed))
    model.name.clear()
    x_adv = square(model, x, y, eps=eps, n_queries=n_queries, generator=seeded(seed))
    asked = torch.stack(model.name)
    assert len(asked) == n_queries and torch.equal(asked[0], stripes)
    tried = torch.stack([leads(model, at, y) for at in asked])
    assert torch.equal(leads(model, x_adv, y), tried.amax(0))


def test_square_begins_with_stripes_and_paints_squares_of_one_sign():
    model, x, y = Threshold(), *grey_images(6, 4)
    square(model, x, y, eps=0.1, n_queries=40, generator=seeded())
    model.name, (first, *later) = [], model.name
    signs = (first - x).sign()
    assert torch.allclose((first - x).abs(), torch.full_like(x, 0.1), atol=1e-6)
    assert (signs == signs[:, :, :1]).all() and 0.2 < (signs > 0).float().mean() < 0.8
    assert not torch.equal(signs[0], signs[1])
    best, most = first, leads(model, first, y)
    sides = []
    for tried in later:
        for now, before, at in zip(tried, best, x):
            changed = (now != before).nonzero()
            if len(changed):
                height, width = (changed[:, 1:].amax(0) - changed[:, 1:].amin(0) + 1).tolist()
                sides.append(max(height, width))
                top, left = changed[:, 1].amin(), changed[:, 2].amin()
                patch = (now - at)[:, top : top + height, left : left + width]
                assert torch.allclose(patch.abs(), torch.full_like(patch, 0.1), atol=1e-6)
        margins = leads(model, tried, y)
        best = torch.where((margins > most)[:, None, None, None], tried, best)
        most = torch.maximum(margins, most)
    assert max(sides[:12]) > 2 and max(sides[-40:]) <= 2


@pytest.mark.parametrize("p_init, most", [(0, 1), (1, 64)])
def test_the_first_share_says_how_large_the_squares_are(p_init, most):
    model, (x, y) = Threshold(), batch(30)
    square(model, x, y, eps=0.1, n_queries=2, p_init=p_init, generator=seeded())
    stripes, tried = model.name
    changed = (tried != stripes).flatten(1).sum(1)
    assert 0 < changed.max() <= most and (p_init == 0 or changed.max() < 64)


def test_with_p_init_one_of_thousands_of_queries_the_first_covers_the_image():
    model, x, y = Threshold(), *grey_images(30, 4)
    out_of_paper = 2

    def stop(module, inputs, logits):
        if len(module.name) == out_of_paper:
            raise KeyboardInterrupt

    model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        square(model, x, y, eps=0.1, n_queries=5000, p_init=1, generator=seeded())
    signs = (model.name[1] - x).sign().flatten(1)
    assert (signs == signs[:, :1]).all()


def test_early_exit_takes_nothing_from_square_and_spends_less():
    model, (x, y) = conv_net(), batch(30)
    costs, fooled = [], []
    for early_exit in (False, True):
        with ledger(model) as spent:
            x_adv = square(model, x, y, eps=0.2, n_queries=60, early_exit=early_exit, generator=seeded())
        costs.append(spent.forwards)
        fooled.append(leads(model, x_adv, y) > 0)
    assert torch.equal(*fooled) and costs[0] == 30 * 60 and costs[1] < 0.8 * costs[0]


def test_square_is_stronger_than_noise_and_more_queries_help_it():
    model, x, y = small_net_and_digits()
    strength = [leads(model, attack, y).mean() for attack in (
        random_noise(model, x, y, eps=0.1, generator=seeded()),
        square(model, x, y, eps=0.1, n_queries=10, generator=seeded()),
        square(model, x, y, eps=0.1, n_queries=200, generator=seeded()),
        pgd(model, x, y, eps=0.1, loss=cw, random_start=False),
    )]  # fmt: skip
    assert strength == sorted(strength) and strength[2] > strength[1] + 0.5


# AutoAttack


def judged(model, x, y, **kwargs):
    return autoattack(model, x, y, **(dict(eps=0.1, attacks_to_run=["apgd-ce"], flags=[]) | kwargs))


@pytest.mark.parametrize("only, eps", [("apgd-ce", 0.1), ("apgd-dlr", 0.1), ("apgd-t", 0.1), ("square", 0.5)])
def test_autoattack_finds_what_a_linear_model_can_be_proved_to_have(only, eps):
    model, x, only = linear(10), images(8), [only]
    y = right(model, x)
    most = certain(model, x, y, eps)
    assert most.abs().min() > 1e-3
    x_adv = judged(model, x, y, eps=eps, attacks_to_run=only)
    assert in_ball(x_adv, x, eps)
    fooled = leads(model, x_adv, y) > 0
    assert not (fooled & (most <= 0)).any()
    if only != ["apgd-ce"]:
        assert torch.equal(fooled, most > 0)
    assert torch.equal(x_adv[~fooled], x[~fooled])


def test_autoattack_leaves_model_inputs_and_random_states_alone():
    model, x = mixed_modes(linear(10)), images(4)
    y = right(model, x)
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    with untouched(model, x, y), ledger(model) as spent:
        x_adv = judged(model, x, y, eps=0.001, attacks_to_run=["fab-t"])
    assert in_ball(x_adv, x, 0.001) and spent.backwards > 4 * 100  # FAB had work to do
    assert torch.equal(torch.get_rng_state(), torch_state) and random.getstate() == python_state
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_autoattack_under_any_gradient_mode_repeats(mode):
    model, x = linear(10), images(6)
    y = right(model, x)
    plain = judged(model, x, y)
    torch.manual_seed(77)
    with mode():
        assert torch.equal(judged(model, x, y), plain)
    assert not torch.equal(plain, x)


def test_the_whole_of_autoattack_is_at_least_as_strong_as_pgd():
    model, x, y = small_net_and_digits()
    wrong = right(model, x) != y
    some = torch.cat([wrong.nonzero()[:2], (~wrong).nonzero()[:8]]).flatten()
    x, y, wrong, flags = x[some], y[some], wrong[some], []
    x_adv = autoattack(model, x, y, eps=0.3, flags=flags, batch_size=7)
    alive = leads(model, x_adv, y) <= 0
    assert in_ball(x_adv, x, 0.3) and flags == [] and len(wrong) == 10
    assert alive.sum() <= (leads(model, pgd(model, x, y, eps=0.3, steps=20, generator=seeded()), y) <= 0).sum()
    assert torch.equal(x_adv[wrong], x[wrong])  # what was wrong already is left as it was


def test_autoattack_in_the_l2_ball():
    model, x = linear(10), images(10)
    y = right(model, x)
    x_adv = judged(model, x, y, eps=1.5, norm="l2")
    assert in_l2_ball(x_adv, x, 1.5) and (x_adv - x).flatten(1).norm(dim=1).max() > 1
    assert (leads(model, x_adv, y) > 0).sum() > (leads(model, x, y) > 0).sum()


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear(10)

    def forward(self, x):
        z = self.net(x)
        return z + torch.randn_like(z)


def test_autoattack_flags_a_randomized_defence():
    flags = ["said before"]
    judged(Noisy(), images(4), labels(4, 10), flags=flags)
    assert flags[0] == "said before" and any("randomized defense" in flag for flag in flags[1:])
    assert len(set(flags)) == len(flags)
    with pytest.warns(UserWarning, match="AutoAttack: .*randomized defense"):
        judged(Noisy(), images(4), labels(4, 10), flags=None)


def test_autoattack_has_nothing_to_say_about_an_honest_model():
    model, x, flags = linear(10), images(4), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged(model, x, right(model, x), flags=flags)
        judged(model, x, right(model, x), flags=None)
    assert flags == []


class Dynamic(nn.Module):
    """A defence that differentiates in its own forward pass."""

    def __init__(self):
        super().__init__()
        self.net = linear(10)

    def forward(self, x):
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            gradient = torch.autograd.grad(self.net(inner).sum(), inner)[0]
        return self.net(x + 0.01 * gradient)


def test_autoattack_blames_a_dynamic_defence_and_not_the_model_after_it():
    flags, after = [], []
    judged(Dynamic(), images(4), labels(4, 10), flags=flags)
    assert any("dynamic defense" in flag for flag in flags)
    judged(linear(10), images(4), labels(4, 10), flags=after)
    assert after == []


@pytest.mark.parametrize("only", [["apgd-t"], ["fab-t"]], ids="+".join)
def test_autoattack_judges_models_of_fewer_than_ten_classes(only):
    model, x = linear(5), images(4)
    y = right(model, x)
    assert in_ball(judged(model, x, y, attacks_to_run=only), x, 0.1)


@pytest.mark.parametrize("bad", ["pgd", "APGD-CE", "fab", "", None])
def test_autoattack_refuses_an_attack_it_does_not_know(bad):
    with refused("attacks_to_run", repr(bad), "'apgd-ce'"):
        judged(linear(10), images(2), labels(2), attacks_to_run=["square", bad])


@pytest.mark.parametrize(
    "argument, change",
    [
        ("eps", dict(eps=8)),
        ("eps", dict(norm="l2", eps=-1)),
        ("norm", dict(norm="l1")),
        ("batch_size", dict(batch_size=0)),
        ("x", dict(x=255 * images(3))),
        ("y", dict(y=labels(3).float())),
        ("y", dict(y=labels(3) + 10)),
        ("model", dict(model=None)),
        ("model", dict(model=nn.Sequential(linear(10), nn.Softmax(1)))),
        ("model", dict(model=nn.Sequential(linear(10), nn.Unflatten(1, (5, 2))))),
    ],
)
def test_autoattack_refuses_what_the_attacks_refuse(argument, change):
    with refused(argument):
        judged(**(dict(model=linear(10), x=images(3), y=labels(3)) | change))


@pytest.mark.parametrize("n", range(1, 10))
def test_a_model_that_raises_in_autoattack_is_left_untouched_and_untraced(n):
    model, before = mixed_modes(RaisesAt(linear(10), n)), sys.gettrace()
    with untouched(model), pytest.raises(RuntimeError, match="out of paper"):
        judged(model, images(3), labels(3))
    after, _ = sys.gettrace(), sys.settrace(before)
    assert after is before


def test_autoattack_is_measured_like_any_attack():
    model, data, flags = linear(10), loader(8, classes=10), []
    attack = partial(autoattack, attacks_to_run=["apgd-ce"], flags=flags)
    record = accuracy(model, data, attack, eps=0.2)
    assert record.n == 8 and record.value <= accuracy(model, data).value
    assert not (survivors(model, data, attack, eps=0.2) & ~survivors(model, data)).any()


def test_a_step_in_l2_has_its_length_however_small_the_gradient():
    model, (x, y) = linear(), batch(8)
    with torch.no_grad():
        model[1].weight.mul_(1e-30)
    assert 0 < input_gradient(model, x, y).abs().amax() < 1e-25
    x = x.clamp(0.3, 0.7)
    x_adv = pgd(model, x, y, eps=0.2, steps=1, step_size=0.1, norm="l2", random_start=False)
    assert torch.allclose((x_adv - x).flatten(1).norm(dim=1), torch.full((8,), 0.1), rtol=1e-4)


def test_what_is_bound_to_the_attack_of_targeted_stays_bound():
    model, (x, y) = linear(), batch(8)

    def made():
        own = torch.Generator().manual_seed(3)
        return targeted(model, x, y, eps=0.1, attack=partial(pgd, steps=2, generator=own), n_target_classes=2)

    before = torch.get_rng_state()
    assert torch.equal(made(), made()) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("argument", ["y", "target"])
def test_labels_and_targets_that_the_model_does_not_know_are_named(argument):
    (x, y), wrong = batch(6), torch.full((6,), 12)
    given = {"y": y, "target": (y + 1) % 4} | {argument: wrong}
    with refused(argument, "12"):
        pgd(linear(), x, eps=0.1, steps=2, **given)
