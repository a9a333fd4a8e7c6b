"""Nothing is left running that HTCondor has forgotten: what it passes over, what it removed while nothing could be recorded."""

import contextlib
import re
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest

from gahp.cli.client import Client
from gahp.model import JobState
from tests.hasty import ORPHANS
from tests.integration.conftest import WAIT_S, submit_ad

HASTY = "from gahp.gateway import upkeep; upkeep.PERIOD_S = 0.2"


@contextlib.contextmanager
def patched(gahp, program):
    """The program for the user of `gahp`, with something in it replaced."""
    text = f"import os, signal, sys\n{program}\nfrom gahp import server; sys.argv[1:] = []; server.main()"
    with Client([sys.executable, "-c", text], gahp.environment) as client:
        yield client


@pytest.fixture
def orphans(gahp):
    """`condor_awsbatch orphans ...` for the user of `gahp`: its lines."""

    def orphans(*words):
        ran = subprocess.run([*ORPHANS, *words], env=gahp.environment, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    return orphans


def test_a_run_that_htcondor_has_forgotten_is_found_and_ended_and_one_that_it_asks_about_is_not(
    gahp, orphans, script, jobs_of, tmp_path
):
    gahp.kill()
    script('until [ -e "$1/go" ]; do sleep 0.1; done')
    with patched(gahp, HASTY) as hasty:

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
        assert lines[1] == "1 orphan, 0 in doubt, 1 ended"
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
    """No time at all stands for the days: no GAHP lives, or one that HTCondor has not asked anything yet."""
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


# Removals that come while nothing can be recorded. HTCondor forgets the job, whatever it is told.


@pytest.fixture
def running(gahp, script, jobs_of):
    """A job that runs and that no GAHP serves any more: its id, and a wait for its end in AWS Batch that nobody asks for."""
    job_id = gahp.submit(Cmd=script("exec sleep 300"))
    gahp.until(job_id, JobState.RUNNING)

    def ended():
        until = time.monotonic() + 30
        while jobs_of(job_id)[0]["status"] != "FAILED" and time.monotonic() < until:
            time.sleep(0.05)
        return [job["statusReason"] for job in jobs_of(job_id)]

    gahp.kill()
    return job_id, ended


def notes(home):
    return [path.name for path in (home / "state").glob("remove-*")]


def wait_for_notes(home, count):
    until = time.monotonic() + 30
    while len(notes(home)) != count and time.monotonic() < until:
        time.sleep(0.02)
    assert len(notes(home)) == count


def set_version(home, number):
    with contextlib.closing(sqlite3.connect(home / "state" / "journal.sqlite", isolation_level=None)) as connection:
        before = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute(f"PRAGMA user_version = {number}")
    return before


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"job_queue": ""}, "AWSBATCH_JOB_QUEUE is not set"),
        ({"profile": "nobody"}, "The config profile (nobody) could not be found"),
        ({}, "was written by a newer version of this program (schema 99"),
    ],
    ids=["a knob", "the profile", "the journal"],
)
def test_a_removal_that_comes_while_it_cannot_begin_is_noted_and_carried_out_by_the_next(
    start, running, tmp_path, knobs, sentence
):
    job_id, ended = running
    version = None if knobs else set_version(tmp_path, 99)
    poor = start(**knobs)
    for _ in range(2):  # as often as it is asked
        code, message = poor.perform("BLAH_JOB_CANCEL", job_id, wait_s=WAIT_S)
        assert code != "0" and sentence in message
        assert message.endswith(f" The removal is noted in {tmp_path}/state and carried out when that is mended.")
    poor.kill()
    (note,) = (tmp_path / "state").glob("remove-*")
    assert note.name == f"remove-{job_id.rpartition('/')[2]}" and note.stat().st_mode & 0o777 == 0o600
    if version is not None:
        set_version(tmp_path, version)
    start()
    assert ended() == ["Removed by HTCondor"]
    wait_for_notes(tmp_path, 0)


