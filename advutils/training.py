"""`fit`: one loop for every kind of training, and `History`, with the ledger of what it cost."""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader
from tqdm import tqdm

from advutils.evaluation import accuracy
from advutils.objectives import clean
from advutils.utils import distributed, loaders, validation
from advutils.utils.checkpoint import Checkpoint
from advutils.utils.contracts import Attack, Objective
from advutils.utils.fit_arguments import checked_settings
from advutils.utils.hashes import NO_HASHES, image_hashes
from advutils.utils.hooks import ledger, record_inputs
from advutils.utils.inference import eval_mode, logits_of

ATTACKED = 1000  # validation images that `eval_attacks` see after each epoch
WEIGHT_DECAY = 5e-4  # of AdamW
REESTIMATED = 32  # batches from which the statistics of batch norm are estimated for averaged weights


@dataclass
class History:
    """What a training measured, one entry an epoch: clean loss and accuracy on both sides, and the running ledger.

    `train_*` is measured after the epoch, in eval mode, on as many training images as there are validation images: the
    two curves differ in their images alone. `robust_val_accuracy` holds the validation accuracy under each of the
    `eval_attacks`, {label: list}, and `best_epoch` the number of the epoch (from 1) whose weights were kept. `images`
    counts what the loader served; `forwards` and `backwards` count images that went through the network, for an
    attack's sake too; `seconds` leave the validation out.
    """

    train_loss: list = field(default_factory=list)
    train_accuracy: list = field(default_factory=list)
    val_loss: list = field(default_factory=list)
    val_accuracy: list = field(default_factory=list)
    images: list = field(default_factory=list)
    forwards: list = field(default_factory=list)
    backwards: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    robust_val_accuracy: dict = field(default_factory=dict)
    best_epoch: int | None = None

    def add(self, **values):
        for name, value in values.items():
            getattr(self, name).append(value)


