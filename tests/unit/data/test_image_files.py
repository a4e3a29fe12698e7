"""Images in folders and tar files: read one at a time, each once; written so that the ball still holds."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_files import encoded, picture
from PIL import Image
from torchvision.models import get_model_weights

from advutils import accuracy, fgsm, initialised, vgg
from advutils.data import index_loader
from advutils.utils import images
from advutils.utils.images import ImageFiles, ambiguous, read_image, to_levels, write_png


@pytest.fixture
def folder(tmp_path):
    """Two classes, five images, one of them deeper and one a JPEG; a text file beside them."""
    root = tmp_path / "pictures"
    names = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/deeper/3.png", "dog/4.jpg")
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(number, "." + name.split(".")[1]))
    (root / "cat" / "notes.txt").write_text("no image")
    return root


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Three tar files of four images each with their classes in .cls files, as WebDataset has them."""
    for shard in range(3):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as archive:
            for at in range(4):
                add(archive, f"{shard}{at}.cls", str((shard + at) % 3).encode())
                add(archive, f"{shard}{at}.png", encoded(4 * shard + at))
    return [tmp_path / f"shard-{shard}.tar" for shard in range(3)]


def test_a_folder_gives_each_image_with_the_number_of_its_class(folder):
    data = ImageFiles(folder)
    assert data.classes == ["cat", "dog"]
    assert [(data.name(at), data[at][1]) for at in range(len(data))] == [
        ("cat/1", 0), ("cat/2", 0), ("dog/1", 1), ("dog/4", 1), ("dog/deeper/3", 1)
    ]  # fmt: skip
    x, _ = data[0]
    assert x.dtype == torch.float32 and x.shape == (3, 30, 40)
    expected = torch.frombuffer(bytearray(picture(0).tobytes()), dtype=torch.uint8).view(30, 40, 3)
    assert torch.equal((255 * x).round().to(torch.uint8).permute(1, 2, 0), expected)


def test_links_to_folders_and_images_are_followed_but_not_in_circles(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "bird").symlink_to(folder / "cat", target_is_directory=True)
    (linked / "dog").mkdir()
    (linked / "dog" / "5.png").symlink_to(folder / "dog" / "1.png")
    (linked / "dog" / "again").symlink_to(linked, target_is_directory=True)
    data = ImageFiles(linked)
    assert data.classes == ["bird", "dog"]
    assert [data.name(at) for at in range(len(data))] == ["bird/1", "bird/2", "dog/5"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_to_an_image_in_a_tar_file_is_refused_not_dropped(kind, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "cat/1.png", encoded(0))
        link = tarfile.TarInfo("cat/2.png")
        link.type, link.linkname = kind, "cat/1.png"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"cat/2\.png.*is a link"):
        ImageFiles(tmp_path / "a.tar")


def test_images_without_a_class_have_none(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0))
    data = ImageFiles(tmp_path)
    assert data.labels == [-1] and data.classes == []


def test_tar_files_are_read_where_they_lie_with_the_numbers_beside_the_images(shards):
    data = ImageFiles(shards)
    assert len(data) == 12
    assert data.labels == [(shard + at) % 3 for shard in range(3) for at in range(4)]
    for at in range(12):
        assert torch.equal(data[at][0], read_image(encoded(at)))


