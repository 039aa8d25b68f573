"""The figure of receptive fields: on which pixels one query's output depends, for each attention."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from minidat import attention, nn
from minidat.analysis.receptive import receptive_field
from minidat.analysis.style import DPI, GREY, INK, save
from minidat.autograd import Tensor, no_grad
from minidat.data.shapes import IMAGE, Shapes
from minidat.models.blocks import Block
from minidat.models.config import StageConfig
from minidat.models.mixers import mixer
from minidat.models.pyramid import Stage

SIDE, DIM, HEADS, QUERY = 28, 48, 3, (12, 17)
WINDOW, KERNEL, REDUCTION, OFFSETS = 7, 7, 4, attention.Offsets(stride=4, kernel=7)
NORM, NOTHING = LogNorm(1e-5, 1e-1, clip=True), 1e-12
"""NORM: colours of a pixel's share. NOTHING: a smaller share counts as none (a mask of −100 leaves e⁻¹⁰⁰ ≈ 10⁻⁴⁴)."""
COLOURS, POINT = "viridis_r", "#d55e00"

CAPTION = (
    "How much the output at a query (star) depends on each pixel of its map: Σ over channels of |∂y(query)/∂x(pixel)| for random "
    "directions of y, as a share of the panel’s sum. White pixels have no influence; the number over a panel counts the others.",
    "All weights are random, also those of the offsets: the figure shows how far each attention can reach, not what a trained "
    "one attends to. The map is 28×28 pixels of the image above, after a 3×3 convolution with random weights and a layer norm; "
    "48 channels, 3 heads.",
    "Orange rings: the points that are read. In DCN and Deformable DETR they belong to this query. In DAT all queries share "
    "them; faint pixels there move the points through the offset network. Pairs are whole blocks with residuals and MLPs; "
    "DAT++’s blocks are drawn without their other convolutions.",
)


@dataclass(frozen=True)
class Panel:
    """One attention. `points`: from a record, the (n, 2) points that the query reads."""

    title: str
    note: str
    module: nn.Module
    points: Callable[[dict], np.ndarray] | None = None


def receptive_fields_figure(out: Path, *, seed: int = 0, draws: int = 16) -> None:
    """Eight single attentions, and four pairs of blocks as models stack them, as a PNG. seed: of all weights; draws: see
    `receptive_field`."""
    rng = np.random.default_rng(seed)
    image = _image()
    x = feature_map(image, rng)
    sheet = _Sheet()
    sheet.image(image)
    for i, panel in enumerate([*_singles(rng), *_pairs(rng)]):
        field = receptive_field(panel.module, x, QUERY, rng=rng, draws=draws)
        sheet.field(i, panel, field / field.sum(), _points(panel, x))
    save(sheet.figure, out)


