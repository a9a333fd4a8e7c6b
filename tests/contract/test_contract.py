"""What the program expects of AWS (docs/aws-semantics.md), asked of the embedded AWS or of a real account; see conftest.py."""

from __future__ import annotations

import itertools

import pytest
from botocore.exceptions import ClientError

from gahp.batch import EventQueue

UNKNOWN = "00000000-0000-4000-8000-000000000000"


# Submitting


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"jobName": "x" * 129}, "name"),
        ({"jobName": "a b"}, "name"),
        ({"jobQueue": "none-such"}, "none-such"),
        ({"jobDefinition": "none-such"}, "none-such"),
        ({"timeout": {"attemptDurationSeconds": 59}}, ""),
        ({"retryStrategy": {"attempts": 11}}, ""),
        ({"retryStrategy": {"attempts": 2, "evaluateOnExit": [{"onExitCode": "1", "action": "EXIT"}] * 6}}, ""),
        ({"shareIdentifier": "default"}, ""),
        ({"containerOverrides": {"environment": [{"name": "AWS_BATCH_MINE", "value": "1"}]}}, "AWS_BATCH"),
        ({"containerOverrides": {"environment": [{"name": "LARGE", "value": "x" * 31000}]}}, "30"),
        ({"containerOverrides": {"resourceRequirements": [{"type": "MEMORY", "value": "3"}]}}, ""),
        ({"tags": {"a": "b#c"}}, ""),
        ({"arrayProperties": {"size": 1}}, ""),
        ({"arrayProperties": {"size": 10001}}, ""),
    ],
)
def test_submit_job_refuses_with_400_and_makes_no_job(account, fields, words):
    job = account.job("exit 0", **fields)
    status, code, message = account.refusal(account.batch.submit_job, **job)
    assert (status, code) in ((400, "ClientException"), (400, "ValidationException")), message
    assert words.lower() in message.lower()
    if len(job["jobName"]) <= 128 and " " not in job["jobName"] and job["jobQueue"] == account.queue:
        filters = [{"name": "JOB_NAME", "values": [job["jobName"]]}]
        assert account.batch.list_jobs(jobQueue=account.queue, filters=filters)["jobSummaryList"] == []


def test_a_disabled_queue_takes_no_jobs(account, disabled_queue):
    assert account.refusal(account.batch.submit_job, **account.job("exit 0", jobQueue=disabled_queue))[0] == 400


def test_a_deregistered_definition_is_refused(account):
    described = account.batch.describe_job_definitions(jobDefinitions=[account.definition.arn])["jobDefinitions"][0]
    copied = {key: described[key] for key in ("type", "containerProperties", "platformCapabilities", "tags")}
    name = f"{account.prefix}-gone"
    arn = account.batch.register_job_definition(jobDefinitionName=name, **copied)["jobDefinitionArn"]
    account.batch.deregister_job_definition(jobDefinition=arn)
    account.until(
        lambda: account.batch.describe_job_definitions(jobDefinitions=[arn])["jobDefinitions"],
        lambda found: not found or found[0]["status"] == "INACTIVE",
    )
    assert account.refusal(account.batch.submit_job, **account.job("exit 0", jobDefinition=name))[0] == 400


@pytest.mark.parametrize("what", ["good", "by revision", "by ARN"])
def test_a_definition_is_found_by_name_revision_and_arn(account, jobs, what):
    assert account.describe(jobs[what])["jobDefinition"] == account.definition.arn


def test_a_job_is_found_by_its_name_whatever_its_status(account, jobs):
    for what in ("good", "long", "after long"):
        name = account.describe(jobs[what])["jobName"]
        filters = [{"name": "JOB_NAME", "values": [name]}]
        rows = account.until(
            lambda filters=filters: account.batch.list_jobs(jobQueue=account.queue, filters=filters)["jobSummaryList"], bool
        )
        assert [row["jobId"] for row in rows] == [jobs[what]]


def test_a_job_keeps_its_tags(account, jobs):
    assert account.describe(jobs["good"])["tags"]["a"] == "b"


# Watching


def test_describe_jobs_takes_100_ids_and_leaves_unknown_ones_out(account, jobs):
    ids = [jobs["good"], *(UNKNOWN[:-3] + f"{number:03}" for number in range(99))]
    assert [job["jobId"] for job in account.batch.describe_jobs(jobs=ids)["jobs"]] == [jobs["good"]]
    assert account.refusal(account.batch.describe_jobs, jobs=[*ids, UNKNOWN.replace("4", "5")])[0] == 400


