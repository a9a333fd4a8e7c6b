"""The runs that are not over, as this process works on them: how each stands, who waits for it, and the lock that all share."""

from __future__ import annotations

import collections
import threading
from concurrent.futures import Future

from gahp.batch import BatchJob
from gahp.gateway.packer import Part
from gahp.gateway.steps import Step, next_step
from gahp.gateway.verdict import held
from gahp.model import HoldCode, JobReport, JobState, Refused
from gahp.run import Run, RunState, Wanted

# The gridmanager asks about an ended job once or twice more: so many are remembered to answer that without the journal.
_LATELY = 5000


class Live:
    """A run that is not over, as this process works on it."""

    __slots__ = (
        *("again", "alone", "busy", "ending_asked", "job", "missing_since", "news", "part", "run", "tries", "trouble"),
        *("unsure_since", "waiters", "wish"),
    )

    def __init__(self, run: Run) -> None:
        self.run = run
        self.job: BatchJob | None = None
        self.news: tuple[str, BatchJob | None] | None = None  # what Batch said while a step was under way
        self.busy = False
        self.again = False
        self.ending_asked = False
        self.missing_since = 0.0
        self.unsure_since: float | None = None
        self.tries = 0
        self.part: Part | None = None  # it is staged but for its manifest, which is written together with others'
        self.alone = False  # it is not packed
        self.trouble = ""
        self.waiters: tuple[tuple[Wanted, Future[None]], ...] = ()
        self.wish: Future[None] | None = None  # ends when what HTCondor wants of it is on disk

    @property
    def unrecorded(self) -> bool:
        """Whether HTCondor wants something else of it than a next GAHP would find: that is not to be done yet."""
        return self.wish is not None and not self.wish.done()

    @property
    def step(self) -> Step | None:
        """What to do next with it."""
        return next_step(self.run.state, self.run.wanted, self.ending_asked, self.proven)

    @property
    def proven(self) -> bool:
        """Whether DescribeJobs itself has said how it stands; what a list, a count or an event tells may be wrong or late."""
        return self.job is not None and self.job.described

    def report(self) -> JobReport:
        """How the run stands now, with what Batch last said of it."""
        run, job = self.run, self.job
        if job is None or not run.started or run.report is not None or run.state is RunState.SUSPENDED:
            return report_of(run)
        # Asked for all jobs all the time: made in one go.
        return JobReport(
            JobState.RUNNING,
            native_id=run.native_id,
            restarts=job.restarts,
            cpus=job.cpus,
            memory_mib=job.memory_mib,
            worker=job.worker,
        )

    def take_waiters(self, wanted: Wanted | None) -> list[Future[None]]:
        """Those who wait for `wanted`, or for anything at all, and wait no more. Holds the lock."""
        taken = [future for what, future in self.waiters if wanted in (None, what)]
        self.waiters = tuple(waiter for waiter in self.waiters if waiter[1] not in taken)
        return taken


class Lives:
    """All of them by name, and those that ended lately. Thread-safe; `lock` guards what is in each Live as well."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.by_name: dict[str, Live] = {}
        self.asked: set[str] = set()  # about whom HTCondor has asked in this period
        self._lately: collections.OrderedDict[str, Run] = collections.OrderedDict()

    def stands(self, name: str) -> tuple[Run | None, JobReport | None]:
        """A run and how it stands, from memory, as HTCondor asks; None if it is neither live here nor has ended here lately."""
        with self.lock:
            if live := self.by_name.get(name):
                self.asked.add(name)
                return live.run, live.report()
            over = self._lately.get(name)
            return over, over.report if over else None

    def get(self, name: str) -> Run | None:
        """The run itself, if it is live here or has ended here lately."""
        with self.lock:
            live = self.by_name.get(name)
            return live.run if live else self._lately.get(name)

    def over(self, live: Live) -> bool:
        """It is live no more. False if it was not."""
        with self.lock:
            if self.by_name.pop(live.run.name, None) is None:
                return False
            self._lately[live.run.name] = live.run
            if len(self._lately) > _LATELY:
                self._lately.popitem(last=False)
            return True

    def answer(self, live: Live, error: BaseException | None, wanted: Wanted | None = None) -> None:
        """Tell those who wait for `wanted`, or for anything at all."""
        with self.lock:
            waiting = live.take_waiters(wanted)
        answer(waiting, error)


def answer(waiting: list[Future[None]], error: BaseException | None) -> None:
    for future in waiting:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def ended_before(run: Run) -> Refused:
    return Refused(f"The job {run.job_id} has ended and cannot be held.")


def report_of(run: Run) -> JobReport:
    """What the journal alone says of a run: it is idle until Batch runs it, whatever is being done for it meanwhile."""
    if run.report is not None:
        return run.report
    if run.state is RunState.SUSPENDED:
        return held("Held by BLAH_JOB_HOLD before it started.", HoldCode.BATCH_SYSTEM)
    return JobReport(JobState.RUNNING if run.started else JobState.IDLE, native_id=run.native_id)
