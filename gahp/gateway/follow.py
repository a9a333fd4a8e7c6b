"""Asks AWS Batch what the sweep wants to know, in a thread of its own, at the sweep's pace and the limiter's.

Decides nothing: see sweep. An answer that does not come ends the round; what came before it has been told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from gahp.batch import Batch, BatchJob
from gahp.gateway.sweep import Children, Describe, Page, Question, Sweep, Tell
from gahp.lanes import backoff, mortal
from gahp.limits import Later
from gahp.model import Refused, Transient

log = logging.getLogger(__name__)

_TRIES = 5  # of one question
_REFRESH_S = 1.0
# Of the interval, what a round may spend in waiting for those who work on its news; how late they have to be for it.
_SPREAD, _LATE_S, _LOOK_S = 0.75, 0.1, 0.05


class Followed(NamedTuple):
    """The jobs to follow."""

    queues: Mapping[str, str]  # by id
    closely: Collection[str] = ()  # somebody waits for what becomes of these
    unwanted: Collection[str] = ()  # why these ended nobody will ask


class Follower:
    """Follows in Batch what `followed` says. `tell` is called from several threads, and with no lock held. `late_s`: by how many
    seconds those are behind who work on what is told."""

    def __init__(
        self,
        batch: Batch,
        *,
        interval_s: float,
        followed: Callable[[], Followed],
        tell: Tell,
        late_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._batch = batch
        self._interval_s = interval_s
        self._followed = followed
        self._news: list[tuple[str, BatchJob | None]] = []
        self._sweep = Sweep(self._news.extend)
        self._tell = tell
        self._late_s = late_s
        self._lock = threading.Lock()  # the sweep's state: this thread's, and whoever brings events
        self._stop = threading.Event()
        self._asked_about: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="status", daemon=True)
        self._events = False
        self._due_at = 0.0  # when the next round is to begin
        self._refreshed = 0.0

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def hear(self, job: BatchJob) -> bool:
        """An event about a job. False if nobody follows it here. How one ended badly is asked before it is told."""
        now = time.monotonic()
        if not self._sweep.follows(job.id) and now - self._refreshed >= _REFRESH_S:
            # It may have been submitted since the last round.
            self._refreshed = now
            followed = self._followed()
            with self._lock:
                self._sweep.follow(followed.queues)
        with self._lock:
            if not self._sweep.follows(job.id):
                return self._sweep.followed_lately(job.id)
            if job.status == "FAILED":
                self._asked_about.add(job.id)
                return True
            self._sweep.heard(job.id, job.status)
        self._tell([(job.id, job)])
        return True

    def flowing(self, events: bool) -> None:
        """Whether events come in, so that asking can be left for what they lose. When they cease, what was left is asked."""
        with self._lock:
            if self._events and not events:
                self._due_at = 0.0
            self._events = events

    def whole(self, parent: str, unwanted: Collection[str]) -> bool:
        """Whether `unwanted` has every child of this array that is not over."""
        with self._lock:
            return self._sweep.whole(parent, unwanted)

    def doubt(self, job_id: str) -> None:
        """What was told of this job was not so: tell it again when it is."""
        with self._lock:
            self._sweep.doubt(job_id)

    def round(self) -> bool:
        """Ask about everything once. Whether an answer is waited for. Raises Refused or Transient; news told before stay told."""
        followed = self._followed()
        until = time.monotonic() + self._interval_s * _SPREAD
        with self._lock:
            self._sweep.follow(followed.queues)
            asked, self._asked_about = self._asked_about, set()
            questions = self._sweep.round(
                time.monotonic(), followed.queues.__getitem__, {*followed.closely, *asked}, followed.unwanted
            )
            question = next(questions, None)
        while question is not None:
            try:
                self._leave_time(question, until)
                answer = self._ask(question)
            except BaseException:
                with self._lock:
                    self._asked_about |= asked
                raise
            with self._lock:
                try:
                    question = questions.send(answer)
                except StopIteration:
                    question = None
                news, self._news[:] = self._news[:], []
            self._tell(news)
        return bool(followed.closely)

    def _leave_time(self, question: Question, until: float) -> None:
        """What was told of one array is worked on before the next is listed: told now its ends would only wait, and a list that
        is read later has more of them. So the ends of many jobs are spread over the interval. Not beyond `until` (monotonic)."""
        # What runs is read in one go: whom it misses because it starts again meanwhile would be taken for ended.
        if not isinstance(question, Children) or (question.status == "RUNNING" and question.token):
            return
        while self._late_s() > _LATE_S and time.monotonic() < until:
            if self._stop.wait(_LOOK_S):
                raise Transient("this GAHP ends")

    def _ask(self, question: Question) -> dict[str, BatchJob] | Page:
        tries = 0
        while True:
            try:
                if isinstance(question, Describe):
                    return {job_id: job for _, found in self._batch.describe(question.ids) for job_id, job in found.items()}
                if isinstance(question, Children):
                    return self._batch.children(question.parent, question.status, question.token)
                return self._batch.listed(question.queue, question.status, question.token)
            except Later as later:
                pause = later.wait_s
            except Transient:
                # One answer that got lost must not cost the round: of many questions one nearly always gets lost somewhere.
                tries += 1
                if tries >= _TRIES:
                    raise
                pause = backoff(tries, 0.1, 5.0)
            if self._stop.wait(pause):
                raise Transient("this GAHP ends")

    @mortal()
    def _work(self) -> None:
        tries, look = 0, time.monotonic() + self._interval_s
        # From beginning to beginning, however long a round takes.
        while not self._stop.wait(max(look - time.monotonic(), self._interval_s / 4, backoff(tries) if tries else 0.0)):
            begun = time.monotonic()
            try:
                if not self._due():
                    continue
                closely = self.round()
                with self._lock:
                    self._due_at = begun + self._sweep.pause_s(self._interval_s, events=self._events, closely=closely)
                tries = 0
            except (Transient, Refused) as error:
                tries += 1
                log.warning("AWS Batch could not be asked how the jobs stand: %s", error)
            except MemoryError:
                raise  # what the sweep takes for told may not have been heard: this thread dies, and with it the program
            except Exception:
                tries += 1
                log.exception("following the jobs failed")
            finally:
                # What was submitted meanwhile is looked for once an interval.
                look = begun + self._interval_s
                if begun < self._due_at < look:
                    look = self._due_at

    def _due(self) -> bool:
        if time.monotonic() >= self._due_at:
            return True
        followed = self._followed()
        with self._lock:
            return bool(followed.closely or self._asked_about) or self._sweep.has_news(followed.queues)
