"""An account with entities of its own for the contract: the embedded AWS, or with AWSBATCH_TEST_PREFIX a real one.

For a real account: AWSBATCH_TEST_PREFIX is what all names begin with, AWS_DEFAULT_REGION and AWS_PROFILE say where and who;
AWSBATCH_TEST_IMAGE may name an image on the fetch-and-run contract, else a public one with bash is used. Everything that is made
carries the prefix as a tag and is removed at the end, also after Ctrl-C; `condor_awsbatch delete --prefix PREFIX` removes what a
kill -9 leaves. `condor_awsbatch create` itself makes the entities in both cases.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from gahp.local import LocalAws
from gahp.provision import create, delete, settings
from gahp.provision.aws import Clients
from gahp.provision.settings import PREFIX_TAG

PREFIX = os.environ.get("AWSBATCH_TEST_PREFIX", "")
IMAGE = os.environ.get("AWSBATCH_TEST_IMAGE", "")
PUBLIC_IMAGE = "public.ecr.aws/amazonlinux/amazonlinux:2023"
CONF = Path(__file__).resolve().parents[2] / "conf"
# Of Fargate in us-east-1, in USD an hour; other Regions take up to twice as much.
VCPU_USD, GIB_USD = 0.04048, 0.004445
MOST_JOBS, JOB_LIMIT_S, VCPUS, MIB = 30, 600, 0.25, 512


class Report:
    """Lines for whoever waits for a real account."""

    def say(self, text: str) -> None:
        if PREFIX:
            print(text, flush=True)

    def progress(self, text: str) -> None: ...
    def call(self, text: str) -> None: ...


class Account:
    """The entities, the clients, and what most tests do with them. `limit_s`: how long anything may take here."""

    def __init__(self, clients: Clients, made: create.Created, prefix: str, *, fetch: bool, limit_s: float) -> None:
        assert made.job_queue and made.job_definition
        self.batch, self.s3, self.logs = clients("batch"), clients("s3"), clients("logs")
        self.clients, self.prefix, self.fetch, self.limit_s = clients, prefix, fetch, limit_s
        self.queue, self.definition = made.job_queue.name, made.job_definition
        self.environment, self.events_url = made.compute_environment, made.events_url
        self.bucket, self.key = made.bucket, made.s3_url.removeprefix(f"s3://{made.bucket}/")
        self._numbers = iter(range(1000))

    def name(self) -> str:
        return f"{self.prefix}-{next(self._numbers)}"

    def job(self, script: str, *arguments: str, environment: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        """What SubmitJob takes for a bash script: fetched from S3 by the image's entry point, or as the command itself."""
        variables = dict(environment or {})
        command = ["bash", "-c", script, "job", *arguments]
        if self.fetch:
            key = f"{self.key}/scripts/{next(self._numbers)}"
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=f"#!/bin/bash\n{script}\n".encode())
            variables.update(BATCH_FILE_TYPE="script", BATCH_FILE_S3_URL=f"s3://{self.bucket}/{key}")
            command = list(arguments)
        overrides: dict[str, Any] = {"environment": [{"name": name, "value": value} for name, value in variables.items()]}
        if command:
            overrides["command"] = command
        overrides.update(fields.pop("containerOverrides", {}))
        usual = {"jobName": self.name(), "jobQueue": self.queue, "jobDefinition": self.definition.name}
        return {**usual, "containerOverrides": overrides, **fields}

    def submit(self, script: str = "exit 0", *arguments: str, **fields: Any) -> str:
        return str(self.batch.submit_job(**self.job(script, *arguments, **fields))["jobId"])

    def refusal(self, call: Callable[..., Any], **parameters: Any) -> tuple[int, str, str]:
        """HTTP status, code and message of a call that has to be refused."""
        with pytest.raises(ClientError) as caught:
            call(**parameters)
        answer = caught.value.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]

    def describe(self, job_id: str) -> dict[str, Any]:
        (job,) = self.batch.describe_jobs(jobs=[job_id])["jobs"]
        return dict(job)

    def until(self, ask: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
        """The first answer that is good."""
        deadline = time.monotonic() + self.limit_s
        while not good(answer := ask()):
            assert time.monotonic() < deadline, f"not within {self.limit_s:g} s: {answer}"
            time.sleep(3.0 if PREFIX else 0.02)
        return answer

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        wanted = statuses or ("SUCCEEDED", "FAILED")
        return dict(self.until(lambda: self.describe(job_id), lambda job: job["status"] in wanted))

    def output(self, job: dict[str, Any], *wanted: str) -> list[str]:
        """The lines of the last attempt's log, as soon as `wanted` are among them: CloudWatch lags behind."""
        where = {"logGroupName": "/aws/batch/job", "logStreamName": job["container"]["logStreamName"], "startFromHead": True}

        def lines() -> list[str]:
            with contextlib.suppress(self.logs.exceptions.ResourceNotFoundException):
                return [event["message"] for event in self.logs.get_log_events(**where)["events"]]
            return []

        return list(self.until(lines, lambda found: set(wanted) <= set(found)))


@contextlib.contextmanager
def entities(folder: Path, clients: Clients, prefix: str, image: str) -> Iterator[create.Created]:
    """Entities of the prefix on Fargate, for as long as the block, and removed however it ends; none was there before."""
    document = json.loads((CONF / "fargate-job-definition.json").read_text())
    container = document["containerProperties"]
    container["image"] = image
    container["resourceRequirements"] = [{"type": "VCPU", "value": str(VCPUS)}, {"type": "MEMORY", "value": str(MIB)}]
    container.pop("ephemeralStorage")
    document["timeout"] = {"attemptDurationSeconds": JOB_LIMIT_S}
    path = folder / "job-definition.json"
    path.write_text(json.dumps(document))
    asked = settings.Settings(
        prefix=prefix,
        region=clients.region,
        job_definition=str(path),
        compute_environment=str(CONF / "fargate-compute-env.json"),
        job_queue=str(CONF / "sample-job-queue.json"),
        with_roles=True,
        default_vpc=True,
        with_events=True,
    )
    if there := delete.survey(asked, clients, Report()).lines():
        pytest.exit(
            f"Of the prefix {prefix} there is something in {clients.region} already: {'; '.join(map(str.strip, there))}. Nothing "
            f"was touched. Is it left of an earlier run: condor_awsbatch delete --prefix {prefix} --region {clients.region}. If "
            "not: take another AWSBATCH_TEST_PREFIX.",
            returncode=3,
        )
    try:
        yield create.create(asked, clients, Report())
    finally:
        delete.delete(asked, clients, Report())


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    folder = tmp_path_factory.mktemp("contract")
    if PREFIX and os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.exit("A real account has one process for the contract: leave -n away, or use make test-aws.", returncode=3)
    if PREFIX:
        clients = Clients()
        with entities(folder, clients, PREFIX, IMAGE or PUBLIC_IMAGE) as made:
            yield Account(clients, made, PREFIX, fetch=bool(IMAGE), limit_s=900)
        return
    with LocalAws(folder / "aws", time_scale=0.05) as aws:
        environment = aws.environment()
        clients = Clients(
            "us-east-1",
            endpoint_url=aws.endpoint,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )
        with entities(folder, clients, "contract", "awsbatch/fetch_and_run") as made:
            yield Account(clients, made, "contract", fetch=True, limit_s=60)
        assert aws.violations() == []


@pytest.fixture(scope="session")
def jobs(account: Account) -> dict[str, str]:
    """Every job of the contract, submitted at once, for on a real account each takes a minute to start: ids by what they do."""
    retry = {"attempts": 2, "evaluateOnExit": [{"onExitCode": "5", "action": "EXIT"}]}
    echo = (
        'printf "%s\\n" "$AWS_BATCH_JOB_ID" "$AWS_BATCH_JOB_ATTEMPT" "$AWS_BATCH_JQ_NAME" "$MINE"; printf "<%s>\\n" "$@"; sleep 5'
    )
    long = "trap 'exit 0' TERM; sleep 590 & wait"
    minute = {"attemptDurationSeconds": 60}
    found = {
        "good": account.submit("exit 0", tags={"a": "b"}),
        "bad": account.submit("exit 7"),
        "killed": account.submit("bash -c 'kill -9 $$; :'; exit $?"),
        "echo": account.submit(echo, "two words", "$HOME 'quoted'", environment={"MINE": "of the job"}),
        "slow": account.submit("trap 'exit 9' TERM; sleep 590 & wait", timeout=minute, retryStrategy=retry),
        "second try": account.submit('[ "$AWS_BATCH_JOB_ATTEMPT" = 2 ]', retryStrategy=retry),
        "exit rule": account.submit("exit 5", retryStrategy=retry),
        "long": account.submit(long),
        "array": account.submit('[ "$AWS_BATCH_JOB_ARRAY_INDEX" = 0 ]', arrayProperties={"size": 2}),
        "by revision": account.submit(jobDefinition=account.definition.arn.rpartition("/")[2]),
        "by ARN": account.submit(jobDefinition=account.definition.arn),
        "large": account.submit(environment={"LARGE": "x" * 9000}),
    }
    found["long array"] = account.submit(long, arrayProperties={"size": 3})
    twice = '[ "$AWS_BATCH_JOB_ARRAY_INDEX$AWS_BATCH_JOB_ATTEMPT" != 11 ]'
    found["array with a second try"] = account.submit(twice, arrayProperties={"size": 2}, retryStrategy={"attempts": 2})
    after = [{"jobId": found["long"]}]
    found["waiting 1"], found["waiting 2"] = (account.submit(dependsOn=after) for _ in range(2))
    found["after bad"] = account.submit(dependsOn=[{"jobId": found["bad"]}])
    found["after long"] = account.submit(dependsOn=[{"jobId": found["long"]}])
    return found


@pytest.fixture(scope="session")
def disabled_queue(account: Account) -> str:
    """A job queue that takes no jobs; removed with the others by its tag."""
    assert account.environment
    name = f"{account.prefix}-disabled-queue"
    order = [{"order": 1, "computeEnvironment": account.environment.arn}]
    account.batch.create_job_queue(
        jobQueueName=name, state="DISABLED", priority=1, computeEnvironmentOrder=order, tags={PREFIX_TAG: account.prefix}
    )

    def look() -> dict[str, Any]:
        return dict(account.batch.describe_job_queues(jobQueues=[name])["jobQueues"][0])

    account.until(look, lambda queue: queue["status"] == "VALID")
    return name


def pytest_report_header() -> list[str]:
    """What a run against a real account may cost, before it begins."""
    if not PREFIX:
        return []
    usd = 2 * MOST_JOBS * JOB_LIMIT_S / 3600 * (VCPUS * VCPU_USD + MIB / 1024 * GIB_USD)
    return [
        f"contract: a REAL AWS account; everything is named {PREFIX}-*, tagged {PREFIX_TAG}={PREFIX}, and removed at the end",
        f"contract: at most {MOST_JOBS} Fargate jobs of up to {JOB_LIMIT_S} s: at most {usd:.2f} USD, and cents for S3 and logs",
    ]
