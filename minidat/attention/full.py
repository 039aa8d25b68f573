"""Multi-head self-attention, as in ViT: every token looks at every other."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.ops.heads import check_heads


class MultiHeadSelfAttention(nn.Module):
    """q = x W_q, k = x W_k, v = x W_v; z⁽ᵐ⁾ = softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d) v⁽ᵐ⁾; z = Concat(z⁽¹⁾…z⁽ᴹ⁾) W_o      DAT eq. (1)–(3)

    | symbol | attribute |
    |---|---|
    | W_q, W_k, W_v | `qkv`, side by side |
    | W_o | `out` |
    | M | `heads` |

    Differences from the released code: none; it has no such module, this is its window attention with one window and no
    bias. Raises ValueError when heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, *, rng: np.random.Generator):
        check_heads("MultiHeadSelfAttention", dim, heads)
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), any H and W → the same shape."""
        b, h, w, c = x.shape
        qkv = self.qkv(x.reshape(b, h * w, c))
        return self.out(ops.self_attention(qkv, None, None, heads=self.heads)).reshape(b, h, w, c)
