"""q, why, logs and top as people meet them: beside a GAHP at work, against the embedded AWS in every kind of trouble."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import termios
import time

import pytest

from gahp.database import FILE_NAME
from gahp.model import JobState
from gahp.story import told
from tests.terminal import Terminal

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")
WAIT_S = 60.0


@pytest.fixture
def look(gahp):
    """Runs a verb as the GAHP's user would, on pipes."""

    def look(*words, code=0, environment=()):
        ran = subprocess.run(
            [PROGRAM, *words], env={**gahp.environment, **dict(environment)}, capture_output=True, timeout=120, check=False
        )
        assert b"Traceback" not in ran.stderr, ran.stderr
        assert ran.returncode == code, (ran.stdout, ran.stderr)
        look.stderr = ran.stderr.decode()
        return ran.stdout.decode("utf-8", "surrogateescape")

    return look


@pytest.fixture
def why(look):
    """What `why` says of a job once it says `words`: a sweep may have to see it first."""

    def why(job_id, words):
        until = time.monotonic() + WAIT_S
        while True:
            told = look("why", job_id)
            if re.search(words, told):
                return told
            assert time.monotonic() < until, told
            time.sleep(0.3)

    return why


def numbered(proc, **ad):
    """A job with HTCondor's id 31.PROC."""
    return {"JobDirectory": f"home_bl_x_31.{proc}_{time.time_ns() % 10**9}", **ad}


@pytest.fixture
def queue(aws):
    """Makes a queue of one compute environment. Their names are the test's own: the embedded AWS is this session's."""

    def queue(name, *, vcpus=8, types=("optimal",), policy=""):
        batch = aws.client("batch")
        [template] = batch.describe_compute_environments()["computeEnvironments"][:1]
        resources = {
            **{key: template["computeResources"][key] for key in ("instanceRole", "subnets", "securityGroupIds")},
            **{"type": "EC2", "minvCpus": 0, "maxvCpus": vcpus, "desiredvCpus": 0, "instanceTypes": list(types)},
        }
        environment = batch.create_compute_environment(
            computeEnvironmentName=f"{name}-environment",
            type="MANAGED",
            state="ENABLED",
            serviceRole=template["serviceRole"],
            computeResources=resources,
        )["computeEnvironmentArn"]
        more = {"schedulingPolicyArn": policy} if policy else {}
        order = [{"order": 1, "computeEnvironment": environment}]
        batch.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order, **more)
        return name

    return queue


def test_a_job_that_runs_is_listed_with_all_there_is_to_know(gahp, look, script):
    asked = {"DAGNodeName": "findrange", "RequestCpus": 2, "RequestMemory": 64}
    job_id = gahp.submit(**numbered(0, Cmd=script("echo begun; sleep 100"), **asked))
    gahp.until(job_id, JobState.RUNNING)
    [job] = json.loads(look("q", "-json"))
    assert (job["ClusterId"], job["ProcId"], job["DAGNodeName"], job["State"]) == (31, 0, "findrange", "RUNNING")
    assert (job["RequestCpus"], job["RequestMemory"], job["Attempt"], job["BatchQueue"]) == (2, 64, 1, "awsbatch-local-queue")
    assert 0 <= time.time() - job["EnteredCurrentStatus"] < WAIT_S
    assert len(job["BatchJobId"]) == 36 and job["RemoteHost"]
    table = look("q", "-wide")
    assert job["BatchJobId"] in table and " RUNNING " in table
    assert "1 job; 0 completed, 0 removed, 0 idle, 1 running, 0 held" in table
    assert look("q", job["BatchJobId"][:8], "-af", "State", "Trouble") == "RUNNING undefined\n"
    gahp.cancel(job_id)
    gahp.finish(job_id)
    assert look("q") == "0 jobs; 0 completed, 0 removed, 0 idle, 0 running, 0 held\n"
    assert "REMOVED" in look("q", "-history")
    assert "was removed by HTCondor." in look("why", "31.0")


def test_without_aws_the_list_says_what_batch_last_said_and_that(gahp, look, fault):
    job_id = gahp.submit(**numbered(0, Cmd="/bin/sleep", Arguments="100"))
    gahp.until(job_id, JobState.RUNNING)
    with fault("error", action="batch:*", status=503, code="ServiceUnavailable"):
        assert "RUNNING" in look("q")
        assert "AWS Batch could not be asked" in look.stderr
        assert "RUNNING in AWS Batch as the GAHP last saw it" in look("why", "31.0")
    gahp.cancel(job_id)


