"""Jobs through condor_submit on a real HTCondor: streams, files, exits, resources, and what a person sees of them."""

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

from tests.condor.jobs import (
    ABORTED,
    EXECUTING,
    GRID_SUBMITTED,
    HELD,
    SUBMITTED,
    TERMINATED,
    VANILLA,
    Case,
    case,
    quoted_v2,
    snapshot,
    until,
)
from tests.condor.prefix import SUITES

BASH = "#!/bin/bash\n"
# What submit files, shells and the protocol each treat in a way of their own.
AWKWARD = [
    "", " ", "a b", "  two  ", "tab\there", "it's", "''", "say \"hi\"", "$HOME", "${X}", "`id`",
    "back\\slash", "end\\", "\\n", "*", "?", "~", "a;b|c&d", "<in>", "(x)", "{a,b}", "#no", "%d", "!x",
    "-n", "--", "=", "a=b", "é", "日本", '\udcff', ",", "N/A", "NULL",
]  # fmt: skip


def test_the_pool_is_of_the_version_that_is_asked_for(site, suite):
    assert f"$CondorVersion: {SUITES[suite]}" in site.pool.run("condor_version").stdout


@case(BASH + "echo to stdout; echo to stderr >&2")
def test_a_simple_job_goes_through_all_its_events_and_brings_back_its_streams(job):
    job.finish()
    numbers = [event.number for event in job.events]
    assert numbers[0] == SUBMITTED
    assert numbers.count(GRID_SUBMITTED) == numbers.count(TERMINATED) == 1
    assert numbers.count(EXECUTING) <= 1
    assert "Normal termination (return value 0)" in job.events[-1].text
    assert (job.text("out"), job.text("err")) == ("to stdout\n", "to stderr\n")
    ad = job.ad
    assert (ad["JobStatus"], ad["ExitCode"], ad["ExitBySignal"]) == (4, 0, False)
    (batch,) = job.batch()
    assert batch["status"] == "SUCCEEDED"
    assert ad["GridJobId"].endswith("/" + batch["jobName"])


@case(BASH + "exit 7")
def test_exit_code_7_is_in_the_user_log_and_in_the_job_ad(job):
    assert "Normal termination (return value 7)" in job.wait(TERMINATED).text
    assert (job.attribute("ExitCode"), job.attribute("ExitBySignal")) == (7, False)
    (batch,) = job.batch()
    assert (batch["status"], batch["container"]["exitCode"]) == ("FAILED", 7)


@case(BASH + "exit 255")
def test_exit_code_255_is_no_signal(job):
    assert "Normal termination (return value 255)" in job.wait(TERMINATED).text
    assert (job.attribute("ExitCode"), job.attribute("ExitBySignal")) == (255, False)


@case(BASH + "echo before; kill -KILL $$")
def test_a_job_that_is_killed_ends_abnormally_with_signal_9(job):
    assert "Abnormal termination (signal 9)" in job.wait(TERMINATED).text
    assert (job.attribute("ExitBySignal"), job.attribute("ExitSignal")) == (True, 9)
    assert job.text() == "before\n"


@case(BASH + "kill -SEGV $$")
def test_a_job_that_crashes_ends_abnormally_with_signal_11(job):
    assert "Abnormal termination (signal 11)" in job.wait(TERMINATED).text
    assert (job.attribute("ExitBySignal"), job.attribute("ExitSignal")) == (True, 11)


@case(BASH + "x=$(head -c 300000000 /dev/zero | tr '\\0' x); sleep 20", "request_memory = 64")
def test_a_job_out_of_memory_is_held_with_what_it_had(job):
    job.wait(HELD)
    ad = job.ad
    assert ad["HoldReasonCode"] == 34
    assert ad["HoldReason"] == "The job needed more than the 64 MB it had and was killed: raise request_memory."
    assert (ad["CpusProvisioned"], ad["MemoryProvisioned"]) == (1, 64)


