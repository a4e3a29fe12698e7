"""The words of a refusal, and what is no reason for one."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import batch, dataset, images, linear, refused
from torch import nn

from advutils import checks
from advutils.models import image_keys

X, Y = batch(3)


def test_good_input_passes_in_silence():
    assert checks.images(X) is None and checks.labels(Y, X) is None
    assert checks.model(linear(), X) is None and checks.logits(linear()(X), len(Y)) is None
    assert checks.images(torch.zeros(1, 1, 1, 1)) is None and checks.images(torch.ones(2, 3, 5, 4)) is None


@pytest.mark.parametrize(
    "value", [0, 1, 0.1, 8 / 255, Fraction(8, 255), np.float32(0.25), np.float64(0.3), np.int64(1)]
)
def test_any_real_number_from_0_to_1_is_an_eps(value):
    assert checks.eps(value) == float(value) and type(checks.eps(value)) is float


def test_an_l2_radius_may_be_any_finite_length():
    for value in (0, 1, 1.5, 255, np.float32(30)):
        assert checks.eps(value, norm="l2") == float(value)
    for bad in (-1e-9, float("nan"), float("inf")):
        with refused("radius", "finite"):
            checks.eps(bad, "radius", norm="l2")
    with refused("eps", "1.5"):
        checks.eps(1.5)
    with refused("norm", "'l1'"):
        checks.eps(0.1, norm="l1")


@pytest.mark.parametrize("value", [0, 1, 0.999, Fraction(1, 3), np.float32(0.5)])
def test_numbers_from_0_to_1_are_shares(value):
    assert checks.share(value, "average") == float(value) and type(checks.share(value, "average")) is float


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True, [0.5]])
def test_what_is_no_share_is_refused(bad):
    with refused("average", "0 to 1"):
        checks.share(bad, "average")


def test_a_refusal_names_argument_input_and_remedy():
    with refused("eps", "got 8;", "0 to 1", "8/255"):
        checks.eps(8)
    with refused("radius", "-1"):
        checks.eps(-1, "radius")
    with refused("pictures", "torch.uint8", "/ 255"):
        checks.images((X * 255).byte(), "pictures")
    with refused("targets", "(2,)", "(3,)"):
        checks.labels(Y[:2], X, "targets")


def test_a_grey_level_hint_is_given_only_where_it_may_be_one():
    for value, hint in ((16, True), (255, True), (256, False), (-0.5, False), (float("nan"), False)):
        with pytest.raises(ValueError) as caught:
            checks.eps(value)
        assert ("/255" in str(caught.value)) == hint


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_count(value):
    assert checks.count(value, "n") == value and type(checks.count(value, "n")) is int
    assert checks.count(0, "n", least=0) == 0


@pytest.mark.parametrize("value", [1e-9, 3, 0.1, np.float32(2)])
def test_numbers_above_zero_are_positive(value):
    assert checks.positive(value, "lr") == float(value)


def test_logits_may_look_a_little_like_probabilities():
    checks.logits(torch.tensor([[0.5, 0.5], [0.7, 0.4]]), 2)  # not every row sums to 1
    checks.logits(torch.tensor([[1.5, -0.5], [2.0, -1.0]]), 2)  # sums of 1, a negative entry
    checks.logits(torch.zeros(2, 3), 2)
    with refused("model", "probabilities"):
        checks.logits(torch.tensor([[0.5, 0.5], [0.7, 0.3]]), 2)


def test_a_model_without_weights_has_no_device_to_be_wrong_about():
    assert checks.device_of(nn.Flatten()) is None and checks.model(nn.Flatten(), X) is None
    assert checks.device_of(linear()) == torch.device("cpu")
    assert checks.device_of(nn.BatchNorm2d(3, affine=False)) == torch.device("cpu")


def test_a_key_tells_images_apart():
    x = images(500, size=6)
    x = torch.cat([x, x[:1].flip(2), x[:1].flip(3), x[:1].transpose(2, 3)])
    keys = image_keys(x)
    assert keys.shape == (503,) and keys.dtype == torch.int64 and len(keys.unique()) == 503


def test_a_key_depends_on_the_image_alone():
    x = images(8)
    before = torch.random.get_rng_state()
    keys = image_keys(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.cat([image_keys(image[None]) for image in x]), keys)
    assert torch.equal(image_keys(x.flip(0)), keys.flip(0))


def test_keys_are_the_same_on_every_machine_and_in_every_version():
    """Weights on disk carry the keys of what they were trained on: keys that change make that record worthless."""
    x = (torch.arange(12).view(3, 1, 2, 2) * 20 / 255).clamp(0, 1)
    assert image_keys(x).tolist() == [1979571412100864604, 724330641260323756, -530910129580217092]


def test_seen_images_are_counted_as_a_share():
    keys = torch.arange(1000)
    checks.unseen(keys, torch.arange(995, 2000))
    with refused("loader", "6 images (of 1000)", "mnist-5k"):
        checks.unseen(keys, torch.arange(994, 2000))
    with refused("loader", "1 images (of 1)"):
        checks.unseen(keys[:1], keys)


def test_the_helpers_data_is_good_data():
    x, y = dataset(5).tensors
    checks.images(x)
    checks.labels(y, x)
    assert x.min() == 0 and x.max() == 1
