"""The three networks, and their weights on disk: whole or not at all, and never a pickle."""

import ast
import copy
import json
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import Runs, conv_net, few, images, linear, mixed_modes, refused, same_state, state, untouched
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import advutils
from advutils import (
    Contrast,
    Normalize,
    accuracy,
    eval_mode,
    input_gradient,
    interval_bounds,
    load_weights,
    predict,
    save_weights,
    small_cnn,
    strided_cnn,
    vgg,
)
from advutils.utils.weights import read_tensors, write_tensors

PACKAGE = Path(advutils.__file__).parent


def logits(model, x):
    with eval_mode(model), torch.no_grad():
        return model(x)


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


# the networks


def test_other_dtypes_are_kept_as_they_are_in_packed_weights(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 40))
    model.register_buffer("places", torch.arange(30_000).view(-1, 1))
    for net in (model, copy.deepcopy(model).half()):
        save_weights(net, tmp_path / "a.safetensors", packed=True)
        other = copy.deepcopy(net)
        other[1].weight.data.zero_()
        load_weights(other, tmp_path / "a.safetensors")
        assert (other[1].weight - net[1].weight).abs().max() < 1e-4 and torch.equal(other.places, net.places)


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def test_a_state_that_is_no_tensor_is_named(tmp_path):
    with refused("model", "_extra_state"):
        save_weights(Extra(2, 2), tmp_path / "a.safetensors")


def test_an_attribute_of_ours_that_is_the_readers_is_left_alone():
    model, x = linear(), images(3)
    model.train_hashes = "cifar10"
    assert accuracy(model, [(x, torch.zeros(3, dtype=torch.int64))]).n == 3


def test_one_parameter_of_another_dtype_does_not_decide_for_all():
    model = conv_net().eval()
    model.temperature = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    assert predict(model, images(3)).dtype == torch.float32


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("channels, size, classes", [(1, 28, 10), (3, 32, 10), (3, 64, 7), (1, 5, 2)])
def test_a_vgg_maps_images_of_any_size_to_logits(depth, channels, size, classes):
    model = vgg(depth, width=0.05, in_channels=channels, num_classes=classes)
    assert logits(model, images(2, channels=channels, size=size)).shape == (2, classes)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_a_vggs_depth_is_its_number_of_layers_with_weights(depth):
    """The original's three dense layers are one here, and each convolution has its batch norm."""
    model = vgg(depth, width=0.02)
    assert len(layers(model, nn.Conv2d)) + 3 == depth
    assert len(layers(model, nn.BatchNorm2d)) == depth - 3
    assert len(layers(model, nn.MaxPool2d)) == 5 and len(layers(model, nn.Linear)) == 1


def test_the_parameters_of_the_full_vgg16_are_those_of_the_paper():
    plan = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(9 * a * b for a, b in zip([1, *plan], plan))
    norms = sum(2 * b for b in plan)
    assert sum(p.numel() for p in vgg(16).parameters()) == convolutions + norms + 512 * 10 + 10 == 14_722_890


@pytest.mark.parametrize("width", [0.05, 0.25, 0.5, 2])
def test_width_multiplies_every_channel_count(width):
    wide = [layer.out_channels for layer in layers(vgg(11, width=width), nn.Conv2d)]
    assert wide == [round(width * channels) for channels in (64, 128, 256, 256, 512, 512, 512, 512)]


def test_padding_is_inside_the_model_and_black():
    model, x = vgg(11, width=0.05), images(3, size=28)
    torch.testing.assert_close(logits(model, x), logits(model, F.pad(x, (2, 2, 2, 2))), rtol=1e-4, atol=1e-5)
    other = logits(model, F.pad(x, (2, 2, 2, 2), value=0.5))
    assert not torch.allclose(logits(model, x), other, rtol=1e-2)
    assert input_gradient(model, x, torch.tensor([0, 1, 2])).shape == x.shape


@few
@given(rows=st.integers(1, 40), cols=st.integers(1, 40))
def test_padding_centres_an_image_of_any_shape(rows, cols):
    padded = vgg(11, width=0.02)[0](torch.ones(1, 1, rows, cols))
    assert padded.shape == (1, 1, max(32, rows), max(32, cols)) and padded.sum() == rows * cols
    filled = padded[0, 0].nonzero()
    for axis, side in ((0, rows), (1, cols)):
        before, after = filled[:, axis].min().item(), padded.shape[2 + axis] - 1 - filled[:, axis].max().item()
        assert side > 32 or 0 <= after - before <= 1


