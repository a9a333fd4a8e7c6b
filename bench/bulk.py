"""Prints how long create and pegasus-aws-batch take on this machine, and how many calls of AWS Batch a task. Asserts nothing.

Runs against the embedded AWS: the set-up of Pegasus's example, word for word from its manual; then tasks that do nothing but
print a line, on the fetch-and-run contract, all of one shape. Arguments: the numbers of tasks (default 2 and 120).
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3

from gahp.local import LocalAws
from gahp.provision.bulk.logs import SEPARATOR

BUCKET, QUEUE, DEFINITION = "awsbatch-local", "awsbatch-local-queue", "awsbatch-local-job"
SCRIPT = f"#!/bin/bash\necho out $1\necho '{SEPARATOR}'\necho err $1\n"


MANUAL = Path(__file__).resolve().parents[1] / "tests" / "data" / "pegasus-example" / "README.md"
CONF = Path(__file__).resolve().parents[1] / "conf"
REGION = "us-west-2"


def measure_create() -> None:
    """The create command of the example's manual, as a new process, after the edits that the manual names."""
    (line,) = re.findall(r"^\$ +pegasus-aws-batch (.*--create.*)$", MANUAL.read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as scratch, LocalAws(Path(scratch, "aws")) as aws:
        shutil.copytree(CONF, Path(scratch, "conf"))
        keys = {name.lower(): value for name, value in aws.environment().items() if name.startswith(("AWS_ACCESS", "AWS_SECRET"))}
        iam, ec2 = (boto3.client(name, region_name=REGION, endpoint_url=aws.endpoint, **keys) for name in ("iam", "ec2"))
        for name in ("AWSBatchServiceRole", "ecsInstanceRole", "batchJobRole"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="ecsInstanceRole")
        path = Path(scratch, "conf", "sample-compute-env.json")
        environment = json.loads(path.read_text())
        environment["computeResources"].update(
            subnets=[ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
            securityGroupIds=[ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
        )
        path.write_text(json.dumps(environment))
        path = Path(scratch, "conf", "pegasusrc")
        path.write_text(path.read_text().replace("[your aws account id - digits]", "123456789012"))
        done, spent = timed(["gahp.cli.main", "create", *shlex.split(line)], scratch, aws)
        if done.returncode or done.stdout.count(b"Created the ") != 4:
            raise SystemExit(f"create: exit code {done.returncode}: {done.stdout.decode()}")
        print(f"       create: {spent:6.2f} s, {sum(aws.calls().values())} calls of AWS")


def timed(words: list[str], scratch: str, aws: LocalAws) -> tuple[subprocess.CompletedProcess[bytes], float]:
    """One of our programs, by its module, and the seconds that it took; calls of AWS are counted from its start."""
    environment = {**os.environ, **aws.environment()}
    aws.forget_calls()
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    return done, time.perf_counter() - begin


def measure(count: int) -> None:
    """One run of `count` tasks."""
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as scratch, LocalAws(Path(scratch, "aws")) as aws:
        script, job_file = Path(scratch, "launch.sh"), Path(scratch, "x.in")
        script.write_text(SCRIPT)
        variables = {"BATCH_FILE_TYPE": "script", "BATCH_FILE_S3_URL": f"s3://{BUCKET}/bench/launch.sh"}
        environment = [{"name": name, "value": value} for name, value in variables.items()]
        common = {"executable": "launch.sh", "environment": environment}
        tasks = [{"jobName": f"task{n}", "arguments": str(n), **common} for n in range(count)]
        job_file.write_text(json.dumps({"SubmitJob": tasks}))
        words = [*("-p", "bench"), *("-j", DEFINITION), *("-q", QUEUE), *("-s", f"s3://{BUCKET}/bench"), *("-f", str(script))]
        words = ["gahp.cli.pegasus_aws_batch", *words, *("-m", str(Path(scratch, "x"))), str(job_file)]
        done, spent = timed(words, scratch, aws)
        lines = [line for line in Path(scratch, "x.out").read_text().splitlines() if line.startswith("out ")]
        if done.returncode or lines != [f"out {n}" for n in range(count)]:
            raise SystemExit(f"{count} tasks: exit code {done.returncode}, {len(lines)} outputs")
        calls = dict(sorted(aws.calls().items()))
        batch = sum(number for name, number in calls.items() if name.startswith("batch:"))
        print(f"{count:>6} tasks: {spent:6.2f} s, {batch} calls of AWS Batch, {batch / count:.3f} a task; all calls: {calls}")


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}\n")
    measure_create()
    for count in [int(word) for word in sys.argv[1:]] or [2, 120]:
        measure(count)


if __name__ == "__main__":
    main()
