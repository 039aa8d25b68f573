"""PyTorch's checkpoint files (.pth), read without PyTorch and without running what they say. `pth_write` writes them.

A .pth is a zip archive: `archive/data.pkl` is a pickle that names tensors (see `pth_pickle`), and `archive/data/7` has the
bytes of storage 7. Sizes, offsets and strides are checked against the bytes that are there before an array is made of them.

Source: PyTorch's serialisation format, version 3 (PyTorch 1.6 and newer).
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minidat.files import open_regular
from minidat.released.contents import START, refuse_other_files
from minidat.released.errors import WeightsError
from minidat.released.pth_pickle import LARGEST_INT, STORAGES, CheckpointPickle, Storage, StoredTensor
from minidat.released.small_floats import from_bfloat16
from minidat.released.state_dict import find_state, names_of
from minidat.unpickle import PickleError, quoted, shown

FLOOR, TIMES = 2**28, 4  # memory that a state dict may ask for: this many bytes, or so many times the file's
LARGEST_DIRECTORY = 20_000_000  # bytes of a zip's list of members, some 100 for each
LONGEST_END = 2**16 + 200  # bytes at a zip's end in which it says where that list is
LARGEST_PICKLE = 100_000_000  # bytes; a training checkpoint of DAT-B has less than 1,000,000

UNREADABLE = (zipfile.BadZipFile, EOFError, OSError, OverflowError, RuntimeError, ValueError, struct.error)
"""What `zipfile` raises for an archive that is damaged, encrypted or of a newer kind."""


class Archive:
    """The zip: members stored as they are, so that reading one takes no more memory than the file has bytes."""

    def __init__(self, path: Path, zipped: zipfile.ZipFile, size: int):
        self.path, self.zip, self.size = path, zipped, size
        self.root = self._find_root()
        self._check_members()
        if f"{self.root}/byteorder" in zipped.namelist() and self.record("byteorder").strip() != b"little":
            raise WeightsError(
                path, "saved on a big-endian machine; load it with torch and save it on a little-endian one"
            )

    def _find_root(self) -> str:
        """The folder that all is in: `archive`, or the name that the file was first saved under."""
        names = self.zip.namelist()
        if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
            advice = (
                "torch.jit.load reads it; save its state dict alone: torch.save(torch.jit.load(FILE).state_dict(), …)"
            )
            raise WeightsError(self.path, f"a TorchScript archive, which holds a program; {advice}")
        roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            reason = f"a zip archive that torch.save did not write: it has {names_of(names)}, not one FOLDER/data.pkl"
            raise WeightsError(self.path, reason)
        return roots[0]

    def _check_members(self) -> None:
        members = self.zip.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                advice = "PyTorch stores members as they are: zip it again, uncompressed"
                raise WeightsError(self.path, f"member {quoted(member.filename)} is compressed; {advice}")
            if member.file_size != member.compress_size:
                sizes = f"{member.file_size} bytes, stored in {member.compress_size}"
                raise WeightsError(self.path, f"damaged: member {quoted(member.filename)} claims {sizes}")
        claimed = sum(member.file_size for member in members)
        if claimed > self.size:
            raise WeightsError(self.path, f"damaged: its members claim {claimed} bytes, the file has {self.size}")

    def record(self, name: str) -> bytes:
        """The bytes of one member."""
        try:
            return self.zip.read(f"{self.root}/{name}")
        except KeyError:
            raise WeightsError(self.path, f"damaged: the record {quoted(f'{self.root}/{name}')} is missing") from None
        except UNREADABLE as error:
            reason = f"damaged: the record {quoted(f'{self.root}/{name}')} cannot be read: {shown(repr(error), 200)}"
            raise WeightsError(self.path, reason) from error


def read_pth(path: str | os.PathLike[str], key: str | None = None) -> dict[str, np.ndarray]:
    """The state dict of a .pth file: name → array, in the file's order. Needs no PyTorch and runs no pickled code.

    key: where in the file's dictionary the state dict is; None: see `state_dict.find_state`. What else a training checkpoint
    holds (optimizer, scheduler, configuration …) is passed over, and its tensors are not read from the disk.
    float64, float32, float16, int64 … int8, uint8 and bool keep their dtype, bfloat16 becomes float32. The arrays are
    C-ordered, own their memory and may be written to; tensors that shared a storage no longer do.

    Raises WeightsError for a file that is missing, cut short, not a zip, TorchScript, big-endian, without a state dict, or
    whose pickle names anything beyond what `pth_pickle` lists; for a tensor that reaches beyond its storage.
    """
    path = Path(path)
    try:
        with open_regular(path) as file, _open_zip(path, file) as zipped:
            archive = Archive(path, zipped, os.fstat(file.fileno()).st_size)
            return _arrays(archive, find_state(path, _content(archive), key, StoredTensor))
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror or error}") from error


def _open_zip(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    start = file.read(START)
    refuse_other_files(path, start, "a zip archive, as .pth files are")
    if not start.startswith(b"PK"):
        raise WeightsError(path, f"not a zip archive, as .pth files are: it starts with {start[:8]!r}")
    size = _directory_size(file)
    if size > LARGEST_DIRECTORY:
        raise WeightsError(path, f"its zip lists members in {size:,} bytes, expected {LARGEST_DIRECTORY:,} at most")
    try:
        return zipfile.ZipFile(file)
    except UNREADABLE as error:
        raise WeightsError(path, f"cut short or damaged: {shown(str(error), 200)}") from error


def _directory_size(file: BinaryIO) -> int:
    """Bytes of the zip's list of members, which `zipfile` reads at once, by the record at the file's end; 0 where there is none.

    Fields: size at byte 12 of the record; in a zip of more than 4 GB it is 2**32 − 1, and the size at byte 40 of another record.
    """
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(end - LONGEST_END, 0))
    tail = file.read(end - start)
    places = [m.start() for m in re.finditer(b"PK\x05\x06", tail) if m.start() + 22 <= len(tail)]
    sizes = [int.from_bytes(tail[at + 12 : at + 16], "little") for at in places]
    if 2**32 - 1 in sizes:
        large = [m.start() for m in re.finditer(b"PK\x06\x06", tail)]
        sizes = [int.from_bytes(tail[at + 40 : at + 48], "little") for at in large]
    return max(sizes, default=0)


def _content(archive: Archive) -> object:
    """What was saved, with a `StoredTensor` for every tensor."""
    program = archive.record("data.pkl")
    if len(program) > LARGEST_PICKLE:
        raise WeightsError(archive.path, f"its pickle has {len(program):,} bytes, expected {LARGEST_PICKLE:,} at most")
    try:
        return CheckpointPickle(program).load()
    except PickleError as error:
        raise WeightsError(archive.path, f"its pickle cannot be read: {error}") from error


def _arrays(archive: Archive, state: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
    """The tensors as arrays: each storage is read once, and dropped."""
    by_record: dict[str, list[str]] = {}
    total = 0
    for name, stored in state.items():
        total += _check(archive.path, name, stored)
        by_record.setdefault(stored.storage.key, []).append(name)
    allowed = max(FLOOR, TIMES * archive.size)
    if total > allowed:
        reason = f"damaged: its tensors would take more than {allowed} bytes of memory, and the file has {archive.size}"
        raise WeightsError(archive.path, reason)
    arrays: dict[str, np.ndarray] = {}
    for key, names in by_record.items():
        data = archive.record(f"data/{key}")
        arrays |= {name: _array(archive.path, name, state[name], data) for name in names}
    return {name: arrays[name] for name in state}


def _check(path: Path, name: str, stored: StoredTensor) -> int:
    """The bytes that a tensor takes, no axis counted as empty. Raises WeightsError for one that is not inside its storage."""
    storage, offset, size, stride = stored
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise WeightsError(path, f"damaged: tensor {quoted(name)} is not storage, offset, size, stride")
    if len(size) != len(stride) or len(size) > 64:
        raise WeightsError(path, f"damaged: tensor {quoted(name)} has {len(size)} axes and {len(stride)} strides")
    if any(type(n) is not int or not 0 <= n <= LARGEST_INT for n in (offset, *size, *stride)):
        raise WeightsError(
            path, f"damaged: tensor {quoted(name)}: offset, size and stride must be whole numbers from 0 on"
        )
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if 0 not in size and last >= storage.count:
        where = f"size {size}, stride {stride}, offset {offset}"
        raise WeightsError(
            path, f"tensor {quoted(name)} reaches element {last} of a storage of {storage.count}: {where}"
        )
    return math.prod(max(n, 1) for n in size) * np.dtype(STORAGES[storage.kind]).itemsize


def _array(path: Path, name: str, stored: StoredTensor, data: bytes) -> np.ndarray:
    """The elements of a checked tensor, copied. `data`: its storage's bytes."""
    storage, offset, size, stride = stored
    dtype = np.dtype(STORAGES[storage.kind])
    if storage.count * dtype.itemsize > len(data):
        reason = f"tensor {quoted(name)} is in a storage of {storage.count} elements of {dtype.itemsize} bytes"
        raise WeightsError(path, f"damaged: {reason}, whose record {quoted(storage.key)} has {len(data)} bytes")
    if 0 in size:
        raw = np.empty(size, dtype)
    else:
        steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride)]
        raw = np.ndarray(size, dtype, data, offset * dtype.itemsize, steps)
    if storage.kind == "BFloat16Storage":
        return from_bfloat16(raw)
    return raw.astype(bool if storage.kind == "BoolStorage" else dtype.newbyteorder("="), order="C")
