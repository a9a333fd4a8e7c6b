"""Job queues, compute environments and job definitions as moto keeps them, cut down to what the engine looks at.

Knows moto's Batch backend (its describe methods only); nothing of jobs. Facts are remembered until `forget` is called, which
the front does after every call that may have changed them.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """A compute environment that can take jobs. `vcpus` is its maxvCpus."""

    arn: str
    name: str
    vcpus: float


@dataclasses.dataclass(frozen=True, slots=True)
class Queue:
    """A job queue and its enabled compute environments in their order."""

    arn: str
    name: str
    priority: int
    enabled: bool
    fair_share: bool
    environments: tuple[Environment, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """One active revision of a job definition of type container."""

    arn: str
    name: str
    revision: int
    container: Mapping[str, Any]
    parameters: Mapping[str, str]
    retry_strategy: Mapping[str, Any]
    timeout: Mapping[str, Any]
    platforms: tuple[str, ...]
    tags: Mapping[str, str]


class Entities:
    """What an account has set up, one view for all Regions."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], Queue | None] = {}
        self._definitions: dict[tuple[str, str], Definition | None] = {}
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Read everything anew from now on."""
        with self._lock:
            self._queues.clear()
            self._definitions.clear()

    def resize(self, region: str, identifier: str, resources: Mapping[str, Any]) -> None:
        """What UpdateComputeEnvironment asks for; moto takes the call and leaves the resources as they were."""
        environment = _backend(region).get_compute_environment(identifier)
        if environment is not None and environment.compute_resources is not None:
            environment.compute_resources.update(resources)

    def queue(self, region: str, identifier: str) -> Queue | None:
        """The queue of that name or ARN."""
        key = (region, identifier)
        with self._lock:
            if key not in self._queues:
                self._queues[key] = _read_queue(region, identifier)
            return self._queues[key]

    def definition(self, region: str, identifier: str) -> Definition | None:
        """The active definition of that `name`, `name:revision` or ARN (the revision may be left out): the newest of them."""
        key = (region, identifier)
        with self._lock:
            if key not in self._definitions:
                active = [entry for entry in definitions(region, identifiers=[identifier]) if entry["status"] == "ACTIVE"]
                newest = max(active, key=lambda entry: int(entry["revision"]), default=None)
                self._definitions[key] = _definition(newest) if newest else None
            return self._definitions[key]


def _backend(region: str) -> Any:
    return get_backend("batch")[DEFAULT_ACCOUNT_ID][region]


def _read_queue(region: str, identifier: str) -> Queue | None:
    backend = _backend(region)
    if not identifier:
        return None
    found = backend.describe_job_queues([identifier])
    if not found:
        return None
    queue = found[0]
    order = sorted(queue["computeEnvironmentOrder"], key=lambda entry: int(entry["order"]))
    described = [backend.describe_compute_environments([entry["computeEnvironment"]]) for entry in order]
    return Queue(
        arn=queue["jobQueueArn"],
        name=queue["jobQueueName"],
        priority=int(queue["priority"]),
        enabled=queue["state"] == "ENABLED",
        fair_share=bool(queue.get("schedulingPolicyArn")),
        environments=tuple(_environment(found[0]) for found in described if found and found[0]["state"] != "DISABLED"),
    )


def _environment(described: Mapping[str, Any]) -> Environment:
    resources = described.get("computeResources") or {}
    # An unmanaged environment has no maxvCpus of its own.
    return Environment(
        arn=described["computeEnvironmentArn"],
        name=described["computeEnvironmentName"],
        vcpus=float(resources.get("maxvCpus", 256)),
    )


def _definition(described: Mapping[str, Any]) -> Definition:
    return Definition(
        arn=described["jobDefinitionArn"],
        name=described["jobDefinitionName"],
        revision=int(described["revision"]),
        container=described.get("containerProperties") or {},
        parameters=described.get("parameters") or {},
        retry_strategy=described.get("retryStrategy") or {},
        timeout=described.get("timeout") or {},
        platforms=tuple(described.get("platformCapabilities") or ("EC2",)),
        tags=described.get("tags") or {},
    )


def definitions(
    region: str, *, identifiers: list[str] | None = None, name: str | None = None, status: str | None = None
) -> list[dict[str, Any]]:
    """Every job definition that matches, in the shape of DescribeJobDefinitions.

    moto finds an identifier by its ARN or bare name; AWS takes `name:revision` and an ARN without a revision as well.
    """
    found = []
    for entry in (definition.describe() for definition in _backend(region).describe_job_definitions()):
        arn, bare, revision = entry["jobDefinitionArn"], entry["jobDefinitionName"], entry["revision"]
        names = {arn, arn.rpartition(":")[0], bare, f"{bare}:{revision}"}
        if identifiers is not None and not names.intersection(identifiers):
            continue
        if (name is not None and bare != name) or (status is not None and entry["status"] != status):
            continue
        found.append(entry)
    return found
