"""What pegasus-aws-batch decides, by value: job files, submissions, log lines, options, the state file; and its endpoints."""

import json
import subprocess
import sys
import threading
import time

import pytest

from gahp.model import Refused, Transient
from gahp.provision.bulk import jobfile, logs, options, plan, report, run, service, tasklist
from gahp.provision.bulk.jobfile import Shape, Task
from gahp.provision.bulk.state import State
from gahp.provision.bulk.uploads import parse_url

FETCHED = (("BATCH_FILE_TYPE", "script"), ("BATCH_FILE_S3_URL", "s3://b/k"))


def parse(*tasks):
    return jobfile.parse(json.dumps({"SubmitJob": tasks}).encode(), "x.in")


def task(number=1, name="t", **fields):
    return Task(number, name, "prog", environment=FETCHED, **fields)


GOOD = {"jobName": "t", "executable": "p"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"jobName": None}, "task 1 .* jobName has to be a text"),
        ({"jobName": "../etc/x"}, "jobName has to be a file name"),
        ({"jobName": ".hidden"}, "jobName has to be a file name"),
        ({"executable": ""}, "executable has to be a text that is not empty"),
        ({"arguments": "it's"}, "cannot be split as a shell does .No closing quotation.; a JSON list is taken as written"),
        ({"arguments": 3}, "arguments has to be a text or a list of texts"),
        ({"arguments": "a\0b"}, "has a NUL"),
        ({"arguments": "\ud800"}, "not text that can be written in UTF-8"),
        ({"environment": {"A": "b"}}, "environment has to be a list"),
        ({"environment": [{"name": "A=B", "value": ""}]}, "is not {.name.: text"),
        ({"environment": [{"name": "AWS_BATCH_X", "value": ""}]}, "keeps names such as AWS_BATCH_X"),
        ({"memory": 3}, "memory has to be a whole number, at least 4"),
        ({"memory": True}, "memory has to be a whole number"),
        ({"vcpus": 0}, "vcpus has to be a number, at least 0.25"),
        ({"vcpus": "NaN"}, "vcpus has to be a number"),
        ({"gpus": -1}, "gpus has to be a whole number, at least 1"),
        ({"timeout": "59"}, "takes no less than 60"),
        ({"retry": "two"}, "1 to 10"),
        ({"timeout": 59}, "takes no less than 60"),
        ({"retry": 11}, "1 to 10"),
    ],
)
def test_a_wrong_task_is_refused_with_its_place_and_what_is_wrong(change, complaint):
    with pytest.raises(Refused, match=complaint) as caught:
        parse({key: value for key, value in {**GOOD, **change}.items() if value is not None})
    assert "x.in, task 1" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"SubmitJob": [\n{"jobName" "t"}]}', "not JSON: .* line 2, column 12"),
        (b"{}", 'no list "SubmitJob"'),
        (b"[]", 'no list "SubmitJob"'),
        (b'{"SubmitJob": {}}', 'no list "SubmitJob"'),
        (b'{"SubmitJob": [3]}', "task 1: it is not an object"),
        (b"\xff\xfe\xff", "x.in is not"),
    ],
)
def test_a_job_file_of_another_form_is_refused(data, complaint):
    with pytest.raises(Refused, match=complaint):
        jobfile.parse(data, "x.in")


def test_every_element_of_a_tasks_lists_is_kept():
    pairs = [{"name": f"V{n}", "value": str(n)} for n in range(5)]
    (read,) = parse({**GOOD, "environment": pairs, "arguments": ["a", "b", "c"]})
    assert read.environment == tuple((f"V{n}", str(n)) for n in range(5))
    assert read.arguments == ("a", "b", "c")


def test_requests_are_taken_in_batchs_form_and_as_plain_numbers():
    strategy = {"attempts": 2, "evaluateOnExit": [{"onExitCode": "1", "action": "RETRY"}]}
    read = parse(
        {**GOOD, "timeout": {"attemptDurationSeconds": 90}, "retryStrategy": strategy, "vcpus": 0.5, "memory": "512"},
        {**GOOD, "timeout": 90, "retry": 2, "vcpus": "2", "memory": 512, "gpus": 1},
    )
    assert read[0].shape == Shape(memory_mib=512, vcpus="0.5", timeout_s=90, retry=json.dumps(strategy, sort_keys=True))
    assert read[1].shape == Shape(memory_mib=512, vcpus="2", timeout_s=90, gpus=1, retry='{"attempts": 2}')