def test_ended_jobs_show_what_they_used(gahp, look, script):
    gahp.run(**numbered(4, Cmd=script("exit 3"), RequestMemory=64))
    [job] = json.loads(look("q", "31.4", "-json"))
    assert (job["State"], job["ExitCode"]) == ("COMPLETED", 3)
    assert job["RemoteUserCpu"] is not None and job["Attempt"] == 1
    assert "ended with exit code 3" in look("why", "31.4")


def test_the_nodes_of_a_dag_are_found_by_its_cluster_and_by_its_name(gahp, look):
    gahp.run(**numbered(0, DAGManJobId=77, JobBatchName="d.dag+77", DAGNodeName="A"))
    gahp.run(**numbered(1, DAGManJobId=78, JobBatchName="e.dag+78", DAGNodeName="B"))
    for dag in ("77", "d.dag", "d.dag+77", "path/d.dag"):
        assert look("q", "-dag", dag, "-af", "DAGNodeName") == "A\n"
    assert look("q", "-dag", "none") == "0 jobs; 0 completed, 0 removed, 0 idle, 0 running, 0 held\n"


# why


def test_why_a_disabled_queue_holds_a_job_back(gahp, why, aws, fault):
    name = aws.environment()["_CONDOR_AWSBATCH_JOB_QUEUE"]
    with fault("stuck"):
        job_id = gahp.submit(**numbered(0))
        why(job_id, "waits in AWS Batch")
        aws.client("batch").update_job_queue(jobQueue=name, state="DISABLED")
        try:
            told = why(job_id, f"The job queue {name} is DISABLED")
            assert "Enable it in AWS Batch" in told
            other = gahp.submit(**numbered(1))
            assert "enable it in AWS Batch, then condor_release" in why(other, "was held")
        finally:
            aws.client("batch").update_job_queue(jobQueue=name, state="ENABLED")
    gahp.finish(job_id)


def test_why_an_invalid_environment_holds_a_job_back_in_awss_own_words(gahp, why, fault):
    reason = "CLIENT_ERROR - Not authorized to perform sts:AssumeRole"
    with fault("stuck"), fault("entity", name="awsbatch-local-environment", code="INVALID", message=reason):
        job_id = gahp.submit(**numbered(0))
        told = why(job_id, "INVALID")
        assert f"Its compute environment awsbatch-local-environment is INVALID: {reason}." in told
        assert "service role" in told
    gahp.finish(job_id)


def test_why_a_job_waits_at_the_environments_maximum_with_others_in_front(start, queue, look, aws):
    gahp = start(allowed_queues=queue("full", vcpus=2))
    look = with_environment(gahp)
    running = gahp.submit(**numbered(0, Cmd="/bin/sleep", Arguments="100", Queue="full", RequestCpus=2))
    gahp.until(running, JobState.RUNNING)
    front = gahp.submit(**numbered(1, Queue="full", RequestCpus=2))
    wait_for(lambda: "RUNNABLE" in look("q", "31.1"))
    last = gahp.submit(**numbered(2, Queue="full", RequestCpus=1))
    wait_for(lambda: "with 1 job in front of it" in look("why", last))
    told = look("why", last)
    assert "asks for 1 vCPU, and 2 of the 2 that the queue full may have (maxvCpus) are in use by 1 job" in told
    for job_id in (front, last, running):
        gahp.cancel(job_id)


def test_why_no_host_is_large_enough(start, queue, fault):
    gahp = start(allowed_queues=queue("small", vcpus=256, types=("m5.large", "m5.xlarge")))
    look = with_environment(gahp)
    with fault("stuck"):
        job_id = gahp.submit(**numbered(0, Queue="small", RequestCpus=48))
        wait_for(lambda: "No instance type fits 48 vCPUs" in look("why", job_id))
        largest = "the largest of small-environment (m5.large, m5.xlarge) is m5.xlarge with 4. Lower request_cpus"
        assert largest in look("why", job_id)
        other = gahp.submit(**numbered(1, Queue="small", RequestCpus=300))
        wait_for(lambda: "no compute environment of the queue small may have more than 256" in look("why", other))
        for each in (job_id, other):
            gahp.cancel(each)


