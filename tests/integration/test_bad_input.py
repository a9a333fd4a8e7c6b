"""Bad input: one clear sentence each, and the server goes on."""

import pytest

from gahp.model import JobState


@pytest.fixture
def refused(gahp):
    """Submits something bad, sees to it that the server goes on, and gives the sentence."""

    def refused(**ad):
        code, message, job_id = gahp.try_submit(**ad)
        assert code != "0"
        assert job_id == "N/A"
        assert "\n" not in message
        assert "Traceback" not in message
        assert gahp.perform("BLAH_PING", "awsbatch")[0] == "0"
        return message

    return refused


def test_an_ad_that_does_not_parse(gahp):
    code, message, job_id = gahp.perform("BLAH_JOB_SUBMIT", "[ Cmd = ")
    assert (code != "0", job_id) == (True, "N/A")
    assert "ad" in message
    assert gahp.perform("BLAH_PING", "awsbatch")[0] == "0"


def test_no_cmd(refused):
    assert "has no Cmd" in refused(Cmd="")


def test_a_missing_executable(refused, tmp_path):
    assert f"{tmp_path}/nothing.sh" in refused(Cmd=f"{tmp_path}/nothing.sh")


def test_a_missing_input_file(refused):
    assert "not-there.txt" in refused(TransferInput="not-there.txt")


def test_a_file_that_cannot_be_read(refused, tmp_path):
    # A dangling link is unreadable for everyone, root included.
    (tmp_path / "locked").symlink_to(tmp_path / "gone")
    assert "locked" in refused(TransferInput="locked")


