"""Batch norm folded into the convolution before it, in networks where that provably changes nothing."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from advutils.models import Contrast, Normalize, PadTo
from advutils.utils.hooks import unhooked
from advutils.utils.inference import unwrap_model

FUSIBLE = {  # the layers of our own networks, and their like
    nn.Sequential, nn.Identity, PadTo, Normalize, Contrast, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Flatten, nn.Linear,
}  # fmt: skip


def fuse_batch_norm(model: nn.Module) -> nn.Module:
    """The model as an attack wants it: the logits of its eval mode, up to rounding, in about 0.9 of the time.

    In a network that is nothing but an nn.Sequential of the layers that `FUSIBLE` lists, batch norm is folded into the
    convolution before it, and max-pooling goes before the ReLU that it follows, as the two commute. The rest is shared
    with the model, which stays as it is: use the twin in eval mode, and only until the weights change. Any other model
    is returned itself, since nothing proves that folding leaves its answers alone: one with a forward of its own, with
    hooks, compiled, or with layers that work in place or are subclassed.

    Args:
        model: any nn.Module.

    Returns:
        nn.Module: the twin, which holds the weights but does not train them, or the model.

    Jacob et al., 2018, arXiv:1712.05877, section 3.2. `accuracy` and its kin, and the training objectives, use it.
    """
    model = unwrap_model(model)
    return _twin(model) if type(model) is nn.Sequential and all(map(_plain, model.modules())) else model


def _twin(model):
    layers = [(name, _twin(layer) if type(layer) is nn.Sequential else layer) for name, layer in model._modules.items()]
    for at in range(len(layers) - 1):
        (name, first), (after, second) = layers[at : at + 2]
        if type(first) is nn.Conv2d and type(second) is nn.BatchNorm2d and second.running_mean is not None:
            layers[at : at + 2] = (name, _folded(first, second)), (after, nn.Identity().train(second.training))
        elif type(first) is nn.ReLU and type(second) is nn.MaxPool2d and not second.return_indices:
            layers[at : at + 2] = (name, second), (after, first)
    twin = copy.copy(model)
    twin._modules = dict(layers)
    return twin


def _plain(layer):
    """Whether the layer is exactly of a kind that may be fused, is unhooked, and works on a copy."""
    return type(layer) in FUSIBLE and unhooked(layer) and not getattr(layer, "inplace", False)


def _folded(convolution, norm):
    twin = copy.copy(convolution)
    with torch.inference_mode(False), torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    twin._parameters = dict(weight=weight.requires_grad_(False), bias=bias.requires_grad_(False))
    return twin
