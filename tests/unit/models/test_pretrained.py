"""The models of the series by name: published, or trained once, then loaded, and trained anew under a new version."""

import copy
import json
import re
import sys
import time

import pytest
import results
import torch
from helpers import digits, refused, same_weights
from torch.utils.data import TensorDataset
from weights import LARGEST, LARGEST_WIDE, NETWORKS

from advutils import Normalize, cache_dir, describe, initialised, load_data, load_weights, pgd
from advutils.certify import proven, tighten
from advutils.cli.common import model_of
from advutils.data import shift, split
from advutils.evaluation import predict
from advutils.models import strided_cnn, vgg
from advutils.pretrained import trained
from advutils.utils.hashes import image_hashes
from advutils.utils.weights import save_weights

module = sys.modules["advutils.pretrained"]  # the attribute of that name is the function
NAMES = ["clean", "clean-small-cnn", "mixed-fgsm-0.1"]
DEFENCES = ["fgsm-0.1", "random-fgsm-0.1", "n-fgsm-0.1", "pgd-0.1", "trades-0.1"]


@pytest.fixture(autouse=True)
def few_digits(monkeypatch, tmp_path):
    """Forty digits and an empty cache."""
    asked = []

    def load(name, *, train):
        asked.append((name, train))
        return TensorDataset(*digits(40, train=train))

    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "load_data", load)
    return asked


def get(name="clean", **kwargs):
    return trained(name, **(dict(epochs=1, depth=11, width=0.05, batch_size=12, progress=False) | kwargs))


def files():
    return sorted((cache_dir() / "models").iterdir())


@pytest.mark.parametrize("name", NAMES + DEFENCES)
def test_the_second_call_loads_what_the_first_one_trained(name, trainings, few_digits, capfd):
    first, second = get(name), get(name)
    assert len(trainings) == 1 and len(files()) == 1 and "".join(capfd.readouterr()) == ""
    assert first is not second and same_weights(first, second)
    assert first.history == second.history and type(first.history) is type(second.history)
    assert torch.equal(first.train_hashes, second.train_hashes)
    for model in (first, second):
        assert not any(part.training for part in model.modules())
    assert set(few_digits) == {("mnist-5k", True)} and len(first.train_hashes) == 36  # nine tenths of the training part
    get(name, seed=1, progress=True)
    assert "epoch 1/1" in capfd.readouterr().err


def test_a_model_depends_on_its_recipe_alone_and_leaves_the_callers_random_state(trainings):
    torch.manual_seed(1)
    first = get()
    files()[0].unlink()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = get()
    assert same_weights(first, second) and torch.equal(torch.random.get_rng_state(), before) and len(trainings) == 2
    assert not same_weights(first, initialised(lambda: vgg(11, width=0.05), seed=0))


STEEP = dict(steps=2, beta=3.0, ema_decay=0.9, eps_warmup=0.5)
MADE = {  # the objective in words, the radius, warmup and average that `fit` is given, and whether PGD picks the epoch
    "clean": ({}, "clean", None, 0, None, False),
    "clean-small-cnn": ({}, "clean", None, 0, None, False),
    "mixed-fgsm-0.1": ({}, "mixed", 0.1, 0, None, False),
    "fgsm-0.1": (dict(ema_decay=0.9), "adversarial(attack=fgsm)", 0.1, 1, 0.9, True),
    "fgsm-last-0.1": ({}, "adversarial(attack=fgsm)", 0.1, 0, None, False),
    "random-fgsm-0.1": ({}, "random_fgsm", 0.1, 1, None, True),
    "n-fgsm-0.1": ({}, "n_fgsm", 0.1, 1, None, True),
    "pgd-0.1": ({}, "adversarial(attack=pgd(steps=5))", 0.1, 1, None, True),
    "pgd-0.05": (dict(steps=3), "adversarial(attack=pgd(steps=3))", 0.05, 1, None, True),
    "trades-0.1": ({}, "trades(steps=5, beta=6.0)", 0.1, 1, None, True),
    "trades-0.05": (STEEP, "trades(steps=2, beta=3.0)", 0.05, 0.5, 0.9, True),
}


@pytest.mark.parametrize("name", MADE)
def test_name_and_settings_reach_the_training(name, trainings):
    settings, objective, eps, eps_warmup, ema_decay, watched = MADE[name]
    model = get(name, epochs=2, lr=0.005, seed=7, **settings)
    assert model.config["architecture"] == ("small_cnn" if "cnn" in name else "vgg")
    given = trainings[0]
    assert (given["epochs"], given["lr"], given["seed"]) == (2, 0.005, 7)
    assert describe(given["objective"]) == objective
    assert [given[key] for key in ("eps", "eps_warmup", "ema_decay")] == [eps, eps_warmup, ema_decay]
    assert list(given["eval_attacks"] or []) == (["FGSM", "PGD"] if watched else [])
    assert model.history.images == [36, 72]  # nine tenths of forty, twice


