"""`delete`: what `create` made for a prefix, in reverse. Only what carries the prefix's tag goes, and each step may be repeated.

`survey` finds it all by its tags (roles by their path in IAM), so nothing has to be remembered between a failed run and the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial

from gahp.model import Refused, Transient
from gahp.provision import bucket, entities, events, roles
from gahp.provision.aws import Aws, Clients, Report
from gahp.provision.bucket import Holding
from gahp.provision.settings import Kind, Settings

# What has to be gone first: AWS Batch can delete no environment of a queue, and nothing at all whose role is gone.
_BEFORE = {
    Kind.COMPUTE_ENVIRONMENT.words: {Kind.JOB_QUEUE.words},
    "instance profile": {kind.words for kind in Kind},
    "role": {kind.words for kind in Kind} | {"instance profile"},
}
_UNFINISHED = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """What there is of a prefix: names; of job definitions the ARNs of all active revisions; `shared`: why some roles stay."""

    job_queues: tuple[str, ...] = ()
    compute_environments: tuple[str, ...] = ()
    job_definitions: tuple[str, ...] = ()
    bucket: Holding = dataclasses.field(default_factory=lambda: Holding(False))
    bucket_name: str = ""
    profiles: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    jobs: int = 0
    events_queue: str = ""
    events_rule: str = ""
    shared: tuple[str, ...] = ()

    @property
    def removes_bucket(self) -> bool:
        return self.bucket.exists and self.bucket.ours and not self.bucket.other

    def lines(self) -> list[str]:
        """What would go, one line each."""
        found = [f"the job queue {name}" for name in self.job_queues]
        if self.jobs:
            found.append(f"  with {self.jobs} unfinished jobs, which end")
        found += [f"the compute environment {name}" for name in self.compute_environments]
        found += [f"the job definition {arn.rpartition('/')[2]}" for arn in self.job_definitions]
        if self.removes_bucket:
            found.append(f"the bucket {self.bucket_name} with {self.bucket.objects} objects")
        found += [f"the rule {self.events_rule}"] if self.events_rule else []
        found += [f"the events' queue {self.events_queue}"] if self.events_queue else []
        return found + [f"the instance profile {name}" for name in self.profiles] + [f"the role {name}" for name in self.roles]

    def kept(self) -> list[str]:
        """What stays although its name belongs to the prefix, and why."""
        stays = list(self.shared)
        if self.bucket.exists and not self.bucket.ours:
            stays.append(f"The bucket {self.bucket_name} stays: it does not carry this prefix's tag.")
        elif self.bucket.other:
            stays.append(f"The bucket {self.bucket_name} stays: it holds other things, such as {self.bucket.other}.")
        return stays


def survey(settings: Settings, clients: Clients, report: Report, *, pause: Callable[[float], None] | None = None) -> Survey:
    """What `delete` would remove now."""
    aws = _aws(settings, clients, report, pause)
    _check_account(aws, settings)
    there = {kind: entities.all_of(aws, kind) for kind in Kind}
    ours = {kind: [found for found in there[kind] if entities.is_ours(settings, found)] for kind in Kind}
    queues = [str(found["jobQueueName"]) for found in ours[Kind.JOB_QUEUE]]
    profiles, named = roles.made(aws, settings)
    # A profile and the role in it have the same name: what keeps one keeps both.
    users = {
        name: f"the {kind.words} {found[kind.name_member]}"
        for kind in (Kind.COMPUTE_ENVIRONMENT, Kind.JOB_DEFINITION)
        for found in there[kind]
        if not entities.is_ours(settings, found)
        for name in roles.named_by(found)
    }
    events_queue, events_rule = events.look(aws, settings)
    return Survey(
        job_queues=tuple(queues),
        compute_environments=tuple(str(found["computeEnvironmentName"]) for found in ours[Kind.COMPUTE_ENVIRONMENT]),
        job_definitions=tuple(str(found["jobDefinitionArn"]) for found in ours[Kind.JOB_DEFINITION]),
        bucket=bucket.look(aws, settings),
        bucket_name=settings.bucket,
        profiles=tuple(name for name in profiles if name not in users),
        roles=tuple(name for name in named if name not in users),
        jobs=sum(_unfinished(aws, queue) for queue in queues),
        events_queue=events_queue,
        events_rule=events_rule,
        shared=tuple(f"The role {name} stays: {users[name]} of another prefix has it." for name in named if name in users),
    )


def delete(
    settings: Settings,
    clients: Clients,
    report: Report,
    found: Survey | None = None,
    *,
    only: Collection[str] | None = None,
    pause: Callable[[float], None] | None = None,
) -> int:
    """Remove what `found` (default: a survey now) has, or of it `only` what has these names; how many things went.

    Goes on after what cannot be removed, and raises Refused with all of that at the end; another call takes up there.
    """
    aws = _aws(settings, clients, report, pause)
    found = found or survey(settings, clients, report, pause=pause)
    steps = [step for step in _steps(aws, settings, found) if only is None or step.name.partition(":")[0] in only]
    left: set[str] = set()
    failed: list[str] = []
    for step in steps:
        thing = f"the {step.what} {step.name}"
        if left & _BEFORE.get(step.what, set()):
            left.add(step.what)
            report.say(f"Kept {thing}: what has it could not be deleted")
            continue
        report.progress(f"deleting {thing}")
        try:
            aws.persist(step.act)
        except (Refused, Transient) as error:
            report.progress("")
            left.add(step.what)
            failed.append(str(error))
        else:
            report.progress("")
            report.say(f"{'Would delete' if aws.dry_run else 'Deleted'} {thing}")
    if failed:
        raise Refused(" ".join(failed) + " What does not hang on that is deleted; run this again when that is mended.")
    return len(steps)


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """One thing that goes: `what` it is, its name, and the call of that."""

    what: str
    name: str
    act: Callable[[], object]


def _steps(aws: Aws, settings: Settings, found: Survey) -> list[_Step]:
    """In an order in which nothing hangs on what goes."""
    steps = []
    for kind, names in ((Kind.JOB_QUEUE, found.job_queues), (Kind.COMPUTE_ENVIRONMENT, found.compute_environments)):
        steps += [_Step(kind.words, name, partial(entities.remove, aws, kind, name, settings.wait_s)) for name in names]
    for arn in found.job_definitions:
        steps.append(_Step(Kind.JOB_DEFINITION.words, arn.rpartition("/")[2], partial(_deregister, aws, arn)))
    if found.removes_bucket:
        steps.append(_Step("bucket", settings.bucket, partial(bucket.remove, aws, settings)))
    if found.events_rule:
        steps.append(_Step("rule", found.events_rule, partial(events.remove_rule, aws, found.events_rule)))
    if found.events_queue:
        steps.append(_Step("events' queue", found.events_queue, partial(events.remove_queue, aws, found.events_queue)))
    steps += [_Step("instance profile", name, partial(roles.remove_profile, aws, name)) for name in found.profiles]
    return steps + [_Step("role", name, partial(roles.remove_role, aws, name)) for name in found.roles]


def _aws(settings: Settings, clients: Clients, report: Report, pause: Callable[[float], None] | None) -> Aws:
    return Aws(clients, report, dry_run=settings.dry_run, **({"pause": pause} if pause else {}))


def _check_account(aws: Aws, settings: Settings) -> None:
    if settings.account and settings.account != aws.account:
        raise Refused(f"The account is to be {settings.account}, and the credentials are of {aws.account}: nothing was deleted.")


def _deregister(aws: Aws, arn: str) -> None:
    aws.change("batch", "DeregisterJobDefinition", f"the job definition {arn}", jobDefinition=arn)


def _unfinished(aws: Aws, queue: str) -> int:
    """Jobs of a queue that are not over, as far as one page of each status shows."""
    thing = f"the jobs of {queue}"
    pages = (aws.ask("batch", "ListJobs", thing, jobQueue=queue, jobStatus=status) for status in _UNFINISHED)
    return sum(len(page["jobSummaryList"]) for page in pages)
