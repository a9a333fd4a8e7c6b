"""Events: what is made of a message, and a queue of the embedded AWS that a rule feeds, read by two."""

import json
import threading
import time

import pytest

from gahp.batch.events import EventQueue, parse
from gahp.local import LocalAws

QUEUE, DEFINITION = "awsbatch-local-queue", "awsbatch-local-job"
DETAIL = {"jobId": "a:1", "jobName": "n", "status": "SUCCEEDED", "startedAt": 1000, "container": {"exitCode": 0}}


def event(**changes):
    return {"source": "aws.batch", "detail-type": "Batch Job State Change", "detail": DETAIL, **changes}


def test_an_event_is_the_job_as_it_was_then_and_not_described():
    job = parse(json.dumps(event()))
    assert (job.id, job.status, job.started, job.exit_code, job.described) == ("a:1", "SUCCEEDED", 1.0, 0, False)


GARBAGE = [
    "",
    "no json",
    "[]",
    "7",
    "null",
    json.dumps(event(source="somebody")),
    json.dumps(event(**{"detail-type": "Batch Job Queue Blocked"})),
    json.dumps(event(detail=None)),
    json.dumps(event(detail=[])),
    json.dumps(event(detail={})),
    json.dumps(event(detail={**DETAIL, "jobId": 7})),
    json.dumps(event(detail={**DETAIL, "status": "DANCING"})),
    json.dumps(event(detail={**DETAIL, "status": []})),
    json.dumps(event(detail={**DETAIL, "startedAt": "yesterday"})),
    json.dumps(event(detail={**DETAIL, "container": [1]})),
    json.dumps(event(detail={**DETAIL, "attempts": 7})),
    json.dumps(event(detail={**DETAIL, "container": {"resourceRequirements": [{"type": "VCPU", "value": "many"}]}})),
    json.dumps(event(detail={**DETAIL, "container": {"resourceRequirements": [{"type": "VCPU", "value": "1e999"}]}})),
    "[" * 100000,
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_nothing(body):
    assert parse(body) is None


class FakeSqs:
    def __init__(self, *messages):
        self.messages, self.deleted, self.back = list(messages), [], []
        self.fail = 0

    def receive_message(self, **_):
        if self.fail:
            self.fail -= 1
            raise OSError("away")
        messages, self.messages = self.messages[:10], self.messages[10:]
        return {"Messages": messages} if messages else {}

    def delete_message_batch(self, *, QueueUrl, Entries):
        self.deleted += [entry["ReceiptHandle"] for entry in Entries]

    def change_message_visibility_batch(self, *, QueueUrl, Entries):
        self.back += [(entry["ReceiptHandle"], entry["VisibilityTimeout"]) for entry in Entries]


def message(handle, body, count=1):
    return {"ReceiptHandle": handle, "Body": body, "Attributes": {"ApproximateReceiveCount": str(count)}}


def test_ours_and_garbage_are_taken_out_and_others_are_put_back_for_longer_each_time():
    theirs = json.dumps(event(detail={**DETAIL, "jobId": "b"}))
    sqs = FakeSqs(
        message("ours", json.dumps(event())), message("junk", "junk"), message("1st", theirs), message("9th", theirs, 9),
        message("99th", theirs, 99),
    )  # fmt: skip
    heard = []
    assert EventQueue(sqs, "url").read(lambda job: heard.append(job.id) or job.id == "a:1") == 1
    assert heard == ["a:1", "b", "b", "b"]
    assert sqs.deleted == ["ours", "junk"]
    assert sqs.back == [("1st", 1), ("9th", 9), ("99th", 30)]


def test_a_queue_that_cannot_be_read_is_told_once_and_read_again(monkeypatch, caplog):
    monkeypatch.setattr("gahp.batch.events.backoff", lambda *_: 0.01)
    sqs = FakeSqs(message("ours", json.dumps(event())))
    sqs.fail = 3
    told, done = [], threading.Event()

    def flowing(state):
        told.append(state)
        if state:
            reader.close()
            done.set()

    reader = EventQueue(sqs, "url")
    reader.start(lambda job: True, flowing)
    assert done.wait(30)
    assert told == [False, False, False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "the events of url cannot be read, so jobs are asked about more often: away. See AWSBATCH_EVENTS_QUEUE_URL;"
        " condor_awsbatch doctor looks at it."
    ]


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    with LocalAws(tmp_path_factory.mktemp("aws"), vcpus=8) as aws:
        yield aws
        assert aws.violations() == []


def test_two_readers_of_one_queue_each_get_what_is_theirs_children_too(aws):
    sqs, rules, batch = aws.client("sqs"), aws.client("events"), aws.client("batch")
    url = sqs.create_queue(QueueName="events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {
        "source": ["aws.batch"],
        "detail-type": ["Batch Job State Change"],
        "detail": {"status": ["RUNNING", "SUCCEEDED", "FAILED"]},
    }
    rules.put_rule(Name="events", EventPattern=json.dumps(pattern))
    rules.put_targets(Rule="events", Targets=[{"Id": "queue", "Arn": arn}])
    override = {"environment": [{"name": "BATCH_FILE_TYPE", "value": "none"}]}
    common = {"jobQueue": QUEUE, "jobDefinition": DEFINITION, "containerOverrides": override}
    parent = batch.submit_job(jobName="array", arrayProperties={"size": 3}, **common)["jobId"]
    mine, other = {f"{parent}:{index}" for index in range(3)}, {batch.submit_job(jobName="single", **common)["jobId"]}
    ended = {"mine": set(), "other": set()}

    def hear(name, ids):
        def heard(job):
            if job.id in ids and job.over:
                ended[name].add(job.id)
            return job.id in ids

        return heard

    readers = [(EventQueue(sqs, url), hear("mine", mine)), (EventQueue(sqs, url), hear("other", other))]
    until = time.monotonic() + 60
    while (ended["mine"], ended["other"]) != (mine, other):
        assert time.monotonic() < until, ended
        for reader, heard in readers:
            reader.read(heard, wait_s=1)
