"""Many jobs, an AWS full of faults, and GAHPs that are killed: the short form of `run.py`."""

import time

import pytest

from gahp.local import LocalAws
from tests.chaos.gridmanager import Gridmanager, Job, batch_jobs
from tests.chaos.run import chaos


@pytest.fixture
def own_aws(tmp_path):
    with LocalAws(tmp_path / "aws", vcpus=32, memory_mib=64 * 1024, time_scale=0.05) as aws:
        yield aws
        assert aws.violations() == []


def test_no_job_is_lost_and_none_runs_twice_whatever_dies(own_aws, tmp_path):
    account = chaos(own_aws, tmp_path, jobs=60, kills=12, seed=7, live_s=1.0, limit_s=200)
    assert account["problems"] == []
    assert account["orphans at the end"] == account["jobs lost"] == account["Batch jobs made twice"] == 0


def test_200_submits_with_5_percent_lost_replies_are_200_batch_jobs(own_aws, tmp_path):
    """boto3 by itself makes 213 of them."""
    own_aws.faults.stuck()
    own_aws.faults.seed(3)
    own_aws.faults.lose_reply("SubmitJob", probability=0.05)
    gridmanager = Gridmanager(own_aws, tmp_path, [Job(tmp_path, number) for number in range(200)], submit_only=True)
    gridmanager.run(limit_s=100)
    with gridmanager.one_more():
        until = time.monotonic() + 60
        while len(batch_jobs(own_aws)) < 200 and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(2)  # time for one too many
    assert len(batch_jobs(own_aws)) == 200
    assert any(request["outcome"] == "lost" for request in own_aws.requests())
