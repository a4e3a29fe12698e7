"""The words of a refusal, and what is no reason for one."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from helpers import ATTACKS, batch, images, linear, refused
from torch.utils.data import DataLoader

from advutils import accuracy, accuracy_vs_eps, checklist, fgsm, fit, pgd
from advutils.utils import validation
from advutils.utils.hashes import image_hashes

X, Y = batch(3)


@pytest.mark.parametrize("check, values", [
    (validation.eps, [0, 1, 8 / 255, Fraction(8, 255), np.float32(0.25), np.int64(1)]),
    (partial(validation.share, name="average"), [0, 1, 0.999, Fraction(1, 3), np.float32(0.5)]),
    (partial(validation.positive, name="lr"), [1e-9, 3, 0.1, np.float32(2)]),
    (partial(validation.count, name="n"), [1, 7, np.int64(3)]),
])  # fmt: skip
def test_numbers_of_every_kind_become_pythons_own(check, values):
    kind = int if getattr(check, "func", None) is validation.count else float
    for value in values:
        assert check(value) == kind(value) and type(check(value)) is kind
    assert validation.count(0, "n", least=0) == 0


def test_an_l2_radius_may_be_any_length_of_which_float32_has_a_square():
    for value in (0, 1, 1.5, 255, np.float32(30), 1e6):
        assert validation.eps(value, norm="l2") == float(value)
        x_adv = pgd(linear(), X, Y, eps=value, norm="l2", steps=2, random_start=False)
        assert torch.equal(x_adv, X) == (value == 0)
    for bad in (-1e-9, float("nan"), float("inf"), 1e7, 1e30):
        with refused("radius", "finite"):
            validation.eps(bad, "radius", norm="l2")
    for step in (1e7, 1e30):
        with refused("step_size", "at most 1,000,000"):
            pgd(linear(), X, Y, eps=1, norm="l2", step_size=step)
    with refused("eps", "1.5"):
        validation.eps(1.5)
    with refused("norm", "'l1'"):
        validation.eps(0.1, norm="l1")


def test_a_refusal_names_argument_input_and_remedy():
    with refused("eps", "got 8;", "0 to 1", "8/255"):
        validation.eps(8)
    with refused("radius", "-1"):
        validation.eps(-1, "radius")
    with refused("pictures", "torch.uint8", "/ 255"):
        validation.images((X * 255).byte(), "pictures")
    with refused("targets", "(2,)", "(3,)"):
        validation.labels(Y[:2], X, "targets")
    for value, hint in ((16, True), (255, True), (256, False), (-0.5, False), (float("nan"), False)):
        with pytest.raises(ValueError) as caught:
            validation.eps(value)
        assert ("/255" in str(caught.value)) == hint  # only where it may be a grey level


def test_logits_may_look_a_little_like_probabilities():
    validation.logits(torch.tensor([[0.5, 0.5], [0.7, 0.4]]), 2)  # not every row sums to 1
    validation.logits(torch.tensor([[1.5, -0.5], [2.0, -1.0]]), 2)  # sums of 1, a negative entry
    validation.logits(torch.zeros(2, 3), 2)
    with refused("model", "probabilities"):
        validation.logits(torch.tensor([[0.5, 0.5], [0.7, 0.3]]), 2)
    with refused("model", "one logit", "K >= 2"):
        validation.logits(torch.randn(3, 1), 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_in_half_precision_are_refused_too(dtype):
    for seed in range(20):
        z = torch.randn(8, 1000, generator=torch.Generator().manual_seed(seed))
        with refused("model", "probabilities"):
            validation.logits(z.softmax(1).to(dtype).float(), 8)
        validation.logits(z.log_softmax(1).to(dtype).float(), 8)


def test_a_rounding_beyond_the_ends_is_the_end_and_more_is_refused_with_its_digits():
    x = X.clone()
    for value in (-3e-8, 1 + 1.2e-7, -1e-6 + 1e-9):
        x[0, 0, 0, 0] = value
        for attack in ATTACKS.values():
            x_adv = attack(linear(), x, Y, eps=0.1)
            assert x_adv.min() >= 0 and x_adv.max() <= 1
    for value, shown in ((-2e-6, "-2e-06"), (1 + 3e-6, "1.000003")):
        x[0, 0, 0, 0] = value
        with refused("x", shown):
            validation.images(x)


BATCHES = {"3 parts": [(X, Y, Y)], "a dict of 'image', 'label'": [{"image": X, "label": Y}], "Tensor": [X]}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_another_kind_are_refused_by_name(name):
    for measure in (accuracy, partial(accuracy_vs_eps, attack=fgsm, eps_values=[0.1]), partial(checklist, eps=0.1)):
        with refused("loader", name):
            measure(linear(), BATCHES[name])
    if name != "Tensor":
        examples = [(a, b, b) if name == "3 parts" else {"image": a, "label": b} for a, b in zip(X, Y)]
        batches = DataLoader(examples, batch_size=4)
        with refused("loader", name):
            fit(linear(), batches, batches, epochs=1, lr=0.1, progress=False)


def test_a_key_depends_on_the_image_alone_and_tells_images_apart():
    x, before = images(500, size=6), torch.random.get_rng_state()
    x = torch.cat([x, x[:1].flip(2), x[:1].flip(3), x[:1].transpose(2, 3)])
    keys = image_hashes(x)
    assert keys.dtype == torch.int64 and len(keys.unique()) == 503
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.cat([image_hashes(image[None]) for image in x[:8]]), keys[:8])


def test_keys_are_the_same_on_every_machine_and_in_every_version():
    """Weights on disk carry the keys of what they were trained on: keys that change make that record worthless."""
    x = (torch.arange(12).view(3, 1, 2, 2) * 20 / 255).clamp(0, 1)
    assert image_hashes(x).tolist() == [1979571412100864604, 724330641260323756, -530910129580217092]