@case(BASH + "printf '%s\\0' \"$@\"", f"arguments = {quoted_v2(AWKWARD)}")
def test_every_awkward_argument_arrives_as_it_was_written(job):
    arrived = job.finish().read("out").split(b"\0")
    assert arrived == [word.encode("utf-8", "surrogateescape") for word in AWKWARD] + [b""]


@case(BASH + "printf '%s\\0' \"$@\"", "arguments = a b  'c' \\\"d\\\" $HOME e\\f")
def test_arguments_in_the_old_syntax_are_split_at_blanks_only(job):
    assert job.finish().text("out").split("\0") == ["a", "b", "'c'", '"d"', "$HOME", "e\\f", ""]


@case(
    BASH + "".join(f"printf '%s\\0' \"$V{number}\"\n" for number in range(len(AWKWARD))),
    f"environment = {quoted_v2([f'V{number}={value}' for number, value in enumerate(AWKWARD)])}",
)
def test_every_awkward_value_of_the_environment_arrives_as_it_was_written(job):
    arrived = job.finish().read("out").split(b"\0")
    assert arrived == [word.encode("utf-8", "surrogateescape") for word in AWKWARD] + [b""]


@case(BASH + 'printf "%s|%s" "$A" "$B"', "environment = A=1;B=two words")
def test_environment_in_the_old_syntax_arrives(job):
    assert job.finish().text() == "1|two words"


@case(BASH + "cat", "input = every.byte", {"every.byte": bytes(range(256)) * 40})
def test_stdin_arrives_byte_for_byte(job):
    assert job.finish().read("out") == bytes(range(256)) * 40


@case(
    BASH + "find . -type f ! -name program -exec sha256sum {} + | sort -k2; ls -l sub/run | cut -c1-10",
    "transfer_input_files = a.txt, with space.txt, sub, flat/, {folder}/deep/absolute, é.txt\n",
    {
        "a.txt": "a",
        "with space.txt": "b",
        "sub/one": "1",
        "sub/deeper/two": "2",
        "sub/run": "x",
        "flat/three": "3",
        "deep/absolute": "4",
        "é.txt": "5",
    },
)
def test_input_files_and_directories_arrive_under_their_names(job):
    there = {line.split("  ", 1)[1]: line[:64] for line in job.finish().text().splitlines() if "  ./" in line}
    wanted = {
        "./a.txt": "a",
        "./with space.txt": "b",
        "./sub/one": "1",
        "./sub/deeper/two": "2",
        "./sub/run": "x",
        "./three": "3",
        "./absolute": "4",
        "./é.txt": "5",
    }
    assert {name: hashlib.sha256(text.encode()).hexdigest() for name, text in wanted.items()}.items() <= there.items()


@case(
    BASH + "head -c 20000000 /dev/zero | tr '\\0' y > big; sha256sum in > sum; mkdir -p d/e; echo 1 > d/one; echo 2 > d/e/two;"
    " printf '#!/bin/sh\\n' > tool; chmod 755 tool; echo x > 'sp ace'",
    "transfer_input_files = in\ntransfer_output_files = big, sum, d, tool, sp ace\n"
    'transfer_output_remaps = "sum=kept/renamed; sp ace={folder}/elsewhere"\n',
    {"in": b"z" * 20_000_000, "kept/here": ""},
)
def test_large_files_directories_modes_and_remaps_come_back(job):
    job.finish()
    assert job.read("big") == b"y" * 20_000_000
    assert job.text("kept/renamed").split()[0] == hashlib.sha256(b"z" * 20_000_000).hexdigest()
    assert (job.text("d/one"), job.text("d/e/two"), job.text("elsewhere")) == ("1\n", "2\n", "x\n")
    assert (job.folder / "tool").stat().st_mode & 0o111
    assert not (job.folder / "sum").exists()


