"""A report as one HTML page that needs nothing else: no network, no other file, no more than a browser.

All text of jobs is data: in the markup it is escaped, in the script's data `<`, `>` and `&` are written as \\u003c and so on, and
the script puts it in as text. A content security policy lets this page's own script run and nothing else, nor load anything.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.resources
import json
import string
import time
from collections.abc import Iterable, Sequence
from typing import Any

from gahp import __version__
from gahp.report.figures import ABOUT, ENDINGS, MOST_ROWS, PHASES, Job, Report

_FIELDS = (
    "label", "id", "run", "aws", "program", "queue", "ending", "exit", "signal", "attempts", "cpus", "asked", "peak", "cost",
    "reason", "spans",
)  # fmt: skip
_SHOWN = 25  # rows of a table that could grow without end
_WIDE, _HIGH, _LEFT, _BOTTOM = 1000, 240, 52, 24


def render(report: Report, title: str) -> str:
    """The page. `title` is the user's own words for what it is about."""
    script, style = _part("page.js"), _part("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    parts = (_states, _times, _timeline, _retries, _memory, _cost, _calls)
    told = [part(report) for part in parts] if report.jobs else ["<p>There is no job here.</p>"]
    header = f"<header><h1>{_text(title)}</h1>{_about(report)}</header>"
    body = "\n".join([header, "<main>", _tiles(report), *told, "</main>"])
    page = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_text(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title>",
        f"<style>\n{style}</style></head>",
        f"<body>\n{_patterns()}\n{body}",
    ]
    if report.jobs:
        page += [f'<script type="application/json" id="data">{_data(report)}</script>', f"<script>{script}</script>"]
    return "\n".join([*page, "</body></html>", ""]).encode("utf-8", "replace").decode()


@functools.cache
def _part(name: str) -> str:
    return importlib.resources.files("gahp.report").joinpath(name).read_text(encoding="utf-8")


def _data(report: Report) -> str:
    """What the script draws: an array for each job, times in seconds since the report's beginning, to a tenth."""
    rows = [_row(job, report.begin) for job in _shown(report)]
    value = {
        "epoch": report.begin,
        "now": round(report.made - report.begin, 1),
        "t0": 0,
        "t1": round(report.end - report.begin, 1),
        "phases": PHASES,
        "endings": ENDINGS,
        "currency": report.currency,
        "fields": _FIELDS,
        "jobs": rows,
    }
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(report: Report) -> Sequence[Job]:
    """All jobs, or those that took longest when there are more than a page should hold."""
    if len(report.jobs) <= MOST_ROWS:
        return report.jobs
    return sorted(sorted(report.jobs, key=lambda job: -job.whole_s)[:MOST_ROWS], key=lambda job: job.history.accepted)


def _row(job: Job, begin: float) -> list[Any]:
    history = job.history
    spans: list[float] = []
    for span in job.spans:
        spans += [span.phase, round(span.begin - begin, 1), round(span.end - begin, 1), span.attempt]
    return [
        job.label[:200], history.condor_id, history.name, history.native_id, job.kind[:200], history.queue,
        ENDINGS.index(job.ending), history.exit_code, history.exit_signal, len(history.attempts), history.cpus,
        history.memory_mib, history.peak_memory_mib,
        None if job.cost is None else round(job.cost, 6), (history.hold_reason or history.trouble)[:1000], spans,
    ]  # fmt: skip


# The parts that are there without any script


def _about(report: Report) -> str:
    more = len(report.jobs) - MOST_ROWS
    told = f"{_moment(report.begin)} to {_moment(report.end)} (UTC). Made {_moment(report.made)}"
    told += f" by condor_awsbatch report {__version__}."
    if more > 0:
        told += f" The timeline and the table have the {MOST_ROWS:,} jobs that took longest; all figures are of all jobs."
    return f'<p class="faint">{_text(told)}</p>'


def _tiles(report: Report) -> str:
    tiles = [(f"{len(report.jobs):,}", "jobs", "")]
    tiles += [(f"{report.endings[ending]:,}", ending, "bad" if ending in ("failed", "held") else "") for ending in ENDINGS
              if report.endings[ending]]  # fmt: skip
    tiles.append((_span(report.end - report.begin), "from first to last", ""))
    tiles.append((_figure(report.cpu_hours), "vCPU-hours", ""))
    if report.cost is not None:
        tiles.append((f"{_figure(report.cost)} {report.currency}", "by list price", ""))
    parts = [f'<li class="{kind}"><b>{_text(value)}</b>{_text(name)}</li>' for value, name, kind in tiles]
    return f'<ul class="tiles" aria-label="In short">{"".join(parts)}</ul>'


def _patterns() -> str:
    """Fills by phase: a colour each, and a pattern for those who do not tell colours apart."""
    inner = {
        1: '<path d="M0 6L6 0" stroke="var(--paper)" stroke-opacity=".75"/>',
        2: '<rect x="1" y="1" width="2" height="2" fill="var(--paper)" fill-opacity=".75"/>',
        4: '<path d="M3 0V6" stroke="var(--paper)" stroke-opacity=".75"/>',
    }
    fills = "".join(
        f'<pattern id="p{number}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" fill="var(--{phase})"/>{inner.get(number, "")}</pattern>'
        for number, phase in enumerate(PHASES)
    )
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{fills}</defs></svg>'


def _key() -> str:
    items = "".join(
        f'<li><svg width="18" height="14" aria-hidden="true"><rect width="18" height="14" fill="url(#p{number})"/></svg>'
        f'<b>{phase}</b> <span class="faint">{_text(ABOUT[phase])}</span></li>'
        for number, phase in enumerate(PHASES)
    )
    return f'<ul class="key">{items}</ul>'


def _states(report: Report) -> str:
    """Jobs by phase over time: areas one above the other, with the figures as a table for those who cannot see them."""
    total = [sum(column) for column in zip(*report.series, strict=True)]
    most = max([*total, 1.0])
    count = len(total)
    across = (_WIDE - _LEFT) / count
    base = [0.0] * count
    areas = []
    for number, phase in enumerate(PHASES):
        top = [low + one for low, one in zip(base, report.series[number], strict=True)]
        points = [f"{_LEFT + index * across:.1f},{_y(value, most):.1f}" for index, one in enumerate(top)
                  for index, value in ((index, one), (index + 1, one))]  # fmt: skip
        points += [f"{_LEFT + (index + edge) * across:.1f},{_y(base[index], most):.1f}" for index in reversed(range(count))
                   for edge in (1, 0)]  # fmt: skip
        areas.append(f'<polygon points="{" ".join(points)}" fill="url(#p{number})"><title>{phase}</title></polygon>')
        base = top
    lines = []
    for value in _ticks(most):
        y = _y(value, most)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    length = report.end - report.begin
    for part in range(5):
        anchor = ("start", "middle", "middle", "middle", "end")[part]
        x = _LEFT + (_WIDE - _LEFT) * part / 4
        lines.append(f'<text x="{x:.1f}" y="{_HIGH - 6}" text-anchor="{anchor}">{_text(_span(length * part / 4))}</text>')
    peaks = ", ".join(f"{phase} {max(report.series[number], default=0):,.0f}" for number, phase in enumerate(PHASES))
    return (
        f'<section aria-labelledby="h-states"><h2 id="h-states">States over time</h2>{_key()}'
        f'<div class="scroll"><svg class="wide" viewBox="0 0 {_WIDE} {_HIGH}" role="img"'
        f' aria-label="Jobs by phase over time. At most at one time: {_text(peaks)}.">'
        f"{''.join(areas)}{''.join(lines)}</svg></div></section>"
    )


def _y(value: float, most: float) -> float:
    return 8 + (_HIGH - _BOTTOM - 8) * (1 - value / most)


def _ticks(most: float) -> list[float]:
    """At most six round numbers up to `most`; never parts of a job."""
    step = 1.0
    while most / step > 5:
        step *= 2 if str(step).startswith(("1", "5")) else 2.5
    return [step * number for number in range(int(most / step) + 1)]


def _times(report: Report) -> str:
    whole = sum(one.total_s for one in report.phases) or 1.0
    bar = "".join(
        f'<svg style="flex:{one.total_s / whole:.6f} 1 0" height="26" aria-hidden="true">'
        f'<rect width="100%" height="26" fill="url(#p{number})"/><title>{one.phase}: {one.total_s / whole:.0%}</title></svg>'
        for number, one in enumerate(report.phases)
        if one.total_s > 0
    )
    rows = [
        (one.phase, f"{one.total_s / whole:.1%}", *map(_span, (one.total_s, one.median_s, one.p95_s, one.most_s)), one.slowest)
        for one in report.phases
    ]
    table = _table(
        "Time of all jobs by phase",
        ("phase", "share", "sum", "median", "95 of 100 below", "most", "slowest job"),
        rows,
        text=(6,),
    )
    return _section("time", "Where the time went", f'<div class="bar">{bar}</div>{table}')


def _timeline(report: Report) -> str:
    sorts = {"start": "start", "total": "time in all", "waiting": "waiting", "running": "running", "attempts": "attempts",
             "memory": "memory used", "cost": "cost", "name": "name"}  # fmt: skip
    if not report.currency:
        del sorts["cost"]
    options = "".join(f'<option value="{value}">{name}</option>' for value, name in sorts.items())
    endings = "".join(f'<option value="{one}">{one} ({report.endings[one]:,})</option>' for one in ENDINGS if report.endings[one])
    heads = [("job", "name"), ("HTCondor id", ""), ("program", ""), ("ended", ""), ("waiting", "waiting"), ("running", "running"),
             ("in all", "total"), ("attempts", "attempts"), ("MiB used / asked", "memory")]  # fmt: skip
    heads += [(f"cost, {report.currency}", "cost")] if report.currency else []
    head = "".join(
        f'<th scope="col" data-sort="{sort}"><button type="button">{_text(name)}</button></th>' if sort
        else f'<th scope="col" class="text">{_text(name)}</th>'
        for name, sort in heads
    )  # fmt: skip
    return string.Template(_part("jobs.html")).substitute(endings=endings, sorts=options, heads=head)


def _retries(report: Report) -> str:
    if not report.restarts:
        told = "<p>No job was started a second time.</p>"
    else:
        lost = sum(job.wasted_s for job in report.jobs)
        told = f"<p>{_jobs(report.restarted)} had {report.restarts:,} attempts more than one each;"
        told += f" {_span(lost)} of running time went to them.</p>"
        reasons = [(reason, f"{count:,}") for reason, count in report.reasons[:_SHOWN]]
        told += _table("Why an attempt was followed by another", ("reason", "attempts"), reasons, wrap=(0,))
        told += _more(len(report.reasons))
    return _section("retries", "Retries", told)


def _memory(report: Report) -> str:
    rows = []
    for one in report.memory[:_SHOWN]:
        advice = "–"
        if one.advised_mib is not None and one.asked_mib:
            advice = f"request_memory = {one.advised_mib}"
            if one.killed:
                advice += f" ({one.killed:,} killed)"
            elif one.saved_cost is not None:
                advice += f", saves {_figure(one.saved_gb_hours)} GB-hours, {_figure(one.saved_cost)} {report.currency}"
            else:
                advice += f", saves {_figure(one.saved_gb_hours)} GB-hours"
        sizes = map(_mib, (one.asked_mib, one.most_mib, one.median_mib, one.measured))
        rows.append((one.kind, f"{one.jobs:,}", *sizes, advice))
    saved = sum(one.saved_gb_hours for one in report.memory)
    told = "<p>What the programs held at most, of what their jobs asked for. Advice leaves a quarter above the most seen.</p>"
    if not any(one.measured for one in report.memory):
        told += "<p>Nothing was measured: the containers' hosts do not tell it (it takes Linux's cgroup v2, memory.peak).</p>"
    if saved > 0 and report.gb_hours:
        told += f"<p><b>{_figure(saved)} of {_figure(report.gb_hours)} GB-hours</b>"
        told += f" ({saved / report.gb_hours:.0%}) need not have been asked for.</p>"
    heads = ("program", "jobs", "asked, MiB", "most used", "median", "measured", "advice")
    table = _table("Memory by program", heads, rows, text=(6,), wrap=(0,))
    return _section("memory", "Memory", told + table + _more(len(report.memory)))


def _cost(report: Report) -> str:
    used = f", of which the programs used {report.cpu_used:.0%}" if report.cpu_used is not None else ""
    told = f"<p>{_figure(report.cpu_hours)} vCPU-hours{used}, and {_figure(report.gb_hours)} GB-hours"
    told += " were asked for while jobs ran.</p>"
    if report.cost is None:
        told += "<p>No price list was given: condor_awsbatch report -prices FILE.</p>"
    else:
        told += (
            f"<p><b>{_figure(report.cost)} {_text(report.currency)}</b> by the list that was given,"
            f" {_figure(report.wasted_cost or 0)} of it for attempts that had to be started again. Running time times what was"
            " asked for: hosts that stand idle, disks, S3 and traffic are not in it.</p>"
        )
        kinds: dict[str, list[float]] = {}
        for job in report.jobs:
            if job.cost is not None:
                kinds.setdefault(job.kind, []).append(job.cost)
        rows = [
            (kind, f"{len(costs):,}", _figure(sum(costs)), _figure(sum(costs) / len(costs)))
            for kind, costs in sorted(kinds.items(), key=lambda pair: -sum(pair[1]))
        ]
        told += _table("Cost by program", ("program", "jobs", f"sum, {report.currency}", "for one job"), rows[:_SHOWN], wrap=(0,))
        told += _more(len(rows))
        if report.unpriced:
            told += f"<p>The list has no price for: {_text(', '.join(report.unpriced))}.</p>"
    return _section("cost", "Cost", told)


def _calls(report: Report) -> str:
    told = f"<p>{report.sends:,} SubmitJob call{'' if report.sends == 1 else 's'} for {_jobs(len(report.jobs))}"
    told += " (one makes all the jobs of an array).</p>"
    if report.calls:
        whole = report.calls.get("jobs ended", 0)
        counted = [(name, count) for name, count in report.calls.items() if name != "jobs ended"]
        rows = [(name, f"{count:,.0f}", f"{count / whole:.2f}" if whole else "–") for name, count in counted]
        caption = f"Calls of the GAHP that wrote its counts last, with {whole:,.0f} jobs ended"
        told += _table(caption, ("call", "calls", "for one job"), rows)
    return _section("calls", "Calls to AWS", told)


def _section(name: str, title: str, inner: str) -> str:
    return f'<section aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{inner}</section>'


# Words and figures


def _table(
    caption: str,
    heads: Iterable[str],
    rows: Iterable[Sequence[str]],
    text: tuple[int, ...] = (),
    wrap: tuple[int, ...] = (),
) -> str:
    """A table whose first column names the rows. `text`: columns of words; `wrap`: those whose cells may be broken."""

    def cell(place: int, value: str) -> str:
        kind = ' class="text"' if place in text or place in wrap else ""
        return f'<th scope="row"{kind}>{_text(value)}</th>' if place == 0 else f"<td{kind}>{_text(value)}</td>"

    kinds = dict.fromkeys(text, " class=text")
    head = "".join(f'<th scope="col"{kinds.get(place, "")}>{_text(name)}</th>' for place, name in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell(place, value) for place, value in enumerate(row))}</tr>" for row in rows)
    inner = f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def _more(count: int) -> str:
    return f'<p class="faint">{count - _SHOWN:,} more are in -json.</p>' if count > _SHOWN else ""


def _figure(value: float) -> str:
    """Small sums are sums too: three digits that count."""
    return f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.3g}"


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _mib(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _span(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(max(seconds, 60.0) // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours = minutes // 60
    return f"{hours:,} h {minutes % 60} min" if hours < 48 else f"{hours // 24:,} d {hours % 24} h"


def _moment(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when))


def _text(value: str) -> str:
    return html.escape(value, quote=True)
