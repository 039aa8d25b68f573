"""Drop path on the GPU: one launch forward and one backward, from the same random numbers."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.autograd import array_module
from minidat.autograd.backend import like
from minidat.fast.cuda.compile import blocks, kernels
from minidat.fast.dispatch import CUDA

THREADS = 256
MOST_IMAGES = 65535  # rows of blocks


@CUDA.implements(ops.drop_path)
def drop_path(x, *, rate: float, rng: np.random.Generator):
    """y_b = x_b·keep_b/(1 − rate); see `ops.drop_path`."""
    if not x.ndim or not 0 <= rate < 1 or len(x) > MOST_IMAGES:
        return NotImplemented  # the plain op raises the error
    batch, size = len(x), x.size // len(x)
    u = like(rng.random((batch,) + (1,) * (x.ndim - 1), np.float32), x)

    def kept(array):
        y = array_module(x).empty_like(x)
        arguments = array, u, size, float(rate), float(1 - rate), y
        kernels("dropout.cu", x).launch("drop_path", (blocks(size, THREADS), batch), THREADS, *arguments)
        return y

    return kept(x), lambda dy: (kept(array_module(x).ascontiguousarray(dy)),)
