"""The results command: rows that can be had again, that resume, and that are never mixed."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import results
import torch
from helpers import digits
from torch.utils.data import TensorDataset

from advutils import fgsm, pgd
from advutils.evaluation import wilson
from advutils.utils.measurements import MEASUREMENTS

SERIES = {name: getattr(results, name) for name in ("DEFENCES", "ATTACKS", "PART")}
FIELDS = "model dataset norm eps attack n accuracy low high seed train_seconds command machine date commit identity"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """What the tests before have trained, so that each network is trained once."""
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(autouse=True)
def few_digits(monkeypatch, tmp_path, networks):
    """Sixty digits, two tiny models, three attacks, parts of eight images, and a cache with nothing but networks."""

    def load(name, *, train):
        return TensorDataset(*digits(60 if train else 30, train=train))

    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "cache"))
    for module in (results, importlib.import_module("advutils.pretrained")):
        monkeypatch.setattr(module, "load_data", load)
    tiny = dict(depth=11, width=0.05, batch_size=12, epochs=1)
    monkeypatch.setattr(results, "DEFENCES", {"clean": ("clean", tiny), "FGSM": ("fgsm", tiny)})
    attacks = {"clean": (None, None), "FGSM": (fgsm, None), "PGD": (partial(pgd, steps=2), 12)}
    monkeypatch.setattr(results, "ATTACKS", attacks)
    monkeypatch.setattr(results, "PART", 8)
    models = shutil.copytree(networks, tmp_path / "cache" / "models")
    yield
    for path in models.iterdir():
        shutil.copy(path, networks)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "rows"


def run(path, *arguments):
    results.main(["--folder", str(path), *arguments])
    return results.load(path)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_one_row_for_each_model_and_attack_with_all_that_it_owes(path):
    rows = run(path)
    assert [(row["model"], row["attack"]) for row in rows] == [
        (model, attack) for model in ("clean", "FGSM") for attack in ("clean", "FGSM", "PGD")
    ]
    for row in rows:
        assert set(FIELDS.split()) <= row.keys()
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert row["n"] == (12 if row["attack"] == "PGD" else 30)
        assert row["eps"] == (0 if row["attack"] == "clean" else 0.3)


def test_the_intervals_are_those_of_the_counts(path):
    for row in run(path, "--model", "clean"):
        right = torch.arange(row["n"]) < round(row["accuracy"] * row["n"])
        assert wilson(right)[:3] == pytest.approx((row["accuracy"], row["low"], row["high"]))


def test_the_command_of_a_row_measures_it_again(path, tmp_path, monkeypatch):
    row = run(path, "--model", "FGSM", "--attack", "PGD", "--seed", "3")[0]
    program, *arguments = shlex.split(row["command"])[1:]
    assert program == "tests/tools/results.py"
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "another"))  # neither the weights nor a part is there
    again = run(tmp_path / "again", *arguments)[0]
    unlike = {key for key in row if row[key] != again[key]}
    assert unlike <= {"date", "train_seconds"}


def test_nothing_that_was_measured_once_is_passed_off_as_new(path, tmp_path, monkeypatch):
    chosen = ("--model", "clean", "--attack", "FGSM")
    run(path, *chosen)
    assert not list((tmp_path / "cache" / "results").iterdir())
    monkeypatch.setattr(results, "survivors", lambda model, loader, attack, *, eps: torch.zeros(len(loader.dataset)))
    shutil.rmtree(path)
    assert run(path, *chosen)[0]["accuracy"] == 0


def test_a_row_names_every_machine_that_had_a_part_in_it(path, monkeypatch):
    machines, original = iter(["one", "one", "other", "other"]), results.survivors

    def broken(model, loader, attack, *, eps):
        if len(seen) == 2 and seen.append(0) is None:
            raise KeyboardInterrupt
        seen.append(0)
        return original(model, loader, attack, eps=eps)

    seen = []
    monkeypatch.setattr(results, "survivors", broken)
    monkeypatch.setattr(results, "machine", lambda: next(machines))
    chosen = ("--model", "clean", "--attack", "FGSM")
    with pytest.raises(KeyboardInterrupt):
        run(path, *chosen)
    assert run(path, *chosen)[0]["machine"] == "one; other"


def test_each_row_is_a_file_whose_name_says_what_it_measured(path):
    run(path, "--model", "clean", "--attack", "clean", "--attack", "PGD", "--seed", "3")
    assert sorted(contents(path)) == ["mnist--clean--clean--seed-3.json", "mnist--clean--pgd--seed-3.json"]
    row = dict(dataset="fashion-mnist", model="PGD-3, contrast, width 1/4", attack="APGD-CE and APGD-T", seed=11)
    assert results.file_name(row) == "fashion-mnist--pgd-3-contrast-width-1-4--apgd-ce-and-apgd-t--seed-11.json"


def test_no_two_rows_have_one_file(monkeypatch):
    for name, value in SERIES.items():
        monkeypatch.setattr(results, name, value)
    rows = [
        dict(dataset=dataset, model=model, attack=attack, seed=seed)
        for dataset in results.EPS
        for model in results.models_of(dataset)
        for attack in results.ATTACKS
        for seed in (0, 1, 10)
    ]
    assert len({results.file_name(row) for row in rows}) == len(rows) > 300


def test_two_commands_that_end_at_once_both_keep_their_row(path):
    """Each waits, its file written, until the other's is written too; only then are both moved to their places."""
    first, second = run(path, "--model", "clean", "--attack", "clean", "--attack", "FGSM")
    shutil.rmtree(path)
    both, replace = threading.Barrier(2, timeout=60), os.replace

    def together(*names):
        both.wait()
        replace(*names)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(os, "replace", together)
        list(pool.map(partial(results.add, folder=path), [first, second]))
    assert results.load(path) == [first, second]
    assert len(contents(path)) == 2  # nothing temporary is left


