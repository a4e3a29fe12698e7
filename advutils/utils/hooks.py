"""Hooks that look at what goes through a model: the ledger's, and whether anybody else has put one there."""

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass
class Ledger:
    """Images that went forward and backward through a network, as its hooks counted them."""

    forwards: int = 0
    backwards: int = 0

    @contextlib.contextmanager
    def paused(self):
        """What goes through the network inside the block is not counted."""
        before = self.forwards, self.backwards
        try:
            yield
        finally:
            self.forwards, self.backwards = before


@contextlib.contextmanager
def ledger(model: nn.Module) -> Iterator[Ledger]:
    """Count the images that go forward and backward through `model` inside the block.

    Yields:
        Ledger(forwards, backwards), running. A backward is counted when a gradient reaches the logits, whether it goes
        on to the weights, to the pixels, or to both.

    Taught in 04_adversarial_training.ipynb.
    """
    passes = Ledger()

    def count_backward(gradient):
        passes.backwards += len(gradient)

    def count_forward(module, inputs, logits):
        passes.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(count_backward)

    with model.register_forward_hook(of_ledger(count_forward)):  # a hook's handle removes it
        yield passes


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


@contextlib.contextmanager
def record_inputs(model, n):
    """The last n batches that went through the model in train mode inside the block, as a running deque."""
    recent = deque(maxlen=n)

    def remember(module, inputs):
        if module.training and n:
            recent.append(inputs[0].detach().clone())  # before a model works in place on it

    with model.register_forward_pre_hook(of_ledger(remember)):
        yield recent
