"""What survives: a GAHP that is killed at any moment, replayed submits, two GAHPs at once, and an AWS that misbehaves."""

import contextlib
import os
import re
import sqlite3
import sys
import time
import uuid

import psutil
import pytest

from gahp.cli.client import Client
from gahp.model import JobState
from tests.integration.conftest import submit_ad


def key():
    return f"home_bl_test_9.0_{uuid.uuid4().int % 10**9}"


def finish_in_a_new_gahp(start, job_id):
    gahp = start()
    return gahp, *gahp.finish(job_id)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3, 0.6, 1.0])
def test_a_gahp_killed_at_any_moment_loses_no_job_and_runs_none_twice(start, script, jobs_of, tmp_path, delay):
    cmd = script('echo ran >> "$1/ran.$2"; sleep 0.3; echo "$2"')
    first = start()
    ids = [first.submit(Cmd=cmd, Arguments=f"{tmp_path} {n}", Out=f"o.{n}") for n in range(4)]
    time.sleep(delay)
    first.kill()
    second = start()
    assert {second.finish(job_id)[0] for job_id in ids} == {JobState.COMPLETED}
    assert [len(jobs_of(job_id)) for job_id in ids] == [1] * 4
    assert [(tmp_path / f"ran.{n}").read_text() for n in range(4)] == ["ran\n"] * 4
    assert [(tmp_path / f"o.{n}").read_text() for n in range(4)] == [f"{n}\n" for n in range(4)]


def test_a_submit_sent_again_before_its_id_was_known_gets_the_same_id(start, jobs_of):
    directory = key()
    first = start()
    job_id = first.submit(JobDirectory=directory, Iwd="/tmp")
    first.kill()
    second = start()
    assert second.submit(JobDirectory=directory, Iwd="/tmp") == job_id
    assert second.finish(job_id)[0] == JobState.COMPLETED
    assert len(jobs_of(job_id)) == 1


def test_a_submit_after_the_earlier_run_was_confirmed_and_over_is_a_new_run(gahp):
    directory = key()
    first = gahp.submit(JobDirectory=directory)
    gahp.finish(first)
    second = gahp.submit(JobDirectory=directory)
    assert second != first
    assert gahp.finish(second)[0] == JobState.COMPLETED


def test_a_submit_after_the_earlier_run_was_cancelled_is_a_new_run(gahp, script):
    directory = key()
    first = gahp.submit(JobDirectory=directory, Cmd=script("exec sleep 300"))
    gahp.until(first, JobState.RUNNING)
    gahp.cancel(first)
    second = gahp.submit(JobDirectory=directory, Cmd=script("exit 3", "other.sh"))
    assert gahp.finish(second)[1]["ExitCode"] == 3


def test_a_confirmed_run_that_still_runs_is_ended_before_its_successor_begins(gahp, script, jobs_of, tmp_path):
    directory = key()
    cmd = script('echo begin >> "$1/order"; trap "echo end >> $1/order; exit" TERM; sleep "$2" & wait')
    first = gahp.submit(JobDirectory=directory, Cmd=cmd, Arguments=f"{tmp_path} 300")
    gahp.until(first, JobState.RUNNING)
    while not (tmp_path / "order").exists():
        time.sleep(0.02)
    second = gahp.submit(JobDirectory=directory, Cmd=cmd, Arguments=f"{tmp_path} 0")
    assert gahp.finish(second)[0] == JobState.COMPLETED
    assert gahp.status(first)[0] == JobState.REMOVED
    assert (tmp_path / "order").read_text().split()[:3] == ["begin", "end", "begin"]


