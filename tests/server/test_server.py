"""The program as the gridmanager starts it, without any AWS: greeting, pipes, signals, and what a person sees."""

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import types
from concurrent.futures import Future

import pytest

from gahp.cli.client import Client
from gahp.journal import JournalProblem
from gahp.server import Server, Service

GAHP = os.path.join(os.path.dirname(sys.executable), "awsbatch_gahp")


@pytest.fixture
def environment(tmp_path):
    """What the gridmanager gives: little. Nothing is configured."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LANG": "C",
        "CONDOR_CONFIG": "ONLY_ENV",
        "_CONDOR_AWSBATCH_STATE_DIR": str(tmp_path / "state"),
        "_CONDOR_AWSBATCH_LOG": str(tmp_path / "gahp.log"),
    }


def talk(environment, data, **more):
    return subprocess.run([GAHP], input=data, env=environment, capture_output=True, timeout=60, check=False, **more)


def test_the_greeting_is_the_first_line_and_short(environment):
    ran = talk(environment, b"")
    assert re.fullmatch(rb"\$GahpVersion: \d+\.\d+\.\d+ \w{3} \d+ \d{4} awsbatch\\ gahp \$\r\n", ran.stdout)
    assert len(ran.stdout) < 150
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_plain_pipes_get_the_bare_protocol(environment):
    ran = talk(environment, b"COMMANDS\r\nVERSION\nQUIT\n")
    lines = ran.stdout.split(b"\r\n")
    assert lines[1].startswith(b"S ASYNC_MODE_OFF ASYNC_MODE_ON BLAH_JOB_CANCEL")
    assert lines[2].startswith(b"S $GahpVersion:")
    assert lines[3:] == [b"S Server\\ exiting", b""]


def test_an_unfinished_last_line_is_no_command(environment):
    assert talk(environment, b"VERSION\nVERSI").stdout.count(b"\r\n") == 2


def test_a_greeting_in_a_locale_that_is_not_utf8_is_the_same(environment):
    ran = talk({**environment, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, b"VERSION\n")
    assert ran.stdout.count(b"$GahpVersion:") == 2


def test_a_configuration_that_is_not_there_is_named_in_the_pings_answer_and_nowhere_else(environment):
    with Client([GAHP], {**environment, "CONDOR_CONFIG": "/no/such/file"}) as gahp:
        code, message = gahp.perform("BLAH_PING", "awsbatch", wait_s=60)
    assert code == "1"
    assert message.startswith("HTCondor's configuration /no/such/file, which CONDOR_CONFIG names, does not exist: correct")
    assert talk({**environment, "CONDOR_CONFIG": "/no/such/file"}, b"VERSION\n").stderr == b""


@pytest.mark.parametrize(("level", "written"), [("DEBUG", "DEBUG INFO ERROR"), ("INFO", "INFO ERROR"), ("ERROR", "ERROR")])
def test_the_log_has_what_its_level_says(environment, tmp_path, level, written):
    """It begins, it tells a request, and it cannot work without its knobs: one level each."""
    with Client([GAHP], {**environment, "_CONDOR_AWSBATCH_LOG_LEVEL": level}) as gahp:
        gahp.perform("BLAH_PING", "awsbatch", wait_s=60)
    levels = re.findall(r"^\S+ \S+ \d+ ([A-Z]+) gahp\.server: ", (tmp_path / "gahp.log").read_text(), re.M)
    assert set(levels) == set(written.split())


def test_the_log_is_rotated_and_two_gahps_of_a_user_write_into_the_new_file(environment, tmp_path):
    environment |= {"_CONDOR_AWSBATCH_LOG_LEVEL": "DEBUG", "_CONDOR_AWSBATCH_MAX_LOG": "0.01"}
    log, old = tmp_path / "gahp.log", tmp_path / "gahp.log.1"
    with Client([GAHP], environment) as one, Client([GAHP], environment) as other:
        other.perform("BLAH_PING", "awsbatch", wait_s=60)
        for _ in range(1000):
            if old.exists():
                break
            one.perform("BLAH_PING", "awsbatch", wait_s=60)
        before = old.read_bytes()
        other.perform("BLAH_PING", "awsbatch", wait_s=60)
        assert f" {other.process.pid} DEBUG gahp.server: BLAH_PING" in log.read_text().splitlines()[-1]
        assert old.read_bytes() == before
    assert len(before) < 0.01 * 2**20
    assert [path.stat().st_mode & 0o777 for path in (log, old)] == [0o600, 0o600]


def test_sigterm_ends_it_with_0(environment):
    process = subprocess.Popen([GAHP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdin.close()
    process.stdout.close()


def test_a_client_that_reads_nothing_cannot_keep_sigterm_from_ending_it(environment):
    process = subprocess.Popen([GAHP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    os.set_blocking(process.stdin.fileno(), False)
    refused = 0
    while refused < 20:  # until it takes no more
        try:
            os.write(process.stdin.fileno(), b"COMMANDS\n" * 1000)
            refused = 0
        except BlockingIOError:
            refused += 1
            threading.Event().wait(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdin.close()
    process.stdout.close()


def test_whoever_writes_to_the_same_pipe_afterwards_finds_it_as_it_was(environment):
    script = f"{GAHP} < /dev/null; {sys.executable} -c 'import os; print(os.get_blocking(1))'"
    ran = subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split("\n")[1] == "True"


def test_a_slow_client_gets_every_line(environment):
    count = 20000
    process = subprocess.Popen([GAHP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    writer = threading.Thread(target=lambda: (process.stdin.write(b"COMMANDS\n" * count + b"QUIT\n"), process.stdin.flush()))
    writer.start()
    threading.Event().wait(0.5)
    out = process.stdout.read()
    writer.join()
    assert out.count(b"\nS ASYNC_MODE_OFF") == count
    assert out.endswith(b"S Server\\ exiting\r\n")
    assert process.wait(20) == 0
    process.stdin.close()
    process.stdout.close()


def test_a_closed_standard_input_is_the_end_of_input(environment):
    ran = subprocess.run(["bash", "-c", f"'{GAHP}' <&-"], env=environment, capture_output=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout[:14]) == (0, b"$GahpVersion: ")


def test_a_reader_that_has_gone_ends_it(environment):
    process = subprocess.Popen([GAHP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(b"VERSION\n")
    process.stdin.flush()
    assert process.wait(20) == 0
    process.stdin.close()


def test_without_configuration_every_request_says_what_to_set_and_the_server_goes_on(environment):
    with Client([GAHP], environment) as client:
        for command, *arguments in (
            ("BLAH_PING", "awsbatch"),
            ("BLAH_JOB_SUBMIT", '[ Cmd = "/bin/true"; Iwd = "/tmp" ]'),
            ("BLAH_JOB_STATUS", "awsbatch/20261122/x"),
            ("BLAH_JOB_CANCEL", "awsbatch/20261122/x"),
        ):
            code, message, *_ = client.perform(command, *arguments)
            assert code == "1"
            assert message.startswith("AWSBATCH_JOB_QUEUE is not set: give it in HTCondor's configuration")


def test_a_knob_that_is_set_later_is_seen_without_a_new_start(environment, tmp_path):
    config = tmp_path / "condor_config"
    config.write_text("# nothing yet\n")
    with Client([GAHP], {**environment, "CONDOR_CONFIG": str(config)}) as client:
        assert "AWSBATCH_JOB_QUEUE is not set" in client.perform("BLAH_PING", "awsbatch")[1]
        config.write_text("AWSBATCH_JOB_QUEUE = q\n")
        message, tries = "AWSBATCH_JOB_QUEUE is not set", 0
        while "AWSBATCH_JOB_QUEUE is not set" in message and tries < 200:
            message = client.perform("BLAH_PING", "awsbatch")[1]
            tries += 1
            threading.Event().wait(0.1)
        assert "AWSBATCH_JOB_DEFINITION is not set" in message


def test_thousands_of_random_lines_leave_it_alive_with_one_return_line_each(environment):
    chance = random.Random(5)
    words = [
        b"BLAH_PING",
        b"RESULTS",
        b"COMMANDS",
        b"ASYNC_MODE_ON",
        b"9",
        b"awsbatch",
        b"\\",
        b"\0",
        b"\xff",
        b" ",
        b"NULL",
        b"[ Cmd",
    ]
    lines = []
    for _ in range(3000):
        line = b" ".join(chance.choices(words, k=chance.randrange(6)))
        # A backslash before the line end would carry the token on into the next line.
        lines.append(line.rstrip(b"\\ ") + b"x")
    ran = talk(environment, b"".join(line + chance.choice([b"\n", b"\r\n"]) for line in lines) + b"QUIT\n")
    assert ran.returncode == 0
    assert ran.stdout.endswith(b"S Server\\ exiting\r\n")
    returned = [line for line in ran.stdout.split(b"\r\n")[1:-1] if line[:2] in (b"S", b"S ", b"E ", b"F ")]
    assert len(returned) == len(lines) + 1


def test_the_log_is_for_its_user_alone(environment, tmp_path):
    talk(environment, b"")
    with Client([GAHP], environment) as client:
        client.perform("BLAH_PING", "awsbatch")
    assert (tmp_path / "gahp.log").stat().st_mode & 0o777 == 0o600
    assert "AWSBATCH_JOB_QUEUE is not set" in (tmp_path / "gahp.log").read_text()


def test_a_log_that_cannot_be_opened_is_one_line_on_stderr_and_stops_nothing(environment):
    environment["_CONDOR_AWSBATCH_LOG"] = "/proc/no/such/gahp.log"
    with Client([GAHP], environment) as client:
        assert client.perform("BLAH_PING", "awsbatch")[0] == "1"
    ran = subprocess.run([GAHP], input=b"BLAH_PING 2 x\n", env=environment, capture_output=True, timeout=60, check=False)
    assert ran.returncode == 0
    assert ran.stderr.count(b"\n") <= 1


def test_a_person_who_asks_for_help_is_told_where_to_go(environment):
    ran = subprocess.run([GAHP, "--help"], env=environment, capture_output=True, text=True, check=True)
    assert "condor_awsbatch shell" in ran.stdout
    assert subprocess.run([GAHP, "--wrong"], env=environment, capture_output=True, check=False).returncode == 2


SITE = {
    "PYTHONUTF8": "1",  # else it would start itself anew, with nothing replaced
    "_CONDOR_AWSBATCH_JOB_QUEUE": "q",
    "_CONDOR_AWSBATCH_JOB_DEFINITION": "d",
    "_CONDOR_AWSBATCH_S3_URL": "s3://bucket/p",
    "_CONDOR_AWSBATCH_REGION": "us-east-1",
    "_CONDOR_AWSBATCH_ENDPOINT_URL": "http://127.0.0.1:9",  # nobody is there
    "AWS_ACCESS_KEY_ID": "k",
    "AWS_SECRET_ACCESS_KEY": "s",
}


def run_patched(environment, program, data=b""):
    """The program with something in it replaced."""
    text = textwrap.dedent(program) + "\nimport sys; sys.argv[1:] = []; server.main()"
    return subprocess.run(
        [sys.executable, "-c", text], input=data, env={**environment, **SITE}, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize("where", ["gateway.Gateway", "Meter"])
def test_a_start_that_fails_half_way_ends_the_program_and_its_ownership_of_runs(environment, where):
    """Runs that it has taken over would else be owned by a process that lives and does nothing for them."""
    program = f"""
        import os, time
        from gahp import gateway, server
        from gahp.meter import Meter
        def fail(self):
            raise RuntimeError("can't start new thread")
        {where}.start = fail
        server.Server.run = lambda self: (time.sleep(20), os._exit(0))
    """
    assert run_patched(environment, program).returncode == 1


def test_a_signal_that_another_thread_gets_ends_it_at_once(environment):
    """As one does that comes just before the thread that talks begins to wait: it is not interrupted then."""
    program = """
        import os, signal, threading, time
        from gahp import server
        def send():
            time.sleep(0.5)
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            time.sleep(20)
            os._exit(3)
        server._prepare = lambda service: send()
        read, _ = os.pipe()
        os.dup2(read, 0)
    """
    assert run_patched(environment, program).returncode == 0


def test_damage_of_the_journal_ends_it_with_1_and_a_sentence_on_stderr(environment):
    program = """
        import logging, os, time
        from gahp import server
        logging.getLogger().addHandler(logging.NullHandler())
        server._prepare = lambda service: (service._on_damage("It is damaged."), time.sleep(20), os._exit(3))
        read, _ = os.pipe()
        os.dup2(read, 0)
    """
    ended = run_patched(environment, program)
    assert (ended.returncode, ended.stderr) == (1, b"awsbatch_gahp: It is damaged.\n")


def test_what_fails_with_the_journal_is_no_answer_the_next_one_is_asked():
    """A gridmanager forgets a job that it has removed, whatever it is told of that."""
    (read_from, _), (answers, write_to) = os.pipe(), os.pipe()
    service, removal = Service(print), Future()
    service._gateway = types.SimpleNamespace(cancel=lambda job_id: removal)
    server = Server(service, read_from, write_to)
    server._receive(b"BLAH_JOB_CANCEL 7 awsbatch/19700101/1-0-a\r\n")
    server.fail("The journal is damaged.")
    removal.set_exception(JournalProblem("The journal is damaged."))
    server._receive(b"RESULTS\r\n")
    server._receive(b"RESULTS\r\n")
    assert os.read(answers, 1000).split() == [b"S", b"S", b"0", b"S", b"0"]


def test_the_ownership_of_its_runs_is_the_last_thing_that_a_gahp_gives_back(environment):
    """Its threads are still at work on them, and another GAHP would be too."""
    program = """
        import logging, os, time
        from gahp import server
        from gahp.gateway import Gateway
        from gahp.journal import Journal
        from gahp.meter import Meter
        def tell(owner, name):
            function = getattr(owner, name)
            def told(*arguments):
                os.write(2, f"{getattr(owner, '__name__')}.{name} ".encode())
                return function(*arguments)
            setattr(owner, name, told)
        for owner, name in ((Gateway, "stop"), (Meter, "close"), (logging, "shutdown"), (Journal, "close"), (os, "_exit")):
            tell(owner, name)
        def run(server):
            while server._service.ready is None:
                time.sleep(0.01)
        server.Server.run = run
    """
    words = run_patched(environment, program).stderr.decode().split()
    assert words.index("Meter.close") < words.index("logging.shutdown") < words.index("Journal.close")
    assert words[-2:] == ["Journal.close", "os._exit"]
