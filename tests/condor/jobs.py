"""What a user does with a pool and what a user sees of it: submit files, the user log, job ads, files; and what Batch has of it.

A `Case` is a job as a test describes it. All cases of a session are submitted together before the first of them is looked at,
so that their waiting times overlap.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gahp import history
from gahp.local import LocalAws
from tests.condor.gate import Gate
from tests.condor.guard import guarded
from tests.condor.pool import TEST_KNOBS, NoPool, Pool, install, is_gahp
from tests.packs import batch_jobs

WAIT_S = 300.0
GRID = "universe = grid\ngrid_resource = batch awsbatch\n"
VANILLA = "universe = vanilla\n"
T = TypeVar("T")
Files = Mapping[str, bytes | str | Path]
# The site's knobs in tests: quick, talkative, and with more queues that batch_queue may name.
QUEUES = ("other", "pegasus-queue")
KNOBS = {
    "AWSBATCH_POLL_INTERVAL": "0.5",
    "AWSBATCH_LOOKUP_SETTLE": "1",
    "AWSBATCH_ALLOWED_QUEUES": ", ".join(QUEUES),
    "AWSBATCH_LOG_LEVEL": "DEBUG",
}

# Jobs that only sleep hold a place each, so there are more places than the machine has cores, and more memory than it has.
ROOM: dict[str, Any] = {"vcpus": 96, "memory_mib": 1 << 20, "gpus": 16}

# Numbers of events in a user log.
SUBMITTED, EXECUTING, TERMINATED, ABORTED, HELD, RELEASED = 0, 1, 5, 9, 12, 13
RESOURCE_UP, RESOURCE_DOWN, GRID_SUBMITTED = 25, 26, 27


@dataclasses.dataclass(frozen=True)
class Case:
    """A job to be: `program` is a bash script, `submit` are lines of the submit file, `files` lie in its directory; a Path among
    them is a symbolic link that leads there."""

    program: str
    submit: str = ""
    files: Files = dataclasses.field(default_factory=dict)
    universe: str = GRID
    queue: str = "queue"


def case(program: str, submit: str = "", files: Files | None = None, **more: Any) -> pytest.MarkDecorator:
    """Give a test a job: its fixture `job` is this one, submitted."""
    return pytest.mark.case(Case(program, submit, files or {}, **more))


@contextlib.contextmanager
def no_pool_is_told() -> Iterator[None]:
    """What cannot be had on a person's machine is skipped there, and fails where everything has to be tested."""
    try:
        yield
    except NoPool as error:
        if os.environ.get("CI"):
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        raise pytest.skip.Exception(str(error)) from None


def until(what: Callable[[], T], why: str | Callable[[], str], wait_s: float = WAIT_S) -> T:
    """The first true value of `what`. AssertionError with `why` when there is none for too long."""
    end = time.monotonic() + wait_s
    while not (value := what()):
        if time.monotonic() > end:
            raise AssertionError(why if isinstance(why, str) else why())
        time.sleep(0.1)
    return value


@dataclasses.dataclass(frozen=True)
class Event:
    number: int
    job: str
    text: str


def read_log(path: Path) -> list[Event]:
    """The complete events of a user log."""
    events = []
    text = path.read_text(errors="surrogateescape") if path.exists() else ""
    for part in text.split("\n...\n")[:-1]:
        if found := re.match(r"\s*(\d{3}) \((\d+)\.(\d+)\.\d+\) (.*)", part, re.S):
            events.append(Event(int(found[1]), f"{int(found[2])}.{int(found[3])}", found[4]))
    return events


class Site:
    """A pool with an embedded AWS behind it, and words for what tests do with both."""

    def __init__(self, pool: Pool, aws: Any, gate: Gate) -> None:
        self.pool = pool
        self.aws = aws
        self.gate = gate
        self.batch = aws.client("batch")
        self.queue = aws.environment()["_CONDOR_AWSBATCH_JOB_QUEUE"]
        (found,) = self.batch.describe_job_queues(jobQueues=[self.queue])["jobQueues"]
        order = found["computeEnvironmentOrder"]
        for name in QUEUES:
            self.batch.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order)
        self.bucket = aws.environment()["_CONDOR_AWSBATCH_S3_URL"].split("/")[2]
        # Every version of an object is kept, so that one can see how often it was written.
        aws.client("s3").put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def folder(self, name: str) -> Path:
        """A new directory for a job, its user's own."""
        number = 0
        while (path := self.pool.folder / "work" / f"{name}{number or ''}").exists():
            number += 1
        return self.pool.own(path)

    def write(self, path: Path, content: bytes | str | Path, mode: int = 0o644) -> Path:
        if not path.parent.exists():
            self.pool.own(path.parent)
        if isinstance(content, Path):
            path.symlink_to(content)
            return path
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        path.chmod(mode)
        return self.pool.own(path)

    def submit(self, what: Case, name: str, *options: str) -> list[Job]:
        """Write a case's files and submit it. One Job for each that came of it."""
        folder = self.folder(name)
        self.write(folder / "program", what.program, 0o755)
        for path, content in what.files.items():
            self.write(folder / path, content)
        text = f"{what.universe}executable = program\noutput = out\nerror = err\nlog = log\n{what.submit}\n{what.queue}\n"
        self.write(folder / "job.sub", text.replace("{folder}", str(folder)))
        said = self.pool.run("condor_submit", "-terse", *options, "job.sub", folder=folder).stdout
        first, last = re.fullmatch(r"(\d+\.\d+) - (\d+\.\d+)\n", said).groups()
        cluster, begin, end = int(first.split(".")[0]), int(first.split(".")[1]), int(last.split(".")[1])
        return [Job(self, folder, f"{cluster}.{proc}") for proc in range(begin, end + 1)]

    def batch_jobs(self, run: str, queue: str = "") -> list[dict[str, Any]]:
        """All jobs that the queue ever had (the site's unless one is named) whose name begins with `run`, oldest first."""
        return batch_jobs(self.aws, run, queue or self.queue)

    @property
    def state(self) -> Path:
        """Where the GAHP keeps its journal and log."""
        return self.pool.home / ".local/state/awsbatch_gahp"

    def gridmanager_log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in (self.pool.folder / "log").glob("GridmanagerLog*"))


