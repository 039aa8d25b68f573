"""Multi-head self-attention, as in ViT: every token attends to every token of the map."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
from minidat.autograd import Tensor
from minidat.ops.heads import check_heads


class MultiHeadSelfAttention(nn.Module):
    """q = x W_q, k = x W_k, v = x W_v; z⁽ᵐ⁾ = softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d) v⁽ᵐ⁾; z = Concat(z⁽¹⁾…z⁽ᴹ⁾) W_o      DAT eq. (1)–(3)

    | symbol | attribute |
    |---|---|
    | W_q, W_k, W_v | `qkv`, side by side |
    | W_o | `out` |
    | M | `heads` |

    Differences from the released code: it has no such module; this is its window attention with one window and no bias.
    Raises ValueError when heads do not divide dim, TypeError for an input that is no floating array.
    """

    def __init__(self, dim: int, heads: int, *, rng: np.random.Generator):
        check_heads("MultiHeadSelfAttention", dim, heads)
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), any H and W → the same shape."""
        x = entered("MultiHeadSelfAttention", x, "B H W C", self.out.weight.shape[0])
        b, h, w, c = x.shape
        qkv = self.qkv(x.reshape(b, h * w, c))
        return self.out(ops.self_attention(qkv, None, None, heads=self.heads)).reshape(b, h, w, c)