@pytest.mark.parametrize("name, entry", [("fgsm-0.1", "beta"), ("fgsm-0.1", "steps"), ("pgd-0.1", "beta"),
                                         ("mixed-fgsm-0.1", "eps_warmup"), ("fgsm-last-0.1", "eps_warmup"),
                                         ("clean", "ema_decay"), ("clean", "learning_rate")])  # fmt: skip
def test_an_entry_that_is_not_of_the_recipe_is_refused(name, entry, trainings):
    with refused("recipe", repr(entry), "'epochs'"):
        get(name, **{entry: 1})
    assert trainings == []


def test_a_certified_network_is_trained_beyond_its_radius_from_tightened_weights(trainings, monkeypatch):
    started, fit = [], module.fit
    monkeypatch.setattr(
        module, "fit", lambda model, *a, **k: started.append(copy.deepcopy(model)) or fit(model, *a, **k)
    )
    model, again = (get("certified-0.3", epochs=2, eps_warmup=1, eps=0.45) for _ in range(2))
    assert len(trainings) == 1 and same_weights(model, again) and model.recipe["eps"] == 0.45
    assert same_weights(started[0], initialised(lambda: tighten(strided_cnn(contrast=20)), seed=0))
    given = trainings[0]
    assert given["eps"] == 0.45 and given["eval_attacks"] is None and given["eps_warmup"] == 1
    assert given["augment"] is None and describe(given["objective"]) == "ibp(kappa=0.5, full_eps=0.45)"
    assert model.history.best_epoch == 2 and model.history.forwards == [108, 216]  # three an image
    other = get("certified-0.1", epochs=1, eps_warmup=1, channels=4)
    assert isinstance(other[0], Normalize) and trainings[1]["eps"] == 0.13 and len(other[1].weight) == 4
    steep = get("certified-0.1", epochs=1, eps_warmup=1, contrast=5, shifted=True)
    assert steep[0].slope == 5 and steep.recipe["contrast"] == 5 and trainings[2]["augment"] is shift
    assert isinstance(get("certified-0.3", epochs=1, eps_warmup=1, contrast=0)[0], Normalize)


def test_a_wide_certified_network_is_trained_on_its_bounds_alone_with_batch_norm(trainings):
    model = get("certified-wide-0.1", epochs=1, eps_warmup=1, channels=4)
    assert model.config == strided_cnn(contrast=20, channels=4, batch_norm=True).config
    assert trainings[0]["eps"] == 0.11 and trainings[0]["augment"] is shift
    assert describe(trainings[0]["objective"]) == "ibp(kappa=0.0, full_eps=0.11)"


def break_off(monkeypatch):
    """From now on a training is broken off once, in its second epoch; the list of the batches that it has seen."""
    calls, shift = [], module.shift

    def counted(x):
        calls.append(len(x))
        if len(calls) == 5:  # three batches an epoch: in the second
            raise KeyboardInterrupt
        return shift(x)

    counted.__name__ = "shift"
    monkeypatch.setattr(module, "shift", counted)
    return calls


