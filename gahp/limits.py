"""The pace of calls to AWS Batch: one rate for each kind of call, learnt from refusals and shared by all GAHPs of a host.

AWS meters each operation for the whole account (SubmitJob: 50 a second), so each kind has a rate of its own. It grows by steps
while it is what holds calls up and is cut to a part by a 429: clients that all do so come to share what there is, whatever
host they are on. One more rate bounds all kinds together; there ends go before submits and submits before status, so that what
is to stop never waits behind what is to be watched. A limiter delays; it makes no call fail.

The state is a small file in a directory. Whoever may write there is trusted to slow others down and with nothing more: the file
is read as data, a lock that stays held or a file that is none is done without, and no wait can be written that outlasts the
lowest rate. `provide` makes such a directory for all users of a host. Knows nothing of AWS but the numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import fcntl
import math
import os
import random
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gahp.model import Transient

FILE = "rates"
FLOOR = 1.0  # calls a second; below it a client would no longer notice that there is room again
_CUT = 0.7
_CUT_AGAIN_S = 0.5  # refusals of calls that were under way together are one refusal
_GROWTH = 0.04  # of the top rate, for each second at the limit
_BURST_S = 0.2  # so much of a second's calls may go at once after a pause
_USED_OVER_S, _THROTTLED_OVER_S = 5.0, 60.0
_LOCK_FOR_S, _ALONE_S = 0.25, 5.0
_MAGIC = b"rates 1\n"


class Kind(enum.IntEnum):
    """What a call is for, the most urgent first."""

    END = 0
    SUBMIT = 1
    STATUS = 2


# How much of a second's calls of all kinds may have gone ahead before this kind has to wait: the rest is for the more urgent.
_ROOM_S = {Kind.END: 0.5, Kind.SUBMIT: 0.3, Kind.STATUS: 0.1}


class Later(Transient):
    """Nothing was called: there is no room before `wait_s` seconds."""

    def __init__(self, kind: Kind, wait_s: float) -> None:
        super().__init__(f"this host's calls to AWS Batch ({kind.name.lower()}) are to wait for {wait_s:.1f} s")
        self.wait_s = wait_s


@dataclasses.dataclass(frozen=True, slots=True)
class Tops:
    """The rates that are not gone beyond, in calls a second, and the share of them to begin with."""

    end: float = 50.0
    submit: float = 50.0
    status: float = 50.0
    all: float = 120.0
    start: float = 0.5

    def of(self, kind: Kind) -> float:
        return max(FLOOR, (self.end, self.submit, self.status)[kind])


@dataclasses.dataclass(slots=True)
class Row:
    """One kind's state. Times are of the machine's monotonic clock, which all its processes share."""

    rate: float
    due: float = 0.0
    taken: float = 0.0
    cut: float = 0.0
    used: float = 0.0
    throttled: float = 0.0
    refused: float = 0.0


class Rates:
    """The decisions, by value: when a call may go, and what its refusal means. No clock, no file."""

    _LAYOUT = struct.Struct("<8s" + "7d" * (len(Kind) + 1))

    def __init__(self, tops: Tops) -> None:
        self._tops = tops
        self.rows = [Row(max(FLOOR, tops.of(kind) * tops.start)) for kind in Kind]
        self._all = Row(max(FLOOR, tops.all))

    def take(self, kind: Kind, now: float) -> float:
        """0.0 if a call may go now, and then it counts; else the seconds after which to ask again."""
        row, top = self.rows[kind], self._tops.of(kind)
        wait = max(row.due - _BURST_S, self._all.due - _ROOM_S[kind]) - now
        if wait > 0:
            return wait
        elapsed, grown = max(0.0, now - row.taken), _GROWTH * top * max(0.0, now - max(row.taken, row.cut))
        if row.due > now:
            row.rate += min(grown, _GROWTH * top)
        else:
            # Nothing is learnt from a pause, so it leads no further than where a newcomer begins.
            row.rate = max(row.rate, min(top * self._tops.start, row.rate + grown))
        row.rate = min(row.rate, top)
        row.used = row.used * math.exp(-elapsed / _USED_OVER_S) + 1.0
        row.taken = now
        row.due = max(row.due, now) + 1.0 / row.rate
        self._all.due = max(self._all.due, now) + 1.0 / self._all.rate
        return 0.0

    def refuse(self, kind: Kind, now: float) -> None:
        """AWS answered 429."""
        row = self.rows[kind]
        row.throttled = row.throttled * math.exp(-max(0.0, now - row.refused) / _THROTTLED_OVER_S) + 1.0
        row.refused = now
        if now - row.cut >= _CUT_AGAIN_S:
            row.cut = now
            row.rate = max(FLOOR, row.rate * _CUT)
            row.due = max(row.due, now + 1.0 / row.rate)

    def pack(self) -> bytes:
        numbers: list[float] = []
        for row in (*self.rows, self._all):
            numbers += (row.rate, row.due, row.taken, row.cut, row.used, row.throttled, row.refused)
        return self._LAYOUT.pack(_MAGIC, *numbers)

    def unpack(self, data: bytes, now: float) -> bool:
        """Take over what the file says, as far as it can be true at `now`. False if it says nothing."""
        if len(data) < self._LAYOUT.size or not data.startswith(_MAGIC):
            return False
        numbers = self._LAYOUT.unpack_from(data)[1:]
        if not math.isfinite(sum(map(abs, numbers))):
            return False
        rows = [Row(*numbers[start : start + 7]) for start in range(0, len(numbers), 7)]
        for row in rows:
            # Of another boot, or written by somebody who means harm.
            row.due = min(max(row.due, 0.0), now + 1.0 / FLOOR + _BURST_S)
            row.taken, row.cut, row.refused = min(row.taken, now), min(row.cut, now), min(row.refused, now)
            row.used, row.throttled = min(max(row.used, 0.0), 1e6), min(max(row.throttled, 0.0), 1e6)
        for kind, row in zip(Kind, rows, strict=False):
            row.rate = min(max(row.rate, FLOOR), self._tops.of(kind))
        self.rows = rows[:-1]
        # How many calls go in all is each host's own manners, not learnt.
        self._all.due = min(rows[-1].due, now + _ROOM_S[Kind.END] + 1.0 / self._all.rate)
        return True


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """How one kind of call stands: calls a second allowed and lately made; how many were refused in the last minute or so."""

    kind: str
    rate: float
    in_use: float
    throttled_lately: float


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """The limiter's state of one directory at one moment; no `paces` while nobody has called anything."""

    paces: tuple[Pace, ...] = ()