@case(
    BASH + "echo done",
    "request_cpus = 2\nrequest_memory = 300\nrequest_disk = 2GB\n"
    'batch_runtime = 7200\nbatch_project = physics\npriority = 5\n+DAGNodeName = "findrange"',
)
def test_requested_resources_reach_batch_and_come_back_as_provisioned(job):
    ad = job.finish().ad
    (batch,) = job.batch()
    asked = {entry["type"]: entry["value"] for entry in batch["container"]["resourceRequirements"]}
    assert (asked["VCPU"], asked["MEMORY"]) == ("2", "300")
    assert batch["timeout"]["attemptDurationSeconds"] == 7200
    assert batch["tags"]["HTCondorProject"] == "physics"
    assert batch["tags"]["HTCondorJob"] == ad["GlobalJobId"].replace("#", "/")
    assert batch["tags"]["HTCondorOwner"] == ad["Owner"]
    assert batch["tags"]["HTCondorDAGNode"] == "findrange"
    assert (ad["CpusProvisioned"], ad["MemoryProvisioned"]) == (2, 300)
    assert ad["DiskProvisioned"] == 2 * 1024 * 1024


@case(BASH + "echo done", "request_gpus = 1")
def test_a_job_that_asks_for_a_gpu_gets_one(job):
    (batch,) = job.finish().batch()
    assert {"type": "GPU", "value": "1"} in batch["container"]["resourceRequirements"]
    assert batch["status"] == "SUCCEEDED"


@case(BASH + "echo done")
def test_a_job_that_asks_for_nothing_leaves_resources_to_the_job_definition(job):
    (batch,) = job.finish().batch()
    definition = job.site.batch.describe_job_definitions(jobDefinitions=[batch["jobDefinition"]])["jobDefinitions"][0]
    by_type = {entry["type"]: entry["value"] for entry in batch["container"]["resourceRequirements"]}
    assert by_type == {entry["type"]: entry["value"] for entry in definition["containerProperties"]["resourceRequirements"]}


@case(
    BASH + "head -c 1000000 /dev/urandom > data; for ((i = 0; i < 1500000; i++)); do :; done",
    "transfer_input_files = in",
    {"in": b"x" * 50000},
)
def test_usage_is_in_the_job_ad_and_in_the_user_log(job):
    event, ad = job.wait(TERMINATED), job.ad
    assert ad["RemoteUserCpu"] > 0
    assert ad["BytesSent"] >= 1_000_000
    assert ad["BytesRecvd"] >= 50_000
    assert ad["NumRestarts"] == 0
    assert ad["RemoteWallClockTime"] >= 0
    # HTCondor's gridmanager leaves the bytes in a user log at 0, whatever the job ad has.
    assert re.search(r"Usr 0 00:00:0[1-9], Sys 0 00:00:\d\d  -  Run Remote Usage", event.text)
    assert re.search(r"Cpus +: +1 *$", event.text, re.M)
    assert re.search(rf"Memory \(MB\) +: +{ad['MemoryProvisioned']} *$", event.text, re.M)


@case(BASH, "transfer_input_files = not.there")
def test_a_missing_input_holds_the_job_at_once_and_is_named(job):
    event = job.wait(HELD)
    assert "not.there" in event.text
    assert job.count(GRID_SUBMITTED) == job.count(EXECUTING) == 0
    assert "not.there" in job.attribute("HoldReason")
    assert job.batch() == []


@case(BASH + "echo something; for ((i = 0; i < 300000; i++)); do :; done", "transfer_output_files = made.not")
def test_an_output_that_was_not_made_holds_the_job_and_is_named(job):
    job.wait(HELD)
    ad = job.ad
    assert "made.not" in ad["HoldReason"]
    assert ad["HoldReasonCode"] == 12
    assert job.text() == "something\n"
    assert ad["RemoteUserCpu"] > 0
    assert ad["BytesSent"] >= len("something\n")
    assert ad["CpusProvisioned"] == 1


@case(BASH + "exit 3", 'on_exit_hold = ExitCode == 3\non_exit_hold_reason = "three"\non_exit_hold_subcode = 33')
def test_on_exit_hold_holds_a_job_for_its_exit_code(job):
    job.wait(HELD)
    ad = job.ad
    assert (ad["HoldReason"], ad["HoldReasonCode"], ad["HoldReasonSubCode"]) == ("three", 3, 33)
    (batch,) = job.batch_over()
    assert batch["container"]["exitCode"] == 3


