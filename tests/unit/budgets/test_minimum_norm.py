"""The smallest change: closed forms on linear networks, other libraries on the same network, and the curve of radii."""

import functools
import math
import warnings
from functools import partial

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import DeepFool
from art.estimators.classification import PyTorchClassifier
from bad_input import BAD_IMAGES, BAD_MODELS, X, Y, table
from helpers import (
    batch,
    conv_net,
    few,
    grey_images,
    images,
    labels,
    leads,
    linear,
    loader,
    mixed_modes,
    read_as,
    refused,
    seeded,
    small_net_and_digits,
    untouched,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import nn
from torch.utils.data import TensorDataset

from advutils import accuracy, accuracy_vs_eps, deepfool, eval_mode, fmn, ledger, make_loader, minimum_norm, pgd, wilson
from advutils.attacks.base import attack as as_attack
from advutils.budgets.minimum_norm import DUAL, ORDER, Radii, shortest

ATTACKS = {"deepfool": partial(deepfool, steps=5), "fmn": partial(fmn, steps=10)}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
both_norms = pytest.mark.parametrize("norm", ["l2", "linf"])


def distance(x_adv, x, norm):
    return torch.linalg.vector_norm((x_adv - x).flatten(1).double(), ORDER[norm], dim=1)


def smallest_linf(w, gap, x):
    """The least t with w @ d >= gap, -t <= d <= t and 0 <= x + d <= 1."""
    one, t, none = np.eye(len(w)), np.ones((len(w), 1)), np.zeros(2 * len(w))
    sides = np.block([[one, -t], [-one, -t], [-w, np.zeros(1)]])
    done = linprog([*np.zeros(len(w)), 1.0], sides, [*none, -gap], bounds=[*zip(-x, 1 - x), (0, None)])
    assert done.success
    return done.fun


def smallest_l2(w, gap, x):
    """The least length of a d with w @ d >= gap and 0 <= x + d <= 1."""
    plane = dict(type="ineq", fun=lambda d: w @ d - gap, jac=lambda d: w)
    done = minimize(
        lambda d: d @ d, np.clip(w * gap / (w @ w), -x, 1 - x), jac=lambda d: 2 * d, constraints=plane,
        bounds=[*zip(-x, 1 - x)], method="SLSQP", options=dict(ftol=1e-12, maxiter=1000),
    )  # fmt: skip
    assert done.success
    return math.sqrt(done.fun)


def smallest(model, x, y, norm):
    """How far an image is from being misread by a linear model: inside [0, 1], by scipy's solvers, and without ends."""
    weight, bias = (p.detach().double().numpy() for p in model[1].parameters())
    x, solve = x.flatten().double().numpy(), dict(linf=smallest_linf, l2=smallest_l2)[norm]
    others = [k for k in range(len(bias)) if k != y]
    planes = [(weight[k] - weight[y], (weight[y] - weight[k]) @ x + bias[y] - bias[k]) for k in others]
    free = [gap / np.linalg.norm(w, DUAL[norm]) for w, gap in planes]
    return min(solve(w, gap, x) for w, gap in planes), min(free)


@functools.cache
def linear_case(norm, clipped):
    """A linear network, images of which it reads ten correctly, and how small a change each of them needs."""
    model, x = linear(4), images(10) if clipped else grey_images(10)[0]
    y = read_as(model, x)
    boxed, free = zip(*(smallest(model, *pair, norm) for pair in zip(x, y)))
    return model, x, y, *(torch.tensor(each, dtype=torch.float64) for each in (boxed, free))


@both_norms
def test_on_a_linear_network_one_step_of_deepfool_is_the_distance_to_the_nearest_plane(norm):
    model, x, y, boxed, free = linear_case(norm, clipped=False)
    torch.testing.assert_close(boxed, free, rtol=1e-5, atol=1e-6)  # nothing is clipped, and the solvers agree
    x_adv = deepfool(model, x, y, norm=norm, steps=1)
    torch.testing.assert_close(distance(x_adv, x, norm), 1.02 * free, rtol=1e-3, atol=1e-6)
    assert (leads(model, x_adv, y) > 0).all()


@both_norms
def test_at_the_ends_of_the_range_a_step_of_deepfool_is_still_the_smallest(norm):
    model, x, y, boxed, free = linear_case(norm, clipped=True)
    assert (boxed > 1.04 * free).sum() >= 3  # it matters
    x_adv = deepfool(model, x, y, norm=norm, steps=3)
    found = distance(x_adv, x, norm)
    assert (leads(model, x_adv, y) > 0).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    assert (found > boxed * (1 - 1e-5)).all() and (found < 1.021 * boxed).all()


@both_norms
@pytest.mark.parametrize("attack", [partial(deepfool, steps=1), fmn], ids=["deepfool", "fmn"])
def test_a_plane_outside_the_range_is_none_however_near_its_room_ends(attack, norm):
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)), torch.tensor([[[[0.95, 0.5]]]]), torch.tensor([0])
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        model[1].bias.copy_(torch.tensor([0.0, -2.0, -0.8]))  # class 1 would need a first pixel of 2
    x_adv = attack(model, x, y, norm=norm)
    assert read_as(model, x_adv) == 2 and 0.3 < distance(x_adv, x, norm) <= 1.021 * 0.3
    assert attack is fmn or x_adv[0, 0, 0, 0] == x[0, 0, 0, 0]  # one step of DeepFool goes straight there