def fit(
    model: nn.Module, train: DataLoader, val: DataLoader, *, epochs: int, lr: float, objective: Objective = clean,
    eps: float | None = None, eps_warmup: float = 0.0, ema_decay: float | None = None,
    eval_attacks: dict[str, Attack] | None = None, checkpoint: str | os.PathLike | None = None,
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None, seed: int = 0, accelerator: object | None = None,
    progress: bool = True,
) -> History:  # fmt: skip
    """Train a model: AdamW under a one-cycle learning rate, one objective, every epoch validated.

    Args:
        model: nn.Module that maps images to logits (N, K), already on its device; left in eval mode.
        train: DataLoader of batches (x, y), images in [0, 1], that serves the whole of its data set; moved to the
            model's device.
        val: DataLoader of images that are not in `train`, likewise.
        epochs: passes over `train`, at least 1.
        lr: the highest learning rate of the cycle.
        objective: any callable `(model, x, y) -> loss`; with `eps`, any `(model, x, y, *, eps) -> loss`.
        eps: None, or the radius that the objective is given and `eval_attacks` are run at: in pixel units, 0 to 1,
            and where all of their attacks are of norm "l2", a Euclidean length.
        eps_warmup: epochs over which the objective's eps grows from 0 to `eps`, in a straight line.
        ema_decay: None, or the decay (0.999 for one) of an exponential moving average of the weights, which is then
            what is measured and kept; its batch norm is re-estimated on the last batches that the network saw.
        eval_attacks: None, or {label: attack}: robust validation accuracy after each epoch, on at most 1,000 images.
            The last of these attacks picks the epoch whose weights are kept; without any, it is the last epoch.
        checkpoint: None, or a path: all that is needed to continue is written there before the first epoch and after
            each, and a training that finds its own checkpoint there continues, on a CPU or with CUDA to the same
            weights to the bit. Its own: the same arguments and data. Functions are compared by their names and
            arguments, not by their code: after a change to one, give a new path.
        augment: None, or a callable that is given a batch of images and returns one of the same shape.
        seed: of dropout, augmentation and random starts; the caller's own random state is left alone.
        accelerator: None, or an accelerate.Accelerator (any object with its `prepare(model, optimizer)` and
            `backward(loss)`), which then owns gradient synchronisation: the way to train in several processes, each of
            which calls `fit` with the same arguments, takes its part of each batch and returns the same History.
        progress: show a bar, which is gone when the training has ended.

    Returns:
        History: curves and ledger, one entry an epoch.

    Raises:
        TypeError, ValueError: bad images or labels, an empty loader, epochs or a learning rate that are not positive,
            or the checkpoint of another training.
        FloatingPointError: the loss became NaN or infinite; the message says when. (An attack inside the objective
            meets such a network first, as a ValueError about its logits or its gradient.)

    One cycle: Smith, 2018, arXiv:1803.09820. AdamW: Loshchilov and Hutter, 2019, arXiv:1711.05101. Averaged weights:
    Izmailov et al., 2018, arXiv:1803.05407. Taught in 01_train_vgg.ipynb; `eps` and `eval_attacks` in
    04_adversarial_training.ipynb, `checkpoint` in 11_scaling_out.ipynb, `eps_warmup` in 12_certificates.ipynb.
    """
    eval_attacks = eval_attacks or {}
    settings = checked_settings(
        model, train, val, epochs=epochs, lr=lr, objective=objective, eps=eps, eps_warmup=eps_warmup,
        ema_decay=ema_decay, eval_attacks=eval_attacks, augment=augment, seed=seed, accelerator=accelerator,
    )  # fmt: skip
    run, batches = Run(model, objective, augment, accelerator, settings), distributed.split_batches(train)
    file = Checkpoint(checkpoint, settings, run.parts(), loaders.shuffler(train))
    clean_sets = dict(train=loaders.spread(train, len(val.dataset)), val=val)  # type: ignore[arg-type]
    attacked_set = loaders.spread(val, ATTACKED)
    quiet = not (progress and distributed.is_main_process())
    bar = tqdm(total=settings["steps"], leave=False, mininterval=0.5, disable=quiet)
    reestimated = 0 if run.ema is None else REESTIMATED
    with bar, ledger(model) as passes, record_inputs(model, reestimated) as recent, torch.random.fork_rng():
        torch.manual_seed(seed)
        history = run.resume(file, passes)
        bar.update(len(history.val_loss) * len(batches))
        for epoch in range(len(history.val_loss), settings["epochs"]):
            recent.clear()
            train_epoch(run, batches, history, passes, epoch, bar)
            candidate = run.candidate(recent)
            with passes.paused():
                bar.set_postfix_str(validate(run, candidate, clean_sets, attacked_set, eval_attacks, history))
            run.keep_if_best(candidate, history)
            run.save(file, history)
    model.load_state_dict(run.best)
    model.eval()
    return history


def train_epoch(run, batches, history, passes, epoch, bar):
    """One pass over the training images, and its entries in the ledger's part of the history."""
    everyone, seed = distributed.world_size(), run.settings["seed"]
    if everyone > 1:  # each draws its own noise, and the same again when the training is continued
        torch.manual_seed(everyone * (seed * run.settings["epochs"] + epoch) + distributed.rank())
    images = history.images[-1] * distributed.is_main_process() if history.images else 0
    before = history.seconds[-1] if history.seconds else 0.0
    run.network.train()
    new, started = epoch == 0 or run.settings["draws_anew"], time.perf_counter()
    for number, (x, y) in enumerate(
        loaders.on_device(batches, run.model, run.settings["classes"]), epoch * len(batches) + 1
    ):
        if new:
            run.model.train_hashes = torch.cat([run.model.train_hashes, image_hashes(x)])
        validation.finite(step(run, x, y, number, len(batches)), epoch, run.settings["lr"])
        images += len(x)
        bar.update()
    seconds = before + time.perf_counter() - started
    passed = distributed.all_reduce_sum(images, passes.forwards, passes.backwards)
    history.add(seconds=seconds, **dict(zip(("images", "forwards", "backwards"), passed)))
    if new:
        seen = distributed.all_gather({distributed.rank(): run.model.train_hashes})
        run.model.train_hashes = torch.cat(list(seen.values())).unique()


def step(run, x, y, number, steps_an_epoch):
    """One step of the optimizer, the number-th of the training (from 1); the loss before it."""
    options = {}
    if run.settings["eps"] is not None:
        warmup = max(1, run.settings["eps_warmup"] * steps_an_epoch)
        options["eps"] = run.settings["eps"] * min(1.0, number / warmup)
    x = x.clone()  # some models and augmentations work in place on what they get
    loss = run.objective(run.network, x if run.augment is None else run.augment(x), y, **options)
    run.optimizer.zero_grad()
    run.backward(loss)
    run.optimizer.step()
    run.schedule.step()
    if run.ema is not None:
        run.ema.update_parameters(run.model)
    return loss.item()


