"""The way of a job through S3 and the real runner: what the program is given, and how its end is told."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gahp.model import to_bytes, to_text
from gahp.sandbox.manifest import runner

if TYPE_CHECKING:
    from conftest import Site


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


EVERY_BYTE = bytes(range(1, 256))


def test_streams_are_separate_and_complete_and_copied_to_the_log(site: Site) -> None:
    outcome, ended = site.execute(site.request("echo to out; echo to err >&2; exit 7"))
    assert (outcome.exit_code, outcome.exit_signal, outcome.phase, outcome.missing) == (7, None, "", ())
    assert (site.iwd / "job.out").read_bytes() == b"to out\n"
    assert (site.iwd / "job.err").read_bytes() == b"to err\n"
    assert ended.code == 7
    assert ended.log == b"to out\n"
    assert ended.errors == b"to err\n"


def test_a_small_job_costs_three_objects(site: Site) -> None:
    site.execute(site.request("echo hello > made"))
    assert site.keys() == [f"runs/{site.run}/0/claim", f"runs/{site.run}/0/result", f"runs/{site.run}/manifest"]


def test_a_copy_that_finds_the_claim_of_another_job_ends_without_running_and_without_a_result(site: Site) -> None:
    site.sandbox.stage(site.run, site.request("echo ran > made"))
    first = site.wait(site.start(AWS_BATCH_JOB_ID="first"))
    assert first.code == 0
    assert site.sandbox.claimant(site.run, 0) == "first"
    site.client.delete_object(Bucket="jobs", Key=f"{site.prefix}/runs/{site.run}/0/result")
    second = site.wait(site.start(AWS_BATCH_JOB_ID="second"))
    assert second.code == 125
    assert b"not run: the Batch job first has this submission" in second.errors
    assert site.keys(f"runs/{site.run}/0") == [f"runs/{site.run}/0/claim"]
    again = site.wait(site.start(AWS_BATCH_JOB_ID="first", AWS_BATCH_JOB_ATTEMPT="2"))
    assert again.code == 0
    assert f"runs/{site.run}/0/result" in site.keys(f"runs/{site.run}/0")


@pytest.mark.parametrize("tool", ["s5cmd", "aws"])
def test_a_copy_of_a_submission_that_has_been_revoked_ends_without_running(site: Site, tool: str) -> None:
    site.sandbox.stage(site.run, site.request("echo ran > made"))
    assert site.sandbox.revoke(site.run, 0) == ""
    assert site.wait(site.start(tool=tool)).code == 125
    assert site.keys(f"runs/{site.run}/0") == [f"runs/{site.run}/0/claim"]


def first_ran(site: Site, script: str = "echo ran > made") -> bytes:
    """The Batch job `first` has run the job; its result."""
    site.sandbox.stage(site.run, site.request(script))
    assert site.wait(site.start(AWS_BATCH_JOB_ID="first")).code == 0
    return site.object("0/result")


def test_a_claim_that_cannot_be_read_is_not_taken_for_absent_because_of_a_404_in_its_url(site: Site) -> None:
    site.run = "14043-0-abc"
    result = first_ran(site)
    path = site.spoiled("/claim", "InternalError: We encountered an internal error. status code: 500", times=1)
    second = site.wait(site.start(AWS_BATCH_JOB_ID="second", PATH=path))
    assert second.code == 125
    assert b"not run: the Batch job first has this submission" in second.errors
    assert (site.sandbox.claimant(site.run, 0), site.object("0/result")) == ("first", result)


@pytest.mark.parametrize("trouble", [{"GAHP_SCRATCH": "/no/such/directory"}, "SlowDown: status code: 503"])
def test_a_copy_that_fails_before_it_could_claim_writes_nothing_over_the_result_of_the_one_that_ran(site: Site, trouble) -> None:
    result = first_ran(site)
    more = trouble if isinstance(trouble, dict) else {"PATH": site.spoiled("/claim", trouble)}
    assert site.wait(site.start(AWS_BATCH_JOB_ID="second", **more)).code == 125
    assert site.object("0/result") == result


def test_a_copy_that_is_told_to_end_while_it_claims_writes_nothing_over_the_result_of_the_one_that_ran(site: Site) -> None:
    result = first_ran(site)
    path = site.spoiled("/claim", "cut off", times=1, wait_s=60)
    second = site.start(AWS_BATCH_JOB_ID="second", PATH=path)
    until = time.monotonic() + 30
    while not (site.iwd.parent / "spoiled/count").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    assert site.wait(second).code == 125
    assert site.object("0/result") == result


@pytest.mark.parametrize(("sends", "told"), [("1", True), ("2", False)])
def test_a_job_role_that_may_not_read_is_told_where_no_other_copy_can_be(site: Site, sends: str, told: bool) -> None:
    request = site.request("echo ran")
    site.sandbox.stage(site.run, request)
    path = site.spoiled("/claim", "AccessDenied: Access Denied status code: 403")
    assert site.wait(site.start(PATH=path, GAHP_SENDS=sends)).code == 125
    outcome = site.sandbox.collect(site.run, 0, request)
    assert (outcome is not None and outcome.message.startswith("The container cannot claim the run")) is told


def test_a_container_without_a_place_to_work_in_is_told_by_the_copy_that_claims_the_run(site: Site) -> None:
    request = site.request("echo ran")
    site.sandbox.stage(site.run, request)
    assert site.wait(site.start(GAHP_SCRATCH="/no/such/directory")).code == 125
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None
    assert outcome.message.startswith("The container has no directory to work in")
    assert site.sandbox.claimant(site.run, 0)


def test_of_copies_that_were_sent_twice_and_start_at_once_one_runs(site: Site) -> None:
    site.sandbox.stage(site.run, site.request("echo ran > made"))
    ids = ("one", "two", "three")
    copies = [site.start(AWS_BATCH_JOB_ID=name, GAHP_SENDS="2", GAHP_CLAIM_TIME="2") for name in ids]
    codes = [site.wait(copy).code for copy in copies]
    assert sorted(codes) == [0, 125, 125]
    assert site.sandbox.claimant(site.run, 0) == ids[codes.index(0)]


def test_an_output_file_of_one_name_merges_both_streams_in_order(site: Site) -> None:
    site.execute(site.request("echo 1; echo 2 >&2; echo 3; echo 4 >&2", stdout="both", stderr=str(site.iwd / "both")))
    assert (site.iwd / "both").read_bytes() == b"1\n2\n3\n4\n"
    assert not (site.iwd / "job.err").exists()


def test_discarded_streams_are_in_the_log_only(site: Site) -> None:
    _, ended = site.execute(site.request("echo out; echo err >&2", stdout="", stderr="/dev/null"))
    assert (ended.log, ended.errors) == (b"out\n", b"err\n")
    assert [path.name for path in site.iwd.iterdir()] == ["program"]


def test_arguments_arrive_byte_for_byte(site: Site) -> None:
    arguments = ("", "two words", "it's", '"', "$HOME `x` $(y) \\", "new\nline", "-n", "*", to_text(EVERY_BYTE), "x" * 131_071)
    site.execute(site.request(r"printf '%s\0' $# '' ; printf '%s\0' " + '"$@"', arguments=arguments))
    told = (site.iwd / "job.out").read_bytes().split(b"\0")
    assert told[:2] == [str(len(arguments)).encode(), b""]
    assert told[2:-1] == [to_bytes(argument) for argument in arguments]


def test_environment_arrives_byte_for_byte_whatever_the_names(site: Site) -> None:
    variables = {
        "A": "",
        "B.C-d": "x y",
        "1ST": "one",
        "-f": "dash",
        "ALL": to_text(EVERY_BYTE),
        "é": "ü",
        "LC_ALL": "C.UTF-8",
        "PATH": "/bin",
    }
    site.execute(
        site.request(
            executable="/usr/bin/env", arguments=("-0",), transfer_executable=False, environment=tuple(variables.items())
        )
    )
    told = dict(entry.split(b"=", 1) for entry in (site.iwd / "job.out").read_bytes().split(b"\0") if entry)
    for name, value in variables.items():
        assert told[to_bytes(name)] == to_bytes(value)


def test_environment_is_the_containers_without_the_runners(site: Site) -> None:
    request = site.request(executable="/usr/bin/env", arguments=("-0",), transfer_executable=False)
    site.execute(request, **{"OF_THE_IMAGE": "1", "GAHP_ANY": "1", "BATCH_FILE_ANY": "1", "not a name": "kept"})
    told = dict(entry.split(b"=", 1) for entry in (site.iwd / "job.out").read_bytes().split(b"\0") if entry)
    assert told[b"OF_THE_IMAGE"] == b"1" and told[b"not a name"] == b"kept"
    assert told[b"AWS_BATCH_JOB_ID"] and told[b"PATH"] == site.tools["s5cmd"].encode()
    assert told[b"PWD"] == told[b"_CONDOR_SCRATCH_DIR"]
    assert not [name for name in told if name.startswith((b"GAHP_", b"BATCH_FILE_")) or name in (b"LC_ALL", b"_", b"SHLVL")]


def test_the_program_starts_in_its_scratch_directory_with_its_input_only(site: Site) -> None:
    (site.iwd / "data").write_text("x")
    site.execute(site.request('[ "$PWD" = "$_CONDOR_SCRATCH_DIR" ] && ls -A', inputs=("data",), stdin="data"))
    assert (site.iwd / "job.out").read_text() == "data\nprogram\n"


def test_standard_input_is_the_file_or_nothing(site: Site) -> None:
    (site.iwd / "in put").write_bytes(EVERY_BYTE)
    site.execute(site.request("cat", stdin="in put"))
    assert (site.iwd / "job.out").read_bytes() == EVERY_BYTE
    (site.iwd / "large").write_bytes(EVERY_BYTE * 1000)
    site.execute(site.request("cat", stdin="large"), submission=2)
    assert (site.iwd / "job.out").read_bytes() == EVERY_BYTE * 1000
    outcome, _ = site.execute(site.request("read line; echo $?"), submission=1)
    assert (site.iwd / "job.out").read_bytes() == b"1\n"
    assert outcome.bytes_received == os.path.getsize(site.iwd / "program")


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 128, 129, 137, 139, 143, 255])
def test_an_exit_is_an_exit_whatever_its_code(site: Site, code: int) -> None:
    outcome, ended = site.execute(site.request(f"exit {code}"))
    assert (outcome.exit_code, outcome.exit_signal, outcome.phase) == (code, None, "")
    assert ended.code == code


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "KILL", "SEGV", "PIPE", "TERM", "XFSZ", "ABRT"])
def test_a_death_by_signal_is_told_from_an_exit(site: Site, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    outcome, ended = site.execute(site.request(f"ulimit -c 0; exec sh -c 'kill -{name} $$; sleep 5'"))
    assert (outcome.exit_code, outcome.exit_signal, outcome.phase) == (None, number, "")
    assert ended.code == 128 + number


def test_a_real_time_signal_has_its_number(site: Site) -> None:
    outcome, _ = site.execute(site.request("kill -37 $$; sleep 5"))
    assert (outcome.exit_code, outcome.exit_signal) == (None, 37)


def test_a_program_that_was_stopped_and_goes_on_has_not_ended(site: Site) -> None:
    outcome, _ = site.execute(site.request("(sleep 0.3; kill -CONT $$) & kill -STOP $$; exit 4"))
    assert (outcome.exit_code, outcome.exit_signal) == (4, None)


def test_times_cpu_and_sizes_are_recorded(site: Site) -> None:
    (site.iwd / "in").write_bytes(b"i" * 3000)
    script = "for ((i = 0; i < 60000; i++)); do :; done; head -c 50000 /dev/zero > big; echo text"
    outcome, _ = site.execute(site.request(script, inputs=("in",)))
    assert outcome.user_cpu_s and outcome.user_cpu_s > 0 and outcome.system_cpu_s is not None
    assert outcome.started and outcome.finished and outcome.finished > outcome.started > 1_700_000_000
    assert outcome.disk_kib and 50 <= outcome.disk_kib <= 100
    assert outcome.bytes_received == 3000 + os.path.getsize(site.iwd / "program")
    assert outcome.bytes_sent == 50000 + 5
    assert (outcome.peak_memory_mib, outcome.oom, outcome.terminated, outcome.attempt) == (None, False, False, 1)


def test_memory_and_oom_come_from_the_containers_cgroup(site: Site) -> None:
    cgroup = site.iwd / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.peak").write_text("104857601\n")
    (cgroup / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    script = f"printf 'low 0\\noom 2\\noom_kill 2\\n' > {cgroup}/memory.events; kill -KILL $$"
    outcome, _ = site.execute(site.request(script), GAHP_CGROUP=str(cgroup))
    assert (outcome.peak_memory_mib, outcome.oom, outcome.exit_signal) == (101, True, signal.SIGKILL)


def test_an_older_kernels_cgroup_is_understood(site: Site) -> None:
    cgroup = site.iwd / "cgroup"
    (cgroup / "memory").mkdir(parents=True)
    (cgroup / "memory/memory.max_usage_in_bytes").write_text("1048576\n")
    (cgroup / "memory/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    outcome, _ = site.execute(site.request("true"), GAHP_CGROUP=str(cgroup))
    assert (outcome.peak_memory_mib, outcome.oom) == (1, False)


def test_a_missing_program_of_the_image_is_a_failed_start(site: Site) -> None:
    outcome, ended = site.execute(site.request(executable="/no/such/program", transfer_executable=False))
    assert (outcome.phase, outcome.exit_code, outcome.exit_signal, ended.code) == ("start", None, None, 125)
    assert "/no/such/program does not exist in the container" in outcome.message
    assert (site.iwd / "job.out").read_bytes() == b""


def test_a_program_of_the_image_that_is_not_executable_is_a_failed_start(site: Site) -> None:
    outcome, _ = site.execute(site.request(executable="/etc/passwd", transfer_executable=False))
    assert outcome.phase == "start"
    assert "/etc/passwd is not an executable file" in outcome.message


def test_a_program_without_its_interpreter_is_a_failed_start(site: Site) -> None:
    (site.iwd / "program").write_text("#!/no/such/interpreter\n")
    outcome, _ = site.execute(site.request())
    assert (outcome.phase, outcome.exit_code) == ("start", None)
    assert "program cannot be executed in the container: No such file or directory" in outcome.message


@pytest.mark.parametrize("name", ["a=b", "with space", "-n", "üñí", "new\nline", "quote'\"$x"])
def test_a_program_may_have_any_name_and_becomes_executable(site: Site, name: str) -> None:
    program = site.iwd / name
    program.write_text("#!/bin/sh\nprintf '%s' \"${0##*/}\"; exit 3")
    program.chmod(0o640)
    outcome, _ = site.execute(site.request(executable=str(program)))
    assert outcome.exit_code == 3
    assert (site.iwd / "job.out").read_text() == name
    assert stat.S_IMODE(program.stat().st_mode) == 0o640


def test_a_program_named_without_a_slash_is_looked_up_on_the_path(site: Site) -> None:
    site.execute(site.request(executable="echo", arguments=("found",), transfer_executable=False))
    assert (site.iwd / "job.out").read_text() == "found\n"


def test_fifty_megabytes_of_output_arrive_and_reach_the_log(site: Site) -> None:
    outcome, ended = site.execute(site.request("head -c 50000000 /dev/zero | tr '\\0' x; echo end >&2"))
    assert outcome.exit_code == 0
    assert (site.iwd / "job.out").read_bytes() == b"x" * 50_000_000
    assert (site.iwd / "job.err").read_bytes() == b"end\n"
    assert ended.log == b"x" * 50_000_000


def test_a_descendant_that_keeps_the_streams_open_holds_nobody_up(site: Site) -> None:
    script = "setsid sleep 1000 & echo $!; (trap '' TERM HUP; sleep 1000) & echo $!"
    outcome, ended = site.execute(site.request(script))
    assert outcome.exit_code == 0
    left = (site.iwd / "job.out").read_text()
    assert left == ended.log.decode()
    assert [pid for pid in left.split() if is_running(pid)] == []


def test_the_aws_command_serves_where_there_is_no_s5cmd(site: Site) -> None:
    (site.iwd / "large").write_bytes(os.urandom(200_000))
    script = "cat large; head -c 2000000 /dev/zero > big; exit 9"
    outcome, ended = site.execute(site.request(script, inputs=("large",), outputs=("big",)), tool="aws")
    assert (outcome.exit_code, ended.code, outcome.missing) == (9, 9, ())
    assert (site.iwd / "job.out").read_bytes() == (site.iwd / "large").read_bytes()
    assert (site.iwd / "big").read_bytes() == bytes(2_000_000)


def test_a_container_without_tools_for_s3_says_so(site: Site, tmp_path: Path) -> None:
    path = site.bare_path(tmp_path / "bare")
    (tmp_path / "bare/s5cmd").unlink()
    site.sandbox.stage(site.run, site.request("true"))
    ended = site.wait(site.start(PATH=path))
    assert ended.code == 125
    assert b"neither s5cmd nor aws" in ended.errors


def test_the_runner_alone_is_no_program_and_keeps_its_file(site: Site) -> None:
    script = site.iwd / "runner.sh"
    script.write_bytes(runner())
    ended = subprocess.run(["/bin/bash", str(script)], env=site.environment(), capture_output=True, check=False)
    assert ended.returncode == 2 and b"not a program to call" in ended.stderr
    assert script.exists()


@pytest.mark.parametrize("script", ["exit 3", "kill -KILL $$"])
def test_a_program_that_is_over_before_the_runner_looks_has_ended_as_it_ended(site: Site, script: str) -> None:
    """On a busy machine a short program is: here the runner is made to look half a second late."""
    request = site.request(script)
    site.sandbox.stage(site.run, request)
    manifest, place = site.object("manifest"), b"    supervisor=$!\n"
    assert manifest.count(place) == 1
    late = manifest.replace(place, place + b"    sleep 0.5\n")
    (begin,) = re.findall(rb"\nPAYLOAD=([0-9]{10})", late)
    site.put("manifest", late.replace(begin, b"%010d" % (int(begin) + len(late) - len(manifest)), 1))
    site.wait(site.start())
    outcome = site.sandbox.collect(site.run, 0, request)
    assert (outcome.exit_code, outcome.exit_signal, outcome.message) == ((3, None, "") if "exit" in script else (None, 9, ""))