def test_normalisation_is_inside_the_model():
    x = images(3)
    torch.testing.assert_close(Normalize(0.3, 0.2)(x), (x - 0.3) / 0.2)
    for model in (vgg(11, width=0.02), small_cnn()):
        assert any(isinstance(module, Normalize) for module in model.modules())


def test_contrast_is_a_soft_threshold_at_mid_grey():
    x = images(3)
    torch.testing.assert_close(Contrast(8)(x), 2 / (1 + torch.exp(-16 * (x - 0.5))) - 1)
    assert (Contrast(1000)(x).sign() == (x - 0.5).sign()).all() and Contrast(5)(torch.tensor(0.5)) == 0
    assert repr(Contrast(8.0)) == "Contrast(8)"


def test_a_vgg_has_its_contrast_in_place_of_the_normalisation():
    plain, contrasted = slim(), slim(contrast=6)
    assert isinstance(contrasted[1], Contrast) and contrasted[1].slope == 6 and not layers(contrasted, Normalize)
    assert isinstance(plain[1], Normalize) and not layers(plain, Contrast)
    assert (contrasted.config["contrast"], plain.config["contrast"]) == (6, None)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), contrasted.state_dict().values()))
    x, y = 0.3 + 0.4 * images(2, size=28), torch.tensor([0, 1])
    assert (input_gradient(contrasted, x, y) != 0).float().mean() > 0.5
    assert not torch.allclose(logits(plain, x), logits(contrasted, x))


@pytest.mark.parametrize("bad", [0, -1, float("nan"), "steep", True])
def test_a_bad_contrast_is_refused(bad):
    with refused("contrast", "above 0"):
        vgg(11, contrast=bad)


def test_weights_of_another_contrast_are_refused(tmp_path):
    save_weights(slim(contrast=6), tmp_path / "weights.safetensors")
    load_weights(slim(1, contrast=6), tmp_path / "weights.safetensors")
    for other in (slim(), slim(contrast=7)):
        with untouched(other), pytest.raises(ValueError, match="contrast"):
            load_weights(other, tmp_path / "weights.safetensors")


@pytest.mark.parametrize("channels, size, classes", [(1, 28, 10), (3, 32, 10), (1, 16, 3), (1, 64, 2)])
def test_the_small_network_maps_images_to_logits(channels, size, classes):
    model = small_cnn(in_channels=channels, num_classes=classes)
    assert logits(model, images(2, channels=channels, size=size)).shape == (2, classes)
    assert not layers(model, nn.BatchNorm2d) and layers(model, nn.Dropout)


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


def test_the_networks_return_logits_not_probabilities():
    for model in (vgg(11, width=0.05), small_cnn(), strided_cnn()):
        z = logits(model, images(5, size=28))
        assert z.min() < 0 and not torch.allclose(z.sum(1), torch.ones(5))
        torch.testing.assert_close(predict(model, images(5, size=28)).sum(1), torch.ones(5))


@pytest.mark.parametrize("bad", [0, 12, -16, "16", None, [16], 16.5])
def test_an_unknown_depth_is_refused(bad):
    with refused("depth", "11, 13, 16, 19"):
        vgg(bad)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "wide", None, True])
def test_a_bad_width_is_refused(bad):
    with refused("width", "above 0"):
        vgg(width=bad)


@pytest.mark.parametrize("build", [vgg, small_cnn, strided_cnn])
@pytest.mark.parametrize("argument", ["in_channels", "num_classes"])
@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", None, True])
def test_a_bad_count_is_refused(build, argument, bad):
    with refused(argument, "at least 1"):
        build(**{argument: bad})


# saving and loading


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


