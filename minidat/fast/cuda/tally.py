"""What a training step reports, added up on the GPU."""

from __future__ import annotations

from typing import Any

from minidat.fast.cuda.compile import kernels

Array = Any
THREADS = 256


def tally(loss: Array, logits: Array, targets: Array, parts: int, of_batch: Array, sums: Array) -> None:
    """sums (2) += [B · loss, right answers] for logits and targets (B, K), and of_batch () += loss / parts. Both float64."""
    targets = targets.astype(logits.dtype, copy=False)
    arguments = logits, targets, loss, *logits.shape, parts, of_batch, sums
    kernels("tally.cu", logits).launch("tally", 1, THREADS, *arguments)


def report(loss: Array, state: Array, last: Array) -> None:
    """last (2) = [loss, norm], unless an earlier step failed; then loss () = 0. state: of `adamw.ClippedAdamW`. All float64."""
    kernels("tally.cu", last).launch("report", 1, 1, loss, state, last)
