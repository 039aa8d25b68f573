"""Processes that read image files ahead of whoever needs them.

A process is asked through its standard input and answers through its standard output, one file after the other. Nothing else
keeps it alive: when the process that asks ends, however it ends, its inputs close and it ends too. Pixels go through the pipe,
so there is no shared memory that a crash could leave behind.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any, BinaryIO, Protocol

import numpy as np

from minidat.data.dataset import DataError

HEADER = struct.Struct("<?iii")  # whether it is an image; its height, width and channels, or a message's length
MOST_WORKERS = 256
PATIENCE = 5.0  # seconds that a process has to end
START = "import sys; sys.path[:] = {path!r}; from minidat.data.decoders import serve; serve()"


class Read(Protocol):
    """What a file becomes: it can be pickled, and raises DataError where the file cannot be read."""

    def __call__(self, path: str, key: tuple[int, ...]) -> np.ndarray:
        """uint8 (H, W, C). key: where all random numbers come from; empty where there are none."""
        ...


class DecoderError(DataError):
    """A process that reads images ended by itself."""


class Decoders(AbstractContextManager):
    """`workers` processes that read files, from inside `with`; 0, and outside `with`: files are read here, when they are due.

    They start with the first file that is asked for. Raises ValueError for `workers` outside 0 … 256.
    """

    def __init__(self, workers: int = 0):
        if not 0 <= workers <= MOST_WORKERS:
            raise ValueError(f"workers is {workers}; it must be from 0 to {MOST_WORKERS}")
        self.workers = workers
        self._inside = False
        self._processes: list[_Process] = []
        self._threads: ThreadPoolExecutor | None = None  # one for each process, waiting for its answer
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def __enter__(self) -> Decoders:
        self._inside = True
        return self

    def __exit__(self, *error: object) -> None:
        self._inside = False
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in self._processes:
                process.end()
            threads.shutdown()  # every answer that a thread waited for has come, or its pipe is closed
        for process in self._processes:
            process.close()
        self._processes, self._idle = [], queue.SimpleQueue()

    def submit(self, read: Read, path: str, key: tuple[int, ...]) -> Future[np.ndarray | DataError]:
        """What `read(path, key)` gives, or the DataError that it raises, as soon as it is there. Files are begun in the order in
        which they are submitted. A result raises DecoderError where its process ended."""
        if not self._inside or not self.workers:
            return _Due(read, path, key)
        if self._threads is None:
            self._start()
        assert self._threads is not None
        return self._threads.submit(self._ask, read, path, key)

    def _start(self) -> None:
        self._threads = ThreadPoolExecutor(self.workers, "decoder")
        for _ in range(self.workers):
            process = _Process()
            self._processes.append(process)
            self._idle.put(process)

    def _ask(self, read: Read, path: str, key: tuple[int, ...]) -> np.ndarray | DataError:
        process = self._idle.get()
        try:
            return process.ask(read, path, key)
        finally:
            self._idle.put(process)


class _Due(Future):
    """A file that is read when its result is asked for."""

    def __init__(self, *task: Any):
        super().__init__()
        self._task = task

    def result(self, timeout: float | None = None) -> np.ndarray | DataError:
        return _outcome(*self._task)


def _outcome(read: Read, path: str, key: tuple[int, ...]) -> np.ndarray | DataError:
    try:
        return read(path, key)
    except DataError as error:
        return error


class _Process:
    """A process that runs `serve`. One thread at a time asks it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # it multiplies nothing
            start_new_session=True,  # Ctrl-C is for the process that trains
        )

    def ask(self, read: Read, path: str, key: tuple[int, ...]) -> np.ndarray | DataError:
        tasks, answers = self._process.stdin, self._process.stdout
        assert tasks is not None and answers is not None
        try:
            pickle.dump((read, path, key), tasks)
            tasks.flush()
            is_image, *sizes = HEADER.unpack(_exactly(answers, HEADER.size))
            if not is_image:
                return DataError(_exactly(answers, sizes[0]).decode("utf-8", "surrogateescape"))
            image = np.empty(sizes, np.uint8)
            _fill(answers, image.reshape(-1).data)
            return image
        except (OSError, EOFError, ValueError) as error:
            raise DecoderError(f"{path}: the process that read it ended ({self._end()})") from error

    def _end(self) -> str:
        """How the process ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def end(self) -> None:
        """Have the process end now."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Close the pipes of a process that ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what a process that ended did not take
                assert pipe is not None
                pipe.close()


def _exactly(pipe: Any, count: int) -> bytes:
    data = bytearray(count)
    _fill(pipe, memoryview(data))
    return bytes(data)


def _fill(pipe: Any, place: memoryview) -> None:
    """Read until `place` is full. Raises EOFError where the pipe ends before."""
    while place:
        count = pipe.readinto(place)
        if not count:
            raise EOFError
        place = place[count:]


def serve() -> None:
    """What a process does: read files until its input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not be taken for an answer
    tasks: BinaryIO = sys.stdin.buffer
    with suppress(EOFError, BrokenPipeError):  # the process that asks ended
        while True:
            _answer(_outcome(*pickle.load(tasks)), answers)
    os._exit(0)  # without a word on what could not be written any more


def _answer(result: np.ndarray | DataError, answers: BinaryIO) -> None:
    if isinstance(result, DataError):
        message = str(result).encode("utf-8", "surrogateescape")
        answers.write(HEADER.pack(False, len(message), 0, 0) + message)
    else:
        answers.write(HEADER.pack(True, *result.shape))
        answers.write(np.ascontiguousarray(result).data)
    answers.flush()
