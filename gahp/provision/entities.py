"""Compute environment, job queue, job definition: found, compared with what is asked for, made, changed.

`differences` decides by value. What this program made carries two tags: the prefix, and a digest of what was asked for; so a file
that has not changed changes nothing, even where somebody has updated the entity since. Knows Batch alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gahp.model import Refused, Transient
from gahp.provision import documents, waiting
from gahp.provision.aws import AlreadyThere, Aws
from gahp.provision.settings import CONTENT_TAG, PREFIX_TAG, Kind, Settings

# AWS Batch sets it as it scales.
_MOVING = {"computeResources.desiredvCpus"}
_UNORDERED = {"computeResources.subnets", "computeResources.securityGroupIds", "computeResources.instanceTypes"}
_DESCRIBE = {
    Kind.COMPUTE_ENVIRONMENT: ("DescribeComputeEnvironments", "computeEnvironments"),
    Kind.JOB_QUEUE: ("DescribeJobQueues", "jobQueues"),
}
# Members that any compute environment takes an update of; others want a service-linked role and a newer strategy.
_SCALING = {"state", "computeResources.minvCpus", "computeResources.maxvCpus", "computeResources.desiredvCpus"}
_SERVICE_LINKED = "/AWSServiceRoleForBatch"
_SETTLE_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Entity:
    """One that is there. `arn`: a definition's with its revision; `ours`: made for this prefix; `made`: in this run."""

    kind: Kind
    arn: str
    ours: bool = False
    made: bool = False

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2].partition(":")[0]


