"""What was measured, as rows and curves: printed, written as JSON, drawn as SVG, and put into the README.

Knows nothing of how anything is measured.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

RESULTS = Path(__file__).with_name("results")
LATEST = "latest.json"
BEGIN, END = "<!-- bench: begin, written by `python -m bench.main --readme` -->", "<!-- bench: end -->"
NOTHING: dict[str, Any] = {"measured": {}, "rows": [], "curves": [], "missing": []}
_COLOURS = ("#0b6e4f", "#c8553d", "#3d5a80", "#8d6a9f", "#b8860b", "#555555")


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of ours beside one of a peer that was measured with it. `goal` in words; `met`: None where there is no goal.

    `ratio` is ours to the peer's; `better`: whether "more" or "less" of it is good.
    """

    part: str
    name: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    goal: str = ""
    met: bool | None = None
    note: str = ""
    date: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points (x, y) of one line in the plot of that name."""

    part: str
    plot: str
    line: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a part has measured, and what it could not."""

    rows: Sequence[Row] = ()
    curves: Sequence[Curve] = ()
    missing: Sequence[str] = ()


def shown(number: float | None, goal: float | None = None) -> str:
    """Three digits that count, or as many as it takes to tell the number from its goal."""
    if number is None:
        return ""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    while goal is not None and number != goal == float(f"{number:.{digits}f}"):
        digits += 1
    return f"{number:,.{digits}f}"


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    peer = f"{row['peer_name']} {shown(row['peer'])}" if row["peer_name"] and row["peer"] is not None else ""
    met = {True: "yes", False: "no", None: ""}[row["met"]]
    name = f"{row['part']}: {row['name']}" + (f" ({row['note']})" if row["note"] else "")
    limit = re.search(r"\d[\d,.]*", row["goal"])
    goal = float(limit[0].replace(",", "")) if limit else None
    return [name, f"{shown(row['ours'], goal)} {row['unit']}".strip(), peer, shown(row["ratio"], goal), row["goal"], met]


HEAD = ["what", "ours", "peer in the same run", "ratio", "goal", "met"]


def as_text(rows: Iterable[dict[str, Any]]) -> str:
    table = [HEAD, *map(cells, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)


def as_markdown(found: dict[str, Any]) -> str:
    runs = {row["part"]: found["measured"][row["part"]] for row in found["rows"]}
    machine, versions = _newest(runs)["machine"], _newest(runs)["versions"]
    lines = [
        f"On {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {versions['python']}, HTCondor "
        f"{versions['htcondor']}.",
        "",
        f"| {' | '.join(HEAD)} |",
        "| " + " | ".join("---" for _ in HEAD) + " |",
        *(f"| {' | '.join(cells(row))} |" for row in found["rows"]),
        "",
        f"{when(runs)}.",
    ]
    return "\n".join(lines)


def when(runs: dict[str, Any]) -> str:
    """The date of each part and the load at the start of its run, and in what that run differs from the newest."""
    parts: dict[str, list[str]] = {}
    usual = _facts(_newest(runs))
    for part, run in sorted(runs.items()):
        load = f" at load {run['machine']['load']}" if "load" in run["machine"] else ", load not noted"
        other = [f"{name} {value}" for name, value in _facts(run).items() if value != usual.get(name)]
        parts.setdefault(", ".join([f"{run['date']}{load}", *other]), []).append(part)
    if len(parts) == 1:
        return f"Measured {next(iter(parts))}"
    return "Measured: " + "; ".join(f"{', '.join(letters)} {words}" for words, letters in parts.items())


def _newest(runs: dict[str, Any]) -> dict[str, Any]:
    return max(runs.values(), key=lambda run: str(run["date"]))


def _facts(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**run["machine"], **run["versions"]}.items() if name != "load"}


def put_into(readme: Path, found: dict[str, Any]) -> None:
    """Write the table between the two markers of the README. Raises ValueError when they are not there."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} lacks the line {BEGIN} or the line {END}")
    readme.write_text(f"{before}{BEGIN}\n{as_markdown(found)}\n{END}{behind}")


def load(folder: Path = RESULTS) -> dict[str, Any]:
    """The latest results; empty ones if there are none."""
    try:
        return by_part(json.loads((folder / LATEST).read_text()))
    except FileNotFoundError:
        return NOTHING


def by_part(found: dict[str, Any]) -> dict[str, Any]:
    """Results of an earlier form, which told date and load of the newest run only, with what is known of each part's."""
    if "measured" in found:
        return found
    newest = {name: found.pop(name) for name in ("date", "machine", "versions")}
    unknown = {**newest, "machine": {name: value for name, value in newest["machine"].items() if name != "load"}}
    dates = {row["part"]: row["date"] for row in found["rows"]}
    runs = {part: newest if date == newest["date"] else {**unknown, "date": date} for part, date in dates.items()}
    return {"measured": runs, **found}


