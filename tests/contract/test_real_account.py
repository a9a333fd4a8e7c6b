"""The contract against a "real" account, which here is an embedded AWS that the tests did not start: what it makes it removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gahp.local import LocalAws, site

CONTRACT = Path(__file__).with_name("test_contract.py")
PREFIX = "contract-test"


@pytest.fixture
def account_there(tmp_path):
    with LocalAws(tmp_path / "aws", time_scale=0.05) as aws:
        yield aws


def start(aws: LocalAws, *words: str, worker: str = "") -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **aws.environment(),
        "AWSBATCH_TEST_PREFIX": PREFIX,
        "AWSBATCH_TEST_IMAGE": "awsbatch/fetch_and_run",
        "PYTEST_XDIST_WORKER": worker,
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-v", "-s", *words, str(CONTRACT)]
    root = CONTRACT.parents[2]
    return subprocess.Popen(
        command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def left(aws: LocalAws) -> list[str]:
    """What there is in the account by its name or path, definitions that are deregistered aside."""
    # IAM's answers hold what botocore has parsed out of a text already: the watched client would object.
    iam = site.client("iam", aws.endpoint, aws.state.access_key, aws.state.secret_key)
    batch = aws.client("batch")
    found = [queue["jobQueueName"] for queue in batch.describe_job_queues()["jobQueues"]]
    found += [entry["computeEnvironmentName"] for entry in batch.describe_compute_environments()["computeEnvironments"]]
    found += [entry["jobDefinitionName"] for entry in batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]]
    found += [bucket["Name"] for bucket in aws.client("s3").list_buckets()["Buckets"]]
    found += [role["Path"] for role in iam.list_roles()["Roles"]]
    found += aws.client("sqs").list_queues().get("QueueUrls", [])
    found += [rule["Name"] for rule in aws.client("events").list_rules()["Rules"]]
    return [name for name in found if PREFIX in name]


def test_it_says_what_it_may_cost_and_leaves_nothing(account_there):
    process = start(account_there, "-k", "exit_0 or disabled_queue or new_revision")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "a REAL AWS account; everything is named contract-test-*" in output
    assert "at most 0.12 USD" in output
    assert f"Created the job queue {PREFIX}-job-queue" in output
    assert left(account_there) == []


def test_what_is_there_of_the_prefix_already_is_not_touched(account_there):
    batch = account_there.client("batch")
    name = f"{PREFIX}-job-definition"
    container = {"image": "x", "vcpus": 1, "memory": 64}
    tags = {"awsbatch-gahp:prefix": PREFIX}
    batch.register_job_definition(jobDefinitionName=name, type="container", containerProperties=container, tags=tags)
    process = start(account_there, "-k", "exit_0")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3
    assert f"something in us-east-1 already: the job definition {name}:1" in output
    assert f"condor_awsbatch delete --prefix {PREFIX}" in output
    assert left(account_there) == [name]


def test_a_real_account_is_not_given_to_several_processes(account_there):
    process = start(account_there, "-k", "exit_0", worker="gw0")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3 and "leave -n away" in output
    assert left(account_there) == []


def test_after_ctrl_c_nothing_is_left_either(account_there):
    batch = account_there.client("batch")
    process = start(account_there)
    deadline = time.monotonic() + 60
    # One quick question: Ctrl-C has to hit upon the time in which it works.
    while not batch.describe_job_queues(jobQueues=[f"{PREFIX}-job-queue"])["jobQueues"]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "KeyboardInterrupt" in output, output
    assert left(account_there) == []