def test_times_are_milliseconds_in_the_order_of_the_states(account, jobs):
    job = account.wait(jobs["good"])
    assert 1.6e12 < job["createdAt"] <= job["startedAt"] <= job["stoppedAt"] < 4e12


def test_a_list_has_one_status_and_pages_join_to_the_whole(account, jobs):
    account.wait(jobs["bad"])
    account.wait(jobs["killed"])
    pages, created, token = [], [], {}
    while True:
        page = account.batch.list_jobs(jobQueue=account.queue, jobStatus="FAILED", maxResults=1, **token)
        pages.append([row["jobId"] for row in page["jobSummaryList"]])
        created += [row["createdAt"] for row in page["jobSummaryList"]]
        if not page.get("nextToken"):
            break
        token = {"nextToken": page["nextToken"]}
    found = list(itertools.chain.from_iterable(pages))
    assert all(len(page) <= 1 for page in pages)
    assert len(found) == len(set(found)) and {jobs["bad"], jobs["killed"]} <= set(found)
    assert created == sorted(created, reverse=True)


def test_a_list_without_a_status_has_running_jobs_only_and_no_children(account, jobs):
    account.wait(jobs["long"], "RUNNING")
    account.wait(f"{jobs['long array']}:0", "RUNNING")
    rows = account.until(
        lambda: account.batch.list_jobs(jobQueue=account.queue)["jobSummaryList"],
        lambda rows: jobs["long"] in [row["jobId"] for row in rows],
    )
    assert {row["status"] for row in rows} == {"RUNNING"}
    assert not any(":" in row["jobId"] or row["jobId"] == jobs["long array"] for row in rows)


def test_the_parent_of_running_children_is_pending_and_counts_them(account, jobs):
    parent = jobs["long array"]
    for index in range(3):
        account.wait(f"{parent}:{index}", "RUNNING")
    job = account.until(
        lambda: account.describe(parent), lambda job: job["arrayProperties"]["statusSummary"].get("RUNNING") == 3
    )
    assert job["status"] == "PENDING"


def test_one_child_is_terminated_alone_and_the_parent_takes_all_others_with_it(account, jobs):
    parent = jobs["long array"]
    for index in range(3):
        account.wait(f"{parent}:{index}", "RUNNING")
    account.batch.terminate_job(jobId=f"{parent}:1", reason="this one")
    assert account.wait(f"{parent}:1")["statusReason"] == "this one"
    assert {account.describe(f"{parent}:{index}")["status"] for index in (0, 2)} == {"RUNNING"}
    account.batch.terminate_job(jobId=parent, reason="all of it")
    assert account.wait(parent)["status"] == "FAILED"
    assert {account.wait(f"{parent}:{index}")["status"] for index in (0, 2)} == {"FAILED"}


def test_a_name_may_end_with_an_asterisk_and_be_in_any_case(account, jobs):
    filters = [{"name": "JOB_NAME", "values": [f"{account.prefix}-*".upper()]}]
    pages = account.batch.get_paginator("list_jobs").paginate(jobQueue=account.queue, filters=filters)
    found = [row["jobId"] for page in pages for row in page["jobSummaryList"]]
    assert {jobs["good"], jobs["bad"], jobs["array"]} <= set(found)
    assert not any(":" in job_id for job_id in found)


def test_a_change_of_state_comes_into_the_events_queue(account):
    job_id = account.submit()
    account.batch.terminate_job(jobId=job_id, reason="seen enough")
    reader, heard = EventQueue(account.clients("sqs"), account.events_url), []

    def listen():
        reader.read(lambda job: heard.append(job) or True, wait_s=1)
        return [job for job in heard if job.id == job_id and job.over]

    (ended, *_) = account.until(listen, bool)
    assert ended.status == "FAILED"


def test_the_container_shows_definition_and_overrides_joined_the_same_at_every_look(account, jobs):
    account.wait(jobs["echo"])
    first, again = (account.describe(jobs["echo"])["container"] for _ in range(2))
    assert {"name": "MINE", "value": "of the job"} in first["environment"]
    assert {"type": "MEMORY", "value": "512"} in first["resourceRequirements"]
    assert first == again


# Ends


