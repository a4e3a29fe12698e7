"""`fit`: one loop for every kind of training, the state from which it continues, and the ledger of what it cost."""

import contextlib
import copy
import dataclasses
import json
import math
import time
from collections import deque
from dataclasses import field
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import default_collate
from tqdm import tqdm

from advutils.attacks.base import norm_of
from advutils.evaluation import accuracy, describe
from advutils.objectives import clean
from advutils.utils import distributed, validation
from advutils.utils.hashes import NOTHING, image_keys
from advutils.utils.inference import answer, evaluating
from advutils.utils.weights import read_tensors, tagged, untagged, write_tensors

WATCHED = 1000  # validation images that are attacked after each epoch
HELD = 2**26  # pixels of images that are kept in memory to be measured after each epoch, 256 MB
SETTLING = 32  # batches from which the statistics of batch norm are estimated for averaged weights


@dataclasses.dataclass
class History:
    """What a training measured, one entry an epoch: clean loss and accuracy on both sides, and the running ledger.

    `train_*` is measured after the epoch, in eval mode, on as many training images as there are validation images: the
    two curves differ in their images alone. `watched` holds the robust validation accuracy under each watched attack,
    {label: list}, and `picked` the number of the epoch (from 1) whose weights were kept. `images` counts what the
    loader served; `forwards` and `backwards` count images that went through the network, for an attack's sake too;
    `seconds` leave the validation out.
    """

    train_loss: list = field(default_factory=list)
    train_accuracy: list = field(default_factory=list)
    val_loss: list = field(default_factory=list)
    val_accuracy: list = field(default_factory=list)
    images: list = field(default_factory=list)
    forwards: list = field(default_factory=list)
    backwards: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    watched: dict = field(default_factory=dict)
    picked: int | None = None

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
    eps=None,
    ramp=0.0,
    average=None,
    watch=None,
    state=None,
    weight_decay=5e-4,
    augment=None,
    seed=0,
    engine=None,
    progress=True,
):
    """Train a model: AdamW under a one-cycle learning rate, one objective, every epoch validated.

    Args:
        model: nn.Module that maps images to logits (N, K), already on its device; left in eval mode.
        train: DataLoader of batches (x, y), images in [0, 1], that serves the whole of its data set; moved to the
            model's device.
        val: DataLoader of images that are not in `train`, likewise.
        epochs: passes over `train`, at least 1.
        lr: the highest learning rate of the cycle.
        objective: any callable `(model, x, y) -> loss`; with `eps`, any `(model, x, y, *, eps) -> loss`.
        eps: None, or the radius that the objective is given and the watched attacks are run at: in pixel units, 0 to 1,
            and where all of their attacks are of norm "l2", a Euclidean length.
        ramp: epochs over which the objective's eps grows from 0 to `eps`, in a straight line.
        average: None, or the decay (0.999 for one) of a running average of the weights, which is then what is measured
            and kept; its batch norm is re-estimated on the last batches that the network was trained on.
        watch: None, or {label: attack}: robust validation accuracy after each epoch, on at most 1,000 images. The last
            of these attacks picks the epoch whose weights are kept; without any, it is the last epoch.
        state: None, or a path: all that is needed to continue is written there before the first epoch and after each,
            and a training that finds its own state there continues, on a CPU or with CUDA to the same weights to the
            bit. Its own: the same arguments and data. Functions are compared by their names and arguments, not by
            their code: after a change to one, give a new path.
        weight_decay: of AdamW.
        augment: None, or a callable that is given a batch of images and returns one of the same shape.
        seed: of dropout, augmentation and random starts; the caller's own random state is left alone.
        engine: None, or an accelerate.Accelerator (any object with its `prepare(model, optimizer)` and
            `backward(loss)`), which then owns gradient synchronisation: the way to train in several processes, each of
            which calls `fit` with the same arguments, takes its part of each batch and returns the same History.
        progress: show a bar, which is gone when the training has ended.

    Returns:
        History: curves and ledger, one entry an epoch.

    Raises:
        TypeError, ValueError: bad images or labels, an empty loader, epochs or a learning rate that are not positive,
            or the state of another training.
        FloatingPointError: the loss became NaN or infinite; the message says when. (An attack inside the objective
            meets such a network first, as a ValueError about its logits or its gradient.)

    One cycle: Smith, 2018, arXiv:1803.09820. AdamW: Loshchilov and Hutter, 2019, arXiv:1711.05101. Averaged weights:
    Izmailov et al., 2018, arXiv:1803.05407. Taught in 01_train_vgg.ipynb and, from `eps` to `state`, in
    08_robust_training.ipynb.
    """
    epochs, lr = validation.count(epochs, "epochs"), validation.positive(lr, "lr")
    average = None if average is None else validation.share(average, "average")
    classes = _check(model, train, val, epochs, eps, ramp, watch)
    if eps is not None:
        norms = {norm_of(function) for function in (objective, *(watch or {}).values())}
        eps = validation.eps(eps, norm="l2" if norms == {"l2"} else "linf")
    if engine is None and distributed.count() > 1:
        raise ValueError(f"engine: got None in {distributed.count()} processes; accepts an accelerate.Accelerator")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    network, backward = model, torch.Tensor.backward
    served = distributed.cut(train)
    if engine is not None:
        network, optimizer = engine.prepare(model, optimizer)
        backward = engine.backward
    steps = epochs * len(served)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    averaged = None if average is None else AveragedModel(model, avg_fn=_warm(average))
    run = dict(epochs=epochs, lr=lr, objective=describe(objective), eps=eps, ramp=ramp, average=average,
               watch={label: describe(attack) for label, attack in (watch or {}).items()}, steps=steps,
               weight_decay=weight_decay, augment=describe(augment), seed=seed, network=_shapes(model),
               layers=repr(model), batch_size=_batch_size(train), processes=distributed.count(),
               data=_key(train))  # fmt: skip
    kept = Kept(model, optimizer, schedule, averaged, _shuffler(train), run)
    probe, watching = _spread(train, len(val.dataset)), _spread(val, WATCHED)
    settling = 0 if average is None else SETTLING
    leaves_out = any(
        getattr(sampler, "drop_last", False) or getattr(sampler, "replacement", False)
        for sampler in distributed.samplers(train)
    )
    bar = tqdm(total=steps, leave=False, mininterval=0.5, disable=not (progress and distributed.first()))
    with bar, ledger(model) as spent, _fed(model, settling) as fed, torch.random.fork_rng():
        torch.manual_seed(seed)
        history = kept.read(state, spent)
        done = len(history.val_loss)
        if not done:
            kept.write(state, history)
        bar.update(done * len(served))
        images, seconds = (history.images[-1], history.seconds[-1]) if done else (0, 0.0)
        images *= distributed.first()
        for epoch in range(done, epochs):
            if distributed.count() > 1:  # each draws its own noise, and the same again when the training is continued
                torch.manual_seed(distributed.count() * (seed * epochs + epoch) + distributed.rank())
            network.train()
            fed.clear()
            started = time.perf_counter()
            for step, (x, y) in enumerate(_batches(served, model, classes), epoch * len(served) + 1):
                if epoch == 0 or leaves_out:
                    model.trained_on = torch.cat([getattr(model, "trained_on", NOTHING), image_keys(x)])
                x = x.clone()  # some models and augmentations work in place on what they get
                radius = {} if eps is None else {"eps": eps * min(1.0, step / max(1, ramp * len(served)))}
                loss = objective(network, x if augment is None else augment(x), y, **radius)
                _finite(loss.item(), epoch, lr)
                optimizer.zero_grad()
                backward(loss)
                optimizer.step()
                schedule.step()
                if averaged is not None:
                    averaged.update_parameters(model)
                images += len(x)
                bar.update()
            seconds += time.perf_counter() - started
            passed = distributed.total(images, spent.forwards, spent.backwards)
            history.add(seconds=seconds, **dict(zip(("images", "forwards", "backwards"), passed)))
            if epoch == 0 or leaves_out:
                keys = distributed.gathered({distributed.rank(): model.trained_on})
                model.trained_on = torch.cat(list(keys.values())).unique()
            candidate = model if averaged is None else _settled(averaged.module, fed, model.trained_on)
            distributed.alike(model)
            distributed.alike(candidate)
            with _unbilled(spent):
                for side, batches in (("train", probe), ("val", val)):
                    own = (batch for _, batch in distributed.share(batches))
                    loss, right = _measure(candidate, _batches(own, model, classes))
                    _finite(loss, epoch, lr)
                    history.add(**{f"{side}_loss": loss, f"{side}_accuracy": right})
                shown = f"epoch {epoch + 1}/{epochs}, validation accuracy {right:.1%}"
                for label, attack in (watch or {}).items():
                    right = accuracy(candidate, watching, attack, eps=eps).value
                    history.watched.setdefault(label, []).append(right)
                    shown += f", {label} {right:.1%}"
            scores = list(history.watched.values())[-1] if watch else []
            if not scores or scores[-1] == max(scores):
                history.picked = epoch + 1
                kept.best = copy.deepcopy(candidate.state_dict())
            kept.write(state, history)
            bar.set_postfix_str(shown)
    model.load_state_dict(kept.best)
    model.eval()
    return history


