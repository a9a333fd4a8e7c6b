"""What a fresh embedded AWS holds: a bucket, roles, a compute environment, a job queue, a job definition; and how to reach them.

Makes them through the endpoint itself, as an administrator would through AWS. Knows boto3 and the names; nothing of how the
endpoint works.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config

REGION = "us-east-1"
BUCKET = "awsbatch-local"
ENVIRONMENT = "awsbatch-local-environment"
QUEUE = "awsbatch-local-queue"
DEFINITION = "awsbatch-local-job"
LOG_GROUP = "/aws/batch/job"
DEFAULT_MEMORY_MIB = 512
DEFAULT_VCPUS = 1


def client(service: str, endpoint: str, access_key: str, secret_key: str) -> Any:
    """A boto3 client of the endpoint that retries nothing by itself."""
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, max_pool_connections=64),
    )


def create(endpoint: str, access_key: str, secret_key: str, *, vcpus: int) -> None:
    """Make everything in an empty account."""

    def of(service: str) -> Any:
        return client(service, endpoint, access_key, secret_key)

    of("s3").create_bucket(Bucket=BUCKET)
    of("logs").create_log_group(logGroupName=LOG_GROUP)
    iam = of("iam")
    service_role = _role(iam, "awsbatch-local-service", "batch.amazonaws.com")
    job_role = _role(iam, "awsbatch-local-job-role", "ecs-tasks.amazonaws.com")
    instance_profile = iam.create_instance_profile(InstanceProfileName="awsbatch-local-instance")["InstanceProfile"]
    ec2 = of("ec2")
    batch = of("batch")
    environment = batch.create_compute_environment(
        computeEnvironmentName=ENVIRONMENT,
        type="MANAGED",
        state="ENABLED",
        serviceRole=service_role,
        computeResources={
            "type": "EC2",
            "minvCpus": 0,
            "maxvCpus": vcpus,
            "desiredvCpus": 0,
            "instanceTypes": ["optimal"],
            "instanceRole": instance_profile["Arn"],
            "subnets": [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:1]],
            "securityGroupIds": [group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"][:1]],
        },
    )
    batch.create_job_queue(
        jobQueueName=QUEUE,
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": environment["computeEnvironmentArn"]}],
    )
    batch.register_job_definition(
        jobDefinitionName=DEFINITION,
        type="container",
        containerProperties={
            "image": "awsbatch/fetch_and_run",
            "jobRoleArn": job_role,
            "resourceRequirements": [
                {"type": "VCPU", "value": str(DEFAULT_VCPUS)},
                {"type": "MEMORY", "value": str(DEFAULT_MEMORY_MIB)},
            ],
        },
    )


def _role(iam: Any, name: str, service: str) -> str:
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
    }
    return str(iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"])


def environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    """The environment in which this program, boto3 and the aws command use the embedded AWS."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": REGION,
        # A machine that has an HTCondor keeps its configuration; elsewhere the environment alone counts.
        "CONDOR_CONFIG": os.environ.get("CONDOR_CONFIG") or "ONLY_ENV",
        "_CONDOR_AWSBATCH_JOB_QUEUE": QUEUE,
        "_CONDOR_AWSBATCH_JOB_DEFINITION": DEFINITION,
        "_CONDOR_AWSBATCH_S3_URL": f"s3://{BUCKET}/gahp",
        "_CONDOR_AWSBATCH_REGION": REGION,
    }


def as_script(variables: Mapping[str, str]) -> str:
    """The environment as lines for a shell to source. Credentials of another kind would come before ours: they go."""
    lines = ["unset AWS_SESSION_TOKEN AWS_PROFILE"]
    for name, value in variables.items():
        if name == "CONDOR_CONFIG":
            lines.append(f'export {name}="${{{name}:-ONLY_ENV}}"')
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join(lines) + "\n"
