"""The models of the series by name: published, or trained once, then loaded, and trained anew under a new version."""

import copy
import json
import re
import sys
import time

import pytest
import results
import torch
from helpers import digits, refused
from torch.utils.data import TensorDataset
from weights import LARGEST, NETWORKS

from advutils import (
    Contrast,
    Normalize,
    accuracy,
    cache_dir,
    describe,
    fgsm,
    initialised,
    load_data,
    load_weights,
    make_loader,
    n_fgsm,
    pgd,
    predict,
    random_fgsm,
    save_weights,
    small_cnn,
    split,
    strided_cnn,
    tighten,
    trained,
    vgg,
)
from advutils.certify import proven
from advutils.cli.common import model_of
from advutils.objectives import OBJECTIVES
from advutils.utils.hashes import image_hashes

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


@pytest.fixture
def trainings(monkeypatch):
    """A list that gets an entry for each training."""
    done, fit = [], module.fit

    def counted(*args, **kwargs):
        done.append(kwargs)
        return fit(*args, **kwargs)

    monkeypatch.setattr(module, "fit", counted)
    return done


def get(name="clean", **kwargs):
    return trained(name, **(dict(epochs=1, depth=11, width=0.05, batch_size=12, progress=False) | kwargs))


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def files():
    return sorted((cache_dir() / "models").iterdir())


@pytest.mark.parametrize("name", NAMES + DEFENCES)
def test_the_second_call_loads_what_the_first_one_trained(name, trainings):
    first, second = get(name), get(name)
    assert len(trainings) == 1 and len(files()) == 1
    assert first is not second and same(first, second)
    assert first.history == second.history and type(first.history) is type(second.history)
    assert torch.equal(first.train_hashes, second.train_hashes)
    for model in (first, second):
        assert not any(part.training for part in model.modules())
    x, _ = digits(5, train=False)
    assert torch.equal(predict(first, x), predict(second, x))


def test_the_same_recipe_trains_the_same_weights(trainings):
    first = get()
    files()[0].unlink()
    second = get()
    assert len(trainings) == 2 and same(first, second)


def test_a_model_does_not_depend_on_the_callers_random_state_and_leaves_it(trainings):
    torch.manual_seed(1)
    first = get()
    files()[0].unlink()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = get()
    assert same(first, second) and torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("change", [dict(epochs=2), dict(lr=0.01), dict(batch_size=20), dict(seed=1), dict(width=0.07),
                                    dict(depth=13), dict(dataset="mnist"), dict(name="mixed-fgsm-0.2")])  # fmt: skip
def test_another_recipe_is_another_model(change, trainings):
    get(), get(**change), get(**change), get()
    assert len(trainings) == 2 and len(files()) == 2


def test_a_name_decides_network_and_objective(trainings):
    configs = [get(name).config["architecture"] for name in NAMES]
    assert configs == ["vgg", "small_cnn", "vgg"]
    clean, small, mixed = (kwargs["objective"] for kwargs in trainings)
    assert clean is small is OBJECTIVES["clean"]
    assert mixed is OBJECTIVES["mixed"] and trainings[2]["eps"] == 0.1


def test_a_defences_name_decides_objective_and_radius(trainings):
    for name in DEFENCES:
        get(name)
    single, random, noisy, pgd, trades = (kwargs["objective"] for kwargs in trainings)
    assert describe(single) == "adversarial(attack=fgsm)" and (random, noisy) == (random_fgsm, n_fgsm)
    assert describe(pgd) == "adversarial(attack=pgd(steps=5))" and describe(trades) == "trades(steps=5, beta=6.0)"
    assert all(kwargs["eps"] == 0.1 and kwargs["eps_warmup"] == 1 for kwargs in trainings)
    assert all(list(kwargs["eval_attacks"]) == ["FGSM", "PGD"] for kwargs in trainings)
    get("clean"), get("mixed-fgsm-0.1")
    assert all(kwargs["eval_attacks"] is None and kwargs["eps_warmup"] == 0 for kwargs in trainings[5:])


