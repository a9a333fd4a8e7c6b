"""A Batch job: what was asked for, how it stands, and how DescribeJobs and ListJobs show it.

Pure data and its two views, in the shapes JobDetail and JobSummary of botocore's service model. Times are milliseconds since
the epoch, as in AWS. Decides nothing about scheduling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

STATUSES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
FINAL = ("SUCCEEDED", "FAILED")
BEFORE_START = ("SUBMITTED", "PENDING", "RUNNABLE")


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """What one SubmitJob asked for, after the job definition and the overrides were joined. Children of an array share it.

    `container` holds the fields of ContainerDetail that never change; `overrides_size` is the length in characters of what goes
    to the container service as overrides, without the variables that Batch adds itself.
    """

    name: str
    region: str
    account: str
    queue_arn: str
    queue_name: str
    definition_arn: str
    definition_name: str
    container: Mapping[str, Any]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    overrides_size: int
    vcpus: float
    memory_mib: int
    gpus: int
    retry_strategy: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeout_s: int | None = None
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    depends_on: tuple[Mapping[str, str], ...] = ()
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    platforms: tuple[str, ...] = ("EC2",)
    share: str | None = None
    priority: int | None = None
    propagate_tags: bool | None = None
    size: int | None = None

    @property
    def attempts(self) -> int:
        return int(self.retry_strategy.get("attempts") or 1)


@dataclasses.dataclass(slots=True, eq=False)
class Job:
    """One job, array parent or array child. Only the engine changes it, under the engine's lock."""

    id: str
    number: int
    spec: Spec
    created: int
    status: str = "SUBMITTED"
    reason: str = ""
    started: int = 0
    stopped: int = 0
    attempts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    last: dict[str, Any] = dataclasses.field(default_factory=dict)
    cancelled: bool = False
    terminated: bool = False
    parent: Job | None = None
    index: int | None = None
    children: list[Job] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    counted: int = 0
    waiting: set[str] = dataclasses.field(default_factory=set)

    @property
    def arn(self) -> str:
        return f"arn:aws:batch:{self.spec.region}:{self.spec.account}:job/{self.id}"

    @property
    def over(self) -> bool:
        return self.status in FINAL

    @property
    def is_array(self) -> bool:
        return self.spec.size is not None and self.index is None


def _array_properties(job: Job) -> dict[str, Any]:
    if job.index is not None:
        return {"index": job.index}
    return {
        "size": job.spec.size,
        "statusSummary": {status: job.counts.get(status, 0) for status in STATUSES},
        "statusSummaryLastUpdatedAt": job.counted,
    }


def detail(job: Job) -> dict[str, Any]:
    """The job as a JobDetail. `startedAt` is a required member of that shape: 0 for a job that has not started."""
    spec = job.spec
    view: dict[str, Any] = {
        "jobArn": job.arn,
        "jobName": spec.name,
        "jobId": job.id,
        "jobQueue": spec.queue_arn,
        "status": job.status,
        "attempts": job.attempts,
        "createdAt": job.created,
        "startedAt": job.started,
        "dependsOn": [dict(entry) for entry in spec.depends_on],
        "jobDefinition": spec.definition_arn,
        "parameters": spec.parameters,
        "container": {**spec.container, **job.last},
        "platformCapabilities": list(spec.platforms),
        "isCancelled": job.cancelled,
        "isTerminated": job.terminated,
    }
    optional = {
        "statusReason": job.reason,
        "stoppedAt": job.stopped,
        "retryStrategy": spec.retry_strategy,
        "timeout": {"attemptDurationSeconds": spec.timeout_s} if spec.timeout_s else None,
        "tags": spec.tags,
        "shareIdentifier": spec.share,
    }
    view.update({key: value for key, value in optional.items() if value})
    if spec.priority is not None:
        view["schedulingPriority"] = spec.priority
    if spec.propagate_tags is not None:
        view["propagateTags"] = spec.propagate_tags
    if spec.size is not None:
        view["arrayProperties"] = _array_properties(job)
    return view


def summary(job: Job) -> dict[str, Any]:
    """The job as a JobSummary, a row of ListJobs."""
    view: dict[str, Any] = {
        "jobArn": job.arn,
        "jobId": job.id,
        "jobName": job.spec.name,
        "createdAt": job.created,
        "status": job.status,
        "jobDefinition": job.spec.definition_arn,
    }
    container = {key: job.last[key] for key in ("exitCode", "reason") if key in job.last}
    optional = {
        "statusReason": job.reason,
        "startedAt": job.started,
        "stoppedAt": job.stopped,
        "shareIdentifier": job.spec.share,
        "container": container,
        # The model says of these two: only present when the value is true.
        "isCancelled": job.cancelled,
        "isTerminated": job.terminated,
    }
    view.update({key: value for key, value in optional.items() if value})
    if job.index is not None:
        view["arrayProperties"] = {"index": job.index}
    elif job.spec.size is not None:
        view["arrayProperties"] = {"size": job.spec.size}
    return view
