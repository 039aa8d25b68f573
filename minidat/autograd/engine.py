"""Tensor, @op and backward: reverse-mode differentiation by a tape of vector–Jacobian products.

An op is a function of arrays that returns its value y and its vjp: dy ↦ (dx₀, dx₁, …), where dX is ∂L/∂X in X's shape.
`@op` lifts it to Tensors: the value goes into a new Tensor that remembers its parents and the vjp. `backward` walks the
Tensors from the loss to the leaves and hands each one's dy to its vjp.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from minidat.autograd.backend import array_module
from minidat.autograd.shapes import parse

Array = Any  # numpy.ndarray or cupy.ndarray
Vjp = Callable[[Array], tuple[Any, ...]]  # one gradient an input, None where there is none

OPS: dict[str, Op] = {}
"""Every op by name: the tests go through it, so that none is left without a gradient check."""

_recording: ContextVar[bool] = ContextVar("recording", default=True)


def is_recording() -> bool:
    """False inside `no_grad()`."""
    return _recording.get()


@contextmanager
def no_grad() -> Generator[None]:
    """Inside, ops keep nothing for a backward pass."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def takes_needed(vjp: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Mark a vjp that is told which of an op's inputs need a gradient, `vjp(dy, needed=(…))`, and may give None for the others.
    Called with dy alone it gives all."""
    vjp.takes_needed = True  # ty: ignore[missing-attribute]
    return vjp


def _used_up(_: Array) -> tuple[Any, ...]:
    raise RuntimeError(
        "backward: this graph was used up by an earlier backward pass, which frees it as it goes; run the forward again"
    )


class Tensor:
    """An array with a gradient. `data`: the array. `grad`: ∂L/∂data on leaves that require it, after `backward`."""

    __slots__ = ("__weakref__", "data", "grad", "parents", "requires_grad", "vjp")
    __array_ufunc__ = None  # ndarray + Tensor goes to Tensor.__radd__

    def __init__(
        self, data: Array, requires_grad: bool = False, *, parents: tuple[Tensor, ...] = (), vjp: Vjp | None = None
    ):
        if isinstance(data, Tensor):
            raise TypeError("Tensor: data is a Tensor already; it must be a NumPy or CuPy array")
        is_array = hasattr(data, "dtype") and not isinstance(data, np.generic)
        self.data = data if is_array else array_module(data).asarray(data)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(
                f"Tensor: requires_grad needs floating-point data, got {self.data.dtype}; give it floats, as in 1.0 for 1"
            )
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.parents = parents
        self.vjp = vjp

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    def __len__(self) -> int:
        return len(self.data)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a Tensor is not an array: take its array, x.data, or call an op of minidat.ops")

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype}, requires_grad={self.requires_grad})\n{self.data!r}"

    if TYPE_CHECKING:  # given to the class by minidat.ops.operators: the engine knows no op

        def __neg__(self) -> Tensor: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: float) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, other: Any) -> Tensor: ...
        def reshape(self, *args: Any, **options: Any) -> Tensor: ...
        def transpose(self, *args: Any, **options: Any) -> Tensor: ...
        def sum(self, *args: Any, **options: Any) -> Tensor: ...
        def mean(self, *args: Any, **options: Any) -> Tensor: ...
        def max(self, *args: Any, **options: Any) -> Tensor: ...

    def detach(self) -> Tensor:
        """The same array with no history."""
        return Tensor(self.data)

    def backward(self, dy: Array | None = None) -> None:
        """Add ∂L/∂leaf to `.grad` of every leaf that requires it, where dy = ∂L/∂self (1 for a scalar).

        Uses the graph up. Raises ValueError for a non-scalar without dy or a dy of another shape, RuntimeError for a
        graph that needs no gradient or is used up.
        """
        for leaf, dx in pull(self, dy):
            leaf.grad = dx.copy() if leaf.grad is None else leaf.grad + dx  # dx may be shared, or a read-only view


def gradients(y: Tensor, leaves: list[Tensor], dy: Array | None = None) -> list[Array | None]:
    """∂L/∂leaf for each of `leaves`, where dy = ∂L/∂y; None for one that y does not depend on. Touches no `.grad`, so
    threads may share leaves. Uses the graph up and raises as `Tensor.backward` does."""
    found = {id(leaf): dx for leaf, dx in pull(y, dy)}
    return [found.get(id(leaf)) for leaf in leaves]


def pull(y: Tensor, dy: Array | None = None) -> Iterator[tuple[Tensor, Array]]:
    """Pull dy back through the graph of y: (leaf, ∂L/∂leaf) of every leaf, as soon as its gradient is complete. A layer's weights
    come before those of the layers under it, and who adds them up on the way holds few gradients at a time. The array may
    be shared. Touches no `.grad`, uses the graph up and raises as `Tensor.backward` does."""
    if not y.requires_grad:
        raise RuntimeError(
            "backward: nothing to differentiate; no input requires a gradient, or this ran under no_grad()"
        )
    order = _topological(y)
    if any(node.vjp is _used_up for node in order):
        _used_up(y.data)  # before any leaf gets its gradient
    pending = {id(y): _cotangent(y, dy)}
    while order:
        node = order.pop()  # popped, so that its array is freed as soon as nobody needs it
        d = pending.pop(id(node), None)
        if d is None:
            continue
        if node.vjp is None:
            yield node, d
            continue
        vjp, parents = node.vjp, node.parents
        node.vjp, node.parents = _used_up, ()
        for parent, dx in zip(parents, vjp(d), strict=True):
            if dx is None or not parent.requires_grad:
                continue
            known = pending.get(id(parent))
            pending[id(parent)] = dx if known is None else known + dx  # a new array: dx may be shared


def _cotangent(y: Tensor, dy: Array | None) -> Array:
    if dy is None:
        if y.data.size != 1:
            raise ValueError(
                f"backward: y has shape {y.shape}; only a scalar may leave dy out, since a cotangent of ones is blind "
                "(it is in the null space of softmax and layer norm): pass dy"
            )
        return array_module(y.data).ones_like(y.data)
    if isinstance(dy, Tensor):
        raise TypeError("backward: dy is a Tensor; it must be an array, such as dy.data")
    if isinstance(dy, int | float):
        dy = array_module(y.data).asarray(dy, dtype=y.dtype)
    if dy.shape != y.shape:
        raise ValueError(f"backward: dy has shape {dy.shape}, y has {y.shape}; they must be the same")
    return dy


def _topological(y: Tensor) -> list[Tensor]:
    """Tensors under y that require a gradient, each after its parents. Iterative: a chain may be as long as it likes."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack = [(y, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            under = [p for p in node.parents if p.requires_grad and id(p) not in seen]
            stack.extend((p, False) for p in reversed(under))  # x goes first, so that w and b stay beside their node
    return order


