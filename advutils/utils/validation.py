"""What bad input gets, in one place: an error that names the argument, what it got and what it accepts.

The entries of the package (attacks, evaluation, `fit`) call these, so that the maths elsewhere stays bare.
"""

import itertools
import math
import numbers
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

BLIND = (
    "the gradient is exactly zero for most of the images that are not fooled: attacks that follow it leave them as "
    "they are, so the model looks more robust than it is (another loss, BPDA or `square` may help: "
    "06_strong_attacks.ipynb)"
)
PACKAGE = str(Path(__file__).parents[1])
WARNED: dict = {}  # emptied when a measurement begins, so that each one warns once
LEAST, MOST = math.ulp(0.0), sys.float_info.max  # the ends of the finite numbers above 0
FAR = 1_000_000  # more than the l_2 distance of any two images; of a much longer step float32 has no square


def images(x, name="x"):
    """Raise unless `x` is a batch of images: float32, (N, C, H, W), N >= 1, finite, in [0, 1]."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: got {_kind(x)}; accepts a float32 tensor (N, C, H, W) with values in [0, 1]")
    if x.dtype != torch.float32:
        hint = " (for grey levels 0..255: x.float() / 255)" if not x.is_floating_point() else ""
        raise TypeError(f"{name}: got dtype {x.dtype}; accepts torch.float32 with values in [0, 1]{hint}")
    if x.ndim != 4 or x.numel() == 0:
        hint = " (one image: x.unsqueeze(0))" if x.ndim == 3 else ""
        raise ValueError(f"{name}: got shape {tuple(x.shape)}; accepts (N, C, H, W) with at least one image{hint}")
    low, high = _range(x)
    if not math.isfinite(high - low):
        raise ValueError(f"{name}: got NaN or infinite values; accepts finite values in [0, 1]")
    if low < -1e-6 or high > 1 + 1e-6:  # a rounding, as resizing and division leave it, is the end of the range
        raise ValueError(
            f"{name}: got values from {low:.7g} to {high:.7g}; accepts [0, 1] (normalisation belongs inside the model)"
        )


def labels(y, x, name="y"):
    """Raise unless `y` holds one class index (int64) for each image of `x`, on the same device."""
    if not isinstance(y, torch.Tensor):
        raise TypeError(f"{name}: got {_kind(y)}; accepts an int64 tensor (N,) of class indices")
    if y.dtype != torch.int64:
        hint = " (these look like scores: labels are class indices)" if y.ndim == 2 else ""
        raise TypeError(f"{name}: got dtype {y.dtype}; accepts torch.int64 class indices{hint}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{name}: got shape {tuple(y.shape)}; accepts ({len(x)},), one label for each image of x")
    if y.device != x.device:
        raise ValueError(f"{name}: got a tensor on {y.device}; accepts the device of x, {x.device}")


def pair(batch, name):
    """The two parts of a batch; raise unless a loader's batch is (images, labels)."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"a dict of {', '.join(map(repr, batch))}" if isinstance(batch, dict) else _kind(batch)
        got = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else got
        raise TypeError(
            f"{name}: got batches of {got}; accepts batches (images, labels), as this makes of others: "
            '[(batch["image"], batch["label"]) for batch in loader]'
        )
    return batch


def batch(value):
    """A loader's batch (x, y); raise unless it is one of images and labels."""
    x, y = pair(value, "loader")
    images(x, "loader's images")
    labels(y, x, "loader's labels")
    return x, y


