"""A Batch job as DescribeJobs shows it, cut down to what this program looks at.

Knows the shape JobDetail of botocore's service model; makes no calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class BatchJob:
    """`status` is Batch's word; times are in seconds since the epoch, 0.0 if there is none."""

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
        # The instance itself is not told, but ECS's name of it is.
        worker=(container.get("containerInstanceArn") or "").rpartition("/")[2],
    )


def _whole(value: Any) -> int | None:
    """Fargate gives vCPUs such as "0.25": a whole number is what the job ad has room for, so at least 1."""
    return None if value is None else max(1, round(float(value)))
