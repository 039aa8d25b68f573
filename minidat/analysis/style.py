"""How every picture looks: colours, the resolution, axes without a box, files that come out the same each time.

Figures are drawn on a canvas of their own (Agg), without pyplot: no display and no backend is needed, and no figure stays
open.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from minidat.files import atomic_write

DPI = 150
INK, GREY, PALE = "#1a1a1a", "#595959", "#d9d9d9"


def bare(axes: Axes) -> None:
    """Two spines and a pale grid behind the curves."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK)
    axes.grid(color=PALE, lw=0.6)
    axes.set_axisbelow(True)


def write_at(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text with its top left corner at x, y, inches from the figure's."""
    width, height = figure.get_size_inches()
    style = {"color": INK, "va": "top", "parse_math": False} | style  # names may hold $
    figure.text(x / width, 1 - y / height, text, **style)


def short(name: str, most: int) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def save(figure: Figure, out: str | Path) -> None:
    """Write the figure as a PNG: complete, or not at all. Raises OSError where the file cannot be written, naming it."""
    FigureCanvasAgg(figure)
    content = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks: boxes
        figure.savefig(content, format="png", metadata={"Software": None})  # the same bytes from every version
    try:
        with atomic_write(Path(out)) as file:
            file.write(content.getbuffer())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
