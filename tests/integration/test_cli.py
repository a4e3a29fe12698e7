"""The command line: the package's functions, typed, whose results are those of the files that they leave behind."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from functools import partial

import pytest
import torch
import torchvision
from helpers import BreaksOff, digits, same_weights
from made_files import encoded
from PIL import Image
from programs import environment
from torch import nn
from torch.utils.data import TensorDataset

from advutils import (
    accuracy,
    certified,
    cross_entropy,
    fgsm,
    fmn,
    load_data,
    load_weights,
    make_loader,
    minimum_norm,
    pgd,
    vgg,
)
from advutils.cli import attack as attack_cli
from advutils.cli import common, main, parser
from advutils.cli.common import attack_of, model_of, number
from advutils.objectives import OBJECTIVES
from advutils.utils.images import read_image

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
TINY = ("--depth", "11", "--width", "0.05", "--batch-size", "20", "--epochs", "1")


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    monkeypatch.setattr(common, "load_data", lambda name, *, train: TensorDataset(*digits(120, train=train)))


@pytest.fixture
def weights(tmp_path):
    main(["train", "--out", str(tmp_path / "vgg.safetensors"), *TINY])
    return tmp_path / "vgg.safetensors"


def sheet(folder):
    with open(folder / "attack.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_trained_model_carries_its_configuration_and_is_evaluated(weights, capsys, tmp_path):
    model = vgg(11, width=0.05)
    saved = load_weights(model, weights)
    assert saved["recipe"]["epochs"] == 1 and saved["recipe"]["objective"] == "clean"
    assert len(saved["history"]["val_accuracy"]) == 1 and len(model.train_hashes) > 0
    assert not list(tmp_path.glob("*state*"))
    asked = [word for attack in ("grey", "fgsm", "pgd:steps=3") for word in ("--attack", attack)]
    main(["evaluate", "--model", str(weights), *asked, "--eps", "0.05", "--out", str(tmp_path / "found.json")])
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["accuracy"]
    assert list(found) == ["clean", "grey", "fgsm", "pgd:steps=3", "all together"]
    loader = make_loader(TensorDataset(*digits(120, train=False)), batch_size=128)
    assert found["fgsm"] == accuracy(model.eval(), loader, fgsm, eps=0.05)._asdict()
    assert all(label in said for label in found)


def test_the_smallest_changes_and_a_cascade_are_on_the_command_line(weights, capsys, tmp_path):
    common_words = ["evaluate", "--model", str(weights), "--eps", "0.05", "--out", str(tmp_path / "found.json")]
    asked = ["--minimum-norm", "fmn:norm=linf,steps=3", "--minimum-norm", "deepfool:steps=2"]
    main([*common_words, "--attack", "fgsm", "--attack", "pgd:steps=3", "--cascade", *asked])
    said, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    rows = {label: row["value"] for label, row in found["accuracy"].items()}
    assert list(rows) == ["clean", "grey", "fgsm", "pgd:steps=3", "all together", *asked[1::2]]
    assert rows["clean"] >= rows["grey"] >= rows["fgsm"] >= rows["pgd:steps=3"] == rows["all together"]
    model, loader = model_of(str(weights))[0], make_loader(TensorDataset(*digits(120, train=False)), batch_size=128)
    radii = minimum_norm(model, loader, partial(fmn, norm="linf", steps=3))
    assert rows[asked[1]] == radii.accuracy_vs_eps([0.05])[0].value
    assert found["median_radius"][asked[1]] == radii.radii.median().item()
    assert f"{asked[1]}: half of the images are misread after a change of" in said and "(linf)" in said
    for bad, fragment in (
        ("pgd", "--minimum-norm: got 'pgd'"),
        ("fmn:eps=1", "--minimum-norm fmn: its option: got 'eps'"),
    ):
        with pytest.raises(SystemExit, match=fragment):
            main([*common_words, "--minimum-norm", bad])


def test_training_prints_its_configuration_and_what_it_reached(tmp_path, capsys):
    out, typed = tmp_path / "a.safetensors", ["--objective", "mixed", "--eps", "8/255", "--contrast", "16"]
    main(["train", "--out", str(out), *TINY, *typed])
    first, *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(first)["eps"] == 8 / 255
    history = load_weights(vgg(11, width=0.05, contrast=16), out)["history"]
    lines = history["val_accuracy"], *history["robust_val_accuracy"].values()
    found = [f"{100 * values[0]:.1f}%" for values in lines]
    assert "validation accuracy {}, under FGSM {}, under PGD {} after epoch 1 of 1".format(*found) in last


def test_a_network_is_trained_with_bounds_and_certified(tmp_path, capsys):
    out, found = tmp_path / "a.safetensors", tmp_path / "found.json"
    typed = ["--objective", "ibp", "--eps", "0.02", "--eps-warmup", "1", "--architecture", "strided_cnn"]
    typed += ["--contrast", "5"]
    main(["train", "--out", str(out), *TINY, *typed, "--epochs", "2"])
    assert "validation accuracy" in capsys.readouterr().out
    model, _ = model_of(str(out))
    assert model.config["architecture"] == "strided_cnn" and model.config["contrast"] == 5
    assert load_weights(model, out)["history"]["best_epoch"] == 2  # no attack picks an epoch of a smaller radius
    main(["evaluate", "--model", str(out), "--attack", "fgsm", "--eps", "1/255", "--certify", "--out", str(found)])
    rows = json.loads(found.read_text())["accuracy"]
    loader = make_loader(TensorDataset(*digits(120, train=False)), batch_size=128)
    assert rows["certified"] == certified(model, loader, eps=1 / 255)._asdict()
    assert "certified" in capsys.readouterr().out
    assert 0 < rows["certified"]["value"] <= rows["all together"]["value"]


def test_a_training_goes_on_where_it_was_broken_off(tmp_path, monkeypatch):
    def train(name):
        main(["train", "--out", str(tmp_path / name), *TINY, "--epochs", "2"])
        load_weights(model := vgg(11, width=0.05), tmp_path / name)
        return model

    whole, clean = train("whole.safetensors"), OBJECTIVES["clean"]
    monkeypatch.setitem(OBJECTIVES, "clean", BreaksOff(clean, 9))
    with pytest.raises(SystemExit, match="advutils train: stopped"):
        train("broken.safetensors")
    assert (tmp_path / "broken.checkpoint.pt").exists()
    other = "checkpoint: got .*broken.checkpoint.pt.* with other .*objective.*; .*delete this file to begin anew"
    with pytest.raises(SystemExit, match=other):
        main(["train", "--out", str(tmp_path / "broken.safetensors"), *TINY, "--objective", "mixed", "--eps", "0.1"])
    assert same_weights(train("broken.safetensors"), whole)


def pets(folder, kinds=("cat", "dog"), numbers=range(10), **options):
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for at in numbers:
            (folder / kind / f"{at}.png").write_bytes(encoded(at, **options))
    return folder


def test_a_folder_of_classes_is_trained_on_and_evaluated_at_the_size_of_the_training(tmp_path):
    data, out = pets(tmp_path / "data", size=(50, 40)), tmp_path / "a.safetensors"
    main(["train", "--data", str(data), "--size", "32", "--channels", "1", "--out", str(out), *TINY])
    model, suits = model_of(str(out))
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 2)
    assert suits == dict(size=32, channels=1, classes=["cat", "dog"])
    unseen = pets(tmp_path / "unseen", numbers=range(10, 20), size=(50, 40))
    served = {}
    for name, said in {"silent": [], "said": ["--size", "32", "--channels", "1"], "other": ["--size", "40"]}.items():
        chosen = parser().parse_args(["evaluate", "--model", str(out), "--data", str(unseen), *said])
        served[name] = common.data_of(chosen, suits, train=False)[0][0]
    assert torch.equal(served["silent"], served["said"]) and served["other"].shape == (1, 40, 40)
    main(["evaluate", "--model", str(out), "--data", str(unseen), "--out", str(tmp_path / "found.json")])
    assert json.loads((tmp_path / "found.json").read_text())["accuracy"]["clean"]["n"] == 20


class Mean(nn.Module):
    """Reads the class of a picture of one colour from it: its grey level over 20, as `shades` paints them."""

    def __init__(self, k, classes=None):
        super().__init__()
        self.k = k
        if classes is not None:
            self.classes = classes

    def forward(self, x):
        return -(((255 * x.mean((1, 2, 3)) / 20)[:, None] - torch.arange(self.k)) ** 2)


def shades(folder, names):
    """A folder for each name, and in each two pictures of one colour, 20 grey levels apart from the next name's."""
    for nth, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for at in range(2):
            Image.new("L", (8, 8), 20 * nth).save(folder / name / f"{at}.png")
    return folder


