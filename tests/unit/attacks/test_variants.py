"""The strong attacks, beyond what all attacks promise: l_2, losses, targets, early exit, Square, AutoAttack."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import (
    batch,
    certain,
    conv_net,
    every_attack,
    few,
    grey_images,
    images,
    labels,
    leads,
    linear,
    read_as,
    refused,
    seeded,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advutils.attacks.gradient import input_gradient, pgd, project, targeted
from advutils.attacks.losses import cross_entropy, cw, dlr
from advutils.training import ledger

seeds = st.integers(0, 2**16)


def test_the_l2_projection_is_the_nearest_point_of_the_ball():
    x, far = images(50, seed=1), 3 * images(50, seed=2) - 1
    for eps in (0.0, 0.3, 2.0, 50.0):
        delta = far.double().numpy() - x.double().numpy()
        lengths = np.sqrt((delta**2).sum((1, 2, 3), keepdims=True))
        nearest = x.double().numpy() + delta * np.minimum(1, eps / lengths)
        np.testing.assert_allclose(project(far, x, eps, "l2"), nearest.clip(0, 1), atol=1e-6)
    assert torch.equal(project(x, x, 1.0, "l2"), x)


def test_l2_pgd_on_a_linear_two_class_model_goes_eps_along_the_gradient():
    model, (x, y) = linear(2), grey_images(9)
    g = input_gradient(model, x, y)
    best = x + 0.5 * g / g.flatten(1).norm(dim=1)[:, None, None, None]
    straight = pgd(model, x, y, eps=0.5, norm="l2", steps=3, random_start=False)
    torch.testing.assert_close(straight, best, rtol=0, atol=1e-5)
    roundabout = pgd(model, x, y, eps=0.5, norm="l2", steps=40, step_size=0.5, generator=seeded())
    torch.testing.assert_close(roundabout, best, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 1e-30, 0])
def test_an_l2_step_is_as_long_as_it_was_told_however_small_the_gradient(scale):
    model, (x, y) = linear(3), grey_images(9, 3)
    with torch.no_grad():
        model[1].weight.mul_(scale)
    for momentum in (0, 1):
        x_adv = pgd(model, x, y, eps=1, norm="l2", steps=1, step_size=0.05, random_start=False, momentum=momentum)
        length = torch.full((9,), 0.05 if scale else 0.0)
        torch.testing.assert_close((x_adv - x).flatten(1).norm(dim=1), length, rtol=1e-3, atol=0)


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


def test_dlr_is_the_margin_over_first_minus_third():
    z = torch.tensor([[4.0, 1.0, 2.0, -3.0]] * 3)
    got = dlr(z, torch.tensor([0, 2, 3]))
    torch.testing.assert_close(got, torch.tensor([(2 - 4) / (4 - 1), (4 - 2) / (4 - 1), (4 - -3) / (4 - 1)]))
    assert dlr(torch.zeros(2, 4), torch.tensor([0, 1])).isfinite().all()
    with refused("logits", "2 classes", "at least 3"):
        dlr(torch.zeros(2, 2), torch.tensor([0, 1]))


@few
@given(seed=seeds, scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10), classes=st.integers(3, 10))
def test_dlr_is_blind_to_scale_and_shift_and_has_the_margins_sign(seed, scale, shift, classes):
    z, y = torch.randn(20, classes, generator=seeded(seed), dtype=torch.float64), labels(20, classes, seed=seed)
    torch.testing.assert_close(dlr(scale * z + shift, y), dlr(z, y), rtol=1e-6, atol=1e-9)
    assert torch.equal(dlr(z, y) > 0, z.argmax(1) != y) and torch.equal(dlr(z, y) > 0, cw(z, y) > 0)
    assert (dlr(z, y) >= -1).all()


def test_a_scaled_model_blinds_cross_entropy_but_neither_dlr_nor_margin():
    model, (x, _) = linear(4), batch(20)
    y = read_as(model, x)
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


@every_attack
@few
@given(seed=seeds, eps=st.floats(0.01, 0.4), classes=st.integers(3, 6))
def test_no_attack_passes_the_largest_margin_of_a_linear_model(attack, seed, eps, classes):
    model, x, y = linear(classes, seed=seed), images(12, seed=seed), labels(12, classes, seed=seed)
    assert (leads(model, attack(model, x, y, eps=eps), y) <= certain(model, x, y, eps) + 1e-4).all()


def test_with_a_target_an_image_leaves_when_the_target_is_first_not_when_the_label_is_beaten():
    model, x, y = linear(4), *grey_images(30, 4)
    aim = (y + 1) % 4
    x_adv = pgd(model, x, y, eps=0.3, step_size=0.01, steps=40, target=aim, early_exit=True, random_start=False)
    z = model(x_adv).detach()
    assert (z.argmax(1) == aim).all()
    already = read_as(model, x) == aim
    beaten = (read_as(model, x) != y) & ~already
    assert beaten.sum() > 5 and already.sum() > 1
    assert torch.equal(x_adv[already], x[already])
    assert ((x_adv[beaten] - x[beaten]).abs().amax((1, 2, 3)) > 0.005).all()


@few
@given(seed=seeds, early_exit=st.booleans())
def test_one_more_target_never_helps_the_defender(seed, early_exit):
    model, (x, y) = conv_net(seed % 5), batch(20, classes=4, seed=seed)
    attack = partial(targeted, model, x, y, eps=0.1, attack=partial(pgd, steps=2), early_exit=early_exit)
    marks = [leads(model, attack(n_target_classes=k, generator=seeded(seed)), y) for k in (1, 2, 3)]
    for fewer, more in zip([leads(model, x, y), *marks], marks):  # the first: the image itself
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
    y = torch.where(torch.arange(20) < 8, read_as(model, x), y)
    correct = read_as(model, x) == y
    assert 8 <= correct.sum() < 18
    calls = aims(model, x, y, early_exit=True)  # the spy changes nothing: who is fooled is who was wrong before
    assert [len(x) for x, _, _ in calls] == [20, correct.sum(), correct.sum()]
    assert torch.equal(calls[1][0], x[correct]) and torch.equal(calls[1][1], y[correct])
    assert [len(x) for x, _, _ in aims(model, x, y)] == [20, 20, 20]


@few
@given(
    seed=seeds,
    momentum=st.sampled_from([0, 0.5]),
    norm=st.sampled_from(["linf", "l2"]),
    loss=st.sampled_from([None, dlr]),
)
def test_early_exit_returns_the_first_iterate_that_fools(seed, momentum, norm, loss):
    model, (x, y) = linear(4, seed=seed), batch(25, seed=seed)
    y = torch.where(torch.arange(25) % 3 == 0, y, read_as(model, x))
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


def spent_on(model, *args, attack=pgd, **options):
    with ledger(model) as spent:
        attack(model, *args, **options)
    return spent.forwards, spent.backwards


def test_early_exit_saves_the_passes_of_what_is_fooled_and_costs_none_where_nobody_is():
    model, (x, y) = linear(4), batch(40)
    correct = read_as(model, x)
    sure = leads(model, x, correct) < -0.05
    n = int(sure.sum())
    for early_exit in (False, True):
        attack = partial(spent_on, model, x[sure], correct[sure], eps=1e-4, steps=7, early_exit=early_exit)
        assert attack() == (7 * n, 7 * n) and attack(restarts=2) == (16 * n, 14 * n)
    assert spent_on(model, x, y, eps=0.3, steps=20) == (20 * 40, 20 * 40)
    assert max(spent_on(model, x, y, eps=0.3, steps=20, restarts=50, early_exit=True)) < 4 * 40
    wrong_already = (correct + 1) % 4
    assert spent_on(model, x, wrong_already, eps=1e-6, steps=7, early_exit=True) == (40, 40)


def test_early_exit_does_not_end_at_a_tie():
    """At equal logits nothing is won yet: argmax may still be right."""
    model, (x, _), y = linear(3), batch(), torch.zeros(6, dtype=torch.int64)
    for weight in model.parameters():
        nn.init.zeros_(weight)
    assert (read_as(model, x) == y).all()
    assert spent_on(model, x, y, eps=0.1, steps=5, early_exit=True)[1] == 6 * 5
    assert spent_on(model, x, y, eps=0.1, attack=targeted, early_exit=True)[1] == 6 * 2 * 40


def test_what_is_bound_to_the_attack_of_targeted_stays_bound():
    model, (x, y) = linear(), batch(8)

    def made():
        own = torch.Generator().manual_seed(3)
        return targeted(model, x, y, eps=0.1, attack=partial(pgd, steps=2, generator=own), n_target_classes=2)

    before = torch.get_rng_state()
    assert torch.equal(made(), made()) and torch.equal(torch.get_rng_state(), before)