def test_a_row_that_is_measured_again_replaces_its_file(path):
    (row,) = run(path, "--model", "clean", "--attack", "clean")
    results.add(row | dict(date="2030-01-01"), path)
    assert results.load(path) == [row | dict(date="2030-01-01")]


def test_what_is_there_is_not_measured_again(path, monkeypatch):
    before = run(path)
    monkeypatch.setattr(results, "measure", None)
    assert run(path) == before


def test_a_measurement_that_was_broken_off_goes_on_at_the_next_part(path, monkeypatch):
    seen, original = [], results.survivors

    def broken(model, loader, attack, *, eps):
        seen.append(len(loader.dataset))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(model, loader, attack, eps=eps)

    monkeypatch.setattr(results, "survivors", broken)
    chosen = ("--model", "clean", "--attack", "FGSM")
    with pytest.raises(KeyboardInterrupt):
        run(path, *chosen)
    assert not path.exists()
    (row,) = run(path, *chosen)
    assert seen == [8, 8, 8, 8, 6] and row["n"] == 30


def test_what_an_attack_warned_of_stands_in_the_row_and_under_the_table(path, monkeypatch):
    def doubtful(model, x, y, *, eps):
        if len(x) == 4 and not resumed:
            raise KeyboardInterrupt
        warnings.warn("It may be unreliable. Consider another attack.", stacklevel=2)
        return x

    resumed = []
    monkeypatch.setitem(results.ATTACKS, "doubtful", (doubtful, 12))
    monkeypatch.setattr(results, "ATTACK_VERSIONS", results.ATTACK_VERSIONS | dict(doubtful=1))
    chosen = ("--model", "clean", "--attack", "doubtful", "--attack", "clean")
    with pytest.raises(KeyboardInterrupt):
        run(path, *chosen)
    resumed.append(True)
    quiet, row = run(path, *chosen)
    assert quiet["warnings"] == []
    assert row["warnings"] == 2 * ["It may be unreliable. Consider another attack."]  # before the break and after it
    text = results.table([quiet, row])
    assert "batch of 250 by batch: clean, seed 0: It may be unreliable (2 times)." in text
    assert "Warned" not in results.table([quiet])


