"""The words of a refusal, and what is no reason for one."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from helpers import ATTACKS, batch, dataset, images, labels, linear, refused
from torch import nn
from torch.utils.data import DataLoader

from advutils import accuracy, accuracy_vs_eps, checklist, fgsm, fit
from advutils.utils import validation
from advutils.utils.hashes import image_hashes

X, Y = batch(3)


def test_good_input_passes_in_silence():
    assert validation.images(X) is None and validation.labels(Y, X) is None
    assert validation.model(linear(), X) is None and validation.logits(linear()(X), len(Y)) is None
    assert validation.images(torch.zeros(1, 1, 1, 1)) is None and validation.images(torch.ones(2, 3, 5, 4)) is None


@pytest.mark.parametrize(
    "value", [0, 1, 0.1, 8 / 255, Fraction(8, 255), np.float32(0.25), np.float64(0.3), np.int64(1)]
)
def test_any_real_number_from_0_to_1_is_an_eps(value):
    assert validation.eps(value) == float(value) and type(validation.eps(value)) is float


def test_an_l2_radius_may_be_any_finite_length():
    for value in (0, 1, 1.5, 255, np.float32(30)):
        assert validation.eps(value, norm="l2") == float(value)
    for bad in (-1e-9, float("nan"), float("inf")):
        with refused("radius", "finite"):
            validation.eps(bad, "radius", norm="l2")
    with refused("eps", "1.5"):
        validation.eps(1.5)
    with refused("norm", "'l1'"):
        validation.eps(0.1, norm="l1")


@pytest.mark.parametrize("value", [0, 1, 0.999, Fraction(1, 3), np.float32(0.5)])
def test_numbers_from_0_to_1_are_shares(value):
    assert validation.share(value, "average") == float(value) and type(validation.share(value, "average")) is float


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True, [0.5]])
def test_what_is_no_share_is_refused(bad):
    with refused("average", "0 to 1"):
        validation.share(bad, "average")


def test_a_refusal_names_argument_input_and_remedy():
    with refused("eps", "got 8;", "0 to 1", "8/255"):
        validation.eps(8)
    with refused("radius", "-1"):
        validation.eps(-1, "radius")
    with refused("pictures", "torch.uint8", "/ 255"):
        validation.images((X * 255).byte(), "pictures")
    with refused("targets", "(2,)", "(3,)"):
        validation.labels(Y[:2], X, "targets")


def test_a_grey_level_hint_is_given_only_where_it_may_be_one():
    for value, hint in ((16, True), (255, True), (256, False), (-0.5, False), (float("nan"), False)):
        with pytest.raises(ValueError) as caught:
            validation.eps(value)
        assert ("/255" in str(caught.value)) == hint


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_count(value):
    assert validation.count(value, "n") == value and type(validation.count(value, "n")) is int
    assert validation.count(0, "n", least=0) == 0


@pytest.mark.parametrize("value", [1e-9, 3, 0.1, np.float32(2)])
def test_numbers_above_zero_are_positive(value):
    assert validation.positive(value, "lr") == float(value)


def test_logits_may_look_a_little_like_probabilities():
    validation.logits(torch.tensor([[0.5, 0.5], [0.7, 0.4]]), 2)  # not every row sums to 1
    validation.logits(torch.tensor([[1.5, -0.5], [2.0, -1.0]]), 2)  # sums of 1, a negative entry
    validation.logits(torch.zeros(2, 3), 2)
    with refused("model", "probabilities"):
        validation.logits(torch.tensor([[0.5, 0.5], [0.7, 0.3]]), 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_in_half_precision_are_refused_too(dtype):
    for seed in range(20):
        z = torch.randn(8, 1000, generator=torch.Generator().manual_seed(seed))
        with refused("model", "probabilities"):
            validation.logits(z.softmax(1).to(dtype).float(), 8)
        validation.logits(z.log_softmax(1).to(dtype).float(), 8)


def test_one_logit_is_no_choice():
    with refused("model", "one logit", "K >= 2"):
        validation.logits(torch.randn(3, 1), 3)


@pytest.mark.parametrize("value", [-3e-8, 1 + 1.2e-7, -1e-6 + 1e-9])
def test_a_rounding_beyond_the_ends_is_the_end(value):
    x = X.clone()
    x[0, 0, 0, 0] = value
    validation.images(x)
    for attack in ATTACKS.values():
        x_adv = attack(linear(), x, Y, eps=0.1)
        assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("value, shown", [(-2e-6, "-2e-06"), (1 + 3e-6, "1.000003")])
def test_a_value_beyond_the_ends_is_shown_with_its_digits(value, shown):
    x = X.clone()
    x[0, 0, 0, 0] = value
    with refused("x", shown):
        validation.images(x)


BATCHES = {
    "3 parts": [(X, Y, Y)],
    "a dict of 'image', 'label'": [{"image": X, "label": Y}],
    "Tensor": [X],
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_another_kind_are_refused_by_name(name):
    for measure in (accuracy, partial(accuracy_vs_eps, attack=fgsm, eps_values=[0.1]), partial(checklist, eps=0.1)):
        with refused("loader", name):
            measure(linear(), BATCHES[name])


def test_images_and_labels_of_other_batches_are_one_line_away():
    batches = BATCHES["a dict of 'image', 'label'"]
    assert accuracy(linear(), [(batch["image"], batch["label"]) for batch in batches]).n == len(X)


@pytest.mark.parametrize("name", ["three", "dict"])
def test_a_data_set_of_other_examples_is_refused_by_fit(name):
    x, y = images(8), labels(8)
    data = [(a, b, b) if name == "three" else {"x": a, "y": b} for a, b in zip(x, y)]
    batches = DataLoader(data, batch_size=4)
    with refused("loader", "3 parts" if name == "three" else "a dict of 'x', 'y'"):
        fit(linear(), batches, batches, epochs=1, lr=0.1, progress=False)


def test_a_model_without_weights_has_no_device_to_be_wrong_about():
    assert validation.device_of(nn.Flatten()) is None and validation.model(nn.Flatten(), X) is None
    assert validation.device_of(linear()) == torch.device("cpu")
    assert validation.device_of(nn.BatchNorm2d(3, affine=False)) == torch.device("cpu")


def test_a_key_tells_images_apart():
    x = images(500, size=6)
    x = torch.cat([x, x[:1].flip(2), x[:1].flip(3), x[:1].transpose(2, 3)])
    keys = image_hashes(x)
    assert keys.shape == (503,) and keys.dtype == torch.int64 and len(keys.unique()) == 503


def test_a_key_depends_on_the_image_alone():
    x = images(8)
    before = torch.random.get_rng_state()
    keys = image_hashes(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.cat([image_hashes(image[None]) for image in x]), keys)
    assert torch.equal(image_hashes(x.flip(0)), keys.flip(0))


def test_keys_are_the_same_on_every_machine_and_in_every_version():
    """Weights on disk carry the keys of what they were trained on: keys that change make that record worthless."""
    x = (torch.arange(12).view(3, 1, 2, 2) * 20 / 255).clamp(0, 1)
    assert image_hashes(x).tolist() == [1979571412100864604, 724330641260323756, -530910129580217092]


def test_seen_images_are_counted_as_a_share():
    keys = torch.arange(1000)
    validation.unseen(keys, torch.arange(995, 2000))
    with refused("loader", "6 images (of 1000)", "mnist-5k"):
        validation.unseen(keys, torch.arange(994, 2000))
    with refused("loader", "1 images (of 1)"):
        validation.unseen(keys[:1], keys)


def test_the_helpers_data_is_good_data():
    x, y = dataset(5).tensors
    validation.images(x)
    validation.labels(y, x)
    assert x.min() == 0 and x.max() == 1
