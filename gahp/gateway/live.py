"""A run that is not over, as this process works on it, and how it stands."""

from __future__ import annotations

from concurrent.futures import Future

from gahp.batch import BatchJob
from gahp.gateway.packer import Part
from gahp.gateway.steps import Step, next_step
from gahp.gateway.verdict import held
from gahp.model import HoldCode, JobReport, JobState
from gahp.run import Run, RunState, Wanted


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


def report_of(run: Run) -> JobReport:
    """What the journal alone says of a run: it is idle until Batch runs it, whatever is being done for it meanwhile."""
    if run.report is not None:
        return run.report
    if run.state is RunState.SUSPENDED:
        return held("Held by BLAH_JOB_HOLD before it started.", HoldCode.BATCH_SYSTEM)
    return JobReport(JobState.RUNNING if run.started else JobState.IDLE, native_id=run.native_id)
