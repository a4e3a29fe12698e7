"""The two networks of the series, and a safe place for their weights.

A model takes images in [0, 1] and returns logits. Padding and normalisation are its first two layers, so an attacker
can never perturb the padding, and epsilon never changes its unit.
"""

import contextlib
import copy
import hashlib
import json
import numbers
import os
import uuid
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.fusion import fuse_conv_bn_weights

from advutils import checks

VGG_BLOCKS = {  # convolutions in each of the five blocks: the whole difference between the VGGs
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
VGG_CHANNELS = (64, 128, 256, 512, 512)
PACKED_FROM = 20_000  # smaller layers weigh little, and rounding the first ones moved a robust accuracy by 0.3 points
PRECISIONS = (torch.float16, torch.bfloat16, torch.float64)  # of models that take no float32 images
NOTHING = torch.empty(0, dtype=torch.int64)  # the `image_keys` of no image


class PadTo(nn.Module):
    """Surround images smaller than `size` pixels with black: (N, C, H, W) -> (N, C, size, size)."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        rows, cols = (max(0, self.size - side) for side in x.shape[-2:])
        return F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))

    def extra_repr(self):
        return str(self.size)


class Normalize(nn.Module):
    """(x - mean) / std, as a layer: what the attacker sees stays in [0, 1]. Two numbers, or two for each channel."""

    def __init__(self, mean=0.5, std=0.5):
        super().__init__()
        self.mean, self.std = mean, std
        for name, values in dict(mean=mean, std=std).items():
            if not isinstance(values, numbers.Real):
                delattr(self, name)
                values = torch.as_tensor(values, dtype=torch.float32).clone().view(-1, 1, 1)
                self.register_buffer(name, values, persistent=False)

    def forward(self, x):
        return (x - self.mean) / self.std

    def extra_repr(self):
        return f"mean={self.mean}, std={self.std}"


class Contrast(nn.Module):
    """tanh(slope (x - 0.5)), in place of `Normalize`: nearly a threshold at mid-grey, but one that has a gradient."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return torch.tanh(self.slope * (x - 0.5))

    def extra_repr(self):
        return f"{self.slope:g}"


FUSIBLE = {  # the layers of our own networks, and their like
    nn.Sequential, nn.Identity, PadTo, Normalize, Contrast, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Flatten, nn.Linear,
}  # fmt: skip


def vgg(depth=16, *, width=1.0, in_channels=1, num_classes=10, contrast=None):
    """A VGG with batch norm: five blocks of 3x3 convolutions, each halving the image, then one linear layer.

    Args:
        depth: 11, 13, 16 or 19, the number of layers with weights in the original (its three dense ones are one here).
        width: multiplies every channel count; 1.0 is the original 64..512, 0.25 trains in a minute on a laptop.
        in_channels: 1 for grey images, 3 for colour. Images under 32x32 are padded, larger ones are pooled at the end.
        num_classes: K, the number of logits.
        contrast: None for the linear `Normalize`, or the slope of a `Contrast` in its place: what an image of ink on
            paper loses by it is little, and what an attacker loses is much (08_robust_training.ipynb).

    Returns:
        nn.Sequential that maps images (N, in_channels, H, W) in [0, 1] to logits (N, K).

    Raises:
        TypeError, ValueError: an unknown depth, or a width, count or slope that is not positive.

    Simonyan and Zisserman, 2015, arXiv:1409.1556. Taught in 01_train_vgg.ipynb.
    """
    checks.one_of(depth, "depth", VGG_BLOCKS)
    width = checks.positive(width, "width")
    contrast = None if contrast is None else checks.positive(contrast, "contrast")
    channels = in_channels = checks.count(in_channels, "in_channels")
    num_classes = checks.count(num_classes, "num_classes")
    layers = [PadTo(32), Normalize() if contrast is None else Contrast(contrast)]
    for convolutions, full in zip(VGG_BLOCKS[depth], VGG_CHANNELS):
        for _ in range(convolutions):
            out = max(1, round(full * width))
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers += [nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    config = dict(
        architecture="vgg",
        depth=depth,
        width=width,
        in_channels=in_channels,
        num_classes=num_classes,
        contrast=contrast,
    )
    return _finish(nn.Sequential(*layers), config)


def small_cnn(*, in_channels=1, num_classes=10):
    """The weaker network that FGSM tutorials attack: two convolutions, two dense layers, dropout, no batch norm.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        num_classes: K, the number of logits.

    Returns:
        nn.Sequential that maps images (N, in_channels, H, W) in [0, 1], at least 16x16, to logits (N, K).

    Raises:
        TypeError, ValueError: a count that is not a positive whole number.

    Taught in 02_fgsm_attack.ipynb.
    """
    in_channels, num_classes = checks.count(in_channels, "in_channels"), checks.count(num_classes, "num_classes")
    layers = [
        Normalize(),
        nn.Conv2d(in_channels, 32, 3), nn.ReLU(),
        nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.AdaptiveMaxPool2d(12), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, num_classes),
    ]  # fmt: skip
    return _finish(
        nn.Sequential(*layers), dict(architecture="small_cnn", in_channels=in_channels, num_classes=num_classes)
    )


def _finish(model, config):
    model.config = config
    model.trained_on = torch.empty(0, dtype=torch.int64)
    return model.to(memory_format=torch.channels_last)  # 1.2 to 1.3 times the images per second on a CPU


def image_keys(x):
    """A 64-bit key for each image of `x` (N, C, H, W) in [0, 1], from its 8-bit grey levels: int64 (N,), on the CPU."""
    grey = (x.detach().cpu() * 255).round().long().flatten(1)
    drawn = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, grey.shape[1:], generator=drawn, device="cpu")
    return (grey * weights).sum(1)


