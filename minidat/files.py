"""Files that are complete or not there at all."""

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
    temporary file is removed. One process may write a path at a time. Raises OSError where writing fails (a full disk)."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Have the new name survive a power cut. Where the system cannot (Windows), the file is whole anyway."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
