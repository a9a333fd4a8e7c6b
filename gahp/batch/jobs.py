"""A Batch job as DescribeJobs, ListJobs and events show it, cut down to what this program looks at.

Knows the shapes JobDetail and JobSummary of botocore's service model; makes no calls.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

# Reasons of a RUNNABLE job that only its own request can mend. AWS Batch documentation, "Jobs stuck in RUNNABLE".
_NEVER_FITS = ("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT", "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE")


@dataclasses.dataclass(frozen=True, slots=True)
class BatchJob:
    """`status` is Batch's word; times are in seconds since the epoch, 0.0 if there is none.

    `described`: DescribeJobs has said so. A row of a list or an event has less or may be late: `attempts` is None in a row.
    `size` and `counts` (children by status) are an array parent's.
    """

    id: str
    name: str
    status: str
    status_reason: str = ""
    container_reason: str = ""
    exit_code: int | None = None
    started: float = 0.0
    stopped: float = 0.0
    attempts: int | None = 0
    cancelled: bool = False
    terminated: bool = False
    cpus: int | None = None
    memory_mib: int | None = None
    log_stream: str = ""
    worker: str = ""
    described: bool = True
    size: int = 0
    counts: Mapping[str, int] | None = None

    @property
    def restarts(self) -> int | None:
        """How often it was started again; None if that is not known."""
        return None if self.attempts is None else max(0, self.attempts - 1)

    @property
    def never_fits(self) -> bool:
        """It waits for what no host of its queue will ever have."""
        return self.status == "RUNNABLE" and self.status_reason.startswith(_NEVER_FITS)

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED")

    @property
    def running(self) -> bool:
        return self.status == "RUNNING"


def from_detail(detail: Mapping[str, Any], *, described: bool = True) -> BatchJob:
    """A BatchJob from one JobDetail: of DescribeJobs, or of an event, which has the same shape."""
    container: Mapping[str, Any] = detail.get("container") or {}
    attempts = detail.get("attempts") or []
    # The last attempt keeps its own reason and exit code; the container's are the same once the job has ended.
    last: Mapping[str, Any] = (attempts[-1].get("container") or {}) if attempts else {}
    asked = {entry["type"]: entry["value"] for entry in container.get("resourceRequirements") or []}
    array: Mapping[str, Any] = detail.get("arrayProperties") or {}
    return BatchJob(
        id=detail["jobId"],
        name=detail.get("jobName", ""),
        status=sys.intern(detail["status"]),
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
        described=described,
        size=array.get("size") or 0,
        counts=array.get("statusSummary"),
    )


def from_summary(row: Mapping[str, Any]) -> BatchJob:
    """A BatchJob from one JobSummary, a row of ListJobs: it tells neither attempts nor resources, log stream and worker."""
    container: Mapping[str, Any] = row.get("container") or {}
    return BatchJob(
        id=row["jobId"],
        name=row.get("jobName", ""),
        status=sys.intern(row["status"]),
        status_reason=row.get("statusReason") or "",
        container_reason=container.get("reason") or "",
        exit_code=container.get("exitCode"),
        started=(row.get("startedAt") or 0) / 1000,
        stopped=(row.get("stoppedAt") or 0) / 1000,
        attempts=None,
        cancelled=bool(row.get("isCancelled")),
        terminated=bool(row.get("isTerminated")),
        described=False,
    )


def _whole(value: Any) -> int | None:
    """Fargate gives vCPUs such as "0.25": a whole number is what the job ad has room for, so at least 1."""
    return None if value is None else max(1, round(float(value)))