def test_exit_0_is_succeeded(account, jobs):
    job = account.wait(jobs["good"])
    assert (job["status"], job["container"]["exitCode"]) == ("SUCCEEDED", 0)
    assert job["statusReason"] == "Essential container in task exited"
    assert len(job["attempts"]) == 1


@pytest.mark.parametrize(("what", "code"), [("bad", 7), ("killed", 137)])
def test_any_other_end_is_failed_with_its_code(account, jobs, what, code):
    job = account.wait(jobs[what])
    assert (job["status"], job["container"]["exitCode"]) == ("FAILED", code)


def test_overrides_beyond_8192_characters_fail_the_job(account, jobs):
    job = account.wait(jobs["large"])
    assert job["status"] == "FAILED" and "8192" in job["statusReason"]


def test_a_failed_attempt_is_tried_again_and_counted(account, jobs):
    job = account.wait(jobs["second try"])
    assert (job["status"], len(job["attempts"])) == ("SUCCEEDED", 2)
    streams = {attempt["container"]["logStreamName"] for attempt in job["attempts"]}
    assert len(streams) == 2


def test_a_rule_that_says_exit_ends_the_tries(account, jobs):
    job = account.wait(jobs["exit rule"])
    assert (job["status"], len(job["attempts"])) == ("FAILED", 1)


def test_a_job_out_of_time_fails_and_is_not_tried_again(account, jobs):
    job = account.wait(jobs["slow"])
    assert (job["status"], len(job["attempts"])) == ("FAILED", 1)
    assert "timeout" in job["statusReason"].lower()


def test_fifty_jobs_are_terminated_a_call_and_unknown_ones_count_as_ended(account, jobs):
    waiting = [jobs["waiting 1"], jobs["waiting 2"]]
    answer = account.batch.terminate_jobs(jobs=[*waiting, UNKNOWN, "no id"], reason="all of them")
    assert set(answer["successful"]) == {*waiting, UNKNOWN}
    assert [error["job"] for error in answer["errors"]] == ["no id"]
    for job_id in waiting:
        job = account.wait(job_id)
        assert (job["status"], job["statusReason"], job.get("attempts", [])) == ("FAILED", "all of them", [])
    assert account.refusal(account.batch.terminate_jobs, jobs=[UNKNOWN] * 51, reason="too many")[0] == 400


def test_a_running_job_is_not_cancelled_and_is_terminated_with_the_reason_given(account, jobs):
    account.wait(jobs["long"], "RUNNING")
    account.batch.cancel_job(jobId=jobs["long"], reason="too late")
    assert account.describe(jobs["long"])["status"] == "RUNNING"
    # A job that waits for it has not started: it fails at once, without an attempt.
    account.batch.terminate_job(jobId=jobs["after long"], reason="not needed")
    waiting = account.wait(jobs["after long"])
    assert (waiting["status"], waiting["statusReason"], waiting.get("attempts", [])) == ("FAILED", "not needed", [])
    assert "exitCode" not in waiting["container"]
    account.batch.terminate_job(jobId=jobs["long"], reason="by the contract")
    job = account.wait(jobs["long"])
    # It exits with 0 on SIGTERM, and has failed all the same.
    assert (job["status"], job["statusReason"]) == ("FAILED", "by the contract")


def test_ending_a_job_that_is_over_succeeds_and_changes_nothing(account, jobs):
    before = account.wait(jobs["good"])
    account.batch.terminate_job(jobId=jobs["good"], reason="late")
    account.batch.cancel_job(jobId=jobs["good"], reason="late")
    assert account.describe(jobs["good"])["statusReason"] == before["statusReason"]


# Arrays and dependencies


def test_an_array_runs_each_child_with_its_index_and_fails_with_one_of_them(account, jobs):
    parent = account.wait(jobs["array"])
    children = account.batch.describe_jobs(jobs=[f"{jobs['array']}:0", f"{jobs['array']}:1"])["jobs"]
    assert {job["jobId"][-2:]: job["status"] for job in children} == {":0": "SUCCEEDED", ":1": "FAILED"}
    assert parent["status"] == "FAILED"
    rows = account.batch.list_jobs(arrayJobId=jobs["array"], jobStatus="FAILED")["jobSummaryList"]
    assert [row["jobId"] for row in rows] == [f"{jobs['array']}:1"]


def test_a_child_that_fails_is_tried_again_alone(account, jobs):
    parent = jobs["array with a second try"]
    assert account.wait(parent)["status"] == "SUCCEEDED"
    assert [len(account.wait(f"{parent}:{index}")["attempts"]) for index in range(2)] == [1, 2]


