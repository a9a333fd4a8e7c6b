"""What news of AWS Batch mean for a run: that it runs, that its container is over or forgotten, that it can be held or cannot."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from gahp.batch import BatchJob
from gahp.gateway.follow import Followed
from gahp.gateway.live import Live, Lives, answer, ended_before
from gahp.gateway.telling import has_news, of_batch
from gahp.gateway.verdict import ended_by_somebody
from gahp.gateway.work import Work
from gahp.journal import Journal
from gahp.lanes import Lane, after, backoff
from gahp.model import Refused, Transient
from gahp.run import RunState, Wanted

log = logging.getLogger(__name__)

# A job that DescribeJobs does not show is given up only when it stays away: a new job may not be visible everywhere at once.
FORGOTTEN_AFTER_S = 60.0


class News:
    """`go_on` has a run take its next step, `let_go` one that was `busy` here: what has to wait for AWS is done in the lanes
    `ending` and `local`."""

    def __init__(
        self,
        journal: Journal,
        work: Work,
        lives: Lives,
        *,
        ending: Lane,
        local: Lane,
        go_on: Callable[[Live], None],
        let_go: Callable[[Live], None],
        clock: Callable[[], float],
    ) -> None:
        self._journal, self._work, self._clock = journal, work, clock
        self._lives, self._lock = lives, lives.lock
        self._ending, self._local = ending, local
        self._go_on, self._let_go = go_on, let_go
        self._by_id: dict[str, Live] = {}  # of those that Batch was last asked about

    def followed(self) -> Followed:
        """What Batch is asked about."""
        with self._lock:
            self._by_id = {
                live.run.native_id: live for live in self._lives.by_name.values() if live.run.state is RunState.SUBMITTED
            }
            closely = {native_id for native_id, live in self._by_id.items() if live.run.wanted is Wanted.HOLD}
            unwanted = {native_id for native_id, live in self._by_id.items() if live.run.wanted is Wanted.REMOVE}
            return Followed({native_id: live.run.queue for native_id, live in self._by_id.items()}, closely, unwanted)

    def look_at(self, news: list[tuple[str, BatchJob | None]]) -> None:
        """What Batch says of jobs by id; None of one that it does not show."""
        for native_id, job in news:
            with self._lock:
                live = self._by_id.get(native_id)
                # What was asked before a hold and resume is no answer about the job that runs now.
                if live is None or live.run.state is not RunState.SUBMITTED or live.run.native_id != native_id:
                    continue
                if live.busy:
                    # Events come in any order, and an end is told once.
                    if live.news is None or live.news[0] != native_id or live.news[1] is None or not live.news[1].over:
                        live.news = (native_id, job)
                    continue
                self._take_in(live, job)
            self._go_on(live)

    def _take_in(self, live: Live, job: BatchJob | None) -> None:
        """What one answer of DescribeJobs means for a run. Holds the lock."""
        run = live.run
        if job is None:
            now = time.monotonic()
            live.missing_since = live.missing_since or now
            if now - live.missing_since > FORGOTTEN_AFTER_S:
                live.job = None
                self._ended(live)
            return
        live.missing_since = 0.0
        if job.attempts is None and live.job is not None and live.job.attempts:
            # A row of a list does not say so.
            job = dataclasses.replace(job, attempts=live.job.attempts, worker=live.job.worker)
        before, live.job = live.job, job
        if job.over:
            self._ended(live)
        elif job.running != run.started:
            # A run whose host went away is idle again until its next attempt runs.
            self._journal.update(run, news=of_batch(job, self._clock()), started=job.running)
        elif has_news(before, job, started=run.started):
            self._journal.update(run, news=of_batch(job, self._clock()))
        # An event may be late, of an attempt before the one that CancelJob has ended; a run that is to be held is described at
        # each look.
        if job.described and run.wanted is Wanted.HOLD and job.status in ("STARTING", "RUNNING"):
            live.ending_asked = False
            self.not_held(
                live, Refused(f"The job {run.job_id} has started on AWS Batch and cannot be held there: remove it instead.")
            )
        if job.never_fits and run.wanted is Wanted.RUN and not live.busy:
            live.busy = True
            self._ending.put(lambda: self._give_up(live, job))

    def _give_up(self, live: Live, job: BatchJob) -> None:
        try:
            self._work.give_up(live, job)
        except (Transient, Refused) as error:
            log.warning("%s: cannot be ended: %s", live.run.name, error)
        finally:
            self._let_go(live)

    def _ended(self, live: Live) -> None:
        """The container is over, or Batch has forgotten it. Holds the lock."""
        run, job = live.run, live.job
        if run.wanted is Wanted.REMOVE:
            self._journal.update(run, state=RunState.COLLECTING)  # whence it is dropped
        elif run.wanted is Wanted.HOLD and job is not None and ended_by_somebody(job) and (job.cancelled or not job.started):
            # One whose host went away has been started once, and is cancelled before it starts again.
            if run.sends > 1:
                live.busy = True
                self._local.put(lambda: self._suspend_sent(live))
            else:
                self._suspended(live)
        else:
            self.not_held(live, ended_before(run), state=RunState.COLLECTING)

    def not_held(self, live: Live, refusal: Refused, **changes: Any) -> None:
        """It runs on, or is over: nobody waits for its hold any more. Holds the lock."""
        waiting = live.take_waiters(Wanted.HOLD)
        # Who is told so must not find it held by the next GAHP: the wish is taken back before.
        written = self._journal.update(live.run, wanted=Wanted.RUN, **changes)
        after(written, lambda done: answer(waiting, done.exception() or refusal))

    def _suspended(self, live: Live) -> None:
        """It is held now. Holds the lock."""
        # Who is told so resumes it next: by then another GAHP must find it held.
        written = self._journal.update(live.run, state=RunState.SUSPENDED)
        after(written, lambda done: self._lives.answer(live, done.exception(), Wanted.HOLD))

    def _suspend_sent(self, live: Live) -> None:
        """Hold a run that Batch may have had twice: the other one must not outlive this submission."""
        try:
            self._work.end_doubles(live.run)
        except Transient as error:
            log.warning("%s: held as soon as its other copies are ended: %s", live.run.name, error)
            self._local.put(lambda: self._suspend_sent(live), backoff(3))
            return
        with self._lock:
            if live.run.wanted is Wanted.HOLD:
                self._suspended(live)
            else:
                self._ended(live)
        self._let_go(live)
