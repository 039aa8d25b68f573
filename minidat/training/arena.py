"""All parameters in one flat array, and which of them weight decay acts on.

Source of the rule: `optimizer.py` of the released code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minidat.autograd import Tensor
from minidat.autograd.backend import array_module

Array = Any  # numpy.ndarray or cupy.ndarray


def decays(name: str, shape: tuple[int, ...]) -> bool:
    """Whether weight decay pulls this parameter towards zero. `name` is dotted: "stages.2.blocks.0.mlp.hidden.weight".

    The released code's rule: no decay for what has one axis (biases, layer norms' scales and shifts) or none, for
    names that end in `bias`, and for what encodes positions in a D, L or S block: here `table`, and the depthwise
    convolution `local` that may stand in its place (released under the table's name, so its rule meets it too). The
    table `rpb` of neighborhood attention has another name there and three axes, so it does decay.
    """
    last = name.rpartition(".")[2]
    return len(shape) > 1 and last not in ("bias", "table") and not name.endswith(".local.weight")


class Segment(NamedTuple):
    """Elements start … stop − 1 of a flat array: whether weight decay acts on them, and their share of the learning rate."""

    start: int
    stop: int
    decays: bool
    share: float


class Arena:
    """All parameters in one flat array, which an optimiser, a norm or a collective passes over once.

    data: flat array of as many elements as all parameters have. Every `tensor.data` becomes a view of it, so
        a change of either is a change of both; a later assignment to `tensor.data` would undo that.
    names, tensors, shapes, slices: of the parameters, in the order given; slices say where in `data` they lie.
    segments: `data` from its start to where frozen parameters begin, in parts of equal treatment: those that weight decay
        acts on first, then the others, both with the largest rates first, and in the order given.
    decayed: the slice of `data` that weight decay acts on.

    rates: a parameter's share of the learning rate; 1 where none is given. Those with 0 are frozen: no optimiser touches
    them, and where a backward pass leaves them out, their gradient here is zeros. The model must be on its device already.
    Raises ValueError where there is no parameter, where two differ in dtype or are one tensor under two names, and where
    one is not of floating point.
    """

    def __init__(self, parameters: Mapping[str, Tensor], rates: Mapping[str, float] | None = None):
        _check_parameters(parameters)
        self.names, self.tensors = tuple(parameters), tuple(parameters.values())
        arrays = [tensor.data for tensor in self.tensors]
        self.shapes = tuple(tuple(array.shape) for array in arrays)
        shares = [1.0 if rates is None else rates.get(name, 1.0) for name in self.names]
        self.slices, self.segments = _layout(self.names, self.shapes, shares)
        self.decayed = slice(0, max((each.stop for each in self.segments if each.decays), default=0))
        size = sum(array.size for array in arrays)
        self.data = array_module(*arrays).empty(size, dtype=arrays[0].dtype)
        self.flatten(arrays, self.data)
        for tensor, view in zip(parameters.values(), self.views(self.data).values(), strict=True):
            tensor.data = view

    @property
    def frozen(self) -> int:
        """How many numbers of `data` are of frozen parameters."""
        return self.data.size - max((each.stop for each in self.segments), default=0)

    def views(self, flat: Array) -> dict[str, Array]:
        """Each parameter's part of `flat`, an array like `data`, in the parameter's shape: no copies."""
        if flat.shape != self.data.shape:
            raise ValueError(f"arena: flat array has shape {flat.shape}, the parameters need {self.data.shape}")
        return {n: flat[s].reshape(shape) for n, s, shape in zip(self.names, self.slices, self.shapes, strict=True)}

    def flatten(self, arrays: Sequence[Array | None], out: Array) -> None:
        """Write arrays, one a parameter in the order of `names`, to their places in `out`, like `data`. None stands for zeros.
        Raises ValueError for another number of arrays or another shape."""
        if len(arrays) != len(self.names):
            raise ValueError(f"arena: {len(arrays)} arrays for {len(self.names)} parameters")
        for (name, view), array in zip(self.views(out).items(), arrays, strict=True):
            if array is not None and array.shape != view.shape:
                raise ValueError(f"arena: array for {name!r} has shape {array.shape}, the parameter {view.shape}")
            view[...] = 0 if array is None else array


def _check_parameters(parameters: Mapping[str, Tensor]) -> None:
    if not parameters:
        raise ValueError("arena: there are no parameters")
    first, like = next(iter(parameters.items()))
    owner: dict[int, str] = {}
    for name, tensor in parameters.items():
        if tensor.data.dtype.kind != "f":
            raise ValueError(f"arena: parameter {name!r} is {tensor.data.dtype}; it must be of floating point")
        if tensor.data.dtype != like.data.dtype:
            raise ValueError(
                f"arena: parameter {name!r} is {tensor.data.dtype}, {first!r} is {like.data.dtype}; "
                "all must have one dtype"
            )
        if id(tensor) in owner:
            raise ValueError(f"arena: {owner[id(tensor)]!r} and {name!r} are one tensor; give it one name")
        owner[id(tensor)] = name


def _layout(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], shares: Sequence[float]
) -> tuple[tuple[slice, ...], tuple[Segment, ...]]:
    """Where each parameter lies; and the segments, in their order."""
    decayed = [decays(name, shape) for name, shape in zip(names, shapes, strict=True)]
    slices: list[slice] = [slice(0)] * len(names)
    segments: list[Segment] = []
    start = 0
    for i in sorted(range(len(names)), key=lambda i: (shares[i] == 0, not decayed[i], -shares[i])):  # sorted is stable
        slices[i] = slice(start, start + math.prod(shapes[i]))
        segment = Segment(start, slices[i].stop, decayed[i], shares[i])
        if segments and (segments[-1].decays, segments[-1].share) == (segment.decays, segment.share):
            segments[-1] = segments[-1]._replace(stop=segment.stop)
        elif segment.share:
            segments.append(segment)
        start = segment.stop
    return tuple(slices), tuple(segments)
