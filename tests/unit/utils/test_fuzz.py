"""Whatever a file holds, or somebody types: it is read, or refused by a ValueError, and nothing in it is ever run."""

import argparse
import contextlib
import io
import json
import math
import pickle
import signal
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from helpers import Runs, conv_net, linear, loader, untouched
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from made_files import FOLDERS, drawn, pinned, write
from PIL import EpsImagePlugin, Image, ImageFile

from advutils import fit, load_data, load_weights, read_digit, save_weights, vgg
from advutils.cli import main
from advutils.cli.common import ATTACKS, attack_of, model_of, number
from advutils.utils.checkpoint import read as read_checkpoint
from advutils.utils.images import FORMATS, ImageFiles, read_image
from advutils.utils.weights import read_tensors, write_tensors

pytestmark = pytest.mark.integration
some, many = (settings(deadline=None, derandomize=True, max_examples=n) for n in (60, 200))
noisy = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it skips in a damaged file


@st.composite
def damaged(draw, whole):
    """The bytes of a file after a few accidents: some put in, taken out or changed, the end lost."""
    data = bytearray(whole)
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        at, new = draw(st.integers(0, len(data))), draw(st.binary(max_size=16))
        data[at : at + draw(st.sampled_from([len(new), len(new), 0, 16]))] = new
    return bytes(data[: draw(st.sampled_from([None, None, None, draw(st.integers(0, len(data)))]))])


@contextlib.contextmanager
def within(seconds):
    """The block must end in that time of the processor, and in a minute, also one that catches every exception."""
    rang, timers = [], ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 60))

    def ring(*_):
        rang.append(True)
        raise TimeoutError

    before = [signal.signal(number, ring) for _, number, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        assert not rang, f"this took more than {seconds} s"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def put(path, content):
    path.write_bytes(content)
    return path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


# weights and states


def small(seed=0):
    return linear(2, size=2, seed=seed)


@pytest.fixture(scope="module")
def weights(folder):
    save_weights(small(), folder / "weights", recipe=dict(epochs=1), history=dict(val_loss=[0.5]))
    return (folder / "weights").read_bytes()


@pytest.fixture(scope="module")
def training_state(folder):
    fit(small(), loader(classes=2, size=2), loader(classes=2, size=2, seed=1), epochs=1, lr=0.01, progress=False,
        checkpoint=folder / "state")  # fmt: skip
    return (folder / "state").read_bytes()


def refused_or_loaded_whole(content, whole, folder):
    """Bytes that are no weights leave the model alone; bytes that are (a header may hold blanks) are the saved."""
    path, model, expected = put(folder / "file", content), small(1), small(1)
    told = load_weights(expected, put(folder / "whole", whole))
    try:
        with untouched(model):
            read_tensors(path)
        assert load_weights(model, path) == told
    except ValueError as error:
        assert str(path) in str(error)
        with untouched(model), pytest.raises(ValueError):
            load_weights(model, path)
    else:
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), expected.state_dict().values()))


@many
@given(content=st.binary(max_size=200))
def test_any_bytes_are_no_weights(content, folder):
    path, model = put(folder / "file", content), small()
    with pytest.raises(ValueError):
        read_tensors(path)
    with untouched(model), pytest.raises(ValueError):
        load_weights(model, path)


@many
@given(data=st.data())
def test_damaged_weights_are_refused(data, weights, folder):
    refused_or_loaded_whole(data.draw(damaged(weights)), weights, folder)


