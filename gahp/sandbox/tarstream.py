"""Reads a tar as the runner writes it, and no other: regular files in GNU format, one after the other, from a stream.

Stricter than tarfile on purpose, because the bytes come out of a container: no links, devices, directories, sparse files or
extended headers, no seeking, no memory but for one header. Pure but for reading the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gahp.model import Refused, to_text

BLOCK = 512
_LONGEST_NAME = 8192


class Readable(Protocol):
    def read(self, amt: int, /) -> bytes: ...


class Member:
    """One file of the tar. `read` gives its bytes, b"" at its end."""

    def __init__(self, stream: Readable, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._stream = stream
        self._left = size

    def read(self, amount: int) -> bytes:
        data = self._stream.read(min(amount, self._left)) if self._left else b""
        if self._left and not data:
            raise damaged("it ends in the middle of a file")
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Read over the rest, and over the padding behind it."""
        while self.read(65536):
            pass
        _exactly(self._stream, -self.size % BLOCK)


def members(stream: Readable) -> Iterator[Member]:
    """Every file in `stream`, in order; what the caller leaves unread is skipped. Raises Refused for anything unexpected."""
    long_name: bytes | None = None
    while True:
        header = _exactly(stream, BLOCK)
        if not any(header):
            return
        if header[257:263] != b"ustar " or _octal(header[148:156]) != _checksum(header):
            raise damaged("it is no tar of the runner's")
        kind, size = header[156:157], _octal(header[124:136])
        if kind == b"L" and long_name is None:
            if not 0 < size <= _LONGEST_NAME:
                raise damaged("it has a file name of impossible length")
            long_name = _exactly(stream, size + -size % BLOCK)[:size].rstrip(b"\0")
            continue
        if kind != b"0":
            raise damaged("it holds something else than regular files")
        name = header[:100].rstrip(b"\0") if long_name is None else long_name
        long_name = None
        member = Member(stream, to_text(name), size)
        yield member
        member.skip()


class DamagedResult(Refused):
    """A result, or what belongs to it, is not as a runner writes it: by then, or only as it arrived here."""


def damaged(what: str) -> DamagedResult:
    return DamagedResult(f"The job's result is damaged: {what}. Release the job to run it again.")


def _exactly(stream: Readable, amount: int) -> bytes:
    parts = []
    while amount:
        part = stream.read(amount)
        if not part:
            raise damaged("it ends too early")
        parts.append(part)
        amount -= len(part)
    return b"".join(parts)


def _octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if not text or text.strip(b"01234567"):
        raise damaged("it is no tar of the runner's")
    return int(text, 8)


def _checksum(header: bytes) -> int:
    return sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
