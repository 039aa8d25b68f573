"""Files that are complete or not there at all, errors that name their file, locks, and no waiting for pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # from file systems that have none


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


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read its bytes. Raises OSError, with the reason as its `strerror`, for one that is missing, and at once
    for a folder, a pipe or a device, from which reading might never end, and for a name that no file can have."""
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (the caller closes it)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, f"no file has such a name ({error})", os.fspath(path)) from error
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, not a regular file", os.fspath(path))


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe that nobody writes to would otherwise wait."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ~ as the home folder; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def lock(descriptor: int) -> None:
    """Lock without waiting. Raises BlockingIOError where another process holds the lock; does nothing where the file system
    has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        _lock_windows(descriptor)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _lock_windows(descriptor: int) -> None:
    import msvcrt

    os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte beyond the content: a locked byte cannot be read by others
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # ty: ignore[missing-attribute]
    except OSError as error:
        raise BlockingIOError(error.errno, error.strerror) from error
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
