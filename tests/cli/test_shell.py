"""`condor_awsbatch shell`: what is sent and explained, the bare protocol on pipes, a person at a terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gahp.cli import explain, shell
from gahp.cli.shell import Conversation
from gahp.protocol.client import Client
from gahp.protocol.lines import split

TINY_GAHP = """
import os, sys
from gahp.protocol import Session, done, failed, status, submitted

session = Session("$GahpVersion: 7.7.7 Nov 23 2026 tiny $")
AD = '[ JobStatus = 4; ExitCode = 7; Note = "semi;colon \\\\x1b" ]'.replace("\\\\x1b", chr(27))

def perform(request):
    if request.command == "BLAH_JOB_SUBMIT":
        os.write(2, request.arguments[0].encode("utf-8", "surrogateescape") + b"\\n")
        return submitted("awsbatch/20261123/" + request.request_id)
    if request.command == "BLAH_JOB_STATUS":
        return status(4, AD) if request.arguments[0].startswith("awsbatch/") else failed("No such job")
    if request.command == "BLAH_PING" and request.arguments[0] == "die":
        os._exit(3)
    return done()

os.write(1, session.greeting())
while not session.closed and (data := os.read(0, 65536)):
    out, requests = session.receive(data)
    os.write(1, out + b"".join(session.finish(request, perform(request)) for request in requests))
