"""Part b: jobs through HTCondor's real gridmanager: ours against the instant GAHP, HTCondor's own ceiling, and against blahpd.

The endpoint's jobs end at once, so that the GAHP is measured and not the jobs. Each measurement has a pool of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench import peers
from bench.report import Curve, Found, Row
from tests.condor import pool as pools
from tests.condor.prefix import NoPool, build

BEST = Path(__file__).with_name("best.conf")
# What the pool for tests has in place of HTCondor's own default.
AS_SHIPPED = {"GRIDMANAGER_DEBUG": "", "GRIDMANAGER_GAHPCLIENT_DEBUG": "True", "SCHEDD_INTERVAL": "300"}
# How many jobs, with which knobs; who takes part.
RUNS = ((1000, "shipped"), (3000, "shipped"), (10_000, "shipped"), (1000, "best"), (3000, "best"), (10_000, "best"))
# At 10,000 blahpd would need more than _LIMIT_S.
_WHO = {1000: ("ours", "instant", "blahpd"), 3000: ("ours", "instant", "blahpd"), 10_000: ("ours", "instant")}
_NAMES = {"ours": "awsbatch_gahp", "instant": "instant GAHP", "blahpd": "blahpd"}
_KNOBS = {"best": "best knobs", "shipped": "our condor_config.d"}
_LIMIT_S = 400.0
_TICK_S = 0.1


@dataclasses.dataclass(frozen=True)
class Passage:
    """One batch of jobs. Seconds from condor_submit until all had begun, and had ended; the GAHP's CPU and memory (bytes)."""

    jobs: int
    running_s: float
    done_s: float
    cpu_s: float
    memory: int
    restarts: int

    @property
    def cpu_per_job_ms(self) -> float:
        return 1000 * self.cpu_s / self.jobs


def passage(who: str, jobs: int, knobs: str) -> Passage:
    """Send `jobs` through a pool of its own. Raises NoPool, or RuntimeError when they do not come through."""
    prefix = build(peers.SUITE)
    folder = Path(tempfile.mkdtemp(prefix="awsbatch-bench-"))
    folder.chmod(0o755)
    pool = pools.Pool(prefix, folder / "pool")
    try:
        with peers.endpoint() as aws:
            pool.prepare()
            pool.credentials(aws.environment())
            mine = {name: value for name, value in aws.environment().items() if not name.endswith("_LOG")}
            pools.install(pool, mine, AWSBATCH_LOG_LEVEL="WARNING")
            pool.set({**_knobs(knobs), **_gahp(who, prefix, pool)})
            pool.up()
            return _through(pool, jobs, who)
    finally:
        pool.down()
        shutil.rmtree(folder, ignore_errors=True)