def measured(model, data, monkeypatch, capsys):
    """Clean accuracy from the command line, and what was said."""
    monkeypatch.setattr(common, "model_of", lambda text: (model, dict(classes=getattr(model, "classes", None))))
    main(["evaluate", "--model", "its:own", "--data", str(data)])
    said = capsys.readouterr().out
    return re.search(r"clean +([\d.]+%)", said)[1], said


def test_classes_are_compared_by_name(tmp_path, monkeypatch, capsys):
    fruits = shades(tmp_path / "all", ["cherry", "apple", "banana"])
    (fruits / "cherry" / "notes.txt").write_text("no image")
    model = Mean(3, classes=["cherry", "apple", "banana"])
    value, said = measured(model, fruits, monkeypatch, capsys)
    assert value == "100.0%" and "6 images; 3 classes (apple, banana, cherry), numbered by name" in said
    assert "; left out: 1 .txt" in said
    shutil.rmtree(fruits / "cherry")
    (fruits / "cherry").mkdir()
    value, said = measured(model, fruits, monkeypatch, capsys)  # two of the three, in another order than the model's
    assert value == "100.0%" and "4 images; 2 classes (apple, banana)" in said
    (fruits / "banana").rename(fruits / "zucchini")
    with pytest.raises(SystemExit, match="zucchini.*not, or not once, among the model's"):
        measured(model, fruits, monkeypatch, capsys)
    with pytest.raises(SystemExit, match="model.classes: got 3 classes .*accepts 4 names"):
        measured(Mean(4, classes=model.classes), shades(tmp_path / "more", model.classes), monkeypatch, capsys)
    assert measured(model, tmp_path / "more", monkeypatch, capsys)[0] == "100.0%"
    with pytest.raises(SystemExit, match="model: got Mean; accepts an nn.Sequential"):
        main(["evaluate", "--model", "its:own", "--data", str(tmp_path / "more"), "--certify"])


