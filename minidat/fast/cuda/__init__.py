"""Ops again as CUDA kernels: a few lines of CUDA C each, with the same inputs, outputs and gradients.

Optional, and imported when a GPU is asked for: `nn.Module.to(device="gpu")` calls `install()`.
"""


def install() -> None:
    """Enable the CUDA kernels: from then on ops run them on arrays of CuPy's. A second call changes nothing."""
    from minidat.fast.cuda import (  # noqa: F401 (each registers its implementation)
        attention,
        bilinear,
        conv2d,
        cross_entropy,
        deformed_points,
        depthwise_conv,
        dropout,
        gelu,
        layer_norm,
        linear,
        matmul,
        mlp,
        offset_network,
        position_bias,
        self_attention,
        softmax,
        take,
        windows,
    )
    from minidat.fast.dispatch import CUDA

    CUDA.enable()
