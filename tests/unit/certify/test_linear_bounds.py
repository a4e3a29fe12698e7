"""CROWN: nothing goes below its bounds, which are never below the intervals' and exact where no ReLU is relaxed."""

import copy
from functools import partial

import pytest
import torch
from bad_input import BAD_EPS, BAD_IMAGES, table
from bound_propagation import BoundModelFactory, HyperRectangle
from helpers import batch, conv_net, digits, images, refused, untouched
from hypothesis import given, settings
from hypothesis import strategies as st
from test_certify import BAD, CORNERS, MIDDLES, classifier, drawn, inside, networks
from torch import nn
from torch.utils.data import TensorDataset

from advutils import (
    Contrast,
    Normalize,
    accuracy,
    certified,
    crown_bounds,
    fit,
    fuse_batch_norm,
    initialised,
    ledger,
    linear_bounds,
    make_loader,
    margin_bounds,
    pgd,
    strided_cnn,
)  # fmt: skip
from advutils.certify import proven


@settings(max_examples=60)
@given(networks, st.sampled_from([0.0, 1e-7, 0.01, 0.1, 1.0]), st.sampled_from([(0.3, 1), (1, 1e5), (300, 1)]))
def test_nothing_goes_below_the_bounds(network, eps, sizes):
    """Not by the last bit: of the network in single and double precision, folded, and in another memory format.

    Climbing the slopes leaves none of the bounds lower.
    """
    model, x = classifier(*network, *sizes), images(1, channels=2, size=6, seed=network[2])[:, :, :5]
    labels = [torch.tensor([k]) for k in range(3)]
    margins = torch.cat([crown_bounds(model, x, y, eps=eps, steps=3) for y in labels])
    assert (margins >= torch.cat([crown_bounds(model, x, y, eps=eps) for y in labels])).all()
    assert (margins >= torch.cat([margin_bounds(model, x, y, eps=eps) for y in labels])).all()
    lower, upper = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    double, other = copy.deepcopy(model).double(), copy.deepcopy(model).to(memory_format=torch.channels_last)
    for point in inside(model, lower, upper, network[2]):
        point = point.clamp(lower, upper)
        for z in (model(point.clone()), fuse_batch_norm(model)(point.clone()), double(point.double()), other(point)):
            assert (margins <= z[:, :, None] - z[:, None]).all()


@pytest.mark.parametrize("eps, share, climbed", [(0.02, 0.05, 0.9), (0.1, 0.15, 0.8), (0.3, 0.35, 0.8)])
def test_what_the_bounds_gain_stays_below_the_truth(eps, share, climbed):
    """Points from all of a small box: no margin is below the bounds, which lose a part of what intervals lose."""
    x, y, lost = images(1, channels=2, size=2), torch.tensor([1]), torch.zeros(3)
    lower, upper = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    points = lower + (upper - lower) * torch.cat([CORNERS, torch.rand(2000, 2, 2, 2)])
    for seed in range(40):
        layers = [nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)]
        model = drawn([nn.Flatten(), *layers], seed, 0.7)
        z = model(points)
        truth = (z[:, [1]] - z).amin(0)
        tried = (crown_bounds, margin_bounds, partial(crown_bounds, steps=10))
        found = torch.cat([bounds(model, x, y, eps=eps) for bounds in tried])
        assert (found <= truth).all()
        lost += (truth - found).sum(1)
    assert lost[0] < share * lost[1] and lost[2] < climbed * lost[0], lost


AFFINE = [name for name in MIDDLES if "max" not in name]


@pytest.mark.parametrize("name", AFFINE)
def test_the_bounds_are_exact_where_every_relu_is_stable(name):
    """Biases decide the sign of every feature, so the network is affine in the box, and a corner is the worst point."""
    middle = MIDDLES[name](2)
    width = nn.Sequential(*middle, nn.Flatten()).eval()(torch.zeros(1, 2, 2, 2)).shape[1]
    end = [nn.Linear(width, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)]
    model = drawn([*middle, nn.Flatten(), *end], seed=3, bias=100)
    x, y = 0.3 + 0.4 * images(1, channels=2, size=2), torch.tensor([1])
    z = model(x - 0.05 + 0.1 * CORNERS)
    truth, scale = (z[:, [1]] - z).amin(0), z.abs().max()
    lost = [(truth - bounds(model, x, y, eps=0.05)[0]).max() / scale for bounds in (crown_bounds, margin_bounds)]
    assert 0 <= lost[0] < 1e-4 and lost[1] > 3e-4, lost  # the room for the rounding of these large terms is left


