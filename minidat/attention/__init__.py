"""One file for each attention of the paper and its notes. Every one maps (B, H, W, C) to (B, H, W, C)."""

from minidat.attention.deformable import CONVENTIONS, Convention, DeformableAttention
from minidat.attention.full import MultiHeadSelfAttention
from minidat.attention.window import WindowAttention

__all__ = ["CONVENTIONS", "Convention", "DeformableAttention", "MultiHeadSelfAttention", "WindowAttention"]
