"""One file for each attention of the paper and its notes. As mixers of a pyramid they map (B, H, W, C) to (B, H, W, C)."""

from minidat.attention.deformable import DeformableAttention
from minidat.attention.deformable_conv import DeformableConv2d
from minidat.attention.deformable_detr import DeformableSelfAttention, MultiScaleDeformableAttention
from minidat.attention.full import MultiHeadSelfAttention
from minidat.attention.grids import CONVENTIONS, Convention, Offsets
from minidat.attention.neighborhood import NeighborhoodAttention
from minidat.attention.pooled import PooledAttention
from minidat.attention.positions import POSITIONS
from minidat.attention.reduction import SpatialReductionAttention
from minidat.attention.window import WindowAttention

__all__ = [
    "CONVENTIONS",
    "POSITIONS",
    "Convention",
    "DeformableAttention",
    "DeformableConv2d",
    "DeformableSelfAttention",
    "MultiHeadSelfAttention",
    "MultiScaleDeformableAttention",
    "NeighborhoodAttention",
    "Offsets",
    "PooledAttention",
    "SpatialReductionAttention",
    "WindowAttention",
]