def test_class_names_travel_with_the_weights(tmp_path, capsys):
    data = pets(tmp_path / "data", ("b", "a", "c"), size=(32, 32))
    out = tmp_path / "a.safetensors"
    main(["train", "--data", str(data), "--limit", "6", "--out", str(out), *TINY])  # c keeps its logit
    assert "3 classes (a, b, c), numbered in the order of their names" in capsys.readouterr().out
    assert model_of(str(out))[1]["classes"] == ["a", "b", "c"]
    assert model_of(str(out))[0](torch.rand(1, 3, 32, 32)).shape == (1, 3)
    other = pets(tmp_path / "other", ("b", "d"), range(10, 14), size=(32, 32))
    with pytest.raises(SystemExit, match=r"got 1 class \(d\).*accepts its 3 classes \(a, b, c\)"):
        main(["evaluate", "--model", str(out), "--data", str(other)])
    with pytest.raises(SystemExit, match=r"10 classes \(0, 1, .*accepts 3 classes \(a, b, c\)"):
        main(["evaluate", "--model", str(out), "--data", "mnist-5k", "--channels", "3"])


def test_names_in_several_orders_are_questioned(tmp_path, monkeypatch, capsys):
    names = [str(number) for number in range(11)]
    numbers = shades(tmp_path / "numbers", names)
    for model, data in ((Mean(11), numbers), (Mean(3), shades(tmp_path / "animals", ["ant", "Bee", "cat"]))):
        with pytest.raises(SystemExit, match="several ways.*attribute `classes`"):
            measured(model, data, monkeypatch, capsys)
    assert measured(Mean(11, names), numbers, monkeypatch, capsys)[0] == "100.0%"
    value, said = measured(Mean(3), shades(tmp_path / "plain", ["a", "b", "c"]), monkeypatch, capsys)
    assert value == "100.0%" and "in the order of their names, as the model does not name its classes" in said


@pytest.mark.parametrize("names, words", [
    (["train", "val"], r"a folder of 2 classes \(train, val\); accepts one of these"),
    (["cats"], r"1 class \(cats\); accepts at least two classes|one logit.*K >= 2"),
])  # fmt: skip
def test_folders_that_are_no_classes_are_refused(names, words, tmp_path, monkeypatch, capsys):
    data = shades(tmp_path / "data", names)
    with pytest.raises(SystemExit, match=words):
        main(["train", "--data", str(data), "--out", str(tmp_path / "a.safetensors"), *TINY])
    with pytest.raises(SystemExit, match=words):
        measured(Mean(len(names)), data, monkeypatch, capsys)


