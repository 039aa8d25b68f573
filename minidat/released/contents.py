"""What kind of file of weights a file is, by its first bytes. Its name may be any: `.pth.tar`, `.bin` and `.ckpt` say little."""

from __future__ import annotations

import os
from pathlib import Path

from minidat.files import open_regular
from minidat.released.errors import WeightsError

START = 512  # bytes that are looked at
LONGEST_HEADER = 100_000_000  # bytes: safetensors' own limit

OTHER_FILES = (
    (b"\x80", "a pickle, as a PyTorch older than 1.6 saved it: load it with torch and save it again"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched; `git lfs pull` fetches it"),
    (b"<", "a web page: download it again"),
    (b"\x93NUMPY", "NumPy's .npy"),
    (b"\x89HDF", "an HDF5 file, as Keras writes"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"{", "JSON, perhaps a configuration or the index of a checkpoint in several files"),
)


def kind_of_weights(path: str | os.PathLike[str]) -> str:
    """The kind of file: "pth" or "safetensors". Raises WeightsError, saying what the file is, for any other and for one that
    cannot be read."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            start, size = file.read(START), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror or error}") from error
    if start.startswith(b"PK"):
        return "pth"
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length <= min(LONGEST_HEADER, size - 8):
        return "safetensors"
    if start[8:9] == b"{" and size - 8 < length <= LONGEST_HEADER:
        raise WeightsError(path, f"cut short: a safetensors file of {size} bytes, whose header alone has {length}")
    refuse_other_files(path, start, "a file of PyTorch (.pth) or safetensors")
    found = f"it starts with {start[:8]!r}" if start else "it is empty"
    raise WeightsError(path, f"not a file of PyTorch (.pth) or safetensors: {found}")


def refuse_other_files(path: Path, start: bytes, expected: str) -> None:
    """Raise WeightsError for what is often found in the place of weights. start: the file's first bytes."""
    if start[257:262] == b"ustar":
        raise WeightsError(path, f"not {expected}, but a tar archive: unpack it first")
    for mark, kind in OTHER_FILES:
        if start.lstrip().startswith(mark):
            raise WeightsError(path, f"not {expected}, but {kind}")
