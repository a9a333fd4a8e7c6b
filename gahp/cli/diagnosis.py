"""Why a job waits, was held or failed, and what to do: facts in, sentences out. No calls, no clock.

Sources of AWS's own words: "Jobs stuck in a RUNNABLE status", "Troubleshooting" and "Compute resource memory management" in the
AWS Batch User Guide, "Stopped tasks error messages" in the Amazon ECS Developer Guide, and facts that gahp.gateway.verdict leans
on.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from gahp.batch.insight import Environment, Line, Queue
from gahp.history import History
from gahp.model import HoldCode
from gahp.run import RunState, Wanted

_LONG_START_S = 900.0
_LONG_STAGE_S = 60.0
_LONG_RUNNABLE_S = 900.0
# What a host's kernel and ECS keep of its memory, at least: an m4.large of 8192 MiB has 7985, and AWS Batch's image keeps 32.
_KEPT, _KEPT_MIB = 0.02, 32


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """What a host of one instance type has."""

    type: str
    vcpus: int
    memory_mib: int
    gpus: int = 0

    @property
    def free_mib(self) -> int:
        """What jobs can have of its memory, at most."""
        return int(self.memory_mib * (1 - _KEPT)) - _KEPT_MIB


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one job. `queue` is None where it was not asked about or, with `asked`, where there is none; `hosts` has
    for the name of an environment what its hosts may be; `problem` says why AWS could not be asked about the job, `unasked` why
    not about its queue."""

    run: History
    now: float
    asked: bool = False
    queue: Queue | None = None
    line: Line | None = None
    hosts: Mapping[str, tuple[Size, ...]] = dataclasses.field(default_factory=dict)
    problem: str = ""
    unasked: str = ""


def explain(facts: Facts) -> list[str]:
    """Sentences for one paragraph: how the job stands, why, what to do."""
    run = facts.run
    subject = f"Job {run.condor_id}" if run.condor_id else f"The run {run.name}"
    if run.final:
        return [*_ended(subject, run)]
    if run.wanted is Wanted.REMOVE:
        return [f"{subject} was removed by HTCondor and is being ended in AWS Batch.", *_trouble(run)]
    if run.state is RunState.SUBMITTED:
        return [*_in_batch(subject, facts)]
    return [*_on_its_way(subject, facts)]


def needs_queue(run: History) -> bool:
    """Whether the queue's state says something about the job: it waits for it."""
    waits = run.status in ("", "SUBMITTED", "PENDING", "RUNNABLE", "STARTING")
    return run.state in (RunState.STAGED, RunState.SUBMITTING) or (run.state is RunState.SUBMITTED and waits)


# Before Batch has it, and after


def _on_its_way(subject: str, facts: Facts) -> Iterator[str]:
    run = facts.run
    age = _ago(facts.now - (run.moves.get(run.state.value) or run.accepted))
    if run.state is RunState.ACCEPTED:
        yield f"{subject} is not staged yet: its input is on the way to S3 (for {age})."
        if not run.trouble and facts.now - run.accepted > _LONG_STAGE_S:
            yield "Large inputs take their time; if no awsbatch_gahp of this user runs, HTCondor starts one: see condor_q -grid."
    elif run.state in (RunState.STAGED, RunState.SUBMITTING):
        yield f"{subject} is staged in S3 but not submitted to AWS Batch yet (for {age})."
        yield from [*_closed(facts)] or _nowhere(facts)
        yield from _not_asked(facts)
    elif run.state is RunState.COLLECTING:
        yield f"{subject} has ended in AWS Batch, and its output is being brought back (for {age})."
    elif run.state is RunState.SUSPENDED:
        yield f"{subject} was held by BLAH_JOB_HOLD before it started: BLAH_JOB_RESUME submits it again."
    elif run.state is RunState.REBUILT:
        yield f"{subject} was found in S3 after the journal was damaged; it goes on as soon as HTCondor asks about it."
    yield from _trouble(run)


def _trouble(run: History) -> Iterator[str]:
    if not run.trouble:
        return
    yield f"The last try to {run.trouble_step} failed: {_stop(run.trouble)}"
    text = run.trouble.lower()
    if "toomanyrequests" in text or "throttl" in text or "rate exceeded" in text or "are to wait for" in text:
        yield "AWS Batch takes no more calls of this account just now; the GAHP waits and goes on by itself."
    elif "credential" in text or "expiredtoken" in text or "token" in text:
        yield "Renew the credentials in ~/.aws or of AWSBATCH_PROFILE; the GAHP takes them up by itself."
    else:
        yield "It is tried again until it can be done."


