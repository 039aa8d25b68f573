"""RandomResizedCrop: a random part of an image, stretched to the network's size.

Source: Szegedy et al., "Going Deeper with Convolutions", 2015, section 6, with the limits of timm's
`RandomResizedCropAndInterpolation`, which the released code uses, bicubic.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

TRIES = 10  # boxes that are drawn until one fits
AREA = (0.08, 1.0)  # range of a box's share of the image
ASPECT = (3 / 4, 4 / 3)  # range of its width / height


def draw_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a box in an image of height × width pixels.

    Its area is uniform in `AREA`, the logarithm of its aspect in that of `ASPECT`, its place uniform. Of ten boxes the first that
    is no larger than the image is taken; where none is, the central one that has the aspect nearest to the image's.
    """
    for _ in range(TRIES):
        area = rng.uniform(*AREA) * (height * width)  # pixels
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
    wide, tall = min(width, max(round(height * aspect), 1)), min(height, max(round(width / aspect), 1))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random box of an RGB image, resized to size × size by Pillow's bicubic filter with antialiasing."""
    top, left, tall, wide = draw_box(image.height, image.width, rng)
    box = image.crop((left, top, left + wide, top + tall))
    return box.resize((size, size), Image.Resampling.BICUBIC)
