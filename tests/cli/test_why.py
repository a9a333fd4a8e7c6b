"""How why asks AWS: as little as it takes, of several jobs each thing once, and what hosts there could be."""

import argparse
import time
from types import SimpleNamespace

import pytest

from gahp.cli import views, why
from gahp.cli.diagnosis import Size
from gahp.journal import Journal
from gahp.model import JobRequest, Refused
from gahp.run import Run, RunState


class Batch:
    """A queue of one environment with a job that runs; remembers what it was asked."""

    def __init__(self, refuses=""):
        self.asked = []
        self.refuses = refuses

    def ask(self, action, **what):
        self.asked.append(action)
        if action == self.refuses:
            raise Refused(f"AWS Batch, {action}: AccessDenied.")
        if action == "DescribeJobQueues":
            order = [{"order": 1, "computeEnvironment": "ce"}]
            return {"jobQueues": [{"jobQueueName": "q", "state": "ENABLED", "computeEnvironmentOrder": order}]}
        if action == "DescribeComputeEnvironments":
            resources = {"maxvCpus": 8, "instanceTypes": ["m5"]}
            return {
                "computeEnvironments": [
                    {"computeEnvironmentName": "ce", "computeEnvironmentArn": "a", **{"computeResources": resources}}
                ]
            }
        return {"jobs": [{"jobId": "other", "container": {"vcpus": 1}}]}

    def first_listed(self, queue, status, at_most):
        self.asked.append(f"ListJobs {status}")
        return ([{"jobId": "other"}] if status == "RUNNING" else []), True

    def describe(self, ids):
        self.asked.append("describe")
        yield list(ids), {}


class Ec2:
    def __init__(self, *types):
        self.types = types
        self.asked = 0

    def get_paginator(self, name):
        return self

    def paginate(self, Filters):
        self.asked += 1
        yield {
            "InstanceTypes": [
                {"InstanceType": name, "VCpuInfo": {"DefaultVCpus": cpus}, "MemoryInfo": {"SizeInMiB": mib}}
                for name, cpus, mib in self.types
            ]
        }


@pytest.fixture
def site(tmp_path):
    """Five jobs of cluster 9 that wait in AWS Batch, and AWS."""
    journal = Journal(str(tmp_path / "state"))
    for number in range(5):
        run = Run(
            f"9-{number}-a",
            f"9.{number}",
            f"d{number}",
            0,
            RunState.SUBMITTED,
            created=time.time(),
            queue="q",
            native_id=f"n{number}",
        )
        done = journal.insert(run, JobRequest("/bin/x", "/"))
    done.result()
    journal.close()
    ec2 = Ec2(("m5.large", 2, 8192))
    return SimpleNamespace(
        settings=SimpleNamespace(state_dir=str(tmp_path / "state")), batch=Batch(), ec2=ec2, client=lambda service: ec2
    )


@pytest.mark.parametrize("refuses", ["", "DescribeJobQueues", "DescribeComputeEnvironments"])
def test_what_the_jobs_of_a_cluster_wait_for_is_asked_once(site, monkeypatch, capsys, refuses):
    site.batch.refuses = refuses
    monkeypatch.setattr(views, "Site", lambda: site)
    assert why.run(argparse.Namespace(ids=["9"])) == 0
    told = capsys.readouterr().out
    assert told.count("waits in AWS Batch") == 5
    assert told.count("has room" if not refuses else f"could not be asked: AWS Batch, {refuses}: AccessDenied.") == 5
    assert len(site.batch.asked) == len(set(site.batch.asked)), site.batch.asked
    assert site.ec2.asked == (0 if refuses else 1)


def test_the_size_of_a_host_is_of_one_type(site):
    site.ec2.types = (("c5.xlarge", 4, 8192), ("r5.large", 2, 16384))
    assert why.hosts(site, ("c5", "r5")) == (Size("c5.xlarge", 4, 8192), Size("r5.large", 2, 16384))
