"""PyTorch's checkpoint files (.pth), read and written without PyTorch, and read without running what they say.

A .pth is a zip archive: `archive/data.pkl` is a pickle in which every tensor is a call, "rebuild from storage 7, offset,
size, stride", and `archive/data/7` has that storage's bytes. A pickle is a program, and its calls may be to anything. Here
a name in the pickle means one of three things:

  in `REBUILT`   one of the functions below, which notes the arguments down
  in `INERT`     what training checkpoints also hold (configurations, NumPy's scalars …): an empty shell, never the thing itself
  anything else  the file is refused

Nothing is imported and nothing of the file's is called. Sizes, offsets and strides are checked against the bytes that are
there before an array is made of them.

Source: PyTorch's serialisation format, version 3 (PyTorch 1.6 and newer).
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minidat.files import atomic_write

KEYS = ("model", "state_dict")
"""Where `read` looks for the state dict, in this order, before it takes the file's content for one."""

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

WRITTEN = {np.dtype(raw): kind for kind, raw in STORAGES.items() if kind not in ("BFloat16Storage", "BoolStorage")}
WRITTEN[np.dtype(bool)] = "BoolStorage"

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

OTHER_FILES = (
    (b"\x80", "a pickle, as a PyTorch older than 1.6 saved it: load it with torch and save it again"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"<", "a web page: download it again"),
)

ROOT = "archive"
LOCAL_HEADER = 30  # bytes, before a member's name
ALIGNMENT = 64  # bytes: where PyTorch has every record start
LARGEST_INT = 2**63 - 1
SHOWN = 5  # names in a message before it only counts
FLOOR, TIMES = 2**30, 16  # memory that a file may ask for: this many bytes, or so many times its own

UNREADABLE = (zipfile.BadZipFile, EOFError, OSError, OverflowError, RuntimeError, ValueError, struct.error)
"""What `zipfile` raises for an archive that is damaged, encrypted or of a newer kind."""


class PthError(ValueError):
    """A .pth file cannot be read or written. The message names the file and the reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"checkpoint {os.fspath(path)}: {reason}")


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


class Inert:
    """Takes whatever a pickle gives an object, and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def add(self, item: Any) -> None: ...


class Ordered(dict):
    """An OrderedDict without its attributes, such as a state dict's `_metadata`."""

    def __setstate__(self, state: Any) -> None: ...