def test_what_can_never_fit_is_held_and_why_says_what_to_lower(gahp, why):
    job_id = gahp.submit(**numbered(0, RequestCpus=48))
    gahp.until(job_id, JobState.HELD)
    assert "lower request_cpus" in why(job_id, "was held")


def test_why_names_the_share_policy_of_the_queue(start, queue, aws, fault):
    policy = aws.client("batch").create_scheduling_policy(
        name="fair", fairsharePolicy={"shareDistribution": [{"shareIdentifier": "physics", "weightFactor": 0.5}]}
    )["arn"]
    gahp = start(allowed_queues=queue("shared", policy=policy))
    look = with_environment(gahp)
    with fault("stuck"):
        job_id = gahp.submit(**numbered(0, Queue="shared", BatchProject="physics"))
        wait_for(lambda: "policy fair" in look("why", job_id))
        assert "counts for the share physics (weight 0.5)" in look("why", job_id)
        gahp.cancel(job_id)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("CannotPullContainerError: manifest for x:y not found: manifest unknown", "There is no such image or tag"),
        ("CannotPullContainerError: pull access denied: not authorized", "may not read the image"),
        ("CannotPullContainerError: i/o timeout", "does not reach the image's registry"),
        ("ECS was unable to assume the role 'arn:aws:iam::1:role/x' that was provided for this task", "jobRoleArn"),
    ],
)
def test_why_a_container_could_not_begin(gahp, look, fault, message, advice):
    with fault("pull_error", message=message):
        job_id = gahp.submit(**numbered(0))
        gahp.until(job_id, JobState.HELD)
    told = look("why", job_id)
    assert message.partition(":")[0] in told and advice in told
    assert "never started" in (look("logs", job_id, code=1) or look.stderr)


def test_why_a_job_ran_out_of_memory_and_what_to_ask_for(gahp, look, script):
    cmd = script("echo last words; x=$(head -c 300M /dev/zero | tr '\\0' x); sleep 100")
    job_id = gahp.submit(**numbered(0, Cmd=cmd, RequestMemory=64, Out="out", Err="err"))
    gahp.until(job_id, JobState.HELD)
    told = look("why", "31.0")
    assert re.search(r"It had 64 MiB( and had used \d+ when it was killed)?: put request_memory = (256|512) into", told)
    assert "last words" in look("logs", "31.0")


def test_why_a_lost_host_ended_a_job_and_its_last_lines_are_there(start, aws, jobs_of, script):
    gahp = start(attempts=1)
    look = with_environment(gahp)
    job_id = gahp.submit(**numbered(0, Cmd=script("echo last words; sleep 100"), Out="out"))
    gahp.until(job_id, JobState.RUNNING)
    wait_for(lambda: "last words" in look("logs", "31.0"))
    assert aws.faults.vanish(jobs_of(job_id)[0]["jobId"])
    gahp.until(job_id, JobState.HELD)
    told = look("why", "31.0")
    assert "Host EC2" in told and "Its host went away once" in told and "AWSBATCH_ATTEMPTS" in told
    assert "last words\n" in look("logs", "31.0")


def test_why_a_job_reached_its_time_limit(gahp, look, script):
    job_id = gahp.submit(**numbered(0, Cmd=script("echo began; exec sleep 300"), Out="out", BatchRuntime=60))
    gahp.finish(job_id)
    assert re.search(r"It reached its time limit of 60 s after \d+ s: raise batch_runtime", look("why", "31.0"))


def test_why_waits_for_room_among_the_calls_that_this_host_may_make(start, fault):
    gahp = start(status_rate=2, start_rate=100)
    look = with_environment(gahp)
    with fault("stuck"):
        gahp.submit(**numbered(0))
        wait_for(lambda: "undefined" not in look("q", "-journal", "-af", "BatchJobId"))
        gahp.kill()
        told = look("why", "31.0")  # about ten calls, at two a second
        assert "has room" in told and "asked" not in told


def test_why_a_job_is_not_submitted_yet(gahp, why, fault):
    with fault("throttle", action="batch:SubmitJob", per_second=0):
        job_id = gahp.submit(**numbered(0))
        told = why(job_id, "takes no more calls")
        assert "is staged in S3 but not submitted to AWS Batch yet" in told
    gahp.finish(job_id)