def test_imagenets_classes_are_matched_by_name_or_by_wordnet_id(tmp_path, monkeypatch, capsys):
    small_torchvision(monkeypatch)
    typed = ["--model", "torchvision:squeezenet1_1", "--channels", "3"]

    def attacked(data, out):
        main(
            ["attack", *typed, "--data", str(data), "--attack", "fgsm", "--eps", "1/255", "--out", str(tmp_path / out)]
        )
        return sheet(tmp_path / out), capsys.readouterr().out

    rows, said = attacked(shades(tmp_path / "names", ["tench", "banana"]), "a")
    assert "2 classes (banana, tench), numbered by name" in said
    assert [(row["file"], row["label"]) for row in rows[1:3]] == [("banana/1", "954"), ("tench/0", "0")]
    some = shades(tmp_path / "some", ["n01440764", "n01443537"])  # their numbers are not known without all of them
    rows, said = attacked(some, "b")
    words = "2 classes (n01440764, n01443537), not used: the labels are what the model reads (--data: got"
    assert words in said and all(row["labelled_by"] == "model" for row in rows)
    for command in (["evaluate", *typed], ["attack", *typed, "--labels", "data", "--out", str(tmp_path / "c")]):
        with pytest.raises(SystemExit, match="n01440764"):
            main([*command, "--data", str(some)])
    for nth in range(1000):
        (tmp_path / "all" / f"n{nth + 1000000:08}").mkdir(parents=True)
        shutil.copy(some / "n01440764" / "0.png", tmp_path / "all" / f"n{nth + 1000000:08}")
    main(["evaluate", *typed, "--data", str(tmp_path / "all"), "--limit", "2"])
    assert "their WordNet ids" in capsys.readouterr().out


def test_a_model_may_name_its_classes_in_several_ways():
    for names in (["b", "a"], ("b", "a"), {"a": 1, "b": 0}):
        assert common.class_names(Mean(2, classes=names)) == ["b", "a"]
    assert common.class_names(Mean(3, classes=range(3))) == ["0", "1", "2"] and common.class_names(Mean(3)) is None
    for names in ({"a", "b"}, 3, torch.arange(3), "abc", {"a": 0, "b": 5}):
        with pytest.raises(ValueError, match="model.classes: got .*accepts a list of names"):
            common.class_names(Mean(2, classes=names))


def test_the_readers_own_files_are_not_overwritten(tmp_path, weights):
    pictures, model = tmp_path / "pictures", str(weights)
    data = pets(pictures / "clean", ("c",), range(2), size=(28, 28))
    other = pets(tmp_path / "other", ("c",), range(2), size=(28, 28))
    for read, out, words in (
        (data, pictures, "would overwrite --data"),
        (other, pictures, "holds clean of something else"),
        (tmp_path / "oth*", other / "out", "a folder inside --data"),
        (other, other, "a folder inside --data"),
        (other, other / "c" / "out", "a folder inside --data"),
    ):
        with pytest.raises(SystemExit, match=words):
            main(["attack", "--model", model, "--channels", "1", "--data", str(read), "--out", str(out)])
    assert (data / "c" / "0.png").read_bytes() == encoded(0, size=(28, 28))
    assert [path.name for path in other.iterdir()] == ["c"]
    for out in (model, str(tmp_path), str(tmp_path / "found.txt")):
        with pytest.raises(SystemExit, match="--out: got .*ends in .json"):
            main(["evaluate", "--model", model, "--out", out])
    assert model_of(model)


