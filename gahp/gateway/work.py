"""What is done for a run in each of its steps, in S3, in Batch and in the journal. Only TERMINATE is done for many at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Union

from gahp.batch import Batch, BatchJob, Unsure, shape
from gahp.gateway.live import Live, Lives
from gahp.gateway.packer import Part
from gahp.gateway.packs import Packs
from gahp.gateway.parents import Parents
from gahp.gateway.steps import Step
from gahp.gateway.telling import of_batch, of_record
from gahp.gateway.verdict import decide, ended_by_somebody, held, removed
from gahp.journal import Journal
from gahp.model import HoldCode, JobReport, JobState, Refused, Transient
from gahp.run import Run, RunState, Wanted
from gahp.sandbox import Outcome, Sandbox

log = logging.getLogger(__name__)

_NO_ROOM_S = 0.25
_NEVER = "It can never run in this compute environment: "

# What a step leaves: in how many seconds it is to be tried again, None for what comes next at once, or when it is on disk.
_Outcome = Union[float, None, "Future[None]"]


class Work:
    """`steps`: the work of each. `make_room` says whether the run whose place a run takes is not over yet, and has it ended;
    `doubt` is told of a job that has not ended although it was said to have."""

    def __init__(
        self,
        journal: Journal,
        sandbox: Sandbox,
        batch: Batch,
        packs: Packs,
        lives: Lives,
        *,
        packing: bool,
        lookup_settle_s: float,
        make_room: Callable[[Run], bool],
        doubt: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._journal, self._sandbox, self._batch, self._clock = journal, sandbox, batch, clock
        self._packs, self._packing = packs, packing
        self._lives, self._lock = lives, lives.lock
        self._make_room, self._doubt = make_room, doubt
        self._lookup_settle_s = lookup_settle_s
        self._parents = Parents(batch, min(1.0, lookup_settle_s / 4), clock=time.monotonic)
        self.steps: Mapping[Step, Callable[[Live], _Outcome]] = {
            Step.STAGE: self._stage,
            Step.SUBMIT: self._submit,
            Step.LOOK_UP: self._look_up,
            Step.CANCEL: self._cancel,
            Step.COLLECT: self._collect,
            Step.DROP: self._drop,
            Step.SUSPEND: self._suspend,
        }

    def _stage(self, live: Live) -> float | None:
        """Everything into S3; but for the manifest when the run is to be packed: then the packer has it next."""
        run = live.run
        if live.part is None:
            if self._make_room(run):
                return 0.5
            if not self._packs.have_room():
                return _NO_ROOM_S
            request = self._journal.request(run.name)
            record = self._journal.sealed(run, request)
            body = self._sandbox.prepare(run.name, request, record, submission=run.submission, sends=run.sends + 1)
            self._packs.hold(live, Part(body, shape(request, run.queue)))
        if live.part is not None and (live.alone or not self._packing):
            live.alone = True
            self._sandbox.put(run.name, live.part.body)
            self._journal.update(run, state=RunState.STAGED).result()
            self._packs.hold(live, None)
        return None

    def _submit(self, live: Live) -> float | None:
        run = live.run
        if self._make_room(run):
            return 0.5
        request = self._journal.request(run.name)
        # The row says SUBMITTING before the call is made: whatever dies now, the next one looks the name up before sending again.
        self._journal.update(run, state=RunState.SUBMITTING, sent=self._clock(), sends=run.sends + 1).result()
        environment = {
            "BATCH_FILE_TYPE": "script",
            "BATCH_FILE_S3_URL": self._sandbox.manifest_url(run.name),
            "GAHP_RUN_URL": self._sandbox.run_url(run.name),
            "GAHP_REGION": self._sandbox.region,
            "GAHP_SUBMISSION": str(run.submission),
            "GAHP_JOURNAL": self._journal.identity,
            "GAHP_SENDS": str(run.sends),
        }
        try:
            native_id = self._batch.submit(request, name=run.batch_name, queue=run.queue, environment=environment)
        except Unsure as error:
            log.warning("%s: SubmitJob may have arrived, looking it up: %s", run.name, error)
            live.unsure_since = time.monotonic()
            return 0.5
        except Transient:
            self._journal.update(run, state=RunState.STAGED, sent=0.0, sends=run.sends - 1)
            raise
        self._submitted(live, native_id)
        return None

    def _look_up(self, live: Live) -> float | None:
        """Is the run's name listed? If it stays away for the settling time, counted from the last moment at which the request may
        have been on its way (for what a dead GAHP left: from its taking over), it was not made. No wall clock is asked."""
        run = live.run
        asked = time.monotonic()
        if live.unsure_since is None:
            live.unsure_since = asked
        if run.pack:
            asked, parent = self._parents.find(run.pack, run.queue)
            native_id = f"{parent}:{run.child}" if parent else ""
        else:
            native_id = self._batch.find(run.batch_name, run.queue)
        if native_id:
            self._submitted(live, native_id)
            return None
        if asked - live.unsure_since < self._lookup_settle_s:
            return min(1.0, self._lookup_settle_s / 4)
        with self._lock:
            if live.unrecorded:
                return 0.0
            wanted = run.wanted is Wanted.RUN
        # What Batch lists no more may have run all the same, long ago. What is not to run must not do so when it comes late.
        native_id = (self._sandbox.claimant if wanted else self._sandbox.revoke)(run.name, run.submission)
        if native_id:
            self._submitted(live, native_id)
            return None
        live.unsure_since = None
        if run.pack:
            # Who of its members still wants to run is another question: each is staged again, and packed with whom it finds then.
            self._journal.update(run, state=RunState.ACCEPTED, sent=0.0, **run.unpacked)
        else:
            self._journal.update(run, state=RunState.STAGED, sent=0.0).result()
        return None

    def _submitted(self, live: Live, native_id: str) -> None:
        log.info("%s: AWS Batch has it as %s", live.run.name, native_id)
        live.unsure_since = None
        self._journal.update(live.run, state=RunState.SUBMITTED, native_id=native_id)

    def _cancel(self, live: Live) -> None:
        self._batch.cancel(live.run.native_id, "Held by HTCondor")
        with self._lock:
            # Not for a removal that has come meanwhile: that asks for more.
            live.ending_asked = live.run.wanted is Wanted.HOLD

    def _collect(self, live: Live) -> _Outcome:
        run, job = live.run, live.job
        if job is None or (not job.described and (job.status == "FAILED" or job.attempts)):
            job = self._described(live)
        if live.run.state is not RunState.COLLECTING:
            return None
        if job is not None and ended_by_somebody(job) and job.status_reason.startswith(_NEVER):
            return self._never(live, job.status_reason.removeprefix(_NEVER))
        if job is not None and ended_by_somebody(job):
            return self.finish(live, RunState.REMOVED, removed(job))
        request = self._journal.request(run.name)
        outcome = self._sandbox.collect(run.name, run.submission, request, lambda found: self._is_last(live, found))
        if live.run.state is not RunState.COLLECTING:
            return None
        job = live.job
        if outcome is None:
            claimant = self._sandbox.claimant(run.name, run.submission)
            if claimant not in ("", run.native_id):
                log.warning("%s: AWS Batch had it twice, and %s runs it: followed from now on", run.name, claimant)
                live.job = None
                self._journal.update(run, state=RunState.SUBMITTED, native_id=claimant, started=False)
                return None
            if job is not None and not job.described:
                # What a list or an event has told needs no proof where the result is there.
                job = self._described(live)
                if live.run.state is not RunState.COLLECTING:
                    return None
        report = decide(request, job, outcome)
        return self.finish(live, RunState.COMPLETED if report.state is JobState.COMPLETED else RunState.HELD, report, outcome)

    def _is_last(self, live: Live, outcome: Outcome) -> bool:
        """An attempt that was told to end, as when its host goes away, leaves what it has; if Batch has begun another since, that
        one's word counts, or Batch's."""
        job = live.job
        if outcome.terminated and job is not None and job.attempts is None:
            job = self._described(live)
        return not (outcome.terminated and job is not None and (job.attempts or 0) > outcome.attempt)

    def _described(self, live: Live) -> BatchJob | None:
        """What DescribeJobs says of a run that is said to have ended; if that is not so, it is followed again."""
        run = live.run
        job = next((jobs.get(run.native_id) for _, jobs in self._batch.describe([run.native_id])), None)
        if job is not None and not job.over:
            log.warning("%s: AWS Batch had it as ended, and it is %s: followed again", run.name, job.status)
            self._doubt(run.native_id)
            self._journal.update(run, state=RunState.SUBMITTED)
        live.job = job
        return job

    def _drop(self, live: Live) -> _Outcome:
        return self.finish(live, RunState.REMOVED, removed(live.job))

    def _suspend(self, live: Live) -> None:
        self.end_doubles(live.run)
        self._packs.hold(live, None)
        self._journal.update(live.run, state=RunState.SUSPENDED).result()
        self._lives.answer(live, None, Wanted.HOLD)  # a removal that has come meanwhile may not be on disk yet

    def end_doubles(self, run: Run) -> None:
        """Before a submission is over: what else came of it is ended in Batch, and what may still come finds its claim taken.

        More may have come, or may come at any time, where SubmitJob was sent again because the name stayed unlisted, or was not
        seen to arrive at all. Raises Transient only: a refusal says nothing about how the run ended, and what may be running is
        not given up for it.
        """
        if run.sends <= bool(run.native_id):
            return
        try:
            doubles = {f"{parent}:{child}" for pack, child in run.packs if (parent := self._parents.find(pack, run.queue)[1])}
            doubles |= {job_id for name, job_id in self._batch.named(run.batch_name, run.queue) if name == run.batch_name}
            doubles.add(self._sandbox.revoke(run.name, run.submission))
            for job_id in sorted(doubles - {"", run.native_id}):
                log.warning("%s: AWS Batch had it besides, ending %s", run.name, job_id)
                self._batch.terminate(job_id, "Submitted twice")
        except Refused as error:
            raise Transient(str(error)) from error

    def finish(self, live: Live, state: RunState, report: JobReport, outcome: Outcome | None = None) -> Future[None]:
        """The end of a run: on disk before anybody is told, so that it is told the same for ever. Who has others to collect need
        not wait until it is; who lets go of the run tells."""
        self.end_doubles(live.run)
        self._packs.hold(live, None)
        news = {**(of_batch(live.job, self._clock()) if live.job else {}), **of_record(outcome)}
        return self._journal.record(live.run, news=news, report=report, state=state)

    def give_up(self, live: Live, job: BatchJob) -> None:
        """Batch says that a job will never fit: end it there, then let a person look at what it asks for."""
        why = job.status_reason.rstrip(".")
        # Whoever finds it ended, this GAHP or the next, reads there why it was.
        self._batch.terminate(job.id, f"{_NEVER}{why}"[:1000])
        self._never(live, why).result()

    def _never(self, live: Live, why: str) -> Future[None]:
        reason = f"AWS Batch can never start the job: {why}. Change request_memory, request_cpus or request_gpus."
        return self.finish(live, RunState.HELD, held(reason, HoldCode.OUT_OF_RESOURCES, live.job))
