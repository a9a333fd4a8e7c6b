"""How a run ended, as its runner recorded it in exit.json. Pure: bytes to Outcome.

exit.json comes out of a container and is believed only as far as its types and ranges go.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from gahp.model import Refused, one_line

PHASES = ("", "stage_in", "start", "stage_out")
_LATEST = 4_102_444_800.0  # the year 2100
_BYTES = 2**60


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run.

    `exit_code` (0 to 255) or `exit_signal` (1 to 64) is there when the program ended; both are None when it never started.
    `phase` says where the runner itself failed: "stage_in", "start" (the program could not be executed) or "stage_out", with a
    sentence in `message`; "" means that it did all its part. `missing` are the declared outputs, as the job wrote them, that were
    not made, and links inside declared directories that lead to nothing.
    `terminated`: SIGTERM came before the end. `oom`: the kernel killed a process of the container for want of memory.
    Times in seconds since 1970, `bytes_sent` by the job (its output), `bytes_received` by the job (its input).
    """

    exit_code: int | None = None
    exit_signal: int | None = None
    phase: str = ""
    message: str = ""
    oom: bool = False
    terminated: bool = False
    attempt: int = 1
    started: float | None = None
    finished: float | None = None
    user_cpu_s: float | None = None
    system_cpu_s: float | None = None
    peak_memory_mib: int | None = None
    disk_kib: int | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    missing: tuple[str, ...] = ()


def parse(data: bytes) -> Outcome:
    """The Outcome in `data`, without `missing`. Raises Refused when it is not what the runner writes."""
    try:
        fields = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise _nonsense("it is no JSON") from None
    if not isinstance(fields, dict) or fields.get("version") != 1:
        raise _nonsense("its version is not 1")
    phase = fields.get("phase")
    if phase not in PHASES:
        raise _nonsense("phase is unknown")
    message = fields.get("message")
    if not isinstance(message, str):
        raise _nonsense("message is no text")
    outcome = Outcome(
        exit_code=_whole(fields, "exit_code", 0, 255),
        exit_signal=_whole(fields, "exit_signal", 1, 64),
        phase=phase,
        message=one_line(re.sub("[\ud800-\udfff]", "?", message)),
        oom=_flag(fields, "oom"),
        terminated=_flag(fields, "terminated"),
        attempt=_whole(fields, "attempt", 1, 9999) or 1,
        started=_number(fields, "started", _LATEST),
        finished=_number(fields, "finished", _LATEST),
        user_cpu_s=_number(fields, "user_cpu_s", _LATEST),
        system_cpu_s=_number(fields, "system_cpu_s", _LATEST),
        peak_memory_mib=_whole(fields, "peak_memory_mib", 0, _BYTES),
        disk_kib=_whole(fields, "disk_kib", 0, _BYTES),
        bytes_sent=_whole(fields, "bytes_sent", 0, _BYTES) or 0,
        bytes_received=_whole(fields, "bytes_received", 0, _BYTES) or 0,
    )
    if outcome.exit_code is not None and outcome.exit_signal is not None:
        raise _nonsense("it has both an exit code and a signal")
    if outcome.exit_code is None and outcome.exit_signal is None and not outcome.phase:
        raise _nonsense("it has neither an exit code nor a signal nor a failure")
    return outcome


def _nonsense(what: str) -> Refused:
    return Refused(f"The job's exit.json is damaged: {what}. Release the job to run it again.")


def _whole(fields: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise _nonsense(f"{name} is not a whole number from {low} to {high}")
    return value


def _number(fields: dict[str, Any], name: str, high: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= high:
        raise _nonsense(f"{name} is not a number from 0 to {high:g}")
    return float(value)


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if type(value) is not bool:
        raise _nonsense(f"{name} is neither true nor false")
    return value
