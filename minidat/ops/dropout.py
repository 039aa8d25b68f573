"""Noise that trains: dropout of elements and of channels, drop path of whole residual branches. All keep the expected value."""

from __future__ import annotations

import numpy as np

from minidat.autograd.backend import like
from minidat.autograd.engine import op
from minidat.ops.checks import check_floating


def _drop(name: str, x, rate: float, rng: np.random.Generator, shape: tuple[int, ...]):
    check_floating(name, x)
    if not 0 <= rate < 1:
        raise ValueError(f"{name}: rate {rate} must lie in [0, 1)")
    kept = (rng.random(shape, np.float32) >= rate).astype(x.dtype) / (1 - rate)
    mask = like(kept.astype(x.dtype), x)
    return x * mask, lambda dy: (dy * mask,)


@op("... -> ...")
def dropout(x, *, rate: float, rng: np.random.Generator):
    """y = x·mask/(1 − rate), each element zero with probability `rate`. The mask is drawn on the host from `rng`."""
    return _drop("dropout", x, rate, rng, x.shape)


@op("... -> ...")
def drop_path(x, *, rate: float, rng: np.random.Generator):
    """y_b = x_b·keep_b/(1 − rate): each sample's whole branch zero with probability `rate` (stochastic depth)."""
    return _drop("drop_path", x, rate, rng, (x.shape[0],) + (1,) * (x.ndim - 1))


@op("b h w c -> b h w c")
def drop_channels(x, *, rate: float, rng: np.random.Generator):
    """y_bc = x_bc·keep_bc/(1 − rate): whole channels of an image zero with probability `rate`, at all of its places."""
    return _drop("drop_channels", x, rate, rng, (x.shape[0], 1, 1, x.shape[-1]))
