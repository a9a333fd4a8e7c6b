"""What HTCondor wants of a run, to be removed, held or resumed: on disk before anything is done, answered when it is so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from gahp.gateway.live import Live, Lives
from gahp.journal import Journal
from gahp.lanes import after
from gahp.model import Refused
from gahp.run import RunState, Wanted


class Wishes:
    """Thread-safe. `go_on` has a run take its next step."""

    def __init__(self, journal: Journal, lives: Lives, *, go_on: Callable[[Live], None]) -> None:
        self._journal, self._go_on = journal, go_on
        self._lives, self._lock = lives, lives.lock

    def want(self, name: str, wanted: Wanted) -> Future[None] | None:
        """Have a run removed, held or resumed. None if it is not live here.

        The future ends when Batch has taken the removal, when the hold has come about (or Refused: it runs already), when the
        resumed run is on its way. It is recorded before anything is done.
        """
        done: Future[None] = Future()
        with self._lock:
            live = self._lives.by_name.get(name)
            if live is None:
                return None
            self._revive(live)
            run = live.run
            if wanted is Wanted.HOLD and run.started:
                raise Refused(f"The job {run.job_id} has started on AWS Batch and cannot be held there: remove it instead.")
            if wanted is Wanted.RUN:
                resumed = self._resume(live)
                after(resumed, lambda written: self._resumed(live, written, done))
                return done
            if wanted is Wanted.HOLD and (run.wanted is Wanted.REMOVE or run.state is RunState.COLLECTING):
                raise Refused(f"The job {run.job_id} is ending and cannot be held.")
            if wanted is Wanted.HOLD and run.state is RunState.SUSPENDED:
                raise Refused(f"The job {run.job_id} is held already.")
            if wanted is Wanted.REMOVE and live.ending_asked and run.wanted is Wanted.REMOVE:
                done.set_result(None)
                return done
            live.waiters += ((wanted, done),)
            live.tries = 0
            if run.wanted is not wanted:
                # A CancelJob that Batch has taken for a hold is no TerminateJob.
                live.ending_asked = False
            live.wish = recorded = self._journal.update(run, wanted=wanted, confirmed=True)
        after(recorded, lambda written: self._recorded(live, written))
        return done

    def revive(self, name: str) -> None:
        """HTCondor speaks of this run, live here or elsewhere: if it was found in S3 only, it goes on now."""
        with self._lock:
            self._lives.asked.add(name)
            live = self._lives.by_name.get(name)
            if live is not None:
                self._revive(live)

    def _revive(self, live: Live) -> None:
        """Holds the lock."""
        if live.run.state is RunState.REBUILT:
            self._journal.update(live.run, state=RunState.SUBMITTING)
            self._go_on(live)

    def _recorded(self, live: Live, written: Future[None]) -> None:
        error = written.exception()
        if error is None:
            with self._lock:
                run = live.run
                unsent = run.state is RunState.ACCEPTED and run.wanted is Wanted.REMOVE and not run.sends
            if unsent:
                # It will not be submitted any more. Who wants it gone need not wait until the upload of its input is given up.
                self._lives.answer(live, None, Wanted.REMOVE)
            self._go_on(live)
        else:
            self._lives.answer(live, error)

    def _resumed(self, live: Live, written: Future[None], done: Future[None]) -> None:
        error = written.exception()
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
        self._go_on(live)

    def _resume(self, live: Live) -> Future[None]:
        """Holds the lock."""
        run = live.run
        if run.wanted is Wanted.REMOVE:
            raise Refused(f"The job {run.job_id} is ending and cannot be resumed.")
        if run.state is not RunState.SUSPENDED:
            raise Refused(f"The job {run.job_id} is not held.")
        # What was sent to Batch, or may have been, has its name there: the next submission gets one of its own.
        used = bool(run.sent or run.sends)
        # The manifest of a pack is no manifest of this job alone: it is staged again.
        state = RunState.STAGED if used and not run.packs else RunState.ACCEPTED
        live.ending_asked = live.alone = False
        live.job = None
        return self._journal.update(
            run,
            state=state,
            wanted=Wanted.RUN,
            submission=run.submission + used,
            native_id="",
            sent=0.0,
            sends=0,
            started=False,
            **run.unpacked,
        )
