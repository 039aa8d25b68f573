"""The layers of `torch_dat.py`. Maps are (B, H, W, C); parameters have the names and shapes of released checkpoints."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Layer norm of the last axis, eps 1e-5, under the released name `.norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1×1 convolution, without moving axes."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def depthwise(dim: int, k: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, k, stride, k // 2 if padding is None else padding, groups=dim)


def embed(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Convolutions, layer norms and activations in turn."""
    for layer in layers:
        x = convolve(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
    return x


FUSED = False
"""Whether `attend` is `F.scaled_dot_product_attention`. To be set before a network is compiled."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v: q (..., N, d), k and v (..., Ns, d), bias broadcasting to (..., N, Ns)."""
    if FUSED:
        return _fused_attention(q, k, v, bias)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits += bias
    return logits.softmax(-1) @ v


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The same by PyTorch's own function, which has its fast kernels for four axes only. Windows become heads, so that all
    images share a bias that has no axis of images."""
    if bias is not None:
        images = bias.shape[0] if bias.ndim == q.ndim else 1
        bias = bias.expand(images, *q.shape[1:-1], k.shape[-2]).flatten(1, -3)
    flat = (t.flatten(1, -3) for t in (q, k, v))  # (B, windows · heads, N, d)
    return F.scaled_dot_product_attention(*flat, attn_mask=bias).unflatten(1, q.shape[1:-2])


class MLP(nn.Module):
    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        linear1, linear2 = nn.Linear(dim, expansion * dim), nn.Linear(expansion * dim, dim)
        self.chunk = nn.Sequential(OrderedDict(linear1=linear1, act=nn.GELU(), linear2=linear2))

    def forward(self, x: Tensor) -> Tensor:
        return self.chunk(x)


class ConvMLP(nn.Module):
    """A depthwise 3×3 between the two layers; version 2 adds its input to it and wraps both layers in a list."""

    def __init__(self, dim: int, expansion: int, version: int) -> None:
        super().__init__()
        self.version = version
        linear1, linear2 = nn.Conv2d(dim, expansion * dim, 1), nn.Conv2d(expansion * dim, dim, 1)
        self.linear1 = nn.Sequential(linear1) if version == 2 else linear1
        self.linear2 = nn.Sequential(linear2) if version == 2 else linear2
        self.dwc = depthwise(expansion * dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.version == 1:
            return pointwise(self.linear2, F.gelu(convolve(self.dwc, pointwise(self.linear1, x))))
        hidden = pointwise(self.linear1[0], x)
        return pointwise(self.linear2[0], F.gelu(hidden + convolve(self.dwc, hidden)))


class LayerScale(nn.Module):
    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class DropPath(nn.Module):
    """In training, zeroes a sample's residual branch with probability `rate` or divides it by 1 - rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((len(x), 1, 1, 1)).bernoulli_(keep).div_(keep)