@both_norms
@pytest.mark.parametrize("clipped", [False, True])
def test_on_a_linear_network_fmn_comes_within_two_percent_of_the_smallest_change(norm, clipped):
    model, x, y, boxed, _ = linear_case(norm, clipped)
    x_adv = fmn(model, x, y, norm=norm)
    found = distance(x_adv, x, norm)
    assert (leads(model, x_adv, y) > 0).all()
    assert (found > boxed * (1 - 1e-5)).all() and (found < 1.02 * boxed).all()


@both_norms
@few
@given(seed=st.integers(0, 2**16), share=st.floats(0, 0.99))
def test_the_shortest_step_climbs_by_what_it_was_asked_for_and_stays_in_the_range(norm, seed, share):
    slope, x = torch.randn(5, 1, 8, 8, generator=seeded(seed)).double(), images(5, seed=seed).double()
    most = (slope.clamp(min=0) * (1 - x) - slope.clamp(max=0) * x).sum((1, 2, 3))
    step = shortest(slope, share * most, x, norm)
    torch.testing.assert_close((slope * step).sum((1, 2, 3)), share * most, rtol=1e-9, atol=1e-9)
    assert (x + step).min() >= -1e-12 and (x + step).max() <= 1 + 1e-12
    beyond = shortest(slope, 2 * most, x, norm)
    torch.testing.assert_close(x + beyond, (slope > 0).double())


def of_foolbox(attack, model, x, y):
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(wrapped, x, foolbox.criteria.Misclassification(y))


def of_torchattacks(attack, model, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attack(model, steps=20)(x, y)


def of_art(model, x, y):
    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1))
    found = DeepFool(wrapped, max_iter=20, batch_size=60, verbose=False).generate(x.numpy())
    return torch.from_numpy(found)


PEERS = {
    "foolbox's DDN": ("fmn", "l2", partial(of_foolbox, foolbox.attacks.DDNAttack(steps=100))),
    "foolbox's FMN": ("fmn", "l2", partial(of_foolbox, foolbox.attacks.L2FMNAttack(steps=100))),
    "foolbox's FMN, linf": ("fmn", "linf", partial(of_foolbox, foolbox.attacks.LInfFMNAttack(steps=100))),
    "foolbox's DeepFool": ("deepfool", "l2", partial(of_foolbox, foolbox.attacks.L2DeepFoolAttack(steps=20))),
    "foolbox's DeepFool, linf": ("deepfool", "linf", partial(of_foolbox, foolbox.attacks.LinfDeepFoolAttack(steps=20))),
    "torchattacks' DeepFool": ("deepfool", "l2", partial(of_torchattacks, torchattacks.DeepFool)),
    "ART's DeepFool": ("deepfool", "l2", of_art),
}


def measured(attack, norm):
    """The median of the radii over the digits that are read correctly, and the passes of an image."""
    model, x, y = small_net_and_digits()

    @as_attack(norm=norm)
    def wrapped(model, x, y):
        return attack(model, x, y).detach().clamp(0, 1)

    with ledger(model) as passes:
        found = minimum_norm(model, make_loader(TensorDataset(x, y), batch_size=60), wrapped).radii
    return found[found > 0].median().item(), (passes.forwards + passes.backwards) / len(x)


