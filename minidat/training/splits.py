"""The data of a run: images to train on, images to choose the best epoch on, and images to test it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minidat import dense
from minidat.data import OF_FILES, SAMPLES, Dataset, load, load_pictures, load_samples
from minidat.data.augment import RECIPES
from minidat.data.dataset import Part
from minidat.data.decoders import Decoders
from minidat.data.imagenet import transform_for
from minidat.data.pictures import Pictures
from minidat.data.reading import Reader
from minidat.models import zoo
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


def load_splits(settings: Settings, decoders: Decoders | None = None) -> Splits:
    """The data that settings name. Held out are the last images of the training set. decoders: read image files. Raises DataError
    where it is missing or damaged, TrainingError where what is left is less than a batch, nothing is held out, or the recipe is
    for image files and these are none."""
    if settings.head is None and RECIPES[settings.recipe].single and settings.data not in OF_FILES:
        others = [name for name, recipe in RECIPES.items() if not recipe.single]
        raise TrainingError(
            f"recipe {settings.recipe} changes pictures while they are read from files (--data folder, --data imagenet); "
            f"for {settings.data} choose from {', '.join(others)}"
        )
    whole = load_split(settings, "train", decoders=decoders)
    testing = load_split(settings, "test", classes=whole.classes, decoders=decoders)
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
    return Splits(whole, part(whole, 0, left), part(whole, left, len(whole)), testing)


def part(whole: Any, start: int, stop: int) -> Any:
    """The images `start` … `stop` − 1 of a data set."""
    return whole.part(start, stop) if isinstance(whole, Pictures | SampleBatches) else Part(whole, start, stop)


def load_split(
    settings: Settings,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    decoders: Decoders | None = None,
) -> Any:
    """The training images, with those that are held out, or the test images, as the network of `settings` takes them, with a head
    as `SampleBatches`. classes: of a run, where the data may be another folder. Raises DataError."""
    size = settings.train_size if split == "train" else settings.test_size
    if settings.head is not None:
        kind = dense.HEADS[settings.head].kind
        samples = load_samples(settings.data, split, data_dir=settings.data_dir, seed=settings.seed, size=size)
        return SampleBatches(samples, kind, SAMPLES[settings.data].sides, 0, len(samples))
    if settings.data not in OF_FILES:
        return load(settings.data, split, data_dir=settings.data_dir, seed=settings.seed, size=size)
    config = zoo.config(settings.model, changes=settings.changes)
    reader = Reader(transform_for(config), upright=settings.data == "folder")
    return load_pictures(
        settings.data,
        split,
        reader=reader,
        data_dir=settings.data_dir,
        classes=classes,
        size=size,
        decoders=decoders,
        skip_damaged=settings.skip_damaged,
    )
