"""Thousands of jobs at the embedded AWS: followed and ended with few calls."""

import time
import uuid

import pytest

from gahp.batch import Batch, BatchJob, Throttled
from gahp.gateway.follow import Followed, Follower
from gahp.limits import Kind, Limiter, Tops
from gahp.local import LocalAws
from gahp.model import Refused, Transient

QUEUE, DEFINITION = "awsbatch-local-queue", "awsbatch-local-job"


@pytest.fixture
def aws(tmp_path):
    with LocalAws(tmp_path / "aws", vcpus=4) as aws:
        aws.faults.stuck()
        yield aws
        assert aws.violations() == []


def submit(aws, size=None):
    more = {"arrayProperties": {"size": size}} if size else {}
    client = aws.client("batch")
    return client.submit_job(jobName=f"j-{uuid.uuid4()}", jobQueue=QUEUE, jobDefinition=DEFINITION, **more)["jobId"]


def test_ten_thousand_children_are_ended_fifty_a_call_and_the_sweep_sees_it_in_one(aws):
    parent = submit(aws, 10000)
    children = [f"{parent}:{index}" for index in range(10000)]
    batch = Batch(aws.client("batch"), definition=DEFINITION, limiter=Limiter(tops=Tops(1e4, 1e4, 1e4, 1e5, 1.0)))
    ended: set[str] = set()
    follower = Follower(
        batch,
        interval_s=1.0,
        followed=lambda: Followed(dict.fromkeys(children, QUEUE), (), set(children)),
        tell=lambda news: ended.update(job_id for job_id, job in news if job and job.over),
    )
    follower.round()
    assert not ended
    for start in range(0, 10000, 50):
        assert batch.terminate_many(children[start : start + 50], "Removed by HTCondor") == {}
    follower.round()
    assert ended == set(children)
    calls = aws.calls()
    assert calls["batch:TerminateJobs"] == 200
    assert calls["batch:DescribeJobs"] == 2
    assert "batch:ListJobs" not in calls
    assert aws.status()["jobs"]["FAILED"] == 10000


def test_what_only_some_of_an_array_came_to_is_told_by_lists_and_rows(aws):
    parent = submit(aws, 3000)
    batch, told = Batch(aws.client("batch"), definition=DEFINITION), {}
    follower = Follower(
        batch,
        interval_s=1.0,
        followed=lambda: Followed({f"{parent}:{n}": QUEUE for n in range(3000)}),
        tell=told.update,
    )
    follower.round()
    batch.terminate_many([f"{parent}:{n}" for n in range(7, 57)], "not these")
    follower.round()
    assert set(told) == {f"{parent}:{n}" for n in range(7, 57)}
    assert {(job.status, job.status_reason, job.described) for job in told.values()} == {("FAILED", "not these", True)}
    assert aws.calls()["batch:ListJobs"] == 1


def test_a_job_that_cannot_be_ended_is_told_and_does_not_keep_the_others_from_it(aws):
    good, batch = submit(aws), Batch(aws.client("batch"), definition=DEFINITION)
    failed = batch.terminate_many([good, "no id at all", str(uuid.uuid4())], "over")
    assert set(failed) == {"no id at all"}
    assert isinstance(failed["no id at all"], Refused)
    assert "ValidationException" in str(failed["no id at all"])
    ((_, found),) = batch.describe([good])
    assert found[good].status == "FAILED"


class Old:
    """A boto3 client that has no bulk calls."""

    def __init__(self, client):
        self.describe_jobs, self.terminate_job = client.describe_jobs, client.terminate_job


def test_an_older_boto3_ends_them_one_by_one(aws):
    ids = [submit(aws) for _ in range(3)]
    batch = Batch(Old(aws.client("batch")), definition=DEFINITION)
    assert batch.terminate_many(ids, "over") == {}
    ((_, found),) = batch.describe(ids)
    assert {job.status for job in found.values()} == {"FAILED"}
    assert aws.calls()["batch:TerminateJob"] == 3
    aws.faults.throttle("TerminateJob", 0)
    failed = batch.terminate_many(ids, "over")
    assert [type(error) for error in failed.values()] == [Throttled] * 3
    assert aws.calls()["batch:TerminateJob"] == 4


class Client:
    def __init__(self, code):
        self.code = code

    def terminate_jobs(self, *, jobs, reason):
        return {"successful": jobs[1:], "errors": [{"job": jobs[0], "code": self.code, "message": "m"}]}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ThrottlingException", Throttled),
        ("ServerException", Transient),
        ("AccessDenied", Refused),
        ("ClientException", Refused),
        ("ValidationException", Refused),
    ],
)
def test_errors_of_single_jobs_under_a_good_answer_are_told_apart(code, kind):
    limiter = Limiter()
    failed = Batch(Client(code), definition="", limiter=limiter).terminate_many(["a", "b"], "r")
    assert set(failed) == {"a"}
    assert type(failed["a"]) is kind
    assert (limiter._rates.rows[Kind.END].throttled > 0) == (kind is Throttled)


def test_a_429_slows_this_kind_of_call_down_and_a_persistent_caller_gets_through_all_the_same(aws):
    limiter = Limiter()
    batch = Batch(aws.client("batch"), definition=DEFINITION, limiter=limiter, persistent=True)
    aws.faults.fail("ListJobs", 429, "TooManyRequestsException", count=2)
    assert list(batch.named("nobody", QUEUE)) == []
    assert limiter._rates.rows[Kind.STATUS].throttled == pytest.approx(2, abs=0.1)
    assert limiter._rates.rows[Kind.SUBMIT].throttled == 0


def test_a_job_of_a_row_has_what_the_row_says_and_no_more(aws):
    batch, job_id = Batch(aws.client("batch"), definition=DEFINITION), submit(aws)
    until = time.monotonic() + 30
    while not (rows := batch.listed(QUEUE, "RUNNABLE")[0]):
        assert time.monotonic() < until
    assert [(job.id, job.status, job.attempts, job.restarts, job.described) for job in rows] == [
        (job_id, "RUNNABLE", None, None, False)
    ]
    assert isinstance(rows[0], BatchJob)


def test_the_check_waits_for_its_turn_and_does_not_fail_for_a_limiter_without_room(aws):
    limiter = Limiter(tops=Tops(status=1, start=1.0))
    batch = Batch(aws.client("batch"), definition=DEFINITION, limiter=limiter)
    for _ in range(2):
        batch.check(QUEUE)
