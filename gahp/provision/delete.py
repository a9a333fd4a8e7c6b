"""`delete`: what `create` made for a prefix, in reverse. Only what carries the prefix's tag goes, and each step may be repeated.

`survey` finds it all by its tags (roles by their path in IAM), so nothing has to be remembered between a failed run and the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from gahp.model import Refused
from gahp.provision import bucket, entities, events, roles
from gahp.provision.aws import Aws, Clients, Report
from gahp.provision.bucket import Holding
from gahp.provision.settings import Kind, Settings

_UNFINISHED = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """What there is of a prefix: names; of job definitions the ARNs of all active revisions."""

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
        if self.bucket.exists and not self.bucket.ours:
            return [f"The bucket {self.bucket_name} stays: it does not carry this prefix's tag."]
        if self.bucket.other:
            return [f"The bucket {self.bucket_name} stays: it holds other things, such as {self.bucket.other}."]
        return []


def survey(settings: Settings, clients: Clients, report: Report, *, pause: Callable[[float], None] | None = None) -> Survey:
    """What `delete` would remove now."""
    aws = _aws(settings, clients, report, pause)
    _check_account(aws, settings)
    ours = {kind: [found for found in entities.all_of(aws, kind) if entities.is_ours(settings, found)] for kind in Kind}
    queues = [str(found["jobQueueName"]) for found in ours[Kind.JOB_QUEUE]]
    profiles, named = roles.made(aws, settings)
    events_queue, events_rule = events.look(aws, settings)
    return Survey(
        job_queues=tuple(queues),
        compute_environments=tuple(str(found["computeEnvironmentName"]) for found in ours[Kind.COMPUTE_ENVIRONMENT]),
        job_definitions=tuple(str(found["jobDefinitionArn"]) for found in ours[Kind.JOB_DEFINITION]),
        bucket=bucket.look(aws, settings),
        bucket_name=settings.bucket,
        profiles=tuple(profiles),
        roles=tuple(named),
        jobs=sum(_unfinished(aws, queue) for queue in queues),
        events_queue=events_queue,
        events_rule=events_rule,
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
    limit_s = settings.wait_s
    steps: list[tuple[str, str, Callable[[], object]]] = []

    def step(name: str, what: str, act: Callable[[], object]) -> None:
        if only is None or name in only:
            steps.append((name, what, act))

    for kind, names in ((Kind.JOB_QUEUE, found.job_queues), (Kind.COMPUTE_ENVIRONMENT, found.compute_environments)):
        for name in names:
            step(name, f"the {kind.words} {name}", lambda kind=kind, name=name: entities.remove(aws, kind, name, limit_s))  # type: ignore[misc]
    for arn in found.job_definitions:
        name = arn.rpartition("/")[2]
        step(name.partition(":")[0], f"the job definition {name}", lambda arn=arn: _deregister(aws, arn))  # type: ignore[misc]
    if found.removes_bucket:
        step(settings.bucket, f"the bucket {settings.bucket}", lambda: bucket.remove(aws, settings))
    if rule := found.events_rule:
        step(rule, f"the rule {rule}", lambda: events.remove_rule(aws, rule))
    if queue := found.events_queue:
        step(queue, f"the events' queue {queue}", lambda: events.remove_queue(aws, queue))
    for name in found.profiles:
        step(name, f"the instance profile {name}", lambda name=name: roles.remove_profile(aws, name))  # type: ignore[misc]
    for name in found.roles:
        step(name, f"the role {name}", lambda name=name: roles.remove_role(aws, name))  # type: ignore[misc]
    failed: list[str] = []
    for _, what, act in steps:
        report.progress(f"deleting {what}")
        try:
            aws.persist(act)
        except Refused as error:
            report.progress("")
            failed.append(str(error))
        else:
            report.progress("")
            report.say(f"{'Would delete' if aws.dry_run else 'Deleted'} {what}")
    if failed:
        raise Refused(" ".join(failed) + " What else there was is deleted; run this again when that is mended.")
    return len(steps)


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
