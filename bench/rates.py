"""Prints how fast the GAHP is on this machine: greeting, rates over pipes, latency, memory. Asserts nothing.

Runs against the embedded AWS. Times on a shared machine wobble: medians of several runs are printed, and VERSION, which does no
work at all, stands beside the others as the measure of the pipe itself.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from gahp.cli.client import Client
from gahp.local import LocalAws

GAHP = [os.path.join(os.path.dirname(sys.executable), "awsbatch_gahp")]


def greeting(environment: dict[str, str], runs: int = 15) -> list[float]:
    """Milliseconds from exec to the greeting."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        process = subprocess.Popen(GAHP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert process.stdin and process.stdout
        process.stdout.readline()
        times.append(1000 * (time.perf_counter() - begin))
        process.stdin.close()
        process.wait()
        process.stdout.close()
    return times


def burst(client: Client, command: str, tails: list[str], in_flight: int = 50) -> tuple[float, list[float]]:
    """Commands a second, and the milliseconds to each result; `in_flight` at a time, as the gridmanager sends them."""
    sent: dict[str, float] = {}
    times: list[float] = []
    waiting = list(reversed(tails))
    begin = time.perf_counter()
    while waiting or sent:
        while waiting and len(sent) < in_flight:
            sent[client.request(command, waiting.pop())] = time.perf_counter()
        for outcome in client.results(5.0):
            times.append(1000 * (time.perf_counter() - sent.pop(outcome.request_id)))
            code, message, *values = outcome.tokens
            if code != "0":
                raise SystemExit(f"{command} failed: {message}")
            ids.setdefault(command, []).extend(values[:1])
    return len(tails) / (time.perf_counter() - begin), times


ids: dict[str, list[str]] = {}


def pipelined(client: Client, line: bytes, count: int = 20000) -> float:
    """Return lines a second when requests are written without waiting for each other."""
    process = client.process
    assert process.stdin and process.stdout
    begin = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        data = line * count
        while data:
            data = data[os.write(process.stdin.fileno(), data) :]
        os._exit(0)
    left = count
    while left:
        left -= os.read(process.stdout.fileno(), 1 << 18).count(b"\n")
    os.waitpid(pid, 0)
    return count / (time.perf_counter() - begin)


def row(name: str, value: str) -> None:
    print(f"{name:<64} {value}")


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as scratch, LocalAws(Path(scratch, "aws"), vcpus=1) as aws:
        environment = {**os.environ, **aws.environment(), "_CONDOR_AWSBATCH_STATE_DIR": scratch, "_CONDOR_AWSBATCH_LOG": "none"}
        times = greeting(environment)
        row("greeting after exec, ms: median (min, max)", f"{statistics.median(times):.0f} ({min(times):.0f}, {max(times):.0f})")
        with Client(GAHP, environment) as client:
            client.perform("BLAH_PING", "awsbatch")
            process = psutil.Process(client.process.pid)
            row("resident memory when idle, MB", f"{process.memory_info().rss / 1e6:.0f}")
            row(
                "VERSION a second, pipelined",
                f"{statistics.median(pipelined(client, b'VERSION' + bytes([10])) for _ in range(3)):.0f}",
            )
            row("VERSION a second, one at a time", f"{one_at_a_time(client):.0f}")
            report(client, process, "BLAH_PING", ["awsbatch"] * 5000)
            ad = (
                f'[ Cmd = "/bin/sleep"; Args = "3%03d"; Iwd = "{scratch}"; Out = "/dev/null"; Err = "/dev/null"; '
                'Environment = ""; TransferOutput = ""; StageCmd = false; JobDirectory = "bench_%d_%d" ]'
            )
            submitted = time.perf_counter()
            report(client, process, "BLAH_JOB_SUBMIT", [ad % (n % 1000, os.getpid(), n) for n in range(jobs)])
            known = ids["BLAH_JOB_SUBMIT"]
            begin = time.perf_counter()
            while sum(aws.status()["jobs"].values()) < jobs:
                time.sleep(0.05)
            row("until AWS Batch has them all, s after the last result", f"{time.perf_counter() - begin:.1f}")
            taken = jobs / (time.perf_counter() - submitted)
            row("jobs taken into AWS Batch a second, from the first request on", f"{taken:.0f}")
            row("SubmitJob calls for them", f"{aws.calls().get('batch:SubmitJob', 0)}")
            report(client, process, "BLAH_JOB_STATUS", known, ", first of each")
            report(client, process, "BLAH_JOB_STATUS", (known * 5000)[:5000], ", from memory")
            report(client, process, "BLAH_JOB_CANCEL", known)
            row(f"resident memory after {jobs} jobs, MB", f"{process.memory_info().rss / 1e6:.0f}")


def one_at_a_time(client: Client, count: int = 5000) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        client.call("VERSION")
    return count / (time.perf_counter() - begin)


def report(client: Client, process: psutil.Process, command: str, tails: list[str], remark: str = "") -> None:
    before = sum(process.cpu_times()[:2])
    rate, times = burst(client, command, tails)
    cpu = 1000 * (sum(process.cpu_times()[:2]) - before) / len(tails)
    times.sort()
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    row(
        f"{command}{remark}, {len(tails)}, 50 in flight",
        f"{rate:.0f} a second, p50 {p50:.1f} ms, p99 {p99:.1f} ms, CPU {cpu:.2f} ms each",
    )


if __name__ == "__main__":
    main()
