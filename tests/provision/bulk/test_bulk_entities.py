"""The example's set-up with pegasus-aws-batch, word for word from its manual; and runs that make what they need and remove it."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from gahp.model import Refused
from gahp.provision.bulk import drive, options
from gahp.provision.bulk.entities import Entities
from gahp.provision.bulk.run import Limits
from gahp.provision.bulk.state import State

ROOT = Path(__file__).resolve().parents[3]
MANUAL = ROOT / "tests" / "data" / "pegasus-example" / "README.md"
REGION = "us-west-2"


@pytest.fixture
def client(bulk):
    """Clients of the Region that the example uses."""

    def client(service):
        return boto3.client(service, region_name=REGION, config=Config(retries={"total_max_attempts": 1}))

    return client


@pytest.fixture
def example(bulk, client):
    """The example's directory after the edits that its manual names, in an account with the roles that it names."""
    folder = bulk.folder / "example"
    folder.mkdir()
    shutil.copytree(ROOT / "conf", folder / "conf")
    iam, ec2 = client("iam"), client("ec2")
    roles = ("AWSBatchServiceRole", "ecsInstanceRole", "batchJobRole")
    for name in roles:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="ecsInstanceRole")
    iam.add_role_to_instance_profile(InstanceProfileName="ecsInstanceRole", RoleName="ecsInstanceRole")
    path = folder / "conf" / "sample-compute-env.json"
    environment = json.loads(path.read_text())
    environment["computeResources"]["subnets"] = [ec2.describe_subnets()["Subnets"][0]["SubnetId"]]
    environment["computeResources"]["securityGroupIds"] = [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]]
    path.write_text(json.dumps(environment))
    path = folder / "conf" / "sample-job-definition.json"
    definition = json.loads(path.read_text())
    definition["containerProperties"]["image"] = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/awsbatch/fetch_and_run"
    path.write_text(json.dumps(definition))
    path = folder / "conf" / "pegasusrc"
    path.write_text(path.read_text().replace("[your aws account id - digits]", "123456789012"))
    # The command of the manual finds our program by its name.
    program = folder / "bin" / "pegasus-aws-batch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gahp.cli.pegasus_aws_batch "$@"\n')
    program.chmod(0o755)
    yield folder
    iam.remove_role_from_instance_profile(InstanceProfileName="ecsInstanceRole", RoleName="ecsInstanceRole")
    iam.delete_instance_profile(InstanceProfileName="ecsInstanceRole")
    for name in roles:
        iam.delete_role(RoleName=name)


def shell(example, command):
    """A command line as a person types it in the example's directory. Its exit code and what it printed."""
    done = subprocess.run(
        ["bash", "-c", f'PATH="$PWD/bin:$PATH"; {command}'], cwd=example, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def there(client, prefix):
    batch = client("batch")
    found = [entry["jobQueueName"] for entry in batch.describe_job_queues()["jobQueues"]]
    found += [entry["computeEnvironmentName"] for entry in batch.describe_compute_environments()["computeEnvironments"]]
    found += [entry["jobDefinitionName"] for entry in batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]]
    return sorted(name for name in found if name.startswith(prefix))


def test_the_examples_set_up_can_be_followed_word_for_word_then_used_and_deleted(bulk, client, example):
    (command,) = re.findall(r"^\$ +(pegasus-aws-batch .*--create.*)$", MANUAL.read_text(), re.MULTILINE)
    code, said = shell(example, command)
    assert code == 0, said
    prefix = "pegasus-awsbatch-example"
    names = [f"{prefix}-compute-env", f"{prefix}-job-definition", f"{prefix}-job-queue"]
    assert there(client, prefix) == names
    for name in names:
        kind = {"env": "compute-environment", "ion": "job-definition", "eue": "job-queue"}[name[-3:]]
        assert re.search(rf"INFO .*Created .*arn:aws:batch:us-west-2:123456789012:{kind}/{name}", said), said
    assert "Time taken to execute is" in said
    # A second time changes nothing.
    bulk.aws.forget_calls()
    code, said = shell(example, command)
    assert code == 0, said
    assert not [call for call in bulk.aws.calls() if re.search(r"batch:(Create|Register|Update)", call)]
    # Jobs run with it, by the names that were made.
    bulk.write(bulk.task("one", "echo 1"), bulk.task("two", "echo 2"))
    given = f"--conf conf/pegasusrc -p {prefix} -j {names[1]} --ce {names[0]} -q {names[2]}"
    code, said = shell(example, f"pegasus-aws-batch {given} -s {bulk.url} -m {bulk.folder}/x {bulk.job_file}")
    assert code == 0, said
    assert bulk.plain_out() == ["1", "2"]
    assert there(client, prefix) == names
    code, said = shell(example, f"pegasus-aws-batch {given} -s s3://{prefix}-bucket --delete")
    assert code == 0, said
    assert there(client, prefix) == []
    assert f"{prefix}-bucket" not in [entry["Name"] for entry in bulk.s3.list_buckets()["Buckets"]]


