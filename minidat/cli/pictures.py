"""The pictures in a run's folder: its curves, what it found in test images, and where its deformable points went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidat.attention import DeformableAttention
from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy, to_device
from minidat.data.augment import normalise
from minidat.data.samples import Sample
from minidat.dense import Detections, padded
from minidat.models import Pyramid
from minidat.training.loop import LOG, Run
from minidat.training.parallel import Workers
from minidat.training.tasks.detection import placed, predictions
from minidat.training.tasks.samples import normalised

CURVES, POINTS, ANSWERS = "curves.png", "points.png", "predictions.png"
SHOWN_IMAGES = 6  # of the test set, the first ones
SHOWN_STAGES = 2  # of one image, the last ones with deformable blocks


def draw_curves(folder: Path, measures: Mapping[str, str]) -> None:
    """Loss and measures (the task's) of the log so far. Raises what reading the log and drawing raise."""
    from minidat.analysis.curves import curves  # matplotlib takes a moment to import

    curves(folder / LOG, folder / CURVES, measures)


def has_points(model: Any) -> bool:
    """Whether the network, a classifier or one with a head, has deformable blocks, and so points to draw."""
    stages = model.stages if isinstance(model, Pyramid) else model.backbone.stages
    return any(isinstance(block.mixer, DeformableAttention) for stage in stages for block in stage.blocks)


def last_blocks(records: Mapping[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
    """Of the records of a pass, (stage, block) → what it did, those of the last block of each of the last `SHOWN_STAGES`."""
    last = dict(sorted(records))  # stage → block
    return {place: records[place] for place in list(last.items())[-SHOWN_STAGES:]}


def draw_answers(run: Run) -> None:
    """What a run's network found in the first few test images, under what is there. Raises what drawing raises."""
    from minidat.analysis.answers_figure import answers_figure

    samples, testing = _shown(run), _testing(run)
    with run.as_tested(), Workers.on(run.device, run.threads, run.settings.micro) as workers:
        found = predictions(run.model, samples, testing, workers)
    truths = [truth(sample, run.model.kind) for sample in samples]
    images = [sample.image for sample in samples]
    answers_figure(images, truths, found, run.folder / ANSWERS, names=run.testing.classes)


def truth(sample: Sample, kind: str) -> Any:
    """What is there, in the form in which a network of this kind answers."""
    if kind == "segmentation":
        return sample.semantic
    return Detections(sample.boxes, sample.labels, np.ones(len(sample.labels)), sample.size, sample.masks)


def _shown(run: Run) -> list[Sample]:
    """The first few test images."""
    return _testing(run).batch(np.arange(min(SHOWN_IMAGES, len(run.testing))))


def _testing(run: Run) -> Any:
    """The test images: `SampleBatches`, since the network has a head."""
    return run.testing


def draw_points(run: Run) -> None:
    """Where the deformable points of a run's network went on the first few test images. Raises what drawing raises."""
    from minidat.analysis.points_figure import points_figure

    if run.settings.head is not None:
        _draw_points_of_samples(run)
        return
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


def _draw_points_of_samples(run: Run) -> None:
    """`draw_points` for a network with a head, on the first test images that have the first one's size."""
    from minidat.analysis.points_figure import points_figure

    samples = _shown(run)
    samples = [sample for sample in samples if sample.size == samples[0].size]
    record: dict = {}
    array, sizes = placed(run.model, [normalised(sample, _testing(run)) for sample in samples])
    with run.as_tested():
        run.model.predict(array, sizes, record=record)
    seen, _ = padded([sample.image for sample in samples], run.model.multiple)
    points_figure(seen, record, run.folder / POINTS, boxes=[sample.boxes for sample in samples])