def test_a_key_that_is_not_known_is_ignored_with_a_warning_that_names_the_nearest(caplog):
    parse({**GOOD, "vcpu": 2})
    assert "the key vcpu is not known and ignored: is vcpus meant?" in caplog.text


def test_a_request_for_gpus_vcpus_and_a_share_goes_into_submitjob():
    shape = Shape(memory_mib=100, vcpus="2", gpus=3, timeout_s=60, retry='{"attempts": 2}', queue="q2", definition="d2")
    part = plan.Submission("name", (task(shape=shape),))
    asked = plan.parameters(part, definition="d", queue="q", share="default", base_url="s3://b/k/run")
    assert {entry["type"]: entry["value"] for entry in asked["containerOverrides"].pop("resourceRequirements")} == {
        "VCPU": "2",
        "MEMORY": "100",
        "GPU": "3",
    }
    environment = {entry["name"]: entry["value"] for entry in asked.pop("containerOverrides")["environment"]}
    assert environment == {
        "BATCH_FILE_TYPE": "script",
        "BATCH_FILE_S3_URL": "s3://b/k/run/run_task.sh",
        "PEGASUS_AWS_BATCH_TASKS": "s3://b/k/run/tasks/name",
    }
    assert asked == {
        "jobName": "name",
        "jobQueue": "q2",
        "jobDefinition": "d2",
        "timeout": {"attemptDurationSeconds": 60},
        "retryStrategy": {"attempts": 2},
        "shareIdentifier": "default",
    }


def test_an_array_job_has_at_most_as_many_children_as_batch_takes():
    parts = plan.submissions([task(n, f"t{n}") for n in range(1, 10_003)], "p", "run")
    assert [len(part.tasks) for part in parts] == [10_000, 2]
    assert len({part.name for part in parts}) == 2


def test_names_in_batch_are_such_as_it_takes():
    for text in ("a.b c", "ü" * 300, "-x", "_", "merge_diamond-findrange-4_0_PID2_ID1"):
        name = plan.batch_name(text, "0123456789ab-0")
        assert name.isascii() and len(name) <= 128 and name[0].isalnum() and not set(name) & set(". ")


def test_the_pages_of_a_large_task_list_have_as_many_lines_as_the_runner_counts_on():
    pages = tasklist.pages([task(n) for n in range(250)])
    assert [page.count(b"\n") for page in pages] == [100, 100, 50]
    assert f"PAGE={tasklist.PAGE}\n" in tasklist.SCRIPT.read_text()
    for words in (tasklist.TASKS_URL, logs.SEPARATOR, logs.ENDED):
        assert words in tasklist.SCRIPT.read_text()


def test_output_is_split_at_the_separator_and_known_to_be_whole_by_its_last_line():
    assert logs.split(["a", "b", logs.SEPARATOR, "c", logs.ENDED]) == logs.Output("a\nb\n", "c\n", True)
    assert logs.split(["a", logs.SEPARATOR, "c"]) == logs.Output("a\n", "c\n", False)
    assert logs.split(["a" + logs.SEPARATOR, "b" + logs.ENDED]) == logs.Output("a\n", "b\n", True)
    assert logs.split([]) == logs.Output()


def test_stderr_that_was_written_out_twice_is_taken_once():
    twice = ["out", logs.SEPARATOR, "a", "b", logs.SEPARATOR, "a", "b", "c"]
    assert logs.split(twice).stderr == "a\nb\nc\n"
    different = ["out", logs.SEPARATOR, "a", logs.SEPARATOR, "b"]
    assert logs.split(different).stderr == "a\nb\n"


def test_the_pieces_of_a_long_line_are_joined():
    assert logs.split(["x" * 16384, "x" * 16384, "y", "z"]).stdout == "x" * 32768 + "y\nz\n"


def test_a_record_has_nothing_in_its_values_that_would_end_it():
    follow = report.Follow(Task(1, 'a"b]c', "p[1]"), None, state="FAILED")
    assert report.task_record(follow) == (
        '[cluster-task id=1, name="a_b_c", aws-job-id="none", state=failed, status=1, app="p_1_"]'
    )


