"""What top shows, drawn from histories: counts, rates, states over time, slowest jobs, errors. Values in, lines of text out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from gahp.cli import screen, views
from gahp.cli.explain import printable
from gahp.history import History
from gahp.run import RunState

# A line is pieces of text, each with a style of gahp.cli.screen ("" for none).
Piece = tuple[str, str]
Line = list[Piece]

_MINUTE_S = 60.0
_BARS = "▁▂▃▄▅▆▇█"
_ORDER = (
    *("ACCEPTED", "STAGED", "SUBMITTING", "SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "COLLECTING", "SUSPENDED"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """One kind of call: how many a second are made and may be made, and how many were refused lately."""

    kind: str
    rate: float
    used: float
    refused: float


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """Everything one picture shows. Rates are a second, over the last minute; `running` and `waiting` how many jobs were so, at
    moments from `span_s` ago until now."""

    now: float
    title: str
    states: tuple[tuple[str, int], ...]
    live: int
    over: tuple[tuple[str, int], ...]
    submit_rate: float
    end_rate: float
    running: tuple[int, ...]
    waiting: tuple[int, ...]
    span_s: float
    limits: tuple[Limit, ...]
    slowest: tuple[History, ...]
    errors: tuple[tuple[str, int, float], ...]


def look(runs: Iterable[History], now: float, *, title: str, limits: Sequence[Limit] = (), span_s: float = 1800.0) -> Frame:
    """The picture of these runs at `now`."""
    runs = list(runs)
    live = [run for run in runs if not run.final]
    counts = Counter(views.state_of(run) for run in live)
    over = Counter(run.state.value for run in runs if run.final and now - run.over < 3600.0)
    errors: dict[str, tuple[int, float]] = {}
    for run in runs:
        text, when = (run.hold_reason, run.over) if run.state is RunState.HELD else (run.trouble, run.trouble_since)
        if text and now - when < 3600.0:
            number, latest = errors.get(text, (0, 0.0))
            errors[text] = number + 1, max(latest, when)
    # Those that run, the longest first; then those that wait.
    slowest = sorted(live, key=lambda run: (views.state_of(run) != "RUNNING", views.since_of(run)))
    return Frame(
        now=now,
        title=title,
        states=tuple(sorted(counts.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER))),
        live=len(live),
        over=tuple(sorted(over.items())),
        submit_rate=sum(1 for run in runs if now - run.submitted < _MINUTE_S) / _MINUTE_S,
        end_rate=sum(1 for run in runs if run.final and now - run.over < _MINUTE_S) / _MINUTE_S,
        running=over_time(runs, now, span_s, _ran),
        waiting=over_time(runs, now, span_s, _waited),
        span_s=span_s,
        limits=tuple(limits),
        slowest=tuple(slowest[:100]),
        errors=tuple(sorted(((text, *found) for text, found in errors.items()), key=lambda error: -error[2])),
    )


def over_time(
    runs: Iterable[History],
    now: float,
    span_s: float,
    spans: Callable[[History, float], Iterable[tuple[float, float]]],
    points: int = 60,
) -> tuple[int, ...]:
    """How many runs were in one of their `spans` at each of so many moments, from `span_s` ago until now."""
    begin_s, step = now - span_s, span_s / (points - 1)
    change = [0] * (points + 1)
    for run in runs:
        for begin, end in spans(run, now):
            # The moments from the first that is not before the span to the first that is not in it any more.
            first, last = (min(points, max(0, math.ceil((when - begin_s) / step))) for when in (begin, end))
            change[first] += 1
            change[last if end < now else points] -= 1
    return tuple(itertools.accumulate(change[:points]))


def _ran(run: History, now: float) -> Iterable[tuple[float, float]]:
    return [(attempt.started, attempt.stopped or now) for attempt in run.attempts if attempt.started]


def _waited(run: History, now: float) -> Iterable[tuple[float, float]]:
    """From acceptance, or the end of the attempt before, to the next start."""
    spans, begin = [], run.accepted
    for attempt in run.attempts:
        spans.append((begin, attempt.started or attempt.stopped))
        begin = attempt.stopped
        if not begin:
            return spans
    if not run.final and run.state is not RunState.COLLECTING and run.status not in ("SUCCEEDED", "FAILED"):
        spans.append((begin, now))
    elif run.final and not run.attempts:
        spans.append((begin, run.over))
    return spans


def lines(frame: Frame, width: int, height: int | None) -> list[Line]:
    """The picture as text, no wider than `width` and no longer than `height` (None: as long as it gets)."""
    drawn: list[Line] = [_header(frame, width), [], *_jobs(frame, width), [], *_limits(frame, width)]
    room = 12 if height is None else height - len(drawn) - 1
    errors = _errors(frame, width, max(1, room // 3))
    slow = _slowest(frame, width, max(1, room - len(errors) - 3))
    drawn += [[], *slow, [], *errors]
    return drawn if height is None else drawn[:height]


def _header(frame: Frame, width: int) -> Line:
    left = screen.cut(printable(frame.title), max(10, width - 12))
    return [(left, "head")]


def _jobs(frame: Frame, width: int) -> list[Line]:
    first: Line = [(f"Jobs  {frame.live:>6} ", "head")]
    used = 13
    for state, number in frame.states:
        piece = f" {number} {state}"
        if used + len(piece) > width:
            first.append((" …", ""))
            break
        first.append((piece, views.style_of(state)))
        used += len(piece)
    if not frame.states:
        first.append((" none that are not over", "quiet"))
    ended = ", ".join(f"{number} {state.lower()}" for state, number in frame.over) or "none"
    rates = f"submitted {frame.submit_rate:.2f}/s, ended {frame.end_rate:.2f}/s"
    drawn = [first, [(screen.cut(f"Over   last hour: {ended}; last minute: {rates}", width), "")]]
    minutes = round(frame.span_s / 60)
    for name, counts, style in (("Running", frame.running, "busy"), ("Waiting", frame.waiting, "waiting")):
        bars = _sparkline(counts, min(len(counts), max(10, width - 26)))
        drawn.append([(f"{name:<8}", "head"), (bars, style), (f" {counts[-1] if counts else 0} now, {minutes} min", "quiet")])
    return drawn


def _sparkline(counts: Sequence[int], width: int) -> str:
    shown = counts[-width:]
    most = max(shown, default=0)
    return "".join(" " if not number else _BARS[min(7, number * 8 // (most + 1))] for number in shown)


def _limits(frame: Frame, width: int) -> list[Line]:
    if not frame.limits:
        return [[("Calls   ", "head"), (screen.cut("no GAHP of this host has called AWS Batch lately", width - 8), "quiet")]]
    drawn: list[Line] = []
    for number, limit in enumerate(frame.limits):
        used = f"{limit.used:6.1f} of {limit.rate:5.1f}/s "
        bar = round(20 * min(1.0, limit.used / limit.rate)) if limit.rate else 0
        line: Line = [("Calls   " if number == 0 else " " * 8, "head"), (f"{limit.kind:<8}", ""), (used, "")]
        line += [("█" * bar, "busy"), ("·" * (20 - bar), "quiet")]
        if limit.refused >= 0.5:
            line.append((f"  {limit.refused:.0f} throttled", "bad"))
        drawn.append(line)
    return drawn


def _slowest(frame: Frame, width: int, most: int) -> list[Line]:
    if not frame.slowest:
        return [[("No jobs.", "quiet")]]
    headings = ("SLOWEST", "NODE", "STATE", "IN STATE", "TRY", "QUEUE", "WHERE")
    shown = frame.slowest[:most]
    rows = [
        [
            run.condor_id or run.name,
            run.dag_node,
            views.state_of(run),
            screen.span(frame.now - views.since_of(run)),
            str(len(run.attempts) or "-"),
            run.queue,
            run.worker[:12],
        ]
        for run in shown
    ]
    table = screen.table(headings, rows, right=("IN STATE", "TRY"), width=width, shrink=("WHERE", "QUEUE", "NODE", "SLOWEST"))
    styles = ["head", *(views.style_of(views.state_of(run)) for run in shown)]
    return [[(screen.cut(text, width), style)] for text, style in zip(table, styles, strict=True)]


def _errors(frame: Frame, width: int, most: int) -> list[Line]:
    if not frame.errors:
        return [[("No errors in the last hour.", "good")]]
    jobs = sum(number for _, number, _ in frame.errors)
    drawn: list[Line] = [[(f"ERRORS of the last hour ({jobs} job{'' if jobs == 1 else 's'})", "head")]]
    for text, number, when in frame.errors[:most]:
        ago = screen.span(frame.now - when)
        drawn.append([(screen.cut(f"{number:>5} × {ago} ago  {printable(text)}", width), "bad")])
    return drawn
