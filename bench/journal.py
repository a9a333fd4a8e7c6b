"""Prints what the journal's group commit costs a submit: the time from recording a run to its being on disk. Asserts nothing.

50 runs are in flight at a time, as a gridmanager sends them. In turns with it the same on a RAM disk, where a sync costs nothing:
the difference is what the commit adds. For comparison one run in flight, which is a commit for each, and the same file system's
plain write with fsync. Arguments: the number of runs (default 2000), the folder (default: a temporary one).
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time

from gahp.journal import Journal
from gahp.model import JobRequest
from gahp.run import Run
from gahp.server import _SWITCH_S

RAMDISK = "/dev/shm"
TURNS = 7
REQUEST = JobRequest(executable="/bin/true", iwd="/tmp", directory="bench")


def record(journal: Journal, count: int, in_flight: int, turn: int) -> tuple[float, list[float]]:
    """Runs a second, and the milliseconds of each."""
    room = threading.Semaphore(in_flight)
    times: list[float] = []

    def recorded(begin: float) -> None:
        times.append(1000 * (time.perf_counter() - begin))
        room.release()

    begin = time.perf_counter()
    for number in range(count):
        room.acquire()
        name = f"{turn}-{in_flight}-{number}"
        run = Run(name=name, directory=name, digest="", generation=0)
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
    sys.setswitchinterval(_SWITCH_S)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    places = {"disk": sys.argv[2] if len(sys.argv) > 2 else None} | ({"RAM disk": RAMDISK} if os.access(RAMDISK, os.W_OK) else {})
    medians: dict[str, list[float]] = {place: [] for place in places}
    with contextlib.ExitStack() as stack:
        journals = {}
        for place, folder in places.items():
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="awsbatch-bench-", dir=folder))
            if place == "disk":
                print(f"{'a page written and synced':40} p50 {statistics.median(sync(name)):6.2f} ms")
            journals[place] = Journal(os.path.join(name, "state"))
            stack.callback(journals[place].close)
        for turn in range(TURNS):
            for place, journal in journals.items():
                for in_flight in (1, 50) if turn == 0 else (50,):
                    rate, times = record(journal, count if in_flight > 1 else count // 10, in_flight, turn)
                    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
                    what = f"a run recorded, {in_flight} in flight, {place}"
                    print(f"{what:40} p50 {p50:6.2f} ms, p99 {p99:6.2f} ms, {rate:5.0f} a second")
                medians[place].append(p50)
    if len(places) > 1:
        more = min(medians["disk"]) - min(medians["RAM disk"])
        print(f"{'the commit adds to it, 50 in flight':40} p50 {more:6.2f} ms, of the best of {TURNS} turns each")


if __name__ == "__main__":
    main()
