"""The three networks, and their weights on disk: whole or not at all, and never a pickle."""

import ast
import copy
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import Runs, conv_net, images, linear, mixed_modes, refused, same_state, same_weights, state, untouched
from torch import nn
from torch.nn import functional as F

import advutils
from advutils import (
    Contrast,
    Normalize,
    eval_mode,
    input_gradient,
    interval_bounds,
    load_weights,
    save_weights,
    small_cnn,
    strided_cnn,
    vgg,
)  # fmt: skip

PACKAGE = Path(advutils.__file__).parent


def logits(model, x):
    with eval_mode(model), torch.no_grad():
        return model(x)


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def test_other_dtypes_are_kept_as_they_are_in_packed_weights(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 40))
    model.register_buffer("places", torch.arange(30_000).view(-1, 1))
    for net in (model, copy.deepcopy(model).half()):
        save_weights(net, tmp_path / "a.safetensors", bits=16)
        other = copy.deepcopy(net)
        other[1].weight.data.zero_()
        load_weights(other, tmp_path / "a.safetensors")
        assert (other[1].weight - net[1].weight).abs().max() < 1e-4 and torch.equal(other.places, net.places)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_a_vggs_depth_is_its_number_of_layers_with_weights_whatever_the_images(depth):
    """The original's three dense layers are one here, and each convolution has its batch norm."""
    model = vgg(depth, width=0.02)
    assert len(layers(model, nn.Conv2d)) + 3 == depth and len(layers(model, nn.BatchNorm2d)) == depth - 3
    assert len(layers(model, nn.MaxPool2d)) == 5 and len(layers(model, nn.Linear)) == 1
    for channels, size, classes in ((1, 28, 10), (3, 64, 7), (1, 5, 2)):
        model = vgg(depth, width=0.02, in_channels=channels, num_classes=classes)
        assert logits(model, images(2, channels=channels, size=size)).shape == (2, classes)


@pytest.mark.parametrize("channels, size, classes", [(1, 28, 10), (3, 32, 10), (1, 16, 3), (1, 64, 2)])
def test_the_small_network_maps_images_to_logits_without_batch_norm(channels, size, classes):
    model = small_cnn(in_channels=channels, num_classes=classes)
    assert logits(model, images(2, channels=channels, size=size)).shape == (2, classes)
    assert not layers(model, nn.BatchNorm2d) and layers(model, nn.Dropout) and layers(model, Normalize)


def test_the_channels_of_a_vgg_are_those_of_the_paper_times_the_width():
    plan = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    for width in (0.05, 0.25, 0.5, 1):
        wide = [layer.out_channels for layer in layers(vgg(16, width=width), nn.Conv2d)]
        assert wide == [round(width * channels) for channels in plan]
    assert sum(p.numel() for p in vgg(16).parameters()) == 14_722_890


def test_padding_is_inside_the_model_and_black():
    model, x = vgg(11, width=0.05), images(3, size=28)
    torch.testing.assert_close(logits(model, x), logits(model, F.pad(x, (2, 2, 2, 2))), rtol=1e-4, atol=1e-5)
    other = logits(model, F.pad(x, (2, 2, 2, 2), value=0.5))
    assert not torch.allclose(logits(model, x), other, rtol=1e-2)
    assert input_gradient(model, x, torch.tensor([0, 1, 2])).shape == x.shape
    assert vgg(11, width=0.02)[0](torch.ones(1, 1, 40, 30)).shape == (1, 1, 40, 32)


def test_contrast_is_a_soft_threshold_at_mid_grey():
    x = images(3)
    torch.testing.assert_close(Contrast(8)(x), 2 / (1 + torch.exp(-16 * (x - 0.5))) - 1)
    assert (Contrast(1000)(x).sign() == (x - 0.5).sign()).all() and repr(Contrast(8.0)) == "Contrast(8)"


@pytest.mark.parametrize("values", [[0.3, 0.4], (0.3, 0.4), np.array([0.3, 0.4]), torch.tensor([0.3, 0.4]).double()])
def test_normalisation_is_of_each_channel_in_numbers_of_any_form(values):
    x = images(2, channels=2)
    expected = (x - torch.tensor([0.3, 0.4]).view(2, 1, 1)) / torch.tensor([0.3, 0.4]).view(2, 1, 1)
    torch.testing.assert_close(Normalize(values, values)(x), expected)


