"""Files that tests make: pictures, and data sets in the format of their authors."""

import hashlib
import io
import struct

import numpy as np
import torch
from PIL import Image, ImageDraw

from advutils import cache_dir
from advutils.utils.downloads import IDX_MD5


def picture(number, *, size=(40, 30), mode="RGB"):
    generator = torch.Generator().manual_seed(number)
    shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
    return Image.fromarray(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy())


def encoded(number, ending=".png", **options):
    content = io.BytesIO()
    picture(number, **options).save(content, {".png": "PNG", ".jpg": "JPEG"}[ending])
    return content.getvalue()


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def idx_files(name):
    """Tiny files in the format of MNIST: 12 training images, 5 test images."""
    random, files = np.random.default_rng(len(name)), {}
    for part, n in (("train", 12), ("t10k", 5)):
        files[f"{part}-images-idx3-ubyte"] = idx(random.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(n, dtype=np.uint8) % 10)
    return files


def pinned(monkeypatch, name):
    """The tiny files, with their checksums in place of the true ones, and the folder they belong in."""
    files = idx_files(name)
    sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(IDX_MD5, name, sums)
    return files, cache_dir() / "data" / FOLDERS[name] / "raw"


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)


def drawn(ink="white", ground="black", size=64, mode="RGB", at=(0, 0), width=6):
    """A four, drawn with lines, as a PNG file in memory."""
    canvas = Image.new(mode, (size, size), ground)
    scale = size / 64
    lines = [((22, 10), (18, 34), (44, 34)), ((38, 10), (38, 54))]
    for line in lines:
        points = [(scale * (x + at[0]), scale * (y + at[1])) for x, y in line]
        ImageDraw.Draw(canvas).line(points, fill=ink, width=round(width * scale), joint="curve")
    file = io.BytesIO()
    canvas.save(file, "PNG")
    file.seek(0)
    return file
