"""`update`: the room of the compute environment, the states, and the image of what `create` made for a prefix.

A later `create` with an unchanged file leaves such an update alone: the digest in the tags is still that of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gahp.model import Refused
from gahp.provision import documents, entities
from gahp.provision.aws import Aws, Clients, Report
from gahp.provision.settings import Kind, Settings


def update(
    settings: Settings,
    clients: Clients,
    report: Report,
    *,
    max_vcpus: int | None = None,
    state: str = "",
    environment_state: str = "",
    image: str = "",
    pause: Callable[[float], None] | None = None,
) -> int:
    """Change what is asked for, wait until it is VALID; how many calls changed something. Raises Refused, Transient."""
    aws = Aws(clients, report, dry_run=settings.dry_run, **({"pause": pause} if pause else {}))
    if max_vcpus is not None or environment_state:
        found = _only(aws, settings, Kind.COMPUTE_ENVIRONMENT)
        wanted: dict[str, Any] = {"state": environment_state} if environment_state else {}
        if max_vcpus is not None:
            wanted["computeResources"] = {"maxvCpus": max_vcpus}
        aws.persist(lambda: _bring(aws, settings, Kind.COMPUTE_ENVIRONMENT, found, wanted))
    if state:
        queue = _only(aws, settings, Kind.JOB_QUEUE)
        aws.persist(lambda: _bring(aws, settings, Kind.JOB_QUEUE, queue, {"state": state}))
    if image:
        aws.persist(lambda: _new_image(aws, settings, image))
    return aws.changes


def _only(aws: Aws, settings: Settings, kind: Kind) -> str:
    """The name of the one that carries the prefix's tag."""
    found = [entry for entry in entities.all_of(aws, kind) if entities.is_ours(settings, entry)]
    if len(found) != 1:
        names = ", ".join(str(entry[kind.name_member]) for entry in found)
        raise Refused(
            f"One {kind.words} in {aws.region} should carry the tag of the prefix {settings.prefix}, and {names or 'none'} does: "
            "see --prefix and --region."
        )
    return str(found[0][kind.name_member])


def _bring(aws: Aws, settings: Settings, kind: Kind, name: str, wanted: Mapping[str, Any]) -> None:
    thing = f"the {kind.words} {name}"
    found = entities.describe(aws, kind, name) or {}
    different = entities.differences(wanted, found)
    if not different:
        aws.report.say(f"Unchanged: {thing}")
        return
    entities.send_update(aws, kind, name, wanted, different)
    aws.did(f"Changed {thing}: {entities.listed(different)}")
    if not aws.dry_run:
        entities.wait_until_valid(aws, kind, name, settings.wait_s)


def _new_image(aws: Aws, settings: Settings, image: str) -> None:
    """A new revision of our job definition that differs in its image only."""
    kind = Kind.JOB_DEFINITION
    ours = [entry for entry in entities.all_of(aws, kind) if entities.is_ours(settings, entry)]
    names = sorted({str(entry["jobDefinitionName"]) for entry in ours})
    if len(names) != 1:
        listed = f": {', '.join(names)}" if names else ""
        raise Refused(f"{len(names) or 'No'} job definitions carry the tag of the prefix {settings.prefix}{listed}.")
    newest = max(ours, key=lambda entry: int(entry["revision"]))
    if "containerProperties" not in newest:
        raise Refused(
            f"The job definition {newest['jobDefinitionArn']} has no containerProperties, and so no image to change: edit its "
            "file, and run condor_awsbatch create."
        )
    if newest["containerProperties"]["image"] == image:
        aws.report.say(f"Unchanged: the job definition {newest['jobDefinitionArn']}")
        return
    members: Any = documents.shape_of(kind.operation)
    request = {key: value for key, value in newest.items() if key in members.members}
    request["containerProperties"] = {**newest["containerProperties"], "image": image}
    answer = aws.change("batch", kind.operation, f"the job definition {names[0]}", **request)
    aws.did(f"Changed the job definition {answer.get('jobDefinitionArn', names[0])}: image {image}")