def test_a_job_fails_with_the_one_it_depends_on(account, jobs):
    job = account.wait(jobs["after bad"])
    assert (job["status"], job.get("attempts", [])) == ("FAILED", [])
    assert "Dependent Job failed" in job["statusReason"]


# In the container


def test_variables_and_arguments_arrive_as_they_are_and_can_be_read_in_the_log(account, jobs):
    job = account.wait(jobs["echo"])
    lines = [jobs["echo"], "1", account.queue, "of the job", "<two words>", "<$HOME 'quoted'>"]
    assert account.output(job, *lines) == lines


# S3 and credentials


def test_what_was_written_is_there_for_the_next_reader(account):
    for number in range(5):
        key = f"{account.key}/read/{number}"
        account.s3.put_object(Bucket=account.bucket, Key=key, Body=str(number).encode())
        assert account.s3.get_object(Bucket=account.bucket, Key=key)["Body"].read() == str(number).encode()


def test_a_conditional_write_of_an_object_that_is_there_is_refused(account):
    where = {"Bucket": account.bucket, "Key": f"{account.key}/once"}
    account.s3.put_object(**where, Body=b"first", IfNoneMatch="*")
    status, code, _ = account.refusal(account.s3.put_object, **where, Body=b"second", IfNoneMatch="*")
    assert (status, code) == (412, "PreconditionFailed")
    assert account.s3.get_object(**where)["Body"].read() == b"first"


def test_an_object_in_parts_is_one_object(account):
    where = {"Bucket": account.bucket, "Key": f"{account.key}/parts"}
    upload = account.s3.create_multipart_upload(**where)["UploadId"]
    bodies = [b"a" * (5 << 20), b"b"]
    parts = [
        {
            "PartNumber": number,
            "ETag": account.s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)["ETag"],
        }
        for number, body in enumerate(bodies, 1)
    ]
    account.s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    assert account.s3.head_object(**where)["ContentLength"] == (5 << 20) + 1


@pytest.mark.parametrize(
    ("service", "call", "codes"),
    [
        ("batch", lambda client: client.describe_job_queues(), {"UnrecognizedClientException"}),
        ("s3", lambda client: client.list_buckets(), {"InvalidAccessKeyId"}),
    ],
)
def test_keys_that_nobody_has_are_refused_with_403(account, service, call, codes):
    known = account.clients(service)
    client = account.clients.session.client(
        service,
        endpoint_url=known.meta.endpoint_url,
        aws_access_key_id="AKIAIOSFODNN7NOTHERE",
        aws_secret_access_key="x" * 40,
        aws_session_token=None,
    )
    with pytest.raises(ClientError) as caught:
        call(client)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert caught.value.response["Error"]["Code"] in codes


# Entities


def test_a_queue_or_environment_in_use_is_not_deleted(account):
    assert account.refusal(account.batch.delete_job_queue, jobQueue=account.queue)[0] == 400
    name = account.environment.name
    assert account.refusal(account.batch.delete_compute_environment, computeEnvironment=name)[0] == 400


def test_an_entity_shows_its_tags_and_a_name_is_given_once(account):
    (queue,) = account.batch.describe_job_queues(jobQueues=[account.queue])["jobQueues"]
    assert queue["tags"]["awsbatch-gahp:prefix"] == account.prefix
    order = queue["computeEnvironmentOrder"]
    asked = {"jobQueueName": account.queue, "state": "ENABLED", "priority": 1, "computeEnvironmentOrder": order}
    status, _, message = account.refusal(account.batch.create_job_queue, **asked)
    assert status in (400, 409) and "exist" in message.lower()


def test_without_a_service_role_an_environment_has_that_of_aws_batch(account):
    (found,) = account.batch.describe_compute_environments(computeEnvironments=[account.environment.name])["computeEnvironments"]
    assert found["serviceRole"].endswith("/AWSServiceRoleForBatch")


def test_a_definition_registered_again_is_a_new_revision(account):
    described = account.batch.describe_job_definitions(jobDefinitions=[account.definition.arn])["jobDefinitions"][0]
    copied = {key: described[key] for key in ("type", "containerProperties", "platformCapabilities", "tags")}
    name = f"{account.prefix}-twice"
    first, second = (account.batch.register_job_definition(jobDefinitionName=name, **copied)["revision"] for _ in range(2))
    assert second == first + 1