def test_a_vgg_has_its_contrast_in_place_of_the_normalisation():
    plain, contrasted = slim(), slim(contrast=6)
    assert isinstance(contrasted[1], Contrast) and contrasted[1].slope == 6 and not layers(contrasted, Normalize)
    assert isinstance(plain[1], Normalize) and not layers(plain, Contrast)
    assert (contrasted.config["contrast"], plain.config["contrast"]) == (6, None)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), contrasted.state_dict().values()))
    x, y = 0.3 + 0.4 * images(2, size=28), torch.tensor([0, 1])
    assert (input_gradient(contrasted, x, y) != 0).float().mean() > 0.5
    assert not torch.allclose(logits(plain, x), logits(contrasted, x))


COUNTS, SIZES = [0, -1, 1.5, "3", None, True], [0, -1, float("nan"), float("inf"), "wide", True]


@pytest.mark.parametrize("channels, size, classes", [(1, 28, 10), (3, 32, 10), (1, 4, 3), (1, 65, 2)])
def test_the_strided_network_maps_images_to_logits_and_has_bounds(channels, size, classes):
    model, x = strided_cnn(in_channels=channels, num_classes=classes), images(2, channels=channels, size=size)
    lower, upper = interval_bounds(model, x, x + 0.01)
    assert lower.shape == (2, classes) and (lower <= model(x)).all() and (model(x) <= upper).all()
    assert isinstance(model[0], Normalize) and isinstance(strided_cnn(contrast=3)[0], Contrast)


def test_on_digits_the_strided_network_pools_nothing():
    model, x = strided_cnn(), images(2, size=28)
    unpooled = nn.Sequential(*[layer for layer in model if not isinstance(layer, nn.AdaptiveMaxPool2d)])
    assert len(unpooled) == len(model) - 1 and torch.equal(model(x), unpooled(x))


def test_a_strided_network_with_more_channels_is_wider_everywhere_and_keeps_their_number():
    usual, wide = strided_cnn(), strided_cnn(channels=16)
    sizes = [[len(layer.weight) for layer in model if hasattr(layer, "weight")] for model in (usual, wide)]
    assert sizes == [[8, 16, 64, 10], [16, 32, 128, 10]]
    assert "channels" not in usual.config and wide.config["channels"] == 16


def test_a_strided_network_with_batch_norm_has_it_after_each_layer_but_the_last():
    model = strided_cnn(batch_norm=True)
    weighted = [layer for layer in model if hasattr(layer, "weight")]
    linear, norms = weighted[::2], weighted[1::2]
    assert [type(layer).__name__ for layer in norms] == ["BatchNorm2d", "BatchNorm2d", "BatchNorm1d"]
    assert [layer.bias is None for layer in linear] == [True, True, True, False]
    assert model.config["batch_norm"] is True and "batch_norm" not in strided_cnn().config


@pytest.mark.parametrize("build, argument, values, words", [
    (vgg, "depth", [0, 12, -16, "16", None, [16], 16.5], "11, 13, 16, 19"), (vgg, "width", SIZES, "above 0"),
    (vgg, "contrast", SIZES, "above 0"), (vgg, "in_channels", COUNTS, "at least 1"),
    (vgg, "num_classes", COUNTS, "at least 1"), (small_cnn, "in_channels", COUNTS, "at least 1"),
    (small_cnn, "num_classes", COUNTS, "at least 1"), (strided_cnn, "in_channels", COUNTS, "at least 1"),
    (strided_cnn, "num_classes", COUNTS, "at least 1"), (strided_cnn, "channels", COUNTS, "at least 1"),
])  # fmt: skip
def test_a_network_that_cannot_be_is_refused(build, argument, values, words):
    for bad in values:
        with refused(argument, words):
            build(**{argument: bad})


