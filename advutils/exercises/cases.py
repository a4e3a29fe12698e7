"""The data of the tests: drawn from a seed, small, and with truths that need no code of the package."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Case:
    """What one run of the tests is made on. The same seed gives the same data, another seed other data."""

    def __init__(self, seed: int):
        self.seed, self.generator = seed, torch.Generator().manual_seed(1000 + seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Numbers between low and high."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        """One number between low and high."""
        return self.uniform(1, low=low, high=high).item()

    def images(self, n: int = 6, *, low: float = -0.2, high: float = 1.2) -> torch.Tensor:
        """n images (n, 1, 6, 6) in [0, 1]; with the usual low and high, some pixels are exactly 0 or 1."""
        return self.uniform(n, 1, 6, 6, low=low, high=high).clamp(0, 1)

    def labels(self, n: int = 6, classes: int = 4) -> torch.Tensor:
        """n labels, of every class where n is large enough."""
        return (torch.arange(n) + self.seed) % classes

    def three_kinds(self, strong: int, weak: int, wrong: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images for `FirstPixels` and their labels: the label leads by 0.5, by 0.1, and lies 0.1 behind."""
        leads = torch.tensor([0.5] * strong + [0.1] * weak + [-0.1] * wrong)
        x, y = torch.full((len(leads), 1, 6, 6), 0.3), self.labels(len(leads))
        x[torch.arange(len(y)), 0, 0, (y + 1) % 4] = 0.4 + (-leads).clamp_min(0)
        x[torch.arange(len(y)), 0, 0, y] = 0.4 + leads.clamp_min(0)
        return x, y

    def linear(self, classes: int = 4, scale: float = 1.0) -> "Linear":
        """A linear model, whose gradient `Linear.gradient` knows in closed form."""
        return Linear(scale * self.uniform(classes, 36, low=-1, high=1))

    def curved(self) -> "Curved":
        """A model whose gradient turns on the way, so that one step is not enough."""
        return Curved(self.uniform(4, 36, low=-1, high=1), self.uniform(4, 36, low=0.2, high=0.8))


class Linear(nn.Module):
    """Logits W x. Counts its passes, and those in train mode, in buffers."""

    passes: torch.Tensor

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("passes", torch.zeros(2))

    def forward(self, x):
        self.passes += torch.tensor([1.0, self.training])
        return x.flatten(1) @ self.weight.T

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of each image's cross-entropy for its pixels: W^T (p - onehot(y)), in double precision."""
        weight, flat = self.weight.detach().double(), x.detach().flatten(1).double()
        p = (flat @ weight.T).softmax(1)
        return ((p - torch.eye(len(weight)).double()[y]) @ weight).view(x.shape)


class Curved(Linear):
    """Logits w (x - c)^2, summed over the pixels: the gradient is another one at each point."""

    centre: torch.Tensor

    def __init__(self, weight, centre):
        super().__init__(weight)
        self.register_buffer("centre", centre)

    def forward(self, x):
        self.passes += torch.tensor([1.0, self.training])
        return 4 * ((x.flatten(1)[:, None] - self.centre) ** 2 * self.weight).sum(2)

    def gradient(self, x, y):
        weight, centre = self.weight.detach().double(), self.centre.double()
        off = x.detach().flatten(1).double()[:, None] - centre
        p = (4 * (off**2 * weight).sum(2)).softmax(1)
        slopes = (p - torch.eye(len(weight)).double()[y])[:, :, None] * 8 * off * weight
        return slopes.sum(1).view(x.shape)


class Moody(Linear):
    """A linear model whose logits are half as large in train mode."""

    def forward(self, x):
        return super().forward(x) * (0.5 if self.training else 1.0)


def step_in_eval_mode(model: Linear, x: torch.Tensor, y: torch.Tensor, *, eps: float) -> torch.Tensor:
    """An attack on `Linear` that goes the wrong way where the model is in train mode."""
    way = -1 if model.training else 1
    return (x + way * eps * model.gradient(x, y).float().sign()).clamp(0, 1)


class Masked(Linear):
    """A random defence: each call blackens about half of the pixels, the same ones in each image of the batch."""

    def forward(self, x, generator):
        return super().forward(x * self.mask(x, generator))

    def mask(self, x, generator):
        """The next draw, (1, C, H, W)."""
        return (torch.rand(x[:1].shape, generator=generator) < 0.5).to(x.dtype)

    def gradient_of_draw(self, x, y, generator):
        """Of each image's cross-entropy behind the next draw, in double precision."""
        mask = self.mask(x.double(), generator)
        return mask * self.gradient(x.double() * mask, y)


class Window(nn.Module):
    """Two classes; class 1 where the first pixel lies between the second and the third."""

    def forward(self, x):
        pixel, low, high = x.flatten(1)[:, :3].unbind(1)
        inside = ((pixel > low) & (pixel < high)).float()
        return torch.stack([-inside, inside - 1], 1)


class FirstPixels(nn.Module):
    """The logits of four classes are the first four pixels; in train mode it is always surest of class 0."""

    def forward(self, x):
        logits = x.flatten(1)[:, :4]
        return logits + 9 * self.training * torch.eye(4)[0]


def lower_label(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float) -> torch.Tensor:
    """An attack on `FirstPixels`: darken the pixel of the label by eps."""
    x_adv = x.clone()
    x_adv[torch.arange(len(y)), 0, 0, y] -= eps
    return x_adv


def raise_rival(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Another one: brighten the pixel after it by 2 eps, but only in images whose last pixel is white."""
    x_adv = x.clone()
    x_adv[torch.arange(len(y)), 0, 0, (y + 1) % 4] += 2 * eps * x[:, 0, 5, 5].round()
    return x_adv


class Batches(list):
    """A loader of plain tuples, which knows its data set as PyTorch's loaders do."""

    dataset: TensorDataset


def batches(x: torch.Tensor, y: torch.Tensor, size: int) -> Batches:
    """A loader whose last batch is smaller where the sizes do not fit."""
    loader = Batches(zip(x.split(size), y.split(size)))
    loader.dataset = TensorDataset(x, y)
    return loader


def clear(gradient: torch.Tensor) -> torch.Tensor:
    """Where the sign of a gradient can be relied on: not negligible beside the image's largest entry."""
    return gradient.abs() > 1e-4 * gradient.abs().amax((1, 2, 3), keepdim=True)
