"""The doctor's probe: one real job through the gateway, with input, output and both streams, and how long each part took.

Its journal is a folder of its own, so no gridmanager's GAHP ever sees it; its objects in S3 are deleted. Knows site and gateway.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError  # 3.10 has another TimeoutError of its own
from pathlib import Path
from typing import Any, TypeVar

from gahp import site
from gahp.batch.errors import translate
from gahp.config import Config
from gahp.gateway import Gateway
from gahp.model import JobReport, JobRequest, JobState
from gahp.provision.checks import Failed
from gahp.sandbox import Sandbox

T = TypeVar("T")

_ASK_EVERY_S = 0.2
_CANCEL_LIMIT_S = 60.0
_SUBMIT_LIMIT_S = 60.0
_SCRIPT = """#!/bin/sh
tr a-z A-Z < input.txt > output.txt
bash -c 'echo "bash $BASH_VERSION"' > tools.txt
for tool in s5cmd aws gzip find perl unzip; do
    if command -v "$tool" > /dev/null; then echo "$tool"; fi
done >> tools.txt
echo to stdout
echo to stderr >&2
"""
# What jobs of some kind need besides what every job needs, without which the probe would not have come to its end.
_NEEDED_FOR = {"find": "Pegasus", "perl": "Pegasus", "unzip": "zip archives"}
_INPUT = "A probe of condor_awsbatch doctor.\n"


def run(config: Config, limit_s: float, progress: Callable[[str], None], phases: dict[str, float]) -> str:
    """Run the probe; the times as a sentence, and in `phases`. Raises Failed, Refused or Transient."""
    with tempfile.TemporaryDirectory(prefix="awsbatch-doctor-") as folder:
        iwd = Path(folder, "iwd")
        iwd.mkdir()
        (iwd / "input.txt").write_text(_INPUT)
        (iwd / "probe.sh").write_text(_SCRIPT)
        (iwd / "probe.sh").chmod(0o755)
        own = dataclasses.replace(
            config, state_dir=os.path.join(folder, "state"), log="", poll_interval=min(config.poll_interval, 1.0)
        )
        gateway = site.open_gateway(own)
        gateway.start()
        try:
            begun = time.time()
            job_id = _answer(gateway.submit(_request(iwd)), "take the probe job")
            try:
                report = _follow(gateway, job_id, limit_s, progress, own)
                ended = time.time()
                _check(report, iwd)
                phases.update(_times(own, report, begun, ended))
                spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items())
                image = tools((iwd / "tools.txt").read_text())
                return f"all its output came back after {ended - begun:.1f} s: {spent}; {image}"
            finally:
                progress("")
                _clean_up(own, gateway, job_id)
        finally:
            gateway.close()


def _answer(future: Future[T], what: str) -> T:
    try:
        return future.result(_SUBMIT_LIMIT_S)
    except TimeoutError as error:
        text = f"AWS did not {what} within {_SUBMIT_LIMIT_S:g} s."
        raise Failed(text, "Is AWS out of reach, or throttled? Try again.") from error


def tools(text: str) -> str:
    """What the container has of tools, as a sentence's part. Raises Failed when jobs of this program would miss one."""
    first, *found = text.splitlines()
    if "gzip" not in found:
        raise Failed("The image has no gzip, which jobs that come together need.", "See image/README.md for what it has to have.")
    lacking = [f"no {tool} ({use})" for tool, use in _NEEDED_FOR.items() if tool not in found]
    has = [first, *(tool for tool in found if tool not in _NEEDED_FOR)]
    return f"the image has {', '.join(has)}" + (f", and {', '.join(lacking)}" if lacking else ", and what Pegasus needs")


def _request(iwd: Path) -> JobRequest:
    return JobRequest(
        executable=str(iwd / "probe.sh"),
        iwd=str(iwd),
        stdout="stdout",
        stderr="stderr",
        inputs=("input.txt",),
        outputs=("output.txt", "tools.txt"),
        directory=f"doctor_{os.getpid()}_{time.time_ns()}",
        dag_node="doctor",
    )


def _follow(gateway: Gateway, job_id: str, limit_s: float, progress: Callable[[str], None], config: Config) -> JobReport:
    """The report of the end. Past the limit the job is cancelled and Failed raised, with AWS Batch's reason if it has one."""
    until = time.monotonic() + limit_s
    while True:
        report = _answer(gateway.status(job_id), "tell the probe job's state")
        if report.state.final:
            return report
        if time.monotonic() > until:
            batch_job = _describe(config, report.native_id)
            state = batch_job.get("status", report.state.name.lower())
            reason = batch_job.get("statusReason", "AWS Batch gives no reason")
            raise Failed(
                f"The probe job is still {state} after {limit_s:g} s: {reason}.",
                "See the compute environment, its network, its limits; --probe-limit waits longer (hosts take minutes).",
            )
        left = until - time.monotonic()
        progress(f"the probe job is {report.state.name.lower()}, {left:.0f} s left")
        time.sleep(_ASK_EVERY_S)


def _check(report: JobReport, iwd: Path) -> None:
    """Raise Failed unless the job ended well and all its output is here."""
    if report.state is not JobState.COMPLETED:
        raise Failed(f"The probe job was {report.state.name.lower()}: {report.hold_reason or 'somebody ended it'}")
    if report.exit_code != 0:
        raise Failed(f"The probe job ended with exit code {report.exit_code}.", "Has the image sh and tr? See image/README.md.")
    expected = {"output.txt": _INPUT.upper(), "stdout": "to stdout\n", "stderr": "to stderr\n"}
    for name, text in expected.items():
        if (iwd / name).read_text() != text:
            raise Failed(f"The probe job's {name} is not what it should be.", "See image/README.md for what the image has to do.")


def _times(config: Config, report: JobReport, begun: float, ended: float) -> dict[str, float]:
    job = _describe(config, report.native_id)
    created, started, stopped = (job.get(key, 0) / 1000 for key in ("createdAt", "startedAt", "stoppedAt"))
    parts = {
        "staged in": created - begun,
        "waited": started - created,
        "ran": stopped - started,
        "staged out": ended - stopped,
    }
    return {name: round(max(0.0, seconds), 3) for name, seconds in parts.items()}


def _describe(config: Config, native_id: str) -> dict[str, Any]:
    batch = site.clients(config).batch
    try:
        found = batch.describe_jobs(jobs=[native_id])["jobs"] if native_id else []
    except Exception as error:
        raise translate(error, "DescribeJobs") from error
    return dict(found[0]) if found else {}


def _clean_up(config: Config, gateway: Gateway, job_id: str) -> None:
    """End the job if it is not over, and delete its objects. What cannot be done is left to the bucket's lifecycle rule."""
    with contextlib.suppress(Exception):
        if not gateway.status(job_id).result(_SUBMIT_LIMIT_S).state.final:
            gateway.cancel(job_id).result(_CANCEL_LIMIT_S)
    with contextlib.suppress(Exception):
        s3 = site.clients(config).s3
        sandbox = Sandbox(s3, config.bucket, config.prefix)
        try:
            sandbox.discard(job_id.rpartition("/")[2])
        finally:
            sandbox.close()
