"""DAT (version 1) in eager PyTorch with torch's own operators: the benchmarks' rival and the tests' oracle.

Names and shapes of parameters and buffers are those of released checkpoints. Inside, maps are (B, H, W, C) so
that layer norms, projections and windows need no copies; images and `F.grid_sample` are channels first.
Points are (row, column), normalised so that -1 and 1 are the centres of the first and the last pixel.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVENTIONS = ("v1", "paper", "v2")


def _config(num_classes: int, dims: list[int], **rest: Any) -> dict[str, Any]:
    """The released constructor's keywords, with everything that no DAT uses switched off."""
    off = {"dwc_pes": False, "fixed_pes": False, "no_offs": False, "use_dwc_mlps": False, "sr_ratios": -1}
    per_stage = {name: [value] * len(dims) for name, value in off.items()}
    widths = {"num_classes": num_classes, "expansion": 4, "dim_stem": dims[0], "dims": dims}
    return {**widths, "use_conv_patches": False, **per_stage, **rest}


# fmt: off
DAT_CIFAR = _config(
    10, [48, 96, 192], img_size=32, patch_size=2, depths=[2, 2, 2], heads=[3, 6, 12], window_sizes=[4, 4, 4],
    groups=[-1, 2, 4], strides=[-1, 1, 1], offset_range_factor=[-1, 2, 2], ksizes=[-1, 5, 3],
    stage_spec=[["L", "S"], ["L", "D"], ["L", "D"]], use_pes=[False, True, True],
)
DAT_TINY = _config(
    1000, [96, 192, 384, 768], img_size=224, patch_size=4, depths=[2, 2, 6, 2], heads=[3, 6, 12, 24],
    window_sizes=[7, 7, 7, 7], groups=[-1, -1, 3, 6], strides=[-1, -1, 1, 1],
    offset_range_factor=[-1, -1, 2, 2], stage_spec=[["L", "S"], ["L", "S"], ["L", "D"] * 3, ["L", "D"]],
    use_pes=[False, False, True, True], drop_path_rate=0.2,
)
# fmt: on


