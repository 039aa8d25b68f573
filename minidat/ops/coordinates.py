"""Coordinates: how pixels are counted, in the paper's normalised units, in those of Deformable DETR, and after a convolution."""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module


def to_pixels(normalised: Any, size: int) -> Any:
    """DAT's normalised [−1, 1] → pixels 0 … size−1 of a map: −1 is the centre of the first pixel, +1 that of the last."""
    return (normalised + 1) * ((size - 1) / 2)


def to_normalised(pixels: Any, size: int) -> Any:
    """The inverse of `to_pixels`. On a map of one pixel everything is at −1."""
    return pixels * (2 / max(size - 1, 1)) - 1


def edges_to_pixels(locations: Any, size: tuple[int, int]) -> Any:
    """loc · (H, W) − ½: locations (…, 2) in [0, 1] → pixels                              Deformable DETR, `ms_deform_attn`

    0 is the outer edge of the first pixel and 1 that of the last, so the centre of pixel i is at (i + ½)/H. (DAT's −1 and
    1 are the centres of the first and last pixel.)
    """
    return locations * array_module(locations).asarray(size, dtype=locations.dtype) - 0.5


def output_size(n: int, kernel: int, stride: int, padding: int) -> int:
    """⌊(n + 2·padding − kernel)/stride⌋ + 1: how many positions a kernel has along an axis of n pixels."""
    return (n + 2 * padding - kernel) // stride + 1
