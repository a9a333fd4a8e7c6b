"""Every place of the program that writes into the journal, found in its source; and what a write is called.

A write has two names. What it writes, such as "write SUBMITTED": a GAHP can die before or after it. And what it writes where,
such as "SUBMITTED in work._submitted", with a number behind it where the function has several: that one can be left out.
"""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import gahp
from gahp import journal

PROGRAM, JOURNAL = Path(gahp.__file__).parent, Path(journal.__file__)
OPENING = "__init__"


@functools.cache
def writers() -> set[str]:
    """The methods of Journal, without those of its own use, that come to `_write`."""
    (cls,) = [node for node in _parsed(JOURNAL).body if isinstance(node, ast.ClassDef) and node.name == "Journal"]
    called = {
        method.name: {node.func.attr for node in ast.walk(method) if _is_method(node)}
        for method in cls.body
        if isinstance(method, ast.FunctionDef)
    }
    found = {"_write"}
    while more := {name for name, calls in called.items() if calls & found} - found:
        found |= more
    return {name for name in found if not name.startswith("_")}


def sites() -> set[str]:
    """Where any of them is called."""
    return {name for path in PROGRAM.rglob("*.py") for name in sites_of(path)}


@functools.cache
def sites_of(path: Path) -> dict[str, range]:
    """The lines of each such call in one file, by MODULE.FUNCTION and, if there are several there, a number. In the journal's own
    file: what it writes by itself when it opens."""
    names, found = writers(), {}
    for function in _functions(_parsed(path)):
        if path == JOURNAL and function.name != OPENING:
            continue
        calls = [node for node in ast.walk(function) if _is_method(node) and node.func.attr in names]
        calls = [node for node in calls if ast.unparse(node.func.value).endswith("self" if path == JOURNAL else "journal")]
        calls.sort(key=lambda node: node.lineno)
        for number, node in enumerate(calls, 1):
            name = f"{path.stem}.{function.name}" + (f" {number}" if len(calls) > 1 else "")
            assert name not in found, f"two places are called {name}"
            found[name] = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return found


def site(frame: FrameType | None) -> str:
    """The place, of those, that `frame` has been called from; "?" for any other."""
    while frame is not None and frame.f_code.co_filename in (str(JOURNAL), __file__) and frame.f_code.co_name != OPENING:
        frame = frame.f_back
    if frame is None or not (path := Path(frame.f_code.co_filename)).is_relative_to(PROGRAM):
        return "?"
    return next((name for name, lines in sites_of(path).items() if frame.f_lineno in lines), "?")


class Placed(journal._Write):
    """A write that knows where it comes from."""

    place: str


def placed(*values: Any) -> Placed:
    write = Placed(*values)
    write.place = site(sys._getframe())
    return write


def where(write: Any) -> str:
    """What is written where."""
    return f"{what(write)} in {write.place}"


def what(write: Any) -> str:
    """What a journal write is about."""
    verb, values = write.sql.split()[0], write.values
    if verb == "PRAGMA":
        return "nothing"
    if " unasked " in write.sql:
        return "heeded" if verb == "DELETE" else "passed over"
    if verb == "DELETE":
        return "forgotten"
    if isinstance(values, list):
        return f"pack {values[0]['state']}"
    if verb == "INSERT":
        return "new run"
    if "state" in values:
        return str(values["state"])
    if "wanted" in values:
        return f"wanted {values['wanted']}"
    if "dead" in values:
        return "adoption"
    if "asked" in values:
        return "asked"
    # What is told of a run beside a change is no write of its own.
    return " ".join(sorted(values.keys() - {"name", "changed", "news"})) or "news"


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _functions(module: ast.Module) -> list[ast.FunctionDef]:
    """Functions and methods, without those inside them."""
    bodies = [module.body, *(node.body for node in module.body if isinstance(node, ast.ClassDef))]
    return [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]


def _is_method(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