class Kept:
    """What a training needs to be continued, to the same weights to the bit, and the file in which it lies."""

    def __init__(self, model, optimizer, schedule, averaged, generator, run):
        self.model, self.optimizer, self.schedule, self.averaged = model, optimizer, schedule, averaged
        self.generator, self.run, self.best = generator, run, {}

    def write(self, path, history):
        if path is None or not distributed.first():
            return
        optimizer = self.optimizer.state_dict()
        tensors = tagged("model", self.model.state_dict()) | tagged("best", self.best)
        for number, values in optimizer["state"].items():
            tensors |= tagged(f"optimizer.{number}", values)
        if self.averaged is not None:
            tensors |= tagged("averaged", self.averaged.state_dict())
        tensors |= {"trained_on": getattr(self.model, "trained_on", NOTHING), "random.torch": torch.get_rng_state()}
        if self.generator is not None:
            tensors["random.order"] = self.generator.get_state()
        if torch.cuda.is_available():
            tensors |= tagged("random.cuda", dict(enumerate(torch.cuda.get_rng_state_all())))
        about = dict(run=self.run, history=vars(history), schedule=self.schedule.state_dict())
        write_tensors(path, tensors, about | {"groups": optimizer["param_groups"]}, kind="state")

    def read(self, path, spent):
        """The history so far, with everything put back where it was; a new one where there is no state yet."""
        if path is None or not Path(path).exists():
            return History()
        try:
            tensors, about = read_tensors(path, kind="state")
        except FileNotFoundError:  # another program that trains the same has just ended, and removed it
            if Path(path).exists():
                raise
            return History()
        ours = json.loads(json.dumps(self.run))
        if about["run"] != ours:
            theirs = ", ".join(key for key in about["run"] | ours if about["run"].get(key) != ours.get(key))
            raise ValueError(
                f"state: got {str(path)!r}, of a training with other {theirs}; accepts the state of this one, or a "
                "new path"
            )
        self.model.load_state_dict(untagged("model", tensors))
        self.model.trained_on, self.best = tensors["trained_on"], untagged("best", tensors)
        weights = range(sum(len(group["params"]) for group in about["groups"]))
        per_weight = {number: untagged(f"optimizer.{number}", tensors) for number in weights}
        self.optimizer.load_state_dict({"state": per_weight, "param_groups": about["groups"]})
        self.schedule.load_state_dict(about["schedule"])
        if self.averaged is not None:
            self.averaged.load_state_dict(untagged("averaged", tensors))
        torch.set_rng_state(tensors["random.torch"])
        if self.generator is not None:
            self.generator.set_state(tensors["random.order"])
        for number, drawn in untagged("random.cuda", tensors).items():
            torch.cuda.set_rng_state(drawn, int(number))
        history = History(**about["history"])
        if distributed.first() and history.forwards:  # the counts are those of all processes
            spent.forwards, spent.backwards = history.forwards[-1], history.backwards[-1]
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

    count_forward.of_ledger = True  # it watches the model's answers alone, so the model may still be `prepared`
    hook = model.register_forward_hook(count_forward)
    try:
        yield spent
    finally:
        hook.remove()


