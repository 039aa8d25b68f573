"""COCO: images with objects, each with a class, a box and a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minidat.data.class_folders import absence, listing
from minidat.data.coco_file import Annotation, ImageEntry, mask_of, read_instances
from minidat.data.dataset import DataError, checked_indices
from minidat.data.images import MEAN, STD, read_image
from minidat.data.rle import Rle
from minidat.data.samples import Sample, Truth
from minidat.files import expanded

SMALLEST = 32  # pixels: training leaves out images with a shorter side


class Coco:
    """The images of root/`split`2017/ with the objects of root/annotations/instances_`split`2017.json, or of another year.

    root: the folder that holds annotations/. split: "train" or "val". training: leave out images without an object that is no
    crowd, and images with a side below `SMALLEST`. size: keep this many images, those with the lowest ids.

    `classes` are the categories' names by label, a category's rank among the ascending ids; `results` goes back to ids. A
    sample has the objects that mmdetection trains on: without those whose box does not meet the image, has a side below 1
    pixel, or whose area is not positive; `dropped` names them. Boxes are cut at the image's border. `truth` has every annotation
    as it is, as COCO's evaluation has. Unlike mmdetection, which passes it over, a category_id without a category is an error.
    Raises DataError for a file that is missing or breaks a rule.
    """

    name = "coco"
    semantic_classes: tuple[str, ...] = ()
    mean, std = MEAN, STD

    def __init__(self, root: str | Path, split: str = "val", *, training: bool = False, size: int | None = None):
        self.file, self.folder = _files(expanded(root), split)
        instances = read_instances(self.file)
        self.category_ids = tuple(identity for identity, _ in instances.categories)
        self.classes = tuple(name for _, name in instances.categories)
        self.annotations = instances.annotations
        self.dropped: list[int] = []  # the ids of annotations that no sample has
        images = []
        for image in instances.images.values():
            own = instances.annotations[image.identity]
            kept = [annotation for annotation in own if trained(annotation, image.size)]
            self.dropped += [annotation.identity for annotation in own if annotation not in kept]
            if not training or (min(image.size) >= SMALLEST and not all(annotation.crowd for annotation in kept)):
                images.append(image)
        if not images:
            raise DataError(f"{self.file}: has no image{' with an object' if training else ''}")
        self.images: list[ImageEntry] = images[: len(images) if size is None else size]
        if size is not None and not 1 <= size <= len(images):
            raise ValueError(f"coco: size is {size}, expected 1 to the {len(images):,} images of {self.file}")

    def __len__(self) -> int:
        return len(self.images)

    def samples(self, indices: ArrayLike) -> list[Sample]:
        """Read images. Raises DataError for one that cannot be read or has another size than the JSON says, and for a mask that
        is damaged."""
        return [self._sample(self.images[i]) for i in checked_indices(indices, self.name, len(self)).tolist()]

    def truth(self, index: int) -> Truth:
        """Every annotation of an image; boxes are the JSON's numbers, which no rounding has changed."""
        image = self.images[index]
        own = self.annotations[image.identity]
        return Truth(
            np.array([annotation.extent for annotation in own], np.float64).reshape(-1, 4),
            np.array([annotation.label for annotation in own], np.int64),
            np.array([annotation.area for annotation in own], np.float64),
            np.array([annotation.crowd for annotation in own], bool),
            [self._mask(annotation, image) for annotation in own],
        )

    def semantic_truth(self, index: int) -> np.ndarray:
        """Raises ValueError: the instances JSON has no class for each pixel."""
        raise ValueError("coco: has objects, not a class for each pixel; a segmentation head needs ade20k or shapes")

    def results(
        self, index: int, extents: np.ndarray, labels: np.ndarray, scores: np.ndarray, masks: list[Rle] | None = None
    ) -> list[dict[str, Any]]:
        """Detections in an image as COCO's list of results, with its category ids and x before y.

        extents: (D, 4) as (row, col, height, width) in pixels of the original image. labels, scores: (D,). With masks, a result
        has its mask and no box: COCO's tool would take the area of the box for that of the mask.
        """
        found = []
        for d, (row, col, height, width) in enumerate(np.asarray(extents, np.float64).tolist()):
            result: dict[str, Any] = {
                "image_id": self.images[index].identity,
                "category_id": self.category_ids[int(labels[d])],
                "score": float(scores[d]),
            }
            if masks is None:
                result["bbox"] = [col, row, width, height]
            else:
                result["segmentation"] = {"size": list(masks[d].size), "counts": str(masks[d])}
            found.append(result)
        return found

    def _sample(self, image: ImageEntry) -> Sample:
        path = self.folder / image.name
        pixels = np.asarray(read_image(path))  # (H, W, 3)
        if pixels.shape[:2] != image.size:
            (rows, columns), (height, width) = pixels.shape[:2], image.size
            raise DataError(
                f"{path}: has {rows}×{columns} pixels (rows × columns), image {image.identity} of {self.file} {height}×{width}"
            )
        own = [one for one in self.annotations[image.identity] if trained(one, image.size)]
        boxes = np.array([annotation.extent for annotation in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [self._mask(annotation, image).mask for annotation in own]
        return Sample(
            image=pixels,
            boxes=np.clip(boxes, 0, [*image.size, *image.size]),
            labels=np.array([annotation.label for annotation in own], np.int64),
            masks=np.stack(masks) if masks else np.zeros((0, *image.size), bool),
            crowd=np.array([annotation.crowd for annotation in own], bool),
            semantic=None,
            identity=image.identity,
            name=str(path),
            original=image.size,
        )

    def _mask(self, annotation: Annotation, image: ImageEntry) -> Rle:
        try:
            return mask_of(annotation, image.size)
        except ValueError as error:
            raise DataError(f"{self.file}: {error}") from error


def trained(annotation: Annotation, size: tuple[int, int]) -> bool:
    """Whether training uses an object in an image of `size` (H, W): its box meets the image and has sides of 1 pixel or more, and
    its area is positive."""
    row, col, height, width = annotation.extent
    meets = row + height > 0 and row < size[0] and col + width > 0 and col < size[1]
    return meets and annotation.area > 0 and height >= 1 and width >= 1


def _files(root: Path, split: str) -> tuple[Path, Path]:
    """The JSON and the folder of images. The 2017 set comes first, then the only one of another year."""
    if split not in ("train", "val"):
        raise ValueError(f"coco: split is {split!r}, expected one of train, val")
    annotations = root / "annotations"
    file = annotations / f"instances_{split}2017.json"
    others = sorted(annotations.glob(f"instances_{split}*.json"))
    if not file.is_file() and len(others) == 1:
        (file,) = others
    if not file.is_file():
        place = annotations if annotations.is_dir() else root
        holds = f"{place} holds {listing(place)}" if place.is_dir() else f"{place} {absence(place)}"
        raise DataError(f"coco: {holds}; expected {file}; point --data-dir at the folder that holds annotations/")
    folder = root / file.stem.removeprefix("instances_")
    if not folder.is_dir():
        raise DataError(f"coco: {folder} does not exist; the images of {file} are expected there")
    return file, folder
