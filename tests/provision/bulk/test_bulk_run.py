"""Runs of pegasus-aws-batch against the embedded AWS: what Java's program did, without its defects."""

import io
import json
import os
import signal
import threading
import time
import types
import zipfile

import pytest

from gahp.model import Refused
from gahp.provision.bulk import logs, run, service
from gahp.provision.bulk.service import Interrupted

QUEUE = "awsbatch-local-queue"


def wait_for(good, limit_s=30.0):
    deadline = time.monotonic() + limit_s
    while not (answer := good()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def test_output_records_and_jobstate_are_as_pegasus_reads_them(bulk):
    body = f"echo out of $1; echo '{logs.SEPARATOR}'; echo err of $1"
    assert bulk.run(bulk.task("one", body, "1"), bulk.task("two", body, "2")) == 0
    assert bulk.plain_out() == ["out of 1", "out of 2"]
    assert bulk.err == "err of 1\nerr of 2\n"
    records = bulk.records()
    assert [(task["id"], task["name"], task["state"], task["status"], task["app"]) for task in records["task"]] == [
        ("1", "one", "succeeded", "0", "launch.sh"),
        ("2", "two", "succeeded", "0", "launch.sh"),
    ]
    (summary,) = records["summary"]
    assert (summary["tasks"], summary["succeeded"], summary["failed"], summary["app"]) == ("2", "2", "0", "pegasus-aws-batch")
    assert bulk.out.splitlines()[-1].startswith("[cluster-summary ")
    states = bulk.jobstates()
    for task in records["task"]:
        mine = [state for name, state, job_id in states if (name, job_id) == (task["name"], task["aws-job-id"])]
        assert mine[0] == "SUBMITTED" and mine[-2:] == ["RUNNING", "SUCCEEDED"]


def test_without_merge_logs_each_task_has_its_own_files(bulk):
    bulk.write(bulk.task("one", "echo a"), bulk.task("two", "echo b"))
    words = [word for word in bulk.words() if word not in ("-m", str(bulk.folder / "x"))]
    process = bulk.start(words=words)
    assert process.wait(60) == 0, process.stderr.read()
    process.communicate()
    assert (bulk.folder / "one.out").read_text().startswith("a\n[cluster-task id=1, ")
    assert (bulk.folder / "two.out").read_text().startswith("b\n[cluster-task id=2, ")
    assert (bulk.folder / "one.err").read_text() == ""
    assert not (bulk.folder / "x.out").exists()


def test_a_failed_task_gives_exit_code_1_and_its_reason_in_stderr(bulk):
    assert bulk.run(bulk.task("good", "exit 0"), bulk.task("bad", "exit 7")) == 1
    assert [task["status"] for task in bulk.records()["task"]] == ["0", "1"]
    assert bulk.records()["summary"][0]["failed"] == "1"
    assert "pegasus-aws-batch: bad (" in bulk.err and "FAILED: Essential container in task exited, exit code 7\n" in bulk.err


def test_arguments_are_split_as_a_shell_does_and_lists_are_taken_as_written(bulk):
    show = 'printf "<%s>" "$@"; echo'
    tasks = [bulk.task("text", show, "a 'b c' \"d e\" $HOME"), bulk.task("list", show, ["a b", "'c'", "", "$(id)", "d\ne"])]
    assert bulk.run(*tasks) == 0
    assert bulk.plain_out() == ["<a><b c><d e><$HOME>", "<a b><'c'><><$(id)><d", "e>"]


def test_every_variable_of_a_task_reaches_it_with_those_that_are_added(bulk):
    one, two = bulk.folder / "one.txt", bulk.folder / "two.txt"
    one.write_text("1")
    two.write_text("2")
    odd = {"A": "x y", "B": "'\"$(id)`", "C.d": "dot", "E": "", "F": "line\nline", "TRANSFER_INPUT_FILES": str(one)}
    body = "for v in A B C.d E F PEGASUS_JOB_NAME PEGASUS_AWS_BATCH_BUCKET TRANSFER_INPUT_FILES; do env -0 | "
    body += 'while IFS= read -r -d "" l; do [[ $l == $v=* ]] && echo "$l"; done; done; exit 0'
    assert bulk.run(bulk.task("task", body, environment=odd), words=["-f", str(two)]) == 0
    assert bulk.plain_out() == [
        *("A=x y", "B='\"$(id)`", "C.d=dot", "E=", "F=line", "line"),
        *("PEGASUS_JOB_NAME=task", f"PEGASUS_AWS_BATCH_BUCKET={bulk.url}/", "TRANSFER_INPUT_FILES=one.txt,two.txt"),
    ]
    assert sorted(bulk.keys()) == ["one.txt", "two.txt"]


def test_files_are_put_into_s3_once_however_many_tasks_name_them(bulk):
    tarball, common = bulk.folder / "worker.tar.gz", bulk.folder / "common.sh"
    tarball.write_text("tar")
    common.write_text("common")
    inputs = {"TRANSFER_INPUT_FILES": f"{tarball},{common}"}
    tasks = [bulk.task(f"task{n}", "exit 0", environment=inputs) for n in range(3)]
    bulk.aws.forget_calls()
    assert bulk.run(*tasks, words=["-f", str(common)]) == 0
    # Two files, the runner and one page of tasks.
    assert bulk.aws.calls()["s3:PutObject"] == 4


def test_two_inputs_that_would_become_one_object_are_refused(bulk):
    for folder in ("a", "b"):
        (bulk.folder / folder).mkdir()
        (bulk.folder / folder / "same.txt").write_text(folder)
    inputs = {"TRANSFER_INPUT_FILES": f"{bulk.folder}/a/same.txt,{bulk.folder}/b/same.txt"}
    with pytest.raises(Refused, match=r"differ, and would both be same\.txt"):
        bulk.run(bulk.task("task", "exit 0", environment=inputs))


def test_equal_tasks_become_one_array_job_and_others_single_ones(bulk):
    url = bulk.task("x", 'echo "$1 $AWS_BATCH_JOB_ARRAY_INDEX"')["environment"][1]["value"]
    tasks = [bulk.task_of(url, f"equal{n}", str(n)) for n in range(12)]
    bulk.aws.forget_calls()
    assert bulk.run(*tasks, bulk.task_of(url, "other", "12", memory=600)) == 0
    assert bulk.plain_out() == [*(f"{n} {n}" for n in range(12)), "12 "]
    assert bulk.aws.calls()["batch:SubmitJob"] == 2
    (parent,) = bulk.jobs()
    assert parent["arrayProperties"]["size"] == 12


def test_memory_vcpus_timeout_retry_and_job_definition_of_a_task_are_honoured(bulk):
    definition = bulk.batch.register_job_definition(
        jobDefinitionName=f"{bulk.prefix}-other",
        type="container",
        containerProperties={
            "image": "x",
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "100"}],
        },
    )["jobDefinitionArn"]
    task = bulk.task(bulk.prefix, "exit 0", memory=700, vcpus=2, timeout=3600, retry=3, jobDefinition=definition)
    assert bulk.run(task) == 0
    (job,) = bulk.jobs()
    asked = {entry["type"]: entry["value"] for entry in job["container"]["resourceRequirements"]}
    assert asked == {"MEMORY": "700", "VCPU": "2"}
    assert job["timeout"] == {"attemptDurationSeconds": 3600}
    assert job["retryStrategy"]["attempts"] == 3
    assert job["jobDefinition"] == definition


