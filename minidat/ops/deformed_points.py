"""Deformed points, equation (7): a reference point and its offset, kept near or inside the map."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.checks import check_floating

LIMITS = ("tanh", "squash", "clamp", "none")


@op("b g n 2, n 2 -> b g n 2")
def deformed_points(offsets, reference, *, limit: str, amplitude: tuple[float, float], size: tuple[int, int]):
    """p + Δp in pixels, with Δp ← s·tanh(Δp)                                                            DAT eq. (7)

    offsets (B, G, N, 2) from θ_offset; reference (N, 2), normalised, a constant. `limit` keeps points near or inside:
    "tanh" p + amplitude·tanh(Δp), the paper's; "squash" tanh(p + Δp), released v1 with s < 0; "clamp" p + Δp cut to
    [−1, 1], released v2 with s < 0 (no gradient through a cut coordinate; ±1 itself is not cut, as in
    PyTorch); "none" p + Δp. amplitude: s in normalised units for rows and columns. size: (H, W) of the map that is
    sampled. Raises ValueError for another `limit`.
    """
    check_floating("deformed_points", offsets)
    xp = array_module(offsets)
    reference = reference.astype(offsets.dtype, copy=False)
    scale = xp.asarray([(n - 1) / 2 for n in size], dtype=offsets.dtype)  # pixels in one normalised unit
    if limit == "tanh":
        reach = xp.asarray(amplitude, dtype=offsets.dtype)
        t = xp.tanh(offsets)
        points, slope = reference + reach * t, reach * (1 - t * t)
    elif limit == "squash":
        points = xp.tanh(reference + offsets)
        slope = 1 - points * points
    elif limit == "clamp":
        free = reference + offsets
        points = xp.clip(free, -1, 1)
        slope = ((free >= -1) & (free <= 1)).astype(offsets.dtype)
    elif limit == "none":
        points, slope = reference + offsets, None
    else:
        raise ValueError(f"deformed_points: limit {limit!r} is unknown; choose from {', '.join(LIMITS)}")
    slope = scale if slope is None else slope * scale
    return (points + 1) * scale, lambda dpoints: (dpoints * slope, None)
