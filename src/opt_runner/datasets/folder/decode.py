"""Image files to uint8 arrays of one size, with Pillow, in threads."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps

from opt_runner.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Named, as Pillow would also hand a disguised PostScript file to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
# Small images decode faster than a task is handed to a thread.
FILES_A_TASK = 256


def survey(paths: Sequence[str]) -> tuple[int, Literal[1, 3]]:
    """Return the size and channels that suit the files, from their headers.

    Size: the commonest short side, the smallest of equally common ones; if all images are squares
    of one size, that size. Channels: 1 if every file is of a grey mode, else 3.
    Raises UserError, naming the file, where one is no image.
    """
    headers = _in_threads(_header, paths)
    sides = Counter(side for side, _ in headers)
    size = min(sides, key=lambda side: (-sides[side], side))
    return size, 1 if all(grey for _, grey in headers) else 3


def decode_all(
    paths: Sequence[str], size: int, channels: int, put: Callable[[bytes, int], None]
) -> None:
    """Put the images, each as `decode` gives it, one after the other; any of them may be first.

    put: takes the bytes of an image and their offset. No more than one a thread is in memory.
    """
    image_bytes = channels * size * size

    def pass_on(i: int) -> None:
        put(decode(paths[i], size, channels).tobytes(), i * image_bytes)

    _in_threads(pass_on, range(len(paths)))


def decode(path: str, size: int, channels: int) -> np.ndarray:
    """One image, uint8 (channels, size, size).

    Turned upright as its EXIF says; the first frame of an animation; 16 bits scaled to 8;
    transparent parts laid on white; grey as three equal channels or colour as its luma, where
    `channels` asks for it; then the largest centred square, resized with antialiasing.
    Raises UserError naming the file where it is broken, cut short, or of a huge size.
    """
    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        flat = _on_white(_eight_bits(image)).convert("L" if channels == 1 else "RGB")
        if flat.size != (size, size):
            flat = ImageOps.fit(flat, (size, size), Image.Resampling.BILINEAR)
        return np.asarray(flat).reshape(size, size, channels).transpose(2, 0, 1)


def _header(path: str) -> tuple[int, bool]:
    """Short side, and whether the mode is a grey one (a palette is not, whatever it holds)."""
    with _opened(path) as image:
        return min(image.size), Image.getmodebase(image.mode) == "L"


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path} is refused: {error}; resize or remove it") from error
    except Exception as error:  # of a broken file Pillow raises anything, SyntaxError included
        raise UserError(f"{path} is no readable image ({error}): replace or remove it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 bits, in whichever mode Pillow holds them, as 8 bits."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("which value is white is unknown beyond 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """[function(item) for item in items]; the first error ends the work."""

    def share(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + FILES_A_TASK]]

    # The filters are the whole process's, so they are set here and not in the threads.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        shares = pool.map(share, range(0, len(items), FILES_A_TASK))
        return [result for share in shares for result in share]
