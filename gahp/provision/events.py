"""The events of a job queue: an SQS queue, and the EventBridge rule that puts job state changes into it; made, found and removed.

Knows SQS and EventBridge; of Batch the job queue's ARN and the event's shape.
"""

from __future__ import annotations

import json
from typing import Any

from gahp.batch.events import DETAIL_TYPE
from gahp.model import Refused
from gahp.provision.aws import Aws, NotThere
from gahp.provision.settings import PREFIX_TAG, Settings

# RUNNABLE and the like are no news to anybody; what a rule does not let through costs nothing.
_STATUSES = ["RUNNING", "SUCCEEDED", "FAILED"]
# The sweep has found out by then what nobody read.
_ATTRIBUTES = {"MessageRetentionPeriod": "300", "VisibilityTimeout": "30", "SqsManagedSseEnabled": "true"}
_TARGET = "queue"


def name_of(settings: Settings) -> str:
    """Of the queue and of the rule."""
    return f"{settings.prefix}-events"


def ensure(aws: Aws, settings: Settings, job_queue_arn: str) -> str:
    """Have the rule feed the queue with what happens in that job queue, and nobody else write there. The queue's URL."""
    name = name_of(settings)
    thing = f"the events' queue {name}"
    queue_arn = f"arn:{aws.partition}:sqs:{aws.region}:{aws.account}:{name}"
    rule_arn = f"arn:{aws.partition}:events:{aws.region}:{aws.account}:rule/{name}"
    before = aws.changes
    url = _url(aws, name)
    if url and not _is_ours(aws, settings, url):
        raise Refused(f"There is an SQS queue {name} that does not carry this prefix's tag: delete it, or use another --prefix.")
    if not url:
        tag = {PREFIX_TAG: settings.prefix}
        answer = aws.change("sqs", "CreateQueue", thing, QueueName=name, Attributes=_ATTRIBUTES, tags=tag)
        url = answer.get("QueueUrl") or f"https://sqs.{aws.region}.amazonaws.com/{aws.account}/{name}"
    policy = json.dumps(_policy(queue_arn, rule_arn), sort_keys=True)
    if _attributes(aws, name).get("Policy") != policy:
        aws.change("sqs", "SetQueueAttributes", thing, QueueUrl=url, Attributes={"Policy": policy})
    rule, pattern = f"the rule {name}", json.dumps(_pattern(job_queue_arn), sort_keys=True)
    found = _rule(aws, name)
    if found.get("EventPattern") != pattern or found.get("State") != "ENABLED":
        tags = [] if found else [{"Key": PREFIX_TAG, "Value": settings.prefix}]
        more: dict[str, Any] = {"Tags": tags} if tags else {}
        aws.change("events", "PutRule", rule, Name=name, EventPattern=pattern, State="ENABLED", **more)
    if not found or _targets(aws, name) != {_TARGET: queue_arn}:
        aws.change("events", "PutTargets", rule, Rule=name, Targets=[{"Id": _TARGET, "Arn": queue_arn}])
    if aws.changes != before:
        aws.did(f"Created {thing} and {rule}")
    else:
        aws.report.say(f"Unchanged: {thing}")
    return url


def look(aws: Aws, settings: Settings) -> tuple[str, str]:
    """The names of the queue and of the rule of this prefix that are there and ours; "" for what is not."""
    name = name_of(settings)
    url = _url(aws, name)
    queue = name if url and _is_ours(aws, settings, url) else ""
    found = _rule(aws, name)
    if found:
        tags = aws.ask("events", "ListTagsForResource", f"the rule {name}", ResourceARN=found["Arn"]).get("Tags") or []
        if {"Key": PREFIX_TAG, "Value": settings.prefix} not in tags:
            found = {}
    return queue, name if found else ""


def remove_rule(aws: Aws, name: str) -> None:
    thing = f"the rule {name}"
    if not _rule(aws, name):
        return
    if targets := list(_targets(aws, name)):
        aws.change("events", "RemoveTargets", thing, Rule=name, Ids=targets)
    aws.change("events", "DeleteRule", thing, Name=name)


def remove_queue(aws: Aws, name: str) -> None:
    if url := _url(aws, name):
        aws.change("sqs", "DeleteQueue", f"the events' queue {name}", QueueUrl=url)


def _pattern(job_queue_arn: str) -> dict[str, Any]:
    return {
        "source": ["aws.batch"],
        "detail-type": [DETAIL_TYPE],
        "detail": {"jobQueue": [job_queue_arn], "status": _STATUSES},
    }


def _policy(queue_arn: str, rule_arn: str) -> dict[str, Any]:
    """Only this rule may write: what stands in the queue is believed."""
    statement = {
        "Sid": "rule",
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def _url(aws: Aws, name: str) -> str:
    try:
        return str(aws.ask("sqs", "GetQueueUrl", f"the events' queue {name}", QueueName=name)["QueueUrl"])
    except NotThere:
        return ""
    except Refused as error:
        if "NonExistentQueue" in str(error) or "QueueDoesNotExist" in str(error):
            return ""
        raise


def _is_ours(aws: Aws, settings: Settings, url: str) -> bool:
    tags = aws.ask("sqs", "ListQueueTags", f"the queue {url}", QueueUrl=url).get("Tags") or {}
    return bool(tags.get(PREFIX_TAG) == settings.prefix)


def _attributes(aws: Aws, name: str) -> dict[str, str]:
    url = _url(aws, name)
    if not url:
        return {}
    answer = aws.ask("sqs", "GetQueueAttributes", f"the events' queue {name}", QueueUrl=url, AttributeNames=["All"])
    return dict(answer.get("Attributes") or {})


def _rule(aws: Aws, name: str) -> dict[str, Any]:
    try:
        found = aws.ask("events", "DescribeRule", f"the rule {name}", Name=name)
    except NotThere:
        return {}
    except Refused as error:
        if "ResourceNotFound" in str(error):
            return {}
        raise
    pattern = found.get("EventPattern")
    return {**found, "EventPattern": json.dumps(json.loads(pattern), sort_keys=True) if pattern else ""}


def _targets(aws: Aws, name: str) -> dict[str, str]:
    answer = aws.ask("events", "ListTargetsByRule", f"the rule {name}", Rule=name)
    return {target["Id"]: target["Arn"] for target in answer.get("Targets") or []}
