"""Values against botocore's service model, and clients that insist on it."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.stub import Stubber

from gahp.local import site
from gahp.local.validate import ModelViolation, service, violations, watch_client

SUBMIT = service("batch").operation_model("SubmitJob").input_shape
GOOD = {"jobName": "a", "jobQueue": "q", "jobDefinition": "d"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"jobQueue": None}, ".jobQueue: is required"),
        ({"jobName": 5}, ".jobName: int instead of string"),
        ({"colour": "blue"}, ".colour: is not in the model"),
        ({"arrayProperties": {"size": "2"}}, ".arrayProperties.size: str instead of integer"),
        ({"arrayProperties": {"size": True}}, ".arrayProperties.size: bool instead of integer"),
        ({"arrayProperties": {"size": 2**31}}, ".arrayProperties.size: 2147483648 is no integer"),
        ({"dependsOn": [{"type": "SOMETIMES"}]}, ".dependsOn[0].type: 'SOMETIMES' is none of N_TO_N, SEQUENTIAL"),
        ({"dependsOn": {}}, ".dependsOn: dict instead of list"),
        ({"tags": {}}, ".tags: 0 is under the minimum of 1"),
        ({"tags": {"key": "x" * 257}}, ".tags.key: 257 is over the maximum of 256"),
        ({"containerOverrides": {"resourceRequirements": [{"type": "VCPU"}]}}, "[0].value: is required"),
    ],
)
def test_what_the_model_does_not_allow_is_named(changes: dict[str, Any], complaint: str) -> None:
    (found,) = violations(SUBMIT, {**GOOD, **changes})
    assert found.endswith(complaint)


def test_what_the_model_allows_passes() -> None:
    assert violations(SUBMIT, {**GOOD, "tags": {"a": "b"}, "timeout": {"attemptDurationSeconds": 60}}) == []


def test_patterns_count() -> None:
    shape = service("s3").operation_model("CopyObject").input_shape
    copy = {"Bucket": "b", "Key": "k", "CopySource": "other/key"}
    assert violations(shape, copy) == []
    (found,) = violations(shape, {**copy, "CopySource": "no-slash"})
    assert "does not match" in found


def test_a_watched_client_raises_for_what_it_would_send() -> None:
    client = watch_client(site.client("batch", "http://127.0.0.1:9", "key", "secret"))
    with pytest.raises(ModelViolation, match="SOMETIMES"):
        client.submit_job(**GOOD, dependsOn=[{"type": "SOMETIMES"}])


def test_a_watched_client_raises_for_an_answer_that_the_model_does_not_allow() -> None:
    client = watch_client(site.client("batch", "http://127.0.0.1:9", "key", "secret"))
    with Stubber(client) as stubber:
        answer: dict[str, Any] = {"jobId": "1", "jobName": "a"}
        stubber.add_response("submit_job", answer)
        # What a real answer would bring; the stub checks only what it is given at first.
        del answer["jobId"]
        with pytest.raises(ModelViolation, match="jobId"):
            client.submit_job(**GOOD)
