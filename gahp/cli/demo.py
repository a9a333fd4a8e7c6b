"""`condor_awsbatch demo`: the black diamond as real jobs, through the GAHP's stdin and stdout, on an embedded AWS.

Four programs in the shape of a diamond: preprocess feeds two findrange, and both feed analyze. What comes back is compared, byte
for byte, with the same programs run directly.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import classad2
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gahp.cli.client import Client
from gahp.cli.timeline import Row, Span, draw
from gahp.local import LocalAws
from gahp.model import Refused

SUMMARY = "run the black diamond through the GAHP on an embedded AWS and check its result"
EXAMPLE = "condor_awsbatch demo --output /tmp/diamond"

_POLL_S = 0.25
_LIMIT_S = 120.0
_STATES = {"1": "idle", "2": "running", "3": "removed", "4": "completed", "5": "held"}


@dataclasses.dataclass
class Job:
    """One node of the diamond and what became of it. Times are in seconds since the epoch, 0.0 as long as they are not known."""

    name: str
    program: str
    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parents: tuple[str, ...] = ()
    job_id: str = ""
    state: str = ""
    ad: str = ""
    submitted: float = 0.0
    ended: float = 0.0
    started: float = 0.0
    stopped: float = 0.0

    @property
    def over(self) -> bool:
        return self.state in ("completed", "held", "removed")


def diamond() -> list[Job]:
    """The four jobs, parents first."""
    return [
        Job("preprocess", "preprocess", ("f.a", "f.b1", "f.b2"), ("f.a",), ("f.b1", "f.b2")),
        Job("findrange 1", "findrange", ("f.b1", "f.c1"), ("f.b1",), ("f.c1",), ("preprocess",)),
        Job("findrange 2", "findrange", ("f.b2", "f.c2"), ("f.b2",), ("f.c2",), ("preprocess",)),
        Job("analyze", "analyze", ("f.c1", "f.c2", "f.d"), ("f.c1", "f.c2"), ("f.d",), ("findrange 1", "findrange 2")),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="DIR", default="demo-output", help="where results and timeline.svg go (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    console = Console()
    output = Path(options.output).absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"The folder {output} cannot be made: {error.strerror}. Name another one with --output.") from error
    with tempfile.TemporaryDirectory(prefix="awsbatch-demo-") as scratch:
        work, direct = Path(scratch, "work"), Path(scratch, "direct")
        for folder in (work, direct):
            folder.mkdir()
            _copy_programs(folder)
        console.print("Starting an embedded AWS on 127.0.0.1 ...")
        with LocalAws(Path(scratch, "aws")) as aws:
            environment = {
                **os.environ,
                **aws.environment(),
                "_CONDOR_AWSBATCH_STATE_DIR": str(Path(scratch, "state")),
                "_CONDOR_AWSBATCH_LOG": str(Path(scratch, "gahp.log")),
                "_CONDOR_AWSBATCH_POLL_INTERVAL": "0.2",
            }
            jobs = run_diamond(work, environment, aws.client("batch"), console)
            console.print()
        if any(job.state != "completed" for job in jobs):
            for job in jobs:
                if job.state in ("held", "removed"):
                    print(f"condor_awsbatch: {job.name} was {job.state}: {job.ad}", file=sys.stderr)
            return 1
        run_directly(direct)
        different = compare(work, direct)
        _keep(work, output, jobs)
    if different:
        print(f"condor_awsbatch: these differ from the programs run directly: {', '.join(different)}", file=sys.stderr)
        return 1
    console.print(f"All {sum(len(job.outputs) for job in jobs)} files are the same as from the programs run directly.")
    words = [line.split()[1] for line in (output / "f.d").read_text().splitlines()[:3]]
    console.print(f"The most frequent words of f.a are {', '.join(words)}.", highlight=False)
    console.print(f"Files and timeline.svg are in {output}", highlight=False, soft_wrap=True)
    return 0


def run_diamond(work: Path, environment: Mapping[str, str], batch: Any, console: Console) -> list[Job]:
    """Run all four jobs through a GAHP of their own, each as soon as its parents have completed."""
    jobs = diamond()
    gahp = os.path.join(os.path.dirname(sys.executable), "awsbatch_gahp")
    with Client([gahp], environment) as client, Live(_table(jobs), console=console, refresh_per_second=8) as live:
        code, message, *_ = client.perform("BLAH_PING", "awsbatch")
        if code != "0":
            raise Refused(f"The GAHP cannot run jobs: {message}")
        until = time.monotonic() + _LIMIT_S
        while any(not job.over for job in jobs) and not any(job.state in ("held", "removed") for job in jobs):
            if time.monotonic() > until:
                raise Refused(f"The demo took more than {_LIMIT_S:g} s.")
            for job in _ready(jobs):
                _submit(client, job, work)
            _ask(client, jobs)
            _look_into_batch(batch, jobs)
            live.update(_table(jobs))
            time.sleep(_POLL_S)
    return jobs


def _ready(jobs: list[Job]) -> Iterator[Job]:
    completed = {job.name for job in jobs if job.state == "completed"}
    return (job for job in jobs if not job.state and completed.issuperset(job.parents))


def _submit(client: Client, job: Job, work: Path) -> None:
    code, message, job.job_id = client.perform("BLAH_JOB_SUBMIT", submit_ad(job, work))
    if code != "0":
        raise Refused(f"{job.name} was not taken: {message}")
    job.state, job.submitted = "idle", time.time()


def _ask(client: Client, jobs: list[Job]) -> None:
    for job in jobs:
        if not job.state or job.over:
            continue
        code, message, number, job.ad = client.perform("BLAH_JOB_STATUS", job.job_id)
        if code != "0":
            raise Refused(f"The state of {job.name} is not to be had: {message}")
        job.state = _STATES[number]
        if job.over:
            job.ended = time.time()


def _look_into_batch(batch: Any, jobs: list[Job]) -> None:
    """When each program really began and ended: a poll sees only that it was between two others."""
    ids = {str(classad2.ClassAd(job.ad).get("AwsJobId", "")): job for job in jobs if job.ad and not job.stopped}
    if ids := {native: job for native, job in ids.items() if native}:
        for detail in batch.describe_jobs(jobs=list(ids))["jobs"]:
            job = ids[detail["jobId"]]
            job.started, job.stopped = detail.get("startedAt", 0) / 1000, detail.get("stoppedAt", 0) / 1000


def submit_ad(job: Job, work: Path) -> str:
    """The ad that a gridmanager would send for this job."""
    name = job.name.replace(" ", "")
    fields = {
        "Cmd": str(work / job.program),
        "Args": " ".join(job.arguments),
        "Iwd": str(work),
        "In": "/dev/null",
        "Out": f"{name}.out",
        "Err": f"{name}.err",
        "Environment": "",
        "TransferInput": ",".join(job.inputs),
        "TransferOutput": ",".join(job.outputs),
        "JobDirectory": f"demo_{os.getpid()}_{name}",
        "GridResource": "batch awsbatch",
        "gridtype": "awsbatch",
    }
    quoted = (f'{key} = "{value.translate({34: chr(92) + chr(34), 92: chr(92) * 2})}"' for key, value in fields.items())
    return f"[ {'; '.join(quoted)} ]"


def run_directly(folder: Path) -> None:
    """The same programs, one after another, without HTCondor's protocol and without AWS."""
    for job in diamond():
        with open(folder / f"{job.name.replace(' ', '')}.out", "wb") as out:
            subprocess.run([str(folder / job.program), *job.arguments], cwd=folder, stdout=out, check=True)


