"""Neighbourhood attention, as in NAT and the first blocks of DAT++: a token looks at the k×k nearest to it."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.ops.heads import check_heads
from minidat.ops.neighborhood import check_kernel


class NeighborhoodAttention(nn.Module):
    """z_i⁽ᵐ⁾ = Σ_(j ∈ N(i)) softmax_j(q_i⁽ᵐ⁾·k_j⁽ᵐ⁾/√d + B⁽ᵐ⁾[j − i + k − 1]) v_j⁽ᵐ⁾; z = Concat(z⁽¹⁾…z⁽ᴹ⁾) W_o       NAT, DAT++

    | symbol | attribute |
    |---|---|
    | W_q, W_k, W_v | `qkv`, side by side (released: `qkv`) |
    | W_o | `out` (released: `proj`) |
    | B, by key − query | `table` (M, 2k−1, 2k−1) (released: `rpb`) |
    | M, k | `heads` `kernel` |

    Windows cut a map apart, this slides with the query. N(i): at the border the k×k neighbours move inwards, so there are k²
    of them everywhere. A map smaller than k×k is filled up with zeros at the bottom and on the right before W_q, W_k, W_v,
    and cut back after: what was filled up does take part, with the biases of W_k and W_v for its key and value.
    Differences from the released code: none. Source: NATTEN 0.14.6 with dilation 1, B from σ = 0.02.
    Raises ValueError for an even kernel and when heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, *, kernel: int = 7, rng: np.random.Generator):
        check_heads("NeighborhoodAttention", dim, heads)
        check_kernel("NeighborhoodAttention", kernel)
        self.heads, self.kernel = heads, kernel
        self.qkv = nn.Linear(dim, 3 * dim, rng=rng)
        self.table = nn.table(rng, (heads, 2 * kernel - 1, 2 * kernel - 1), 0.02)
        self.out = nn.Linear(dim, dim, rng=rng)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), any H and W → the same shape."""
        h, w = x.shape[1:3]
        if short := (h < self.kernel or w < self.kernel):
            x = ops.pad(x, widths=((0, 0), (0, max(self.kernel - h, 0)), (0, max(self.kernel - w, 0)), (0, 0)))
        z = ops.neighborhood_attention(self.qkv(x), self.table, heads=self.heads, kernel=self.kernel)
        return self.out(z[:, :h, :w] if short else z)
