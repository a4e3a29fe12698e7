"""Loaders looked at and served: examples spread over the data, batches that are checked and on the model's device."""

import torch
from torch.utils.data import DataLoader, default_collate

from advutils.utils import distributed, validation
from advutils.utils.hashes import image_hashes

HELD = 2**26  # pixels of images that are kept in memory to be measured after each epoch, 256 MB


def check(loader, name):
    """Raise unless it is a DataLoader that serves all examples of a data set that can be indexed."""
    if not isinstance(loader, DataLoader):
        raise TypeError(f"{name}: got {type(loader).__name__}; accepts a DataLoader, as make_loader returns")
    if len(loader) == 0:
        raise ValueError(f"{name}: got an empty loader; accepts one with at least one batch")
    data, sampler = loader.dataset, [*distributed.samplers(loader)][-1]
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(f"{name}: got a loader of {type(data).__name__}; accepts one of a data set with an index")
    with torch.random.fork_rng():  # a sampler that cuts batches of its own may draw
        drawn = sum(map(len, sampler)) if sampler is loader.batch_sampler else len(sampler)
    if drawn != len(data):
        raise ValueError(
            f"{name}: got a loader that draws {drawn} of the {len(data)} examples of its data set; accepts one "
            "that serves them all (torch.utils.data.Subset cuts out a part)"
        )


def batch_size_of(loader):
    """The loader's batch size; None where it cuts no batches of one size."""
    return getattr(next(distributed.samplers(loader)), "batch_size", None)


def fingerprint(loader):
    """The loader's data set in three numbers: its length, and sums over some of its images and labels."""
    x, y = zip(*spread(loader, 100))
    return [len(loader.dataset), image_hashes(torch.cat(x)).sum().item(), torch.cat(y).sum().item()]


def shuffler(loader):
    """The generator of the loader's order, or None where it has none of its own."""
    generators = (getattr(sampler, "generator", None) for sampler in distributed.samplers(loader))
    return next((generator for generator in generators if isinstance(generator, torch.Generator)), None)


def on_device(loader, model, classes):
    """The loader's batches, checked, on the model's device."""
    device = validation.device_of(model)
    for x, y in map(validation.batch, loader):
        validation.classes(y, classes, "loader's labels")
        yield x.to(device), y.to(device)


def spread(loader, n):
    """Up to n examples at even distances through the data set, as a list of batches; fewer if they are very large."""
    dataset = loader.dataset
    collate = default_collate if loader.batch_sampler is None else loader.collate_fn
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a data set that draws from PyTorch returns the same again
        first = dataset[0]
        if collate is default_collate and not isinstance(validation.pair(first, "loader")[0], torch.Tensor):
            got = type(first[0]).__name__
            raise TypeError(f"loader's images: got {got} from its data set; accepts tensors (C, H, W)")
        n = min(n, len(dataset), max(2, HELD // collate([first])[0].numel()))
        chosen = [dataset[i * len(dataset) // n] for i in range(n)]
    shapes = sorted({tuple(x.shape) for x, _ in chosen}) if collate is default_collate else []
    if len(shapes) > 1:
        raise ValueError(
            f"loader's images: got shapes {shapes[0]} and {shapes[-1]}; accepts images of one size, as `ImageFiles` "
            "and --size cut them"
        )
    x, y = validation.pair(collate(chosen), "loader")
    return list(zip(x.split(500), y.split(500)))


def draws_anew(loader):
    """Whether an epoch may leave out images that another one serves."""
    samplers = [*distributed.samplers(loader)]
    return any(getattr(sampler, name, False) for sampler in samplers for name in ("drop_last", "replacement"))