def test_a_tar_file_of_a_folder_reads_as_the_folder(folder, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.add(path, path.relative_to(folder).as_posix())
    packed, plain = ImageFiles(tmp_path / "all.tar"), ImageFiles(folder)
    assert [packed.name(at) for at in range(len(packed))] == [plain.name(at) for at in range(len(plain))]
    assert packed.labels == plain.labels
    assert all(torch.equal(packed[at][0], plain[at][0]) for at in range(len(plain)))


def packed(path, names):
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            add(archive, name, encoded(number))
    return path


def test_folders_above_the_classes_in_a_tar_file_are_no_class(tmp_path):
    names = ["./pets/cat/1.png", "./pets/cat/2.png", "./pets/dog/deeper/1.png"]
    data = ImageFiles(packed(tmp_path / "a.tar", names))
    assert data.classes == ["cat", "dog"] and data.labels == [0, 0, 1]
    assert ImageFiles(packed(tmp_path / "b.tar", [name.replace("pets", "pets/2026") for name in names])).labels == [
        0,
        0,
        1,
    ]
    assert ImageFiles(packed(tmp_path / "c.tar", ["cat/1.png", "cat/2.png"])).classes == ["cat"]


def test_shards_that_are_sorted_by_class_have_the_classes_of_the_whole(tmp_path):
    """Of one shard alone, the folder of its only class stands above all images."""
    one = packed(tmp_path / "s-0.tar", ["cat/x/1.png", "cat/y/1.png"])
    other = packed(tmp_path / "s-1.tar", ["dog/x/1.png", "dog/y/1.png"])
    data = ImageFiles([one, other])
    assert data.classes == ["cat", "dog"] and data.labels == [0, 0, 1, 1]


def test_classes_by_number_and_by_name_are_not_mixed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("x/0.png", "y/1.png", "2.png"):
            add(archive, name, encoded(0))
        add(archive, "2.cls", b"0")
    with pytest.raises(ValueError, match="numbers in .cls files"):
        ImageFiles(tmp_path / "a.tar")


def test_links_to_what_is_not_there_are_refused(folder, tmp_path):
    """As of a disk that is not mounted: the rest would be measured as if it were all."""
    (folder / "cat" / "9.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="9.png.*a link to what is not there"):
        ImageFiles(folder)
    (folder / "cat" / "9.png").unlink()
    (folder / "bird").symlink_to(tmp_path / "gone", target_is_directory=True)
    with pytest.raises(ValueError, match="bird.*a link to what is not there"):
        ImageFiles(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_left_out(folder):
    (folder / "cat").chmod(0)
    try:
        with pytest.raises(OSError, match="cat"):
            ImageFiles(folder)
    finally:
        (folder / "cat").chmod(0o755)


def test_an_accent_is_the_same_in_both_of_its_spellings(tmp_path):
    for name in ("cafe\u0301", "the"):  # as macOS writes it
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded(0))
    assert ImageFiles(tmp_path, classes=["the", "caf\u00e9"]).labels == [1, 0]


HIDDEN = (".ipynb_checkpoints/1-checkpoint.png", "cat/._1.png", "__MACOSX/cat/1.png", "cat/.ipynb_checkpoints/2.png")


def test_hidden_files_and_folders_are_no_images_and_no_classes(folder, tmp_path):
    for name in HIDDEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(9))
    archive = packed(tmp_path / "a.tar", ["cat/1.png", "dog/1.png", *HIDDEN])
    for data, n in ((ImageFiles(folder), 5), (ImageFiles(archive), 2)):
        assert data.classes == ["cat", "dog"] and len(data) == n
    home = tmp_path / ".cache" / "pictures"  # the source itself may lie in a hidden folder
    home.parent.mkdir()
    folder.rename(home)
    assert len(ImageFiles(home)) == 5


@pytest.mark.parametrize("kind, ending", [
    ("GIF", ".gif"), ("JPEG", ".jfif"), ("JPEG", ".jpe"), ("AVIF", ".avif"), ("PPM", ".ppm"), ("JPEG2000", ".jp2"),
    ("PNG", ".PNG"),
])  # fmt: skip
def test_images_of_every_kind_that_is_read_are_found(kind, ending, tmp_path):
    (tmp_path / "a").mkdir()
    picture(0).save(tmp_path / "a" / f"1{ending}", kind)
    assert ImageFiles(tmp_path)[0][0].shape == (3, 30, 40)


def test_what_is_left_out_is_counted(folder, tmp_path):
    (folder / "dog" / "5.heic").write_bytes(b"?")
    (folder / "dog" / "README").write_bytes(b"?")
    assert ImageFiles(folder).left_out == {".txt": 1, ".heic": 1, "": 1}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "cat/1.png", encoded(0))
        add(archive, "cat/1.json", b"{}")
    assert ImageFiles(tmp_path / "a.tar").left_out == {".json": 1}


