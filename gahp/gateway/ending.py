"""Ends many jobs of AWS Batch together: all that are to end while a call is under way, and whole arrays by their parents."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

from gahp.batch import BULK, Batch
from gahp.gateway.follow import Follower
from gahp.gateway.live import Live, Lives
from gahp.gateway.steps import Step
from gahp.gateway.sweep import split
from gahp.lanes import Lane
from gahp.run import RunState, Wanted

log = logging.getLogger(__name__)


class Ending:
    """`begin` says whether a run is to be ended now, and has it to itself until `done`, which is told what went wrong."""

    def __init__(
        self,
        batch: Batch,
        follower: Follower,
        lives: Lives,
        *,
        lane: Lane,
        begin: Callable[[Live, Step], bool],
        done: Callable[[Live, Step, float | None, BaseException | None], None],
    ) -> None:
        self._batch, self._follower, self._lane = batch, follower, lane
        self._lives, self._lock = lives, lives.lock
        self._begin, self._done = begin, done
        self._to_end: collections.deque[Live] = collections.deque()

    def end(self, live: Live) -> None:
        """Those that are to end while a call is under way are ended together by the next one."""
        with self._lock:
            self._to_end.append(live)
        self._lane.put(self._end_some)

    def _end_some(self) -> None:
        lives: list[Live] = []
        while len(lives) < BULK:
            with self._lock:
                live = self._to_end.popleft() if self._to_end else None
            if live is None:
                break
            if self._begin(live, Step.TERMINATE):
                lives.append(live)
        if not lives:
            return
        failed: dict[str, Exception] = {}
        try:
            rest = self._end_whole(lives) if len(lives) == BULK else lives
            failed.update(self._batch.terminate_many([live.run.native_id for live in rest], "Removed by HTCondor"))
        except Exception as error:
            failed = dict.fromkeys((live.run.native_id for live in lives), error)
        for live in lives:
            native_id = live.run.native_id
            trouble = failed.get(native_id)
            if trouble is None:
                log.info("%s: AWS Batch ends %s", live.run.name, native_id)
                live.ending_asked = True
                self._lives.answer(live, None, Wanted.REMOVE)
            self._done(live, Step.TERMINATE, None, trouble)

    def _end_whole(self, lives: list[Live]) -> list[Live]:
        """End arrays of which nothing is wanted any more by their parents: one call each. What is left of `lives`; the children
        of such an array that wait for their turn join `lives`."""
        with self._lock:
            # A step that ended has brought in some whose removal is not on disk yet.
            waiting = [live for live in self._to_end if not live.unrecorded]
        ids = {live.run.native_id for live in (*lives, *waiting)}
        ended = {parent for parent in {split(live.run.native_id)[0] for live in lives} if self._follower.whole(parent, ids)}
        if ended:
            with self._lock:
                ended -= {split(live.run.native_id)[0] for live in self._lives.by_name.values() if _may_run(live)}
        rest = [live for live in lives if split(live.run.native_id)[0] not in ended]
        if ended:
            with self._lock:  # with those that have come since
                theirs = [live for live in self._to_end if split(live.run.native_id)[0] in ended]
                self._to_end = collections.deque(live for live in self._to_end if split(live.run.native_id)[0] not in ended)
            lives += (live for live in theirs if self._begin(live, Step.TERMINATE))
            for parent in ended:
                log.info("all of the array %s is ended", parent)
                self._batch.terminate(parent, "Removed by HTCondor")
        return rest


def _may_run(live: Live) -> bool:
    """Whether a run that is wanted is taken for ended, which may turn out to be wrong."""
    return live.run.state is RunState.COLLECTING and live.run.wanted is not Wanted.REMOVE and not live.proven
