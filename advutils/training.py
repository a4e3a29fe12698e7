"""`fit`: one loop for every kind of training, and the ledger of what it cost."""

import contextlib
import dataclasses
import math
import time
from dataclasses import field

import torch
from torch.nn import functional as F
from torch.utils.data import default_collate
from tqdm import tqdm

from advutils import checks
from advutils.models import evaluating, image_keys
from advutils.objectives import clean

NOTHING = torch.empty(0, dtype=torch.int64)


@dataclasses.dataclass
class History:
    """What a training measured, one entry an epoch: clean loss and accuracy on both sides, and the running ledger.

    `train_*` is measured after the epoch, in eval mode, on as many training images as there are validation images: the
    two curves differ in their images alone. `images` counts what the loader served; `forwards` and `backwards` count
    images that went through the network, for an attack's sake too; `seconds` leave the validation out.
    """

    train_loss: list = field(default_factory=list)
    train_accuracy: list = field(default_factory=list)
    val_loss: list = field(default_factory=list)
    val_accuracy: list = field(default_factory=list)
    images: list = field(default_factory=list)
    forwards: list = field(default_factory=list)
    backwards: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    def add(self, **values):
        for name, value in values.items():
            getattr(self, name).append(value)


@dataclasses.dataclass
class Ledger:
    """Images that went forward and backward through a network, as its hooks counted them."""

    forwards: int = 0
    backwards: int = 0


def fit(
    model,
    train,
    val,
    *,
    epochs,
    lr,
    objective=clean,
    weight_decay=5e-4,
    augment=None,
    seed=0,
    engine=None,
    progress=True,
):
    """Train a model: AdamW under a one-cycle learning rate, one objective, every epoch validated.

    Args:
        model: nn.Module that maps images to logits (N, K), already on its device; left in eval mode.
        train: DataLoader of batches (x, y), images in [0, 1]; moved to the model's device.
        val: DataLoader of images that are not in `train`, likewise.
        epochs: passes over `train`, at least 1.
        lr: the highest learning rate of the cycle.
        objective: any callable `(model, x, y) -> loss`.
        weight_decay: of AdamW.
        augment: None, or a callable that is given a batch of images and returns one of the same shape.
        seed: of dropout, augmentation and random starts; the caller's own random state is left alone.
        engine: None, or an object with the `prepare(model, optimizer, loader)` and `backward(loss)` of an
            accelerate.Accelerator, which then owns device placement and gradient synchronisation.
        progress: show a bar, which is gone when the training has ended.

    Returns:
        History: curves and ledger, one entry an epoch.

    Raises:
        TypeError, ValueError: bad images or labels, an empty loader, epochs or a learning rate that are not positive.
        FloatingPointError: the loss became NaN or infinite; the message says when. (An attack inside the objective
            meets such a network first, as a ValueError about its logits.)

    One cycle: Smith, 2018, arXiv:1803.09820. AdamW: Loshchilov and Hutter, 2019, arXiv:1711.05101.
    Taught in 01_train_vgg.ipynb.
    """
    classes = _check(model, train, val, epochs, lr)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    network, backward = model, torch.Tensor.backward
    if engine is not None:
        network, optimizer, train = engine.prepare(model, optimizer, train)
        backward = engine.backward
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(train))
    probe = _spread(train.dataset, len(val.dataset))
    history, images, seconds = History(), 0, 0.0
    bar = tqdm(total=epochs * len(train), leave=False, mininterval=0.5, disable=not progress)
    with bar, ledger(model) as spent, torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(epochs):
            network.train()
            started = time.perf_counter()
            for x, y in _batches(train, model, classes):
                if epoch == 0:
                    model.trained_on = torch.cat([getattr(model, "trained_on", NOTHING), image_keys(x)])
                loss = objective(network, x if augment is None else augment(x), y)
                _finite(loss.item(), epoch, lr)
                optimizer.zero_grad()
                backward(loss)
                optimizer.step()
                schedule.step()
                images += len(x)
                bar.update()
            seconds += time.perf_counter() - started
            history.add(images=images, seconds=seconds, **dataclasses.asdict(spent))
            for side, loader in (("train", probe), ("val", val)):
                loss, right = _measure(model, _batches(loader, model, classes), spent)
                _finite(loss, epoch, lr)
                history.add(**{f"{side}_loss": loss, f"{side}_accuracy": right})
            bar.set_postfix_str(f"epoch {epoch + 1}/{epochs}, validation accuracy {right:.1%}")
    model.trained_on = model.trained_on.unique()
    model.eval()
    return history


@contextlib.contextmanager
def ledger(model):
    """Count the images that go forward and backward through `model` inside the block.

    Yields:
        Ledger(forwards, backwards), running. A backward is counted when a gradient reaches the logits, whether it goes
        on to the weights, to the pixels, or to both.

    Taught in 04_adversarial_training.ipynb.
    """
    spent = Ledger()

    def count_backward(gradient):
        spent.backwards += len(gradient)

    def count_forward(module, inputs, logits):
        spent.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(count_backward)

    hook = model.register_forward_hook(count_forward)
    try:
        yield spent
    finally:
        hook.remove()


def _measure(model, batches, spent):
    """Mean clean loss and accuracy over the batches, kept out of the ledger `spent`."""
    before, loss, right, n = spent.forwards, 0.0, 0, 0
    with evaluating(model), torch.no_grad():
        for x, y in batches:
            logits = model(x)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
            n += len(y)
    spent.forwards = before
    return loss / n, right / n


def _batches(loader, model, classes):
    device = checks.device_of(model)
    for x, y in loader:
        checks.images(x, "loader's images")
        checks.labels(y, x, "loader's labels")
        checks.classes(y, classes, "loader's labels")
        yield x.to(device), y.to(device)


def _spread(dataset, n):
    """Up to n examples at even distances through the data set, as a list of batches."""
    n = min(n, len(dataset))
    x, y = default_collate([dataset[i * len(dataset) // n] for i in range(n)])
    return list(zip(x.split(500), y.split(500)))


def _finite(loss, epoch, lr):
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss} in epoch {epoch + 1}: try an lr below {lr:g}")


def _check(model, train, val, epochs, lr):
    """Raise for bad arguments; the number of classes, from a first look at what the model returns."""
    checks.module(model)
    checks.count(epochs, "epochs")
    checks.positive(lr, "lr")
    checks.loader(train, "train")
    checks.loader(val, "val")
    x, _ = _spread(val.dataset, 2)[0]
    checks.images(x, "loader's images")
    with evaluating(model), torch.no_grad():
        logits = model(x.to(checks.device_of(model)))
    checks.logits(logits, len(x))
    return logits.shape[1]