def compare(work: Path, direct: Path) -> list[str]:
    """The names of output and stdout files that are not the same in both folders."""
    names = [name for job in diamond() for name in (*job.outputs, f"{job.name.replace(' ', '')}.out")]
    return [name for name in names if not (work / name).exists() or (work / name).read_bytes() != (direct / name).read_bytes()]


def _copy_programs(folder: Path) -> None:
    source = importlib.resources.files("gahp.cli") / "blackdiamond"
    for name in ("f.a", "preprocess", "findrange", "analyze"):
        target = folder / name
        target.write_bytes((source / name).read_bytes())
        target.chmod(0o644 if name == "f.a" else 0o755)


def _keep(work: Path, output: Path, jobs: list[Job]) -> None:
    for name in [name for job in jobs for name in (*job.inputs, *job.outputs)]:
        shutil.copyfile(work / name, output / name)
    begin = min(job.submitted for job in jobs)
    rows = [Row(job.name, tuple(_spans(job, begin)), job.state) for job in jobs]
    (output / "timeline.svg").write_text(draw("Black diamond through the AWS Batch GAHP", rows))


def _spans(job: Job, begin: float) -> Iterator[Span]:
    moments = [("idle", job.submitted), ("running", job.started), ("collecting", job.stopped), ("", job.ended)]
    for (state, since), (_, until) in itertools.pairwise(moments):
        yield Span(state, since - begin, until - begin)


def _table(jobs: list[Job]) -> Table:
    now = time.time()
    begin = min((job.submitted for job in jobs if job.submitted), default=now)
    table = Table(title=f"Black diamond, {now - begin:.1f} s", title_justify="left")
    for column in ("job", "state", "waited", "ran", "run"):
        table.add_column(column, no_wrap=column != "run")  # the run's name is what gives way on a narrow terminal
    for job in jobs:
        waited = (job.started or job.ended or now) - job.submitted if job.submitted else None
        ran = (job.stopped or now) - job.started if job.started else None
        times = ["" if spent is None else f"{spent:.2f} s" for spent in (waited, ran)]
        table.add_row(job.name, job.state or "not yet", *times, job.job_id.rpartition("/")[2])
    return table