@pytest.mark.parametrize("retrain", [False, True])
@pytest.mark.parametrize("name", ["clean", "mixed-fgsm-0.1", "random-fgsm-0.1"])
def test_a_broken_off_training_goes_on_where_its_last_epoch_ended(name, retrain, trainings, monkeypatch, tmp_path):
    whole = get(name, epochs=3)
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "other"))
    calls = break_off(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        get(name, epochs=3, retrain=retrain)
    [left] = files()
    assert left.name.endswith(".checkpoint.pt") and left.name.startswith(f"{name}-mnist-5k-")
    continued = get(name, epochs=3, retrain=retrain)
    assert len(calls) == 5 + 6  # the first epoch is not trained again
    assert same_weights(whole, continued) and torch.equal(whole.train_hashes, continued.train_hashes)
    assert {**vars(whole.history), "seconds": 0} == {**vars(continued.history), "seconds": 0}
    assert [path.suffix for path in files()] == ([] if retrain else [".safetensors"]) and len(trainings) == 3


BAD_NAMES = """- Clean mixed mixed-fgsm mixed-fgsm-x mixed-fgsm-8 mixed-pgd-0.1 pgd pgd- pgd-1.5 trades-0.1- fgsm--0.1
    n-fgsm-.1 random-0.1 PGD-0.1"""


@pytest.mark.parametrize("bad", [*BAD_NAMES.split(), "", None, 5])
def test_an_unknown_name_is_refused_before_anything_is_downloaded(bad, trainings, few_digits):
    with refused("name"):
        get(bad)
    with refused(
        "name",
        "'madry'",
        "'clean'",
        "'outsider-small-cnn'",
        "mixed-fgsm-E",
        "fgsm-last-E",
        "trades-E",
        "'certified-0.1'",
    ):
        get("madry")
    assert trainings == [] and few_digits == []


def test_the_file_of_a_network_names_what_makes_it_another():
    def named(name="clean", config=None, **changed):
        config = dict(architecture="vgg", depth=16, width=0.25, contrast=None) | (config or {})
        recipe = module.RECIPES[name.removesuffix("-0.1")] | dict(dataset="mnist-5k", version=1)
        return module.file_name(dict(name=name, config=config, **(recipe | changed)))

    assert named() == "clean-mnist-5k-v1.safetensors"
    assert named(seed=1, epochs=3) == "clean-mnist-5k-v1-epochs=3-seed=1.safetensors"
    changes = [dict(seed=1), dict(epochs=1), dict(lr=0.1), dict(batch_size=1), dict(version=2), dict(processes=2),
               dict(dataset="mnist"), dict(config=dict(depth=11)), dict(config=dict(width=0.5)),
               dict(config=dict(contrast=2.5))]  # fmt: skip
    defence = [dict(eps_warmup=2), dict(ema_decay=0.9), dict(steps=1), dict(beta=1.0)]
    names = [named(), *(named(**change) for change in changes)]
    names += [named("trades-0.1", **change) for change in [{}, *changes, *defence]]
    assert len(set(names)) == len(names) == 2 + 2 * len(changes) + len(defence)


def test_a_raised_version_of_its_recipe_trains_anew_beside_the_old_file(trainings, monkeypatch):
    get()
    [old] = files()
    content = old.read_bytes()
    monkeypatch.setitem(module.VERSIONS, "mixed-fgsm", 2)
    assert get().recipe["version"] == 1 and len(trainings) == 1
    monkeypatch.setitem(module.VERSIONS, "clean", 2)
    assert get().recipe["version"] == get().recipe["version"] == 2
    assert len(trainings) == 2 and len(files()) == 2 and old.read_bytes() == content


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Another folder of published weights, empty at first."""
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setattr(module, "PUBLISHED", folder)
    return folder


@pytest.mark.parametrize("place", ["cached", "published"])
def test_a_file_of_other_settings_under_its_name_is_refused(place, published, trainings):
    get(), get(seed=1)
    ours, other = sorted(files(), key=lambda path: "seed=1" in path.name)
    content = other.read_bytes()
    named = ours if place == "cached" else published / ours.name
    named.write_bytes(content)
    trainings.clear()
    with pytest.raises(ValueError, match="other settings") as caught:
        get()
    assert str(named) in str(caught.value) and trainings == [] and named.read_bytes() == content


def test_published_weights_come_before_cached_ones_and_serve_where_nothing_is_cached(published, trainings):
    cached = get()
    [path] = files()
    other = get(seed=1)
    save_weights(other, published / path.name, recipe=cached.recipe, history=vars(other.history))
    assert same_weights(get(), other) and not same_weights(cached, other)
    for file in files():
        file.unlink()
    assert same_weights(get(), other) and files() == [] and len(trainings) == 2


@pytest.mark.parametrize("place", ["nowhere", "cached", "published"])
def test_a_network_that_is_trained_again_is_loaded_from_nowhere_and_kept_nowhere(place, published, trainings):
    first = get()
    [path] = files()
    with torch.no_grad():
        spoilt = copy.deepcopy(first)
        next(spoilt.parameters()).zero_()
    path.unlink()
    if place != "nowhere":
        kept = path if place == "cached" else published / path.name
        save_weights(spoilt, kept, recipe=first.recipe, history=vars(first.history))
    before = {file: file.read_bytes() for folder in (path.parent, published) for file in folder.iterdir()}
    again = get(retrain=True)
    assert len(trainings) == 2 and same_weights(first, again) and again.recipe == first.recipe
    assert {file: file.read_bytes() for folder in (path.parent, published) for file in folder.iterdir()} == before


each_published = pytest.mark.parametrize("name, settings", NETWORKS, ids=[f"{n} {s}".strip(" {}") for n, s in NETWORKS])


@pytest.fixture
def no_training(monkeypatch):
    def fails(*args, **kwargs):
        raise AssertionError("this trains")

    monkeypatch.setattr(module, "fit", fails)


@pytest.fixture
def all_digits(monkeypatch):
    monkeypatch.setattr(module, "load_data", load_data)


@each_published
def test_published_weights_load_in_a_second_without_a_cache(name, settings, no_training, all_digits, tmp_path):
    load_data("mnist-5k", train=True)  # whose package is imported on first use
    before = time.process_time()  # of this process alone, so however busy the machine is
    model = trained(name, **settings)
    assert time.process_time() - before < 1
    assert list(tmp_path.rglob("*")) == []
    assert not any(part.training for part in model.modules())
    again = trained(name, retrain=False, progress=False, **settings)
    assert same_weights(model, again) and vars(model.history) == vars(again.history)


@each_published
def test_a_published_file_says_how_it_was_made(name, settings, no_training, all_digits):
    model = trained(name, **settings)
    kind = name if name in module.RECIPES else re.sub(r"-[\d.]+$", "", name)
    path = module.PUBLISHED / module.file_name(model.recipe)
    saved = load_weights(copy.deepcopy(model), path)
    later = ("channels", "shifted", "kappa", "batch_norm")  # entries that the recipe got after the first files
    said = {key: value for key, value in module.RECIPES[kind].items() if key in later} | saved["recipe"]
    assert said == json.loads(json.dumps(model.recipe))
    asked = dict(dataset="mnist-5k") | module.RECIPES[kind] | settings
    asked |= dict(name=name, version=module.VERSIONS[kind])
    assert asked.items() <= (said | saved["config"]).items() and said["config"] == saved["config"]
    assert "PyTorch" in saved["machine"]
    history, epochs = saved["history"], asked["epochs"]
    assert 1 <= history["best_epoch"] <= epochs and all(
        len(history[key]) == epochs for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
    )
    assert history["images"][-1] == epochs * len(model.train_hashes)
    train, val = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    images = (val if name == "outsider-small-cnn" else train).tensors[0]
    if asked["dataset"] == "mnist":  # which no test may need: nine tenths of it, and so of the digits that lie in it
        assert len(model.train_hashes) == 54_000
        assert 0.88 < torch.isin(image_hashes(images), model.train_hashes).double().mean() < 0.92
    else:
        assert torch.equal(model.train_hashes.sort().values, image_hashes(images).sort().values)


def test_nothing_else_is_published_and_all_of_it_is_small(no_training):
    files = {path.name: path.stat().st_size for path in module.PUBLISHED.glob("*.*")}
    assert files.keys() == {module.file_name(trained(name, **settings).recipe) for name, settings in NETWORKS}
    wide = {name: size for name, size in files.items() if "wide" in name}
    assert sum(files.values()) - sum(wide.values()) <= LARGEST == 12e6
    assert len(wide) == 2 and max(wide.values()) <= LARGEST_WIDE == 3e6


CERTIFIED = [("certified-0.1", {}, 0.8), ("certified-0.3", {}, 0.7)]
CERTIFIED += [(f"certified-wide-{eps}", dict(dataset="mnist"), 0.9) for eps in (0.1, 0.3)]  # on training digits, mostly


@pytest.mark.parametrize("name, settings, least", CERTIFIED)
def test_the_published_certified_networks_prove_most_digits(no_training, all_digits, name, settings, least):
    x, y = load_data("mnist-5k", train=False)[::10]
    assert proven(trained(name, **settings), x, y, eps=float(name.rpartition("-")[2])).float().mean() > least


@pytest.mark.parametrize("steps", [3, 5])
def test_the_published_weights_are_those_of_their_rows_and_hold(steps):
    path = results.HOME / "notebooks" / "results" / f"mnist-pgd-{steps}-contrast-quarter.safetensors"
    model, _ = model_of(str(path))
    saved = load_weights(model, path)
    made, cost = saved["recipe"] | saved["recipe"]["config"], saved["history"]
    label = f"PGD-{steps}, contrast, width 1/4"
    name, settings = results.recipe("mnist", label)
    assert made["name"] == f"{name}-0.3" and made["dataset"] == "mnist" and settings.items() <= made.items()
    rows = [row for row in results.load() if (row["model"], row["seed"]) == (label, made["seed"])]
    judged = {"PGD-40", "APGD-CE and APGD-T"} | ({"AutoAttack"} if steps == 3 else set())
    assert judged <= {row["attack"] for row in rows}
    assert {(row["forwards"], row["backwards"]) for row in rows} == {(cost["forwards"][-1], cost["backwards"][-1])}
    x, y = load_data("mnist-5k", train=False)[::10]
    x_adv = pgd(model, x, y, eps=0.3, steps=10)
    assert (predict(model, x_adv).argmax(1) == y).float().mean() > 0.85
