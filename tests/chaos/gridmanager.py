"""A client that behaves as the gridmanager does, GAHPs that die under it, and the account of what became of its jobs.

What is modelled (facts of HTCondor 23 and 25): a submit is sent again, with the same JobDirectory and the same ad, until its id
has been saved, some time after the answer; when the GAHP dies the gridmanager starts anew and knows saved ids only; STATUS
follows the save; a hold is a CANCEL, and the release a SUBMIT with the same JobDirectory; a CANCEL is sent again until it is
answered once.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import classad2

from gahp.cli import client
from gahp.cli.client import Client
from gahp.local import LocalAws
from gahp.model import Refused
from tests.packs import batch_rows

# A machine that is busy with other things may let a GAHP wait for longer than a gridmanager does.
client.RETURN_LINE_S = 60.0
DYING_GAHP = [sys.executable, str(Path(__file__).parent / "dying_gahp.py")]
PENDING = 50
PROGRAM = """#!/bin/bash
exec 8>> "$1.lock"
flock -n 8 || echo "overlap 0" >> "$1"
echo "$AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ATTEMPT" >> "$1"
sleep "$2" 8>&-
cat input.dat > output.dat
echo "done $3"
exit "$4"
"""


class Job:
    """One job of the user's, and what the gridmanager knows of it.

    `fate`: what the user does: nothing (""), "remove", "hold" (and release); "suspend" is BLAH_JOB_HOLD and RESUME by another
    client; "vanish" has its host go away; "late" is a hold and release of a job that has ended and was never asked about;
    "release" is the release of one that its own fault has held. The user acts `act_after_s` seconds after the first STATUS;
    without that number, when a STATUS has told that Batch has the job. `output` is what the job is to make, `held_for` a part of
    the reason for which it has to be held in the end.
    """

    def __init__(
        self,
        home: Path,
        number: int,
        fate: str = "",
        sleep_s: float = 0.1,
        act_after_s: float | None = None,
        *,
        memory: int = 128,
        output: str = "output.dat",
        held_for: str = "",
    ) -> None:
        self.number, self.fate, self.act_after_s, self.sleep_s = number, fate, act_after_s, sleep_s
        self.held_for = held_for
        self.in_batch = False
        self.directory = home / f"job{number}"
        self.directory.mkdir(parents=True)
        self.ran = self.directory / "ran"
        self.exit_code = number % 3
        (self.directory / "job.sh").write_text(PROGRAM)
        (self.directory / "job.sh").chmod(0o755)
        (self.directory / "input.dat").write_bytes(bytes([number % 251]) * (70_000 if number % 5 == 0 else 500))
        self.ad = classad2.ClassAd(
            {
                "Cmd": str(self.directory / "job.sh"),
                "Iwd": str(self.directory),
                "In": "/dev/null",
                "Out": "out.txt",
                "Err": "/dev/null",
                "Args": f"{self.ran} {sleep_s} {number} {self.exit_code}",
                "Environment": "",
                "TransferInput": "input.dat",
                "TransferOutput": output,
                "RequestMemory": memory,
                "gridtype": "awsbatch",
                "GridResource": "batch awsbatch",
                "JobDirectory": f"home_bl_chaos_{number}.0_1795000000",
            }
        )
        self.text = " ".join(str(self.ad).split())
        self.job_id = ""
        self.saved_at = 0.0
        self.first_seen = 0.0
        self.pending = ""  # the verb of the request that is under way
        self.poll_at = 0.0
        self.generation = 0
        self.not_before = 0  # deaths of GAHPs
        self.acted = False
        self.held = False
        self.complete_since = 0.0
        self.ended = ""  # "completed", "removed", or what went wrong
        self.ids: list[str] = []

    @property
    def attempts(self) -> list[tuple[str, str]]:
        """Every start of the program: the Batch job's id and the attempt."""
        if not self.ran.exists():
            return []
        return [tuple(line.split()) for line in self.ran.read_text().splitlines()]  # type: ignore[misc]

    def complete(self) -> bool:
        """Whether all output lies in place, whole, and nothing half-made beside it."""
        with contextlib.suppress(FileNotFoundError):
            return (
                (self.directory / "out.txt").read_text() == f"done {self.number}\n"
                and (self.directory / "output.dat").read_bytes() == (self.directory / "input.dat").read_bytes()
                and not list(self.directory.glob(".awsbatch-*"))
            )
        return False

    def wrong(self) -> list[str]:
        """What became of this job that must not be; empty if all is well."""
        found = []
        attempts = self.attempts
        batch_jobs = {batch_id for batch_id, _ in attempts}
        if ("overlap", "0") in attempts:
            found.append("two copies ran at the same time")
        if len(attempts) != len(set(attempts)):
            found.append("one attempt ran the program twice")
        if len(batch_jobs) > self.generation + 1 + (self.fate == "suspend"):
            found.append(f"{len(batch_jobs)} copies ran for {self.generation + 1} submissions")
        if self.fate not in ("vanish", "remove") and len(attempts) > len(batch_jobs):
            found.append(f"{len(attempts)} starts of {len(batch_jobs)} Batch jobs")
        if self.fate in ("late", "release") and len(self.ids) != 2:
            found.append(f"{len(self.ids)} ids for 2 submissions")
        if self.held_for:
            if not self.ended.startswith("state 5") or self.held_for not in self.ended:
                found.append(f"to be held for '{self.held_for}', but {self.ended or 'not over'}")
        elif self.fate == "remove":
            if self.ended not in ("removed", "completed"):
                found.append(f"to be removed, but {self.ended or 'not over'}")
        elif self.ended != "completed":
            found.append(self.ended or "not over")
        elif not self.complete() or not attempts:
            found.append("completed without its output")
        return [f"job {self.number} ({self.fate or 'plain'}): {what}" for what in found]