def module(model):
    """Raise unless `model` is a torch.nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {_kind(model)}; accepts a torch.nn.Module that maps images to logits")


def model(model, x):
    """Raise unless `model` is a module whose weights lie on the device of the images `x`."""
    module(model)
    there = device_of(model)
    if there is not None and there != x.device:
        raise ValueError(f"x: got a tensor on {x.device}; accepts the device of the model's weights, {there}")


def logits(z, rows):
    """Raise unless `z` is what a classifier owes for `rows` images: finite logits (rows, K)."""
    if not isinstance(z, torch.Tensor) or not z.is_floating_point():
        raise TypeError(f"model: got {_kind(z)} from its forward pass; accepts one float tensor of logits (N, K)")
    if z.ndim != 2 or len(z) != rows or z.numel() == 0:
        raise ValueError(f"model: got an output of shape {tuple(z.shape)}; accepts logits ({rows}, K), a row per image")
    low, high = _range(z)
    if not math.isfinite(high - low):
        raise ValueError("model: got NaN or infinite logits from its forward pass; accepts finite ones")
    if z.shape[1] == 1:
        raise ValueError(
            "model: got one logit for each image; accepts K >= 2, a column for each class (of one logit z for yes or "
            "no, torch.cat([torch.zeros_like(z), z], 1))"
        )
    if low >= 0 and (z.detach().sum(1) - 1).abs().max() < (5e-3 if _was_half(z.detach()) else 1e-4):
        raise ValueError(
            "model: got rows that are probabilities (no negative entry, sum 1); accepts logits, so leave the final "
            "softmax out: its saturation hides gradients"
        )


def path(found, name):
    """Raise unless a gradient leads from the loss to the pixels: without one, an attack leaves every image alone."""
    if not found:
        raise ValueError(
            f"{name}: got a {name} through which no gradient reaches the pixels (torch.no_grad, a quantised layer, a "
            "comparison or an argmax may be in it); accepts one that can be differentiated. Attack it through a "
            "differentiable stand-in (BPDA, 06_strong_attacks.ipynb), or by `square`, which needs no gradient"
        )


def gradient(found):
    """Raise unless the gradient with respect to the pixels is finite: NaN has no sign, and infinity no unit length.

    The root of a black pixel is enough for it. An attack would leave such pixels alone, and the model look robust.
    """
    if not math.isfinite(sum(_range(found))):
        raise ValueError(
            "model: got a gradient that is NaN or infinite in some pixels; accepts a model, and a loss, that can be "
            "differentiated at these images (x.sqrt() cannot at 0, (x + 1e-8).sqrt() can)"
        )


def warn_if_blind(gradient, unfooled):
    """Warn where the gradient is exactly zero for most of the images that are not fooled, bool (N,)."""
    if unfooled.any() and gradient[unfooled].flatten(1).any(1).float().mean() < 0.5:
        warnings.warn_explicit(BLIND, UserWarning, *_entry(), "advutils", WARNED)


def loss(value):
    """Raise unless `value` can be called as a loss, or is None."""
    if value is not None and not callable(value):
        raise TypeError(f"loss: got {_kind(value)}; accepts None or a callable (logits (N, K), y (N,)) -> (N,)")


def classes(y, k, name="y"):
    """Raise unless every label of `y` is one of the `k` classes of the model."""
    values = y.tolist()
    low, high = min(values), max(values)
    if low < 0 or high >= k:
        bad = low if low < 0 else high
        raise ValueError(f"{name}: got label {bad}; accepts 0 to {k - 1}, the {k} classes of the model")


def eps(value, name="eps", *, norm="linf"):
    """Return `value` as a float; raise unless it is a radius in pixel units: 0 <= eps <= 1, for l_2 up to `FAR`."""
    if one_of(norm, "norm", ("linf", "l2")) == "l2":
        return positive(value, name, zero=True, most=FAR)
    hint = ", in units of the pixel range"
    if isinstance(value, numbers.Real) and 1 < value <= 255:
        hint += f" (for grey levels write {value:g}/255)"
    return float(_within(value, name, 0, 1, f"0 to 1{hint}"))


def no_eps(value, norm):
    """Raise if an attack that looks for the smallest change is told a radius, or its norm is none of ours."""
    one_of(norm, "norm", ("linf", "l2"))
    if value is not None:
        raise TypeError(f"eps: got {value!r}; accepts none, as this attack finds the radius (see `minimum_norm`)")


def radii(values, name):
    """Return `values` as a list; raise unless there is at least one. `eps` checks each of them."""
    listed = list(values) if isinstance(values, Iterable) else []
    if not listed:
        raise TypeError(f"{name}: got {values!r}; accepts a list of radii in pixel units, [0, 0.1, 8 / 255]")
    return listed


def typed(text, name):
    """The number that somebody typed as a radius: 0.1, or a fraction, 8/255."""
    match = re.fullmatch(r"\s*([\d.eE+-]+)\s*(?:/\s*([\d.eE+-]+)\s*)?", text)
    try:
        return float(match[1]) / float(match[2] or 1)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ValueError(f"{name}: got {text!r}; accepts a number, 0.1, or a fraction, 8/255") from None


def attack(value):
    """Raise unless `value` can be called as an attack."""
    if not callable(value):
        raise TypeError(f"attack: got {_kind(value)}; accepts a callable (model, x, y, *, eps) -> x_adv")


def attacked(x_adv, x, eps, norm):
    """Raise unless an attack's images are images of the ball around x."""
    images(x_adv, "attack's images")
    if x_adv.shape != x.shape:
        raise ValueError(f"attack: got images of shape {tuple(x_adv.shape)} from it; accepts {tuple(x.shape)}")
    delta = (x_adv - x).flatten(1)
    distance = (delta.abs().amax() if norm == "linf" else delta.norm(dim=1).max() / (1 + 1e-6)).item()
    if distance > eps + 1e-6:
        raise ValueError(f"attack: got images {distance:.6g} away from x; accepts at most eps = {eps:g}")


