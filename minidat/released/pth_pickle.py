"""The pickle inside a .pth file: every tensor in it is a call, "rebuild from storage 7, offset, size, stride".

Names in it are one of three things:

  a tensor's function   the call becomes a `StoredTensor`, which notes its arguments
  in `INERT`            what training checkpoints also hold (configurations, NumPy's scalars …) becomes an `Inert`
  anything else         the file is refused

Source: PyTorch's serialisation format, version 3 (PyTorch 1.6 and newer).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minidat.unpickle import Inert, Machine, Name, PickleError, kind_of

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|u1",
}
"""PyTorch's storage → its elements, as bytes have them. NumPy has no bfloat16 and trusts a bool's byte to be 0 or 1."""

LARGEST_INT = 2**63 - 1

BUILTINS = ("bool", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "slice", "str", "tuple")

INERT: dict[str, tuple[str, ...]] = {
    "__builtin__": BUILTINS,  # what pickles of protocol 2, PyTorch's, call `builtins`
    "_codecs": ("encode",),
    "addict.addict": ("Dict",),
    "argparse": ("Namespace",),
    "builtins": BUILTINS,
    "collections": ("Counter", "defaultdict"),
    "datetime": ("datetime", "timedelta"),
    "easydict": ("EasyDict",),
    "numpy": ("dtype", "ndarray"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "pathlib": ("Path", "PosixPath", "PurePosixPath", "WindowsPath"),
    "torch": ("Size", "bfloat16", "device", "float16", "float32", "float64"),
    "types": ("SimpleNamespace",),
    "yacs.config": ("CfgNode",),
}
"""Module → names that training checkpoints hold beside the state dict."""

TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
ORDERED_DICT = "collections.OrderedDict"


class Storage(NamedTuple):
    """`count` elements in the record `key`."""

    kind: str
    key: str
    count: int


class StoredTensor(NamedTuple):
    """A tensor as the pickle has it, unchecked: its elements are storage[offset + Σ index · stride]."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class CheckpointPickle(Machine):
    """Gives what was saved, with a `StoredTensor` for every tensor."""

    def name(self, name: Name) -> Any:
        full = f"{name.module}.{name.name}"
        known = (TENSOR, *PARAMETERS, ORDERED_DICT)
        if (
            full in known
            or name.name in INERT.get(name.module, ())
            or (name.module == "torch" and name.name in STORAGES)
        ):
            return name
        raise PickleError(
            f"it refers to {name}, which is not among the names that are read, and nothing of it was called. If you trust "
            "the file, load it with torch and save the state dict alone: torch.save(model.state_dict(), …)"
        )

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if not isinstance(function, Name):
            return super().call(function, arguments)
        full = f"{function.module}.{function.name}"
        # its items follow, and its attributes, such as `_metadata`, are dropped
        if full == ORDERED_DICT and not arguments:
            return {}
        if full == TENSOR and len(arguments) >= 4:
            return StoredTensor(*arguments[:4])
        if full in PARAMETERS and arguments:
            return arguments[0]
        if function.name in INERT.get(function.module, ()):
            return Inert(function.name)
        raise PickleError(f"it calls {function} with {len(arguments)} arguments")

    def persistent(self, identity: Any) -> Storage:
        match identity:
            case ("storage", Name("torch", kind), str(key), _, int(count)) if (
                kind in STORAGES and 0 <= count <= LARGEST_INT
            ):
                return Storage(kind, key, count)
        raise PickleError(f"it refers to a {kind_of(identity)} that is not a storage")
