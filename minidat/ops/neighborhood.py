"""Neighbourhood attention (NAT): a query looks at the k×k keys nearest to it, all of them on the map."""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.attention import attention
from minidat.ops.self_attention import check_qkv
from minidat.ops.take import take


@op("b h w e, m r r -> b h w c")
def neighborhood_attention(qkv, table, *, heads: int, kernel: int):
    """y_i = Concat_m Σ_(j ∈ N(i)) softmax_j(q_i⁽ᵐ⁾·k_j⁽ᵐ⁾/√d + B⁽ᵐ⁾[j − i + k − 1]) v_j⁽ᵐ⁾                  NAT, DAT++

    qkv (B, H, W, 3C) holds q | k | v side by side; table B (M, 2k−1, 2k−1) is read at KEY − QUERY, where Swin's and DAT's
    are read at query − key. N(i): k rows from clip(row − ⌊k/2⌋, 0, H − k) on, columns likewise, so k² keys for every
    query, at the border too. Returns (B, H, W, C). Source: NATTEN 0.14.6, dilation 1. Raises ValueError for an even
    kernel, heads that do not divide the channels, a table of another shape, and a map smaller than k×k.
    """
    check_neighborhood(qkv, table, heads, kernel)
    (b, h, w, e), xp = qkv.shape, array_module(qkv)
    d = e // 3 // heads
    keys, cells = neighbours(xp, h, w, kernel)  # (h·w, k²) each: which keys a query sees, and where it reads the table
    q, k, v = xp.moveaxis(qkv.reshape(b, h * w, 3, heads, d), 2, 0)  # (b, h·w, m, d) each
    k_near, k_vjp = take.raw(k, indices=keys, axis=1)  # (b, h·w, k², m, d)
    v_near, v_vjp = take.raw(v, indices=keys, axis=1)
    bias, bias_vjp = take.raw(table.reshape(heads, -1), indices=cells, axis=1)  # (m, h·w, k²)
    parts = q[..., None, :], k_near.swapaxes(2, 3), v_near.swapaxes(2, 3)  # (b, h·w, m, 1 or k², d)
    z, attention_vjp = attention.raw(*parts, bias.swapaxes(0, 1)[:, :, None], None, scale=d**-0.5)  # (b, h·w, m, 1, d)

    def vjp(dy):
        dq, dk_near, dv_near, dbias, _ = attention_vjp(dy.reshape(z.shape))
        (dk,), (dv,) = k_vjp(dk_near.swapaxes(2, 3)), v_vjp(dv_near.swapaxes(2, 3))  # what many queries see adds up
        (dtable,) = bias_vjp(dbias[:, :, 0].swapaxes(0, 1))
        return xp.stack([dq[..., 0, :], dk, dv], 2).reshape(qkv.shape), dtable.reshape(table.shape)

    return z.reshape(b, h, w, e // 3), vjp


def neighbours(xp: Any, h: int, w: int, kernel: int) -> tuple[Any, Any]:
    """For every query of a map (H, W): its k² keys, and the cells of the flat table at key − query. (H·W, k²) each."""

    def along(n: int) -> tuple[Any, Any]:  # (n, k): positions of the keys, and key − query + k − 1
        query = xp.arange(n)[:, None]
        key = xp.clip(query - kernel // 2, 0, n - kernel) + xp.arange(kernel)
        return key, key - query + kernel - 1

    (row, down), (col, right) = along(h), along(w)
    keys = row[:, None, :, None] * w + col[None, :, None, :]  # (h, w, k, k)
    cells = down[:, None, :, None] * (2 * kernel - 1) + right[None, :, None, :]
    return keys.reshape(h * w, -1), cells.reshape(h * w, -1)


def check_kernel(name: str, kernel: int) -> None:
    """Raises ValueError when a kernel has no centre."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{name}: kernel {kernel} must be odd and positive, so that it has a centre for the query")


def check_neighborhood(qkv: Any, table: Any, heads: int, kernel: int) -> None:
    """Raises ValueError when kernel, heads, table and map do not go together."""
    check_kernel("neighborhood_attention", kernel)
    (_, h, w, e), needed = qkv.shape, (heads, 2 * kernel - 1, 2 * kernel - 1)
    check_qkv("neighborhood_attention", e, heads)
    if table.shape != needed:
        raise ValueError(
            f"neighborhood_attention: {heads} heads and kernel {kernel} need a table of {needed}, input 1 has {table.shape}"
        )
    if h < kernel or w < kernel:
        raise ValueError(f"neighborhood_attention: a map of {h}×{w} has no {kernel}×{kernel} neighbours; pad it")
