"""Layers of the heads: convolutions as published ones start, norms of maps, and the two together."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor, array_module
from minidat.ops.checks import check_whole

Rng = np.random.Generator | None
Start = Callable[[np.random.Generator, tuple[int, ...]], Tensor]
NORMS = ("none", "batch", "group")


def xavier(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """U(−b, b), b = √(6/(fan in + fan out))"""
    bound = (6 / (prod(shape[:-1]) + prod(shape[:-2]) * shape[-1])) ** 0.5
    return nn.parameter(rng.uniform(-bound, bound, shape))


def kaiming(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """N(0, 2/fan out)"""
    return nn.parameter(rng.normal(0.0, (2 / (prod(shape[:-2]) * shape[-1])) ** 0.5, shape))


def gaussian(sigma: float) -> Start:
    """N(0, σ²)"""
    return lambda rng, shape: nn.parameter(rng.normal(0.0, sigma, shape))


class Conv(nn.Conv2d):
    """k×k convolution, padded so that the map keeps its size at stride 1, with a weight that `start` draws and a bias that starts
    at `offset`."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        rng: np.random.Generator,
        start: Start,
        stride: int = 1,
        bias: bool = True,
        offset: float = 0.0,
    ):
        check_whole("Conv", c_in=c_in, c_out=c_out, kernel=kernel, stride=stride)
        self.weight = start(rng, (kernel, kernel, c_in, c_out))
        self.bias = nn.parameter(np.full(c_out, offset)) if bias else None
        self.stride, self.padding = stride, kernel // 2


class Linear(nn.Linear):
    """y = x W + b, W drawn by `start`, b = 0."""

    def __init__(self, c_in: int, c_out: int, *, rng: np.random.Generator, start: Start):
        check_whole("Linear", c_in=c_in, c_out=c_out)
        self.weight = start(rng, (c_in, c_out))
        self.bias = nn.parameter(np.zeros(c_out))


class TransposedConv2d(nn.Module):
    """2×2 transposed convolution with stride 2: a map twice as high and wide. W (2, 2, C_in, C_out)."""

    def __init__(self, c_in: int, c_out: int, *, rng: np.random.Generator, start: Start):
        check_whole("TransposedConv2d", c_in=c_in, c_out=c_out)
        self.weight = start(rng, (2, 2, c_in, c_out))
        self.bias = nn.parameter(np.zeros(c_out))

    def __call__(self, x: Tensor) -> Tensor:
        return ops.transposed_conv2d(x, self.weight, self.bias)


class BatchNorm(nn.Module):
    """y = γ x̂ + β over batch and places, ε = 1e-5. With `rng`, a training pass: by the batch's own mean and variance, and the
    running ones move a tenth of the way to them, m ← 0.9 m + 0.1 m_batch, the variance with n − 1 in place of n. Without: by the
    running ones. Two training passes at a time would both move them, in an order that chance decides."""

    momentum, eps = 0.1, 1e-5

    def __init__(self, c: int):
        check_whole("BatchNorm", c=c)
        self.gamma, self.beta = nn.parameter(np.ones(c)), nn.parameter(np.zeros(c))
        self.mean, self.var = nn.Running(np.zeros(c, np.float32)), nn.Running(np.ones(c, np.float32))

    def __call__(self, x: Tensor, rng: Rng = None) -> Tensor:
        if rng is None:
            return ops.batch_norm(x, self.gamma, self.beta, self.mean, self.var, eps=self.eps)
        y = ops.batch_norm(x, self.gamma, self.beta, None, None, eps=self.eps)
        self._follow(x.data)
        return y

    def _follow(self, x) -> None:
        axes, n = tuple(range(x.ndim - 1)), prod(x.shape[:-1])
        mean = x.mean(axis=axes)
        centred = x - mean
        var = (centred * centred).sum(axis=axes) / (n - 1)
        for running, found in ((self.mean, mean), (self.var, var)):
            running.data[...] = (1 - self.momentum) * running.data + self.momentum * found


class GroupNorm(nn.Module):
    """y = γ x̂ + β over groups of 16 channels and all places, image by image, ε = 1e-5; of one group where 16 do not divide C."""

    def __init__(self, c: int):
        check_whole("GroupNorm", c=c)
        self.gamma, self.beta = nn.parameter(np.ones(c)), nn.parameter(np.zeros(c))
        self.groups = 1 if c % 16 else c // 16

    def __call__(self, x: Tensor, rng: Rng = None) -> Tensor:
        return ops.group_norm(x, self.gamma, self.beta, groups=self.groups)


class ConvUnit(nn.Module):
    """Convolution, norm, ReLU. norm: of `NORMS`; with one the convolution has no bias. Raises ValueError for another norm."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, norm: str, rng: np.random.Generator, start: Start = kaiming
    ):
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r} is unknown; choose from {', '.join(NORMS)}")
        self.conv = Conv(c_in, c_out, kernel, rng=rng, start=start, bias=norm == "none")
        self.norm = None if norm == "none" else BatchNorm(c_out) if norm == "batch" else GroupNorm(c_out)

    def __call__(self, x: Tensor, rng: Rng = None) -> Tensor:
        x = self.conv(x)
        return ops.relu(x if self.norm is None else self.norm(x, rng))


def rows_of(x: Tensor, indices: np.ndarray) -> Tensor:
    """x[indices] along the first axis, indices on the host."""
    return ops.take(x, indices=array_module(x.data).asarray(indices), axis=0)