def same_weights(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


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


def test_saving_and_loading_leave_modes_and_gradients_alone(saved, tmp_path):
    model, path = saved
    mixed_modes(model)
    with untouched(model):
        save_weights(model, tmp_path / "again")
        load_weights(model, path)


@pytest.mark.parametrize("build", [small_cnn, conv_net, linear])
def test_any_model_can_be_saved(build, tmp_path):
    first, second = build(), build()
    with torch.no_grad():
        next(first.parameters()).add_(1)
    save_weights(first, tmp_path / "deep" / "down" / "weights")
    load_weights(second, tmp_path / "deep" / "down" / "weights")
    assert same_weights(first, second)


def test_architecture_recipe_and_machine_can_be_read_without_this_package(saved):
    _, path = saved
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"])["architecture"] == "vgg" and json.loads(metadata["config"])["depth"] == 11
    assert json.loads(metadata["recipe"]) == {"epochs": 3} and json.loads(metadata["machine"]) == "this one"


@pytest.fixture
def packed(saved, tmp_path, monkeypatch):
    """The model of `saved`, and the file of its weights, but those of the first layer, in 16 bits."""
    model, path = saved[0], tmp_path / "packed.safetensors"
    monkeypatch.setattr("advutils.utils.weights.PACKED_FROM", model[2].weight.numel())
    with torch.no_grad():
        model[6].weight[0] = 0  # an output without weights
        model[-1].weight[1] *= 1e-4  # and one whose weights are far smaller than those of the others
    save_weights(model, path, packed=True)
    return model, path


def test_packed_weights_are_off_by_at_most_a_65534th_of_the_largest_of_their_output(packed):
    model, path = packed
    other = slim(1)
    load_weights(other, path)
    assert torch.equal(other.train_hashes, model.train_hashes)
    changed = 0
    for key, old in model.state_dict().items():
        new = other.state_dict()[key]
        assert new.dtype == old.dtype and new.stride() == slim(1).state_dict()[key].stride()
        if old.ndim > 1 and key != "2.weight":
            most = old.flatten(1).abs().amax(1).view(-1, *[1] * (old.ndim - 1))
            assert ((new - old).abs() <= most / 65534 + 1e-6 * most).all()  # and the rounding of float32
            changed += int((new != old).sum())
        else:
            assert torch.equal(new, old)
    assert changed > 0


def test_packed_files_are_half_as_large_and_packing_again_changes_nothing(packed, tmp_path):
    model, path = packed
    save_weights(small_cnn(), tmp_path / "whole")
    save_weights(small_cnn(), tmp_path / "half", packed=True)
    assert (tmp_path / "half").stat().st_size < 0.51 * (tmp_path / "whole").stat().st_size
    once, twice = slim(1), slim(2)
    load_weights(once, path)
    save_weights(once, tmp_path / "again", packed=True)
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


def test_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "nowhere.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match="no file") as caught:
            load_weights(slim(), path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.0001, 0.05, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(saved, share):
    _, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refuses(path, "no complete safetensors file")


def test_a_file_with_something_behind_it_is_refused(saved):
    _, path = saved
    path.write_bytes(path.read_bytes() + b"more")
    refuses(path)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_altered_weights_are_refused(saved):
    _, path = saved
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for at in range(start, len(whole), (len(whole) - start) // 12):
        path.write_bytes(whole)
        flip(path, at)
        refuses(path, "altered")


def test_altered_metadata_are_refused(saved):
    _, path = saved
    whole = path.read_bytes()
    header = whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]]
    for word in (
        b"this one",
        b"depth",
        b"epochs",
        b"val_loss",
        b"0.1",
        b"sha256",
        b"advutils-weights",
        b"train_hashes",
        b"F32",
        b"I64",
    ):
        path.write_bytes(whole)
        at = header.index(word)
        flip(path, 8 + at + len(word) // 2)
        refuses(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_never_opened(tmp_path, zipped):
    path, trace = tmp_path / "weights.pt", tmp_path / "it-ran"
    torch.save({"weights": Runs(trace)}, path, _use_new_zipfile_serialization=zipped)
    refuses(path, "never opened")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    weights = {key: value.contiguous() for key, value in slim().state_dict().items()}
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file(weights, path, metadata)
        refuses(path, "another program")


def test_a_file_that_is_nothing_at_all_is_refused(tmp_path):
    for number, content in enumerate((b"", b"\0" * 100, b"not weights", b"{}", os.urandom(1000))):
        path = tmp_path / str(number)
        path.write_bytes(content)
        refuses(path)


OTHERS = {
    "deeper": lambda: vgg(13, width=0.02),
    "wider": lambda: slim(width=0.04),
    "coloured": lambda: slim(in_channels=3),
    "more classes": lambda: slim(num_classes=11),
    "the small network": small_cnn,
    "the strided network": strided_cnn,
    "no network of ours": conv_net,
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_weights_of_another_architecture_are_refused(saved, build):
    refuses(saved[1], "'vgg'", model=build())


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    path = tmp_path / "weights"
    save_weights(linear(4), path)
    refuses(path, "1.weight", model=linear(5))
    refuses(path, "1.bias", model=nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)))
    refuses(path, "1.weight", model=linear(4).double())


@pytest.mark.parametrize("bad", [None, "vgg", {"weight": torch.zeros(3)}])
def test_only_a_model_can_be_saved(bad, tmp_path):
    with refused("model", "Module"):
        save_weights(bad, tmp_path / "weights")
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_json_cannot_hold_writes_nothing(saved):
    model, path = saved
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(model, path, recipe={"objective": object()})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


# a writer that does not come to its end


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


def test_a_write_replaces_the_old_file(saved):
    _, path = saved
    save_weights(slim(1), path)
    other = slim(2)
    load_weights(other, path)
    assert same_weights(other, slim(1)) and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_killed_writer_leaves_the_old_file(saved, step):
    model, path = saved
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        setattr(os, step, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        try:
            save_weights(slim(1), path)
        finally:
            os._exit(0)  # not reached by one who was killed
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_bytes() == before
    other = slim(1)
    load_weights(other, path)
    assert same_weights(model, other)


def test_the_package_never_opens_a_pickle():
    suspects = {"load", "loads", "Unpickler", "eval", "exec"}
    harmless = {("json", "loads")}
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & set(names), f"{source.name}: {names}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in suspects:
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ast.dump(node.func.value)
                data_alone = owner == "torch" and "weights_only=True" in map(ast.unparse, node.keywords)
                if node.func.attr in ("load", "loads", "Unpickler") and not data_alone:
                    assert (owner, node.func.attr) in harmless, f"{source.name} calls {owner}.{node.func.attr}"


def test_a_batch_goes_through_in_any_memory_layout():
    model, x = slim(), images(2, size=28)
    strided = x.expand(2, 1, 28, 28).to(memory_format=torch.channels_last)
    torch.testing.assert_close(logits(model, x), logits(model, strided))


# named tensors


def test_what_is_written_is_read_back(tmp_path):
    tensors = {
        "a": torch.randn(2, 3).t(),
        "b.c": torch.tensor(5),
        "d": torch.tensor([True, False]),
        "e": torch.empty(0),
    }
    about = dict(run={"lr": 0.1, "eps": None}, history=[0.1, 1 / 3])
    write_tensors(tmp_path / "sub" / "file", tensors, about)
    got, told = read_tensors(tmp_path / "sub" / "file")
    assert told == about and got.keys() == tensors.keys()
    assert all(torch.equal(got[key], value) and got[key].dtype == value.dtype for key, value in tensors.items())


def test_altered_tensors_are_noticed(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"a": torch.zeros(4)}, dict(run=1))
    data = path.read_bytes()
    for spoilt in (data[:-1] + b"?", data.replace(b'"run":"1"', b'"run":"2"')):
        assert spoilt != data
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="altered"):
            read_tensors(path)


def test_counts_and_widths_of_numpy_are_saved(tmp_path):
    model = vgg(11, width=np.float32(0.05), num_classes=np.int64(3))
    save_weights(model, tmp_path / "a")
    load_weights(vgg(11, width=float(np.float32(0.05)), num_classes=3), tmp_path / "a")


def test_tied_weights_are_saved_and_loaded(tmp_path):
    first, second = (nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)) for _ in range(2))
    for model in (first, second):
        model[2].weight = model[0].weight
    save_weights(first, tmp_path / "a")
    load_weights(second, tmp_path / "a")
    assert same_state(state(first), state(second)) and second[2].weight is second[0].weight


def test_what_is_loaded_does_not_hang_on_the_file(saved):
    model, path = slim(), saved[1]
    load_weights(model, path)
    with open(path, "r+b") as file:  # as a program does that synchronises folders
        file.write(bytes(path.stat().st_size))
    assert torch.equal(model.train_hashes, torch.tensor([3, 1, 4])) and same_weights(model, saved[0])


def test_a_config_of_ones_own_may_hold_what_json_spells_otherwise(tmp_path):
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    model.config = other.config = {"sizes": (2, 2), 1: "one"}
    save_weights(model, tmp_path / "a")
    load_weights(other, tmp_path / "a")
    assert torch.equal(model.weight, other.weight)


@pytest.mark.parametrize("values", [[0.3, 0.4], (0.3, 0.4), np.array([0.3, 0.4]), torch.tensor([0.3, 0.4]).double()])
def test_numbers_for_each_channel_come_in_any_form(values):
    x = images(2, channels=2)
    layer = Normalize(values, values)
    expected = (x - torch.tensor([0.3, 0.4]).view(2, 1, 1)) / torch.tensor([0.3, 0.4]).view(2, 1, 1)
    assert layer(x).dtype == torch.float32
    torch.testing.assert_close(layer(x), expected)