def test_a_directory_loop(refused, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    assert "loop" in refused(TransferInput="d")


def test_a_link_out_of_iwd_is_followed_for_input_and_refused_for_output(gahp, refused, script, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("from outside\n")
    iwd = tmp_path / "iwd"
    iwd.mkdir()
    (iwd / "data").symlink_to(outside / "data")
    cmd = script("cat data; mkdir d; echo x > d/f")
    state, _ = gahp.run(Iwd=str(iwd), Cmd=cmd, TransferInput="data", Out="o.txt", TransferOutput="")
    assert (state, (iwd / "o.txt").read_text()) == (JobState.COMPLETED, "from outside\n")
    (iwd / "d").symlink_to(outside)
    code, message, _ = gahp.try_submit(Iwd=str(iwd), Cmd=cmd, TransferInput="data", TransferOutput="d")
    if code == "0":
        state, ad = gahp.run(Iwd=str(iwd), Cmd=cmd, TransferInput="data", TransferOutput="d")
        message = ad["HoldReason"]
        assert state == JobState.HELD
    assert str(iwd / "d") in message or " d " in message
    assert not (outside / "f").exists()


@pytest.mark.parametrize("name", ["../escape", "/etc/absolute", "a/../../escape"])
def test_a_climbing_or_absolute_name_in_transfer_output(refused, name):
    assert name in refused(TransferOutput=name)


def test_an_output_that_would_overwrite_the_user_log(refused, tmp_path):
    (tmp_path / "job.log").write_text("000 (007.000.000) 2026-11-22 09:56:29 Job submitted from host: <127.0.0.1:9618>\n...\n")
    assert "job.log" in refused(TransferOutput="job.log")
    assert "job.log" in refused(Out="job.log")


def test_memory_that_is_no_number(refused):
    assert "RequestMemory" in refused(RequestMemory="abc")


def test_memory_of_1_mb(refused):
    assert refused(RequestMemory=1) == "The job asks for 1 MB of memory: AWS Batch takes no less than 4. Raise request_memory."


def test_a_run_time_under_60_s(refused):
    message = refused(BatchRuntime=59)
    assert message == "The job asks for a time limit of 59 s: AWS Batch takes no less than 60. Raise batch_runtime."


def test_a_queue_that_is_not_allowed(refused):
    assert "batch_queue = other is not allowed here" in refused(Queue="other")


def test_an_ad_of_400_kb_is_a_job(gahp, tmp_path):
    state, _ = gahp.run(raw=f'Filler = "{"x" * 400_000}"')
    assert state == JobState.COMPLETED


def test_5000_input_files_are_a_job(gahp, script, tmp_path):
    (tmp_path / "many").mkdir()
    for n in range(5000):
        (tmp_path / "many" / f"f{n}").write_text(str(n))
    state, _ = gahp.run(Cmd=script("ls many | wc -l; cat many/f4999"), TransferInput="many", Out="o.txt")
    assert (state, (tmp_path / "o.txt").read_text()) == (JobState.COMPLETED, "5000\n4999")


def test_empty_files_go_both_ways(gahp, script, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    state, _ = gahp.run(Cmd=script("cp empty copy"), TransferInput="empty", TransferOutput="copy", Out="o.txt", Err="e.txt")
    assert state == JobState.COMPLETED
    assert [(tmp_path / name).read_bytes() for name in ("copy", "o.txt", "e.txt")] == [b"", b"", b""]


def test_a_job_id_of_somebody_else(gahp):
    for command in ("BLAH_JOB_STATUS", "BLAH_JOB_CANCEL", "BLAH_JOB_HOLD", "BLAH_JOB_RESUME"):
        code, message, *_ = gahp.perform(command, "awsbatch/20261122/somebody-else")
        assert code != "0"
        assert "There is no job awsbatch/20261122/somebody-else in this user's journal" in message
    mine = gahp.submit()
    code, *_ = gahp.perform("BLAH_JOB_STATUS", "awsbatch/19990101/" + mine.rpartition("/")[2])
    assert code != "0"


def test_the_cancel_of_a_finished_job_is_no_error_and_changes_nothing(gahp):
    job_id = gahp.submit()
    gahp.finish(job_id)
    gahp.cancel(job_id)
    assert gahp.status(job_id)[0] == JobState.COMPLETED


def test_the_hold_of_a_running_job_is_a_clear_refusal(gahp, script):
    job_id = gahp.submit(Cmd=script("exec sleep 300"))
    gahp.until(job_id, JobState.RUNNING)
    code, message = gahp.perform("BLAH_JOB_HOLD", job_id)
    assert code != "0"
    assert "has started on AWS Batch and cannot be held" in message
    gahp.cancel(job_id)


def test_an_input_url_that_is_not_there_holds_the_job_with_the_url(gahp):
    state, ad = gahp.run(TransferInput="s3://awsbatch-local/nothing/here.dat")
    assert (state, ad["HoldReasonCode"]) == (JobState.HELD, 13)
    assert "nothing/here.dat" in ad["HoldReason"]


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"job_queue": ""}, "AWSBATCH_JOB_QUEUE is not set"),
        (
            {"job_queue": "no-such-queue"},
            "The job queue no-such-queue does not exist in this account and Region: see AWSBATCH_JOB_QUEUE",
        ),
        ({"job_definition": "no-such-definition"}, "There is no active job definition no-such-definition"),
        ({"s3_url": "s3://no-such-bucket-here/x"}, "no-such-bucket-here"),
        ({"s3_url": "elsewhere"}, "AWSBATCH_S3_URL = 'elsewhere' is not of the form"),
        ({"profile": "no-such-profile"}, "no-such-profile"),
        ({"state_dir": "/proc/nowhere"}, "AWSBATCH_STATE_DIR"),
    ],
)
def test_what_is_missing_or_wrong_shows_in_blah_ping_with_what_to_set(start, knobs, words):
    code, message = start(**knobs).perform("BLAH_PING", "awsbatch")
    assert code != "0"
    assert words in message


def test_wrong_credentials_show_in_blah_ping_and_are_in_no_log(start):
    gahp = start()
    gahp.close()
    environment = gahp.environment | {"AWS_ACCESS_KEY_ID": "AKIDNOBODY", "AWS_SECRET_ACCESS_KEY": "very-secret-key"}
    gahp = start(environment=environment)
    code, message = gahp.perform("BLAH_PING", "awsbatch")
    assert code != "0"
    assert "AWS Batch" in message
    assert "very-secret-key" not in message + gahp.log()


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "Unable to locate credentials. Check the credentials in ~/.aws"),
        (("AWS_DEFAULT_REGION", "_CONDOR_AWSBATCH_REGION"), "No AWS Region is known: set AWSBATCH_REGION."),
    ],
)
def test_credentials_and_region_that_are_nowhere_show_in_blah_ping(start, absent, words):
    gahp = start()
    gahp.close()
    environment = {name: value for name, value in gahp.environment.items() if name not in absent}
    gahp = start(environment=environment | {"AWS_EC2_METADATA_DISABLED": "true"})
    code, message = gahp.perform("BLAH_PING", "awsbatch")
    assert code != "0"
    assert words in message