@contextlib.contextmanager
def _unbilled(spent):
    """What goes through the network inside the block is left out of the ledger `spent`."""
    before = dataclasses.replace(spent)
    yield
    spent.forwards, spent.backwards = before.forwards, before.backwards


@contextlib.contextmanager
def _fed(model, n):
    """The last n batches that went through the model in train mode inside the block, as a running deque."""
    fed = deque(maxlen=n)

    def remember(module, inputs):
        if module.training and n:
            fed.append(inputs[0].detach().clone())  # before a model works in place on it

    remember.of_ledger = True
    hook = model.register_forward_pre_hook(remember)
    try:
        yield fed
    finally:
        hook.remove()


def _warm(decay):
    """The running average of that decay, which forgets faster at first, as the first weights are random."""
    return lambda average, new, n: average.lerp(new, 1 - min(decay, (1 + int(n)) / (10 + int(n))))


def _settled(averaged, fed, trained_on):
    update_bn(fed, averaged)
    averaged.trained_on = trained_on
    return averaged.eval()


def _shapes(model):
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def _batch_size(loader):
    return getattr(next(distributed.samplers(loader)), "batch_size", None)


def _key(loader):
    """A key of the loader's data set, from its length and some of its images."""
    x, y = zip(*_spread(loader, 100))
    return [len(loader.dataset), image_keys(torch.cat(x)).sum().item(), torch.cat(y).sum().item()]


