"""Batch norm folded into the convolution before it, in networks where that provably changes nothing."""

import contextlib
import copy
from collections import deque

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from advutils.models import Contrast, Normalize, PadTo
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


def of_ledger(hook):
    """Mark a hook that only looks at what goes in and out, so that a model with it may still be fused."""
    hook.of_ledger = True
    return hook


def count_pass(model, *outputs):
    """Tell the ledgers of a model of passes through its layers that did not go through it, one for each output."""
    for hook in model._forward_hooks.values():
        if getattr(hook, "of_ledger", False):
            for output in outputs:
                hook(model, (), output)


def unhooked(layer):
    """Whether the layer does what its class says: nobody watches or changes it, and it has no forward of its own."""
    hooks = [*layer._forward_hooks.values(), *layer._forward_pre_hooks.values(), *layer._backward_hooks.values(),
             *layer._backward_pre_hooks.values()]  # fmt: skip
    return (
        all(getattr(hook, "of_ledger", False) for hook in hooks)
        and "forward" not in vars(layer)
        and layer._compiled_call_impl is None
    )


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


@contextlib.contextmanager
def record_inputs(model, n):
    """The last n batches that went through the model in train mode inside the block, as a running deque."""
    recent = deque(maxlen=n)

    def remember(module, inputs):
        if module.training and n:
            recent.append(inputs[0].detach().clone())  # before a model works in place on it

    hook = model.register_forward_pre_hook(of_ledger(remember))
    try:
        yield recent
    finally:
        hook.remove()
