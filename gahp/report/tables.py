"""A report for programs: CSV with one line a job, and JSON with all figures beside the jobs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from typing import Any

from gahp.report.figures import PHASES, Job, Report

_COLUMNS = """
condor_id dag_node run aws_id owner program queue ending exit_code exit_signal accepted over staging_s waiting_s starting_s
running_s collecting_s attempts cpus memory_mib peak_memory_mib gpus user_cpu_s system_cpu_s bytes_received bytes_sent
submit_calls cost hold_reason
"""
COLUMNS = tuple(_COLUMNS.split())


def row(job: Job) -> dict[str, Any]:
    """One job by COLUMNS; times in UTC (ISO 8601), None where nobody recorded it."""
    history = job.history
    seconds = {f"{phase}_s": round(job.seconds(number), 3) for number, phase in enumerate(PHASES)}
    own = {
        "run": history.name,
        "aws_id": history.native_id,
        "program": job.kind,
        "ending": job.ending,
        "accepted": _moment(history.accepted),
        "over": _moment(history.over),
        "attempts": len(history.attempts),
        "submit_calls": round(job.sends, 4),
        "cost": None if job.cost is None else round(job.cost, 6),
        **seconds,
    }
    return {name: own[name] if name in own else getattr(history, name) for name in COLUMNS}


def as_csv(report: Report) -> str:
    """All jobs, with a line of titles (RFC 4180, but lines end with a line feed)."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for job in report.jobs:
        writer.writerow({key: _cell(value) for key, value in row(job).items()})
    return out.getvalue()


def as_json(report: Report) -> str:
    """All figures and all jobs as one JSON object."""
    priced = {
        "currency": report.currency,
        "total": report.cost,
        "retried": report.wasted_cost,
        "queues_without_price": report.unpriced,
    }
    value = {
        "made": _moment(report.made),
        "begin": _moment(report.begin),
        "end": _moment(report.end),
        "endings": dict(report.endings),
        "phases": [_rounded(dataclasses.asdict(one)) for one in report.phases],
        "retries": {"jobs": report.restarted, "attempts": report.restarts, "reasons": dict(report.reasons)},
        "memory": [_rounded(dataclasses.asdict(one)) for one in report.memory],
        "vcpu_hours": round(report.cpu_hours, 4),
        "gb_hours": round(report.gb_hours, 4),
        "cpu_used": report.cpu_used,
        "cost": None if report.cost is None else priced,
        "calls": {"submit": report.sends, "counted": dict(report.calls)},
        "jobs": [row(job) for job in report.jobs],
    }
    return json.dumps(value, indent=1) + "\n"


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}


def _moment(when: float) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) if when else None


def _cell(value: Any) -> Any:
    """A spreadsheet takes a text that begins like this for a formula, and jobs may be called anything."""
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return value
