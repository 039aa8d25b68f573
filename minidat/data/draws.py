"""Random numbers that are a function of a key and a position alone, so that an image does not depend on its batch."""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: a bijection of uint64 that turns a counter into random bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def root(seed: int, split: int) -> np.ndarray:
    """The key of a data set's split, uint64 (1,)."""
    return mix(mix(np.array([seed & (2**64 - 1)], np.uint64)) + np.uint64(split))


def bits(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Random bits, uint64 (B, count), a function of each key, the stream and the position alone."""
    counters = (np.arange(count, dtype=np.uint64) + np.uint64(stream << 32)) * GOLDEN
    return mix(keys[:, None] + counters)


def uniform(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float32 (B, count)."""
    return (bits(keys, stream, count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
