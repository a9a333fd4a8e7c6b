"""A bulk run from its first upload to its last record: submits, follows, collects, and ends what it began.

Knows the steps and their order; what is decided is in plan, logs and report, what is called in service. Every wait here has a
limit, or something that is looked at meanwhile: an environment that can run nothing, a job that Batch lost, a signal.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gahp.batch.service import DESCRIBE_PAGE
from gahp.model import Refused, Transient, one_line
from gahp.provision.bulk import logs, plan, report, tasklist
from gahp.provision.bulk.jobfile import Task
from gahp.provision.bulk.plan import Submission
from gahp.provision.bulk.report import Follow
from gahp.provision.bulk.service import Cloud, CredentialsProblem, Interrupted, Patience, Unsure
from gahp.provision.bulk.state import State
from gahp.provision.bulk.uploads import Uploads

log = logging.getLogger(__name__)

_GROUP = "/aws/batch/job"
_ACTIVE = ("STARTING", "RUNNING")
_FINAL = ("SUCCEEDED", "FAILED")
_LOOK_AGAIN_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. Polls begin `first_poll` apart and grow by `growth` up to `last_poll`: few calls, and a short tail."""

    first_poll: float = 1.0
    growth: float = 1.15
    last_poll: float = 5.0
    begin: float = 600.0  # how long AWS may fail before everything is submitted
    follow: float = 1800.0  # and while jobs run
    end: float = 60.0  # and while they are ended
    settle: float = 10.0  # how long a job may be unlisted after a lost reply
    missing: float = 60.0  # how long DescribeJobs may not know a job
    stall: float = 60.0  # how long nothing may happen before the environment is looked at
    log_settle: float = 6.0  # after a task's end, when its log has no last line
    log_limit: float = 60.0  # for a log that should have one


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """Where a run goes: names or ARNs of Batch, and `bucket_url` with its slash at the end, s3://bucket/key/."""

    prefix: str
    definition: str
    queue: str
    bucket_url: str


