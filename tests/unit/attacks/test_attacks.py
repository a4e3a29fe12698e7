"""What every attack promises, whatever the model, the images and eps: checked on many of them."""

import contextlib
from functools import partial

import pytest
import torch
from bad_input import BAD_EPS, BAD_IMAGES, BAD_MODELS, X, Y, table
from helpers import (
    ATTACKS,
    DETERMINISTIC,
    RaisesAt,
    batch,
    clear,
    conv_net,
    every_attack,
    few,
    in_its_ball,
    leads,
    linear,
    mixed_modes,
    refused,
    seeded,
    untouched,
)
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from advutils.attacks.black_box import grey, random_noise, square
from advutils.attacks.gradient import fgsm, input_gradient, pgd, targeted
from advutils.attacks.losses import cw, dlr, margin
from advutils.evaluation import accuracy
from advutils.utils.traits import norm_of

seeds = st.integers(0, 2**16)
PGD1 = partial(pgd, steps=1)


@every_attack
@few
@given(seed=seeds, n=st.integers(1, 5), share=st.floats(0, 1, allow_subnormal=False))
@example(seed=0, n=3, share=1.0)
@example(seed=0, n=3, share=1e-8)
def test_result_is_in_the_ball_and_in_the_pixel_range(attack, seed, n, share):
    (x, y), eps = batch(n, seed=seed), 12 * share if norm_of(attack) == "l2" else share
    x_adv = attack(conv_net(), x, y, eps=eps)
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32
    assert in_its_ball(attack, x_adv, x, eps)


@every_attack
def test_eps_zero_is_the_identity(attack):
    x, y = batch(20)
    assert torch.equal(attack(conv_net(), x, y, eps=0), x)


@every_attack
def test_every_attack_moves_the_images(attack):
    (x, _), model = batch(), conv_net()
    with torch.no_grad():
        model[-1].bias[0] += 10  # so sure of class 0 that no attack that stops at its success ever stops
    change = attack(model, x, torch.zeros(6, dtype=torch.int64), eps=0.5) - x
    assert change.flatten(1).norm(dim=1).min() > 0.3
    assert norm_of(attack) == "l2" or (change.abs() > 0.05).float().mean() > 0.3


@every_attack
@pytest.mark.parametrize("channels, size, classes", [(3, 9, 10), (1, 28, 2)])
def test_any_image_size_channel_count_and_number_of_classes(attack, channels, size, classes):
    x, y = batch(3, channels=channels, size=size, classes=classes)
    model = conv_net(channels=channels, size=size, classes=classes)
    if classes == 2 and getattr(attack, "keywords", {}).get("loss") is dlr:
        with refused("logits", "2 classes", "at least 3"):
            attack(model, x, y, eps=0.1)
    else:
        assert in_its_ball(attack, attack(model, x, y, eps=0.1), x, 0.1)


@every_attack
def test_result_is_detached_and_owns_its_memory(attack):
    x, y = batch()
    x_adv = attack(conv_net(), x.requires_grad_(), y, eps=0.1)
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    x_adv.zero_()
    assert x.max() > 0


class ToDouble(nn.Module):
    """So that a batch of another size is not rounded to the other side of a ReLU or of a tie between two classes."""

    def forward(self, x):
        return x.double()


@pytest.mark.parametrize("name", DETERMINISTIC)
@few
@given(seed=seeds, n=st.integers(2, 5), eps=st.floats(0, 1, allow_subnormal=False))
def test_a_batch_equals_its_images_one_by_one(name, seed, n, eps):
    attack, model = ATTACKS[name], nn.Sequential(ToDouble(), conv_net().double())
    x, y = batch(n, seed=seed)
    together = attack(model, x, y, eps=eps)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=eps) for i in range(n)])
    sure = clear(input_gradient(model, x, y))
    same = (together - alone).abs() < 1e-5
    assert same.float().mean() > 0.99 and (name != "fgsm" or same[sure].all())


