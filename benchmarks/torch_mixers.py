"""The attentions of `torch_dat.py`: (B, H, W, C) to the same. Each also returns its points, or None where it has none.

Points are (row, column), normalised so that -1 and 1 are the centres of the first and the last pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_layers import LayerNorm, attend, convolve, depthwise, embed, pointwise

Size = tuple[int, int]


class LocalAttention(nn.Module):
    """Attention within windows, rolled by ceil(w/2) pixels if `shifted`."""

    def __init__(self, dim: int, heads: int, size: Size, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.size = heads, window, size
        self.shift = math.ceil(window / 2) if shifted else 0
        table = nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.01)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("relative_position_index", self._index(window))
        if shifted:
            self.register_buffer("attn_mask", self._mask(size, window, self.shift))
        self.proj_qkv = nn.Linear(dim, 3 * dim)
        self.proj_out = nn.Linear(dim, dim)

    @staticmethod
    def _index(w: int) -> Tensor:
        """(w², w²): the table row of the displacement from key to query."""
        row, col = torch.arange(w).repeat_interleave(w), torch.arange(w).repeat(w)
        return (row[:, None] - row + w - 1) * (2 * w - 1) + (col[:, None] - col + w - 1)

    @staticmethod
    def _mask(size: Size, w: int, shift: int) -> Tensor:
        """(windows, w², w²): -100 where query and key come from different sides of the rolled map's seam."""
        height, width = size
        region = torch.zeros(height, width)
        parts = slice(0, -w), slice(-w, -shift), slice(-shift, None)
        for i, rows in enumerate(parts):
            for j, cols in enumerate(parts):
                region[rows, cols] = 3 * i + j
        region = region.view(height // w, w, width // w, w).transpose(1, 2).reshape(-1, w * w)
        return (region[:, :, None] != region[:, None, :]) * -100.0

    def _bias(self, size: Size) -> Tensor:
        """(1 or windows, heads, w², w²)"""
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.t().reshape(1, self.heads, tokens, tokens)
        if not self.shift:
            return bias
        mask = self.attn_mask if size == self.size else self._mask(size, self.window, self.shift).to(bias)
        return bias + mask[:, None]

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        B, H, W, C = x.shape
        w, h, d = self.window, self.heads, C // self.heads
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        qkv = self.proj_qkv(x).view(B, H // w, w, W // w, w, 3, h, d)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, B, -1, h, w * w, d)
        y = attend(*qkv, self._bias((H, W)))
        y = y.view(B, H // w, W // w, h, w, w, d).permute(0, 1, 4, 2, 5, 3, 6).reshape(B, H, W, C)
        y = self.proj_out(y)
        return (y.roll((self.shift, self.shift), (1, 2)) if self.shift else y), None


class NeighborhoodAttention(nn.Module):
    """Each query attends to the k × k pixels nearest to it inside the map; smaller maps are filled up with zeros."""

    def __init__(self, dim: int, heads: int, k: int) -> None:
        super().__init__()
        self.heads, self.k = heads, k
        self.rpb = nn.Parameter(nn.init.trunc_normal_(torch.empty(heads, 2 * k - 1, 2 * k - 1), std=0.02))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def _first(self, n: int) -> Tensor:
        """(n,): where along an axis each pixel's neighbours begin."""
        return (torch.arange(n, device=self.rpb.device) - self.k // 2).clamp(0, n - self.k)

    def _bias(self, size: Size) -> Tensor:
        """(H, W, heads, 1, k²): the table at key - query."""
        shifts = (self._first(n) - torch.arange(n, device=self.rpb.device) + self.k - 1 for n in size)
        rows, cols = (shift[:, None] + torch.arange(self.k, device=self.rpb.device) for shift in shifts)
        bias = self.rpb[:, rows[:, None, :, None], cols[None, :, None, :]]  # (heads, H, W, k, k)
        return bias.permute(1, 2, 0, 3, 4).flatten(3)[..., None, :]

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, max(self.k - width, 0), 0, max(self.k - height, 0)))
        H, W = x.shape[1:3]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)  # (B, H, W, heads, d)

        def around(t: Tensor) -> Tensor:  # (B, H, W, heads, k², d)
            windows = t.unfold(1, self.k, 1).unfold(2, self.k, 1)  # (B, H-k+1, W-k+1, heads, d, k, k)
            return windows[:, self._first(H)[:, None], self._first(W)].flatten(5).transpose(-1, -2)

        y = attend(q.unsqueeze(-2), around(k), around(v), self._bias((H, W)))
        return self.proj(y.flatten(3)[:, :height, :width]), None


class PyramidAttention(nn.Module):
    """Keys and values from a map made `reduction` times coarser."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, 2 * dim, 1), nn.Conv2d(dim, dim, 1)
        if reduction > 1:
            self.proj_ds = nn.Sequential(nn.Conv2d(dim, dim, reduction, reduction), LayerNorm(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        coarse = embed(self.proj_ds, x) if hasattr(self, "proj_ds") else x
        q = pointwise(self.q, x).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = pointwise(self.kv, coarse).flatten(1, 2).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return pointwise(self.proj, attend(q, k, v, None).transpose(1, 2).reshape(x.shape)), None


def _lattice(size: Size, first: float, corner: int) -> Tensor:
    """(H, W, 2): 2 (i + first) / max(n - corner, 1) - 1 along each axis; 0 for a single point."""

    def axis(n: int) -> Tensor:
        start = 0.5 if n == 1 else first
        return 2 * (torch.arange(n, dtype=torch.float64) + start) / max(n - corner, 1) - 1

    return torch.stack(torch.meshgrid(axis(size[0]), axis(size[1]), indexing="ij"), -1)


def _limit(span: float, convention: str) -> str:
    if span > 0 or (span == 0 and convention == "v2"):
        return "tanh"
    return "clamp" if convention == "v2" else "none" if span == 0 else "squash"


def _position(c: Mapping[str, Any], i: int, convention: str) -> str | None:
    kinds = {"dwc_pes": "depthwise", "fixed_pes": "fixed", "log_cpb": "log", "use_pes": "relative"}
    kind = next(kind for name, kind in kinds.items() if name in c and c[name][i]) if c["use_pes"][i] else None
    return kind if kind == "depthwise" or not (convention == "v2" and c["no_offs"][i]) else None


class DeformableAttention(nn.Module):
    """Queries attend to keys and values read at learned points.

    `forward` also returns the points and their references, (B, G, Hk, Wk, 2) each. Without offsets, version 2 takes
    keys and values from means of stride × stride pixels.
    """

    def __init__(self, c: Mapping[str, Any], i: int, size: Size, convention: str) -> None:
        super().__init__()
        dim, self.span, self.convention, self.size = c["dims"][i], c["offset_range_factor"][i], convention, size
        k = c["ksizes"][i] if "ksizes" in c else (9, 7, 5, 3)[i]
        self.heads, self.groups, self.no_offset = c["heads"][i], c["groups"][i], c["no_offs"][i]
        self.limit, self.pe = _limit(self.span, convention), _position(c, i, convention)
        channels, stride = dim // self.groups, c["strides"][i]
        padding = 0 if convention == "v2" and k == stride else k // 2
        self.conv_offset = nn.Sequential(
            depthwise(channels, k, stride, padding),
            LayerNorm(channels),
            nn.GELU(),
            nn.Conv2d(channels, 2, 1, bias=False),
        ).requires_grad_(not self.no_offset)
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Conv2d(dim, dim, 1) for _ in range(4))
        if self.pe == "depthwise":
            self.rpe_table = depthwise(dim, 3)
        elif self.pe == "log":
            last = nn.Linear(32, self.heads // self.groups, bias=False)
            self.rpe_table = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), last)
        elif self.pe:
            fixed, relative = (math.prod(size), math.prod(self._keys(size))), [2 * n - 1 for n in size]
            shape = fixed if self.pe == "fixed" else relative
            self.rpe_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, *shape), std=0.01))
        for name, value in self._grids(size).items():  # float64 until they are used
            self.register_buffer(name, value, persistent=False)

    def _keys(self, size: Size) -> list[int]:
        """Hk, Wk"""
        conv = self.conv_offset[0]
        k, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        return [(n + 2 * padding - k) // stride + 1 for n in size]

    def _grids(self, size: Size) -> dict[str, Tensor]:
        keys = self._keys(size)
        corner = int(self.convention != "v1")  # coordinates count n - 1 steps, not n cells
        return {
            "scale": self.span / (torch.tensor(keys).double() - corner).clamp(min=1),
            "reference": _lattice(keys, 0.0 if self.convention == "paper" else 0.5, corner),
            "half_queries": _lattice(size, 0.0 if corner else 0.5, corner).flip(-1) * 0.5,  # (x, y)
        }

    def _grids_for(self, q: Tensor) -> list[Tensor]:
        """Scale, reference and half_queries of this map's size."""
        size = tuple(q.shape[1:3])
        grids = dict(self.named_buffers()) if size == self.size else self._grids(size)
        return [grids[name].to(q) for name in ("scale", "reference", "half_queries")]

    def _points(self, q: Tensor, scale: Tensor, reference: Tensor) -> Tensor:
        """(B, G, Hk, Wk, 2)"""
        C, G = q.shape[-1], self.groups
        spatial, norm, act, to_offset = self.conv_offset
        weight, bias = spatial.weight.repeat(G, 1, 1, 1), spatial.bias.repeat(G)  # shared by the groups
        u = F.conv2d(q.permute(0, 3, 1, 2), weight, bias, spatial.stride, spatial.padding, groups=C)
        u = u.permute(0, 2, 3, 1).unflatten(-1, (G, C // G))  # (B, Hk, Wk, G, Cg)
        offset = pointwise(to_offset, act(norm(u))).permute(0, 3, 1, 2, 4)
        if self.limit == "tanh":
            return offset.tanh() * scale + reference
        free = offset + reference
        return {"none": free, "squash": free.tanh(), "clamp": free.clamp(-1, 1)}[self.limit]

    def _bias(self, points: Tensor, half_queries: Tensor) -> Tensor | None:
        """Broadcasts to (B, heads, queries, keys)."""
        if self.pe in (None, "depthwise"):
            return None
        if self.pe == "fixed":
            return self.rpe_table
        B, G = points.shape[:2]
        displacement = half_queries.view(-1, 1, 2) - points.flip(-1).reshape(B * G, 1, -1, 2) * 0.5  # (x, y)
        if self.pe == "log":
            far = 8 * displacement.flip(-1)
            bias = self.rpe_table(far.sign() * (far.abs() + 1).log2() / 3)  # (B G, queries, keys, heads/G)
            return bias.permute(0, 3, 1, 2).reshape(B, self.heads, *displacement.shape[1:3])
        table = self.rpe_table.view(G, self.heads // G, *self.rpe_table.shape[1:])
        table = table.expand(B, -1, -1, -1, -1).flatten(0, 1)
        bias = F.grid_sample(table, displacement, align_corners=True)
        return bias.view(B, self.heads, *displacement.shape[1:3])

    def _sampled(self, x: Tensor, points: Tensor) -> Tensor:
        """(B, Hk Wk, C): what keys and values are made of."""
        B, C, G = len(x), x.shape[-1], self.groups
        if self.no_offset and self.convention == "v2":
            return F.avg_pool2d(x.permute(0, 3, 1, 2), self.conv_offset[0].stride).flatten(2).transpose(1, 2)
        maps = x.unflatten(-1, (G, C // G)).permute(0, 3, 4, 1, 2).flatten(0, 1)  # (B G, Cg, H, W)
        sampled = F.grid_sample(maps, points.reshape(B * G, 1, -1, 2).flip(-1), align_corners=True)
        return sampled.view(B, C, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        B, h = len(x), self.heads

        def split_heads(t: Tensor) -> Tensor:
            return t.view(B, -1, h, t.shape[-1] // h).transpose(1, 2)

        q = pointwise(self.proj_q, x)
        scale, reference, half_queries = self._grids_for(q)
        reference = reference.expand(B, self.groups, -1, -1, -1)
        points = reference if self.no_offset else self._points(q, scale, reference)
        sampled = self._sampled(x, points)
        k, v = pointwise(self.proj_k, sampled), pointwise(self.proj_v, sampled)
        y = attend(split_heads(q), split_heads(k), split_heads(v), self._bias(points, half_queries))
        y = y.transpose(1, 2).reshape(x.shape)
        if self.pe == "depthwise":
            y = y + convolve(self.rpe_table, q)
        return pointwise(self.proj_out, y), (points, reference)
