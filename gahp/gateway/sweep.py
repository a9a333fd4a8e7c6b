"""What to ask AWS Batch about the jobs followed, and what its answers mean: decided from values, without a call, a clock or a thread.

Single jobs are described a hundred a call, or listed by status where that is fewer calls. Of an array only the parent is described:
its count of children by status says for all of them at once when they are of one mind, and when not, the states whose counts
changed are listed, or the children that are not over described, whichever is fewer calls. One byte is kept for a child.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Union

from gahp.batch import DESCRIBE_PAGE, LIST_PAGE, BatchJob

_ACTIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")
_UNKNOWN, _IDLE, _RUNNING, _SUCCEEDED, _FAILED = range(5)
_CODES = {**dict.fromkeys(_ACTIVE, _IDLE), "RUNNING": _RUNNING, "SUCCEEDED": _SUCCEEDED, "FAILED": _FAILED}

# Counts that stay odd, as they may while Batch sums up late: not looked into again until they change.
_TRIES = 3
# All children of an array ask for the same: one of them, now and then, tells whether it can ever run.
_SAMPLE_EVERY_S = 60.0
# What one change hides from another (one child started while the host of another went) is found by asking for all.
_AUDIT_EVERY_S = 900.0

# While nothing has moved for so many sweeps, each next one waits so much longer. Jobs of minutes then cost half the calls, and the
# wait is over with the first thing that moves, so that of many jobs only the first few are told late.
_QUIET_SWEEPS = 6
_SLOWER = 3.0
# With events a sweep only catches what they lost.
_SLOWER_WITH_EVENTS = 12.0


@dataclasses.dataclass(frozen=True, slots=True)
class Describe:
    """Answered by the jobs that Batch knows, by id; a page at most."""

    ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Children:
    """Answered by one page of an array's children in that status, and the next page's token."""

    parent: str
    status: str
    token: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """Answered by one page of a queue's jobs in that status, and the next page's token."""

    queue: str
    status: str
    token: str = ""


Question = Union[Describe, Children, Listed]
Page = tuple[list[BatchJob], str]
# Of each job that is news: its id, and None if Batch does not know it.
Tell = Callable[[list[tuple[str, "BatchJob | None"]]], None]
Asking = Generator[Question, "dict[str, BatchJob] | Page", None]


class _Array:
    """An array some of whose children are followed (`ours`). `states` has a code for each child once the parent was described."""

    __slots__ = ("asked", "audited", "ours", "parent", "sampled", "settled", "states", "tries")

    def __init__(self) -> None:
        self.ours: set[int] = set()
        self.states = bytearray()
        self.parent: BatchJob | None = None
        self.settled: tuple[int, ...] = ()
        self.asked: tuple[int, ...] = ()
        self.tries = 0
        self.sampled = 0.0
        self.audited = 0.0

    def known(self) -> tuple[int, ...]:
        """How many children are known to be idle, running, succeeded, failed."""
        return tuple(self.states.count(code) for code in (_IDLE, _RUNNING, _SUCCEEDED, _FAILED))

    def open(self) -> Iterator[int]:
        """The children that are not known to be over."""
        return (index for index, code in enumerate(self.states) if code < _SUCCEEDED)


class Sweep:
    """The jobs followed and what was last heard of them."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._followed: set[str] = set()
        self._singles: dict[str, int] = {}
        self._arrays: dict[str, _Array] = {}
        self._list_calls: dict[str, int] = {}  # by queue: how many the last listing took
        self._quiet = 0
        self._moved = self._news = False

    def follow(self, ids: Collection[str]) -> None:
        """From now on these jobs, no others."""
        wanted = set(ids)
        for job_id in self._followed - wanted:
            self._forget(job_id)
        for job_id in wanted - self._followed:
            parent, index = split(job_id)
            if index < 0:
                self._singles[job_id] = _UNKNOWN
            else:
                array = self._arrays.setdefault(parent, _Array())
                array.ours.add(index)
                # It may be over already, and was nobody's business then.
                array.settled = array.asked = ()
                if index < len(array.states):
                    array.states[index] = _UNKNOWN
            self._moved = True
            self._quiet = 0
        self._followed = wanted

    def follows(self, job_id: str) -> bool:
        return job_id in self._followed

    def has_news(self, ids: Collection[str]) -> bool:
        """Whether any of `ids` is not followed yet: what was just submitted moves."""
        return any(job_id not in self._followed for job_id in ids)

    def doubt(self, job_id: str) -> None:
        """Follow this job as if for the first time."""
        self._forget(job_id)
        self._followed.discard(job_id)

    def _forget(self, job_id: str) -> None:
        parent, index = split(job_id)
        if index < 0:
            self._singles.pop(job_id, None)
        elif array := self._arrays.get(parent):
            array.ours.discard(index)
            if not array.ours:
                del self._arrays[parent]

    def pause_s(self, interval_s: float, *, events: bool, closely: bool) -> float:
        """How long to wait before the next round. `closely`: somebody waits for an answer about one job."""
        if closely:
            return interval_s
        if events:
            # A sweep that had to find out by itself what moved is a sign of events that get lost.
            return interval_s * (1.0 if self._news else _SLOWER_WITH_EVENTS)
        return interval_s * (_SLOWER if self._quiet >= _QUIET_SWEEPS else 1.0)

    def whole(self, parent: str, unwanted: Collection[str]) -> bool:
        """Whether `unwanted` has every child of this array that is not known to be over: then its parent can be ended for them."""
        array = self._arrays.get(parent)
        return array is not None and len(array.states) > 0 and all(f"{parent}:{i}" in unwanted for i in array.open())

    def round(
        self, now: float, queue_of: Callable[[str], str], closely: Collection[str] = (), unwanted: Collection[str] = ()
    ) -> Asking:
        """One round of questions; every answer's news is told before the next question. `closely`: jobs to be described whatever
        the counts say. `unwanted`: how these end need not be told in detail."""
        self._moved = self._news = False
        listing = self._queues_to_list(queue_of)
        singles = [job_id for job_id in self._singles if not listing or queue_of(job_id) not in listing]
        close = [job_id for job_id in closely if job_id in self._followed]
        doubtful: list[tuple[str, _Array, tuple[int, ...]]] = []
        last: list[str] = []
        first = [*self._arrays, *singles, *close, *self._samples(now)]
        for page in pages(dict.fromkeys(first)):
            answer = yield Describe(page)
            assert isinstance(answer, dict)
            news: list[tuple[str, BatchJob | None]] = []
            for job_id in page:
                job, array = answer.get(job_id), self._arrays.get(job_id)
                if array is None:
                    self._described(job_id, job, news, last)
                elif job is None or job.counts is None:
                    last += (f"{job_id}:{index}" for index in array.ours)
                elif counts := self._look(job_id, array, job, now, unwanted, news, last):
                    doubtful.append((job_id, array, counts))
            self._tell(news)
        for queue, ids in listing.items():
            yield from self._list_queue(queue, ids, last)
        for parent, array, counts in doubtful:
            yield from self._list_array(parent, array, counts, unwanted, last)
        for page in pages(dict.fromkeys(last)):
            answer = yield Describe(page)
            assert isinstance(answer, dict)
            news = []
            for job_id in page:
                self._described(job_id, answer.get(job_id), news, [])
            self._tell(news)
        self._quiet = 0 if self._moved else self._quiet + 1

    # Single jobs

    def _queues_to_list(self, queue_of: Callable[[str], str]) -> dict[str, list[str]]:
        """The queues whose listing is fewer calls than describing what is followed there, with the ids."""
        if len(self._singles) <= DESCRIBE_PAGE * len(_ACTIVE):
            return {}
        queues: dict[str, list[str]] = {}
        for job_id in self._singles:
            queues.setdefault(queue_of(job_id), []).append(job_id)
        return {
            queue: ids
            for queue, ids in queues.items()
            if self._list_calls.get(queue, len(_ACTIVE) + len(ids) // LIST_PAGE) < len(ids) / DESCRIBE_PAGE
        }

    def _list_queue(self, queue: str, ids: list[str], last: list[str]) -> Asking:
        """All active jobs of a queue; those of ours that are not among them have ended or are about to be listed."""
        missing = dict.fromkeys(ids)
        calls = 0
        # In the order of a job's life: what moves on meanwhile is met again.
        for status in _ACTIVE:
            token = ""
            while True:
                answer = yield Listed(queue, status, token)
                assert isinstance(answer, tuple)
                rows, token = answer
                calls += 1
                news: list[tuple[str, BatchJob | None]] = []
                for job in rows:
                    if job.id in missing:
                        del missing[job.id]
                        if self._singles.get(job.id) != _CODES[status] or job.status == "RUNNABLE":
                            self._note(job.id, _CODES[status])
                            news.append((job.id, job))
                self._tell(news)
                if not token:
                    break
                if calls > len(ids) / DESCRIBE_PAGE:
                    # Others have more jobs there than was to be expected.
                    self._list_calls[queue] = calls * 2
                    last += missing
                    return
        self._list_calls[queue] = calls
        last += missing

    # Arrays

    def _samples(self, now: float) -> Iterator[str]:
        """One child that waits, of each array that has such, now and then."""
        for parent, array in self._arrays.items():
            if array.parent and (array.parent.counts or {}).get("RUNNABLE") and now - array.sampled >= _SAMPLE_EVERY_S:
                array.sampled = now
                for index in array.open():
                    if index in array.ours and array.states[index] < _RUNNING:
                        yield f"{parent}:{index}"
                        break

    def _look(
        self,
        parent: str,
        array: _Array,
        job: BatchJob,
        now: float,
        unwanted: Collection[str],
        news: list[tuple[str, BatchJob | None]],
        last: list[str],
    ) -> tuple[int, ...]:
        """What the parent's counts say. The counts if children have to be listed; what is to be described goes to `last`."""
        counts = _counts(job)
        if len(array.states) != job.size:
            array.states = bytearray(job.size)
            array.audited = array.sampled = now
        if array.parent is None or array.parent.counts != job.counts:
            self._moved = True
        array.parent = job
        if now - array.audited >= _AUDIT_EVERY_S:
            array.audited = now
            array.settled = array.asked = ()
            last += (f"{parent}:{index}" for index in array.open() if array.states[index] == _RUNNING)
        if counts == array.settled:
            return ()
        if counts != array.asked:
            array.asked, array.tries = counts, 0
        array.tries += 1
        if array.tries > _TRIES:
            array.settled = counts
            return ()
        known = array.known()
        left = job.size - known[2] - known[3]
        succeeded, failed, running = counts[2] - known[2], counts[3] - known[3], counts[1]
        if sum(counts) != job.size or succeeded < 0 or failed < 0:
            # Summed up late. If it is over, there is no later.
            last += (f"{parent}:{index}" for index in array.open() if job.over)
        elif succeeded == left:
            self._all(parent, array, "SUCCEEDED", news)
            array.settled = counts
        elif failed == left and all(f"{parent}:{index}" in unwanted for index in array.open() if index in array.ours):
            self._all(parent, array, "FAILED", news)
            array.settled = counts
        elif not succeeded and not failed and running == left:
            self._all(parent, array, "RUNNING", news)
            array.settled = counts
        elif not succeeded and not failed and running == known[1]:
            array.settled = counts
        elif not succeeded and not failed and running == 0:
            # Their hosts went away.
            last += (f"{parent}:{index}" for index in array.open() if array.states[index] == _RUNNING)
        else:
            lists = (_calls(counts[2]) if succeeded else 0) + (_calls(counts[3]) if failed else 0)
            if left / DESCRIBE_PAGE > max(lists, 1):
                return counts
            last += (f"{parent}:{index}" for index in array.open())
        return ()

    def _all(self, parent: str, array: _Array, status: str, news: list[tuple[str, BatchJob | None]]) -> None:
        """All children that are not over are in this state."""
        code = _CODES[status]
        for index in array.open():
            if array.states[index] != code:
                array.states[index] = code
                if index in array.ours:
                    self._news = True
                    news.append((f"{parent}:{index}", _child(array, BatchJob(f"{parent}:{index}", "", status, attempts=None))))

    def _list_array(
        self, parent: str, array: _Array, counts: tuple[int, ...], unwanted: Collection[str], last: list[str]
    ) -> Asking:
        """The states whose counts changed: what ended first, and what runs if that does not explain the rest."""
        bad = 0
        for status, count in (("SUCCEEDED", counts[2]), ("FAILED", counts[3])):
            code, token = _CODES[status], ""
            new = count - array.states.count(code)
            while new > 0:
                answer = yield Children(parent, status, token)
                assert isinstance(answer, tuple)
                rows, token = answer
                news: list[tuple[str, BatchJob | None]] = []
                for job in rows:
                    index = split(job.id)[1]
                    if not 0 <= index < len(array.states) or array.states[index] >= _SUCCEEDED:
                        continue
                    new -= 1
                    if code == _FAILED and index in array.ours and job.id not in unwanted:
                        # Why is what a person will read: a row does not tell it all.
                        last.append(job.id)
                        bad += array.states[index] == _RUNNING
                    else:
                        self._set(array, index, code, job, news)
                self._tell(news)
                if not token:
                    break
        if array.states.count(_RUNNING) - bad != counts[1]:
            yield from self._list_running(parent, array, last)

    def _list_running(self, parent: str, array: _Array, last: list[str]) -> Asking:
        gone = {index for index, code in enumerate(array.states) if code == _RUNNING}
        token = ""
        while True:
            answer = yield Children(parent, "RUNNING", token)
            assert isinstance(answer, tuple)
            rows, token = answer
            news: list[tuple[str, BatchJob | None]] = []
            for job in rows:
                index = split(job.id)[1]
                gone.discard(index)
                if 0 <= index < len(array.states) and array.states[index] < _RUNNING:
                    self._set(array, index, _RUNNING, job, news)
            self._tell(news)
            if not token:
                break
        # Ended meanwhile, or its host went away.
        last += (f"{parent}:{index}" for index in gone)

    def _set(self, array: _Array, index: int, code: int, job: BatchJob, news: list[tuple[str, BatchJob | None]]) -> None:
        array.states[index] = code
        self._moved = True
        if index in array.ours:
            self._news = True
            news.append((job.id, _child(array, job)))

    # Either

    def _described(self, job_id: str, job: BatchJob | None, news: list[tuple[str, BatchJob | None]], last: list[str]) -> None:
        """One answer of DescribeJobs about a single job or a child. A child that can never run has all others asked about."""
        if job is not None:
            self._note(job_id, _CODES.get(job.status, _IDLE))
        parent, index = split(job_id)
        array = self._arrays.get(parent) if index >= 0 else None
        if job is not None and array and job.never_fits:
            last += (f"{parent}:{other}" for other in array.open() if other != index and array.states[other] < _RUNNING)
        if job_id in self._followed:
            news.append((job_id, job))

    def heard(self, job_id: str, status: str) -> None:
        """An event has told this: it is news no more."""
        news = self._news
        if job_id in self._followed:
            self._note(job_id, _CODES.get(status, _IDLE))
        self._news = news

    def _note(self, job_id: str, code: int) -> None:
        parent, index = split(job_id)
        if index < 0:
            before = self._singles.get(job_id, code)
            if job_id in self._singles:
                self._singles[job_id] = code
        elif (array := self._arrays.get(parent)) and index < len(array.states) and array.states[index] < _SUCCEEDED:
            before = array.states[index]
            array.states[index] = code
        else:
            return
        if before != code:
            self._moved = True
            self._news |= before != _UNKNOWN


def split(job_id: str) -> tuple[str, int]:
    """An array's id and the child's index; -1 for a job that is no child."""
    parent, colon, index = job_id.rpartition(":")
    return (parent, int(index)) if colon and index.isdecimal() else (job_id, -1)


def pages(ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The ids, as many together as DescribeJobs takes."""
    wanted = tuple(ids)
    return (wanted[start : start + DESCRIBE_PAGE] for start in range(0, len(wanted), DESCRIBE_PAGE))


def _counts(parent: BatchJob) -> tuple[int, ...]:
    counts = parent.counts or {}
    idle = sum(count for status, count in counts.items() if _CODES.get(status, _IDLE) == _IDLE)
    return idle, counts.get("RUNNING", 0), counts.get("SUCCEEDED", 0), counts.get("FAILED", 0)


def _calls(rows: int) -> int:
    return -(-rows // LIST_PAGE)


def _child(array: _Array, job: BatchJob) -> BatchJob:
    """A child with what is the same for the whole array."""
    parent = array.parent
    if parent is None or (job.described and job.attempts is not None):
        return job
    return dataclasses.replace(job, cpus=parent.cpus, memory_mib=parent.memory_mib, described=False)
