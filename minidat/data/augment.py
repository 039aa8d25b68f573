"""Augmentation: pure functions of a batch and a random generator, on NumPy or CuPy arrays.

All random numbers are drawn on the host in a fixed order, so one generator gives the same batch on either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minidat.autograd.backend import array_module
from minidat.data.cropping import crop, crops_of, draw_crops, draw_flips, flip, flips_of
from minidat.data.erasing import draw_erased, erase
from minidat.data.mixing import Mix, draw_cutmix, draw_mixup, mix
from minidat.data.pixels import normalise, one_hot
from minidat.data.recipe import RECIPES, Recipe
from minidat.data.share import Share

__all__ = ["RECIPES", "Draws", "Recipe", "apply", "augment", "draw", "normalise", "one_hot"]


def augment(
    images: Any,
    labels: Any,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    classes: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    share: Share | None = None,
) -> tuple[Any, Any]:
    """A training batch by a recipe: crop, flip, normalise, erase, then mixup or cutmix.

    images: uint8 (B, H, W, 3). labels: integers (B,). share: which images of a larger batch they are, if not all; they
    become what they would be in that batch. Returns images float32 (B, H, W, 3) and targets
    float32 (B, K), each row a distribution over the K = `classes` classes. Raises ValueError for labels
    outside 0..K-1.
    """
    share = Share.whole(len(images)) if share is None else share
    draws = draw(images.shape, recipe, rng, share)
    return apply(images, labels, recipe, draws, classes=classes, mean=mean, std=std)


class Draws(NamedTuple):
    """The random choices for a batch. arrays: by name, NumPy's as drawn; `apply` takes them on the images' device."""

    arrays: dict[str, Any]
    mix: Mix | None


def draw(shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator, share: Share | None = None) -> Draws:
    """The random numbers of images (B, H, W, C), a batch or a share of one. `rng` gives those of the whole batch."""
    own = Share.whole(shape[0]) if share is None else share
    whole, positions = (own.batch, *shape[1:]), own.positions
    arrays: dict[str, Any] = {}
    if recipe.crop:
        arrays["starts"] = crops_of(draw_crops(whole, rng, recipe.crop), positions, shape, recipe.crop)
    if recipe.flip and not recipe.flips_single:
        arrays["flipped"] = flips_of(draw_flips(whole, rng), positions)
    if recipe.erasing:
        arrays["erased"], arrays["noise"] = draw_erased(whole, rng, recipe.erasing, positions=positions)
    how = None
    if (recipe.mixup or recipe.cutmix) and rng.random() < recipe.mix_probability:
        cut = recipe.switch_probability if recipe.mixup and recipe.cutmix else float(recipe.cutmix > 0)
        how = draw_cutmix(shape, rng, recipe.cutmix) if rng.random() < cut else draw_mixup(rng, recipe.mixup)
    return Draws(arrays, how)


def apply(
    images: Any,
    labels: Any,
    recipe: Recipe,
    draws: Draws,
    *,
    classes: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> tuple[Any, Any]:
    """`augment` with random numbers that were drawn before. On a GPU it forces no synchronisation."""
    targets = one_hot(array_module(images).asarray(labels), classes, np.float32)
    arrays = draws.arrays
    if "starts" in arrays:
        images = crop(images, arrays["starts"], recipe.crop)
    if "flipped" in arrays:
        images = flip(images, arrays["flipped"])
    images = normalise(images, mean, std)
    if "erased" in arrays:
        images = erase(images, arrays["erased"], arrays["noise"])
    return (images, targets) if draws.mix is None else mix(images, targets, draws.mix)