@contextlib.contextmanager
def open_site(prefix: Path, name: str) -> Iterator[Site]:
    """A pool that runs `batch awsbatch` jobs on an embedded AWS. Nothing of either is left behind."""
    folder = Path(tempfile.mkdtemp(prefix=f"awsbatch-{name}-"))
    folder.chmod(0o755)
    pool = Pool(prefix, folder / "pool")
    try:
        with guarded(pool, folder), LocalAws(folder / "aws", **ROOM, time_scale=0.05, grace_s=25) as aws:
            environment = aws.environment()
            gate = Gate(urllib.parse.urlsplit(aws.endpoint).port)
            pool.prepare()
            pool.credentials(environment)
            shared = str(pool.own(pool.folder / "shared"))
            install(pool, environment, **KNOBS, AWSBATCH_ENDPOINT_URL=gate.url, AWSBATCH_SHARED_DIRECTORIES=shared)
            pool.set(TEST_KNOBS)
            with no_pool_is_told():
                pool.up()
            yield Site(pool, aws, gate)
            left = pool.down()
            assert not [words for words in left if is_gahp(words)], "a GAHP did not end by itself"
            gate.stop()
            assert aws.violations() == []
    finally:
        pool.down()
        assert pool.processes() == []
        if not os.environ.get("AWSBATCH_POOL_KEEP"):
            shutil.rmtree(folder)


class Job:
    """One submitted job, by its id CLUSTER.PROC."""

    def __init__(self, site: Site, folder: Path, id: str) -> None:
        self.site = site
        self.folder = folder
        self.id = id

    @property
    def events(self) -> list[Event]:
        return [event for event in read_log(self.folder / "log") if event.job == self.id]

    def count(self, number: int) -> int:
        return sum(event.number == number for event in self.events)

    def wait(self, *numbers: int, times: int = 1) -> Event:
        """The newest event of one of `numbers` once there are `times` of them. An unexpected end fails at once."""

        def look() -> Event | None:
            found = [event for event in self.events if event.number in numbers]
            if len(found) >= times:
                return found[-1]
            newest = self.events[-1] if self.events else None
            ended = newest and newest.number in (TERMINATED, ABORTED, HELD) and newest.number not in numbers
            assert not ended, f"{self.id} ended otherwise: {newest}\n{self.folder}"
            return None

        return until(look, lambda: f"{self.id} had no event {numbers}: {self.events}\n{self.folder}\n{self._gahp_log()}")

    def finish(self) -> Job:
        """Wait for its normal or abnormal end."""
        self.wait(TERMINATED)
        return self

    @property
    def ad(self) -> dict[str, Any]:
        """The job ad, from the queue or, once it has left that, from the history. The user log may be ahead of it: then waits."""
        told = [event.number for event in self.events if event.number in (TERMINATED, ABORTED, HELD, RELEASED)]
        status = {TERMINATED: 4, ABORTED: 3, HELD: 5}.get(told[-1]) if told else None

        def look() -> list[dict[str, Any]]:
            ads = self.site.pool.ads("condor_q", self.id) or self.site.pool.ads("condor_history", self.id, "-limit", "1")
            return [ad for ad in ads if status in (None, ad["JobStatus"])]

        return until(look, f"{self.id} has no job ad with status {status}")[0]

    def attribute(self, name: str) -> Any:
        return self.ad.get(name)

    def in_queue(self) -> bool:
        return bool(self.site.pool.ads("condor_q", self.id))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def text(self, name: str = "out") -> str:
        return self.read(name).decode("utf-8", "surrogateescape")

    def do(self, command: str, *words: str) -> None:
        """condor_hold, condor_release or condor_rm this job."""
        self.site.pool.run(command, *words, self.id)

    def batch(self) -> list[dict[str, Any]]:
        """What Batch has or had of it: one entry for each submission."""
        return self.site.batch_jobs(f"{self.id.replace('.', '-')}-")

    def batch_over(self) -> list[dict[str, Any]]:
        """The same, once none of it is alive in Batch."""

        def over() -> list[dict[str, Any]] | None:
            jobs = self.batch()
            return jobs if all(job["status"] in ("SUCCEEDED", "FAILED") for job in jobs) else None

        return until(lambda: over() is not None, lambda: f"{self.id} is still in Batch: {self.batch()}") and self.batch()

    def runs(self) -> list[history.History]:
        """What the GAHP's journal has of it, oldest first."""
        return history.find(str(self.site.state), self.id)

    def _gahp_log(self) -> str:
        path = self.site.state / "gahp.log"
        run = self.id.replace(".", "-") + "-"
        return "\n".join(line for line in path.read_text().splitlines() if run in line) if path.exists() else ""


def quoted_v2(words: list[str]) -> str:
    """Words in the new syntax of `arguments` and `environment`, as a submit file has it."""
    inner = " ".join("'" + word.replace("'", "''") + "'" for word in words)
    return '"' + inner.replace('"', '""') + '"'


def snapshot(folder: Path, leave_out: tuple[str, ...] = ("log", "job.sub")) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: whether it can be executed, and its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in leave_out:
            found[name] = (path.stat().st_mode & 0o111 and 0o111, path.read_bytes())
    return found
