"""`advutils train`: train a model and save its weights."""

import json
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from advutils.certify import tighten
from advutils.cli import common
from advutils.data import device, shift, split
from advutils.pretrained import EVAL_ATTACKS, initialised, objective_of
from advutils.training import fit
from advutils.utils import distributed, validation
from advutils.utils.images import some
from advutils.utils.storage import writable
from advutils.utils.weights import save_weights


def train_command(chosen):
    check_options(chosen)
    data = common.data_of(chosen, {}, train=True)
    train, val = held_out(data)
    labels = data.tensors[1] if isinstance(data, TensorDataset) else torch.tensor(common.labels_of(data))
    if labels.min() < 0:
        raise ValueError(
            f"--data: got {chosen.data!r}, in which some images have no class; accepts a folder for each class"
        )
    names = common.names_of(data, chosen)
    shape = dict(in_channels=data[0][0].shape[0], num_classes=max(int(labels.max()) + 1, len(names)))
    if shape["num_classes"] < 2:
        raise ValueError(f"--data: got {chosen.data!r} with {some(names or ['0'])}; accepts at least two classes")
    model = new_model(chosen, shape)
    recipe = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(chosen).items()
        if key not in ("run", "traceback")
    } | dict(processes=distributed.world_size(), channels=shape["in_channels"], classes=list(names) or None)
    common.say(json.dumps(recipe))
    common.describe_data(data, chosen, "numbered in the order of their names")
    checkpoint = chosen.out.with_suffix(".checkpoint.pt")
    history = fit(
        model,
        common.loader_of(train, chosen, batch_size=chosen.batch_size, shuffle=True, seed=chosen.seed),
        common.loader_of(val, chosen, batch_size=min(500, 4 * chosen.batch_size)),
        epochs=chosen.epochs,
        lr=chosen.lr,
        objective=chosen_objective(chosen),
        eps=chosen.eps,
        eps_warmup=chosen.eps_warmup,
        ema_decay=chosen.ema_decay,
        eval_attacks=EVAL_ATTACKS if chosen.eps and chosen.objective != "ibp" else None,  # ibp keeps the last epoch
        checkpoint=checkpoint,
        augment=shift if chosen.shift else None,
        seed=chosen.seed,
        accelerator=distributed.accelerator(),
    )
    if distributed.is_main_process():
        save_weights(model, chosen.out, recipe=recipe, history=vars(history))
        checkpoint.unlink(missing_ok=True)
    kept = history.best_epoch - 1
    robust = "".join(f", under {label} {values[kept]:.1%}" for label, values in history.robust_val_accuracy.items())
    common.say(
        f"{chosen.out}: validation accuracy {history.val_accuracy[kept]:.1%}{robust} after epoch {history.best_epoch} "
        f"of {chosen.epochs}, {history.seconds[-1]:.0f} s"
    )


def check_options(chosen):
    """Raise for options that contradict each other, before anything is read."""
    if chosen.out.suffix != ".safetensors":
        raise ValueError(f"--out: got {str(chosen.out)!r}; accepts a name that ends in .safetensors")
    writable(chosen.out.absolute().parent, "--out: ")
    if (chosen.objective == "clean") != (chosen.eps is None):
        raise ValueError(
            f"--eps: got {chosen.eps} with --objective {chosen.objective}; accepts a radius for all but clean"
        )
    if chosen.objective == "ibp" and chosen.architecture == "vgg":
        raise ValueError(
            "--architecture: got vgg with --objective ibp; accepts strided_cnn, small_cnn, as batch norm widens the "
            "bounds of so deep a network in each layer, until nothing is learned"
        )
    if chosen.steps is not None and chosen.objective not in ("adversarial", "trades"):
        raise ValueError(
            f"--steps: got {chosen.steps} with --objective {chosen.objective}; accepts adversarial, trades"
        )
    if chosen.steps is not None:
        validation.count(chosen.steps, "--steps")
    validation.count(chosen.seed, "--seed", least=0, most=2**63 - 1)


def held_out(data):
    """The images to train on, and a tenth to validate on."""
    if isinstance(data, TensorDataset):
        validation.count(len(data), "--limit", least=6)  # a tenth of fewer is none
        return split(data, 0.1, seed=0)
    shuffled = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    val, train = (common.subset(data, part) for part in shuffled.tensor_split([max(1, len(data) // 10)]))
    return train, val


def new_model(chosen, shape):
    """The untrained model that was asked for, on its device."""
    if chosen.architecture == "vgg":
        shape |= dict(depth=chosen.depth, width=chosen.width)
    if chosen.architecture != "small_cnn":
        shape |= dict(contrast=chosen.contrast)
    build = partial(common.BUILDERS[chosen.architecture], **shape)
    tight = chosen.objective == "ibp"
    model = initialised((lambda: tighten(build())) if tight else build, seed=chosen.seed).to(device())
    if chosen.sync_batchnorm:
        if not torch.cuda.is_available():
            raise ValueError("--sync-batchnorm: got it without a GPU; PyTorch has it for GPUs only")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def chosen_objective(chosen):
    """The objective, with the steps of its attack bound where they were given."""
    steps = {} if chosen.steps is None else dict(steps=chosen.steps)
    objective = objective_of("pgd" if chosen.objective == "adversarial" else chosen.objective, steps)
    return partial(objective, full_eps=chosen.eps or None) if chosen.objective == "ibp" else objective
