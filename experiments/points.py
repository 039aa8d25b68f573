"""Where a trained network's deformable points go: how far they move, how far the groups are apart, what lies in the box."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import Tensor, no_grad
from minidat.analysis.looking import groups_apart, in_box
from minidat.analysis.points import reference_pixels
from minidat.data import Dataset
from minidat.data.augment import normalise
from minidat.data.shapes import Shapes
from minidat.models import Pyramid

IMAGES = 400  # of the test set, the first ones


def measure(model: Pyramid, test: Dataset) -> dict[str, Any]:
    """{"stage.block": numbers} for each deformable block, lengths in pixels of its map. `moved`: how far points moved from
    their reference points. `groups_apart`: see `analysis.looking`. `in_box`, on shapes: the share of points in the object's
    box, in that of another image, and of the reference points in the object's box."""
    images, _ = test.batch(np.arange(min(IMAGES, len(test))))
    record: dict = {}
    with no_grad():
        model(Tensor(normalise(images, test.mean, test.std)), record=record)
    found = {}
    for (stage, block), entry in record.items():
        points, size = entry["points"], entry["size"]
        still = np.broadcast_to(reference_pixels(entry["reference"], size), points.shape)
        numbers = {
            "moved": float(np.linalg.norm(points - still, axis=-1).mean()),
            "groups_apart": groups_apart(points),
        }
        if isinstance(test, Shapes):
            boxes = test.objects(np.arange(len(images)))[0]
            side = images.shape[1:3]
            pairs = (points, boxes), (points, np.roll(boxes, 1, axis=0)), (still, boxes)
            numbers["in_box"] = [float(in_box(p, size, b, side).mean()) for p, b in pairs]
        found[f"{stage}.{block}"] = numbers
    return found
