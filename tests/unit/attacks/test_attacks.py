"""What every attack promises, whatever the model, the images and eps: checked on many of them."""

from functools import partial

import pytest
import torch
from bad_input import BAD_EPS, BAD_IMAGES, BAD_MODELS, Returns, X, Y, table
from helpers import (
    ATTACKS,
    CLIMBING,
    DETERMINISTIC,
    L2_ATTACKS,
    RaisesAt,
    batch,
    clear,
    conv_net,
    every_attack,
    every_l2_attack,
    few,
    images,
    in_ball,
    in_l2_ball,
    labels,
    linear,
    mixed_modes,
    refused,
    untouched,
)  # fmt: skip
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from advutils import (
    cw,
    dlr,
    eval_mode,
    fgsm,
    fgsm_step,
    grey,
    input_gradient,
    margin,
    pgd,
    random_noise,
    square,
    targeted,
)

seeds = st.integers(0, 2**16)
radii = st.floats(0, 1, allow_subnormal=False)
counts = st.integers(1, 5)


def each_loss(model, x, y):
    with eval_mode(model), torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# what comes out


@every_attack
@few
@given(seed=seeds, n=counts, eps=radii)
@example(seed=0, n=3, eps=1.0)
def test_result_is_in_the_ball_and_in_the_pixel_range(attack, seed, n, eps):
    x, y = batch(n, seed=seed)
    x_adv = attack(conv_net(), x, y, eps=eps)
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32
    assert in_ball(x_adv, x, eps)


@every_attack
@few
@given(seed=seeds, n=counts)
def test_eps_zero_is_the_identity(attack, seed, n):
    x, y = batch(n, seed=seed)
    assert torch.equal(attack(conv_net(), x, y, eps=0), x)


@every_attack
def test_a_whole_number_is_an_eps_too(attack):
    x, y = batch()
    assert in_ball(attack(conv_net(), x, y, eps=1), x, 1)


@every_attack
def test_every_attack_moves_the_images(attack):
    x, y = batch()
    assert ((attack(conv_net(), x, y, eps=0.1) - x).abs() > 0.01).float().mean() > 0.3


@every_attack
@pytest.mark.parametrize("channels, size, classes", [(1, 8, 4), (3, 9, 10), (1, 28, 2)])
def test_any_image_size_channel_count_and_number_of_classes(attack, channels, size, classes):
    (x, y), model = (
        batch(3, channels=channels, size=size, classes=classes),
        conv_net(0, channels=channels, size=size, classes=classes),
    )
    if classes == 2 and getattr(attack, "keywords", {}).get("loss") is dlr:
        with refused("logits", "2 classes", "at least 3"):
            attack(model, x, y, eps=0.1)
    else:
        assert in_ball(attack(model, x, y, eps=0.1), x, 0.1)


@every_attack
def test_result_is_detached_and_owns_its_memory(attack):
    x, y = batch()
    x_adv = attack(conv_net(), x.requires_grad_(), y, eps=0.1)
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    assert x_adv.data_ptr() != x.data_ptr()
    x_adv.zero_()
    assert x.max() > 0


class ToDouble(nn.Module):
    """So that a batch of another size is not rounded to the other side of a ReLU or of a tie between two classes."""

    def forward(self, x):
        return x.double()


@pytest.mark.parametrize("name", DETERMINISTIC)
@few
@given(seed=seeds, n=st.integers(2, 5), eps=radii)
def test_a_batch_equals_its_images_one_by_one(name, seed, n, eps):
    attack, model = ATTACKS[name], nn.Sequential(ToDouble(), conv_net().double())
    x, y = batch(n, seed=seed)
    together = attack(model, x, y, eps=eps)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=eps) for i in range(n)])
    sure = clear(input_gradient(model, x, y))
    same = (together - alone).abs() < 1e-5
    assert same.float().mean() > 0.99 and (name != "fgsm" or same[sure].all())


@pytest.mark.parametrize("name", DETERMINISTIC)
@few
@given(seed=seeds, n=st.integers(2, 5), eps=radii)
def test_an_image_is_the_same_to_the_bit_beside_other_images(name, seed, n, eps):
    attack, model, (x, y), (other_x, other_y) = ATTACKS[name], conv_net(), batch(n, seed=seed), batch(n, seed=seed + 1)
    other_x[0], other_y[0] = x[0], y[0]
    assert torch.equal(attack(model, x, y, eps=eps)[0], attack(model, other_x, other_y, eps=eps)[0])


