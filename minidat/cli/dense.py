"""What `minidat eval` and `minidat predict` do with a run of detection or segmentation."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minidat.autograd.backend import asnumpy
from minidat.cli.photograph import read_photograph
from minidat.cli.pictures import last_blocks
from minidat.cli.terminal import plural, printable
from minidat.cli.weights import TrainedRun
from minidat.data.augment import normalise
from minidat.data.sample_augment import released_size
from minidat.data.sample_sets import SAMPLES
from minidat.dense import IGNORED, Detections, padded
from minidat.fast.cuda import cublas
from minidat.metrics.dense_tables import ap_by_class, coco_table, iou_table
from minidat.training.evaluation import evaluate
from minidat.training.parallel import Workers
from minidat.training.splits import load_split
from minidat.training.tasks import task_of
from minidat.training.tasks.detection import DetectionResult, placed

LISTED = 10  # classes of pixels that are listed


def evaluate_run(trained: TrainedRun, arguments: argparse.Namespace, size: int | None, progress: Any) -> str:
    """The tables of a run on its test images. size: so many of them (None: all). Raises ValueError for damaged weights."""
    settings = trained.state.settings
    check_weights(trained)
    settings = replace(settings, data_dir=arguments.data_dir or settings.data_dir, test_size=size)
    dataset = load_split(settings, "test")
    trained.model.to(device=arguments.device)
    with (
        Workers.on(arguments.device, arguments.threads, settings.micro) as workers,
        cublas.precision(settings.precision),
    ):
        result = evaluate(trained.model, dataset, workers, arguments.device, progress, task_of(settings))
    progress.clear()
    head = f"{printable(str(trained.path))}: {settings.model} with {settings.head} on {settings.data}"
    return (
        f"{head}\nstep {trained.state.step:,}, {plural(result.count, 'test image')}\n{tables(result, dataset.classes)}"
    )


def tables(result: Any, names: Sequence[str]) -> str:
    """COCO's lines and AP by class, of boxes and of masks; or IoU by class."""
    names = [printable(name) for name in names]
    if not isinstance(result, DetectionResult):
        return "\n" + iou_table(result.confusion, names)
    kinds = {"boxes": result.boxes} | ({} if result.masks is None else {"masks": result.masks})
    return "\n".join(
        f"\n{kind}\n{coco_table(curves)}\n\n{ap_by_class(curves, names)}" for kind, curves in kinds.items()
    )


def check_weights(trained: TrainedRun) -> None:
    """Raises ValueError, naming the file, where a weight is not finite: its answers would mean nothing."""
    for name, t in trained.model.parameters().items():
        if not np.isfinite(asnumpy(t.data)).all():
            raise ValueError(
                f"{trained.path}: weight {name} is not finite, so the network's answers mean nothing; it is damaged"
            )


@dataclass(frozen=True)
class Viewer:
    """A network of a run, and what is between an image file and its answer. sides: see `SampleData`. score: the least of an
    object that is shown."""

    model: Any
    names: Sequence[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sides: tuple[int, int]
    score: float

    @classmethod
    def of(cls, trained: TrainedRun, names: Sequence[str], device: str, score: float) -> Viewer:
        """Raises ValueError for damaged weights."""
        check_weights(trained)
        trained.model.to(device=device)
        data = trained.state.settings.data
        return cls(trained.model, names, *trained.colours, SAMPLES[data].sides, score)

    def read(self, path: Path) -> np.ndarray:
        """uint8 (H, W, 3). Raises DataError where the image cannot be read."""
        return np.asarray(read_photograph(path))

    def tell(self, path: Path, pixels: np.ndarray, picture: Path) -> Iterator[str]:
        """Blocks of lines: what is in the image, and where its picture is."""
        from minidat.analysis.answers import above
        from minidat.analysis.answers_figure import answer_figure  # matplotlib takes a moment to import

        answer, seen, record = self.look(pixels)
        answer = above(answer, self.score) if isinstance(answer, Detections) else answer
        yield f"{printable(str(path))}\n{listing(answer, self.names)}"
        answer_figure(pixels, answer, picture, names=self.names, seen=seen, records=last_blocks(record))
        yield f"  picture in {printable(str(picture))}"

    def look(self, image: np.ndarray) -> tuple[Any, np.ndarray, dict]:
        """(the answer, in pixels of the image uint8 (H, W, 3); the image as the network saw it; the record of the pass)"""
        height, width = image.shape[:2]
        rows, cols = released_size((height, width), self.sides[1], self.sides[0])
        seen = np.asarray(Image.fromarray(image).resize((cols, rows), Image.Resampling.BILINEAR))
        array, sizes = placed(self.model, [normalise(seen[None], self.mean, self.std)[0]])
        record: dict = {}
        (answer,) = self.model.predict(array, sizes, [(height, width)], record=record)
        return answer, padded([seen], self.model.multiple)[0][0], record


def listing(answer: Any, names: Sequence[str]) -> str:
    """A line for each object, the best first; or for each class of pixels, the largest first."""
    if isinstance(answer, Detections):
        if not len(answer):
            return "  nothing found"
        width = max(len(names[label]) for label in answer.labels)
        rows = zip(answer.labels.tolist(), answer.scores.tolist(), answer.boxes.tolist(), strict=True)
        return "\n".join(
            f"  {names[label]:{width}}  {score:.2f}  rows {r0:.0f} to {r1:.0f}, columns {c0:.0f} to {c1:.0f}"
            for label, score, (r0, c0, r1, c1) in rows
        )
    kinds, counts = np.unique(answer[answer != IGNORED], return_counts=True)
    ranked = sorted(zip(counts.tolist(), kinds.tolist(), strict=True), reverse=True)
    width = max(len(names[kind]) for _, kind in ranked[:LISTED])
    lines = [f"  {names[kind]:{width}}  {100 * count / answer.size:6.2f} %" for count, kind in ranked[:LISTED]]
    return "\n".join(lines + ([f"  and {len(ranked) - LISTED} more"] if len(ranked) > LISTED else []))
