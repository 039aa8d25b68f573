"""A user's photograph, read as people see it: upright, transparent pixels on white.

The published accuracies were measured with another reading, `images.read_image`, which drops transparency and ignores the
orientation that a camera writes.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
from PIL import Image

from minidat.data.images import open_image

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the image upright. 1, and what is no orientation, leave it as it is."""


def read_photograph(path: str | os.PathLike[str]) -> Image.Image:
    """The image in RGB, upright, 8 bits a channel; transparent pixels lie on white, 16-bit grey is scaled.

    Raises DataError, naming the file, for one that is missing, no image, damaged, or too large.
    """
    with open_image(path) as image:
        image.load()
        return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says; as it is where EXIF is missing or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            turn = TURNS.get(image.getexif().get(ORIENTATION))  # type: ignore[arg-type]
    except Exception:  # EXIF is written by many programs, and Pillow raises what it stumbles on
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey, clear = _eight_bits(image), image.info.get("transparency")
        if isinstance(clear, int):  # the grey value, of 0 … 65535, that is transparent
            grey.paste(255, mask=Image.fromarray(np.asarray(image) == clear))
        return grey.convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, 0 … 65535, as 8-bit grey. Raises ValueError for pixels out of this range."""
    values = np.asarray(image)  # (H, W)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise ValueError(f"its grey values run {values.min()}..{values.max()}, beyond 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
