"""Where a run's output goes on the submit host, and putting it there.

`plan` decides: it looks at the disk but changes nothing. `Placement` does: every file is written beside its place under a
temporary name, and all are renamed when all are complete. So whoever looks sees an old file or a whole new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO

from gahp.model import JobRequest, Refused
from gahp.sandbox import names
from gahp.sandbox.manifest import merged
from gahp.sandbox.result import Record
from gahp.sandbox.tarstream import damaged

log = logging.getLogger(__name__)

_SYNC_EACH = 50
"""Up to so many files are synced one by one; more of them with one sync of everything, which is faster."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A file to write: its final path, and the record it is filled from (None: it is empty). `mode` None: as it has been, or the
    usual one of a new file."""

    path: str
    record: Record | None
    mode: int | None = None


_NOWHERE = Target("", None, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    files: tuple[Target, ...]
    directories: tuple[str, ...]
    missing: tuple[str, ...]


def plan(request: JobRequest, records: Sequence[Record]) -> Plan:
    """Decide where everything in `records` goes. What the job did not declare is left out, with a line in the log. Raises Refused
    for what must not be written, and when the records contradict the job."""
    planner = _Planner(request)
    streams = {record.kind: record for record in records if record.kind in ("o", "e")}
    for record in records:
        if record.kind not in streams:
            planner.add(record)
    planner.add_streams(streams)
    return planner.plan()


class _Planner:
    """Takes one record after the other."""

    def __init__(self, request: JobRequest) -> None:
        self._request = request
        self._declared = [names.output_name(name) for name in request.outputs or ()]
        self._table = names.rules(request.remaps)
        self._files: dict[str, Target] = {}
        self._directories: dict[str, None] = {}
        self._made: set[int] = set()
        self._missing: dict[int, list[str]] = {}

    def add(self, record: Record) -> None:
        lands = self._landing(record)
        if lands is None:
            log.warning("ignored an output that the job did not declare: %r", record.name)
        elif record.kind == "m":
            self._add_missing(record)
        else:
            if record.declaration is not None:
                self._made.add(record.declaration)
            self._add_made(record, lands)

    def _landing(self, record: Record) -> str | None:
        """Where the record lands in Iwd, by the job's own declarations; None: nobody asked for it."""
        if record.declaration is None:
            return record.name if self._request.outputs is None and record.kind in "fm" and "/" not in record.name else None
        if record.declaration >= len(self._declared):
            return None
        return names.landing(self._declared[record.declaration], record.name)

    def _add_missing(self, record: Record) -> None:
        """Something inside a declared directory; a missing declaration itself shows by not being made."""
        number = -1 if record.declaration is None else record.declaration
        if number < 0 or record.name != self._declared[number].rstrip("/"):
            self._missing.setdefault(number, []).append(record.name)

    def _add_made(self, record: Record, lands: str) -> None:
        goal = names.target_of(self._table, record.name, lands)
        in_s3 = goal.startswith("s3://")
        if record.kind == "d":
            if not in_s3:
                self._directories[_directory(self._request, goal, mapped=goal != lands)] = None
            return
        if in_s3 != (record.place == "s3"):
            raise damaged(f"the output {record.name} is not where the job wanted it")
        if not in_s3:
            self._add_target(Target(_file(self._request, goal, mapped=goal != lands), record, record.mode))

    def add_streams(self, found: Mapping[str, Record]) -> None:
        """Standard output and error: always there, empty when the program never started."""
        request = self._request
        if request.stdout not in names.DISCARD:
            self._add_target(Target(stream_path(request, request.stdout), found.get("o")))
        if request.stderr not in names.DISCARD and not merged(request):
            self._add_target(Target(stream_path(request, request.stderr), found.get("e")))

    def _add_target(self, target: Target) -> None:
        refuse_user_log(self._request, target.path)
        if os.path.isdir(target.path) and not os.path.islink(target.path):
            raise Refused(
                f"The output {target.path} cannot be written: a directory of that name is there; move it and release the job."
            )
        self._files[target.path] = target

    def _is_stream(self, number: int) -> bool:
        """Whether the job declared its own standard output or error as an output; HTCondor takes that as said."""
        name = self._declared[number]
        goal = names.target_of(self._table, name, names.landing(name, name) or "")
        return self._files.get(stream_path(self._request, goal), _NOWHERE).mode is None

    def plan(self) -> Plan:
        missing = list(self._missing.get(-1, ()))
        for number, name in enumerate(self._request.outputs or ()):
            if number not in self._made and not self._is_stream(number):
                missing.append(name)
            missing += self._missing.get(number, ())
        return Plan(tuple(self._files.values()), tuple(self._directories), tuple(dict.fromkeys(missing)))


def stream_path(request: JobRequest, name: str) -> str:
    """The file that standard output or error goes to: links are followed, since the user wrote the name."""
    return os.path.realpath(os.path.join(request.iwd, name))


