"""Recipes of augmentation: which augmentations are on, and how strong."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The default is no augmentation at all.

    resized_crop, rand_augment: what is done to single images while they are read from files; see `resized_crop` and
    `rand_augment`. crop: zero padding in pixels before a random crop of the old size (0: off). flip: mirror half of the
    images, before `rand_augment` where that is on. erasing: probability that a rectangle of an image is overwritten with
    noise. mixup, cutmix: α of the Beta(α, α) distribution by which pairs of images are mixed (0: off). mix_probability: how
    often a batch is mixed at all; switch_probability: how often by cutmix where both are on. Raises ValueError for a value
    out of range.
    """

    crop: int = 0
    flip: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    switch_probability: float = 0.5
    resized_crop: bool = False
    rand_augment: bool = False

    def __post_init__(self):
        if type(self.crop) is not int or self.crop < 0:
            raise ValueError(f"recipe: crop is {self.crop!r}, expected a whole number of pixels, 0 or more")
        for name in ("flip", "resized_crop", "rand_augment"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"recipe: {name} is {getattr(self, name)!r}, expected True or False")
        for name in ("erasing", "mix_probability", "switch_probability"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"recipe: {name} is {value!r}, expected 0 to 1")
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            if not 0 <= alpha < math.inf:
                raise ValueError(f"recipe: {name} is {alpha!r}, expected a finite number, 0 or more")

    @property
    def single(self) -> bool:
        """Whether single images are changed while they are read from files."""
        return self.resized_crop or self.rand_augment

    @property
    def flips_single(self) -> bool:
        """Whether single images are flipped while they are read, and not a batch: RandAugment comes after, as released. Its
        shears hold one border of the image still, so the order matters."""
        return self.flip and self.rand_augment


# "imagenet" is the released code's recipe. "paper" is the same without RandomResizedCrop and RandAugment, which are made for
# photographs: crop and flip take their place. Its label smoothing of 0.1 belongs to the loss. "crops" is for photographs what
# "light" is for small images.
RECIPES = {
    "none": Recipe(),
    "light": Recipe(crop=4, flip=True),
    "crops": Recipe(resized_crop=True, flip=True),
    "paper": Recipe(crop=4, flip=True, erasing=0.25, mixup=0.8, cutmix=1.0),
    "imagenet": Recipe(resized_crop=True, flip=True, rand_augment=True, erasing=0.25, mixup=0.8, cutmix=1.0),
}