def identical(a, b):
    """Whether two nests of dicts and lists hold the same values, tensors bit by bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


@some
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused(data, training_state, folder):
    expected = read_checkpoint(put(folder / "whole", training_state))
    path = put(folder / "file", data.draw(damaged(training_state)))
    try:
        found = read_checkpoint(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert identical(found, expected)


@many
@given(content=st.binary(max_size=200))
def test_any_bytes_are_no_checkpoint(content, folder):
    with pytest.raises(ValueError, match="accepts one that fit wrote"):
        read_checkpoint(put(folder / "file", content))


BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
        "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
        "F128": 128}  # fmt: skip
WORDS = st.sampled_from(["format", "sha256", "config", "history", "__metadata__", "é", ""]) | st.text(max_size=5)


@st.composite
def safetensors_files(draw):
    """Files in the format of safetensors, with tensors of any kind, that this package did not write."""
    header, at = {}, 0
    for name in draw(st.lists(WORDS, max_size=3, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(BITS))), draw(st.lists(st.integers(0, 4), max_size=3))
        size = draw(st.just(BITS[dtype] * math.prod(shape) // 8) | st.integers(0, 2**64))
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[at, at + size])
        at += size
    texts = st.sampled_from(["advutils-weights-1", "advutils-weights-2", "null", "[" * 10_000]) | st.text(max_size=5)
    header["__metadata__"] = draw(st.dictionaries(WORDS, texts, max_size=4)) | {"format": draw(texts)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(min(at, 10_000))


@many
@given(content=safetensors_files())
def test_a_safetensors_file_of_any_other_kind_is_refused(content, folder):
    path = put(folder / "file", content)
    with pytest.raises(ValueError):
        read_tensors(path)


@pytest.mark.parametrize("missing", ["config", "recipe", "history", "train_hashes", "model.1.weight"])
def test_weights_of_which_a_part_is_missing_are_refused(missing, weights, folder):
    """A file whose checksum is right may still be another version's."""
    tensors, about = read_tensors(put(folder / "whole", weights))
    parts = [{key: value for key, value in part.items() if key != missing} for part in (tensors, about)]
    write_tensors(folder / "file", *parts)
    model = small(1)
    with untouched(model), pytest.raises(ValueError) as caught:
        load_weights(model, folder / "file")
    assert str(folder / "file") in str(caught.value)


# pickles


def pickled(trace):
    """Pickles, in all the clothes they are met in, that leave a file when they are opened."""
    files, thing = {"pickle": io.BytesIO(pickle.dumps(Runs(trace)))}, Runs(trace)
    files |= {name: io.BytesIO() for name in ("torch", "torch, as it was", "numpy")}
    torch.save({"weights": thing}, files["torch"])
    torch.save({"weights": thing}, files["torch, as it was"], _use_new_zipfile_serialization=False)
    np.save(files["numpy"], np.array([thing], dtype=object), allow_pickle=True)
    return {name: file.getvalue() for name, file in files.items()}


def as_state(path):
    fit(small(), loader(classes=2, size=2), loader(classes=2, size=2, seed=1), epochs=1, lr=0.01, checkpoint=path,
        progress=False)  # fmt: skip


def as_members(path):
    content = path.read_bytes()
    members = b"".join(member(f"x{ending}", content) for ending in (".pkl", ".cls", ".pyd", ".json", ".pt", ".png"))
    files = ImageFiles(put(path.with_suffix(".tar"), members + END))
    assert len(files) == 1 and files.labels == [-1]
    files[0]


OPENED = {
    "weights": lambda path: load_weights(small(), path),
    "a state": as_state,
    "an image": lambda path: read_image(path.read_bytes()),
    "a digit": read_digit,
    "members of a tar file": as_members,
    "a tar file": ImageFiles,
    "a model on the command line": lambda path: model_of(str(path)),
}


@pytest.mark.parametrize("opened", OPENED.values(), ids=OPENED)
@pytest.mark.parametrize("ending", ["safetensors", "pt", "png", "tar"])
def test_a_pickle_is_refused_wherever_it_is_put_and_never_runs(opened, ending, tmp_path):
    trace = tmp_path / "it-ran"
    for content in pickled(trace).values():
        with pytest.raises(ValueError):
            opened(put(tmp_path / f"file.{ending}", content))
        assert not trace.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch, as it was", "numpy"])
