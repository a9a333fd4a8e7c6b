"""Looks array jobs up by name, once for all of their children: after a lost reply or a crash thousands ask at a time."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

from gahp.batch import Batch

_REMEMBERED = 1000


class Parents:
    """What Batch listed last under the name of each array job. Threads may share it."""

    def __init__(self, batch: Batch, good_for_s: float, clock: Callable[[], float]) -> None:
        self._batch = batch
        self._good_for_s = good_for_s
        self._clock = clock
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._known: collections.OrderedDict[str, tuple[float, str]] = collections.OrderedDict()

    def find(self, name: str, queue: str) -> tuple[float, str]:
        """When Batch was asked for the array job of that name, and its id; "" when none was listed then."""
        with self._lock:
            asking = self._locks.setdefault(name, threading.Lock())
        with asking:
            asked, job_id = self._known.get(name, (float("-inf"), ""))
            if not job_id and self._clock() - asked >= self._good_for_s:
                asked = self._clock()
                job_id = self._batch.find(name, queue)
        with self._lock:
            self._known[name] = asked, job_id
            self._known.move_to_end(name)
            if len(self._known) > _REMEMBERED:
                forgotten, _ = self._known.popitem(last=False)
                self._locks.pop(forgotten, None)
        return asked, job_id
