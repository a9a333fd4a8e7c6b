"""What AWS Batch has for jobs to run on, and how full it is: queue, compute environments, share policy, the line of jobs.

For people who ask why a job waits; the GAHP itself never calls this. Goes through Batch's own calls, so at its pace. Shapes:
JobQueueDetail, ComputeEnvironmentDetail, SchedulingPolicyDetail, JobSummary and JobDetail of botocore's service model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gahp.batch.service import DESCRIBE_PAGE, Batch
from gahp.model import Refused

_LOOK_AT = 500  # jobs are described, and pages of as many listed, at most


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """A compute environment of a queue. `types` are names, families, or "optimal"; empty for Fargate, which has none."""

    name: str
    state: str = "ENABLED"
    status: str = "VALID"
    reason: str = ""
    kind: str = "EC2"
    managed: bool = True
    max_vcpus: int | None = None
    desired_vcpus: int | None = None
    types: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return self.state == "ENABLED" and self.status == "VALID"


@dataclasses.dataclass(frozen=True, slots=True)
class Queue:
    """A job queue and what is behind it. `policy` is the name of its scheduling policy, `shares` that policy's weights."""

    name: str
    state: str = "ENABLED"
    status: str = "VALID"
    reason: str = ""
    environments: tuple[Environment, ...] = ()
    policy: str = ""
    shares: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Crowd:
    """Who is in a queue: those that wait, with the time of their making; arrays, with how many of their children wait; how many
    run or start, and `using` how many vCPUs. `complete`: nothing was left out for its number."""

    waiting: tuple[tuple[str, float], ...] = ()
    arrays: tuple[tuple[str, float, int], ...] = ()
    running: int = 0
    using: float = 0.0
    complete: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """Who else is in the queue: `ahead` wait and were there before the job; the rest is as in Crowd."""

    ahead: int = 0
    running: int = 0
    using: float = 0.0
    complete: bool = True


def queue(batch: Batch, name: str) -> Queue | None:
    """The queue of that name or ARN with its environments; None if there is none."""
    found = batch.ask("DescribeJobQueues", jobQueues=[name])["jobQueues"]
    if not found:
        return None
    detail: Mapping[str, Any] = found[0]
    order = sorted(detail.get("computeEnvironmentOrder") or [], key=lambda entry: int(entry["order"]))
    names = [entry["computeEnvironment"] for entry in order]
    known: dict[str, Environment] = {}
    if names:
        for each in batch.ask("DescribeComputeEnvironments", computeEnvironments=names)["computeEnvironments"]:
            environment = _environment(each)
            known[each["computeEnvironmentArn"]] = known[environment.name] = environment
    policy: str = detail.get("schedulingPolicyArn") or ""
    shares: tuple[tuple[str, float], ...] = ()
    if policy:
        try:
            policies = batch.ask("DescribeSchedulingPolicies", arns=[policy])["schedulingPolicies"]
        except Refused:
            policies = []  # not everybody may; its name says enough
        weights = ((policies[0].get("fairsharePolicy") or {}).get("shareDistribution") or []) if policies else []
        shares = tuple((entry["shareIdentifier"], float(entry.get("weightFactor", 1.0))) for entry in weights)
    return Queue(
        name=detail["jobQueueName"],
        state=detail["state"],
        status=detail.get("status", "VALID"),
        reason=detail.get("statusReason") or "",
        environments=tuple(known[each] for each in names if each in known),
        policy=policy.rpartition("/")[2],
        shares=shares,
    )


def crowd(batch: Batch, name: str) -> Crowd:
    """The jobs of a queue that wait, start or run. An array counts with its children."""
    complete = True
    waiting: list[tuple[str, float]] = []
    busy: list[str] = []
    for status in ("RUNNABLE", "PENDING", "STARTING", "RUNNING"):
        rows, whole = batch.first_listed(name, status, _LOOK_AT)
        complete &= whole
        if status == "RUNNABLE":
            waiting += [(row["jobId"], (row.get("createdAt") or 0) / 1000) for row in rows if "size" not in _array(row)]
        busy += [row["jobId"] for row in rows if status in ("STARTING", "RUNNING") or "size" in _array(row)]
    complete &= len(busy) <= _LOOK_AT
    arrays: list[tuple[str, float, int]] = []
    running, using = 0, 0.0
    for start in range(0, min(len(busy), _LOOK_AT), DESCRIBE_PAGE):
        for detail in batch.ask("DescribeJobs", jobs=busy[start : start + DESCRIBE_PAGE])["jobs"]:
            counts = _array(detail).get("statusSummary") or {}
            number = counts.get("STARTING", 0) + counts.get("RUNNING", 0) if counts else 1
            running += number
            using += number * _vcpus(detail)
            if counts.get("RUNNABLE"):
                arrays.append((detail["jobId"], (detail.get("createdAt") or 0) / 1000, counts["RUNNABLE"]))
    return Crowd(tuple(waiting), tuple(arrays), running, using, complete)


def line(crowd: Crowd, job_id: str, created: float) -> Line:
    """The line in front of a job that was made at `created` (seconds since the epoch): the older ones, and of its own array those
    with a lower index."""
    parent, _, index = job_id.partition(":")
    ahead = sum(1 for other, made in crowd.waiting if made < created and other != job_id)
    for other, made, runnable in crowd.arrays:
        if other == parent:
            ahead += min(int(index or 0), runnable - 1)
        elif made < created:
            ahead += runnable
    return Line(ahead, crowd.running, crowd.using, crowd.complete)


def _array(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    return detail.get("arrayProperties") or {}


def _vcpus(detail: Mapping[str, Any]) -> float:
    container: Mapping[str, Any] = detail.get("container") or {}
    asked: Sequence[Mapping[str, str]] = container.get("resourceRequirements") or []
    return float(next((entry["value"] for entry in asked if entry["type"] == "VCPU"), container.get("vcpus") or 0))


def _environment(detail: Mapping[str, Any]) -> Environment:
    resources: Mapping[str, Any] = detail.get("computeResources") or {}
    return Environment(
        name=detail["computeEnvironmentName"],
        state=detail.get("state", "ENABLED"),
        status=detail.get("status", "VALID"),
        reason=detail.get("statusReason") or "",
        kind=resources.get("type", ""),
        managed=detail.get("type", "MANAGED") == "MANAGED",
        max_vcpus=resources.get("maxvCpus"),
        desired_vcpus=resources.get("desiredvCpus"),
        types=tuple(resources.get("instanceTypes") or ()),
    )