def test_the_command_line_wins_over_properties(tmp_path):
    conf = tmp_path / "conf"
    conf.write_text(
        "pegasus.aws.region=us-west-2\npegasus.aws.account 1\npegasus.aws.batch.job_definition=d\n"
        "pegasus.aws.batch.compute_environment=c\npegasus.aws.batch.job_queue=q\npegasus.aws.batch.s3_bucket=s3\\://b/k\n"
        "pegasus.aws.batch.prefix=p\nother.property=x\n"
    )
    read = options.read(["--conf", str(conf), "-r", "eu-west-1", "--ce", "C", "-f", "a, b,", "-L", "DEBUG", "x.in"])
    assert read == options.Options(
        prefix="p",
        account="1",
        region="eu-west-1",
        job_definition="d",
        compute_environment="C",
        job_queue="q",
        s3="s3://b/k",
        files=("a", "b"),
        log_level=10,
        job_files=("x.in",),
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["x.in"], "No prefix is given"),
        (["-p", "p"], "No job file is given"),
        (["-p", "p", "-c", "x.in"], "--create runs no jobs"),
        (["-p", "p", "-c", "-d"], "cannot go together"),
        (["-p", "a/b", "x.in"], "becomes the name of a file"),
        (["-p", "p", "-L", "loud", "x.in"], "use one of error, warn"),
        (["-p", "p", "--nothing", "x.in"], "unrecognized arguments: --nothing"),
        (["-p", "p", "-C", "/not/there", "x.in"], "/not/there cannot be read"),
        (["-p", "p", "-m", "/not/there/x", "x.in"], "its folder is not there"),
    ],
)
def test_wrong_words_are_refused_with_a_sentence(words, complaint):
    with pytest.raises(Refused, match=complaint):
        options.read(words)


def test_the_log_file_is_the_first_free_of_a_thousand(tmp_path):
    for number in (0, 1, 3):
        (tmp_path / f"x.log.{number:03d}").touch()
    assert options.log_path(str(tmp_path / "x.log")).name == "x.log.002"


def test_what_a_crash_cut_short_in_the_state_file_does_not_count(tmp_path):
    path = tmp_path / "x.state"
    state = State(path, "digest")
    state.sending("a", "q")
    state.submitted("a", "id-a")
    state.sending("b", "q")
    state.close(remove=False)
    path.write_bytes(path.read_bytes() + b'["sent", "b", "id-')
    again = State(path, "digest")
    assert (again.adopted, again.changed, again.run) == (True, False, state.run)
    assert again.sent["a"][0] == "id-a" and again.sent["b"][0] == ""
    again.submitted("b", "id-b")
    again.close(remove=False)
    last = State(path, "other")
    assert last.changed and last.sent["b"][0] == "id-b"
    last.close(remove=True)
    assert not path.exists()


def test_a_state_file_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "x.state").write_text("hello\n")
    with pytest.raises(Refused, match="not one that this program wrote"):
        State(tmp_path / "x.state", "digest")


def test_places_in_s3_are_told_apart():
    assert parse_url("s3://bucket/a/b/") == ("bucket", "a/b")
    assert parse_url("s3://bucket") == ("bucket", "")
    for wrong in ("bucket", "http://bucket/x", "s3://", "s3://B/x"):
        with pytest.raises(Refused, match="no place in S3"):
            parse_url(wrong)