def test_why_a_job_is_not_staged_yet(gahp, why, fault):
    with fault("expired", action="s3:*"):
        job_id = gahp.submit(**numbered(0))
        told = why(job_id, "The last try to stage failed")
        assert "is not staged yet" in told and "Renew the credentials" in told
    gahp.finish(job_id)


def test_an_unknown_job_is_one_line(gahp, look):
    for verb in ("why", "logs", "q"):
        assert look(verb, "99.9", code=1) == ""
        assert look.stderr.startswith("condor_awsbatch: There is no job 99.9 in ")


# logs


def test_a_log_is_followed_live_over_a_lost_host_and_ends_with_the_job(gahp, aws, jobs_of, script, tmp_path):
    (tmp_path / "go").touch()
    cmd = script(f"echo begun; while [[ ! -e {tmp_path}/on ]]; do sleep 0.1; done; echo over; echo wrong >&2")
    job_id = gahp.submit(**numbered(0, Cmd=cmd, Out="out", Err="err"))
    following = subprocess.Popen(
        [PROGRAM, "logs", "31.0", "-f"], env=gahp.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert following.stdout.readline() == b"begun\n"
        assert aws.faults.vanish(jobs_of(job_id)[0]["jobId"])
        assert following.stdout.readline() == b"begun\n"
        (tmp_path / "on").touch()
        rest, _ = following.communicate(timeout=WAIT_S)
    finally:
        following.kill()
        following.wait()
    assert sorted(rest.splitlines()) == [b"over", b"wrong"]
    assert following.returncode == 0
    gahp.finish(job_id)
    look = with_environment(gahp)
    assert look("logs", "31.0") == "begun\nover\n"
    assert look("logs", "31.0", "-err") == "wrong\n"
    assert look("logs", "31.0", "-attempt", "1") == "begun\n"
    assert "no log of attempt 3" in look("logs", "31.0", "-attempt", "3", code=1)


def test_a_log_is_followed_to_the_jobs_end_when_no_gahp_works_nor_ever_saw_it_run(start, fault, script):
    gahp = start(poll_interval=600)
    look = with_environment(gahp)
    with fault("stuck"):
        gahp.submit(**numbered(0, Cmd=script("echo begun; sleep 7; echo over"), Out="out"))
        wait_for(lambda: "undefined" not in look("q", "-journal", "-af", "BatchJobId"))
        assert "undefined" in look("q", "-journal", "-af", "BatchStatus")
        gahp.kill()
    assert look("logs", "31.0", "-f") == "begun\nover\n"


def test_outputs_come_from_s3_when_the_file_is_gone_and_from_cloudwatch_when_that_is(gahp, look, script, tmp_path, aws):
    job_id = gahp.submit(**numbered(0, Cmd=script("printf 'a\\377b\\n'; echo e >&2"), Out="out", Err="err"))
    gahp.finish(job_id)
    assert look("logs", "31.0") == "a\udcffb\n"
    (tmp_path / "out").unlink()
    assert look("logs", "31.0") == "a\udcffb\n"
    (tmp_path / "err").unlink()
    s3 = aws.client("s3")
    run = job_id.rpartition("/")[2]
    for entry in s3.list_objects_v2(Bucket="awsbatch-local", Prefix=f"gahp/runs/{run}/")["Contents"]:
        s3.delete_object(Bucket="awsbatch-local", Key=entry["Key"])
    assert sorted(look("logs", "31.0", "-err").splitlines()) == ["a\ufffdb", "e"]


def test_a_job_that_has_not_started_has_no_log_and_why_is_pointed_to(gahp, look, fault):
    with fault("stuck"):
        job_id = gahp.submit(**numbered(0))
        wait_for(lambda: "RUNNABLE" in look("q"))
        look("logs", "31.0", code=1)
        assert "has not started (RUNNABLE)" in look.stderr and "condor_awsbatch why 31.0" in look.stderr
        gahp.cancel(job_id)


# On a terminal


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 0), (signal.SIGTERM, 143)])
def test_top_takes_the_screen_and_gives_it_back(gahp, key, code):
    job_id = gahp.submit(**numbered(0, Cmd="/bin/sleep", Arguments="100"))
    gahp.until(job_id, JobState.RUNNING)
    terminal = Terminal(gahp.environment, "top", "-delay", "0.2")
    before = termios.tcgetattr(terminal.fd)
    shown = terminal.read(lambda text: b"q leaves" in text and b"1 RUNNING" in text)
    assert b"\x1b[?1049h" in shown and b"\x1b[?25l" in shown
    if isinstance(key, bytes):
        terminal.write(key)
    else:
        os.kill(terminal.pid, key)
    left = terminal.read(lambda text: text.count(b"\x1b[?1049l") == 1)
    assert b"\x1b[?25h" in left
    wait_for(lambda: gone(terminal.pid) or termios.tcgetattr(terminal.fd)[3] == before[3])
    assert terminal.end() == code
    assert b"Traceback" not in terminal.text
    gahp.cancel(job_id)


