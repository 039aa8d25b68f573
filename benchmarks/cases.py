"""What is compared: networks, batches and work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidat.models import Config, Pyramid, create
from minidat.models.zoo import stages


@dataclass(frozen=True)
class Case:
    """work: "step" is forward, backward and AdamW; "forward" is inference. repeats: how often, in one turn. micro: images in
    one of our micro-batches on the CPU. together: at most so many sides hold their memory at a time."""

    name: str
    model: str
    batch: int
    work: str
    repeats: int = 1
    micro: int = 32
    together: int = 6

    def inputs(self, image: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 (B, S, S, 3) and labels (B,): noise, the same on all sides."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.batch, image, image, 3)).astype(np.float32)
        return x, rng.integers(0, classes, self.batch)


def network(name: str) -> Pyramid:
    """A model by its name, without drop path; or "tiny", to rehearse with: windows, shifted or not, and deformed points, on maps
    of 4×4 and 2×2."""
    if name != "tiny":
        return create(name, drop_path=0.0)
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    return Pyramid(Config(32, 8, 10, made), np.random.default_rng(0))


CASES = {
    "cpu": (
        Case("dat_cifar step, batch 128", "dat_cifar", 128, "step"),
        Case("dat_cifar forward, batch 256", "dat_cifar", 256, "forward"),
        Case("dat_tiny 224 forward, batch 8", "dat_tiny", 8, "forward", micro=2),
        Case("dat_tiny 224 step, batch 8", "dat_tiny", 8, "step", micro=2),
    ),
    "gpu": (  # enough repeats for a GPU to reach its clock rate
        Case("dat_cifar step, batch 128", "dat_cifar", 128, "step", repeats=50),
        Case("dat_tiny 224 step, batch 64", "dat_tiny", 64, "step", repeats=50, together=4),
        Case("dat_cifar step, batch 512", "dat_cifar", 512, "step", repeats=50),
    ),
}
