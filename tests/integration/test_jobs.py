"""Jobs from submit to output back: each ends as the table in docs/architecture.md says."""

import os
import time

from gahp.model import JobState


def test_a_job_brings_back_streams_outputs_and_exit(gahp, script, tmp_path):
    (tmp_path / "in.txt").write_text("some input\n")
    (tmp_path / "data").write_bytes(bytes(range(256)))
    cmd = script('cat; echo "to stderr" >&2; cp data data.copy; echo "$1|$2|$V"; exit 0')
    state, ad = gahp.run(
        Cmd=cmd,
        In="in.txt",
        Out="o.txt",
        Err="e.txt",
        Arguments="'a b' it''''s",
        Environment="V='x y'",
        TransferInput="data",
        TransferOutput="data.copy",
    )
    assert state == JobState.COMPLETED
    assert (ad["ExitBySignal"], ad["ExitCode"]) == (False, 0)
    assert (tmp_path / "o.txt").read_text() == "some input\na b|it's|x y\n"
    assert (tmp_path / "e.txt").read_text() == "to stderr\n"
    assert (tmp_path / "data.copy").read_bytes() == bytes(range(256))
    assert ad["RemoteUserCpu"] >= 0
    assert ad["CpusProvisioned"] >= 1
    assert ad["MemoryProvisioned"] >= 4


def test_a_job_with_exit_7_is_completed_with_exit_7(gahp, script):
    state, ad = gahp.run(Cmd=script("exit 7"))
    assert (state, ad["ExitBySignal"], ad["ExitCode"]) == (JobState.COMPLETED, False, 7)


def test_a_job_killed_by_a_signal_is_completed_with_that_signal(gahp, script):
    state, ad = gahp.run(Cmd=script("kill -SEGV $$"))
    assert (state, ad["ExitBySignal"], ad["ExitSignal"]) == (JobState.COMPLETED, True, 11)


def test_exit_137_is_no_signal(gahp, script):
    state, ad = gahp.run(Cmd=script("exit 137"))
    assert (state, ad["ExitBySignal"], ad["ExitCode"]) == (JobState.COMPLETED, False, 137)


def test_a_job_out_of_memory_is_held_with_what_it_had(gahp, script):
    cmd = script("x=$(head -c 300000000 /dev/zero | tr '\\0' x); sleep 5")
    state, ad = gahp.run(Cmd=cmd, RequestMemory=64)
    assert (state, ad["HoldReasonCode"]) == (JobState.HELD, 34)
    assert ad["HoldReason"] == "The job needed more than the 64 MB it had and was killed: raise request_memory."


def test_a_job_over_its_time_limit_is_ended_and_says_by_what(gahp, script, tmp_path):
    state, ad = gahp.run(Cmd=script("echo began; exec sleep 300"), Out="o.txt", BatchRuntime=60)
    assert (state, ad["ExitBySignal"], ad["ExitSignal"]) == (JobState.COMPLETED, True, 15)
    assert "timeout" in ad["ExitReason"]
    assert (tmp_path / "o.txt").read_text() == "began\n"