def _stored(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    return StoredTensor(storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


REBUILT = {
    "collections.OrderedDict": Ordered,
    "torch._utils._rebuild_tensor_v2": _stored,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}


class Unpickler(pickle.Unpickler):
    """Reads a pickle in which names are only what this module makes of them."""

    def __init__(self, path: Path, program: bytes):
        super().__init__(io.BytesIO(program))
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in REBUILT:
            rebuild = REBUILT[full]
            return lambda *args: rebuild(*args)  # a fresh one: a pickle may set attributes of what it is given
        if module == "torch" and name in STORAGES:
            return name
        if name in INERT.get(module, ()):
            return type(name, (Inert,), {"__module__": module})
        raise PthError(
            self.path,
            f"it refers to {full}, which is not among the names that are read, and nothing of it was called. If you trust "
            "the file, load it with torch and save the state dict alone: torch.save(model.state_dict(), …)",
        )

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", str(kind), str(key), _, int(count)) if kind in STORAGES and 0 <= count <= LARGEST_INT:
                return Storage(kind, key, count)
        raise PthError(self.path, "damaged: its pickle refers to something that is not a storage")


class Archive:
    """The zip: members stored as they are, so that reading one takes no more memory than the file has bytes."""

    def __init__(self, path: Path, zipped: zipfile.ZipFile, size: int):
        self.path, self.zip, self.size = path, zipped, size
        self._check_members()
        self.root = self._find_root()
        if f"{self.root}/byteorder" in zipped.namelist() and self.record("byteorder").strip() != b"little":
            raise PthError(path, "saved on a big-endian machine; load it with torch and save it on a little-endian one")

    def _check_members(self) -> None:
        members = self.zip.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                advice = "PyTorch stores members as they are: zip it again, uncompressed"
                raise PthError(self.path, f"member {member.filename!r} is compressed; {advice}")
            if member.file_size != member.compress_size:
                sizes = f"{member.file_size} bytes, stored in {member.compress_size}"
                raise PthError(self.path, f"damaged: member {member.filename!r} claims {sizes}")
        claimed = sum(member.file_size for member in members)
        if claimed > self.size:
            raise PthError(self.path, f"damaged: its members claim {claimed} bytes, the file has {self.size}")

    def _find_root(self) -> str:
        """The folder that all is in: `archive`, or the name that the file was first saved under."""
        names = self.zip.namelist()
        roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            reason = f"a zip archive that torch.save did not write: it has {_some(names)}, not one FOLDER/data.pkl"
            raise PthError(self.path, reason)
        if any(name.startswith((f"{roots[0]}/constants.pkl", f"{roots[0]}/code/")) for name in names):
            advice = "save the state dict alone: torch.save(model.state_dict(), …)"
            raise PthError(self.path, f"a TorchScript archive, which holds a program; {advice}")
        return roots[0]

    def record(self, name: str) -> bytes:
        try:
            return self.zip.read(f"{self.root}/{name}")
        except KeyError:
            raise PthError(self.path, f"damaged: the record {self.root}/{name} is missing") from None
        except UNREADABLE as error:
            raise PthError(self.path, f"damaged: the record {self.root}/{name} cannot be read: {error!r}") from error


def read(path: str | os.PathLike[str], key: str | None = None) -> dict[str, np.ndarray]:
    """The state dict of a .pth file: name → array, in the file's order. Needs no PyTorch and runs no pickled code.

    key: where in the file's dictionary the state dict is. None: under "model" (the released DAT) or "state_dict", whichever
    of the two is there and is a dictionary; otherwise the file's content itself. What else a training checkpoint holds
    (optimizer, scheduler, configuration …) is passed over and its tensors are not read from the disk.
    float64, float32, float16, int64 … int8, uint8 and bool keep their dtype, bfloat16 becomes float32. The arrays are C-ordered,
    own their memory and may be written to; tensors that shared a storage no longer do.

    Raises PthError for a file that is missing, cut short, not a zip, TorchScript, big-endian, without a state dict, or whose
    pickle names anything beyond `REBUILT` and `INERT`; for a tensor that reaches beyond its storage.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file, _zip(path, file) as zipped:
            archive = Archive(path, zipped, os.fstat(file.fileno()).st_size)
            return _arrays(archive, _state(path, _content(archive), key))
    except OSError as error:
        raise PthError(path, f"cannot be read: {error.strerror or error}") from error


def _zip(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    start = file.read(32)
    for mark, kind in OTHER_FILES:
        if start.startswith(mark):
            raise PthError(path, f"not a zip archive, as .pth files are, but {kind}")
    if not start.startswith(b"PK"):
        raise PthError(path, f"not a zip archive, as .pth files are: it starts with {start[:8]!r}")
    try:
        return zipfile.ZipFile(file)
    except UNREADABLE as error:
        raise PthError(path, f"cut short or damaged: {error}") from error


def _content(archive: Archive) -> Any:
    """What was saved, with a `StoredTensor` for every tensor."""
    program = archive.record("data.pkl")
    try:
        for code, argument, _ in pickletools.genops(program):  # the memo's length is the largest place in it
            if code.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(program):
                raise ValueError(f"place {argument} in the memo of a pickle of {len(program)} bytes")
        return Unpickler(archive.path, program).load()
    except PthError:
        raise
    except Exception as error:  # a pickle can fail in any way
        raise PthError(archive.path, f"damaged: its pickle cannot be read: {error!r}") from error


def _state(path: Path, content: Any, key: str | None) -> dict[str, StoredTensor]:
    """The state dict in what was saved: see `read`."""
    if not isinstance(content, dict):
        raise PthError(path, f"it holds a {type(content).__name__}, not a dictionary with a state dict")
    if key is not None and key not in content:
        raise PthError(path, f"it has no key {key!r}; its keys are {_some(content)}")
    if key is None:
        key = next((k for k in KEYS if isinstance(content.get(k), dict)), None)
    state = content if key is None else content[key]
    if not isinstance(state, dict):
        raise PthError(
            path, f"its {key!r} is a {type(state).__name__}, not a state dict; its keys are {_some(content)}"
        )
    others = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, StoredTensor))]
    if others and key is None:
        searched = " or ".join(map(repr, KEYS))
        reason = f"no state dict in it: none under {searched}, and of its keys, {_some(state)}, not tensors are {_some(others)}"
        raise PthError(path, f"{reason}. Say which key has it: read(path, key=…)")
    if others:
        raise PthError(
            path, f"its {key!r} is not a state dict, names and tensors alone: not tensors are {_some(others)}"
        )
    return state


def _some(names: Iterable[Any]) -> str:
    """The first few names. A key of another type is named by it: its repr may be anything."""
    shown = [repr(name) if isinstance(name, str) else f"a {type(name).__name__}" for name in names]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "") or "none"


def _arrays(archive: Archive, state: dict[str, StoredTensor]) -> dict[str, np.ndarray]:
    """The tensors as arrays: each storage is read once, and dropped."""
    by_record: dict[str, list[str]] = {}
    total = 0
    for name, stored in state.items():
        total += _check(archive.path, name, stored)
        by_record.setdefault(stored.storage.key, []).append(name)
    allowed = max(FLOOR, TIMES * archive.size)
    if total > allowed:
        reason = f"damaged: its tensors would take more than {allowed} bytes of memory, and the file has {archive.size}"
        raise PthError(archive.path, reason)
    arrays: dict[str, np.ndarray] = {}
    for key, names in by_record.items():
        data = archive.record(f"data/{key}")
        arrays |= {name: _array(archive.path, name, state[name], data) for name in names}
    return {name: arrays[name] for name in state}


def _check(path: Path, name: str, stored: StoredTensor) -> int:
    """The bytes that a tensor takes, none of its axes counted as empty. Raises PthError where it is not inside its storage."""
    storage, offset, size, stride = stored
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise PthError(path, f"damaged: tensor {name!r} is not storage, offset, size, stride")
    if any(type(n) is not int or not 0 <= n <= LARGEST_INT for n in (offset, *size, *stride)):
        raise PthError(path, f"damaged: tensor {name!r}: offset, size and stride must be whole numbers from 0 on")
    if len(size) != len(stride) or len(size) > 64:
        raise PthError(path, f"damaged: tensor {name!r} has {len(size)} axes and {len(stride)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if 0 not in size and last >= storage.count:
        where = f"size {size}, stride {stride}, offset {offset}"
        raise PthError(path, f"tensor {name!r} reaches element {last} of a storage of {storage.count}: {where}")
    return math.prod(max(n, 1) for n in size) * np.dtype(STORAGES[storage.kind]).itemsize


def _array(path: Path, name: str, stored: StoredTensor, data: bytes) -> np.ndarray:
    """The elements of a checked tensor, copied. `data`: its storage's bytes."""
    storage, offset, size, stride = stored
    dtype = np.dtype(STORAGES[storage.kind])
    if storage.count * dtype.itemsize > len(data):
        reason = f"tensor {name!r} is in a storage of {storage.count} elements of {dtype.itemsize} bytes"
        raise PthError(path, f"damaged: {reason}, whose record {storage.key!r} has {len(data)} bytes")
    if 0 in size:
        raw = np.empty(size, dtype)
    else:
        steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride)]
        raw = np.ndarray(size, dtype, data, offset * dtype.itemsize, steps)
    if storage.kind == "BFloat16Storage":  # the upper half of a float32
        bits = raw.astype(np.uint32, order="C")
        bits <<= 16
        return bits.view(np.float32)
    return raw.astype(bool if storage.kind == "BoolStorage" else dtype.newbyteorder("="), order="C")


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], *, key: str | None = "model") -> None:
    """Write {key: state dict}, or with key None the bare state dict, for torch.load(path, weights_only=True).

    arrays: NumPy's, of float64, float32, float16, int64 … int8, uint8 or bool, any strides; each becomes a contiguous tensor on
    the CPU with a storage of its own. The file is written beside `path` as `.NAME.tmp` and renamed, so an older file at `path`
    stays as it is until the new one is complete. The same arrays give the same bytes.

    Raises PthError for what it cannot hold and for a folder that does not exist, OSError where writing fails (a full disk);
    the temporary file is then removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise PthError(path, f"the folder {path.parent} does not exist")
    ready = {name: _ready(path, name, array) for name, array in arrays.items()}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as zipped:
        for name, data in _records(ready, key):
            zipped.writestr(_member(name, file.tell()), data)


def _ready(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array, little-endian."""
    if not isinstance(name, str):
        raise PthError(path, f"{name!r} cannot be the name of a tensor")
    if not isinstance(array, np.ndarray):
        raise PthError(path, f"array {name!r} is a {type(array).__module__}.{type(array).__name__}, not NumPy's")
    little = array.dtype.newbyteorder("<")
    if little not in WRITTEN:
        raise PthError(path, f"array {name!r} has dtype {array.dtype}; written are {', '.join(map(str, WRITTEN))}")
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