def dataset(value):
    """Raise unless `value` is a TensorDataset of at least one image, with labels."""
    if not isinstance(value, TensorDataset) or len(value.tensors) != 2:
        raise TypeError(f"dataset: got {type(value).__name__}; accepts a TensorDataset of images and labels")
    if len(value) == 0:
        raise ValueError("dataset: got no images; accepts at least one")


def count(value, name, *, least=1, most=math.inf):
    """Return `value`; raise unless it is a whole number of at least `least`, and of at most `most`."""
    accepts = f"a whole number {f'of at least {least}' if most == math.inf else f'from {least} to {most}'}"
    return int(_within(value, name, least, most, accepts, numbers.Integral))


def counts(**values):
    """The values, in their order; raise unless each is a whole number of at least 1."""
    return [count(value, name) for name, value in values.items()]


def positive(value, name, *, zero=False, most=MOST):
    """Return `value` as a float; raise unless it is a finite number above 0, or 0 where `zero`, and at most `most`."""
    accepts = f"a finite number {'of at least' if zero else 'above'} 0{'' if most == MOST else f', at most {most:,}'}"
    return float(_within(value, name, 0 if zero else LEAST, most, accepts))


def share(value, name):
    """Return `value` as a float; raise unless it is a number from 0 to 1."""
    return float(_within(value, name, 0, 1, "a number from 0 to 1"))


def _within(value, name, low, high, accepts, kind=numbers.Real):
    """Return `value`; raise unless it is a number of that kind from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name}: got {_kind(value)}; accepts {accepts}")
    if not low <= (value if isinstance(value, int) else float(value)) <= high:
        raise ValueError(f"{name}: got {value}; accepts {accepts}")
    return value


def pixels(picture):
    """Raise for an opened Pillow image of more than 50 million pixels, before they are unpacked."""
    if picture.width * picture.height > 50_000_000:
        raise ValueError(f"source: got {picture.width}x{picture.height} pixels; accepts up to 50 million")
    if picture.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
        raise ValueError(f"source: got pixels of more than 8 bits ({picture.mode}); accepts 8 bits for each channel")


def finite(loss, epoch, lr):
    """Raise when a training's loss is no number any more; `epoch` counts from 0."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss} in epoch {epoch + 1}: try an lr below {lr:g}")


def one_of(value, name, choices):
    """Return `value`; raise unless it is one of `choices`."""
    if value not in list(choices):
        raise ValueError(f"{name}: got {value!r}; accepts one of {', '.join(map(repr, choices))}")
    return value


def unseen(keys, seen_keys):
    """Raise when images about to be scored are among those that the model was trained on.

    `keys` and `seen_keys` are the `image_hashes` of the two sets. A handful of doubles is tolerated (at most 1 in 200:
    public data sets hold a few), a leak is not.
    """
    shared = torch.isin(keys, seen_keys).sum().item()
    if shared * 200 > len(keys):
        raise ValueError(
            f"loader: got {shared} images (of {len(keys)}) that this model was trained on; accepts held-out ones only, "
            "since accuracy on training images measures memory. (All of mnist-5k lies in the training set of mnist.)"
        )


def device_of(model):
    """The device of the model's first parameter or, if it has none, buffer; None when it has neither."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def _entry():
    """The file and the line from which the package was called, for a warning to show."""
    frame, caller = sys._getframe(), None
    while frame is not None:
        caller = frame.f_back if frame.f_code.co_filename.startswith(PACKAGE) else caller
        frame = frame.f_back
    return ("advutils", 1) if caller is None else (caller.f_code.co_filename, caller.f_lineno)


def _was_half(z):
    """Whether all values have so few digits that they come from half precision, whose sums are that much rougher."""
    return any(torch.equal(z, z.to(dtype).to(z.dtype)) for dtype in (torch.bfloat16, torch.float16))


def _range(tensor):
    low, high = tensor.detach().aminmax()
    return low.item(), high.item()


def _kind(value):
    name = type(value).__name__
    return f"{value!r} ({name})" if isinstance(value, (str, bool, numbers.Number)) else name