@case(BASH + "sleep 600", "periodic_remove = JobStatus == 2")
def test_periodic_remove_takes_the_job_out_of_batch(job):
    job.wait(ABORTED)
    (batch,) = job.batch_over()
    assert batch["status"] == "FAILED"


@case(BASH + "echo kept", "leave_in_queue = JobStatus == 4")
def test_leave_in_queue_keeps_a_completed_job_until_it_is_removed(job):
    job.finish()
    assert job.in_queue()
    assert (job.attribute("JobStatus"), job.attribute("ExitCode")) == (4, 0)
    job.do("condor_rm")
    until(lambda: not job.in_queue(), "the job stays in the queue")


@case(BASH + 'echo "$1 $((3 * $1))"', "arguments = $(Process)\noutput = out.$(Process)", queue="queue 60")
def test_sixty_jobs_of_one_cluster_each_run_once(jobs):
    for number, job in enumerate(jobs):
        assert job.finish().text(f"out.{number}") == f"{number} {3 * number}\n"
    cluster = jobs[0].id.partition(".")[0]
    batch = jobs[0].site.batch_jobs(f"{cluster}-")
    assert [job["status"] for job in batch] == ["SUCCEEDED"] * 60
    assert len({job["jobName"] for job in batch}) == 60


@case(
    BASH + "pwd > where; cat given; echo new > made",
    "remote_initialdir = {folder}/other\ntransfer_input_files = given",
    {"other/given": "g"},
)
def test_remote_initialdir_is_where_a_job_reads_and_writes(job):
    job.finish()
    assert (job.folder / "other" / "out").read_text() == "g"
    assert (job.folder / "other" / "made").read_text() == "new\n"


@case(BASH + "echo never", "batch_queue = forbidden")
def test_a_queue_that_is_not_allowed_holds_the_job_with_the_names_of_those_that_are(job):
    job.wait(HELD)
    assert re.search(r"batch_queue = forbidden is not allowed.*other", job.attribute("HoldReason"))
    assert job.batch() == []


@case(BASH + "echo elsewhere", "batch_queue = other")
def test_a_queue_that_is_allowed_is_where_the_job_goes(job):
    assert job.finish().text() == "elsewhere\n"
    assert job.batch() == []
    (batch,) = job.site.batch_jobs(f"{job.id.replace('.', '-')}-", queue="other")
    assert batch["status"] == "SUCCEEDED"


@case(BASH + "echo never", "request_memory = 1")
def test_less_memory_than_batch_takes_holds_the_job_with_what_to_raise(job):
    job.wait(HELD)
    assert "Raise request_memory" in job.attribute("HoldReason")


# 40 s here: all cases of a version start together, and this one must have come as far as its program by then.
@case(BASH + "sleep 600", "batch_runtime = 800")
def test_a_job_over_its_time_limit_ends_by_signal_and_says_why(job):
    assert "Abnormal termination (signal 15)" in job.wait(TERMINATED).text
    assert "timeout" in job.attribute("ExitReason")


@case(BASH + 'until [ -e "$1" ]; do sleep 0.2; done; echo waited for', "arguments = {folder}/go")
def test_condor_q_condor_wait_and_condor_history_show_a_job_on_its_way(job):
    pool = job.site.pool
    job.wait(EXECUTING)
    (batch,) = job.batch()
    rows = pool.run("condor_q", "-grid", job.id).stdout
    assert re.search(rf"^ *{job.id} .*awsbatch.*{batch['jobName']} *$", rows, re.M), rows
    assert batch["jobName"] in pool.run("condor_q", "-af", "GridJobId", "-constraint", f"ClusterId == {job.id[:-2]}").stdout
    job.site.write(job.folder / "go", "")
    pool.run("condor_wait", "-wait", "100", "log", folder=job.folder)
    assert job.text() == "waited for\n"
    until(
        lambda: pool.run("condor_history", job.id, "-af", "ExitCode").stdout.strip() == "0", "the history does not have the job"
    )


