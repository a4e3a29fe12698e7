"""Attacks that need no gradient, grey and Square, and AutoAttack, the judge from another package."""

import logging
import random
import sys
import warnings

import numpy as np
import pyautoattack
import pytest
import torch
from helpers import (
    RaisesAt,
    batch,
    certain,
    conv_net,
    few,
    grey_images,
    images,
    in_ball,
    in_l2_ball,
    labels,
    leads,
    linear,
    mixed_modes,
    read_as,
    refused,
    seeded,
    small_net_and_digits,
    untouched,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advutils.attacks.auto import autoattack
from advutils.attacks.black_box import grey, square
from advutils.attacks.gradient import pgd
from advutils.training import ledger


def test_grey_is_grey_where_the_ball_allows_it():
    x, y = batch(20)
    assert (grey(None, x, None, eps=0.5) == 0.5).all() and (grey(None, x, None, eps=4, norm="l2") == 0.5).all()
    for eps in (0.0, 0.1, 0.3):
        left = (grey(conv_net(), x, y, eps=eps) - 0.5).abs()
        torch.testing.assert_close(left, ((x - 0.5).abs() - eps).clamp(min=0), rtol=0, atol=1e-6)


class Threshold(nn.Module):
    """A linear model behind a threshold: its gradient is zero wherever it has one."""

    def __init__(self, classes=4):
        super().__init__()
        self.net, self.asked = linear(classes), []

    def forward(self, x):
        assert not torch.is_grad_enabled() or x.requires_grad
        self.asked.append(x.detach().clone())
        return self.net((x > 0.5).float() + 0 * x)


class NoGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        assert not torch.is_grad_enabled() and not x.requires_grad
        return torch.from_numpy(self.net(x).detach().numpy())  # autograd would end here


@pytest.mark.parametrize("n_queries", [1, 2, 17])
def test_square_never_differentiates_and_each_query_is_one_pass(n_queries):
    model, (x, y) = NoGradient(), batch()
    with ledger(model) as spent:
        assert in_ball(square(model, x.requires_grad_(), y, eps=0.2, n_queries=n_queries), x.detach(), 0.2)
    assert (spent.forwards, spent.backwards) == (6 * n_queries, 0)


@few
@given(seed=st.integers(0, 2**16), eps=st.floats(0.01, 1), n_queries=st.integers(2, 30), early_exit=st.booleans())
def test_square_never_falls_behind_its_stripes_nor_behind_any_picture_it_tried(seed, eps, n_queries, early_exit):
    model, (x, y) = Threshold(), batch(8, seed=seed)
    stripes = square(model, x, y, eps=eps, n_queries=1, generator=seeded(seed))
    model.asked.clear()
    x_adv = square(model, x, y, eps=eps, n_queries=n_queries, generator=seeded(seed))
    asked = torch.stack(model.asked)
    assert len(asked) == n_queries and torch.equal(asked[0], stripes)
    tried = torch.stack([leads(model, at, y) for at in asked])
    assert torch.equal(leads(model, x_adv, y), tried.amax(0))
    early = square(model, x, y, eps=eps, n_queries=n_queries, early_exit=early_exit, generator=seeded(seed))
    assert torch.equal(leads(model, early, y) > 0, tried.amax(0) > 0)  # early exit takes nothing from it


def test_square_begins_with_stripes_and_paints_squares_of_one_sign():
    model, x, y = Threshold(), *grey_images(6, 4)
    square(model, x, y, eps=0.1, n_queries=40, generator=seeded())
    model.asked, (first, *later) = [], model.asked
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


def test_squares_are_halved_in_area_at_the_nine_milestones_of_the_paper():
    x, y = torch.full((60, 1, 20, 20), 0.5), torch.zeros(60, dtype=torch.long)
    asked = []

    def indifferent(at):  # no picture is ever kept, so each differs from the stripes in its square alone
        asked.append(at)
        return torch.tensor([2.0, 0.0]).expand(len(at), 2)

    square(Called(indifferent), x, y, eps=0.1, n_queries=200, generator=seeded())
    after = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]  # of 10,000: section 4 of arXiv:1912.00049
    for query, tried in enumerate(asked[1:], 1):
        share = 0.8 * 0.5 ** sum(query * 10_000 > milestone * 200 for milestone in after)
        rows = (tried != asked[0]).any(3).sum(2)
        assert rows.max() == max(1, round(20 * share**0.5)), f"query {query}"


