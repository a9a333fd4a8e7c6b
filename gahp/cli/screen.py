"""What the views share of a terminal: whether it is one, how wide, colours, and tables of text that is made harmless.

Whatever comes from jobs or AWS passes `explain.printable` before a terminal sees it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from typing import IO

from gahp.cli.explain import printable

_STYLES = {"good": "32", "bad": "31", "busy": "34", "waiting": "33", "quiet": "2", "head": "1"}
_GAP = "  "
_LEAST = 5


def is_terminal(stream: IO[str]) -> bool:
    return stream.isatty()


def has_colours(stream: IO[str]) -> bool:
    """Colours are for terminals, unless NO_COLOR is set (no-color.org) or the terminal has none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")


def columns(stream: IO[str]) -> int | None:
    """How wide the terminal is; None for anything else, where nothing need be cut."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def paint(text: str, style: str, on: bool) -> str:
    """`text` in a style of the table above."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if on and style and text.strip() else text


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    width: int | None = None,
    shrink: Sequence[str] = (),
    drop: Sequence[str] = (),
    styles: Sequence[str] = (),
    styled: str = "",
    colour: bool = False,
) -> list[str]:
    """Lines of a table under its headings; cells are made printable.

    Columns named in `right` are set flush right. Within `width`, the columns named in `shrink` give way, the first ones first,
    down to 5 characters; if that is not enough, those named in `drop` are left out, the first ones first. `styles` has one style
    for each row, that the column `styled` is painted with.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(heading), *(len(row[number]) for row in cells), 0) for number, heading in enumerate(headings)]
    kept = list(range(len(headings)))
    if width is not None:
        least = [min(_LEAST, each) if name in shrink else each for name, each in zip(headings, widths, strict=True)]
        for name in drop:
            if name in headings and _taken(least[number] for number in kept) > width:
                kept.remove(headings.index(name))
        for name in shrink:
            excess = _taken(widths[number] for number in kept) - width
            number = headings.index(name)
            if excess > 0 and number in kept:
                widths[number] = max(least[number], widths[number] - excess)
    lines = []
    for index, row in enumerate([list(headings), *cells]):
        parts = []
        for number in kept:
            cell = row[number]
            text = cut(cell, widths[number])
            blanks = " " * (widths[number] - len(text))
            if index and headings[number] == styled:
                text = paint(text, styles[index - 1], colour)
            parts.append(blanks + text if headings[number] in right else text + blanks)
        line = _GAP.join(parts).rstrip()
        lines.append(paint(line, "head", colour) if index == 0 else line)
    return lines


def _taken(widths: Iterable[int]) -> int:
    each = list(widths)
    return sum(each) + len(_GAP) * (len(each) - 1)


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def span(seconds: float) -> str:
    """A time as condor_q shows it: days+hours:minutes:seconds."""
    whole = max(0, int(seconds))
    return f"{whole // 86400}+{whole // 3600 % 24:02}:{whole // 60 % 60:02}:{whole % 60:02}"
