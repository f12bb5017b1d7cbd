"""Decoding of image files into uint8 arrays of one size, with Pillow, in threads."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from opt_runner.datasets.folder.tree import ClassFile
from opt_runner.errors import UserError
from opt_runner.files import readable, sha256

Item = TypeVar("Item")
Result = TypeVar("Result")

# Without this list Pillow would hand a disguised PostScript file to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "PPM", "TIFF")
# White in grey files of more than 8 bits: the values of 8, 10, 12, 14 and 16 bits.
WHITES = (255, 1_023, 4_095, 16_383, 65_535)
# An image with no value above this one is black to the eye.
BLACK = 15
# A task decodes several files, because small images decode faster than a task starts.
FILES_A_TASK = 256
# Broken files that a message names.
_NAMED = 10


@dataclass(frozen=True)
class Survey:
    """Size and channels that suit the files, and white in those of more than 8 bits.

    size: the commonest short side, the smallest of equally common ones. If all images are squares
        of one size, it is that size.
    channels: 1 if every file is of a grey mode, else 3.
    white: the least of WHITES that no value of such a file is above. Data of 12 bits often lie in
        files of 16 or 32.
    wide: how many such files there are.
    """

    size: int
    channels: Literal[1, 3]
    white: int
    wide: int


class _Header(NamedTuple):
    side: int
    grey: bool
    brightest: int | None  # None: of 8 bits


def survey(paths: Sequence[str]) -> Survey:
    """Read the headers, and the values of grey files of more than 8 bits.

    Raises UserError naming the files that are no images.
    """
    headers = _in_threads(_header, paths)
    sides = Counter(header.side for header in headers)
    brightest = [header.brightest for header in headers if header.brightest is not None]
    return Survey(
        size=min(sides, key=lambda side: (-sides[side], side)),
        channels=1 if all(header.grey for header in headers) else 3,
        white=next(white for white in WHITES if white >= max(brightest, default=WHITES[-1])),
        wide=len(brightest),
    )


def decode_all(
    paths: Sequence[str], size: int, channels: int, white: int, put: Callable[[bytes, int], None]
) -> list[str]:
    """Decode all images in any order, and put their bytes. Return the paths of black ones.

    put: takes the bytes of an image and their offset. No more than one a thread is in memory.
    Raises UserError naming the files that cannot be decoded.
    """
    image_bytes = channels * size * size

    def pass_on(i: int) -> bool:
        image = decode(paths[i], size, channels, white)
        put(image.tobytes(), i * image_bytes)
        return bool(image.max() <= BLACK)

    black = _in_threads(pass_on, range(len(paths)))
    return [path for path, is_black in zip(paths, black, strict=True) if is_black]


def decode(path: str, size: int, channels: int, white: int = WHITES[-1]) -> np.ndarray:
    """Return an image, uint8 (channels, size, size).

    The steps: the first frame of an animation; turned upright (EXIF); grey of more than 8 bits
    scaled to 8; transparent parts on white; grey as three equal channels, or colour as its luma, if
    `channels` asks for it; then the largest centred square, resized with antialiasing.
    Raises UserError with the file's name if it is broken, cut short, or huge.
    """
    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        flat = _on_white(_eight_bits(image, white)).convert("L" if channels == 1 else "RGB")
        if flat.size != (size, size):
            flat = ImageOps.fit(flat, (size, size), Image.Resampling.BILINEAR)
        return np.asarray(flat).reshape(size, size, channels).transpose(2, 0, 1)


def digest_all(files: Sequence[ClassFile]) -> list[tuple[str, str]]:
    """Return the name and the SHA-256 of each file. Raises UserError for unreadable files."""
    return _in_threads(_digest, files)


def _digest(file: ClassFile) -> tuple[str, str]:
    with readable(file.path):
        return file.name, sha256(file.path)


def _header(path: str) -> _Header:
    with _opened(path) as image:
        brightest = int(_values(image).max()) if _is_wide(image) else None
        # Images with a palette count as colour.
        return _Header(min(image.size), Image.getmodebase(image.mode) == "L", brightest)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path} is refused: {error}; resize or remove it") from error
    except Exception as error:  # of a broken file Pillow raises anything, SyntaxError included
        raise UserError(f"{path} is no readable image ({error}): replace or remove it") from error


def _is_wide(image: Image.Image) -> bool:
    """Return True for one channel of more than 8 bits, in whichever mode Pillow holds it."""
    return image.mode.startswith(("I", "F"))


def _values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > WHITES[-1]:
        raise ValueError("which value is white is unknown beyond 16 bits")
    return values


def _eight_bits(image: Image.Image, white: int) -> Image.Image:
    if not _is_wide(image):
        return image
    return Image.fromarray(np.rint(_values(image) / (white / 255)).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return [function(item) for item in items].

    Raises UserError with the messages of all items that gave one; any other error ends the work.
    """

    def task(start: int) -> list[Result | UserError]:
        return [attempt(item) for item in items[start : start + FILES_A_TASK]]

    def attempt(item: Item) -> Result | UserError:
        try:
            return function(item)
        except UserError as error:
            return error

    # Warning filters hold for the whole process: set them here, not in the threads.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        tasks = pool.map(task, range(0, len(items), FILES_A_TASK))
        found = [result for results in tasks for result in results]
    faults = [str(result) for result in found if isinstance(result, UserError)]
    if faults:
        more = [f"{len(faults) - _NAMED:,} more files"] if len(faults) > _NAMED else []
        raise UserError("\n".join(faults[:_NAMED] + more))
    return [result for result in found if not isinstance(result, UserError)]