@pytest.mark.parametrize(
    "bias, weights, bound, looser, climbed",
    [  # a pixel p from 0.2 to 0.8, h = relu(2 p + bias) and p itself, which is never negative: by hand
        (-0.9, (1, -1), -0.7, -0.8, -0.45),  # h - p, h >= 2 p - 0.9: p - 0.9 at p = 0.2; intervals: 0 - 0.8
        (-1.1, (1, -1), -0.8, -0.8, -0.55),  # h - p, h >= 0, as the box of h, -0.7 to 0.5, reaches further down
        (-0.9, (-1, 1), 0.1, -0.5, 0.1),  # p - h, h <= 7/12 (2 p - 0.4): (1.4 - p) / 6 at p = 0.8; intervals: 0.2 - 0.7
        (0.1, (-1, 1), -0.9, -1.5, -0.9),  # p - h, h = 2 p + 0.1 in all the box
    ],
)
def test_one_relu_by_hand(bias, weights, bound, looser, climbed):
    """The best slope of the first two is 1/2, where h - p is at least bias / 2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[1].weight.data, model[1].bias.data = torch.tensor([[2.0], [1.0]]), torch.tensor([bias, 0.0])
    model[3].weight.data = torch.tensor([weights, (0, 0)], dtype=torch.float32)
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    assert crown_bounds(model, x, y, eps=0.3)[0, 1].item() == pytest.approx(bound, abs=5e-5)
    assert margin_bounds(model, x, y, eps=0.3)[0, 1].item() == pytest.approx(looser, abs=5e-5)
    assert crown_bounds(model, x, y, eps=0.3, steps=30)[0, 1].item() == pytest.approx(climbed, abs=5e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_another_library_finds_the_same_bounds():
    """Ours may be above its, as ours are bounds at every layer; at this radius none of these is better."""
    layers = drawn([nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 5)], seed=2)
    differences = nn.Linear(5, 5, bias=False)
    differences.weight.data = (torch.eye(5)[2] - torch.eye(5)).detach()
    theirs = BoundModelFactory(adaptive_relu=True).build(nn.Sequential(*copy.deepcopy(layers), differences))
    model = nn.Sequential(nn.Flatten(), *layers)
    x, y = 0.3 + 0.4 * torch.rand(20, 1, 3, 4, generator=torch.Generator().manual_seed(0)), torch.full((20,), 2)
    for eps in (0.005, 0.3):
        region = HyperRectangle(x.flatten(1) - eps, x.flatten(1) + eps)
        other = theirs.crown(region).concretize().lower.detach()
        ours, intervals = (bound(model, x, y, eps=eps) for bound in (crown_bounds, margin_bounds))
        assert (ours >= other - 1e-3 - 1e-4 * other.abs()).all()
        if eps < 0.1:
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-3)
            assert (ours - intervals).max() > 0.1
        else:  # what a layer between the first and the last proves is above both
            assert (ours > torch.maximum(other, intervals) + 0.1).any()


def test_max_pooling_of_single_features_and_wide_layers(monkeypatch):
    """Pooling to the size that is there changes nothing; a layer that is too wide keeps its intervals."""
    model, (x, y) = initialised(strided_cnn, seed=0).eval(), digits(4)
    alone = nn.Sequential(*[layer for layer in model if not isinstance(layer, nn.AdaptiveMaxPool2d)])
    bounds = crown_bounds(model, x, y, eps=0.02)
    torch.testing.assert_close(bounds, crown_bounds(alone, x, y, eps=0.02), rtol=0, atol=1e-5)
    monkeypatch.setattr(linear_bounds, "MOST", 10)
    rough = crown_bounds(model, x, y, eps=0.02)
    others = torch.arange(10) != y[:, None]
    assert (rough[others] < bounds[others]).all() and (rough >= margin_bounds(model, x, y, eps=0.02)).all()
    contrast = nn.Sequential(Contrast(5), *alone[1:])  # the way backward ends there, at boxes that are exact
    first, z = crown_bounds(contrast, x, y, eps=0.02), contrast((x + 0.02).clamp(0, 1))
    assert (first <= z.gather(1, y[:, None]) - z).all()
    assert (first > margin_bounds(contrast, x, y, eps=0.02) + 0.01)[others].all()


def test_a_relu_behind_max_pooling_keeps_its_intervals():
    """The way backward from there ends at once; the last layers still gain."""
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()]
    model = drawn([*layers, nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)], seed=0)
    x, y = images(2, size=6), torch.tensor([0, 2])
    gain = crown_bounds(model, x, y, eps=0.1) - margin_bounds(model, x, y, eps=0.1)
    assert (gain >= 0).all() and gain.max() > 0.01


@pytest.fixture(scope="module")
def plain():
    """A small network of ordinary training, with batch norm, and 40 digits that it did not see."""
    layers = [Normalize(), nn.Conv2d(1, 6, 4, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 4, stride=2)]
    model = initialised(lambda: nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(200, 10)), seed=0)
    train, val = (make_loader(TensorDataset(*digits(n, train=n > 100)), batch_size=50) for n in (1200, 100))
    fit(model, train, val, epochs=4, lr=0.005, progress=False)
    return model.eval(), *digits(40, train=False)


def test_no_attack_breaks_a_proof_and_there_are_more_proofs(plain):
    model, x, y = plain
    for eps in (0.01, 0.02, 0.1):
        sure = proven(model, x, y, eps=eps, bounds=crown_bounds)
        x_adv = pgd(model, x[sure], y[sure], eps=eps, steps=20, restarts=3)
        assert (model(x_adv).argmax(1) == y[sure]).all()
        share = certified(model, [(x, y)], eps=eps, bounds=crown_bounds).value
        assert share == pytest.approx(sure.float().mean().item())
        assert share <= accuracy(model, [(x, y)], pgd, eps=eps).value
        gained = share - certified(model, [(x, y)], eps=eps).value
        assert gained >= 0 and (eps != 0.02 or gained > 0.3), gained


def test_each_image_has_its_own_radius_and_nothing_else_changes(plain):
    model, x, y = plain
    model, x, y = copy.deepcopy(model).train(), x[:3], y[:3]
    radii = torch.tensor([0.0, 0.01, 0.1]).view(-1, 1, 1, 1)
    with untouched(model, x, y), ledger(model) as passes:
        together = crown_bounds(model, x, y, eps=radii, steps=2)
    assert (passes.forwards, passes.backwards) == (6, 0) and not together.requires_grad and model.training
    for i, eps in enumerate(radii.flatten().tolist()):
        alone = crown_bounds(model, x[[i]], y[[i]], eps=eps, steps=2)
        torch.testing.assert_close(together[[i]], alone, rtol=1e-4, atol=1e-4)
    assert (together.gather(1, y[:, None]) == 0).all()


@table(BAD)
def test_other_networks_are_refused(bad, fragment):
    with refused("model", fragment):
        crown_bounds(bad(), *batch(3), eps=0.1)


@table(BAD_IMAGES)
def test_bad_images_are_refused(bad, fragment):
    with refused("x", fragment):
        crown_bounds(conv_net(), bad, batch(3)[1], eps=0.1)


@table({name: bad for name, bad in BAD_EPS.items() if name != "a tensor"})
def test_a_bad_radius_is_refused(bad, fragment):
    with refused("eps", fragment):
        crown_bounds(conv_net(), *batch(3), eps=bad)


def test_other_bad_arguments_are_refused():
    x, y = batch(3)
    for dtype in (torch.float64, torch.float16):
        with refused("model", str(dtype)):
            crown_bounds(conv_net().to(dtype), x, y, eps=0.1)
    for steps in (-1, 1.5, "20", True):
        with refused("steps", "whole number"):
            crown_bounds(conv_net(), x, y, eps=0.1, steps=steps)
    for bound in ("crown", None):
        with refused("bounds", repr(bound)):
            certified(conv_net(), [(x, y)], eps=0.1, bounds=bound)
