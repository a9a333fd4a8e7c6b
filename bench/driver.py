"""Drives any batch GAHP over pipes as HTCondor's gridmanager does, and takes its times.

The gridmanager writes no command before the return line of the last one is there, has so many requests in flight and no more, and
asks for RESULTS when an R line says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence

import psutil

STALL_S = 120.0
_READ = 1 << 18


@dataclasses.dataclass(frozen=True)
class Burst:
    """What a number of equal commands took. Times in seconds; CPU of the GAHP and its children; memory of all of them, bytes."""

    command: str
    count: int
    in_flight: int
    elapsed_s: float
    cpu_s: float
    times_s: tuple[float, ...]
    memory: int
    begun: float  # seconds since the epoch
    values: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        return self.count / self.elapsed_s

    def percentile(self, share: float) -> float:
        """Milliseconds within which that share of the results was there."""
        return 1000 * sorted(self.times_s)[min(self.count - 1, int(share * self.count))]

    @property
    def cpu_per_1000_s(self) -> float:
        return 1000 * self.cpu_s / self.count


class Gahp:
    """One GAHP process. RuntimeError when it ends, stalls or fails a command."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._lines: list[bytes] = []
        self._rest = b""
        self._announced = False
        self._number = 1
        try:
            self._line()
            self.greeting_s = time.perf_counter() - begin
            self.call(b"ASYNC_MODE_ON")
        except BaseException:
            self.close()
            raise
        self.usage = psutil.Process(self.process.pid)

    def __enter__(self) -> Gahp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End of input, then SIGKILL for one that stays."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, line: bytes) -> bytes:
        """Write a command, wait for its return line."""
        os.write(self._in, line + b"\r\n")
        while (answer := self._line()) == b"R":
            self._announced = True
        if answer[:1] != b"S":
            raise RuntimeError(f"{line[:60]!r} was answered by {answer[:200]!r}")
        return answer

    def burst(self, command: str, arguments: Iterable[str], in_flight: int) -> Burst:
        """That command once for each of `arguments`, which stand behind the request id."""
        waiting = list(arguments)[::-1]
        count, sent = len(waiting), {}
        times: list[float] = []
        values: list[tuple[int, str]] = []
        cpu, begun = self.cpu_s(), time.time()
        with self._watched() as memory:
            begin = time.perf_counter()
            while waiting or sent:
                while waiting and len(sent) < in_flight and not self._announced:
                    self._number += 1
                    line = f"{command} {self._number} {waiting.pop()}".encode()
                    sent[b"%d" % self._number] = self._number, time.perf_counter()
                    self.call(line)
                self._collect(command, sent, times, values)
            elapsed = time.perf_counter() - begin
        values.sort()
        found = tuple(text for _, text in values)
        return Burst(command, count, in_flight, elapsed, self.cpu_s() - cpu, tuple(times), memory[0], begun, found)

    def cpu_s(self) -> float:
        """User and system time of the process and of those of its children that have ended."""
        return sum(self.usage.cpu_times()[:4])

    def memory(self) -> int:
        """Resident bytes of the process and its children."""
        total = 0
        for process in (self.usage, *self.usage.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    @contextlib.contextmanager
    def _watched(self):  # type: ignore[no-untyped-def]
        """The most memory seen within, in a list of one."""
        most, over = [self.memory()], threading.Event()

        def watch() -> None:
            while not over.wait(0.25):
                with contextlib.suppress(psutil.Error):
                    most[0] = max(most[0], self.memory())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield most
        finally:
            over.set()
            thread.join()

    def _collect(
        self, command: str, sent: dict[bytes, tuple[int, float]], times: list[float], values: list[tuple[int, str]]
    ) -> None:
        while not self._announced:
            self._announced = self._line() == b"R"
        self._announced = False
        ready = int(self.call(b"RESULTS").split()[1])
        for _ in range(ready):
            while (line := self._line()) == b"R":
                self._announced = True
            number, code, rest = line.split(b" ", 2)
            if code != b"0":
                raise RuntimeError(f"{command} failed: {line[:300]!r}")
            order, begin = sent.pop(number)
            times.append(time.perf_counter() - begin)
            values.append((order, rest.rpartition(b" ")[2].decode()))

    def _line(self) -> bytes:
        while not self._lines:
            if not select.select([self._out], [], [], STALL_S)[0]:
                raise RuntimeError(f"the GAHP has said nothing for {STALL_S:g} s")
            data = os.read(self._out, _READ)
            if not data:
                raise RuntimeError("the GAHP has ended")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines = [line.rstrip(b"\r") for line in reversed(lines)]
        return self._lines.pop()


def escaped(text: str) -> str:
    """`text` as one token of a line."""
    return text.replace("\\", "\\\\").replace(" ", "\\ ").replace("\r", "\\\r").replace("\n", "\\\n")


def submit_ads(count: int, folder: str, lrms: str, out: str = "/dev/null") -> list[str]:
    """Ads as the gridmanager sends them for `queue COUNT`, each as one token. An `out` with a %d gets the job's number."""
    common = (
        f'In = "/dev/null"; Cmd = "/bin/true"; Err = "/dev/null"; Iwd = "{folder}"; Arguments = ""; Environment = ""; '
        f'gridtype = "{lrms}"; GridResource = "batch {lrms}"; StageCmd = false; TransferOutput = ""; RequestMemory = 128'
    )
    session = uuid.uuid4().hex[:8]
    directory = f"home_bl_bench{session}_127.0.0.1"
    return [
        escaped(f'[ {common}; Out = "{out.replace("%d", str(n))}"; JobDirectory = "{directory}#1.{n}#1795000000" ]')
        for n in range(count)
    ]