def test_rows_of_other_code_are_refused_then_dropped_on_request(path, monkeypatch, capsys):
    run(path, "--model", "clean", "--attack", "FGSM")
    other = dict(results.DEFENCES, clean=("clean", results.DEFENCES["clean"][1] | dict(epochs=2)))
    monkeypatch.setattr(results, "DEFENCES", other)
    before = contents(path)
    with pytest.raises(SystemExit, match="never mixed"):
        run(path, "--model", "FGSM", "--attack", "FGSM")
    assert contents(path) == before
    results.main(["--folder", str(path), "--list"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("stale")
    rows = run(path, "--renew", "--model", "FGSM", "--attack", "FGSM")
    assert [row["model"] for row in rows] == ["FGSM"]


OTHERWISE = {
    "another version of the recipe": ("RECIPE_VERSIONS", dict(fgsm=2)),
    "another version of the attack": ("ATTACK_VERSIONS", dict(pgd=2)),
    "other settings of the model": ("DEFENCES", {"FGSM": ("fgsm", dict(depth=11, width=0.05, epochs=2))}),
    "another entry of the recipe": ("RECIPES", {"fgsm": dict(epochs=1, lr=0.1, batch_size=12, seed=0)}),
    "another recipe": ("DEFENCES", {"FGSM": ("random-fgsm", dict(depth=11, width=0.05, batch_size=12, epochs=1))}),
    "a model that is gone": ("ONLY", {"mnist": ("clean",)}),
    "other settings of the attack": ("ATTACKS", {"PGD": (partial(pgd, steps=3), 12)}),
    "other images": ("ATTACKS", {"PGD": (partial(pgd, steps=2), 13)}),
    "another attack": ("ATTACKS", {"PGD": (fgsm, 12)}),
    "another radius": ("EPS", {"mnist": 0.2}),
    "a data set that is gone": ("EPS", None),
    "other batches": ("BATCH", 5),
    "other parts": ("PART", 9),
}


@pytest.mark.parametrize("name, value", OTHERWISE.values(), ids=OTHERWISE)
def test_a_row_that_would_be_measured_otherwise_now_is_stale(name, value, monkeypatch):
    row = dict(dataset="mnist", model="FGSM", attack="PGD", seed=0, processes=1)
    row = json.loads(json.dumps(row | dict(identity=results.identity_of("mnist", "FGSM", "PGD", 0, 1))))
    assert results.stale([row]) == []
    old = getattr(results, name)
    monkeypatch.setattr(results, name, old | value if isinstance(value, dict) else {} if value is None else value)
    assert results.stale([row]) == [row]
    if value is not None and name != "ONLY":
        now = results.identity_of("mnist", "FGSM", "PGD", 0, 1)
        assert now != row["identity"] and results.parts_of(now) != results.parts_of(row["identity"])


@pytest.mark.parametrize("change", [dict(seed=1), dict(processes=2), dict(attack="FGSM"), dict(model="clean")])
def test_a_row_with_the_identity_of_another_one_is_stale(change):
    row = dict(dataset="mnist", model="FGSM", attack="PGD", seed=0, processes=1)
    row["identity"] = json.loads(json.dumps(results.identity_of("mnist", "FGSM", "PGD", 0, 1)))
    assert results.stale([row, row | change]) == [row | change]


@pytest.mark.parametrize("name, value", [("RECIPE_VERSIONS", dict(clean=2)), ("ATTACK_VERSIONS", dict(fgsm=2))])
def test_the_version_of_what_a_row_does_not_use_leaves_it_current(name, value, monkeypatch):
    row = dict(dataset="mnist", model="FGSM", attack="PGD", seed=0, processes=1)
    row["identity"] = json.loads(json.dumps(results.identity_of("mnist", "FGSM", "PGD", 0, 1)))
    monkeypatch.setattr(results, name, getattr(results, name) | value)
    assert results.stale([row]) == []


def test_a_row_names_the_commit_that_measured_it(path, tmp_path, monkeypatch):
    chosen = ("--model", "clean", "--attack", "clean")
    (row,) = run(path, *chosen)
    assert row["commit"] == results.commit() and re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown", row["commit"])
    monkeypatch.setattr(results, "HOME", tmp_path)

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True,
                       capture_output=True, text=True)  # fmt: skip

    (tmp_path / "file").write_text("1")
    (tmp_path / ".gitignore").write_text("cache\nresults")
    assert results.commit() == "unknown"
    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    git("tag", "-a", "v1", "--message", "a tag that describes it")
    clean = results.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "file").write_text("2")
    assert results.commit() == f"{clean}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert results.commit() == "unknown"


