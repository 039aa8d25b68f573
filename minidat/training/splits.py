"""The data of a run: images to train on, images to choose the best epoch on, and images to test it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minidat import dense
from minidat.data import SAMPLES, Dataset, load, load_samples
from minidat.data.dataset import Part
from minidat.training.errors import TrainingError
from minidat.training.settings import Settings
from minidat.training.tasks.samples import SampleBatches


@dataclass(frozen=True)
class Splits:
    """whole: the training images with those held out. validation: those held out, None where none are."""

    whole: Dataset
    training: Dataset
    validation: Dataset | None
    testing: Dataset


def load_splits(settings: Settings) -> Splits:
    """The data that settings name. Held out are the last images of the training set. Raises DataError where it is missing or
    damaged, TrainingError where what is left is less than a batch, or nothing is held out."""
    whole = load_split(settings, "train", settings.train_size)
    testing = load_split(settings, "test", settings.test_size)
    held = round(settings.validation * len(whole))
    left = len(whole) - held
    if settings.validation and not held:
        raise TrainingError(
            f"validation {settings.validation} of {len(whole)} training images is not one image; make it larger, or 0"
        )
    if left < settings.batch:
        of = f" without the {held} held out for validation" if held else ""
        raise TrainingError(
            f"batch {settings.batch} is larger than the training set, {left} images{of}: nothing to train on"
        )
    if not held:
        return Splits(whole, whole, None, testing)
    return Splits(whole, _part(whole, 0, left), _part(whole, left, len(whole)), testing)


def _part(whole: Any, start: int, stop: int) -> Any:
    return whole.part(start, stop) if isinstance(whole, SampleBatches) else Part(whole, start, stop)


def load_split(settings: Settings, split: str, size: int | None) -> Any:
    """The images of "train" or "test", the first `size` of them (None: all); with a head as `SampleBatches`."""
    if settings.head is not None:
        kind = dense.HEADS[settings.head].kind
        samples = load_samples(settings.data, split, data_dir=settings.data_dir, seed=settings.seed, size=size)
        return SampleBatches(samples, kind, SAMPLES[settings.data].sides, 0, len(samples))
    return load(settings.data, split, data_dir=settings.data_dir, seed=settings.seed, size=size)
