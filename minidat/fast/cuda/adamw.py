"""Clipping by the gradient's norm and AdamW on the GPU: three launches, and no copy to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidat.autograd import array_module
from minidat.fast.cuda.compile import blocks, kernels

Array = Any
THREADS = 256
SUMS = 512  # at most so many blocks that square and sum; one more block adds their results


class ClippedAdamW:
    """One step for flat arrays θ, m and v of n numbers; see `training.optim.AdamW`.

    launches: (elements, how many of them, the first ones, decay, number of their learning rate) of each part of the arrays;
        what is in none does not move.
    scalars: (4·rates) in θ's dtype: [rate, floor, kept, max_norm] of the next step for each learning rate. The caller fills
        it before `step`:
        rate = lr √(1 − β₂ᵗ)/(1 − β₁ᵗ), floor = ε √(1 − β₂ᵗ), kept = 1 − lr·λ, max_norm = ∞ for no clipping.
    state: (3) float64: [the last gradient's norm, the first step at which it was not finite or −1, steps taken].
        From that step on θ, m and v do not change; steps are still counted.

    These arrays are never replaced, so a CUDA graph may contain `step`.
    """

    def __init__(
        self,
        theta: Array,
        m: Array,
        v: Array,
        launches: Sequence[tuple[slice, int, int]],
        *,
        betas: tuple[float, float],
    ):
        xp = array_module(theta)
        self.theta, self.m, self.v, self.launches, self.betas = theta, m, v, launches, betas
        self.scalars = xp.zeros(4 * (1 + max(rate for *_, rate in launches)), theta.dtype)
        self.state = xp.zeros(3, xp.float64)
        self._sums = xp.empty(min(SUMS, blocks(theta.size, THREADS)), xp.float64)
        self._kernels = kernels("adamw.cu", theta)
        self.restart(0)

    def restart(self, steps: int) -> None:
        """Count steps from here, and forget a norm that was not finite."""
        self.state[...] = array_module(self.state).asarray([0.0, -1.0, float(steps)])

    def step(self, grad: Array) -> None:
        """Clip `grad`, like θ and C-contiguous, and step, as `scalars` says. `grad` itself is not changed."""
        n, count, (b1, b2) = self.theta.size, self._sums.size, self.betas
        self._kernels.launch("square_sums", count, THREADS, grad, n, self._sums)
        self._kernels.launch("gradient_norm", 1, THREADS, self._sums, count, self.state)
        betas = float(b1), float(1 - b1), float(b2), float(1 - b2)
        for part, decayed, rate in self.launches:
            count, scalars = part.stop - part.start, self.scalars[4 * rate : 4 * rate + 4]
            g, theta, m, v = (flat[part] for flat in (grad, self.theta, self.m, self.v))
            arrays = scalars, self.state, theta, m, v
            self._kernels.launch("adamw", blocks(count, THREADS), THREADS, g, count, decayed, *betas, *arrays)

    @property
    def norm(self) -> Array:
        """The last gradient's norm before clipping: an array of no axis, on the device."""
        return self.state[0]

    def bad_step(self) -> int | None:
        """The first step at which the norm was not finite, counted from 1; None while there was none. Reads the device."""
        step = int(self.state[1])
        return step if step >= 0 else None