def test_every_service_is_spoken_to_with_https(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    clients = service.Clients("us-west-2")
    for name in ("s3", "batch", "logs"):
        assert clients(name).meta.endpoint_url.startswith("https://")


class Answers:
    """A Batch client that answers about one queue and its environments."""

    def __init__(self, queue, *environments):
        self.queue, self.environments = queue, environments

    def describe_job_queues(self, **_):
        order = [{"computeEnvironment": "ce"}] if self.environments else []
        return {"jobQueues": [{"state": "ENABLED", "status": "VALID", "computeEnvironmentOrder": order, **self.queue}]}

    def describe_compute_environments(self, **_):
        usual = {"computeEnvironmentName": "ce", "state": "ENABLED"}
        return {"computeEnvironments": [{**usual, **entry} for entry in self.environments]}


@pytest.mark.parametrize(
    ("queue", "environments", "complaint"),
    [
        ({"state": "DISABLED"}, [{"status": "VALID"}], "is DISABLED: enable it"),
        ({"status": "INVALID", "statusReason": "gone"}, [{"status": "VALID"}], "is INVALID: gone"),
        ({}, [{"status": "INVALID", "statusReason": "no role."}], "ce is INVALID and ENABLED: no role"),
        ({}, [{"status": "VALID", "state": "DISABLED"}], "ce is VALID and DISABLED"),
        ({}, [{"status": "DELETING"}], "ce is DELETING"),
        ({}, [], "it has none"),
    ],
)
def test_a_queue_that_can_run_nothing_is_refused_before_anything_is_submitted(queue, environments, complaint):
    cloud = service.Cloud(lambda name: Answers(queue, *environments))
    with pytest.raises(Refused, match=complaint):
        cloud.check_queue("q", submitting=True)


@pytest.mark.parametrize("status", ["VALID", "CREATING", "UPDATING"])
def test_a_queue_with_one_good_environment_is_used(status):
    cloud = service.Cloud(lambda name: Answers({}, {"status": "INVALID"}, {"status": status}))
    assert cloud.check_queue("q", submitting=True) is False
    fair = {"schedulingPolicyArn": "arn"}
    assert service.Cloud(lambda name: Answers(fair, {"status": status})).check_queue("q", submitting=True) is True


def test_a_disabled_queue_finishes_what_it_has():
    cloud = service.Cloud(lambda name: Answers({"state": "DISABLED"}, {"status": "VALID"}))
    assert cloud.check_queue("q", submitting=False) is False


class Listed:
    """Batch, which lists a job from the third look on."""

    def __init__(self):
        self.looks, self.ended = 0, []

    def find(self, name, queue):
        self.looks += 1
        return "id" if self.looks > 2 else ""

    def terminate(self, job_id, reason):
        self.ended.append(job_id)


@pytest.mark.parametrize(("settle", "ended"), [(30, ["id"]), (0, [])])
def test_a_job_that_may_have_been_submitted_is_looked_for_as_long_as_batch_may_not_list_it(tmp_path, monkeypatch, settle, ended):
    monkeypatch.setattr(run, "_LOOK_AGAIN_S", 0.01)
    state, cloud = State(tmp_path / "x.state", "digest"), Listed()
    state.sending("a", "q")
    patience = service.Patience(1.0, threading.Event())
    run.end_job(cloud, patience, state, "a", reason="so", until=time.monotonic() + settle)
    assert cloud.ended == ended
    state.close(remove=True)


def test_a_job_that_was_surely_not_sent_is_forgotten_also_by_the_next_run(tmp_path):
    state = State(tmp_path / "x.state", "digest")
    state.sending("a", "q")
    state.unsent("a")
    assert state.sent == {}
    state.close(remove=False)
    again = State(tmp_path / "x.state", "digest")
    assert again.sent == {}
    again.close(remove=True)


def test_numbers_may_be_written_as_text():
    (one,) = parse({**GOOD, "timeout": "90", "retry": "2", "memory": "512"})
    assert one.shape == Shape(timeout_s=90, retry='{"attempts": 2}', memory_mib=512)


def test_patience_ends(monkeypatch):
    def fail():
        calls.append(1)
        raise Transient("not now")

    calls = []
    monkeypatch.setattr(service, "backoff", lambda tries, most: 0.01)
    with pytest.raises(Transient, match="not now"):
        service.Patience(0.1, threading.Event())(fail)
    assert len(calls) > 1
    stop = threading.Event()
    stop.set()
    with pytest.raises(service.Interrupted):
        service.Patience(60, stop)(fail)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--help"], 0, "--merge-logs PREFIX"),
        (["x.in"], 3, "pegasus-aws-batch: No prefix"),
        (["-p", "p", "x.in"], 3, "No job definition"),
        (["-p", "p", "-c", "-j", "not-there.json"], 3, "not-there.json cannot be read"),
        (["-p", "p", "-l", "/not/there", "x.in"], 3, "The log file /not/there.000 cannot be written: No such file"),
    ],
)
def test_wrong_words_end_with_exit_code_3_and_one_line(tmp_path, words, code, text):
    command = [sys.executable, "-m", "gahp.cli.pegasus_aws_batch", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert text in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_what_aws_refuses_ends_with_exit_code_2(bulk):
    process = bulk.start(bulk.task("one", "exit 0"), words=[*bulk.words(), "-q", "not-there"])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "pegasus-aws-batch: The job queue not-there does not exist" in err
    assert "WARN  [pegasus_aws_batch] Non-zero exit-code 2" in out