def slim(seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return vgg(11, **(dict(width=0.02) | kwargs))


@pytest.fixture
def saved(tmp_path):
    """A model and the file of its weights."""
    model = slim()
    model(images(4, size=32))  # so that its batch norm has statistics of its own
    model.train_hashes = torch.tensor([3, 1, 4])
    path = tmp_path / "weights.safetensors"
    save_weights(model, path, recipe={"epochs": 3}, history={"val_loss": [0.1, 1 / 3]}, machine="this one")
    return model, path


def test_a_round_trip_gives_the_same_weights_to_the_bit(saved):
    model, path = saved
    other = slim(1)
    assert not same_weights(model, other)
    told = load_weights(other, path)
    assert same_weights(model, other) and torch.equal(other.train_hashes, torch.tensor([3, 1, 4]))
    x = images(3, size=28)
    assert torch.equal(logits(model, x), logits(other, x))
    history = {"val_loss": [0.1, 1 / 3]}
    assert told == {"config": model.config, "recipe": {"epochs": 3}, "history": history, "machine": "this one"}
    with safetensors.safe_open(path, framework="pt") as file:  # without this package
        metadata = {key: json.loads(value) for key, value in file.metadata().items() if value[:1] in '{"'}
    assert metadata["config"]["architecture"] == "vgg" and metadata["machine"] == "this one"
    with open(path, "r+b") as file:  # as a program does that synchronises folders: what is loaded does not hang on it
        file.write(bytes(path.stat().st_size))
    assert torch.equal(other.train_hashes, torch.tensor([3, 1, 4])) and same_weights(model, other)


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model.config = {"sizes": (3, 3), 1: "one"}  # what JSON spells otherwise
    return model


@pytest.mark.parametrize("build", [small_cnn, conv_net, linear, tied, lambda: vgg(11, width=np.float32(0.05))])
def test_any_model_can_be_saved_and_is_left_as_it_is(build, tmp_path):
    first, second = mixed_modes(build()), build()
    with torch.no_grad():
        next(first.parameters()).add_(1)
    with untouched(first):
        save_weights(first, tmp_path / "deep" / "down" / "weights")
        load_weights(first, tmp_path / "deep" / "down" / "weights")
    load_weights(second, tmp_path / "deep" / "down" / "weights")
    assert same_weights(first, second) and len(list(second.parameters())) == len(list(first.parameters()))


@pytest.fixture(params=[16, 8])
def packed(request, saved, tmp_path, monkeypatch):
    """The model of `saved`, the file of its weights, but those of the first layer, in few bits, and how many bits."""
    model, path = saved[0], tmp_path / "packed.safetensors"
    monkeypatch.setattr("advutils.utils.weights.PACKED_FROM", model[2].weight.numel())
    with torch.no_grad():
        model[6].weight[0] = 0  # an output without weights
        model[-1].weight[1] *= 1e-4  # and one whose weights are far smaller than those of the others
    save_weights(model, path, bits=request.param)
    return model, path, request.param


def test_packed_weights_are_off_by_at_most_half_a_step_of_their_output(packed):
    model, path, bits = packed
    steps = {16: 65534, 8: 254}[bits]
    other = slim(1)
    load_weights(other, path)
    assert torch.equal(other.train_hashes, model.train_hashes)
    changed = 0
    for key, old in model.state_dict().items():
        new = other.state_dict()[key]
        assert new.dtype == old.dtype and new.stride() == slim(1).state_dict()[key].stride()
        if old.ndim > 1 and key != "2.weight":
            most = old.flatten(1).abs().amax(1).view(-1, *[1] * (old.ndim - 1))
            assert ((new - old).abs() <= most / steps + 1e-6 * most).all()  # and the rounding of float32
            changed += int((new != old).sum())
        else:
            assert torch.equal(new, old)
    assert changed > 0


def test_packed_files_are_small_and_packing_again_changes_nothing(packed, tmp_path):
    model, path, bits = packed
    save_weights(small_cnn(), tmp_path / "whole")
    save_weights(small_cnn(), tmp_path / "small", bits=bits)
    assert (tmp_path / "small").stat().st_size < (bits / 32 + 0.01) * (tmp_path / "whole").stat().st_size
    once, twice = slim(1), slim(2)
    load_weights(once, path)
    save_weights(once, tmp_path / "again", bits=bits)
    load_weights(twice, tmp_path / "again")
    for a, b in zip(once.state_dict().values(), twice.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def refuses(path, *fragments, model=None):
    """Loading is refused by a ValueError that names the file, and the model is as before."""
    model = slim(1) if model is None else model
    model.train_hashes = torch.tensor([7])
    before = state(model)
    with pytest.raises(ValueError) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert message.startswith("path: got ") and str(path) in message, message
    assert all(fragment in message for fragment in fragments), message
    assert same_state(before, state(model)) and torch.equal(model.train_hashes, torch.tensor([7]))


def test_an_altered_bit_or_a_lost_end_is_refused(saved):
    _, path = saved
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    words = b"this one|depth|epochs|val_loss|0.1|sha256|advutils-weights|train_hashes|F32|I64".split(b"|")
    places = [whole.index(word) + len(word) // 2 for word in words]
    for at in [*places, *range(start, len(whole), (len(whole) - start) // 12)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refuses(path, *["altered"] * (at >= start))
    for share in (0, 0.0001, 0.05, 0.5, 0.9, 0.9999):
        path.write_bytes(whole[: int(share * len(whole))])
        refuses(path, "no complete safetensors file")


def test_what_is_no_file_of_weights_is_refused_and_a_pickle_is_never_opened(tmp_path):
    path, trace = tmp_path / "file", tmp_path / "it-ran"
    for zipped in (True, False):
        torch.save({"weights": Runs(trace)}, path, _use_new_zipfile_serialization=zipped)
        refuses(path, "never opened")
        assert not trace.exists()
        torch.load(path, weights_only=False)
        trace.unlink()  # it would have run
    for content in (b"", b"not weights", b"{}", os.urandom(1000)):
        path.write_bytes(content)
        refuses(path)
    for metadata in (None, {"format": "pt"}):  # of another program
        safetensors.torch.save_file(linear().state_dict(), path, metadata)
        refuses(path, "another program")
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="no file") as caught:
            load_weights(slim(), missing)
        assert str(missing) in str(caught.value)


OTHERS = {
    "deeper": lambda: vgg(13, width=0.02), "wider": lambda: slim(width=0.04), "coloured": lambda: slim(in_channels=3),
    "more classes": lambda: slim(num_classes=11), "steeper": lambda: slim(contrast=7), "the small network": small_cnn,
    "the strided network": strided_cnn,
    "a wider strided network": lambda: strided_cnn(channels=9),
    "one with batch norm": lambda: strided_cnn(batch_norm=True),
    "no network of ours": conv_net,
}  # fmt: skip


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_weights_of_another_architecture_are_refused(saved, build):
    refuses(saved[1], "'vgg'", model=build())


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    path = tmp_path / "weights"
    save_weights(linear(4), path)
    refuses(path, "1.weight", model=linear(5))
    refuses(path, "1.bias", model=nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)))
    refuses(path, "1.weight", model=linear(4).double())


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def test_what_cannot_be_written_leaves_the_file(saved):
    model, path = saved
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(model, path, recipe={"objective": object()})
    with refused("model", "Module"):
        save_weights({"weight": torch.zeros(3)}, path)
    with refused("model", "_extra_state"):
        save_weights(Extra(2, 2), path)
    with refused("bits", "4", "None, 16, 8"):
        save_weights(model, path, bits=4)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_no_other(saved, monkeypatch, step, error):
    model, path = saved
    before = path.read_bytes()

    def fails(*args):
        raise error

    monkeypatch.setattr(os, step, fails)
    with pytest.raises(error):
        save_weights(slim(1), path)
    with pytest.raises(error):
        save_weights(slim(1), path.with_name("new"))
    monkeypatch.undo()
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    load_weights(slim(1), path)


GRADING = ("grading.py", "worker.py")  # a grader pickles for a process of its own, and reads back tensors alone


def test_the_package_never_opens_a_pickle():
    suspects = {"load", "loads", "Unpickler", "eval", "exec"}
    harmless = {("json", "loads")}
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                bad = {"dill", "joblib", "shelve", "marshal"} | ({"pickle"} if source.name not in GRADING else set())
                assert not bad & set(names), f"{source.name}: {names}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in suspects:
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ast.dump(node.func.value)
                data_alone = owner == "torch" and "weights_only=True" in map(ast.unparse, node.keywords)
                if node.func.attr in ("load", "loads", "Unpickler") and not data_alone:
                    here = harmless | ({("pickle", "loads")} if source.name == "worker.py" else set())
                    assert (owner, node.func.attr) in here, f"{source.name} calls {owner}.{node.func.attr}"