def validate(run, candidate, clean_sets, attacked_set, eval_attacks, history):
    """Measure the candidate's weights on clean images and under the attacks; the history's new entries, in words."""
    epoch = len(history.val_loss)
    for side, batches in clean_sets.items():
        own = (batch for _, batch in distributed.shard_batches(batches))
        loss, right = _loss_and_accuracy(candidate, loaders.on_device(own, candidate, run.settings["classes"]))
        validation.finite(loss, epoch, run.settings["lr"])
        history.add(**{f"{side}_loss": loss, f"{side}_accuracy": right})
    words = f"epoch {epoch + 1}/{run.settings['epochs']}, validation accuracy {right:.1%}"
    for label, attack in eval_attacks.items():
        right = accuracy(candidate, attacked_set, attack, eps=run.settings["eps"]).value
        history.robust_val_accuracy.setdefault(label, []).append(right)
        words += f", {label} {right:.1%}"
    return words


class Run:
    """What changes while a network is trained: its weights, optimizer, schedule and averaged weights, and the best."""

    def __init__(self, model, objective, augment, accelerator, settings):
        self.model, self.objective, self.augment, self.settings, self.best = model, objective, augment, settings, {}
        self.network, self.backward = model, torch.Tensor.backward
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=WEIGHT_DECAY)
        if accelerator is not None:
            self.network, self.optimizer = accelerator.prepare(model, self.optimizer)
            self.backward = accelerator.backward
        steps, lr = settings["steps"], settings["lr"]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, lr, total_steps=steps)
        decay = settings["ema_decay"]
        self.ema = None if decay is None else AveragedModel(model, avg_fn=_warm(decay))

    def parts(self):
        """What a checkpoint holds, by name."""
        return dict(model=self.model, optimizer=self.optimizer, schedule=self.schedule, ema=self.ema)

    def resume(self, checkpoint, passes):
        """The history so far, with everything put back where it was; a new one where nothing was saved yet."""
        values = checkpoint.restore()
        if values is None:
            self.model.train_hashes, history = getattr(self.model, "train_hashes", NO_HASHES), History()
            self.save(checkpoint, history)
            return history
        self.model.train_hashes, self.best = values["train_hashes"], values["best"]
        history = History(**values["history"])
        if distributed.is_main_process() and history.forwards:  # the counts are those of all processes
            passes.forwards, passes.backwards = history.forwards[-1], history.backwards[-1]
        return history

    def save(self, checkpoint, history):
        """Write the checkpoint, if there is to be one."""
        checkpoint.save(best=self.best, train_hashes=self.model.train_hashes, history=vars(history))

    def candidate(self, recent):
        """The network whose weights are measured now: the trained one, or the average of its weights so far."""
        candidate = self.model
        if self.ema is not None:
            candidate = self.ema.module
            update_bn(recent, candidate)
            candidate.train_hashes = self.model.train_hashes
            candidate.eval()
        for network in (self.model, candidate):
            distributed.broadcast_parameters(network)
        return candidate

    def keep_if_best(self, candidate, history):
        """Keep the weights if the last of the attacks leaves as many images as ever, or if there is none."""
        scores = [*history.robust_val_accuracy.values()][-1] if history.robust_val_accuracy else [0]
        if scores[-1] == max(scores):
            history.best_epoch = len(history.val_loss)
            self.best = copy.deepcopy(candidate.state_dict())


def _warm(decay):
    """The running average of that decay, which forgets faster at first, as the first weights are random."""
    return lambda average, new, n: average.lerp(new, 1 - min(decay, (1 + int(n)) / (10 + int(n))))


def _loss_and_accuracy(model, batches):
    """Mean clean loss and accuracy over the batches."""
    loss, right, n = 0.0, 0, 0
    with eval_mode(model), torch.no_grad():
        for x, y in batches:
            logits = logits_of(model, x)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
            n += len(y)
    loss, right, n = distributed.all_reduce_sum(loss, right, n)
    return loss / n, right / n