class Called(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("p_init, most", [(0, 1), (1, 64)])
def test_the_first_share_says_how_large_the_squares_are_and_each_image_has_its_own(p_init, most):
    model, (x, y) = Threshold(), batch(30)
    square(model, x, y, eps=0.1, n_queries=2, p_init=p_init, generator=seeded())
    stripes, tried = model.asked
    changed = (tried != stripes).flatten(1)
    assert 0 < changed.sum(1).max() <= most and (p_init == 0 or changed.sum(1).max() < 64)
    assert len(changed.unique(dim=0)) > 5


def judged(model, x, y, **kwargs):
    return autoattack(model, x, y, **(dict(eps=0.1, attacks_to_run=["apgd-ce"], flags=[]) | kwargs))


CASES = [("apgd-ce", 0.1, 10), ("apgd-dlr", 0.1, 10), ("apgd-t", 0.1, 5), ("fab-t", 0.1, 5), ("square", 0.5, 10)]


@pytest.mark.parametrize("only, eps, classes", CASES)
def test_autoattack_finds_what_a_linear_model_can_be_proved_to_have(only, eps, classes):
    model, x = linear(classes), images(8)
    y = read_as(model, x)
    most = certain(model, x, y, eps)
    assert most.abs().min() > 1e-3
    x_adv = judged(model, x, y, eps=eps, attacks_to_run=[only])
    assert in_ball(x_adv, x, eps)
    fooled = leads(model, x_adv, y) > 0
    assert not (fooled & (most <= 0)).any()
    if only not in ("apgd-ce", "fab-t"):
        assert torch.equal(fooled, most > 0)
    assert torch.equal(x_adv[~fooled], x[~fooled])
    if only == "apgd-ce":
        longer = judged(model, x, y, eps=1.5, norm="l2")
        assert in_l2_ball(longer, x, 1.5) and (longer - x).flatten(1).norm(dim=1).max() > 1


def everybodys_random_state():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_autoattack_leaves_model_inputs_and_random_states_alone():
    model, x, before = mixed_modes(linear(10)), images(4), everybodys_random_state()
    y = read_as(model, x)
    with untouched(model, x, y), ledger(model) as spent:
        x_adv = judged(model, x, y, eps=0.001, attacks_to_run=["fab-t"])
    assert in_ball(x_adv, x, 0.001) and spent.backwards > 4 * 100  # FAB had work to do
    assert everybodys_random_state() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_autoattack_under_any_gradient_mode_repeats(mode):
    model, x = linear(10), images(6)
    y = read_as(model, x)
    plain = judged(model, x, y)
    torch.manual_seed(77)
    with mode():
        assert torch.equal(judged(model, x, y), plain) and not torch.equal(plain, x)


def test_the_whole_of_autoattack_is_at_least_as_strong_as_pgd():
    model, x, y = small_net_and_digits()
    wrong = read_as(model, x) != y
    some = torch.cat([wrong.nonzero()[:2], (~wrong).nonzero()[:8]]).flatten()
    x, y, wrong, flags = x[some], y[some], wrong[some], []
    x_adv = autoattack(model, x, y, eps=0.3, flags=flags, batch_size=7)
    alive = leads(model, x_adv, y) <= 0
    assert in_ball(x_adv, x, 0.3) and flags == [] and len(wrong) == 10
    assert alive.sum() <= (leads(model, pgd(model, x, y, eps=0.3, steps=20, generator=seeded()), y) <= 0).sum()
    assert torch.equal(x_adv[wrong], x[wrong])  # what was wrong already is left as it was


@pytest.mark.parametrize("norm, theirs", [("linf", "Linf"), ("l2", "L2")])
def test_the_judge_has_our_arguments_and_the_settings_of_the_standard_version(norm, theirs, monkeypatch):
    class Judge(pyautoattack.AutoAttack):
        def run_standard_evaluation(self, x, y, *, batch_size):
            settings.update(
                norm=self.norm, eps=self.epsilon, seed=self.seed, batch_size=batch_size, version=self.version
            )
            settings.update(restarts={self.apgd.n_restarts, self.fab.n_restarts}, images=x)
            settings["targets"] = {self.apgd_targeted.n_target_classes, self.fab.n_target_classes}
            torch.rand(3)
            for _ in range(2):
                logging.getLogger("auto-attack").warning("No good. See the page")
            return x + 2, y  # far outside

    monkeypatch.setattr(pyautoattack, "AutoAttack", Judge)
    settings, flags, x, state = {}, [], images(2), torch.get_rng_state()
    x_adv = autoattack(linear(7), x, labels(2, 7), eps=0.3, norm=norm, batch_size=3, seed=5, flags=flags)
    inside = in_ball if norm == "linf" else in_l2_ball
    assert inside(x_adv, x, 0.3) and not torch.equal(x_adv, x)
    expected = dict(norm=theirs, eps=0.3, seed=5, batch_size=3, version="standard", restarts={1}, targets={6})
    assert expected.items() <= settings.items() and flags == ["No good."]
    assert settings["images"].data_ptr() != x.data_ptr() and torch.equal(torch.get_rng_state(), state)
    assert not logging.getLogger("auto-attack").handlers
    judged(linear(12), x, labels(2, 12), attacks_to_run=["square"])
    assert settings["targets"] == {9} and settings["version"] == "custom"


class WithoutGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear(10)

    def forward(self, x):
        return self.net(x.detach().clone())


def test_a_model_without_a_gradient_is_judged_by_square_alone():
    model, x = WithoutGradient(), images(2)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert in_ball(judged(model, x, read_as(model, x), eps=0.5, attacks_to_run=["square"]), x, 0.5)
    with refused("model", "gradient"):
        judged(model, x, read_as(model, x))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear(10)

    def forward(self, x):
        z = self.net(x)
        return z + torch.randn_like(z)


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


@pytest.mark.parametrize("defence, words", [(Noisy, "randomized defense"), (Dynamic, "dynamic defense")])
def test_autoattack_flags_a_defence_that_it_cannot_judge_and_not_the_honest_model_after_it(defence, words):
    model, x, flags = linear(10), images(4), ["said before"]
    judged(defence(), x, labels(4, 10), flags=flags)
    assert flags[0] == "said before" and any(words in flag for flag in flags[1:])
    assert len(set(flags)) == len(flags)
    with pytest.warns(UserWarning, match=f"AutoAttack: .*{words}"):
        judged(defence(), x, labels(4, 10), flags=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged(model, x, read_as(model, x), flags=None)


@pytest.mark.parametrize("argument, change", [
    ("eps", dict(norm="l2", eps=-1)), ("batch_size", dict(batch_size=0)), ("y", dict(y=labels(3) + 10)),
    ("model", dict(model=linear(3), y=labels(3, 3))),
    ("model", dict(model=nn.Sequential(linear(10), nn.Unflatten(1, (5, 2))))),
    ("attacks_to_run", dict(attacks_to_run=[])),
    *(("x's height", dict(norm="l2", x=images(3, size=4), attacks_to_run=only)) for only in (None, ["square"])),
    *(("attacks_to_run", dict(attacks_to_run=["square", bad])) for bad in ("pgd", "APGD-CE", "fab", "", None)),
])  # fmt: skip
def test_autoattack_refuses_what_it_cannot_attack_or_run(argument, change):
    with refused(argument):
        judged(**(dict(model=linear(10), x=images(3), y=labels(3)) | change))


def test_on_tiny_images_autoattack_goes_without_square_alone():
    model, x = linear(10, size=4), images(3, size=4)
    assert (leads(model, judged(model, x, read_as(model, x), eps=1, norm="l2"), read_as(model, x)) > 0).all()
    judged(model, x, read_as(model, x), attacks_to_run=["square"])  # which l_inf lets run


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_a_model_that_raises_in_autoattack_is_left_untouched_and_untraced(n):
    model, before = mixed_modes(RaisesAt(linear(10), n)), sys.gettrace()
    with untouched(model), pytest.raises(RuntimeError, match="out of paper"):
        judged(model, images(3), labels(3))
    after, _ = sys.gettrace(), sys.settrace(before)
    assert after is before
