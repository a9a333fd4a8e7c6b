"""The whole program with an events queue: what ends is told by an event long before it is asked about."""

import json

from gahp.model import JobState


def test_a_job_ends_by_its_events_although_nobody_asks(aws, start):
    sqs, rules = aws.client("sqs"), aws.client("events")
    url = sqs.create_queue(QueueName="gahp-events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rules.put_rule(Name="gahp-events", EventPattern=json.dumps({"source": ["aws.batch"]}))
    rules.put_targets(Rule="gahp-events", Targets=[{"Id": "queue", "Arn": arn}])
    try:
        gahp = start(poll_interval=3000, events_queue_url=url)
        state, ad = gahp.run()
        assert (state, ad["ExitCode"]) == (JobState.COMPLETED, 0)
    finally:
        rules.remove_targets(Rule="gahp-events", Ids=["queue"])
        rules.delete_rule(Name="gahp-events")
        sqs.delete_queue(QueueUrl=url)