def transparent(mode):
    """Black ink, all of it opaque, on ground that is transparent and, underneath, black as well."""
    alpha = Image.new("L", (6, 4), 0)
    alpha.paste(255, (0, 0, 3, 4))
    if mode == "P":
        image = Image.new("P", (6, 4), 1)
        image.putpalette([0, 0, 0] * 2)
        image.paste(0, (0, 0, 3, 4))
        image.info["transparency"] = 1
        return image
    if mode == "RGB":  # one colour of it is transparent
        image = Image.new("RGB", (6, 4), (1, 0, 0))
        image.paste((0, 0, 0), (0, 0, 3, 4))
        image.info["transparency"] = (1, 0, 0)
        return image
    image = Image.new(mode, (6, 4), 0)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_shows_the_ground(mode, kind):
    if kind == "WEBP" and mode != "RGBA":
        pytest.skip("WebP has one kind of transparency")
    content = io.BytesIO()
    options = dict(lossless=True) if kind == "WEBP" else {}
    image = transparent(mode)
    image.save(content, kind, **options, **{k: v for k, v in image.info.items() if k == "transparency"})
    for channels in (1, 3, None):
        for ground in (255, 0, 100):
            x = read_image(content.getvalue(), channels=channels, background=ground)
            assert torch.equal(x[..., 3:], torch.full_like(x[..., 3:], ground / 255))
            assert not x[..., :3].any()
        assert read_image(content.getvalue(), channels=channels)[..., 3:].min() == 1


def test_classes_are_numbered_as_numbers_where_they_are(tmp_path):
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.png").write_bytes(encoded(number))
    data = ImageFiles(tmp_path)
    assert data.classes == [str(number) for number in range(12)]
    assert all(torch.equal(data[at][0], read_image(encoded(data[at][1]))) for at in range(12))


def test_classes_are_numbered_by_the_names_that_a_model_gives(folder):
    data = ImageFiles(folder, classes=["dog", "bird", "cat"])
    assert data.classes == ["dog", "bird", "cat"] and data.labels == [2, 2, 0, 0, 0]
    for classes in (["bird", "cat"], ["dog", "cat", "dog"]):
        with pytest.raises(ValueError, match=r"got 1 class \(dog\).*not, or not once.*accepts its \d class"):
            ImageFiles(folder, classes=classes)


def test_names_that_others_would_order_otherwise():
    for names in (["1", "2", "10"], ["ant", "Bee", "cat"]):
        assert ambiguous(names)
    for names in (["0", "1", "9"], ["ant", "bee", "cat"], ["Ant", "Bee"], ["n01440764", "n01443537"]):
        assert not ambiguous(names)


@pytest.mark.parametrize("size", [(300, 260), (40, 90), (64, 64)])
@pytest.mark.parametrize(
    "name, side", [("efficientnet_b1", 64), ("resnet50", 64), ("swin_t", 48), ("mobilenet_v2", 100)]
)
def test_images_are_cut_as_the_weights_own_transforms_cut_them(name, side, size):
    """To one grey level: with the interpolation of the recipe, bicubic for some."""
    recipe = get_model_weights(name).DEFAULT.transforms(
        crop_size=side, resize_size=side + 10, mean=(0,) * 3, std=(1,) * 3
    )
    x, expected = (
        images.cut(read_image(encoded(3, size=size)), side + 10, side, recipe.interpolation.value),
        recipe(picture(3, size=size)),
    )
    assert ((x - expected).abs() <= 1 / 255 + 1e-6).all()
    other = {"bilinear": "bicubic", "bicubic": "bilinear"}[recipe.interpolation.value]
    assert (images.cut(read_image(encoded(3, size=size)), side + 10, side, other) - expected).abs().max() > 2 / 255


def test_sizes_and_channels(folder):
    assert ImageFiles(folder, size=16)[0][0].shape == (3, 16, 16)
    x, _ = ImageFiles(folder, size=16, resize=20, channels=1)[0]
    assert x.shape == (1, 16, 16)
    assert torch.equal((255 * x).round() / 255, x)  # whole levels, as a file holds them
    whole = ImageFiles(folder, size=16)[0][0]
    assert (whole.mean() - ImageFiles(folder)[0][0].mean()).abs() < 0.05