def test_a_third_run_waits_for_the_first_although_the_second_never_began(gahp, script, jobs_of, tmp_path):
    directory = key()
    stubborn = script('trap "" TERM; touch "$1/began"; sleep 300')
    first = gahp.submit(JobDirectory=directory, Cmd=stubborn, Arguments=str(tmp_path))
    gahp.until(first, JobState.RUNNING)
    while not (tmp_path / "began").exists():
        time.sleep(0.02)
    second = gahp.submit(JobDirectory=directory, Cmd=stubborn, Arguments=str(tmp_path))
    gahp.status(second)
    third = gahp.submit(JobDirectory=directory, Cmd=script("exit 0", "quick.sh"))
    assert gahp.finish(third)[0] == JobState.COMPLETED
    assert [gahp.status(job_id)[0] for job_id in (first, second)] == [JobState.REMOVED] * 2
    (ended,), (quick,) = jobs_of(first), jobs_of(third)
    assert jobs_of(second) == []
    assert quick["createdAt"] >= ended["stoppedAt"]


def test_a_hold_through_another_gahp_is_refused_at_once(start, script):
    first, second = start(), start()
    job_id = first.submit(Cmd=script("exec sleep 300"))
    first.until(job_id, JobState.RUNNING)
    code, message = second.perform("BLAH_JOB_HOLD", job_id, wait_s=20)
    assert code != "0"
    assert "in the hands of another GAHP" in message
    first.cancel(job_id)


def test_two_gahps_of_one_user_share_the_journal(start, script, tmp_path):
    first, second = start(), start()
    job_id = first.submit(Cmd=script("exec sleep 300"))
    first.until(job_id, JobState.RUNNING)
    second.until(job_id, JobState.RUNNING)
    second.cancel(job_id)
    assert first.finish(job_id)[0] == JobState.REMOVED


def test_hold_before_the_start_keeps_the_run_and_resume_submits_it_again(gahp, fault, script, jobs_of, tmp_path):
    with fault("stuck"):
        job_id = gahp.submit(Cmd=script("echo ran"), Out="o.txt")
        until = time.monotonic() + 30
        while not jobs_of(job_id) and time.monotonic() < until:
            time.sleep(0.05)
        assert gahp.perform("BLAH_JOB_HOLD", job_id)[0] == "0"
        assert gahp.status(job_id)[0] == JobState.HELD
    assert [job["status"] for job in jobs_of(job_id)] == ["FAILED"]
    assert gahp.perform("BLAH_JOB_RESUME", job_id)[0] == "0"
    assert gahp.finish(job_id)[0] == JobState.COMPLETED
    assert (tmp_path / "o.txt").read_text() == "ran\n"
    assert sorted(job["status"] for job in jobs_of(job_id)) == ["FAILED", "SUCCEEDED"]


def test_a_held_run_is_still_held_for_the_next_gahp(start, fault):
    first = start()
    with fault("stuck"):
        job_id = first.submit()
        assert first.perform("BLAH_JOB_HOLD", job_id)[0] == "0"
        first.kill()
        second = start()
        assert second.status(job_id)[0] == JobState.HELD
    assert second.perform("BLAH_JOB_RESUME", job_id)[0] == "0"
    assert second.finish(job_id)[0] == JobState.COMPLETED


def test_lost_replies_of_submitjob_make_no_second_job(start, fault, jobs_of):
    gahp = start()
    with fault("lost_reply", action="SubmitJob", probability=0.5):
        ids = [gahp.submit() for _ in range(12)]
        assert {gahp.finish(job_id)[0] for job_id in ids} == {JobState.COMPLETED}
    assert [len(jobs_of(job_id)) for job_id in ids] == [1] * 12


def test_a_job_that_is_listed_later_than_the_settling_time_runs_once_all_the_same(start, fault, script, jobs_of, tmp_path):
    """Whether it is found by its claim, or sent again before it has one, and the second copy finds that."""
    gahp = start()
    with fault("list_lag", seconds=600.0), fault("lost_reply", action="SubmitJob", count=1):
        state, _ = gahp.run(Cmd=script(f"echo ran >> {tmp_path}/ran; sleep 3"))
    assert (state, (tmp_path / "ran").read_text()) == (JobState.COMPLETED, "ran\n")


