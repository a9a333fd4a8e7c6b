"""A timeline of jobs as an SVG picture: one bar a job, a colour for each state, time along the bottom. Values in, text out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from xml.sax.saxutils import escape

# Colours that differ in lightness as well as in hue (Okabe and Ito), so that they can be told apart without seeing colour.
COLOURS = {
    "idle": "#c8c8c8",
    "running": "#0072b2",
    "collecting": "#56b4e9",
    "completed": "#009e73",
    "held": "#d55e00",
    "removed": "#000000",
}

_LEFT, _TOP, _ROW, _BAR, _WIDTH = 150, 48, 34, 20, 640


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A job was in `state` from `begin` to `end`, in seconds since the picture's beginning."""

    state: str
    begin: float
    end: float


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One job; `ending` is the word at its last moment, a key of COLOURS."""

    name: str
    spans: tuple[Span, ...]
    ending: str


def draw(title: str, rows: Sequence[Row]) -> str:
    """The picture. Names are data: whatever they hold, they are text in it."""
    last = max((span.end for row in rows for span in row.spans), default=0.0) or 1.0
    step = _tick(last)
    scale = _WIDTH / last
    bottom = _TOP + _ROW * len(rows)
    width, height = _LEFT + _WIDTH + 40, bottom + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="sans-serif" font-size="13" role="img" aria-label="{_text(title)}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="16" font-weight="bold">{_text(title)}</text>',
    ]
    for tick in range(int(last / step + 1e-9) + 1):
        x = _LEFT + tick * step * scale
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555555">{tick * step:g} s</text>')
    for number, row in enumerate(rows):
        parts += _row(row, _TOP + number * _ROW, scale)
    parts += _legend(bottom + 44)
    parts.append("</svg>\n")
    return "\n".join(parts)


def _row(row: Row, top: float, scale: float) -> list[str]:
    middle = top + _BAR / 2 + 5
    parts = [f'<text x="{_LEFT - 12}" y="{middle:.1f}" text-anchor="end">{_text(row.name)}</text>']
    for span in row.spans:
        x, width = _LEFT + span.begin * scale, max(1.0, (span.end - span.begin) * scale)
        parts.append(
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{COLOURS[span.state]}">'
            f"<title>{_text(row.name)}: {span.state} {span.end - span.begin:.2f} s</title></rect>"
        )
    if row.spans:
        x = _LEFT + row.spans[-1].end * scale
        parts.append(f'<circle cx="{x:.1f}" cy="{top + _BAR / 2}" r="6" fill="{COLOURS[row.ending]}" stroke="#ffffff"/>')
    return parts


def _legend(y: float) -> list[str]:
    parts = []
    for number, (state, colour) in enumerate(COLOURS.items()):
        x = _LEFT + number * 110
        shape = (
            f'<rect x="{x}" y="{y - 11}" width="14" height="14" fill="{colour}"/>'
            if state in ("idle", "running", "collecting")
            else f'<circle cx="{x + 7}" cy="{y - 4}" r="6" fill="{colour}"/>'
        )
        parts += [shape, f'<text x="{x + 20}" y="{y + 1}">{state}</text>']
    return parts


def _tick(last: float) -> float:
    """The distance of the time marks: 1, 2 or 5 times a power of ten, at most ten of them."""
    size = 0.1
    while True:
        for factor in (1, 2, 5):
            if last / (size * factor) <= 10:
                return size * factor
        size *= 10


def _text(value: str) -> str:
    return escape("".join(c if c.isprintable() else "?" for c in value), {'"': "&quot;"})