def test_a_model_of_ones_own_may_be_a_factory_or_an_instance_and_its_errors_are_told(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\nready, make = nn.Flatten(), lambda: nn.Flatten()\n\ndef broken():\n    {}['w']\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("mine:ready", "mine:make"):
        model, suits = model_of(name)
        assert isinstance(model, nn.Flatten) and suits == dict(classes=None)
    with pytest.raises(ValueError, match="mine:broken' .KeyError: 'w'"):
        model_of("mine:broken")
    sys.path.remove("")


@pytest.mark.integration
def test_images_of_any_name_are_written_and_listed(tmp_path, weights):
    """Not UTF-8, and as long as a file's name may be, in letters and in signs of three bytes; on an ASCII terminal."""
    names = [os.fsdecode(b"caf\xe9"), "n" * 251, "\u732b" * 83]
    data, out = tmp_path / "data", tmp_path / "out"
    for at, name in enumerate(names):
        (data / str(at)).mkdir(parents=True)
        (data / str(at) / f"{name}.png").write_bytes(encoded(at, size=(28, 28), mode="L"))
    command = [sys.executable, "-m", "advutils", "attack", "--model", weights, "--data", data, "--channels", "1",
               "--attack", "fgsm", "--out", out]  # fmt: skip
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = subprocess.run(command, env=ascii_only, capture_output=True)
    assert run.returncode == 0, run.stderr
    rows = (out / "attack.csv").read_bytes().splitlines()[1:]
    for at, (name, row) in enumerate(zip(names, rows, strict=True)):
        assert row.startswith(os.fsencode(f"{at}/{name},"))
        assert (out / "adversarial" / str(at) / f"{name}.png").exists()


def test_tar_files_are_named_by_a_pattern(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set [1]").mkdir()
    for at in range(3):
        (tmp_path / "set [1]" / f"{at}.png").write_bytes(encoded(at, size=(28, 28)))
        with tarfile.open(tmp_path / f"shard-{at}.tar", "w") as archive:
            archive.add(tmp_path / "set [1]" / f"{at}.png", f"{at}.png")
    for nth, data in enumerate(("shard-*.tar", f"{tmp_path}/shard-*.tar", "set [1]")):
        out = tmp_path / f"out{nth}"
        main(["attack", "--model", str(weights), "--data", data, "--attack", "fgsm", "--out", str(out)])
        assert len(sheet(out)) == 3


def test_the_files_on_disk_hold_the_ball_and_the_reported_success(weights, tmp_path, capsys):
    out = tmp_path / "attacked"
    main(["attack", "--model", str(weights), "--eps", "0.1", "--attack", "pgd:steps=3", "--limit", "50",
          "--out", str(out)])  # fmt: skip
    rows = sheet(out)
    assert len(rows) == 50 == len(list((out / "adversarial").rglob("*.png")))
    model, right = model_of(str(weights))[0], []
    for row in rows:
        files = (out / kind / f"{row['file']}.png" for kind in ("clean", "adversarial"))
        x, x_adv = (read_image(file.read_bytes())[None] for file in files)
        assert (x_adv - x).abs().max() <= 0.1 + 1e-6
        assert float(row["linf"]) == pytest.approx((x_adv - x).abs().max().item())
        assert float(row["l2"]) == pytest.approx((x_adv - x).norm().item(), rel=1e-5)
        predicted = model(x_adv).argmax(1).item()
        assert int(row["adversarial_prediction"]) == predicted
        assert row["success"] == str(predicted != int(row["label"]))
        right.append(row["success"] == "True")
    assert f"{sum(right) / 50:6.1%}" in capsys.readouterr().out
    about = json.loads((out / "attack.json").read_text())
    assert about["attack"] == "pgd(steps=3)" and about["eps"] == 0.1


def test_a_folder_that_holds_another_attack_is_refused_and_the_same_one_is_made_again(weights, tmp_path, monkeypatch):
    out = tmp_path / "a"
    typed = ["attack", "--model", str(weights), "--attack", "fgsm", "--limit", "30", "--batch-size", "10"]
    typed += ["--out", str(out)]
    with pytest.raises(SystemExit, match="eps: got 8"):
        main([*typed, "--eps", "8"])  # which leaves the folder free
    main([*typed, "--eps", "0.1"])
    before, rows = {path: path.read_bytes() for path in out.rglob("*.*")}, sheet(out)
    for other in (["--eps", "0.2"], ["--eps", "0.1", "--limit", "20"]):
        with pytest.raises(SystemExit, match="images of another attack; accepts a new folder"):
            main([*typed, *other])
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}
    reread, left = attack_cli._reread, [1, 1]

    def broken(*given):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return reread(*given)

    monkeypatch.setattr(attack_cli, "_reread", broken)
    with pytest.raises(SystemExit, match="advutils attack: stopped"):
        main([*typed, "--eps", "0.1"])
    assert not (out / "attack.csv").exists()  # no sheet speaks of files that are not its own
    monkeypatch.setattr(attack_cli, "_reread", reread)
    main([*typed, "--eps", "0.1"])
    assert sheet(out) == rows


def test_a_target_is_aimed_at(weights, tmp_path):
    out = ["--limit", "20", "--out", str(tmp_path / "a")]
    main(["attack", "--model", str(weights), "--eps", "0.5", "--target", "3", *out])
    rows = sheet(tmp_path / "a")
    assert all((row["success"] == "True") == (row["adversarial_prediction"] == "3") for row in rows)
    assert any(row["success"] == "True" for row in rows)


def small_torchvision(monkeypatch, failure=None):
    """torchvision's own loading, up to the download, which is answered by random weights or an error."""
    kept = torchvision.models.get_model

    def get_model(name, *, weights):
        if failure is not None:
            raise failure
        return kept(name, weights=None).eval()

    monkeypatch.setattr(torchvision.models, "get_model", get_model)


def photographs(folder, n=3):
    folder.mkdir()
    for at in range(n):
        (folder / f"{at}.jpg").write_bytes(encoded(at, ".jpg", size=(300 + at, 260)))
    return folder


def test_a_torchvision_classifier_is_attacked_on_ones_own_photographs(tmp_path, monkeypatch):
    small_torchvision(monkeypatch)
    (tmp_path / "photos").mkdir()
    data, out = photographs(tmp_path / "photos" / "holiday"), tmp_path / "out"  # no class of the model's
    main(["attack", "--model", "torchvision:mobilenet_v3_small", "--data", str(data.parent), "--eps", "8/255",
          "--attack", "fgsm", "--out", str(out)])  # fmt: skip
    rows = sheet(out)
    assert [row["file"] for row in rows] == ["holiday/0", "holiday/1", "holiday/2"]
    assert all(row["labelled_by"] == "model" and row["label"] == row["clean_prediction"] for row in rows)
    assert all(float(row["linf"]) <= 8 / 255 + 1e-6 for row in rows)
    assert read_image((out / "adversarial" / "holiday" / "0.png").read_bytes()).shape == (3, 224, 224)


def test_normalisation_is_inside_the_torchvision_model(monkeypatch):
    small_torchvision(monkeypatch)
    model, suits = model_of("torchvision:squeezenet1_1")  # the smallest
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert len(suits.pop("classes")) == 1000
    assert suits == dict(size=224, resize=256, channels=3, interpolation="bilinear")
    assert torch.allclose(model(x), model[1]((x - mean) / std), atol=1e-5)


@pytest.mark.parametrize("failure", [OSError("no network"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_had_say_where_they_belong(failure, tmp_path, monkeypatch):
    small_torchvision(monkeypatch, failure)
    with pytest.raises(SystemExit, match=rf"{failure}.*vgg16_bn.*\.pth.*put it at .*checkpoints"):
        main(["attack", "--model", "torchvision:vgg16_bn", "--data", str(photographs(tmp_path / "p")), "--out", "x"])


def test_an_attack_is_read_with_its_options():
    assert attack_of("pgd:loss=cross_entropy").keywords["loss"] is cross_entropy
    attack = attack_of("pgd:steps=40,restarts=2,random_start=False,norm=l2,loss=dlr")
    assert attack.func is pgd
    assert attack.keywords["steps"] == 40 and attack.keywords["random_start"] is False
    assert attack.keywords["norm"] == "l2" and attack.keywords["loss"].__name__ == "dlr"
    assert attack_of("fgsm") is fgsm
    assert attack_of("pgd:random_start=false,early_exit=TRUE").keywords == dict(random_start=False, early_exit=True)
    assert attack_of("autoattack:attacks_to_run=apgd-ce+square").keywords == dict(attacks_to_run=["apgd-ce", "square"])
    for text, value in {"0.1": 0.1, "8/255": 8 / 255, " 1e-2 ": 0.01, "4 / 255": 4 / 255}.items():
        assert number(text) == value
    assert attack_of("pgd:step_size=2/255,steps=3").keywords == dict(step_size=2 / 255, steps=3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["evaluate", "--model", "nowhere.safetensors"], "there is no file"),
        (["evaluate", "--model", "vgg"], r"accepts FILE\.safetensors, torchvision:NAME or module:factory"),
        (["evaluate", "--model", "torchvision:nothing"], "--model"),
        (["train", "--out", "a.pt"], "safetensors"),
        (["attack", "--model", "torch.nn:Flatten", "--attack", "fgsm", "--target", "3", "--out", "a"], "accepts pgd"),
        (["attack", "--model", "torch.nn:Flatten", "--attack", "bim", "--out", "a"], "--attack"),
        (["evaluate", "--model", "torch.nn:Flatten", "--attack", "pgd:eps=0.5"], "--attack pgd: its option: got 'eps'"),
        (["evaluate", "--model", "torch.nn:Flatten", "--attack", "pgd:step=5"], "accepts one of .*'steps'"),
        (["train", "--out", "a.safetensors", "--objective", "trades"], "--eps"),
        (["train", "--out", "a.safetensors", "--eps", "0.1"], "--eps"),
        (["train", "--out", "a.safetensors", "--data", "nowhere"], "nothing"),
        (["train", "--out", "a.safetensors", "--data", "points.csv"], "train: --data: got 'points.csv', no whole tar"),
        (["evaluate", "--model", "nowhere.safetensors"], "evaluate: --model: got 'nowhere.safetensors', where there"),
        (["train", "--out", "points.csv/a.safetensors"], r"--out: .*points.csv: nothing can be .* folder of yours$"),
        (["evaluate", "--model", "a", "--out", "points.csv/a.json"], r"--out: .*points.csv: nothing .* of yours$"),
        (
            ["attack", "--model", "torch.nn:Flatten", "--limit", "2", "--out", "points.csv"],
            "attack: --out: points.csv: nothing can be written there",
        ),
        (["grade", "nowhere.ipynb", "--out", "mixed"], "grade: --out: got 'mixed'; accepts the name of a file"),
        (["arena", "score", "nowhere", "--out", "points.csv/a.json"], "arena: --out: .*nothing can be written there"),
        (["train", "--out", "a.safetensors", "--steps", "3"], "--steps: got 3 with --objective clean"),
        (["train", "--out", "a.safetensors", "--objective", "ibp", "--eps", "0.1"], "--architecture: got vgg"),
        (["evaluate", "--model", "torch.nn:Flatten", "--attack", "pgd:random_start=no"], "random_start: got 'no'"),
        (["evaluate", "--model", "nowhere_at_all:make"], "No module named 'nowhere_at_all'"),
        (["evaluate", "--model", "torch.nn:Nothing"], "has no attribute 'Nothing'"),
        (["evaluate", "--model", "torch.nn:Flatten", "--data", "x-*.tar"], r"--data: got 'x-\*\.tar', where there is"),
        (["evaluate", "--model", "torch.nn:Flatten"], "classes are not the model's"),  # 784 of them
        (
            ["train", "--out", "a.safetensors", "--objective", "trades", "--eps", "0.1", "--steps", "0"],
            "--steps: got 0",
        ),
        (["train", "--out", "a.safetensors", "--seed", "9" * 23], "--seed: got 9"),
        (["train", "--out", "a.safetensors", "--limit", "3"], "--limit: got 3; accepts"),
        (["train", "--out", "a.safetensors", "--sync-batchnorm"], "--sync-batchnorm: got it without a GPU"),
        (
            ["train", "--out", "a.safetensors", "--data", "mixed"],
            "shapes .3, 32, 32. and .3, 32, 40.; accepts images of one size.*--size",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "points.csv").write_text("label,pixel\n")
    (pets(tmp_path / "mixed", numbers=range(5), size=(32, 32)) / "cat" / "0.png").write_bytes(encoded(0, size=(40, 32)))
    with pytest.raises(SystemExit, match=words) as error:
        main(arguments)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.checkpoint.pt"))


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["attack", "--help"]])
def test_help_is_there(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "usage: python -m advutils" in capsys.readouterr().out
    for action in parser()._subparsers._group_actions[0].choices.values():
        assert all(option.help for option in action._actions)


@pytest.mark.integration
def test_two_processes_write_each_file_once_and_one_sheet(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "load_data", load_data)
    typed = ["attack", "--model", str(weights), "--batch-size", "20", "--limit", "310", "--attack", "pgd:steps=2"]
    main([*typed, "--out", str(tmp_path / "one")])
    command = [*ACCELERATE, "-m", "advutils", *typed, "--out", tmp_path / "two"]
    subprocess.run(command, env=environment(), check=True, timeout=300)
    one, two = sheet(tmp_path / "one"), sheet(tmp_path / "two")
    assert len(one) == 310 and one == two
    for path in (tmp_path / "one" / "adversarial").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "adversarial" / path.name).read_bytes()
