"""Several processes that do one thing together: who takes which batch, and how the parts become one result.

The processes are PyTorch's own, as `torchrun` or `accelerate launch` start them. In a single one nothing here talks to
anybody: its share is everything, and what it found is the result.
"""

import atexit
import os

import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, IterableDataset


def world_size():
    """How many processes work together: 1 unless a launcher started several and they have met."""
    return dist.get_world_size() if _met() else 1


def rank():
    """The number of this process, from 0."""
    return dist.get_rank() if _met() else 0


def is_main_process():
    """Whether this is the process that prints and writes files."""
    return rank() == 0


def init_process_group():
    """Let the processes that a launcher started meet, if it started several: each on its own GPU, else on the CPU."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not _met():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_part)


def _part():
    """Close the connections: a process that ends with them open now and then crashes on its way out."""
    if _met():
        dist.destroy_process_group()


def accelerator():
    """What `fit` needs in several processes, an accelerate.Accelerator; None in a single one."""
    if world_size() == 1:
        return None
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.cuda.is_available())


def shard_batches(loader):
    """The batches of a loader that this process takes, as (index, batch): each batch goes to one process, once.

    The index is that of the batch among all batches, whoever takes it. A data set that can be asked for any of its
    images is only asked for those of this process; another is read by all of them.
    """
    everyone, own = world_size(), rank()
    if everyone == 1:
        yield from enumerate(loader)
    elif isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        mine = broadcast(list(_order(loader)))[own::everyone]
        yield from zip(range(own, own + everyone * len(mine), everyone), _again(loader, mine))
    else:
        yield from ((index, batch) for index, batch in enumerate(loader) if index % everyone == own)


def split_batches(loader):
    """The loader with each of its batches cut into equal parts, one for each process; this one's is served.

    Equal, as gradients are averaged over the processes: a batch that cannot be divided is filled up from its beginning.
    """
    return loader if world_size() == 1 else _again(loader, Cut(_order(loader)))


class Cut:
    """This process's part of each list of indices, in the order that the first process has drawn."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in broadcast(list(self.batches)):
            while len(batch) % world_size():
                batch = batch + batch[: world_size() - len(batch) % world_size()]
            yield batch[rank() :: world_size()]


def samplers(loader):
    """What yields the indices of each batch, and what that draws from, and so on."""
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "sampler", None)


def _order(loader):
    """What yields the indices of each batch."""
    return next(samplers(loader))


def _again(loader, batches):
    """The same loader with other indices in its batches."""
    chosen = dict(batch_size=None, sampler=batches) if loader.batch_sampler is None else dict(batch_sampler=batches)
    kept = dict(num_workers=loader.num_workers, collate_fn=loader.collate_fn, generator=loader.generator)
    return DataLoader(loader.dataset, **chosen, **kept)


def all_gather(found):
    """What all processes found, as one dict {index: result} in the order of the indices, the same in each of them."""
    if world_size() == 1:
        return found
    parts = [None] * world_size()
    dist.all_gather_object(parts, found)
    return dict(sorted((index, result) for part in parts for index, result in part.items()))


def broadcast(thing):
    """The first process's version of anything that can be pickled, in all of them."""
    if world_size() == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_reduce_sum(*numbers):
    """The sums of the processes' numbers, each in its own type; of integers they are exact."""
    if world_size() == 1:
        return numbers
    parts = [None] * world_size()
    dist.all_gather_object(parts, numbers)
    return tuple(map(sum, zip(*parts)))


def broadcast_parameters(model):
    """Give the model's weights and buffers in all processes the values that they have in the first."""
    if world_size() > 1:
        with torch.no_grad():
            for value in model.state_dict().values():
                dist.broadcast(value, src=0)


def _met():
    return dist.is_available() and dist.is_initialized()
