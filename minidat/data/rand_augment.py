"""RandAugment: two random changes of an image's colours or geometry, all of one strength.

Source: Cubuk et al., "RandAugment", 2020, in the form of timm's "rand-m9-mstd0.5-inc1", which the released code uses: two of
fifteen operations, each applied with probability ½ at a level drawn from N(9, 0.5²) and cut to 0 … 10; "inc1" has operations
that all grow stronger with the level (posterise, solarise, and colours that move away from their own to either side).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

CHOSEN = 2  # operations an image, drawn with replacement
PROBABILITY = 0.5  # that a chosen operation is applied
LEVEL, SPREAD, HIGHEST = 9.0, 0.5, 10.0  # mean and standard deviation of the level, and its limit
FILL = (124, 116, 104)  # where an image moved away: ImageNet's mean colour, in 0 … 255


class Operation(NamedTuple):
    """value: what `apply` is given, of a level in 0 … 10. signed: its sign is drawn, or, about 1, the side of 1."""

    apply: Callable[[Image.Image, float], Image.Image]
    value: Callable[[float], float]
    signed: bool


def _affine(image: Image.Image, a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    """The image whose pixel (x, y) is that at (a x + b y + c, d x + e y + f)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Counter-clockwise about the centre."""
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=FILL)


def _solarize_add(image: Image.Image, amount: float) -> Image.Image:
    """Dark values, below 128, become brighter by `amount`."""
    return image.point([min(255, i + int(amount)) if i < 128 else i for i in range(256)] * 3)


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    """Only the highest `bits` bits of each value are kept."""
    return image.point([i & (256 - (1 << (8 - int(bits)))) for i in range(256)] * 3)


def _nothing(level: float) -> float:
    return 0.0


def _away_from_1(level: float) -> float:
    return 0.09 * level


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(lambda image, _: ImageOps.autocontrast(image), _nothing, False),
    "Equalize": Operation(lambda image, _: ImageOps.equalize(image), _nothing, False),
    "Invert": Operation(lambda image, _: ImageOps.invert(image), _nothing, False),
    "Rotate": Operation(_rotate, lambda level: 3 * level, True),  # degrees
    "Posterize": Operation(_posterize, lambda level: 4 - int(level / 10 * 4), False),  # bits kept
    "Solarize": Operation(
        lambda image, threshold: ImageOps.solarize(image, int(threshold)),
        lambda level: 256 - int(level / 10 * 256),
        False,
    ),  # values from the threshold on are inverted
    "SolarizeAdd": Operation(_solarize_add, lambda level: int(level / 10 * 110), False),
    "Color": Operation(lambda image, by: ImageEnhance.Color(image).enhance(_factor(by)), _away_from_1, True),
    "Contrast": Operation(lambda image, by: ImageEnhance.Contrast(image).enhance(_factor(by)), _away_from_1, True),
    "Brightness": Operation(lambda image, by: ImageEnhance.Brightness(image).enhance(_factor(by)), _away_from_1, True),
    "Sharpness": Operation(lambda image, by: ImageEnhance.Sharpness(image).enhance(_factor(by)), _away_from_1, True),
    "ShearX": Operation(lambda image, by: _affine(image, 1, by, 0, 0, 1, 0), lambda level: 0.03 * level, True),
    "ShearY": Operation(lambda image, by: _affine(image, 1, 0, 0, by, 1, 0), lambda level: 0.03 * level, True),
    "TranslateX": Operation(
        lambda image, by: _affine(image, 1, 0, by * image.width, 0, 1, 0), lambda level: 0.045 * level, True
    ),  # shares of the width
    "TranslateY": Operation(
        lambda image, by: _affine(image, 1, 0, 0, 0, 1, by * image.height), lambda level: 0.045 * level, True
    ),
}
NAMES = tuple(OPERATIONS)


def _factor(by: float) -> float:
    """Of Pillow's enhancements, where 1 changes nothing: 1 + `by`, and at least 0.1."""
    return max(0.1, 1 + by)


def draw_operations(rng: np.random.Generator) -> list[tuple[str, float]]:
    """The (name, value) of those operations that are applied to one image, none to two of them, in their order."""
    drawn = []
    for i in rng.integers(len(NAMES), size=CHOSEN):
        applied, negative = rng.random(2) < (PROBABILITY, 0.5)
        level = min(max(rng.normal(LEVEL, SPREAD), 0.0), HIGHEST)
        if applied:
            operation = OPERATIONS[NAMES[i]]
            value = operation.value(level)
            drawn.append((NAMES[i], -value if operation.signed and negative else value))
    return drawn


def rand_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An RGB image after the drawn operations, of the same size."""
    for name, value in draw_operations(rng):
        image = OPERATIONS[name].apply(image, value)
    return image
