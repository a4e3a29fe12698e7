"""The contracts of the package as types: what an attack, an objective, a loss and a loader are."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (logits (N, K), y (N,)) -> (N,), climbed by an attack
Loader = Iterable[Any]  # batches (x, y): images (N, C, H, W) float32 in [0, 1], labels (N,) int64


class Attack(Protocol):
    """Anything that can be called like this is an attack: images (N, C, H, W) in [0, 1] in, attacked images out."""

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float) -> torch.Tensor: ...


class Objective(Protocol):
    """What training minimises: (model, x, y) -> a mean loss over a batch. `fit(eps=...)` hands `eps` on to it."""

    def __call__(self, *model_x_y: Any, **options: Any) -> torch.Tensor: ...
