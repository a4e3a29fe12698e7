"""A sticker: one small picture, the same for all images, that covers what lies beneath it."""

from collections.abc import Iterator

import torch
from torch import nn

from advutils.attacks.base import attack, loss_gradient, uniform
from advutils.attacks.gradient import project
from advutils.attacks.losses import cross_entropy
from advutils.utils import validation
from advutils.utils.contracts import Loader
from advutils.utils.validation import device_of


def corners(height: int, width: int, side: int, *, seen: bool = True) -> torch.Tensor:
    """Places for a sticker of that side, its upper left corners (M, 2): one half to train on, the other to test on.

    They lie like the fields of a chessboard: a place is `seen` where row + column is even.

    Raises:
        TypeError, ValueError: a side that is not a whole number from 1 to the smaller of height and width.

    Taught in 15_other_budgets.ipynb.
    """
    validation.count(side, "side", most=min(height, width))
    rows, cols = torch.meshgrid(torch.arange(height - side + 1), torch.arange(width - side + 1), indexing="ij")
    places = torch.stack([rows, cols], 2).view(-1, 2)
    return places[(places.sum(1) % 2 == 0) == seen]


@attack(reads_model=False, draws=True)
def sticker(
    model: nn.Module | None,
    x: torch.Tensor,
    y: torch.Tensor | None,
    *,
    eps: float,
    patch: torch.Tensor,
    seen: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Cover a square of each image by the patch, at a random place.

    Args:
        model, y: ignored; they are there because an attack takes them.
        x: images (N, C, H, W), float32 in [0, 1].
        eps: how far a covered pixel may move, 0 to 1; at 1 nothing shines through.
        patch: the sticker (C, side, side), in [0, 1], as `train_patch` makes it.
        seen: choose among the places that the patch was trained at, not among the others. A sticker as large as the
            image has no others.
        generator: torch.Generator to draw the places from; the global one if None.

    Returns:
        Images shaped like x.

    Raises:
        TypeError, ValueError: an argument that is not as above, or a patch that does not fit into the images.

    Brown et al., 2017, arXiv:1712.09665. Taught in 15_other_budgets.ipynb.
    """
    _fits(patch, x)
    return project(_pasted(x, patch, _places(x, patch.shape[-1], seen, generator)), x, eps)


def train_patch(
    model: nn.Module,
    loader: Loader,
    *,
    target: int,
    side: int = 7,
    steps: int = 300,
    step_size: float = 0.05,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """One sticker that makes a network read `target`, whatever it is stuck on and wherever.

    Each step covers a batch at random places (the `seen` ones of `corners`), and moves the patch against the sign of
    the gradient of the loss towards `target`, averaged over the batch: expectation over transformations. In the
    second half of the steps their size falls to 0 in a straight line.

    Args:
        model: nn.Module that maps images to logits (N, K).
        loader: batches (x, y) of training images in [0, 1], taken anew when it ends; images of the target are left out.
        target: the class that the network is to read.
        side: of the square, in pixels.
        steps: batches, at least 1.
        step_size: by how much a value of the patch moves in a step, above 0.
        generator: torch.Generator to draw the places from; the global one if None.

    Returns:
        The patch (C, side, side) in [0, 1], on the model's device.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Brown et al., 2017, arXiv:1712.09665. Taught in 15_other_budgets.ipynb.
    """
    steps, step_size = validation.count(steps, "steps"), validation.positive(step_size, "step_size")
    validation.module(model)
    side, target = validation.count(side, "side"), validation.count(target, "target", least=0)
    batches = _others(model, loader, target)
    x = next(batches)
    patch = torch.full_like(x[0, :, :side, :side], 0.5)
    for step in range(steps):
        _fits(patch, x)
        places = _places(x, side, True, generator)
        wanted = torch.full((len(x),), target, device=x.device)
        gradient, _ = loss_gradient(model, _pasted(x, patch, places), wanted, cross_entropy, targeted=True)
        rows, cols = _squares(places, side)
        covered = gradient.movedim(1, 3)[torch.arange(len(x), device=x.device)[:, None, None], rows, cols]
        now = step_size * min(1.0, 2 * (1 - step / steps))
        patch = (patch - now * covered.sum(0).movedim(2, 0).sign()).clamp(0, 1)
        x = next(batches)
    return patch


def _others(model, loader, target) -> Iterator[torch.Tensor]:
    """Batches of images of other classes than the target, again and again."""
    while True:
        served = 0
        for x, y in loader:
            validation.images(x)
            x = x[y != target].to(device_of(model) or x.device)
            served += len(x)
            if len(x):
                yield x
        if served == 0:
            raise ValueError(f"loader: got no image of another class than target={target}; accepts at least one")


def _fits(patch, x):
    """Raise unless the patch is a square of the images' channels, in [0, 1], that fits into them."""
    validation.images(patch[None] if isinstance(patch, torch.Tensor) and patch.ndim == 3 else patch, "patch")
    channels, height, width = patch.shape
    if channels != x.shape[1] or height != width or height > min(x.shape[2:]):
        accepts = f"({x.shape[1]}, side, side), the side at most {min(x.shape[2:])}"
        raise ValueError(f"patch: got shape {tuple(patch.shape)}; accepts {accepts}")


def _places(x, side, seen, generator):
    """A random place for each image, (N, 2)."""
    there = corners(*x.shape[2:], side, seen=seen).to(x.device)
    if len(there) == 0:
        got = f"a sticker of side {side} on images {x.shape[2]} by {x.shape[3]}, which has no other place"
        raise ValueError(f"seen: got False for {got}; accepts True, or a smaller sticker")
    return there[(uniform(x[:, 0, 0, 0], generator) * len(there)).long()]


def _squares(places, side):
    """Row and column of each pixel that is covered: (N, side, 1) and (N, 1, side)."""
    along = torch.arange(side, device=places.device)
    return places[:, :1, None] + along[:, None], places[:, 1:, None] + along


def _pasted(x, patch, places):
    """The images with the patch on them."""
    rows, cols = _squares(places, patch.shape[-1])
    pasted = x.movedim(1, 3).clone()
    pasted[torch.arange(len(x), device=x.device)[:, None, None], rows, cols] = patch.movedim(0, 2)
    return pasted.movedim(3, 1).contiguous()
