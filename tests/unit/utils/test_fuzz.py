"""Whatever a file holds, or somebody types: it is read, or refused by a ValueError, and nothing in it is ever run."""

import contextlib
import io
import pickle
import signal
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from helpers import Runs, conv_net, linear, loader, untouched
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_files import drawn
from PIL import EpsImagePlugin, Image, ImageFile

from advutils import fit, load_weights, read_digit, save_weights, vgg
from advutils.cli import main
from advutils.cli.common import attack_of, model_of
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
    """The block must end in that time of the processor, also one that catches every exception."""
    rang = []

    def ring(*_):
        rang.append(True)
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        assert not rang, f"this took more than {seconds} s"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def put(path, content):
    path.write_bytes(content)
    return path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


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


@many
@given(data=st.data())
def test_damaged_weights_are_refused_or_loaded_whole(data, weights, folder):
    """Bytes that are no weights leave the model alone; bytes that are (a header may hold blanks) are the saved."""
    path, model, expected = put(folder / "file", data.draw(damaged(weights))), small(1), small(1)
    told = load_weights(expected, put(folder / "whole", weights))
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
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused(data, training_state, folder):
    expected = read_checkpoint(put(folder / "whole", training_state))
    path = put(folder / "file", data.draw(damaged(training_state)))
    try:
        found = read_checkpoint(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert repr(found) == repr(expected)


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
    pickle.loads(pickled(trace)["pickle"])
    assert trace.exists()  # it would have run


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
    with contextlib.suppress(ValueError):
        x = read_digit(io.BytesIO(content))
        assert x.shape == (1, 1, 28, 28) and x.min() >= 0 and x.max() <= 1


@noisy
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_images_and_any_bytes_are_read_or_refused(kind):
    @some
    @given(content=damaged(FILES[kind]))
    @example(content=FILES[kind][: len(FILES[kind]) // 2])
    def each(content):
        read_or_refused(content)

    @some
    @given(content=st.binary(max_size=100), start=st.sampled_from([0, 2, 4, 8, 12, 16, 30]))
    def any_bytes(content, start):
        read_or_refused(FILES[kind][:start] + content)

    each()
    any_bytes()


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


@pytest.mark.parametrize("read", [OPENED["an image"], read_digit, as_members], ids=["image", "digit", "member"])
def test_postscript_is_no_image_and_starts_no_program(read, ghostscript, tmp_path):
    path = put(tmp_path / "four.png", POSTSCRIPT)
    with pytest.raises(ValueError):
        read(path)
    assert not ghostscript.exists()
    with pytest.raises(OSError), Image.open(path) as picture:
        picture.load()
    assert ghostscript.exists()  # it would have been started


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


LONG = f"{'long' * 40}/c"
MEMBERS = [
    member("one/a.png", flat(10)), member("one/a.cls", b"3"), member("two/b.jpg", flat(20)), member("two/b.cls", b"1"),
    member(f"{LONG}.png", flat(30)), member(f"{LONG}.cls", b"2"), member("two/words.txt", b"nothing"),
    member("d.bmp", flat(40)), member("d.cls", b"12\n"),
]  # fmt: skip
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


def sparse(whole, holes):
    """A member with holes in it: the end of its header says where, and how large it is with them."""
    whole = bytearray(whole)
    whole[386:495] = holes
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    return bytes(whole)


GNU_SPARSE, LONG_NAME, PAX_HEADER = tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE
ODD_MEMBERS = {
    "a negative size": [MEMBERS[0], member("x.txt", size=-512), member("x.png", flat(1), size=-512)],
    "sparse, of a negative size": [MEMBERS[0], sparse(member("x.png", size=-512, kind=GNU_SPARSE), bytes(109))],
    "sparse, of zeros": [MEMBERS[0], sparse(member("x.png", kind=GNU_SPARSE), b"0" * 109)],
    "a size beyond all disks": [member("x.png", flat(1), size=2**70)],
    "a long name beyond all disks": [member("x.png", flat(1), size=2**45, kind=LONG_NAME)],
    "long names that never end": [member("x", b"y.png", kind=LONG_NAME)] * 2000,
    "a negative size in a pax header": [member("x", b"13 size=-512\n", kind=PAX_HEADER), MEMBERS[0]],
}


@pytest.mark.parametrize("parts", ODD_MEMBERS.values(), ids=ODD_MEMBERS)
def test_members_of_odd_types_and_sizes_are_read_or_refused(parts, folder):
    images_of(put(folder / "x.tar", b"".join(parts) + END))


@many
@given(content=damaged(TAR))
def test_a_damaged_tar_file_is_read_or_refused(content, folder):
    images_of(put(folder / "x.tar", content))


@some
@given(at=st.integers(0, len(TAR) - len(END)), spoilt=st.sampled_from([1, 3, 5]))
@example(at=sum(map(len, MEMBERS[:2])), spoilt=1)
def test_a_tar_file_whose_end_or_a_header_is_lost_is_refused_not_taken_for_a_smaller_one(at, spoilt, folder):
    start = sum(map(len, MEMBERS[:spoilt]))
    for content in (TAR[:at], TAR[:start] + b"?" + TAR[start + 1 :]):
        with pytest.raises(ValueError, match="x.tar"):
            ImageFiles(put(folder / "x.tar", content))


def test_links_devices_and_names_that_lead_elsewhere_do_no_harm(tmp_path):
    """Nothing is unpacked, so nothing can be written, and what is read lies inside the tar file."""
    secret = put(tmp_path / "secret.png", flat(200))
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
    names = [str(secret), "../secret.png", "a/../../secret.png", "fine.png"]
    members = [member(f"{at}.png", kind=kind, linkname=str(secret)) for at, kind in enumerate(kinds)]
    members += [member("soft.cls", kind=tarfile.SYMTYPE, linkname=str(secret))]
    members += [member(name, flat(50 + at)) for at, name in enumerate(names)]
    (tmp_path / "inside").mkdir()
    for kept in (members, members[5:]):
        path = put(tmp_path / "inside" / "x.tar", b"".join(kept) + END)
        before = contents(tmp_path)
        found = images_of(path)
        assert {round(255 * x.max().item()) for x, _ in found.values()} <= {50, 51, 52, 53}
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