@functools.cache
def ours(name, norm):
    attack = dict(fmn=partial(fmn, steps=95), deepfool=partial(deepfool, steps=20))[name]
    return measured(partial(attack, norm=norm), norm)  # the step at the beginning of fmn costs as much as five others


@pytest.mark.parametrize("name, norm, theirs", PEERS.values(), ids=PEERS)
def test_ours_finds_changes_as_small_as_other_libraries_in_as_many_passes(name, norm, theirs, record_property):
    (median, passes), (their_median, their_passes) = ours(name, norm), measured(theirs, norm)
    record_property("medians and passes", (median, passes, their_median, their_passes))
    print(f"{name} {norm}: {median:.4f} in {passes:.0f} passes, theirs {their_median:.4f} in {their_passes:.0f}")
    assert median <= 1.02 * their_median
    assert passes <= their_passes or theirs is of_art  # which counts its passes on a copy of the network


@both_norms
def test_a_curve_of_radii_lies_no_higher_than_pgds_at_any_radius(norm):
    model, x, y = small_net_and_digits()
    data = make_loader(TensorDataset(x, y), batch_size=60)
    found = minimum_norm(model, data, partial(fmn, norm=norm))
    eps_values = [found.radii[found.radii > 0].quantile(q).item() for q in (0.1, 0.3, 0.5, 0.7, 0.9)]
    curve = found.accuracy_vs_eps(eps_values)
    assert curve == [wilson(found.radii > eps) for eps in eps_values]
    for ours, theirs in zip(curve, accuracy_vs_eps(model, data, partial(pgd, norm=norm), eps_values)):
        assert ours.value <= theirs.value + 2 / 60


class Brightness(nn.Module):
    """Class 1 where the mean pixel is above one half."""

    def forward(self, x):
        light = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-light, light], 1)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@both_norms
def test_radii_come_in_the_loaders_order_with_0_for_what_is_misread_at_first(norm, batch_size):
    levels = torch.tensor([0.9, 0.4, 0.6, 0.5001, 0.7])
    data = TensorDataset(levels[:, None, None, None].expand(5, 1, 4, 4).clone(), torch.ones(5, dtype=torch.int64))
    model = mixed_modes(nn.Sequential(Brightness(), nn.Linear(2, 2)))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
        model[1].bias.zero_()
    with untouched(model):
        found = minimum_norm(model, make_loader(data, batch_size=batch_size), partial(deepfool, norm=norm))
    assert found.norm == norm and found.radii.dtype == torch.float32
    expected = (levels - 0.5).clamp(min=0) * (4 if norm == "l2" else 1) * 1.02
    torch.testing.assert_close(found.radii, expected, rtol=1e-3, atol=1e-5)


def test_what_no_attack_misleads_has_an_infinite_radius_and_is_left_alone():
    model, (x, _) = linear(), batch(4)
    with torch.no_grad():
        model[1].bias[2] = 1e4
    y = torch.full((4,), 2)
    for attack in ATTACKS.values():
        assert torch.equal(attack(model, x, y), x)
        found = minimum_norm(model, [(x, y)], attack)
        assert found.radii.tolist() == [math.inf] * 4 and found.accuracy_vs_eps([0, 1])[1].value == 1
    assert minimum_norm(model, [(x, y - 1)], fmn).radii.tolist() == [0.0] * 4


def test_an_attack_that_moves_a_misread_image_has_radius_0_and_one_that_fails_infinity():
    @as_attack(norm="l2")
    def moves(model, x, y):
        return x.flip(0)

    model, x = linear(), images(30)
    y = torch.where(torch.arange(30) % 3 == 0, labels(30), read_as(model, x))
    found = minimum_norm(model, [(x, y)], moves).radii
    wrong, fooled = (read_as(model, each) != y for each in (x, x.flip(0)))
    assert wrong.any() and fooled.any() and not (wrong | fooled).all()
    assert (found[wrong] == 0).all() and found[~wrong & ~fooled].isinf().all()
    torch.testing.assert_close(found[~wrong & fooled].double(), distance(x.flip(0), x, "l2")[~wrong & fooled])


@both_norms
def test_what_an_attack_costs_is_counted(norm):
    model, (x, _) = linear(4), batch(6)
    y = read_as(model, x)
    for attack, forwards, backwards in (
        (partial(fmn, steps=7), 8, 10),
        (deepfool, 2, 6),  # a step, and a look at where it has led, each with three slopes
        (partial(deepfool, steps=1), 2, 3),
    ):
        with ledger(model) as passes:
            assert minimum_norm(model, [(x, y)], partial(attack, norm=norm)).radii.isfinite().all()  # all are found
        assert (passes.forwards, passes.backwards) == (6 * (forwards + 2), 6 * backwards)


