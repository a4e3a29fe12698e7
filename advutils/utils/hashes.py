"""Hashes of images, by which a model knows what it was trained on."""

import torch

NO_HASHES = torch.empty(0, dtype=torch.int64)  # the `image_hashes` of no image


def image_hashes(x):
    """A 64-bit key for each image of `x` (N, C, H, W) in [0, 1], from its 8-bit grey levels: int64 (N,), on the CPU."""
    grey = (x.detach().cpu() * 255).round().long().flatten(1)
    drawn = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, grey.shape[1:], generator=drawn, device="cpu")
    return (grey * weights).sum(1)


def train_hashes_of(model):
    """The `image_hashes` of all images that the model, or a part of it, was trained on: int64 (n,)."""
    parts = [getattr(part, "train_hashes", None) for part in model.modules()]
    # The name is common: what others keep under it is left out.
    ours = [keys for keys in parts if isinstance(keys, torch.Tensor) and keys.dtype == torch.int64]
    return torch.cat([NO_HASHES, *ours])
