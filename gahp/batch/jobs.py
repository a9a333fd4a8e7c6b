"""A Batch job as DescribeJobs shows it, cut down to what this program looks at.

Knows the shape JobDetail of botocore's service model; makes no calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class BatchAttempt:
    """One start of a job's container that is over. Times as in BatchJob."""

    started: float = 0.0
    stopped: float = 0.0
    exit_code: int | None = None
    status_reason: str = ""
    container_reason: str = ""
    log_stream: str = ""
    worker: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchJob:
    """`status` is Batch's word; times are in seconds since the epoch, 0.0 if there is none.

    `attempts` counts the starts of the container that are over; `past` has them, oldest first.
    """

    id: str
    name: str
    status: str
    status_reason: str = ""
    container_reason: str = ""
    exit_code: int | None = None
    started: float = 0.0
    stopped: float = 0.0
    attempts: int = 0
    cancelled: bool = False
    terminated: bool = False
    cpus: int | None = None
    memory_mib: int | None = None
    log_stream: str = ""
    worker: str = ""
    created: float = 0.0
    past: tuple[BatchAttempt, ...] = ()

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED")

    @property
    def running(self) -> bool:
        return self.status == "RUNNING"


def from_detail(detail: Mapping[str, Any]) -> BatchJob:
    """A BatchJob from one JobDetail of DescribeJobs."""
    container: Mapping[str, Any] = detail.get("container") or {}
    attempts = detail.get("attempts") or []
    # The last attempt keeps its own reason and exit code; the container's are the same once the job has ended.
    last: Mapping[str, Any] = (attempts[-1].get("container") or {}) if attempts else {}
    asked = {entry["type"]: entry["value"] for entry in container.get("resourceRequirements") or []}
    return BatchJob(
        id=detail["jobId"],
        name=detail.get("jobName", ""),
        status=detail["status"],
        status_reason=detail.get("statusReason") or "",
        container_reason=container.get("reason") or last.get("reason") or "",
        exit_code=container.get("exitCode", last.get("exitCode")),
        started=(detail.get("startedAt") or 0) / 1000,
        stopped=(detail.get("stoppedAt") or 0) / 1000,
        attempts=len(attempts),
        cancelled=bool(detail.get("isCancelled")),
        terminated=bool(detail.get("isTerminated")),
        cpus=_whole(asked.get("VCPU", container.get("vcpus"))),
        memory_mib=_whole(asked.get("MEMORY", container.get("memory"))),
        log_stream=container.get("logStreamName") or "",
        worker=_worker(container),
        created=(detail.get("createdAt") or 0) / 1000,
        past=tuple(map(_attempt, attempts)),
    )


def _attempt(detail: Mapping[str, Any]) -> BatchAttempt:
    container: Mapping[str, Any] = detail.get("container") or {}
    return BatchAttempt(
        started=(detail.get("startedAt") or 0) / 1000,
        stopped=(detail.get("stoppedAt") or 0) / 1000,
        exit_code=container.get("exitCode"),
        status_reason=detail.get("statusReason") or "",
        container_reason=container.get("reason") or "",
        log_stream=container.get("logStreamName") or "",
        worker=_worker(container),
    )


def _worker(container: Mapping[str, Any]) -> str:
    """The instance itself is not told, but ECS's name of it is; a Fargate job has its task only."""
    return str(container.get("containerInstanceArn") or container.get("taskArn") or "").rpartition("/")[2]


def _whole(value: Any) -> int | None:
    """Fargate gives vCPUs such as "0.25": a whole number is what the job ad has room for, so at least 1."""
    return None if value is None else max(1, round(float(value)))
