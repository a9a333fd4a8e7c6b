"""What is done from time to time for all runs together: those of dead GAHPs are taken over, whom HTCondor passes over is written
down, and what is over is cleaned up in S3 and forgotten."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

from gahp.gateway.attention import PERIOD_S, passed_over
from gahp.gateway.live import Lives
from gahp.journal import Journal, JournalProblem
from gahp.lanes import Lane
from gahp.model import Refused, Transient
from gahp.run import Run, Wanted
from gahp.sandbox import Sandbox

log = logging.getLogger(__name__)

_ADOPT_EVERY_S = 2.0
_FORGET_EVERY_S = 6 * 3600.0
_CLEAN_FIRST_S = 2.0
_CLEAN_EVERY_S = 30.0
_CLEAN_AT_ONCE = 200


class Upkeep:
    """Works in the lanes `adopting` and `cleaning`. `add` follows a run that was taken over, `want` does with one of ours what
    another GAHP was asked for."""

    def __init__(
        self,
        journal: Journal,
        sandbox: Sandbox,
        lives: Lives,
        *,
        adopting: Lane,
        cleaning: Lane,
        keep_runs_s: float,
        keep_sandbox_s: float,
        add: Callable[[Run], None],
        want: Callable[[str, Wanted], object],
    ) -> None:
        self._journal, self._sandbox = journal, sandbox
        self._lives, self._lock = lives, lives.lock
        self._adopting, self._cleaning = adopting, cleaning
        self._keep_runs_s, self._keep_sandbox_s = keep_runs_s, keep_sandbox_s
        self._add, self._want = add, want
        self._forgot = float("-inf")
        self._before: set[str] = set()  # who was live when the period began

    def start(self) -> None:
        """Take over what earlier GAHPs left, and begin with all else."""
        try:
            self._take_over()
        except (Transient, Refused) as error:
            # What has been taken over is ours from here on, and the rest is looked for again soon.
            log.warning("the runs of other GAHPs could not all be taken over yet: %s", error)
        self._adopting.put(self._adopt, _ADOPT_EVERY_S)
        self._adopting.put(self._heed, PERIOD_S)
        with self._lock:
            self._before = set(self._lives.by_name)
        self._cleaning.put(self._clean, _CLEAN_FIRST_S)

    def _adopt(self) -> None:
        try:
            self._take_over()
            now = time.monotonic()
            if now - self._forgot >= _FORGET_EVERY_S and self._journal.forget(self._keep_runs_s):
                self._forgot = now
        except (Transient, Refused) as error:
            log.warning("the runs of other GAHPs could not be looked for: %s", error)
        finally:
            self._adopting.put(self._adopt, _ADOPT_EVERY_S)

    def _take_over(self) -> None:
        """Adopt the runs of GAHPs that are no more; hear what other GAHPs of this user want of ours."""
        for run in self._journal.adopt():
            log.info("%s: taken over in state %s", run.name, run.state.name)
            self._add(run)
        for name, wanted in self._journal.wanted_changes():
            known = self._lives.get(name)
            if known is not None and known.wanted is not wanted and known.wanted is not Wanted.REMOVE:
                with contextlib.suppress(Refused):
                    self._want(name, wanted)

    def _heed(self) -> None:
        """Write down, once a period and for many at once, whom HTCondor passes over. If it forgets none, nothing is written."""
        with self._lock:
            asked, self._lives.asked = self._lives.asked, set()
            live = {
                name: live.run.directory for name, live in self._lives.by_name.items() if live.run.wanted is not Wanted.REMOVE
            }
        try:
            self._journal.heed(asked, passed_over(asked, self._before, live), PERIOD_S)
        except JournalProblem as error:
            log.warning("whom HTCondor asks about could not be written down: %s", error)  # a period less
        finally:
            self._before = set(live)
            self._adopting.put(self._heed, PERIOD_S)

    def _clean(self) -> None:
        """Delete what finished runs have in S3. Whether one is over says the journal; a live run's objects are never touched."""
        written: list[Future[None]] = []
        more = False
        try:
            littered = self._journal.littered(self._keep_sandbox_s, self._keep_runs_s, _CLEAN_AT_ONCE)
            names = {run.name for run in littered}
            packs = {pack for run in littered for pack, _ in run.packs if not self._journal.needed(pack, names)}
            self._sandbox.discard(*names, *packs)
            written += [self._journal.update(run, discarded=True) for run in littered]
            wait(written)
            more = len(littered) == _CLEAN_AT_ONCE
        except (Transient, Refused) as error:
            log.warning("finished runs could not be cleaned up in S3: %s", error)
        finally:
            self._cleaning.put(self._clean, 0.0 if more else _CLEAN_EVERY_S)
