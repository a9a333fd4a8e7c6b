"""`condor_awsbatch local`: an AWS of one's own on 127.0.0.1, whose Batch jobs are processes of this machine.

Knows the embedded AWS from outside only (gahp.local.handle).
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from gahp.local import handle
from gahp.model import Refused

SUMMARY = "an embedded AWS on 127.0.0.1: start, look at, reset, stop"
EXAMPLE = "condor_awsbatch local start --vcpus 8\n  . ~/.local/state/awsbatch_gahp/local/env"

_DEFAULT_DIRECTORY = "~/.local/state/awsbatch_gahp/local"
_STOP_LIMIT_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions = {
        "start": "start it in the background and make a bucket, a job queue and a job definition",
        "status": "where it is, how long it has been up, how many jobs there are",
        "stop": "end it and all its jobs; everything in it is lost",
        "reset": "forget all jobs and objects, and go on",
    }
    for action, text in actions.items():
        sub = verbs.add_parser(action, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--dir", default=_DEFAULT_DIRECTORY, help="where it keeps its files (default: %(default)s)")
        if action == "start":
            sub.add_argument("--port", type=_whole(0, 65535), default=0, help="TCP port on 127.0.0.1 (default: a free one)")
            sub.add_argument(
                "--vcpus",
                type=_whole(1, 100000),
                default=handle.default_vcpus(),
                help="vCPUs for jobs (default: four for each core of this machine, at least 8)",
            )
            sub.add_argument(
                "--memory",
                type=_whole(4, 1 << 30),
                default=handle.default_memory_mib(),
                metavar="MIB",
                help="memory for jobs in MiB (default: as much as this machine has)",
            )


def _whole(low: int, high: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return check


def run(options: argparse.Namespace) -> int:
    directory = Path(options.dir).expanduser().absolute()
    actions: dict[str, Callable[[Path, argparse.Namespace], int]] = {
        "start": _start,
        "status": _status,
        "stop": _stop,
        "reset": _reset,
    }
    return actions[options.action](directory, options)


def _start(directory: Path, options: argparse.Namespace) -> int:
    if state := handle.read_state(directory):
        print(f"The embedded AWS runs already: {state.endpoint} (process {state.pid}).")
        _explain(directory)
        return 0
    words = [*("--port", str(options.port)), *("--vcpus", str(options.vcpus)), *("--memory", str(options.memory))]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise Refused(f"{directory} cannot be used: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as log:
        handle.launch(directory, words, log=log, detached=True)
    state = _running(directory)
    print(f"The embedded AWS runs: {state.endpoint} (process {state.pid}), with {options.vcpus} vCPUs for jobs.")
    _explain(directory)
    return 0


def _explain(directory: Path) -> None:
    print(f"Use it in this shell:   source {shlex.quote(str(directory / 'env'))}")
    print("Then, for instance:     condor_awsbatch shell")


def _running(directory: Path) -> handle.State:
    state = handle.read_state(directory)
    if state is None:
        raise Refused(f"No embedded AWS runs in {directory}: start one with `condor_awsbatch local start`.")
    return state


def _status(directory: Path, _options: argparse.Namespace) -> int:
    state = _running(directory)
    answer = handle.order(state, "GET", "status")
    seconds = int(time.time() - answer["since"])
    print(f"endpoint  {state.endpoint}")
    print(f"process   {state.pid}")
    print(f"up        {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}")
    jobs = ", ".join(f"{count} {status}" for status, count in sorted(answer["jobs"].items()))
    print(f"jobs      {jobs or 'none'}")
    return 0


def _stop(directory: Path, _options: argparse.Namespace) -> int:
    state = handle.read_state(directory)
    if state is None:
        print(f"No embedded AWS runs in {directory}.")
        return 0
    process = psutil.Process(state.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_LIMIT_S)
    except psutil.TimeoutExpired:
        # Its jobs die with it.
        process.kill()
        print("condor_awsbatch: the embedded AWS did not end by itself and was killed", file=sys.stderr)
    print("The embedded AWS has ended.")
    return 0


def _reset(directory: Path, _options: argparse.Namespace) -> int:
    handle.order(_running(directory), "POST", "reset")
    print("All jobs and objects are forgotten.")
    return 0
