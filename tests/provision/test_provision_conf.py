"""The samples of conf/ work as they are, after the edits that the manual names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gahp.provision import documents, network, policies, settings, update
from gahp.provision.aws import Clients
from gahp.provision.settings import Kind

CONF = Path(__file__).resolve().parents[2] / "conf"
KINDS = {"compute-env": Kind.COMPUTE_ENVIRONMENT, "job-definition": Kind.JOB_DEFINITION, "job-queue": Kind.JOB_QUEUE}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.json")), ids=lambda path: path.name)
def test_every_sample_is_what_aws_batch_takes(path):
    kind = next(kind for end, kind in KINDS.items() if path.stem.endswith(end))
    document = documents.read(str(path), kind)
    lacking = network.missing(document)
    assert lacking == (["subnets", "securityGroupIds"] if kind is Kind.COMPUTE_ENVIRONMENT else [])


@pytest.mark.parametrize(
    ("environment", "definition"),
    [
        ("sample-compute-env", "sample-job-definition"),
        ("spot-compute-env", "sample-job-definition"),
        ("gpu-compute-env", "gpu-job-definition"),
        ("fargate-compute-env", "fargate-job-definition"),
        ("fargate-spot-compute-env", "fargate-job-definition"),
    ],
)
def test_the_samples_go_together(bench, environment, definition):
    files = {"compute_environment": f"{bench.conf}/{environment}.json", "job_definition": f"{bench.conf}/{definition}.json"}
    made = bench.create(default_vpc=True, **files)
    assert made.job_queue.made and made.compute_environment.made and made.job_definition.made
    assert bench.create(default_vpc=True, **files).changes == 0


def test_the_properties_sample_needs_its_account(tmp_path):
    with pytest.raises(Exception, match=r"not a number of 12 digits: edit pegasus\.aws\.account"):
        settings.load(str(CONF / "pegasusrc"), prefix="p")
    edited = tmp_path / "pegasusrc"
    edited.write_text((CONF / "pegasusrc").read_text().replace("[your aws account id - digits]", "123456789012"))
    found = settings.load(str(edited), prefix="p")
    assert (found.account, found.region) == ("123456789012", "us-west-2")


def test_the_iam_files_are_what_create_puts_into_iam():
    site = {"region": "REGION", "account": "ACCOUNT", "bucket": "BUCKET"}
    expected = {
        "submit-host": policies.submit_host(**site, queue="QUEUE", definition="DEFINITION", key="KEY", events="PREFIX-events"),
        "administrator": policies.administrator(**site, prefix="PREFIX"),
        "job-role": policies.job_role("BUCKET", "KEY"),
        "service-role": policies.service_role(),
        "instance-role": policies.instance_role(),
        "execution-role": policies.execution_role(),
        "spot-fleet-role": policies.spot_fleet_role(),
        "job-role.trust": policies.trust("ecs-tasks.amazonaws.com"),
        "service-role.trust": policies.trust("batch.amazonaws.com"),
        "instance-role.trust": policies.trust("ec2.amazonaws.com"),
        "execution-role.trust": policies.trust("ecs-tasks.amazonaws.com"),
        "spot-fleet-role.trust": policies.trust("spotfleet.amazonaws.com"),
    }
    assert {path.stem: json.loads(path.read_text()) for path in CONF.glob("iam/*.json")} == expected


# IAM's names of calls of S3 that have others there.
S3_ACTIONS = {
    "HeadBucket": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "DeleteObjects": "DeleteObject",
}


def test_the_administrators_policy_allows_every_call_of_create_update_and_delete(bench):
    bench.clients.arm(0)
    bench.create(with_events=True, default_vpc=True)
    bench.create(with_events=True, default_vpc=True)
    bench.edit("sample-job-queue.json", lambda document: document.update(priority=3))
    bench.create(with_events=True)
    update.update(bench.settings(), bench.clients, bench.said, max_vcpus=4, state="DISABLED", image="x")
    bench.clients("s3").put_object(Bucket=f"{bench.prefix}-bucket", Key=f"{bench.prefix}/runs/1/manifest", Body=b"x")
    bench.delete()
    calls = {tuple(name.split(":")) for name in bench.clients.names} - {("s3", "put_object"), ("sts", "get_caller_identity")}
    assert len(calls) > 40
    wanted = set()
    for service, method in calls:
        operation = Clients.__call__(bench.clients, service).meta.method_to_api_mapping[method]
        wanted.add(f"{service}:{S3_ACTIONS.get(operation, operation) if service == 's3' else operation}")
    policy = json.loads((CONF / "iam" / "administrator.json").read_text())
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert wanted - allowed == set()


def test_no_policy_of_ours_allows_everything_on_everything():
    for path in CONF.glob("iam/*.json"):
        for statement in json.loads(path.read_text())["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any(action in ("*", "s3:*", "iam:*", "batch:*") for action in actions), path


def test_every_sample_is_explained():
    text = (CONF / "README.md").read_text()
    named = [path.relative_to(CONF) for path in CONF.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [str(name) for name in named if str(name) not in text and ".trust" not in name.name] == []


def test_the_cloudformation_template_passes_the_linter():
    command = [str(Path(sys.executable).parent / "cfn-lint"), str(CONF / "cloudformation.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
