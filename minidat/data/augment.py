"""Augmentation: pure functions of a batch and a random generator, on NumPy or CuPy arrays.

All random numbers are drawn on the host in a fixed order: one generator gives one batch, on either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minidat.autograd.backend import array_module

TRIES = 10  # rectangles drawn for random erasing until one fits
AREA, ASPECT = (0.02, 1 / 3), (0.3, 3.3)  # of these rectangles: share of the image, height / width


@dataclass(frozen=True)
class Recipe:
    """Which augmentations are on, and how strong. The default is none at all.

    crop: zero padding in pixels before a random crop of the old size (0: off). flip: mirror half of the
    images. erasing: probability that a rectangle of an image is overwritten with noise. mixup, cutmix: α
    of the Beta(α, α) that mixes pairs of images (0: off). mix_probability: how often a batch is mixed at
    all; switch_probability: how often by cutmix where both are on. Raises ValueError for a value that
    means nothing.
    """

    crop: int = 0
    flip: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    switch_probability: float = 0.5

    def __post_init__(self):
        if type(self.crop) is not int or self.crop < 0:
            raise ValueError(f"recipe: crop is {self.crop!r}, expected a whole number of pixels, 0 or more")
        if type(self.flip) is not bool:
            raise ValueError(f"recipe: flip is {self.flip!r}, expected True or False")
        for name in ("erasing", "mix_probability", "switch_probability"):
            _check_probability(f"recipe: {name}", getattr(self, name))
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            if not 0 <= alpha < math.inf:
                raise ValueError(f"recipe: {name} is {alpha!r}, expected a finite number, 0 or more")


def augment(
    images: Any,
    labels: Any,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    classes: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> tuple[Any, Any]:
    """A training batch by a recipe: crop, flip, normalise, erase, then mixup or cutmix.

    images: uint8 (B, H, W, 3). labels: integers (B,). Returns images float32 (B, H, W, 3) and targets
    float32 (B, K), each row a distribution over the K = `classes` classes. Raises ValueError for labels
    outside 0..K-1.
    """
    return apply(images, labels, recipe, draw(images.shape, recipe, rng), classes=classes, mean=mean, std=std)


class Mix(NamedTuple):
    """How a batch is mixed with itself in reverse order: share of the images' own labels; box (top, bottom, left, right)
    that is the partner's in cutmix, None for mixup, where pixels are mixed by the same share."""

    share: float
    box: tuple[int, int, int, int] | None


class Draws(NamedTuple):
    """What chance decides for a batch. arrays: by name, NumPy's as drawn; `apply` wants them where the images are."""

    arrays: dict[str, Any]
    mix: Mix | None


def draw(shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator) -> Draws:
    """The random numbers of one batch of images (B, H, W, C)."""
    arrays: dict[str, Any] = {}
    if recipe.crop:
        arrays["starts"] = _crop_starts(shape, rng, recipe.crop)
    if recipe.flip:
        arrays["flipped"] = _flipped(shape, rng)
    if recipe.erasing:
        arrays["erased"], arrays["noise"] = _erased(shape, rng, recipe.erasing)
    mix = None
    if (recipe.mixup or recipe.cutmix) and rng.random() < recipe.mix_probability:
        share = recipe.switch_probability if recipe.mixup and recipe.cutmix else float(recipe.cutmix > 0)
        mix = _cutmix(shape, rng, recipe.cutmix) if rng.random() < share else _mixup(rng, recipe.mixup)
    return Draws(arrays, mix)


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
    """`augment` with random numbers that were drawn before. On a GPU it waits for nothing."""
    targets = one_hot(array_module(images).asarray(labels), classes, np.float32)
    arrays = draws.arrays
    if "starts" in arrays:
        images = _crop(images, arrays["starts"], recipe.crop)
    if "flipped" in arrays:
        images = _flip(images, arrays["flipped"])
    images = normalise(images, mean, std)
    if "erased" in arrays:
        images = _overwrite(images, arrays["erased"], arrays["noise"])
    return (images, targets) if draws.mix is None else _mixed(images, targets, draws.mix)


def random_crop(images: Any, rng: np.random.Generator, padding: int = 4) -> Any:
    """Shift each image by up to `padding` pixels each way, zeros coming in: (B, H, W, C), same dtype.

    As pad-and-crop in He et al., "Deep Residual Learning", 2016, section 4.2. Raises ValueError for a
    negative padding.
    """
    if padding < 0:
        raise ValueError(f"random_crop: padding is {padding}, expected 0 or more pixels")
    return _crop(images, _crop_starts(images.shape, rng, padding), padding)