class Run:
    """One run of `tasks`. `problems` gathers what went wrong besides the tasks; `left_running`: a job could not be ended."""

    def __init__(
        self,
        cloud: Cloud,
        uploads: Uploads,
        state: State,
        site: Site,
        tasks: Sequence[Task],
        *,
        common: Sequence[str] = (),
        folder: Path = Path(),
        stop: threading.Event | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._cloud, self._uploads, self._state, self._site = cloud, uploads, state, site
        self._limits = limits or Limits()
        self._stop = stop or threading.Event()
        self._common = tuple(common)
        self._inputs = {task.number: task.inputs for task in tasks}
        self.problems: list[str] = []
        self.left_running = False
        self.follows = _follows([plan.completed(task, site.bucket_url, common) for task in tasks], folder)
        self._submissions = plan.submissions([follow.task for follow in self.follows], site.prefix, state.run)
        by_number = {follow.task.number: follow for follow in self.follows}
        self._children = {part.name: [by_number[task.number] for task in part.tasks] for part in self._submissions}
        self._jobstate = report.JobstateLog(folder / f"{site.prefix}.jobstate.log", add=state.adopted)
        self._shares: dict[str, str] = {}
        self._collecting: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="bulk")
        self._key = run_key(state.run)

    def go(self) -> None:
        """Carry the run out. Raises Interrupted, Refused or Transient: then its jobs were ended, or `problems` says which not."""
        try:
            try:
                self._begin()
                self._follow()
            except BaseException as error:
                self._end("The run was interrupted" if isinstance(error, Interrupted) else "The run failed")
                raise
        finally:
            for future in self._collecting:
                future.result()
            self._pool.shutdown()
            self._jobstate.close()

    # -- begin

    def _begin(self) -> None:
        # Without credentials nothing can begin; later they may come back.
        patience = Patience(self._limits.begin, self._stop, final=(CredentialsProblem,))
        known = [part for part in self._submissions if self._state.sent.get(part.name, ("", 0.0))[0]]
        for part in known:
            self._know(part, self._state.sent[part.name][0], new=False)
        waiting = [part for part in self._submissions if part not in known]
        if known:
            log.info("Took up %d of %d jobs of an interrupted run", len(known), len(self._submissions))
        # What runs already needs no queue that takes jobs.
        for queue in sorted({self._queue(part) for part in waiting}):
            fair = patience.repeat(functools.partial(self._cloud.check_queue, queue, submitting=True))
            self._shares[queue] = "default" if fair else ""
        if waiting:
            self._upload(waiting, patience)
        with ThreadPoolExecutor(8, thread_name_prefix="submit") as pool:
            for future in [pool.submit(self._submit, part, patience) for part in waiting]:
                future.result()

    def _queue(self, part: Submission) -> str:
        return part.tasks[0].shape.queue or self._site.queue

    def _upload(self, waiting: Sequence[Submission], patience: Patience) -> None:
        inputs = [path for part in waiting for task in part.tasks for path in self._inputs[task.number]]
        puts: list[Callable[[], None]] = [
            functools.partial(self._uploads.file, path) for path in self._uploads.distinct([*self._common, *inputs])
        ]
        fetched = [part for part in waiting if part.fetched]
        contents = {f"tasks/{part.name}/{n}": page for part in fetched for n, page in enumerate(tasklist.pages(part.tasks))}
        if fetched:
            contents[tasklist.SCRIPT_KEY] = tasklist.SCRIPT.read_bytes()
        puts += [functools.partial(self._uploads.content, f"{self._key}/{key}", body) for key, body in contents.items()]
        for future in [self._pool.submit(patience, put) for put in puts]:
            future.result()
        log.info("Uploaded %d objects to %s", len(puts), self._site.bucket_url)

    def _submit(self, part: Submission, patience: Patience) -> None:
        queue = self._queue(part)
        parameters = plan.parameters(
            part,
            definition=self._site.definition,
            queue=queue,
            share=self._shares[queue],
            base_url=f"{self._site.bucket_url}{self._key}",
        )
        _, since = self._state.sent.get(part.name, ("", 0.0))
        job_id = self._look_up(part.name, queue, since, patience) if since else ""
        begun = time.monotonic()
        while not job_id:
            self._state.sending(part.name, queue)
            try:
                job_id = patience(lambda: self._cloud.submit(parameters))
            except Unsure as error:
                if time.monotonic() - begun > self._limits.begin:
                    raise
                log.warning("%s; %s is looked up before it is sent again", error, part.name)
                job_id = self._look_up(part.name, queue, time.time(), patience)
            except (Refused, Transient, Interrupted):
                self._state.unsent(part.name)
                raise
        self._state.submitted(part.name, job_id)
        self._know(part, job_id, new=True)

    def _look_up(self, name: str, queue: str, sent: float, patience: Patience) -> str:
        """The id of a job that may have been submitted at `sent`; "" when it surely was not."""
        while True:
            job_id = str(patience.repeat(functools.partial(self._cloud.find, name, queue)))
            if job_id:
                return job_id
            if time.time() - sent > self._limits.settle:
                return ""
            if self._stop.wait(min(1.0, self._limits.settle / 4)):
                raise Interrupted

    def _know(self, part: Submission, job_id: str, *, new: bool) -> None:
        for place, follow in enumerate(self._children[part.name]):
            follow.job_id = part.job_id(job_id, place)
            if new:
                follow.state = "SUBMITTED"
                self._jobstate.write(follow, "SUBMITTED")
        log.info("Submitted %s, %d tasks, as %s", part.name, len(part.tasks), job_id)

    # -- follow

    def _follow(self) -> None:
        patience = Patience(self._limits.follow, self._stop)
        wait = self._limits.first_poll
        before: Counter[str] = Counter()
        quiet = time.monotonic()
        while waiting := [follow for follow in self.follows if not follow.over]:
            if self._stop.wait(wait):
                raise Interrupted
            wait = min(self._limits.last_poll, wait * self._limits.growth)
            states = patience.repeat(functools.partial(self._look, waiting))
            if states != before or any(states[state] for state in _ACTIVE):
                log.info("Tasks: %s", ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count))
                before, quiet = states, time.monotonic()
            elif time.monotonic() - quiet > self._limits.stall:
                self._stalled(patience, [follow for follow in waiting if not follow.over])
                quiet = time.monotonic()

    def _look(self, waiting: Sequence[Follow]) -> Counter[str]:
        """Ask how the tasks stand; how many are in which state. Up to 100 are asked for one by one, as that is one call too."""
        if len(waiting) <= DESCRIBE_PAGE:
            self._look_at(waiting)
            return Counter(follow.state for follow in self.follows)
        states: Counter[str] = Counter()
        parents = {follow.job_id.partition(":")[0]: part for part in self._submissions for follow in self._children[part.name]}
        undone = {follow.job_id.partition(":")[0] for follow in waiting}
        found = self._cloud.describe(undone)
        ended: list[Follow] = []
        for parent in undone:
            children = [follow for follow in self._children[parents[parent].name] if not follow.over]
            detail = found.get(parent)
            if detail is None or len(parents[parent].tasks) == 1:
                for follow in children:
                    self._see(follow, detail)
            elif detail["status"] in _FINAL:
                ended += children
            else:
                states.update((detail.get("arrayProperties") or {}).get("statusSummary") or {})
        self._look_at(ended)
        return states + Counter(follow.state for follow in self.follows if follow.over)

    def _look_at(self, follows: Sequence[Follow]) -> None:
        found = self._cloud.describe(follow.job_id for follow in follows)
        for follow in follows:
            self._see(follow, found.get(follow.job_id))

    def _see(self, follow: Follow, detail: Mapping[str, Any] | None) -> None:
        """Take in what Batch says of a task."""
        if detail is None:
            self._miss(follow)
            return
        follow.missing_since = 0.0
        status, reason = str(detail["status"]), str(detail.get("statusReason") or "")
        started, stopped = (detail.get("startedAt") or 0) / 1000, (detail.get("stoppedAt") or 0) / 1000
        if status != follow.state:
            if status in _FINAL and started and follow.state != "RUNNING":
                self._jobstate.write(follow, "RUNNING", started)
            self._jobstate.write(follow, status, {"RUNNING": started}.get(status, stopped if status in _FINAL else 0.0))
            follow.state = status
        if status in _FINAL:
            container = detail.get("container") or {}
            code = container.get("exitCode")
            reason = container.get("reason") or (reason if code is None else f"{reason}, exit code {code}")
            follow.reason = follow.reason or reason
            if stream := container.get("logStreamName"):
                options = (container.get("logConfiguration") or {}).get("options") or {}
                follow.stream = (options.get("awslogs-group") or _GROUP, stream)
            self._over(follow)
        elif status == "RUNNABLE" and reason.startswith("MISCONFIGURATION") and not follow.reason:
            # Batch says that no environment of the queue can ever hold it.
            self._cloud.terminate(follow.job_id, one_line(reason, 200))
            follow.reason = reason

    def _miss(self, follow: Follow) -> None:
        now = time.monotonic()
        follow.missing_since = follow.missing_since or now
        if now - follow.missing_since > self._limits.missing:
            follow.state, follow.reason = "FAILED", "AWS Batch no longer knows this job"
            self._jobstate.write(follow, "FAILED")
            self._over(follow)

    def _stalled(self, patience: Patience, waiting: Sequence[Follow]) -> None:
        """Nothing has moved for long: raise Refused if nothing can."""
        for queue in sorted({self._queue(part) for part in self._submissions}):
            patience.repeat(functools.partial(self._cloud.check_queue, queue, submitting=False))
        # One child of each array tells what its parent does not.
        some = {follow.job_id.partition(":")[0]: follow for follow in waiting}
        for follow in some.values():
            for detail in patience.repeat(functools.partial(self._cloud.describe, [follow.job_id])).values():
                reason = str(detail.get("statusReason") or "")
                log.warning("%s waits: %s", follow.task.name, reason or "AWS Batch gives no reason")
                if detail["status"] == "RUNNABLE" and reason.startswith("MISCONFIGURATION"):
                    parent = follow.job_id.partition(":")[0]
                    patience.repeat(functools.partial(self._cloud.terminate, parent, one_line(reason, 200)))

    # -- the end of a task

    def _over(self, follow: Follow) -> None:
        follow.over = True
        log.log(logging.INFO if follow.succeeded else logging.WARNING, "%s: %s %s", follow.task.name, follow.state, follow.reason)
        self._collecting.append(self._pool.submit(self._collect, follow, time.monotonic()))

    def _collect(self, follow: Follow, seen: float) -> None:
        """Put a task's output into its files. `seen`: when it was over, by this machine's monotonic clock."""
        output, problem = logs.Output(), ""
        if follow.stream is not None:
            try:
                output = self._fetch(follow, *follow.stream, seen)
            except (Refused, Transient) as error:
                problem = f"The log of {follow.task.name} ({follow.job_id}) could not be fetched: {error}"
            except Interrupted:
                problem = f"The log of {follow.task.name} ({follow.job_id}) was not waited for"
        elif follow.succeeded:
            problem = f"AWS Batch names no log of {follow.task.name} ({follow.job_id})"
        if not problem and follow.succeeded and follow.task.fetched and not output.complete:
            problem = f"The log of {follow.task.name} ({follow.job_id}) has no end: some of it may be missing"
        stderr = output.stderr
        if problem:
            self.problems.append(problem)
            log.error("%s", problem)
        if not follow.succeeded:
            reason = one_line(follow.reason or "AWS Batch gives no reason")
            stderr += f"pegasus-aws-batch: {follow.task.name} ({follow.job_id}) {follow.state}: {reason}\n"
        try:
            report.write_task(follow, output.stdout, stderr)
        except Refused as error:
            self.problems.append(str(error))

    def _fetch(self, follow: Follow, group: str, stream: str, seen: float) -> logs.Output:
        """The output of a task that has ended. Its log arrives later than its end; the last line says that all is there."""
        sure = follow.succeeded and follow.task.fetched
        patience = Patience(self._limits.log_limit, self._stop)
        limit = seen + (self._limits.log_limit if sure else self._limits.log_settle)
        while True:
            output = logs.split(patience(lambda: list(self._cloud.messages(group, stream))))
            if output.complete or time.monotonic() > limit:
                return output
            if self._stop.wait(0.5):
                raise Interrupted

    # -- the end of the run

    def _end(self, reason: str) -> None:
        """End every job that is not over."""
        patience = Patience(self._limits.end, threading.Event())
        until = time.monotonic() + self._limits.settle
        for part in self._submissions:
            left = [follow for follow in self._children[part.name] if not follow.over]
            if left and part.name in self._state.sent:
                self._end_one(patience, part.name, reason, until)
            for follow in left:
                follow.over, follow.state, follow.reason = True, "TERMINATED", reason
                self._jobstate.write(follow, "TERMINATED")
                self._collecting.append(self._pool.submit(self._collect, follow, -math.inf))

    def _end_one(self, patience: Patience, name: str, reason: str, until: float) -> None:
        try:
            end_job(self._cloud, patience, self._state, name, reason=reason, until=until)
        except (Refused, Transient) as error:
            self.left_running = True
            self.problems.append(f"The job {name} may still run in AWS Batch, and could not be ended: {error}")
            log.error("%s", self.problems[-1])


def run_key(run: str) -> str:
    """Where a run's own objects are, below the key prefix."""
    return f".pegasus-aws-batch/{run}"


def end_job(cloud: Cloud, patience: Patience, state: State, name: str, *, reason: str, until: float) -> None:
    """End a job that was or may have been submitted. Raises Refused or Transient.

    One whose SubmitJob has no reply is looked for until `until`, a monotonic time: Batch may list it a while after it has it.
    """
    job_id = state.sent[name][0] or patience.repeat(lambda: cloud.find(name, state.queues[name]))
    while not job_id and time.monotonic() < until:
        time.sleep(_LOOK_AGAIN_S)
        job_id = patience.repeat(lambda: cloud.find(name, state.queues[name]))
    if job_id:
        patience.repeat(lambda: cloud.terminate(job_id, reason))
        log.info("Ended %s (%s): %s", name, job_id, reason)


def _follows(tasks: Iterable[Task], folder: Path) -> list[Follow]:
    """The tasks with the stems of their files; of tasks with one name, all but the first get the task's number too."""
    found: dict[str, Follow] = {}
    for task in tasks:
        stem = task.name
        while stem in found:
            stem = f"{stem}.{task.number}"
        found[stem] = Follow(task, folder / stem)
    return list(found.values())