def run_with_files(bulk, example, *more, stop=None):
    words = [*("--conf", str(example / "conf" / "pegasusrc")), *("-p", bulk.prefix), *("-m", str(bulk.folder / "x"))]
    for option, name in (("-j", "job-definition"), ("--ce", "compute-env")):
        words += [option, str(example / "conf" / f"sample-{name}.json")]
    asked = options.read([*words, *more, str(bulk.job_file)])
    return drive.prepare(asked, stop or threading.Event(), Limits(first_poll=0.1))()


def test_what_a_run_made_goes_with_it_and_a_queue_is_made_for_an_environment_without_one(bulk, client, example):
    bulk.write(bulk.task("one", 'echo "$PEGASUS_AWS_BATCH_BUCKET"'))
    assert run_with_files(bulk, example) == 0
    assert bulk.plain_out() == [f"s3://{bulk.prefix}-bucket/{bulk.prefix}/"]
    assert there(client, bulk.prefix) == []
    assert f"{bulk.prefix}-bucket" not in [entry["Name"] for entry in bulk.s3.list_buckets()["Buckets"]]


def test_a_bucket_that_tasks_have_put_something_into_stays_and_that_is_said(bulk, client, example, caplog):
    bulk.write(bulk.task("one", 'echo result > r; s5cmd cp r "${PEGASUS_AWS_BATCH_BUCKET}r" >/dev/null'))
    assert run_with_files(bulk, example) == 2
    assert "tasks have put something into it" in caplog.text
    assert "tasks have put something into it" in bulk.err
    bucket = f"{bulk.prefix}-bucket"
    assert bulk.s3.get_object(Bucket=bucket, Key=f"{bulk.prefix}/r")["Body"].read() == b"result\n"
    assert there(client, bulk.prefix) == []
    bulk.s3.delete_object(Bucket=bucket, Key=f"{bulk.prefix}/r")
    bulk.s3.delete_bucket(Bucket=bucket)


def _buckets(bulk):
    return [entry["Name"] for entry in bulk.s3.list_buckets()["Buckets"]]


@pytest.mark.parametrize("refused", ["CreateJobQueue", "DescribeJobQueues"])
def test_a_run_whose_set_up_is_refused_leaves_no_bucket(bulk, client, example, caplog, refused):
    bulk.write(bulk.task("one", "exit 0"))
    bulk.aws.faults.fail(f"batch:{refused}", status=403, code="AccessDeniedException", message="not you")
    with pytest.raises(Refused, match="No permission"):
        run_with_files(bulk, example)
    bulk.aws.faults.clear()
    assert f"{bulk.prefix}-bucket" not in _buckets(bulk)
    assert there(client, bulk.prefix) == []
    assert "could not be deleted" not in caplog.text


def test_a_bucket_that_a_killed_run_made_goes_with_the_run_that_takes_it_up(bulk, client, example, monkeypatch):
    bulk.write(bulk.task("one", "exit 0"))
    made = State.created

    def die(state, kind, name):
        if kind == "bucket":
            raise Killed
        made(state, kind, name)

    with monkeypatch.context() as patch:
        patch.setattr(State, "created", die)
        patch.setattr(Entities, "remove", lambda *_: [])
        patch.setattr(State, "close", lambda state, remove: os.close(state._file))
        with pytest.raises(Killed):
            run_with_files(bulk, example)
    assert f"{bulk.prefix}-bucket" in _buckets(bulk)
    assert run_with_files(bulk, example) == 0
    assert f"{bulk.prefix}-bucket" not in _buckets(bulk)
    assert there(client, bulk.prefix) == []


class Killed(BaseException):
    """In the place of SIGKILL."""


def test_a_run_that_is_interrupted_removes_what_it_made(bulk, client, example):
    bulk.write(bulk.task("one", "sleep 100"), bulk.task("two", "sleep 100"))
    stop = threading.Event()
    timer = threading.Thread(target=_stop_when_submitted, args=(bulk, stop), daemon=True)
    timer.start()
    with pytest.raises(drive.Interrupted):
        run_with_files(bulk, example, stop=stop)
    timer.join()
    assert there(client, bulk.prefix) == []


def _stop_when_submitted(bulk, stop):
    """Sets `stop` when the state file says that the job was submitted."""
    state = bulk.folder / "x.in.state"
    deadline = time.monotonic() + 30
    while not (state.exists() and '"sent"' in state.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()


def test_delete_leaves_what_was_not_made_for_the_prefix(bulk):
    words = ["-p", bulk.prefix, "-d", "-j", "awsbatch-local-job", "-q", "awsbatch-local-queue"]
    with pytest.raises(Refused, match="not made for the prefix"):
        drive.prepare(options.read(words), threading.Event())()
    assert bulk.batch.describe_job_queues(jobQueues=["awsbatch-local-queue"])["jobQueues"][0]["state"] == "ENABLED"
