"""The blocks of a stage, and the convolutions between stages."""

from __future__ import annotations

from math import isqrt

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.models.config import MLPS, StageConfig

Rng = np.random.Generator | None


def mlp(stage: StageConfig, rng: np.random.Generator) -> nn.Module:
    """The MLP of the kind that the stage names. Raises ValueError for a kind that is not in `MLPS`."""
    if stage.mlp not in MLPS:
        raise ValueError(f"mlp {stage.mlp!r} is unknown; choose from {', '.join(MLPS)}")
    if stage.mlp == "plain":
        return nn.MLP(stage.dim, rng=rng, expansion=stage.expansion)
    return nn.ConvMLP(stage.dim, rng=rng, expansion=stage.expansion, residual=stage.mlp == "residual conv")


class Block(nn.Module):
    """z′ = MHSA(LN(z)) + z;  z = MLP(LN(z′)) + z′                                                  DAT eq. (4), (5)

    If `stage.lpu`, DAT++'s local perception unit comes first: z ← DWConv₃ₓ₃(z) + z.
    """

    def __init__(self, mixer: nn.Module, stage: StageConfig, drop_path: float, rng: np.random.Generator):
        self.norm1 = nn.LayerNorm(stage.dim)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(stage.dim)
        self.mlp = mlp(stage, rng)
        self.drop = nn.DropPath(drop_path)
        self.lpu = nn.DepthwiseConv2d(stage.dim, 3, rng=rng) if stage.lpu else None
        self.scales = [nn.LayerScale(stage.dim, stage.layer_scale) for _ in range(2)] if stage.layer_scale > 0 else []

    def __call__(self, z: Tensor, rng: Rng = None, record: dict | None = None) -> Tensor:
        if self.lpu:
            z = self.lpu(z) + z
        z = self._branch(0, self.mixer(self.norm1(z), record), rng) + z
        return self._branch(1, self.mlp(self.norm2(z)), rng) + z

    def _branch(self, i: int, z: Tensor, rng: Rng) -> Tensor:
        return self.drop(self.scales[i](z) if self.scales else z, rng)


class ConvBlock(nn.Module):
    """z ← MLP(LN(DWConv(z))) + z: a ConvNeXt block, letter X of released DAT++."""

    def __init__(self, mixer: nn.Module, stage: StageConfig, drop_path: float, rng: np.random.Generator):
        self.mixer = mixer
        self.norm = nn.LayerNorm(stage.dim)
        self.mlp = mlp(stage, rng)
        self.drop = nn.DropPath(drop_path)
        self.lpu = nn.DepthwiseConv2d(stage.dim, 3, rng=rng) if stage.lpu else None
        self.scales = [nn.LayerScale(stage.dim, stage.layer_scale)] if stage.layer_scale > 0 else []

    def __call__(self, z: Tensor, rng: Rng = None, record: dict | None = None) -> Tensor:
        if self.lpu:
            z = self.lpu(z) + z
        y = self.mlp(self.norm(self.mixer(z)))
        return self.drop(self.scales[0](y) if self.scales else y, rng) + z


class ConvNorm(nn.Module):
    """A convolution and a layer norm: the patch embedding, and the convolution between two stages."""

    def __init__(
        self, c_in: int, c_out: int, k: int, *, stride: int, rng: np.random.Generator, padding: int = 0, bias: bool
    ):
        self.conv = nn.Conv2d(c_in, c_out, k, rng=rng, stride=stride, padding=padding, bias=bias)
        self.norm = nn.LayerNorm(c_out)

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class PatchMerge(nn.Module):
    """A layer norm of every 2×2 pixels side by side, and a linear layer of them: what Swin has between two stages."""

    def __init__(self, c_in: int, c_out: int, rng: np.random.Generator):
        self.norm = nn.LayerNorm(4 * c_in)
        self.reduce = nn.Linear(4 * c_in, c_out, rng=rng, bias=False)

    def __call__(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        pixels = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)  # Swin takes them column by column
        return self.reduce(self.norm(pixels.reshape(b, h // 2, w // 2, 4 * c)))


class ConvStem(nn.Module):
    """DAT++'s first layers: 3×3 convolution to half the width, layer norm, GELU, 3×3 convolution, layer norm.

    Both strides are √patch if that is a whole number, else 2 and patch/2; the map is H/patch × W/patch. (In the released code
    both strides are patch_size // 2, so only for patch_size 4 is the map H/patch_size.)
    """

    def __init__(self, dim: int, patch: int, rng: np.random.Generator):
        root = isqrt(patch)
        stride = root if root * root == patch else 2
        self.first = ConvNorm(3, dim // 2, 3, stride=stride, padding=1, rng=rng, bias=True)
        self.second = ConvNorm(dim // 2, dim, 3, stride=patch // stride, padding=1, rng=rng, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self.second(ops.gelu(self.first(x)))


def stem(kind: str, dim: int, patch: int, rng: np.random.Generator) -> ConvNorm | ConvStem:
    """The layers from an image (B, H, W, 3) to the first map, H/patch × W/patch. kind: of `config.STEMS`."""
    if kind == "conv":
        return ConvStem(dim, patch, rng)
    k, padding = (7, 3) if kind == "overlap" else (patch, 0)
    return ConvNorm(3, dim, k, stride=patch, padding=padding, rng=rng, bias=True)


def down(kind: str, c_in: int, c_out: int, rng: np.random.Generator) -> ConvNorm | PatchMerge:
    """The layer from a stage's map to the next stage's, half as high and wide. kind: of `config.STEMS`."""
    if kind == "merge":
        return PatchMerge(c_in, c_out, rng)
    k, padding = (2, 0) if kind == "patch" else (3, 1)
    return ConvNorm(c_in, c_out, k, stride=2, padding=padding, rng=rng, bias=False)
