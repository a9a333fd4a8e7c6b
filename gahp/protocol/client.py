"""The other side of a conversation: which request a line answers, and what it says.

The mirror of session.py, for programs that talk to a GAHP: any GAHP, also one that breaks the rules. Bytes in, events out;
reads and writes nothing itself.
"""

from __future__ import annotations

import dataclasses
from collections import deque

from gahp.model import to_text
from gahp.protocol.commands import COMMANDS, is_request_id
from gahp.protocol.lines import LineSplitter, TooLong, join, split
from gahp.protocol.results import Result

FIRST_REQUEST_ID = 2
"""The gridmanager's first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Greeting:
    """The first line of the server."""

    line: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The return line to `command` (as it was sent) with `arguments`. `verdict` is S, E or F; `tokens` are those behind it."""

    line: bytes
    command: str
    arguments: tuple[str, ...]
    verdict: str
    tokens: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Announcement:
    """R: results are waiting."""

    line: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A result line. `command` and `arguments` (those behind the request id) are empty if no request had this id."""

    line: bytes
    request_id: str
    command: str
    arguments: tuple[str, ...]
    tokens: tuple[str, ...]

    @property
    def result(self) -> Result | None:
        """The tokens behind the request id, if they are what `command` must answer with."""
        command = COMMANDS.get(self.command)
        if command is None or command.values is None or len(self.tokens) != 2 + len(command.values):
            return None
        code, message, *values = self.tokens
        return Result(int(code), message, tuple(values)) if code.isascii() and code.isdigit() else None


@dataclasses.dataclass(frozen=True, slots=True)
class Noise:
    """A line that is no part of the conversation: without the prefix, or when nothing was asked."""

    line: bytes


Event = Greeting | Reply | Announcement | Outcome | Noise


class Client:
    """The client's side of one conversation."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        self._greeted = False
        self._prefix = b""
        self._next_id = FIRST_REQUEST_ID
        self._unanswered: deque[tuple[str, ...]] = deque()
        self._pending: dict[str, tuple[str, ...]] = {}
        self._results_to_come = 0

    def request(self, command: str, *arguments: str) -> tuple[str, bytes]:
        """A new request id, and the line that sends `command` with it and `arguments`."""
        request_id = str(self._next_id)
        return request_id, self.send(command, request_id, *arguments)

    def send(self, command: str, *arguments: str) -> bytes:
        """The line for `command` with `arguments`, the request id among them; its reply is expected from now on."""
        if arguments and is_request_id(arguments[0]):
            self._next_id = max(self._next_id, int(arguments[0]) + 1)
        self._unanswered.append((command.upper(), *arguments))
        return join((command, *arguments)) + b"\r\n"

    def receive(self, data: bytes) -> list[Event]:
        """What the lines that end in `data` say, in order."""
        return [self._event(line) for line in self._splitter.feed(data)]

    def _event(self, line: bytes | TooLong) -> Event:
        if isinstance(line, TooLong):
            return Noise(b"")
        if not self._greeted:
            self._greeted = line.startswith(b"$")
            return Greeting(line) if self._greeted else Noise(line)
        if not line.startswith(self._prefix):
            return Noise(line)
        tokens = split(line[len(self._prefix) :])
        if self._results_to_come:
            self._results_to_come -= 1
            return self._outcome(line, tokens)
        if tokens == ["R"]:
            return Announcement(line)
        if self._unanswered and tokens and tokens[0] in ("S", "E", "F"):
            return self._reply(line, tokens[0], tuple(tokens[1:]))
        return Noise(line)

    def _reply(self, line: bytes, verdict: str, tokens: tuple[str, ...]) -> Reply:
        command, *arguments = self._unanswered.popleft()
        if verdict == "S":
            known = COMMANDS.get(command)
            if known is not None and known.has_result:
                self._pending[arguments[0]] = (command, *arguments[1:])
            elif command == "RESPONSE_PREFIX":
                self._prefix = join(arguments)
            elif command == "RESULTS" and tokens and tokens[0].isdigit() and tokens[0].isascii():
                self._results_to_come = int(tokens[0])
        return Reply(line, command, tuple(arguments), verdict, tokens)

    def _outcome(self, line: bytes, tokens: list[str]) -> Outcome:
        request_id = tokens[0] if tokens else ""
        command, *arguments = self._pending.pop(request_id, ("",))
        return Outcome(line, request_id, command, tuple(arguments), tuple(tokens[1:]))


def greeting_text(greeting: Greeting) -> str:
    """The version that a greeting tells, for people: without dollar signs and escapes."""
    return to_text(greeting.line).replace("\\", "").strip("$ ").removeprefix("GahpVersion:").strip()
