"""Typed looks at what a submit ad says: at its attributes, evaluated within it, and at what its CERequirements bind.

Knows how ClassAds are parsed and evaluated, and what to do with a value that is of no use: an empty string, UNDEFINED and a
reference that leads nowhere (`RequestMemory = RequestMemory`, copied unevaluated by the gridmanager) count as absent; an ERROR or
a value of another kind is refused by a sentence that names it. Does not know what any attribute means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import classad2

from gahp import model
from gahp.blah import literals, requirements

# classad2 recurses once for each operator of a chain, and the process dies of a stack overflow near 30,000 of them (8 MB).
MOST_OPERATORS = 2000
_LEXEME = re.compile(
    r"""(?P<skip>"[^"\\]*(?:\\.[^"\\]*)*"?|'[^'\\]*(?:\\.[^'\\]*)*'?|/\*.*?\*/|//[^\n]*)
      | (?P<end>;)
      | && | \|\| | =[?!]= | [=!<>]= | [^\w\s,{}] | \bis(?:nt)?\b""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_NUL_ESCAPE = re.compile(r"\\0{1,3}(?![0-7])")

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_SIZE = re.compile(r"([0-9]{1,15})\s*([kmgt])(?:i?b)?", re.IGNORECASE)
_CLOCK = re.compile(r"[0-9]{1,9}(?::[0-9]{1,9}){1,2}")
_KIB = {"k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_Read = TypeVar("_Read")


class BadAd(model.Refused):
    """The submit ad cannot be understood, or asks for what cannot be; the text is one sentence that fits into a HoldReason."""


class Values:
    """Named values, looked at as a type; None (or the empty string, for text) if there is none."""

    source = ""

    def value(self, name: str) -> object:
        """The value as classad2 has it: str, int, float, bool or something stranger; None if absent. Names in any case."""
        raise NotImplementedError

    def refused(self, name: str, kind: str) -> BadAd:
        return BadAd(f"{name} = {_show(self.value(name))} in {self.source} is not {kind}: correct it in the submit file.")

    def text(self, name: str) -> str:
        value = self.value(name)
        if value is None or isinstance(value, str):
            return value or ""
        raise self.refused(name, "a string")

    def bare(self, name: str) -> str:
        """Text without the pair of single quotes that Pegasus 5.1.3 puts around some values."""
        text = self.text(name).strip()
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" and "'" not in text[1:-1] else text

    def understood(self, name: str, read: Callable[[str], _Read], none: _Read) -> _Read:
        """What `read` makes of the text, or `none` if there is no text; its ValueError becomes a BadAd."""
        text = self.text(name)
        try:
            return read(text) if text else none
        except ValueError as error:
            raise BadAd(f"{name} in {self.source} {error}: correct it in the submit file.") from None

    def flag(self, name: str) -> bool | None:
        value = self.value(name)
        if value is None or isinstance(value, bool):
            return value
        known = parse_flag(value) if isinstance(value, str) else None
        if known is None:
            raise self.refused(name, "true or false")
        return known

    def integer(self, name: str) -> int | None:
        value = self._number(name)
        if value is None or isinstance(value, int):
            return value
        raise self.refused(name, "a whole number")

    def count(self, name: str, kind: str = "a whole number above zero", least: int = 1) -> int | None:
        """An integer of at least `least`; what `kind` calls it goes into the refusal."""
        value = self._number(name)
        if value is None or (isinstance(value, int) and value >= least):
            return value
        raise self.refused(name, kind)

    def memory(self, name: str) -> int | None:
        """MiB; a string may carry a unit, as in PBS: `2gb`."""
        value = self.value(name)
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        mib = math.ceil(int(match[1]) * _KIB[match[2].lower()] / 1024) if match else None
        return mib or self.count(name, "a whole number of MB above zero")

    def duration(self, name: str) -> int | None:
        """Seconds; a string may also be `HH:MM:SS` or `MM:SS`."""
        value = self.value(name)
        seconds = 0
        if isinstance(value, str) and _CLOCK.fullmatch(value.strip()):
            for part in value.split(":"):
                seconds = 60 * seconds + int(part)
        return seconds or self.count(name, "a number of seconds above zero, or HH:MM:SS")

    def _number(self, name: str) -> int | float | str | None:
        """An int if the value is one, be it as a string or as a real without a fraction; None if absent or empty."""
        value = self.value(name)
        if isinstance(value, str):
            digits = value.strip()
            return int(digits) if _INTEGER.fullmatch(digits) else digits or None
        if isinstance(value, float):
            return int(value) if value.is_integer() else value
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        return _show(value)


class JobAd(Values):
    """The attributes of one submit ad."""

    source = "the job ad"

    def __init__(self, text: str) -> None:
        """`text` is new-ClassAd text of any bytes, decoded as gahp.model says. BadAd if it does not parse."""
        self._ad = _parse(text)
        self._names = {name.lower() for name in self._ad}

    def value(self, name: str) -> object:
        if name.lower() not in self._names:
            return None
        return _evaluated(self._ad, name)

    def bound_requirements(self) -> Bound:
        """What CERequirements bind; they may be an expression, the same as a string, or an ad of names and values."""
        name = "CERequirements"
        if name.lower() not in self._names:
            return Bound({})
        tree = self._ad.lookup(name)
        written = str(tree).strip()
        if written.startswith('"'):
            return Bound(self.understood(name, requirements.walk, {}))
        if written.startswith("[") and isinstance(inner := _evaluated(self._ad, name), classad2.ClassAd):
            return Bound({key.lower(): _evaluated(inner, key) for key in inner})
        if written == "error":
            raise BadAd(f"{name} = error in {self.source} is not an expression: correct it in the submit file.")
        try:
            return Bound(requirements.walk(written))
        except ValueError as error:
            raise BadAd(f"{name} in {self.source} {error}: correct it in the submit file.") from None


class Bound(Values):
    """What CERequirements bind. Numbers come as strings there and the other way round, so a number serves as text, too."""

    source = "CERequirements"

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def value(self, name: str) -> object:
        return self._values.get(name.lower())

    def text(self, name: str) -> str:
        value = self.value(name)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else super().text(name)


def parse_flag(text: str) -> bool | None:
    """True or False as people write it, None for other words."""
    return _FLAGS.get(text.strip().lower())


def _parse(text: str) -> Any:
    if "\0" in text:
        raise BadAd("The submit ad has a NUL byte, which no attribute can hold: take it out of the submit file.")
    _check_chains(text)
    try:
        return classad2.ClassAd(literals.escape_stray_bytes(text))
    except UnicodeEncodeError:
        raise BadAd("The submit ad is not text: send it as UTF-8.") from None
    except classad2.ClassAdException:
        reason = "perhaps for the NUL in a string" if _NUL_ESCAPE.search(text) else f"it begins {_show(text)}"
        raise BadAd(f"The submit ad cannot be parsed ({reason}): send one ClassAd in the new syntax.") from None


def _check_chains(text: str) -> None:
    """Refuse an attribute with so many operators that classad2 would overflow the stack and take the process with it."""
    if len(text) <= MOST_OPERATORS:
        return
    operators = 0
    for match in _LEXEME.finditer(text):
        if match.lastgroup is None:
            operators += 1
            if operators > MOST_OPERATORS:
                raise BadAd(f"The submit ad has an expression of more than {MOST_OPERATORS} operators: make it shorter.")
        elif match.lastgroup == "end":
            operators = 0


def _evaluated(ad: Any, name: str) -> object:
    """The value of an attribute that is there; None if UNDEFINED."""
    try:
        value = ad.get(name)
        if isinstance(value, classad2.ExprTree):
            value = ad.eval(name)
    except UnicodeDecodeError:
        tree = ad.lookup(name).simplify(ad)
        written = str(tree).strip()
        return literals.unquote(written) if written.startswith('"') else tree
    except Exception:
        # A foreign expression fails in ways of its own: nested too deep, a date out of range, a list with stray bytes.
        raise _unusable(ad, name, "cannot be evaluated") from None
    # Value is an int enum, so only identity tells ERROR from 1 and UNDEFINED from 2.
    if value is classad2.Value.Error:
        raise _unusable(ad, name, "evaluates to an error")
    return None if value is classad2.Value.Undefined else value


def _unusable(ad: Any, name: str, reason: str) -> BadAd:
    return BadAd(f"{name} = {_show(ad.lookup(name))} in the job ad {reason}: correct it in the submit file.")


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    shown = model.one_line(str(value)[:200], 60)
    return f'"{shown}"' if isinstance(value, str) else shown
