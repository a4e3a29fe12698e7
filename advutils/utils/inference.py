"""A model asked for its logits: in eval mode, on a copy of the images, in the precision of its weights."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from advutils.utils import validation

PRECISIONS = (torch.float16, torch.bfloat16, torch.float64)  # of models that take no float32 images


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode inside the block, of the unwrapped model; on the way out, by an error too, each module as it was."""
    modes = [(part, getattr(part, "training", False)) for part in model.modules()]  # frozen: no mode
    try:
        if any(training for _, training in modes):
            with contextlib.suppress(NotImplementedError):  # an exported one stays in the mode of its export
                model.eval()
        yield unwrap_model(model)
    finally:
        for module, training in modes:  # a `train` of its own may do more than set the mode: merge weights, for one
            if getattr(module, "training", training) != training and type(module).train is not nn.Module.train:
                module.train(training)
        for module, training in modes:
            if getattr(module, "training", training) != training:  # to set one takes ten times as long as to look
                module.training = training


def unwrap_model(model):
    """The model itself, out of the DistributedDataParallel around it: a pass through that waits for other processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def logits_of(model, x):
    """The model's logits for x, in float32 or float64. The model gets a copy, as some work in place on what they get.

    A model whose weights are all in half or all in double precision gets images in that precision.
    """
    z = model(x.to(precision_of(model, x), copy=True))
    half = isinstance(z, torch.Tensor) and z.dtype in (torch.float16, torch.bfloat16)
    return z.float() if half else z


def predict_logits(model, x, y=None):
    """The model's checked logits for x, in eval mode, without a gradient; there is a column for each label of y."""
    with eval_mode(model) as model, torch.no_grad():
        z = logits_of(model, x)
    validation.logits(z, len(x))
    if y is not None:
        validation.classes(y, z.shape[1])
    return z


def precision_of(model, x):
    """The precision in which a model takes the images x: theirs, unless its weights are all in half or in double."""
    dtypes = {p.dtype for p in model.parameters() if p.ndim and p.is_floating_point()}
    alone = dtypes.pop() if len(dtypes) == 1 else x.dtype
    return alone if alone in PRECISIONS else x.dtype
