"""From a SubmitJob request to a Spec, or to the refusal that AWS would give: decisions without any I/O.

The request has the shape of botocore's service model already (validate.py saw to that); here are the limits that the model does
not hold. Sources: "AWS Batch service quotas", the texts of the service model, "Tag your resources", and error messages that users
of AWS report (docs/aws-semantics.md).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from gahp.local.entities import Definition, Queue
from gahp.local.jobs import Job, Spec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHARE = re.compile(r"[A-Za-z0-9]{1,255}\*?")
_PAYLOAD_KIB = 30
_MAX_DEPENDENCIES = 20
_TAG_CHARACTERS = frozenset(" +-=._:/@")


class ClientError(Exception):
    """An answer other than success: HTTP status, error code and message, as AWS words them."""

    def __init__(self, message: str, code: str = "ClientException", status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def refusal(text: str) -> ClientError:
    """A ClientException in the form that SubmitJob gives to most of them."""
    return ClientError(f"Error executing request, Exception : {text}, RequestId: {uuid.uuid4()}")


def specify(
    request: Mapping[str, Any],
    *,
    size: int,
    queue: Queue | None,
    definition: Definition | None,
    find: Callable[[str], Job | None],
) -> Spec:
    """Check a request of `size` bytes against all limits, and join it with its job definition. Raises ClientError."""
    if size > _PAYLOAD_KIB * 1024:
        raise refusal(f"Job size must be less than {_PAYLOAD_KIB} KiB, got {-(-size // 1024)} KiB")
    if not _NAME.fullmatch(request["jobName"]):
        raise refusal("Job name should match valid pattern")
    if queue is None:
        raise ClientError(f"JobQueue {request['jobQueue']} not found.")
    if not queue.enabled:
        raise refusal(f"Job queue {queue.arn} is not in ENABLED state")
    if definition is None:
        raise _no_definition(request["jobDefinition"])
    _check_share(request, queue)
    array_size = (request.get("arrayProperties") or {}).get("size")
    if array_size is not None and not 2 <= array_size <= 10000:
        raise refusal("Array size must be between 2 and 10000")
    _check_dependencies(request.get("dependsOn") or (), array_size, find)
    strategy = request.get("retryStrategy") or definition.retry_strategy
    _check_retry(strategy)
    timeout = (request.get("timeout") or definition.timeout).get("attemptDurationSeconds")
    if timeout is not None and timeout < 60:
        raise refusal("Timeout: attemptDurationSeconds must be at least 60 seconds")
    _check_tags(request.get("tags") or {})
    overrides = request.get("containerOverrides") or {}
    requirements = _requirements(definition.container, overrides)
    environment = _environment(definition.container.get("environment") or (), overrides.get("environment") or ())
    words = overrides.get("command") or definition.container.get("command") or ()
    return Spec(
        name=request["jobName"],
        region=queue.arn.split(":")[3],
        account=queue.arn.split(":")[4],
        queue_arn=queue.arn,
        queue_name=queue.name,
        definition_arn=definition.arn,
        definition_name=definition.name,
        container=_container(definition.container, words, environment, requirements),
        command=tuple(words),
        environment=environment,
        overrides_size=len(json.dumps([overrides.get("command"), overrides.get("environment")], separators=(",", ":"))),
        vcpus=float(requirements["VCPU"]),
        memory_mib=int(requirements["MEMORY"]),
        gpus=int(requirements.get("GPU", 0)),
        retry_strategy=strategy,
        timeout_s=timeout,
        parameters={**definition.parameters, **(request.get("parameters") or {})},
        depends_on=tuple(request.get("dependsOn") or ()),
        tags=request.get("tags") or {},
        platforms=definition.platforms,
        share=request.get("shareIdentifier"),
        priority=request.get("schedulingPriorityOverride"),
        propagate_tags=request.get("propagateTags"),
        size=array_size,
    )


def _no_definition(identifier: str) -> ClientError:
    if identifier.startswith("arn:"):
        return ClientError(f"JobDefinition {identifier} not found.")
    return ClientError(f"JobDefinition name {identifier} does not exist or is not in ACTIVE status")


def _check_share(request: Mapping[str, Any], queue: Queue) -> None:
    share, priority = request.get("shareIdentifier"), request.get("schedulingPriorityOverride")
    if queue.fair_share and share is None:
        raise refusal("shareIdentifier must be specified for a job queue with a fair-share scheduling policy")
    if not queue.fair_share and share is not None:
        raise refusal("shareIdentifier can't be specified for a job queue without a fair-share scheduling policy")
    if share is not None and not _SHARE.fullmatch(share):
        raise refusal("shareIdentifier must be up to 255 alphanumeric characters, which an asterisk may follow")
    if priority is not None and not 0 <= priority <= 9999:
        raise refusal("schedulingPriorityOverride must be between 0 and 9999")


def _check_dependencies(entries: Any, size: int | None, find: Callable[[str], Job | None]) -> None:
    if len(entries) > _MAX_DEPENDENCIES:
        raise refusal(f"A job can depend upon a maximum of {_MAX_DEPENDENCIES} jobs")
    for entry in entries:
        kind, job_id = entry.get("type"), entry.get("jobId")
        if kind is not None and size is None:
            raise refusal(f"Dependency type {kind} is for array jobs only")
        if kind == "SEQUENTIAL" and not job_id:
            continue
        other = find(job_id or "")
        if other is None:
            raise refusal(f"dependsOn: job {job_id} does not exist")
        if kind == "N_TO_N" and other.spec.size != size:
            raise refusal(f"dependsOn: N_TO_N needs an array job of the same size, and {job_id} is none")


def _check_retry(strategy: Mapping[str, Any]) -> None:
    attempts, rules = strategy.get("attempts"), strategy.get("evaluateOnExit") or ()
    if attempts is not None and not 1 <= int(attempts) <= 10:
        raise refusal("RetryStrategy: attempts must be between 1 and 10")
    if rules and attempts is None:
        raise refusal("RetryStrategy: attempts must be specified together with evaluateOnExit")
    if len(rules) > 5:
        raise refusal("RetryStrategy: evaluateOnExit can have up to 5 entries")
    patterns = {
        "onStatusReason": r"[A-Za-z0-9.:\s]*\*?",
        "onReason": r"[A-Za-z0-9.:\s]*\*?",
        "onExitCode": r"[0-9]*\*?",
    }
    for rule in rules:
        conditions = {key: rule[key] for key in patterns if key in rule}
        if not conditions:
            raise refusal("RetryStrategy: an entry of evaluateOnExit needs a condition")
        for key, text in conditions.items():
            if len(text) > 512 or not re.fullmatch(patterns[key], text):
                raise refusal(f"RetryStrategy: {key} '{text}' is not a valid pattern")


def _check_tags(tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or key.lower().startswith("aws:"):
            raise refusal(f"Tag key '{key}' is not valid")
        for character in key + value:
            if not (character.isalnum() or character in _TAG_CHARACTERS):
                raise refusal(f"Tag '{key}' has a character that is not allowed: '{character}'")


def _requirements(container: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, str]:
    """VCPU, MEMORY and perhaps GPU as text. `vcpus` and `memory` of the overrides do not win over resourceRequirements."""
    asked = {"VCPU": container.get("vcpus"), "MEMORY": container.get("memory")}
    asked.update({"VCPU": overrides.get("vcpus") or asked["VCPU"], "MEMORY": overrides.get("memory") or asked["MEMORY"]})
    for entry in (*(container.get("resourceRequirements") or ()), *(overrides.get("resourceRequirements") or ())):
        asked[entry["type"]] = entry["value"]
    result = {kind: str(value) for kind, value in asked.items() if value is not None}
    for kind, smallest in (("VCPU", 0.25), ("MEMORY", 4), ("GPU", 1)):
        if kind == "GPU" and kind not in result:
            continue
        try:
            enough = float(result[kind]) >= smallest if kind == "VCPU" else int(result[kind]) >= smallest
        except ValueError:
            raise refusal(f"resourceRequirements: {kind} '{result[kind]}' is not a number") from None
        except KeyError:
            raise refusal(f"resourceRequirements: {kind} must be specified") from None
        if not enough:
            raise refusal(f"resourceRequirements: {kind} must be at least {smallest}, got {result[kind]}")
    return result


def _environment(defined: Any, overriding: Any) -> dict[str, str]:
    for entry in overriding:
        if str(entry.get("name", "")).startswith("AWS_BATCH"):
            raise refusal(f"Environment variables cannot start with AWS_BATCH: {entry['name']}")
    return {entry["name"]: entry.get("value", "") for entry in (*defined, *overriding) if entry.get("name")}


def _container(
    container: Mapping[str, Any], words: Any, environment: Mapping[str, str], requirements: Mapping[str, str]
) -> dict[str, Any]:
    """The part of ContainerDetail that stays the same for all attempts."""
    copied = ("image", "jobRoleArn", "executionRoleArn", "logConfiguration", "user", "fargatePlatformConfiguration")
    lists = ("volumes", "mountPoints", "ulimits", "secrets")
    return {
        **{key: container[key] for key in copied if container.get(key) is not None},
        **{key: container.get(key) or [] for key in lists},
        "command": list(words),
        "environment": [{"name": name, "value": value} for name, value in environment.items()],
        "resourceRequirements": [{"type": kind, "value": value} for kind, value in requirements.items()],
    }
