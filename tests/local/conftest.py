"""One embedded AWS for each test process; every test has job names and queues of its own, and leaves no fault behind."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gahp.local import LocalAws

# 60 s become 3 s, and the 30 s between SIGTERM and SIGKILL 1.5 s.
TIME_SCALE = 0.05
LIMIT_S = 30.0
BUCKET, QUEUE, DEFINITION = "awsbatch-local", "awsbatch-local-queue", "awsbatch-local-job"
_numbers = itertools.count()


class Account:
    """An embedded AWS, its clients, and the few things that most tests do with them."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.batch, self.s3, self.logs = aws.client("batch"), aws.client("s3"), aws.client("logs")

    def script(self, text: str) -> list[dict[str, str]]:
        """Put a script into S3; returns the environment that makes the image's entry point run it."""
        key = f"scripts/{next(_numbers)}"
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=f"#!/bin/bash\n{text}\n".encode())
        url = f"s3://{BUCKET}/{key}"
        return [{"name": "BATCH_FILE_TYPE", "value": "script"}, {"name": "BATCH_FILE_S3_URL", "value": url}]

    def submit(
        self,
        text: str = "exit 0",
        *arguments: str,
        environment: dict[str, str] | None = None,
        resources: dict[str, str] | None = None,
        queue: str = QUEUE,
        name: str = "",
        **fields: Any,
    ) -> str:
        """Submit a job that runs the script `text`; returns its id."""
        more = [{"name": key, "value": value} for key, value in (environment or {}).items()]
        overrides: dict[str, Any] = {"command": list(arguments), "environment": [*self.script(text), *more]}
        if resources:
            overrides["resourceRequirements"] = [{"type": kind, "value": value} for kind, value in resources.items()]
        return str(
            self.batch.submit_job(
                jobName=name or self.name(),
                jobQueue=queue,
                jobDefinition=fields.pop("jobDefinition", DEFINITION),
                containerOverrides=overrides,
                **fields,
            )["jobId"]
        )

    def name(self) -> str:
        """A job name that no other test has."""
        return f"job-{next(_numbers)}"

    def describe(self, job_id: str) -> dict[str, Any]:
        (job,) = self.batch.describe_jobs(jobs=[job_id])["jobs"]
        return dict(job)

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """The job as soon as it has one of `statuses` (default: the final ones)."""
        wanted = statuses or ("SUCCEEDED", "FAILED")
        return until(lambda: self.describe(job_id), lambda job: job["status"] in wanted)

    def wait_for_line(self, job_id: str, line: str) -> None:
        """Until the running job has written that line."""
        job = self.wait(job_id, "RUNNING")
        until(lambda: self.output(job), lambda lines: line in lines)

    def run(self, text: str, *arguments: str, **fields: Any) -> dict[str, Any]:
        """Submit and wait for the end."""
        return self.wait(self.submit(text, *arguments, **fields))

    def output(self, job: dict[str, Any]) -> list[str]:
        """The lines that the last attempt wrote."""
        events = self.logs.get_log_events(
            logGroupName="/aws/batch/job", logStreamName=job["container"]["logStreamName"], startFromHead=True
        )
        return [event["message"] for event in events["events"]]

    def queue(self, *, vcpus: int = 256, fair_share: bool = False) -> str:
        """A new job queue with a compute environment of its own."""
        name = f"queue-{next(_numbers)}"
        existing = self.batch.describe_compute_environments()["computeEnvironments"][0]
        resources = {**existing["computeResources"], "maxvCpus": vcpus}
        environment = self.batch.create_compute_environment(
            computeEnvironmentName=f"{name}-environment",
            type="MANAGED",
            state="ENABLED",
            serviceRole=existing["serviceRole"],
            computeResources=resources,
        )["computeEnvironmentArn"]
        policy = {}
        if fair_share:
            policy = {"schedulingPolicyArn": self.batch.create_scheduling_policy(name=f"{name}-policy")["arn"]}
        order = [{"order": 1, "computeEnvironment": environment}]
        self.batch.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order, **policy)
        return name


def until(ask: Callable[[], Any], good: Callable[[Any], bool], limit_s: float = LIMIT_S) -> Any:
    """The first answer that is good."""
    deadline = time.monotonic() + limit_s
    while not good(answer := ask()):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {answer}"
        time.sleep(0.01)
    return answer


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with LocalAws(tmp_path_factory.mktemp("aws"), vcpus=64, memory_mib=16384, time_scale=TIME_SCALE) as aws:
        yield Account(aws)


@pytest.fixture
def account(running: Account) -> Iterator[Account]:
    """The embedded AWS, without faults, before and after; every answer it gave was one that AWS could give."""
    yield running
    running.aws.faults.clear()
    assert running.aws.violations() == []


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "aws"
