"""Deformable convolution (DCN): a convolution whose taps move, each output pixel's by offsets of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
from minidat.autograd import Tensor, array_module
from minidat.ops.checks import check_whole
from minidat.ops.coordinates import to_normalised
from minidat.ops.deformable_conv import output_shape, tap_points


class DeformableConv2d(nn.Module):
    """y(p₀) = Σ_n m_n(p₀) · φ(x; p₀ + p_n + Δp_n(p₀)) w(p_n),  Δp = conv(x), m = sigmoid(conv(x))    DCN v1 eq. (2), v2 eq. (1)

    | symbol | attribute |
    |---|---|
    | w, b | `weight` (k, k, C_in, C_out), `bias` |
    | Δp | `offset`, a convolution with the same k, stride, padding and dilation → (B, I, J, G, k², 2) pixels |
    | Δm, here m | `modulation`, another one → (B, I, J, G, k²), then sigmoid; None in v1 |
    | G, deformable groups | `groups` |
    | p₀ + p_n + Δp_n | `tap_points` of `offsets` |

    v1 (`modulated=False`) moves the taps; v2 also weighs each by m in [0, 1], so a tap can be switched off. Both convolutions
    start from 0: no tap moves, and every m = ½. Then all points are whole pixels, where g has kinks: the first gradient of an
    offset is the slope to the right. `padding=None` is k // 2 · dilation, which keeps the size of the map for odd k and
    stride 1.

    How DAT differs: here every output pixel has k² points of its own, predicted by a convolution of x, unbounded, and weighted
    by w and m. DAT predicts from the queries a few points that all queries share, near a grid. These points are keys, and every
    query is compared with every key: softmax(q k̃ᵀ/√d + bias).

    Differences from the released code: `offset` and `modulation` are two layers, there one of 3k² channels (the same
    function); w starts from `nn.uniform`; no lower learning rate for the two, which v2's text asks for; no weight groups.
    Source: Dai et al., ICCV 2017; Zhu et al., CVPR 2019. Raises ValueError when groups do not divide c_in, and for a kernel,
    stride or dilation below 1, TypeError for an input that is no floating array.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        *,
        rng: np.random.Generator,
        groups: int = 1,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        modulated: bool = True,
    ):
        check_whole("DeformableConv2d", c_in=c_in, c_out=c_out, groups=groups)
        check_whole("DeformableConv2d", kernel=kernel, stride=stride, dilation=dilation)
        if c_in % groups:
            raise ValueError(f"DeformableConv2d: groups {groups} must divide c_in {c_in}")
        padding = kernel // 2 * dilation if padding is None else padding
        check_whole("DeformableConv2d", 0, padding=padding)
        self.groups, self.kernel = groups, (kernel, kernel)
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        self.weight = nn.uniform(rng, (kernel, kernel, c_in, c_out), kernel * kernel * c_in)
        self.bias = nn.uniform(rng, (c_out,), kernel * kernel * c_in)

        def zero(channels: int) -> nn.Conv2d:
            layer = nn.Conv2d(c_in, channels, kernel, rng=rng, stride=stride, padding=padding)
            for t in layer.parameters().values():
                t.data[...] = 0
            return layer

        self.offset = zero(groups * kernel * kernel * 2)
        self.modulation = zero(groups * kernel * kernel) if modulated else None

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C_in) → (B, I, J, C_out). `record` receives "points" (B, G, I·J·k², 2) in pixels, in the order output
        row, output column, tap row, tap column; "reference" (I·J·k², 2), the points without offsets, in DAT's [−1, 1];
        "size" (H, W); "grid" (I·k, J·k), how many points there are."""
        x = entered("DeformableConv2d", x, "B H W C", self.weight.shape[2])
        offsets, modulation = self.offsets(x), self.modulations(x)
        if record is not None:
            self._record(record, offsets.data, *x.shape[1:3])
        return ops.deformable_conv(x, offsets, modulation, self.weight, self.bias, **self.geometry)

    def offsets(self, x: Tensor) -> Tensor:
        """Δp (B, I, J, G, k², 2), (row, col) in pixels."""
        y = self._convolve(self.offset, x)
        return y.reshape(*y.shape[:3], self.groups, self.taps, 2)

    def modulations(self, x: Tensor) -> Tensor | None:
        """m (B, I, J, G, k²) in [0, 1], or None."""
        if self.modulation is None:
            return None
        y = self._convolve(self.modulation, x)
        return ops.sigmoid(y).reshape(*y.shape[:3], self.groups, self.taps)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def _convolve(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """The layer's convolution. A dilated one, as w is, is computed as a deformable convolution with offsets of 0."""
        if self.geometry["dilation"] == 1:
            return layer(x)
        b, h, w, _ = x.shape
        i, j = output_shape((h, w), self.kernel, **self.geometry)
        still = array_module(x.data).zeros((b, i, j, 1, self.taps, 2), x.dtype)
        return ops.deformable_conv(x, still, None, layer.weight, layer.bias, **self.geometry)

    def _record(self, record: dict, offsets: Any, h: int, w: int) -> None:
        zeros = array_module(offsets).zeros((1, *offsets.shape[1:3], 1, self.taps, 2), offsets.dtype)
        still = tap_points(zeros, self.kernel, **self.geometry)[0, 0]  # (N, 2)
        reference = [to_normalised(still[:, axis], n) for axis, n in enumerate((h, w))]
        record.update(
            points=tap_points(offsets, self.kernel, **self.geometry),
            reference=array_module(still).stack(reference, -1),
            size=(h, w),
            grid=tuple(n * k for n, k in zip(offsets.shape[1:3], self.kernel, strict=True)),
        )
