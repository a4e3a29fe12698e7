"""Weights in safetensors files: checked on the way in, whole or absent on the way out."""

import hashlib
import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from advutils.utils import validation
from advutils.utils.hashes import train_hashes_of
from advutils.utils.storage import atomic_write

FORMAT = "advutils-weights-1"
PACKED_FROM = 20_000  # smaller layers weigh little, and rounding the first ones moved a robust accuracy by 0.3 points


def save_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    recipe: object = None,
    history: dict | None = None,
    machine: str = "",
    bits: int | None = None,
) -> None:
    """Write the model's weights to a safetensors file, whole or not at all.

    Args:
        model: any nn.Module. The networks of this package also carry what they were trained on (`train_hashes`, one
            for each training image), which is saved along so that nobody scores them on it.
        path: the file to write; its folder is made. An existing file is replaced only when the new one is complete.
        recipe: how the weights were made, anything that JSON can hold.
        history: a `History` of `fit`, as a dict.
        machine: on which they were made, a line of text.
        bits: None, or 16 or 8: keep the weights of layers with more than 20,000 as whole numbers of so many bits, with
            a scale for each output. The file is about a half or a quarter as large, for an error of up to 1/65534 or
            1/254 of the largest weight of that output.

    Raises:
        TypeError: the model is no nn.Module, or the recipe is nothing that JSON can hold.
        ValueError: another number of bits.

    Taught in 01_train_vgg.ipynb.
    """
    validation.module(model)
    kind = {None: None, 16: torch.int16, 8: torch.int8}[validation.one_of(bits, "bits", (None, 16, 8))]
    state = model.state_dict()
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"model: got a {type(value).__name__} as {key} in its state; accepts tensors alone")
    tensors = {f"model.{key}": value for key, value in state.items()} | {"train_hashes": train_hashes_of(model)}
    if kind is not None:
        large = [(k, t) for k, t in tensors.items() if t.ndim > 1 and t.numel() > PACKED_FROM]
        for key, weight in [(k, t) for k, t in large if t.dtype == torch.float32]:
            largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
            scale = largest.clamp_min(1e-30) / torch.iinfo(kind).max
            tensors[f"scale.{key}"] = scale.flatten()
            tensors[key] = (weight / scale).round().to(kind)
    about = dict(config=_config(model), recipe=recipe, history=history, machine=machine)
    write_tensors(path, tensors, about)


def load_weights(model: nn.Module, path: str | os.PathLike) -> dict:
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
    tensors, saved = read_tensors(path)
    if not {"config", "recipe", "history"} <= saved.keys() or "train_hashes" not in tensors:
        raise _refusal(path, "which lacks a part of what save_weights writes", "a whole file")
    if saved["config"] != json.loads(json.dumps(_config(model))):
        raise _refusal(path, f"with weights of {saved['config']}", f"those of {_config(model)}")
    train_hashes = tensors.pop("train_hashes")
    weights, scales = (
        {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        for start in ("model.", "scale.model.")
    )
    for key, scale in scales.items():
        weights[key] = weights[key] * scale.view(-1, *[1] * (weights[key].ndim - 1))
    have = {key: (tuple(value.shape), value.dtype) for key, value in model.state_dict().items()}
    want = {key: (tuple(value.shape), value.dtype) for key, value in weights.items()}
    if have != want:
        differing = sorted(key for key in have.keys() | want.keys() if have.get(key) != want.get(key))
        raise _refusal(path, f"which differs from the model in {', '.join(differing[:3])}", "one of the same layers")
    model.load_state_dict(weights)
    model.train_hashes = train_hashes
    return saved


def write_tensors(path, tensors, about):
    """Write named tensors and a dict that JSON can hold to a safetensors file, with a checksum, whole or not at all."""
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}  # tied ones apart
    metadata = {"format": FORMAT} | {key: json.dumps(value) for key, value in about.items()}
    metadata["sha256"] = digest(tensors, metadata)
    atomic_write(path, safetensors.torch.save(tensors, metadata))


def read_tensors(path):
    """What `write_tensors` wrote, as (tensors, about); errors as `load_weights` lists them."""
    path = Path(path)
    if not path.is_file():
        raise _refusal(path, "where there is no file", kind=FileNotFoundError)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118, it is no dict
    except safetensors.SafetensorError as error:
        accepts = "one that save_weights wrote. Pickled weights are never opened: they can run code."
        raise _refusal(path, f"which is no complete safetensors file ({error})", accepts) from error
    if metadata.get("format") != FORMAT:
        raise _refusal(path, "a safetensors file of another program or version")
    if metadata.pop("sha256", None) != digest(tensors, metadata):
        raise _refusal(path, "whose contents were altered since they were saved")
    return tensors, {key: json.loads(value) for key, value in metadata.items() if key != "format"}


def _refusal(path, what, accepts="one that save_weights wrote", kind=ValueError):
    return kind(f"path: got {str(path)!r}, {what}; accepts {accepts}")


def _config(model):
    return getattr(model, "config", {"architecture": type(model).__name__})


def digest(tensors, metadata):
    """The sha256 of named tensors and of a dict of text, as hex digits."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for key in sorted(tensors):
        total.update(f"{key}{tensors[key].dtype}{tuple(tensors[key].shape)}".encode())
        total.update(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