def _shuffler(loader):
    """The generator of the loader's order, or None where it has none of its own."""
    generators = (getattr(sampler, "generator", None) for sampler in distributed.samplers(loader))
    return next((generator for generator in generators if isinstance(generator, torch.Generator)), None)


def _measure(model, batches):
    """Mean clean loss and accuracy over the batches."""
    loss, right, n = 0.0, 0, 0
    with evaluating(model), torch.no_grad():
        for x, y in batches:
            logits = answer(model, x)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
            n += len(y)
    loss, right, n = distributed.total(loss, right, n)
    return loss / n, right / n


def _batches(loader, model, classes):
    device = validation.device_of(model)
    for batch in loader:
        x, y = validation.pair(batch, "loader")
        validation.images(x, "loader's images")
        validation.labels(y, x, "loader's labels")
        validation.classes(y, classes, "loader's labels")
        yield x.to(device), y.to(device)


def _spread(loader, n):
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


def _finite(loss, epoch, lr):
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss} in epoch {epoch + 1}: try an lr below {lr:g}")


def _check(model, train, val, epochs, eps, ramp, watch):
    """Raise for bad arguments; the number of classes, from a first look at what the model returns."""
    validation.module(model)
    for loader, name in ((train, "train"), (val, "val")):
        validation.loader(loader, name)
        validation.whole(loader, name)
    if eps is None and (watch or ramp):
        raise ValueError(f"eps: got None with {'watch' if watch else 'ramp'}; accepts the radius that this needs")
    if not 0 <= ramp <= epochs:
        raise ValueError(f"ramp: got {ramp!r}; accepts 0 to {epochs}, the number of epochs")
    if not isinstance(watch or {}, dict):
        raise TypeError(f"watch: got {type(watch).__name__}; accepts None or a dict of attacks by label")
    for attack in (watch or {}).values():
        validation.attack(attack)
    x, _ = _spread(val, 2)[0]
    validation.images(x, "loader's images")
    with evaluating(model), torch.no_grad():
        logits = answer(model, x.to(validation.device_of(model)))
    validation.logits(logits, len(x))
    return logits.shape[1]
