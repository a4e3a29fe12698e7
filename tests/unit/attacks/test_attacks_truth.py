"""Attacks against truths that owe nothing to this package: closed forms, foolbox, torchattacks."""

import functools
import warnings

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from helpers import clear, images, in_ball, in_l2_ball, labels, linear, small_net_and_digits
from scipy.special import log_softmax, softmax
from torch import nn

from advutils import fgsm, input_gradient, pgd, project, random_noise


def closed_form(model, x, y):
    """d CE / d x = W^T (p - onehot(y)) for logits W x + b, in double precision and without autograd."""
    weight, bias = (p.detach().double().numpy() for p in model[1].parameters())
    p = softmax(x.flatten(1).double().numpy() @ weight.T + bias, axis=1)
    p[np.arange(len(y)), y.numpy()] -= 1
    return torch.from_numpy(p @ weight).view_as(x)


def losses(model, x, y):
    with torch.no_grad():
        z = model(x).double().numpy()
    return torch.from_numpy(-log_softmax(z, axis=1)[np.arange(len(y)), y.numpy()])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_gradient_of_a_linear_model_is_the_closed_form(classes):
    model, x, y = linear(classes, channels=3), images(9, channels=3), labels(9, classes)
    torch.testing.assert_close(input_gradient(model, x, y).double(), closed_form(model, x, y), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.6])
def test_fgsm_on_a_linear_model_is_the_closed_form(classes, eps):
    model, x, y = linear(classes), images(9), labels(9, classes)
    gradient = closed_form(model, x, y)
    expected = np.clip(x.double().numpy() + eps * np.sign(gradient.numpy()), 0, 1)
    sure = clear(gradient)
    assert sure.double().mean() > 0.999
    np.testing.assert_allclose(fgsm(model, x, y, eps=eps)[sure], expected[sure], atol=1e-6)


def test_fgsm_is_the_best_attack_on_a_linear_two_class_model():
    model, x, y = linear(2), images(20), labels(20, 2)
    best = losses(model, fgsm(model, x, y, eps=0.1), y)
    assert (best > losses(model, x, y) + 0.01).all()
    for seed in range(50):
        noise = 0.2 * images(20, seed=seed + 1) - 0.1
        corner = 0.1 * noise.sign()
        for delta in (noise, corner):
            assert (losses(model, (x + delta).clamp(0, 1), y) < best).all()


def test_pgd_reaches_the_best_corner_of_a_linear_two_class_model_from_any_start():
    model, x, y = linear(2), images(20), labels(20, 2)
    best = fgsm(model, x, y, eps=0.1)
    assert torch.allclose(pgd(model, x, y, eps=0.1, steps=10), best, atol=1e-6)
    assert torch.allclose(pgd(model, x, y, eps=0.1, steps=10, random_start=False), best, atol=1e-6)


def test_projection_is_the_nearest_point_of_ball_and_box():
    x, far = images(50, seed=1), 3 * images(50, seed=2) - 1
    low, high = np.maximum(x.numpy() - 0.2, 0), np.minimum(x.numpy() + 0.2, 1)
    np.testing.assert_allclose(project(far, x, 0.2), np.minimum(np.maximum(far.numpy(), low), high), atol=1e-7)


def foolbox_attack(attack, eps):
    model, x, y = small_net_and_digits()
    return attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)[1]


def torchattacks_attack(attack):
    _, x, y = small_net_and_digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attack(x, y)


@pytest.mark.parametrize("eps", [0.05, 0.3])
@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_fgsm_agrees_with_other_libraries(library, eps, record_property):
    model, x, y = small_net_and_digits()
    if library == "foolbox":
        theirs = foolbox_attack(foolbox.attacks.LinfFastGradientAttack(), eps)
    else:
        theirs = torchattacks_attack(torchattacks.FGSM(model, eps=eps))
    ours, gradient = fgsm(model, x, y, eps=eps), input_gradient(model, x, y)
    sure = clear(gradient)
    share = 1 - sure.float().mean().item()
    record_property("share of pixels with a negligible gradient", share)
    print(f"FGSM and {library}, eps {eps}: {share:.4%} of the pixels have a negligible gradient")
    assert share < 0.005
    assert (ours != x).float().mean() > 0.3 and in_ball(theirs, x, eps)
    torch.testing.assert_close(ours[sure], theirs[sure], rtol=0, atol=1e-6)


