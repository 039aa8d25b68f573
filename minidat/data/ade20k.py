"""ADE20K's scene parsing set (SceneParse150): images and the class of each of their pixels.

Source: mmsegmentation 0.29, `datasets/ade.py` and `pipelines/loading.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from minidat.data.class_folders import absence, listing
from minidat.data.dataset import DataError, checked_indices
from minidat.data.images import MEAN, STD, SUFFIXES, open_image, read_image
from minidat.data.samples import IGNORED, Sample, Truth
from minidat.files import expanded

CLASSES = 150
FOLDERS = {"train": "training", "val": "validation"}
NAMES = "objectInfo150.txt"
INSIDE = "ADEChallengeData2016"  # the folder that the archive unpacks to


class Ade20k:
    """The images of root/images/`training` or `validation`/, and root/annotations/ with a PNG of the same name for each.

    root: the folder that holds images/ and annotations/, or the one around it. split: "train" or "val". size: keep this many
    images, the first by name. A PNG's value 0 is `IGNORED`, 1 … K are the classes 0 … K − 1. Their names are the last column of
    root/objectInfo150.txt (tabs, one line a class under a line of heads); without this file there are 150, named by number.
    Raises DataError for a folder or file that is missing.
    """

    name = "ade20k"
    classes: tuple[str, ...] = ()
    mean, std = MEAN, STD

    def __init__(self, root: str | Path, split: str = "val", *, size: int | None = None):
        if split not in FOLDERS:
            raise ValueError(f"ade20k: split is {split!r}, expected one of {', '.join(FOLDERS)}")
        root = expanded(root)
        self.root = root / INSIDE if (root / INSIDE).is_dir() else root
        folders = [self.root / kind / FOLDERS[split] for kind in ("images", "annotations")]
        for folder in folders:
            if not folder.is_dir():
                holds = f"holds {listing(self.root)}" if self.root.is_dir() else absence(self.root)
                raise DataError(f"ade20k: {self.root} {holds}; expected {folder}; point --data-dir at its root")
        images, annotations = folders
        shown = (path for path in images.iterdir() if not path.name.startswith("."))
        self.files = sorted(path for path in shown if path.name.lower().endswith(SUFFIXES))
        if not self.files:
            raise DataError(f"ade20k: {images} has no images ({', '.join(SUFFIXES)})")
        self.annotations = [annotations / f"{path.stem}.png" for path in self.files]
        for image, annotation in zip(self.files, self.annotations, strict=True):
            if not annotation.is_file():
                raise DataError(f"{image}: has no annotation, expected {annotation}")
        if size is not None and not 1 <= size <= len(self.files):
            raise ValueError(f"ade20k: size is {size}, expected 1 to the {len(self.files):,} images of {images}")
        self.files, self.annotations = self.files[:size], self.annotations[:size]
        self.semantic_classes = _names(self.root / NAMES)

    def __len__(self) -> int:
        return len(self.files)

    def samples(self, indices: ArrayLike) -> list[Sample]:
        """Read images. Raises DataError for one that cannot be read, that has another size than its annotation, or an annotation
        that is no 8-bit PNG or has a value above the number of classes."""
        return [self._sample(i) for i in checked_indices(indices, self.name, len(self)).tolist()]

    def truth(self, index: int) -> Truth:
        """Raises ValueError: no object is told from another of its class."""
        raise ValueError("ade20k: has a class for each pixel, not objects; a detection head needs coco or shapes")

    def semantic_truth(self, index: int) -> np.ndarray:
        """The class of each pixel, uint8 (H, W), 0 … K − 1 or `IGNORED`. Raises DataError as `samples` does."""
        path = self.annotations[index]
        with open_image(path) as image:
            if image.format != "PNG":
                raise DataError(f"{path}: is a {image.format}, expected a PNG of 8 bits a pixel")
            tile = getattr(image, "tile", ())
            mode = str(tile[0][3]) if tile else image.mode  # Pillow stretches the values of L;2 and L;4
            if image.mode not in ("L", "P") or mode.startswith("L;"):
                raise DataError(f"{path}: has pixels of mode {mode}, expected a PNG of 8 bits a pixel")
            values = np.asarray(image)  # (H, W)
        if values.max() > len(self.semantic_classes):
            raise DataError(
                f"{path}: has the class {values.max()}, expected 0 (of no class) or 1 to {len(self.semantic_classes)}"
            )
        return labels_of(values)

    def _sample(self, i: int) -> Sample:
        image = np.asarray(read_image(self.files[i]))  # (H, W, 3)
        semantic = self.semantic_truth(i)
        height, width = size = semantic.shape
        if image.shape[:2] != size:
            rows, columns = image.shape[:2]
            raise DataError(
                f"{self.files[i]}: has {rows}×{columns} pixels (rows × columns), its annotation {height}×{width}"
            )
        labels, crowd = np.zeros(0, np.int64), np.zeros(0, bool)
        masks = np.zeros((0, height, width), bool)
        name = str(self.files[i])
        return Sample(image, np.zeros((0, 4)), labels, masks, crowd, semantic, i, name, (height, width))


def labels_of(values: np.ndarray) -> np.ndarray:
    """A PNG's values uint8, 0 for what is of no class and 1 … K, as classes: `IGNORED` and 0 … K − 1, uint8 of the same shape."""
    return np.where(values == 0, IGNORED, values - np.uint8(1)).astype(np.uint8)


def values_of(labels: np.ndarray) -> Image.Image:
    """Classes uint8 (H, W), `IGNORED` and 0 … K − 1, as ADE20K's image of 8 bits a pixel."""
    return Image.fromarray(np.where(labels == IGNORED, 0, labels + np.uint8(1)).astype(np.uint8))


def _names(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return tuple(f"class {k}" for k in range(1, CLASSES + 1))
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    for k, row in enumerate(rows, 1):
        if len(row) < 2 or not row[-1].strip():
            raise DataError(f"{file}: class {k} has no name, expected it in the last column")
    if not 1 <= len(rows) < IGNORED:
        raise DataError(f"{file}: names {len(rows)} classes, expected 1 to {IGNORED - 1}")
    return tuple(row[-1].strip() for row in rows)