@every_attack
@both_norms
@pytest.mark.parametrize("channels, size, classes", [(3, 9, 10), (1, 28, 2)])
def test_images_of_any_size_stay_in_the_range(attack, norm, channels, size, classes):
    x, y = batch(5, channels=channels, size=size, classes=classes)
    x_adv = attack(conv_net(channels=channels, size=size, classes=classes), x.requires_grad_(), y, norm=norm)
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32 and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    x_adv.zero_()
    assert x.max() > 0


@every_attack
@both_norms
def test_a_batch_equals_its_images_one_by_one(attack, norm):
    model, (x, y) = conv_net().double(), batch(8)
    together = attack(model, x, y, norm=norm)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], norm=norm) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_attack_leaves_model_images_and_the_callers_mode_untouched(attack, mode):
    model, (x, y) = mixed_modes(conv_net()), batch()
    plain, before = attack(model, x, y), torch.random.get_rng_state()
    with mode(), untouched(model, x):
        assert torch.equal(attack(model, x, y), plain)
        made = x + 0, y + 0
    assert torch.equal(attack(model, *made), plain) and torch.equal(before, torch.random.get_rng_state())


@every_attack
def test_dropout_and_batch_statistics_do_not_reach_into_an_attack(attack):
    model, (x, y) = conv_net(), batch()
    with eval_mode(model):
        quiet = attack(model, x, y)
    assert torch.equal(attack(model.train(), x, y), quiet) and model.training


@every_attack
@table(BAD_IMAGES)
def test_bad_images_are_refused(attack, bad, fragment):
    with refused("x", fragment):
        attack(linear(), bad, Y)
    with refused("loader's images", fragment):
        minimum_norm(linear(), [(bad, Y)], attack)


@every_attack
@table(BAD_MODELS)
def test_bad_models_are_refused(attack, bad, fragment):
    with refused("model", fragment):
        attack(bad, X, Y)
    with refused("model", fragment):
        minimum_norm(bad, [(X, Y)], attack)


REFUSED = {
    "a radius": (lambda attack: attack(linear(), X, Y, eps=0.1), "eps", "0.1"),
    "a radius for accuracy": (lambda attack: accuracy(linear(), loader(), attack, eps=0.1), "eps", "minimum_norm"),
    "another norm": (lambda attack: attack(linear(), X, Y, norm="l1"), "norm", "'l1'"),
    "no steps": (lambda attack: attack(linear(), X, Y, steps=0), "steps", "0"),
    "labels out of range": (lambda attack: attack(linear(), X, Y + 4), "y", "0 to 3"),
    "labels of another kind": (lambda attack: attack(linear(), X, Y.float()), "y", "float32"),
    "a model without a gradient": (lambda attack: attack(NoGradient(), X, Y), "model", "no gradient"),
    "an empty loader": (lambda attack: minimum_norm(linear(), [], attack), "loader", "no images"),
    "an attack that takes eps": (lambda _: minimum_norm(linear(), loader(), pgd), "attack", "pgd, which takes eps"),
    "a name": (lambda _: minimum_norm(linear(), loader(), "fmn"), "attack", "'fmn'"),
    "one eps": (lambda _: Radii(torch.ones(3), "l2").accuracy_vs_eps(0.1), "eps_values", "0.1"),
    "an eps of other units": (lambda _: Radii(torch.ones(3), "linf").accuracy_vs_eps([8]), "eps", "8/255"),
    "images out of the range": (lambda _: minimum_norm(linear(), loader(), leaves), "attack's images", "[0, 1]"),
}


class NoGradient(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return linear()(x)


def leaves(model, x, y):
    return x + 1


@every_attack
@pytest.mark.parametrize("ask, argument, fragment", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(attack, ask, argument, fragment):
    with refused(argument, fragment):
        ask(attack)


def test_a_partial_that_binds_eps_is_measured_by_what_it_finds():
    model, x = linear(2), grey_images(6)[0]
    found = minimum_norm(model, [(x, read_as(model, x))], partial(pgd, eps=0.3, steps=3, random_start=False))
    assert found.norm == "linf" and found.radii.tolist() == pytest.approx([0.3] * 6)