# In Batch


def _in_batch(subject: str, facts: Facts) -> Iterator[str]:
    run = facts.run
    status = run.status or "SUBMITTED"
    since = _ago(facts.now - (run.since or run.submitted or run.accepted))
    if facts.problem:
        yield f"{subject} is {status} in AWS Batch as the GAHP last saw it; AWS could not be asked now: {_stop(facts.problem)}"
        yield from _own_words(run)
        return
    if status == "RUNNING":
        yield f"{subject} has been running for {since}{_where(run)}: nothing is in its way."
        yield from _lost_before(run)
        yield from _time_limit(facts)
    elif status in ("SUCCEEDED", "FAILED"):
        yield f"{subject} has ended in AWS Batch ({status}) and is collected when the GAHP looks next: within its poll interval."
    elif status == "STARTING":
        yield f"{subject} has had a host for {since}, and its container is starting: the image is pulled."
        if run.container_reason:
            yield f"AWS says: {_stop(run.container_reason)}"
        elif facts.now - run.since > _LONG_START_S:
            yield "That is long: see whether the host reaches the image's registry (a NAT gateway or VPC endpoints)."
    else:
        yield f"{subject} waits in AWS Batch ({status}, for {since})."
        yield from _lost_before(run)
        yield from _waiting(facts)


def _waiting(facts: Facts) -> Iterator[str]:
    run, queue = facts.run, facts.queue
    yield from _own_words(run)
    if queue is not None and queue.state != "ENABLED":
        yield (
            f"The job queue {run.queue} is {queue.state}: it takes no new jobs, and those that it has can still start."
            " Enable it in AWS Batch to submit more."
        )
    if problems := [*_nowhere(facts)]:
        yield from problems
    else:
        if queue is not None:
            yield from (_broken(environment) for environment in queue.environments if not environment.usable)
        if advice := _advice(run):
            yield advice
        elif queue is not None:
            yield from _room(facts, queue)
    yield from _not_asked(facts)


def _own_words(run: History) -> Iterator[str]:
    if _reason_now(run):
        yield f"AWS Batch says: {_stop(run.status_reason)}"


def _reason_now(run: History) -> str:
    """AWS Batch's reason for how the job stands; not why the attempt before ended, which stays until there is another."""
    return "" if run.attempts and run.status_reason == run.attempts[-1].status_reason else run.status_reason


def _not_asked(facts: Facts) -> Iterator[str]:
    if facts.unasked:
        yield f"What its queue {facts.run.queue} has could not be asked: {_stop(facts.unasked)}"


def _closed(facts: Facts) -> Iterator[str]:
    """What keeps the queue from taking the job."""
    queue = facts.queue
    if queue is not None and queue.state != "ENABLED":
        yield f"The job queue {facts.run.queue} is {queue.state}: it takes no new jobs. Enable it in AWS Batch."


def _nowhere(facts: Facts) -> Iterator[str]:
    """What is wrong with queue and environments so that nothing starts, whoever waits in it."""
    queue, name = facts.queue, facts.run.queue
    if queue is None:
        if facts.asked:
            yield f"The job queue {name} does not exist in this account and Region: see AWSBATCH_JOB_QUEUE and AWSBATCH_REGION."
    elif queue.status not in ("VALID", "UPDATING"):
        yield f"The job queue {name} is {queue.status}: {_stop(queue.reason or 'AWS Batch gives no reason')} Mend or remake it."
    elif not queue.environments:
        yield f"The job queue {name} has no compute environment: give it one."
    elif not any(environment.usable for environment in queue.environments):
        yield from map(_broken, queue.environments)


def _broken(environment: Environment) -> str:
    if environment.state != "ENABLED":
        return f"Its compute environment {environment.name} is {environment.state}: enable it in AWS Batch."
    if environment.status in ("CREATING", "UPDATING"):
        return f"Its compute environment {environment.name} is {environment.status}: AWS Batch needs some minutes for that."
    return (
        f"Its compute environment {environment.name} is {environment.status}:"
        f" {_stop(environment.reason or 'AWS Batch gives no reason')} {_mend_environment(environment.reason)}"
    )


