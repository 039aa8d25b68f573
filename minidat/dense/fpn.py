"""Feature pyramid network: coarse maps, which know what is there, are added to fine ones, which know where."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.dense.layers import Conv, xavier
from minidat.ops.checks import check_whole

EXTRAS = ("conv", "pool")


class FPN(nn.Module):
    """L_i = conv₁ₓ₁(C_i) + up(L_(i+1)),  P_i = conv₃ₓ₃(L_i); no norm, no activation                                     FPN

    | symbol | attribute |
    |---|---|
    | conv₁ₓ₁, conv₃ₓ₃ of each level | `lateral` `output` |
    | convolutions of the extra levels | `extra` |

    up: nearest, to the size of the finer map. `dims`: channels of the maps C_i, fine to coarse. `outputs`: how many of the finest
    levels are given (None: all); coarser ones are added to them all the same. `extra`: coarser levels after these, each half as
    large: "conv", the first a 3×3 convolution with stride 2 of the coarsest C, the next ones of the one before, no ReLU between
    them (RetinaNet); or "pool", every second pixel of the last P (Mask R-CNN). Source: mmdetection 2.26, `necks/fpn.py`.
    Raises ValueError for an unknown kind of extra levels or a negative number of them, and for more outputs than maps.
    """

    def __init__(
        self,
        dims: Sequence[int],
        channels: int = 256,
        *,
        rng: np.random.Generator,
        outputs: int | None = None,
        extra: int = 0,
        extra_kind: str = "pool",
    ):
        outputs = len(dims) if outputs is None else outputs
        if not 1 <= outputs <= len(dims):
            raise ValueError(f"FPN: outputs is {outputs}; it must be from 1 to {len(dims)}, the number of maps")
        check_whole("FPN", 0, extra=extra)
        if extra_kind not in EXTRAS:
            raise ValueError(f"FPN: extra levels by {extra_kind!r} are unknown; choose from {', '.join(EXTRAS)}")
        self.lateral = [Conv(dim, channels, 1, rng=rng, start=xavier) for dim in dims]
        self.output = [Conv(channels, channels, 3, rng=rng, start=xavier) for _ in range(outputs)]
        widths = [dims[-1], *[channels] * extra]
        convolved = pairwise(widths) if extra_kind == "conv" else ()
        self.extra = [Conv(a, b, 3, rng=rng, start=xavier, stride=2) for a, b in convolved]
        self.pooled = extra if extra_kind == "pool" else 0

    def __call__(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """C_i (B, H_i, W_i, dims[i]), fine to coarse → P_i (B, H_i, W_i, channels), then the extra levels."""
        merged = [conv(c) for conv, c in zip(self.lateral, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            h, w = merged[i - 1].shape[1:3]
            merged[i - 1] = merged[i - 1] + ops.resize(merged[i], size=(h, w), mode="nearest")
        found = [conv(merged[i]) for i, conv in enumerate(self.output)]
        last = maps[-1]
        for conv in self.extra:
            last = conv(last)
            found.append(last)
        for _ in range(self.pooled):
            found.append(found[-1][:, ::2, ::2])
        return found
