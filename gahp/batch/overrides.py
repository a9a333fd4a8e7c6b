"""From a job's request to the parameters of SubmitJob: a decision, without any call.

Everything a job may vary travels in overrides; the job definition stays as it is. Bounds are those of botocore's service model
and the AWS Batch documentation: MEMORY at least 4 MiB, a time limit of at least 60 s, 1 to 10 attempts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable
from typing import Any

from gahp.model import JobRequest, Refused, Resources

MIN_MEMORY_MIB = 4
MIN_RUNTIME_S = 60
_MOST = 2**31 - 1

# Hosts that go away are retried; how a program ended is final. Without a match Batch would retry, so the last rule ends all else.
# A retried attempt first looks for the result of the one before, so a container that Docker lost sight of runs nothing twice.
_RETRY_RULES = (
    {"onStatusReason": "Host EC2*", "action": "RETRY"},
    {"onStatusReason": "Your Spot Task was interrupted*", "action": "RETRY"},
    {"onReason": "DockerTimeoutError*", "action": "RETRY"},
    {"onReason": "*", "action": "EXIT"},
)


def check_resources(resources: Resources) -> None:
    """Raise Refused for what no AWS Batch job can ask for."""
    memory, runtime = resources.memory_mib, resources.runtime_s
    asked = {"request_cpus": resources.cpus, "request_memory": memory, "request_gpus": resources.gpus, "batch_runtime": runtime}
    for name, amount in asked.items():
        if amount is not None and amount > _MOST:
            raise Refused(f"{name} = {amount} is more than AWS Batch can be asked for ({_MOST}). Lower it.")
    if memory is not None and memory < MIN_MEMORY_MIB:
        raise Refused(
            f"The job asks for {memory} MB of memory: AWS Batch takes no less than {MIN_MEMORY_MIB}. Raise request_memory."
        )
    if runtime is not None and runtime < MIN_RUNTIME_S:
        raise Refused(
            f"The job asks for a time limit of {runtime} s: AWS Batch takes no less than {MIN_RUNTIME_S}. Raise batch_runtime."
        )


def choose_queue(asked: str, fixed: str, allowed: tuple[str, ...]) -> str:
    """The queue to use for a job that names `asked` (or nothing). Raises Refused when the administrator does not allow it."""
    if not asked:
        return fixed
    for queue in (fixed, *allowed):
        if asked in (queue, queue.rpartition("/")[2]):
            return queue
    names = ", ".join(queue.rpartition("/")[2] for queue in (fixed, *allowed))
    raise Refused(f"batch_queue = {asked} is not allowed here: use one of {names}, or have it added to AWSBATCH_ALLOWED_QUEUES.")


def shape(request: JobRequest, queue: str) -> Hashable:
    """What SubmitJob says of all children of an array job at once: jobs that differ in it cannot be packed together.

    Owner and project are no part of what runs, but of the tags by which costs are told apart.
    """
    resources = dataclasses.replace(request.resources, disk_kib=None)
    return queue, resources, request.priority, request.project, request.owner


def submit_parameters(
    request: JobRequest,
    *,
    name: str,
    queue: str,
    definition: str,
    environment: dict[str, str],
    attempts: int,
    default_runtime_s: int,
    fair_share: bool,
    size: int = 1,
) -> dict[str, Any]:
    """The keyword arguments of SubmitJob for one job, or for an array of `size` jobs, of which `request` is the first.

    `environment` holds what the runner needs to find its run.
    """
    resources = request.resources
    check_resources(resources)
    asked = (("VCPU", resources.cpus), ("MEMORY", resources.memory_mib), ("GPU", resources.gpus))
    overrides: dict[str, Any] = {
        "command": [name],
        "environment": [{"name": key, "value": value} for key, value in environment.items()],
    }
    if requirements := [{"type": kind, "value": str(amount)} for kind, amount in asked if amount]:
        overrides["resourceRequirements"] = requirements
    parameters: dict[str, Any] = {
        "jobName": name,
        "jobQueue": queue,
        "jobDefinition": definition,
        "containerOverrides": overrides,
        "retryStrategy": {"attempts": attempts, "evaluateOnExit": [dict(rule) for rule in _RETRY_RULES]},
    }
    if size > 1:
        parameters["arrayProperties"] = {"size": size}
    if tags := _tags(request, fair_share=fair_share, others=size - 1):
        parameters["tags"] = tags  # an empty map is not allowed
    if runtime := resources.runtime_s or default_runtime_s:
        parameters["timeout"] = {"attemptDurationSeconds": runtime}
    if fair_share:
        # A queue with a fair-share policy takes no job without an identifier: letters and digits, and one at the least.
        parameters["shareIdentifier"] = re.sub(r"[^A-Za-z0-9]", "", request.project)[:255] or "default"
        if request.priority is not None:
            parameters["schedulingPriorityOverride"] = min(9999, max(0, request.priority))
    return parameters


def _tags(request: JobRequest, *, fair_share: bool, others: int) -> dict[str, str]:
    more = f" and {others} more" if others else ""
    tags = {
        "HTCondorJob": request.global_job_id and request.global_job_id + more,
        "HTCondorDAGNode": request.dag_node and request.dag_node + more,
        "HTCondorOwner": request.owner,
        "HTCondorProject": "" if fair_share else request.project,
    }
    # A tag takes letters, digits, blanks and a few signs; a GlobalJobId has '#'.
    return {key: re.sub(r"[^A-Za-z0-9 +\-=._:/@]", "/", value)[:256] for key, value in tags.items() if value}