class Op:
    """A differentiable function. Call it with Tensors (or arrays).

    `plain`: the function of arrays as it is written beside its equation. `raw`: the same function, or a faster
    implementation that suits the arrays of a call (see `minidat.fast.dispatch`).
    """

    def __init__(self, plain: Callable[..., tuple[Array, Vjp]], signature: str, name: str | None = None):
        self.plain = plain
        self.raw: Callable[..., tuple[Array, Vjp]] = plain
        self.name: str = name or getattr(plain, "__name__", "op")
        self.signature = parse(signature)
        self.__name__, self.__doc__, self.__wrapped__ = self.name, plain.__doc__, plain
        if self.name in OPS:
            raise ValueError(f"op {self.name!r} is defined twice")
        OPS[self.name] = self

    def __repr__(self) -> str:
        return f"<op {self.name}: {self.signature.text}>"

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        arrays = tuple(_array(x) for x in inputs)
        self.signature.check(self.name, arrays)
        y, vjp = self.raw(*arrays, **options)
        if not (_recording.get() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)):
            return Tensor(y)
        parents = tuple(x if isinstance(x, Tensor) else _CONSTANT for x in inputs)
        if getattr(vjp, "takes_needed", False):
            vjp = partial(vjp, needed=tuple(p.requires_grad for p in parents))  # ty: ignore[unknown-argument]
        return Tensor(y, True, parents=parents, vjp=vjp)


def _array(x: Any) -> Any:
    """What an op computes with: a Tensor's array; a number for a NumPy scalar, so that it leaves float32 as it is."""
    if isinstance(x, Tensor):
        return x.data
    return x.item() if isinstance(x, np.generic) else x


_CONSTANT = Tensor(0.0)
"""Stands for an input that is no Tensor: it needs no gradient."""


def op(signature: str, name: str | None = None) -> Callable[[Callable[..., tuple[Array, Vjp]]], Op]:
    """Lift a function of arrays, `f(*arrays, **options) -> (y, vjp)`, to Tensors. `signature`: see `shapes.parse`."""
    return lambda plain: Op(plain, signature, name)