def trained_keys(model):
    """The `image_keys` of all images that the model, or a part of it, was trained on: int64 (n,)."""
    parts = [getattr(part, "trained_on", None) for part in model.modules()]
    ours = [
        keys for keys in parts if isinstance(keys, torch.Tensor) and keys.dtype == torch.int64
    ]  # the name is common
    return torch.cat([NOTHING, *ours])


@contextlib.contextmanager
def evaluating(model):
    """Eval mode inside the block, of the `bare` model; on the way out, by an error too, each module as it was."""
    modes = [(module, getattr(module, "training", False)) for module in checks.parts(model)]  # frozen ones have none
    try:
        if any(training for _, training in modes):
            with contextlib.suppress(NotImplementedError):  # an exported one stays in the mode of its export
                model.eval()
        yield bare(model)
    finally:
        for module, training in modes:  # a `train` of its own may do more than set the mode: merge weights, for one
            if getattr(module, "training", training) != training and type(module).train is not nn.Module.train:
                module.train(training)
        for module, training in modes:
            if getattr(module, "training", training) != training:  # to set one takes ten times as long as to look
                module.training = training


def bare(model):
    """The model itself, out of the DistributedDataParallel around it: a pass through that waits for other processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def answer(model, x):
    """The model's logits for x, in float32 or float64. The model gets a copy, as some work in place on what they get.

    A model whose weights are all in half or all in double precision gets images in that precision.
    """
    weights = (p for part in checks.parts(model) for p in part._parameters.values() if p is not None and p.ndim)
    dtypes = {p.dtype for p in weights if p.is_floating_point()}
    alone = dtypes.pop() if len(dtypes) == 1 else x.dtype
    z = model(x.to(alone if alone in PRECISIONS else x.dtype, copy=True))
    half = isinstance(z, torch.Tensor) and z.dtype in (torch.float16, torch.bfloat16)
    return z.float() if half else z


def prepared(model):
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
    model = bare(model)
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
    """Whether the layer is exactly of a kind that may be fused, and nobody watches or changes what it does."""
    hooks = [*layer._forward_hooks.values(), *layer._forward_pre_hooks.values(), *layer._backward_hooks.values(),
             *layer._backward_pre_hooks.values()]  # fmt: skip
    return (
        type(layer) in FUSIBLE
        and all(getattr(hook, "of_ledger", False) for hook in hooks)
        and "forward" not in vars(layer)
        and layer._compiled_call_impl is None
        and not getattr(layer, "inplace", False)
    )


def _folded(convolution, norm):
    twin = copy.copy(convolution)
    with torch.inference_mode(False), torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    twin._parameters = dict(weight=weight.requires_grad_(False), bias=bias.requires_grad_(False))
    return twin


def save_weights(model, path, *, recipe=None, history=None, machine="", packed=False):
    """Write the model's weights to a safetensors file, whole or not at all.

    Args:
        model: any nn.Module. The networks of this package also carry what they were trained on (`trained_on`, a key for
            each training image), which is saved along so that nobody scores them on it.
        path: the file to write; its folder is made. An existing file is replaced only when the new one is complete.
        recipe: how the weights were made, anything that JSON can hold.
        history: a `History` of `fit`, as a dict.
        machine: on which they were made, a line of text.
        packed: keep the weights of layers with more than 20,000 as 16-bit whole numbers with a scale for each output:
            about half the file, for an error of up to 1/65534 of the largest weight of that output.

    Raises:
        TypeError: the model is no nn.Module, or the recipe is nothing that JSON can hold.

    Taught in 01_train_vgg.ipynb.
    """
    checks.module(model)
    state = model.state_dict()
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"model: got a {type(value).__name__} as {key} in its state; accepts tensors alone")
    tensors = tagged("model", state) | {"trained_on": trained_keys(model)}
    if packed:
        large = [(k, t) for k, t in tensors.items() if t.ndim > 1 and t.numel() > PACKED_FROM]
        for key, weight in [(k, t) for k, t in large if t.dtype == torch.float32]:
            scale = weight.flatten(1).abs().amax(1).clamp_min(1e-30) / 32767
            tensors[f"scale.{key}"] = scale
            tensors[key] = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int16)
    about = dict(config=_config(model), recipe=recipe, history=history, machine=machine)
    write_tensors(path, tensors, about, kind="weights")


def load_weights(model, path):
    """Load what `save_weights` wrote into a model of the same architecture; on any error the model is untouched.

    Args:
        model: an nn.Module built as the saved one was.
        path: a file that `save_weights` wrote.

    Returns:
        dict with the saved `config`, `recipe` and `history`, and with `machine` where the file names one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no safetensors file (a pickle is never opened), truncated or altered, not written by
            `save_weights`, or of another architecture; the message says which.

    Taught in 01_train_vgg.ipynb.
    """
    tensors, saved = read_tensors(path, kind="weights")
    if not {"config", "recipe", "history"} <= saved.keys() or "trained_on" not in tensors:
        raise ValueError(
            f"path: got {str(path)!r}, which lacks a part of what save_weights writes; accepts a whole file"
        )
    if saved["config"] != json.loads(json.dumps(_config(model))):
        raise ValueError(
            f"path: got {str(path)!r} with weights of {saved['config']}; accepts those of {_config(model)}"
        )
    trained_on = tensors.pop("trained_on")
    weights = untagged("model", tensors)
    for key, scale in untagged("scale.model", tensors).items():
        whole = weights.get(key)
        if (
            whole is None
            or whole.dtype != torch.int16
            or (scale.dtype, scale.shape) != (torch.float32, whole.shape[:1])
        ):
            raise ValueError(f"path: got {str(path)!r}, whose scale of {key} fits no weight; accepts a whole file")
        weights[key] = whole * scale.view(-1, *[1] * (whole.ndim - 1))
    have = {key: (tuple(value.shape), value.dtype) for key, value in model.state_dict().items()}
    want = {key: (tuple(value.shape), value.dtype) for key, value in weights.items()}
    if have != want:
        differing = sorted(key for key in have.keys() | want.keys() if have.get(key) != want.get(key))
        raise ValueError(f"path: got {str(path)!r}, which differs from the model in {', '.join(differing[:3])}")
    model.load_state_dict(weights)
    model.trained_on = trained_on
    return saved


def write_tensors(path, tensors, about, *, kind):
    """Write named tensors and a dict that JSON can hold to a safetensors file, with a checksum, whole or not at all.

    `kind` is "weights" (of a finished model) or "state" (of a training to be continued): the one format of the project.
    """
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}  # tied ones apart
    metadata = {"format": f"advutils-{kind}-1"} | {key: json.dumps(value) for key, value in about.items()}
    metadata["sha256"] = _digest(tensors, metadata)
    replace_file(path, safetensors.torch.save(tensors, metadata))


def read_tensors(path, *, kind):
    """What `write_tensors` wrote, as (tensors, about); errors as `load_weights` lists them."""
    path = Path(path)
    writer = {"weights": "save_weights", "state": "fit"}[kind]
    if not path.is_file():
        raise FileNotFoundError(f"path: got {str(path)!r}, where there is no file; accepts one that {writer} wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118, it is no dict
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"path: got {str(path)!r}, which is no complete safetensors file ({error}); accepts one that {writer} "
            "wrote. Pickled weights are never opened: they can run code."
        ) from error
    if metadata.get("format") != f"advutils-{kind}-1":
        raise ValueError(
            f"path: got {str(path)!r}, a safetensors file of another program or kind; accepts one that {writer} wrote"
        )
    if metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise ValueError(f"path: got {str(path)!r}, whose contents were altered since they were saved")
    try:
        return tensors, {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path: got {str(path)!r}, whose metadata are no JSON; accepts what {writer} wrote") from error


def tagged(tag, tensors):
    """The dict of tensors under names that begin with `tag.`"""
    return {f"{tag}.{key}": value for key, value in tensors.items()}


def untagged(tag, tensors):
    """Those of a dict of tensors whose names begin with `tag.`, under the rest of their names."""
    return {key.removeprefix(f"{tag}."): value for key, value in tensors.items() if key.startswith(f"{tag}.")}


def replace_file(path, data):
    """Write the bytes `data` to `path` through a temporary name: a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # short, however long the name is
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # not the temporary one, nor none, as of a full disk
        raise


def _config(model):
    return getattr(model, "config", {"architecture": type(model).__name__})


def _digest(tensors, metadata):
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"{key}{tensors[key].dtype}{tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
