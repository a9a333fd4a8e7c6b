"""The status ad of BLAH_JOB_STATUS, written from a JobReport.

Knows which attributes of it the gridmanager passes on to the job, measured with 23.9.6 and 25.14.1: those of `_COUNTS`, `_REALS`,
the exit and the hold. The rest (BatchJobId, JobStatus, WorkerNode, AwsJobId) is for people who read the conversation.
RemoteWallClockTime is never sent: the gridmanager adds it to a count of its own.
"""

from __future__ import annotations

import math

from gahp import model
from gahp.blah.literals import quote

_HELD_WITHOUT_REASON = "The batch system gave no reason."


def format_status(job_id: str, report: model.JobReport) -> str:
    """One line of new-ClassAd text, ASCII only. Attributes that the report leaves open are left out.

    A completed job always says how it ended, for without ExitCode the gridmanager logs a success: ValueError if it does not.
    The exit only goes with a final state, the hold only with HELD.
    """
    parts = [f"BatchJobId = {quote(job_id)}", f"JobStatus = {report.state.value}"]
    if report.worker:
        parts.append(f"WorkerNode = {quote(report.worker)}")
    if report.native_id:
        parts.append(f"AwsJobId = {quote(report.native_id)}")
    if report.state.final:
        _add_exit(parts, report)
    if report.state is model.JobState.HELD:
        reason = model.one_line(report.hold_reason) or _HELD_WITHOUT_REASON
        parts.append(f"HoldReason = {quote(reason)}")
        parts.append(f"HoldReasonCode = {report.hold_code:d}; HoldReasonSubCode = {report.hold_subcode:d}")
    _add_usage(parts, report)
    return f"[ {'; '.join(parts)} ]"


def _add_exit(parts: list[str], report: model.JobReport) -> None:
    if report.exit_signal is not None:
        parts.append(f"ExitBySignal = true; ExitSignal = {report.exit_signal:d}")
    elif report.exit_code is not None:
        parts.append(f"ExitBySignal = false; ExitCode = {report.exit_code:d}")
    elif report.state is model.JobState.COMPLETED:
        raise ValueError("the report of a completed job has neither exit_code nor exit_signal")
    if report.exit_reason:
        parts.append(f"ExitReason = {quote(model.one_line(report.exit_reason))}")


def _add_usage(parts: list[str], report: model.JobReport) -> None:
    for name, real in (
        ("BytesSent", report.bytes_sent),
        ("BytesRecvd", report.bytes_received),
        ("RemoteSysCpu", report.system_cpu_s),
        ("RemoteUserCpu", report.user_cpu_s),
    ):
        if real is not None and math.isfinite(real):
            parts.append(f"{name} = {float(real)!r}")
    for name, count in (
        ("NumRestarts", report.restarts),
        ("CpusProvisioned", report.cpus),
        ("MemoryProvisioned", report.memory_mib),
        ("DiskProvisioned", report.disk_kib),
    ):
        if count is not None:
            parts.append(f"{name} = {count:d}")