# The same submit file on a local pool: with only universe and grid_resource changed, the same files come of it.
TRANSFER = "should_transfer_files = YES\nwhen_to_transfer_output = ON_EXIT\n"
SPOKEN = ["A=b c", "B=it's"]
TWINS = {
    "arguments and environment": Case(
        BASH + 'printf "<%s>" "$@" "$A" "$B"; echo "cwd has: $(ls program 2>/dev/null)" >&2; exit 0',
        f"arguments = {quoted_v2(AWKWARD)}\nenvironment = {quoted_v2(SPOKEN)}",
    ),
    "stdin and a failing exit": Case(BASH + "tr a-z A-Z; exit 9", "input = text", {"text": "some lower\ncase text"}),
    "files named in and out": Case(
        BASH + "find in1 d f -type f | sort; cat in1 d/x f > all; mkdir o o/p; cp in1 o/p/q; cp d/x r; chmod 750 all",
        'transfer_input_files = in1, d, flat/\ntransfer_output_files = all, o, r\ntransfer_output_remaps = "r=s"',
        {"in1": "1", "d/x": b"\0\1\2", "flat/f": "ff"},
    ),
    "no outputs named": Case(
        BASH + "echo new > new; echo more >> in1; mkdir sub; echo no > sub/no; cat in2 > /dev/null; echo text",
        "transfer_input_files = in1, in2",
        {"in1": "1\n", "in2": "2\n"},
    ),
    "no outputs wanted": Case(BASH + "echo new > new; echo text", 'transfer_output_files = ""'),
    "output of a deeper name": Case(
        BASH + "mkdir -p a/b; echo 1 > a/b/c; echo 2 > a/two", "transfer_output_files = a/b/c, a/two"
    ),
    "an end by a signal": Case(BASH + "echo before; echo new > new; kill -TERM $$"),
    "output and error in one file": Case(BASH + "echo 1; echo 2 >&2; echo 3", "error = out"),
    "an input that is a link": Case(
        BASH + "cat link d/inner", "transfer_input_files = link, d", {"aim": "at last\n", "link": Path("aim"), "d/inner": "i\n"}
    ),
    "hidden files": Case(
        BASH + "ls -A .given d; echo new > .new; cp .given .copied",
        "transfer_input_files = .given, d",
        {".given": "g\n", "d/.inner": "i\n"},
    ),
    "a remap into a directory": Case(
        BASH + "echo 1 > r; mkdir o; echo 2 > o/x",
        'transfer_output_files = r, o\ntransfer_output_remaps = "r=kept/renamed"',
        {"kept/here": ""},
    ),
    "streams in directories": Case(
        BASH + "echo 1; echo 2 >&2", "output = streams/first\nerror = streams/second", {"streams/here": ""}
    ),
    "a program that is there already": Case(
        "", "executable = /bin/echo\ntransfer_executable = false\narguments = hello there"
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def twins(site):
    """Each of TWINS twice, through AWS Batch and on the pool's own machine."""
    pairs = {}
    for name, what in TWINS.items():
        common = dataclasses.replace(what, submit=f"{TRANSFER}{what.submit}")
        local = dataclasses.replace(common, universe=VANILLA)
        folder = name.replace(" ", "-")
        pairs[name] = (site.submit(common, folder)[0], site.submit(local, f"{folder}-vanilla")[0])
    return pairs


@pytest.mark.parametrize("name", TWINS)
def test_a_submit_file_for_a_local_pool_gives_the_same_files_through_batch(twins, name):
    through_batch, vanilla = twins[name]
    through_batch.finish()
    vanilla.finish()
    assert snapshot(through_batch.folder) == snapshot(vanilla.folder)
    for attribute in ("ExitCode", "ExitSignal", "ExitBySignal", "JobStatus"):
        assert through_batch.attribute(attribute) == vanilla.attribute(attribute)
