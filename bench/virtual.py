"""A clock that skips what nobody works in: real threads, real locks, and waits that take no longer than the work between them.

Inside `Clock.installed()` the process's `time.time`, `time.monotonic`, `time.sleep` and every timed wait on a threading.Condition
(and so on an Event, a Future, a queue.Queue) follow this clock. It runs as real time does while any thread works; when none
does, it jumps to the earliest moment that somebody waits for. An hour of polls so takes the CPU time of the polls.

What is measured by it: the program's own work counts in full, the waits as long as they would be. Only this process is seen: what
other processes do in the meantime takes no time. Not for SimpleQueue.get with a limit, which waits in C.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

_TICK_S = 0.0005
# CPU time within a tick below which the process looks idle; then its threads' states decide.
_QUIET_S = 0.00005
_EPOCH = 1_800_000_000.0

_real_monotonic, _real_sleep, _real_wait = time.monotonic, time.sleep, threading.Condition.wait


class _Alarm:
    """One timed wait: the lock that its thread sleeps on, and whether its time came first."""

    __slots__ = ("done", "lock", "rang")

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.rang = self.done = False


class Clock:
    """`now` is in seconds since the epoch; `skipped_s` is how much of it nobody had to wait for."""

    def __init__(self) -> None:
        self.skipped_s = 0.0
        self._begin = _real_monotonic()
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._over = False

    def monotonic(self) -> float:
        return _real_monotonic() + self.skipped_s

    def time(self) -> float:
        return _EPOCH + self.monotonic() - self._begin

    def sleep(self, seconds: float) -> None:
        lock = threading.Lock()
        lock.acquire()
        self._set(lock, seconds)
        lock.acquire()

    @contextlib.contextmanager
    def installed(self) -> Iterator[Clock]:
        """This process lives by this clock. For one block of a program that does nothing else meanwhile."""
        before = time.time, time.monotonic, time.sleep
        time.time, time.monotonic, time.sleep = self.time, self.monotonic, self.sleep
        threading._time = queue.time = self.monotonic  # type: ignore[attr-defined,assignment]
        clock = self

        def wait(condition: Any, timeout: float | None = None) -> bool:
            if timeout is None or timeout <= 0:
                return _real_wait(condition, timeout)
            return clock._wait(condition, timeout)

        threading.Condition.wait = wait  # type: ignore[method-assign]
        thread = threading.Thread(target=self._run, name="clock", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over = True
            time.time, time.monotonic, time.sleep = before
            threading._time = queue.time = _real_monotonic  # type: ignore[attr-defined]
            threading.Condition.wait = _real_wait  # type: ignore[method-assign]
            with self._lock:
                for _, _, alarm in self._alarms:
                    self._ring(alarm)

    def _set(self, lock: Any, seconds: float) -> _Alarm:
        alarm = _Alarm(lock)
        with self._lock:
            heapq.heappush(self._alarms, (self.monotonic() + seconds, next(self._order), alarm))
        return alarm

    def _wait(self, condition: Any, timeout: float) -> bool:
        """Condition.wait, as the standard library has it, but for who wakes the thread when its time has come."""
        if not condition._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        lock = threading.Lock()
        lock.acquire()
        condition._waiters.append(lock)
        saved = condition._release_save()
        alarm = self._set(lock, timeout)
        try:
            lock.acquire()
            alarm.done = True
            if alarm.rang:
                with contextlib.suppress(ValueError):
                    condition._waiters.remove(lock)
            return not alarm.rang
        finally:
            condition._acquire_restore(saved)

    @staticmethod
    def _ring(alarm: _Alarm) -> None:
        if not alarm.done:
            alarm.rang = True
            # A notify may have come at this very moment.
            with contextlib.suppress(RuntimeError):
                alarm.lock.release()

    def _run(self) -> None:
        myself = threading.get_native_id()
        while not self._over:
            before = time.process_time() - time.thread_time()
            _real_sleep(_TICK_S)
            # Looked at twice, and the CPU time of that counts: one look misses a thread that is made, or that gets Python's lock
            # from another one, while the threads are read one after the other.
            idle = not _working(myself) and not _working(myself) and time.process_time() - time.thread_time() - before < _QUIET_S
            with self._lock:
                while self._alarms and self._alarms[0][2].done:
                    heapq.heappop(self._alarms)
                if not self._alarms:
                    continue
                left = self._alarms[0][0] - self.monotonic()
                if left > 0 and idle:
                    self.skipped_s += left
                while self._alarms and self._alarms[0][0] <= self.monotonic():
                    self._ring(heapq.heappop(self._alarms)[2])


def _working(myself: int) -> bool:
    """Whether any other thread of this process runs, could run, or waits for a disk (proc(5): states R and D)."""
    for name in os.listdir("/proc/self/task"):
        if int(name) == myself:
            continue
        with contextlib.suppress(OSError), open(f"/proc/self/task/{name}/stat", "rb") as file:
            if file.read().rpartition(b") ")[2][:1] in (b"R", b"D"):
                return True
    return False
