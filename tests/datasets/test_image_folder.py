"""ImageFolder on real folders: what it finds, what it refuses, how it decodes."""

import os
import shutil
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opt_runner.datasets import ImageFolder, Images
from opt_runner.datasets.folder import decode, image_folder
from opt_runner.errors import UserError

CIFAR10_JPEG = Path(
    os.environ.get("OPT_CIFAR10_JPEG")
    or Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-jpeg.tar.gz"
)


def noise(mode: str = "RGB", width: int = 8, height: int = 8, seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    values = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    return Image.fromarray(values)


def save(image: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 8 x 8 colour images: five to train on, three to test on."""
    root = tmp_path / "data"
    for i, name in enumerate(
        [
            "train/cat/0",
            "train/cat/1",
            "train/cat/2",
            "train/ant/0",
            "train/ant/1",
            "test/cat/0",
            "test/ant/0",
            "test/ant/1",
        ]
    ):
        save(noise(seed=i), root / f"{name}.png")
    return root


@pytest.fixture
def build(root: Path, tmp_path: Path):
    def build(**options) -> ImageFolder:
        return ImageFolder(str(root), cache_dir=str(tmp_path / "cache"), **options)

    return build


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def test_gives_every_image_its_class(build, root: Path) -> None:
    images = build().load().to("cpu")
    assert images.classes == ["ant", "cat"]
    assert images.train.targets.tolist() == [0, 0, 1, 1, 1]
    assert images.test.targets.tolist() == [0, 0, 1]
    for image, name in zip(images.train.inputs, ["ant/0", "ant/1", "cat/0"], strict=False):
        assert torch.equal(image, pixels(root / "train" / f"{name}.png"))
    assert torch.equal(images.test.inputs[2], pixels(root / "test/cat/0.png"))


def test_takes_any_depth_and_any_case_but_nothing_hidden(build, root: Path) -> None:
    save(noise(), root / "train/ant/a/b/deep.png")
    save(noise(), root / "train/cat/LOUD.JPG")
    save(noise(), root / "train/cat/.hidden.png")
    save(noise(), root / "train/.thumbnails/ant.png")
    save(noise(), root / "train/cat/@eaDir/0.png/thumb.jpg")
    save(noise(), root / "test/__MACOSX/cat/0.png")
    save(noise(), root / "train/cat/._0.png")
    assert build().load().train.targets.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_files_left_out_are_counted_and_named_once(build, root: Path, caplog) -> None:
    for name in ("train/README", "train/cat/notes.txt", "test/ant/photo.heic"):
        (root / name).touch()
    os.mkfifo(root / "train/cat/pipe.png")
    before = build().fingerprint()
    assert "left out 4 files" in caplog.text
    for name in ("README", "cat/notes.txt", "cat/pipe.png"):
        assert str(root / "train" / name) in caplog.text
    caplog.clear()
    assert build().fingerprint() == before
    assert caplog.text == ""
    assert len(build().load().train.inputs) == 5


@pytest.mark.parametrize("name", ["photo.jfif", "photo.jpe", "photo.avif"])
def test_suffixes_of_cameras_and_browsers(build, root: Path, name: str) -> None:
    if name.endswith("avif"):
        save(noise(), root / f"train/ant/{name}")
    else:
        save(noise(), root / f"train/ant/{name}", format="JPEG")
    assert len(build().load().train.inputs) == 6


def test_names_of_classes_match_in_both_forms_of_unicode(build, root: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != decomposed
    (root / "train/cat").rename(root / "train" / composed)
    (root / "test/cat").rename(root / "test" / decomposed)
    assert build().load().classes == ["ant", composed]
    before = build().fingerprint()
    (root / "train" / composed).rename(root / "train" / decomposed)
    assert build().fingerprint() == before
    save(noise(), root / "train" / composed / "0.png")
    with pytest.raises(UserError, match="two folders café, whose names differ only"):
        build().check()


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    for half in ("train", "test"):
        save(noise(), tmp_path / half / "images/cat/0.png")
        save(noise(), tmp_path / half / "images/dog/0.png")
    with pytest.raises(UserError, match=r"one class alone, images: .*images has cat, dog"):
        ImageFolder(str(tmp_path)).check()


def test_follows_links_but_not_in_circles(build, root: Path) -> None:
    (root / "train/ant/again").symlink_to(root / "train/cat", target_is_directory=True)
    (root / "train/cat/circle").symlink_to(root / "train/cat", target_is_directory=True)
    assert build().load().train.targets.tolist() == [0] * 5 + [1] * 3


@pytest.mark.parametrize("name", ["val", "valid"])
def test_takes_a_validation_folder_where_there_is_no_test(build, root: Path, name: str) -> None:
    as_test = build().fingerprint()
    (root / "test").rename(root / name)
    assert len(build().load().test.inputs) == 3
    assert build().fingerprint() == as_test


def test_takes_test_before_val(build, root: Path) -> None:
    save(noise(), root / "val/ant/0.png")
    save(noise(), root / "val/cat/0.png")
    assert len(build().load().test.inputs) == 3


@pytest.mark.parametrize("half", ["train", "test"])
def test_missing_half(build, root: Path, half: str) -> None:
    (root / half).rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"no folder {half}.*train/<class>/.*there is elsewhere"):
        build().check()


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist: .*train/<class>/"):
        ImageFolder(str(tmp_path / "nowhere")).check()
    archive = tmp_path / "data.tar"
    archive.touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        ImageFolder(str(archive)).check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is nothing"):
        ImageFolder(str(tmp_path / "empty")).check()


def test_images_without_class_folders(tmp_path: Path) -> None:
    for i in range(7):
        save(noise(), tmp_path / f"train/{i}.png")
    with pytest.raises(UserError, match=r"train has no class folders.*4\.png and 2 more"):
        ImageFolder(str(tmp_path)).check()


def test_empty_class(build, root: Path) -> None:
    for file in (root / "test/cat").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(
        UserError, match=r"test/cat has no file that ends in \.jpg .*there is 0\.txt"
    ):
        build().check()


def test_classes_that_differ(build, root: Path) -> None:
    (root / "test/cat").rename(root / "test/dog")
    with pytest.raises(UserError, match="only to train on cat; only to test on dog"):
        build().check()


def test_link_to_nowhere(build, root: Path) -> None:
    (root / "train/cat/gone.png").symlink_to(root / "gone.png")
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        build().check()


def test_broken_images_are_named(build, root: Path) -> None:
    broken = root / "train/cat/1.png"
    whole = broken.read_bytes()
    for content in (b"", b"GIF89a", b"no image at all", whole[: len(whole) // 2], whole[:-30]):
        broken.write_bytes(content)
        for options in ({}, {"size": 8, "channels": 3}):
            with pytest.raises(UserError, match=r"train/cat/1\.png is no readable image"):
                build(**options).load()


def test_all_broken_images_are_named_or_counted(build, root: Path) -> None:
    for i in range(14):
        path = root / f"train/cat/{i + 10}.png"
        save(noise(width=64, height=64), path)
        path.write_bytes(path.read_bytes()[: 200 if i < 7 else -30])
    with pytest.raises(UserError) as caught:
        build(size=8, channels=3).load()
    *named, counted = str(caught.value).splitlines()
    assert len(named) == 10
    assert all("is no readable image" in line for line in named)
    assert counted == "4 more files"


@pytest.mark.parametrize("suffix", [".jpg", ".gif", ".bmp", ".webp", ".ppm", ".tif", ".png"])
def test_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"short{suffix}"
    save(noise(width=64, height=64), path)
    decode.decode(str(path), 64, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="short"):
        decode.decode(str(path), 64, 3)


@pytest.mark.parametrize("pixels_allowed", [40, 20])  # Pillow's warning, and beyond twice, error
def test_decompression_bombs_are_refused(build, monkeypatch, pixels_allowed: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels_allowed)
    for options in ({}, {"size": 8, "channels": 3}):
        with pytest.raises(UserError, match=r"\.png is refused: .*decompression bomb"):
            build(**options).load()


def test_postscript_in_disguise_is_not_run(build, root: Path) -> None:
    (root / "train/cat/1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(UserError, match="is no readable image"):
        build().load()


@pytest.mark.parametrize("size", [8, 6, 12])
def test_size_given(build, size: int) -> None:
    assert build(size=size).load().size == (size, size)


def test_commonest_short_side_is_the_size(build, root: Path) -> None:
    save(noise(width=20, height=11), root / "train/cat/0.png")
    assert build().load().size == (8, 8)
    for name in ("train/cat/1", "train/cat/2", "train/ant/0", "train/ant/1", "test/cat/0"):
        save(noise(width=11, height=30), root / f"{name}.png")
    assert build().load().size == (11, 11)


def test_other_shapes_are_shrunk_by_the_short_side_to_their_centre(build, root: Path) -> None:
    wide = noise(width=40, height=16)
    save(wide, root / "train/ant/0.png")
    expected = wide.resize((20, 8), Image.Resampling.BILINEAR).crop((6, 0, 14, 8))
    image = build(size=8).load().to("cpu").train.inputs[0]
    np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(expected))


def test_resizing_is_antialiased(build, root: Path) -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    save(Image.fromarray(stripes), root / "train/ant/0.png")
    image = build(size=8).load().to("cpu").train.inputs[0].float()
    assert (image - 127.5).abs().max() < 20


@pytest.mark.parametrize(("extra", "channels"), [(None, 1), ("RGB", 3)])
def test_channels_are_three_where_any_image_has_colour(
    tmp_path: Path, extra: str | None, channels: int
) -> None:
    for half in ("train", "test"):
        save(noise("L"), tmp_path / f"{half}/b/grey.png")
        save(noise("L"), tmp_path / f"{half}/a/grey.png")
        save(noise("L").convert("1"), tmp_path / f"{half}/a/bits.png")
        save(noise("LA"), tmp_path / f"{half}/a/grey_alpha.png")
        save(noise("L"), tmp_path / f"{half}/a/grey.jpg")
    if extra:
        save(noise(extra), tmp_path / "test/a/colour.jpg")
    images = ImageFolder(str(tmp_path), cache_dir=str(tmp_path / ".cache")).load()
    assert images.channels == channels


def test_channels_given(build) -> None:
    colour, grey = (build(channels=channels).load().to("cpu") for channels in (3, 1))
    assert (colour.channels, grey.channels) == (3, 1)
    luma = torch.tensor([0.299, 0.587, 0.114]) @ colour.train.inputs.float().flatten(2)
    assert (grey.train.inputs.flatten(2).squeeze(1) - luma).abs().max() <= 1


def one(tmp_path: Path, image: Image.Image, name: str, channels: int = 3, **options) -> np.ndarray:
    """The image, saved under `name` and decoded again."""
    save(image, tmp_path / name, **options)
    return decode.decode(str(tmp_path / name), min(image.size), channels)


def test_palette(tmp_path: Path) -> None:
    image = noise().quantize(16)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(one(tmp_path, image, "palette.png"), expected)
    np.testing.assert_array_equal(one(tmp_path, image, "palette.gif"), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_laid_on_white(tmp_path: Path, channels: int) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    row = one(tmp_path, image, "alpha.png", channels)[:, 0].tolist()
    assert row == [[0, 255, 127, 0]] * channels


def test_transparent_palette_and_grey(tmp_path: Path) -> None:
    for mode in ("P", "L", "RGB"):
        image = Image.new(mode, (2, 2), 0)
        image.putpixel((1, 1), 255 if mode != "RGB" else (9, 9, 9))
        clear = (0, 0, 0) if mode == "RGB" else 0
        decoded = one(tmp_path, image, f"{mode}.png", transparency=clear)
        assert decoded[:, 0, 0].tolist() == [255] * 3, mode


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits_are_scaled(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 257, 128], [65535, 32896, 256], [255, 1, 129]], np.uint16)
    decoded = one(tmp_path, Image.fromarray(values), name, 1)
    assert decoded.tolist() == [[[0, 1, 0], [255, 128, 1], [1, 0, 1]]]


@pytest.mark.parametrize(
    ("name", "dtype", "brightest", "white"),
    [
        ("deep.png", np.uint16, 4095, 4095),
        ("deep.png", np.uint16, 900, 1023),
        ("deep.tif", np.int32, 255, 255),
        ("deep.tif", np.int32, 4000, 4095),
        ("deep.pgm", np.uint16, 40_000, 65_535),
    ],
)
def test_white_of_dark_deep_images_must_be_given(
    tmp_path: Path, name: str, dtype: type, brightest: int, white: Any
) -> None:
    dark, bright = np.zeros((2, 2), dtype), np.full((2, 2), brightest, dtype)
    dark[0, 0] = brightest // 2
    for half in ("train", "test"):
        for number, values in enumerate((dark, bright)):
            save(Image.fromarray(values), tmp_path / half / f"c{number}" / name)

    def folder(white: Any) -> ImageFolder:
        return ImageFolder(str(tmp_path), white=white, cache_dir=str(tmp_path / ".cache"))

    if white < 65_535:
        said = f"4 grey images of more than 8 bits .* above {white:,}: set dataset.white={white} if"
        with pytest.raises(UserError, match=said):
            folder(None).load()
    images = folder(white if white < 65_535 else None).load().to("cpu")
    assert images.train.inputs[1].unique().tolist() == [round(brightest * 255 / white)]
    assert images.test.inputs[0, 0, 0, 0] == round(brightest // 2 * 255 / white)


def test_a_white_above_all_values_is_taken(tmp_path: Path) -> None:
    """As for another folder of the same kind, whose brightest value is lower by chance."""
    for half in ("train", "test"):
        for number in range(2):
            values = np.full((2, 2), 900 + number, np.uint16)
            save(Image.fromarray(values), tmp_path / half / f"c{number}/deep.png")

    def folder(white: int | None) -> ImageFolder:
        return ImageFolder(str(tmp_path), white=white, cache_dir=str(tmp_path / ".cache"))

    given = folder(4095).load().to("cpu")
    assert given.train.inputs.unique().tolist() == [round(900 * 255 / 4095)]
    assert len({folder(white).fingerprint() for white in (None, 1023, 4095)}) == 3
    with pytest.raises(UserError, match=r"dataset\.white=255: .* has values up to 1,023"):
        folder(255).load()


def test_black_images_are_counted_and_named(build, root: Path, caplog) -> None:
    save(Image.new("RGB", (8, 8), (15, 0, 9)), root / "train/cat/2.png")
    build().load()
    assert "1 images are black" in caplog.text
    assert "train/cat/2.png" in caplog.text


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[70000]]), np.int32([[-1]])])
def test_values_without_a_known_white_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"raw\.tif .*which value is white"):
        one(tmp_path, Image.fromarray(values), "raw.tif")


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    image = noise("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    decoded = one(tmp_path, image, "turned.png", 1, exif=exif)
    np.testing.assert_array_equal(decoded[0], np.rot90(np.asarray(image), -1))


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    decoded = one(tmp_path, frames[0], "film.gif", save_all=True, append_images=frames[1:])
    assert decoded[:, 0, 0].tolist() == [255, 0, 0]


def test_cmyk(tmp_path: Path) -> None:
    decoded = one(tmp_path, Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "print.jpg")
    assert decoded.max() == 0


def test_more_images_than_fit_on_the_disk(build, root: Path) -> None:
    with pytest.raises(UserError, match=r"GiB free; .* dataset.cache_dir=DIR, or a smaller"):
        build(size=3_000_000).load()


def test_fingerprint_stays_with_the_data(build, root: Path, tmp_path: Path) -> None:
    before = build().fingerprint()
    os.utime(root / "train/cat/0.png", (0, 0))
    assert build().fingerprint() == before
    moved = root.rename(tmp_path / "moved")
    elsewhere = tmp_path / "elsewhere"
    assert ImageFolder(str(moved), cache_dir=str(elsewhere)).fingerprint() == before
    copy = shutil.copytree(moved, tmp_path / "copy", copy_function=shutil.copyfile)
    assert ImageFolder(str(copy), cache_dir=str(elsewhere)).fingerprint() == before


def test_fingerprint_tells_data_apart(build, root: Path) -> None:
    seen = {build().fingerprint(), build(size=8).fingerprint(), build(channels=1).fingerprint()}
    (root / "train/cat/2.png").rename(root / "train/ant/2.png")
    seen.add(build().fingerprint())
    (root / "train/ant/2.png").rename(root / "test/ant/2.png")
    seen.add(build().fingerprint())
    save(noise(width=9), root / "test/ant/2.png")
    seen.add(build().fingerprint())
    assert len(seen) == 6


@pytest.mark.parametrize("touched_back", [True, False])
def test_fingerprint_tells_any_image_changed_in_place(
    build, root: Path, touched_back: bool
) -> None:
    for file in root.glob("*/*/*.png"):
        save(noise(), file.with_suffix(".bmp"))  # uncompressed: of one size whatever it shows
    before = build().fingerprint()
    for file in root.glob("*/*/*.bmp"):
        status = file.stat()
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        if touched_back:
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as tar and rsync do
        assert build().fingerprint() != before
        file.write_bytes(whole)
        assert build().fingerprint() == before


def test_a_folder_changed_while_it_is_read_is_not_cached(build, root: Path, monkeypatch) -> None:
    decode_all = image_folder.decode_all

    def changed(*arguments):
        save(noise(seed=9), root / "train/cat/0.png")
        return decode_all(*arguments)

    folder = build()
    monkeypatch.setattr(image_folder, "decode_all", changed)
    with pytest.raises(UserError, match="changed while it was read"):
        folder.load()
    monkeypatch.undo()
    assert len(build().load().train.inputs) == 5


def test_real_cifar10(tmp_path: Path) -> None:
    if not CIFAR10_JPEG.is_file():
        pytest.skip(f"no {CIFAR10_JPEG.name}: set OPT_CIFAR10_JPEG to its path")
    taken = extract_some(CIFAR10_JPEG, tmp_path, each=3)
    images = ImageFolder(str(tmp_path), cache_dir=str(tmp_path / ".cache")).load()
    assert isinstance(images, Images)
    assert images.train.inputs.shape[1:] == (3, 32, 32)
    assert images.classes == sorted(images.classes)
    assert len(images.train.inputs) + len(images.test.inputs) == taken
    spread = images.to("cpu").train.inputs.float().std(dim=(1, 2, 3))
    assert spread.min() > 5


def extract_some(archive: Path, to: Path, each: int) -> int:
    """The first few images of every folder of the archive; how many they are."""
    taken: dict[str, int] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            folder = str(Path(member.name).parent)
            if member.isfile() and taken.get(folder, 0) < each:
                tar.extract(member, to, filter="data")
                taken[folder] = taken.get(folder, 0) + 1
            if len(taken) == 20 and min(taken.values()) == each:
                break
    return sum(taken.values())
