"""A lane: a few threads that carry out tasks when they are due, so that a wait on AWS holds up nothing but its own kind.

Knows nothing of jobs or AWS. A task that has to be tried again is put back with a delay and takes up no thread meanwhile.
"""

from __future__ import annotations

import _thread
import contextlib
import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

log = logging.getLogger(__name__)

Task = Callable[[], None]
_BEGIN_S = 10.0
_reserve = [bytearray(2 * 2**20)]  # given up when memory runs out, so that the end has some

# While a thread of a lane is at work, another one takes a task only when none has ended for so long: then it waits for something.
# Tasks that only compute have nothing from a second thread but the interpreter's lock going to and fro, a third of the time.
_PATIENCE_S = 0.005


def backoff(tries: int, first: float = 0.5, most: float = 60.0) -> float:
    """Seconds to wait before try number `tries` + 1: doubling up to `most`, with jitter so that many waiters spread out."""
    return min(most, first * 2.0 ** min(tries, 16)) * random.uniform(0.5, 1.0)  # noqa: S311  jitter needs no secrecy


def after(future: Future[Any], work: Callable[[Future[Any]], object]) -> None:
    """Call `work` with a future when that is done. Without memory for it this ends as a thread does that dies of it:
    concurrent.futures would log it and go on, and what was to follow would never come."""

    def follow(done: Future[Any]) -> None:
        try:
            with mortal():
                work(done)
        except MemoryError as error:
            _died(error)

    future.add_done_callback(follow)


@contextlib.contextmanager
def mortal() -> Iterator[None]:
    """Around what a thread does: a MemoryError that ends it leaves it enough memory to be told of."""
    try:
        yield
    except MemoryError:
        _reserve.clear()
        raise


def _died(error: BaseException) -> None:
    threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread())))


def _start(work: Task, name: str) -> None:
    """Start a daemon thread. Raises RuntimeError when there is none to be had, MemoryError when it finds no memory to begin with:
    of that nobody would hear, and Thread.start would wait for its beginning for ever."""
    begun = threading.Event()

    def run() -> None:
        begun.set()
        threading.current_thread().name = name
        try:
            with mortal():
                work()
        except BaseException as error:
            _died(error)

    _thread.start_new_thread(run, ())
    if not begun.wait(_BEGIN_S):
        raise MemoryError(f"the thread {name} does not begin")


class Lane:
    """`threads` daemon threads and a heap of tasks by due time. A task must handle its own errors; what escapes is
    logged, but for the want of memory."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._most = threads
        self._threads = 0
        self._idle = self._working = 0
        self._watched = False  # an idle thread sees to it that what is due is not left for long
        self._moved = 0.0  # when a task was begun or ended last
        self._tasks: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        self._change = threading.Condition()
        self._closed = False

    def put(self, task: Task, delay: float = 0.0) -> None:
        """Have `task` carried out in `delay` seconds, or as soon after as a thread is free. After `close`: nothing."""
        with self._change:
            if self._closed:
                return
            heapq.heappush(self._tasks, (time.monotonic() + delay, next(self._order), task))
            self._call_one()

    def late_s(self) -> float:
        """For how long the next task has been due; 0.0 if none is."""
        with self._change:
            return max(0.0, time.monotonic() - self._tasks[0][0]) if self._tasks else 0.0

    def close(self) -> None:
        """Take no more tasks and drop those that have not begun. Does not wait for those that have."""
        with self._change:
            self._closed = True
            self._tasks.clear()
            self._change.notify_all()

    def _call_one(self) -> None:
        """Have one more thread look at the tasks; it is started only when no other is idle: an idle server has few."""
        if self._working and self._watched:
            return
        if self._idle:
            self._change.notify()
        elif self._threads < self._most:
            try:
                _start(self._work, f"{self._name}-{self._threads}")
            except RuntimeError as error:  # no memory or no thread left: those that are there take the task in their turn
                if not self._threads:
                    raise MemoryError(f"the lane {self._name} has no thread and gets none: {error}") from error
                return
            self._threads += 1

    def _work(self) -> None:
        task = self._next()
        while task is not None:
            try:
                task()
            except MemoryError:
                raise  # what the task was to put back may be lost: this thread dies, and with it the program
            except Exception:
                log.exception("a task of the lane %s failed", self._name)
            del task  # what it holds is not kept until the next one comes
            with self._change:
                self._working -= 1
            task = self._next(at_once=True)

    def _next(self, at_once: bool = False) -> Task | None:
        """The next task that is due; `at_once`: also when another thread has just taken one."""
        with self._change:
            while not self._closed:
                now = time.monotonic()
                wait = self._tasks[0][0] - now if self._tasks else None
                due = wait is not None and wait <= 0
                if due:
                    wait = 0.0 if at_once or not self._working else self._moved + _PATIENCE_S - now
                    if wait <= 0:
                        task = heapq.heappop(self._tasks)[2]
                        self._working += 1
                        self._moved = now
                        if self._tasks and self._tasks[0][0] <= now:
                            # Several that came while one idle thread woke up: it calls the next one, and that the one after.
                            self._call_one()
                        return task
                at_once = False
                self._watched |= due
                self._idle += 1
                self._change.wait(wait)
                self._idle -= 1
                if due:
                    self._watched = False
            return None
