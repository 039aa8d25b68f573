"""What a training step reports, added up on the GPU."""

from __future__ import annotations

from typing import Any

from minidat.fast.cuda.compile import kernels

Array = Any
THREADS = 256


def tally(loss: Array, logits: Array, targets: Array, now: Array) -> None:
    """now (2) += [B · loss, right answers] for logits and targets (B, K); now: float64."""
    targets = targets.astype(logits.dtype, copy=False)
    kernels("tally.cu", logits).launch("tally", 1, THREADS, logits, targets, loss, *logits.shape, now)


def report(now: Array, batch: int, state: Array, sums: Array, last: Array) -> None:
    """At the end of a batch of so many images: sums (2) += now (2); last (2) = [mean loss, norm], unless an earlier step failed;
    now = 0. state: of `adamw.ClippedAdamW`. All float64."""
    kernels("tally.cu", last).launch("report", 1, 1, now, batch, state, sums, last)