def _mend_environment(reason: str) -> str:
    text = reason.lower()
    if "role" in text or "not authorized" in text or "accessdenied" in text:
        return "Give it a service role that exists and has the policy AWSBatchServiceRole: condor_awsbatch doctor checks it."
    if "subnet" in text or "security group" in text:
        return "Name subnets and security groups of the Region that exist."
    if "template" in text:
        return "Mend the launch template, then update the environment."
    return "Mend what it names, or make it anew with condor_awsbatch create."


def _room(facts: Facts, queue: Queue) -> Iterator[str]:
    run, line = facts.run, facts.line
    usable = [environment for environment in queue.environments if environment.usable]
    cpus = run.cpus or 1
    limits = [environment.max_vcpus for environment in usable]
    most = max((limit for limit in limits if limit is not None), default=None)
    if most is not None and None not in limits and cpus > most:
        yield (
            f"It asks for {cpus} vCPUs, and no compute environment of the queue {run.queue} may have more than {most} (maxvCpus):"
            " it can never start. Lower request_cpus, or raise maxvCpus."
        )
        return
    if unfit := _fits_nowhere(run, usable, facts.hosts):
        yield unfit
        return
    if line is not None:
        yield _place(facts, line, usable)
    if queue.policy:
        yield from _share(run, queue)


def _place(facts: Facts, line: Line, usable: list[Environment]) -> str:
    """What the job waits for where hosts would be large enough."""
    run, cpus = facts.run, facts.run.cpus or 1
    limits = [environment.max_vcpus for environment in usable]
    bounded, total = None not in limits, sum(limit for limit in limits if limit is not None)
    least = "" if line.complete else "at least "
    front = f"{least}{_jobs(line.ahead)} in front of it" if line.ahead else "no job in front of it"
    if bounded and line.using + cpus > total:
        return (
            f"It asks for {_vcpus(cpus)}, and {least}{line.using:g} of the {total} that the queue {run.queue} may have"
            f" (maxvCpus) are in use by {_jobs(line.running)}, with {front}. It starts as others end; raise"
            " maxvCpus for more at a time."
        )
    if bounded and all((environment.desired_vcpus or 0) + cpus > (environment.max_vcpus or 0) for environment in usable):
        desired = sum(environment.desired_vcpus or 0 for environment in usable)
        return (
            f"It asks for {_vcpus(cpus)}, with {front}. Jobs of the queue {run.queue} use {least}{line.using:g} of the {total}"
            f" that its compute environments may have (maxvCpus), but {desired} are taken: jobs of other queues fill them, or"
            " what is left on each host is too little. It starts as others end; raise maxvCpus for more at a time."
        )
    used = f"{least}{line.using:g} of {total} vCPUs are in use" if bounded else f"{_jobs(line.running)} run"
    room = f"The queue {run.queue} has room ({used}, {front})"
    if facts.now - run.since < _LONG_RUNNABLE_S and line.ahead:
        return f"{room}: AWS Batch is bringing up a host, which takes minutes, or what is in front asks for more than is free."
    if facts.now - run.since < _LONG_RUNNABLE_S:
        return f"{room}: AWS Batch is bringing up a host, which takes minutes."
    return (
        f"{room}, and the job has waited longer than a host takes to come up: see the activity of the environment's Auto Scaling"
        " group, the account's quota of vCPUs, and whether hosts reach ECS (subnets, instance role)."
    )


def _share(run: History, queue: Queue) -> Iterator[str]:
    share = re.sub(r"[^A-Za-z0-9]", "", run.project)[:255] or "default"
    weights = dict(queue.shares)
    weight = next((w for name, w in queue.shares if name == share or (name.endswith("*") and share.startswith(name[:-1]))), None)
    told = f"weight {weight:g}" if weight is not None else "no weight of its own, so 1"
    yield (
        f"The queue shares by the policy {queue.policy}: this job counts for the share {share} ({told}), and shares that used"
        " less come first" + (", the lower the weight the sooner." if weights else ".") + " batch_project names another share."
    )


