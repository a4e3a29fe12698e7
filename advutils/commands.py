"""Training, evaluation and attack from a command line: the functions of the package, with their arguments typed.

Under `torchrun -m advutils ...` or `accelerate launch -m advutils ...` the same commands run in many processes.
"""

import argparse
import ast
import contextlib
import csv
import glob
import importlib
import inspect
import io
import json
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from advutils import attacks, checks, objectives, processes, results
from advutils.data import CLASSES, DATASETS, device, load_data, make_loader, shift, split, writable
from advutils.evaluation import describe, predict, seeded, survivors, wilson, worst_case
from advutils.files import ImageFiles, ambiguous, image_loader, in_order, read_image, some, to_levels, write_png
from advutils.models import Normalize, load_weights, read_tensors, replace_file, save_weights, small_cnn, vgg
from advutils.trained import WATCH, initialised
from advutils.training import fit

ATTACKS = {
    "fgsm": attacks.fgsm,
    "pgd": attacks.pgd,
    "square": attacks.square,
    "noise": attacks.random_noise,
    "grey": attacks.grey,
    "autoattack": attacks.autoattack,
}
OBJECTIVES = {
    "clean": objectives.clean,
    "joined": objectives.joined,
    "adversarial": objectives.adversarial,
    "random-fgsm": objectives.random_fgsm,
    "n-fgsm": objectives.n_fgsm,
    "trades": objectives.trades,
}
GIVEN = {"model", "x", "y", "eps", "target", "generator", "flags"}  # what an attack gets from elsewhere
WORDS = {name: getattr(attacks, name) for name in ("cross_entropy", "dlr", "cw")}
WORDS |= {"true": True, "false": False, "none": None}
ACCEPTED = f"{', '.join(DATASETS)}, a folder of images, or tar files"
BUILDERS = {"vgg": vgg, "small_cnn": small_cnn}
BACKGROUNDS = {"white": 255, "black": 0}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # folders of such names hold no class
KINDS = ("clean", "adversarial")  # folders that `attack` writes
COLUMNS = ("file", "label", "labelled_by", "clean_prediction", "adversarial_prediction", "linf", "l2", "success")