def test_orphans_ends_what_was_removed_while_nothing_could_be_recorded_and_no_gahp_comes(start, running, orphans, tmp_path):
    job_id, ended = running
    with contextlib.closing(start(job_queue="")) as poor:
        assert poor.perform("BLAH_JOB_CANCEL", job_id, wait_s=WAIT_S)[0] != "0"
    lines = orphans("--end")
    assert lines[0].endswith("HTCondor has removed it, and no GAHP of this user has ended it yet")
    assert lines[1] == "1 orphan, 0 in doubt, 1 ended"
    assert ended() == ["Ended by condor_awsbatch orphans"]
    assert notes(tmp_path) == []


DEATHS = {
    "note": "from gahp import server; note = server.note_removal; server.note_removal = lambda *_: (note(*_), die())",
    "record": "from gahp.journal import Journal; Journal.ask = lambda *_: die()",
    "drop": "from gahp import journal; journal.drop_removal = lambda *_: die()",
}


@pytest.mark.parametrize("where", DEATHS)
def test_a_removal_is_carried_out_although_whoever_notes_it_or_records_it_is_killed(gahp, running, start, tmp_path, where):
    job_id, ended = running
    die = "die = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    if where != "note":
        with contextlib.closing(start(job_queue="")) as poor:
            assert poor.perform("BLAH_JOB_CANCEL", job_id, wait_s=WAIT_S)[0] != "0"
    with patched(gahp, die + DEATHS[where]) as dying:
        if where == "note":
            dying.request("BLAH_JOB_CANCEL", job_id)  # it is never answered
        assert dying.process.wait(30) == -9
    assert len(notes(tmp_path)) == 1
    start()
    assert ended() == ["Removed by HTCondor"]
    wait_for_notes(tmp_path, 0)


def test_a_removal_that_waits_for_a_start_which_takes_for_ever_outlives_it(gahp, running, start, tmp_path):
    """As when a damaged journal is made anew from very many manifests: the gridmanager gives up after five minutes."""
    job_id, ended = running
    with patched(gahp, "from gahp import site; import time; site.open_gateway = lambda *_: time.sleep(600)") as slow:
        slow.request("BLAH_JOB_CANCEL", job_id)
        wait_for_notes(tmp_path, 1)
        slow.process.kill()
    start()
    assert ended() == ["Removed by HTCondor"]


def test_a_removal_that_comes_while_it_starts_well_is_answered_when_done_and_leaves_no_note(start, running, tmp_path):
    job_id, ended = running
    start().cancel(job_id)
    assert ended() == ["Removed by HTCondor"]
    wait_for_notes(tmp_path, 0)


def test_a_removal_that_can_be_noted_nowhere_is_told_as_such(start, running, tmp_path):
    job_id, _ = running
    (tmp_path / "state" / f"remove-{job_id.rpartition('/')[2]}").mkdir()  # a file cannot be made there
    poor = start(job_queue="")
    code, message = poor.perform("BLAH_JOB_CANCEL", job_id, wait_s=WAIT_S)
    assert code != "0" and "AWSBATCH_JOB_QUEUE is not set" in message
    (why,) = re.findall(rf" The removal of {job_id} is not recorded: (.*)\. Mend that; an hour after", message)
    assert why == f"{tmp_path}/state/remove-{job_id.rpartition('/')[2]} cannot be opened (Is a directory)"
    poor.close()
    (tmp_path / "state" / f"remove-{job_id.rpartition('/')[2]}").rmdir()
    start().cancel(job_id)


def test_a_removal_that_neither_a_full_disk_nor_aws_takes_in_time_is_noted_and_outlives_the_gahp(
    gahp, running, start, fault, tmp_path
):
    job_id, ended = running
    hasty = "from gahp.gateway import gateway; gateway._ASK_FOR_S = 4.0"
    with fault("error", action="TerminateJob*"), patched(gahp, hasty) as full:
        assert full.perform("BLAH_JOB_STATUS", job_id, wait_s=WAIT_S)[0] == "0"
        psutil.Process(full.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
        code, message = full.perform("BLAH_JOB_CANCEL", job_id, wait_s=WAIT_S)
        assert code != "0" and "it is noted beside the journal" in message and "cannot be written" in message
        full.process.kill()
    start()
    assert ended() == ["Removed by HTCondor"]
    wait_for_notes(tmp_path, 0)