def test_a_removed_job_that_is_listed_later_than_the_settling_time_does_not_run_on(start, fault, script, jobs_of):
    gahp = start()
    with fault("list_lag", seconds=600.0), fault("lost_reply", action="SubmitJob", count=1):
        job_id = gahp.submit(Cmd=script("exec sleep 300"))
        until = time.monotonic() + 30
        while "SubmitJob may have arrived" not in gahp.log():
            assert time.monotonic() < until
            time.sleep(0.05)
        gahp.cancel(job_id)
        assert gahp.finish(job_id)[0] == JobState.REMOVED
    until = time.monotonic() + 30
    while [job["status"] for job in jobs_of(job_id)] != ["FAILED"]:
        assert time.monotonic() < until, jobs_of(job_id)
        time.sleep(0.1)


def test_throttling_and_server_errors_are_never_seen(start, fault):
    gahp = start()
    with fault("error", action="batch:*", probability=0.3), fault("throttle", action="SubmitJob", per_second=5):
        ids = [gahp.submit() for _ in range(12)]
        assert {gahp.finish(job_id)[0] for job_id in ids} == {JobState.COMPLETED}


def test_a_ping_outlasts_a_fault_that_passes(start, fault):
    with fault("error", action="DescribeJobQueues", count=2):
        assert start().perform("BLAH_PING", "awsbatch", wait_s=60)[0] == "0"


def test_a_cancel_under_faults_ends_the_job_all_the_same(start, fault, script, jobs_of):
    gahp = start()
    job_id = gahp.submit(Cmd=script("exec sleep 300"))
    gahp.until(job_id, JobState.RUNNING)
    with fault("error", action="TerminateJob", count=3):
        gahp.cancel(job_id)
    assert gahp.finish(job_id)[0] == JobState.REMOVED
    assert jobs_of(job_id)[0]["status"] == "FAILED"


def test_a_cancel_that_was_recorded_is_carried_out_by_the_next_gahp(start, fault, script, jobs_of):
    first = start()
    job_id = first.submit(Cmd=script("exec sleep 300"))
    first.until(job_id, JobState.RUNNING)
    with fault("error", action="TerminateJob"):
        first.request("BLAH_JOB_CANCEL", job_id)
        time.sleep(0.5)
        first.kill()
    second = start()
    assert second.finish(job_id)[0] == JobState.REMOVED
    assert jobs_of(job_id)[0]["status"] == "FAILED"


def test_expired_credentials_leave_jobs_as_they_are_until_new_ones_come(start, fault, script):
    gahp = start()
    running = gahp.submit(Cmd=script("sleep 1; exit 4"))
    gahp.until(running, JobState.RUNNING)
    with fault("expired"):
        waiting = gahp.submit()
        time.sleep(1.5)
        assert gahp.status(waiting)[0] == JobState.IDLE
        assert gahp.status(running)[0] == JobState.RUNNING
    assert gahp.finish(waiting)[0] == JobState.COMPLETED
    assert gahp.finish(running)[1]["ExitCode"] == 4