def main(arguments=None):
    """Run one command; what is wrong with its arguments is said in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["results"]:
        return results.main(arguments[1:])
    chosen = parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end the run
    processes.meet()
    try:
        return chosen.run(chosen)
    except (OSError, ValueError, TypeError, FloatingPointError, RuntimeError, ImportError) as error:
        if chosen.traceback:
            raise
        sys.exit(f"advutils {chosen.command}: {' '.join(str(error).split())}")


def parser():
    top = argparse.ArgumentParser(
        prog="python -m advutils",
        description="Train an image classifier, evaluate how robust it is, attack it.",
        epilog="Many processes: torchrun --nproc-per-node 2 -m advutils train ... (accelerate launch works as well).",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data",
        default="mnist-5k",
        metavar="DATA",
        help=f"{ACCEPTED}, as in 'shards-*.tar' (default: %(default)s)",
    )
    common.add_argument("--size", type=int, help="side in pixels to which images of a folder or tar file are cut")
    common.add_argument("--channels", type=int, choices=(1, 3), help="of such images (default: the model's, else 3)")
    common.add_argument("--background", choices=BACKGROUNDS, default="white", help="behind what is transparent")
    common.add_argument("--batch-size", type=int, default=128, help="of all processes together (default: %(default)s)")
    common.add_argument("--workers", type=int, default=0, help="processes that read images ahead (default: none)")
    common.add_argument("--limit", type=int, help="only so many images, spread over the data")
    common.add_argument("--traceback", action="store_true", help="on an error, show where it came from")
    attacked = argparse.ArgumentParser(add_help=False)
    attacked.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="a file that `train` wrote, torchvision:NAME (pretrained, as in torchvision:vgg16_bn), or "
        "module:factory, your own function that returns a model",
    )
    attacked.add_argument("--eps", type=number, default=0.1, help="radius in pixel units, 0.1 or 8/255 (default: 0.1)")

    train = commands.add_parser("train", parents=[common], help="train a model and save its weights")
    train.add_argument("--out", type=Path, required=True, help="the file to write, ending in .safetensors")
    train.add_argument("--architecture", choices=BUILDERS, default="vgg", help="(default: %(default)s)")
    train.add_argument("--depth", type=int, choices=(11, 13, 16, 19), default=16, help="of the VGG (default: 16)")
    train.add_argument("--width", type=float, default=0.25, help="multiplies its channels (default: %(default)s)")
    train.add_argument("--contrast", type=float, help="slope of a contrast layer in place of the normalisation")
    train.add_argument("--objective", choices=OBJECTIVES, default="clean", help="(default: %(default)s)")
    train.add_argument("--eps", type=number, help="radius of the training attack in pixel units, 0.1 or 8/255")
    train.add_argument("--steps", type=int, help="of the training attack, for adversarial and trades")
    train.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    train.add_argument("--lr", type=float, default=3e-3, help="the highest of the cycle (default: %(default)s)")
    train.add_argument("--ramp", type=float, default=0, help="epochs over which eps grows (default: %(default)s)")
    train.add_argument("--average", type=float, help="decay of averaged weights, 0.999 for one")
    train.add_argument("--shift", action="store_true", help="move training images by up to two pixels")
    train.add_argument("--seed", type=int, default=0, help="of weights, order and noise (default: %(default)s)")
    train.add_argument("--sync-batchnorm", action="store_true", help="batch norm over all processes; needs GPUs")
    train.set_defaults(run=train_command)

    evaluate = commands.add_parser("evaluate", parents=[common, attacked], help="measure clean and robust accuracy")
    evaluate.add_argument(
        "--attack",
        action="append",
        metavar="ATTACK",
        default=[],
        help=f"{', '.join(ATTACKS)}, with options as in pgd:steps=40,restarts=2; may be repeated, and grey is always "
        "among them",
    )
    evaluate.add_argument("--out", type=Path, help="a JSON file to write")
    evaluate.set_defaults(run=evaluate_command)

    attack = commands.add_parser("attack", parents=[common, attacked], help="write adversarial images")
    attack.add_argument("--attack", default="pgd", metavar="ATTACK", help="as for `evaluate` (default: %(default)s)")
    attack.add_argument("--target", type=int, help="the class that the images are to be taken for")
    attack.add_argument(
        "--labels",
        choices=("data", "model"),
        help="an image is led away from its class in the data, or from what the model reads in it "
        "(default: the data's, if they are the model's)",
    )
    attack.add_argument("--out", type=Path, required=True, help="the folder to write; another attack's is refused")
    attack.set_defaults(run=attack_command)
    commands.add_parser("results", help="the README's table: models by attacks on whole test sets (own --help)")
    return top


def number(text):
    """A radius as people write it: 0.1, or a fraction, 8/255."""
    try:
        return checks.typed(text, "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None


def attack_of(text):
    """The attack that "pgd:steps=40,restarts=2" describes, its options bound."""
    name, _, said = text.partition(":")
    checks.one_of(name, "--attack", ATTACKS)
    bound, parameters = {}, inspect.signature(ATTACKS[name]).parameters
    for option in filter(None, said.split(",")):
        key, _, value = option.partition("=")
        try:
            bound[key.strip()] = WORDS[value.lower()] if value.lower() in WORDS else ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            bound[key.strip()] = value
    for key, value in bound.items():
        checks.one_of(key, f"--attack {name}: its option", sorted(parameters.keys() - GIVEN))
        if isinstance(parameters[key].default, bool) and not isinstance(value, bool):
            raise ValueError(f"--attack {name}: its option {key}: got {value!r}; accepts true, false")
    if "only" in bound:
        bound["only"] = str(bound["only"]).split("+")
    return partial(ATTACKS[name], **bound) if bound else ATTACKS[name]


def model_of(text):
    """The model on its device, and what suits it: arguments of `ImageFiles`, and its `classes`, names in order."""
    suits = {}
    if text.startswith("torchvision:"):
        import torchvision  # it takes as long to load as torch itself

        name = text.removeprefix("torchvision:")
        checks.one_of(name, "--model", torchvision.models.list_models(torchvision.models))
        weights = torchvision.models.get_model_weights(name).DEFAULT
        try:
            network = torchvision.models.get_model(name, weights=weights)
        except (OSError, RuntimeError, EOFError) as error:
            where = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
            raise FileNotFoundError(
                f"--model: got {text!r}, whose weights could not be had ({error}); fetch {weights.url} "
                f"elsewhere and put it at {where}, in place of what may lie there"
            ) from error
        recipe = weights.transforms()
        suits = dict(size=recipe.crop_size[0], resize=recipe.resize_size[0], channels=3)
        suits |= dict(interpolation=recipe.interpolation.value, classes=weights.meta["categories"])
        network = nn.Sequential(Normalize(recipe.mean, recipe.std), network)
    elif text.endswith(".safetensors"):
        config = dict(read_tensors(text, kind="weights")[1]["config"])
        checks.one_of(config.get("architecture"), "--model: its architecture", BUILDERS)
        network = BUILDERS[config.pop("architecture")](**config)
        recipe = load_weights(network, text)["recipe"]  # of ours a dict, of another's anything
        made = recipe if isinstance(recipe, dict) else {}
        suits = dict(size=made.get("size"), channels=made.get("channels"))
        suits["classes"] = made.get("classes", CLASSES.get(made.get("data", made.get("dataset"))))
    elif re.fullmatch(r"[\w.]+:\w+", text):
        module, _, factory = text.partition(":")
        sys.path.insert(0, "")
        try:
            found = getattr(importlib.import_module(module), factory)
            network = found if isinstance(found, nn.Module) else found()
        except Exception as error:  # the reader's own code may raise anything
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"--model: got {text!r} ({why}); accepts module:factory that can be called") from error
        checks.module(network)
        suits = dict(classes=_class_names(network))
    else:
        raise ValueError(f"--model: got {text!r}; accepts FILE.safetensors, torchvision:NAME or module:factory")
    with contextlib.suppress(NotImplementedError):  # an exported one stays in the mode of its export
        network.eval()
    return network.to(device()), suits


def _class_names(network):
    """The names of a model's classes, in its order, from its attribute `classes`; None where it has none."""
    names = getattr(network, "classes", None)
    if isinstance(names, dict) and set(names.values()) == set(range(len(names))):  # of ImageFolder's `class_to_idx`
        names = sorted(names, key=names.get)
    if names is None or isinstance(names, (list, tuple, range)):
        return names and [str(name) for name in names]
    raise ValueError(
        f"model.classes: got {type(names).__name__}; accepts a list of names in the order of the logits, or a dict of "
        "their numbers"
    )