def feature_map(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Image (H, W, 3), uint8 → (H, W, C), float32: a 3×3 convolution with random weights, then layer norm."""
    pixels = (image / 255 - 0.3).astype(np.float32)
    with no_grad():
        return nn.LayerNorm(DIM)(nn.Conv2d(3, DIM, 3, padding=1, rng=rng)(Tensor(pixels[None]))).data[0]


def _image() -> np.ndarray:
    """The middle of a test image of the shapes data."""
    cut = (IMAGE - SIDE) // 2
    return Shapes("test").batch([5])[0][0, cut : cut + SIDE, cut : cut + SIDE]


def _singles(rng: np.random.Generator) -> list[Panel]:
    size, w = (SIDE, SIDE), WINDOW
    cell = QUERY[0] * SIDE + QUERY[1]
    dcn = attention.DeformableConv2d(DIM, DIM, 3, rng=rng)
    detr = attention.DeformableSelfAttention(DIM, HEADS, rng=rng)
    _randomise([dcn.offset, dcn.modulation], 0.1, rng)
    _randomise([detr.attention.offset, detr.attention.weigh], 0.15, rng)
    keys = f"{SIDE // REDUCTION}×{SIDE // REDUCTION} keys"
    return [
        Panel("ViT", "full attention", attention.MultiHeadSelfAttention(DIM, HEADS, rng=rng)),
        Panel(
            "PVT",
            f"{keys}, each of {REDUCTION}×{REDUCTION} pixels",
            attention.SpatialReductionAttention(DIM, HEADS, reduction=REDUCTION, rng=rng),
        ),
        Panel("Swin", f"{w}×{w} windows", attention.WindowAttention(DIM, HEADS, window=w, size=size, rng=rng)),
        Panel(
            "Swin, shifted",
            f"{w}×{w} windows, shifted by {-(-w // 2)}",
            attention.WindowAttention(DIM, HEADS, window=w, size=size, shift=-(-w // 2), rng=rng),
        ),
        Panel(
            "NAT", f"{KERNEL}×{KERNEL} neighbours", attention.NeighborhoodAttention(DIM, HEADS, kernel=KERNEL, rng=rng)
        ),
        Panel("DCN", "3×3 taps with offsets", dcn, lambda record: record["points"][0, :, cell * 9 : cell * 9 + 9]),
        Panel(
            "Deformable DETR",
            "3 heads × 4 points",
            detr,
            lambda record: record["points"][0, :, cell * 4 : cell * 4 + 4],
        ),
        Panel("DAT", f"{keys}, the same for all queries", _dat(rng), _all_points),
    ]


def _pairs(rng: np.random.Generator) -> list[Panel]:
    return [
        Panel("Swin pair", "windows, then shifted", _stack("LS", rng)),
        Panel("NAT pair", "neighbours, twice", _stack("NN", rng)),
        Panel("DAT pair", "windows, then shared points", _stack("LD", rng), _all_points),
        Panel("DAT++ pair", "neighbours, then shared points", _stack("ND", rng), _all_points),
    ]


def _dat(rng: np.random.Generator) -> attention.DeformableAttention:
    return attention.DeformableAttention(DIM, HEADS, OFFSETS, size=(SIDE, SIDE), rng=rng)


def _stack(letters: str, rng: np.random.Generator) -> Stage:
    """Whole blocks, with residuals and MLPs."""
    stage = StageConfig(DIM, HEADS, tuple(letters), window=WINDOW, neighborhood=KERNEL, offsets=OFFSETS)
    return Stage([Block(mixer(letter, stage, (SIDE, SIDE), "paper", rng), stage, 0.0, rng) for letter in letters])


def _randomise(layers: Sequence[Any], sigma: float, rng: np.random.Generator) -> None:
    """Gives layers random weights; those that predict offsets start from zeros."""
    for layer in layers:
        layer.weight.data[...] = rng.normal(0.0, sigma, layer.weight.shape)


def _all_points(record: dict) -> np.ndarray:
    return record["points"][0]


def _points(panel: Panel, x: np.ndarray) -> np.ndarray:
    """(n, 2), (row, col) in pixels: the points that the query reads; in a stack of blocks, those of the last one."""
    if panel.points is None:
        return np.empty((0, 2))
    record: dict = {}
    with no_grad():
        panel.module(Tensor(x[None]), record=record)
    return panel.points(record.get(1, record)).reshape(-1, 2)


class _Sheet:
    """The page, in inches from its top left: a column with the image, the scale and the caption; 3 rows of 4 panels."""

    LEFT, PANEL, GAP, HEAD, ROW = 3.15, 2.15, 0.14, 0.95, 2.72

    def __init__(self):
        self.width, self.height = self.LEFT + 4 * (self.PANEL + self.GAP) + 0.1, self.HEAD + 3 * self.ROW
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor="white")
        self.write(0.25, 0.2, "What one query sees", fontsize=17, fontweight="bold")
        self.write(
            0.25, 0.55, "Receptive fields of eight attentions and of four pairs of blocks", fontsize=10.5, color=GREY
        )
        scale = self.figure.add_axes(self._place(0.35, self.HEAD + self.ROW + 0.28, 2.3, 0.14))
        bar = self.figure.colorbar(ScalarMappable(NORM, COLOURS), cax=scale, orientation="horizontal")
        bar.ax.tick_params(colors=GREY, labelcolor=INK, labelsize=8)
        self.write(0.25, self.HEAD + self.ROW, "share of one pixel", fontsize=9.5)
        text = "\n\n".join(textwrap.fill(part, 42) for part in CAPTION)
        self.write(0.25, self.HEAD + self.ROW + 0.85, text, fontsize=8.6, color=INK, linespacing=1.4)

    def _place(self, x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        style = {"color": INK, "va": "top"} | style
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def image(self, image: np.ndarray) -> None:
        axes = self._axes(0.25, self.HEAD + 0.42)
        axes.imshow(image, interpolation="nearest")
        self.write(0.25, self.HEAD, "The image", fontsize=11, fontweight="bold")
        self.write(0.25, self.HEAD + 0.2, "and the query", fontsize=8.6, color=GREY)

    def field(self, i: int, panel: Panel, share: np.ndarray, points: np.ndarray) -> None:
        x, y = self.LEFT + (i % 4) * (self.PANEL + self.GAP), self.HEAD + (i // 4) * self.ROW
        axes = self._axes(x, y + 0.42)
        seen = share > NOTHING
        axes.imshow(np.ma.masked_where(~seen, share), norm=NORM, cmap=COLOURS, interpolation="nearest")
        axes.plot(points[:, 1], points[:, 0], "o", ms=3.4, mec=POINT, mfc="none", mew=0.9)
        self.write(x, y, panel.title, fontsize=11, fontweight="bold")
        self.write(x, y + 0.2, panel.note, fontsize=8.6, color=GREY)
        self.write(x + self.PANEL, y + 0.03, f"{seen.sum()} pixels", fontsize=8.6, ha="right")

    def _axes(self, x: float, y: float) -> Axes:
        axes = self.figure.add_axes(self._place(x, y, self.PANEL, self.PANEL))
        axes.set(xlim=(-0.5, SIDE - 0.5), ylim=(SIDE - 0.5, -0.5), xticks=[], yticks=[])
        axes.spines[:].set_color(GREY)
        axes.plot(QUERY[1], QUERY[0], "*", ms=11, color="white", mec=INK, mew=0.9, zorder=5)
        return axes
