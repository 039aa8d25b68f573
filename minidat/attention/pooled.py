"""Keys of released DAT++ without offsets: means of r×r pixels in place of points."""

from __future__ import annotations

from typing import Any

from minidat.attention.deformable import DeformableAttention
from minidat.autograd import Tensor


class PooledAttention(DeformableAttention):
    """z⁽ᵐ⁾ = softmax(q⁽ᵐ⁾ k̃⁽ᵐ⁾ᵀ/√d) ṽ⁽ᵐ⁾,  k̃ = x̃ W_k, ṽ = x̃ W_v, x̃ = means of r×r pixels of x

    Symbols and attributes are those of `DeformableAttention`, which reads x̃ at the reference points when offsets are not
    learned; released DAT++ (option `no_off`) averages instead. Position encodings take the key grid's reference points as the
    keys' places.
    Differences from the released code: "depthwise" works (there it raises); other encodings are possible (there none is used).
    Raises ValueError as that class does, for learned offsets, and for a map on which the means are not the key grid.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        if self.offsets.learned:
            raise ValueError("PooledAttention: offsets are learned, but means of pixels have no points to move")

    def check_size(self, size: tuple[int, int]) -> None:
        super().check_size(size)
        (h, w), r = size, self.offsets.stride
        if (h // r, w // r) != (keys := self.offsets.key_size(size)):
            raise ValueError(
                f"PooledAttention: means of {r}×{r} pixels of a {h}×{w} map do not give {keys[0]}×{keys[1]} keys"
            )

    def sample(self, x: Tensor, points: Tensor) -> Tensor:
        """x̃ (B, N, C): means of r×r pixels; rows and columns beyond the last whole cell are left out"""
        (b, h, w, c), r = x.shape, self.offsets.stride
        rows, cols = h // r, w // r
        cut = x[:, : rows * r, : cols * r] if (h % r or w % r) else x
        return cut.reshape(b, rows, r, cols, r, c).mean(axis=(2, 4)).reshape(b, rows * cols, c)
