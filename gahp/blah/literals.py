"""ClassAd string literals, both ways: the text between two double quotes of an ad, and the string that it stands for.

classad2 gives a string attribute only when its bytes are UTF-8; a job's arguments and file names may be anything. So the literal
itself is read here, byte for byte. Knows nothing of attributes and expressions.
"""

from __future__ import annotations

import re

from gahp import model

# What ClassAd's unparser writes for a byte, beside three octal digits; its parser reads the same.
_NAMED = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|[0-7]{1,2}|.)", re.DOTALL)
_NAMED_BYTES = {letter.encode(): bytes([number]) for letter, number in _NAMED.items()}

_SPECIAL = re.compile(r'[^ !#-\[\]-~]')
_WRITTEN = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def unquote(literal: str) -> str:
    """The string that `literal` (with its double quotes) stands for; what is not UTF-8 comes as surrogates, see gahp.model."""
    body = literal[1:-1]
    return model.to_text(_ESCAPE.sub(_read, model.to_bytes(body))) if "\\" in body else body


def quote(text: str) -> str:
    """`text` as a literal in ASCII, non-ASCII as octal escapes of its bytes, just as the gridmanager writes it.

    A NUL, which no ClassAd string can hold, becomes a space; so does a lone surrogate that no byte was decoded to.
    """
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    return f'"{text if plain else _SPECIAL.sub(_write, text)}"'


def escape_stray_bytes(text: str) -> str:
    """`text` with each byte that was not UTF-8 (a surrogate) as an octal escape, so that classad2 can read it.

    Such a byte is only legal within a string; elsewhere the escape is as wrong as the byte was.
    """
    return _PAIR_OR_STRAY.sub(_escape_stray, text)


# A backslash takes the next character with it: behind an escaped backslash a stray byte stands alone.
_PAIR_OR_STRAY = re.compile(r"\\[^\udc80-\udcff]|\\?([\udc80-\udcff])", re.DOTALL)


def _escape_stray(match: re.Match[str]) -> str:
    stray = match[1]
    return f"\\{ord(stray) - 0xDC00:03o}" if stray else match[0]


def _read(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    if escaped[:1] in b"01234567":
        return bytes([int(escaped, 8)])
    return _NAMED_BYTES.get(escaped, escaped)


def _write(match: re.Match[str]) -> str:
    character = match[0]
    known = _WRITTEN.get(character)
    if known is not None:
        return known
    try:
        data = model.to_bytes(character)
    except UnicodeEncodeError:
        return " "
    return "".join(f"\\{byte:03o}" if byte else " " for byte in data)
