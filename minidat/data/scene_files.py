"""The drawn scenes as files, in the forms of COCO and of ADE20K, which `coco` and `ade20k` and other tools read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minidat.data.ade20k import FOLDERS, NAMES, values_of
from minidat.data.polygons import trace
from minidat.data.rle import Rle
from minidat.data.samples import Sample
from minidat.data.scenes import Scenes
from minidat.files import atomic_write, expanded

PIECE = 100  # images that are drawn at a time


def write_coco(scenes: Scenes, root: str | Path, split: str) -> None:
    """Images to root/`split`2017/, their objects to root/annotations/instances_`split`2017.json, which is written last.

    split: "train" or "val". Ids begin at 1: COCO's own tool takes a match with annotation 0 for none. A mask without holes is
    written as polygons along its pixels' borders, another as run lengths. Raises OSError where writing fails.
    """
    if split not in FOLDERS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(FOLDERS)}")
    folder = _made(expanded(root) / f"{split}2017")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in _drawn(scenes):
        identity = sample.identity + 1
        height, width = sample.size
        images.append({"id": identity, "file_name": f"{identity:012d}.png", "height": height, "width": width})
        _save(Image.fromarray(sample.image), folder / f"{identity:012d}.png")
        for label, box, mask in zip(sample.labels.tolist(), sample.boxes.tolist(), sample.masks, strict=True):
            row, col, end, right = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": identity,
                    "category_id": label + 1,
                    "bbox": [col, row, right - col, end - row],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": trace(mask) or {"size": [height, width], "counts": str(Rle.of(mask))},
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(scenes.classes)]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    with atomic_write(_made(folder.parent / "annotations") / f"instances_{split}2017.json") as file:
        file.write(json.dumps(content).encode())


def write_ade20k(scenes: Scenes, root: str | Path, split: str) -> None:
    """Images to root/images/, the classes of their pixels to root/annotations/, the names of classes to root/objectInfo150.txt.

    split: "train" or "val". The background is a class as the others are: no pixel is 0. Raises OSError where writing fails.
    """
    if split not in FOLDERS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(FOLDERS)}")
    root = expanded(root)
    images, annotations = (_made(root / kind / FOLDERS[split]) for kind in ("images", "annotations"))
    counts = np.zeros(len(scenes.semantic_classes), np.int64)
    for sample in _drawn(scenes):
        assert sample.semantic is not None
        name = f"ADE_{split}_{sample.identity + 1:08d}.png"
        _save(values_of(sample.semantic), annotations / name)
        _save(Image.fromarray(sample.image), images / name)
        counts += np.bincount(sample.semantic.ravel(), minlength=len(counts))
    lines = ["Idx\tRatio\tName"]
    shares = counts / counts.sum()
    lines += [f"{k}\t{share:.4f}\t{name}" for k, (share, name) in enumerate(zip(shares, scenes.semantic_classes), 1)]
    with atomic_write(root / NAMES) as file:
        file.write("\n".join([*lines, ""]).encode())


def _drawn(scenes: Scenes) -> Iterator[Sample]:
    for start in range(0, len(scenes), PIECE):
        yield from scenes.samples(np.arange(start, min(start + PIECE, len(scenes))))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as file:
        image.save(file, "PNG")
