"""`condor_awsbatch report`: what became of many jobs, as one HTML page, CSV and JSON, from this user's journal."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator

from gahp import config, history, meter
from gahp.cli.explain import printable
from gahp.cli.q import in_dag
from gahp.history import History
from gahp.model import Refused
from gahp.report import as_csv, as_json, examine, read_prices, render

SUMMARY = "where the time, memory and money of many jobs went: one HTML page, CSV and JSON"
EXAMPLE = """\
condor_awsbatch report -dag diamond.dag -prices prices.csv -o diamond.html
  condor_awsbatch report -since 7d -o week.html -csv -json
  condor_awsbatch report -since 7d -csv > week.csv"""
DESCRIPTION = """\
Makes a page with a timeline of the jobs by attempt, their states over time, where the time went, retries, memory asked for
against memory used, cost by a price list, and calls to AWS. The page needs no network and no other file.

Jobs are read from the journal, which remembers finished runs for AWSBATCH_KEEP_RUNS days; nothing is asked of AWS, and a GAHP
that runs is not disturbed.

A price list is JSON, {"currency": "USD", "queues": {"*": {"vcpu_hour": 0.04, "gb_hour": 0.004, "gpu_hour": 0}}}, or CSV with the
columns queue, vcpu_hour, gb_hour and, if need be, gpu_hour and currency. Names of queues may hold * and ?."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = "HTCondor's CLUSTER or CLUSTER.PROC, or a job id (default: all jobs)"
    parser.add_argument("job", nargs="*", metavar="CLUSTER", help=which)
    parser.add_argument("-dag", "--dag", metavar="DAG", help="jobs of a DAG: its file's name, or the cluster of its DAGMan")
    when = "jobs that were not over at that time: 7d, 12h, 2026-11-20 or '2026-11-20 12:00'"
    parser.add_argument("-since", "--since", metavar="WHEN", help=when)
    parser.add_argument("-prices", "--prices", metavar="FILE", help="a price list, JSON or CSV")
    instead = "instead of the page; with -o PAGE.html beside it"
    parser.add_argument("-csv", "--csv", action="store_true", help=f"CSV with one line a job, {instead}, as PAGE.csv")
    parser.add_argument("-json", "--json", action="store_true", help=f"JSON with all figures and jobs, {instead}, as PAGE.json")
    where = "where it goes; -: standard output (default: report.html; CSV or JSON alone: standard output)"
    parser.add_argument("-o", "--output", metavar="FILE", help=where)


def run(options: argparse.Namespace) -> int:
    settings = config.load()
    targets = wanted(options.output or "", csv=options.csv, json=options.json)
    prices = read_prices(options.prices) if options.prices else None
    now = time.time()
    since = moment(options.since, now) if options.since else 0.0
    found = list(chosen(settings.state_dir, options.job, options.dag or "", since))
    if not found and (options.job or options.dag):
        raise Refused(f"The journal in {settings.state_dir} has no such jobs: see AWSBATCH_KEEP_RUNS and AWSBATCH_STATE_DIR.")
    report = examine(found, now, prices, calls(settings.state_dir))
    forms = {"html": lambda: render(report, title(options)), "csv": lambda: as_csv(report), "json": lambda: as_json(report)}
    for form, target in targets.items():
        text = forms[form]()
        if target == "-":
            if sys.stdout.isatty():
                text = "\n".join(map(printable, text.split("\n")))
            sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
        else:
            write(target, text)
            print(f"{target}: {len(found):,} jobs, {len(text.encode()) / 1e6:.1f} MB")
    return 0


def wanted(output: str, *, csv: bool, json: bool) -> dict[str, str]:
    """Where each form that is asked for goes. Raises Refused where one place would have to hold two."""
    others = [form for form, asked in (("csv", csv), ("json", json)) if asked]
    stem, end = os.path.splitext(output)
    if end.lower() in (".html", ".htm"):
        return {"html": output, **{form: f"{stem}.{form}" for form in others}}
    if len(others) > 1:
        raise Refused("-csv and -json together go beside a page: name it with -o PAGE.html.")
    return {others[0]: output or "-"} if others else {"html": output or "report.html"}


def title(options: argparse.Namespace) -> str:
    """What the page is about."""
    what = f"DAG {options.dag}" if options.dag else f"Job {', '.join(options.job)}" if options.job else "Jobs"
    return f"{what} on AWS Batch{f' since {options.since}' if options.since else ''}"


def chosen(directory: str, words: list[str], dag: str, since: float) -> Iterator[History]:
    """The jobs that are meant, each once, oldest first. `since`: those that are not over, or were not over at that moment."""
    if words:
        names: dict[str, History] = {}
        for word in words:
            names.update((one.name, one) for one in history.find(directory, word))
        found: Iterator[History] = iter(sorted(names.values(), key=lambda one: (one.accepted, one.name)))
    else:
        found = history.read(directory)
    for one in found:
        if dag and not in_dag(one, dag):
            continue
        if since and one.final and one.over < since:
            continue
        yield one


def calls(directory: str) -> dict[str, float]:
    """The calls to AWS that this user's GAHP counted last, by service and operation, and the jobs that ended meanwhile."""
    counts = meter.last(directory)[0]
    found: dict[str, float] = {}
    for (service, operation, _), count in sorted(counts.counters("calls").items()):
        name = f"{service} {operation}"
        found[name] = found.get(name, 0.0) + count
    moves = counts.counters("job_moves")
    ended = sum(moves.get((state,), 0.0) for state in ("completed", "held", "removed"))
    return {"jobs ended": ended, **found} if found else {}


def moment(text: str, now: float) -> float:
    """A time as people write it. Raises Refused."""
    if found := re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhdw])", text):
        return now - float(found[1]) * _UNITS[found[2]]
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
        try:
            return time.mktime(time.strptime(text, form))
        except (ValueError, OverflowError):
            continue
    raise Refused(f"-since {text}: give a length such as 90m, 12h or 7d, or a time such as '2026-11-20 12:00'.")


def write(path: str, text: str) -> None:
    """Put it in place as a whole: whoever looks at the file sees the old one or the new one. A device or a pipe is written to."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "w", encoding="utf-8", errors="replace") as stream:
                stream.write(text)
            return
        path = os.path.realpath(path)
        mask = os.umask(0)
        os.umask(mask)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="replace", dir=os.path.dirname(path) or ".", prefix=".report.", delete=False
        ) as file:
            try:
                file.write(text)
                os.fchmod(file.fileno(), 0o666 & ~mask)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise Refused(f"The report {path} cannot be written: {error.strerror}. Give another place with -o.") from error
