"""Checkpoints: safetensors files that hold arrays, a dictionary of the caller's, and a digest of both.

A safetensors file is the length of a header, the header (JSON: name → dtype, shape, place) and the arrays'
bytes. Any safetensors reader reads these. The header's `__metadata__` has one entry, "minidat", the JSON text
of {"format": 1, "digest": …, "meta": what the caller gave}. The format has no checksum of its own, hence the
digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save as serialise

from minidat.files import atomic_write

FORMAT = 1
KEY = "minidat"
LONGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
SHOWN = 3  # names in a message before it only counts

DTYPES: dict[str, type] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

OTHER_FILES = (
    (b"PK\x03\x04", "a zip archive, as PyTorch's .pth and NumPy's .npz are"),
    (b"\x80", "a pickle, as old .pth files are"),
    (b"\x93NUMPY", "NumPy's .npy"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"<!", "a web page"),
)


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read. The message names the file and the reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"checkpoint {os.fspath(path)}: {reason}")


def save(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint. The file is complete afterwards, or not there at all.

    arrays: NumPy's, of the dtypes in `DTYPES`. meta: what JSON can represent; it comes back as JSON has it, tuples
    as lists and keys as strings, and NaN is refused. The file is written beside `path` as `.NAME.tmp`,
    flushed to disk and renamed, so an older file at `path` stays as it is until the new one is complete. One
    process may write a path at a time.

    Raises CheckpointError for arrays or meta it cannot hold and for a folder that does not exist, OSError
    where writing fails (a full disk); the temporary file is then removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(path, f"the folder {path.parent} does not exist")
    ready = {name: _ready(path, name, array) for name, array in arrays.items()}
    kept = _plain(path, meta)
    about = {"format": FORMAT, "digest": _digest(ready, kept), "meta": kept}
    blob = serialise(ready, metadata={KEY: json.dumps(about)})
    with atomic_write(path) as file:
        file.write(blob)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the meta that `save` wrote. The arrays own their memory and may be written to.

    Raises CheckpointError for a file that is missing, cut short, altered, of another kind, not written by
    minidat, or written by a newer one.
    """
    path = Path(path)
    blob = _read(path)
    about = _about(path, _header(path, blob))
    arrays = _arrays(path, blob)
    if _digest(arrays, about["meta"]) != about["digest"]:
        raise CheckpointError(path, "damaged: its content does not have the digest that was saved with it")
    return arrays, about["meta"]


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether this is a file that `save` wrote, by its header. False for one that is missing or damaged, a pipe and a folder."""
    if not Path(path).is_file():  # opening a pipe would wait for somebody who writes to it
        return False
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CheckpointError(path, "cannot be read: it is a pipe or a device, not a file")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
    except CheckpointError:
        raise
    except ValueError as error:  # a zero byte in the name
        raise CheckpointError(path, f"cannot be read: {error}") from error


def check_names(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    path: str | os.PathLike[str],
) -> None:
    """Raise CheckpointError unless both have the same names with the same shapes. The message gives the
    number and the first few of those that are missing, that are not expected and that have another shape."""
    missing = [repr(name) for name in expected if name not in found]
    extra = [repr(name) for name in found if name not in expected]
    shapes = [
        f"{name!r} (file {tuple(found[name])}, expected {tuple(shape)})"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = {"missing": missing, "not expected": extra, "of another shape": shapes}
    parts = [f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds.items() if names]
    if parts:
        raise CheckpointError(path, "its arrays are not the model's; " + "; ".join(parts))


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _ready(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array in C order and little-endian, which is how safetensors reads its memory."""
    if not isinstance(name, str) or name == "__metadata__" or name.encode(errors="replace").decode() != name:
        raise CheckpointError(path, f"{name!r} cannot be the name of an array")
    if not isinstance(array, np.ndarray):
        raise CheckpointError(path, f"array {name!r} is a {type(array).__module__}.{type(array).__name__}, not NumPy's")
    if array.dtype.newbyteorder("=") not in [np.dtype(dtype) for dtype in DTYPES.values()]:
        raise CheckpointError(path, f"array {name!r} has dtype {array.dtype}; it must be a float, an integer or bool")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _plain(path: Path, meta: Any) -> dict[str, Any]:
    """meta as it comes back from JSON, which is what the digest is taken of."""
    try:
        text = json.dumps(meta, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"meta is not what JSON can hold: {error}") from error
    return _json_object(path, "meta", text)


