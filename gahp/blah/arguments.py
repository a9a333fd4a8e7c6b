"""Argument lists and environments as one string, in HTCondor's two syntaxes, read and written.

V2 (`Arguments`, `Environment`): words between blanks; single quotes keep blanks in a word, and within them two single quotes
are one. V1 (`Args`, `Env`): arguments are split at blanks and nothing is special; environment entries are split at a delimiter.
These are the raw forms, as an ad has them, not the double-quoted ones of a submit file. Blanks are space, tab, CR and LF only.
Source: the manual of condor_submit, and the recorded ads.

All errors are ValueError with a clause that fits behind the attribute's name; it never repeats a value, which may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BLANKS = " \t\r\n"
_BLANK_RUN = re.compile(r"[ \t\r\n]+")
_V2_PIECE = re.compile(r"(?P<blank>[ \t\r\n]+)|'(?P<quoted>[^']*(?:''[^']*)*)'|(?P<plain>[^' \t\r\n]+)")
_NEEDS_QUOTES = re.compile(r"[ \t\r\n']")
# Characters that HTCondor takes as the delimiter when a V1 environment begins with one.
_V1_DELIMITERS = frozenset("!#$%&*+,-/:;<>?@^`|~\x1f")

Environment = tuple[tuple[str, str], ...]


def split_v1(text: str) -> tuple[str, ...]:
    """The arguments of a V1 string. Quotes and backslashes are ordinary characters."""
    return tuple(word for word in _BLANK_RUN.split(text) if word)


def join_v1(arguments: Iterable[str]) -> str:
    """The inverse of `split_v1`; ValueError for an argument that V1 cannot say (empty, or with a blank)."""
    words = tuple(arguments)
    for number, word in enumerate(words, 1):
        if not word or _BLANK_RUN.search(word):
            raise ValueError(f"argument {number} is empty or has a blank, which the old syntax cannot say")
    return " ".join(words)


def split_v2(text: str) -> tuple[str, ...]:
    """The arguments of a raw V2 string; ValueError if a single quote is not closed."""
    if "'" not in text:
        return split_v1(text)
    if text.count("'") % 2:
        raise ValueError("has a single quote that is not closed")
    words: list[str] = []
    pieces: list[str] = []
    for match in _V2_PIECE.finditer(text):
        if match["blank"] is not None:
            if pieces:
                words.append("".join(pieces))
                pieces = []
        elif match["quoted"] is not None:
            pieces.append(match["quoted"].replace("''", "'"))
        else:
            pieces.append(match["plain"])
    if pieces:
        words.append("".join(pieces))
    return tuple(words)


def join_v2(arguments: Iterable[str]) -> str:
    """The inverse of `split_v2`, for any strings."""
    return " ".join(_quote_v2(argument) for argument in arguments)


def split_environment_v2(text: str) -> Environment:
    """Names and values of a raw V2 environment; of two entries with one name the later holds, in the place of the first."""
    return _assignments(split_v2(text))


def join_environment_v2(environment: Iterable[tuple[str, str]]) -> str:
    """The inverse of `split_environment_v2`."""
    return join_v2(f"{name}={value}" for name, value in environment)


def split_environment_v1(text: str, delimiter: str = ";") -> Environment:
    """Names and values of a V1 environment. Line feeds split too; a first character that is a delimiter names itself the one."""
    if text[:1] in _V1_DELIMITERS or text[:1] == delimiter:
        delimiter, text = text[0], text[1:]
    entries = (entry.lstrip(_BLANKS) for entry in text.replace("\n", delimiter).split(delimiter))
    return _assignments([entry for entry in entries if entry])


def join_environment_v1(environment: Iterable[tuple[str, str]], delimiter: str = ";") -> str:
    """The inverse of `split_environment_v1`; ValueError for an entry that V1 cannot say."""
    entries = [f"{name}={value}" for name, value in environment]
    for number, entry in enumerate(entries, 1):
        if delimiter in entry or "\n" in entry or entry[0] in _BLANKS:
            raise ValueError(f"entry {number} has a delimiter or a line feed, which the old syntax cannot say")
    # Said outright, so that a first name that begins with a delimiter's character is not taken for one.
    return delimiter + delimiter.join(entries) if entries else ""


def _quote_v2(argument: str) -> str:
    if argument and not _NEEDS_QUOTES.search(argument):
        return argument
    return "'" + argument.replace("'", "''") + "'"


def _assignments(entries: Sequence[str]) -> Environment:
    environment: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"has no '=' in entry {number}")
        if not name:
            raise ValueError(f"has no name before the '=' in entry {number}")
        environment[name] = value
    return tuple(environment.items())