def test_all_test_images_or_the_same_random_ones(path, monkeypatch):
    seen, original = [], results.survivors

    def watched(model, loader, attack, *, eps):
        seen.append(loader.dataset.tensors[0])
        return original(model, loader, attack, eps=eps)

    monkeypatch.setattr(results, "survivors", watched)
    monkeypatch.setattr(results, "PART", 30)
    rows = run(path, "--model", "clean", "--attack", "PGD", "--seed", "0", "--seed", "1")
    assert [row["seed"] for row in rows] == [0, 1] and {row["n"] for row in rows} == {12}
    assert len(seen) == 2 and torch.equal(*seen) and len(seen[0]) == 12
    x = results.load_data("mnist", train=False).tensors[0]
    at = [int((x == image).flatten(1).all(1).nonzero()) for image in seen[0]]
    assert at == sorted(at) and at != list(range(12))


@pytest.mark.parametrize("bad", [("--model", "none"), ("--attack", "none"), ("--dataset", "none"), ("--seed", "x")])
def test_an_unknown_choice_is_refused_by_name(bad, path, capsys):
    with pytest.raises(SystemExit):
        run(path, *bad)
    assert bad[0] in capsys.readouterr().err


def test_the_cifar_recipe_runs_on_a_small_made_set(path, monkeypatch):
    """Colour images, eight grey levels and the depth of its own settings; only width and epochs are made small."""

    def made(name, *, train):
        assert name == "cifar10"
        generator = torch.Generator().manual_seed(int(train))
        return TensorDataset(torch.rand(60, 3, 32, 32, generator=generator), torch.arange(60) % 10)

    for module in (results, importlib.import_module("advutils.pretrained")):
        monkeypatch.setattr(module, "load_data", made)
    assert results.OTHERWISE["cifar10"]["depth"] == 16
    monkeypatch.setitem(results.OTHERWISE["cifar10"], "width", 0.05)
    monkeypatch.setitem(results.OTHERWISE["cifar10"], "epochs", 1)
    rows = run(path, "--dataset", "cifar10", "--model", "FGSM")
    assert {row["eps"] for row in rows} == {0, 8 / 255}
    assert [row["n"] for row in rows] == [60, 60, 12]
    assert results.recipe("cifar10", "FGSM")[1]["depth"] == 16 and results.recipe("mnist", "FGSM")[1]["depth"] == 11


# the figure and the page that are made of the rows


def test_the_figure_draws_each_interval_from_the_top_on_a_common_axis():
    found = {("a", 0): {"FGSM": (0.9, 0.88, 0.91), "PGD": (0.75, 0.72, 0.78)}, ("b", 1): {"PGD": (0.95, 0.94, 0.96)}}
    figure = results.verdicts(found)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a, seed 0", "b, seed 1"]
    assert ax.yaxis_inverted() and ax.get_xlim() == pytest.approx((0.694, 1.006))
    drawn = [bar.get_segments()[0][:, 0].tolist() for bars in ax.containers for bar in bars[2]]
    assert drawn == [pytest.approx([0.88, 0.91]), pytest.approx([0.72, 0.78]), pytest.approx([0.94, 0.96])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["FGSM", "PGD"]
    points = [bars[0] for bars in ax.containers]
    assert points[1].get_marker() == points[2].get_marker() != points[0].get_marker()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / results.PAGE).write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    return tmp_path


def test_the_table_says_what_the_rows_say(path):
    text = results.table(run(path, "--seed", "0", "--seed", "1"))
    rows = results.load(path)
    for row in rows:
        assert f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" in text
        assert row["machine"] in text and row["date"] in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4  # a head, its rule, two models with two seeds each
    assert "clean, n = 30" in lines[0] and "PGD, n = 12" in lines[0]
    assert len({line.count("|") for line in lines}) == 1
    assert rows[-1]["command"] in text


def test_a_row_of_another_n_says_so_and_a_missing_one_is_left_empty(path):
    rows = run(path)
    del rows[1]
    rows[3] |= dict(n=29)
    text = results.table(rows)
    assert text.count("n = 29") == 1
    assert "|  |" in text


def test_publish_changes_what_is_between_the_marks_and_nothing_else(path, home):
    rows = run(path, "--model", "clean")
    for _ in range(2):
        results.publish(path, home)
        text = (home / results.PAGE).read_text()
        assert text == f"before\n{results.BEGIN}\n\n{results.table(rows)}\n\n{results.END}\nafter\n"
    assert (home / results.FIGURE).read_bytes().startswith(b"\x89PNG")


