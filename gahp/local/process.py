"""One attempt of a job as a local process: its isolation, its limits, its end.

Knows processes; nothing of Batch. Where the system allows it the attempt has a PID namespace of its own, so that nothing it
started outlives it; elsewhere its descendants are found and killed. One thread serves an attempt: it sleeps until there is
output, the process has ended, someone wants it stopped, or a deadline has come.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from gahp.local.memory import Watch, processes, tree

_READ = 65536
_DEATH_LIMIT_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `exit_code` is a container's: 128 + n for signal n; None if it never ran or its host went away."""

    exit_code: int | None
    out_of_memory: bool = False
    timed_out: bool = False
    host_gone: bool = False
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to run and within which limits. Times in seconds; `marker` is a line of `environment` that no other process has."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    memory_bytes: int
    timeout_s: float | None
    grace_s: float
    marker: str


@functools.cache
def isolation() -> tuple[str, ...]:
    """The words to put before a command so that it runs in a PID namespace; () where this system does not allow that."""
    setpriv, unshare = shutil.which("setpriv"), shutil.which("unshare")
    if not setpriv or not unshare:
        return ()
    for user in ((), ("--user", "--map-root-user")):
        # The parent's death ends unshare, and unshare's death ends the namespace: a killed server leaves nothing.
        words = (setpriv, "--pdeathsig", "KILL", unshare, *user, "--pid", "--fork", "--kill-child", "--mount-proc", "--")
        probe = subprocess.run([*words, "sh", "-c", "echo $$"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if probe.returncode == 0 and probe.stdout.strip() == b"1":
            return words
    return ()


@functools.cache
def leash() -> tuple[str, ...]:
    """Without a namespace the words before a command at least let its first process die with the server."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()


class Attempt:
    """A process that was planned; `start` runs it.

    `started` is called once it runs, `output` gets bytes as they come, and `ended` exactly one Ending, last.
    """

    def __init__(
        self,
        plan: Plan,
        watch: Watch,
        started: Callable[[], None],
        output: Callable[[bytes], None],
        ended: Callable[[Ending], None],
        *,
        isolate: bool = True,
    ) -> None:
        self._plan = plan
        self._watch = watch
        self._started = started
        self._output = output
        self._ended = ended
        namespace = isolation() if isolate else ()
        self._isolated = bool(namespace)
        self._words = namespace or leash()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._closed = False
        self._stop_wanted = self._kill_wanted = self._out_of_memory = self._host_gone = False

    def start(self) -> None:
        threading.Thread(target=self._serve, name="attempt", daemon=True).start()

    def stop(self) -> None:
        """SIGTERM now, SIGKILL when the grace time is over."""
        self._stop_wanted = True
        self._wake()

    def vanish(self) -> None:
        """The host is gone: everything is killed, and no exit code remains."""
        self._host_gone = self._kill_wanted = True
        self._wake()

    def _exceeded(self) -> None:
        self._out_of_memory = self._kill_wanted = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if not self._closed:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"!")

    def _serve(self) -> None:
        try:
            process = subprocess.Popen(
                # What whoever started the server ignores (nohup: SIGHUP), a container does not.
                [*self._words, "env", "--default-signal", *self._plan.command],
                env=dict(self._plan.environment),
                cwd=self._plan.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            self._close()
            self._ended(Ending(None, error=f"CannotStartContainerError: {error}"))
            return
        assert process.stdout is not None
        self._started()
        self._watch.add(process.pid, self._plan.memory_bytes, self._exceeded)
        try:
            timed_out = self._follow(process, process.stdout.fileno())
        finally:
            self._watch.remove(process.pid)
            self._kill_all(process)
            code = process.wait()
            self._drain(process.stdout.fileno())
            process.stdout.close()
            self._close()
        exit_code = None if self._host_gone else 128 - code if code < 0 else code
        self._ended(Ending(exit_code, self._out_of_memory, timed_out, self._host_gone))

    def _follow(self, process: subprocess.Popen[bytes], output: int) -> bool:
        """Until the process has ended (not yet waited for). True if its time was up."""
        started = time.monotonic()
        timeout = self._plan.timeout_s
        deadline = None if timeout is None else started + timeout
        stopping = timed_out = False
        os.set_blocking(output, False)
        pidfd = os.pidfd_open(process.pid)
        poll = select.poll()
        for descriptor in (output, pidfd, self._wake_read):
            poll.register(descriptor, select.POLLIN)
        try:
            while True:
                wait = None if deadline is None else max(0, (deadline - time.monotonic()) * 1000)
                ready = {descriptor for descriptor, _ in poll.poll(wait)}
                if output in ready and not self._drain(output, once=True):
                    poll.unregister(output)
                if pidfd in ready:
                    return timed_out
                if self._wake_read in ready:
                    os.read(self._wake_read, 64)
                expired = deadline is not None and time.monotonic() >= deadline
                if self._kill_wanted or (expired and stopping):
                    self._kill_all(process)
                    deadline = None
                elif (self._stop_wanted or expired) and not stopping:
                    stopping, timed_out = True, expired and not self._stop_wanted
                    self._signal(process, signal.SIGTERM)
                    deadline = time.monotonic() + self._plan.grace_s
        finally:
            os.close(pidfd)

    def _drain(self, output: int, *, once: bool = False) -> bool:
        """Pass on what there is to read. False at the end of the stream."""
        while True:
            try:
                data = os.read(output, _READ)
            except (BlockingIOError, OSError):
                return True
            if not data:
                return False
            self._output(data)
            if once:
                return True

    def _main_pid(self, process: subprocess.Popen[bytes]) -> int | None:
        """The container's first process: unshare's only child in a namespace, else the process itself."""
        if not self._isolated:
            return process.pid
        for _ in range(200):
            if below := processes().get(process.pid):
                return below[0]
            if process.poll() is not None:
                return None
            time.sleep(0.005)
        return None

    def _signal(self, process: subprocess.Popen[bytes], number: int) -> None:
        # As `docker stop` does: only the first process is told. In a namespace, as in a container, it needs a handler to notice.
        if (pid := self._main_pid(process)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _kill_all(self, process: subprocess.Popen[bytes]) -> None:
        if self._isolated:
            self._kill_namespace(process)
            return
        below = tree(process.pid, processes())[1:]
        # First the one that could start others; poll() tells of an end before its number is used.
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        marker = self._plan.marker.encode()
        while victims := [pid for pid in (*below, *_marked(marker)) if pid != process.pid]:
            below = []
            for pid in victims:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def _kill_namespace(self, process: subprocess.Popen[bytes]) -> None:
        """Kill unshare, which cannot pass a SIGKILL on as its own end, then the namespace, and wait until all of it is gone."""
        pid = self._main_pid(process)
        try:
            first = os.pidfd_open(pid) if pid is not None else None
        except ProcessLookupError:
            first = None
        process.send_signal(signal.SIGKILL)
        if first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            # The kernel ends a namespace's first process after all others.
            select.select([first], [], [], _DEATH_LIMIT_S)
            os.close(first)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)


def _marked(marker: bytes) -> list[int]:
    """Living processes with `marker` as a line of their environment, also those that left their parent behind."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError):
            if process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                if marker in file.read().split(b"\0"):
                    found.append(process.pid)
    return found