def test_a_task_that_asks_for_more_than_any_environment_has_fails_with_batchs_reason(bulk):
    assert bulk.run(bulk.task("big", "exit 0", gpus=1)) == 1
    assert "MISCONFIGURATION" in bulk.err


def test_an_image_with_an_entry_point_of_its_own_gets_executable_and_arguments_as_its_command(bulk):
    # The embedded AWS has only fetch_and_run: it is what complains of the missing type, and that is enough to see here.
    tasks = [{"jobName": bulk.prefix, "executable": "prog", "arguments": "a 'b c'", "environment": [{"name": "X", "value": "1"}]}]
    assert bulk.run(*tasks) == 1
    (job,) = bulk.jobs()
    assert job["container"]["command"] == ["prog", "a", "b c"]
    assert {"name": "X", "value": "1"} in job["container"]["environment"]


def test_tasks_of_one_name_do_not_get_into_each_others_way(bulk):
    assert bulk.run(*(bulk.task("same", f"echo {n}") for n in range(3))) == 0
    assert bulk.plain_out() == ["0", "1", "2"]
    assert len({task["aws-job-id"] for task in bulk.records()["task"]}) == 3


def test_two_runs_of_one_job_file_have_different_names_in_batch(bulk):
    tasks = [bulk.task("one", "exit 0"), bulk.task("two", "exit 0")]
    assert bulk.run(*tasks) == 0
    assert bulk.run(*tasks) == 0
    assert len({job["jobName"] for job in bulk.jobs()}) == 2


