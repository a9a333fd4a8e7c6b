"""The embedded AWS and the simulated account, one as good as the other for what both are asked here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from bench import peers
from gahp.local import LocalAws


@dataclasses.dataclass
class Account:
    """Clients, names and knobs. `calls` counts the requests of S3 so far; `stay`: what a job needs to run until it is ended;
    after `hurry` jobs end as soon as they have done their work."""

    batch: Any
    queue: str
    definition: str
    environment: dict[str, str]
    calls: Callable[[], Counter[str]]
    stay: dict[str, Any]
    hurry: Callable[[], object] = lambda: None

    def submit(self, name: str, **fields: Any) -> str:
        asked = {"jobName": name, "jobQueue": self.queue, "jobDefinition": self.definition, **self.stay, **fields}
        return str(self.batch.submit_job(**asked)["jobId"])

    def describe(self, job_id: str) -> dict[str, Any]:
        (job,) = self.batch.describe_jobs(jobs=[job_id])["jobs"]
        return dict(job)

    def until(self, ask: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + 60
        while not good(answer := ask()):
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)
        return answer


def s3_only(calls: dict[str, int]) -> Counter[str]:
    return Counter({name: count for name, count in calls.items() if name.startswith("s3:")})


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[Account]:
    with LocalAws(folder / "aws") as aws:
        environment = aws.environment()
        script = {"environment": [{"name": "BATCH_FILE_TYPE", "value": "script"}], "command": ["sleep"]}
        text = b"#!/bin/bash\ntrap 'exit 9' TERM\nsleep 590 & wait\n"
        aws.client("s3").put_object(Bucket="awsbatch-local", Key="sleep", Body=text)
        script["environment"].append({"name": "BATCH_FILE_S3_URL", "value": "s3://awsbatch-local/sleep"})
        stay = {"containerOverrides": script}
        names = ("awsbatch-local-queue", "awsbatch-local-job")
        yield Account(aws.client("batch"), *names, environment, lambda: s3_only(aws.calls()), stay)
        assert aws.violations() == []


@contextlib.contextmanager
def simulated(folder: Path) -> Iterator[Account]:
    with peers.endpoint("--run", "590") as aws:
        keys = ("bench", "bench")
        once = Config(retries={"mode": "standard", "total_max_attempts": 1})
        client = boto3.Session(*keys, region_name="us-east-1").client("batch", endpoint_url=aws.url, config=once)
        yield Account(
            client,
            peers.QUEUE,
            peers.DEFINITION,
            aws.environment(),
            lambda: s3_only(aws.order("seen")["calls"]),
            {},
            hurry=lambda: aws.order("pace"),
        )


KINDS = {"embedded": embedded, "simulated": simulated}


@pytest.fixture(scope="module", params=list(KINDS))
def account(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with KINDS[request.param](tmp_path_factory.mktemp("account")) as made:
        yield made


def gahp_environment(account: Account, folder: Path, **knobs: str) -> dict[str, str]:
    knobs = {"STATE_DIR": str(folder / "state"), "LOG": "none", **knobs}
    more = {f"_CONDOR_AWSBATCH_{name}": value for name, value in knobs.items()}
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **account.environment, **more}