@few
@given(seed=seeds, n=st.integers(2, 5))
def test_an_images_gradient_does_not_depend_on_its_batch(seed, n):
    model, (x, y) = conv_net(), batch(n, seed=seed)
    alone = torch.cat([input_gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(n)])
    torch.testing.assert_close(input_gradient(model, x, y), alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CLIMBING)
@few
@given(seed=seeds, eps=radii, classes=st.integers(2, 6))
def test_the_loss_of_a_linear_model_rises_or_stays(name, seed, eps, classes):
    model, x, y = linear(classes, seed=seed), images(8, seed=seed), labels(8, classes, seed=seed)
    before, after = each_loss(model, x, y), each_loss(model, ATTACKS[name](model, x, y, eps=eps), y)
    assert (after >= before - 1e-5).all()
    if eps > 0.01:
        assert (after > before).all()


@few
@given(seed=seeds)
def test_a_larger_eps_costs_a_linear_two_class_model_no_less(seed):
    model, x, y = linear(2, seed=seed), images(8, seed=seed), labels(8, 2, seed=seed)
    curve = torch.stack([each_loss(model, fgsm(model, x, y, eps=eps), y) for eps in (0, 0.05, 0.1, 0.3, 0.6, 1)])
    assert (curve.diff(dim=0) >= -1e-5).all()


def test_fgsm_step_and_gradient_make_up_fgsm():
    model, (x, y) = conv_net(), batch()
    gradient = input_gradient(model, x, y)
    for eps in (0.0, 0.1, 0.4):
        assert torch.equal(fgsm(model, x, y, eps=eps), fgsm_step(x, gradient, eps))
        assert torch.equal(fgsm(model, x, y, eps=eps), (x + eps * gradient.sign()).clamp(0, 1))


def test_margin_is_positive_exactly_where_the_image_is_read_correctly():
    z = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [-1.0, -2.0, -3.0]])
    y = torch.tensor([0, 2, 2])
    assert torch.equal(cw(z, y), torch.tensor([-1.0, 1.0, 2.0]))
    assert torch.equal(cw(z, y) > 0, z.argmax(1) != y)
    assert torch.equal(margin(z, y), -cw(z, y))


# the l_2 ball


@every_l2_attack
@few
@given(seed=seeds, n=counts, eps=st.floats(0, 12, allow_subnormal=False))
@example(seed=0, n=3, eps=1000.0)
@example(seed=0, n=3, eps=1e-7)
def test_l2_result_is_in_the_ball_and_in_the_pixel_range(attack, seed, n, eps):
    x, y = batch(n, seed=seed)
    x_adv = attack(conv_net(), x, y, eps=eps)
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32 and not x_adv.requires_grad
    assert in_l2_ball(x_adv, x, eps)


@every_l2_attack
@few
@given(seed=seeds, n=counts)
def test_l2_eps_zero_is_the_identity(attack, seed, n):
    x, y = batch(n, seed=seed)
    assert torch.equal(attack(conv_net(), x, y, eps=0), x)


@every_l2_attack
def test_an_l2_attack_uses_its_ball(attack):
    (x, y), model = batch(), conv_net()
    with torch.no_grad():
        model[-1].bias[0] += 10  # so sure of class 0 that no attack that stops at its success ever stops
    lengths = (attack(model, x, torch.zeros_like(y), eps=0.5) - x).flatten(1).norm(dim=1)
    assert lengths.min() > 0.3


@every_l2_attack
@few
@given(seed=seeds)
def test_an_l2_attack_leaves_model_and_inputs_untouched(attack, seed):
    model, (x, y) = mixed_modes(conv_net(seed % 7)), batch(seed=seed)
    with untouched(model, x, y):
        attack(model, x, y, eps=1.5)


@every_l2_attack
@pytest.mark.parametrize("made", ["images", "labels"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_l2_attack_under_any_gradient_mode(attack, made, mode):
    model, (x, y) = conv_net(), batch()
    with mode():
        x, y = (x + 0, y) if made == "images" else (x, y + 0)
        inside = attack(model, x, y, eps=0.5)
    assert in_l2_ball(inside, x, 0.5) and in_l2_ball(attack(model, x, y, eps=0.5), x, 0.5)


@pytest.mark.parametrize("name", ["pgd without random start", "grey"])
def test_an_l2_batch_equals_its_images_one_by_one(name):
    attack, model, (x, y) = L2_ATTACKS[name], conv_net(), batch(5)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=1) for i in range(5)])
    torch.testing.assert_close(attack(model, x, y, eps=1), alone, rtol=1e-3, atol=1e-4)


