"""The words every room shares: what a job asks for, how it stands, how it ended.

Knows nothing but the standard library. All classes are frozen: a changed job is a new value.

Text that came from a job (arguments, environment, file names) may hold any byte. It is kept as `str`, decoded from UTF-8 with
`surrogateescape`, and turned back into the very same bytes with `to_bytes`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any


def to_bytes(text: str) -> bytes:
    """The bytes that `text` was decoded from, whatever they were."""
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """`data` as `str`, losslessly; the inverse of `to_bytes`."""
    return data.decode("utf-8", "surrogateescape")


def one_line(text: str, limit: int = 1000) -> str:
    """`text` as a HoldReason can carry it: one line of printable characters, at most `limit` of them."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class Refused(Exception):
    """Only a person can mend this. The text is one sentence: the thing, the reason, what to do."""


class Transient(Exception):
    """It will pass: throttling, a lost connection, a 5xx, expired credentials. Retried inside, never shown as a failure."""


class JobState(enum.IntEnum):
    """The status token of BLAH_JOB_STATUS (HTCondor's JobStatus numbers)."""

    IDLE = 1
    RUNNING = 2
    REMOVED = 3
    COMPLETED = 4
    HELD = 5

    @property
    def final(self) -> bool:
        return self >= JobState.REMOVED


class HoldCode(enum.IntEnum):
    """The HoldReasonCode values this program uses, with HTCondor's own meaning."""

    CANNOT_START = 6
    TRANSFER_OUTPUT = 12
    TRANSFER_INPUT = 13
    BATCH_SYSTEM = 21
    OUT_OF_RESOURCES = 34


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """What the job asks for; None leaves it to the job definition."""

    cpus: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    disk_kib: int | None = None
    runtime_s: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class JobRequest:
    """One job as its submit ad describes it, after BLAH's rules and before anything of AWS.

    Paths of the submit host are absolute or relative to `iwd`, as the user wrote them. `outputs` is None when the job did not
    say: then new and changed files of the top of its scratch directory come back; () means none. An empty `stdin`, `stdout`
    or `stderr` means /dev/null.
    """

    executable: str
    iwd: str
    transfer_executable: bool = True
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None
    remaps: tuple[tuple[str, str], ...] = ()
    resources: Resources = Resources()
    queue: str = ""
    project: str = ""
    priority: int | None = None
    proxy: str = ""
    user_log: str = ""
    extra_arguments: str = ""
    directory: str = ""
    digest: str = ""
    global_job_id: str = ""
    dag_node: str = ""
    dag: int | None = None
    batch_name: str = ""
    owner: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class JobReport:
    """How a job stands, in the terms that the gridmanager takes. Times in seconds, sizes in the unit of the name."""

    state: JobState
    exit_code: int | None = None
    exit_signal: int | None = None
    exit_reason: str = ""
    hold_reason: str = ""
    hold_code: int = 0
    hold_subcode: int = 0
    bytes_sent: int | None = None
    bytes_received: int | None = None
    user_cpu_s: float | None = None
    system_cpu_s: float | None = None
    restarts: int | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    disk_kib: int | None = None
    worker: str = ""
    native_id: str = ""


def encode(value: JobRequest | JobReport) -> str:
    """`value` as JSON (ASCII only; what was not UTF-8 travels as lone surrogates)."""
    fields = _fields(value)
    if isinstance(value, JobRequest):
        fields["resources"] = _fields(value.resources)
    return _compact(fields)


def _fields(value: JobRequest | JobReport | Resources) -> dict[str, Any]:
    """As dataclasses.asdict, without its copies: each job is written several times."""
    return {name: getattr(value, name) for name in value.__slots__}


_compact = json.JSONEncoder(separators=(",", ":")).encode


def decode_request(text: str) -> JobRequest:
    """The inverse of `encode` for a JobRequest."""
    fields: dict[str, Any] = json.loads(text)
    fields["resources"] = Resources(**fields["resources"])
    for name in ("arguments", "inputs"):
        fields[name] = tuple(fields[name])
    for name in ("environment", "remaps"):
        fields[name] = tuple((key, value) for key, value in fields[name])
    if fields["outputs"] is not None:
        fields["outputs"] = tuple(fields["outputs"])
    return JobRequest(**fields)


def decode_report(text: str) -> JobReport:
    """The inverse of `encode` for a JobReport."""
    fields: dict[str, Any] = json.loads(text)
    fields["state"] = JobState(fields["state"])
    return JobReport(**fields)