def test_nothing_waits_once_the_last_task_is_over(bulk):
    class Recorder(threading.Event):
        waits = []  # noqa: RUF012

        def wait(self, timeout=None):
            self.waits.append((timeout, bulk.aws.calls().get("batch:DescribeJobs", 0)))
            return super().wait(timeout)

    assert bulk.run(bulk.task("one", "exit 0"), bulk.task("two", "exit 0"), stop=Recorder()) == 0
    polls = bulk.aws.calls()["batch:DescribeJobs"]
    # Each wait comes before a poll; after the last poll there is none.
    assert [before for _, before in Recorder.waits] == list(range(polls))


def test_throttling_of_every_call_is_survived(bulk, no_backoff):
    for action in ("SubmitJob", "DescribeJobs", "DescribeJobQueues"):
        bulk.aws.faults.fail(f"batch:{action}", status=429, code="TooManyRequestsException", count=6)
    assert bulk.run(bulk.task("one", "exit 0"), bulk.task("two", "exit 0")) == 0


def test_a_lost_reply_to_submitjob_does_not_make_a_second_job(bulk, no_backoff):
    bulk.aws.faults.lose_reply("batch:SubmitJob", count=1)
    assert bulk.run(bulk.task("one", "exit 0"), bulk.task("two", "exit 0")) == 0
    assert len(bulk.jobs()) == 1


def test_a_submitjob_that_failed_for_sure_is_sent_again_after_the_look_up(bulk, no_backoff):
    bulk.aws.faults.fail("batch:SubmitJob", status=500, count=1)
    assert bulk.run(bulk.task("one", "exit 0"), bulk.task("two", "exit 0")) == 0
    assert len(bulk.jobs()) == 1
    assert bulk.aws.calls()["batch:ListJobs"] > 1


def test_a_log_that_cannot_be_fetched_gives_exit_code_2_and_a_sentence(bulk):
    bulk.aws.faults.fail("logs:GetLogEvents", status=400, code="AccessDeniedException", message="not you")
    assert bulk.run(bulk.task("one", "echo lost")) == 2
    assert "The log of one (" in bulk.err and "AccessDeniedException" in bulk.err
    assert bulk.records()["task"][0]["status"] == "0"


def test_a_log_without_its_last_line_is_reported(bulk, monkeypatch):
    whole = service.Cloud.messages
    monkeypatch.setattr(service.Cloud, "messages", lambda *words: list(whole(*words))[:-1])
    assert bulk.run(bulk.task("one", "echo a; echo b"), log_limit=0.5) == 2
    assert "has no end" in bulk.err
    assert bulk.plain_out() == ["a", "b"]


def test_a_job_that_batch_no_longer_knows_ends_as_failed(bulk, monkeypatch):
    monkeypatch.setattr(service.Cloud, "describe", lambda self, ids: {})
    assert bulk.run(bulk.task("one", "exit 0")) == 1
    assert "AWS Batch no longer knows this job" in bulk.err


def test_an_environment_that_becomes_invalid_ends_the_run_and_its_jobs(bulk, monkeypatch):
    bulk.aws.faults.stuck(name=f"{bulk.prefix}*")
    checked = []

    def check(self, queue, *, submitting):
        checked.append(queue)
        if len(checked) > 1:
            raise Refused("No compute environment of the job queue can run a job: it is INVALID: no role")
        return False

    monkeypatch.setattr(service.Cloud, "check_queue", check)
    with pytest.raises(Refused, match="INVALID: no role"):
        bulk.run(bulk.task("one", "exit 0"), bulk.task("two", "exit 0"))
    (job,) = bulk.jobs()
    assert job["status"] == "FAILED" and job["statusReason"] == "The run failed"
    assert bulk.err.splitlines()[-1].endswith("it is INVALID: no role")


def test_a_run_is_taken_up_and_finished_though_its_queue_takes_no_more_jobs(bulk):
    (usual,) = bulk.batch.describe_job_queues(jobQueues=[QUEUE])["jobQueues"]
    name = f"{bulk.prefix}-queue"
    order = usual["computeEnvironmentOrder"]
    bulk.batch.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    tasks = [bulk.task(task, "sleep 2; echo done", jobQueue=name) for task in ("one", "two")]
    first = bulk.start(*tasks)
    wait_for(lambda: '"sent"' in _text(bulk.folder / "x.in.state"))
    first.kill()
    first.communicate()
    bulk.batch.update_job_queue(jobQueue=name, state="DISABLED")
    assert bulk.run() == 0
    assert bulk.plain_out() == ["done", "done"]
    with pytest.raises(Refused, match="is DISABLED: enable it"):
        bulk.run()


