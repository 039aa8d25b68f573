"""JAX as a side of a comparison on the CPU: `jax_dat.py`, compiled by `jax.jit`. See `sides.py`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax_dat
import meters
import numpy as np
from cases import Case, configuration

BUFFERS = ("relative_position_index", "attn_mask")  # which jax_dat makes itself


class Jax:
    """Its threads are those of its process: see `turns.THREADS`."""

    def __init__(self, case: Case, rate: float):
        self.case, self.rate = case, rate

    def about(self) -> str:
        return f"JAX {jax.__version__}"

    def inside(self) -> ExitStack:
        return ExitStack()

    def meter(self) -> meters.Host:
        return meters.Host()

    def notes(self) -> list[str]:
        return []

    def prepare(self, folder: Path) -> None:
        """Write logits and gradients; then `run` does the case's work once."""
        config = configuration(self.case.model, self.case.image)
        weights = np.load(folder / "weights.npz")
        p = {name: jnp.asarray(weights[name]) for name in weights.files if not name.endswith(BUFFERS)}
        x, y = map(jnp.asarray, self.case.inputs(config.image, config.classes))
        forward = jax.jit(partial(jax_dat.logits, config=config))
        found = {"logits": forward(p, x)}
        self.run = lambda: jax.block_until_ready(forward(p, x))
        if self.case.work == "step":
            self.state = jax_dat.start(p)
            self.run = partial(self._step, x, y, config=config, rate=self.rate)
            self.run()
            found |= {name: m / 0.1 for name, m in self.state[1].items()}  # AdamW's first m is a tenth of the gradient
        np.savez(folder / "jax.npz", **found)

    def _step(self, x: jax.Array, y: jax.Array, **how: Any) -> None:
        self.state = jax.block_until_ready(jax_dat.step(self.state, x, y, **how))
