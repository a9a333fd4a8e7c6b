"""`condor_awsbatch shell`: opens a GAHP for a person, or, on pipes, is the GAHP.

On a terminal: a prompt with completion, request ids filled in, results fetched, replies explained. Otherwise the GAHP itself
takes this process over, so what goes through the pipes is the bare protocol, byte for byte.
`Conversation` decides what is sent and shown; the rest moves bytes between the terminal and the GAHP.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from gahp.blah.arguments import join_v2
from gahp.blah.literals import quote
from gahp.cli import explain
from gahp.model import Refused, to_bytes, to_text
from gahp.protocol.client import Announcement, Client, Event, Greeting, Outcome
from gahp.protocol.commands import COMMANDS, LISTED, STATES, Command, is_request_id
from gahp.protocol.lines import split

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer

_Input = TypeVar("_Input", bytes, str)

SUMMARY = "talk to a GAHP: prompts, completion, replies explained; on pipes the bare protocol"
EXAMPLE = "condor_awsbatch shell\n  echo VERSION | condor_awsbatch shell --manual"

_LRMS = "awsbatch"
_GRACE_S = 5.0
_WIDTH = 110
_BLANK_OR_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|(?:\s|//[^\n]*|/\*.*?\*/)+', re.DOTALL)
_JOB_VERBS = {
    "status": "BLAH_JOB_STATUS",
    "cancel": "BLAH_JOB_CANCEL",
    "hold": "BLAH_JOB_HOLD",
    "resume": "BLAH_JOB_RESUME",
}
_HELP = {
    "submit FILE": "run the job that the submit ad in FILE describes (a file that begins with [)",
    "submit [ AD ]": "run the job that the submit ad describes, as typed",
    "submit EXECUTABLE [ARGUMENT ...]": "run a program; its output comes into the working directory",
    "ping [LRMS]": "ask whether jobs can be run now",
    "status|cancel|hold|resume [JOBID]": "of a job; without JOBID the last one",
    "jobs": "the job ids seen so far",
    "auto on|off": "fetch results by themselves when the GAHP announces them with R",
    "help [COMMAND]": "this, or what a command of the protocol is",
    "Ctrl-D": "leave; Ctrl-C clears the line, Ctrl-Z stops the shell until fg",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manual", action="store_true", help="send nothing by itself: no ASYNC_MODE_ON, no RESULTS")
    which = "the GAHP and its arguments, behind -- (default: the awsbatch_gahp beside this program)"
    parser.add_argument("gahp", nargs="*", metavar="COMMAND", help=which)


def run(options: argparse.Namespace) -> int:
    command = list(options.gahp) or [_default_gahp()]
    if sys.stdin.isatty() and sys.stdout.isatty():
        width = min(_WIDTH, shutil.get_terminal_size().columns)
        return _interactive(command, Conversation(fetch=not options.manual, width=width))
    return _become(command)


class Conversation:
    """What the person typed and the GAHP said, as what to send and what to show. No terminal, no process."""

    def __init__(self, fetch: bool = True, width: int = _WIDTH) -> None:
        self.fetch = fetch
        self._width = width
        self.jobs: dict[str, str] = {}
        self._client = Client()
        self._last_job = ""
        self._verbs: dict[str, Callable[[list[str]], tuple[list[str], bytes]]] = {
            "submit": self._submit,
            "ping": self._ping,
            "jobs": self._show_jobs,
            "auto": self._auto,
            "help": self._help,
            "?": self._help,
        }

    def typed(self, line: str) -> tuple[list[str], bytes]:
        """What to show and what to send when the person has entered `line`."""
        if not line.strip():
            return [], b""
        try:
            verb, *words = split(to_bytes(line))
            name = verb.lower()
            if name == "submit" and words and words[0].startswith("["):
                return self._send("BLAH_JOB_SUBMIT", line.strip().split(maxsplit=1)[1])
            if name in self._verbs or name in _JOB_VERBS:
                words = shlex.split(line)[1:]
                return self._job_verb(name, words) if name in _JOB_VERBS else self._verbs[name](words)
            return self._send(*_protocol_line(verb, words, line))
        except (ValueError, OSError) as error:
            return [f"Not sent: {explain.printable(str(error))}"], b""

    def heard(self, data: bytes) -> tuple[list[str], bytes]:
        """What to show and what to send when the GAHP has written `data`."""
        shown: list[str] = []
        to_send = b""
        for event in self._client.receive(data):
            shown += [f">> {explain.raw(event.line, _WIDTH)}", *("   " + line for line in explain.explain(event))]
            self._remember(event)
            if self.fetch and isinstance(event, Greeting | Announcement):
                more, line = self._send("ASYNC_MODE_ON" if isinstance(event, Greeting) else "RESULTS")
                shown += more
                to_send += line
        return shown, to_send

    def completions(self, text: str) -> Iterator[str]:
        """The words that may stand where `text`, the line so far, ends."""
        *before, last = text.split(" ")
        if not before:
            words = [*self._verbs, *_JOB_VERBS, *COMMANDS]
        elif before[0].lower() == "help":
            words = list(COMMANDS)
        elif before[0].lower() == "auto":
            words = ["on", "off"]
        elif before[0].lower() in _JOB_VERBS or "jobid" in _parameters(before[0]):
            words = list(self.jobs)
        elif before[0].lower() == "ping" or "lrms" in _parameters(before[0]):
            words = [_LRMS]
        else:
            words = []
        return (word for word in words if word.lower().startswith(last.lower()) and word != "?")

    def _send(self, command: str, *arguments: str) -> tuple[list[str], bytes]:
        known = COMMANDS.get(command.upper())
        if known is not None and known.has_result and len(arguments) == len(known.parameters) - 1:
            _, line = self._client.request(command, *arguments)
        else:
            line = self._client.send(command, *arguments)
        return [f"<< {explain.raw(line.rstrip(), _WIDTH)}"], line

    def _remember(self, event: Event) -> None:
        if not isinstance(event, Outcome) or event.result is None or event.result.code != 0:
            return
        if event.command == "BLAH_JOB_SUBMIT":
            self._last_job = event.result.values[0]
            self.jobs[self._last_job] = "submitted"
        elif event.command == "BLAH_JOB_STATUS":
            self.jobs[event.arguments[0]] = STATES.get(event.result.values[0], "?")

    def _submit(self, words: list[str]) -> tuple[list[str], bytes]:
        if not words:
            raise ValueError("submit what? A file with a submit ad, or an executable and its arguments")
        ad = _ad_of_file(Path(words[0])) if len(words) == 1 and Path(words[0]).is_file() else ""
        return self._send("BLAH_JOB_SUBMIT", ad or _ad_of_command(words))

    def _ping(self, words: list[str]) -> tuple[list[str], bytes]:
        return self._send("BLAH_PING", *(words or [_LRMS]))

    def _job_verb(self, verb: str, words: list[str]) -> tuple[list[str], bytes]:
        jobs = words or [self._last_job]
        if len(jobs) != 1 or not jobs[0]:
            raise ValueError(f"{verb} which job? Give one job id, or submit one first")
        return self._send(_JOB_VERBS[verb], jobs[0])

    def _show_jobs(self, words: list[str]) -> tuple[list[str], bytes]:
        return [f"   {explain.printable(job)}: {state}" for job, state in self.jobs.items()] or ["   no jobs yet"], b""

    def _auto(self, words: list[str]) -> tuple[list[str], bytes]:
        if words not in (["on"], ["off"]):
            raise ValueError("auto on, or auto off")
        self.fetch = words == ["on"]
        return self._send("ASYNC_MODE_ON") if self.fetch else (["   Results wait until you ask for RESULTS."], b"")

    def _help(self, words: list[str]) -> tuple[list[str], bytes]:
        if words:
            command = COMMANDS.get(words[0].upper())
            if command is None:
                raise ValueError(f"no command {words[0]}; help lists them")
            return [f"   {line}" for line in _manual_entry(command)], b""
        protocol = {explain.signature(COMMANDS[name]): COMMANDS[name].about for name in LISTED}
        title = "   The protocol, sent as typed; a request id left out is filled in:"
        return [*_two_columns(_HELP, self._width), "", title, *_two_columns(protocol, self._width)], b""


def _parameters(word: str) -> tuple[str, ...]:
    command = COMMANDS.get(word.upper())
    return command.parameters if command else ()


def _two_columns(rows: dict[str, str], width: int) -> list[str]:
    """Words on the left, what they mean on the right; below them where there is no room beside them."""
    left_width = max(len(left) for left in rows if len(left) <= width // 2)
    lines = []
    for left, right in rows.items():
        blank = " " * (left_width + 5)
        wrapped = textwrap.wrap(right, max(20, width - len(blank)), break_long_words=False, break_on_hyphens=False)
        beside = wrapped.pop(0) if len(left) <= left_width else ""
        lines += [f"   {left:<{left_width}}  {beside}".rstrip(), *(blank + line for line in wrapped)]
    return lines


def _manual_entry(command: Command) -> list[str]:
    lines = [f"{explain.signature(command)}: {command.about}"]
    if command.values is not None:
        lines.append("Result line: " + " ".join(("reqid rc message", *(value.name for value in command.values))))
    if command.refusal:
        lines.append(f"awsbatch_gahp refuses: {command.refusal}")
    return lines


def _protocol_line(verb: str, words: list[str], line: str) -> list[str]:
    """The tokens of a line of the protocol. A submit ad may be typed with plain spaces.

    ValueError if an id was left out in a way that cannot be told from an argument left out.
    """
    command = COMMANDS.get(verb.upper())
    if command is None or not command.has_result:
        return [verb, *words]
    has_id = bool(words) and is_request_id(words[0])
    if command.parameters[-1] == "ad" and len(words) > 1 + has_id:
        ad = line.strip().split(maxsplit=1 + has_id)[-1]
        return [verb, *words[:has_id], ad]
    if has_id and len(words) == len(command.parameters) - 1:
        raise ValueError(f"{explain.signature(command)}: one argument is missing")
    return [verb, *words]


def _ad_of_file(path: Path) -> str:
    """The submit ad in `path` on one line; empty if the file does not begin with a bracket, so is none."""
    with path.open("rb") as file:
        start = file.read(1024)
        if not _one_line(to_text(start)).startswith("["):
            return ""
        return _one_line(to_text(start + file.read()))


def _one_line(ad: str) -> str:
    """`ad` without comments and line ends; strings stay as they are."""
    return _BLANK_OR_COMMENT.sub(lambda match: match[1] or " ", ad).strip()


def _ad_of_command(words: list[str]) -> str:
    """A submit ad as the gridmanager would send it for `words`, an executable and its arguments."""
    executable = shutil.which(words[0]) or shutil.which(f"./{words[0]}")  # one that lies here too, as in a submit file
    if executable is None:
        raise ValueError(f"{words[0]} is neither a file with a submit ad nor an executable")
    name = f"{Path(executable).name}.{uuid.uuid4().hex[:6]}"
    texts = {
        "In": "/dev/null",
        "Cmd": str(Path(executable).absolute()),
        "Out": f"{name}.out",
        "Err": f"{name}.err",
        "Iwd": str(Path.cwd()),
        "gridtype": _LRMS,
        "Arguments": join_v2(words[1:]),
        "Environment": "",
        "GridResource": f"batch {_LRMS}",
        "JobDirectory": f"shell_{name}",
    }
    return "[ " + "; ".join(f"{key} = {quote(text)}" for key, text in texts.items()) + " ]"


def _default_gahp() -> str:
    beside = Path(sys.executable).with_name("awsbatch_gahp")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("awsbatch_gahp")
    if found is None:
        raise Refused(f"no awsbatch_gahp beside {sys.executable} or on PATH: name a GAHP with condor_awsbatch shell -- COMMAND")
    return found


def _cannot_start(command: list[str], error: OSError) -> Refused:
    return Refused(f"the GAHP {explain.printable(command[0])} cannot be started: {error.strerror}")


def _become(command: list[str]) -> int:
    """Let the GAHP take over this process and with it the pipes; returns only by an error."""
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and a program started by exec would inherit that
    try:
        os.execvp(command[0], command)  # noqa: S606 - the person's own command, without a shell
    except OSError as error:
        raise _cannot_start(command, error) from None


class _Link:
    """The GAHP's process and the threads at its pipes. Its own session: Ctrl-C of the terminal is not for it."""

    def __init__(self, command: list[str]) -> None:
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True)
        except OSError as error:
            raise _cannot_start(command, error) from None
        self._to_write: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, output: Callable[[bytes], None], complaint: Callable[[bytes], None]) -> None:
        """Hand what the GAHP writes to `output` and `complaint`, piece by piece, b"" at the end, each in its own thread."""
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin and stdout and stderr
        for copy in (lambda: _read(stdout, output), lambda: _read(stderr, complaint), lambda: self._write(stdin)):
            self._threads.append(threading.Thread(target=copy, daemon=True))
            self._threads[-1].start()

    def write(self, data: bytes) -> None:
        """Have `data` written, without waiting: a GAHP may want to write before it reads on."""
        self._to_write.put(data)

    def close(self) -> int:
        """End the GAHP: by the end of its input, or else by signals. Its exit code, negative for a signal."""
        self._to_write.put(None)
        for give_up in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(_GRACE_S)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                give_up()
        code = self._process.wait()
        for thread in self._threads:
            thread.join(_GRACE_S)
        return code

    def _write(self, stdin: IO[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError), stdin:  # that the GAHP has gone is told by the end of its output
            while (data := self._to_write.get()) is not None:
                while data:
                    data = data[stdin.write(data) :]


def _read(stream: IO[bytes], take: Callable[[bytes], None]) -> None:
    with stream:
        while data := stream.read(65536):
            take(data)
    take(b"")


def _complain(data: bytes) -> None:
    """Show what a GAHP writes to its standard error."""
    for line in to_text(data).splitlines():
        print(f"!! {explain.printable(line)}", flush=True)


class _Desk:
    """Prompt and GAHP take turns at one conversation, so that what is sent has the order of what was decided."""

    def __init__(self, conversation: Conversation, link: _Link, session: PromptSession[str]) -> None:
        self._conversation = conversation
        self._link = link
        self._session = session
        self._turn = threading.Lock()
        self._ended = threading.Event()

    def talk(self, prompt: str) -> bool:
        """Prompt until the person leaves or the GAHP ends; whether it was the GAHP."""
        self._link.start(self._heard, _complain)
        while not self._ended.is_set():
            try:
                self._take(self._conversation.typed, self._session.prompt(prompt, pre_run=self._leave_if_ended))
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
        if self._ended.is_set():
            return True
        self._take(self._conversation.typed, "QUIT")
        return False

    def _take(self, step: Callable[[_Input], tuple[list[str], bytes]], heard_or_typed: _Input) -> None:
        with self._turn:
            shown, to_send = step(heard_or_typed)
            self._link.write(to_send)
            for line in shown:
                print(line, flush=True)

    def _heard(self, data: bytes) -> None:
        if data:
            self._take(self._conversation.heard, data)
            return
        self._ended.set()
        loop = self._session.app.loop
        if loop is not None and self._session.app.is_running:
            with contextlib.suppress(RuntimeError):  # the prompt has just ended by itself, and its loop with it
                loop.call_soon_threadsafe(self._leave_if_ended)

    def _leave_if_ended(self) -> None:
        if self._ended.is_set() and self._session.app.is_running and not self._session.app.is_done:
            self._session.app.exit(exception=EOFError())


def _interactive(command: list[str], conversation: Conversation) -> int:
    """Prompt until Ctrl-D or the end of the GAHP. 0, or 1 if the GAHP ended by itself and not well."""
    try:
        from prompt_toolkit import PromptSession  # noqa: PLC0415 - an extra, and slow to load: only for people
        from prompt_toolkit.patch_stdout import patch_stdout  # noqa: PLC0415
    except ImportError:
        raise Refused("the shell needs prompt_toolkit: pip install 'awsbatch-gahp[cli]' (plain pipes work without it)") from None

    link = _Link(command)
    by_itself = False
    print("help tells what can be typed; Ctrl-D leaves.")
    with patch_stdout():
        try:
            session: PromptSession[str] = PromptSession(
                completer=_completer(conversation), complete_while_typing=False, enable_suspend=True
            )
            by_itself = _Desk(conversation, link, session).talk(f"{Path(command[0]).name}> ")
        finally:
            code = link.close()
    print(f"The GAHP ended with exit code {code}." if code >= 0 else f"The GAHP was killed by signal {-code}.")
    return 1 if by_itself and code != 0 else 0


def _completer(conversation: Conversation) -> Completer:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter  # noqa: PLC0415
    from prompt_toolkit.document import Document  # noqa: PLC0415

    class Words(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            text = document.text_before_cursor
            last = text.rpartition(" ")[2]
            if text.startswith("submit "):
                yield from PathCompleter().get_completions(Document(last), complete_event)
            for word in conversation.completions(text):
                yield Completion(word, start_position=-len(last))

    return Words()