def test_a_job_cancelled_while_running_is_ended_in_batch_and_removed(gahp, script, jobs_of):
    job_id = gahp.submit(Cmd=script("exec sleep 300"))
    gahp.until(job_id, JobState.RUNNING)
    gahp.cancel(job_id)
    assert gahp.finish(job_id)[0] == JobState.REMOVED
    (job,) = jobs_of(job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Removed by HTCondor")


def test_a_job_cancelled_while_queued_never_runs(gahp, fault, script, jobs_of, tmp_path):
    with fault("stuck"):
        job_id = gahp.submit(Cmd=script("echo ran > /dev/stderr"), Err="e.txt")
        until = time.monotonic() + 30
        while not jobs_of(job_id) and time.monotonic() < until:
            time.sleep(0.05)
        gahp.cancel(job_id)
        assert gahp.finish(job_id)[0] == JobState.REMOVED
    (job,) = jobs_of(job_id)
    assert (job["status"], job["attempts"]) == ("FAILED", [])
    assert not (tmp_path / "e.txt").exists()


def test_a_job_ended_by_somebody_in_aws_is_removed(gahp, aws, script, jobs_of):
    job_id = gahp.submit(Cmd=script("exec sleep 300"))
    gahp.until(job_id, JobState.RUNNING)
    (job,) = jobs_of(job_id)
    aws.client("batch").terminate_job(jobId=job["jobId"], reason="an administrator cleans up")
    assert gahp.finish(job_id)[0] == JobState.REMOVED


def test_a_job_whose_host_goes_away_is_started_again_and_counted(gahp, aws, script, jobs_of):
    cmd = script('if [ "$AWS_BATCH_JOB_ATTEMPT" = 1 ]; then exec sleep 300; fi; echo "attempt $AWS_BATCH_JOB_ATTEMPT"')
    job_id = gahp.submit(Cmd=cmd, Out="o.txt")
    gahp.until(job_id, JobState.RUNNING)
    assert aws.faults.vanish(jobs_of(job_id)[0]["jobId"])
    state, ad = gahp.finish(job_id)
    assert (state, ad["ExitCode"], ad["NumRestarts"]) == (JobState.COMPLETED, 0, 1)
    assert (gahp.home / "o.txt").read_text() == "attempt 2\n"


def test_a_container_that_cannot_be_pulled_holds_the_job_with_batchs_reason(gahp, fault, script):
    with fault("pull_error"):
        state, ad = gahp.run(Cmd=script("exit 0"))
    assert (state, ad["HoldReasonCode"]) == (JobState.HELD, 21)
    assert "CannotPullContainerError" in ad["HoldReason"]


def test_more_memory_than_any_environment_has_holds_the_job_with_batchs_reason(gahp, jobs_of):
    job_id = gahp.submit(RequestMemory=90_000_000)
    state, ad = gahp.finish(job_id)
    assert (state, ad["HoldReasonCode"]) == (JobState.HELD, 34)
    assert "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT" in ad["HoldReason"]
    assert "request_memory" in ad["HoldReason"]
    assert jobs_of(job_id)[0]["status"] == "FAILED"


def test_an_output_that_was_not_made_holds_the_job_and_names_it_and_streams_are_there(gahp, script, tmp_path):
    state, ad = gahp.run(Cmd=script("echo did something"), Out="o.txt", TransferOutput="f.out")
    assert (state, ad["HoldReasonCode"]) == (JobState.HELD, 12)
    assert "without making its output f.out" in ad["HoldReason"]
    assert (tmp_path / "o.txt").read_text() == "did something\n"


def test_without_transfer_output_new_and_changed_files_of_the_top_come_back(gahp, script, tmp_path):
    (tmp_path / "in.txt").write_text("old")
    (tmp_path / "same.txt").write_text("same")
    before = os.stat(tmp_path / "same.txt").st_mtime_ns
    cmd = script("echo new > new.txt; echo more >> in.txt; mkdir d; echo x > d/deep.txt")
    assert gahp.run(Cmd=cmd, TransferInput="in.txt,same.txt")[0] == JobState.COMPLETED
    assert (tmp_path / "new.txt").read_text() == "new\n"
    assert (tmp_path / "in.txt").read_text() == "oldmore\n"
    assert os.stat(tmp_path / "same.txt").st_mtime_ns == before
    assert not (tmp_path / "d").exists()


def test_an_empty_transfer_output_brings_nothing_back(gahp, script, tmp_path):
    assert gahp.run(Cmd=script("echo new > new.txt"), TransferOutput="")[0] == JobState.COMPLETED
    assert not (tmp_path / "new.txt").exists()


def test_an_environment_of_more_than_30_kib_reaches_the_job(gahp, script, tmp_path):
    big = "x" * 40_000
    assert gahp.run(Cmd=script('echo "${#BIG}"'), Environment=f"BIG={big}", Out="o.txt")[0] == JobState.COMPLETED
    assert (tmp_path / "o.txt").read_text() == "40000\n"


def test_many_jobs_at_once_all_end_well(gahp, script, tmp_path):
    cmd = script('echo "$1"')
    ids = [gahp.submit(Cmd=cmd, Arguments=str(n), Out=f"o.{n}") for n in range(40)]
    assert {gahp.finish(job_id)[0] for job_id in ids} == {JobState.COMPLETED}
    assert [(tmp_path / f"o.{n}").read_text() for n in range(40)] == [f"{n}\n" for n in range(40)]


def test_a_refreshed_proxy_reaches_the_running_job(start, aws, script, tmp_path):
    batch, name = aws.client("batch"), aws.environment()["_CONDOR_AWSBATCH_JOB_DEFINITION"]
    definition = batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")["jobDefinitions"][0]
    container = definition["containerProperties"]
    container["environment"] = [*container.get("environment", []), {"name": "GAHP_PROXY_INTERVAL", "value": "0.2"}]
    batch.register_job_definition(jobDefinitionName="looks-often", type="container", containerProperties=container)
    gahp = start(job_definition="looks-often")
    (tmp_path / "proxy").write_text("first")
    cmd = script('until [ "$(cat "$X509_USER_PROXY")" = second ]; do sleep 0.1; done; stat -c %a "$X509_USER_PROXY"')
    job_id = gahp.submit(Cmd=cmd, Out="o.txt", raw=f'x509userproxy = "{tmp_path}/proxy"')
    gahp.until(job_id, JobState.RUNNING)
    (tmp_path / "newer").write_text("second")
    assert gahp.perform("BLAH_JOB_REFRESH_PROXY", job_id, str(tmp_path / "newer"))[0] == "0"
    assert gahp.finish(job_id)[0] == JobState.COMPLETED
    assert (tmp_path / "o.txt").read_text() == "600\n"
