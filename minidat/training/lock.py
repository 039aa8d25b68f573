"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

from minidat.files import lock
from minidat.training.errors import TrainingError

LOCK = ".lock"


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
            lock(descriptor)
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