def test_fgsm_training_that_nobody_watches_keeps_its_last_epoch(trainings):
    get("fgsm-0.1", eps_warmup=0), get("fgsm-last-0.1")
    watched, last = trainings
    assert describe(watched["objective"]) == describe(last["objective"]) and watched["eps"] == last["eps"] == 0.1
    assert list(watched["eval_attacks"]) == ["FGSM", "PGD"] and last["eval_attacks"] is None and last["eps_warmup"] == 0


def test_steps_beta_ramp_and_average_reach_the_training(trainings):
    get("trades-0.05", steps=2, beta=3.0, ema_decay=0.9, eps_warmup=0.5)
    assert describe(trainings[0]["objective"]) == "trades(steps=2, beta=3.0)"
    assert [trainings[0][key] for key in ("eps", "ema_decay", "eps_warmup")] == [0.05, 0.9, 0.5]
    get("pgd-0.05", steps=3)
    assert describe(trainings[1]["objective"]) == "adversarial(attack=pgd(steps=3))"


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_is_watched_under_fgsm_and_pgd(name):
    history = get(name, epochs=2).history
    assert {label: len(line) for label, line in history.robust_val_accuracy.items()} == {"FGSM": 2, "PGD": 2}
    assert history.robust_val_accuracy["PGD"][history.best_epoch - 1] == max(history.robust_val_accuracy["PGD"])


@pytest.mark.parametrize("name, entry", [("fgsm-0.1", "beta"), ("fgsm-0.1", "steps"), ("pgd-0.1", "beta"),
                                         ("mixed-fgsm-0.1", "eps_warmup"), ("fgsm-last-0.1", "eps_warmup"),
                                         ("clean", "ema_decay")])  # fmt: skip
def test_an_entry_of_another_recipe_is_refused(name, entry, trainings):
    with refused("recipe", repr(entry), "'epochs'"):
        get(name, **{entry: 1})
    assert trainings == []


def test_a_certified_network_is_trained_beyond_its_radius_from_tightened_weights(trainings, monkeypatch):
    started, fit = [], module.fit
    monkeypatch.setattr(
        module, "fit", lambda model, *a, **k: started.append(copy.deepcopy(model)) or fit(model, *a, **k)
    )
    model, again = (get("certified-0.3", epochs=2, eps_warmup=1, eps=0.45) for _ in range(2))
    assert len(trainings) == 1 and same(model, again) and model.recipe["eps"] == 0.45
    assert same(started[0], initialised(lambda: tighten(strided_cnn(contrast=20)), seed=0))
    given = trainings[0]
    assert given["eps"] == 0.45 and given["eval_attacks"] is None and given["eps_warmup"] == 1
    assert given["augment"] is None and describe(given["objective"]) == "ibp(full_eps=0.45)"
    assert model.history.best_epoch == 2 and model.history.forwards == [108, 216]  # three an image
    other = get("certified-0.1", epochs=1)
    assert isinstance(other[0], Normalize) and trainings[1]["eps"] == 0.13


def test_plain_fgsm_training_can_average_its_weights_too():
    """The docstring promises ramp and average to every defence but the mixed one."""
    get("fgsm-0.1", ema_decay=0.9)


def test_contrast_makes_another_model(trainings):
    plain, contrasted, again = get(), get(contrast=8), get(contrast=8)
    assert len(trainings) == 2 and len(files()) == 2 and same(contrasted, again)
    assert isinstance(contrasted[1], Contrast) and isinstance(again[1], Contrast) and not isinstance(plain[1], Contrast)


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


