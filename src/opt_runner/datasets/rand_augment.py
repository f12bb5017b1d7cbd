"""RandAugment and TrivialAugment, as torchvision has them, with the run's own draws."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.errors import UserError
from opt_runner.transfer import send

_MOST = 30  # the strongest magnitude
# The strongest shear, rotation in degrees, change of colour and loss of bits.
_USUAL = (0.3, 30.0, 0.9, 4)
_WIDE = (0.99, 135.0, 0.99, 6)
_SIGNED = (
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "brightness", "color", "contrast", "sharpness",
)  # fmt: skip
_STRONG = (*_SIGNED, "posterize", "solarize")  # operations that have a magnitude
OPERATIONS = (*_STRONG, "autocontrast", "equalize", "identity")


@dataclass(frozen=True)
class RandAugment:
    """`ops` random operations for each image, one after the other.

    The operations, their ranges and pixels are those of torchvision's RandAugment, with
    wide=True those of its TrivialAugmentWide.

    Sources: Cubuk et al., "RandAugment" (NeurIPS 2020); Müller and Hutter, "TrivialAugment" (ICCV
    2021), which is ops=1, magnitude=None, wide=True.

    magnitude: of all operations, up to 30; None: drawn for each.
    """

    ops: Annotated[int, Field(gt=0, le=100)] = 2
    magnitude: Annotated[int, Field(ge=0, le=_MOST)] | None = 9
    wide: bool = False

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> list[Tensor]:
        """Draw for `count` images: int64 (count, ops, 2), operations and signed magnitudes."""
        shape = (count, self.ops)
        number = torch.randint(len(OPERATIONS), shape, generator=generator)
        level = torch.randint(_MOST + 1, shape, generator=generator)
        if self.magnitude is not None:
            level = torch.full(shape, self.magnitude)
        negative = torch.randint(2, shape, generator=generator).bool() & (number < len(_SIGNED))
        level = torch.where(number < len(_STRONG), level, 0)
        return [torch.stack([number, torch.where(negative, -level, level)], dim=-1)]

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return uint8 images (B, 1 or 3, H, W), changed as drawn. Waits for a GPU."""
        if images.shape[1] not in (1, 3):
            raise UserError(f"it takes 1 or 3 channels, not {images.shape[1]}")
        images = images.clone()
        for of_images in zip(*drawn.tolist(), strict=True):
            alike: dict[tuple[int, int], list[int]] = defaultdict(list)
            for place, (number, level) in enumerate(of_images):
                alike[number, level].append(place)
            for (number, level), places in alike.items():
                index = send(torch.tensor(places), images.device)
                changed = changed_by(images[index], OPERATIONS[number], level / _MOST, self.wide)
                images[index] = changed
        return images


def changed_by(images: Tensor, operation: str, strength: float, wide: bool = False) -> Any:
    """Return uint8 images (B, 1 or 3, H, W) after one operation, of strength -1 to 1."""
    from torchvision.transforms.v2 import functional  # slow to import

    height, width = images.shape[2:]
    shear, degrees, colour, bits = _WIDE if wide else _USUAL
    down, across = (32.0, 32.0) if wide else (height * 150 / 331, width * 150 / 331)

    def sheared(*degrees: float) -> Any:
        return functional.affine(
            images, angle=0.0, translate=[0, 0], scale=1.0, shear=list(degrees), center=[0, 0]
        )

    def shifted(*pixels: float) -> Any:
        shift = [int(one) for one in pixels]
        return functional.affine(images, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0])

    angle, factor = math.degrees(math.atan(strength * shear)), 1 + strength * colour
    changes: dict[str, Callable[[], Any]] = {
        "shear_x": lambda: sheared(angle, 0.0),
        "shear_y": lambda: sheared(0.0, angle),
        "translate_x": lambda: shifted(strength * across, 0),
        "translate_y": lambda: shifted(0, strength * down),
        "rotate": lambda: functional.rotate(images, strength * degrees),
        "brightness": lambda: functional.adjust_brightness(images, factor),
        "color": lambda: functional.adjust_saturation(images, factor),
        "contrast": lambda: functional.adjust_contrast(images, factor),
        "sharpness": lambda: functional.adjust_sharpness(images, factor),
        "posterize": lambda: functional.posterize(images, 8 - round(strength * bits)),
        "solarize": lambda: functional.solarize(images, 255 * (1 - strength)),
        "autocontrast": lambda: functional.autocontrast(images),
        "equalize": lambda: functional.equalize(images),
        "identity": lambda: images,
    }
    return changes[operation]()
