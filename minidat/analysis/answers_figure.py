"""Pictures of detections and segmentations: beside the truth, on images of a test set; and of one image, with points."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minidat.analysis.answers import above, draw_boxes, legend_handles, with_labels, with_masks
from minidat.analysis.points import Record, describe, draw_points, on_host, show_image
from minidat.analysis.style import DPI, GREY, INK, save, short
from minidat.dense import IGNORED, Detections

EDGE, GAP, HEAD, LINE = 0.25, 0.1, 0.75, 0.24  # inches: around all, between panels, the title, a line of the legend
SIDE, LARGE = 2.15, 4.2  # inches: of a panel beside others, of one image
RIM = 0.03  # white space around images whose points may lie outside, in parts of their sides
COLUMNS, LONGEST = 6, 20  # classes in a line of a legend; characters of a name in it
LEAST = 6.5  # inches that a title or a legend may need
TITLE = "What is there, and what was found"
SHOWN = 0.5  # the least score of a detection that is drawn
BACKGROUND = "background"

Answer = Detections | np.ndarray
"""What a network says of an image: `Detections`, or the classes of its pixels, integers (H, W)."""


def answers_figure(
    images: Sequence[np.ndarray],
    truths: Sequence[Answer],
    answers: Sequence[Answer],
    out: Path,
    *,
    names: Sequence[str],
) -> None:
    """Images of a test set as a PNG: what is there in the first row, what was found in the second.

    images: uint8 (H, W, 3), of any sizes. Detections below a score of 0.5 are left out. names: of the classes. Raises ValueError
    for no image and for another number of truths or answers.
    """
    if not images or not len(images) == len(truths) == len(answers):
        raise ValueError(f"answers_figure: {len(images)} images, {len(truths)} truths and {len(answers)} answers")
    answers = [above(one, SHOWN) if isinstance(one, Detections) else one for one in answers]
    kinds = sorted(set().union(*(_kinds(one, names) for one in (*truths, *answers))))
    width = max(len(images) * (SIDE + GAP) - GAP, LEAST) + 2 * EDGE
    columns = _columns(kinds, names, width - 2 * EDGE)
    lines = 0 if isinstance(answers[0], Detections) else -(-len(kinds) // columns)
    head = HEAD + lines * LINE
    height = head + 2 * SIDE + LINE + EDGE
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.text(EDGE / width, 1 - 0.2 / height, TITLE, fontsize=15, fontweight="bold", color=INK, va="top")
    for row, (said, ones) in enumerate((("there", truths), ("found", answers))):
        top = head + row * (SIDE + LINE)
        figure.text(EDGE / width, 1 - (top - 0.05) / height, said, fontsize=10, color=GREY, va="bottom")
        for column, (image, one) in enumerate(zip(images, ones, strict=True)):
            place = (EDGE + column * (SIDE + GAP), height - top - SIDE, SIDE, SIDE)
            axes = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
            draw_answer(axes, image, one, names, size=6.5, scores=bool(row))
    if lines:
        _legend(figure, kinds, names, EDGE / width, 1 - 0.5 / height, columns)
    save(figure, out)


def answer_figure(
    image: np.ndarray,
    answer: Answer,
    out: Path,
    *,
    names: Sequence[str],
    seen: np.ndarray | None = None,
    records: Mapping[tuple[int, int], Record] | None = None,
) -> None:
    """What was found in one image, as a PNG, and beside it the points of each deformable block.

    image: uint8 (H, W, 3). answer: in its pixels. seen: the image as the network saw it, resized and padded, uint8; records: what
    its pass recorded, see `points_figure.points_figure`.
    """
    records = {key: on_host(record) for key, record in sorted((records or {}).items())}
    seen = image if seen is None else seen
    kinds = [] if isinstance(answer, Detections) else sorted(_kinds(answer, names))
    columns = _columns(kinds, names, LEAST)
    lines = -(-len(kinds) // columns)
    tall = LARGE * min(max(image.shape[0] / image.shape[1], 0.4), 1.8)
    head, foot = HEAD + lines * LINE, 1.1 if records else EDGE
    width, height = 2 * EDGE + LARGE + len(records) * (LARGE + GAP), head + tall + foot
    width = max(width, 2 * EDGE + (LEAST if lines else 0))
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    text = textwrap.shorten(_summary(answer, names), 60, placeholder=" …")
    figure.text(
        EDGE / width, 1 - 0.2 / height, text, fontsize=13, fontweight="bold", color=INK, va="top", parse_math=False
    )
    for i, key in enumerate([None, *records]):
        left = EDGE + i * (LARGE + GAP)
        axes = figure.add_axes((left / width, foot / height, LARGE / width, tall / height))
        if key is None:
            draw_answer(axes, image, answer, names, size=8, rim=RIM if records else 0.0)
            continue
        show_image(axes, seen, 0.5, RIM)
        draw_points(axes, records[key], 0, seen.shape[:2], LARGE / (1 + 2 * RIM))
        below = 1 - (head + tall + 0.06) / height
        name = f"Stage {key[0] + 1}, block {key[1] + 1}"
        figure.text(left / width, below, name, fontsize=11, fontweight="bold", color=INK, va="top")
        figure.text(left / width, below - 0.22 / height, describe(records[key]), fontsize=8.5, color=GREY, va="top")
    if lines:
        _legend(figure, kinds, names, EDGE / width, 1 - 0.5 / height, columns)
    save(figure, out)


def draw_answer(
    axes: Axes,
    image: np.ndarray,
    answer: Answer,
    names: Sequence[str],
    *,
    size: float,
    scores: bool = True,
    rim: float = 0.0,
) -> None:
    """An image with boxes, names, scores and masks over it, or with the classes of its pixels. rim: see `show_image`."""
    if isinstance(answer, Detections):
        show_image(axes, with_masks(image, answer), 0.0, rim)
        draw_boxes(axes, answer, names, size=size, scores=scores)
    else:
        clear = [k for k, name in enumerate(names) if name == BACKGROUND]
        show_image(axes, with_labels(image, answer, clear=clear), 0.0, rim)


def _kinds(answer: Answer, names: Sequence[str]) -> set[int]:
    """The classes that an answer shows in colours."""
    if isinstance(answer, Detections):
        return set(answer.labels.tolist())
    return {k for k in np.unique(answer).tolist() if k != IGNORED and names[k] != BACKGROUND}


def _summary(answer: Answer, names: Sequence[str]) -> str:
    """ "3 objects", or the classes that cover most of the image."""
    if isinstance(answer, Detections):
        return "no object" if not len(answer) else "1 object" if len(answer) == 1 else f"{len(answer)} objects"
    kinds, counts = np.unique(answer[answer != IGNORED], return_counts=True)
    largest = sorted(zip(counts.tolist(), kinds.tolist(), strict=True), reverse=True)[:3]
    return ", ".join(f"{short(names[kind], LONGEST)} {count / answer.size:.0%}" for count, kind in largest)


def _columns(kinds: Sequence[int], names: Sequence[str], inches: float) -> int:
    """Classes in a line of a legend that is so wide."""
    longest = max((len(short(names[kind], LONGEST)) for kind in kinds), default=1)
    return max(1, min(COLUMNS, int(inches / (0.5 + 0.09 * longest))))


def _legend(figure: Figure, kinds: Sequence[int], names: Sequence[str], left: float, top: float, columns: int) -> None:
    style: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handlelength": 1.0}
    spaces = {"handletextpad": 0.4, "columnspacing": 1.2, "borderpad": 0, "borderaxespad": 0}
    handles = legend_handles(kinds, [short(name, LONGEST) for name in names])
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left, top), ncols=columns, **style, **spaces
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
