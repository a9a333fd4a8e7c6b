"""Takes the numbers of gahp.metrics to where they are read: counts calls of boto3's clients, and writes files every so often.

Two files: metrics.json in AWSBATCH_STATE_DIR, for `condor_awsbatch metrics` and `report`; and AWSBATCH_METRICS_FILE, if that is
set, for node_exporter's textfile collector. One GAHP of a user writes them, the one that holds the lock; a file that cannot be
written stops no job.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pwd
import secrets
import threading
import time
from typing import Any

from gahp import history, limits
from gahp.config import Config
from gahp.metrics import COUNTS, Counts, Sample, outcome, render
from gahp.model import Refused

log = logging.getLogger(__name__)

FILE = "metrics.json"
_LOCK = "metrics.lock"
_MOST_BYTES = 1 << 22


def watch(client: Any, service: str, counts: Counts = COUNTS) -> None:
    """Count every call of a boto3 client, and how long it took. botocore calls back before and behind each."""
    key = f"gahp-{service}-begun"

    def begin(context: dict[str, Any] | None = None, **_: Any) -> None:
        if context is not None:
            context[key] = time.perf_counter()

    def told(name: str, context: dict[str, Any] | None, how: str) -> None:
        begun = (context or {}).get(key)
        tell(service, name.rpartition(".")[2], how, None if begun is None else time.perf_counter() - begun, counts)

    def end(event_name: str, http_response: Any, parsed: dict[str, Any], context: dict[str, Any] | None = None, **_: Any) -> None:
        told(event_name, context, outcome(int(http_response.status_code), str(parsed.get("Error", {}).get("Code", ""))))

    def lost(event_name: str, context: dict[str, Any] | None = None, **_: Any) -> None:
        told(event_name, context, "lost")

    events = client.meta.events
    events.register("before-call", begin, unique_id=f"{key}-before")
    events.register("after-call", end, unique_id=f"{key}-after")
    events.register("after-call-error", lost, unique_id=f"{key}-lost")


def tell(service: str, operation: str, how: str, seconds: float | None, counts: Counts = COUNTS) -> None:
    """Count one call to AWS."""
    counts.add("calls", service, operation, how)
    if seconds is not None:
        counts.observe("call_duration_seconds", seconds, service, operation)


def user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def gauges(config: Config, started: float, now: float, up: bool) -> dict[str, list[Sample]]:
    """What is read off at one moment rather than counted. Raises Refused when the journal cannot be read."""
    paces = limits.snapshot(config.limits_dir or os.path.join(config.state_dir, "limits")).paces
    return {
        "jobs": [((state,), float(count)) for state, count in history.tally(config.state_dir).items()],
        "call_rate_limit": [((pace.kind,), round(pace.rate, 3)) for pace in paces],
        "call_rate": [((pace.kind,), round(pace.in_use, 3)) for pace in paces],
        "calls_throttled_lately": [((pace.kind,), round(pace.throttled_lately, 3)) for pace in paces],
        "journal_bytes": [((), float(history.size(config.state_dir)))],
        "start_time_seconds": [((), round(started, 3))] if started else [],
        "written_time_seconds": [((), round(now, 3))],
        "up": [((), float(up))],
    }


def last(directory: str) -> tuple[Counts, float, float, bool]:
    """What a GAHP of this user counted last: the counts, when it began, when it wrote, and whether it still works."""
    counts = Counts()
    path = os.path.join(directory, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            first, _, text = file.read(_MOST_BYTES).partition("\n")
            written = os.fstat(file.fileno()).st_mtime
        begun = float(first)
    except (OSError, ValueError):
        return counts, 0.0, 0.0, False
    counts.load(text)
    return counts, begun, written, _held(os.path.join(directory, _LOCK))


def _held(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Meter:
    """Writes the files every AWSBATCH_METRICS_INTERVAL seconds, and once more at the end. `close` never raises."""

    def __init__(self, config: Config, counts: Counts = COUNTS) -> None:
        self._config = config
        self._counts = counts
        self._started = time.time()
        self._lock = -1
        self._told = ""
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="meter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write the last numbers, unless a disk that hangs keeps the thread in the midst of writing."""
        self._stop.set()
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self.write(up=False)

    def _work(self) -> None:
        while True:
            self.write(up=True)
            if self._stop.wait(self._config.metrics_interval):
                return

    def write(self, up: bool) -> None:
        """Both files, each in one step. What cannot be written is said once in the log."""
        try:
            with self._writing:
                if not self._mine():
                    return
                dumped = f"{self._started!r}\n{self._counts.dump()}"
                put(os.path.join(self._config.state_dir, FILE), dumped, 0o600)
                if self._config.metrics_file:
                    found = gauges(self._config, self._started, time.time(), up)
                    user = user_name()
                    # node_exporter is another user.
                    put(metrics_path(self._config.metrics_file, user), render(self._counts, found, user), 0o644)
                self._told = ""
        except (OSError, Refused) as error:
            if str(error) != self._told:
                self._told = str(error)
                log.warning("the metrics cannot be written: %s: see AWSBATCH_METRICS_FILE and AWSBATCH_STATE_DIR", error)
        except Exception:
            log.exception("the metrics cannot be written")

    def _mine(self) -> bool:
        """Whether this GAHP is the one that writes; the kernel drops the lock with the process."""
        if self._lock < 0:
            descriptor = os.open(os.path.join(self._config.state_dir, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True


def metrics_path(given: str, user: str) -> str:
    """The file to write: in a directory, one for each user, as node_exporter wants them called."""
    return os.path.join(given, f"awsbatch_gahp_{user}.prom") if os.path.isdir(given) else given


def put(path: str, text: str, mode: int) -> None:
    """Put a file in place in one step: a reader sees the old one or the new one. Raises OSError about `path`."""
    # A name that nobody can guess, made anew: in a directory that all may write to, nobody can put a link there before.
    made = f"{path}.{secrets.token_hex(6)}.tmp"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, "It is no regular file")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
            os.replace(made, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
