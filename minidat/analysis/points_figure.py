"""The picture of a run: where its deformable points went, on the images they were read from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from minidat.analysis.points import (
    GROUPS,
    Record,
    check_records,
    describe,
    draw_points,
    on_host,
    overshoot,
    show_image,
)
from minidat.analysis.style import DPI, GREY, INK, save

RIGHT, WRONG = "#00694a", "#b3261e"
EDGE, LABEL, GAP = 0.25, 1.9, 0.06  # inches: around all, the column of row labels, between panels
CAPTION = (
    "In each deformable block, a small network that looks at the queries moves every reference point (grey) "
    "by an offset of its own, once for each group of channels. Keys and values are read at the deformed "
    "points (coloured), between the pixels of the block’s map; beyond its edge they fade to zero. Maps are "
    "enlarged to the image’s size. Group 1 of one block has nothing to do with group 1 of another."
)


def points_figure(
    images: np.ndarray,
    records: Mapping[tuple[int, int], Record],
    out: Path,
    *,
    boxes: np.ndarray | Sequence[np.ndarray] | None = None,
    classes: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    predictions: Sequence[int] | None = None,
) -> None:
    """Where the deformable points went, as a PNG: a column for each image, a row for each deformable block.

    images: uint8 (N, H, W, 3), as they are to be seen; they make the first row. records: what `model(x,
    record=records)` filled for these images, (stage, block) → "points" (N, G, P, 2) in pixels of the stage's
    map, "reference" (P, 2) normalised, "size" (h, w), "grid" (H_G, W_G). boxes: (N, 4), (row0, col0, row1,
    col1) in pixels, half-open, or for each image any number of them, (K, 4). labels, predictions: (N,) class
    numbers, written "true → predicted" with a tick or a cross; classes: their names. Points that are more than
    a sixth of the image outside are counted, but not shown. Raises ValueError for images of another kind, for
    records of another number of images, for no records.
    """
    check_records(images, records)
    records = {key: on_host(records[key]) for key in sorted(records)}
    outside = max(float(overshoot(r["points"], r["size"]).max()) for r in records.values())
    titles = [_title(i, labels, predictions, classes) for i in range(len(images))]
    sheet = _Sheet(images, len(records), rim=min(0.03 + outside, 1 / 6), titled=bool(titles[0][0]))
    sheet.write(0.22, "Where the deformable points went", fontsize=16, fontweight="bold")
    _legend(sheet, max(record["points"].shape[1] for record in records.values()), boxes is not None)
    for row in range(1 + len(records)):
        for column in range(len(images)):
            axes = sheet.panel(row, column)
            if boxes is not None:
                for box in np.reshape(boxes[column], (-1, 4)):
                    _box(axes, box, 1.1 if row else 1.6)
    sheet.title(titles)
    for row, ((stage, block), record) in enumerate(records.items(), 1):
        for column in range(len(images)):
            draw_points(sheet.panels[row, column], record, column, images.shape[1:3], sheet.image_side)
        middle = sheet.top(row) + sheet.tall / 2
        name = f"Stage {stage + 1}, block {block + 1}"
        sheet.write(middle - 0.52, name, fontsize=10.5, fontweight="bold")
        sheet.write(middle - 0.28, describe(record), fontsize=9, linespacing=1.5, color=GREY)
    save(sheet.figure, out)


class _Sheet:
    """The page of `points_figure`, laid out in inches from its top left: title, legend, panels, caption.

    rim: white space around each image for the points that left it, in parts of its sides.
    """

    def __init__(self, images: np.ndarray, blocks: int, *, rim: float, titled: bool):
        n, rows, cols = images.shape[:3]
        self.images, self.rim = images, rim
        self.side = float(np.clip(12.9 / n, 1.9, 3.2))
        self.tall = self.side * rows / cols
        self.image_side = self.side / (1 + 2 * rim)
        self.width = max(2 * EDGE + LABEL + n * (self.side + GAP), 7.5)
        caption = textwrap.wrap(CAPTION, int((self.width - 2 * EDGE) * 15))
        above = 0.3 if titled else 0.1  # of the first images, less the rim that is there already
        self.head = 0.9 + max(0.0, above - (self.side - self.image_side) / 2)
        foot = 0.3 + 0.16 * len(caption)
        self.height = self.top(1 + blocks) + foot
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor="white")
        style = {"fontsize": 8.5, "color": GREY, "linespacing": 1.35}
        self.write(self.height - foot + 0.12, "\n".join(caption), **style)
        self.panels: dict[tuple[int, int], Axes] = {}

    def top(self, row: int) -> float:
        return self.head + row * (self.tall + GAP)

    def write(self, y: float, text: str, **style: Any) -> None:
        style = {"color": INK, "va": "top"} | style
        self.figure.text(EDGE / self.width, 1 - y / self.height, text, **style)

    def panel(self, row: int, column: int) -> Axes:
        """An image with its rim: as it is in row 0, lightened below so that points stand out."""
        left, bottom = EDGE + LABEL + column * (self.side + GAP), self.height - self.top(row) - self.tall
        w, h = self.width, self.height
        axes = self.figure.add_axes((left / w, bottom / h, self.side / w, self.tall / h))
        self.panels[row, column] = axes
        show_image(axes, self.images[column], 0.5 if row else 0.0, self.rim)
        return axes

    def title(self, titles: Sequence[tuple[str, str]]) -> None:
        """(text, colour) over each image of row 0, as large as the longest allows."""
        longest = max(len(text) for text, _ in titles)
        size = min(10.5, 72 * self.side / (0.68 * max(longest, 1)))
        place = ((self.images.shape[2] - 1) / 2, -0.5), (0, 5)
        for column, (text, colour) in enumerate(titles):
            style: dict[str, Any] = {
                "ha": "center",
                "fontsize": size,
                "fontweight": "bold",
                "color": colour,
                "parse_math": False,
            }
            axes = self.panels[0, column]
            axes.annotate(text, place[0], xytext=place[1], textcoords="offset points", **style)


def _title(
    i: int, labels: Sequence[int] | None, predictions: Sequence[int] | None, classes: Sequence[str] | None
) -> tuple[str, str]:
    """ "true → predicted ✓", or the one that is known, and its colour."""
    numbers = [int(known[i]) for known in (labels, predictions) if known is not None]
    text = " → ".join(str(number) if classes is None else classes[number] for number in numbers)
    if len(numbers) < 2:
        return text, INK
    return (f"{text} ✓", RIGHT) if numbers[0] == numbers[1] else (f"{text} ✗", WRONG)


def _box(axes: Axes, box: np.ndarray, line: float) -> None:
    row, col, end_row, end_col = (float(x) - 0.5 for x in box)  # the outer edges of its pixels
    for colour, style in (("white", "-"), (INK, (0, (3, 2)))):
        edge: dict[str, Any] = {"fill": False, "ec": colour, "ls": style, "lw": line}
        axes.add_patch(Rectangle((col, row), end_col - col, end_row - row, **edge))


def _legend(sheet: _Sheet, groups: int, box: bool) -> None:
    """One line under the title: the reference points, the groups, the object's box."""

    def mark(shape: str, colour: str, label: str, size: float = 6.5) -> Line2D:
        return Line2D([], [], ls="", marker=shape, ms=size, color=colour, mec="white", mew=0.6, label=label)

    handles: list[Any] = [mark("o", GREY, "reference point", 5)]
    handles += [mark(*GROUPS[g % len(GROUPS)][::-1], f"group {g + 1}") for g in range(groups)]
    if box:
        handles.append(Rectangle((0, 0), 1, 1, fill=False, ec=INK, ls=(0, (3, 2)), lw=1.4, label="object"))
    sheet.figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(EDGE / sheet.width, 1 - 0.58 / sheet.height),
        ncols=len(handles) if len(handles) < 8 or sheet.width > 10 else (len(handles) + 1) // 2,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.2,
        handletextpad=0.5,
        columnspacing=1.4,
        borderpad=0,
        borderaxespad=0,
    )