def test_keys_that_a_user_writes_while_jobs_wait_are_used_without_a_new_gahp(start, aws, tmp_path, jobs_of):
    def write(**keys):
        (tmp_path / ".aws").mkdir(exist_ok=True)
        (tmp_path / ".aws/credentials").write_text("\n".join(["[default]", *(f"{key} = {value}" for key, value in keys.items())]))

    write(aws_access_key_id="AKIDGONE", aws_secret_access_key="of yesterday")
    environment = start().environment
    gahp = start(environment={name: value for name, value in environment.items() if not name.startswith("AWS_ACCESS_KEY")})
    job_id = gahp.submit()
    until = time.monotonic() + 30
    while "InvalidAccessKeyId" not in gahp.log() and time.monotonic() < until:
        time.sleep(0.05)
    assert "InvalidAccessKeyId" in gahp.log()
    assert gahp.status(job_id)[0] == JobState.IDLE
    known = aws.environment()
    write(aws_access_key_id=known["AWS_ACCESS_KEY_ID"], aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"])
    assert gahp.finish(job_id)[0] == JobState.COMPLETED
    assert len(jobs_of(job_id)) == 1
    assert gahp.process.poll() is None


def test_the_end_of_input_and_sigterm_end_the_program_at_once(start, script):
    for ending in ("eof", "sigterm"):
        gahp = start()
        gahp.submit(Cmd=script("exec sleep 300"))
        if ending == "eof":
            gahp.process.stdin.close()
        else:
            gahp.process.terminate()
        assert gahp.process.wait(10) == 0
        assert list((gahp.home / "state").glob("owner-*")) == []
    gahp = start()
    gahp.close()


def damage(gahp):
    """Overwrite the journal's pages, but not so that its head looks wrong."""
    state = gahp.home / "state"
    for path in state.glob("journal.sqlite*"):
        size = path.stat().st_size
        if size:
            with open(path, "r+b") as file:
                file.write(b"no database " * (size // 12 + 1))


def test_a_damaged_journal_is_made_anew_and_its_jobs_go_on_once(start, script, jobs_of, tmp_path):
    directory, other = key(), key()
    cmd = script('echo ran >> "$1/ran.$2"; sleep 1.5; echo "$2"')
    first = start()
    known = first.submit(Cmd=cmd, Arguments=f"{tmp_path} a", Out="o.a", JobDirectory=directory)
    unknown = first.submit(Cmd=cmd, Arguments=f"{tmp_path} b", Out="o.b", JobDirectory=other)
    first.until(known, JobState.RUNNING)
    while not jobs_of(unknown):
        time.sleep(0.05)
    first.kill()
    damage(first)
    second = start()
    assert second.perform("BLAH_PING", "awsbatch")[0] == "0"
    assert second.finish(known)[0] == JobState.COMPLETED
    assert second.submit(Cmd=cmd, Arguments=f"{tmp_path} b", Out="o.b", JobDirectory=other) == unknown
    assert second.finish(unknown)[0] == JobState.COMPLETED
    assert [len(jobs_of(job_id)) for job_id in (known, unknown)] == [1, 1]
    assert [(tmp_path / f"ran.{n}").read_text() for n in "ab"] == ["ran\n"] * 2
    assert [(tmp_path / f"o.{n}").read_text() for n in "ab"] == ["a\n", "b\n"]
    assert len(list((tmp_path / "state").glob("journal.sqlite.damaged-*"))) >= 1


@pytest.mark.parametrize("truncated", [False, True])
def test_a_gahp_that_finds_its_log_overwritten_says_so_and_ends_with_1_and_the_next_goes_on(
    start, script, jobs_of, tmp_path, truncated
):
    gahp = start()
    cmd = script('until [ -e "$1/go" ]; do sleep 0.1; done')
    ids = [gahp.submit(Cmd=cmd, Arguments=str(tmp_path)) for _ in range(3)]
    for job_id in ids:
        gahp.until(job_id, JobState.RUNNING)
    with open(tmp_path / "state/journal.sqlite-wal", "r+b") as file:
        noise = os.urandom(os.fstat(file.fileno()).st_size)
        file.truncate(0 if truncated else None)
        file.write(noise)
    gahp.request("BLAH_JOB_SUBMIT", submit_ad(tmp_path, Cmd=cmd, Arguments=str(tmp_path)))
    assert gahp.process.wait(30) == 1
    (line,) = (line for line in gahp.log().splitlines() if " ERROR " in line)
    assert f"The journal {tmp_path}/state/journal.sqlite is damaged (" in line
    assert line.endswith("): this GAHP ends, and the next one makes it anew from S3 and AWS Batch.")
    second = start()
    (tmp_path / "go").touch()
    assert [second.finish(job_id)[0] for job_id in ids] == [JobState.COMPLETED] * 3
    assert [len(jobs_of(job_id)) for job_id in ids] == [1] * 3


def test_a_damaged_journal_stays_damaged_while_s3_cannot_be_asked_and_ping_says_so(start, fault, jobs_of):
    first = start()
    job_id = first.submit()
    first.finish(job_id)
    first.kill()
    damage(first)
    with fault("error", action="ListObjectsV2"):
        second = start()
        code, message = second.perform("BLAH_PING", "awsbatch")
        assert code != "0"
        assert "is damaged: file is not a database. It cannot be made anew yet:" in message
        second.close()
    third = start()
    assert third.finish(job_id)[0] == JobState.COMPLETED
    assert len(jobs_of(job_id)) == 1


def test_a_second_copy_ends_without_running_and_a_retried_attempt_takes_the_claim_over(aws, start, script, jobs_of, tmp_path):
    """Somebody sends the very same SubmitJob once more: what a request that was under way for a very long time comes to."""
    gahp = start()
    cmd = script('echo "$AWS_BATCH_JOB_ATTEMPT" >> "$1/ran"; until [ -e "$1/go" ]; do sleep 0.1; done; echo done')
    job_id = gahp.submit(Cmd=cmd, Arguments=str(tmp_path), Out="o")
    gahp.until(job_id, JobState.RUNNING)
    while not (tmp_path / "ran").exists():
        time.sleep(0.02)
    (first,) = jobs_of(job_id)
    batch = aws.client("batch")
    second = batch.submit_job(
        jobName=first["jobName"],
        jobQueue=first["jobQueue"],
        jobDefinition=first["jobDefinition"],
        containerOverrides={
            "command": first["container"]["command"],
            "environment": [pair for pair in first["container"]["environment"] if not pair["name"].startswith("AWS_")],
        },
    )["jobId"]
    until = time.monotonic() + 60
    while batch.describe_jobs(jobs=[second])["jobs"][0]["status"] != "FAILED" and time.monotonic() < until:
        time.sleep(0.05)
    ended = batch.describe_jobs(jobs=[second])["jobs"][0]
    assert (ended["status"], ended["container"]["exitCode"]) == ("FAILED", 125)
    assert (tmp_path / "ran").read_text() == "1\n"
    assert aws.faults.vanish(first["jobId"])
    (tmp_path / "go").touch()
    assert gahp.finish(job_id)[0] == JobState.COMPLETED
    assert (tmp_path / "ran").read_text() == "1\n2\n"
    assert (tmp_path / "o").read_text() == "done\n"


OUT_OF_MEMORY = """
import sys
from gahp import server
from gahp.journal import Journal
transact = Journal._transact
def fail(journal, group):
    if any(write.values.get("state") == "SUBMITTED" for write in group):
        raise MemoryError
    transact(journal, group)
Journal._transact = fail
sys.argv[1:] = []
server.main()
"""


def test_a_gahp_whose_memory_runs_out_ends_and_the_next_goes_on(gahp, start, script, jobs_of, tmp_path):
    cmd = script('echo ran >> "$1/ran"')
    with Client([sys.executable, "-c", OUT_OF_MEMORY], gahp.environment) as poor:
        gahp.kill()
        answer = poor.perform("BLAH_JOB_SUBMIT", submit_ad(tmp_path, Cmd=cmd, Arguments=str(tmp_path)))
        assert poor.process.wait(60) == 1
    assert "MemoryError" in gahp.log()
    state, _ = start().finish(answer[2])
    assert state == JobState.COMPLETED
    assert len(jobs_of(answer[2])) == 1
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_full_disk_shows_in_blah_ping_and_a_submit_waits_for_it_and_is_done_once(gahp, script, jobs_of, tmp_path):
    cmd = script('echo ran >> "$1/ran"')
    process = psutil.Process(gahp.process.pid)
    gahp.run()  # it is up and has a journal; not by a BLAH_PING, whose good answer would be kept for a while
    process.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
    submit = gahp.request("BLAH_JOB_SUBMIT", submit_ad(tmp_path, Cmd=cmd, Arguments=str(tmp_path)))
    until = time.monotonic() + 60
    while (answer := gahp.perform("BLAH_PING", "awsbatch"))[0] == "0" and time.monotonic() < until:
        time.sleep(0.2)
    assert answer[0] != "0"
    assert re.fullmatch(r"The journal \S+/journal\.sqlite cannot be written: .*\. See AWSBATCH_STATE_DIR\.", answer[1])
    process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    answers = {}
    while submit not in answers and time.monotonic() < until:
        answers.update((outcome.request_id, outcome.tokens) for outcome in gahp.results(1.0))
    code, message, job_id = answers[submit]
    assert (code, gahp.finish(job_id)[0], len(jobs_of(job_id))) == ("0", JobState.COMPLETED, 1), message
    assert (tmp_path / "ran").read_text() == "ran\n"


JUMPING_CLOCK = """
import os, sys, time
real = time.time
time.time = lambda: real() + (float(open("clock").read()) if os.path.exists("clock") else 0.0)
from gahp import server
sys.argv[1:] = []
server.main()
"""


@pytest.mark.parametrize("jump", [1e6, -1e6])
def test_a_clock_that_jumps_by_days_loses_no_job_and_runs_none_twice(gahp, start, fault, script, jobs_of, tmp_path, jump):
    """While a lost SubmitJob is looked up, then back while the job runs, and again with the next GAHP, whose clock is right."""
    gahp.kill()
    cmd = script('echo ran >> "$1/ran"; until [ -e "$1/go" ]; do sleep 0.1; done; echo done')
    clock = tmp_path / "clock"
    program = f"import os; os.chdir({str(tmp_path)!r})\n{JUMPING_CLOCK}"
    with Client([sys.executable, "-c", program], gahp.environment) as jumping:
        with fault("list_lag", seconds=0.5), fault("lost_reply", action="SubmitJob", count=1):
            answer = jumping.perform("BLAH_JOB_SUBMIT", submit_ad(tmp_path, Cmd=cmd, Arguments=str(tmp_path), Out="o"))
            clock.write_text(str(jump))
            until = time.monotonic() + 60
            while not (tmp_path / "ran").exists() and time.monotonic() < until:
                time.sleep(0.05)
        state = ""
        while state != "2" and time.monotonic() < until:
            state = jumping.perform("BLAH_JOB_STATUS", answer[2])[2]
        clock.write_text(str(-jump))
        for _ in range(5):
            assert jumping.perform("BLAH_JOB_STATUS", answer[2])[2] == "2"
            time.sleep(0.2)
        jumping.process.kill()
    second = start()
    (tmp_path / "go").touch()
    assert second.finish(answer[2])[0] == JobState.COMPLETED
    assert len(jobs_of(answer[2])) == 1
    assert ((tmp_path / "ran").read_text(), (tmp_path / "o").read_text()) == ("ran\n", "done\n")


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (99, r"The journal in {0} was written by a newer version of this program \(schema 99, .*\): use that version\."),
        (None, r"The journal {0}/journal\.sqlite cannot be used: {0} is not a directory\. See AWSBATCH_STATE_DIR\."),
    ],
)
def test_a_journal_that_cannot_be_used_shows_in_blah_ping_and_is_left_alone(start, tmp_path, version, sentence):
    state = tmp_path / "state"
    if version:
        state.mkdir()
        with contextlib.closing(sqlite3.connect(state / "journal.sqlite")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA user_version = {version}")
    else:
        state.write_text("a file")
    before = state.is_file() or (state / "journal.sqlite").read_bytes()
    code, message, *_ = start().perform("BLAH_PING", "awsbatch")
    assert code != "0" and re.fullmatch(sentence.format(state), message)
    assert before == (state.is_file() or (state / "journal.sqlite").read_bytes())
