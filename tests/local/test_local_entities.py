"""Compute environments and job queues behave as those of AWS where moto would let things pass."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError


@pytest.fixture
def queue(account: Any) -> str:
    return str(account.queue())


def refusal(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return str(caught.value.response["Error"]["Message"])


def test_an_enabled_queue_is_not_deleted_and_a_disabled_one_is(account: Any, queue: str) -> None:
    assert "DISABLED" in refusal(account.batch.delete_job_queue, jobQueue=queue)
    account.batch.update_job_queue(jobQueue=queue, state="DISABLED")
    account.batch.delete_job_queue(jobQueue=queue)
    assert account.batch.describe_job_queues(jobQueues=[queue])["jobQueues"] == []


def test_an_environment_that_is_enabled_or_has_a_queue_is_not_deleted(account: Any, queue: str) -> None:
    name = f"{queue}-environment"
    assert "DISABLED" in refusal(account.batch.delete_compute_environment, computeEnvironment=name)
    account.batch.update_compute_environment(computeEnvironment=name, state="DISABLED")
    assert "existing JobQueue relationship" in refusal(account.batch.delete_compute_environment, computeEnvironment=name)
    account.batch.update_job_queue(jobQueue=queue, state="DISABLED")
    account.batch.delete_job_queue(jobQueue=queue)
    account.batch.delete_compute_environment(computeEnvironment=name)
    assert account.batch.describe_compute_environments(computeEnvironments=[name])["computeEnvironments"] == []


def test_without_a_service_role_an_environment_has_that_of_aws_batch(account: Any) -> None:
    like = account.batch.describe_compute_environments()["computeEnvironments"][0]
    for name in ("linked-1", "linked-2"):
        account.batch.create_compute_environment(
            computeEnvironmentName=name, type="MANAGED", state="ENABLED", computeResources=like["computeResources"]
        )
        (found,) = account.batch.describe_compute_environments(computeEnvironments=[name])["computeEnvironments"]
        assert found["serviceRole"].endswith(":role/aws-service-role/batch.amazonaws.com/AWSServiceRoleForBatch")


def test_a_status_can_be_shown_in_place_of_the_true_one(account: Any, queue: str) -> None:
    account.aws.faults.entity_status(queue, "INVALID", "as ordered", count=1)
    shown = [account.batch.describe_job_queues(jobQueues=[queue])["jobQueues"][0] for _ in range(2)]
    assert [entry["status"] for entry in shown] == ["INVALID", "VALID"]
    assert shown[0]["statusReason"] == "as ordered"
