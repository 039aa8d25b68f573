"""Data sets for detection and segmentation by name: drawn scenes, COCO, ADE20K; their sizes and their augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from minidat.data.ade20k import Ade20k
from minidat.data.coco import Coco
from minidat.data.sample_augment import SampleRecipe
from minidat.data.samples import SampleSet
from minidat.data.scenes import Scenes

NOTHING, FLIP = SampleRecipe(flip=0.0), SampleRecipe()


class SampleData(NamedTuple):
    """kind: of the data set. sides: pixels of an image's short side, and of its long one at most, as networks look at it. paper:
    the published augmentation after this resizing (of scenes: flips), without what changes colours (ADE20K's photometric
    distortion) and without DAT++'s crops of several scales for COCO."""

    kind: Any
    sides: tuple[int, int]
    paper: SampleRecipe


SAMPLES = {
    "shapes": SampleData(Scenes, (64, 192), FLIP),
    "coco": SampleData(Coco, (800, 1333), FLIP),
    "ade20k": SampleData(Ade20k, (512, 2048), SampleRecipe(scale=(0.5, 2.0), crop=(512, 512), dominant=0.75)),
}
SAMPLE_RECIPES = ("none", "light", "paper")
SAMPLE_DIR = "data"  # where files are looked for when no folder is named, under the working directory


def sample_recipe(name: str, data: str) -> SampleRecipe:
    """The augmentation called "none", "light" (flips) or "paper" for a data set of `SAMPLES`."""
    return {"none": NOTHING, "light": FLIP, "paper": SAMPLES[data].paper}[name]


def load_samples(
    name: str, split: str, *, data_dir: str | Path | None = None, seed: int = 0, size: int | None = None
) -> SampleSet:
    """The data set called `name` of `SAMPLES`: "shapes" are scenes of one to four shapes.

    split: "train", or "test": of COCO and ADE20K their validation images. size: keep this many images, the first ones (None:
    all). data_dir: the folder with the files (None: ./data). seed: which scenes are drawn; files do not depend on it. Raises
    ValueError for an unknown name or split, DataError for files that are missing or damaged.
    """
    if name not in SAMPLES:
        raise ValueError(f"data set {name!r} is unknown, expected one of {', '.join(SAMPLES)}")
    if split not in ("train", "test"):
        raise ValueError(f"{name}: split is {split!r}, expected train or test")
    if name == "shapes":
        return Scenes(split, seed=seed, size=size)
    root = Path(SAMPLE_DIR if data_dir is None else data_dir)
    own = "train" if split == "train" else "val"
    if name == "ade20k":
        return Ade20k(root, own, size=size)
    return Coco(root, own, training=split == "train", size=size)
