"""Parts c, d and g: many jobs on a simulated account and a clock that skips idle time: calls, delays, memory, CPU, their growth.

Everything of ours is real but for AWS: gateway, journal on disk, threads, limits. One process, `python -m bench.scale CASE`,
measures one case and prints it as JSON, so that memory is that case's own.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import simulated
from bench.peers import SOURCE
from bench.report import Curve, Found, Row
from bench.virtual import Clock

# Round-trip times of the calls, in seconds, as a submit host in the same Region sees them.
LATENCY_S = {"submit_job": 0.03, "*": 0.015}
_LIMIT_S = 6 * 3600.0  # of the simulated clock
_LOOK_S = 5.0
_CASE_S = 420.0  # of real time, for one case
_LONG_CASE_S = 3 * 3600.0
RAMDISK = "/dev/shm"


@dataclasses.dataclass(frozen=True)
class Case:
    """`jobs` by `gahps` clients of one account, all submitted at once, of `run_s` to `run_s + spread_s` seconds; the account
    takes `limit` SubmitJob calls a second (0: any number). `latency`: calls take time. `submit_only`: until Batch has all."""

    jobs: int
    gahps: int = 1
    run_s: float = 600.0
    spread_s: float = 60.0
    start_s: float = 45.0
    limit: float = 50.0
    latency: bool = True
    submit_only: bool = False
    knobs: dict[str, str] = dataclasses.field(default_factory=dict)


def run(case: Case, limit_s: float = _CASE_S) -> dict[str, Any]:
    """Measure a case in a process of its own. Raises RuntimeError when that fails, or takes more than `limit_s` of real time."""
    words = json.dumps(dataclasses.asdict(case))
    command = [sys.executable, "-m", "bench.scale", words]
    try:
        done = subprocess.run(command, cwd=SOURCE, stdout=subprocess.PIPE, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not simulated within {limit_s:g} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"the simulation of {case} failed with {done.returncode}")
    return dict(json.loads(done.stdout))


class _Site:
    """The GAHPs of the case, each with a user's journal of its own, as if on hosts of their own."""

    def __init__(self, case: Case, folder: Path, clock: Clock) -> None:
        from gahp import site  # noqa: PLC0415

        self.s3 = simulated.S3(clock.time)
        pace = simulated.Pace(case.start_s, case.run_s, case.spread_s)
        self.batch = simulated.Batch(self.s3, clock.time, pace, case.limit)
        latency = LATENCY_S if case.latency else {}
        self.clients = [simulated.Client(service, self.batch.lock, clock.sleep, latency) for service in (self.batch, self.s3)]
        self.gateways = []
        for number in range(case.gahps):
            home = folder / f"host{number}"
            home.mkdir()
            self.gateways.append(self._open(site, home, case))

    def _open(self, site: Any, home: Path, case: Case) -> Any:
        from gahp.config import load  # noqa: PLC0415

        knobs = {
            "AWSBATCH_JOB_QUEUE": simulated.QUEUE,
            "AWSBATCH_JOB_DEFINITION": simulated.DEFINITION,
            "AWSBATCH_S3_URL": f"s3://{simulated.BUCKET}/condor",
            "AWSBATCH_REGION": simulated.REGION,
            "AWSBATCH_STATE_DIR": str(home / "state"),
            "AWSBATCH_LOG": "none",
            **case.knobs,
        }
        site.clients = lambda _: site.Clients(*self.clients)
        gateway = site.open_gateway(load(knobs.get))
        gateway.start()
        return gateway


