"""What to ask AWS Batch about the jobs followed, and what its answers mean: decisions by value, without a call, clock or thread.

Single jobs are described a hundred a call, or listed by status where that is fewer calls. Of an array only the parent is
described: its count of children by status says it for all of them when they are of one mind; when not, the states whose counts
changed are listed, or what still runs, or the children that are not over described, whichever is fewer calls. One byte is kept
for a child.
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

# Late events about jobs that are over are known for ours by that.
_LATELY = 10000

# While of many jobs none has ended for so many sweeps, each next one waits so much longer; after one that was submitted or
# started, which is further from its end, most of these count as past. Jobs of minutes then cost fewer calls, and the wait is over
# with the first that ends, so that only the first few are told late: no more than one in twenty of those that end within a
# minute. A few jobs, of which each may hold up a DAG, are a call or two.
_MANY = 200
_QUIET_SWEEPS = 6
_QUIET_SWEEPS_PAST = 5
_SLOWER = 1.75
# While none runs none can end: it has to start before.
_SLOWER_WAITING = 3.0
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


Question = Union[Describe, Children, Listed]  # noqa: UP007  an alias is evaluated, and Python 3.10 has no lazy ones
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
        self._lately: dict[str, None] = {}  # followed no more, oldest first
        self._arrays: dict[str, _Array] = {}
        self._list_calls: dict[str, int] = {}  # by queue: how many the last listing took
        self._quiet = _QUIET_SWEEPS_PAST
        self._moved = self._ended = self._news = False
        self._found: list[tuple[str, BatchJob | None]] = []  # to be told after this answer
        self._last: list[str] = []  # to be described at the end of this round
        self._looked: list[_Array] = []  # whose counts are not explained yet
        self._unwanted: Collection[str] = ()

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
            self._quiet = min(self._quiet, _QUIET_SWEEPS_PAST)
        self._followed = wanted

    def follows(self, job_id: str) -> bool:
        return job_id in self._followed

    def followed_lately(self, job_id: str) -> bool:
        return job_id in self._lately

    def has_news(self, ids: Collection[str]) -> bool:
        """Whether any of `ids` is not followed yet: what was just submitted moves."""
        return any(job_id not in self._followed for job_id in ids)

    def doubt(self, job_id: str) -> None:
        """Follow this job as if for the first time."""
        self._forget(job_id)
        parent, index = split(job_id)
        if (array := self._arrays.get(parent)) and 0 <= index < len(array.states):
            array.states[index] = _UNKNOWN  # at once: whoever asks whether the array is over must not miss it
        self._followed.discard(job_id)

    def _forget(self, job_id: str) -> None:
        self._lately[job_id] = None
        if len(self._lately) > _LATELY:
            del self._lately[next(iter(self._lately))]
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
        if self._quiet < _QUIET_SWEEPS or len(self._followed) <= _MANY:
            return interval_s
        return interval_s * (_SLOWER_WAITING if self._all_wait() else _SLOWER)

    def _all_wait(self) -> bool:
        """Whether nothing of all that is followed runs, or is about to, as far as is known."""
        arrays, begun = self._arrays.values(), ("STARTING", "RUNNING")
        return (
            all(code == _IDLE for code in self._singles.values())
            and all(array.parent and not any((array.parent.counts or {}).get(status) for status in begun) for array in arrays)
            and not any(array.states.count(_RUNNING) for array in arrays)
        )

    def whole(self, parent: str, unwanted: Collection[str]) -> bool:
        """Whether `unwanted` has every child of this array that may not be over: then its parent can be ended for them."""
        array = self._arrays.get(parent)
        return array is not None and len(array.states) > 0 and all(f"{parent}:{i}" in unwanted for i in array.open())

    def round(
        self, now: float, queue_of: Callable[[str], str], closely: Collection[str] = (), unwanted: Collection[str] = ()
    ) -> Asking:
        """One round of questions; every answer's news is told before the next question. `closely`: jobs to be described whatever
        the counts say. `unwanted`: how these end need not be told in detail."""
        self._moved = self._ended = self._news = False
        self._last, self._looked, self._unwanted = [], [], unwanted
        listing = self._queues_to_list(queue_of)
        singles = [job_id for job_id in self._singles if not listing or queue_of(job_id) not in listing]
        close = [job_id for job_id in closely if job_id in self._followed]
        doubtful: list[tuple[str, _Array, tuple[int, ...]]] = []
        for page in pages(self._first([*self._arrays, *singles, *close, *self._samples(now)])):
            answer = yield Describe(page)
            assert isinstance(answer, dict)
            for job_id in page:
                job, array = answer.get(job_id), self._arrays.get(job_id)
                if array is None:
                    self._described(job_id, job)
                elif job is None or not job.size:
                    self._last += (f"{job_id}:{index}" for index in array.ours)
                elif counts := self._look(job_id, array, job, now):
                    doubtful.append((job_id, array, counts))
            self._flush()
        for queue, ids in listing.items():
            yield from self._list_queue(queue, ids)
        for parent, array, counts in doubtful:
            yield from self._list_array(parent, array, counts)
        for page in pages(dict.fromkeys(self._last)):
            answer = yield Describe(page)
            assert isinstance(answer, dict)
            for job_id in page:
                self._described(job_id, answer.get(job_id))
            self._flush()
        for array in self._looked:
            array.tries += 1
        most = _QUIET_SWEEPS_PAST if self._moved else _QUIET_SWEEPS
        self._quiet = 0 if self._ended else min(self._quiet + 1, most)

    def _first(self, ids: list[str]) -> Iterable[str]:
        """What to describe to begin with. While jobs end: instead of a parent its children that are not over, where they find
        room on a page that is asked for anyway, for they would be asked about next."""
        asked = dict.fromkeys(ids)
        room = -len(asked) % DESCRIBE_PAGE
        for parent, array in self._arrays.items() if not self._quiet else ():
            if 0 < len(array.states) - sum(array.known()[2:]) <= room + 1:
                del asked[parent]
                asked |= dict.fromkeys(f"{parent}:{index}" for index in array.open())
                room = -len(asked) % DESCRIBE_PAGE
        return asked

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

    def _list_queue(self, queue: str, ids: list[str]) -> Asking:
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
                for job in rows:
                    if job.id in missing:
                        del missing[job.id]
                        if self._singles.get(job.id) != _CODES[status] or job.status == "RUNNABLE":
                            self._note(job.id, _CODES[status])
                            self._found.append((job.id, job))
                self._flush()
                if not token:
                    break
                if calls > len(ids) / DESCRIBE_PAGE:
                    # Others have more jobs there than was to be expected.
                    self._list_calls[queue] = calls * 2
                    self._last += missing
                    return
        self._list_calls[queue] = calls
        self._last += missing

    # Arrays

    def _flush(self) -> None:
        found, self._found = self._found, []
        self._tell(found)

    def _samples(self, now: float) -> Iterator[str]:
        """One child that waits, of each array that has such, now and then."""
        for parent, array in self._arrays.items():
            if array.parent and (array.parent.counts or {}).get("RUNNABLE") and now - array.sampled >= _SAMPLE_EVERY_S:
                array.sampled = now
                for index in array.open():
                    if index in array.ours and array.states[index] < _RUNNING:
                        yield f"{parent}:{index}"
                        break

    def _look(self, parent: str, array: _Array, job: BatchJob, now: float) -> tuple[int, ...]:
        """What the parent's counts say; the counts if children have to be listed."""
        counts = _counts(job)
        if len(array.states) != job.size:
            array.states = bytearray(job.size)
            array.audited = array.sampled = now
        before = _counts(array.parent) if array.parent else counts
        self._moved |= array.parent is None or array.parent.counts != job.counts
        self._ended |= counts[2:] != before[2:]
        array.parent = job
        if now - array.audited >= _AUDIT_EVERY_S:
            array.audited = now
            array.settled = array.asked = ()
            self._ask_running(parent, array)
        if counts == array.settled:
            return ()
        array.settled = ()
        if counts != array.asked:
            array.asked, array.tries = counts, 0
        self._looked.append(array)
        known = array.known()
        open_ = job.size - known[2] - known[3]
        succeeded, failed = counts[2] - known[2], counts[3] - known[3]
        if array.tries >= _TRIES:
            array.settled = counts
        elif sum(counts) != job.size or succeeded < 0 or failed < 0:
            # Summed up late. If it is over, there is no later.
            self._last += (f"{parent}:{index}" for index in array.open() if job.over)
        elif status := self._one_mind(parent, array, (counts[1], succeeded, failed), open_):
            self._all(parent, array, status)
            array.settled = counts
        elif succeeded or failed or counts[1] not in (0, known[1]):
            lists = (_calls(counts[2]) if succeeded else 0) + (_calls(counts[3]) if failed else 0)
            if self._rather_running(array, counts):
                lists = _calls(counts[1]) + 1
            if open_ / DESCRIBE_PAGE > max(lists, 1):
                return counts
            self._last += (f"{parent}:{index}" for index in array.open())
        elif counts[1] == known[1]:
            array.settled = counts
        else:
            # Their hosts went away.
            self._ask_running(parent, array)
        return ()

    def _one_mind(self, parent: str, array: _Array, new: tuple[int, int, int], open_: int) -> str:
        """The status of all children not known to be over, of which so many run, succeeded, failed; "" if it is not one, or does
        not tell enough."""
        running, succeeded, failed = new
        if succeeded == open_:
            return "SUCCEEDED"
        if running == open_:
            return "RUNNING"
        if failed == open_ and all(f"{parent}:{i}" in self._unwanted for i in array.open() if i in array.ours):
            return "FAILED"
        return ""

    def _ask_running(self, parent: str, array: _Array) -> None:
        self._last += (f"{parent}:{index}" for index in array.open() if array.states[index] == _RUNNING)

    def _all(self, parent: str, array: _Array, status: str) -> None:
        """All children that are not over are in this state."""
        code = _CODES[status]
        for index in array.open():
            if array.states[index] != code:
                array.states[index] = code
                if index in array.ours:
                    self._news = True
                    job_id = f"{parent}:{index}"
                    self._found.append((job_id, _child(array, BatchJob(job_id, "", status, attempts=None, described=False))))

    def _list_array(self, parent: str, array: _Array, counts: tuple[int, ...]) -> Asking:
        """The states whose counts changed: what ended first, and what runs if that does not explain the rest. Or what runs only,
        where the others can only have ended well and that is fewer calls."""
        if self._rather_running(array, counts):
            yield from self._list_rest(parent, array)
            return
        bad = asked = 0
        for status, count in (("SUCCEEDED", counts[2]), ("FAILED", counts[3])):
            code, token = _CODES[status], ""
            more = count > array.states.count(code)
            while more:
                answer = yield Children(parent, status, token)
                assert isinstance(answer, tuple)
                rows, token = answer
                for job in rows:
                    index = split(job.id)[1]
                    if not 0 <= index < len(array.states) or array.states[index] >= _SUCCEEDED:
                        continue
                    if code == _FAILED and index in array.ours and job.id not in self._unwanted:
                        # Why is what a person will read: a row does not tell it all.
                        self._last.append(job.id)
                        asked += 1
                        bad += array.states[index] == _RUNNING
                    else:
                        self._set(array, index, code, job)
                self._flush()
                # To the end: what has ended since the parent was described is listed among those that had by then.
                more = bool(token)
        # Those that have ended since the parent was described ran then, and that explains the difference.
        since = array.states.count(_SUCCEEDED) + array.states.count(_FAILED) + asked - counts[2] - counts[3]
        if array.states.count(_RUNNING) - bad != counts[1] - since:
            gone = {index for index, code in enumerate(array.states) if code == _RUNNING}
            yield from self._list_running(parent, array, gone)
            # Ended meanwhile, or its host went away.
            self._last += (f"{parent}:{index}" for index in gone)

    @staticmethod
    def _rather_running(array: _Array, counts: tuple[int, ...]) -> bool:
        """Whether to list what runs tells who has ended well, and takes no more calls, one to make sure counted, than to list
        those."""
        idle, running, succeeded, failed = counts
        return not idle and failed == array.states.count(_FAILED) and _calls(running) + 1 <= _calls(succeeded)

    def _list_rest(self, parent: str, array: _Array) -> Asking:
        """Who runs no more has ended well, if the parent says afterwards that no child waits, and no more than before failed."""
        gone = set(array.open())
        yield from self._list_running(parent, array, gone)
        answer = yield Describe((parent,))
        assert isinstance(answer, dict)
        job = answer.get(parent)
        idle, _, succeeded, failed = _counts(job) if job else (1, 0, 0, 0)
        _, _, before, bad = array.known()
        gone &= set(array.open())  # events may have told of some meanwhile
        if not idle and failed == bad and succeeded >= before + len(gone):
            for index in gone:
                job_id = f"{parent}:{index}"
                self._set(array, index, _SUCCEEDED, BatchJob(job_id, "", "SUCCEEDED", attempts=None, described=False))
            self._flush()
        else:
            self._last += (f"{parent}:{index}" for index in gone)

    def _list_running(self, parent: str, array: _Array, gone: set[int]) -> Asking:
        """What runs; takes it out of `gone`."""
        token = ""
        while True:
            answer = yield Children(parent, "RUNNING", token)
            assert isinstance(answer, tuple)
            rows, token = answer
            for job in rows:
                index = split(job.id)[1]
                gone.discard(index)
                if 0 <= index < len(array.states) and array.states[index] < _RUNNING:
                    self._set(array, index, _RUNNING, job)
            self._flush()
            if not token:
                return

    def _set(self, array: _Array, index: int, code: int, job: BatchJob) -> None:
        array.states[index] = code
        self._moved = True
        if index in array.ours:
            self._news = True
            self._found.append((job.id, _child(array, job)))

    # Either

    def _described(self, job_id: str, job: BatchJob | None) -> None:
        """One answer of DescribeJobs about a single job or a child. A child that can never run has all others asked about."""
        if job is not None:
            self._note(job_id, _CODES.get(job.status, _IDLE))
        parent, index = split(job_id)
        array = self._arrays.get(parent) if index >= 0 else None
        if job is not None and array and job.never_fits:
            self._last += (f"{parent}:{other}" for other in array.open() if other != index and array.states[other] < _RUNNING)
        if job_id in self._followed:
            self._found.append((job_id, job))

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
            self._ended |= code >= _SUCCEEDED
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
