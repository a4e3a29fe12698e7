"""Images in folders and in tar files: read one at a time when they are asked for, and written so that they hold.

No file is ever executed: of an image only the pixels are read, of a tar file only images and `.cls` numbers.
"""

import contextlib
import io
import os
import tarfile
import unicodedata
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset, default_collate

from advutils.utils import validation
from advutils.utils.storage import atomic_write

# Of what Pillow reads, not all: it would start another program for some, EPS for one.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")


def read_digit(source: str | os.PathLike | IO[bytes], *, invert: bool | None = None) -> torch.Tensor:
    """Read an image file of one digit as MNIST would have it: white on black, 20 pixels long, centred by mass in 28x28.

    Args:
        source: a path, or a binary file object, of a PNG, JPEG, WebP, GIF, BMP or TIFF file of up to 50 million pixels.
        invert: True for dark ink on a light ground, False for the reverse; None looks at the border to tell.

    Returns:
        Tensor (1, 1, 28, 28), float32 in [0, 1].

    Raises:
        FileNotFoundError: no such file.
        TypeError, ValueError: no path and no file; no image, one of a single colour, or one with more pixels.

    LeCun et al., 1998, doi:10.1109/5.726791. Taught in 01_train_vgg.ipynb.
    """
    if not (isinstance(source, str | os.PathLike) or hasattr(source, "read")):
        raise TypeError(f"source: got {type(source).__name__}; accepts a path or a binary file object")
    with _opened(source, "source") as picture:
        upright = ImageOps.exif_transpose(picture).convert("LA")
    grey, opaque = (np.asarray(band, dtype=np.float32) / 255 for band in upright.split())
    ground = 0 if np.average(grey, weights=opaque + 1e-6) > 0.5 and opaque.min() < 0.5 else 1  # of what is transparent
    grey = grey * opaque + ground * (1 - opaque)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = 1 - grey if (np.median(border) > 0.5 if invert is None else invert) else grey
    ink = ink - ink.min()
    if ink.max() < 0.1:
        raise ValueError("source: got an image of a single colour; accepts one with a digit on it")
    ink = ink / ink.max()
    rows, cols = (np.flatnonzero((ink > 0.2).any(axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    scale = 20 / max(box.shape)
    size = [max(1, round(side * scale)) for side in box.shape[::-1]]
    filtering = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(box).resize(size, filtering))
    mass = [np.average(np.arange(small.shape[a]) + 0.5, weights=small.sum(1 - a)) for a in (0, 1)]
    top, left = (min(max(0, round(14 - m)), 28 - side) for m, side in zip(mass, small.shape))
    digit = torch.zeros(1, 1, 28, 28)
    digit[0, 0, top : top + small.shape[0], left : left + small.shape[1]] = torch.from_numpy(small.copy())
    return digit.clamp(0, 1)


@contextlib.contextmanager
def _opened(source, name):
    """An image file as Pillow opens it; what is wrong with it becomes a ValueError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as picture:
                validation.pixels(picture)
                yield picture
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises many kinds for files that somebody damaged
        accepted = ", ".join(FORMATS)
        raise ValueError(f"{name}: got no whole image file ({error}); accepts {accepted}") from error


IMAGES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2",
)  # fmt: skip
WHITE = 255


class ImageFiles(Dataset):
    """The images of a folder or of tar files, as (x, y): read when asked for, so memory does not grow with them.

    Args:
        source: a folder, a tar file or a list of tar files. In a folder, and in a tar file, an image's class is the
            first folder it lies in (in a tar file, below the folders that all of its images share); a tar file may give
            it as a number in a file of the image's name that ends in .cls, as WebDataset shards do. Images without
            either have the label -1. Hidden files and folders are left out.
        size: None, or the side in pixels of the square that is cut from each image's middle once it is scaled so that
            its shorter side is `resize`.
        resize: None for `size`.
        interpolation: "bilinear" or "bicubic", how it is scaled.
        channels: 3 for colour, 1 for grey.
        background: grey level, 0 to 255, on which images are laid that are transparent in part: white.
        classes: None, or the names of the classes in the order of a model's logits: labels then follow it. Without it
            the order is that of the numbers where all names are whole numbers, else alphabetical.

    Attributes: `classes`, their names in order; `labels`, of each image; `left_out`, how many files of which ending are
    no images that are read.

    Raises:
        FileNotFoundError, ValueError: no such source, one without images, a class that is not among `classes`, or (when
            it is asked for) an image that is broken or has more than 50 million pixels; the message names it.
    """

    def __init__(
        self, source, *, size=None, resize=None, interpolation="bilinear", channels=3, background=WHITE, classes=None
    ):
        self.interpolation = validation.one_of(interpolation, "interpolation", ("bilinear", "bicubic"))
        self.background = validation.count(background, "background", least=0, most=255)
        self.size = None if size is None else validation.count(size, "size")
        self.resize = self.size if resize is None else validation.count(resize, "resize")
        self.channels = validation.one_of(channels, "channels", (1, 3))
        found, self.left_out = [], Counter()
        for path in map(Path, [source] if isinstance(source, str | os.PathLike) else source):
            if not path.exists():
                raise FileNotFoundError(
                    f"source: got {str(path)!r}, where there is nothing; accepts a folder or tar files"
                )
            found += (_folder if path.is_dir() else _tar)(path, self.left_out)
        if not found:
            raise ValueError(f"source: got {str(source)!r}, in which there is no image; accepts {', '.join(IMAGES)}")
        self.source = source
        self.places = [(path, name, start, length) for path, name, start, length, _ in found]
        above = _shared([kind for *_, kind in found if isinstance(kind, tuple)])
        self.kinds = [_class(kind, above) for *_, kind in found]
        if {str, int} <= set(map(type, self.kinds)):
            raise ValueError(
                f"source: got {str(source)!r}, where the classes of some images are numbers in .cls files and those of "
                "others are folders; accepts one of the two"
            )
        self.number(classes)

    def number(self, classes=None):
        """Number the images by the names of their classes in this order; by the order of the names themselves if None.

        Raises:
            ValueError: an image's class is none of them.
        """
        there = {kind for kind in self.kinds if isinstance(kind, str)}
        times = Counter(map(same_name, classes or there))
        others = in_order(kind for kind in there if times[same_name(kind)] != 1)
        if others:
            raise ValueError(
                f"source: got {some(others)} in {str(self.source)!r} that are not, or not once, among the model's; "
                f"accepts its {some(list(classes))}"
            )
        self.classes = in_order(there) if classes is None or not there else list(classes)
        numbers = {same_name(name): number for number, name in enumerate(self.classes)}
        self.labels = [
            numbers[same_name(kind)] if isinstance(kind, str) else -1 if kind is None else kind for kind in self.kinds
        ]

    def __len__(self):
        return len(self.places)

    def __getitem__(self, at):
        if isinstance(at, list):  # a whole batch, as `index_loader` asks for
            return _batch([self[one] for one in at])
        path, name, start, length = self.places[at]
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read() if length is None else file.read(length)
        x = read_image(content, f"{path}, {name}", channels=self.channels, background=self.background)
        if self.size is not None:
            x = cut(x, self.resize, self.size, self.interpolation)
        return x, self.labels[at]

    def name(self, at):
        """The image's path inside its source, without its ending."""
        return Path(self.places[at][1]).with_suffix("").as_posix()


def cut(x, resize, size, interpolation):
    """The middle square of one image, `size` pixels wide, once its shorter side is scaled to `resize`: whole levels."""
    from torchvision.transforms.v2 import InterpolationMode, functional  # it takes as long to load as torch itself

    levels = (255 * x).round().to(torch.uint8)
    levels = functional.resize(levels, [resize], InterpolationMode(interpolation), antialias=True)
    return functional.center_crop(levels, [size]).float() / 255


def same_name(name):
    """The name in one of the two ways in which Unicode writes an accent: disks differ in it."""
    return unicodedata.normalize("NFC", name)


def in_order(names):
    """The names of classes in the order in which they are numbered: as numbers if all are, else alphabetically."""
    names = list(names)
    numbered = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if numbered else sorted(names)


def ambiguous(names):
    """Whether other programs would put the names of classes into another order: 10 before 2, or Bee before ant."""
    return len({tuple(sorted(names)), tuple(in_order(names)), tuple(sorted(names, key=str.casefold))}) > 1


def some(names):
    """Names for a message: how many, and the first of them."""
    return f"{len(names)} class{'es' * (len(names) != 1)} ({', '.join(names[:10])}{', ...' * (len(names) > 10)})"


def read_image(content, name="the image", *, channels=None, background=WHITE):
    """The pixels of an image file's bytes: float32 (C, H, W) in [0, 1], whole levels k / 255.

    Args:
        content: bytes of an image file of one of `FORMATS`.
        name: how an error calls it.
        channels: 3 for colour, 1 for grey, None for what the file has.
        background: grey level, 0 to 255, that is seen through what is transparent.

    Raises:
        ValueError: a broken file, or one of more than 50 million pixels.
    """
    with _opened(io.BytesIO(content), name) as picture:
        grey = channels == 1 or channels is None and picture.mode in ("1", "L", "LA", "La")
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            ground = Image.new("RGBA", upright.size, (background, background, background, 255))
            upright = Image.alpha_composite(ground, upright.convert("RGBA"))
        picture = upright.convert("L" if grey else "RGB")
    levels = torch.from_numpy(np.array(picture)).view(picture.height, picture.width, -1)
    return levels.permute(2, 0, 1).contiguous().float() / 255


def _batch(images):
    shapes = sorted({tuple(x.shape) for x, _ in images})
    if len(shapes) > 1:
        raise ValueError(f"size: got None for images of shapes {shapes[0]} and {shapes[-1]}; accepts a side in pixels")
    return default_collate(images)


def to_levels(x_adv, x):
    """Adversarial images rounded to grey levels, each pixel towards its clean one, so that the ball still holds.

    Args:
        x_adv: images (N, C, H, W), float32 in [0, 1].
        x: their clean images, whose values are whole levels k / 255.

    Returns:
        uint8 tensor (N, C, H, W).
    """
    levels = (255 * x).round()
    moved = 255 * x_adv - levels
    return (levels + (moved + 1e-3 * moved.sign()).trunc()).clamp(0, 255).to(torch.uint8)


def write_png(path, levels):
    """Write one image, a uint8 tensor (C, H, W) of one or three channels, whole or not at all."""
    pixels = levels.permute(1, 2, 0).numpy() if len(levels) == 3 else levels[0].numpy()
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
    atomic_write(path, content.getvalue())


def _hidden(name):
    """Whether a path inside a source holds a hidden part: notebooks' checkpoints, or what macOS adds to an archive."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts if part != ".")


def _unreadable(error):
    raise error


def _folder(root, left_out):
    """(path, name, start, length, class) of each image under a folder; endings of other files are counted."""
    found = []
    for here, folders, files in os.walk(root, followlinks=True, onerror=_unreadable):
        real = Path(here).resolve()
        there = [name for name in folders if not _hidden(name)]
        folders[:] = [name for name in there if not real.is_relative_to(Path(here, name).resolve())]  # no circles
        for path in map(Path(here).joinpath, files):
            if path.is_symlink() and not path.exists() and path.suffix.lower() in (*IMAGES, ""):
                raise ValueError(f"source: got {str(path)!r}, a link to what is not there; accepts whole folders")
            if not _hidden(path.name) and path.is_file():
                if path.suffix.lower() in IMAGES:
                    found.append(path)
                else:
                    left_out[path.suffix.lower()] += 1
    for path in sorted(found):
        name = path.relative_to(root)
        yield path, name.as_posix(), 0, None, name.parts[0] if len(name.parts) > 1 else None


def _tar(path, left_out):
    """(path, name, start, length, class) of each image in a tar file, which is read where it lies, never unpacked.

    The class is a number, or all the parts of the image's name: `_class` knows which of them it is.
    """
    images, numbers, end = [], {}, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.size < 0 or archive.offset <= end:  # it would be read again and again
                    raise ValueError(f"{member.name!r} ends before it begins")
                end = archive.offset
                stem, ending = os.path.splitext(member.name)
                if _hidden(member.name):
                    continue
                if not member.isreg() or member.sparse is not None:
                    if ending.lower() in IMAGES and not member.isdir():
                        raise ValueError(f"{member.name!r} is a link or has holes; accepts the images themselves")
                    continue
                if ending.lower() in IMAGES:
                    if Path(member.name).is_absolute() or ".." in Path(member.name).parts:
                        raise ValueError(f"{member.name!r} leads out of it")
                    images.append((stem, member.name, member.offset_data, member.size))
                elif ending == ".cls" and member.size < 20:
                    numbers[stem] = int(archive.extractfile(member).read())
                else:
                    left_out[ending.lower()] += 1
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512) != bytes(512):  # tarfile itself takes a spoilt header for the end
                raise ValueError("it breaks off")
    except Exception as error:  # tarfile raises many kinds for files that somebody damaged
        raise ValueError(
            f"source: got {str(path)!r}, no whole tar file ({error}); accepts tar files, uncompressed"
        ) from error
    for stem, name, start, length in images:
        yield path, name, start, length, numbers.get(stem, PurePosixPath(name).parts)


def _class(kind, above):
    """The class of an image in a tar file, below the folders that all images share; of another image, its class."""
    if not isinstance(kind, tuple):
        return kind
    return kind[above] if len(kind) > above + 1 else None


def _shared(paths):
    """How many folders stand above the classes in all the paths: an archive often packs a whole folder."""
    depth = 0
    while paths and all(len(parts) > depth + 2 and parts[depth] == paths[0][depth] for parts in paths):
        depth += 1
    return depth