@pytest.mark.parametrize("eps, step_size, steps", [(0.1, 0.02, 5), (0.3, 0.05, 10)])
@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_pgd_agrees_with_other_libraries(library, eps, step_size, steps, record_property):
    model, x, y = small_net_and_digits()
    if library == "foolbox":
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)
        theirs = foolbox_attack(attack, eps)
    else:
        attack = torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=False)
        theirs = torchattacks_attack(attack)
    ours = pgd(model, x, y, eps=eps, step_size=step_size, steps=steps, random_start=False)
    differing = ((ours - theirs).abs() > 1e-5).float().mean().item()
    record_property("share of pixels that differ", differing)
    print(f"PGD and {library}, eps {eps}, {steps} steps: {differing:.4%} of the pixels differ")
    assert differing < 0.005  # the road bends where a gradient is negligible, and takes its neighbours along
    torch.testing.assert_close(losses(model, ours, y), losses(model, theirs, y), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("eps, step_size, steps", [(1.0, 0.2, 5), (3.0, 0.5, 10)])
@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_l2_pgd_agrees_with_other_libraries(library, eps, step_size, steps):
    model, x, y = small_net_and_digits()
    if library == "foolbox":
        theirs = foolbox_attack(foolbox.attacks.L2PGD(abs_stepsize=step_size, steps=steps, random_start=False), eps)
    else:
        attack = torchattacks.PGDL2(model, eps=eps, alpha=step_size, steps=steps, random_start=False)
        theirs = torchattacks_attack(attack)
    ours = pgd(model, x, y, eps=eps, norm="l2", step_size=step_size, steps=steps, random_start=False)
    assert in_l2_ball(ours, x, eps) and (ours - x).flatten(1).norm(dim=1).max() > 0.6 * eps
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    torch.testing.assert_close(losses(model, ours, y), losses(model, theirs, y), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("momentum", [1.0, 0.5])
@pytest.mark.parametrize("eps, step_size, steps", [(0.1, 0.02, 5), (0.3, 0.05, 10)])
def test_pgd_with_momentum_agrees_with_mi_fgsm(momentum, eps, step_size, steps):
    model, x, y = small_net_and_digits()
    attack = torchattacks.MIFGSM(model, eps=eps, alpha=step_size, steps=steps, decay=momentum)
    theirs = torchattacks_attack(attack)
    options = dict(eps=eps, step_size=step_size, steps=steps, random_start=False)
    ours = pgd(model, x, y, momentum=momentum, **options)
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 0.005
    assert ((ours - pgd(model, x, y, **options)).abs() > 1e-5).float().mean() > 0.02  # momentum makes a difference
    torch.testing.assert_close(losses(model, ours, y), losses(model, theirs, y), rtol=0.02, atol=0.02)


def test_targeted_pgd_agrees_with_foolbox():
    model, x, y = small_net_and_digits()
    aim = (y + 3) % 10
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=8, random_start=False)
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs = attack(fmodel, x, foolbox.criteria.TargetedMisclassification(aim), epsilons=0.1)[1]
    ours = pgd(model, x, y, eps=0.1, step_size=0.02, steps=8, random_start=False, target=aim)
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 0.005
    assert (losses(model, ours, aim) < losses(model, x, aim)).all()


def test_one_pgd_step_of_length_eps_from_the_image_is_fgsm_to_the_bit():
    model, x, y = small_net_and_digits()
    for eps in (0.0, 0.03, 0.1, 0.3, 1.0):
        step_size = eps or None
        one_step = pgd(model, x, y, eps=eps, step_size=step_size, steps=1, random_start=False)
        assert torch.equal(one_step, fgsm(model, x, y, eps=eps))


def test_pgd_is_stronger_than_fgsm_and_fgsm_than_noise():
    model, x, y = small_net_and_digits()
    generator = torch.Generator().manual_seed(0)
    noise, one, many = (
        losses(model, attack(model, x, y, eps=0.1), y).mean()
        for attack in (
            functools.partial(random_noise, generator=generator),
            fgsm,
            functools.partial(pgd, random_start=False),
        )
    )
    assert losses(model, x, y).mean() + 0.5 < one and noise + 0.5 < one < many


class Turning(nn.Module):
    """Its loss rises with the first pixel; past 0.55 it falls with every pixel, so that the gradient turns about."""

    def forward(self, x):
        first, rest = x[:, 0, 0, 0], -x.sum((1, 2, 3))
        rising = torch.where(first > 0.55, rest, first)
        return torch.stack([-rising, torch.zeros_like(rising)], 1)


def test_momentum_brings_each_gradient_to_l_1_length_1():
    """Dong et al., 2018, equation 6: 0.4 of the first direction outweighs a quarter of the second, but not a half."""
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    x_adv = pgd(Turning(), x, y, eps=0.3, steps=2, step_size=0.1, momentum=0.4, random_start=False)
    assert x_adv.flatten().tolist() == pytest.approx([0.7, 0.4, 0.4, 0.4])