def test_the_pickles_above_would_have_run(kind, tmp_path):
    trace = tmp_path / "it-ran"
    content = io.BytesIO(pickled(trace)[kind])
    if kind == "pickle":
        pickle.load(content)
    elif kind == "numpy":
        np.load(content, allow_pickle=True)
    else:
        torch.load(content, weights_only=False)
    assert trace.exists()


# images


def encoded(kind):
    file = io.BytesIO()
    Image.open(drawn()).save(file, kind)
    return file.getvalue()


FILES = {kind: encoded(kind) for kind in FORMATS}


def read_or_refused(content):
    try:
        x = read_image(content, "this file")
    except ValueError as error:
        assert str(error).startswith("this file: ")
    else:
        assert x.dtype == torch.float32 and x.ndim == 3 and len(x) in (1, 3)
        assert x.min() >= 0 and x.max() <= 1 and torch.equal((255 * x).round() / 255, x)


def digit_or_refused(content):
    with contextlib.suppress(ValueError):
        x = read_digit(io.BytesIO(content))
        assert x.shape == (1, 1, 28, 28) and x.min() >= 0 and x.max() <= 1


@noisy
@some
@given(content=st.binary(max_size=100), start=st.sampled_from([0, 2, 4, 8, 12, 16, 30]), kind=st.sampled_from(FORMATS))
def test_any_bytes_are_an_image_or_refused(content, start, kind):
    for bytes_ in (content, FILES[kind][:start] + content):
        read_or_refused(bytes_)
        digit_or_refused(bytes_)


