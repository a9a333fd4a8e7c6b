"""Bytes to lines, lines to tokens, and both ways back.

Knows the framing and the escaping of GAHP, nothing of what a line means. A line ends with LF or CRLF; tokens are parted by
spaces; a backslash takes from the byte after it whatever meaning it has, so a space, a backslash, CR or LF can be part of
a token. (facts: gahp-protocol.md; the gridmanager escapes these four and no others.)

Everything is done with whole-string methods, not byte by byte: one argument may be half a megabyte of escaped ClassAd.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from gahp.model import to_bytes, to_text

MAX_LINE = 1 << 20
"""Bytes of the longest line that is read, without its LF. The gridmanager's longest argument is 512,000 bytes."""

NO_VALUE = "NULL"
"""What stands in a line for an empty value, which has no token form of its own."""

_BACKSLASH = ord("\\")
# Stand-ins for an escaped backslash and an escaped space while a line is taken apart. Decoding bytes never yields them:
# surrogateescape makes U+DC80 to U+DCFF only.
_ESCAPED_BACKSLASH = "\ud800"
_ESCAPED_SPACE = "\ud801"


@dataclasses.dataclass(frozen=True, slots=True)
class TooLong:
    """A line of more than `limit` bytes was seen and thrown away."""

    limit: int


class LineSplitter:
    """Cuts a stream of bytes into lines, whatever pieces it arrives in.

    Holds at most `limit` bytes: of a longer line nothing is kept, it is reported as one `TooLong` when its end comes. What
    follows the last line end is never reported.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._unfinished = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """The lines that end in `data`, in order, without their line ends and still escaped."""
        lines: list[bytes | TooLong] = []
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._keep(part)
            if _escapes_next(self._unfinished):
                self._keep(b"\n")
            else:
                lines.append(self._end_of_line())
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        self._unfinished += part
        if self._too_long or len(self._unfinished) > self._limit:
            self._too_long = True
            # An escaped LF does not end a line that is thrown away either: what follows it is not a command.
            self._unfinished[:] = b"\\" if _escapes_next(self._unfinished) else b""

    def _end_of_line(self) -> bytes | TooLong:
        line: bytes | TooLong = TooLong(self._limit) if self._too_long else _without_cr(bytes(self._unfinished))
        self._unfinished.clear()
        self._too_long = False
        return line


def _without_cr(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") and not _escapes_next(line[:-1]) else line


def _escapes_next(line: bytes | bytearray) -> bool:
    """Whether `line` ends in an odd number of backslashes."""
    count = 0
    while count < len(line) and line[-1 - count] == _BACKSLASH:
        count += 1
    return count % 2 == 1


def split(line: bytes) -> list[str]:
    """The tokens of one line, unescaped. Several spaces part tokens as one does; a backslash at the very end is dropped."""
    text = to_text(line)
    if "\\" not in text:
        return [token for token in text.split(" ") if token]
    marked = text.replace("\\\\", _ESCAPED_BACKSLASH).replace("\\ ", _ESCAPED_SPACE)
    tokens = (
        token.replace("\\", "").replace(_ESCAPED_SPACE, " ").replace(_ESCAPED_BACKSLASH, "\\") for token in marked.split(" ")
    )
    return [token for token in tokens if token]


def escape(text: str) -> str:
    """`text` as one token of a line."""
    return text.replace("\\", "\\\\").replace(" ", "\\ ").replace("\r", "\\\r").replace("\n", "\\\n")


def join(tokens: Iterable[str]) -> bytes:
    """One line, without its line end, of which `split` gives back `tokens`. An empty one is written as NO_VALUE."""
    return to_bytes(" ".join([escape(token) or NO_VALUE for token in tokens]))