def merge(found: Found, parts: Iterable[str], about: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The latest results with those of `parts` renewed; other parts keep their rows, and what was noted of their run."""
    parts = set(parts)
    rows = [{**dataclasses.asdict(row), "ratio": row.ratio, "date": about["date"]} for row in found.rows]
    # As they come back out of the file, to be sorted among those that did.
    curves = [{**dataclasses.asdict(curve), "points": [list(point) for point in curve.points]} for curve in found.curves]
    kept = [row for row in earlier.get("rows", ()) if row["part"] not in parts]
    drawn = [curve for curve in earlier.get("curves", ()) if curve["part"] not in parts]
    missing = [line for line in earlier.get("missing", ()) if line.partition(":")[0] not in parts]
    return {
        "measured": dict(sorted({**earlier.get("measured", {}), **dict.fromkeys(parts, about)}.items())),
        "rows": sorted(kept + rows, key=lambda row: row["part"]),
        "curves": sorted(drawn + curves, key=lambda curve: curve["part"]),
        "missing": sorted([*missing, *found.missing]),
    }


def save(found: dict[str, Any], folder: Path = RESULTS) -> list[Path]:
    """latest.json and one SVG for each plot; what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / LATEST]
    written[0].write_text(json.dumps(found, indent=1) + "\n")
    plots: dict[str, dict[str, dict[str, Any]]] = {}
    for curve in found["curves"]:  # two parts may have measured points of one line
        lines = plots.setdefault(curve["plot"], {})
        points = [*lines.get(curve["line"], {}).get("points", ()), *curve["points"]]
        lines[curve["line"]] = {**curve, "points": sorted(points)}
    for name, lines in plots.items():
        runs = {curve["part"]: found["measured"][curve["part"]] for curve in found["curves"] if curve["plot"] == name}
        machine = _newest(runs)["machine"]
        about = f"{machine['cpu']}, {machine['cores']} cores. {when(runs)}"
        path = folder / f"{name}.svg"
        path.write_text(draw(name.replace("-", " "), list(lines.values()), about))
        written.append(path)
    return written


def draw(title: str, curves: Sequence[dict[str, Any]], about: str) -> str:
    """An SVG with both axes logarithmic."""
    points = [(x, y) for curve in curves for x, y in curve["points"] if x > 0 and y > 0]
    if not points:
        points = [(1.0, 1.0)]
    left, top, width, height = 90, 50, 560, 330
    low_x, high_x = _decades([x for x, _ in points])
    low_y, high_y = _decades([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + width * (math.log10(x) - low_x) / (high_x - low_x),
            top + height * (1 - (math.log10(y) - low_y) / (high_y - low_y)),
        )

    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="960" height="460" font-family="sans-serif" font-size="13">',
        '<rect width="960" height="460" fill="white"/>',
        f'<text x="{left}" y="26" font-size="17">{escape(title)}</text>',
        f'<text x="{left}" y="448" fill="#666" font-size="11">{escape(about)}</text>',
        f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">{escape(curves[0]["x"])}</text>',
        f'<text transform="translate(22 {top + height / 2}) rotate(-90)" text-anchor="middle">{escape(curves[0]["y"])}</text>',
    ]
    for decade in range(low_x, high_x + 1):
        x, _ = place(10.0**decade, 10.0**low_y)
        out.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}" stroke="#ddd"/>')
        out.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{10.0**decade:g}</text>')
    for decade in range(low_y, high_y + 1):
        _, y = place(10.0**low_x, 10.0**decade)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>')
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [place(x, y) for x, y in curve["points"] if x > 0 and y > 0]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        y = top + 14 + 20 * number
        out.append(f'<rect x="{left + width + 14}" y="{y - 9}" width="12" height="12" fill="{colour}"/>')
        out.append(f'<text x="{left + width + 32}" y="{y + 1}">{escape(curve["line"])}</text>')
    return "\n".join([*out, "</svg>", ""])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)
