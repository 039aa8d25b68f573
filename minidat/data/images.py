"""Image files as a network takes them: read, turned into RGB, and cut to its square."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minidat.data.dataset import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, in units of 0..1
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
PROTOCOLS = ("released", "short-side", "whole")
DEEP = ("I", "F")  # how Pillow's names of modes with more than 8 bits a channel begin


def read(path: str | os.PathLike[str], *, upright: bool = False) -> Image.Image:
    """The image in RGB: grey, palette and CMYK are converted, transparency is left out.

    upright: turn it as its EXIF orientation says. torchvision's ImageFolder, with which the published accuracies were
    measured, does not, and neither does this by default. Raises DataError, naming the file, for one that is missing, no
    image, cut short, or of more than 8 bits a channel.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if image.mode.startswith(DEEP):
                raise DataError(f"{path}: has pixels of mode {image.mode}; 8 bits a channel are read")
            turned = ImageOps.exif_transpose(image) if upright else image
            clear = turned.convert("RGBA") if "transparency" in turned.info else turned
            return clear.convert("RGB")
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: is no image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error


@dataclass(frozen=True)
class Transform:
    """An image of any size → uint8 (`size`, `size`, 3), by a protocol; all resize by Pillow's bicubic filter with antialiasing.

    "released": both sides to ⌊size·256/224⌋, whatever the aspect ratio, then the central square. "short-side": the short
    side to that, the long one in proportion, then the central square, as Swin does. "whole": both sides to `size`, nothing
    cut off, as DAT++ at 384. Source: the released DAT's data pipeline, on torchvision's PIL transforms. Raises ValueError
    for an unknown protocol.
    """

    size: int
    protocol: str = "released"

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is unknown; choose from {', '.join(PROTOCOLS)}")

    def __call__(self, image: Image.Image) -> np.ndarray:
        if self.protocol == "whole":
            return _resize(image, self.size, self.size)
        larger = self.size * 256 // 224
        if self.protocol == "released":
            return _centre(_resize(image, larger, larger), self.size)
        width, height = image.size
        short = min(width, height)
        return _centre(_resize(image, larger * height // short, larger * width // short), self.size)


def _resize(image: Image.Image, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3)"""
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _centre(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square of (H, W, 3); an odd pixel over is torchvision's, which rounds half to even."""
    top, left = (round((n - size) / 2) for n in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]
