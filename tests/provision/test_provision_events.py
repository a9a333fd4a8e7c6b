"""`create --with-events`: a queue that only the rule may write to, once, and gone again with the prefix."""

from __future__ import annotations

import json
import time

import pytest

from gahp.batch import EventQueue
from gahp.provision.settings import PREFIX_TAG

ACCOUNT, REGION = "123456789012", "us-west-2"


def test_events_are_asked_for_by_an_option_and_made_once(bench):
    assert bench.create().events_url == ""
    made = bench.create(with_events=True)
    name = f"{bench.prefix}-events"
    assert made.events_url.endswith(f"/{ACCOUNT}/{name}")
    assert f"Created the events' queue {name} and the rule {name}" in bench.said.lines
    again = bench.create(with_events=True)
    assert (again.changes, again.events_url) == (0, made.events_url)


def test_only_the_rule_may_write_and_it_lets_through_what_matters_of_this_job_queue(bench):
    made = bench.create(with_events=True)
    name = f"{bench.prefix}-events"
    sqs, rules = bench.clients("sqs"), bench.clients("events")
    attributes = sqs.get_queue_attributes(QueueUrl=made.events_url, AttributeNames=["All"])["Attributes"]
    (statement,) = json.loads(attributes["Policy"])["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    rule = rules.describe_rule(Name=name)
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": rule["Arn"]}}
    assert json.loads(rule["EventPattern"])["detail"] == {
        "jobQueue": [made.job_queue.arn],
        "status": ["RUNNING", "SUCCEEDED", "FAILED"],
    }
    assert [target["Arn"] for target in rules.list_targets_by_rule(Rule=name)["Targets"]] == [attributes["QueueArn"]]
    assert attributes["MessageRetentionPeriod"] == "300"
    assert sqs.list_queue_tags(QueueUrl=made.events_url)["Tags"] == {PREFIX_TAG: bench.prefix}
    assert rules.list_tags_for_resource(ResourceARN=rule["Arn"])["Tags"] == [{"Key": PREFIX_TAG, "Value": bench.prefix}]


def test_what_happens_in_the_job_queue_is_read_from_the_events_queue(bench):
    made = bench.create(with_events=True)
    batch = bench.clients("batch")
    job_id = batch.submit_job(jobName="j", jobQueue=made.job_queue.arn, jobDefinition=made.job_definition.arn)["jobId"]
    batch.terminate_job(jobId=job_id, reason="seen enough")
    reader, heard, until = EventQueue(bench.clients("sqs"), made.events_url), [], time.monotonic() + 60
    while not any(job.id == job_id and job.over for job in heard):
        assert time.monotonic() < until
        reader.read(lambda job: heard.append(job) or True, wait_s=1)


def test_a_dry_run_shows_the_calls_and_makes_none(bench):
    bench.create()
    bench.create(with_events=True, dry_run=True)
    shown = [call.partition(" ")[0] for call in bench.said.calls]
    assert shown == ["sqs:CreateQueue", "sqs:SetQueueAttributes", "events:PutRule", "events:PutTargets"]
    assert bench.survey().events_queue == bench.survey().events_rule == ""


def test_rule_and_queue_go_with_the_prefix(bench):
    made = bench.create(with_events=True)
    name = f"{bench.prefix}-events"
    assert {f"the rule {name}", f"the events' queue {name}"} <= set(bench.survey().lines())
    bench.delete()
    assert made.events_url not in bench.clients("sqs").list_queues().get("QueueUrls", [])
    assert name not in [rule["Name"] for rule in bench.clients("events").list_rules()["Rules"]]
    assert bench.delete() == 0


def test_a_queue_of_that_name_that_is_not_ours_is_left_alone(bench):
    name = f"{bench.prefix}-events"
    url = bench.clients("sqs").create_queue(QueueName=name)["QueueUrl"]
    assert bench.refused(with_events=True).startswith(f"There is an SQS queue {name} that does not carry this prefix's tag")
    bench.delete()
    assert url in bench.clients("sqs").list_queues()["QueueUrls"]
    bench.clients("sqs").delete_queue(QueueUrl=url)


@pytest.mark.parametrize("at", range(1, 5))
def test_a_run_that_breaks_off_is_finished_by_the_next(bench, at):
    bench.create()

    def stop(name):
        raise KeyboardInterrupt

    bench.clients.arm(at, after=stop, only_changes=True)
    with pytest.raises(KeyboardInterrupt):
        bench.create(with_events=True)
    bench.clients.disarm()
    made = bench.create(with_events=True)
    rules = bench.clients("events")
    assert len(rules.list_targets_by_rule(Rule=f"{bench.prefix}-events")["Targets"]) == 1
    assert bench.create(with_events=True).changes == 0
    assert made.events_url
