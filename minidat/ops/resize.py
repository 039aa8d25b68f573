"""Resizing of maps: a separable product whose matrices say where each new pixel lies on the old map."""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.bilinear import g
from minidat.ops.checks import check_floating, check_whole
from minidat.ops.separable import separable_resample

MODES = ("bilinear", "nearest")


@op("b h w c -> b i j c")
def resize(x, *, size: tuple[int, int], mode: str = "bilinear"):
    """Y = W_y X W_xᵀ, bilinear: W[i, k] = g(clip((i + ½)·n/m − ½, 0, n − 1), k);  nearest: W[i, k] = 1 where k = ⌊i·n/m⌋

    n pixels of an axis become m. x (B, H, W, C) → (B, *size, C). Pixels are squares: the outer edges of both maps coincide, so
    the centre of new pixel i lies at (i + ½)·n/m − ½ (PyTorch's align_corners=False). Beyond the outermost centres the edge is
    repeated. Raises ValueError for another mode and an empty size or map, TypeError for a map that is not floating-point.
    """
    check_resize("resize", x, size)
    if mode not in MODES:
        raise ValueError(f"resize: mode {mode!r} is unknown; choose from {', '.join(MODES)}")
    matrix = bilinear_matrix if mode == "bilinear" else nearest_matrix
    rows, cols = (matrix(array_module(x), n, m, x.dtype) for n, m in zip(x.shape[1:3], size, strict=True))
    y, vjp = separable_resample.raw(x, rows, cols)
    return y, lambda dy: vjp(dy)[:1]


def bilinear_matrix(xp: Any, n: int, m: int, dtype: Any) -> Any:
    """(m, n): row i holds g(a, 0 … n−1) at the place a of new pixel i."""
    places = (xp.arange(m, dtype=dtype) + 0.5) * (n / m) - 0.5
    return g(xp.clip(places, 0, n - 1), n)


def nearest_matrix(xp: Any, n: int, m: int, dtype: Any) -> Any:
    """(m, n): a single 1 in row i, at ⌊i·n/m⌋."""
    return ((xp.arange(m) * n // m)[:, None] == xp.arange(n)).astype(dtype)


def check_resize(name: str, x: Any, size: tuple[int, int]) -> None:
    """Raises ValueError for a size or a map without pixels, TypeError for a map that is not floating-point. `name`: the op."""
    check_whole(name, height=size[0], width=size[1])
    check_floating(name, x)
    if not x.shape[1] or not x.shape[2]:
        raise ValueError(
            f"{name}: a map of {x.shape[1]}×{x.shape[2]} has no pixels; axes 'h' and 'w' must not be empty"
        )