def _digest(arrays: Mapping[str, np.ndarray], meta: Any) -> str:
    """BLAKE2b over meta and every array's name, dtype, shape and bytes. Arrays are in C order."""
    digest = hashlib.blake2b(json.dumps(meta).encode(), digest_size=16)
    for name in sorted(arrays):
        digest.update(f"\n{name} {arrays[name].dtype.name} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()


def _header(path: Path, blob: bytes) -> dict[str, Any]:
    """The header, of a file that is as long as it says."""
    if not blob:
        raise CheckpointError(path, "is empty")
    length = int.from_bytes(blob[:8], "little")
    is_other = len(blob) > 8 and (length > LONGEST_HEADER or blob[8:9] != b"{")
    if is_other or _is_text(blob[:9]):
        raise CheckpointError(path, f"not a safetensors file; it looks like {_looks_like(blob)}")
    if len(blob) < 8 + length:
        raise CheckpointError(path, f"cut short: {len(blob)} bytes do not hold its header")
    header = _json_object(path, "header", blob[8 : 8 + length])
    promised = 8 + length + _last_offset(header)
    if len(blob) < promised:
        raise CheckpointError(path, f"cut short: {len(blob)} bytes, its header promises {promised}")
    return header


def _last_offset(header: dict[str, Any]) -> int:
    """Where the last array ends. Entries that make no sense are left for safetensors to refuse."""
    entries = [entry.get("data_offsets") for entry in header.values() if isinstance(entry, dict)]
    ends = [entry[-1] for entry in entries if isinstance(entry, list) and entry]
    return max((end for end in ends if isinstance(end, int)), default=0)


def _json_object(path: Path, what: str, text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"its {what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, f"its {what} is not a JSON object but {type(value).__name__}")
    return value


def _about(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The entry that `save` makes: format, digest and meta."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise CheckpointError(path, f"a safetensors file that minidat did not write: its metadata has no {KEY!r}")
    about = _json_object(path, f"{KEY!r} metadata", metadata[KEY])
    version = about.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(path, f"its format is {version!r}; it must be a whole number from 1 on")
    if version > FORMAT:
        raise CheckpointError(path, f"written by a newer minidat: format {version}, this one reads {FORMAT}")
    if not isinstance(about.get("digest"), str) or not isinstance(about.get("meta"), dict):
        raise CheckpointError(path, f"its {KEY!r} metadata lacks a digest or meta")
    return about


def _arrays(path: Path, blob: bytes) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(blob)
    except safetensors.SafetensorError as error:
        raise CheckpointError(path, f"safetensors refuses it: {error}") from error
    arrays = {}
    for name, entry in entries:
        dtype, shape = entry["dtype"], entry["shape"]
        if dtype not in DTYPES:
            raise CheckpointError(path, f"array {name!r} has dtype {dtype}; readable are {', '.join(DTYPES)}")
        little = np.dtype(DTYPES[dtype]).newbyteorder("<")
        try:
            arrays[name] = np.frombuffer(entry["data"], little).reshape(shape)
        except ValueError as error:  # an empty array may claim axes that NumPy cannot have
            raise CheckpointError(path, f"array {name!r} has shape {shape}: {error}") from error
    return arrays


def _is_text(start: bytes) -> bool:
    return start.isascii() and all(chr(byte).isprintable() or chr(byte).isspace() for byte in start)


def _looks_like(blob: bytes) -> str:
    for start, kind in OTHER_FILES:
        if blob.startswith(start):
            return kind
    return (
        f"text: {blob[:24].decode(errors='replace')!r}" if _is_text(blob[:8]) else f"binary data: {blob[:8].hex(' ')}"
    )
