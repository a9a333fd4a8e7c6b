"""Prints what the journal's group commit costs a submit: the time from recording a run to its being on disk. Asserts nothing.

50 runs are in flight at a time, as a gridmanager sends them. Beside it, for comparison: a commit for each run by itself, and the
same file system's plain write with fsync. Arguments: the number of runs (default 2000), the folder (default: a temporary one).
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time

from gahp.journal import Journal, Run
from gahp.model import JobRequest

REQUEST = JobRequest(executable="/bin/true", iwd="/tmp", directory="bench")


def record(journal: Journal, count: int, in_flight: int) -> tuple[float, list[float]]:
    """Runs a second, and the milliseconds of each."""
    room = threading.Semaphore(in_flight)
    times: list[float] = []

    def recorded(begin: float) -> None:
        times.append(1000 * (time.perf_counter() - begin))
        room.release()

    begin = time.perf_counter()
    for number in range(count):
        room.acquire()
        run = Run(name=f"{in_flight}-{number}", directory=f"{in_flight}-{number}", digest="", generation=0)
        sent = time.perf_counter()
        journal.insert(run, REQUEST).add_done_callback(lambda done, sent=sent: recorded(sent))  # type: ignore[misc]
    for _ in range(in_flight):
        room.acquire()
    return count / (time.perf_counter() - begin), sorted(times)


def sync(folder: str, count: int = 200) -> list[float]:
    """Milliseconds of writing a page and syncing it."""
    times = []
    with open(os.path.join(folder, "page"), "wb", buffering=0) as file:
        for _ in range(count):
            begin = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - begin))
    return sorted(times)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-", dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        times = sync(folder)
        print(f"{'a page written and synced':40} p50 {statistics.median(times):6.2f} ms")
        journal = Journal(os.path.join(folder, "state"))
        for in_flight in (1, 50):
            rate, times = record(journal, count if in_flight > 1 else count // 10, in_flight)
            p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
            print(f"{f'a run recorded, {in_flight} in flight':40} p50 {p50:6.2f} ms, p99 {p99:6.2f} ms, {rate:.0f} a second")
        journal.close()


if __name__ == "__main__":
    main()
