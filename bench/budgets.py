"""Part f: what the program may take: memory, CPU while nothing happens, time to start, threads, the wait for the journal, and the
time to list jobs from it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import commands, peers, simulated
from bench.driver import Gahp, submit_ads
from bench.report import Found, Row
from gahp.journal import Journal
from gahp.run import Run

FOLLOWED, GROWN, FINISHED, LISTED, ARRAY = 100_000, 1_000_000, 1_000_000, 10_000, 10_000
_SETTLE_S, _WATCH_S, _LIMIT_S = 5.0, 30.0, 120.0
_COMMIT_GOAL_MS = 5.0


def measure(followed: int = FOLLOWED, grown: int = GROWN, finished: int = FINISHED, listed: int = LISTED) -> Found:
    idle = _idle()
    few, fewer_threads = _following(followed, budget=True)
    many, more_threads = _following(grown, budget=False)
    threads = Row(
        "f", f"{grown:,} running jobs followed: threads", more_threads, "", fewer_threads, f"with {followed:,} jobs",
        "none for each job: no more", more_threads <= fewer_threads,
    )  # fmt: skip
    rows = [*idle, *few, *many, threads, *_starting(finished)]
    return Found([*rows, *_committing(min(3000, followed)), *_listing(listed)])


def _idle() -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as name,
        peers.endpoint() as aws,
        Gahp(peers.ours(), peers.our_environment(aws, Path(name)), name) as gahp,
    ):
        gahp.burst("BLAH_PING", ["awsbatch"], 1)
        memory = gahp.memory() / 1e6
        return [
            Row("f", "resident memory when idle", memory, "MB", goal="under 80 MB", met=memory < 80),
            Row("f", "greeting after exec", 1000 * gahp.greeting_s, "ms", goal="100 ms", met=gahp.greeting_s <= 0.1),
        ]


def _following(count: int, *, budget: bool) -> tuple[list[Row], int]:
    """`count` running jobs, in arrays as packing makes them, left by a GAHP that is no more; its threads too. `budget`: goals are
    for so many."""
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as name, peers.endpoint("--run", "86400") as aws:
        size = min(ARRAY, count)
        parents = aws.order("jobs", count=count // size, size=size)
        natives = [f"{parent}:{index}" for parent in parents for index in range(size)]
        fill(Path(name) / "state", len(natives), "SUBMITTED", natives)
        with Gahp(peers.ours(), peers.our_environment(aws, Path(name)), name) as gahp:
            begin = time.monotonic()
            gahp.burst("BLAH_PING", ["awsbatch"], 1)
            gahp.burst("BLAH_JOB_STATUS", [job_id(count - 1)], 1)
            taken_over = time.monotonic() - begin
            _settle(gahp)
            cpu, calls, begin = gahp.cpu_s(), _calls(aws), time.monotonic()
            time.sleep(_WATCH_S if count > 10_000 else 2.0)
            spent = time.monotonic() - begin
            share = 100 * (gahp.cpu_s() - cpu) / spent
            memory = gahp.memory() / 1e6
            threads = gahp.usage.num_threads()
            a_minute = 60 * (_calls(aws) - calls) / spent
            status = gahp.burst("BLAH_JOB_STATUS", [job_id(n) for n in range(0, count, max(1, count // 5000))], 50)
        what = f"{count:,} running jobs followed"
        rows = [
            Row("f", f"{what}: memory", memory, "MB", goal="under 250 MB", met=memory < 250)
            if budget
            else Row("f", f"{what}: memory", memory, "MB"),
            Row("f", f"{what}: share of a core", share, "%", goal="5 %", met=share <= 5)
            if budget
            else Row("f", f"{what}: share of a core", share, "%"),
            Row("f", f"{what}: AWS Batch calls a minute", a_minute, ""),
            Row("f", f"{what}: taken over from a dead GAHP", taken_over, "s"),
            Row("f", f"{what}: status, 50 in flight", status.rate, "/s"),
        ]
        return rows, threads


def _settle(gahp: Gahp) -> None:
    """Until it has gone quiet after the start: less than a tenth of a core, twice; or so for long enough."""
    end, quiet = time.monotonic() + _LIMIT_S, 0
    while time.monotonic() < end and quiet < 2:
        before = gahp.cpu_s()
        time.sleep(_SETTLE_S)
        quiet = quiet + 1 if gahp.cpu_s() - before < _SETTLE_S / 10 else 0


def _calls(aws: peers.Endpoint) -> int:
    return sum(count for name, count in aws.order("seen")["calls"].items() if name.startswith("batch:"))


def _starting(count: int) -> list[Row]:
    """Until the first answer that needs the journal: a status of a job that is over."""
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as name, peers.endpoint() as aws:
        fill(Path(name) / "state", count, "COMPLETED")
        environment = peers.our_environment(aws, Path(name))
        subprocess.run(peers.ours(), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        times = []
        for _ in range(3):
            begin = time.monotonic()
            with Gahp(peers.ours(), environment, name) as gahp:
                gahp.burst("BLAH_JOB_STATUS", [job_id(count // 2)], 1)
                times.append(time.monotonic() - begin)
                memory = gahp.memory() / 1e6
        empty = _start_up(environment, aws)
        what = f"a journal of {count:,} finished runs"
        return [
            Row(
                "f", f"start-up with {what}", min(times), "s", empty, "empty journal", "under 1 s", min(times) < 1,
                "exec to the first status; imports counted",
            ),
            Row("f", f"memory with {what}", memory, "MB"),
        ]  # fmt: skip


def _start_up(environment: dict[str, str], aws: peers.Endpoint) -> float:
    """The same with an empty journal: a status that is answered by a refusal."""
    times = []
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as name:
            begin = time.monotonic()
            with Gahp(peers.ours(), peers.our_environment(aws, Path(name)), name) as gahp:
                gahp.burst("BLAH_PING", ["awsbatch"], 1)
                times.append(time.monotonic() - begin)
    return min(times)


def _committing(count: int) -> list[Row]:
    """What the group commit adds to a submit at 50 in flight: the same journal where a sync costs nothing, on a RAM disk."""
    from bench.scale import RAMDISK  # noqa: PLC0415

    if not os.access(RAMDISK, os.W_OK):
        return []
    found: dict[str, list[float]] = {"disk": [], RAMDISK: []}
    for _ in range(2):
        for place, times in found.items():
            base = None if place == "disk" else place
            with tempfile.TemporaryDirectory(prefix="awsbatch-bench-", dir=base) as name:
                times.append(_submit_p50(Path(name), count))
    disk, memory = min(found["disk"]), min(found[RAMDISK])
    return [
        Row(
            "f", "journal on disk, submit's result, p50, 50 in flight", disk, "ms", memory, "journal on a RAM disk",
            f"{_COMMIT_GOAL_MS:g} ms more", disk - memory < _COMMIT_GOAL_MS,
        )
    ]  # fmt: skip


def _submit_p50(folder: Path, count: int) -> float:
    with peers.endpoint("--run", "86400") as aws, Gahp(peers.ours(), peers.our_environment(aws, folder), str(folder)) as gahp:
        gahp.burst("BLAH_PING", ["awsbatch"], 1)
        return gahp.burst(commands.SUBMIT, submit_ads(count, str(folder), "awsbatch"), 50).percentile(0.5)


def _listing(count: int) -> list[Row]:
    """What a person waits for: the whole list of jobs from the journal, nothing asked of AWS."""
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as name:
        fill(Path(name) / "state", count, "SUBMITTED")
        environment = {"PATH": os.environ["PATH"], "HOME": name, "CONDOR_CONFIG": "ONLY_ENV"}
        environment["_CONDOR_AWSBATCH_STATE_DIR"] = str(Path(name) / "state")
        times = []
        for _ in range(3):
            begin = time.monotonic()
            ran = subprocess.run([*peers.looks(), "q", "-journal"], env=environment, capture_output=True, text=True, check=True)
            times.append(time.monotonic() - begin)
            assert ran.stdout.splitlines()[-1].startswith(f"{count} job")
        what = f"condor_awsbatch q -journal of {count:,} jobs"
        return [Row("f", what, min(times), "s", goal="under 1 s", met=min(times) < 1, note="exec to its end; imports counted")]


# A journal with many runs


def job_id(number: int) -> str:
    """The id of the run of that number in a journal that was filled here."""
    return _run(number).job_id


def _run(number: int) -> Run:
    directory = f"home_bl_bench#{number}.0#1795000000"
    return Run(name=f"bench-{number}", directory=directory, digest="0" * 64, generation=0, created=1.8e9)


def fill(state: Path, count: int, run_state: str, native_ids: list[str] | None = None) -> None:
    """Write `count` runs into the journal in `state`, as the journal itself writes one, and many at once."""
    from gahp.blah import parse_submit  # noqa: PLC0415
    from gahp.protocol.lines import split  # noqa: PLC0415

    request = parse_submit(split(b"X 1 " + submit_ads(1, "/tmp", "awsbatch")[0].encode())[2])
    journal = Journal(str(state))
    journal.insert(_run(0), request).result()
    journal.close()
    with sqlite3.connect(state / "journal.sqlite") as database:
        cursor = database.execute("SELECT * FROM runs")
        columns = [column[0] for column in cursor.description]
        template: dict[str, Any] = dict(zip(columns, cursor.fetchone(), strict=True))
        template.update(state=run_state, confirmed=1, discarded=1, changed=time.time(), owner="0" * 16)
        if run_state == "COMPLETED":
            template["report"] = json.dumps({"state": 4, "exit_code": 0})
        else:
            template.update(started=1, sent=time.time(), sends=1, queue=simulated.QUEUE)
        database.execute("DELETE FROM runs")

        def rows() -> Any:
            for number in range(count):
                run = _run(number)
                row = {**template, "name": run.name, "directory": run.directory}
                if native_ids:
                    row["native_id"] = native_ids[number]
                    if "pack" in row:
                        row["pack"], row["child"] = native_ids[number].partition(":")[0], number % ARRAY
                yield list(row.values())

        marks = ", ".join("?" * len(columns))
        database.executemany(f"INSERT INTO runs ({', '.join(columns)}) VALUES ({marks})", rows())
    database.close()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
