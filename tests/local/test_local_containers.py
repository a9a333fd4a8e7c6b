"""What a container is on this machine: its environment, its limits, its output, and that nothing of it stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from gahp.local.process import isolation

# Allocates MiB of memory that is really used, and keeps it.
PROGRAM = 'import sys, time; data = bytearray(b"x") * (int(sys.argv[1]) << 20); time.sleep(float(sys.argv[2]))'
HOG = f"""exec python3 -c '{PROGRAM}' "$@" """


def with_word(word: str) -> list[int]:
    """Processes that have `word` among their arguments."""
    return [process.pid for process in psutil.process_iter(["cmdline"]) if word in (process.info["cmdline"] or ())]


def gone(condition: Callable[[], object]) -> bool:
    """Whether the condition ends within some seconds."""
    deadline = time.monotonic() + 10
    while condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not condition()


def test_the_environment_is_the_containers_and_nothing_else(account: Any) -> None:
    job = account.run("env -0 | tr '\\n\\0' '~\\n'", environment={"COLOUR": "light blue"})
    variables = dict(line.split("=", 1) for line in account.output(job))
    expected = {
        "COLOUR": "light blue",
        "AWS_BATCH_JOB_ID": job["jobId"],
        "AWS_BATCH_JOB_ATTEMPT": "1",
        "AWS_BATCH_JQ_NAME": "awsbatch-local-queue",
        "AWS_BATCH_CE_NAME": "awsbatch-local-environment",
        "AWS_ENDPOINT_URL": account.aws.endpoint,
        "S3_ENDPOINT_URL": account.aws.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "GAHP_CGROUP": "none",
    }
    assert {key: variables.get(key) for key in expected} == expected
    allowed = {*expected, "BATCH_FILE_TYPE", "BATCH_FILE_S3_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    allowed |= {"PATH", "HOME", "TMPDIR", "HOSTNAME", "PWD", "SHLVL", "_", "OLDPWD"}
    assert set(variables) <= allowed


def test_the_job_starts_in_a_scratch_directory_of_its_own_that_is_removed(account: Any) -> None:
    first = account.output(account.run('pwd; echo x > "$HOME/file"; mktemp; ls -A; stat -c %a .'))
    second = account.output(account.run("pwd"))
    assert first[0] != second[0]
    assert first[1].startswith(first[0] + "/")
    assert sorted(first[2:-1]) == ["file", "tmp"]
    assert first[-1] == "700"
    assert not Path(first[0]).exists()


def test_arguments_reach_the_program_as_they_are(account: Any) -> None:
    words = ["two words", "", "$HOME", "a'b\"c", "*", "-n", "ä"]
    job = account.run('for word in "$@"; do printf "<%s>\\n" "$word"; done', *words)
    assert account.output(job) == [f"<{word}>" for word in words]


def test_stdout_and_stderr_come_in_order_into_one_log_stream(account: Any) -> None:
    job = account.run("echo one; echo two >&2; echo three; printf four")
    assert account.output(job) == ["one", "two", "three", "four"]
    assert job["container"]["logStreamName"].startswith("awsbatch-local-job/default/")


def test_the_log_can_be_read_while_the_job_runs(account: Any) -> None:
    job_id = account.submit("echo early; sleep 100")
    account.wait_for_line(job_id, "early")
    assert account.describe(job_id)["status"] == "RUNNING"
    account.batch.terminate_job(jobId=job_id, reason="over")


def test_long_lines_and_bytes_that_are_no_text_are_logged(account: Any) -> None:
    lines = account.output(account.run("head -c 40000 /dev/zero | tr '\\0' x; echo; printf '\\377\\n'"))
    assert "".join(lines[:-1]) == "x" * 40000
    assert lines[-1] == "\N{REPLACEMENT CHARACTER}"


def test_a_job_that_uses_more_memory_than_it_asked_for_is_killed(account: Any) -> None:
    job = account.run(HOG, "200", "60", resources={"MEMORY": "100"})
    assert (job["status"], job["container"]["exitCode"]) == ("FAILED", 137)
    assert job["container"]["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    assert job["statusReason"] == "Essential container in task exited"


def test_memory_that_children_use_counts(account: Any) -> None:
    hog = HOG.removeprefix("exec ").strip()
    job = account.run(f"({hog}) & ({hog}) & wait", "60", "60", resources={"MEMORY": "100"})
    assert job["container"]["exitCode"] == 137


def test_a_job_within_its_memory_runs_to_its_end(account: Any) -> None:
    assert account.run(HOG, "50", "0.3", resources={"MEMORY": "128"})["status"] == "SUCCEEDED"


def test_a_job_out_of_time_fails_and_is_not_retried(account: Any) -> None:
    job = account.run("sleep 1000", timeout={"attemptDurationSeconds": 60}, retryStrategy={"attempts": 3})
    assert (job["status"], job["statusReason"], len(job["attempts"])) == ("FAILED", "Job attempt duration exceeded timeout", 1)
    assert job["container"]["exitCode"] in (137, 143)


def test_a_job_out_of_time_may_clean_up_on_sigterm(account: Any) -> None:
    text = "trap 'echo saved; exit 3' TERM; while :; do sleep 0.02; done"
    job = account.run(text, timeout={"attemptDurationSeconds": 100})
    assert (job["container"]["exitCode"], account.output(job)) == (3, ["saved"])


def test_descendants_end_with_the_job_even_in_sessions_of_their_own(account: Any) -> None:
    word = account.name() + "-left-behind"
    job = account.run(f"setsid -f bash -c 'sleep 1000; :' {word} >/dev/null 2>&1; sleep 0.1")
    assert job["status"] == "SUCCEEDED"
    assert gone(lambda: with_word(word))


def test_a_descendant_that_keeps_the_output_open_does_not_keep_the_job(account: Any) -> None:
    assert account.run("sleep 1000 & echo done")["status"] == "SUCCEEDED"


def test_where_the_system_allows_it_a_job_sees_only_its_own_processes(account: Any) -> None:
    lines = account.output(account.run("ls -d /proc/[0-9]*"))
    assert (len(lines) < 10) == bool(isolation())


def test_an_environment_that_no_process_can_have_fails_with_the_reason(account: Any) -> None:
    job = account.run("exit 0", environment={"WITH_NUL": "a\0b"})
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith("CannotStartContainerError: ")
    assert "exitCode" not in job["container"]


def test_overrides_beyond_8192_characters_fail_the_job(account: Any) -> None:
    job = account.run("exit 0", environment={"LONG": "x" * 8200})
    assert (job["status"], job["attempts"]) == ("FAILED", [])
    assert job["statusReason"] == "Container Overrides length must be at most 8192"


def test_the_container_has_the_credentials_to_use_s3(account: Any) -> None:
    text = 'echo result > file; s5cmd cp file "s3://awsbatch-local/from-job/$AWS_BATCH_JOB_ID"'
    job = account.run(text)
    assert account.s3.get_object(Bucket="awsbatch-local", Key=f"from-job/{job['jobId']}")["Body"].read() == b"result\n"
