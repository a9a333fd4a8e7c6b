"""The syntax of Pegasus's properties files: that of java.util.Properties. Knows no property's name and nothing of AWS.

Source: the Java API, java.util.Properties.load: `key=value`, `key: value` or `key value`; `#` and `!` begin a comment line; an
odd number of backslashes at the end of a line continues it; `\\t \\n \\r \\f \\uXXXX` are escapes, and a backslash before any
other character is dropped. The last of equal keys wins. pegasus-plan writes the files that it passes on with escapes (`s3\\://`).
"""

from __future__ import annotations

import re
from pathlib import Path

from gahp.model import Refused

_BLANK = " \t\f"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_KEY = re.compile(r"(?:\\.|[^\\=: \t\f])*", re.DOTALL)
_SEPARATOR = re.compile(r"[ \t\f]*[=:]?[ \t\f]*")


def read(path: str | Path) -> dict[str, str]:
    """The properties of a file. Raises Refused: it cannot be read, or is not such a file (with the line)."""
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise Refused(f"The properties file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Refused(f"The properties file {path} is not text in UTF-8 (byte {error.start}).") from error
    try:
        return parse(text)
    except ValueError as error:
        raise Refused(f"The properties file {path} cannot be understood: {error}.") from error


def parse(text: str) -> dict[str, str]:
    """All properties. Raises ValueError with the line of a `\\u` that four hexadecimal digits do not follow."""
    found: dict[str, str] = {}
    for number, line in _logical_lines(text):
        key = _KEY.match(line)
        assert key is not None  # it matches the empty string
        separator = _SEPARATOR.match(line, key.end())
        assert separator is not None
        try:
            found[_unescaped(key[0])] = _unescaped(line[separator.end() :])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return found


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Each property's line with its number: comments and blank lines left out, continued lines joined."""
    found: list[tuple[int, str]] = []
    begun: tuple[int, str] | None = None
    for number, natural in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = natural.lstrip(_BLANK)
        if begun is None and (not line or line[0] in "#!"):
            continue
        first, before = begun or (number, "")
        if (len(line) - len(line.rstrip("\\"))) % 2:
            begun = (first, before + line[:-1])
        else:
            found.append((first, before + line))
            begun = None
    return [*found, begun] if begun is not None else found


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        if match[1] is not None:
            return chr(int(match[1], 16))
        if match[2] == "u":
            raise ValueError(r"\u is not followed by four hexadecimal digits")
        return _ESCAPES.get(match[2], match[2])

    return re.sub(r"\\(?:u([0-9A-Fa-f]{4})|(.?))", character, text, flags=re.DOTALL)
