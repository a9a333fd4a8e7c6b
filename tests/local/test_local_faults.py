"""Faults on demand: each does what it says, to the calls it says, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from gahp.local import LocalAws
from gahp.local.faults import Faults, parse

QUEUE, DEFINITION = "awsbatch-local-queue", "awsbatch-local-job"


def refusal(call: Any, **parameters: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def named(account: Any, name: str) -> list[str]:
    filters = [{"name": "JOB_NAME", "values": [name]}]
    return [row["jobId"] for row in account.batch.list_jobs(jobQueue=QUEUE, filters=filters)["jobSummaryList"]]


def test_a_lost_reply_leaves_the_job_submitted(account: Any) -> None:
    account.aws.faults.lose_reply("SubmitJob", count=1)
    name = account.name()
    with pytest.raises(ConnectionClosedError):
        account.submit(name=name)
    assert len(named(account, name)) == 1
    account.submit(name=name)
    assert len(named(account, name)) == 2


def test_a_reset_connection_leaves_nothing_done(account: Any) -> None:
    account.aws.faults.reset_connection("SubmitJob", count=1)
    name = account.name()
    with pytest.raises(ConnectionClosedError):
        account.submit(name=name)
    assert named(account, name) == []


def test_an_error_comes_instead_of_the_call(account: Any) -> None:
    account.aws.faults.fail("SubmitJob", count=1)
    name = account.name()
    assert refusal(account.submit, name=name) == ("ServerException", 500)
    assert named(account, name) == []


def test_calls_beyond_the_rate_are_throttled_as_batch_words_it(account: Any) -> None:
    account.aws.faults.throttle("DescribeJobs", per_second=2)
    for _ in range(2):
        account.batch.describe_jobs(jobs=["x"])
    assert refusal(account.batch.describe_jobs, jobs=["x"]) == ("TooManyRequestsException", 429)
    account.batch.list_jobs(jobQueue=QUEUE)


def test_s3_is_throttled_as_s3_words_it(account: Any) -> None:
    account.aws.faults.throttle("s3:PutObject", per_second=0)
    assert refusal(account.s3.put_object, Bucket="awsbatch-local", Key="k", Body=b"") == ("SlowDown", 503)


def test_credentials_expire_until_the_fault_is_cleared(account: Any) -> None:
    account.aws.faults.expire_credentials()
    assert refusal(account.batch.list_jobs, jobQueue=QUEUE) == ("ExpiredTokenException", 403)
    assert refusal(account.s3.list_buckets) == ("ExpiredToken", 400)
    account.aws.faults.clear("expired")
    account.batch.list_jobs(jobQueue=QUEUE)


def test_a_delayed_call_is_carried_out(account: Any) -> None:
    account.aws.faults.delay("ListJobs", 0.01, count=1)
    account.batch.list_jobs(jobQueue=QUEUE)
    (fault,) = account.aws.faults.listed()
    assert fault["count"] == 0


def test_a_host_that_goes_away_fails_the_attempt_without_an_exit_code_and_the_job_is_retried(account: Any) -> None:
    rules = [{"onStatusReason": "Host EC2*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}]
    job_id = account.submit(
        '[ "$AWS_BATCH_JOB_ATTEMPT" = 2 ] || sleep 1000', retryStrategy={"attempts": 3, "evaluateOnExit": rules}
    )
    account.wait(job_id, "RUNNING")
    assert account.aws.faults.vanish(job_id)
    job = account.wait(job_id)
    assert job["status"] == "SUCCEEDED"
    first, second = job["attempts"]
    assert first["statusReason"].startswith("Host EC2 (instance i-")
    assert first["statusReason"].endswith(") terminated.")
    assert "exitCode" not in first["container"]
    assert second["container"]["exitCode"] == 0
    assert not account.aws.faults.vanish(job_id)


def test_a_stuck_job_stays_runnable_while_others_run(account: Any) -> None:
    account.aws.faults.stuck(name="stuck-*")
    held = account.submit(name="stuck-1")
    account.run("exit 0")
    assert account.describe(held)["status"] == "RUNNABLE"
    account.aws.faults.clear("stuck")
    assert account.wait(held)["status"] == "SUCCEEDED"


def test_an_image_that_cannot_be_pulled_fails_the_attempt_before_it_runs(account: Any) -> None:
    account.aws.faults.pull_error("unpulled-*", count=1)
    job = account.wait(account.submit(name="unpulled-1"))
    assert (job["status"], job["statusReason"], job["startedAt"]) == ("FAILED", "Task failed to start", 0)
    assert job["container"]["reason"].startswith("CannotPullContainerError: ")
    assert "exitCode" not in job["container"]
    assert "logStreamName" not in job["container"]
    assert account.wait(account.submit(name="unpulled-2"))["status"] == "SUCCEEDED"


def test_list_jobs_lags_behind_while_describe_jobs_does_not(account: Any) -> None:
    name = account.name()
    account.aws.faults.list_lag(3600)
    job_id = account.submit(name=name)
    assert named(account, name) == []
    assert account.describe(job_id)["jobName"] == name
    account.aws.faults.clear("list_lag")
    assert named(account, name) == [job_id]


def test_calls_are_counted_by_action_and_kept_with_their_outcome(account: Any) -> None:
    account.aws.forget_calls()
    account.aws.faults.fail("CancelJob", count=1)
    job_id = account.run("exit 0")["jobId"]
    refusal(account.batch.cancel_job, jobId=job_id, reason="x")
    calls = account.aws.calls()
    assert (calls["batch:SubmitJob"], calls["batch:CancelJob"], calls["s3:PutObject"]) == (1, 1, 1)
    (submitted,) = [entry for entry in account.aws.requests() if entry["action"] == "batch:SubmitJob"]
    assert (submitted["path"], submitted["outcome"]) == ("/v1/submitjob", 200)
    assert '"jobQueue"' in submitted["body"]
    (cancelled,) = [entry for entry in account.aws.requests() if entry["action"] == "batch:CancelJob"]
    assert cancelled["outcome"] == 500


# -- the decisions, by value


def verdicts(faults: Faults, number: int) -> list[bool]:
    return [faults.judge("batch", "SubmitJob").lose_reply for _ in range(number)]


def test_the_same_seed_gives_the_same_faults() -> None:
    runs = []
    for _ in range(2):
        faults = Faults(seed=7)
        faults.add(parse({"kind": "lost_reply", "action": "SubmitJob", "probability": 0.5}))
        runs.append(verdicts(faults, 50))
    assert runs[0] == runs[1]
    assert 10 < sum(runs[0]) < 40


def test_a_fault_skips_and_counts() -> None:
    faults = Faults()
    faults.add(parse({"kind": "lost_reply", "action": "batch:Submit*", "skip": 2, "count": 1}))
    assert verdicts(faults, 5) == [False, False, True, False, False]


def test_throttling_lets_through_what_the_rate_allows() -> None:
    now = 0.0
    faults = Faults(clock=lambda: now)
    faults.add(parse({"kind": "throttle", "per_second": 5}))
    passed = 0
    for step in range(100):
        now = step * 0.1
        passed += not faults.judge("batch", "SubmitJob").throttled
        passed += not faults.judge("batch", "SubmitJob").throttled
    assert 48 <= passed <= 52


@pytest.mark.parametrize("fields", [{"kind": "weather"}, {"kind": "stuck", "colour": "blue"}, {}])
def test_a_fault_that_there_is_not_is_refused_with_the_choices(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"throttle|probability"):
        parse(fields)


def test_faults_can_be_there_from_the_start(tmp_path: Path) -> None:
    with LocalAws(tmp_path / "aws", faults=[{"kind": "error", "action": "ListBuckets"}]) as aws:
        assert refusal(aws.client("s3").list_buckets) == ("InternalError", 500)