@noisy
@pytest.mark.parametrize("read", [read_or_refused, digit_or_refused])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_image_is_read_or_refused(kind, read):
    @some
    @given(content=damaged(FILES[kind]))
    @example(content=FILES[kind][: len(FILES[kind]) // 2])
    def each(content):
        read(content)

    each()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claiming(kind, width, height):
    """A small file that says it has so many pixels."""
    data = bytearray(FILES[kind])
    if kind == "PNG":
        data[8:33] = chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29])
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.mark.parametrize("read", [read_image, lambda content: read_digit(io.BytesIO(content))], ids=["image", "digit"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize("width, height", [(30_000, 30_000), (10_000, 10_000), (65_000, 800)])
def test_a_small_file_that_claims_to_be_large_is_refused_before_its_pixels_are_made(
    read, kind, width, height, monkeypatch
):
    made, load = [], ImageFile.ImageFile.load_prepare

    def noted(image):
        made.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", noted)
    with within(1), pytest.raises(ValueError, match="pixels"):
        read(claiming(kind, width, height))
    assert made == []
    read(claiming(kind, *Image.open(drawn()).size))
    assert made != []


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_image_of_sixteen_bits_is_refused_or_scaled_not_cut_off_at_255(kind):
    levels, file = np.arange(0, 65_536, 64, dtype=np.uint16).reshape(32, 32), io.BytesIO()
    Image.fromarray(levels).save(file, kind)
    with contextlib.suppress(ValueError):
        read = 255 * read_image(file.getvalue())[0].numpy()
        assert np.abs(read - levels / 257).max() <= 1
    with contextlib.suppress(ValueError):
        assert len(read_digit(io.BytesIO(file.getvalue())).unique()) > 10


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(monkeypatch, tmp_path):
    """The file that a Ghostscript which stands first in the PATH leaves when it is started."""
    trace, program = tmp_path / "it-ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n/usr/bin/env touch '{trace}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return trace


READERS = {
    "an image": lambda path: read_image(path.read_bytes()),
    "a digit": read_digit,
    "a digit in memory": lambda path: read_digit(io.BytesIO(path.read_bytes())),
    "a member of a tar file": as_members,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_postscript_is_no_image_and_starts_no_program(read, ghostscript, tmp_path):
    path = put(tmp_path / "four.png", POSTSCRIPT)
    with pytest.raises(ValueError):
        read(path)
    assert not ghostscript.exists()
    with pytest.raises(OSError), Image.open(path) as picture:
        picture.load()
    assert ghostscript.exists()  # it would have been started


# tar files


END = bytes(1024)


def member(name, content=b"", *, size=None, kind=tarfile.REGTYPE, linkname="", **fields):
    """A member of a tar file as its bytes; `size` is what its header says, whatever there is."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content) if size is None else size, kind, linkname
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def flat(level, side=6):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (level, level, level)).save(file, "PNG")
    return file.getvalue()


MEMBERS = [
    member("one/a.png", flat(10)),
    member("one/a.cls", b"3"),
    member("two/b.jpg", flat(20)),
    member("two/b.cls", b"1"),
    member(f"{'long' * 40}/c.png", flat(30)),
    member(f"{'long' * 40}/c.cls", b"2"),
    member("two/words.txt", b"nothing"),
    member("d.bmp", flat(40)),
    member("d.cls", b"12\n"),
]
TAR = b"".join(MEMBERS) + END


def images_of(path):
    """The images of a tar file that can be read, by name; the others, and a bad tar file, are a ValueError's."""
    found = {}
    with within(5), contextlib.suppress(ValueError):
        files = ImageFiles(path)
        for at in range(len(files)):
            with contextlib.suppress(ValueError):
                found[files.name(at)] = files[at]
    return found


def test_a_tar_file_is_read(folder):
    found = images_of(put(folder / "x.tar", TAR))
    assert {round(255 * x.max().item()) for x, _ in found.values()} == {10, 20, 30, 40}
    assert {name: label for name, (_, label) in found.items() if len(name) < 9} == {"one/a": 3, "two/b": 1, "d": 12}


@many
@given(content=st.binary(max_size=2000))
def test_any_bytes_are_no_tar_file(content, folder):
    with within(5), pytest.raises(ValueError):
        ImageFiles(put(folder / "x.tar", content))


@many
@given(content=damaged(TAR))
def test_a_damaged_tar_file_is_read_or_refused(content, folder):
    images_of(put(folder / "x.tar", content))


def sparse(whole, holes):
    """A member with holes in it: the end of its header says where, and how large it is with them."""
    whole = bytearray(whole)
    whole[386:495] = holes
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    return bytes(whole)


SIZES = st.integers(0, 2000) | st.integers(-(2**80), 2**80) | st.integers(0, 80).flatmap(
    lambda bits: st.sampled_from([2**bits, -(2**bits), 512 - 2**bits])
)  # fmt: skip
PAX = st.sampled_from(["size", "path", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major", "hdrcharset", "mtime"])


def record(key, value):
    text = f" {key}={value}\n".encode(errors="surrogateescape")
    return str(len(text) + 2).encode() + text  # right for what is from 8 to 97 bytes long, wrong for the rest


@st.composite
def headers(draw):
    """A member of any type and size, its checksum right."""
    kind = draw(st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"S", b"x", b"g", b"Z"]))
    records = draw(st.lists(st.tuples(PAX, st.integers(-(2**70), 2**70) | st.text(max_size=8)), max_size=3))
    content = draw(st.binary(max_size=600)) if kind not in b"xg" else b"".join(record(*pair) for pair in records)
    size = draw(st.just(len(content)) | SIZES)
    name = draw(st.sampled_from(["x.png", "x.cls", "/x.png", "../x.png", "x/"]) | st.text(max_size=8))
    try:
        whole = bytearray(member(name.replace("\0", "0"), content, size=size, kind=kind))
    except ValueError:  # a size that the format has no room for
        assume(False)
    return sparse(whole, draw(st.binary(min_size=109, max_size=109))) if kind == b"S" else bytes(whole)


@many
@given(parts=st.lists(headers() | st.sampled_from(MEMBERS), min_size=1, max_size=5))
@example(parts=[member("x.png", flat(1), size=-512)])
@example(parts=[MEMBERS[0], member("x.txt", size=-512)])
@example(parts=[MEMBERS[0], sparse(member("x.png", size=-512, kind=tarfile.GNUTYPE_SPARSE), bytes(109))])
@example(parts=[MEMBERS[0], sparse(member("x.png", kind=tarfile.GNUTYPE_SPARSE), b"0" * 109)])
@example(parts=[member("x.png", flat(1), size=2**70)])
@example(parts=[member("x.png", flat(1), size=2**45, kind=tarfile.GNUTYPE_LONGNAME)])
@example(parts=[member("x", b"y.png", kind=tarfile.GNUTYPE_LONGNAME)] * 2000)
@example(parts=[member("x", record("size", -512), kind=tarfile.XHDTYPE), MEMBERS[0]])
def test_members_of_any_type_and_size_are_read_or_refused(parts, folder):
    images_of(put(folder / "x.tar", b"".join(parts) + END))


@some
@given(at=st.integers(0, len(TAR) - len(END)))
@example(at=sum(map(len, MEMBERS[:2])))
@example(at=sum(map(len, MEMBERS[:2])) + 100)
def test_a_tar_file_whose_end_is_lost_is_refused_not_taken_for_a_smaller_one(at, folder):
    with pytest.raises(ValueError, match="x.tar"):
        ImageFiles(put(folder / "x.tar", TAR[:at]))


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_tar_file_with_a_spoilt_header_is_refused_not_taken_for_a_smaller_one(at, folder):
    spoilt = [*MEMBERS[:at], b"?" + MEMBERS[at][1:], *MEMBERS[at + 1 :], END]
    with pytest.raises(ValueError, match="x.tar"):
        ImageFiles(put(folder / "x.tar", b"".join(spoilt)))


def test_links_devices_and_names_that_lead_elsewhere_do_no_harm(tmp_path):
    """Nothing is unpacked, so nothing can be written, and what is read lies inside the tar file."""
    secret = put(tmp_path / "secret.png", flat(200))
    members = [
        member("soft.png", kind=tarfile.SYMTYPE, linkname=str(secret)),
        member("hard.png", kind=tarfile.LNKTYPE, linkname=str(secret)),
        member("near.png", kind=tarfile.SYMTYPE, linkname="../secret.png"),
        member("fifo.png", kind=tarfile.FIFOTYPE),
        member("tape.png", kind=tarfile.CHRTYPE),
        member("disk.png", kind=tarfile.BLKTYPE),
        member("soft.cls", kind=tarfile.SYMTYPE, linkname=str(secret)),
        member(str(secret), flat(50)),
        member("../secret.png", flat(60)),
        member("a/../../secret.png", flat(70)),
        member("fine.png", flat(80)),
    ]
    (tmp_path / "inside").mkdir()
    path = put(tmp_path / "inside" / "x.tar", b"".join(members) + END)
    before = contents(tmp_path)
    found = images_of(path)
    assert {round(255 * x.max().item()) for x, _ in found.values()} <= {50, 60, 70, 80}
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["../../../victim.png", "a/../../../../victim.png", "{}/victim.png", "{}/new.png"])
def test_an_attack_on_images_whose_names_lead_elsewhere_writes_into_its_own_folder_alone(name, monkeypatch, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    put(tmp_path / "victim.png", flat(200))
    put(work / "x.tar", member(name.format(tmp_path), flat(50, 8)) + member("fine.png", flat(80, 8)) + END)
    save_weights(vgg(11, width=0.02, in_channels=3, num_classes=2), work / "model.safetensors")
    before = contents(tmp_path)
    with contextlib.suppress(SystemExit):
        main(["attack", "--model", "model.safetensors", "--data", "x.tar", "--attack", "fgsm", "--out", "out"])
    after = contents(tmp_path)
    assert {path: content for path, content in after.items() if work / "out" not in path.parents} == before


def test_images_of_one_name_are_refused_or_attacked_into_files_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "x.tar", member("a.png", flat(50, 8)) + member("a.bmp", flat(80, 8)) + END)
    save_weights(vgg(11, width=0.02, in_channels=3, num_classes=2), tmp_path / "model.safetensors")
    with contextlib.suppress(SystemExit):
        main(["attack", "--model", "model.safetensors", "--data", "x.tar", "--attack", "fgsm", "--out", "out"])
        assert len(list((tmp_path / "out" / "clean").iterdir())) == 2


# downloaded data


@some
@given(data=st.data(), name=st.sampled_from(sorted(FOLDERS)), train=st.booleans())
def test_an_altered_mnist_file_is_refused_before_anybody_reads_it(data, name, train, folder):
    parsed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVUTILS_CACHE", str(folder / "cache"))
        for reader in ("read_image_file", "read_label_file"):
            patch.setattr(f"torchvision.datasets.mnist.{reader}", parsed.append)
        files, raw = pinned(patch, name)
        file = data.draw(st.sampled_from(sorted(files)))
        content = data.draw(damaged(files[file]) | st.binary(max_size=50))
        assume(content != files[file])
        write(raw, files | {file: content})
        with pytest.raises(ValueError, match="truncated or altered") as caught:
            load_data(name, train=train)
    assert str(raw / file) in str(caught.value) and parsed == []


@pytest.mark.parametrize("name", FOLDERS)
def test_only_files_whose_checksums_are_pinned_are_loaded(name, monkeypatch, tmp_path):
    """torchvision prefers what a version of years ago left beside them, and that nobody has checked."""
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path))
    files, folder = pinned(monkeypatch, name)
    write(folder, files)
    expected = load_data(name, train=True).tensors
    other, old = io.BytesIO(), folder.parent / "processed"
    torch.save((torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)), other)
    write(old, {"training.pt": other.getvalue(), "test.pt": other.getvalue()})
    with contextlib.suppress(ValueError):
        assert all(torch.equal(a, b) for a, b in zip(load_data(name, train=True).tensors, expected))