@pytest.mark.parametrize("name", ["clean", "mixed-fgsm-0.1", "random-fgsm-0.1"])
def test_a_training_that_was_broken_off_goes_on_where_its_last_epoch_ended(name, trainings, monkeypatch, tmp_path):
    whole = get(name, epochs=3)
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "other"))
    calls = break_off(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        get(name, epochs=3)
    [left] = files()
    assert left.name.endswith(".checkpoint.pt") and left.name.startswith(f"{name}-mnist-5k-")
    continued = get(name, epochs=3)
    assert len(calls) == 5 + 6  # the first epoch is not trained again
    assert same(whole, continued) and torch.equal(whole.train_hashes, continued.train_hashes)
    assert {**vars(whole.history), "seconds": 0} == {**vars(continued.history), "seconds": 0}
    [weights] = files()
    assert ".state" not in weights.name and same(get(name, epochs=3), whole)
    assert len(trainings) == 3


def test_the_recipe_reaches_the_training(trainings):
    model = get(epochs=2, lr=0.005, seed=7)
    assert (trainings[0]["epochs"], trainings[0]["lr"], trainings[0]["seed"]) == (2, 0.005, 7)
    assert model.history.images == [36, 72]  # nine tenths of forty, twice


def test_training_and_validation_images_are_cut_from_the_training_part(few_digits):
    model = get()
    assert few_digits == [("mnist-5k", True)]
    assert len(model.train_hashes) == 36
    with refused("loader", "36 images"):
        accuracy(model, make_loader(TensorDataset(*digits(40)), batch_size=40))
    assert accuracy(model, make_loader(TensorDataset(*digits(20, train=False)), batch_size=20), fgsm, eps=0.1).n == 20


def test_a_progress_bar_is_shown_when_asked_for(capfd):
    get(progress=False)
    assert "".join(capfd.readouterr()) == ""
    get(seed=1, progress=True)
    assert "epoch 1/1" in capfd.readouterr().err


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "Clean",
        "mixed",
        "mixed-fgsm",
        "mixed-fgsm-x",
        "mixed-fgsm-8",
        "mixed-pgd-0.1",
        None,
        5,
        "pgd",
        "pgd-",
        "pgd-1.5",
        "trades-0.1-",
        "fgsm--0.1",
        "n-fgsm-.1",
        "random-0.1",
        "PGD-0.1",
    ],
)
def test_an_unknown_name_is_refused(bad, trainings, few_digits):
    with refused("name"):
        get(bad)
    assert trainings == [] and few_digits == []  # before anything is downloaded


def test_a_refused_name_is_told_all_there_are():
    kinds = [
        "'clean'",
        "'clean-small-cnn'",
        "'outsider-small-cnn'",
        "mixed-fgsm-E",
        "fgsm-E",
        "fgsm-last-E",
        "random-fgsm-E",
        "n-fgsm-E",
        "pgd-E",
        "trades-E",
        "'certified-0.1'",
        "'certified-0.3'",
    ]
    with refused("name", "'madry'", *kinds):
        get("madry")


def test_an_unknown_entry_of_the_recipe_is_refused(trainings):
    with refused("recipe", "'learning_rate'", "'epochs'"):
        get(learning_rate=0.1)
    assert trainings == []


def test_a_truncated_file_in_the_cache_is_named_not_used():
    get()
    [path] = files()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError) as caught:
        get()
    assert str(path) in str(caught.value)