def test_every_image_is_served_once_also_to_several_readers(folder):
    data = ImageFiles(folder, size=16)
    for options in (dict(), dict(shuffle=True, seed=3), dict(workers=2)):
        served = list(index_loader(data, batch_size=2, **options))
        assert sum(len(x) for x, _ in served) == 5
        assert sorted(round(float(one.mean()), 4) for x, _ in served for one in x) == sorted(
            round(float(data[at][0].mean()), 4) for at in range(5)
        )


def test_a_network_is_measured_on_them(folder):
    model = initialised(lambda: vgg(11, width=0.05, in_channels=3, num_classes=2), seed=0).eval()
    assert accuracy(model, index_loader(ImageFiles(folder, size=32), batch_size=2), fgsm, eps=0.1).n == 5


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_many_sizes_need_one(workers, tmp_path):
    for number, size in enumerate([(40, 30), (30, 40)]):
        (tmp_path / f"{number}.png").write_bytes(encoded(number, size=size))
    with pytest.raises(ValueError, match=r"size: got None for images of shapes \(3, 30, 40\) and \(3, 40, 30\)"):
        next(iter(index_loader(ImageFiles(tmp_path), batch_size=2, workers=workers)))
    with pytest.raises(ValueError, match="size: got None"):
        ImageFiles(tmp_path)[[0, 1]]
    [(x, _)] = index_loader(ImageFiles(tmp_path, size=32), batch_size=2, workers=workers)
    assert x.shape == (2, 3, 32, 32)


@pytest.mark.integration
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    code = """
import json, psutil, sys
from advutils.utils.images import ImageFiles
from advutils.data import index_loader
process, data = psutil.Process(), ImageFiles(sys.argv[1], size=64)
print(json.dumps([process.memory_info().rss for _ in index_loader(data, batch_size=10)]))
"""
    picture = tmp_path / "picture.png"
    picture.write_bytes(encoded(0, size=(100, 80)))
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(600):
        os.link(picture, folder / f"{number}.png")
    freed = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # at once; glibc else keeps what it may need again
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=freed)
    used = json.loads(run.stdout)
    assert len(used) == 60 and min(used[30:]) - min(used[:30]) < 2 * 2**20  # 14.7 MB, were they kept


def test_a_photograph_that_was_taken_sideways_is_upright(tmp_path):
    sideways = picture(0)
    exif = sideways.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    sideways.save(tmp_path / "a.png", exif=exif)
    assert ImageFiles(tmp_path)[0][0].shape == (3, 40, 30)


@pytest.mark.parametrize("source, words", [("nothing-here", "where there is nothing"), (".", "no image")])
def test_a_source_without_images_is_named(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        ImageFiles(source)


def test_a_broken_image_is_named(folder):
    (folder / "cat" / "1.png").write_bytes(encoded(0)[:200])
    with pytest.raises(ValueError, match=r"cat/1\.png.*no whole image"):
        ImageFiles(folder)[0]


generators = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))


@given(generator=generators, eps=st.floats(0.001, 0.5))
def test_rounding_to_levels_keeps_the_ball_and_loses_less_than_a_level(generator, eps):
    x = torch.randint(0, 256, (2, 3, 5, 5), generator=generator) / 255
    moved = x + eps * torch.empty_like(x).uniform_(-1, 1, generator=generator).sign()
    levels = to_levels(moved.clamp(0, 1), x)
    assert levels.dtype == torch.uint8
    assert ((levels / 255 - x).abs() <= eps + 1e-6).all()
    assert ((levels / 255 - moved.clamp(0, 1)).abs() < 1 / 255 + 1e-6).all()


@pytest.mark.parametrize("eps", [1 / 255, 2 / 255, 8 / 255, 0.1, 0.3])
def test_a_radius_of_whole_levels_is_used_up(eps):
    x = torch.full((1, 1, 2, 2), 100 / 255)
    assert (to_levels(x + eps, x).int() - 100).unique().tolist() == [int(255 * eps + 1e-6)]
    assert (100 - to_levels(x - eps, x).int()).unique().tolist() == [int(255 * eps + 1e-6)]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_again(tmp_path, channels):
    levels = torch.randint(0, 256, (channels, 7, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    write_png(tmp_path / "deep" / "a.png", levels)
    again = read_image((tmp_path / "deep" / "a.png").read_bytes())
    assert torch.equal((255 * again).round().to(torch.uint8), levels)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]