def _crop_starts(shape: tuple[int, ...], rng: np.random.Generator, padding: int) -> np.ndarray:
    """(B, H) where each row of the cropped images begins in the flat padded ones."""
    batch, height, width, channels = shape
    top, left = rng.integers(0, 2 * padding + 1, (2, batch))  # the window's corner in the padded image
    rows = np.arange(batch)[:, None] * (height + 2 * padding) + top[:, None] + np.arange(height)  # (B, H)
    return (rows * (width + 2 * padding) + left[:, None]) * channels


def _crop(images: Any, starts: Any, padding: int) -> Any:
    xp = array_module(images)
    batch, height, width, channels = images.shape
    padded = xp.zeros((batch, height + 2 * padding, width + 2 * padding, channels), images.dtype)
    padded[:, padding : padding + height, padding : padding + width] = images
    index = xp.asarray(starts)[:, :, None] + xp.arange(width * channels)  # (B, H, W C)
    return xp.take(padded.reshape(-1), index).reshape(images.shape)


def random_flip(images: Any, rng: np.random.Generator) -> Any:
    """Mirror each image left to right with probability ½: (B, H, W, C), same dtype."""
    return _flip(images, _flipped(images.shape, rng))


def _flipped(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Which images of the batch."""
    return np.flatnonzero(rng.random(shape[0]) < 0.5)


def _flip(images: Any, chosen: Any) -> Any:
    chosen = array_module(images).asarray(chosen)
    out = images.copy()
    out[chosen] = images[chosen][:, :, ::-1]
    return out


def normalise(images: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """(x / 255 − mean) / std per channel: uint8 (B, H, W, C) to float32; mean and std in units of 0..1."""
    xp = array_module(images)
    batch, height, width, channels = images.shape
    scale, shift = _row_constants(xp, tuple(mean), tuple(std), width)
    rows = images.reshape(batch, height, width * channels)
    rows = xp.multiply(rows, scale, dtype=np.float32)
    rows -= shift
    return rows.reshape(images.shape)


@lru_cache(maxsize=16)
def _row_constants(xp: ModuleType, mean: tuple[float, ...], std: tuple[float, ...], width: int) -> tuple[Any, Any]:
    """Scale and shift of a whole row of an image, (W C): a long inner loop."""
    scale = np.tile([1 / (255 * s) for s in std], width)
    shift = np.tile([m / s for m, s in zip(mean, std, strict=True)], width)
    return xp.asarray(scale, np.float32), xp.asarray(shift, np.float32)


def random_erasing(
    images: Any,
    rng: np.random.Generator,
    probability: float,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
) -> Any:
    """Overwrite a rectangle of some normalised images (B, H, W, C) with normal noise, fresh in every value.

    Zhong et al., "Random Erasing Data Augmentation", 2020, in the "pixel" mode of the paper's recipe.
    probability: that an image is touched. area: range of the rectangle's share of the image, uniform.
    aspect: range of height / width, uniform in the logarithm. Of ten rectangles drawn the first that is
    smaller than the image is taken; where none is, the image stays. Raises ValueError for a probability
    outside 0..1 or an empty or negative range.
    """
    return _overwrite(images, *_erased(images.shape, rng, probability, area, aspect))


def _erased(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    probability: float,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
) -> tuple[np.ndarray, np.ndarray]:
    """(P) flat pixels of the batch and (P, C) what is written there."""
    _check_probability("random_erasing: probability", probability)
    for name, (low, high), most in (("area", area, 1), ("aspect", aspect, math.inf)):
        if not 0 < low <= high <= most:
            raise ValueError(f"random_erasing: {name} is {(low, high)}, expected 0 < low <= high <= {most}")
    batch, height, width, channels = shape
    touched = rng.random(batch) < probability
    share = rng.uniform(*area, (batch, TRIES)) * (height * width)  # pixels
    ratio = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), (batch, TRIES)))
    corner = rng.random((2, batch))
    tall, wide = np.rint(np.sqrt(share * ratio)), np.rint(np.sqrt(share / ratio))  # (B, tries)
    fits = (tall < height) & (wide < width)
    first = np.arange(batch), fits.argmax(1)
    tall, wide, touched = tall[first], wide[first], touched & fits.any(1)  # (B,)
    rows = _range(corner[0], tall, height) & touched[:, None]  # (B, H)
    cols = _range(corner[1], wide, width)  # (B, W)
    index = np.flatnonzero(rows[:, :, None] & cols[:, None, :])  # flat pixels
    return index, rng.standard_normal((len(index), channels), np.float32)


def _overwrite(images: Any, index: Any, values: Any) -> Any:
    xp = array_module(images)
    out = images.copy()
    out.reshape(-1, images.shape[-1])[xp.asarray(index)] = xp.asarray(values)
    return out


def _range(u: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
    """Which of `size` cells lie in a range of `length`, placed uniformly by u in [0, 1): bool (B, size)."""
    start = np.floor(u * (size - length + 1))[:, None]
    cells = np.arange(size)
    return (start <= cells) & (cells < start + length[:, None])


def mixup(images: Any, targets: Any, rng: np.random.Generator, alpha: float) -> tuple[Any, Any]:
    """x̃ = λ x + (1 − λ) x', ỹ = λ y + (1 − λ) y', one λ ~ Beta(α, α) a batch (Zhang et al., "mixup", 2018).

    images: floats (B, H, W, C). targets: (B, K). The partner x' is the batch in reverse order, so the
    middle image of an odd batch meets itself. Returns both mixed, same dtypes. Raises ValueError for an α
    that is not above 0.
    """
    return _mixed(images, targets, _mixup(rng, alpha))


def _mixup(rng: np.random.Generator, alpha: float) -> Mix:
    _check_alpha("mixup", alpha)
    return Mix(rng.beta(alpha, alpha), None)


def cutmix(images: Any, targets: Any, rng: np.random.Generator, alpha: float) -> tuple[Any, Any]:
    """A box of each image is its partner's, the targets mixed by area (Yun et al., "CutMix", 2019).

    The box, one a batch, has sides √(1 − λ) of the image's, λ ~ Beta(α, α), and a centre anywhere, so the
    border may cut it; the targets are mixed by the pixels that were replaced in fact. images: (B, H, W, C).
    targets: (B, K). The partner is the batch in reverse order. Returns both mixed, same dtypes. Raises
    ValueError for an α that is not above 0.
    """
    return _mixed(images, targets, _cutmix(images.shape, rng, alpha))


def _cutmix(shape: tuple[int, ...], rng: np.random.Generator, alpha: float) -> Mix:
    _check_alpha("cutmix", alpha)
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    sizes = shape[1:3]
    centres = [int(rng.integers(size)) for size in sizes]
    (top, bottom), (left, right) = (_span(c, int(side * n), n) for c, n in zip(centres, sizes, strict=True))
    replaced = (bottom - top) * (right - left) / (sizes[0] * sizes[1])
    return Mix(1 - replaced, (top, bottom, left, right))


def _mixed(images: Any, targets: Any, mix: Mix) -> tuple[Any, Any]:
    """Both, mixed with the batch in reverse order."""
    if mix.box is None:
        return _blend(images, mix.share), _blend(targets, mix.share)
    top, bottom, left, right = mix.box
    out = images.copy()
    out[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    return out, _blend(targets, mix.share)


def _span(centre: int, length: int, size: int) -> tuple[int, int]:
    half = length // 2
    return max(centre - half, 0), min(centre + half, size)


def _blend(x: Any, share: float) -> Any:
    return share * x + (1 - share) * x[::-1]


def one_hot(labels: Any, classes: int, dtype: Any = np.float32) -> Any:
    """Integers (B,) to rows with a one at the label, (B, classes). Raises ValueError for one out of range; on a GPU, where to
    look would be to wait, such a row is all zero (`dataset.OnDevice` looks once, at the whole data set)."""
    xp = array_module(labels)
    if xp is np and ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"labels run {labels.min()}..{labels.max()}, expected within 0..{classes - 1}")
    return (labels[:, None] == xp.arange(classes)).astype(dtype)


def _check_probability(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{what} is {value!r}, expected 0 to 1")


def _check_alpha(what: str, alpha: float) -> None:
    if not 0 < alpha < math.inf:
        raise ValueError(f"{what}: alpha is {alpha!r}, expected a finite number above 0")


# "paper" is the released code's recipe without RandomResizedCrop and RandAugment (crop and flip stand for
# them), which are made for ImageNet; its label smoothing of 0.1 belongs to the loss.
RECIPES = {
    "none": Recipe(),
    "light": Recipe(crop=4, flip=True),
    "paper": Recipe(crop=4, flip=True, erasing=0.25, mixup=0.8, cutmix=1.0),
}
