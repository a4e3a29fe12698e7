"""What the commands share: models, data and attacks as they are typed, and the classes of folders of images."""

import argparse
import ast
import contextlib
import glob
import importlib
import inspect
import re
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from advutils.attacks import ATTACKS
from advutils.attacks.losses import cross_entropy, cw, dlr
from advutils.data import CLASSES, DATASETS, device, index_loader, load_data
from advutils.evaluation import predict
from advutils.models import Normalize, small_cnn, strided_cnn, vgg
from advutils.utils import distributed, validation
from advutils.utils.images import ImageFiles, ambiguous, in_order, some
from advutils.utils.storage import writable
from advutils.utils.weights import load_weights, read_tensors

GIVEN = {"model", "x", "y", "eps", "target", "generator", "flags"}  # what an attack gets from elsewhere
WORDS = {"true": True, "false": False, "none": None, "cross_entropy": cross_entropy, "dlr": dlr, "cw": cw}
ACCEPTED = f"{', '.join(DATASETS)}, a folder of images, or tar files"
BUILDERS = {"vgg": vgg, "small_cnn": small_cnn, "strided_cnn": strided_cnn}
OPTIONS = {"source": "--data", "path": "--model"}  # of arguments that have another name in the package
BACKGROUNDS = {"white": 255, "black": 0}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # folders of such names hold no class


def number(text):
    """A radius as people write it: 0.1, or a fraction, 8/255."""
    try:
        return validation.typed(text, "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None


def attack_of(text, option="--attack", known=ATTACKS):
    """The attack that "pgd:steps=40,restarts=2" describes, one of the known ones, its options bound."""
    name, _, said = text.partition(":")
    validation.one_of(name, option, known)
    bound, parameters = {}, inspect.signature(known[name]).parameters
    for part in filter(None, said.split(",")):
        key, _, value = part.partition("=")
        try:
            bound[key.strip()] = WORDS[value.lower()] if value.lower() in WORDS else ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            bound[key.strip()] = validation.typed(value, key) if re.fullmatch(r"[\d.]+ */ *[\d.]+", value) else value
    for key, value in bound.items():
        validation.one_of(key, f"{option} {name}: its option", sorted(parameters.keys() - GIVEN))
        if isinstance(parameters[key].default, bool) and not isinstance(value, bool):
            raise ValueError(f"{option} {name}: its option {key}: got {value!r}; accepts true, false")
    if "attacks_to_run" in bound:
        bound["attacks_to_run"] = str(bound["attacks_to_run"]).split("+")
    return partial(known[name], **bound) if bound else known[name]


def check_json(out):
    """Raise, before anything is computed, unless --out is left out or names a JSON file that can be written."""
    if out is None:
        return
    if out.suffix != ".json" or out.is_dir():
        raise ValueError(f"--out: got {str(out)!r}; accepts the name of a file that ends in .json")
    writable(out.absolute().parent, "--out: ")


def in_words(error):
    """What an error says, in one line, with the option in place of the argument that holds what was typed there."""
    name, colon, said = " ".join(str(error).split()).partition(": ")
    return OPTIONS.get(name, name) + colon + said


def model_of(text):
    """The model on its device, and what suits it: arguments of `ImageFiles`, and its `classes`, names in order."""
    suits = {}
    if text.startswith("torchvision:"):
        import torchvision  # it takes as long to load as torch itself

        name = text.removeprefix("torchvision:")
        validation.one_of(name, "--model", torchvision.models.list_models(torchvision.models))
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
        config = dict(read_tensors(text)[1]["config"])
        validation.one_of(config.get("architecture"), "--model: its architecture", BUILDERS)
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
        validation.module(network)
        suits = dict(classes=class_names(network))
    else:
        raise ValueError(f"--model: got {text!r}; accepts FILE.safetensors, torchvision:NAME or module:factory")
    with contextlib.suppress(NotImplementedError):  # an exported one stays in the mode of its export
        network.eval()
    return network.to(device()), suits


def class_names(network):
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
    if chosen.limit is not None and validation.count(chosen.limit, "--limit") < len(data):
        data = subset(data, torch.arange(chosen.limit) * len(data) // chosen.limit)
    return data


def subset(data, at):
    return TensorDataset(*data[at]) if isinstance(data, TensorDataset) else Subset(data, at.tolist())


def loader_of(data, chosen, *, batch_size, shuffle=False, seed=0):
    workers = 0 if isinstance(data, TensorDataset) else chosen.workers
    return index_loader(data, batch_size, shuffle, seed, workers)


def number_classes(data, chosen, known, model):
    """How the labels of the data came to be the model's, in words; a ValueError where they are not.

    `known` holds the names of the model's classes in its order, or is None. Names are compared, not numbers alone.
    """
    names = names_of(data, chosen)
    images, got = data.dataset if isinstance(data, Subset) else data, f"--data: got {chosen.data!r}"
    as_many = f"{got} with {some(names)}, whose classes are not the model's"
    if isinstance(data, TensorDataset) and known is not None and list(names) != list(known):
        raise ValueError(f"{as_many}; accepts {some(list(known))}")
    k = predict(model, data[0][0][None].to(device())).shape[1]
    if min(labels_of(data)) < 0:
        raise ValueError(f"{got}, in which some images have no class; accepts a folder for each of {k} classes")
    if not names:
        if max(labels_of(data)) >= k:
            raise ValueError(f"{got}, whose classes are not the model's: {max(labels_of(data))}; accepts 0 to {k - 1}")
        return "numbered as their .cls files say"
    if known is None:
        if len(names) != k:
            raise ValueError(f"{as_many}; accepts {k} of them")
        if ambiguous(names):
            raise ValueError(
                f"{as_many} for certain, since programs order such names in several ways; accepts a model with an "
                "attribute `classes`, their names in the order of its logits"
            )
        return "numbered in the order of their names, as the model does not name its classes"
    if isinstance(data, TensorDataset):
        return "numbered as the model's"
    if len(known) != k:
        raise ValueError(f"model.classes: got {some(known)}; accepts {k} names, one for each logit")
    if len(names) == k == 1000 and set(names) != set(known) and all(re.fullmatch(r"n\d{8}", name) for name in names):
        return "numbered in the order of their WordNet ids, as ImageNet's are"
    images.number(known)
    return "numbered by name, as the model's"


def describe_data(data, chosen, how):
    """Say what was found in a folder or tar file, where the classes are, and what was left out."""
    images = data.dataset if isinstance(data, Subset) else data
    if isinstance(images, ImageFiles):
        there = in_order({kind for kind in images.kinds if isinstance(kind, str)})
        classes = f"{some(there)}, {how}" if there else f"classes: {how.removeprefix('numbered ')}"
        left_out = ", ".join(f"{n} {ending or 'without an ending'}" for ending, n in images.left_out.most_common())
        say(f"{chosen.data}: {len(images)} images; {classes}" + (f"; left out: {left_out}" if left_out else ""))


def names_of(data, chosen):
    """The names of the data set's classes by number; none where it does not name them."""
    images = data.dataset if isinstance(data, Subset) else data
    return CLASSES[chosen.data] if isinstance(images, TensorDataset) else images.classes


def labels_of(data):
    if isinstance(data, TensorDataset):
        return data.tensors[1].tolist()
    return [data.dataset.labels[at] for at in data.indices] if isinstance(data, Subset) else data.labels


def image_name(data, at):
    if isinstance(data, Subset):
        return image_name(data.dataset, data.indices[at])
    return f"{at:05}" if isinstance(data, TensorDataset) else data.name(at)


def say(text):
    if distributed.is_main_process():
        print(text, flush=True)
