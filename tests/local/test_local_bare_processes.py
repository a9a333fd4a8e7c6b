"""Jobs on a system without PID namespaces: the same promises, kept by looking for descendants."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gahp.local.memory import Watch
from gahp.local.process import Attempt, Ending, Plan

Run = Callable[..., tuple[Ending, bytes]]


@pytest.fixture
def attempt(tmp_path: Path) -> Run:
    """Run a script to its end; `act` is called with the attempt when the script has written something."""

    def run(
        text: str, *, act: Callable[[Attempt], None] | None = None, memory_mib: int = 512, timeout_s: float | None = None
    ) -> tuple[Ending, bytes]:
        marker = f"MARKER={tmp_path}"
        plan = Plan(
            command=["bash", "-c", text],
            environment={"PATH": "/usr/bin:/bin", "MARKER": str(tmp_path)},
            directory=str(tmp_path),
            memory_bytes=memory_mib << 20,
            timeout_s=timeout_s,
            grace_s=0.3,
            marker=marker,
        )
        endings: list[Ending] = []
        output = bytearray()
        wrote, over = threading.Event(), threading.Event()

        def write(data: bytes) -> None:
            output.extend(data)
            wrote.set()

        def end(ending: Ending) -> None:
            endings.append(ending)
            over.set()

        process = Attempt(plan, Watch(), lambda: None, write, end, isolate=False)
        process.start()
        if act is not None:
            assert wrote.wait(20)
            act(process)
        assert over.wait(20)
        (ending,) = endings
        left = [other for other in psutil.process_iter() if _has_marker(other.pid, marker.encode())]
        assert left == []
        return ending, bytes(output)

    return run


def _has_marker(pid: int, marker: bytes) -> bool:
    try:
        return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_exit_code_and_output_come_back(attempt: Run) -> None:
    assert attempt("echo out; echo err >&2; exit 4") == (Ending(4), b"out\nerr\n")


def test_a_signal_becomes_128_and_its_number(attempt: Run) -> None:
    assert attempt("kill -SEGV $$")[0] == Ending(139)


def test_descendants_in_other_sessions_and_of_dead_parents_are_killed(attempt: Run) -> None:
    assert attempt("setsid sleep 1000 & (setsid sleep 1000 &) ; sleep 1000 & sleep 0.1; exit 0")[0] == Ending(0)


def test_sigterm_reaches_the_program(attempt: Run) -> None:
    text = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    assert attempt(text, act=lambda process: process.stop()) == (Ending(5), b"ready\nbye\n")


def test_whoever_ignores_sigterm_is_killed_after_the_grace_time(attempt: Run) -> None:
    text = "trap '' TERM; echo ready; while :; do sleep 0.02; done"
    assert attempt(text, act=lambda process: process.stop())[0] == Ending(137)


def test_a_host_that_goes_away_leaves_no_exit_code(attempt: Run) -> None:
    ending = attempt("echo ready; sleep 1000 & wait", act=lambda process: process.vanish())[0]
    assert (ending.exit_code, ending.host_gone) == (None, True)


def test_time_out_is_told_apart_from_a_stop(attempt: Run) -> None:
    ending = attempt("sleep 1000", timeout_s=0.2)[0]
    assert (ending.exit_code, ending.timed_out) == (143, True)


def test_too_much_memory_is_told_apart(attempt: Run) -> None:
    text = "python3 -c 'import time; data = bytearray(b\"x\") * (150 << 20); time.sleep(1000)'"
    ending = attempt(text, memory_mib=100)[0]
    assert (ending.exit_code, ending.out_of_memory) == (137, True)
