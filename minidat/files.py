"""Files that are complete or not there at all, and errors that name their file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Generator[BinaryIO]:
    """A file to write `path`'s new content to. It stands beside `path` as `.NAME.tmp`, and is flushed to disk and renamed when
    the block ends, so an older file at `path` stays as it is until the new one is complete. Where the block raises, the
    temporary file is removed. One process may write a path at a time. Raises OSError, which names `path`, where writing
    fails (a full disk)."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with naming(path):
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # on a disk that became read-only it cannot be removed either
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Have every OSError of the block name `path`: those of writing, flushing and closing name no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Have the new name survive a power cut. Where the system cannot (Windows), the file is complete anyway."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