def test_a_log_that_comes_late_is_waited_for_also_by_a_clock_that_is_ahead(bulk, monkeypatch):
    whole, now, looks = service.Cloud.messages, time.time, []

    def messages(*words):
        looks.append(1)
        return list(whole(*words))[: -1 if len(looks) < 3 else None]

    monkeypatch.setattr(service.Cloud, "messages", messages)
    monkeypatch.setattr(run, "time", types.SimpleNamespace(time=lambda: now() + 1000, monotonic=time.monotonic, sleep=time.sleep))
    assert bulk.run(bulk.task("one", "echo a")) == 0
    assert bulk.plain_out() == ["a"]


def test_a_job_that_can_never_run_is_ended_also_when_the_first_try_fails(bulk, no_backoff):
    bulk.aws.faults.fail("batch:TerminateJob", status=500, count=1)
    assert bulk.run(bulk.task("big", "exit 0", gpus=1), stall=600.0) == 1
    assert "MISCONFIGURATION" in bulk.err


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_jobs_and_the_run(bulk, signal_number):
    process = bulk.start(bulk.task("one", "sleep 100"), bulk.task("two", "sleep 100"))
    wait_for(lambda: [job for job in bulk.jobs() if job["arrayProperties"]["statusSummary"]["RUNNING"] == 2])
    process.send_signal(signal_number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "interrupted; the jobs of this run were ended" in err
    wait_for(lambda: bulk.jobs()[0]["status"] == "FAILED")
    assert [task["state"] for task in bulk.records()["task"]] == ["terminated", "terminated"]
    assert not (bulk.folder / "x.in.state").exists()


def test_a_run_that_was_killed_is_taken_up_by_the_next(bulk):
    first = bulk.start(bulk.task("one", "sleep 2; echo done"), bulk.task("two", "sleep 2; echo done"))
    (job,) = wait_for(bulk.jobs)
    wait_for(lambda: '"sent"' in (bulk.folder / "x.in.state").read_text())
    first.kill()
    first.communicate()
    assert bulk.run() == 0
    assert [entry["jobId"] for entry in bulk.jobs()] == [job["jobId"]]
    assert bulk.aws.calls()["batch:SubmitJob"] == 1
    assert bulk.plain_out() == ["done", "done"]
    assert not (bulk.folder / "x.in.state").exists()


def test_a_run_that_was_killed_in_the_middle_of_submitjob_looks_its_job_up(bulk):
    bulk.aws.faults.delay("batch:SubmitJob", seconds=1.5, count=1)
    state = bulk.folder / "x.in.state"
    first = bulk.start(bulk.task("one", "exit 0"), bulk.task("two", "exit 0"))
    wait_for(lambda: state.exists() and '"sending"' in state.read_text())
    first.kill()
    first.communicate()
    assert bulk.run(settle=4.0) == 0
    assert len(bulk.jobs()) == 1


def test_a_job_file_that_changed_since_its_run_was_killed_begins_anew_and_ends_the_old_jobs(bulk):
    first = bulk.start(bulk.task("one", "sleep 100"), bulk.task("two", "sleep 100"))
    (old,) = wait_for(bulk.jobs)
    wait_for(lambda: '"sent"' in (bulk.folder / "x.in.state").read_text())
    first.kill()
    first.communicate()
    assert bulk.run(bulk.task("three", "echo new"), bulk.task("four", "echo new")) == 0
    assert bulk.plain_out() == ["new", "new"]
    wait_for(lambda: {job["jobId"]: job["status"] for job in bulk.jobs()}[old["jobId"]] == "FAILED")


def test_two_runs_of_one_job_file_at_a_time_are_refused(bulk):
    first = bulk.start(bulk.task("one", "sleep 100"))
    wait_for(lambda: '"sent"' in _text(bulk.folder / "x.in.state"))
    with pytest.raises(Refused, match="Another pegasus-aws-batch runs this job file"):
        bulk.run()
    first.terminate()
    first.communicate()


def _text(path):
    return path.read_text() if path.exists() else ""


def test_nothing_outside_the_runs_own_keys_is_deleted(bulk):
    for key in (f"{bulk.prefix}/theirs", f"{bulk.prefix}/.pegasus-aws-batch/other-run/tasks", f"{bulk.prefix}-2/x", "elsewhere"):
        bulk.s3.put_object(Bucket="awsbatch-local", Key=key, Body=b"")
    assert bulk.run(bulk.task("one", "exit 0")) == 0
    assert sorted(bulk.keys()) == [".pegasus-aws-batch/other-run/tasks", "theirs"]
    for key in (f"{bulk.prefix}-2/x", "elsewhere"):
        bulk.s3.head_object(Bucket="awsbatch-local", Key=key)


KEPT = 'exec 2>"$task_stderr_file"; echo out; echo kept >&2; '


@pytest.mark.parametrize("end", ["kill -KILL $$", 'trap "" TERM; kill -TERM $$; kill -KILL $$'])
def test_the_stderr_of_a_launcher_that_is_killed_is_kept(bulk, end):
    assert bulk.run(bulk.task("one", KEPT + end)) == 1
    assert bulk.plain_out() == ["out"]
    assert bulk.err.startswith("kept\n")


def test_the_stderr_of_a_task_that_runs_out_of_time_is_kept_and_each_of_its_processes_is_told(bulk):
    # 240 s are 12 s here, in which the task has to come up. The launcher waits for a child, as Pegasus's does, and so cannot heed
    # SIGTERM itself.
    body = KEPT + """(trap 'echo told >&2; exit 0' TERM; while :; do sleep 0.1; done); """
    body += f"echo '{logs.SEPARATOR}'; cat $task_stderr_file; exit 1"
    assert bulk.run(bulk.task("one", body, timeout=240)) == 1
    assert bulk.plain_out() == ["out"]
    assert bulk.err.splitlines()[0] == "kept"
    assert bulk.err.count("kept") == 1


def test_a_task_that_does_not_heed_sigterm_is_killed_in_time_for_its_stderr(bulk):
    body = KEPT + "trap '' TERM; while :; do sleep 0.1; done"
    assert bulk.run(bulk.task("one", body, timeout=240, environment={"PEGASUS_AWS_BATCH_GRACE_S": "0.3"})) == 1
    assert bulk.err.startswith("kept\n")


def test_what_a_task_says_can_be_of_any_length_and_need_not_end_its_line(bulk):
    assert bulk.run(bulk.task("one", "head -c 40000 /dev/zero | tr '\\0' x; echo; printf end")) == 0
    assert bulk.plain_out() == ["x" * 40000, "end"]


@pytest.mark.parametrize(("executable", "code"), [("bin/launch.sh", 0), ("bin/other.sh", 1)])
def test_a_zip_archive_is_unpacked_and_its_command_run_or_missed(bulk, executable, code):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("bin/launch.sh", '#!/bin/bash\necho zip "$@"\n')
    bulk.s3.put_object(Bucket="awsbatch-local", Key=f"{bulk.prefix}.zip", Body=content.getvalue())
    variables = {"BATCH_FILE_TYPE": "zip", "BATCH_FILE_S3_URL": f"s3://awsbatch-local/{bulk.prefix}.zip"}
    environment = [{"name": name, "value": value} for name, value in variables.items()]
    task = {"jobName": "zipped", "executable": executable, "arguments": "a", "environment": environment}
    assert bulk.run(task) == code
    assert bulk.plain_out() == ([] if code else ["zip a"])
    assert code == 0 or bulk.err.startswith('run_task: there is no file "bin/other.sh" in s3://')


def test_more_tasks_than_one_describejobs_takes_are_followed_by_their_parents(bulk):
    url = bulk.task("x", "echo $1")["environment"][1]["value"]
    tasks = [bulk.task_of(url, f"t{n}", str(n)) for n in range(103)]
    bulk.aws.forget_calls()
    assert bulk.run(*tasks, first_poll=1.0, last_poll=10.0) == 0
    assert bulk.plain_out() == [str(n) for n in range(103)]
    calls = bulk.aws.calls()
    assert calls["batch:SubmitJob"] == 1
    described = [r for r in bulk.aws.requests() if r["action"] == "batch:DescribeJobs"]
    assert [len(json.loads(r["body"])["jobs"] if isinstance(r["body"], str) else r["body"]["jobs"]) for r in described][-2:] == [
        *(100, 3)
    ]


def test_a_hundred_and_twenty_equal_tasks_take_at_most_a_tenth_of_a_batch_call_each(bulk):
    url = bulk.task("x", "echo $1")["environment"][1]["value"]
    bulk.aws.forget_calls()
    # Polls twice as far apart each time: a machine that is slow makes few more of them.
    assert bulk.run(*(bulk.task_of(url, f"t{n}", str(n)) for n in range(120)), first_poll=1.0, growth=2.0, last_poll=60.0) == 0
    calls = {name: count for name, count in bulk.aws.calls().items() if name.startswith("batch:")}
    assert sum(calls.values()) <= 12, calls


def test_an_interrupted_set_up_raises_interrupted(bulk):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        bulk.run(bulk.task("one", "exit 0"), stop=stop)
    assert os.listdir(bulk.folder).count("x.in.state") == 0
