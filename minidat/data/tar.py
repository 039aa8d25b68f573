"""Tar archives, compressed by gzip or not, as a stream of regular files: nothing is unpacked to disk, and the cost is bounded.

Python's tarfile takes the memory for a long name or a PAX header that the archive claims to have. Here these are passed over:
the files that are wanted have short names.

Source: the ustar format, POSIX.1-1988.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 512  # bytes of a header; contents are filled up to a multiple of it
PIECE = 1 << 20  # bytes that are passed over at a time
REGULAR = (b"0", b"\0", b"7")  # the header's letter for a file with contents


class TarError(ValueError):
    """An archive cannot be read. The message is the reason alone; the caller knows the file."""


class Tar:
    """The archive in an open file. most: bytes that are read of it, uncompressed. Raises TarError, and what gzip raises."""

    def __init__(self, file: BinaryIO, most: int):
        start = file.read(2)
        file.seek(0)
        self.stream = gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file
        self.most = self.left = most
        self.pending = 0  # bytes of the member in hand that are still to be read or passed over, with what fills it up
        self.size = 0  # of the member in hand

    def members(self) -> Iterator[tuple[str, int]]:
        """Name and size of each regular file in turn; `content` gives its bytes. At the end gzip's checksum is verified."""
        while any(header := self._take(BLOCK)):
            name, self.size, kind = _parse(header)
            self.pending = -(-self.size // BLOCK) * BLOCK
            if kind in REGULAR:
                yield name, self.size
            while self.pending:
                self.pending -= len(self._take(min(self.pending, PIECE)))
        while self._read(PIECE):
            pass

    def content(self) -> bytes:
        """The bytes of the member in hand, once."""
        self.pending -= self.size
        return self._take(self.size)

    def _take(self, count: int) -> bytes:
        piece = self._read(count)
        while len(piece) < count:
            more = self._read(count - len(piece))
            if not more:
                raise TarError("it ends early")
            piece += more
        return piece

    def _read(self, count: int) -> bytes:
        piece = self.stream.read(count)
        self.left -= len(piece)
        if self.left < 0:
            raise TarError(f"it holds more than {self.most:,} bytes")
        return piece


def _parse(header: bytes) -> tuple[str, int, bytes]:
    """Name, size and kind of a member."""
    blank = header[:148] + b" " * 8 + header[156:]
    if _octal(header[148:156]) != sum(blank):
        raise TarError(f"no header of a tar archive is where one is expected, but {header[:8]!r}")
    name, prefix = (field.partition(b"\0")[0].decode("utf-8", "replace") for field in (header[:100], header[345:500]))
    is_ustar = header[257:263] == b"ustar\0"
    return f"{prefix}/{name}" if is_ustar and prefix else name, _octal(header[124:136]), header[156:157]


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0") or b"0"
    if not set(digits) <= set(b"01234567"):  # `int` would take a sign and underscores too
        raise TarError(f"a header has {field!r} for a number")
    return int(digits, 8)
