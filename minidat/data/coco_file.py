"""COCO's instances JSON, read and checked: each rule that a file breaks is one line with the file, the id and the rule.

Source: cocoapi's data format, and mmdetection 2.26, `datasets/coco.py`, for what training leaves out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from minidat.data.dataset import DataError
from minidat.data.images import MOST_PIXELS
from minidat.data.polygons import rasterise
from minidat.data.rle import Rle
from minidat.files import open_regular
from minidat.unpickle import shown


class ImageEntry(NamedTuple):
    """size: (H, W) in pixels."""

    identity: int
    name: str
    size: tuple[int, int]


class Annotation(NamedTuple):
    """One object. extent: (row, col, height, width) in pixels. area: pixels², COCO's is that of the mask. segmentation: as in the
    file, a list of polygons or a dictionary of run lengths."""

    identity: int
    label: int
    extent: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Any


class Instances(NamedTuple):
    """What a file holds. categories: id and name by label, ids ascending. images: by id. annotations: by image's id, in the
    order of the file."""

    categories: tuple[tuple[int, str], ...]
    images: dict[int, ImageEntry]
    annotations: dict[int, list[Annotation]]


def read_instances(file: Path) -> Instances:
    """Raises DataError for a file that is missing, cut short, or breaks a rule."""
    content = _json(file)
    try:
        categories = _categories(content)
        images = {}
        for entry in map(_image, _items(content, "images")):
            if entry.identity in images:
                raise ValueError(f"image {entry.identity}: two images have this id")
            images[entry.identity] = entry
        labels = {identity: label for label, (identity, _) in enumerate(categories)}
        annotations: dict[int, list[Annotation]] = {identity: [] for identity in sorted(images)}
        for image, annotation in _annotations(content, labels, images):
            annotations[image].append(annotation)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    return Instances(categories, {identity: images[identity] for identity in annotations}, annotations)


def mask_of(annotation: Annotation, size: tuple[int, int]) -> Rle:
    """The object's mask in an image of `size` (H, W). Raises ValueError, naming the annotation, for one that is damaged."""
    segmentation = annotation.segmentation
    try:
        if isinstance(segmentation, list):
            return Rle.of(rasterise(segmentation, size))
        counts = segmentation["counts"]
        if isinstance(counts, str):
            return Rle.parse(counts, size)
        most = size[0] * size[1]
        if not all(type(run) is int and 0 <= run <= most for run in counts):
            raise ValueError(f"its counts are not all run lengths, whole numbers of 0 to {most}")
        return Rle(size, np.array(counts, np.int64))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"annotation {annotation.identity}: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file) as opened:
            content = json.load(opened)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}: is no complete JSON: {error.msg} at character {error.pos:,} of {len(error.doc):,}; fetch it again"
        ) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DataError(f"{file}: is no JSON: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file}: is a JSON {type(content).__name__}, expected COCO's dictionary of images, annotations"
        )
    return content


def _items(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = content.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"has no list of {key}, expected COCO's instances JSON: images, annotations, categories")
    return items


def _number(item: dict[str, Any], key: str, least: int) -> int:
    value = item.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key} is {shown(str(value))}, expected an integer of {least} or more")
    return value


def _categories(content: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    found: dict[int, str] = {}
    for item in _items(content, "categories"):
        try:
            identity = _number(item, "id", 0)
        except ValueError as error:
            raise ValueError(f"a category's {error}") from error
        name = item.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"category {identity}: has no name")
        if identity in found:
            raise ValueError(f"category {identity}: two categories have this id")
        found[identity] = name
    if not found:
        raise ValueError("has no categories")
    return tuple(sorted(found.items()))


def _image(item: dict[str, Any]) -> ImageEntry:
    try:
        identity = _number(item, "id", 0)
    except ValueError as error:
        raise ValueError(f"an image's {error}") from error
    try:
        size = _number(item, "height", 1), _number(item, "width", 1)
    except ValueError as error:
        raise ValueError(f"image {identity}: {error}") from error
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"image {identity}: has {size[0]}×{size[1]} pixels, more than {MOST_PIXELS:,}")
    name = item.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"image {identity}: has no file_name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"image {identity}: file_name is {shown(name)}, expected one inside the folder of images")
    return ImageEntry(identity, name, size)


def _annotations(
    content: dict[str, Any], labels: dict[int, int], images: dict[int, ImageEntry]
) -> Iterator[tuple[int, Annotation]]:
    """Each image's id with an object in it."""
    seen = set()
    for item in _items(content, "annotations"):
        try:
            identity = _number(item, "id", 0)
        except ValueError as error:
            raise ValueError(f"an annotation's {error}") from error
        if identity in seen:
            raise ValueError(f"annotation {identity}: two annotations have this id")
        seen.add(identity)
        image, category = item.get("image_id"), item.get("category_id")
        try:
            if not isinstance(image, int) or image not in images:
                raise ValueError(f"image_id is {shown(str(image))}, and no image has this id")
            if not isinstance(category, int) or category not in labels:
                raise ValueError(f"category_id is {shown(str(category))}, and no category has this id")
            yield image, _annotation(item, identity, labels[category], images[image].size)
        except ValueError as error:
            raise ValueError(f"annotation {identity}: {error}") from error


def _annotation(item: dict[str, Any], identity: int, label: int, size: tuple[int, int]) -> Annotation:
    box, area, crowd = item.get("bbox"), item.get("area"), item.get("iscrowd", 0)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
        raise ValueError(f"bbox is {shown(str(box))}, expected four numbers: x, y, width, height")
    if not isinstance(area, int | float) or not _finite(area):
        raise ValueError(f"area is {shown(str(area))}, expected a number of pixels")
    if crowd not in (0, 1):
        raise ValueError(f"iscrowd is {shown(str(crowd))}, expected 0 or 1")
    segmentation = item.get("segmentation")
    if isinstance(segmentation, dict):
        own, counts = segmentation.get("size"), segmentation.get("counts")
        if own != list(size):
            raise ValueError(f"its mask has size {shown(str(own))}, its image {list(size)} (rows, columns)")
        if not isinstance(counts, str | list):
            raise ValueError("its mask has no counts")
    elif not isinstance(segmentation, list) or not segmentation or not all(isinstance(p, list) for p in segmentation):
        raise ValueError("has no segmentation, expected a list of polygons, or size and counts")
    x, y, width, height = (float(number) for number in box)
    return Annotation(identity, label, (y, x, height, width), area, bool(crowd), segmentation)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
