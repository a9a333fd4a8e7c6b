"""SIGTERM, second attempts, full disks, a lost S3: exit.json gets out in every case that lets it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Site


def wait_for(path: Path, runner: subprocess.Popen) -> None:
    """Until the job has made `path`."""
    for _ in range(2000):
        if path.exists():
            return
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.01)
    raise AssertionError(f"{path} never came")


def terminated(site: Site, script: str, submission: int = 0, **fields: object):
    """Run `script` until it has touched its flag, send SIGTERM to the runner alone, collect."""
    flag = site.iwd.parent / f"flag{submission}"
    knobs = {key: fields.pop(key) for key in list(fields) if key.startswith("GAHP_")}
    request = site.request(script.replace("FLAG", str(flag)), **fields)
    site.sandbox.stage(site.run, request)
    runner = site.start(submission, **knobs)
    wait_for(flag, runner)
    runner.send_signal(signal.SIGTERM)
    ended = site.wait(runner)
    outcome = site.sandbox.collect(site.run, submission, request)
    assert outcome is not None, ended.errors
    return outcome, ended


def test_sigterm_is_forwarded_and_what_there_is_comes_back(site: Site) -> None:
    script = "echo before; echo partial > a; touch FLAG; sleep 100; echo never"
    outcome, ended = terminated(site, script, outputs=("a", "b"))
    assert (outcome.exit_signal, outcome.terminated, outcome.missing) == (signal.SIGTERM, True, ("b",))
    assert ended.code == 128 + signal.SIGTERM
    assert (site.iwd / "job.out").read_text() == "before\n"
    assert (site.iwd / "a").read_text() == "partial\n"


def test_a_program_may_end_well_after_sigterm(site: Site) -> None:
    script = "trap 'echo saved > a; exit 3' TERM; touch FLAG; while :; do sleep 0.1; done"
    outcome, _ = terminated(site, script, outputs=("a",))
    assert (outcome.exit_code, outcome.exit_signal, outcome.terminated) == (3, None, True)
    assert (site.iwd / "a").read_text() == "saved\n"


def test_children_of_the_program_get_sigterm_too(site: Site) -> None:
    script = "trap 'wait; exit 4' TERM; (trap 'echo child > a; exit' TERM; touch FLAG; while :; do sleep 0.1; done) & wait"
    outcome, _ = terminated(site, script, outputs=("a",))
    assert (outcome.exit_code, outcome.missing) == (4, ())


def test_a_program_that_ignores_sigterm_is_killed_and_its_output_still_sent(site: Site) -> None:
    script = "trap '' TERM; echo deaf; touch FLAG; while :; do sleep 0.1; done"
    outcome, _ = terminated(site, script, GAHP_GRACE="0.5")
    assert (outcome.exit_signal, outcome.terminated) == (signal.SIGKILL, True)
    assert (site.iwd / "job.out").read_text() == "deaf\n"


def with_s5cmd(site: Site, before: str) -> str:
    """A PATH with an s5cmd that runs `before`, a piece of shell, and then the real one."""
    tools = site.iwd.parent / "tools"
    tools.mkdir()
    real = site.tools["s5cmd"].partition(":")[0] + "/s5cmd"
    (tools / "s5cmd").write_text(f'#!/bin/bash\n{before}\nexec {real} "$@"\n')
    (tools / "s5cmd").chmod(0o755)
    return f"{tools}:/usr/bin:/bin"


class _Stuck:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.asked = threading.Event()
        self.open: list[socket.socket] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(connection)
            self.asked.set()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.open:
            connection.close()
        self.thread.join()


@pytest.fixture
def stuck() -> Iterator[_Stuck]:
    server = _Stuck()
    yield server
    server.close()


def test_sigterm_while_input_is_fetched_ends_the_fetching(site: Site, stuck: _Stuck) -> None:
    request = site.request("true", inputs=(f"{stuck.url}/slow",))
    site.sandbox.stage(site.run, request)
    runner = site.start()
    assert stuck.asked.wait(20)
    runner.send_signal(signal.SIGTERM)
    ended = site.wait(runner)
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None
    assert (outcome.phase, outcome.terminated, outcome.exit_code, ended.code) == ("stage_in", True, None, 125)
    assert outcome.message.startswith("The container was told to end while the input was being fetched: ")


def test_sigterm_while_output_is_sent_lets_it_finish(site: Site) -> None:
    """The upload waits until SIGTERM has been sent."""
    request = site.request("head -c 3000000 /dev/zero > big; exit 6", outputs=("big",))
    site.sandbox.stage(site.run, request)
    started = site.iwd.parent / "uploading"
    hold = f"touch {started}; for i in {{1..20}}; do [ -e {started}.go ] && break; sleep 0.1; done"
    path = with_s5cmd(site, f'case "$*" in *pipe*/out/*) {hold};; esac')
    runner = site.start(PATH=path)
    wait_for(started, runner)
    runner.send_signal(signal.SIGTERM)
    Path(f"{started}.go").touch()
    ended = site.wait(runner)
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None
    assert (outcome.exit_code, outcome.phase, outcome.terminated, outcome.missing, ended.code) == (6, "", False, (), 6)


def test_an_upload_that_takes_too_long_after_sigterm_is_given_up_for_the_result(site: Site) -> None:
    script = "head -c 3000000 /dev/zero > big; echo small > small; touch FLAG; sleep 100"
    path = with_s5cmd(site, 'case "$*" in *pipe*/out/*) sleep 100;; esac')
    flag = site.iwd.parent / "flag"
    request = site.request(script.replace("FLAG", str(flag)), outputs=("big", "small"))
    site.sandbox.stage(site.run, request)
    runner = site.start(PATH=path, GAHP_GRACE="0", GAHP_SEND_TIME="0.5")
    wait_for(flag, runner)
    runner.send_signal(signal.SIGTERM)
    site.wait(runner)
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None
    assert (outcome.phase, outcome.terminated, outcome.missing) == ("stage_out", True, ("big",))
    assert (site.iwd / "small").read_text() == "small\n"


# Second attempts


def test_a_second_attempt_does_not_run_a_job_that_has_ended(site: Site) -> None:
    count = site.iwd.parent / "count"
    request = site.request(f"echo run >> {count}; exit 7")
    first, _ = site.execute(request)
    ended = site.wait(site.start(AWS_BATCH_JOB_ATTEMPT="2"))
    assert (ended.code, count.read_text()) == (7, "run\n")
    assert site.sandbox.collect(site.run, 0, request) == first


@pytest.mark.parametrize("times", [1, 99])
def test_a_second_attempt_does_not_run_a_job_of_whose_first_s3_does_not_say_whether_it_has_ended(site: Site, times: int) -> None:
    count = site.iwd.parent / "count"
    request = site.request(f"echo run >> {count}; exit 7")
    first, _ = site.execute(request)
    path = site.spoiled("/result", "SlowDown: Please reduce your request rate. status code: 503", times=times)
    ended = site.wait(site.start(AWS_BATCH_JOB_ATTEMPT="2", PATH=path))
    assert (ended.code, count.read_text()) == (7 if times == 1 else 125, "run\n")
    assert site.sandbox.collect(site.run, 0, request) == first


def test_a_second_attempt_runs_a_job_whose_result_is_not_whole(site: Site) -> None:
    request = site.request("exit $((6 + AWS_BATCH_JOB_ATTEMPT))")
    site.execute(request)
    site.put("0/result", site.object("0/result")[:1200])
    assert site.wait(site.start(AWS_BATCH_JOB_ATTEMPT="2")).code == 8


def test_a_second_attempt_runs_a_job_whose_first_was_terminated(site: Site) -> None:
    outcome, _ = terminated(site, "[ $AWS_BATCH_JOB_ATTEMPT = 2 ] && exit 5; touch FLAG; sleep 100")
    assert (outcome.terminated, outcome.attempt) == (True, 1)
    ended = site.wait(site.start(AWS_BATCH_JOB_ATTEMPT="2"))
    again = site.sandbox.collect(site.run, 0, site.request())
    assert again is not None
    assert (ended.code, again.exit_code, again.terminated, again.attempt) == (5, 5, False, 2)


def test_a_second_attempt_runs_a_job_whose_first_left_nothing(site: Site) -> None:
    outcome, _ = site.execute(site.request("exit 8"), AWS_BATCH_JOB_ATTEMPT="3")
    assert (outcome.exit_code, outcome.attempt) == (8, 3)


# When something is full or gone


def test_exit_json_gets_out_although_the_disk_is_full(site: Site) -> None:
    """On a file system of 256 KiB where the system lets us mount one, else with files limited to 512 KiB."""
    script = "echo first; head -c 3000000 /dev/zero > big; echo $? >&2; cat /dev/zero > rest; exit 11"
    request = site.request(script, outputs=("big",))
    site.sandbox.stage(site.run, request)
    disk = site.host / "disk"
    disk.mkdir()
    mounts = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if mounts:
        inside = f'mount -t tmpfs -o size=256k,mode=700 tmpfs {disk} && exec "$0" "$@"'
        prefix = ("unshare", "--mount", "sh", "-c", inside)
    else:
        prefix = ("bash", "-c", 'ulimit -f 512; trap "" XFSZ; exec "$0" "$@"')
    ended = site.wait(site.start(prefix=prefix, GAHP_SCRATCH=str(disk)))
    disk.rmdir()
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None, ended.errors
    assert (outcome.exit_code, outcome.phase, ended.code) == (11, "", 11)
    assert (site.iwd / "job.out").read_text() == "first\n"
    assert 0 < (site.iwd / "big").stat().st_size < 3_000_000


def test_a_disk_too_small_for_the_input_is_a_stage_in_failure(site: Site) -> None:
    (site.iwd / "large").write_bytes(os.urandom(2_000_000))
    request = site.request("true", inputs=("large",))
    site.sandbox.stage(site.run, request)
    ended = site.wait(site.start(prefix=("bash", "-c", 'ulimit -f 1000; exec "$0" "$@"')))
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None, ended.errors
    assert (outcome.phase, ended.code) == ("stage_in", 125)
    assert outcome.message


def test_no_place_to_work_in_is_a_stage_in_failure(site: Site) -> None:
    outcome, ended = site.execute(site.request("true"), GAHP_SCRATCH="/no/such/place")
    assert (outcome.phase, ended.code) == ("stage_in", 125)
    assert "The container has no directory to work in: " in outcome.message and "/no/such/place" in outcome.message


def test_a_bucket_that_is_not_there_ends_it_with_125_before_anything_runs(site: Site) -> None:
    site.sandbox.stage(site.run, site.request("echo ran"))
    ended = site.wait(site.start(GAHP_RUN_URL="s3://no-such-bucket-here/runs/x"))
    assert (ended.code, ended.log) == (125, b"")
    assert b"it can neither read nor write s3://no-such-bucket-here/runs/x/0/claim" in ended.errors


def test_a_result_that_cannot_be_uploaded_ends_with_125(site: Site) -> None:
    site.sandbox.stage(site.run, site.request("exit 0"))
    ended = site.wait(site.start(PATH=site.spoiled("/result", "SlowDown: status code: 503")))
    assert ended.code == 125
    assert b"the result could not be uploaded" in ended.errors


def test_a_result_is_uploaded_although_s3_fails_at_first(site: Site) -> None:
    count = site.iwd.parent / "count"
    path = with_s5cmd(site, f'case "$*" in *pipe*result) echo >> {count}; [ "$(wc -l < {count})" -gt 2 ] || exit 1;; esac')
    outcome, ended = site.execute(site.request("echo x; exit 2"), PATH=path)
    assert (outcome.exit_code, ended.code) == (2, 2)
    assert ended.errors.count(b"could not upload") == 2


def test_a_job_that_was_not_submitted_by_us_is_told_so(site: Site) -> None:
    site.sandbox.stage(site.run, site.request("true"))
    ended = site.wait(site.start(GAHP_RUN_URL=""))
    assert ended.code == 125
    assert b"GAHP_RUN_URL is missing" in ended.errors


# Proxies


def test_a_proxy_is_private_known_to_the_job_and_refreshed(site: Site) -> None:
    proxy = site.iwd / "x509"
    proxy.write_text("old")
    proxy.chmod(0o644)
    flag = site.iwd.parent / "flag"
    script = f"""
stat -c %a "$X509_USER_PROXY"; cat "$X509_USER_PROXY"; echo; touch {flag}
for i in {{1..300}}; do [ "$(cat "$X509_USER_PROXY")" = new ] && break; sleep 0.05; done
stat -c %a "$X509_USER_PROXY"; cat "$X509_USER_PROXY"
"""
    request = site.request(script, proxy=str(proxy))
    site.sandbox.stage(site.run, request)
    runner = site.start(GAHP_PROXY_INTERVAL="0.05")
    wait_for(flag, runner)
    proxy.write_text("new")
    site.sandbox.refresh_proxy(site.run, str(proxy))
    site.wait(runner)
    assert site.sandbox.collect(site.run, 0, request) is not None
    assert (site.iwd / "job.out").read_text() == "600\nold\n600\nnew"
    assert sorted(path.name for path in site.iwd.iterdir()) == ["job.err", "job.out", "program", "x509"]


def test_a_job_without_a_proxy_asks_for_none(site: Site) -> None:
    site.execute(site.request("echo ${X509_USER_PROXY-none}"))
    assert (site.iwd / "job.out").read_text() == "none\n"
