"""Nothing is left running that HTCondor has forgotten: what it passes over, and what it removed while nothing could be recorded."""

import os
import subprocess
import sys
import time

import pytest

from gahp.cli.client import Client
from gahp.model import JobState
from tests.integration.conftest import WAIT_S, submit_ad

HASTY = """
import sys
from gahp import server
from gahp.gateway import runs
runs.PERIOD_S = 0.2
sys.argv[1:] = []
server.main()
"""


@pytest.fixture
def orphans(gahp):
    """`condor_awsbatch orphans ...` for the user of `gahp`: its lines."""

    def orphans(*words):
        command = [os.path.join(os.path.dirname(sys.executable), "condor_awsbatch"), "orphans", *words]
        ran = subprocess.run(command, env=gahp.environment, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    return orphans


def test_a_run_that_htcondor_has_forgotten_is_found_and_ended_and_one_that_it_asks_about_is_not(
    gahp, orphans, script, jobs_of, tmp_path
):
    gahp.kill()
    script('until [ -e "$1/go" ]; do sleep 0.1; done')
    with Client([sys.executable, "-c", HASTY], gahp.environment) as hasty:

        def ask(verb, *words):
            code, message, *more = hasty.perform(verb, *words, wait_s=WAIT_S)
            assert code == "0", message
            return more

        ad = {"Cmd": str(tmp_path / "job.sh"), "Arguments": str(tmp_path)}
        ids = [
            ask("BLAH_JOB_SUBMIT", submit_ad(tmp_path, JobDirectory=f"home_bl_pool_s_{n}.0_1795000000", **ad))[0] for n in (1, 2)
        ]
        wanted, forgotten = ids
        for job_id in ids:  # of both it has asked
            while ask("BLAH_JOB_STATUS", job_id)[0] != "2":
                time.sleep(0.05)
        until = time.monotonic() + WAIT_S
        while len(lines := orphans("--unasked", f"{2 / 3600}", "--end")) < 2 and time.monotonic() < until:
            for _ in range(20):
                ask("BLAH_JOB_STATUS", wanted)
                time.sleep(0.05)
        (batch_job,) = jobs_of(forgotten)
        assert lines[0].startswith(batch_job["jobId"]) and "forgotten: HTCondor has asked about others for" in lines[0]
        assert lines[1] == "1 orphans, 0 in doubt, 1 ended"
        (tmp_path / "go").touch()
        while ask("BLAH_JOB_STATUS", wanted)[0] != "4" and time.monotonic() < until:
            time.sleep(0.05)
        assert ask("BLAH_JOB_STATUS", wanted)[0] == "4"
        while (state := ask("BLAH_JOB_STATUS", forgotten)[0]) != "3" and time.monotonic() < until:
            time.sleep(0.05)
        assert state == str(JobState.REMOVED.value)


def test_when_all_comes_back_after_days_what_is_wanted_is_in_doubt_at_most_and_is_not_ended(
    start, orphans, gahp, script, tmp_path
):
    """`--unasked 0` stands for the days: no GAHP lives, or one that HTCondor has not asked anything yet."""
    job_id = gahp.submit(Cmd=script('until [ -e "$1/go" ]; do sleep 0.1; done'), Arguments=str(tmp_path))
    gahp.until(job_id, JobState.RUNNING)
    gahp.kill()
    (doubtful, count) = orphans("--unasked", "0", "--end")
    assert "in doubt: accepted at " in doubtful and count == "0 orphans, 1 in doubt, 0 ended"
    second = start()
    until = time.monotonic() + WAIT_S
    while len(orphans("--unasked", "0", "--end")) > 1 and time.monotonic() < until:
        time.sleep(0.1)
    (tmp_path / "go").touch()
    assert second.finish(job_id)[0] == JobState.COMPLETED
