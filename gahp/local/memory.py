"""How much memory the processes below a given one use, and who gets told when it is too much.

One pass over /proc serves all attempts. Counted is what a container's memory limit would count of a process: its private pages.
Pages shared by forks are counted once only in the second, precise look, which is taken before anyone is killed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PERIOD_S = 0.1


def processes() -> dict[int, list[int]]:
    """The children of every process of this machine, by their parent's id."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name of the program stands in parentheses and may hold anything.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    return children


def tree(root: int, children: dict[int, list[int]]) -> list[int]:
    """`root` and all processes below it."""
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def private_bytes(pid: int) -> int:
    """Resident pages that no file backs; an upper bound, since forks share pages until they write. 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
        return max(0, int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def proportional_bytes(pid: int) -> int:
    """Anonymous and shared memory, shared pages divided by those who share them. 0 if it is gone; dearer than `private_bytes`."""
    total = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith((b"Pss_Anon:", b"Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return total


class Watch:
    """Looks at every watched tree ten times a second, and calls back once for one that has more than its limit."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[int, Callable[[], None]]] = {}
        self._change = threading.Condition()
        threading.Thread(target=self._loop, name="memory", daemon=True).start()

    def add(self, root: int, limit_bytes: int, exceeded: Callable[[], None]) -> None:
        with self._change:
            self._watched[root] = (limit_bytes, exceeded)
            self._change.notify()

    def remove(self, root: int) -> None:
        with self._change:
            self._watched.pop(root, None)

    def _loop(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._watched)
                watched = dict(self._watched)
            children = processes()
            for root, (limit, exceeded) in watched.items():
                if self._over(tree(root, children), limit):
                    self.remove(root)
                    exceeded()
            time.sleep(_PERIOD_S)

    @staticmethod
    def _over(pids: list[int], limit: int) -> bool:
        return sum(map(private_bytes, pids)) > limit and sum(map(proportional_bytes, pids)) > limit