class Gridmanager:
    """The jobs of one user, and one GAHP after the other."""

    def __init__(
        self,
        aws: LocalAws,
        home: Path,
        jobs: list[Job],
        seed: int = 0,
        save_s: float = 0.2,
        submit_only: bool = False,
        **knobs: Any,
    ) -> None:
        self.aws, self.home, self.jobs = aws, home, jobs
        self.random = random.Random(seed)
        self.save_s = save_s
        self.submit_only = submit_only
        self.deaths = 0
        self.ends: list[int] = []  # how each GAHP ended that found no memory
        self.repeated_submits = 0
        self.tend: Callable[[], None] = lambda: None  # called all the time
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **aws.environment(),
            "CONDOR_CONFIG": "ONLY_ENV",
            "_CONDOR_AWSBATCH_STATE_DIR": str(home / "state"),
            "_CONDOR_AWSBATCH_LOG": str(home / "gahp.log"),
            "_CONDOR_AWSBATCH_POLL_INTERVAL": "0.2",
            "_CONDOR_AWSBATCH_LOOKUP_SETTLE": "1",
            **{f"_CONDOR_AWSBATCH_{name.upper()}": str(value) for name, value in knobs.items()},
        }

    def run(self, deaths: list[tuple[str, int]] | None = None, *, limit_s: float) -> None:
        """Until every job is over: one GAHP for each of `deaths` (point, passing), then one that lives. Raises TimeoutError."""
        until = time.monotonic() + limit_s
        for point, number in deaths or []:
            self.serve_until_death(until, point, number)
        while not self.over():
            self._serve({}, until)

    def over(self) -> bool:
        return all(job.ended for job in self.jobs)

    def serve_until_death(self, until: float, point: str = "", number: int = 1, longest_s: float = 0.0) -> None:
        """One GAHP that dies at the `number`th passing of `point`, or is killed after `longest_s`, if that is not 0."""
        self._serve({"DIE_AT": point, "DIE_PASS": str(number)}, until, longest_s)

    def serve_without_memory(self, until: float, point: str, number: int = 1) -> None:
        """One GAHP that finds no memory at the `number`th passing of `point`, and goes on or ends."""
        self._serve({"DIE_AT": point, "DIE_PASS": str(number), "DIE_HOW": "memory"}, until)

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """A GAHP of the same user that has nothing to do but what is left of the journal."""
        with Client(DYING_GAHP, self.environment) as gahp:
            gahp.perform("BLAH_PING", "awsbatch")
            yield

    def _serve(self, how: dict[str, str], until: float, kill_after_s: float = 0.0) -> None:
        """One GAHP, from its start to its death or to the end of all jobs."""
        for job in self.jobs:
            job.pending = ""
            if job.job_id and not job.saved_at <= time.monotonic():
                job.job_id = ""  # never saved: forgotten with the gridmanager
        try:
            gahp = Client(DYING_GAHP, {**self.environment, **how})
        except Refused as error:
            self._died(error)
            return
        memory = how.get("DIE_HOW") == "memory"
        killer = threading.Timer(kill_after_s, gahp.process.kill)
        if kill_after_s:
            killer.start()
        try:
            # One that has to die at a point gets the time to come there; one that is killed some time may never come to its own.
            # One that finds no memory may live.
            self._talk(gahp, until, quiet_s=1.0 if kill_after_s else 20.0 if how and not memory else 0.0)
        except Refused as error:
            self._died(error)
        finally:
            killer.cancel()
            killed = gahp.process.poll()
            gahp.close()
        if memory:
            self.ends.append(gahp.process.returncode)
        elif killed not in (None, 0, -signal.SIGKILL):
            raise AssertionError(f"the GAHP ended with {killed}")

    def _died(self, error: Refused) -> None:
        """One that only says nothing lives, and another one beside it would be no successor."""
        if str(error) != "The GAHP has ended.":
            raise TimeoutError(str(error)) from error
        self.deaths += 1

    def _talk(self, gahp: Client, until: float, quiet_s: float) -> None:
        requests: dict[str, tuple[Job, str]] = {}
        quiet_since = 0.0
        while True:
            now = time.monotonic()
            if now > until:
                raise TimeoutError(f"not over: {[(job.number, job.fate, job.job_id) for job in self.jobs if not job.ended][:20]}")
            self.tend()
            for job in self.jobs:
                if len(requests) >= PENDING:
                    break
                verb = self._next(job, now)
                if verb:
                    job.pending = verb
                    argument = job.text if verb == "BLAH_JOB_SUBMIT" else job.job_id
                    requests[gahp.request(verb, argument)] = (job, verb)
            for outcome in gahp.results(0.05):
                job, verb = requests.pop(outcome.request_id)
                job.pending = ""
                self._take(job, verb, outcome.tokens)
            if self.over() and not requests:
                # A GAHP that is to die yet gets the time to do what it still does by itself.
                quiet_since = quiet_since or now
                if now - quiet_since >= quiet_s:
                    return

    def _next(self, job: Job, now: float) -> str:
        if job.ended or job.pending:
            return ""
        if not job.job_id:
            return "BLAH_JOB_SUBMIT" if self.deaths >= job.not_before else ""
        if now < job.saved_at:
            return ""
        if job.fate == "late" and not job.acted:
            job.complete_since = job.complete_since or (now if job.complete() else 0.0)
            return "BLAH_JOB_CANCEL" if job.complete_since and now - job.complete_since > 0.7 else ""
        job.first_seen = job.first_seen or now
        due = job.in_batch if job.act_after_s is None else now - job.first_seen >= job.act_after_s
        if job.fate not in ("", "release") and not job.acted and due:
            if job.fate in ("remove", "hold"):
                return "BLAH_JOB_CANCEL"
            if job.fate == "suspend":
                return "BLAH_JOB_RESUME" if job.held else "BLAH_JOB_HOLD"
            job.acted = self._vanish(job)
        if now >= job.poll_at:
            job.poll_at = now + self.random.uniform(0.2, 0.6)
            return "BLAH_JOB_STATUS"
        return ""

    def _vanish(self, job: Job) -> bool:
        return bool(job.attempts) and self.aws.faults.vanish(job.attempts[0][0])

    def _take(self, job: Job, verb: str, tokens: tuple[str, ...]) -> None:
        code, message, *values = tokens
        if verb == "BLAH_JOB_SUBMIT":
            self._submitted(job, code, message, values[0])
        elif verb == "BLAH_JOB_CANCEL":
            # Whatever the answer, the gridmanager is done with this id.
            job.acted = True
            if job.fate == "remove":
                job.ended = "removed"
            else:
                job.job_id, job.generation = "", job.generation + 1
        elif verb == "BLAH_JOB_HOLD":
            # "held already" is what one hears whose first HOLD came about although its answer was lost.
            job.held = code == "0" or "held already" in message
            job.acted = not job.held  # started, over, or refused: it runs on
        elif verb == "BLAH_JOB_RESUME":
            job.acted = code == "0" or "is not held" in message
        elif code != "0":
            job.ended = f"STATUS: {message}"
        else:
            self._stands(job, *values)

    @staticmethod
    def _stands(job: Job, state: str, text: str) -> None:
        job.in_batch = job.in_batch or "AwsJobId" in text
        if state == "4":
            ad = classad2.ClassAd(text)
            right = job.complete() and ad.get("ExitCode") == job.exit_code
            job.ended = "completed" if right else f"completed without its output, or with a wrong exit: {text}"
        elif state == "5" and job.fate == "release" and not job.acted:
            job.acted, job.job_id, job.generation = True, "", job.generation + 1
        elif state in ("3", "5") and not (job.fate == "suspend" and not job.acted):
            job.ended = f"state {state}: {text}"

    def _submitted(self, job: Job, code: str, message: str, job_id: str) -> None:
        if code != "0":
            job.ended = f"SUBMIT: {message}"
            return
        if any(job_id in other.ids for other in self.jobs if other is not job):
            job.ended = f"was given the id of another job: {job_id}"
            return
        if job_id in job.ids:
            self.repeated_submits += 1
        else:
            job.ids.append(job_id)
        if len(job.ids) > job.generation + 1:
            job.ended = f"{len(job.ids)} ids for {job.generation + 1} submissions"
        job.job_id = job_id
        job.saved_at = time.monotonic() + self.random.uniform(0, self.save_s)
        if self.submit_only:
            job.ended = "submitted"


def batch_jobs(aws: LocalAws, numbers: Iterable[int] = ()) -> list[dict[str, Any]]:
    """Every job that Batch ever had, or those of the jobs of these numbers, from ListJobs; children of array jobs by the names of
    their runs."""
    return [row for pattern in ([f"{number}-*" for number in numbers] or ["*"]) for row in batch_rows(aws, pattern)]


def unfinished(aws: LocalAws, names: set[str], wait_s: float = 20.0, numbers: Iterable[int] = ()) -> list[str]:
    """The Batch jobs of these runs that are not over, when they have had `wait_s` to end."""
    until = time.monotonic() + wait_s
    while True:
        rows = batch_jobs(aws, numbers)
        left = [row["jobName"] for row in rows if row["jobName"] in names and row["status"] not in ("SUCCEEDED", "FAILED")]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.2)


def doubles(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Names of Batch jobs of which there is more than one."""
    counted = collections.Counter(row["jobName"] for row in rows)
    return {name: count for name, count in counted.items() if count > 1}
