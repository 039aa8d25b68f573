"""Files of safetensors with arrays of any of the format's floating-point types, also those that NumPy does not have."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save

from minidat.files import atomic_write, open_regular
from minidat.released.errors import WeightsError
from minidat.released.small_floats import from_bfloat16, from_float8_e4m3, from_float8_e5m2
from minidat.unpickle import quoted, shown

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "|u1",
    "F8_E5M2": "|u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|u1",
}
"""The format's type → its elements, as bytes have them."""

CONVERSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "BF16": from_bfloat16,
    "F8_E4M3": from_float8_e4m3,
    "F8_E5M2": from_float8_e5m2,
    "BOOL": lambda a: a != 0,
}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name. bfloat16 and float8 become float32, without a loss; the other types stay.

    The arrays own their memory and may be written to. Raises WeightsError for a file that is missing, damaged, or has an
    array of another type.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            blob = file.read()
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror or error}") from error
    try:
        entries = safetensors.deserialize(blob)
    except safetensors.SafetensorError as error:
        raise WeightsError(path, f"not a whole safetensors file ({shown(str(error), 200)})") from error
    return {name: _array(path, name, entry["dtype"], entry["shape"], entry["data"]) for name, entry in entries}


def write_safetensors(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, of the types that safetensors has, any strides. An older file at `path` stays as it is until the
    new one is complete. Raises WeightsError for a folder that does not exist, OSError where writing fails."""
    path = Path(path)
    if not path.parent.is_dir():
        raise WeightsError(path, f"the folder {path.parent} does not exist")
    blob = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata={"format": "pt"})
    with atomic_write(path) as file:
        file.write(blob)


def _array(path: Path, name: str, kind: str, shape: list[int], data: bytes) -> np.ndarray:
    if kind not in DTYPES:
        raise WeightsError(path, f"array {quoted(name)} has type {kind}; read are {', '.join(DTYPES)}")
    try:
        raw = np.frombuffer(data, DTYPES[kind]).reshape(shape)
    except ValueError as error:  # an empty array may claim axes that NumPy cannot have
        raise WeightsError(path, f"array {quoted(name)} has shape {shape}: {error}") from error
    if kind in CONVERSIONS:
        return np.asarray(CONVERSIONS[kind](raw))
    return raw.astype(raw.dtype.newbyteorder("="))