@every_l2_attack
@pytest.mark.parametrize("bad, fragment", [(-0.1, "-0.1"), (float("nan"), "nan"), (float("inf"), "inf"), (True, "True"),
                                           ("1", "'1'"), (None, "NoneType")])  # fmt: skip
def test_bad_l2_eps_is_refused(attack, bad, fragment):
    with refused("eps", fragment):
        attack(conv_net(), *batch(), eps=bad)


@pytest.mark.parametrize("attack", [pgd, grey])
@pytest.mark.parametrize("bad", ["l1", "L2", "inf", 2, None])
def test_an_unknown_norm_is_refused(attack, bad):
    with refused("norm", "'linf', 'l2'"):
        attack(conv_net(), *batch(), eps=0.1, norm=bad)


# noise


def test_noise_is_a_fair_coin_for_each_pixel_and_blind_to_the_model():
    x, y = torch.full((20, 1, 16, 16), 0.5), torch.zeros(20, dtype=torch.int64)
    noise = random_noise(conv_net(0), x, y, eps=0.1, generator=seeded()) - x
    assert torch.allclose(noise.abs(), torch.full_like(x, 0.1))
    assert abs((noise > 0).float().mean() - 0.5) < 0.03
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(random_noise(conv_net(1), x, 1 - y, eps=0.1, generator=seeded()) - x, noise)


chancy = pytest.mark.parametrize(
    "attack", [random_noise, pgd, partial(square, n_queries=15), partial(targeted, attack=partial(pgd, steps=2))],
    ids=["random noise", "pgd", "square", "targeted"],
)  # fmt: skip