def _fits_nowhere(run: History, usable: list[Environment], hosts: Mapping[str, tuple[Size, ...]]) -> str:
    """A sentence if the hosts of every environment are known and none has all at once that the job asks for."""
    if not usable or any(not hosts.get(environment.name) for environment in usable):
        return ""
    sizes = [(environment, size) for environment in usable for size in hosts[environment.name]]
    asked = {"vcpus": run.cpus or 0, "free_mib": run.memory_mib or 0, "gpus": run.gpus or 0}
    if any(all(getattr(size, what) >= number for what, number in asked.items()) for _, size in sizes):
        return ""
    for what, (unit, knob) in _MEASURES.items():
        environment, size = max(sizes, key=lambda pair: int(getattr(pair[1], what)))
        if asked[what] > getattr(size, what):
            kept = f", {size.free_mib} of them for jobs" if what == "free_mib" else ""
            most = size.memory_mib if what == "free_mib" else getattr(size, what)
            return (
                f"No instance type fits {asked[what]} {unit}: the largest of {environment.name} ({', '.join(environment.types)})"
                f" is {size.type} with {most}{kept}. Lower {knob}, or have a larger type allowed there."
            )
    together = [(f"{asked[what]} {unit}", knob) for what, (unit, knob) in _MEASURES.items() if asked[what]]
    allowed = ", ".join(f"{environment.name}: {', '.join(environment.types)}" for environment in usable)
    return (
        f"No instance type has {' and '.join(text for text, _ in together)} together ({allowed}). Lower"
        f" {' or '.join(knob for _, knob in together)}, or have a larger type allowed there."
    )


_MEASURES = {
    "vcpus": ("vCPUs", "request_cpus"),
    "free_mib": ("MiB of memory", "request_memory"),
    "gpus": ("GPUs", "request_gpus"),
}


def _advice(run: History) -> str:
    """What to do about AWS Batch's own reason for a RUNNABLE job."""
    reason = _reason_now(run)
    for begin, advice in _RUNNABLE_REASONS.items():
        if reason.startswith(begin):
            return advice
    return "See the AWS Batch User Guide, Jobs stuck in a RUNNABLE status." if reason.startswith(("MISCONF", "CAPACITY")) else ""


_RUNNABLE_REASONS = {
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY": (
        "AWS has no such hosts free in these zones now: it goes on trying. Allow more instance types or subnets of more zones,"
        " or, for spot, on-demand hosts."
    ),
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE": (
        "It can never start so: lower request_cpus, or raise the environment's maxvCpus."
    ),
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT": (
        "No instance type of its environments fits: lower request_cpus, request_memory or request_gpus, or have larger types"
        " allowed."
    ),
    "MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS": (
        "The environment's service role lacks permissions: give it the policy AWSBatchServiceRole. condor_awsbatch doctor checks"
        " it."
    ),
}


# How it ended


def _ended(subject: str, run: History) -> Iterator[str]:
    tries = f" in its attempt {len(run.attempts)}" if len(run.attempts) > 1 else ""
    if run.state is RunState.COMPLETED:
        if run.exit_signal is not None:
            yield f"{subject} ended by signal {run.exit_signal}{tries}."
        else:
            yield f"{subject} ended with exit code {run.exit_code}{tries}."
        well = run.exit_signal is None and not run.exit_code
        if not well and run.status_reason.startswith("Job attempt duration exceeded"):
            yield from _timed_out(run, "submit it again")
        elif not well:
            yield f"That is the program's own end: see condor_awsbatch logs {run.condor_id or run.name} -err."
        return
    if run.state is RunState.REMOVED:
        if run.wanted is Wanted.REMOVE:
            yield f"{subject} was removed by HTCondor."  # Batch's words may be of an earlier hold
            return
        yield f"{subject} was removed" + (f" (AWS Batch: {run.status_reason})." if run.status_reason else ".")
        if run.native_id:
            yield "HTCondor did not ask for that: somebody ended it in AWS Batch. Release it to run it again."
        return
    yield f"{subject} was held{tries}: {_stop(run.hold_reason or 'no reason was recorded')}"
    yield from _why_held(run)


