"""Cross-entropy on the GPU: a warp for each image's logits, and one block that adds up."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import WARP, blocks, kernels
from minidat.fast.dispatch import CUDA

THREADS = 256


@CUDA.implements(ops.cross_entropy, constants=(1,))
def cross_entropy(logits, targets, *, smoothing: float = 0.0):
    """L = −(1/B) Σ_b Σ_k t_bk ln softmax(x_b)_k; see `ops.cross_entropy`."""
    xp, cuda, (b, k) = array_module(logits), kernels("cross_entropy.cu", logits), logits.shape
    grid, sizes = blocks(b, THREADS // WARP), (b, k, float(smoothing))
    rows, loss = xp.empty(b, logits.dtype), xp.empty((), logits.dtype)
    cuda.launch("cross_entropy", grid, THREADS, logits, targets, *sizes, rows)
    cuda.launch("mean_loss", 1, THREADS, rows, b, loss)

    def vjp(dy):
        dx = xp.empty_like(logits)
        cuda.launch("cross_entropy_vjp", grid, THREADS, logits, targets, xp.ascontiguousarray(dy), *sizes, dx)
        return dx, None

    return loss, vjp
