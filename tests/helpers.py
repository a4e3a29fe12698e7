"""Small models, small data and a few questions that many tests ask."""

import contextlib
import copy
import functools
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from advutils import cw, dlr, eval_mode, fgsm, grey, load_data, make_loader, pgd, random_noise, square, targeted
from advutils.utils.traits import norm_of

torch.set_num_threads(1)  # the models here are so small that threads only get in each other's way
few = settings(max_examples=10)

ATTACKS = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=3),
    "pgd without random start": partial(pgd, steps=3, random_start=False),
    "pgd with restarts": partial(pgd, steps=2, restarts=3),
    "pgd with long steps": partial(pgd, steps=2, step_size=0.7),
    "pgd with momentum": partial(pgd, steps=3, momentum=0.9, random_start=False),
    "pgd on the dlr loss": partial(pgd, steps=3, loss=dlr),
    "pgd on the margin": partial(pgd, steps=3, loss=cw, random_start=False),
    "pgd with early exit": partial(pgd, steps=3, restarts=2, early_exit=True),
    "targeted": partial(targeted, attack=partial(pgd, steps=2), n_target_classes=2),
    "square": partial(square, n_queries=15),
    "grey": grey,
    "random noise": random_noise,
    "l2 pgd": partial(pgd, steps=3, norm="l2"),
    "l2 pgd with long steps": partial(pgd, steps=2, norm="l2", step_size=5),
    "l2 pgd with momentum": partial(pgd, steps=4, norm="l2", momentum=1, random_start=False),
    "l2 pgd with restarts and early exit": partial(pgd, steps=2, norm="l2", restarts=3, early_exit=True),
    "l2 grey": partial(grey, norm="l2"),
}
DETERMINISTIC = ("fgsm", "pgd without random start", "pgd with momentum", "pgd on the margin", "grey",
                 "l2 pgd with momentum", "l2 grey")  # fmt: skip
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def images(n, *, channels=1, size=8, seed=0):
    """Random images, some pixels of which are exactly 0 or 1."""
    x = torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))
    return (1.4 * x - 0.2).clamp(0, 1)


def labels(n, classes=4, *, seed=0):
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))


def batch(n=6, *, classes=4, seed=0, **kwargs):
    return images(n, seed=seed, **kwargs), labels(n, classes, seed=seed)


def dataset(n=6, **kwargs):
    return TensorDataset(*batch(n, **kwargs))


def loader(n=6, batch_size=4, **kwargs):
    return make_loader(dataset(n, **kwargs), batch_size=batch_size)


@functools.cache
def _all_digits(train):
    return load_data("mnist-5k", train=train).tensors


def digits(n, *, train=True):
    """n digits of mnist-5k, of every class."""
    x, y = _all_digits(train)
    some = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:n]
    return x[some], y[some]


def linear(classes=4, *, channels=1, size=8, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))


def conv_net(seed=0, *, channels=1, size=8, classes=4):
    """A net with everything that tells train from eval: dropout, and batch norm with running statistics of its own."""
    return copy.deepcopy(_conv_net(seed, channels, size, classes))  # to make one anew takes three times as long


@functools.cache
def _conv_net(seed, channels, size, classes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(channels, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, classes),
        )  # fmt: skip
        for _ in range(3):
            model(torch.rand(16, channels, size, size))
    return model


def mixed_modes(model):
    """Leave the model as a fine-tuner might: part frozen, part in eval mode, a gradient pending."""
    model.train()
    for number, module in enumerate(model.modules()):
        if number % 3 == 1:
            module.training = False
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.full_like(parameters[-1], 0.25)
    return model


class RaisesAt(nn.Module):
    """A model that fails at its n-th forward pass."""

    def __init__(self, model, n):
        super().__init__()
        self.model, self.left = model, n

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("out of paper")
        return self.model(x)


