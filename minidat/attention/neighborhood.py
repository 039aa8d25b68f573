"""Neighbourhood attention, as in NAT and DAT++: a token attends to the k×k tokens nearest to it."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
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

    N(i), the neighbourhood of i, slides with the query, where Swin's windows are fixed. At the border of the map it moves
    inwards, so it has k² tokens everywhere. A map smaller than k×k is zero-padded at the bottom and on the right before
    W_q, W_k, W_v, and cropped before W_o. The padding takes part as keys: the biases of W_k and W_v are its key and value.
    Differences from the released code: none. Source: NATTEN 0.14.6 with dilation 1, B from σ = 0.02.
    Raises ValueError for an even kernel and when heads do not divide dim, TypeError for an input that is no floating array.
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
        x = entered("NeighborhoodAttention", x, "B H W C", self.out.weight.shape[0])
        h, w = x.shape[1:3]
        if short := (h < self.kernel or w < self.kernel):
            x = ops.pad(x, widths=((0, 0), (0, max(self.kernel - h, 0)), (0, max(self.kernel - w, 0)), (0, 0)))
        z = ops.neighborhood_attention(self.qkv(x), self.table, heads=self.heads, kernel=self.kernel)
        return self.out(z[:, :h, :w] if short else z)