def gone(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def test_a_terminal_gets_colours_unless_no_color_is_set_and_never_a_jobs_own_escapes(gahp, script):
    cmd = script("printf '\\033]0;evil\\007\\033[2Jtext\\n'")
    job_id = gahp.submit(**numbered(0, Cmd=cmd, Out="out", DAGNodeName="A\x1b[2J"))
    gahp.finish(job_id)
    coloured = Terminal(gahp.environment, "q", "-history")
    assert coloured.end() == 0 and b"\x1b[32mCOMPLETED\x1b[0m" in coloured.text and b"\x1b[2J" not in coloured.text
    plain = Terminal({**gahp.environment, "NO_COLOR": "1"}, "q", "-history")
    assert plain.end() == 0 and b"\x1b" not in plain.text
    assert all(len(line) <= 80 for line in plain.text.decode().splitlines())
    logs = Terminal(gahp.environment, "logs", "31.0")
    assert logs.end() == 0 and b"\x1b" not in logs.text and b"\x07" not in logs.text
    assert b"\\x1b]0;evil\\x07\\x1b[2Jtext" in logs.text
    assert with_environment(gahp)("logs", "31.0") == "\x1b]0;evil\x07\x1b[2Jtext\n"


def test_a_log_is_followed_on_a_terminal_line_by_line_and_harmless(gahp, script, tmp_path):
    cmd = script(f"printf '\\033[2Jfirst\\n'; while [[ ! -e {tmp_path}/on ]]; do sleep 0.1; done; printf 'last'")
    job_id = gahp.submit(**numbered(0, Cmd=cmd, Out="out"))
    terminal = Terminal(gahp.environment, "logs", "31.0", "-f")
    terminal.read(lambda text: b"\\x1b[2Jfirst\r\n" in text)
    (tmp_path / "on").touch()
    assert terminal.end() == 0
    assert terminal.text.endswith(b"\\x1b[2Jfirst\r\nlast\r\n") and b"\x1b" not in terminal.text
    gahp.finish(job_id)


def test_what_a_job_that_waits_is_told_on_a_terminal(gahp, fault, why):
    with fault("stuck"):
        job_id = gahp.submit(**numbered(0))
        why(job_id, "has room")
        terminal = Terminal(gahp.environment, "why", "31.0")
        assert terminal.end() == 0
        told = terminal.text.decode()
        assert "has room" in " ".join(told.split()) and "\x1b" not in told
        assert all(len(line) < 80 for line in told.splitlines())
        gahp.cancel(job_id)


def with_environment(gahp):
    def look(*words, code=0):
        ran = subprocess.run([PROGRAM, *words], env=gahp.environment, capture_output=True, timeout=120, check=False)
        assert b"Traceback" not in ran.stderr, ran.stderr
        assert ran.returncode == code, (ran.stdout, ran.stderr)
        return (ran.stdout if code == 0 else ran.stderr).decode("utf-8", "surrogateescape")

    return look


def wait_for(condition):
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_the_log_of_an_arrays_child_is_found_though_only_its_parent_was_described(gahp, aws, look):
    """What the GAHP knew from counts and lists alone is asked when somebody wants to read it."""
    job_id = gahp.submit(**numbered(0, Cmd="/bin/echo", Arguments="to the log"))
    gahp.finish(job_id)
    gahp.close()
    connection = sqlite3.connect(gahp.home / "state" / FILE_NAME)
    [(text,)] = connection.execute("SELECT story FROM runs").fetchall()
    story = told(text)
    story["batch"] = {key: story["batch"][key] for key in ("id", "status")}
    connection.execute("UPDATE runs SET story = ?", (json.dumps(story),))
    connection.commit()
    connection.close()
    assert look("logs", "31.0") == "to the log\n"
    assert look("logs", "31.0", "-attempt", "1") == "to the log\n"