def state(model):
    """All of a model that an attack could spoil."""
    return copy.deepcopy(
        {
            "tensors": model.state_dict(),
            "modes": [module.training for module in model.modules()],
            "requires_grad": [p.requires_grad for p in model.parameters()],
            "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        }
    )


def same_state(a, b):
    plain = all(a[key] == b[key] for key in ("modes", "requires_grad", "hooks"))
    grads = all((g is None) == (h is None) and (g is None or torch.equal(g, h)) for g, h in zip(a["grads"], b["grads"]))
    return plain and grads and same_weights(a["tensors"], b["tensors"])


@contextlib.contextmanager
def untouched(model, *tensors):
    """Whatever happens inside the block, an error included, leaves the model and the tensors as they were."""
    before, copies = state(model), [t.detach().clone() for t in tensors]
    flags = [t.requires_grad for t in tensors]
    try:
        yield
    finally:
        assert same_state(before, state(model)), "the model was changed"
        for tensor, copied, flag in zip(tensors, copies, flags):
            assert torch.equal(tensor, copied) and tensor.requires_grad == flag and tensor.grad is None


@contextlib.contextmanager
def refused(argument, *fragments):
    """The block raises a ValueError or TypeError that names the argument, says what it got and what it accepts."""
    with pytest.raises((ValueError, TypeError)) as caught:
        yield
    message = str(caught.value)
    assert message.startswith(f"{argument}: got "), message
    assert "; accepts " in message, message
    for fragment in fragments:
        assert fragment in message, message


def clear(gradient, share=1e-6):
    """Where an image's gradient is not negligible beside its largest entry, so that its sign can be relied on."""
    size = gradient.abs()
    return size > share * size.amax((1, 2, 3), keepdim=True)


def in_ball(x_adv, x, eps):
    return (x_adv - x).abs().max() <= eps + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1


def in_l2_ball(x_adv, x, eps):
    lengths = (x_adv.double() - x.double()).flatten(1).norm(dim=1)
    return lengths.max() <= eps * (1 + 1e-6) + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1


def in_its_ball(attack, x_adv, x, eps):
    return (in_l2_ball if norm_of(attack) == "l2" else in_ball)(x_adv, x, eps)


def leads(model, x, y):
    """Above 0 where the model misreads the image."""
    with eval_mode(model), torch.no_grad():
        return cw(model(x), y)


def read_as(model, x):
    """The class of each image."""
    with eval_mode(model), torch.no_grad():
        return model(x).argmax(1)


def certain(model, x, y, eps):
    """The largest margin that a linear model can be driven to in the l_inf ball and [0, 1], exactly."""
    weight, bias = (p.detach().double() for p in model[1].parameters())
    low, high = ((x + s * eps).clamp(0, 1).flatten(1).double() for s in (-1, 1))
    best = []
    for k in range(len(bias)):
        w = weight[k] - weight[y]  # (N, D)
        reach = torch.where(w > 0, w * high, w * low).sum(1) + bias[k] - bias[y]
        best.append(reach.masked_fill(y == k, -torch.inf))
    return torch.stack(best).amax(0)


def grey_images(n, classes=2, *, seed=0):
    """Images far enough from black and white that a small ball is not clipped."""
    return 0.4 + 0.2 * images(n, seed=seed), labels(n, classes, seed=seed)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def measured(history):
    return {key: value for key, value in vars(history).items() if key != "seconds"}


class Runs:
    """A pickle of this leaves a file behind when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class BreaksOff:
    """An objective that is broken off at its n-th call, and only there; by its name it is the same training."""

    def __init__(self, objective, n):
        functools.update_wrapper(self, objective)
        self.objective, self.left = objective, n

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.objective(*args, **kwargs)


def same_weights(a, b):
    """Whether two networks, or their states, hold the same values to the bit."""
    a, b = (getattr(of, "state_dict", lambda of=of: of)() for of in (a, b))
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@functools.cache
def small_net_and_digits():
    """A small convolutional net, somewhat trained on digits, and 60 digits that it did not see."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=2), nn.BatchNorm2d(8), nn.Softplus(),
            nn.Conv2d(8, 16, 5, stride=2), nn.BatchNorm2d(16), nn.Softplus(),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(400, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        x, y = digits(1280)
        for part in range(60):
            at = torch.arange(64 * part, 64 * (part + 1)) % len(y)
            optimizer.zero_grad()
            F.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
    x, y = digits(60, train=False)
    model = model.eval().requires_grad_(False)
    assert (model(x).argmax(1) == y).float().mean() > 0.7
    return model, x, y
