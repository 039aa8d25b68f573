"""Where random numbers come from: drawn on the host, whatever the device, as a function of seed, purpose and position."""

from __future__ import annotations

import numpy as np

ORDER, AUGMENT, NOISE, PICTURE = range(4)  # purposes of random numbers


def generator(seed: int, purpose: int, *position: int) -> np.random.Generator:
    """Random numbers for one purpose at one position of a run."""
    return np.random.default_rng([seed, purpose, *position])
