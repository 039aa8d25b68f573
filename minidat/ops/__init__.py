"""Every differentiable function of minidat: its equation, its value and its hand-derived gradient."""

from minidat.ops.adaptive_pool import adaptive_average_pool
from minidat.ops.attention import attention
from minidat.ops.batch_norm import batch_norm
from minidat.ops.bilinear import bilinear_sample
from minidat.ops.binary_cross_entropy import binary_cross_entropy
from minidat.ops.conv2d import conv2d
from minidat.ops.cross_entropy import cross_entropy
from minidat.ops.deformable_attention import deformable_attention
from minidat.ops.deformable_conv import deformable_conv
from minidat.ops.deformed_points import deformed_points
from minidat.ops.depthwise_conv import depthwise_conv
from minidat.ops.dropout import drop_channels, drop_path, dropout
from minidat.ops.elementwise import (
    abs,
    add,
    clip,
    divide,
    exp,
    log,
    maximum,
    multiply,
    negative,
    power,
    relu,
    sigmoid,
    sqrt,
    subtract,
    tanh,
    where,
)
from minidat.ops.focal_loss import focal_loss
from minidat.ops.gelu import gelu
from minidat.ops.giou_loss import giou_loss
from minidat.ops.group_norm import group_norm
from minidat.ops.layer_norm import layer_norm
from minidat.ops.linear import linear
from minidat.ops.log_position_bias import log_position_bias
from minidat.ops.log_softmax import log_softmax
from minidat.ops.matmul import matmul
from minidat.ops.mlp import mlp
from minidat.ops.movement import broadcast_to, concatenate, getitem, pad, reshape, roll, split, transpose
from minidat.ops.multiscale import multiscale_deformable_attention
from minidat.ops.neighborhood import neighborhood_attention
from minidat.ops.offset_network import offset_network
from minidat.ops.operators import install
from minidat.ops.pixel_cross_entropy import pixel_cross_entropy
from minidat.ops.position_bias import position_bias
from minidat.ops.reduce import max, mean, sum
from minidat.ops.resize import resize
from minidat.ops.roi_align import roi_align
from minidat.ops.self_attention import self_attention
from minidat.ops.separable import separable_resample
from minidat.ops.smooth_l1 import smooth_l1
from minidat.ops.softmax import softmax
from minidat.ops.take import take
from minidat.ops.transposed_conv2d import transposed_conv2d
from minidat.ops.windows import window_merge, window_partition

install()

__all__ = [
    "abs",
    "adaptive_average_pool",
    "add",
    "attention",
    "batch_norm",
    "bilinear_sample",
    "binary_cross_entropy",
    "broadcast_to",
    "clip",
    "concatenate",
    "conv2d",
    "cross_entropy",
    "deformable_attention",
    "deformable_conv",
    "deformed_points",
    "depthwise_conv",
    "divide",
    "drop_channels",
    "drop_path",
    "dropout",
    "exp",
    "focal_loss",
    "gelu",
    "getitem",
    "giou_loss",
    "group_norm",
    "layer_norm",
    "linear",
    "log",
    "log_position_bias",
    "log_softmax",
    "matmul",
    "max",
    "maximum",
    "mean",
    "mlp",
    "multiply",
    "multiscale_deformable_attention",
    "negative",
    "neighborhood_attention",
    "offset_network",
    "pad",
    "pixel_cross_entropy",
    "position_bias",
    "power",
    "relu",
    "reshape",
    "resize",
    "roi_align",
    "roll",
    "self_attention",
    "separable_resample",
    "sigmoid",
    "smooth_l1",
    "softmax",
    "split",
    "sqrt",
    "subtract",
    "sum",
    "take",
    "tanh",
    "transpose",
    "transposed_conv2d",
    "where",
    "window_merge",
    "window_partition",
]