def _knobs(name: str) -> dict[str, str]:
    if name == "shipped":
        return AS_SHIPPED
    lines = [line.partition("=") for line in BEST.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {knob.strip(): value.strip() for knob, _, value in lines}


def _gahp(who: str, prefix: Path, pool: pools.Pool) -> dict[str, str]:
    """The knob that makes the gridmanager start somebody else than ours."""
    if who == "ours":
        return {}
    folder = pool.folder / "peer"
    folder.mkdir()
    wrapper = folder / "gahp"
    if who == "instant":
        shutil.copy(Path(__file__).with_name("instant.py"), folder)
        wrapper.write_text(f'#!/bin/sh\nexec {_python(pool)} -S -E {folder}/instant.py "$@"\n')
    else:
        command, environment = peers.blahpd(prefix, folder, "awsbatch")
        variables = " ".join(f"{name}={value}" for name, value in environment.items() if name.startswith(("BLAH", "GLITE")))
        wrapper.write_text(f'#!/bin/sh\n{variables} exec {command[0]} "$@"\n')
    wrapper.chmod(0o755)
    return {"AWSBATCH_GAHP": str(wrapper), "BATCH_GAHP": str(wrapper)}


def _python(pool: pools.Pool) -> str:
    """A Python that the pool's account can start."""
    for program in (os.path.realpath(sys.executable), "/usr/bin/python3", str(pool.folder / "program/python/bin/python3")):
        with contextlib.suppress(OSError):
            done = subprocess.run([program, "-S", "-E", "-c", ""], cwd="/", check=False, **pool.account.popen())
            if done.returncode == 0:
                return program
    raise NoPool(f"no Python that {pool.account.name} can start")


class _Log:
    """The user log, read as it grows: how many jobs have begun, ended, been held."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._rest = path, 0, ""
        self.begun = self.ended = self.held = 0

    def look(self) -> None:
        with contextlib.suppress(FileNotFoundError), open(self._path, errors="replace") as file:
            file.seek(self._at)
            *lines, self._rest = (self._rest + file.read()).split("\n")
            self._at = file.tell()
            for line in lines:
                if found := re.match(r"(001|005|012) \(", line):
                    event = found[1]
                    self.begun += event == "001"
                    self.ended += event == "005"
                    self.held += event == "012"


def _through(pool: pools.Pool, jobs: int, who: str) -> Passage:
    work = pool.folder / "work"
    (work / "jobs.sub").write_text(
        "universe = grid\ngrid_resource = batch awsbatch\nexecutable = /bin/true\ntransfer_executable = false\n"
        f"request_memory = 128\nlog = {work}/jobs.log\nqueue {jobs}\n"
    )
    log, running_s = _Log(work / "jobs.log"), 0.0
    begin = time.monotonic()
    pool.run("condor_submit", "-terse", "jobs.sub")
    watch = _Watch(pool)
    while log.ended < jobs:
        time.sleep(_TICK_S)
        log.look()
        watch.look()
        if not running_s and log.begun >= jobs:
            running_s = time.monotonic() - begin
        if log.held:
            raise RuntimeError(f"{who}: {log.held} jobs were held")
        if time.monotonic() - begin > _LIMIT_S:
            raise RuntimeError(f"{who}: {log.ended} of {jobs} jobs had ended after {_LIMIT_S:g} s")
    done_s = time.monotonic() - begin
    end = time.monotonic() + 1.0
    while time.monotonic() < end:  # what it does behind the last end
        watch.look()
        time.sleep(_TICK_S)
    return Passage(jobs, running_s or done_s, done_s, watch.cpu_s, watch.memory, watch.restarts)


class _Watch:
    """The GAHP's CPU, with that of its children that have ended, and its memory, as long as it lives."""

    def __init__(self, pool: pools.Pool) -> None:
        self._pool = pool
        self._process: psutil.Process | None = None
        self._find_at = 0.0
        self._before = self._now = 0.0
        self.memory = 0
        self.restarts = -1

    @property
    def cpu_s(self) -> float:
        return self._before + self._now

    def look(self) -> None:
        try:
            if self._process is None:
                if time.monotonic() < self._find_at:
                    return
                self._find_at = time.monotonic() + 0.3
                managers = self._pool.processes("condor_gridmanager")
                self._process = next((child for manager in managers for child in manager.children()), None)
                if self._process is None:
                    return
                self.restarts += 1
            with self._process.oneshot():
                self._now = sum(self._process.cpu_times()[:4])
                self.memory = max(self.memory, self._process.memory_info().rss)
        except psutil.Error:
            self._before, self._now, self._process = self.cpu_s, 0.0, None


def measure(runs: Sequence[tuple[int, str]] = RUNS) -> Found:
    rows: list[Row] = []
    missing: list[str] = []
    points: dict[str, list[tuple[float, float]]] = {}
    for jobs, knobs in runs:
        found: dict[str, Passage] = {}
        for who in _WHO.get(jobs, ("ours", "instant", "blahpd")) if knobs == "best" else ("ours", "instant"):
            try:
                found[who] = passage(who, jobs, knobs)
            except (NoPool, RuntimeError) as error:
                missing.append(f"b: {jobs} jobs by {who}, {knobs} knobs: {error}")
                continue
            points.setdefault(f"{_NAMES[who]}, {_KNOBS[knobs]}", []).append((jobs, found[who].done_s))
        if "ours" in found:
            rows += _rows(jobs, knobs, found)
    curves = [Curve("b", "jobs-through-the-gridmanager", line, "jobs", "seconds", tuple(where)) for line, where in points.items()]
    return Found(rows, curves, missing)


def _rows(jobs: int, knobs: str, found: dict[str, Passage]) -> list[Row]:
    we, instant = found["ours"], found.get("instant")
    what = f"{jobs:,} jobs through the gridmanager, {_KNOBS[knobs]}"
    goal = "1.25 times its time" if jobs >= 3000 else ""
    rows = [
        Row(
            "b",
            f"{what}: all done",
            we.done_s,
            "s",
            instant and instant.done_s,
            "instant GAHP",
            goal,
            we.done_s <= 1.25 * instant.done_s if goal and instant else None,
            f"all running after {we.running_s:.0f} s",
        )
    ]
    if they := found.get("blahpd"):
        rows.append(Row("b", f"{what}: all done", we.done_s, "s", they.done_s, "blahpd"))
    other, name = (they, "blahpd") if they else (instant, "instant GAHP")
    goal = "under 2 ms" if jobs >= 3000 else ""
    met = we.cpu_per_job_ms < 2 if goal else None
    note = f"its start-up counted; instant GAHP {instant.cpu_per_job_ms:.2f} ms" if instant else "its start-up counted"
    cpu = other and other.cpu_per_job_ms
    rows.append(Row("b", f"{what}: GAHP's CPU a job", we.cpu_per_job_ms, "ms", cpu, name, goal, met, note))
    rows.append(Row("b", f"{what}: GAHP's memory", we.memory / 1e6, "MB", other and other.memory / 1e6, name))
    return rows
