"""Attention of many heads, for queries, keys and values that were projected apart."""

from __future__ import annotations

from math import prod

from minidat import ops
from minidat.autograd import Tensor
from minidat.ops.heads import merge_heads, split_heads


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, heads: int) -> Tensor:
    """Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias⁽ᵐ⁾) v⁽ᵐ⁾, d = C/M                                       DAT eq. (2), (3), (9)

    q (B, H, W, C); k, v (B, N, C) or (B, H′, W′, C), N = H′·W′; bias broadcasts to (B, M, H·W, N), or None. Returns
    (B, H, W, C), for W_o to be applied to.
    """
    c = q.shape[-1]
    tokens = [t.reshape(t.shape[0], prod(t.shape[1:-1]), c) for t in (q, k, v)]
    z = ops.attention(*(split_heads(t, heads) for t in tokens), bias, None, scale=(c // heads) ** -0.5)
    return merge_heads(z).reshape(*q.shape)