def digest(request: Mapping[str, Any]) -> str:
    """Of what is asked for, tags aside."""
    content = {key: value for key, value in request.items() if key != "tags"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def tags_for(settings: Settings, request: Mapping[str, Any]) -> dict[str, str]:
    """The file's own tags and the two of this program."""
    return {**request.get("tags", {}), PREFIX_TAG: settings.prefix, CONTENT_TAG: digest(request)}


def _new_tags(request: Mapping[str, Any], has: Mapping[str, str]) -> dict[str, str]:
    """The file's own tags that stand otherwise. One that the file no longer has may be somebody else's, and stays."""
    return {key: value for key, value in request.get("tags", {}).items() if has.get(key) != value}


def _tag(aws: Aws, thing: str, arn: str, tags: Mapping[str, str]) -> None:
    if tags:
        aws.change("batch", "TagResource", thing, resourceArn=arn, tags=dict(tags))
        aws.did(f"Changed the tags of {thing}: {', '.join(sorted(tags))}")


def differences(asked: Mapping[str, Any], has: Mapping[str, Any], where: str = "") -> dict[str, tuple[Any, Any]]:
    """What is asked for and stands otherwise: the member's way from the top, what it is, what it should be.

    What is not asked for may be anything; an empty list, map or text is the same as none.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key, value in asked.items():
        path = f"{where}.{key}" if where else key
        actual = has.get(key)
        if path in _MOVING or path == "tags" or (not value and not actual and value is not False):
            continue
        if isinstance(value, Mapping) and isinstance(actual, Mapping):
            found.update(differences(value, actual, path))
        elif not _same(path, value, actual):
            found[path] = (actual, value)
    return found


def _same(path: str, asked: Any, actual: Any) -> bool:
    if path in _UNORDERED:
        return sorted(asked) == sorted(actual or [])
    if path.endswith(("Role", "RoleArn")) and isinstance(actual, str):
        # A name and an ARN may stand for the same role.
        return bool(asked == actual) or asked.rpartition("/")[2] == actual.rpartition("/")[2]
    if isinstance(asked, list) and isinstance(actual, list) and len(asked) == len(actual):
        pairs = zip(asked, actual, strict=True)
        return all(not differences(a, b, path) if isinstance(a, Mapping) else a == b for a, b in pairs)
    return bool(asked == actual)


def describe(aws: Aws, kind: Kind, identifier: str) -> dict[str, Any] | None:
    """A compute environment or a job queue by name or ARN; None if there is none (or it is deleted)."""
    operation, member = _DESCRIBE[kind]
    found = aws.ask("batch", operation, f"the {kind.words} {identifier}", **{member: [identifier]})[member]
    return dict(found[0]) if found and found[0].get("status") != "DELETED" else None


def all_of(aws: Aws, kind: Kind) -> list[dict[str, Any]]:
    """Every one there is in the account and Region; of job definitions every active revision."""
    if kind is Kind.JOB_DEFINITION:
        return list(aws.pages("batch", "DescribeJobDefinitions", "the job definitions", "jobDefinitions", status="ACTIVE"))
    operation, member = _DESCRIBE[kind]
    return [found for found in aws.pages("batch", operation, f"the {kind.words}s", member) if found.get("status") != "DELETED"]


def revisions(aws: Aws, name: str) -> list[dict[str, Any]]:
    """The active revisions of a job definition, the newest first."""
    thing = f"the job definition {name}"
    pages = aws.pages("batch", "DescribeJobDefinitions", thing, "jobDefinitions", jobDefinitionName=name, status="ACTIVE")
    return sorted(pages, key=lambda revision: -int(revision["revision"]))


def is_ours(settings: Settings, described: Mapping[str, Any]) -> bool:
    return bool(described.get("tags", {}).get(PREFIX_TAG) == settings.prefix)


def register(aws: Aws, settings: Settings, request: dict[str, Any]) -> Entity:
    """The job definition as asked for: the newest revision if it is that one, else a new revision."""
    kind, name = Kind.JOB_DEFINITION, str(request["jobDefinitionName"])
    newest = next(iter(revisions(aws, name)), None)
    if newest is not None and not is_ours(settings, newest):
        different = differences(request, newest)
        if different:
            raise _foreign(kind, name, settings, different)
        aws.report.say(f"Using the job definition {newest['jobDefinitionArn']}, which was there before and is the same")
        return Entity(kind, newest["jobDefinitionArn"])
    if newest is not None and newest["tags"].get(CONTENT_TAG) == digest(request):
        aws.report.say(f"Unchanged: the job definition {newest['jobDefinitionArn']}")
        _tag(aws, f"the job definition {name}", newest["jobDefinitionArn"], _new_tags(request, newest["tags"]))
        return Entity(kind, newest["jobDefinitionArn"], ours=True)
    thing = f"the job definition {name}"
    answer = aws.change("batch", "RegisterJobDefinition", thing, **{**request, "tags": tags_for(settings, request)})
    revision = answer.get("revision") or (newest["revision"] + 1 if newest else 1)
    arn = answer.get("jobDefinitionArn") or f"{_arn(aws, kind, name)}:{revision}"
    aws.did(f"{'Created' if newest is None else 'Changed'} the job definition {arn}")
    return Entity(kind, arn, ours=True, made=newest is None)


def ensure(aws: Aws, settings: Settings, kind: Kind, request: dict[str, Any], *, fresh_roles: bool = False) -> Entity:
    """The compute environment or job queue as asked for, and VALID. `fresh_roles`: roles were made a moment ago."""
    name = str(request[kind.name_member])
    thing = f"the {kind.words} {name}"
    found = describe(aws, kind, name)
    if found is not None and found.get("status") in ("DELETING", "DELETED"):
        _wait_until_gone(aws, kind, name, settings.wait_s)
        found = None
    if found is None:
        entity = _make(aws, settings, kind, request, fresh_roles=fresh_roles)
    elif not is_ours(settings, found):
        different = differences(request, found)
        if different:
            raise _foreign(kind, name, settings, different)
        aws.report.say(f"Using {thing}, which was there before and is the same: {found[kind.arn_member]}")
        entity = Entity(kind, str(found[kind.arn_member]))
    else:
        entity = _change(aws, settings, kind, request, found)
    if not aws.dry_run:
        wait_until_valid(aws, kind, name, settings.wait_s, settle_s=_SETTLE_S if fresh_roles else 0.0)
    return entity


def _make(aws: Aws, settings: Settings, kind: Kind, request: dict[str, Any], *, fresh_roles: bool) -> Entity:
    name = str(request[kind.name_member])
    thing = f"the {kind.words} {name}"
    try:
        answer = aws.change("batch", kind.operation, thing, **{**request, "tags": tags_for(settings, request)})
    except AlreadyThere as error:
        # An earlier try of this step made it, and its answer was lost: the step looks again.
        raise Transient(str(error)) from error
    except Refused as error:
        if fresh_roles and "role" in str(error).lower():
            raise Transient(f"IAM does not know the new roles everywhere yet: {error}") from error
        raise
    arn = str(answer.get(kind.arn_member) or _arn(aws, kind, name))
    aws.did(f"Created {thing}: {arn}")
    return Entity(kind, arn, ours=True, made=True)


def _change(aws: Aws, settings: Settings, kind: Kind, request: dict[str, Any], found: dict[str, Any]) -> Entity:
    """Bring one of ours to what is asked for, if the file has changed since it was made; else leave it as it is."""
    name, arn = str(request[kind.name_member]), str(found[kind.arn_member])
    thing = f"the {kind.words} {name}"
    different = differences(request, found)
    invalid = found.get("status") == "INVALID"
    if found["tags"].get(CONTENT_TAG) == digest(request) and not invalid:
        aws.report.say(f"Unchanged: {thing}: {arn}")
        if different:
            since = ", ".join(f"{path} is {json.dumps(has)}" for path, (has, _) in different.items())
            aws.report.say(f"  it was updated since it was made, and stays so: {since}")
        _tag(aws, thing, arn, _new_tags(request, found["tags"]))
        return Entity(kind, arn, ours=True)
    if different:
        _check_updatable(kind, name, different, found)
    if different or invalid:
        send_update(aws, kind, name, request, different)
    aws.change("batch", "TagResource", thing, resourceArn=arn, tags=tags_for(settings, request))
    if different or invalid:
        aws.did(f"Changed {thing}: {listed(different) or 'AWS is asked to look at it again'}")
    else:
        aws.did(f"Noted that the file of {thing} is another one: what it no longer names stays as it is")
    return Entity(kind, arn, ours=True)


def send_update(aws: Aws, kind: Kind, name: str, request: Mapping[str, Any], different: Mapping[str, Any]) -> None:
    """The update call with the members that differ; with none of them it has AWS Batch look at an INVALID entity again."""
    parameters: dict[str, Any] = {}
    for path in different:
        top, _, rest = path.partition(".")
        if rest:
            member = rest.partition(".")[0]
            parameters.setdefault(top, {})[member] = request[top][member]
        else:
            parameters[top] = request[top]
    identifier = "computeEnvironment" if kind is Kind.COMPUTE_ENVIRONMENT else "jobQueue"
    if not parameters:
        parameters = {"state": request.get("state", "ENABLED")}
        if request.get("serviceRole"):
            parameters["serviceRole"] = request["serviceRole"]
    operation = kind.operation.replace("Create", "Update")
    aws.change("batch", operation, f"the {kind.words} {name}", **{identifier: name, **parameters})


def _check_updatable(kind: Kind, name: str, different: Mapping[str, tuple[Any, Any]], found: Mapping[str, Any]) -> None:
    """Raise Refused for what AWS Batch does not let be changed. Source: UpdateComputeEnvironment, UpdateJobQueue."""
    shape: Any = documents.shape_of(kind.operation.replace("Create", "Update"))
    resources = found.get("computeResources", {})
    fargate = str(resources.get("type", "")).startswith("FARGATE")
    free = str(found.get("serviceRole", "")).endswith(_SERVICE_LINKED) and (
        fargate or resources.get("allocationStrategy", "BEST_FIT") != "BEST_FIT"
    )
    for path in different:
        top, _, rest = path.partition(".")
        member = shape.members.get(top)
        if member is not None and rest:
            member = member.members.get(rest.partition(".")[0])
        if path == "serviceRole" and not any(str(value or "").endswith(_SERVICE_LINKED) for value in different[path]):
            # From one role of the account to another, which is how a wrong one is mended.
            continue
        if member is None or not (kind is Kind.JOB_QUEUE or path in _SCALING or free):
            why = "" if member is None else " (it would with AWS Batch's service-linked role and another strategy than BEST_FIT)"
            raise Refused(
                f"AWS Batch does not let {path} of the {kind.words} {name} be changed{why}: {listed({path: different[path]})}. "
                f"Give it another {kind.name_member} in the file, or run condor_awsbatch delete and create it again."
            )


def wait_until_valid(aws: Aws, kind: Kind, name: str, limit_s: float, *, settle_s: float = 0.0) -> None:
    """INVALID is final, except for `settle_s` after roles were made: then AWS Batch is asked to look again."""
    thing = f"the {kind.words} {name}"

    def look() -> Mapping[str, Any] | None:
        return describe(aws, kind, name)

    def valid(found: Mapping[str, Any] | None) -> bool:
        return found is not None and found.get("status") == "VALID"

    def settled(found: Mapping[str, Any] | None) -> bool:
        return found is not None and found.get("status") in ("VALID", "INVALID")

    waited = 0.0
    while waited < settle_s:
        found = waiting.until(aws, thing, look, settled, limit_s=limit_s)
        if valid(found):
            return
        aws.pause(5.0)
        waited += 5.0
        with contextlib.suppress(Transient):
            send_update(aws, kind, name, found or {}, {})
    waiting.until(aws, thing, look, valid, limit_s=limit_s)


def _wait_until_gone(aws: Aws, kind: Kind, name: str, limit_s: float) -> None:
    thing = f"the {kind.words} {name}"
    waiting.until(aws, thing, lambda: describe(aws, kind, name), lambda found: found is None, limit_s=limit_s)


def remove(aws: Aws, kind: Kind, name: str, limit_s: float) -> None:
    """Disable, wait, delete, wait. One that is gone, or on its way, is no error."""
    thing = f"the {kind.words} {name}"
    identifier = "computeEnvironment" if kind is Kind.COMPUTE_ENVIRONMENT else "jobQueue"
    found = describe(aws, kind, name)
    if found is None:
        return
    if found.get("status") != "DELETING":
        if found.get("state") != "DISABLED":
            aws.change("batch", kind.operation.replace("Create", "Update"), thing, **{identifier: name, "state": "DISABLED"})
        if not aws.dry_run:
            waiting.until(aws, thing, lambda: describe(aws, kind, name), _deletable, limit_s=limit_s, invalid_ok=True)
        aws.change("batch", kind.operation.replace("Create", "Delete"), thing, **{identifier: name})
    if not aws.dry_run:
        _wait_until_gone(aws, kind, name, limit_s)


def _deletable(found: Mapping[str, Any] | None) -> bool:
    return found is None or (found.get("state") == "DISABLED" and found.get("status") in ("VALID", "INVALID"))


def _arn(aws: Aws, kind: Kind, name: str) -> str:
    return f"arn:{aws.partition}:batch:{aws.region}:{aws.account}:{kind.value}/{name}"


def listed(different: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as a sentence's part."""
    return ", ".join(f"{path} {json.dumps(has)} -> {json.dumps(wanted)}" for path, (has, wanted) in different.items())


def _foreign(kind: Kind, name: str, settings: Settings, different: Mapping[str, tuple[Any, Any]]) -> Refused:
    return Refused(
        f"There is a {kind.words} {name} that was not made for the prefix {settings.prefix}, and it is otherwise: "
        f"{listed(different)}. Give its ARN with --{kind.value} to use it as it is, or another name or --prefix."
    )
