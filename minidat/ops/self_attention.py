"""Multi-head self-attention between its projections, equations (2) and (3): queries, keys and values come side by side."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.attention import attention
from minidat.ops.heads import merge_heads, split_heads


@op("... n e, ... n n?, ... n n? -> ... n c")
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾                                      DAT eq. (2), (3)

    qkv (…, n, 3C) holds q | k | v side by side, as one linear layer makes them; bias and mask broadcast to
    (…, M, n, n) or are None. Returns (…, n, C). Raises ValueError when 3·heads does not divide the channels.
    """
    e = qkv.shape[-1]
    check_qkv("self_attention", e, heads)
    c, d = e // 3, e // 3 // heads
    q, k, v = (split_heads(qkv[..., i * c : (i + 1) * c], heads) for i in range(3))  # (..., M, n, d) each
    z, attention_vjp = attention.raw(q, k, v, bias, mask, scale=d**-0.5)

    def vjp(dy):
        dq, dk, dv, dbias, _ = attention_vjp(split_heads(dy, heads))
        return array_module(qkv).concatenate([merge_heads(part) for part in (dq, dk, dv)], -1), dbias, None

    return merge_heads(z), vjp


def check_qkv(name: str, e: int, heads: int) -> None:
    """Raises ValueError when e channels are not queries, keys and values of `heads` heads. `name`: the op."""
    if heads < 1:
        raise ValueError(f"{name}: heads is {heads}; it must be at least 1")
    if e % (3 * heads):
        raise ValueError(f"{name}: axis 'e' is {e}, which 3 × {heads} heads do not divide")