def data_of(chosen, suits, *, train):
    """The data set that the options describe: tensors for a named one, else images that are read when asked for."""
    if chosen.data in DATASETS:
        data = load_data(chosen.data, train=train)
    else:
        source = chosen.data if Path(chosen.data).exists() else sorted(glob.glob(chosen.data))
        if not source:
            raise FileNotFoundError(f"--data: got {chosen.data!r}, where there is nothing; accepts {ACCEPTED}")
        said = {key: vars(chosen)[key] for key in ("size", "channels") if vars(chosen)[key] is not None}
        suits = {key: value for key, value in suits.items() if key != "classes"}
        suits = suits if chosen.size is None else suits | dict(resize=None)
        options = dict(channels=3) | {k: v for k, v in (suits | said).items() if v is not None}
        data = ImageFiles(source, background=BACKGROUNDS[chosen.background], **options)
        if data.classes and {name.casefold() for name in data.classes} <= SPLITS:
            raise ValueError(f"--data: got {chosen.data!r}, a folder of {some(data.classes)}; accepts one of these")
    if chosen.limit is not None and checks.count(chosen.limit, "--limit") < len(data):
        data = _some(data, torch.arange(chosen.limit) * len(data) // chosen.limit)
    return data


def _some(data, at):
    return TensorDataset(*data[at]) if isinstance(data, TensorDataset) else Subset(data, at.tolist())


def _loader(data, chosen, *, batch_size, shuffle=False, seed=0):
    if isinstance(data, TensorDataset):
        return make_loader(data, batch_size=batch_size, shuffle=shuffle, seed=seed)
    return image_loader(data, batch_size=batch_size, shuffle=shuffle, seed=seed, workers=chosen.workers)


def train_command(chosen):
    if chosen.out.suffix != ".safetensors":
        raise ValueError(f"--out: got {str(chosen.out)!r}; accepts a name that ends in .safetensors")
    writable(chosen.out.absolute().parent)
    if (chosen.objective == "clean") != (chosen.eps is None):
        raise ValueError(
            f"--eps: got {chosen.eps} with --objective {chosen.objective}; accepts a radius for all but clean"
        )
    if chosen.steps is not None and chosen.objective not in ("adversarial", "trades"):
        raise ValueError(
            f"--steps: got {chosen.steps} with --objective {chosen.objective}; accepts adversarial, trades"
        )
    data = data_of(chosen, {}, train=True)
    if isinstance(data, TensorDataset):
        train, val = split(data, 0.1, seed=0)
    else:
        shuffled = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        val, train = (_some(data, part) for part in shuffled.tensor_split([max(1, len(data) // 10)]))
    labels = data.tensors[1] if isinstance(data, TensorDataset) else torch.tensor(_labels(data))
    if labels.min() < 0:
        raise ValueError(
            f"--data: got {chosen.data!r}, in which some images have no class; accepts a folder for each class"
        )
    names = _names(data, chosen)
    shape = dict(in_channels=data[0][0].shape[0], num_classes=max(int(labels.max()) + 1, len(names)))
    if shape["num_classes"] < 2:
        raise ValueError(f"--data: got {chosen.data!r} with {some(names or ['0'])}; accepts at least two classes")
    if chosen.architecture == "vgg":
        shape |= dict(depth=chosen.depth, width=chosen.width, contrast=chosen.contrast)
    model = initialised(partial(BUILDERS[chosen.architecture], **shape), seed=chosen.seed).to(device())
    if chosen.sync_batchnorm:
        if not torch.cuda.is_available():
            raise ValueError("--sync-batchnorm: got it without a GPU; PyTorch has it for GPUs only")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    objective = OBJECTIVES[chosen.objective]
    if chosen.steps is not None:
        inner = dict(attack=partial(attacks.pgd, steps=chosen.steps))
        objective = partial(objective, **(inner if chosen.objective == "adversarial" else dict(steps=chosen.steps)))
    recipe = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(chosen).items()
        if key not in ("run", "traceback")
    } | dict(processes=processes.count(), channels=shape["in_channels"], classes=list(names) or None)
    _say(json.dumps(recipe))
    _describe(data, chosen, "in the order of their names")
    state = chosen.out.with_suffix(".state.safetensors")
    history = fit(
        model,
        _loader(train, chosen, batch_size=chosen.batch_size, shuffle=True, seed=chosen.seed),
        _loader(val, chosen, batch_size=min(500, 4 * chosen.batch_size)),
        epochs=chosen.epochs,
        lr=chosen.lr,
        objective=objective,
        eps=chosen.eps,
        ramp=chosen.ramp,
        average=chosen.average,
        watch=WATCH if chosen.eps else None,
        state=state,
        augment=shift if chosen.shift else None,
        seed=chosen.seed,
        engine=processes.engine(),
    )
    if processes.first():
        save_weights(model, chosen.out, recipe=recipe, history=vars(history))
        state.unlink(missing_ok=True)
    kept = history.picked - 1
    watched = "".join(f", under {label} {values[kept]:.1%}" for label, values in history.watched.items())
    _say(
        f"{chosen.out}: validation accuracy {history.val_accuracy[kept]:.1%}{watched} after epoch {history.picked} of "
        f"{chosen.epochs}, {history.seconds[-1]:.0f} s"
    )


def evaluate_command(chosen):
    if chosen.out:
        if chosen.out.suffix != ".json" or chosen.out.is_dir():
            raise ValueError(f"--out: got {str(chosen.out)!r}; accepts the name of a file that ends in .json")
        writable(chosen.out.absolute().parent)
    chosen_attacks = {text: attack_of(text) for text in chosen.attack if text != "grey"}  # that is always run
    model, suits = model_of(chosen.model)
    data = data_of(chosen, suits, train=False)
    _describe(data, chosen, _numbered(data, chosen, suits.get("classes"), model))
    loader = _loader(data, chosen, batch_size=chosen.batch_size)
    if chosen_attacks:
        worst = worst_case(model, loader, chosen_attacks, eps=chosen.eps)
        found = worst.alone | {"all together": worst.accuracy}
    else:
        found = {"clean": wilson(survivors(model, loader))}
        if chosen.attack:
            found["grey"] = wilson(survivors(model, loader, attacks.grey, eps=chosen.eps))
    for label, record in found.items():
        _say(f"{label:40}{record}")
    if chosen.out and processes.first():
        rows = {label: record._asdict() for label, record in found.items()}
        about = dict(model=chosen.model, data=chosen.data, eps=chosen.eps, processes=processes.count(), accuracy=rows)
        replace_file(chosen.out, (json.dumps(about, indent=1) + "\n").encode())


def attack_command(chosen):
    attack = attack_of(chosen.attack)
    sources = [Path(chosen.data)] if Path(chosen.data).exists() else map(Path, glob.glob(chosen.data))
    for source in (path.resolve() for path in sources):
        if source.is_dir() and chosen.out.resolve().is_relative_to(source):
            raise ValueError(
                f"--out: got {str(chosen.out)!r}, a folder inside --data, where its images would be read as data the "
                "next time; accepts one outside"
            )
        if any(source.is_relative_to((chosen.out / kind).resolve()) for kind in KINDS):
            raise ValueError(f"--out: got {str(chosen.out)!r}, where it would overwrite --data; accepts another folder")
    model, suits = model_of(chosen.model)
    data = data_of(chosen, suits, train=False)
    if chosen.target is not None and "target" not in inspect.signature(attack).parameters:
        raise ValueError(f"--target: got it with --attack {chosen.attack}; accepts pgd")
    [(name, times)] = Counter(_name(data, at) for at in range(len(data))).most_common(1)
    if times > 1:
        raise ValueError(f"--data: got {times} images of the name {name!r}; accepts one, as each becomes a file")
    labelled, how = chosen.labels or "data", "not used: the labels are what the model reads"
    if labelled == "data":
        try:
            how = _numbered(data, chosen, suits.get("classes"), model)
        except ValueError as error:
            if chosen.labels:
                raise ValueError(f"--labels: got data, but {error}; or model") from error
            labelled, how = "model", f"not used: the labels are what the model reads ({error})"
    _describe(data, chosen, how)
    about = dict(
        model=chosen.model, data=chosen.data, attack=describe(attack), eps=chosen.eps, target=chosen.target,
        labels=labelled, limit=chosen.limit, batch_size=chosen.batch_size, size=chosen.size, channels=chosen.channels,
        background=chosen.background,
    )  # fmt: skip
    _claim(chosen.out, about)
    found = {}
    for index, (x, y) in processes.share(_loader(data, chosen, batch_size=chosen.batch_size)):
        x = (255 * x).round() / 255  # the clean image as its file holds it
        x, y = x.to(device()), y.to(device())
        clean = predict(model, x).argmax(1)
        label = clean if labelled == "model" else y
        aimed = {} if chosen.target is None else dict(target=torch.full_like(label, chosen.target))
        levels = to_levels(seeded(attack, index)(model, x, label, eps=chosen.eps, **aimed), x).cpu()
        names = [_name(data, index * chosen.batch_size + at) for at in range(len(x))]
        for name, image, original in zip(names, levels, (255 * x).round().to(torch.uint8).cpu()):
            write_png(chosen.out / "clean" / f"{name}.png", original)
            write_png(chosen.out / "adversarial" / f"{name}.png", image)
        found[index] = _reread(chosen, model, names, label, clean, labelled)
    rows = [row for part in processes.gathered(found).values() for row in part]
    if processes.first():
        sheet = io.StringIO()
        writer = csv.DictWriter(sheet, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        names_as_on_disk = sheet.getvalue().encode("utf-8", "surrogateescape")
        replace_file(chosen.out / "attack.csv", names_as_on_disk)
    goal = "taken for the target" if chosen.target is not None else f"no longer read as the {labelled}'s label"
    _say(f"{chosen.out}: {wilson(torch.tensor([row['success'] for row in rows]))} of the files are {goal}")


def _claim(out, about):
    """Write what the folder is to hold before it does; one that holds another attack's images is refused, not mixed."""
    there = processes.agreed((out / "attack.json").read_text() if (out / "attack.json").exists() else None)
    text = json.dumps(about, indent=1) + "\n"
    holds = processes.agreed([name for name in (*KINDS, "attack.csv") if (out / name).exists()])
    if holds and there != text:
        whose = "the images of another attack" if there else f"{' and '.join(holds)} of something else"
        raise ValueError(f"--out: got {str(out)!r}, which holds {whose}; accepts a new folder")
    if processes.first():
        (out / "attack.csv").unlink(missing_ok=True)  # of the same command, which may be broken off this time
        replace_file(out / "attack.json", text.encode())


def _reread(chosen, model, names, label, clean, labelled):
    """A row of the sheet for each image, from what lies on the disk."""
    pairs = []
    for kind in KINDS:
        files = [chosen.out / kind / f"{name}.png" for name in names]
        pairs.append(torch.stack([read_image(file.read_bytes(), file) for file in files]).to(device()))
    x, x_adv = pairs
    after, delta = predict(model, x_adv).argmax(1), (x_adv - x).flatten(1)
    success = after != label if chosen.target is None else after == chosen.target
    columns = (names, label, [labelled] * len(x), clean, after, delta.abs().amax(1), delta.norm(dim=1), success)
    rows = zip(*(values.tolist() if isinstance(values, torch.Tensor) else values for values in columns))
    return [dict(zip(COLUMNS, row)) for row in rows]


def _numbered(data, chosen, known, model):
    """How the labels of the data came to be the model's, in words; a ValueError where they are not.

    `known` holds the names of the model's classes in its order, or is None. Names are compared, not numbers alone.
    """
    names = _names(data, chosen)
    images, got = data.dataset if isinstance(data, Subset) else data, f"--data: got {chosen.data!r}"
    as_many = f"{got} with {some(names)}, whose classes are not the model's"
    if isinstance(data, TensorDataset) and known is not None and list(names) != list(known):
        raise ValueError(f"{as_many}; accepts {some(list(known))}")
    k = predict(model, data[0][0][None].to(device())).shape[1]
    if min(_labels(data)) < 0:
        raise ValueError(f"{got}, in which some images have no class; accepts a folder for each of {k} classes")
    if not names:
        if max(_labels(data)) >= k:
            raise ValueError(f"{got}, whose classes are not the model's: {max(_labels(data))}; accepts 0 to {k - 1}")
        return "as their .cls files say"
    if known is None:
        if len(names) != k:
            raise ValueError(f"{as_many}; accepts {k} of them")
        if ambiguous(names):
            raise ValueError(
                f"{as_many} for certain, since programs order such names in several ways; accepts a model with an "
                "attribute `classes`, their names in the order of its logits"
            )
        return "in the order of their names, as the model does not name its classes"
    if isinstance(data, TensorDataset):
        return "as the model's"
    if len(known) != k:
        raise ValueError(f"model.classes: got {some(known)}; accepts {k} names, one for each logit")
    if len(names) == k == 1000 and set(names) != set(known) and all(re.fullmatch(r"n\d{8}", name) for name in names):
        return "in the order of their WordNet ids, as ImageNet's are"
    images.number(known)
    return "by name, as the model's"


def _describe(data, chosen, how):
    """Say what was found in a folder or tar file, where the classes are, and what was left out."""
    images = data.dataset if isinstance(data, Subset) else data
    if isinstance(images, ImageFiles):
        there = in_order({kind for kind in images.kinds if isinstance(kind, str)})
        classes = f"{some(there)}, numbered {how}" if there else f"classes: {how}"
        left_out = ", ".join(f"{n} {ending or 'without an ending'}" for ending, n in images.left_out.most_common())
        _say(f"{chosen.data}: {len(images)} images; {classes}" + (f"; left out: {left_out}" if left_out else ""))


def _names(data, chosen):
    """The names of the data set's classes by number; none where it does not name them."""
    images = data.dataset if isinstance(data, Subset) else data
    return CLASSES[chosen.data] if isinstance(images, TensorDataset) else images.classes


def _labels(data):
    if isinstance(data, TensorDataset):
        return data.tensors[1].tolist()
    return [data.dataset.labels[at] for at in data.indices] if isinstance(data, Subset) else data.labels


def _name(data, at):
    if isinstance(data, Subset):
        return _name(data.dataset, data.indices[at])
    return f"{at:05}" if isinstance(data, TensorDataset) else data.name(at)


def _say(text):
    if processes.first():
        print(text, flush=True)
