"""Image files as a network takes them: opened with care, turned into RGB, and cut to a square."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from minidat.data.dataset import DataError
from minidat.files import open_regular

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, for pixel values scaled to 0..1
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
"""What is read, whatever a file's name. Not EPS, which is a program that Pillow has Ghostscript run."""

MOST_PIXELS = 50_000_000  # of an image; decoding takes up to 15 bytes for each
PROTOCOLS = ("released", "short-side", "whole")
DEEP = ("I", "F")  # how Pillow's names of modes with more than 8 bits a channel begin

_opening = threading.Lock()


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Generator[Image.Image]:
    """An image file, opened by Pillow and not yet decoded: the block decodes it.

    Raises DataError, naming the file, for one that is missing, a pipe or device, in no format of `FORMATS`, larger than
    `MOST_PIXELS`, cut short or damaged, whichever exception Pillow raises in the block.
    """
    path = Path(path)
    try:
        with open_regular(path) as file, _opened(file) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise DataError(
                    f"{path}: has {width * height:,} pixels, more than {MOST_PIXELS:,}; make it smaller first"
                )
            yield image
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: is no image that can be read ({', '.join(_formats())})") from error
    except Exception as error:  # a damaged file can make Pillow's decoders raise anything
        reason = " ".join(str(getattr(error, "strerror", None) or error or "").split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _opened(file: BinaryIO) -> Image.Image:
    """`Image.open` without warnings, of which one comes before `MOST_PIXELS` is looked at and others are of metadata. The
    lock: `catch_warnings` is not for several threads at a time."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(file, formats=_formats())


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in RGB: grey, palette and CMYK are converted, transparency is dropped, EXIF orientation is ignored.

    So does torchvision's ImageFolder, with which the published accuracies were measured. Raises DataError as `open_image`
    does, and for more than 8 bits a channel.
    """
    with open_image(path) as image:
        if image.mode.startswith(DEEP):
            raise DataError(f"{path}: has pixels of mode {image.mode}; 8 bits a channel are read")
        clear = image.convert("RGBA") if "transparency" in image.info else image
        return clear.convert("RGB")


@dataclass(frozen=True)
class Transform:
    """An image of any size → uint8 (`size`, `size`, 3), by a protocol; all resize by Pillow's bicubic filter with antialiasing.

    "released": both sides to ⌊size·256/224⌋, whatever the aspect ratio, then the central square. "short-side": the short
    side to that, the long one in proportion, then the central square, as Swin does. "whole": both sides to `size`, nothing
    cut off, as DAT++ at 384. Source: the released DAT's data pipeline, on torchvision's PIL transforms. Raises ValueError
    for an unknown protocol, and DataError for an image so narrow that its long side would become too long.
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
        rows, columns = larger * height // short, larger * width // short
        if rows * columns > MOST_PIXELS:
            raise DataError(
                f"an image of {width}×{height} pixels would become {columns}×{rows}; choose another protocol"
            )
        return _centre(_resize(image, rows, columns), self.size)


def _resize(image: Image.Image, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3)"""
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _centre(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square of (H, W, 3); an odd pixel over is torchvision's, which rounds half to even."""
    top, left = (round((n - size) / 2) for n in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]