# the command line


@many
@given(text=st.text(max_size=20) | st.text("0123456789.eE+-/ ", max_size=12))
@example(text="1/0")
@example(text="8/255/2")
@example(text="٣")
@example(text="9" * 5000)
def test_a_number_is_read_or_refused(text):
    try:
        assert isinstance(number(text), float)
    except argparse.ArgumentTypeError as error:
        assert repr(text) in str(error)


OPTIONS = ["{[]}", "{{}}", "[" * 300, "-" * 100_000 + "1", "(" * 100, "\0", "1_0", "9" * 5000, "b'", "f'{1}'", "\\"]


@many
@given(name=st.sampled_from(sorted(ATTACKS)) | st.text(max_size=6), options=st.text(max_size=30))
@example(name="pgd", options="steps")
@example(name="pgd", options="=,=,")
@example(name="pgd:", options=":=:")
def test_an_attack_is_read_or_refused(name, options):
    try:
        assert callable(attack_of(f"{name}:{options}"))
    except ValueError as error:
        known = f"{name}:{options}".partition(":")[0] in ATTACKS
        assert ("its option: got" if known else "--attack: got") in str(error)


@pytest.mark.parametrize("value", OPTIONS, ids=range(len(OPTIONS)))
def test_an_option_that_is_no_python_is_left_to_the_attack(value):
    try:
        assert attack_of(f"pgd:steps={value}").keywords["steps"] in (value, 10)
    except ValueError as error:
        assert "steps" in str(error)


PAYLOADS = ["__import__('os').system('touch it-ran')", "open('it-ran','w')", "().__class__.__base__.__subclasses__()",
            "exec('open(\"it-ran\"\\x2c\"w\")')", "[open(c) for c in 'it-ran']", "lambda: open('it-ran')"]  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_an_option_is_never_evaluated_as_code(payload, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError)):
        attack = attack_of(f"pgd:steps={payload}")
        assert all(isinstance(value, str) for value in attack.keywords.values())
        attack(conv_net(), *loader().dataset[:], eps=0.1)
    assert list(tmp_path.iterdir()) == []
