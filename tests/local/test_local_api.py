"""The limits of SubmitJob, and what ListJobs, DescribeJobs and DescribeJobDefinitions answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

QUEUE, DEFINITION = "awsbatch-local-queue", "awsbatch-local-job"
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def refused(account: Any) -> Callable[..., str]:
    """Submit with some parameters changed; returns the text of the ClientException that comes back."""
    # Straight to the endpoint: the watched client would not even send some of these.
    from gahp.local import site

    client = site.client("batch", account.aws.endpoint, account.aws.state.access_key, account.aws.state.secret_key)

    def submit(**changes: Any) -> str:
        parameters = {"jobName": account.name(), "jobQueue": QUEUE, "jobDefinition": DEFINITION, **changes}
        with pytest.raises(ClientError) as caught:
            client.submit_job(**parameters)
        error = caught.value.response
        assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("ClientException", 400)
        return str(error["Error"]["Message"])

    return submit


def overriding(**fields: Any) -> dict[str, Any]:
    return {"containerOverrides": fields}


def needing(kind: str, value: str) -> dict[str, Any]:
    return overriding(resourceRequirements=[{"type": kind, "value": value}])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"jobQueue": "no-queue"}, "JobQueue no-queue not found."),
        ({"jobDefinition": "none"}, "JobDefinition name none does not exist or is not in ACTIVE status"),
        ({"jobDefinition": "awsbatch-local-job:99"}, "does not exist"),
        ({"jobName": "a b"}, "Job name should match valid pattern"),
        ({"jobName": "-a"}, "Job name should match valid pattern"),
        ({"jobName": "a" * 129}, "Job name should match valid pattern"),
        (overriding(environment=[{"name": "A", "value": "x" * 31000}]), "Job size must be less than 30 KiB, got 31 KiB"),
        (overriding(environment=[{"name": "AWS_BATCH_MINE", "value": "x"}]), "AWS_BATCH"),
        (needing("MEMORY", "3"), "MEMORY must be at least 4"),
        (needing("MEMORY", "abc"), "MEMORY 'abc' is not a number"),
        (needing("MEMORY", "10.5"), "MEMORY '10.5' is not a number"),
        (needing("GPU", "0"), "GPU must be at least 1"),
        (needing("VCPU", "0"), "VCPU must be at least"),
        (needing("DISK", "5"), "none of GPU, VCPU, MEMORY"),
        ({"timeout": {"attemptDurationSeconds": 59}}, "at least 60"),
        ({"retryStrategy": {"attempts": 0}}, "between 1 and 10"),
        ({"retryStrategy": {"attempts": 11}}, "between 1 and 10"),
        ({"retryStrategy": {"evaluateOnExit": [{"onExitCode": "1", "action": "EXIT"}]}}, "attempts must be specified"),
        ({"retryStrategy": {"attempts": 2, "evaluateOnExit": [{"onExitCode": "1", "action": "EXIT"}] * 6}}, "up to 5"),
        ({"retryStrategy": {"attempts": 2, "evaluateOnExit": [{"onExitCode": "a", "action": "EXIT"}]}}, "valid pattern"),
        ({"retryStrategy": {"attempts": 2, "evaluateOnExit": [{"onReason": "*a*", "action": "EXIT"}]}}, "valid pattern"),
        ({"retryStrategy": {"attempts": 2, "evaluateOnExit": [{"action": "EXIT"}]}}, "needs a condition"),
        ({"arrayProperties": {"size": 1}}, "between 2 and 10000"),
        ({"arrayProperties": {"size": 10001}}, "between 2 and 10000"),
        ({"tags": {"GlobalJobId": "host#1.0#5"}}, "not allowed: '#'"),
        ({"tags": {"aws:mine": "x"}}, "not valid"),
        ({"tags": {str(number): "x" for number in range(51)}}, "over the maximum of 50"),
        ({"dependsOn": [{"jobId": NOBODY}]}, "does not exist"),
        ({"dependsOn": [{"jobId": NOBODY}] * 21}, "maximum of 20"),
        ({"dependsOn": [{"type": "SEQUENTIAL"}]}, "array jobs only"),
    ],
)
def test_submit_job_refuses(refused: Callable[..., str], changes: dict[str, Any], text: str) -> None:
    assert text in refused(**changes)


def test_the_longest_name_and_largest_payload_are_taken(account: Any) -> None:
    account.aws.faults.stuck(name="n*")
    job_id = account.submit(name="n" * 128, environment={"A": "x" * 30000})
    account.batch.terminate_job(jobId=job_id, reason="over")


def test_a_definition_is_found_by_name_revision_and_arn(account: Any) -> None:
    name = account.name()
    properties = {"image": "any", "vcpus": 1, "memory": 64}
    for _ in range(2):
        account.batch.register_job_definition(jobDefinitionName=name, type="container", containerProperties=properties)
    described = account.batch.describe_job_definitions(jobDefinitionName=name)["jobDefinitions"]
    arn = described[0]["jobDefinitionArn"].rpartition(":")[0]
    used = {asked: account.submit(jobDefinition=asked) for asked in (name, f"{name}:1", arn, f"{arn}:1")}
    revisions = {asked: account.describe(job_id)["jobDefinition"].rpartition(":")[2] for asked, job_id in used.items()}
    assert revisions == {name: "2", f"{name}:1": "1", arn: "2", f"{arn}:1": "1"}
    found = account.batch.describe_job_definitions(jobDefinitions=[f"{name}:1"])["jobDefinitions"]
    assert [entry["revision"] for entry in found] == [1]


def test_a_deregistered_definition_is_refused(account: Any, refused: Callable[..., str]) -> None:
    name = account.name()
    properties = {"image": "any", "vcpus": 1, "memory": 64}
    account.batch.register_job_definition(jobDefinitionName=name, type="container", containerProperties=properties)
    account.batch.deregister_job_definition(jobDefinition=f"{name}:1")
    assert "not in ACTIVE status" in refused(jobDefinition=name)
    assert account.batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")["jobDefinitions"] == []


def test_vcpus_and_memory_do_not_override_the_resource_requirements_of_the_definition(account: Any) -> None:
    account.aws.faults.stuck(name="legacy-*")
    overrides = {"vcpus": 3, "memory": 999}
    job_id = account.batch.submit_job(jobName="legacy-1", jobQueue=QUEUE, jobDefinition=DEFINITION, containerOverrides=overrides)[
        "jobId"
    ]
    needs = {entry["type"]: entry["value"] for entry in account.describe(job_id)["container"]["resourceRequirements"]}
    assert needs == {"VCPU": "1", "MEMORY": "512"}
    account.batch.terminate_job(jobId=job_id, reason="over")


# -- DescribeJobs


def test_unknown_jobs_are_simply_absent(account: Any) -> None:
    job_id = account.run("exit 0")["jobId"]
    found = account.batch.describe_jobs(jobs=[NOBODY, job_id, "no id", f"{job_id}:0"])["jobs"]
    assert [job["jobId"] for job in found] == [job_id]


def test_describe_jobs_takes_up_to_100(account: Any) -> None:
    assert account.batch.describe_jobs(jobs=[f"{NOBODY}:{number}" for number in range(100)])["jobs"] == []
    with pytest.raises(ClientError, match="100"):
        account.batch.describe_jobs(jobs=[f"{NOBODY}:{number}" for number in range(101)])


def test_a_job_that_never_started_has_the_time_0_as_its_start(account: Any) -> None:
    account.aws.faults.stuck(name="unstarted")
    job_id = account.submit(name="unstarted")
    job = account.describe(job_id)
    assert job["startedAt"] == 0
    assert "stoppedAt" not in job
    account.batch.terminate_job(jobId=job_id, reason="over")


# -- ListJobs


@pytest.fixture
def many(account: Any) -> Any:
    """A queue with 5 jobs that wait, an array, and the ids from oldest to newest."""
    queue = account.queue()
    account.aws.faults.stuck(queue=queue)
    ids = [account.submit(queue=queue, name=f"Sample-{number}") for number in range(5)]
    array = account.submit(queue=queue, name="sample-array", arrayProperties={"size": 3})
    yield queue, ids, array
    account.batch.terminate_jobs(jobs=[*ids, array], reason="over")


def rows(account: Any, **parameters: Any) -> list[str]:
    return [row["jobId"] for row in account.batch.list_jobs(**parameters)["jobSummaryList"]]


def test_a_list_has_the_asked_status_newest_first_and_no_array_children(account: Any, many: Any) -> None:
    queue, ids, array = many
    assert rows(account, jobQueue=queue, jobStatus="RUNNABLE") == ids[::-1]
    assert rows(account, jobQueue=queue, jobStatus="PENDING") == [array]


def test_without_a_status_only_running_jobs_are_listed(account: Any, many: Any) -> None:
    queue, _, _ = many
    other = account.queue()
    running = account.submit("sleep 100", queue=other)
    account.wait(running, "RUNNING")
    assert rows(account, jobQueue=queue) == []
    assert rows(account, jobQueue=other) == [running]
    account.batch.terminate_job(jobId=running, reason="over")


def test_the_name_filter_ignores_status_and_case_and_does_not_see_children(account: Any, many: Any) -> None:
    queue, ids, array = many

    def by_name(value: str) -> list[str]:
        return rows(account, jobQueue=queue, jobStatus="FAILED", filters=[{"name": "JOB_NAME", "values": [value]}])

    assert by_name("sample-3") == [ids[3]]
    assert by_name("SAMPLE-*") == [array, *ids[::-1]]
    assert by_name("sample") == []


def test_pages_join_to_the_whole_list(account: Any, many: Any) -> None:
    queue, ids, _ = many
    paginator = account.batch.get_paginator("list_jobs")
    pages = list(paginator.paginate(jobQueue=queue, jobStatus="RUNNABLE", PaginationConfig={"PageSize": 2}))
    assert [len(page["jobSummaryList"]) for page in pages] == [2, 2, 1]
    assert [row["jobId"] for page in pages for row in page["jobSummaryList"]] == ids[::-1]


def test_a_token_of_another_request_is_refused(account: Any, many: Any) -> None:
    queue, _, _ = many
    token = account.batch.list_jobs(jobQueue=queue, jobStatus="RUNNABLE", maxResults=2)["nextToken"]
    with pytest.raises(ClientError, match="nextToken"):
        account.batch.list_jobs(jobQueue=queue, jobStatus="FAILED", nextToken=token)


def test_an_array_lists_its_children_of_a_status(account: Any, many: Any) -> None:
    _, _, array = many
    assert rows(account, arrayJobId=array, jobStatus="RUNNABLE") == [f"{array}:{index}" for index in range(3)]
    assert rows(account, arrayJobId=array) == []


def test_jobs_are_found_by_definition_share_and_time(account: Any) -> None:
    queue = account.queue(fair_share=True)
    first = account.run("exit 0", queue=queue, shareIdentifier="one")
    second = account.run("exit 1", queue=queue, shareIdentifier="two")

    def by(name: str, value: str, **more: str) -> list[str]:
        return rows(account, jobQueue=queue, filters=[{"name": name, "values": [value]}], **more)

    ids = [second["jobId"], first["jobId"]]
    assert by("JOB_DEFINITION", DEFINITION) == ids
    assert by("JOB_DEFINITION", "awsbatch-*") == ids
    assert by("JOB_DEFINITION", first["jobDefinition"]) == ids
    assert by("JOB_DEFINITION", "awsbatch") == []
    assert by("SHARE_IDENTIFIER", "two") == ids[:1]
    assert by("SHARE_IDENTIFIER", "two", jobStatus="SUCCEEDED") == []
    assert by("AFTER_CREATED_AT", str(first["createdAt"])) == ids[:1]
    assert by("BEFORE_CREATED_AT", str(second["createdAt"])) == ids[1:]


def test_a_row_tells_how_the_job_ended(account: Any) -> None:
    queue = account.queue()
    job = account.run("exit 6", queue=queue)
    (row,) = account.batch.list_jobs(jobQueue=queue, jobStatus="FAILED")["jobSummaryList"]
    assert row["container"] == {"exitCode": 6}
    assert {key: row[key] for key in ("jobArn", "jobName", "createdAt", "startedAt", "stoppedAt", "statusReason")} == {
        key: job[key] for key in ("jobArn", "jobName", "createdAt", "startedAt", "stoppedAt", "statusReason")
    }
    assert "isTerminated" not in row


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, "Exactly one"),
        ({"jobQueue": QUEUE, "arrayJobId": NOBODY}, "Exactly one"),
        ({"jobQueue": "none"}, "JobQueue none not found."),
        ({"jobQueue": QUEUE, "filters": [{"name": "COLOUR", "values": ["blue"]}]}, "COLOUR"),
        ({"jobQueue": QUEUE, "filters": [{"name": "JOB_NAME", "values": ["a"]}] * 2}, "Only one filter"),
        ({"jobQueue": QUEUE, "maxResults": 0}, "at least 1"),
    ],
)
def test_list_jobs_refuses(account: Any, parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ClientError, match=text):
        account.batch.list_jobs(**parameters)


@pytest.mark.parametrize("call", ["terminate_job", "cancel_job"])
def test_ending_an_unknown_job_succeeds_and_a_malformed_id_is_refused(account: Any, call: str) -> None:
    getattr(account.batch, call)(jobId=NOBODY, reason="x")
    with pytest.raises(ClientError, match="not a valid job identifier"):
        getattr(account.batch, call)(jobId="no id", reason="x")
    with pytest.raises(ClientError, match="reason"):
        getattr(account.batch, call)(jobId=NOBODY, reason="")