class LayerNorm(nn.Module):
    """Layer norm of the last axis, eps 1e-5, under the released name `.norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class MLP(nn.Module):
    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        linear1, linear2 = nn.Linear(dim, expansion * dim), nn.Linear(expansion * dim, dim)
        self.chunk = nn.Sequential(OrderedDict(linear1=linear1, act=nn.GELU(), linear2=linear2))

    def forward(self, x: Tensor) -> Tensor:
        return self.chunk(x)


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


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v: q (..., N, d), k and v (..., Ns, d), bias broadcasting to (..., N, Ns)."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits += bias
    return logits.softmax(-1) @ v


class LocalAttention(nn.Module):
    """Attention within windows, rolled by ceil(w/2) pixels if `shifted`; (B, H, W, C) to the same."""

    def __init__(self, dim: int, heads: int, size: tuple[int, int], window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
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
    def _mask(size: tuple[int, int], w: int, shift: int) -> Tensor:
        """(windows, w², w²): -100 where query and key come from different sides of the rolled map's seam."""
        height, width = size
        region = torch.zeros(height, width)
        parts = slice(0, -w), slice(-w, -shift), slice(-shift, None)
        for i, rows in enumerate(parts):
            for j, cols in enumerate(parts):
                region[rows, cols] = 3 * i + j
        region = region.view(height // w, w, width // w, w).transpose(1, 2).reshape(-1, w * w)
        return (region[:, :, None] != region[:, None, :]) * -100.0

    def _bias(self) -> Tensor:
        """(1 or windows, heads, w², w²)"""
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.t().reshape(1, self.heads, tokens, tokens)
        return bias + self.attn_mask[:, None] if self.shift else bias

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        B, H, W, C = x.shape
        w, h, d = self.window, self.heads, C // self.heads
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        qkv = self.proj_qkv(x).view(B, H // w, w, W // w, w, 3, h, d)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, B, -1, h, w * w, d)
        y = attend(*qkv, self._bias())
        y = y.view(B, H // w, W // w, h, w, w, d).permute(0, 1, 4, 2, 5, 3, 6).reshape(B, H, W, C)
        y = self.proj_out(y)
        return (y.roll((self.shift, self.shift), (1, 2)) if self.shift else y), None


def _lattice(size: tuple[int, int], first: float, corner: int) -> Tensor:
    """(H, W, 2): 2 (i + first) / max(n - corner, 1) - 1 along each axis; 0 for a single point."""

    def axis(n: int) -> Tensor:
        start = 0.5 if n == 1 else first
        return 2 * (torch.arange(n, dtype=torch.float64) + start) / max(n - corner, 1) - 1

    return torch.stack(torch.meshgrid(axis(size[0]), axis(size[1]), indexing="ij"), -1)


class DeformableAttention(nn.Module):
    """Queries attend to keys and values read at learned points; (B, H, W, C) to the same.

    `forward` also returns the points and their references, (B, G, Hk, Wk, 2) each.
    """

    def __init__(self, c: Mapping[str, Any], i: int, size: tuple[int, int], convention: str) -> None:
        super().__init__()
        dim, stride, span = c["dims"][i], c["strides"][i], c["offset_range_factor"][i]
        k = c["ksizes"][i] if "ksizes" in c else (9, 7, 5, 3)[i]
        self.heads, self.groups, self.no_offset = c["heads"][i], c["groups"][i], c["no_offs"][i]
        kinds = {"dwc_pes": "depthwise", "fixed_pes": "fixed", "use_pes": "relative"}
        self.pe = next(kind for name, kind in kinds.items() if c[name][i]) if c["use_pes"][i] else None
        channels, (height, width) = dim // self.groups, size
        keys = tuple((n + 2 * (k // 2) - k) // stride + 1 for n in size)  # Hk, Wk
        self.conv_offset = nn.Sequential(
            nn.Conv2d(channels, channels, k, stride, k // 2, groups=channels),
            LayerNorm(channels),
            nn.GELU(),
            nn.Conv2d(channels, 2, 1, bias=False),
        ).requires_grad_(not self.no_offset)
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Conv2d(dim, dim, 1) for _ in range(4))
        if self.pe == "depthwise":
            self.rpe_table = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        elif self.pe:
            fixed, relative = (height * width, keys[0] * keys[1]), (2 * height - 1, 2 * width - 1)
            shape = fixed if self.pe == "fixed" else relative
            self.rpe_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, *shape), std=0.01))

        corner = int(convention != "v1")  # coordinates count n - 1 steps, not n cells
        constants = {
            "scale": span / (torch.tensor(keys).double() - corner).clamp(min=1),
            "reference": _lattice(keys, 0.0 if convention == "paper" else 0.5, corner),
            "half_queries": _lattice(size, 0.0 if corner else 0.5, corner).flip(-1) * 0.5,  # (x, y)
        }
        for name, value in constants.items():  # float64 until they are used
            self.register_buffer(name, value, persistent=False)

    def _points(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G, Hk, Wk, 2) points and references."""
        B, C, G = len(q), q.shape[-1], self.groups
        reference = self.reference.to(q.dtype).expand(B, G, -1, -1, -1)
        if self.no_offset:
            return reference, reference
        spatial, norm, act, to_offset = self.conv_offset
        weight, bias = spatial.weight.repeat(G, 1, 1, 1), spatial.bias.repeat(G)  # shared by the groups
        u = F.conv2d(q.permute(0, 3, 1, 2), weight, bias, spatial.stride, spatial.padding, groups=C)
        u = u.permute(0, 2, 3, 1).unflatten(-1, (G, C // G))  # (B, Hk, Wk, G, Cg)
        offset = F.linear(act(norm(u)), to_offset.weight.flatten(1)).permute(0, 3, 1, 2, 4)
        return offset.tanh() * self.scale.to(q.dtype) + reference, reference

    def _bias(self, points: Tensor) -> Tensor | None:
        """Broadcasts to (B, heads, queries, keys)."""
        if self.pe in (None, "depthwise"):
            return None
        if self.pe == "fixed":
            return self.rpe_table
        B, G = points.shape[:2]
        half_queries = self.half_queries.to(points.dtype).view(-1, 1, 2)
        displacement = half_queries - points.flip(-1).reshape(B * G, 1, -1, 2) * 0.5  # (x, y)
        table = self.rpe_table.view(G, self.heads // G, *self.rpe_table.shape[1:])
        table = table.expand(B, -1, -1, -1, -1).flatten(0, 1)
        bias = F.grid_sample(table, displacement, align_corners=True)
        return bias.view(B, self.heads, *displacement.shape[1:3])

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        B, H, W, C = x.shape
        G, h, d = self.groups, self.heads, C // self.heads

        def split_heads(t: Tensor) -> Tensor:
            return t.view(B, -1, h, d).transpose(1, 2)

        q = F.linear(x, self.proj_q.weight.flatten(1), self.proj_q.bias)
        points, reference = self._points(q)
        maps = x.view(B, H, W, G, C // G).permute(0, 3, 4, 1, 2).flatten(0, 1)  # (B G, Cg, H, W)
        sampled = F.grid_sample(maps, points.reshape(B * G, 1, -1, 2).flip(-1), align_corners=True)
        sampled = sampled.view(B, C, -1).transpose(1, 2)  # (B, Ns, C)
        k = F.linear(sampled, self.proj_k.weight.flatten(1), self.proj_k.bias)
        v = F.linear(sampled, self.proj_v.weight.flatten(1), self.proj_v.bias)
        y = attend(split_heads(q), split_heads(k), split_heads(v), self._bias(points))
        y = y.transpose(1, 2).reshape(B, H, W, C)
        if self.pe == "depthwise":
            y = y + self.rpe_table(q.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return F.linear(y, self.proj_out.weight.flatten(1), self.proj_out.bias), (points, reference)


class Stage(nn.Module):
    def __init__(self, dim: int, attentions: list[nn.Module], rates: list[float], expansion: int) -> None:
        super().__init__()
        self.layer_norms = nn.ModuleList(LayerNorm(dim) for _ in range(2 * len(attentions)))
        self.mlps = nn.ModuleList(MLP(dim, expansion) for _ in attentions)
        self.attns = nn.ModuleList(attentions)
        self.drop_path = nn.ModuleList(DropPath(rate) for rate in rates)

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
        points = []
        for j, (attention, mlp, drop) in enumerate(zip(self.attns, self.mlps, self.drop_path, strict=True)):
            y, at = attention(self.layer_norms[2 * j](x))
            x = x + drop(y)
            x = x + drop(mlp(self.layer_norms[2 * j + 1](x)))
            points.append(at)
        return x, points


def _patches(c_in: int, c_out: int, size: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, size, size, bias=bias), LayerNorm(c_out))


def _embed(patches: nn.Sequential, x: Tensor) -> Tensor:
    """A convolution over patches of a (B, H, W, C) map, and its layer norm."""
    conv, norm = patches
    return norm(conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class TorchDAT(nn.Module):
    """DAT for classification.

    config: the released constructor's keywords, and optionally `ksizes`, the offset network's kernel size for
        each stage (default 9, 7, 5, 3). img_size may be a (height, width) pair.
    convention: how references, offsets and the bias's query grid are normalised: "v1", "v2", "paper".
    Raises ValueError for an option or stage letter that this model does not have.
    """

    def __init__(self, config: Mapping[str, Any], convention: str = "v1") -> None:
        super().__init__()
        _check(config, convention)
        c, dims = config, config["dims"]
        size = (c["img_size"],) * 2 if isinstance(c["img_size"], int) else tuple(c["img_size"])
        size = size[0] // c["patch_size"], size[1] // c["patch_size"]
        blocks = sum(c["depths"])
        rates = [c.get("drop_path_rate", 0.0) * block / max(blocks - 1, 1) for block in range(blocks)]
        self.patch_proj = _patches(3, c["dim_stem"], c["patch_size"], bias=True)
        self.stages, self.down_projs = nn.ModuleList(), nn.ModuleList()
        for i, dim in enumerate(dims):
            attentions = [
                DeformableAttention(c, i, size, convention)
                if letter == "D"
                else LocalAttention(dim, c["heads"][i], size, c["window_sizes"][i], shifted=letter == "S")
                for letter in c["stage_spec"][i]
            ]
            stage_rates, rates = rates[: len(attentions)], rates[len(attentions) :]
            self.stages.append(Stage(dim, attentions, stage_rates, c["expansion"]))
            if i + 1 < len(dims):
                self.down_projs.append(_patches(dim, dims[i + 1], 2, bias=False))
                size = size[0] // 2, size[1] // 2
        self.cls_norm = LayerNorm(dims[-1])
        self.cls_head = nn.Linear(dims[-1], c["num_classes"])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) images to (B, num_classes) logits."""
        return self.forward_with_points(x)[0]

    def forward_with_points(self, x: Tensor) -> tuple[Tensor, list, list]:
        """Logits, positions[stage][block], references[stage][block]: (B, G, Hk, Wk, 2), or None for L, S."""
        x = _embed(self.patch_proj, x.permute(0, 2, 3, 1).contiguous())
        points = []
        for i, stage in enumerate(self.stages):
            x, at = stage(x)
            points.append(at)
            if i < len(self.down_projs):
                x = _embed(self.down_projs[i], x)
        logits = self.cls_head(self.cls_norm(x).mean((1, 2)))
        positions, references = ([[p and p[n] for p in stage] for stage in points] for n in (0, 1))
        return logits, positions, references


def _check(c: Mapping[str, Any], convention: str) -> None:
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r}: expected one of {CONVENTIONS}")
    if c.get("version", 1) != 1:
        raise ValueError(f"config: version {c['version']}; only version 1 is written here")
    for name in ("use_conv_patches", "drop_rate", "attn_drop_rate", "use_dwc_mlps"):
        value = c.get(name, 0)
        if any(value) if isinstance(value, list) else value:
            raise ValueError(f"config: {name}={value} is not supported")
    for i, spec in enumerate(c["stage_spec"]):
        if set(spec) - set("LSD") or len(spec) != c["depths"][i]:
            raise ValueError(f"config: stage_spec[{i}]={spec}; expected {c['depths'][i]} of the letters L, S, D")
        if "D" in spec and (span := c["offset_range_factor"][i]) <= 0:
            raise ValueError(f"config: offset_range_factor[{i}]={span} must be positive")