def _why_held(run: History) -> Iterator[str]:
    reasons = f"{run.status_reason} {run.container_reason} {run.hold_reason}"
    if run.out_of_memory or "OutOfMemory" in reasons or "needed more than" in run.hold_reason:
        yield from _more_memory(run)
    elif "CannotPullContainer" in reasons or "CannotPullImage" in reasons:
        yield _pull(reasons)
    elif "MISCONFIGURATION:" in reasons:
        yield next((advice for begin, advice in _RUNNABLE_REASONS.items() if begin in reasons), "")
    elif re.search(r"unable to assume the role|role .*(does not exist|not found|cannot be assumed)|NoSuchEntity", reasons):
        yield (
            "The job definition names a role that does not exist or that ECS may not take: check its jobRoleArn and"
            " executionRoleArn (trust: ecs-tasks.amazonaws.com). condor_awsbatch doctor checks them."
        )
    elif "Host EC2" in reasons or "Spot Task was interrupted" in reasons:
        yield (
            f"Its host went away {_times(len(run.attempts) or 1)}, and those were all its attempts: release it, raise"
            " AWSBATCH_ATTEMPTS, or use on-demand hosts instead of spot."
        )
    elif "Job attempt duration exceeded" in reasons:
        yield from _timed_out(run, "release it to run it again")
    elif run.hold_code == HoldCode.TRANSFER_INPUT:
        yield "" if "release" in run.hold_reason else "Mend the input it names, then condor_release the job."
    elif run.hold_code == HoldCode.TRANSFER_OUTPUT:
        yield f"See what the job wrote: condor_awsbatch logs {run.condor_id or run.name}. Then condor_release runs it again."
    elif "CannotStartContainer" in reasons or "CannotCreateContainer" in reasons:
        yield "The container could not be made on its host: check mount points, devices and entry point of the job definition."
    elif "not in ENABLED state" in reasons:
        yield f"The job queue {run.queue} was disabled then: enable it in AWS Batch, then condor_release the job."
    elif not run.native_id:
        yield "AWS Batch never had it. Mend that, then condor_release the job."
    elif "release" not in run.hold_reason.lower():
        yield f"What it wrote: condor_awsbatch logs {run.condor_id or run.name}. condor_release runs it again."


def _more_memory(run: History) -> Iterator[str]:
    had, used = run.memory_mib, run.peak_memory_mib
    if had is None:
        yield "Ask for more with request_memory: the job definition's memory was not enough."
        return
    # Half as much again, and a quarter above what was seen: whichever is more, in steps of 256.
    ask = math.ceil(max(had * 1.5, (used or 0) * 1.25) / 256) * 256
    seen = f" and had used {used} when it was killed" if used else ""
    yield (
        f"It had {had} MiB{seen}: put request_memory = {ask} into the submit file, or set RequestMemory = {ask} with"
        " condor_qedit, and condor_release the job."
    )


def _pull(reasons: str) -> str:
    text = reasons.lower()
    if any(words in text for words in ("unauthorized", "denied", "not authorized", "no basic auth", "403")):
        return (
            "The host may not read the image: give the instance role (Fargate: the execution role) ECR's read permissions, or the"
            " registry's credentials to the job definition."
        )
    if any(words in text for words in ("timeout", "timed out", "request canceled", "no such host", "connection refused")):
        return "The host does not reach the image's registry: it needs a NAT gateway, a public address, or VPC endpoints."
    if any(words in text for words in ("manifest", "not found", "does not exist", "unknown")):
        return "There is no such image or tag: push it, or correct the image in the job definition. Then condor_release."
    return "Check the image in the job definition and that its registry can be reached from the hosts. Then condor_release."


def _timed_out(run: History, then: str) -> Iterator[str]:
    limit = f" of {run.runtime_s} s" if run.runtime_s else " of AWSBATCH_DEFAULT_RUNTIME or the job definition"
    ran = f" after {_ago(run.stopped - run.started)}" if run.stopped > run.started > 0 else ""
    yield f"It reached its time limit{limit}{ran}: raise batch_runtime, and {then}."


def _time_limit(facts: Facts) -> Iterator[str]:
    run = facts.run
    if run.runtime_s and run.started:
        left = run.started + run.runtime_s - facts.now
        if left < run.runtime_s / 10:
            yield f"Its time limit of {run.runtime_s} s is near: {_ago(max(0.0, left))} left."


def _lost_before(run: History) -> Iterator[str]:
    lost = [attempt for attempt in run.attempts if attempt.stopped]
    if lost:
        reason = lost[-1].status_reason or lost[-1].container_reason or "no reason given"
        yield f"It was started {_times(len(lost))} before; the last time: {_stop(reason)}"


# Words


def _where(run: History) -> str:
    return f" on {run.worker}" if run.worker else ""


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def _vcpus(number: int) -> str:
    return f"{number} vCPU{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else "twice" if number == 2 else f"{number} times"


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _ago(seconds: float) -> str:
    """A length of time in words, to two parts."""
    whole = max(0, round(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    told = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(told) or "0 s"
