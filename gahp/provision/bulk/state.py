"""What a run must still know after it was interrupted: a file of lines beside the job file, only ever appended to.

Knows files; nothing of AWS. The first line names the run and what it runs; the others say, before it is done and after, what was
sent to AWS. The lock on the file is the kernel's: it ends with the process, however that ends. Each line is a JSON list.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from pathlib import Path

from gahp.model import Refused


class State:
    """The state of one run. `run` is its name; `sent` maps names of submissions to (job id or "", time of sending)."""

    def __init__(self, path: Path, digest: str) -> None:
        """Take up the run of `path`, or begin one. Raises Refused: the file cannot be used, or another process uses it."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Refused(f"The state of the run cannot be kept in {path}: {error.strerror}.") from error
        try:
            self._lock()
            self._read(digest)
        except (ValueError, IndexError, TypeError) as error:
            os.close(self._file)
            raise Refused(f"The state file {path} is not one that this program wrote ({error}): move it away.") from error
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"Another pegasus-aws-batch runs this job file: it holds {self._path}.") from None
        except OSError as error:
            raise Refused(f"The state file {self._path} cannot be locked: {error.strerror}.") from error

    def _read(self, digest: str) -> None:
        with open(self._path, "rb") as file:
            content = file.read()
        # What a crash cut short has no end of line, and must not become the beginning of the next one.
        whole = content.rfind(b"\n") + 1
        entries = [json.loads(line) for line in content[:whole].splitlines()]
        os.ftruncate(self._file, whole)
        self.adopted = bool(entries)
        self.changed = self.adopted and entries[0][2] != digest
        self.run: str = entries[0][1] if entries else secrets.token_hex(6)
        self.sent: dict[str, tuple[str, float]] = {}
        self.made: list[tuple[str, str]] = []
        for kind, *values in entries[1:]:
            if kind == "sending":
                self.sent[values[0]] = ("", values[2])
            elif kind == "unsent":
                self.sent.pop(values[0], None)
            elif kind == "sent":
                self.sent[values[0]] = (values[1], 0.0)
            elif kind == "made":
                self.made.append((values[0], values[1]))
        self.queues = {values[0]: values[1] for kind, *values in entries[1:] if kind == "sending"}
        if not self.adopted:
            self._append("run", self.run, digest)

    def restart(self, digest: str) -> None:
        """Forget what was; a new run begins. Entities that were made stay in its care."""
        os.ftruncate(self._file, 0)
        self.run, self.sent, self.queues, self.changed = secrets.token_hex(6), {}, {}, False
        self._append("run", self.run, digest)
        for kind, name in self.made:
            self._append("made", kind, name)

    def sending(self, name: str, queue: str) -> None:
        """Before SubmitJob: Batch may know this name from now on."""
        now = time.time()
        self.sent[name], self.queues[name] = ("", now), queue
        self._append("sending", name, queue, now)

    def unsent(self, name: str) -> None:
        """Batch surely does not have it."""
        del self.sent[name]
        self._append("unsent", name)

    def submitted(self, name: str, job_id: str) -> None:
        self.sent[name] = (job_id, 0.0)
        self._append("sent", name, job_id)

    def created(self, kind: str, name: str) -> None:
        """This run made an entity, and has to remove it."""
        self.made.append((kind, name))
        self._append("made", kind, name)

    def close(self, *, remove: bool) -> None:
        """Give up the lock; with `remove` there is nothing left to take up."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def _append(self, *values: object) -> None:
        os.write(self._file, json.dumps(values).encode() + b"\n")
        os.fsync(self._file)
