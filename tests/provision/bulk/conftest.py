"""One embedded AWS for each test process; every test has a prefix, a key in S3 and a folder of its own."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gahp.local import LocalAws
from gahp.provision.bulk import drive, options
from gahp.provision.bulk.run import Limits

BUCKET, QUEUE, DEFINITION = "awsbatch-local", "awsbatch-local-queue", "awsbatch-local-job"
COMMAND = [sys.executable, "-m", "gahp.cli.pegasus_aws_batch"]
# Polls come fast, and nothing that is waited for takes long here.
QUICK = {"first_poll": 0.05, "growth": 1.1, "last_poll": 0.3, "settle": 0.3, "missing": 0.3, "stall": 0.3, "log_settle": 0.3}
_numbers = itertools.count()


class Bulk:
    """A submit directory, and pegasus-aws-batch in it."""

    def __init__(self, aws, folder, prefix):
        self.aws, self.folder, self.prefix = aws, folder, prefix
        self.batch, self.s3 = aws.client("batch"), aws.client("s3")
        self.url = f"s3://{BUCKET}/{prefix}"
        self.job_file = folder / "x.in"

    def task(self, name, script, arguments="", environment=None, **more):
        """A task that runs the text `script` with bash."""
        key = f"scripts/{next(_numbers)}"
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=f"#!/bin/bash\n{script}\n".encode())
        return self.task_of(f"s3://{BUCKET}/{key}", name, arguments, environment, **more)

    @staticmethod
    def task_of(url, name, arguments="", environment=None, **more):
        variables = {**(environment or {}), "BATCH_FILE_TYPE": "script", "BATCH_FILE_S3_URL": url}
        pairs = [{"name": key, "value": value} for key, value in variables.items()]
        return {"jobName": name, "executable": "launch.sh", "arguments": arguments, "environment": pairs, **more}

    def write(self, *tasks):
        self.job_file.write_text(json.dumps({"SubmitJob": tasks}))

    def words(self, *more):
        where = [*("-j", DEFINITION), *("-q", QUEUE), *("-s", self.url)]
        return ["-p", self.prefix, *where, "-m", str(self.folder / "x"), *more, str(self.job_file)]

    def run(self, *tasks, words=(), stop=None, **limits):
        """Run tasks in this process; gives the exit code, and lets exceptions through."""
        if tasks:
            self.write(*tasks)
        asked = options.read(self.words(*words))
        return drive.prepare(asked, stop or threading.Event(), Limits(**{**QUICK, **limits}))()

    def start(self, *tasks, words=None):
        """Start the program itself, as HTCondor does."""
        if tasks:
            self.write(*tasks)
        return subprocess.Popen(
            [*COMMAND, *(self.words() if words is None else words)],
            cwd=self.folder,
            env={**os.environ, **self.aws.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def out(self):
        return (self.folder / "x.out").read_text()

    @property
    def err(self):
        return (self.folder / "x.err").read_text()

    def plain_out(self):
        """stdout without the records."""
        return [line for line in self.out.splitlines() if not line.startswith("[cluster-")]

    @staticmethod
    def record(line):
        """A record's kind and fields, by the grammar of Pegasus's parser: [cluster-KIND key=value, key="value", ...]."""
        pair = r'[\w-]+=(?:[^\s"\[\],=]+|"[^"\[\]]*")'
        match = re.fullmatch(rf"\[cluster-(task|summary) ({pair}(?:, {pair})*)\]", line)
        assert match, line
        return match[1], {key: value.strip('"') for key, value in re.findall(r'([\w-]+)=("[^"]*"|[^,]+)', match[2])}

    def records(self):
        """The records of stdout by kind."""
        found = {"task": [], "summary": []}
        for line in self.out.splitlines():
            if line.startswith("[cluster-"):
                kind, fields = self.record(line)
                found[kind].append(fields)
        return found

    def jobstates(self):
        """(name, state, id) of each line of the jobstate log."""
        lines = (self.folder / f"{self.prefix}.jobstate.log").read_text().splitlines()
        assert all(re.fullmatch(r"[0-9]{13} \S+ [A-Z]+ \S+", line) for line in lines)
        return [tuple(line.split()[1:]) for line in lines]

    def jobs(self):
        """What Batch knows of the jobs of this prefix, array parents once."""
        rows = self.batch.list_jobs(jobQueue=QUEUE, filters=[{"name": "JOB_NAME", "values": [f"{self.prefix}*"]}])
        ids = [row["jobId"] for row in rows["jobSummaryList"]]
        return self.batch.describe_jobs(jobs=ids)["jobs"] if ids else []

    def keys(self):
        page = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        return [entry["Key"].removeprefix(f"{self.prefix}/") for entry in page.get("Contents", ())]


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    with LocalAws(tmp_path_factory.mktemp("aws"), vcpus=16, memory_mib=16384, time_scale=0.05, grace_s=20) as aws:
        yield aws
        assert aws.violations() == []


@pytest.fixture
def bulk(running, tmp_path, monkeypatch):
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    running.forget_calls()
    yield Bulk(running, Path(tmp_path), f"pre{os.getpid()}-{next(_numbers)}")
    running.faults.clear()


@pytest.fixture
def no_backoff(monkeypatch):
    """What is repeated is repeated at once."""
    monkeypatch.setattr("gahp.provision.bulk.service.backoff", lambda tries, most: 0.01)
