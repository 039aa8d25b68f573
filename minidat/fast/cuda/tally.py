"""What a training step reports, added up on the GPU in one launch."""

from __future__ import annotations

from typing import Any

from minidat.fast.cuda.compile import kernels

Array = Any
THREADS = 256


def tally(loss: Array, logits: Array, targets: Array, state: Array, sums: Array, last: Array) -> None:
    """sums (2) += [B · loss, right answers] for logits and targets (B, K); last (2) = [loss, norm], unless a step before failed.

    state: of `adamw.ClippedAdamW`. sums, last: float64.
    """
    cuda = kernels("tally.cu", logits)
    cuda.launch(
        "tally", 1, THREADS, logits, targets.astype(logits.dtype, copy=False), loss, state, *logits.shape, sums, last
    )