def test_nothing_is_published_without_rows_or_marks(path, home):
    with pytest.raises(SystemExit, match="no rows yet"):
        results.publish(path, home)
    run(path, "--model", "clean", "--attack", "clean")
    (home / results.PAGE).write_text("no marks")
    with pytest.raises(SystemExit, match="once each"):
        results.publish(path, home)
    assert (home / results.PAGE).read_text() == "no marks"


def test_stale_rows_are_not_published(path, monkeypatch):
    run(path, "--model", "clean", "--attack", "clean")
    monkeypatch.setitem(results.EPS, "mnist", 0.2)
    monkeypatch.setattr(results, "publish", None)
    with pytest.raises(SystemExit, match="never mixed"):
        run(path, "--publish")


def test_stale_rows_are_dropped_before_a_publication_if_asked(path, home, monkeypatch):
    run(path, "--model", "clean", "--model", "FGSM", "--attack", "clean")
    other = dict(results.DEFENCES, clean=("clean", results.DEFENCES["clean"][1] | dict(epochs=2)))
    monkeypatch.setattr(results, "DEFENCES", other)
    monkeypatch.setattr(results, "measure", None)
    monkeypatch.setattr(results, "publish", partial(results.publish, home=home))
    rows = run(path, "--publish", "--renew")
    assert [row["model"] for row in rows] == ["FGSM"] and results.table(rows) in (home / results.PAGE).read_text()


def test_the_page_holds_the_table_and_the_figure_of_the_committed_rows(monkeypatch):
    for name, value in SERIES.items():
        monkeypatch.setattr(results, name, value)
    page = (results.HOME / results.PAGE).read_text(encoding="utf-8")
    between = page.split(results.BEGIN)[1].split(results.END)[0].strip()
    assert between == results.table(results.load())
    assert f"](../{results.FIGURE})" in page and (results.HOME / results.FIGURE).exists()


def test_the_committed_rows_are_of_this_version_and_name_their_commit(monkeypatch):
    for name, value in SERIES.items():
        monkeypatch.setattr(results, name, value)
    rows = results.load()
    assert len(rows) > 20 and [results.file_name(row) for row in results.stale(rows)] == []
    commits = [row["commit"] for row in rows]
    assert [commit for commit in commits if not re.match(r"[0-9a-f]{7,12}\b", commit) or "dirty" in commit] == []
    assert sorted(map(results.file_name, rows)) == sorted(contents(results.ROWS))


def test_a_model_whose_name_would_not_be_true_on_a_data_set_is_refused(path, monkeypatch, capsys):
    monkeypatch.setattr(results, "ONLY", {"cifar10": ("clean",)})
    with pytest.raises(SystemExit):
        run(path, "--dataset", "cifar10", "--model", "FGSM")
    assert "--model: got FGSM on cifar10; accepts one of clean" in capsys.readouterr().err
    with pytest.raises(ValueError, match="model: got 'FGSM' on cifar10; accepts one of clean"):
        results.recipe("cifar10", "FGSM")


def test_no_two_models_of_a_data_set_are_one_recipe(monkeypatch):
    monkeypatch.setattr(results, "DEFENCES", SERIES["DEFENCES"])
    for dataset in results.EPS:
        recipes = [json.dumps(results.recipe(dataset, model)) for model in results.models_of(dataset)]
        assert len(set(recipes)) == len(recipes) >= 4


@pytest.mark.parametrize("radius", ["0.1", "0.1, seed 1", "0.1, seed 2", "0.3", "0.3, seed 1", "0.3, seed 2"])
def test_the_table_of_proofs_says_what_was_measured(radius):
    name = f"certified_full_mnist_{radius.replace('.', '').replace(', seed ', '_seed_')}"
    values = json.loads((MEASUREMENTS / f"{name}.json").read_text(encoding="utf-8"))["values"]
    table = (results.HOME / results.PAGE).read_text(encoding="utf-8").split("## Networks with a proof")[1]
    row = next(line for line in table.splitlines() if line.startswith(f"| {radius} | "))
    keys = ("clean", "FGSM", "PGD-40", "AutoAttack", "alpha-CROWN", "certified")
    assert row.strip("| ").split(" | ")[1:7] == [f"{values[key] / 100:.2f}" for key in keys]
    assert row.endswith(f"{round(values['minutes'])} min |") and values["n"] == 10_000
