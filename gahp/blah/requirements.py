"""CERequirements: what a job asks of a site beyond BLAH's own attributes, as an expression such as `CORES=="2" && PROJECT=="p"`.

The expression is walked, never evaluated, as blahpd does it: it states what is wanted, and no ad to match it with is at hand.

Binding are the conjuncts of the top level, also those within parentheses, that compare a name with a literal:
- `name == literal` (or `=?=`, `is`; on either side): that value; of several for one name the last;
- `name >= number`: that number; `name > number`: the next whole number; of several the largest. It asks for the least that
  satisfies the expression, and only counts for a name without an equality;
- everything else (upper bounds, inequalities, `||`, `!`, `?:`, function calls, names on both sides) binds nothing.
A scope before a name (`other.CORES`) is dropped. Knows no names: what they mean is told in submit_ad.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gahp.blah import literals

Value = str | int | float | bool

_NAME = r"(?:[A-Za-z_]\w*|'[^'\\]*(?:\\.[^'\\]*)*')"
_TOKEN = re.compile(
    rf"""\s*(?:
        (?P<string>"[^"\\]*(?:\\.[^"\\]*)*")
      | (?P<real>[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)
      | (?P<integer>[0-9]+)
      | (?P<name>\.?{_NAME}(?:\.{_NAME})*)
      | (?P<operator>=\?=|=!=|==|!=|<=|>=|&&|\|\||>>>|>>|<<|[-+*/%<>!?:&|^~(){{}}\[\],;.=@])
    )""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS: dict[str, bool] = {"true": True, "false": False}
_MIRRORED = {"==": "==", "=?=": "=?=", "is": "is", ">=": "<=", ">": "<", "<=": ">=", "<": ">"}

Token = tuple[str, str]  # kind, text


def walk(expression: str) -> dict[str, Value]:
    """What `expression` binds: lower-case name to value. ValueError if it is no expression (a clause, as in `arguments`)."""
    tokens = _tokens(expression)
    partner = _partners(tokens)
    equal: dict[str, Value] = {}
    least: dict[str, Value] = {}
    pending = [(0, len(tokens))]
    while pending:
        start, end = _peel(tokens, partner, *pending.pop())
        parts = _conjuncts(tokens, partner, start, end)
        if len(parts) > 1:
            pending.extend(reversed(parts))
        elif parts:
            _bind(tokens[start:end], equal, least)
    return {**least, **equal}


def _tokens(expression: str) -> list[Token]:
    tokens: list[Token] = []
    position, end = 0, len(expression.rstrip())
    while position < end:
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ValueError(f"is no ClassAd expression from its character {position + 1} on")
        kind = str(match.lastgroup)
        text = match[kind]
        tokens.append(("operator", "is") if kind == "name" and text.lower() == "is" else (kind, text))
        position = match.end()
    return tokens


def _partners(tokens: Sequence[Token]) -> dict[int, int]:
    """For each opening bracket the place of its closing one, so that no walk needs recursion."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for place, (kind, text) in enumerate(tokens):
        if kind != "operator":
            continue
        if text in _CLOSING:
            opened.append(place)
        elif text in _CLOSING.values():
            if not opened or _CLOSING[tokens[opened[-1]][1]] != text:
                raise ValueError("has brackets that do not match")
            partner[opened.pop()] = place
    if opened:
        raise ValueError("has brackets that do not match")
    return partner


def _peel(tokens: Sequence[Token], partner: dict[int, int], start: int, end: int) -> tuple[int, int]:
    """The span without the parentheses that enclose all of it."""
    while end - start >= 2 and tokens[start] == ("operator", "(") and partner[start] == end - 1:
        start, end = start + 1, end - 1
    return start, end


def _conjuncts(tokens: Sequence[Token], partner: dict[int, int], start: int, end: int) -> list[tuple[int, int]]:
    """The spans between the `&&` of this level; none if an operator that binds weaker makes the whole something else."""
    spans: list[tuple[int, int]] = []
    begin = place = start
    while place < end:
        kind, text = tokens[place]
        if kind == "operator":
            if text in ("||", "?"):
                return []
            if text == "&&":
                spans.append((begin, place))
                begin = place + 1
            place = partner.get(place, place)
        place += 1
    return [*spans, (begin, end)]


def _bind(tokens: Sequence[Token], equal: dict[str, Value], least: dict[str, Value]) -> None:
    """Enter what one conjunct binds, if it is a comparison of a name with a literal."""
    if len(tokens) < 3:
        return
    if tokens[0][0] == "name" and (found := _literal(tokens[2:])) is not None:
        name, operator = tokens[0][1], tokens[1][1]
    elif tokens[-1][0] == "name" and (found := _literal(tokens[:-2])) is not None:
        name, operator = tokens[-1][1], _MIRRORED.get(tokens[-2][1], "")
    else:
        return
    value = found[0]
    name = name.rpartition(".")[2].strip("'").lower()
    if operator in ("==", "=?=", "is"):
        equal[name] = value
    elif operator in (">=", ">") and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        bound = value if operator == ">=" else math.floor(value) + 1
        known = least.get(name)
        least[name] = max(bound, known) if isinstance(known, int | float) else bound


def _literal(tokens: Sequence[Token]) -> tuple[Value] | None:
    """The value of a literal, possibly with a sign or in parentheses; None if the tokens are something else."""
    start, end = 0, len(tokens)
    while end - start > 2 and tokens[start] == ("operator", "(") and tokens[end - 1] == ("operator", ")"):
        start, end = start + 1, end - 1
    tokens = tokens[start:end]
    sign = 1
    if len(tokens) == 2 and tokens[0] in (("operator", "-"), ("operator", "+")):
        sign = -1 if tokens[0][1] == "-" else 1
        tokens = tokens[1:]
        if tokens[0][0] not in ("integer", "real"):
            return None
    if len(tokens) != 1:
        return None
    kind, text = tokens[0]
    if kind == "string":
        return (literals.unquote(text),)
    if kind == "integer":
        # ClassAd integers have 64 bits; a longer row of digits is no number of anything.
        return (sign * int(text),) if len(text) <= 19 else None
    if kind == "real":
        return (sign * float(text),)
    word = _WORDS.get(text.lower())
    return None if word is None else (word,)
