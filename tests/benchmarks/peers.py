"""What a reader might use in place of this package, each as its own documentation does, and the loop it grew out of."""

import time

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
from torch import nn
from torch.nn import functional as F
from torchvision.models import vgg16_bn

NAMES = ("torchattacks", "foolbox", "ART", "cleverhans")


def peer(name, model, *, eps, steps=None, step_size=None):
    """An attack of another library on this model: a callable (x, y) -> x_adv, images in [0, 1] and labels as ours.

    Args:
        name: one of NAMES.
        model: nn.Module in eval mode, on the CPU.
        eps: radius in pixel units.
        steps, step_size: those of PGD without a random start; without them it is FGSM.
    """
    return {"torchattacks": _torchattacks, "foolbox": _foolbox, "ART": _art, "cleverhans": _cleverhans}[name](
        model, eps, steps, step_size
    )


def _torchattacks(model, eps, steps, step_size):
    if steps is None:
        return torchattacks.FGSM(model, eps=eps)
    return torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=False)


def _foolbox(model, eps, steps, step_size):
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    if steps is None:
        attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    else:
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)
    return lambda x, y: attack(wrapped, x, y, epsilons=eps)[1]


def _art(model, eps, steps, step_size):
    wrapped = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=(1, 28, 28), nb_classes=10, clip_values=(0, 1)
    )
    if steps is None:
        attack = FastGradientMethod(wrapped, eps=eps, batch_size=128)
    else:
        options = dict(eps=eps, eps_step=step_size, max_iter=steps, num_random_init=0, batch_size=128, verbose=False)
        attack = ProjectedGradientDescent(wrapped, **options)
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def _cleverhans(model, eps, steps, step_size):
    if steps is None:
        return lambda x, y: fast_gradient_method(model, x, eps, np.inf, clip_min=0, clip_max=1, y=y).detach()
    return lambda x, y: projected_gradient_descent(
        model, x, eps, step_size, steps, np.inf, clip_min=0, clip_max=1, y=y, rand_init=False
    ).detach()


def original_network():
    """The network of the repository that this series grew out of: torchvision's VGG-16 for one channel, ten classes."""
    network = vgg16_bn(num_classes=10)
    network.features[0] = nn.Conv2d(1, 64, kernel_size=3, padding=1)
    return network.eval()


def original_loop(model, x, y, eps_values):
    """Its evaluation, written anew from a description: one image at a time, a backward pass for each of the epsilons.

    The backward pass also computes the gradients of the weights, which nobody uses; nothing is clipped; images that the
    model misreads are not attacked.

    Returns:
        correct: how many are still read correctly, for each epsilon; seconds: those of each image over all epsilons.
    """
    correct, seconds = [0] * len(eps_values), []
    for image, label in zip(x, y):
        started = time.perf_counter()
        for at, eps in enumerate(eps_values):
            one = image[None].clone().requires_grad_()
            output = model(one)
            if output.argmax(1).item() != label.item():
                continue
            model.zero_grad()
            F.cross_entropy(output, label[None]).backward()
            with torch.no_grad():
                correct[at] += int(model(one + eps * one.grad.sign()).argmax(1).item() == label.item())
        seconds.append(time.perf_counter() - started)
    return correct, seconds
