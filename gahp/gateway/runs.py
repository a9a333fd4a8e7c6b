"""Carries every run from one step to the next: each in a lane of its own, a retry with a delay, one step of a run at a time.

Joins journal, sandbox and batch; decides nothing itself (see steps and verdict). What is done is in the journal before the next
thing is begun.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

from gahp import story
from gahp.batch import Batch
from gahp.gateway.ending import Ending
from gahp.gateway.follow import Follower
from gahp.gateway.live import Live, Lives, ended_before
from gahp.gateway.news import News
from gahp.gateway.packer import Packer
from gahp.gateway.packs import Packs
from gahp.gateway.steps import Step
from gahp.gateway.upkeep import Upkeep
from gahp.gateway.verdict import held, removed
from gahp.gateway.wishes import Wishes
from gahp.gateway.work import Work
from gahp.journal import Journal, JournalProblem
from gahp.lanes import Lane, after, backoff
from gahp.limits import Later
from gahp.metrics import COUNTS
from gahp.model import HoldCode, Refused, Transient
from gahp.run import Run, RunState, Wanted
from gahp.sandbox import Sandbox

log = logging.getLogger(__name__)

_AGAIN_S = 2.0  # for the journal, when it could not be read
_HOLD_CODES = {Step.STAGE: HoldCode.TRANSFER_INPUT, Step.COLLECT: HoldCode.TRANSFER_OUTPUT}


class Runs:
    """All live runs of this GAHP. Thread-safe; `start` before anything else. `lives` says how they stand, `wishes` takes what is
    wanted of them, `follower` hears of events about their jobs."""

    def __init__(
        self,
        journal: Journal,
        sandbox: Sandbox,
        batch: Batch,
        *,
        poll_interval_s: float,
        lookup_settle_s: float,
        keep_runs_s: float,
        keep_sandbox_s: float,
        transfer_threads: int,
        submit_threads: int,
        pack_size: int = 1,
        pack_quiet_s: float = 0.025,
        pack_wait_s: float = 0.25,
        pack_longest_s: float = 0.25,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal, self._clock = journal, clock
        self.lives = Lives()
        self._lock = self.lives.lock
        self.wishes = Wishes(journal, self.lives, go_on=self._go_on)
        self._packer: Packer[Live] = Packer(
            size=pack_size, quiet_s=pack_quiet_s, wait_s=pack_wait_s, longest_s=pack_longest_s, clock=time.monotonic
        )
        self._packs = Packs(
            journal,
            sandbox,
            batch,
            self._packer,
            lock=self._lock,
            threads=submit_threads,
            go_on=self._go_on,
            let_go=self._let_go,
            clock=clock,
        )
        ending, local = Lane("terminate", 4), Lane("local", 1)
        self._lanes = {
            Step.STAGE: Lane("stage", transfer_threads),
            Step.SUBMIT: Lane("submit", submit_threads),
            Step.LOOK_UP: Lane("look up", 2),
            Step.TERMINATE: ending,
            Step.CANCEL: ending,
            Step.COLLECT: Lane("collect", transfer_threads),
            Step.DROP: local,
            Step.SUSPEND: local,
        }
        self._work = Work(
            journal,
            sandbox,
            batch,
            self._packs,
            self.lives,
            packing=self._packer.packs,
            lookup_settle_s=lookup_settle_s,
            make_room=self._make_room,
            doubt=lambda job_id: self.follower.doubt(job_id),  # noqa: PLW0108  it is made below
            clock=clock,
        )
        self._adopting, self._cleaning = Lane("adopt", 1), Lane("clean", 1)
        self._upkeep = Upkeep(
            journal,
            sandbox,
            self.lives,
            adopting=self._adopting,
            cleaning=self._cleaning,
            keep_runs_s=keep_runs_s,
            keep_sandbox_s=keep_sandbox_s,
            add=self.add,
            want=self.wishes.want,
        )
        self._news = News(
            journal, self._work, self.lives, ending=ending, local=local, go_on=self._go_on, let_go=self._let_go, clock=clock
        )
        self.follower = Follower(
            batch,
            interval_s=poll_interval_s,
            followed=self._news.followed,
            tell=self._news.look_at,
            late_s=self._lanes[Step.COLLECT].late_s,
        )
        self._ending = Ending(batch, self.follower, self.lives, lane=ending, begin=self._begin, done=self._done)

    def start(self) -> None:
        """Take over what earlier GAHPs left and begin to follow all runs."""
        self._upkeep.start()
        self.follower.start()

    def close(self) -> None:
        """Begin nothing more. What is under way is left to end or to be taken up again from the journal by the next GAHP."""
        self.follower.close()
        for lane in {*self._lanes.values(), self._cleaning, self._adopting}:
            lane.close()
        self._packs.close()

    def expect(self, accepted: Future[str]) -> None:
        """A job is being accepted, until that is done: what is packed waits for it."""
        self._packer.accepting(1)
        after(accepted, lambda _: self._packer.accepting(-1))

    def add(self, run: Run) -> None:
        """Follow a run that is in the journal."""
        live = Live(run)
        with self._lock:
            self.lives.by_name[run.name] = live
        # Also when this run is removed itself before it comes to its turn.
        self._end_before(run)
        self._go_on(live)

    def _end_before(self, run: Run) -> None:
        try:
            self._make_room(run)
        except JournalProblem as error:
            # This one goes on, and so do those that were taken over with it.
            log.warning("%s: whose place it takes is looked up again: %s", run.name, error)
            self._adopting.put(lambda: self._end_before(run), _AGAIN_S)

    # From step to step

    def _go_on(self, live: Live, delay: float = 0.0) -> None:
        with self._lock:
            step = live.step
        if step is Step.TERMINATE:
            self._lanes[step].put(lambda: self._ending.end(live), delay)
        elif step is Step.STAGE:
            self._go_on_staging(live, delay)
        elif step is not None:
            self._lanes[step].put(lambda: self._perform(live, step), delay)

    def _go_on_staging(self, live: Live, delay: float) -> None:
        name = live.run.name
        if live.part is not None and not live.alone:
            self._packs.offer(live, live.part)
            return

        def stage() -> None:
            self._packer.staging(name)
            try:
                self._perform(live, Step.STAGE)
            finally:
                self._packer.staged(name)

        if not delay and not live.alone:
            self._packer.expect(name)
        self._lanes[Step.STAGE].put(stage, delay)

    def _perform(self, live: Live, step: Step) -> None:
        if not self._begin(live, step):
            return
        try:
            outcome = self._work.steps[step](live)
        except Exception as error:
            self._done(live, step, None, error)
            return
        if isinstance(outcome, Future):
            after(outcome, lambda written: self._done(live, step, None, written.exception()))
        else:
            self._done(live, step, outcome, None)

    def _begin(self, live: Live, step: Step) -> bool:
        """Whether `step` is to be done now; then nobody else works on this run until `_done`."""
        with self._lock:
            if live.busy:
                # Whoever is at it looks again when done.
                live.again = True
                return False
            if live.unrecorded:
                # It goes on when that is on disk.
                return False
            if live.step is not step:
                self._go_on(live)
                return False
            live.busy = True
            live.again = False
            return True

    def _done(self, live: Live, step: Step, delay: float | None, error: BaseException | None) -> None:
        """A step has come to its end, or to an error: what comes next, and when."""
        try:
            if error is None:
                live.tries = 0
                live.trouble = ""
            elif isinstance(error, Later):
                delay = error.wait_s
            elif isinstance(error, Transient):
                delay = backoff(live.tries)
                live.tries += 1
                COUNTS.add("step_retries", step.value)
                self._tell_trouble(live, step, error)
                log.warning("%s: %s is tried again in %.1f s: %s", live.run.name, step.value, delay, error)
            elif isinstance(error, Refused):
                log.warning("%s: %s: %s", live.run.name, step.value, error)
                delay = self._refused(live, step, error)
            else:
                # A fault of this program must neither lose the run nor hold it: it is tried again, slowly.
                log.error("%s: %s failed", live.run.name, step.value, exc_info=error)
                delay = backoff(live.tries + 4)
                live.tries += 1
        finally:
            self._let_go(live, delay or 0.0)

    def _let_go(self, live: Live, delay: float = 0.0) -> None:
        with self._lock:
            live.busy = False
            again, news, live.news = live.again, live.news, None
        if live.run.state.final:
            self._over(live)
            return
        if news is not None:
            self._news.look_at([news])
        self._go_on(live, 0.0 if again else delay)

    def _tell_trouble(self, live: Live, step: Step, error: Transient) -> None:
        """What keeps a run from its next step, for people who ask: once, however often it is tried again."""
        if str(error) != live.trouble and not isinstance(error, JournalProblem):
            live.trouble = str(error)
            self._journal.update(live.run, news=story.trouble(step.value, live.trouble, self._clock()))

    def _refused(self, live: Live, step: Step, error: Refused) -> float | None:
        """What a refusal means depends on whether Batch may have the job: what may be running is never given up."""
        run = live.run
        if step in (Step.STAGE, Step.SUBMIT, Step.COLLECT):
            state, report = RunState.HELD, held(str(error), _HOLD_CODES.get(step, HoldCode.BATCH_SYSTEM), live.job)
            if run.wanted is Wanted.REMOVE:
                state, report = RunState.REMOVED, removed(live.job)
            with contextlib.suppress(Transient):
                self._work.finish(live, state, report).result()
                return None
        elif step is Step.CANCEL:
            with self._lock:
                if run.wanted is Wanted.HOLD:  # and it has not been removed meanwhile
                    self._news.not_held(live, error)
            return None
        elif step is Step.TERMINATE:
            self.lives.answer(live, error, Wanted.REMOVE)
        live.tries += 1
        return backoff(live.tries + 3)

    def _over(self, live: Live) -> None:
        run, report = live.run, live.run.report
        if not self.lives.over(live):
            return
        log.info("%s: %s%s", run.name, run.state.name, f": {report.hold_reason}" if report and report.hold_reason else "")
        # Whatever it ended as: it cannot be resumed.
        self.lives.answer(live, ended_before(run), Wanted.HOLD)
        self.lives.answer(live, None)

    def unfinished(self, name: str) -> str:
        """The first run that is not over of the one called `name` and those whose place it and they took; "" if all are."""
        while name:
            run = self.lives.get(name) or self._journal.find(name)
            if run is None:
                break
            if not run.state.final:
                return name
            name = run.predecessor
        return ""

    def _make_room(self, run: Run) -> bool:
        """Whether the run whose place this one takes is not over yet; then that is ended."""
        before = self.unfinished(run.predecessor)
        if before:
            self._end(before)
        return bool(before)

    def _end(self, name: str) -> None:
        """Have a run ended whose place another takes; asked again and again, so that no death in between is left out."""
        known = self.lives.get(name)
        if known is not None and known.wanted is Wanted.REMOVE:
            return  # it is at it, with pauses of its own
        if self.wishes.want(name, Wanted.REMOVE) is None:
            self._journal.ask(name, Wanted.REMOVE)
