"""What the package refuses, in tables: the input, and a part of the message that it gets."""

import pytest
import torch
from helpers import batch, linear
from torch import nn

X, Y = batch(3)
NAN, INFINITE = X.clone(), X.clone()
NAN[0, 0, 0, 0], INFINITE[1, 0, 2, 2] = torch.nan, torch.inf


BAD_IMAGES = {
    "an array": (X.numpy(), "ndarray"),
    "nothing": (None, "NoneType"),
    "double precision": (X.double(), "torch.float64"),
    "half precision": (X.half(), "torch.float16"),
    "grey levels": ((X * 255).byte(), "x.float() / 255"),
    "one image": (X[0], "x.unsqueeze(0)"),
    "a flat batch": (X.flatten(1), "(3, 64)"),
    "no image": (X[:0], "(0, 1, 8, 8)"),
    "NaN": (NAN, "NaN"),
    "infinite": (INFINITE, "infinite"),
    "255 for white": (X * 255, "255"),
    "normalised": (2 * X - 1, "-1"),
    "a shade too light": (X + 1e-4, "1"),
}


BAD_EPS = {
    "negative": (-0.1, "-0.1"),
    "NaN": (float("nan"), "nan"),
    "infinite": (float("inf"), "inf"),
    "a shade above 1": (1.001, "1.001"),
    "8 for 8/255": (8, "8/255"),
    "text": ("0.1", "'0.1'"),
    "nothing": (None, "NoneType"),
    "a truth": (True, "True"),
    "a list": ([0.1], "list"),
    "a tensor": (torch.tensor(0.1), "Tensor"),
    "complex": (0.1j, "0.1j"),
}


class Returns(nn.Module):
    """A model that returns what it is told to make of its true logits."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = linear(), change

    def forward(self, x):
        return self.change(self.net(x))


BAD_MODELS = {
    "a function": (lambda x: x, "function"),
    "a class": (nn.Flatten, "type"),
    "nothing": (None, "NoneType"),
    "probabilities": (Returns(lambda z: z.softmax(1)), "probabilities"),
    "certain probabilities": (Returns(lambda z: (1e6 * z).softmax(1)), "probabilities"),
    "a row too few": (Returns(lambda z: z[1:]), "(2, 4)"),
    "one row for all": (Returns(lambda z: z.mean(0, keepdim=True)), "(1, 4)"),
    "a flat output": (Returns(lambda z: z.flatten()), "(12,)"),
    "a map of logits": (Returns(lambda z: z[:, :, None]), "(3, 4, 1)"),
    "predicted labels": (Returns(lambda z: z.argmax(1)), "Tensor"),
    "a tuple": (Returns(lambda z: (z, z)), "tuple"),
    "a dict": (Returns(lambda z: dict(logits=z)), "dict"),
    "NaN logits": (Returns(lambda z: z * torch.nan), "NaN"),
    "infinite logits": (Returns(lambda z: z / 0), "infinite"),
}


def table(rows):
    return pytest.mark.parametrize("bad, fragment", rows.values(), ids=rows)
