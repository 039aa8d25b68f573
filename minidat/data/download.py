"""Fetch the CIFAR archives: with progress, resuming and a checksum, and a clear message where there is no network."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from minidat.data.dataset import DataError
from minidat.files import expanded, lock

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 18  # bytes
LARGEST = 200_000_000  # bytes; the genuine archives have some 170 million


@dataclass(frozen=True)
class Archive:
    url: str
    md5: str

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


ARCHIVES = {
    "cifar10": Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar100": Archive("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
}


def fetch(
    name: str,
    data_dir: str | Path,
    *,
    opener: Callable[..., Any] = urllib.request.urlopen,
    report: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Download the binary archive of "cifar10" or "cifar100" into `data_dir` and return its path.

    The bytes received so far are kept beside it as .part, and a second call continues from there. The archive gets
    its name only when its MD5 is right; one that is there already is returned as it is. opener: opens a
    request, as urllib.request.urlopen does. report: is called with the bytes received and the bytes in all (None: unknown);
    the default writes a line to stderr. Raises ValueError for an unknown name, DataError where the archive cannot
    be fetched, is larger than any genuine one, or has another MD5.
    """
    if name not in ARCHIVES:
        raise ValueError(f"data set {name!r} has no archive, expected one of {', '.join(ARCHIVES)}")
    archive = ARCHIVES[name]
    folder = expanded(data_dir).absolute()
    target, part = folder / archive.file, folder / (archive.file + ".part")
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f".{archive.file}.lock"
    with open(own, "wb") as alone:
        try:
            lock(alone.fileno())
        except BlockingIOError as error:
            raise DataError(
                f"{name}: another process fetches {archive.file} into {folder}; wait for its end"
            ) from error
        try:
            if not target.is_file():  # else another fetched it meanwhile
                _receive(name, archive, part, opener, report or _progress(archive.file))
                _check(name, archive, part)
                os.replace(part, target)
        finally:
            own.unlink(missing_ok=True)
    return target


def _check(name: str, archive: Archive, part: Path) -> None:
    """Delete a file that is not the archive, and raise DataError."""
    found = _md5(part)
    if found != archive.md5:
        part.unlink()
        raise DataError(
            f"{name}: {archive.url} gave a file with MD5 {found}, expected {archive.md5}; it is deleted, try again"
        )


def _receive(name: str, archive: Archive, part: Path, opener: Callable, report: Callable) -> None:
    """Bring `part` to its full length."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = opener(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to send: the part is complete, and its MD5 is checked next
            return
        raise _unreachable(name, archive, part.parent, f"answered {error.code} {error.reason}") from error
    except OSError as error:  # URLError is one
        raise _unreachable(name, archive, part.parent, f"cannot be reached ({_reason(error)})") from error
    with response:
        if response.status != 206:  # the server sends the whole archive again
            done = 0
        length = response.headers.get("Content-Length") or ""
        total = done + int(length) if length.isdecimal() else None
        too_large = total is not None and total > LARGEST
        with open(part, "ab" if done else "wb") as file:
            while not too_large and (chunk := _chunk(name, archive, response, done, total)):
                file.write(chunk)
                done += len(chunk)
                too_large = done > LARGEST
                report(done, total)
    if too_large:
        part.unlink()
        raise DataError(
            f"{name}: {archive.url} sends more than {LARGEST} bytes, which no genuine archive has; nothing is kept"
        )
    if total is not None and done < total:
        raise _cut(name, archive, done, total, "the connection was closed")


def _chunk(name: str, archive: Archive, response: Any, done: int, total: int | None) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _cut(name, archive, done, total, _reason(error)) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _cut(name: str, archive: Archive, done: int, total: int | None, reason: str) -> DataError:
    return DataError(
        f"{name}: {archive.url} stopped after {done} of {total or 'unknown'} bytes ({reason}); "
        "they are kept, so try again to go on from there"
    )


def _unreachable(name: str, archive: Archive, folder: Path, what: str) -> DataError:
    return DataError(
        f"{name}: {archive.url} {what}; fetch {archive.file} (MD5 {archive.md5}) by other means and "
        f"put it in {folder}, or use `--data shapes`, which needs no files"
    )


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _progress(file: str) -> Callable[[int, int | None], None]:
    """A line on stderr: rewritten at each percent on a terminal, one line at the end elsewhere."""
    shown = -1

    def report(done: int, total: int | None) -> None:
        nonlocal shown
        share = done * 100 // total if total else done // 1_000_000
        last = done == total
        if share == shown or not (last or sys.stderr.isatty()):
            return
        shown = share
        size = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB ({share} %)" if total else f"{done / 1e6:.1f} MB"
        print(f"\r{file}: {size}", end="\n" if last else "", file=sys.stderr, flush=True)

    return report
