"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
from contextlib import AbstractContextManager
from pathlib import Path

from minidat.training.errors import TrainingError

LOCK = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # from file systems that have none


class Lock(AbstractContextManager):
    """The lock of a folder: a file in it, locked by the operating system, which also releases it when the process is killed.

    Held from `acquire` (or `with`) to `release`. Acquiring a lock that this object holds changes nothing. Raises
    TrainingError where another process, or another object of this one, holds it, or where the folder cannot be written to.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def acquire(self) -> None:
        if self._descriptor is not None:
            return
        path = self.folder / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise TrainingError(f"{self.folder}: a run cannot write to this folder ({error.strerror})") from error
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            by = f" by process {holder}" if holder.isdigit() else ""
            raise TrainingError(
                f"{self.folder} is in use{by}: a run is trained by one process at a time; wait for its end, or stop it"
            ) from error
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # only for the message above
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
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
