"""A user's photograph as a network takes it: read as people see it (`data.photograph`), and made square without squashing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from minidat.data.photograph import TURNS, read_photograph

__all__ = ["TURNS", "Letterbox", "read_photograph"]


@dataclass(frozen=True)
class Letterbox:
    """An image of any size → uint8 (`size`, `size`, 3): the whole image at its own aspect ratio, the long side made `size`
    pixels by Pillow's bicubic filter with antialiasing, the rest filled with `colour`, RGB in 0..1."""

    size: int
    colour: tuple[float, ...]

    def __call__(self, image: Image.Image) -> np.ndarray:
        scale = self.size / max(image.size)
        width, height = (max(round(side * scale), 1) for side in image.size)
        fill = tuple(round(255 * part) for part in self.colour)
        canvas = Image.new("RGB", (self.size, self.size), fill)
        canvas.paste(
            image.resize((width, height), Image.Resampling.BICUBIC),
            ((self.size - width) // 2, (self.size - height) // 2),
        )
        return np.asarray(canvas)
