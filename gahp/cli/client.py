"""A GAHP as a child process and the conversation with it, held as the gridmanager holds it.

Knows processes and waiting; lines and what they answer are gahp.protocol.client's.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from gahp.model import Refused
from gahp.protocol import client as protocol

RETURN_LINE_S = 20.0
"""How long a gridmanager waits for a return line."""


class Client:
    """One GAHP, in asynchronous mode. Raises Refused when it is not there, says nothing, or ends."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0)
        except OSError as error:
            raise Refused(f"{command[0]} cannot be started: {error.strerror}.") from error
        assert self.process.stdin is not None and self.process.stdout is not None
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._talk = protocol.Client()
        self._greeted = False
        self._replies: list[protocol.Reply] = []
        self._outcomes: list[protocol.Outcome] = []
        self._announced = False
        self._wait(lambda: self._greeted, RETURN_LINE_S, "a greeting")
        self.call("ASYNC_MODE_ON")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, command: str, *arguments: str) -> protocol.Reply:
        """Send one line; its return line."""
        return self._send(command, self._talk.send(command, *arguments))

    def request(self, command: str, *arguments: str) -> str:
        """Send a request that has a result line; its id. Raises Refused when the GAHP does not take it."""
        request_id, line = self._talk.request(command, *arguments)
        reply = self._send(command, line)
        if reply.verdict != "S":
            raise Refused(f"The GAHP did not take {command}: {' '.join(reply.tokens)}")
        return request_id

    def results(self, wait_s: float) -> list[protocol.Outcome]:
        """The results that are ready; waits up to `wait_s` for the first."""
        if not self._announced and not self._outcomes:
            with contextlib.suppress(TimeoutError):
                self._read_until(lambda: self._announced, wait_s)
        if self._announced:
            self._announced = False
            count = int(self.call("RESULTS").tokens[0])
            self._wait(lambda: len(self._outcomes) >= count, RETURN_LINE_S, "its results")
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def perform(self, command: str, *arguments: str, wait_s: float = 300.0) -> tuple[str, ...]:
        """Send a request and wait for its result: the tokens behind the id. For one request at a time."""
        request_id = self.request(command, *arguments)
        until = time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0:
            for outcome in self.results(left):
                if outcome.request_id == request_id:
                    return outcome.tokens
        raise Refused(f"{command} had no result within {wait_s:g} s.")

    def close(self) -> None:
        """End the conversation and wait for the GAHP to end."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, command: str, data: bytes) -> protocol.Reply:
        with contextlib.suppress(BrokenPipeError):  # the reading below says that it has ended
            while data:
                data = data[os.write(self._in, data) :]
        self._wait(lambda: bool(self._replies), RETURN_LINE_S, f"a return line to {command}")
        return self._replies.pop(0)

    def _wait(self, condition: Callable[[], bool], wait_s: float, what: str) -> None:
        try:
            self._read_until(condition, wait_s)
        except TimeoutError:
            raise Refused(f"The GAHP has not sent {what} for {wait_s:g} s.") from None

    def _read_until(self, condition: Callable[[], bool], wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while not condition():
            ready, _, _ = select.select([self._out], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            data = os.read(self._out, 1 << 18)
            if not data:
                raise Refused("The GAHP has ended.")
            for event in self._talk.receive(data):
                self._take(event)

    def _take(self, event: protocol.Event) -> None:
        match event:
            case protocol.Greeting():
                self._greeted = True
            case protocol.Reply():
                self._replies.append(event)
            case protocol.Announcement():
                self._announced = True
            case protocol.Outcome():
                self._outcomes.append(event)