def test_margin_is_positive_exactly_where_the_image_is_read_correctly():
    z = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [-1.0, -2.0, -3.0]])
    y = torch.tensor([0, 2, 2])
    assert torch.equal(cw(z, y), torch.tensor([-1.0, 1.0, 2.0]))
    assert torch.equal(margin(z, y), -cw(z, y))


def test_noise_is_a_fair_coin_for_each_pixel_and_blind_to_the_model():
    x, y = torch.full((20, 1, 16, 16), 0.5), torch.zeros(20, dtype=torch.int64)
    noise = random_noise(conv_net(0), x, y, eps=0.1, generator=seeded()) - x
    assert torch.allclose(noise.abs(), torch.full_like(x, 0.1))
    assert abs((noise > 0).float().mean() - 0.5) < 0.03
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(random_noise(conv_net(1), x, 1 - y, eps=0.1, generator=seeded()) - x, noise)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in DETERMINISTIC])
def test_chance_comes_from_the_generator_given_or_else_from_the_global_one(name):
    model, (x, y) = conv_net(), batch()
    attack = partial(ATTACKS[name], model, x, y, eps=0.2)
    outside = torch.random.get_rng_state()
    first, again, other = (attack(generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(outside, torch.random.get_rng_state())
    torch.manual_seed(3)
    drawn, second = attack(), attack()
    torch.manual_seed(3)
    assert torch.equal(attack(), drawn) and not torch.equal(drawn, second)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_an_attack_without_chance_draws_nothing(name):
    model, (x, y) = conv_net(), batch()
    before = torch.random.get_rng_state()
    assert torch.equal(ATTACKS[name](model, x, y, eps=0.2), ATTACKS[name](model, x, y, eps=0.2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_starts_fill_the_ball_evenly_and_each_image_has_its_own():
    x, y, model = torch.full((50, 1, 8, 8), 0.5), torch.zeros(50, dtype=torch.int64), linear(2)
    nn.init.zeros_(model[1].weight)  # no gradient: what comes out is the start
    start = (pgd(model, x, y, eps=0.1, steps=1, generator=seeded()) - x) / 0.1
    assert start.abs().max() <= 1 + 1e-5 and start.mean().abs() < 0.1
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):  # a tenth of the starts within a tenth of eps, and so on
        assert abs((start.abs() < share).float().mean() - share) < 0.03
    assert len(start.flatten(1).unique(dim=0)) == 50


def test_the_default_is_forty_steps_of_five_halves_of_eps_over_steps_from_one_random_start():
    model, (x, y) = conv_net(), batch()
    written = dict(steps=40, step_size=2.5 * 0.1 / 40, random_start=True, restarts=1, momentum=0, early_exit=False)
    default, explicit = (pgd(model, x, y, eps=0.1, generator=seeded(), **options) for options in ({}, written))
    assert torch.equal(default, explicit)
    four, other = (pgd(model, x, y, eps=0.3, steps=4, step_size=s, generator=seeded()) for s in (None, 0.3 / 4))
    assert torch.equal(four, pgd(model, x, y, eps=0.3, steps=4, step_size=2.5 * 0.3 / 4, generator=seeded()))
    assert not torch.equal(four, other)


def test_pgd_takes_as_many_steps_as_it_was_told():
    model, (x, y) = linear(2), batch(classes=2)
    x = x.clamp(0.4, 0.6)
    for steps in (1, 2, 5):
        x_adv = pgd(model, x, y, eps=0.3, step_size=0.01, steps=steps, random_start=False)
        assert torch.allclose((x_adv - x).abs(), torch.full_like(x, 0.01 * steps), atol=1e-6)


@few
@given(seed=seeds, eps=st.floats(0.01, 1), restarts=st.integers(1, 3), early_exit=st.booleans())
def test_one_more_restart_never_helps_the_defender(seed, eps, restarts, early_exit):
    model, (x, y) = conv_net(seed % 5), batch(30, seed=seed)
    attack = partial(pgd, model, x, y, eps=eps, steps=2, early_exit=early_exit)
    fewer, more = (leads(model, attack(restarts=k, generator=seeded(seed)), y) for k in (restarts, restarts + 1))
    assert (more >= fewer - 1e-5).all()


@pytest.mark.parametrize("targets, momentum", [(False, 0), (True, 0), (False, 1)])
def test_restarts_keep_for_each_image_the_run_that_comes_nearest_to_what_is_wanted(targets, momentum):
    """Not the best run of the batch; and each run begins without the momentum of the one before."""
    model, (x, y), shared = conv_net(), batch(30), seeded(7)
    wanted, sign = ((y + 1) % 4, -1) if targets else (y, 1)
    options = dict(eps=0.2, step_size=0.02, steps=2 if momentum else 1, momentum=momentum)
    attack = partial(pgd, model, x, y, target=wanted if targets else None, **options)
    runs = torch.stack([sign * leads(model, attack(generator=shared), wanted) for _ in range(3)])
    kept = sign * leads(model, attack(restarts=3, generator=seeded(7)), wanted)
    assert len(runs.argmax(0).unique()) == 3  # no run is the best for all images
    torch.testing.assert_close(kept, runs.amax(0), rtol=1e-4, atol=1e-5)


@every_attack
def test_an_attack_leaves_model_and_inputs_untouched(attack):
    model, (x, y) = mixed_modes(conv_net()), batch()
    with untouched(model, x, y):
        attack(model, x, y, eps=0.1)


@pytest.mark.parametrize("attack, n", [(fgsm, 1), (partial(pgd, steps=2, restarts=2), 2), (square, 4),
                                       (partial(pgd, steps=2, restarts=2), 5), (targeted, 4)])  # fmt: skip
def test_a_model_that_raises_midway_is_left_untouched(attack, n):
    model, (x, y) = mixed_modes(RaisesAt(conv_net(), n)), batch()
    with untouched(model, x, y), pytest.raises(RuntimeError, match="out of paper"):
        attack(model, x, y, eps=0.1)


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_changes_nothing_and_stays(attack, mode):
    model, (x, y) = conv_net(), batch()
    torch.manual_seed(5)
    plain = attack(model, x, y, eps=0.1)
    with mode(), untouched(model, x):
        inside = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        torch.manual_seed(5)
        assert torch.equal(attack(model, x, y, eps=0.1), plain)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == inside
        made = x + 0, y + 0
    assert in_its_ball(attack, attack(model, *made, eps=0.1), x, 0.1)  # images and labels of that mode, outside it


def test_no_weight_gradient_is_computed_at_all():
    model, (x, y), computed = conv_net(), batch(), []
    for parameter in model.parameters():
        parameter.register_hook(computed.append)
    pgd(model, x, y, eps=0.1, steps=2)
    assert computed == []
    F.cross_entropy(model(x), y).backward()
    assert computed  # the hooks do work


@contextlib.contextmanager
def default(**values):
    """PyTorch's defaults changed inside the block, as some programs change them at their beginning."""
    try:
        for name, value in values.items():
            getattr(torch, f"set_default_{name}")(value)
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


PROGRAMS = {
    "another default dtype": partial(default, dtype=torch.float64),
    "another default device": partial(default, device="meta"),  # as of "cuda" with a model on the CPU
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
}


@every_attack
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_callers_program_does_not_reach_into_an_attack(attack, program):
    model, (x, y) = conv_net().eval(), batch(6)
    with program():
        assert accuracy(model, [(x, y)], attack, eps=0.1).n == 6


BAD_LABELS = {
    "a list": (Y.tolist(), "list"),
    "floats": (Y.float(), "torch.float32"),
    "32 bit": (Y.int(), "torch.int32"),
    "one hot": (F.one_hot(Y, 4), "(3, 4)"),
    "too few": (Y[:2], "(2,)"),
    "one for all": (Y[0], "()"),
    "a column": (Y[:, None], "(3, 1)"),
    "too large": (torch.tensor([0, 4, 1]), "got label 4; accepts 0 to 3"),
    "negative": (torch.tensor([0, 1, -1]), "got label -1"),
    "the ignored index": (torch.tensor([0, -100, 1]), "got label -100"),
    "another device": (Y.to("meta"), "meta"),
}


needs_model = pytest.mark.parametrize("attack", [
    fgsm, PGD1, partial(targeted, attack=PGD1), partial(square, n_queries=2),
    lambda model, x, y, *, eps: input_gradient(model, x, y),
], ids=["fgsm", "pgd", "targeted", "square", "the gradient"])  # fmt: skip


@every_attack
@table(BAD_IMAGES)
def test_bad_images_are_refused(attack, bad, fragment):
    with refused("x", fragment):
        attack(linear(), bad, Y, eps=0.1)


@every_attack
@table(BAD_EPS)
def test_bad_eps_is_refused(attack, bad, fragment):
    if norm_of(attack) == "linf" or fragment not in ("1.001", "8/255"):  # which are lengths
        with refused("eps", fragment):
            attack(linear(), X, Y, eps=bad)
    with pytest.raises(TypeError, match="eps"):
        attack(linear(), X, Y)  # it is the caller's to say


@needs_model
@table(BAD_LABELS)
def test_bad_labels_are_refused(attack, bad, fragment):
    with refused("y", fragment):
        attack(linear(), X, bad, eps=0.1)


@needs_model
@table(BAD_MODELS | {"another device": (linear().to("meta"), "cpu")})
def test_bad_models_are_refused(attack, bad, fragment):
    with refused("x" if fragment == "cpu" else "model", fragment):
        attack(bad, X, Y, eps=0.1)


COUNTS, SHARES = [0, -1, 1.5, 2.0, "3", None, True], [-0.1, 1.1, float("nan"), "0.9", None, True]
REFUSED = [
    (pgd, "steps", COUNTS, "at least 1"),
    (pgd, "restarts", COUNTS, "at least 1"),
    (targeted, "n_target_classes", COUNTS, "at least 1"),
    (square, "n_queries", COUNTS, "at least 1"),
    (pgd, "step_size", [0, -0.1, float("nan"), float("inf"), "0.1", True, [0.1]], "above 0"),
    (pgd, "momentum", SHARES, "0 to 1"),
    (square, "p_init", SHARES, "0 to 1"),
    (pgd, "target", [Y.tolist(), Y.float(), Y[:2], torch.full_like(Y, 4)], "accepts"),
    (pgd, "loss", ["margin", 3, True], "got"),
    (pgd, "norm", ["l1", "L2", "inf", 2, None], "'linf', 'l2'"),
    (grey, "norm", ["l1", "L2", "inf", 2, None], "'linf', 'l2'"),
]


@pytest.mark.parametrize("attack, argument, values, words", REFUSED)
def test_settings_that_make_no_sense_are_refused_by_name(attack, argument, values, words):
    for bad in values:
        with refused(argument, words):
            attack(linear(), X, Y, eps=0.1, **{argument: bad})


def test_labels_beside_a_target_and_the_loss_of_a_gradient_are_checked_too():
    with refused("y", "12"):
        pgd(linear(), X, torch.full_like(Y, 12), eps=0.1, target=Y)
    with refused("loss", "'margin'"):
        input_gradient(linear(), X, Y, "margin")


class Gamma(nn.Module):
    """The root of each pixel: at black ones it has no finite slope."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 3, 1, 1).sqrt()


def test_a_gradient_that_is_no_number_is_refused_not_taken_for_zero():
    x, y = batch(3)
    x[:, :, :4] = 0
    model, steps = nn.Sequential(Gamma(), linear()), partial(pgd, steps=2, random_start=False)
    for attack in (fgsm, steps, partial(steps, norm="l2"), partial(steps, momentum=1.0)):
        with refused("model", "NaN or infinite in some pixels"), untouched(model, x, y):
            attack(model, x, y, eps=0.1)
        attack(model, x.clamp(min=0.01), y, eps=0.001)
