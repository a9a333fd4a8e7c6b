"""Starting and stopping: the command for people, the class for tests, and that neither leaves anything behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gahp.local import LocalAws
from gahp.local.handle import read_state
from gahp.local.process import isolation
from gahp.model import Refused

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(directory: Path) -> Iterator[Command]:
    """Runs `condor_awsbatch local ACTION --dir ...`; whatever it started is ended afterwards."""

    def run(action: str, *words: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", "gahp.cli.main", "local", action, "--dir", str(directory), *words]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=False)

    yield run
    run("stop")


def sourced(directory: Path, text: str) -> str:
    """What a shell prints that has sourced the settings."""
    script = f'. "{directory}/env"; {text}'
    done = subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True)
    return done.stdout


def ended(pid: int) -> bool:
    """Whether the process ends within some seconds; one that only its parent's attention keeps has ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_start_status_reset_and_stop(command: Command, directory: Path) -> None:
    started = command("start", "--vcpus", "3")
    assert (started.returncode, started.stderr) == (0, "")
    assert f"source {directory}/env" in started.stdout
    assert (directory / "log").stat().st_mode & 0o777 == 0o600
    assert "3 vCPUs" in started.stdout
    state = read_state(directory)
    assert state is not None

    again = command("start")
    assert (again.returncode, "runs already" in again.stdout) == (0, True)
    assert read_state(directory) == state

    variables = dict(line.split("=", 1) for line in sourced(directory, "env").splitlines())
    assert variables["AWS_ENDPOINT_URL"] == state.endpoint
    assert variables["_CONDOR_AWSBATCH_S3_URL"] == "s3://awsbatch-local/gahp"
    assert variables["CONDOR_CONFIG"] == "ONLY_ENV"

    status = command("status")
    assert state.endpoint in status.stdout
    assert "none" in status.stdout

    aws = os.path.join(os.path.dirname(sys.executable), "aws")
    sourced(directory, f"{aws} s3api put-object --bucket awsbatch-local --key old >/dev/null")
    assert command("reset").returncode == 0
    assert "old" not in sourced(directory, f"{aws} s3 ls s3://awsbatch-local --recursive")

    stopped = command("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "The embedded AWS has ended.\n")
    assert ended(state.pid)
    assert {entry.name for entry in directory.iterdir()} <= {"lock", "log"}
    assert command("stop").returncode == 0


def test_its_files_are_for_its_owner_only(account: Any) -> None:
    directory = account.aws.directory
    assert directory.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes == {"env": 0o600, "server.json": 0o600, "log": 0o600, "lock": 0o600, "bin": 0o700, "scratch": 0o700}


def test_credentials_are_others_at_every_start_and_in_no_log(account: Any, directory: Path) -> None:
    with LocalAws(directory) as aws:
        assert aws.state.access_key != account.aws.state.access_key
        assert aws.state.secret_key != account.aws.state.secret_key
        assert aws.state.secret_key not in " ".join(psutil.Process(aws.pid).cmdline())
        assert aws.state.secret_key not in (directory / "log").read_text()


def test_status_and_reset_without_a_server_are_one_line(command: Command) -> None:
    for action in ("status", "reset"):
        answer = command(action)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert answer.stderr.count("\n") == 1
        assert "condor_awsbatch local start" in answer.stderr


@pytest.mark.parametrize("words", [("--vcpus", "0"), ("--memory", "abc"), ("--port", "70000")])
def test_wrong_words_are_refused_with_the_bounds(command: Command, words: tuple[str, str]) -> None:
    answer = command("start", *words)
    assert answer.returncode == 2
    assert "is not a whole number from" in answer.stderr


def test_a_port_that_is_taken_is_one_line(command: Command, account: Any) -> None:
    answer = command("start", "--port", account.aws.endpoint.rpartition(":")[2])
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.count("\n") == 1
    assert "is not to be had" in answer.stderr


def test_a_stale_state_file_of_another_process_is_not_believed(command: Command, directory: Path) -> None:
    directory.mkdir()
    state = {"pid": os.getpid(), "created": 1.0, "endpoint": "http://127.0.0.1:9", "access_key": "a", "secret_key": "b"}
    (directory / "server.json").write_text(json.dumps(state))
    assert command("status").returncode == 1
    assert command("stop").returncode == 0


def test_an_interrupted_start_leaves_no_process(directory: Path) -> None:
    arguments = [sys.executable, "-m", "gahp.cli.main", "local", "start", "--dir", str(directory)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (children := psutil.Process(process.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "condor_awsbatch: interrupted\n")
    assert all(ended(child.pid) for child in children)
    assert read_state(directory) is None


def test_stopping_ends_running_jobs(directory: Path) -> None:
    with LocalAws(directory) as aws:
        pid, job = aws.pid, start_sleeper(aws)
        assert psutil.pid_exists(job)
    assert ended(job)
    assert not psutil.pid_exists(pid)
    assert not (directory / "scratch").exists()


PARENT = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from test_local_lifecycle import start_sleeper
from gahp.local import LocalAws
aws = LocalAws(sys.argv[1])
aws.start()
print(aws.pid, start_sleeper(aws), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("victim", ["parent", "server"])
def test_a_kill_leaves_neither_server_nor_job(directory: Path, victim: str) -> None:
    arguments = [sys.executable, "-c", PARENT, str(directory), os.path.dirname(__file__)]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        server, job = map(int, parent.stdout.readline().split())
        os.kill(parent.pid if victim == "parent" else server, signal.SIGKILL)
        assert ended(job)
        assert ended(server)
    finally:
        parent.kill()
        parent.communicate()


def start_sleeper(aws: LocalAws) -> int:
    """Run a job that does not end; returns the id of one of its processes.

    Where the system allows no PID namespace, a killed server takes each job's first process with it and no other.
    """
    s3, batch = aws.client("s3"), aws.client("batch")
    word = f"sleeper-{os.getpid()}-{time.monotonic_ns()}"
    program = f"bash -c 'sleep 1000; :' {word}" if isolation() else f"exec -a {word} sleep 1000"
    s3.put_object(Bucket="awsbatch-local", Key="sleeper", Body=f"#!/bin/bash\n{program}\n".encode())
    environment = {"BATCH_FILE_TYPE": "script", "BATCH_FILE_S3_URL": "s3://awsbatch-local/sleeper"}
    batch.submit_job(
        jobName="sleeper",
        jobQueue="awsbatch-local-queue",
        jobDefinition="awsbatch-local-job",
        containerOverrides={"environment": [{"name": name, "value": value} for name, value in environment.items()]},
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in psutil.process_iter(["cmdline"]):
            if word in (process.info["cmdline"] or ()):
                return process.pid
        time.sleep(0.02)
    raise AssertionError("the job does not run")


def test_reset_ends_jobs_and_forgets_everything(directory: Path) -> None:
    with LocalAws(directory) as aws:
        job = start_sleeper(aws)
        aws.faults.stuck()
        aws.reset()
        assert ended(job)
        assert aws.status()["jobs"] == {}
        assert aws.faults.listed() == []
        assert "Contents" not in aws.client("s3").list_objects_v2(Bucket="awsbatch-local")
        start_sleeper(aws)


def test_without_the_extra_the_sentence_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"moto is not installed.*pip install"):
        LocalAws(directory).start()
