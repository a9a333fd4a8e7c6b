"""The IAM roles and the instance profile that the files name: found, or with --with-roles made; and removed again.

What is made lies below /awsbatch-gahp/PREFIX/REGION/ in IAM, which is how it is found again, and carries the tag as well. Names
are the account's, in all Regions: what was made for another prefix or Region is neither changed nor taken silently. Knows IAM and
policies; of Batch where in its entities a role stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from gahp.model import Refused
from gahp.provision import policies
from gahp.provision.aws import AlreadyThere, Aws, NotThere
from gahp.provision.settings import PREFIX_TAG, Settings

POLICY_NAME = "awsbatch-gahp"
_ROOT = "awsbatch-gahp"


@dataclasses.dataclass(frozen=True, slots=True)
class Role:
    """One place in a file where a role stands. `path`: the member's way from the top; `profile`: an instance profile is meant."""

    path: tuple[str, ...]
    service: str
    policy: Callable[[Settings, str], policies.Policy]
    profile: bool = False

    @property
    def member(self) -> str:
        return ".".join(self.path)


ENVIRONMENT_ROLES = (
    Role(("serviceRole",), "batch.amazonaws.com", lambda settings, partition: policies.service_role(partition)),
    Role(("computeResources", "instanceRole"), "ec2.amazonaws.com", lambda settings, partition: policies.instance_role(), True),
    Role(
        ("computeResources", "spotIamFleetRole"),
        "spotfleet.amazonaws.com",
        lambda settings, partition: policies.spot_fleet_role(),
    ),
)
DEFINITION_ROLES = (
    Role(
        ("containerProperties", "jobRoleArn"),
        "ecs-tasks.amazonaws.com",
        lambda settings, partition: policies.job_role(settings.bucket, settings.key, partition),
    ),
    Role(
        ("containerProperties", "executionRoleArn"),
        "ecs-tasks.amazonaws.com",
        lambda settings, partition: policies.execution_role(),
    ),
)


def resolve(aws: Aws, settings: Settings, document: dict[str, Any], roles: tuple[Role, ...]) -> bool:
    """Put the ARN in the place of each name in `document`. With --with-roles what is missing is made; whether anything was."""
    made = False
    for role in roles:
        *way, last = role.path
        holder = document
        for step in way:
            holder = holder.get(step) or {}
        name = holder.get(last)
        if not name or name.startswith("arn:"):
            continue
        before = aws.changes
        holder[last] = aws.persist(lambda role=role, name=name: _ensure(aws, settings, role, name))  # type: ignore[misc]
        made |= aws.changes > before
    return made


def named_by(described: Mapping[str, Any]) -> set[str]:
    """The names of the roles and instance profiles that a compute environment or a job definition has."""
    found = set()
    for role in (*ENVIRONMENT_ROLES, *DEFINITION_ROLES):
        value: Any = described
        for step in role.path:
            value = (value or {}).get(step)
        found.add(str(value or "").rpartition("/")[2])
    return found - {""}


def _path(aws: Aws, settings: Settings) -> str:
    """Where in IAM the roles of this prefix and Region are: a path is something that roles can be listed by, and tags are not."""
    return f"/{_ROOT}/{settings.prefix}/{aws.region}/"


def _ensure(aws: Aws, settings: Settings, role: Role, name: str) -> str:
    """The ARN of a role or instance profile of that name."""
    kind = "instance profile" if role.profile else "role"
    path = _path(aws, settings)
    arn = _find_profile(aws, name) if role.profile else _find_role(aws, name)
    ours = arn.endswith(f"{path}{name}")
    if arn and not ours and settings.with_roles and f"/{_ROOT}/" in arn:
        raise Refused(
            f"The {kind} {name}, which {role.member} names, was made for another prefix or Region, {arn}, and goes with it: "
            "write another name there, or that ARN to share it."
        )
    if arn and not ours:
        aws.report.say(f"Using the {kind} {name}, which was there before: {arn}")
    if arn and not (ours and settings.with_roles):
        return arn
    if not settings.with_roles:
        raise Refused(
            f"There is no {kind} {name} in the account, which {role.member} names: "
            "`condor_awsbatch create --with-roles` makes it, or make it as conf/README.md says, or name another one."
        )
    constructed = f"arn:{aws.partition}:iam::{aws.account}:{{}}{path}{name}"
    if not role.profile:
        _make_role(aws, settings, role, name, exists=bool(arn))
        return arn or constructed.format("role")
    inner = _find_role(aws, name)
    if inner and not inner.endswith(f"{path}{name}"):
        raise Refused(
            f"There is no instance profile {name}, which {role.member} names, and its role is not of this prefix ({inner}): "
            "put it into a profile, or write another name there."
        )
    _make_role(aws, settings, role, name, exists=bool(inner))
    _make_profile(aws, settings, name, exists=bool(arn))
    return arn or constructed.format("instance-profile")


