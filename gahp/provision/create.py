"""`create`: from settings to entities that are VALID, in an order in which each can lean on those before it.

Every step looks before it acts, so that a second run finishes what an interrupted or failed one began. Joins documents, network,
roles, entities and bucket.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from gahp.model import Refused
from gahp.provision import bucket, documents, entities, events, network, roles
from gahp.provision.aws import Aws, Clients, Report
from gahp.provision.entities import Entity
from gahp.provision.settings import Form, Kind, Settings, Value

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):batch:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):(?P<kind>[a-z-]+)/(?P<name>.+)"
)
# Members whose ARNs are the jobs' own affair.
_OF_JOBS = ("command", "environment", "parameters", "tags")


@dataclasses.dataclass(frozen=True, slots=True)
class Created:
    """What there is after `create`. An entity that was not asked for is None."""

    job_definition: Entity | None
    compute_environment: Entity | None
    job_queue: Entity | None
    bucket: str
    s3_url: str
    region: str
    bucket_made: bool
    events_url: str
    changes: int


@dataclasses.dataclass
class _Plan:
    """The files that were given, read and checked, and the values that are none."""

    files: dict[Kind, dict[str, Any]] = dataclasses.field(default_factory=dict)
    given: dict[Kind, Value] = dataclasses.field(default_factory=dict)


def create(settings: Settings, clients: Clients, report: Report, *, pause: Callable[[float], None] | None = None) -> Created:
    """Have everything that `settings` asks for. Raises Refused or Transient; then another call goes on where this one stopped.

    What one entity is refused for does not keep the others from being made: all refusals are told together.
    """
    plan = _read(settings)
    aws = Aws(clients, report, dry_run=settings.dry_run, **({"pause": pause} if pause else {}))
    _check_arns(plan, settings, aws)
    fresh_roles = _prepare(plan, settings, aws)
    found: dict[Kind, Entity] = {}
    failed: list[str] = []
    for kind in (Kind.JOB_DEFINITION, Kind.COMPUTE_ENVIRONMENT, Kind.JOB_QUEUE):
        try:
            if kind in plan.given:
                found[kind] = _use(aws, plan.given[kind])
            elif kind in plan.files:
                found[kind] = _from_file(aws, settings, plan, kind, found=found, fresh_roles=fresh_roles)
        except Refused as error:
            failed.append(str(error))
    made, url = False, ""
    try:
        made = aws.persist(lambda: bucket.ensure(aws, settings))
    except Refused as error:
        failed.append(str(error))
    queue = found.get(Kind.JOB_QUEUE)
    try:
        if settings.with_events and queue is not None:
            url = aws.persist(lambda: events.ensure(aws, settings, queue.arn))
        elif settings.with_events and not failed:
            raise Refused("--with-events needs the job queue whose events are meant: give --job-queue.")
    except Refused as error:
        failed.append(str(error))
    if failed:
        rest = " The rest is there; run this again when that is mended." if found or made else ""
        raise Refused(" ".join(failed) + rest)
    report.progress("")
    return Created(
        job_definition=found.get(Kind.JOB_DEFINITION),
        compute_environment=found.get(Kind.COMPUTE_ENVIRONMENT),
        job_queue=found.get(Kind.JOB_QUEUE),
        bucket=settings.bucket,
        s3_url=settings.s3_url,
        region=aws.region,
        bucket_made=made,
        events_url=url,
        changes=aws.changes,
    )


def _from_file(
    aws: Aws, settings: Settings, plan: _Plan, kind: Kind, *, found: dict[Kind, Entity], fresh_roles: bool
) -> Entity:
    request = plan.files[kind]
    request.setdefault(kind.name_member, settings.name(kind))
    if kind is Kind.JOB_QUEUE:
        environment = found.get(Kind.COMPUTE_ENVIRONMENT)
        if environment is None and settings.compute_environment:
            name = request[kind.name_member]
            raise Refused(
                f"The job queue {name} waits for that compute environment: see what keeps it from being made, and create again."
            )
        _fill_order(aws, settings, request, environment)
    return aws.persist(lambda: _ensure(aws, settings, kind, request, fresh_roles))


def _ensure(aws: Aws, settings: Settings, kind: Kind, request: dict[str, Any], fresh_roles: bool) -> Entity:
    # The request may be sent more than once; each time as it is now.
    request = copy.deepcopy(request)
    if kind is Kind.JOB_DEFINITION:
        return entities.register(aws, settings, request)
    return entities.ensure(aws, settings, kind, request, fresh_roles=fresh_roles and kind is Kind.COMPUTE_ENVIRONMENT)


def _read(settings: Settings) -> _Plan:
    """All that can be found wrong without a call."""
    plan = _Plan()
    for kind in Kind:
        value = settings.value(kind)
        if value is None:
            continue
        if value.form is Form.FILE:
            document = documents.read(value.text, kind)
            if kind is Kind.COMPUTE_ENVIRONMENT and not settings.default_vpc:
                network.demand(document, value.text)
            plan.files[kind] = document
        else:
            plan.given[kind] = value
    return plan


def _check_arns(plan: _Plan, settings: Settings, aws: Aws) -> None:
    """ARNs, account and Region have to fit together. Raises Refused with the two that do not."""
    for value in plan.given.values():
        if value.form is not Form.ARN:
            continue
        parts = _ARN.fullmatch(value.text)
        option = f"--{value.kind.value}"
        if parts is None or parts["kind"] != value.kind.value:
            like = f"arn:aws:batch:{aws.region}:ACCOUNT:{value.kind.value}/NAME"
            raise Refused(f"{option} {value.text}: this is not the ARN of a {value.kind.words}, such as {like}.")
        if parts["region"] != aws.region:
            raise Refused(
                f"{option} {value.text} is in the Region {parts['region']}, and everything else is to be in {aws.region}: give "
                f"--region {parts['region']}, or an ARN of {aws.region}."
            )
        if parts["account"] != aws.account:
            raise Refused(f"{option} {value.text} is of the account {parts['account']}; the credentials are of {aws.account}.")
    for kind, document in plan.files.items():
        for where, arn in _arns(document):
            _check_arn(settings.value(kind), where, arn, aws)
    if settings.account and settings.account != aws.account:
        raise Refused(
            f"The account is to be {settings.account}, and the credentials ({aws.identity()['Arn']}) are of {aws.account}: give "
            "other credentials (--profile), or that --account."
        )


def _arns(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every ARN of Batch and IAM in a document, with its place: these have to be of this account; others may be shared."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _OF_JOBS:
                continue
            yield from _arns(inner, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _arns(inner, f"{where}[{number}]")
    elif isinstance(value, str) and re.match(r"arn:[^:]*:(batch|iam):[^:]*:[0-9]{12}:", value):
        yield where, value


def _check_arn(file: Value | None, where: str, arn: str, aws: Aws) -> None:
    assert file is not None
    _, partition, service, region, account, _ = arn.split(":", 5)
    here = (aws.partition, aws.region if service == "batch" else "", aws.account)
    if (partition, region, account) != here:
        place = f"{aws.region} of account {aws.account}"
        raise Refused(f"{file.text}: {where} is {arn}, which is not of {place}, where it is to be used: write one that is.")


def _prepare(plan: _Plan, settings: Settings, aws: Aws) -> bool:
    """Network, roles and placeholders in the documents. Whether roles were made in this run."""
    made = False
    definition = plan.files.get(Kind.JOB_DEFINITION)
    if definition is not None:
        container = definition.get("containerProperties") or {}
        if container.get("image"):
            # As the samples have it.
            container["image"] = container["image"].replace("ACCOUNT.dkr.ecr.REGION.", f"{aws.account}.dkr.ecr.{aws.region}.")
        made |= roles.resolve(aws, settings, definition, roles.DEFINITION_ROLES)
    environment = plan.files.get(Kind.COMPUTE_ENVIRONMENT)
    if environment is not None:
        network.fill_in(aws, environment)
        made |= roles.resolve(aws, settings, environment, roles.ENVIRONMENT_ROLES)
    return made


def _use(aws: Aws, value: Value) -> Entity:
    """An entity that has to be there: of that ARN or name."""
    kind, identifier = value.kind, value.text
    if kind is Kind.JOB_DEFINITION:
        name, _, revision = identifier.rpartition("/")[2].partition(":")
        known = entities.revisions(aws, name)
        found = next((entry for entry in known if not revision or str(entry["revision"]) == revision), None)
    else:
        found = entities.describe(aws, kind, identifier)
    if found is None:
        raise Refused(
            f"There is no {kind.words} {identifier} in {aws.region} of account {aws.account}: see --{kind.value}, or give the "
            "path of a JSON file to make one."
        )
    arn = str(found[kind.arn_member])
    aws.report.say(f"Using the {kind.words} {arn}")
    return Entity(kind, arn)


def _fill_order(aws: Aws, settings: Settings, request: dict[str, Any], environment: Entity | None) -> None:
    """Put our compute environment where computeEnvironmentOrder names none; names become ARNs."""
    order = request.get("computeEnvironmentOrder")
    if order is None and "serviceEnvironmentOrder" not in request:
        order = request["computeEnvironmentOrder"] = [{"order": 1}]
    for entry in order or []:
        name = entry.get("computeEnvironment") or ""
        if name.startswith("arn:"):
            continue
        if not name and environment is not None:
            entry["computeEnvironment"] = environment.arn
            continue
        wanted = name or settings.name(Kind.COMPUTE_ENVIRONMENT)
        if environment is not None and environment.name == wanted:
            entry["computeEnvironment"] = environment.arn
            continue
        found = entities.describe(aws, Kind.COMPUTE_ENVIRONMENT, wanted)
        if found is None:
            raise Refused(
                f"There is no compute environment {wanted} for the job queue: give --compute-environment, or name one in "
                "computeEnvironmentOrder."
            )
        entry["computeEnvironment"] = str(found["computeEnvironmentArn"])