def snapshot(directory: str) -> Snapshot:
    """What the GAHPs that share `directory` have learnt; never raises for what is or is not there."""
    now, rates = time.monotonic(), Rates(Tops(end=1e9, submit=1e9, status=1e9))
    try:
        descriptor = _open(directory, create=False)
    except OSError:
        return Snapshot()
    try:
        if not rates.unpack(os.pread(descriptor, Rates._LAYOUT.size, 0), now):
            return Snapshot()
    except OSError:
        return Snapshot()
    finally:
        os.close(descriptor)
    return Snapshot(
        tuple(
            Pace(
                kind.name.lower(),
                row.rate,
                row.used * math.exp(-(now - row.taken) / _USED_OVER_S) / _USED_OVER_S,
                row.throttled * math.exp(-(now - row.refused) / _THROTTLED_OVER_S),
            )
            for kind, row in zip(Kind, rates.rows, strict=True)
        )
    )


class Limiter:
    """The pace of one process, in step with all that use the same directory. Without one it goes by itself. Thread-safe.

    `patience_s`: it waits so long at least, also for a call that would not; for a process that has nothing else to do meanwhile.
    """

    def __init__(
        self,
        directory: str = "",
        tops: Tops | None = None,
        *,
        patience_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._directory = directory
        self._rates = Rates(tops or Tops())
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._descriptor = -1
        self._alone_until = 0.0 if directory else math.inf

    def wait(self, kind: Kind, patience_s: float = math.inf) -> None:
        """Return when a call may go. Raises Later if that is not to be within `patience_s`, or the limiter's own."""
        until = self._clock() + max(patience_s, self._patience_s)
        while True:
            with self._lock, self._shared() as now:
                delay = self._rates.take(kind, now)
                step = 1.0 / self._rates.rows[kind].rate
            if delay <= 0.0:
                return
            # Those that wait together do not come back together.
            delay += random.uniform(0.0, 0.5) * step  # noqa: S311  this needs no secrecy
            if self._clock() + delay > until:
                raise Later(kind, delay)
            self._sleep(delay)

    def throttled(self, kind: Kind) -> None:
        """A call was refused with 429: go slower."""
        with self._lock, self._shared() as now:
            self._rates.refuse(kind, now)

    def close(self) -> None:
        with self._lock:
            self._directory, self._alone_until = "", math.inf
            self._drop()

    @contextlib.contextmanager
    def _shared(self) -> Iterator[float]:
        """The rates as all know them, locked, and written back; our own alone when that is not to be had. Yields the time."""
        if self._clock() >= self._alone_until and self._locked():
            now = self._clock()
            try:
                with contextlib.suppress(OSError):
                    self._rates.unpack(os.pread(self._descriptor, Rates._LAYOUT.size, 0), now)
                yield now
                try:
                    os.pwrite(self._descriptor, self._rates.pack(), 0)
                except OSError:
                    self._go_alone()
            finally:
                if self._descriptor >= 0:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        else:
            yield self._clock()

    def _locked(self) -> bool:
        """The lock is there for microseconds; who keeps it longer is not waited for."""
        until = time.monotonic() + _LOCK_FOR_S
        try:
            while True:
                if self._descriptor < 0:
                    self._descriptor = _open(self._directory, create=True)
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._is_there():
                        return True
                    self._drop()  # taken away or exchanged since it was opened: the others use the one that is there
                except BlockingIOError:
                    time.sleep(0.0005)
                if time.monotonic() > until:
                    break
        except OSError:
            pass
        self._go_alone()
        return False

    def _is_there(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(os.path.join(self._directory, FILE)))
        return False

    def _go_alone(self) -> None:
        self._alone_until = self._clock() + _ALONE_S
        self._drop()

    def _drop(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def provide(directory: str) -> None:
    """Make `directory` one that all users of this host share, as root; once more changes nothing. Raises OSError.

    Names in it are root's and the file is everybody's. In a directory like /tmp it would belong to the user whose GAHP came
    first, who could close it to the others, or take it away.
    """
    for parent in Path(directory).parents:
        if parent.is_dir() and not parent.stat().st_mode & stat.S_IXOTH:
            raise PermissionError(errno.EACCES, f"{parent} is closed to other users")
    umask = os.umask(0o022)
    try:
        os.makedirs(directory, exist_ok=True)
    finally:
        os.umask(umask)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(place).st_uid != 0:
            raise PermissionError(errno.EPERM, "it belongs to another user than root")
        # First of all: from here on nobody else changes what lies in it.
        os.fchmod(place, 0o755)
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(FILE, dir_fd=place, follow_symlinks=False)
            # What a user has put there may be a second name of quite another file.
            if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or found.st_nlink != 1:
                os.unlink(FILE, dir_fd=place)
        descriptor = os.open(FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place)
        try:
            os.fchmod(descriptor, 0o666)
        finally:
            os.close(descriptor)
    finally:
        os.close(place)


def withdraw(directory: str) -> None:
    """Undo `provide`. Raises OSError if the directory stays, as it does with anything else in it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, FILE))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(directory)
    # Journals may lie beside it.
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(directory))


def trouble(directory: str) -> str:
    """Why this process cannot share limits in `directory`, in a few words; "" if it can."""
    try:
        if not os.path.isdir(directory):
            os.stat(directory)
            return "it is no directory"
        os.close(_open(directory, create=True))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _open(directory: str, *, create: bool) -> int:
    """The shared file: a plain one of one name, whoever made it. Raises OSError.

    Who may write to the directory may write to the file. It is first opened without O_CREAT, which the kernel refuses for
    another user's file in a directory like /tmp (fs.protected_regular).
    """
    path = os.path.join(directory, FILE)
    flags = (os.O_RDWR if create else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        if not create:
            raise
        os.makedirs(directory, mode=0o700, exist_ok=True)
        mode = _mode_in(os.stat(directory))
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            os.fchmod(descriptor, mode)  # whatever the umask says
        except FileExistsError:
            descriptor = os.open(path, flags)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not (found.st_nlink == 1 or _only_roots(directory)):
        os.close(descriptor)
        raise OSError(f"{path} is no plain file")
    return descriptor


def _mode_in(directory: os.stat_result) -> int:
    """The file's mode. A group counts where the directory hands it on to the file (setgid)."""
    if directory.st_mode & stat.S_IWOTH:
        return 0o666
    return 0o660 if directory.st_mode & stat.S_IWGRP and directory.st_mode & stat.S_ISGID else 0o600


def _only_roots(directory: str) -> bool:
    """Whether only root has names there. Then the file is what it seems, and a second name that somebody, who may, has given
    it elsewhere would only serve to end the sharing."""
    found = os.stat(directory)
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