"""
START = "import sys; from gahp.cli.main import main; sys.exit(main(sys.argv[1:]))"
PROMPT = f"{Path(sys.executable).name}>"
GREETING = b"$GahpVersion: 7.7.7 Nov 23 2026 tiny $\r\n"


@pytest.fixture
def tiny_gahp(tmp_path):
    path = tmp_path / "tiny_gahp.py"
    path.write_text(TINY_GAHP)
    return [sys.executable, str(path)]


def shell_command(*words: str) -> list[str]:
    return [sys.executable, "-c", START, "shell", *words]


def piped(command: list[str], sent: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=sent, capture_output=True, timeout=60, check=False)


# On pipes


def test_on_pipes_the_protocol_goes_through_byte_for_byte(tiny_gahp):
    sent = b"version\r\n\xff\xfe \0\n\nBLAH_PING 2 a\\ b\nRESULTS\nQUIT\n"
    direct, through = piped(tiny_gahp, sent), piped(shell_command("--", *tiny_gahp), sent)
    assert direct.stdout.startswith(GREETING) and direct.stdout.count(b"\r\n") == 7
    assert (through.stdout, through.stderr, through.returncode) == (direct.stdout, direct.stderr, 0)


def test_on_pipes_the_end_of_input_and_the_exit_code_are_those_of_the_gahp(tiny_gahp):
    silent, died = (piped(shell_command("--", *tiny_gahp), sent) for sent in (b"", b"BLAH_PING 2 die\n"))
    assert (silent.stdout, silent.returncode) == (GREETING, 0)
    assert (died.stdout, died.returncode) == (GREETING, 3)


def test_a_gahp_that_cannot_be_started_is_told_in_one_line():
    run = piped(shell_command("--", "/nonexistent/gahp"), b"")
    assert (run.returncode, run.stdout) == (1, b"")
    assert run.stderr == b"condor_awsbatch: the GAHP /nonexistent/gahp cannot be started: No such file or directory\n"


def test_the_gahp_beside_the_program_is_the_default(tmp_path, monkeypatch):
    beside = tmp_path / "awsbatch_gahp"
    beside.write_text("#!/bin/sh\n")
    beside.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert shell._default_gahp() == str(beside)


def test_without_a_gahp_beside_the_program_path_is_searched_and_then_the_person_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(shell.Refused, match="name a GAHP"):
        shell._default_gahp()


# What is sent


def talking(**options) -> Conversation:
    conversation = Conversation(**options)
    conversation.heard(b"$GahpVersion: 1 $\r\n")
    return conversation


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("ping", ["BLAH_PING", "2", "awsbatch"]),
        ("ping noop", ["BLAH_PING", "2", "noop"]),
        ("status awsbatch/1/2", ["BLAH_JOB_STATUS", "2", "awsbatch/1/2"]),
        ("cancel 'a b'", ["BLAH_JOB_CANCEL", "2", "a b"]),
        ("BLAH_PING awsbatch", ["BLAH_PING", "2", "awsbatch"]),
        ("blah_ping 17 awsbatch", ["blah_ping", "17", "awsbatch"]),
        ("BLAH_JOB_STATUS a\\ b", ["BLAH_JOB_STATUS", "2", "a b"]),
        ("BLAH_JOB_SUBMIT [ Cmd = 1 ]", ["BLAH_JOB_SUBMIT", "2", "[ Cmd = 1 ]"]),
        ("BLAH_JOB_SUBMIT 9 [ Cmd = 1 ]", ["BLAH_JOB_SUBMIT", "9", "[ Cmd = 1 ]"]),
        ("BLAH_JOB_SUBMIT [\\ Cmd\\ =\\ 1\\ ]", ["BLAH_JOB_SUBMIT", "2", "[ Cmd = 1 ]"]),
        ("submit [ Cmd = \"a b\" ; X = 1 ]", ["BLAH_JOB_SUBMIT", "2", '[ Cmd = "a b" ; X = 1 ]']),
        ("BLAH_JOB_REFRESH_PROXY job /p", ["BLAH_JOB_REFRESH_PROXY", "2", "job", "/p"]),
        ("BLAH_GET_HOSTPORT", ["BLAH_GET_HOSTPORT", "2"]),
        ("RESULTS", ["RESULTS"]),
        ("whatever this is", ["whatever", "this", "is"]),
    ],
)
def test_what_is_typed_is_sent_with_its_request_id(typed, sent):
    shown, line = talking().typed(typed)
    assert split(line.removesuffix(b"\r\n")) == sent
    assert len(shown) == 1 and shown[0].startswith("<< ")


def test_an_executable_that_lies_here_is_submitted_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.sh").write_text("#!/bin/sh\n")
    (tmp_path / "my.sh").chmod(0o755)
    _, line = talking().typed("submit my.sh x")
    assert f'Cmd = "{tmp_path}/my.sh"' in split(line.removesuffix(b"\r\n"))[2]


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("BLAH_PING 2", "one argument is missing"),
        ("status", "which job"),
        ("submit", "submit what"),
        ("submit no_such_program_anywhere", "neither a file"),
        ("submit no_such_program_anywhere x", "neither a file"),
        ("cancel 'a", "No closing quotation"),
        ("auto", "auto on"),
        ("help NOTHING", "no command NOTHING"),
    ],
)
def test_what_cannot_be_sent_is_told_and_nothing_is_sent(typed, why):
    shown, line = talking().typed(typed)
    assert line == b"" and len(shown) == 1
    assert shown[0].startswith("Not sent: ") and why in shown[0]


def test_an_empty_line_sends_nothing():
    assert talking().typed("  ") == ([], b"")


def test_a_file_with_a_submit_ad_is_sent_on_one_line_without_its_comments(tmp_path):
    path = tmp_path / "job.ad"
    path.write_bytes(b'// a job\n[\n  Cmd = "/bin/echo"; /* two\nlines */\n  Args = "a  // b \\" \xff";\n]\n')
    _, line = talking().typed(f"submit {path}")
    assert b"\n" not in line[:-2]
    assert split(line[:-2])[2] == '[ Cmd = "/bin/echo"; Args = "a  // b \\" \udcff"; ]'


def test_a_program_is_submitted_as_the_gridmanager_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, line = talking().typed("submit echo 'two words' \"it's\"")
    ad = dict(explain.attributes(split(line[:-2])[2]))
    assert ad["Cmd"].endswith('/echo"') and ad["Cmd"].startswith('"/')
    assert ad["Arguments"] == '"\'two words\' \'it\'\'s\'"'
    assert (ad["Iwd"], ad["gridtype"], ad["Environment"]) == (f'"{tmp_path}"', '"awsbatch"', '""')
    assert re.fullmatch(r'"echo\.\w+\.out"', ad["Out"]) and ad["Out"][:-5] == ad["Err"][:-5]


def test_two_submissions_of_one_program_are_two_jobs():
    conversation = talking()
    ads = [dict(explain.attributes(split(conversation.typed("submit echo")[1][:-2])[2])) for _ in range(2)]
    assert ads[0]["JobDirectory"] != ads[1]["JobDirectory"]


def test_async_mode_is_switched_on_at_the_greeting_and_results_are_fetched_on_r():
    conversation = Conversation()
    assert conversation.heard(GREETING)[1] == b"ASYNC_MODE_ON\r\n"
    assert conversation.heard(b"S\r\nR\r\n")[1] == b"RESULTS\r\n"
    assert conversation.typed("auto off")[1] == b""
    assert conversation.heard(b"S 0\r\nR\r\n")[1] == b""
    assert conversation.typed("auto on")[1] == b"ASYNC_MODE_ON\r\n"


def test_by_hand_nothing_is_sent_that_was_not_typed():
    conversation = Conversation(fetch=False)
    assert conversation.heard(GREETING + b"R\r\n")[1] == b""


def test_without_a_job_id_the_last_job_is_meant_and_job_ids_and_names_are_completed():
    conversation = talking(fetch=False)
    conversation.typed("submit echo")
    conversation.typed("RESULTS")
    conversation.heard(b"S\r\nS 1\r\n2 0 No\\ error awsbatch/1/first\r\n")
    assert split(conversation.typed("hold")[1][:-2]) == ["BLAH_JOB_HOLD", "3", "awsbatch/1/first"]
    assert list(conversation.completions("status aws")) == ["awsbatch/1/first"]
    assert list(conversation.completions("BLAH_JOB_CANCEL ")) == ["awsbatch/1/first"]
    assert list(conversation.completions("blah_pi")) == ["BLAH_PING"]
    assert list(conversation.completions("ping ")) == ["awsbatch"]
    assert {"status", "submit"} <= set(conversation.completions("s"))
    assert list(conversation.completions("RESULTS x")) == []
    assert conversation.typed("jobs")[0] == ["   awsbatch/1/first: submitted"]


# What is explained


def explained(*sent: str, answer: bytes) -> list[str]:
    client = Client()
    client.receive(GREETING)
    client.send(*sent)
    client.send("RESULTS")
    return [line for event in client.receive(answer) for line in explain.explain(event)]


@pytest.mark.parametrize(
    ("sent", "answer", "said"),
    [
        (("BLAH_PING", "2", "x"), b"S\r\n", ["Accepted as request 2; its result will come."]),
        (("BLAH_PING", "two"), b"E not\\ so\r\n", ["Not understood: not so"]),
        (("UPDATE_TOKEN", "x"), b"F none\\ here\r\n", ["Refused: none here"]),
        (("COMMANDS",), b"S BLAH_PING XYZ\r\n", ["  BLAH_PING reqid lrms: whether", "  XYZ: not known here"]),
        (("VERSION",), b"S $GahpVersion: 1.0 $\r\n", ["It is GahpVersion: 1.0."]),
        (("ASYNC_MODE_ON",), b"S\r\n", ["From now on a line R"]),
        (("VERSION",), b"R\r\n", ["Results are waiting."]),
        (("ASYNC_MODE_OFF",), b"S\r\nS 0\r\n", ["No results are waiting."]),
        (
            ("BLAH_JOB_STATUS", "2", "j"),
            b'S\r\nS 1\r\n2 0 No\\ error 4 [\\ ExitCode\\ =\\ 7;\\ L\\ =\\ {\\ 1;\\ "a;b"\\ }\\ ]\r\n',
            ["Request 2, BLAH_JOB_STATUS j: No error", "Status 4: completed", "  ExitCode = 7", '  L        = { 1; "a;b" }'],
        ),
        (
            ("BLAH_JOB_SUBMIT", "2", "[]"),
            b"S\r\nS 1\r\n2 1 no\\ Cmd N/A\r\n",
            ["Request 2, BLAH_JOB_SUBMIT []: failed with code 1: no Cmd", "The gridmanager would hold the job"],
        ),
        (("BLAH_JOB_SUBMIT", "2", "[]"), b"S\r\nS 1\r\n2 0 No\\ error a/b\r\n", ["The job is a/b"]),
        (("BLAH_JOB_STATUS", "2", "j"), b"S\r\nS 1\r\n2 0 ok\r\n", ["has 3 tokens instead of 5, the gridmanager would abort"]),
        (("BLAH_PING", "2", "x"), b"S\r\nS 1\r\n5 0 ok\r\n", ["nobody asked for this: 0 ok"]),
        (("BLAH_PING", "2", "x"), b"S\r\nS 1\r\n2 no ok\r\n", ["its code is no number: no ok"]),
        (("BLAH_JOB_STATUS", "2", "j"), b"S\r\nS 1\r\n2 0 ok 2 NULL\r\n", ["Status 2: running", "  not a ClassAd: NULL"]),
    ],
)
def test_each_kind_of_line_is_explained_in_words(sent, answer, said):
    lines = explained(*sent, answer=answer)
    for expected in said:
        assert any(expected in line for line in lines), lines


def test_nothing_that_a_gahp_says_reaches_the_terminal_as_a_control_sequence():
    evil = b"\x1b]0;x\x07\xff\xc2\x9b"
    answer = b"S\r\nS 1\r\n2 0 " + evil + b" 2 [A=" + evil + b"]\r\n" + evil + b"\r\n"
    conversation = talking(fetch=False)
    conversation.typed("BLAH_JOB_STATUS 2 j")
    conversation.typed("RESULTS")
    shown, _ = conversation.heard(answer)
    assert "\\x1b]0;x\\x07\\xff\\x9b" in "".join(shown)
    assert all(line.isprintable() for line in shown)


@pytest.mark.parametrize(
    ("ad", "found"),
    [
        ("[]", []),
        ("[ a = 1; ]", [("a", "1")]),
        ('[ a = "x]; b = \\"2"; c=[d=1;e=2]; ]', [("a", '"x]; b = \\"2"'), ("c", "[d=1;e=2]")]),
        ("[ a == ; (b ]", [("a", "="), ("(b ;", "")]),
        ('[ a = "open ]', [("a", '"open')]),
        ("N/A", None),
    ],
)
def test_an_ad_is_cut_into_its_attributes_even_if_it_is_broken(ad, found):
    assert explain.attributes(ad) == found


# At a terminal


class Terminal:
    """A person at a terminal: types, and reads what appears on it."""

    def __init__(self, command: list[str], folder) -> None:
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "HOME": str(folder)}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(folder)
                os.execvpe(command[0], command, environment)
            finally:
                os._exit(127)
        self.seen = ""

    def until(self, text: str) -> str:
        """Everything new on the screen up to `text`, without colours and cursor movements."""
        deadline = time.monotonic() + 60
        while (place := self.seen.find(text)) < 0:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            assert data, f"ended before {text!r}: {self.seen!r}"
            self.seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]", "", self.seen + data.decode(errors="replace"))
        before, self.seen = self.seen[: place + len(text)], self.seen[place + len(text) :]
        return before

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def exit_code(self) -> int:
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture
def terminal(tiny_gahp, tmp_path):
    person = Terminal(shell_command("--", *tiny_gahp), tmp_path)
    # What the GAHP says first may come before the first prompt or behind it.
    person.seen = person.until(PROMPT) + person.seen
    yield person
    person.close()


def test_a_person_submits_a_program_and_reads_its_status_in_words(terminal):
    terminal.until("The GAHP is there: 7.7.7")
    terminal.until("From now on a line R")
    terminal.type("submit echo hello\r")
    terminal.until("The job is awsbatch/20261123/2")
    terminal.type("status\r")
    terminal.until("Request 3, BLAH_JOB_STATUS awsbatch/20261123/2: No error")
    terminal.until("Status 4: completed")
    terminal.until('Note      = "semi;colon \\x1b"')
    terminal.type("BLAH_JOB_STA\t")
    terminal.until("TUS")
    terminal.type(" awsb\t")
    terminal.until("atch/20261123/2")
    terminal.type("\r")
    terminal.until("Request 4, BLAH_JOB_STATUS awsbatch/20261123/2: No error")
    terminal.until("Note ")
    terminal.until(PROMPT)
    terminal.type("\x04")
    terminal.until("S Server\\ exiting")
    terminal.until("The GAHP ended with exit code 0.")
    assert terminal.exit_code() == 0


def test_what_the_gahp_writes_to_its_standard_error_is_shown_apart(terminal):
    terminal.until("From now on a line R")
    terminal.type("BLAH_JOB_SUBMIT [ Cmd = 1 ]\r")
    terminal.until("!! [ Cmd = 1 ]")


def test_ctrl_c_clears_the_line_and_disturbs_nothing(terminal):
    terminal.until("From now on a line R")
    terminal.type("ping die\x03")
    terminal.type("ping\r")
    terminal.until("Request 2, BLAH_PING awsbatch: No error")
    terminal.type("QUIT\r")
    terminal.until("The GAHP is leaving.")
    assert terminal.exit_code() == 0


def test_ctrl_z_goes_to_the_terminal_and_not_into_the_line(terminal):
    terminal.until("From now on a line R")
    terminal.type("\x1aping\r")
    terminal.until("Request 2, BLAH_PING awsbatch: No error")


@pytest.mark.parametrize("width", [60, 80, 110])
def test_help_is_wrapped_between_words_within_the_terminals_width(width):
    lines, _ = talking(width=width).typed("help")
    assert max(map(len, lines)) <= max(width, 80)
    text = " ".join(" ".join(lines).split())
    assert "leave; Ctrl-C clears the line, Ctrl-Z stops the shell until fg" in text


def test_the_shell_ends_when_the_gahp_dies_and_tells_how(terminal):
    terminal.until("From now on a line R")
    terminal.type("ping die\r")
    terminal.until("The GAHP ended with exit code 3.")
    assert terminal.exit_code() == 1


def test_a_gahp_that_does_not_end_by_itself_is_ended(tmp_path, monkeypatch):
    stubborn = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.write(1, b'$v$\\r\\n'); time.sleep(600)"
    start = "from gahp.cli import shell; shell._GRACE_S = 0.2; " + START
    person = Terminal([sys.executable, "-c", start, "shell", "--", sys.executable, "-c", stubborn], tmp_path)
    try:
        person.until("<< ASYNC_MODE_ON")
        person.until(PROMPT)
        person.type("\x04")
        person.until("The GAHP was killed by signal 9.")
        assert person.exit_code() == 0
    finally:
        person.close()


def test_without_prompt_toolkit_one_line_names_the_extra(tiny_gahp, tmp_path):
    hidden = "import sys; sys.modules['prompt_toolkit'] = None; " + START
    person = Terminal([sys.executable, "-c", hidden, "shell", "--", *tiny_gahp], tmp_path)
    try:
        assert "pip install 'awsbatch-gahp[cli]'" in person.until("plain pipes work without it)")
        assert person.exit_code() == 1
    finally:
        person.close()
