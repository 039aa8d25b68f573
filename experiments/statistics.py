"""Means over seeds, and what a difference between two rows may be: the interval of a paired t-test."""

from __future__ import annotations

import math
from typing import NamedTuple

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % for 1, 2, … 9 degrees of freedom. Source: any table of the distribution."""


class Mean(NamedTuple):
    """The mean of `count` values, and their spread: the standard deviation of a sample, NaN for one value."""

    value: float
    spread: float
    count: int


def mean(values: list[float]) -> Mean:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("mean: there are no values")
    centre = math.fsum(values) / len(values)
    squares = math.fsum((value - centre) ** 2 for value in values)
    return Mean(centre, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan, len(values))


def paired(ours: dict[int, float], base: dict[int, float]) -> tuple[float, float, int] | None:
    """(mean difference, half of its 95 % interval, number of seeds) over the seeds that both have; None without a common one.

    ours, base: seed → value. The half is infinite for one seed, which says nothing of the spread. Raises ValueError for more
    than ten common seeds, beyond the table of t.
    """
    seeds = sorted(ours.keys() & base.keys())
    if not seeds:
        return None
    if len(seeds) > len(T95) + 1:
        raise ValueError(f"paired: {len(seeds)} seeds, the table of t ends at {len(T95) + 1}")
    difference = mean([ours[seed] - base[seed] for seed in seeds])
    if len(seeds) == 1:
        return difference.value, math.inf, 1
    return difference.value, T95[len(seeds) - 2] * difference.spread / math.sqrt(len(seeds)), len(seeds)
