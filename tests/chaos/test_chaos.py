"""Many jobs, an AWS full of faults, and GAHPs that are killed: the short form of `run.py`."""

import pytest

from gahp.local import LocalAws
from tests.chaos.run import chaos, lost_replies


@pytest.fixture
def own_aws(tmp_path):
    with LocalAws(tmp_path / "aws", vcpus=32, memory_mib=64 * 1024, time_scale=0.05) as aws:
        yield aws
        assert aws.violations() == []


@pytest.mark.parametrize(("pack_size", "seed"), [(10_000, 7), (1, 8)], ids=["packed", "each by itself"])
def test_no_job_is_lost_and_none_runs_twice_whatever_dies(own_aws, tmp_path, pack_size, seed):
    account = chaos(own_aws, tmp_path, jobs=30, kills=6, seed=seed, live_s=1.0, limit_s=200, pack_size=pack_size)
    assert account["problems"] == []
    assert account["orphans at the end"] == account["jobs lost"] == account["Batch jobs made twice"] == 0


def test_200_submits_with_5_percent_lost_replies_are_200_batch_jobs(own_aws, tmp_path):
    """boto3 by itself makes 213 of them."""
    counted = lost_replies(own_aws, tmp_path, submits=200, seed=3, limit_s=100)
    assert counted["Batch jobs made"] == 200
    assert counted["SubmitJob replies lost"] > 0
