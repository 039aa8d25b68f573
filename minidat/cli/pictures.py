"""The pictures in a run's folder: its curves, and where its deformable points went."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minidat.attention import DeformableAttention
from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy, to_device
from minidat.data.augment import normalise
from minidat.models import Pyramid
from minidat.training.loop import LOG, Run

CURVES, POINTS = "curves.png", "points.png"
SHOWN_IMAGES = 6  # of the test set, the first ones


def draw_curves(folder: Path) -> None:
    """Loss and accuracy of the log so far. Raises what reading the log and drawing raise."""
    from minidat.analysis.curves import curves  # matplotlib takes a moment to import

    curves(folder / LOG, folder / CURVES)


def has_points(model: Pyramid) -> bool:
    """Whether the network has deformable blocks, and so points to draw."""
    return any(isinstance(block.mixer, DeformableAttention) for stage in model.stages for block in stage.blocks)


def draw_points(run: Run) -> None:
    """Where the deformable points of a run's network went on the first few test images. Raises what drawing raises."""
    from minidat.analysis.points_figure import points_figure

    shown = np.arange(min(SHOWN_IMAGES, len(run.testing)))
    images, labels = run.testing.batch(shown)  # (N, H, W, 3), (N,)
    record: dict = {}
    x = to_device(normalise(images, run.testing.mean, run.testing.std), run.device)
    with no_grad(), run.as_tested():
        predictions = asnumpy(run.model(Tensor(x), record=record).data).argmax(1)
    objects = getattr(run.testing, "objects", None)
    points_figure(
        images,
        record,
        run.folder / POINTS,
        boxes=objects(shown)[0] if objects else None,
        classes=run.testing.classes,
        labels=labels.tolist(),
        predictions=predictions.tolist(),
    )
