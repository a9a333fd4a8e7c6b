"""Prints how long pegasus-aws-batch takes on this machine, and how many calls of AWS Batch it makes. Asserts nothing.

Runs against the embedded AWS: tasks that do nothing but print a line, on the fetch-and-run contract, all of one shape. Arguments:
the numbers of tasks (default 2 and 120).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gahp.local import LocalAws
from gahp.provision.bulk.logs import SEPARATOR

BUCKET, QUEUE, DEFINITION = "awsbatch-local", "awsbatch-local-queue", "awsbatch-local-job"
SCRIPT = f"#!/bin/bash\necho out $1\necho '{SEPARATOR}'\necho err $1\n"


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
        aws.forget_calls()
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "gahp.cli.pegasus_aws_batch", *words, *("-m", str(Path(scratch, "x"))), str(job_file)],
            cwd=scratch,
            env={**os.environ, **aws.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        spent = time.perf_counter() - begin
        lines = [line for line in Path(scratch, "x.out").read_text().splitlines() if line.startswith("out ")]
        if done.returncode or lines != [f"out {n}" for n in range(count)]:
            raise SystemExit(f"{count} tasks: exit code {done.returncode}, {len(lines)} outputs")
        calls = dict(sorted(aws.calls().items()))
        batch = sum(number for name, number in calls.items() if name.startswith("batch:"))
        print(f"{count:>6} tasks: {spent:6.2f} s, {batch} calls of AWS Batch, {batch / count:.3f} a task; all calls: {calls}")


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}\n")
    for count in [int(word) for word in sys.argv[1:]] or [2, 120]:
        measure(count)


if __name__ == "__main__":
    main()
