"""From an image file to the pixels of a network's input: to test on, or to train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from minidat.data.dataset import DataError
from minidat.data.images import Transform, read_image
from minidat.data.photograph import read_photograph
from minidat.data.rand_augment import rand_augment
from minidat.data.recipe import Recipe
from minidat.data.resized_crop import resized_crop


@dataclass(frozen=True)
class Reader:
    """transform: how images are tested. upright: turned as the camera says, transparent pixels on white (see
    `read_photograph`); else as the published accuracies were measured (`read_image`). recipe: how images are trained on; what
    it does to single images is done here, what it does to a batch in `augment`."""

    transform: Transform
    upright: bool = False
    recipe: Recipe | None = None

    def __call__(self, path: str, key: tuple[int, ...] = ()) -> np.ndarray:
        """uint8 (S, S, 3). key: the source of the random numbers with which the image is changed; empty: it is not. Raises
        DataError, naming the file, where it cannot be read."""
        image = read_photograph(path) if self.upright else read_image(path)
        try:
            return self._square(image, key)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def _square(self, image: Image.Image, key: tuple[int, ...]) -> np.ndarray:
        if self.recipe is None or not key or not self.recipe.single:
            return self.transform(image)
        rng = np.random.default_rng(key)
        if self.recipe.resized_crop:
            image = resized_crop(image, self.transform.size, rng)
        else:
            image = Image.fromarray(self.transform(image))
        if self.recipe.flips_single and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        return np.asarray(rand_augment(image, rng) if self.recipe.rand_augment else image)
