"""The Batch calls, each against the embedded AWS."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from gahp.batch import Batch, Throttled, Unsure
from gahp.local import LocalAws
from gahp.model import JobRequest, Refused, Resources, Transient

REQUEST = JobRequest(executable="/bin/true", iwd="/")
QUEUE = "awsbatch-local-queue"


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    with LocalAws(tmp_path_factory.mktemp("aws"), vcpus=4) as aws:
        aws.faults.stuck()  # nothing has to run here
        yield aws
        assert aws.violations() == []


@pytest.fixture
def batch(aws):
    return Batch(aws.client("batch"), definition="awsbatch-local-job", attempts=3)


@pytest.fixture
def submit(batch):
    def submit(request=REQUEST):
        name = f"run-{uuid.uuid4()}"
        return name, batch.submit(request, name=name, queue=QUEUE, environment={"BATCH_FILE_TYPE": "script"})

    return submit


def test_a_submitted_job_is_found_by_its_name_and_described(batch, submit):
    name, job_id = submit(JobRequest(executable="/bin/true", iwd="/", resources=Resources(cpus=2, memory_mib=64)))
    assert batch.find(name, QUEUE) == job_id
    ((asked, found),) = batch.describe([job_id])
    assert asked == [job_id]
    job = found[job_id]
    assert (job.name, job.over, job.cpus, job.memory_mib, job.attempts) == (name, False, 2, 64, 0)


def test_a_name_that_only_begins_alike_is_not_found(batch, submit):
    name, _ = submit()
    assert batch.find(name[:-1], QUEUE) == ""
    assert batch.find(name + "x", QUEUE) == ""


def test_jobs_are_described_a_hundred_a_call_and_unknown_ones_are_absent(aws, batch, submit):
    ids = [submit()[1] for _ in range(203)]
    before = aws.calls().get("batch:DescribeJobs", 0)
    pages = list(batch.describe([*ids, "nobody"]))
    assert [len(asked) for asked, _ in pages] == [100, 100, 4]
    assert {job_id for _, found in pages for job_id in found} == set(ids)
    assert aws.calls()["batch:DescribeJobs"] - before == 3


def test_a_terminated_job_carries_our_reason_and_batchs_mark(batch, submit):
    _, job_id = submit()
    batch.terminate(job_id, "Removed by HTCondor")
    ((_, found),) = batch.describe([job_id])
    assert (found[job_id].status, found[job_id].status_reason, found[job_id].terminated) == (
        "FAILED",
        "Removed by HTCondor",
        True,
    )


def test_a_cancelled_job_carries_batchs_mark(batch, submit):
    _, job_id = submit()
    batch.cancel(job_id, "Held by HTCondor")
    ((_, found),) = batch.describe([job_id])
    assert (found[job_id].status, found[job_id].cancelled) == ("FAILED", True)


def test_ending_a_job_that_is_over_or_forgotten_is_no_error(batch, submit):
    _, job_id = submit()
    for _ in range(2):
        batch.terminate(job_id, "once more")
        batch.cancel(job_id, "once more")
    batch.terminate(str(uuid.uuid4()), "not there")


def test_a_definition_that_is_not_there_is_refused_by_name(aws):
    batch = Batch(aws.client("batch"), definition="no-such-definition")
    with pytest.raises(Refused, match="no-such-definition"):
        batch.submit(REQUEST, name="n", queue=QUEUE, environment={})


def test_a_throttled_call_and_a_lost_reply_are_told_apart(aws, batch, submit):
    try:
        aws.faults.throttle("SubmitJob", 0)
        with pytest.raises(Throttled):
            submit()
    finally:
        aws.faults.clear("throttle")
    aws.faults.lose_reply("SubmitJob", count=1)
    name = f"lost-{uuid.uuid4()}"
    with pytest.raises(Unsure):
        batch.submit(REQUEST, name=name, queue=QUEUE, environment={})
    assert batch.find(name, QUEUE)


def test_the_check_is_content_with_what_is_there(batch):
    batch.check(QUEUE)


def test_the_check_names_a_queue_that_is_disabled(aws, batch):
    client = aws.client("batch")
    environment = client.describe_compute_environments()["computeEnvironments"][0]["computeEnvironmentArn"]
    client.create_job_queue(
        jobQueueName="closed",
        state="DISABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": environment}],
    )
    with pytest.raises(Refused, match="The job queue closed is DISABLED: enable it in AWS Batch"):
        batch.check("closed")


def test_submits_that_come_together_ask_once_about_their_queue():
    class Client:
        asked = 0

        def describe_job_queues(self, *, jobQueues):
            self.asked += 1
            time.sleep(0.1)
            return {"jobQueues": [{}]}

        def submit_job(self, **parameters):
            return {"jobId": parameters["jobName"]}

    batch = Batch(client := Client(), definition="awsbatch-local-job")
    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(lambda name: batch.submit(REQUEST, name=name, queue=QUEUE, environment={}), "abcd"))
    assert (ids, client.asked) == (["a", "b", "c", "d"], 1)


def test_a_fair_share_queue_gets_the_project_as_share(aws, batch):
    client = aws.client("batch")
    environment = client.describe_compute_environments()["computeEnvironments"][0]["computeEnvironmentArn"]
    policy = client.create_scheduling_policy(name="fair", fairsharePolicy={"shareDecaySeconds": 600})["arn"]
    client.create_job_queue(
        jobQueueName="shared",
        state="ENABLED",
        priority=1,
        schedulingPolicyArn=policy,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": environment}],
    )
    request = JobRequest(executable="/bin/true", iwd="/", project="astro-2")
    job_id = batch.submit(request, name="s", queue="shared", environment={"A": "1"})
    assert client.describe_jobs(jobs=[job_id])["jobs"][0]["shareIdentifier"] == "astro2"


def test_an_array_is_found_by_its_name_and_its_children_are_active_one_by_one(batch):
    name = f"7-pack-{uuid.uuid4()}"
    parent = batch.submit(REQUEST, name=name, queue=QUEUE, environment={"GAHP_PACK_URL": "s3://b/runs/p"}, size=3)
    assert batch.find(name, QUEUE) == parent
    ids = [f"{parent}:{index}" for index in range(3)]
    ((_, found),) = batch.describe(ids)
    assert set(found) == set(ids)
    batch.terminate(ids[1], "not this one")
    left = {job.id: environment for job, environment in batch.active(QUEUE) if job.id.startswith(parent)}
    assert set(left) == {ids[0], ids[2]}
    assert all(environment["GAHP_PACK_URL"] == "s3://b/runs/p" for environment in left.values())


def test_a_lost_answer_about_the_queue_is_no_lost_submit():
    class Client:
        def describe_job_queues(self, *, jobQueues):
            raise ReadTimeoutError(endpoint_url="http://127.0.0.1")

    with pytest.raises(Transient) as raised:
        Batch(Client(), definition="d").submit(REQUEST, name="n", queue="q", environment={})
    assert not isinstance(raised.value, Unsure)


@pytest.mark.parametrize("reply", [{}, {"jobId": None}, {"jobId": ""}])
def test_a_reply_without_a_job_id_leaves_open_whether_batch_has_the_job(reply):
    class Client:
        def describe_job_queues(self, *, jobQueues):
            return {"jobQueues": []}

        def submit_job(self, **parameters):
            return reply

    with pytest.raises(Unsure, match="the reply for n has no job id"):
        Batch(Client(), definition="d").submit(REQUEST, name="n", queue="q", environment={})


def test_where_jobs_cannot_be_ended_together_they_are_ended_one_by_one():
    class Client:
        together, ended = 0, []

        def terminate_jobs(self, *, jobs, reason):
            self.together += 1
            raise ClientError(
                {"Error": {"Code": "UnknownOperationException"}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "TerminateJobs"
            )

        def terminate_job(self, *, jobId, reason):
            self.ended.append(jobId)
            return {}

    client = Client()
    batch = Batch(client, definition="d")
    assert batch.terminate_many(["a", "b"], "why") == batch.terminate_many(["c", "d"], "why") == {}
    assert (client.ended, client.together) == (["a", "b", "c", "d"], 1)
