"""Images in folders and in tar files: read one at a time when they are asked for, and written so that they hold.

No file is ever executed: of an image only the pixels are read, of a tar file only images and `.cls` numbers.
"""

import io
import os
import tarfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, default_collate
from torchvision.transforms.v2 import functional as transforms

from advutils import checks
from advutils.data import FORMATS
from advutils.models import replace_file

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class ImageFiles(Dataset):
    """The images of a folder or of tar files, as (x, y): read when asked for, so memory does not grow with them.

    Args:
        source: a folder, a tar file or a list of tar files. In a folder, and in a tar file, an image's class is the
            folder it lies in, the classes in alphabetical order; a tar file may give it as a number in a file of the
            image's name that ends in .cls, as WebDataset shards do. Images without either have the label -1.
        size: None, or the side in pixels of the square that is cut from each image's middle once it is scaled so that
            its shorter side is `resize`.
        resize: None for `size`.
        channels: 3 for colour, 1 for grey.

    Raises:
        FileNotFoundError, ValueError: no such source, one without images, or (when it is asked for) an image that is
            broken or has more than 50 million pixels; the message names the file.
    """

    def __init__(self, source, *, size=None, resize=None, channels=3):
        self.size = None if size is None else checks.count(size, "size")
        self.resize = self.size if resize is None else checks.count(resize, "resize")
        self.channels = checks.one_of(channels, "channels", (1, 3)) or channels
        sources = [source] if isinstance(source, str | os.PathLike) else list(source)
        for path in map(Path, sources):
            if not path.exists():
                raise FileNotFoundError(
                    f"source: got {str(path)!r}, where there is nothing; accepts a folder or tar files"
                )
        found = [entry for path in map(Path, sources) for entry in (_folder(path) if path.is_dir() else _tar(path))]
        if not found:
            raise ValueError(
                f"source: got {str(source)!r}, in which there is no image; accepts {', '.join(IMAGES)} files"
            )
        self.classes = sorted({kind for *_, kind in found if isinstance(kind, str)})
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.places = [(path, name, start, length) for path, name, start, length, _ in found]
        self.labels = [numbers.get(kind, kind) if kind is not None else -1 for *_, kind in found]

    def __len__(self):
        return len(self.places)

    def __getitem__(self, at):
        if isinstance(at, list):  # a whole batch, as `image_loader` asks for
            return _batch([self[one] for one in at])
        path, name, start, length = self.places[at]
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read() if length is None else file.read(length)
        levels = (255 * read_image(content, f"{path}, {name}", channels=self.channels)).round().to(torch.uint8)
        if self.size is not None:
            levels = transforms.center_crop(transforms.resize(levels, [self.resize], antialias=True), [self.size])
        return levels.float() / 255, self.labels[at]

    def name(self, at):
        """The image's path inside its source, without its ending."""
        return Path(self.places[at][1]).with_suffix("").as_posix()


def read_image(content, name="the image", *, channels=None):
    """The pixels of an image file's bytes: float32 (C, H, W) in [0, 1], whole levels k / 255.

    Args:
        content: bytes of a PNG, JPEG, WebP, GIF, BMP or TIFF file.
        name: how an error calls it.
        channels: 3 for colour, 1 for grey, None for what the file has.

    Raises:
        ValueError: a broken file, or one of more than 50 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            checks.pixels(picture)
            grey = channels == 1 or channels is None and picture.mode in ("1", "L")
            picture = ImageOps.exif_transpose(picture).convert("L" if grey else "RGB")
    except Exception as error:  # Pillow raises many kinds for files that somebody damaged
        raise ValueError(
            f"{name}: cannot be read as an image ({error}); accepts whole {', '.join(FORMATS)} files"
        ) from error
    return transforms.pil_to_tensor(picture).float() / 255


def image_loader(dataset, *, batch_size, shuffle=False, seed=0, workers=0):
    """A DataLoader over `ImageFiles`, or any data set of (image, label) that can be asked for any of its images.

    Args:
        dataset, batch_size, shuffle, seed: as for `make_loader`.
        workers: processes that read ahead.
    """
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    own = torch.Generator().manual_seed(seed)  # so that the global random state is left alone
    batch_size = checks.count(batch_size, "batch_size")
    return DataLoader(
        dataset, batch_size=batch_size, sampler=order, num_workers=workers, generator=own, collate_fn=_batch
    )


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
    replace_file(path, content.getvalue())


def _folder(root):
    """(path, name, start, length, class) of each image under a folder."""
    found = []
    for here, folders, files in os.walk(root, followlinks=True):
        real = Path(here).resolve()
        folders[:] = [name for name in folders if not real.is_relative_to(Path(here, name).resolve())]  # no circles
        found += [path for path in map(Path(here).joinpath, files) if path.suffix.lower() in IMAGES and path.is_file()]
    for path in sorted(found):
        name = path.relative_to(root)
        yield path, name.as_posix(), 0, None, name.parts[0] if len(name.parts) > 1 else None


def _tar(path):
    """(path, name, start, length, class) of each image in a tar file, which is read where it lies, never unpacked."""
    images, numbers, end = [], {}, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.size < 0 or archive.offset <= end:  # it would be read again and again
                    raise ValueError(f"{member.name!r} ends before it begins")
                end = archive.offset
                stem, ending = os.path.splitext(member.name)
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
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512) != bytes(512):  # tarfile itself takes a spoilt header for the end
                raise ValueError("it breaks off")
    except Exception as error:  # tarfile raises many kinds for files that somebody damaged
        raise ValueError(
            f"source: got {str(path)!r}, no whole tar file ({error}); accepts tar files, uncompressed"
        ) from error
    for stem, name, start, length in images:
        kind = Path(name).parts[0] if len(Path(name).parts) > 1 else None
        yield path, name, start, length, numbers.get(stem, kind)
