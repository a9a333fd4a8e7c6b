"""Container output into CloudWatch Logs, as the awslogs driver does it: one event a line, long lines in pieces.

Knows moto's Logs backend; nothing of jobs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.logs.exceptions import ResourceAlreadyExistsException

GROUP = "/aws/batch/job"
# Docker hands long lines to its log drivers in pieces of this size.
_LONGEST = 16384
_BATCH_EVENTS = 1000
_BATCH_S = 0.2


class Stream:
    """One log stream. `write` takes bytes as they come; lines appear at once, or in batches when they come thick and fast."""

    def __init__(self, region: str, name: str, group: str = GROUP) -> None:
        self._backend: Any = get_backend("logs")[DEFAULT_ACCOUNT_ID][region]
        self._group, self.name = group, name
        self._rest = b""
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._sent = 0.0
        self._timer: threading.Timer | None = None
        with contextlib.suppress(ResourceAlreadyExistsException):
            self._backend.create_log_group(group, {})
        with contextlib.suppress(ResourceAlreadyExistsException):
            self._backend.create_log_stream(group, name)

    def write(self, data: bytes) -> None:
        with self._lock:
            *lines, self._rest = (self._rest + data).split(b"\n")
            now = int(time.time() * 1000)
            while len(self._rest) > _LONGEST:
                lines.append(self._rest[:_LONGEST])
                self._rest = self._rest[_LONGEST:]
            for line in lines:
                pieces = [line[start : start + _LONGEST] for start in range(0, len(line), _LONGEST)] or [b""]
                self._events += [{"timestamp": now, "message": piece.decode("utf-8", "replace")} for piece in pieces]
            due = time.monotonic() - self._sent >= _BATCH_S
            if due or len(self._events) >= _BATCH_EVENTS:
                self._send()
            elif self._events and self._timer is None:
                self._timer = threading.Timer(_BATCH_S, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        with self._lock:
            self._timer = None
            self._send()

    def close(self) -> None:
        """Send all there is, an unfinished last line too."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._rest:
                self._events.append({"timestamp": int(time.time() * 1000), "message": self._rest.decode("utf-8", "replace")})
                self._rest = b""
            self._send()

    def _send(self) -> None:
        events, self._events = self._events, []
        if events:
            self._sent = time.monotonic()
            # The group may have been deleted meanwhile, as it may in AWS: then the lines are lost.
            with contextlib.suppress(Exception):
                self._backend.put_log_events(self._group, self.name, events)