def _find_role(aws: Aws, name: str) -> str:
    try:
        return str(aws.ask("iam", "GetRole", f"the role {name}", RoleName=name)["Role"]["Arn"])
    except NotThere:
        return ""


def _find_profile(aws: Aws, name: str) -> str:
    try:
        found = aws.ask("iam", "GetInstanceProfile", f"the instance profile {name}", InstanceProfileName=name)
        return str(found["InstanceProfile"]["Arn"])
    except NotThere:
        return ""


def _make_role(aws: Aws, settings: Settings, role: Role, name: str, *, exists: bool) -> None:
    """Make the role, and give it its policy if it has another one or none (as after a run that was interrupted)."""
    wanted = role.policy(settings, aws.partition)
    if not exists:
        with contextlib.suppress(AlreadyThere):
            aws.change(
                "iam",
                "CreateRole",
                f"the role {name}",
                RoleName=name,
                Path=_path(aws, settings),
                AssumeRolePolicyDocument=json.dumps(policies.trust(role.service)),
                Description=f"Made by condor_awsbatch create for {settings.prefix}",
                Tags=_tags(settings),
            )
        aws.did(f"Created the role {name}")
    else:
        has = _policy_of(aws, name)
        if has == wanted:
            return
        if has is not None:
            aws.did(f"Changed the policy of the role {name}")
    aws.change(
        "iam",
        "PutRolePolicy",
        f"the policy of the role {name}",
        RoleName=name,
        PolicyName=POLICY_NAME,
        PolicyDocument=json.dumps(wanted),
    )


def _policy_of(aws: Aws, name: str) -> Any:
    try:
        thing = f"the policy of the role {name}"
        return aws.ask("iam", "GetRolePolicy", thing, RoleName=name, PolicyName=POLICY_NAME)["PolicyDocument"]
    except NotThere:
        return None


def _make_profile(aws: Aws, settings: Settings, name: str, *, exists: bool) -> None:
    thing = f"the instance profile {name}"
    if not exists:
        with contextlib.suppress(AlreadyThere):
            aws.change(
                "iam",
                "CreateInstanceProfile",
                thing,
                InstanceProfileName=name,
                Path=_path(aws, settings),
                Tags=_tags(settings),
            )
        aws.did(f"Created {thing}")
    else:
        found = aws.ask("iam", "GetInstanceProfile", thing, InstanceProfileName=name)["InstanceProfile"]
        if any(inner["RoleName"] == name for inner in found.get("Roles", [])):
            return
    aws.change("iam", "AddRoleToInstanceProfile", thing, InstanceProfileName=name, RoleName=name)


def _tags(settings: Settings) -> list[dict[str, str]]:
    return [{"Key": PREFIX_TAG, "Value": settings.prefix}]


def made(aws: Aws, settings: Settings) -> tuple[list[str], list[str]]:
    """The names of the instance profiles and of the roles that `create` made for this prefix in this Region."""
    path = _path(aws, settings)
    profiles = aws.pages(
        "iam", "ListInstanceProfiles", f"the instance profiles of {settings.prefix}", "InstanceProfiles", PathPrefix=path
    )
    roles = aws.pages("iam", "ListRoles", f"the roles of {settings.prefix}", "Roles", PathPrefix=path)
    # The path says so already; it is looked at again because not every service like AWS's heeds PathPrefix.
    return (
        [profile["InstanceProfileName"] for profile in profiles if profile["Path"] == path],
        [role["RoleName"] for role in roles if role["Path"] == path],
    )


def remove_profile(aws: Aws, name: str) -> None:
    """Take the roles out of an instance profile and delete it. One that is gone is no error."""
    thing = f"the instance profile {name}"
    try:
        found = aws.ask("iam", "GetInstanceProfile", thing, InstanceProfileName=name)["InstanceProfile"]
        for role in found.get("Roles", []):
            parameters = {"InstanceProfileName": name, "RoleName": role["RoleName"]}
            with contextlib.suppress(NotThere):
                aws.change("iam", "RemoveRoleFromInstanceProfile", thing, **parameters)
        aws.change("iam", "DeleteInstanceProfile", thing, InstanceProfileName=name)
    except NotThere:
        return


def remove_role(aws: Aws, name: str) -> None:
    """Take the policies of a role away and delete it. One that is gone is no error."""
    thing = f"the role {name}"
    try:
        for policy in aws.pages("iam", "ListRolePolicies", thing, "PolicyNames", RoleName=name):
            with contextlib.suppress(NotThere):
                aws.change("iam", "DeleteRolePolicy", thing, RoleName=name, PolicyName=policy)
        for attached in aws.pages("iam", "ListAttachedRolePolicies", thing, "AttachedPolicies", RoleName=name):
            with contextlib.suppress(NotThere):
                aws.change("iam", "DetachRolePolicy", thing, RoleName=name, PolicyArn=attached["PolicyArn"])
        aws.change("iam", "DeleteRole", thing, RoleName=name)
    except NotThere:
        return
