"""The three networks of the series.

A model takes images in [0, 1] and returns logits. Padding and normalisation are its first two layers, so an attacker
can never perturb the padding, and epsilon never changes its unit.
"""

import numbers
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from advutils.utils import validation

VGG_BLOCKS = {  # convolutions in each of the five blocks: the whole difference between the VGGs
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
VGG_CHANNELS = (64, 128, 256, 512, 512)


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


def vgg(
    depth: int = 16, *, width: float = 1.0, in_channels: int = 1, num_classes: int = 10, contrast: float | None = None
) -> nn.Sequential:
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
    validation.one_of(depth, "depth", VGG_BLOCKS)
    in_channels, num_classes = validation.counts(in_channels=in_channels, num_classes=num_classes)
    width, channels = validation.positive(width, "width"), in_channels
    contrast = None if contrast is None else validation.positive(contrast, "contrast")
    layers: list[nn.Module] = [PadTo(32), Normalize() if contrast is None else Contrast(contrast)]
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
    config = dict(architecture="vgg", depth=depth, width=width, in_channels=in_channels, num_classes=num_classes)
    config["contrast"] = contrast
    return _finish(nn.Sequential(*layers), config)


def small_cnn(*, in_channels: int = 1, num_classes: int = 10) -> nn.Sequential:
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
    in_channels, num_classes = validation.counts(in_channels=in_channels, num_classes=num_classes)
    layers = [
        Normalize(),
        nn.Conv2d(in_channels, 32, 3), nn.ReLU(),
        nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.AdaptiveMaxPool2d(12), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, num_classes),
    ]  # fmt: skip
    config = dict(architecture="small_cnn", in_channels=in_channels, num_classes=num_classes)
    return _finish(nn.Sequential(*layers), config)


def strided_cnn(
    *,
    in_channels: int = 1,
    num_classes: int = 10,
    contrast: float | None = None,
    channels: int = 8,
    batch_norm: bool = False,
) -> nn.Sequential:
    """A small network whose bounds can be kept apart: two convolutions with stride 2, two dense layers, nothing else.

    Few layers, as each widens the bounds. 53,000 weights for digits.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        num_classes: K, the number of logits.
        contrast: None for the linear `Normalize`, or the slope of a `Contrast` in its place.
        channels: of the first convolution; the second has twice, the first dense layer eight times as many.
        batch_norm: put batch norm after each layer with weights but the last: it helps wide networks.

    Returns:
        nn.Sequential that maps images (N, in_channels, H, W) in [0, 1], at least 4x4, to logits (N, K). Features of
        images that are not 28x28 are pooled to the 7x7 that those have.

    Raises:
        TypeError, ValueError: a count that is not a positive whole number, or a slope that is not positive.

    Taught in 12_certificates.ipynb.
    """
    sizes = validation.counts(in_channels=in_channels, num_classes=num_classes, channels=channels)
    in_channels, num_classes, channels = sizes
    contrast = None if contrast is None else validation.positive(contrast, "contrast")
    half = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1, bias=not batch_norm)  # batch norm has its own bias
    normed = nn.BatchNorm2d(channels), nn.BatchNorm2d(2 * channels), nn.BatchNorm1d(8 * channels)
    norms = normed if batch_norm else (nn.Identity(),) * 3
    layers = [
        Normalize() if contrast is None else Contrast(contrast),
        half(in_channels, channels), norms[0], nn.ReLU(),
        half(channels, 2 * channels), norms[1], nn.ReLU(),
        nn.AdaptiveMaxPool2d(7), nn.Flatten(),
        nn.Linear(2 * channels * 7 * 7, 8 * channels, bias=not batch_norm), norms[2], nn.ReLU(),
        nn.Linear(8 * channels, num_classes),
    ]  # fmt: skip
    layers = [layer for layer in layers if not isinstance(layer, nn.Identity)]
    config = dict(architecture="strided_cnn", in_channels=in_channels, num_classes=num_classes, contrast=contrast)
    config |= {} if channels == 8 else dict(channels=channels)  # files of the usual network name neither
    config |= dict(batch_norm=True) if batch_norm else {}
    return _finish(nn.Sequential(*layers), config)


def _finish(model, config):
    model.config, model.train_hashes = config, torch.empty(0, dtype=torch.int64)
    return model.to(memory_format=torch.channels_last)  # 1.2 to 1.3 times the images per second on a CPU
