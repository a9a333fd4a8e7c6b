"""The life of Batch jobs: states, dependencies, arrays, placement, attempts, retries, termination.

Knows jobs and what an attempt reports; nothing of HTTP, and of processes only what `Launcher` says. All state is behind one lock;
one thread places jobs, attempts report from threads of their own. Sources: "Job states", "Array jobs", "Job dependencies",
"Automated job retries", "Job timeouts" and "Jobs stuck in a RUNNABLE status" in the AWS Batch User Guide, and the operations'
texts in botocore's service model.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from gahp.local.entities import Entities, Environment
from gahp.local.jobs import BEFORE_START, FINAL, STATUSES, Job, Spec
from gahp.local.process import Ending
from gahp.local.retry import retried

EXITED = "Essential container in task exited"
TIMED_OUT = "Job attempt duration exceeded timeout"
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
NOT_STARTED = "Task failed to start"
DEPENDENCY_FAILED = "Dependent Job failed"
CHILD_FAILED = "Array Child Job failed"
OVERRIDES_TOO_LONG = "Container Overrides length must be at most 8192"
TOO_MANY_VCPUS = (
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - "
    "CE(s) associated with the job queue cannot meet the CPU requirement of the job."
)
TOO_MUCH = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is higher than that can be met "
    "by the CE(s) attached to the job queue."
)
_OVERRIDES_LIMIT = 8192


class Running(Protocol):
    """An attempt under way."""

    def stop(self) -> None: ...
    def vanish(self) -> None: ...


class Launcher(Protocol):
    """Starts an attempt as a process of its own. `ended` is called once, from another thread, after the last output."""

    def __call__(
        self, job: Job, variables: dict[str, str], log_stream: str, running: Callable[[], None], ended: Callable[[Ending], None]
    ) -> Running: ...


class Weather(Protocol):
    """The faults that the engine looks at."""

    def stuck(self, queue: str, name: str) -> bool: ...
    def pull_error(self, name: str) -> str: ...


@dataclasses.dataclass(slots=True, eq=False)
class _Lane:
    """The jobs of one queue: by status (without array children), by lower-case name, and those that wait for a place."""

    by_status: dict[str, dict[str, Job]] = dataclasses.field(default_factory=lambda: {status: {} for status in STATUSES})
    by_name: dict[str, list[Job]] = dataclasses.field(default_factory=dict)
    runnable: dict[str, Job] = dataclasses.field(default_factory=dict)
    misfits: dict[str, Job] = dataclasses.field(default_factory=dict)


class Engine:
    """All jobs of the account. Every method may be called from any thread."""

    def __init__(
        self,
        entities: Entities,
        launch: Launcher,
        weather: Weather,
        *,
        memory_mib: int,
        notice: Callable[[Job], None] = lambda _: None,
    ) -> None:
        """`notice` is told of every change of a job's state, and must be quick."""
        self._entities = entities
        self._launch = launch
        self._weather = weather
        self._memory_mib = memory_mib
        self._notice = notice
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._due = self._stopped = False
        self._clear()
        threading.Thread(target=self._loop, name="scheduler", daemon=True).start()

    def _clear(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lanes: dict[str, _Lane] = {}
        self._dependents: dict[str, list[Job]] = {}
        self._running: dict[str, Running] = {}
        self._places: dict[str, Environment] = {}
        self._used_vcpus: dict[str, float] = collections.defaultdict(float)
        self._used_mib = 0
        self._number = 0
        self._epoch = object()

    # -- what the API asks for

    def submit(self, spec: Spec) -> Job:
        """Take a job. Its dependencies have been checked. Children of an array exist at once."""
        with self._lock:
            job = self._new(spec, str(uuid.uuid4()))
            lane = self._lane(job)
            lane.by_status["SUBMITTED"][job.id] = job
            lane.by_name.setdefault(spec.name.lower(), []).append(job)
            parts = [job]
            if spec.size is not None:
                job.children = [self._new(spec, f"{job.id}:{index}", job, index) for index in range(spec.size)]
                job.counts = {"SUBMITTED": spec.size}
                parts = job.children
            doomed = []
            for part in parts:
                for other in self._needs(part):
                    if other.status == "FAILED":
                        doomed.append(part)
                    elif not other.over:
                        part.waiting.add(other.id)
                        self._dependents.setdefault(other.id, []).append(part)
            for part in parts:
                self._move(part, "PENDING" if part.waiting else "RUNNABLE")
            for part in doomed:
                self._finish(part, "FAILED", DEPENDENCY_FAILED)
            if job.status == "SUBMITTED":
                self._move(job, "PENDING")
            self._kick()
            return job

    def find(self, job_id: str) -> Job | None:
        with self._lock:
            return self._jobs.get(job_id)

    def view(self, jobs: Iterable[Job], look: Callable[[Job], dict[str, Any]]) -> list[dict[str, Any]]:
        """What `look` makes of each job, all at one moment."""
        with self._lock:
            return [look(job) for job in jobs]

    def listed(self, queue_arn: str, *, status: str | None = None, name: str | None = None) -> list[Job]:
        """Jobs of a queue, array children left out, newest first; of one status, or of one name (`*` at its end: any ending)."""
        with self._lock:
            lane = self._lanes.get(queue_arn, _Lane())
            if name is not None:
                wanted = name.lower()
                names = [key for key in lane.by_name if key.startswith(wanted[:-1])] if wanted.endswith("*") else [wanted]
                found = [job for key in names for job in lane.by_name.get(key, ())]
            else:
                buckets = [lane.by_status[status]] if status else lane.by_status.values()
                found = [job for bucket in buckets for job in bucket.values()]
            return sorted(found, key=lambda job: job.number, reverse=True)

    def terminate(self, job: Job, reason: str) -> None:
        """TerminateJob: whatever runs gets SIGTERM and then SIGKILL; what has not started fails at once."""
        with self._lock:
            for part in (job, *job.children):
                if part.over or part.terminated:
                    continue
                part.terminated, part.reason = True, reason
                if part.status in BEFORE_START and not part.is_array:
                    self._finish(part, "FAILED", reason)
                elif running := self._running.get(part.id):
                    running.stop()
            self._kick()

    def cancel(self, job: Job, reason: str) -> None:
        """CancelJob: nothing that has started is touched; a job that waits for others fails when they are done."""
        with self._lock:
            for part in (job, *job.children):
                if part.over or part.cancelled or part.status not in BEFORE_START:
                    continue
                part.cancelled = True
                if part.is_array or part.waiting:
                    part.reason = reason
                else:
                    self._finish(part, "FAILED", reason)
            self._kick()

    def vanish(self, job_id: str) -> bool:
        """The host under a running job goes away. False if no attempt of it is running."""
        with self._lock:
            running = self._running.get(job_id)
            if running is not None:
                running.vanish()
            return running is not None

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each status; array children count, parents do not."""
        with self._lock:
            return dict(collections.Counter(job.status for job in self._jobs.values() if not job.is_array))

    def reset(self) -> None:
        """Kill what runs and forget every job."""
        with self._lock:
            for running in self._running.values():
                running.vanish()
            self._clear()

    def stop(self, limit_s: float = 10.0) -> None:
        """Kill what runs, and wait for its end; nothing is started any more."""
        with self._lock:
            self._stopped = True
            for running in self._running.values():
                running.vanish()
            self._work.wait_for(lambda: not self._running, limit_s)

    def reconsider(self) -> None:
        """Queues, environments or faults have changed: look at every job that waits."""
        with self._lock:
            for lane in self._lanes.values():
                for job in lane.misfits.values():
                    job.reason = ""
                # They come first again, as they did before.
                lane.runnable = {**lane.misfits, **lane.runnable}
                lane.misfits = {}
            self._kick()

    # -- states

    def _new(self, spec: Spec, job_id: str, parent: Job | None = None, index: int | None = None) -> Job:
        self._number += 1
        job = Job(job_id, self._number, spec, _now(), parent=parent, index=index)
        self._jobs[job_id] = job
        return job

    def _lane(self, job: Job) -> _Lane:
        return self._lanes.setdefault(job.spec.queue_arn, _Lane())

    def _needs(self, part: Job) -> Iterator[Job]:
        """The jobs that must succeed before `part` may run."""
        for entry in part.spec.depends_on:
            kind, other = entry.get("type"), entry.get("jobId")
            if kind == "SEQUENTIAL" and part.parent is not None and not other:
                if part.index:
                    yield part.parent.children[part.index - 1]
            elif kind == "N_TO_N" and part.index is not None:
                yield self._jobs[f"{other}:{part.index}"]
            else:
                yield self._jobs[str(other)]

    def _move(self, job: Job, status: str) -> None:
        before, job.status = job.status, status
        lane = self._lane(job)
        parent = job.parent
        if parent is None:
            lane.by_status[before].pop(job.id, None)
            lane.by_status[status][job.id] = job
        else:
            parent.counts[before] = parent.counts.get(before, 0) - 1
            parent.counts[status] = parent.counts.get(status, 0) + 1
            parent.counted = _now()
            if status == "RUNNABLE" and parent.status == "SUBMITTED":
                self._move(parent, "PENDING")
        lane.runnable.pop(job.id, None)
        lane.misfits.pop(job.id, None)
        if status == "RUNNABLE":
            lane.runnable[job.id] = job
        if before != status:
            self._notice(job)

    def _finish(self, job: Job, status: str, reason: str) -> None:
        """End a job, and with it what hangs on it: its array, and the jobs that waited for it."""
        ending = collections.deque([(job, status, reason)])
        while ending:
            job, status, reason = ending.popleft()
            if job.over:
                continue
            job.reason, job.stopped = reason, _now()
            self._move(job, status)
            if job.parent is not None and (verdict := _array_verdict(job.parent)):
                ending.append((job.parent, *verdict))
            for dependent in self._dependents.pop(job.id, ()):
                dependent.waiting.discard(job.id)
                if status == "FAILED":
                    ending.append((dependent, "FAILED", DEPENDENCY_FAILED))
                elif not dependent.waiting and dependent.cancelled:
                    ending.append((dependent, "FAILED", dependent.reason))
                elif not dependent.waiting and not dependent.over:
                    self._move(dependent, "RUNNABLE")

    # -- placement

    def _kick(self) -> None:
        self._due = True
        self._work.notify_all()

    def _loop(self) -> None:
        with self._lock:
            while not self._stopped:
                self._work.wait_for(lambda: self._due or self._stopped)
                self._due = False
                lanes = [(self._priority(arn), arn, lane) for arn, lane in self._lanes.items() if lane.runnable]
                for _, arn, lane in sorted(lanes, key=lambda entry: entry[:2]):
                    if self._stopped:
                        break
                    try:
                        self._place(arn, lane)
                    except Exception:
                        # A bug met in one queue must not stop all others for good.
                        traceback.print_exc()

    def _priority(self, queue_arn: str) -> int:
        queue = self._entities.queue(queue_arn.split(":")[3], queue_arn)
        return -queue.priority if queue else 0

    def _place(self, queue_arn: str, lane: _Lane) -> None:
        """Start jobs of one queue, in their order, until the first that has to wait for room."""
        queue = self._entities.queue(queue_arn.split(":")[3], queue_arn)
        if queue is None:
            return
        starting: list[tuple[Job, Environment]] = []
        misfits: list[tuple[Job, str]] = []
        for job in lane.runnable.values():
            if self._weather.stuck(queue.name, job.spec.name):
                continue
            if obstacle := self._obstacle(job.spec, queue.environments):
                misfits.append((job, obstacle))
                continue
            place = self._room(job.spec, queue.environments)
            if place is None:
                break
            self._used_vcpus[place.arn] += job.spec.vcpus
            self._used_mib += job.spec.memory_mib
            starting.append((job, place))
        for job, obstacle in misfits:
            del lane.runnable[job.id]
            lane.misfits[job.id] = job
            job.reason = obstacle
        for job, place in starting:
            self._begin(job, place)

    def _obstacle(self, spec: Spec, environments: tuple[Environment, ...]) -> str:
        if all(spec.vcpus > environment.vcpus for environment in environments):
            return TOO_MANY_VCPUS
        # The one machine that stands for every instance type has no GPU.
        return TOO_MUCH if spec.memory_mib > self._memory_mib or spec.gpus else ""

    def _room(self, spec: Spec, environments: tuple[Environment, ...]) -> Environment | None:
        if self._used_mib + spec.memory_mib > self._memory_mib:
            return None
        fitting = (place for place in environments if self._used_vcpus[place.arn] + spec.vcpus <= place.vcpus)
        return next(fitting, None)

    def _release(self, job: Job) -> None:
        place = self._places.pop(job.id)
        self._used_vcpus[place.arn] -= job.spec.vcpus
        self._used_mib -= job.spec.memory_mib

    # -- attempts

    def _begin(self, job: Job, place: Environment) -> None:
        spec = job.spec
        self._places[job.id] = place
        self._move(job, "STARTING")
        job.reason = ""
        task, arn = uuid.uuid4().hex, f"arn:aws:ecs:{spec.region}:{spec.account}"
        job.last = {
            "containerInstanceArn": f"{arn}:container-instance/{place.name}/{uuid.uuid4().hex}",
            "taskArn": f"{arn}:task/{place.name}/{task}",
        }
        variables = {
            "AWS_BATCH_JOB_ID": job.id,
            "AWS_BATCH_JOB_ATTEMPT": str(len(job.attempts) + 1),
            "AWS_BATCH_JQ_NAME": spec.queue_name,
            "AWS_BATCH_CE_NAME": place.name,
        }
        if job.index is not None:
            variables["AWS_BATCH_JOB_ARRAY_INDEX"] = str(job.index)
            variables["AWS_BATCH_JOB_ARRAY_SIZE"] = str(spec.size)
        if spec.overrides_size + len(json.dumps(variables)) > _OVERRIDES_LIMIT:
            self._release(job)
            self._finish(job, "FAILED", OVERRIDES_TOO_LONG)
            return
        epoch = self._epoch
        if error := self._weather.pull_error(spec.name):
            self._give_up(epoch, job, error)
            return
        stream = f"{spec.definition_name}/default/{task}"
        try:
            self._running[job.id] = self._launch(
                job, variables, stream, lambda: self._started(epoch, job, stream), lambda ending: self._ended(epoch, job, ending)
            )
        except OSError as failure:
            self._give_up(epoch, job, f"CannotCreateContainerError: {failure}")

    def _give_up(self, epoch: object, job: Job, error: str) -> None:
        """No process came to be: the same way out as from any other attempt, and like it from another thread."""
        ending = Ending(None, error=error)
        threading.Thread(target=self._ended, args=(epoch, job, ending), name="attempt", daemon=True).start()

    def _started(self, epoch: object, job: Job, stream: str) -> None:
        with self._lock:
            if epoch is self._epoch and job.status == "STARTING":
                job.started = _now()
                job.last["logStreamName"] = stream
                self._move(job, "RUNNING")

    def _ended(self, epoch: object, job: Job, ending: Ending) -> None:
        with self._lock:
            if epoch is not self._epoch:
                return
            self._running.pop(job.id, None)
            self._release(job)
            self._record(job, ending)
            self._kick()

    def _record(self, job: Job, ending: Ending) -> None:
        """Write an attempt down, and decide what follows from it."""
        reason = _status_reason(ending)
        if ending.exit_code is not None:
            job.last["exitCode"] = ending.exit_code
        if ending.out_of_memory or ending.error:
            job.last["reason"] = OUT_OF_MEMORY if ending.out_of_memory else ending.error[:255]
        attempt: dict[str, Any] = {"container": dict(job.last), "stoppedAt": _now(), "statusReason": reason}
        if not ending.error:
            attempt["startedAt"] = job.started
        job.attempts = [*job.attempts, attempt]
        if job.terminated:
            self._finish(job, "FAILED", job.reason)
        elif ending.exit_code == 0 and not ending.timed_out:
            self._finish(job, "SUCCEEDED", reason)
        elif ending.timed_out or not retried(
            job.spec.retry_strategy,
            attempts_made=len(job.attempts),
            status_reason=reason,
            reason=str(job.last.get("reason", "")),
            exit_code=ending.exit_code,
        ):
            self._finish(job, "FAILED", reason)
        else:
            job.reason = reason
            self._move(job, "RUNNABLE")


def _array_verdict(parent: Job) -> tuple[str, str] | None:
    """Status and reason of an array whose last child has ended; None while there are others."""
    if sum(parent.counts.get(status, 0) for status in FINAL) < len(parent.children):
        return None
    if parent.terminated or parent.cancelled:
        return "FAILED", parent.reason
    return ("FAILED", CHILD_FAILED) if parent.counts.get("FAILED") else ("SUCCEEDED", "")


def _status_reason(ending: Ending) -> str:
    if ending.host_gone:
        return f"Host EC2 (instance i-{uuid.uuid4().hex[:17]}) terminated."
    if ending.timed_out:
        return TIMED_OUT
    return NOT_STARTED if ending.error else EXITED


def _now() -> int:
    return int(time.time() * 1000)
