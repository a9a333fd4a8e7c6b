"""One conversation: what has been asked, what is ready, what has been announced.

Takes the bytes of the client and gives the bytes to write and the requests to perform; reads and writes nothing itself.
Not safe for several threads: the caller holds a lock around each call and the write of what it returned, so that lines
leave in the order in which they were made. The return line of a request leaves before its result can be announced.

R, as the gridmanager expects it (facts: gahp-protocol.md): in asynchronous mode the first result that is queued after
ASYNC_MODE_ON, or after a RESULTS, sends one `R`; further ones do not until the next RESULTS.
"""

from __future__ import annotations

import dataclasses
import datetime

from gahp.model import to_bytes
from gahp.protocol.commands import COMMANDS, LISTED, Command, shortened
from gahp.protocol.lines import LineSplitter, TooLong, escape, join, split
from gahp.protocol.results import Result, failed

CONDOR_VERSION = "$CondorVersion: 25.0.0 2026-01-01 $"
"""What CONDOR_VERSION answers. The gridmanager wants one token of this form, and looks into it for file transfer only."""

_MAX_GREETING = 150
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def version_text(release: str, day: datetime.date) -> str:
    """The greeting of `release`, built on `day`, in the form of every GAHP (English months, whatever the locale)."""
    return f"$GahpVersion: {release} {_MONTHS[day.month - 1]} {day.day} {day.year} {escape('awsbatch gahp')} $"


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """Something to do, with a result line to come. `command` is in upper case; `arguments` are those behind the id."""

    request_id: str
    command: str
    arguments: tuple[str, ...]


class Session:
    """The server's side of one conversation. `version` is the text of the greeting, from `version_text`."""

    def __init__(self, version: str) -> None:
        if not version.startswith("$") or "\n" in version or len(to_bytes(version)) + 2 >= _MAX_GREETING:
            raise ValueError(f"a greeting begins with $ and is one line of less than {_MAX_GREETING} bytes: {version!r}")
        self._version = version
        self._splitter = LineSplitter()
        self._prefix = b""
        self._asynchronous = False
        self._announced = False
        self._closed = False
        self._pending: dict[str, Command] = {}
        self._results: dict[str, bytes] = {}

    @property
    def closed(self) -> bool:
        """Whether the client has sent QUIT: nothing is answered or announced any more."""
        return self._closed

    @property
    def pending(self) -> int:
        """How many requests have no result yet."""
        return len(self._pending)

    def greeting(self) -> bytes:
        """The first line, to be written at once."""
        return to_bytes(self._version) + b"\r\n"

    def receive(self, data: bytes) -> tuple[bytes, list[Request]]:
        """The bytes to write now, one return line for each line that ends in `data`, and the requests to perform then."""
        out: list[bytes] = []
        requests: list[Request] = []
        for line in self._splitter.feed(data):
            if self._closed:
                break
            out.append(self._answer(line, requests))
        return b"".join(out), requests

    def finish(self, request: Request | str, result: Result) -> bytes:
        """Queue the result of `request` (or of the request of that id); the bytes to write now: the R line or nothing.

        ValueError if no such request is pending, or `result` does not fit its command; the request is then pending still.
        """
        request_id = request if isinstance(request, str) else request.request_id
        command = self._pending.get(request_id)
        if command is None:
            raise ValueError(f"no request {shortened(request_id)} is waiting for a result")
        line = command.result_line(request_id, result)
        del self._pending[request_id]
        return self._queue(request_id, line)

    def _answer(self, line: bytes | TooLong, requests: list[Request]) -> bytes:
        if isinstance(line, TooLong):
            return self._reply("E", f"A line of more than {line.limit} bytes was discarded")
        words = split(line)
        if not words:
            return self._reply("E", "No command in this line")
        command = COMMANDS.get(words[0].upper())
        if command is None:
            return self._reply("E", f"Unknown command {shortened(words[0])}")
        arguments = words[1:]
        if wrong := command.wrong_arguments(arguments):
            return self._reply("E", wrong)
        if command.has_result:
            return self._accept(command, arguments, requests)
        if command.refusal:
            return self._reply("F", command.refusal)
        return self._control(command, arguments)

    def _accept(self, command: Command, arguments: list[str], requests: list[Request]) -> bytes:
        request_id, *rest = arguments
        if request_id in self._pending or request_id in self._results:
            return self._reply("E", f"{command.name}: request id {request_id} is in use already")
        accepted = self._reply("S")
        if command.refusal:
            return accepted + self._queue(request_id, command.result_line(request_id, failed(command.refusal)))
        self._pending[request_id] = command
        requests.append(Request(request_id, command.name, tuple(rest)))
        return accepted

    def _control(self, command: Command, arguments: list[str]) -> bytes:
        match command.name:
            case "RESULTS":
                return self._hand_out()
            case "COMMANDS":
                return self._reply("S", *LISTED)
            case "VERSION":
                return self._line(b"S " + to_bytes(self._version))
            case "CONDOR_VERSION":
                return self._reply("S", CONDOR_VERSION)
            case "RESPONSE_PREFIX":
                reply = self._reply("S")
                self._prefix = join(arguments)
                return reply
            case "ASYNC_MODE_ON":
                self._asynchronous, self._announced = True, False
                return self._reply("S", "Async mode on")
            case "ASYNC_MODE_OFF":
                self._asynchronous = False
                return self._reply("S", "Async mode off")
            case "QUIT":
                self._closed = True
                return self._reply("S", "Server exiting")
            case "BLAH_SET_GLEXEC_OFF":
                return self._reply("S", "Glexec mode off")
            case "BLAH_SET_SUDO_OFF":
                return self._reply("S", "Sudo mode off")
        raise AssertionError(f"{command.name} is in the table and has no answer")

    def _queue(self, request_id: str, line: bytes) -> bytes:
        self._results[request_id] = line
        if not self._asynchronous or self._announced or self._closed:
            return b""
        self._announced = True
        return self._line(b"R")

    def _hand_out(self) -> bytes:
        lines = [self._reply("S", str(len(self._results))), *map(self._line, self._results.values())]
        self._results.clear()
        self._announced = False
        return b"".join(lines)

    def _reply(self, *tokens: str) -> bytes:
        return self._line(join(tokens))

    def _line(self, text: bytes) -> bytes:
        return self._prefix + text + b"\r\n"