@chancy
def test_a_generator_makes_the_result_repeat_and_leaves_the_global_one_alone(attack):
    model, (x, y) = conv_net(), batch()
    outside = torch.random.get_rng_state()
    first, again, other = (attack(model, x, y, eps=0.2, generator=seeded(s)) for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(outside, torch.random.get_rng_state())


@chancy
def test_without_a_generator_the_global_one_is_drawn_from(attack):
    model, (x, y) = conv_net(), batch()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = attack(model, x, y, eps=0.2), attack(model, x, y, eps=0.2)
        torch.manual_seed(3)
        assert torch.equal(attack(model, x, y, eps=0.2), first) and not torch.equal(first, second)


@pytest.mark.parametrize("attack", [ATTACKS[name] for name in DETERMINISTIC], ids=DETERMINISTIC)
def test_an_attack_without_chance_draws_nothing(attack):
    model, (x, y) = conv_net(), batch()
    before = torch.random.get_rng_state()
    assert torch.equal(attack(model, x, y, eps=0.2), attack(model, x, y, eps=0.2))
    assert torch.equal(before, torch.random.get_rng_state())


# PGD


def test_default_step_size_is_five_halves_of_eps_over_steps():
    model, (x, y) = conv_net(), batch()
    for eps, steps in ((0.1, 4), (0.3, 10)):
        default, explicit, other = (
            pgd(model, x, y, eps=eps, steps=steps, step_size=size, generator=seeded())
            for size in (None, 2.5 * eps / steps, eps / steps)
        )
        assert torch.equal(default, explicit) and not torch.equal(default, other)


def test_the_default_is_forty_steps_from_one_random_start():
    model, (x, y) = conv_net(), batch()
    written = pgd(model, x, y, eps=0.1, steps=40, random_start=True, restarts=1, generator=seeded())
    assert torch.equal(pgd(model, x, y, eps=0.1, generator=seeded()), written)


def test_pgd_takes_as_many_steps_as_it_was_told():
    model, (x, y) = linear(2), batch(classes=2)
    x = x.clamp(0.4, 0.6)
    for steps in (1, 2, 5):
        x_adv = pgd(model, x, y, eps=0.3, step_size=0.01, steps=steps, random_start=False)
        assert torch.allclose((x_adv - x).abs(), torch.full_like(x, 0.01 * steps), atol=1e-6)


def test_pgd_recomputes_the_gradient_at_every_step():
    model, (x, y) = conv_net(), batch(40)
    one, many = fgsm(model, x, y, eps=0.3), pgd(model, x, y, eps=0.3, steps=20, random_start=False)
    assert ((one - many).abs() > 0.1).float().mean() > 0.01
    assert each_loss(model, many, y).mean() > each_loss(model, one, y).mean()


@few
@given(seed=seeds, eps=st.floats(0.01, 1), restarts=st.integers(1, 3))
def test_one_more_restart_never_helps_the_defender(seed, eps, restarts):
    model, (x, y) = conv_net(), batch(seed=seed)
    fewer, more = (
        pgd(model, x, y, eps=eps, steps=2, restarts=k, generator=seeded(seed)) for k in (restarts, restarts + 1)
    )
    with eval_mode(model), torch.no_grad():
        assert (cw(model(more), y) >= cw(model(fewer), y) - 1e-5).all()


# what is left behind


@every_attack
@few
@given(seed=seeds)
def test_an_attack_leaves_model_and_inputs_untouched(attack, seed):
    model, (x, y) = mixed_modes(conv_net(seed % 7)), batch(seed=seed)
    with untouched(model, x, y):
        attack(model, x, y, eps=0.1)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize(
    "attack",
    [fgsm, partial(pgd, steps=2, restarts=2), partial(square, n_queries=5), partial(targeted, n_target_classes=2)],
    ids=["fgsm", "pgd", "square", "targeted"],
)  # fmt: skip
def test_a_model_that_raises_midway_is_left_untouched(attack, n):
    model, (x, y) = mixed_modes(RaisesAt(conv_net(), n)), batch()
    if attack is fgsm and n > 1:
        model.left = 1
    with untouched(model, x, y), pytest.raises(RuntimeError, match="out of paper"):
        attack(model, x, y, eps=0.1)


def test_a_model_that_raises_while_restarts_are_compared_is_left_untouched():
    model, (x, y) = mixed_modes(RaisesAt(conv_net(), 5)), batch()
    with untouched(model, x, y), pytest.raises(RuntimeError, match="out of paper"):
        pgd(model, x, y, eps=0.1, steps=2, restarts=2)


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


@every_attack
@pytest.mark.parametrize("made", ["images", "labels"])
def test_images_and_labels_made_under_inference_mode_can_be_attacked(attack, made):
    model, (x, y) = conv_net(), batch()
    with torch.inference_mode():
        x, y = (x + 0, y) if made == "images" else (x, y + 0)
    x_adv = attack(model, x, y, eps=0.1)
    assert in_ball(x_adv, x, 0.1) and not torch.equal(x_adv, x)


def test_no_weight_gradient_is_computed_at_all():
    model, (x, y), computed = conv_net(), batch(), []
    for parameter in model.parameters():
        parameter.register_hook(computed.append)
    fgsm(model, x, y, eps=0.1)
    pgd(model, x, y, eps=0.1, steps=2)
    assert computed == []
    F.cross_entropy(model(x), y).backward()
    assert computed  # the hooks do work


def test_a_model_with_frozen_weights_can_be_attacked():
    model, (x, y) = conv_net(), batch()
    free = fgsm(model, x, y, eps=0.1)
    assert torch.equal(fgsm(model.requires_grad_(False), x, y, eps=0.1), free)


def test_evaluating_restores_each_modules_own_mode():
    model = mixed_modes(conv_net())
    with untouched(model), eval_mode(model) as same:
        assert same is model and not any(module.training for module in model.modules())
    with untouched(model), pytest.raises(KeyError), eval_mode(model):
        raise KeyError


# what is refused

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


needs_model = pytest.mark.parametrize(
    "attack",
    [fgsm, partial(pgd, steps=1), partial(targeted, attack=partial(pgd, steps=1)), partial(square, n_queries=2)],
    ids=["fgsm", "pgd", "targeted", "square"],
)  # fmt: skip


@every_attack
@table(BAD_IMAGES)
def test_bad_images_are_refused(attack, bad, fragment):
    with refused("x", fragment):
        attack(linear(), bad, Y, eps=0.1)


@needs_model
@table(BAD_LABELS)
def test_bad_labels_are_refused(attack, bad, fragment):
    with refused("y", fragment):
        attack(linear(), X, bad, eps=0.1)


@every_attack
@table(BAD_EPS)
def test_bad_eps_is_refused(attack, bad, fragment):
    with refused("eps", fragment):
        attack(linear(), X, Y, eps=bad)


@every_attack
def test_eps_is_the_callers_to_say(attack):
    with pytest.raises(TypeError, match="eps"):
        attack(linear(), X, Y)


@needs_model
@table(BAD_MODELS)
def test_bad_models_are_refused(attack, bad, fragment):
    with refused("model", fragment):
        attack(bad, X, Y, eps=0.1)


@needs_model
def test_a_model_on_another_device_is_refused(attack):
    with refused("x", "cpu", "meta"):
        attack(linear().to("meta"), X, Y, eps=0.1)


@pytest.mark.parametrize("argument", ["steps", "restarts"])
@pytest.mark.parametrize("bad", [0, -1, 1.5, 2.0, "3", None, True])
def test_a_bad_number_of_steps_or_restarts_is_refused(argument, bad):
    with refused(argument, "at least 1"):
        pgd(linear(), X, Y, eps=0.1, **{argument: bad})


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf"), "0.1", True, [0.1]])
def test_a_bad_step_size_is_refused(bad):
    with refused("step_size", "above 0"):
        pgd(linear(), X, Y, eps=0.1, step_size=bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), "0.9", None, True])