def _file(request: JobRequest, goal: str, mapped: bool) -> str:
    """The path of an output file. A link in its place is replaced; links on the way may lead out of Iwd only by a remap."""
    path = os.path.join(request.iwd, goal)
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if mapped:
        return os.path.realpath(real)
    _require_inside(request, goal, real)
    return real


def _directory(request: JobRequest, goal: str, mapped: bool) -> str:
    """The path of an output directory, under the same rule."""
    real = os.path.realpath(os.path.join(request.iwd, goal))
    if not mapped:
        _require_inside(request, goal, real)
    if os.path.exists(real) and not os.path.isdir(real):
        raise Refused(f"The output directory {goal} cannot be made: {real} is a file; move it away and release the job.")
    return real


def _require_inside(request: JobRequest, goal: str, real: str) -> None:
    iwd = os.path.realpath(request.iwd)
    if os.path.commonpath((iwd, real)) != iwd:
        raise Refused(
            f"The output {goal} would leave the job's directory {request.iwd} through a symbolic link, to {real}: remove the "
            f"link, or say where it goes with transfer_output_remaps."
        )


def refuse_user_log(request: JobRequest, path: str) -> None:
    """Raise Refused when `path` is the job's user log, or any file that looks like one."""
    sentence = f"The output {path} would overwrite the job's user log: give the output or the log another name."
    real = os.path.realpath(path)
    if request.user_log and real == os.path.realpath(os.path.join(request.iwd, request.user_log)):
        raise Refused(sentence)
    try:
        if stat.S_ISREG(os.stat(real).st_mode):
            with open(real, "rb") as file:
                start = file.read(1024)
            if names.is_user_log(start):
                raise Refused(sentence)
    except OSError:
        return  # not there, or not readable: what is wrong with it shows when it is written


class Placement:
    """Files on their way to their places. As a context: what was not committed is removed again.

    `label` makes the temporary names, the same for the same run, so that a try that died leaves nothing that the next one
    does not take over.
    """

    def __init__(self, planned: Plan, label: str) -> None:
        self._plan = planned
        self._label = label
        self._temporary: dict[str, str] = {}
        self._made: list[str] = []
        self._sync_each = len(planned.files) <= _SYNC_EACH
        self._names = {target.path: f".awsbatch-{label}-{number}" for number, target in enumerate(planned.files)}

    def __enter__(self) -> Placement:
        try:
            for directory in sorted(self._plan.directories):
                self._make_directory(directory)
            for target in self._plan.files:
                self._make_directory(os.path.dirname(target.path))
        except BaseException:
            self._undo()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._undo()

    def open(self, target: Target) -> IO[bytes]:
        """The temporary file of `target`, empty, for reading and writing; nobody else may read it."""
        path = os.path.join(os.path.dirname(target.path), self._names[target.path])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._temporary[target.path] = path
        return open(descriptor, "w+b")

    def finish(self, target: Target, file: IO[bytes]) -> None:
        """The file is complete: give it its mode, have it on disk, close it."""
        with file:
            file.flush()
            os.fchmod(file.fileno(), _mode(target))
            if self._sync_each:
                os.fsync(file.fileno())

    def commit(self) -> None:
        """Rename all. Raises Refused when a file of the plan was never filled."""
        for target in self._plan.files:
            if target.path not in self._temporary:
                if target.record is not None:
                    raise damaged(f"it lists the output {target.record.name} but does not hold it")
                self.finish(target, self.open(target))
        if not self._sync_each:
            os.sync()
        for target in self._plan.files:
            os.replace(self._temporary[target.path], target.path)
            del self._temporary[target.path]
        self._made.clear()
        for directory in {os.path.dirname(target.path) for target in self._plan.files}:
            _sync_directory(directory)

    def _make_directory(self, path: str) -> None:
        if os.path.isdir(path):
            return
        self._make_directory(os.path.dirname(path))
        os.mkdir(path)
        self._made.append(path)

    def _undo(self) -> None:
        for path in self._temporary.values():
            try:
                os.unlink(path)
            except OSError as error:
                log.warning("could not remove %r: %s", path, error.strerror)
        self._temporary.clear()
        for path in reversed(self._made):
            try:
                os.rmdir(path)
            except OSError:
                break  # somebody uses it
        self._made.clear()


def _mode(target: Target) -> int:
    """The record's mode; for a stream the one of the file it replaces, or what the umask leaves of 0666."""
    if target.mode is not None:
        return target.mode
    try:
        return stat.S_IMODE(os.stat(target.path).st_mode) & 0o777
    except OSError:
        return 0o666 & ~_umask()


@functools.cache
def _umask() -> int:
    """This process's, which nothing changes while it places files; to ask the kernel for it any other way is to change it."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
