"""PyTorch's checkpoint files (.pth), written without PyTorch. `pth` reads them, and says what is in one."""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from minidat.files import atomic_write
from minidat.released.errors import WeightsError
from minidat.released.pth_pickle import STORAGES

WRITTEN = {np.dtype(raw): kind for kind, raw in STORAGES.items() if kind not in ("BFloat16Storage", "BoolStorage")}
WRITTEN[np.dtype(bool)] = "BoolStorage"

ROOT = "archive"
LOCAL_HEADER = 30  # bytes, before a member's name
ALIGNMENT = 64  # bytes: where PyTorch has every record start


def write_pth(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], *, key: str | None = "model") -> None:
    """Write {key: state dict}, or with key None the bare state dict, for torch.load(path, weights_only=True).

    arrays: NumPy's, of float64, float32, float16, int64 … int8, uint8 or bool, any strides; each becomes a contiguous tensor on
    the CPU with a storage of its own. The file is written beside `path` as `.NAME.tmp` and renamed, so an older file at `path`
    stays as it is until the new one is complete. The same arrays give the same bytes.

    Raises WeightsError for what it cannot hold and for a folder that does not exist, OSError where writing fails (a full disk);
    the temporary file is then removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise WeightsError(path, f"the folder {path.parent} does not exist")
    ready = {name: _ready(path, name, array) for name, array in arrays.items()}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as zipped:
        for name, data in _records(ready, key):
            zipped.writestr(_member(name, file.tell()), data)


def _ready(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array, little-endian."""
    if not isinstance(name, str):
        raise WeightsError(path, f"{name!r} cannot be the name of a tensor")
    if not isinstance(array, np.ndarray):
        raise WeightsError(path, f"array {name!r} is a {type(array).__module__}.{type(array).__name__}, not NumPy's")
    little = array.dtype.newbyteorder("<")
    if little not in WRITTEN:
        raise WeightsError(path, f"array {name!r} has dtype {array.dtype}; written are {', '.join(map(str, WRITTEN))}")
    return np.asarray(array, dtype=little)


def _records(arrays: Mapping[str, np.ndarray], key: str | None) -> Iterator[tuple[str, bytes]]:
    yield "data.pkl", _program(arrays, key)
    yield "byteorder", b"little"
    for i, array in enumerate(arrays.values()):
        yield f"data/{i}", array.tobytes()
    yield "version", b"3\n"


def _member(name: str, place: int) -> zipfile.ZipInfo:
    """A member, dated 1980, whose data start at a multiple of `ALIGNMENT`, as PyTorch's do so that they can be mapped into
    memory: a field of padding in its header, which is at `place`."""
    member = zipfile.ZipInfo(f"{ROOT}/{name}")
    padding = -(place + LOCAL_HEADER + len(member.filename) + 4) % ALIGNMENT
    member.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    return member


def _program(arrays: Mapping[str, np.ndarray], key: str | None) -> bytes:
    """The pickle, its instructions written one by one: pickle.Pickler names only what it can import, and torch is not there."""
    items = b"".join(_plain(name) + _tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items()))
    state = _empty() + pickle.MARK + items + pickle.SETITEMS
    content = state if key is None else pickle.EMPTY_DICT + _plain(key) + state + pickle.SETITEM
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _tensor(array: np.ndarray, record: str) -> bytes:
    """_rebuild_tensor_v2(storage, 0, size, stride, requires_grad=False, backward_hooks=OrderedDict())"""
    kind, place = _global("torch", WRITTEN[array.dtype]), _plain("cpu")
    stride = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
    storage = pickle.MARK + _plain("storage") + kind + _plain(record) + place + _plain(array.size) + pickle.TUPLE
    view = storage + pickle.BINPERSID + _plain(0) + _plain(array.shape) + _plain(stride)
    arguments = pickle.MARK + view + pickle.NEWFALSE + _empty() + pickle.TUPLE
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _empty() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _plain(value: str | int | tuple[int, ...]) -> bytes:
    """A value's instructions, without the first (protocol) and the last (stop), and without places in the memo."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]
