"""Modules, which find their parameters among their attributes, and the layers that all models use.

There is no training or evaluation mode. A forward pass with a random generator, `model(x, rng=rng)`, is a training pass: drop
path draws from it. A pass without one is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from minidat import ops
from minidat.autograd import Tensor
from minidat.autograd.backend import like, to_device
from minidat.fast import cuda
from minidat.ops.checks import check_whole


class Module:
    """A part of a network. Its parameters are the Tensors among its attributes that require a gradient; the other Tensors are
    its buffers (constants). Those of Modules and lists of Modules among its attributes belong to it too. Names are the
    attribute paths, joined by dots.

    `inline`: attributes that these paths leave out: "table" is then the name of `position.table`.
    """

    inline: tuple[str, ...] = ()

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **options: Any) -> Any: ...

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every Tensor with its name, in the order in which attributes were set."""
        for name, value in vars(self).items():
            children = enumerate(value) if isinstance(value, list) else [(None, value)]
            for i, child in children:
                path = prefix + name if i is None else f"{prefix}{name}.{i}"
                if isinstance(child, Tensor):
                    yield path, child
                elif isinstance(child, Module):
                    yield from child.tensors(prefix if name in self.inline else path + ".")

    def parameters(self) -> dict[str, Tensor]:
        """Name → Tensor, of the Tensors that require a gradient."""
        return {name: t for name, t in self.tensors() if t.requires_grad}

    def running(self) -> dict[str, Tensor]:
        """Name → Tensor, of the running statistics: constants that training passes change; a checkpoint must hold them."""
        return {name: t for name, t in self.tensors() if isinstance(t, Running)}

    def to(self, *, dtype: Any = None, device: str | None = None) -> Self:
        """Convert parameters and running statistics in place to a dtype, and these and buffers to "cpu" or "gpu". Returns self.

        The first "gpu" enables the CUDA kernels."""
        if device == "gpu":
            cuda.install()
        for _, t in self.tensors():
            if device is not None:
                t.data = to_device(t.data, device)
            if dtype is not None and (t.requires_grad or isinstance(t, Running)):
                t.data = t.data.astype(dtype)
        return self

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy arrays into the parameters and running statistics of the same names, on whatever device those are. Raises KeyError
        for one without an array, ValueError for one of another shape."""
        for name, t in (self.parameters() | self.running()).items():
            if arrays[name].shape != t.shape:
                raise ValueError(f"{name}: has shape {arrays[name].shape}, the model needs {t.shape}")
            t.data[...] = like(arrays[name], t.data)


class Running(Tensor):
    """A constant that training passes change in place, as the mean and variance of a batch norm."""

    __slots__ = ()


def parameter(array: np.ndarray) -> Tensor:
    """A trained Tensor, float32."""
    return Tensor(array.astype(np.float32), requires_grad=True)


def uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Tensor:
    """U(−1/√fan_in, 1/√fan_in), as the released model's weights and biases start (its own initialisation never runs)."""
    bound = fan_in**-0.5
    return parameter(rng.uniform(-bound, bound, shape))


def table(rng: np.random.Generator, shape: tuple[int, ...], sigma: float = 0.01) -> Tensor:
    """A position table: normal with σ = 0.01, as released (its truncation at ±2 is 200 σ away and never happens)."""
    return parameter(rng.normal(0.0, sigma, shape))


class Linear(Module):
    """y = x W + b, W (C_in, C_out)."""

    def __init__(self, c_in: int, c_out: int, *, rng: np.random.Generator, bias: bool = True):
        check_whole("Linear", c_in=c_in, c_out=c_out)
        self.weight = uniform(rng, (c_in, c_out), c_in)
        self.bias = uniform(rng, (c_out,), c_in) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class LayerNorm(Module):
    """y = γ x̂ + β over the last axis, ε = 1e-5 as released."""

    def __init__(self, c: int):
        check_whole("LayerNorm", c=c)
        self.gamma = parameter(np.ones(c))
        self.beta = parameter(np.zeros(c))

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.gamma, self.beta)


class Conv2d(Module):
    """k×k convolution, W (k, k, C_in, C_out)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        rng: np.random.Generator,
        stride: int = 1,
        padding: int = 0,
        bias=True,
    ):
        check_whole("Conv2d", c_in=c_in, c_out=c_out, kernel=kernel, stride=stride)
        check_whole("Conv2d", 0, padding=padding)
        fan_in = kernel * kernel * c_in
        self.weight = uniform(rng, (kernel, kernel, c_in, c_out), fan_in)
        self.bias = uniform(rng, (c_out,), fan_in) if bias else None
        self.stride, self.padding = stride, padding

    def __call__(self, x: Tensor) -> Tensor:
        return ops.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


class DepthwiseConv2d(Module):
    """k×k convolution of each channel, W (k, k, C), padded by k // 2."""

    def __init__(self, c: int, kernel: int, *, rng: np.random.Generator, stride: int = 1):
        check_whole("DepthwiseConv2d", c=c, kernel=kernel, stride=stride)
        self.weight = uniform(rng, (kernel, kernel, c), kernel * kernel)
        self.bias = uniform(rng, (c,), kernel * kernel)
        self.stride = stride

    def __call__(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[0] // 2
        return ops.depthwise_conv(x, self.weight, self.bias, stride=self.stride, padding=padding)


class MLP(Module):
    """y = GELU(x W₁ + b₁) W₂ + b₂, with a hidden layer `expansion` times as wide."""

    def __init__(self, c: int, *, rng: np.random.Generator, expansion: int = 4):
        check_whole("MLP", c=c, expansion=expansion)
        self.hidden = Linear(c, expansion * c, rng=rng)
        self.out = Linear(expansion * c, c, rng=rng)

    def __call__(self, x: Tensor) -> Tensor:
        return ops.mlp(x, self.hidden.weight, self.hidden.bias, self.out.weight, self.out.bias)


class ConvMLP(Module):
    """y = GELU(h + DWConv₃ₓ₃(h)) W₂ + b₂ with h = x W₁ + b₁, as in DAT++; without `residual` GELU(DWConv₃ₓ₃(h)), released
    v1's option. On maps (B, H, W, C)."""

    def __init__(self, c: int, *, rng: np.random.Generator, expansion: int = 4, residual: bool = True):
        check_whole("ConvMLP", c=c, expansion=expansion)
        self.hidden = Linear(c, expansion * c, rng=rng)
        self.conv = DepthwiseConv2d(expansion * c, 3, rng=rng)
        self.out = Linear(expansion * c, c, rng=rng)
        self.residual = residual

    def __call__(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        mixed = self.conv(h)
        return self.out(ops.gelu(h + mixed if self.residual else mixed))


class LayerScale(Module):
    """y = γ x, γ (C). It starts at `value`, near 0, so that a residual branch has little effect at first."""

    def __init__(self, c: int, value: float):
        self.gamma = parameter(np.full(c, value))

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(Module):
    """In training, drops each sample's residual branch with probability `rate`, in [0, 1), and divides the kept ones by
    1 − rate (stochastic depth)."""

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"DropPath: rate is {rate}; it must be in [0, 1)")
        self.rate = rate

    def __call__(self, x: Tensor, rng: np.random.Generator | None) -> Tensor:
        return ops.drop_path(x, rate=self.rate, rng=rng) if rng is not None and self.rate else x
