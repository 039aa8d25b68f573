"""Receptive fields from gradients: how much the output at a query depends on each pixel of the map."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import nn
from minidat.autograd import Tensor
from minidat.autograd.backend import array_module, asnumpy
from minidat.autograd.engine import gradients


def receptive_field(
    module: nn.Module, x: Any, query: tuple[int, int], *, rng: np.random.Generator, draws: int = 8
) -> np.ndarray:
    """s(p) = mean over random dy of Σ_c |Σ_d dy_d · ∂y_d(query) / ∂x_c(p)|

    module: from (B, H, W, C) to (B, H, W, C); its output for an image must not depend on other images of the batch, since all
    draws are computed as one batch of copies of x. x: one map (H, W, C). query: (row, col). dy: `draws` vectors of normal
    numbers. Returns (H, W) float64: 0 for a pixel on which the query's output does not depend at all. Raises ValueError for an
    x that is no map and for a query outside it.
    """
    if x.ndim != 3:
        raise ValueError(f"receptive_field: x must be one map (H, W, C), got {x.shape}")
    (h, w, _), (row, col), xp = x.shape, query, array_module(x)
    if not (0 <= row < h and 0 <= col < w):
        raise ValueError(f"receptive_field: query {query} is outside the map of {h}×{w}")
    copies = Tensor(xp.repeat(x[None], draws, axis=0), requires_grad=True)
    y = module(copies)
    dy = xp.zeros(y.shape, y.dtype)
    dy[:, row, col] = xp.asarray(rng.normal(size=(draws, y.shape[-1])).astype(y.dtype.name))
    (dx,) = gradients(y, [copies], dy)
    return np.zeros((h, w)) if dx is None else asnumpy(abs(dx).sum(-1).mean(0)).astype(np.float64)