def test_a_bad_momentum_is_refused(bad):
    with refused("momentum", "0 to 1"):
        pgd(linear(), X, Y, eps=0.1, momentum=bad)


@pytest.mark.parametrize("bad, fragment", [(Y.tolist(), "list"), (Y.float(), "float32"), (Y[:2], "(2,)")])
def test_a_bad_target_is_refused(bad, fragment):
    with refused("target", fragment):
        pgd(linear(), X, Y, eps=0.1, target=bad)


def test_a_target_that_the_model_does_not_know_is_refused():
    with pytest.raises(ValueError, match="got label 4; accepts 0 to 3"):
        pgd(linear(), X, Y, eps=0.1, target=torch.full_like(Y, 4))


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", None, True])
def test_a_bad_number_of_targets_or_queries_is_refused(bad):
    with refused("n_target_classes", "at least 1"):
        targeted(linear(), X, Y, eps=0.1, n_target_classes=bad)
    with refused("n_queries", "at least 1"):
        square(linear(), X, Y, eps=0.1, n_queries=bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), "0.9", None, True])
def test_a_bad_first_share_of_square_is_refused(bad):
    with refused("p_init", "0 to 1"):
        square(linear(), X, Y, eps=0.1, p_init=bad)


def test_the_gradient_refuses_what_the_attacks_refuse():
    for bad, fragment in BAD_IMAGES.values():
        with refused("x", fragment):
            input_gradient(linear(), bad, Y)
    for bad, fragment in BAD_LABELS.values():
        with refused("y", fragment):
            input_gradient(linear(), X, bad)
    for bad, fragment in BAD_MODELS.values():
        with refused("model", fragment):
            input_gradient(bad, X, Y)


def test_log_probabilities_are_logits_too():
    model = Returns(lambda z: z.log_softmax(1))
    torch.testing.assert_close(input_gradient(model, X, Y), input_gradient(model.net, X, Y), rtol=1e-3, atol=1e-6)


def test_a_refusal_leaves_the_model_untouched():
    model = mixed_modes(conv_net())
    with untouched(model), refused("y"):
        fgsm(model, X, torch.tensor([0, 1, 9]), eps=0.1)


class Gamma(nn.Module):
    """The root of each pixel: at black ones it has no finite slope."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 3, 1, 1).sqrt()


@pytest.mark.parametrize("attack", [
    fgsm, input_gradient, partial(pgd, steps=2, random_start=False),
    partial(pgd, steps=2, norm="l2", random_start=False),
    partial(pgd, steps=2, momentum=1.0, random_start=False),
], ids=["fgsm", "input_gradient", "pgd", "l2", "momentum"])  # fmt: skip
def test_a_gradient_that_is_no_number_is_refused_not_taken_for_zero(attack):
    x, y = batch(3)
    x[:, :, :4] = 0
    model = nn.Sequential(Gamma(), linear())
    with refused("model", "NaN or infinite in some pixels"), untouched(model, x, y):
        attack(model, x, y) if attack is input_gradient else attack(model, x, y, eps=0.1)
    x = x.clamp(min=0.01)
    attack(model, x, y) if attack is input_gradient else attack(model, x, y, eps=0.001)


@pytest.mark.parametrize("bad", ["margin", 3, True])
def test_what_is_no_loss_is_refused(bad):
    model, (x, y) = linear(), batch(3)
    for attack in (partial(pgd, model, x, y, eps=0.1), partial(input_gradient, model, x, y)):
        with refused("loss", repr(bad)):
            attack(loss=bad)
