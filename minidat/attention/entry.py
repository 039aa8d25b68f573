"""What every attention asks of the map that it is given, checked before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat.autograd import Tensor, array_module


def entered(name: str, x: Any, axes: str, channels: int) -> Tensor:
    """x as a Tensor, once it is a floating array with the axes "B H W C" or "B N C" and so many channels.

    name: who asks. Raises TypeError for what is neither a Tensor nor a plain array, and for numbers that are not floating;
    ValueError for another number of axes or channels.
    """
    data = x.data if isinstance(x, Tensor) else x
    on_device = hasattr(data, "dtype") and not isinstance(data, np.ndarray) and array_module(data) is not np
    if not (type(data) is np.ndarray or on_device):
        raise TypeError(
            f"{name}: the input must be a Tensor or a NumPy or CuPy array, got {_described(data)}; "
            "np.asarray(…) makes a plain array of a subclass"
        )
    if data.dtype.kind != "f":
        raise TypeError(f"{name}: the input must be of a floating dtype, got {data.dtype}")
    names = axes.split()
    if data.ndim != len(names) or data.shape[-1] != channels:
        raise ValueError(
            f"{name}: the input must have the axes ({', '.join(names[:-1])}, {channels}), got shape {data.shape}"
        )
    return x if isinstance(x, Tensor) else Tensor(x)


def _described(data: Any) -> str:
    kind = type(data)
    return f"an array of the subclass {kind.__name__}" if isinstance(data, np.ndarray) else f"a {kind.__name__}"