def test_a_training_that_fails_leaves_nothing_in_the_cache(monkeypatch):
    def fails(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fit", fails)
    with pytest.raises(KeyboardInterrupt):
        get()
    assert not (cache_dir() / "models").exists() or files() == []


# settings, versions and files


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


def test_a_raised_version_trains_anew_beside_the_old_file(trainings, monkeypatch):
    get()
    [old] = files()
    content = old.read_bytes()
    monkeypatch.setitem(module.VERSIONS, "clean", 2)
    assert get().recipe["version"] == get().recipe["version"] == 2
    assert len(trainings) == 2 and len(files()) == 2 and old.read_bytes() == content


def test_the_version_of_another_recipe_trains_nothing_anew(trainings, monkeypatch):
    get()
    monkeypatch.setitem(module.VERSIONS, "mixed-fgsm", 2)
    get()
    assert len(trainings) == 1


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
    assert same(get(), other) and not same(cached, other)
    for file in files():
        file.unlink()
    assert same(get(), other) and files() == [] and len(trainings) == 2


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
    assert len(trainings) == 2 and same(first, again) and again.recipe == first.recipe
    assert {file: file.read_bytes() for folder in (path.parent, published) for file in folder.iterdir()} == before


def test_a_repeated_training_that_was_broken_off_goes_on(trainings, monkeypatch):
    whole, calls = get(epochs=2, retrain=True), break_off(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        get(epochs=2, retrain=True)
    assert [path.name.endswith(".checkpoint.pt") for path in files()] == [True]
    assert same(whole, get(epochs=2, retrain=True)) and len(calls) == 5 + 3 and files() == []


# the weights that are published with the package

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
    assert same(model, again) and vars(model.history) == vars(again.history)


@each_published
def test_a_published_file_says_how_it_was_made(name, settings, no_training, all_digits):
    model = trained(name, **settings)
    kind = name if name in module.RECIPES else re.sub(r"-[\d.]+$", "", name)
    path = module.PUBLISHED / module.file_name(model.recipe)
    saved = load_weights(copy.deepcopy(model), path)
    assert saved["recipe"] == json.loads(json.dumps(model.recipe))
    asked = module.RECIPES[kind] | settings | dict(name=name, dataset="mnist-5k", version=module.VERSIONS[kind])
    assert asked.items() <= (saved["recipe"] | saved["config"]).items() and saved["recipe"]["config"] == saved["config"]
    assert "PyTorch" in saved["machine"]
    history, epochs = saved["history"], asked["epochs"]
    assert 1 <= history["best_epoch"] <= epochs and all(
        len(history[key]) == epochs for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
    )
    train, val = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    images = (val if name == "outsider-small-cnn" else train).tensors[0]
    assert history["images"][-1] == epochs * len(images)
    assert torch.equal(model.train_hashes.sort().values, image_hashes(images).sort().values)


def test_nothing_else_is_published_and_all_of_it_is_small(no_training):
    files = {path.name: path.stat().st_size for path in module.PUBLISHED.glob("*.*")}
    assert files.keys() == {module.file_name(trained(name, **settings).recipe) for name, settings in NETWORKS}
    assert sum(files.values()) <= LARGEST == 12e6


def test_published_networks_do_what_they_are_known_for(no_training, all_digits):
    """Far below what they reach, so that a mixed-up file is found and rounding is not."""
    x, y = load_data("mnist-5k", train=False)[::10]
    clean, other, small, outsider, mixed = (trained(name, **settings) for name, settings in NETWORKS[:5])

    def right(model, x):
        return (predict(model, x).argmax(1) == y).float().mean().item()

    assert all(right(model, x) > 0.95 for model in (clean, other, small, mixed)) and right(outsider, x) > 0.8
    for eps, least in ((0.1, 0.8), (0.3, 0.7)):
        assert proven(trained(f"certified-{eps}"), x, y, eps=eps).float().mean() > least
    stronger, weaker = (right(model, pgd(model, x, y, eps=0.15, steps=5)) for model in (mixed, clean))
    assert stronger > weaker + 0.3, (stronger, weaker)
    assert not same(clean, other) and not set(outsider.train_hashes.tolist()) & set(clean.train_hashes.tolist())


# fresh networks


@pytest.mark.parametrize("build", [small_cnn, lambda: vgg(11, width=0.05)], ids=["small_cnn", "vgg"])
def test_a_fresh_network_depends_on_its_seed_alone(build):
    before = torch.random.get_rng_state()
    first = initialised(build, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        assert same(first, initialised(build, seed=3)) and not same(first, initialised(build, seed=4))


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
