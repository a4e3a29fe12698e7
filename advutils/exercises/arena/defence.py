"""A defence of the arena: its model, what its authors claim, and a count of what an attack asks of the model."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from advutils.utils.hooks import of_ledger
from advutils.utils.inference import predict_logits
from advutils.utils.weights import digest


@dataclass(frozen=True, kw_only=True, repr=False)
class Defence:
    """A defended network with the claim of its authors and the rules under which it is attacked.

    Attributes:
        name: as in `table()`.
        story: what its authors did, and why they believe in it.
        model: nn.Module in eval mode, on the CPU; logits (N, 10), or (N, 11) where class 10 says "rejected". A
            randomised one draws from PyTorch's global random state, as dropout does.
        x, y: the images (N, 1, 28, 28), float32 in [0, 1], and their labels (N,), int64.
        eps: radius of the l_inf ball in pixel units.
        claim: the authors' robust accuracy on these images, in percent.
        claimed_with: the attack with which they measured it, in words.
        gradients, queries: what a submitted attack may ask for, for each image on average; see `counted`.
        hints: three, from a nudge to the way.
        sha256: `fingerprint` of the model, x and y.
        draws: readings of each image; above 1 for a randomised defence.
        certificate: None, or a callable `(model, x, y, *, eps)` that says which images are proved, bool (N,).
    """

    name: str
    story: str
    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    eps: float
    claim: float
    claimed_with: str
    gradients: int
    queries: int
    hints: tuple[str, str, str]
    sha256: str
    draws: int = 1
    certificate: Callable | None = None

    def __repr__(self) -> str:
        return (
            f"{self.name}: {self.story}\n"
            f"Claim: {self.claim:.0f}% of {len(self.x)} images withstand {self.claimed_with} at eps = {self.eps:g}.\n"
            f"Budget of a submitted attack, for each image: {self.gradients} gradients, {self.queries} queries."
        )


def fingerprint(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> str:
    """The sha256 of a model's state, of images and of labels, with their names, types and shapes, as 64 hex digits.

    Buffers that are computed (a matrix of cosines) may round differently elsewhere: register them as not persistent.
    """
    return digest({key: value.cpu() for key, value in model.state_dict().items()} | {"x": x, "y": y}, {})


@contextlib.contextmanager
def counted(defence: Defence) -> Iterator[nn.Module]:
    """The defence's model, which refuses an attack that asks for more than its budget while the block runs.

    A query is an image that goes forward through the model, a gradient is one that comes back. They are counted at the
    model and at each layer with weights, in units of what one image costs there, and the highest count decides. So a
    part of the model that is called by itself counts as the model does, and a deep copy as its original. Code that uses
    the weights without the layers, hides images in `torch.func.vmap`, or opens the defence anew is not counted.

    Raises:
        ValueError: inside the block, from the call that goes beyond the budget; the message names what was spent.
    """
    model = defence.model
    layers = [layer for layer in model.modules() if layer is model or list(layer.parameters(recurse=False))]
    cost: Counter = Counter()  # passes of one image through each layer, of which some serve several times
    spent: dict[str, Counter] = {"queries": Counter(), "gradients": Counter()}
    with contextlib.ExitStack() as hooks:
        for index, layer in enumerate(layers):
            spend = _spender(defence, index, cost, spent)
            hooks.enter_context(layer.register_forward_pre_hook(_before(spend), with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(_after(spend)))
        with torch.random.fork_rng():
            predict_logits(model, defence.x[:1])
        cost.update(spent["queries"])
        spent["queries"].clear()
        yield model


def _spender(defence, index, cost, spent):
    def spend(kind, images):
        spent[kind][index] += images
        allowed = getattr(defence, kind)
        if cost[index] and spent[kind][index] > allowed * len(defence.x) * cost[index]:
            raise ValueError(
                f"attack: got one that asks for more than {allowed} {kind} for each of the {len(defence.x)} images; "
                f"accepts {defence.queries} queries (images that go through the model) and {defence.gradients} "
                "gradients (those that come back)"
            )

    return spend


def _before(spend):
    def watch(_, inputs, named):
        for images in [*inputs, *named.values()][:1]:
            spend("queries", len(images))

    return of_ledger(watch)


def _after(spend):
    def watch(_, inputs, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: spend("gradients", len(gradient)))

    return of_ledger(watch)