def simulate(case: Case) -> dict[str, Any]:
    """All of it, in this process."""
    base = RAMDISK if os.access(RAMDISK, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="awsbatch-bench-", dir=base))
    clock = Clock()
    try:
        with clock.installed():
            return _measured(case, folder, clock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(case: Case, folder: Path, clock: Clock) -> dict[str, Any]:
    requests = _requests(case, folder)
    site = _Site(case, folder, clock)
    rss = _rss()
    begin, cpu = clock.monotonic(), time.process_time()
    futures = [site.gateways[n % case.gahps].submit(request) for n, request in enumerate(requests)]
    ids = [(n % case.gahps, future.result()) for n, future in enumerate(futures)]
    accepted = clock.monotonic() - begin
    # As the gridmanager does: whoever asks about a job has learnt its id.
    for number, job_id in ids:
        site.gateways[number].status(job_id).result()
    del futures, requests
    found: dict[str, Any] = {"jobs": case.jobs, "accepted_s": accepted}
    _until(lambda: site.batch.taken >= case.jobs, clock, 0.1)
    found["taken_s"] = site.batch.log[-1][0] - (clock.time() - (clock.monotonic() - begin))
    found["submit_cpu_s"] = time.process_time() - cpu
    found["followed_mb"] = (_rss() - rss) / 1e6
    if not case.submit_only:
        _until(lambda: _unfinished(folder) == 0, clock, _LOOK_S)
        found["delays_s"] = _delays(folder, site.batch)
    found |= {
        "makespan_s": clock.monotonic() - begin,
        "cpu_s": time.process_time() - cpu,
        "skipped_s": clock.skipped_s,
        "batch_calls": dict(site.batch.calls),
        "throttled": site.batch.throttled,
        "s3_calls": dict(site.s3.calls),
        "taken": site.batch.taken,
        "states": _states(folder),
        "held": [row[0] for row in _journals(folder, "SELECT report FROM runs WHERE state = 'HELD' LIMIT 3")],
        "peak_mb": _peak_mb(),
        "threads": len(os.listdir("/proc/self/task")),
    }
    return found


def _requests(case: Case, folder: Path) -> list[Any]:
    """The submit ads of one `queue N` of each client, as the server parses them."""
    from bench.driver import submit_ads  # noqa: PLC0415
    from gahp.blah import parse_submit  # noqa: PLC0415
    from gahp.protocol.lines import split  # noqa: PLC0415

    (folder / "home").mkdir()
    out = "out.%d" if case.jobs <= 10_000 else "/dev/null"
    return [parse_submit(split(b"X 1 " + ad.encode())[2]) for ad in submit_ads(case.jobs, str(folder / "home"), "awsbatch", out)]


def _until(condition: Callable[[], bool], clock: Clock, every_s: float) -> None:
    limit = clock.monotonic() + _LIMIT_S
    while not condition():
        if clock.monotonic() > limit:
            raise RuntimeError(f"not done after {_LIMIT_S:g} simulated seconds")
        clock.sleep(every_s)


def _journals(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for path in sorted(folder.glob("host*/state/journal.sqlite")):
        with contextlib.closing(sqlite3.connect(path)) as database:
            rows += database.execute(sql).fetchall()
    return rows


def _unfinished(folder: Path) -> int:
    sql = "SELECT count(*) FROM runs WHERE state NOT IN ('COMPLETED', 'HELD', 'REMOVED')"
    return sum(count for (count,) in _journals(folder, sql))


def _states(folder: Path) -> dict[str, int]:
    states: dict[str, int] = {}
    for state, count in _journals(folder, "SELECT state, count(*) FROM runs GROUP BY state"):
        states[state] = states.get(state, 0) + count
    return states


def _delays(folder: Path, batch: simulated.Batch) -> list[float]:
    """p50, p95 and the most of the seconds between a job's end in Batch and the moment at which status says that it is over."""
    from gahp import story  # noqa: PLC0415

    # Not by when the row changed last: asking about a job that is over changes it, too.
    rows = _journals(folder, "SELECT native_id, story FROM runs WHERE state = 'COMPLETED' AND native_id <> ''")
    delays = sorted(story.told(text)["at"]["COMPLETED"] - batch.ended_at(native_id) for native_id, text in rows)
    return [delays[int(share * (len(delays) - 1))] for share in (0.5, 0.95, 1.0)]


def _rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak_mb() -> float:
    """Not by getrusage: its peak is that of the process which started this one, where that was larger."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1000


# The parts


CALLS = (100, 1000, 10_000)
SIZES = (1000, 10_000, 100_000)
_REPORT_GOAL, _REPORT_GOAL_S = "under 6 s (poll interval 5 s + 1 s)", 6.0
_GOALS = {1000: 0.1, 10_000: 0.02}


def measure_calls(sizes: Sequence[int] = CALLS) -> Found:
    """Part c: calls a job, and how late an end is reported."""
    rows, curves, missing = [], [], []
    points: dict[str, list[tuple[float, float]]] = {"AWS Batch": [], "S3": []}
    for jobs in sizes:
        found = run(Case(jobs))
        problem = _problem(found, jobs)
        if problem:
            missing.append(f"c: {jobs} jobs: {problem}")
        batch, s3 = sum(found["batch_calls"].values()) / jobs, sum(found["s3_calls"].values()) / jobs
        goal = _GOALS.get(jobs)
        words = f"{goal:g}" if goal else ""
        told = ", ".join(f"{name} {count}" for name, count in sorted(found["batch_calls"].items()))
        met = batch <= goal if goal else None
        rows.append(Row("c", f"AWS Batch calls a job, {jobs:,} jobs of 10 min", batch, "", goal=words, met=met, note=told))
        told = ", ".join(f"{name} {count / jobs:.2f}" for name, count in sorted(found["s3_calls"].items()))
        rows.append(Row("c", f"S3 requests a job, the container's too, {jobs:,} jobs", s3, "", goal="4", met=s3 <= 4, note=told))
        p95 = found["delays_s"][1]
        what = f"report of an end after Batch shows it, p95, {jobs:,} jobs"
        rows.append(Row("c", what, p95, "s", goal=_REPORT_GOAL, met=p95 < _REPORT_GOAL_S))
        points["AWS Batch"].append((jobs, batch))
        points["S3"].append((jobs, s3))
    for line, where in points.items():
        curves.append(Curve("c", "calls-a-job", line, "jobs", "calls a job", tuple(where)))
    return Found(rows, curves, missing)


def measure_scale(sizes: Sequence[int] = SIZES, three: int = 10_000) -> Found:
    """Part d: growth, and three clients of one account."""
    grown = _grow("d", [Case(jobs, gahps=3, latency=jobs <= 10_000) for jobs in sizes], _CASE_S)
    rows = list(grown.rows)
    found = run(Case(three, gahps=3, submit_only=True))
    taken, failed = found["taken_s"], three - found["taken"] + found["states"].get("HELD", 0)
    rows.append(
        Row(
            "d",
            f"{three:,} jobs submitted by three GAHPs, 50 SubmitJob/s enforced with 429",
            taken,
            "s",
            three / 50,
            "one call a job",
            "30 s, no failed command",
            taken < 30 and not failed,
            f"simulated time; {found['throttled']} calls throttled, {failed} failed",
        )
    )
    return Found(rows, grown.curves, grown.missing)


def measure_million(jobs: int = 1_000_000) -> Found:
    """Part g: the growth of part d to its last point, for which there is no time in half an hour."""
    return _grow("g", [Case(jobs, gahps=3, latency=False)], _LONG_CASE_S)


def _grow(part: str, cases: Sequence[Case], limit_s: float) -> Found:
    """Each case from the first submit to the last report, as rows, and as points of the lines that show how it grows."""
    rows, missing = [], []
    seconds: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    amounts: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for case in cases:
        jobs = case.jobs
        try:
            found = run(case, limit_s)
        except RuntimeError as error:
            missing.append(f"{part}: {jobs} jobs: {error}")
            continue
        problem = _problem(found, jobs)
        if problem:
            missing.append(f"{part}: {jobs} jobs: {problem}")
        what = f"{jobs:,} jobs, three GAHPs, 50 SubmitJob/s"
        calls, p95 = sum(found["batch_calls"].values()), found["delays_s"][1]
        cpu = 1000 * found["cpu_s"] / jobs
        rows += [
            Row(part, f"simulated: all in Batch, {what}", found["taken_s"], "s", note=f"{found['throttled']} calls throttled"),
            Row(part, f"simulated: AWS Batch calls a job, {what}", calls / jobs, ""),
            Row(part, f"simulated: CPU a job, the simulation's too, {what}", cpu, "ms"),
            Row(part, f"simulated: end to report, p95, {what}", p95, "s", goal=_REPORT_GOAL, met=p95 < _REPORT_GOAL_S),
        ]
        amounts["AWS Batch calls"].append((jobs, calls))
        seconds["CPU, the simulation's too"].append((jobs, found["cpu_s"]))
        amounts["memory, the simulation's too, MB"].append((jobs, found["peak_mb"]))
        seconds["end to report, p95"].append((jobs, p95))
        seconds["until Batch has all"].append((jobs, found["taken_s"]))
    curves = [
        Curve(part, f"{plot}-for-so-many-jobs", line, "jobs", unit, tuple(points))
        for plot, unit, lines in (("seconds", "seconds", seconds), ("calls-and-memory", "calls; MB", amounts))
        for line, points in lines.items()
    ]
    return Found(rows, curves, missing)


def _problem(found: dict[str, Any], jobs: int) -> str:
    """What went wrong with the jobs; "" if each ended well and came to Batch once."""
    if found["states"] != {"COMPLETED": jobs}:
        return f"states are {found['states']}; {' '.join(found['held'])}".rstrip("; ")
    return "" if found["taken"] == jobs else f"Batch got {found['taken']} jobs"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one case, given as JSON or as a number of jobs.")
    parser.add_argument("case")
    words = json.loads(parser.parse_args().case)
    # As much as the program logs, to nowhere.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger().setLevel(logging.INFO)
    print(json.dumps(simulate(Case(**words) if isinstance(words, dict) else Case(words))))


if __name__ == "__main__":
    main()
