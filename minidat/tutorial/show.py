"""What a cell shows: source code, pictures with a text for those who do not see them, figures that answer.

In a notebook each goes out in several forms, and the page takes the best that it knows; a plain Python prints the text.
"""

from __future__ import annotations

import base64
import html
import inspect
import io
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from minidat.analysis.style import INK, PALE, bare

DPI = 110
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5489a", "#7a4b1c")  # apart for every kind of colour vision
FONT = 10
INTERACTIVE = Path(__file__).parent / "interactive"


def publish(bundle: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Show one thing in the forms that `bundle` holds, by MIME type; without a notebook print its "text/plain"."""
    if _in_notebook():
        sys.modules["IPython"].display.publish_display_data(dict(bundle), dict(metadata or {}))
    elif bundle["text/plain"]:
        print(bundle["text/plain"])


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def show_source(*functions: Any) -> None:
    """Show the package's own source of functions, classes or ops (as their equations are written), as it is installed."""
    source = "\n\n".join(textwrap.dedent(inspect.getsource(getattr(f, "plain", f))).strip() for f in functions)
    publish({"text/markdown": f"```python\n{source}\n```", "text/plain": source})


def figure(
    width: float = 7.0, height: float = 3.2, *, columns: int = 1, rows: int = 1, ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure in inches and its axes (an array of them where there are more than one), light on dark pages too.

    ratios: widths of the columns. Draw on it, then `show` it. No pyplot: nothing is left open.
    """
    canvas = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(rows, columns, width_ratios=ratios)
    for one in [axes] if isinstance(axes, Axes) else axes.flat:
        _style(one)
    return canvas, axes


def _style(axes: Axes) -> None:
    bare(axes)
    axes.tick_params(labelsize=FONT - 1)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set(color=INK, fontsize=FONT)


def pixels(axes: Axes, values: Any, *, numbers: str | None = None, low: float = 0.0, high: float = 1.0) -> None:
    """Draw (H, W) values as grey pixels with their centres on whole numbers, row 0 on top. numbers: a format such as ".1f"."""
    h, w = values.shape
    axes.imshow(values, cmap="Greys", vmin=low, vmax=high + 0.6 * (high - low), interpolation="nearest")
    axes.set(
        xticks=range(w), yticks=range(h), xlabel="column", ylabel="row", xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5)
    )
    axes.set_xticks([c - 0.5 for c in range(1, w)], minor=True)
    axes.set_yticks([r - 0.5 for r in range(1, h)], minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(False)
    axes.grid(which="minor", color=PALE, lw=0.8)
    axes.set_axisbelow("line")  # the grid over the pixels and under what is drawn on them
    if numbers:
        for r in range(h):
            for c in range(w):
                axes.text(c, r, format(values[r, c], numbers), ha="center", va="center", color=INK, fontsize=FONT - 1)


def show(picture: Figure, alt: str) -> None:
    """Show a figure. alt: what is to be seen on it, for those who do not see it; it must say the point of the picture."""
    if not alt.strip():
        raise ValueError("show: alt is empty; say in a sentence what the picture shows")
    store = io.BytesIO()
    picture.savefig(store, format="png", metadata={"Software": None})  # the same bytes on every machine
    data = base64.b64encode(store.getvalue()).decode("ascii")
    publish({"image/png": data, "text/plain": f"[Picture: {alt}]"}, {"image/png": {"alt": alt}})
    if _in_notebook():  # JupyterLab and GitHub do not pass a picture's alt on
        told = f'<details class="alt"><summary>What the picture shows</summary><p>{html.escape(alt)}</p></details>'
        publish({"text/html": told, "text/plain": ""})


def interactive(name: str, data: Mapping[str, Any], *, alt: str, height: int) -> None:
    """Show the interactive figure `name` (a page in minidat/tutorial/interactive) in a frame of its own.

    The page holds `/*DATA*/` where `data` goes in as JSON; it may ask for nothing from outside. What `frame.html` holds is
    added: it fits the frame's height to its content, and darkens it on dark pages. alt: the frame's title. height: of the
    frame at first, in CSS pixels.
    """
    page = (INTERACTIVE / f"{name}.html").read_text("utf-8")
    if page.count("/*DATA*/") != 1 or page.count("</body>") != 1:
        raise ValueError(f"interactive figure {name!r}: its page must hold /*DATA*/ and </body> once")
    page = page.replace("</body>", (INTERACTIVE / "frame.html").read_text("utf-8") + "</body>")
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    frame = (
        f'<iframe class="minidat-figure" title="{html.escape(alt)}" style="width:100%;height:{height}px;border:0" '
        f'srcdoc="{html.escape(page.replace("/*DATA*/", text))}"></iframe>'
    )
    publish({"text/html": frame, "text/plain": f"[Interactive figure: {alt}]"})
