"""What Pegasus reads after a run: the records of tasks, the merged output, the jobstate log. Knows files and forms; no calls.

Sources: pegasus-exitcode reads `[cluster-summary ...]` out of stdout and fails without one where there is a `[cluster-task ...]`;
pegasus-monitord reads both, with kickstart's records before them. A value in such a record has no `"`, `[` or `]`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from gahp.model import Refused
from gahp.provision.bulk.jobfile import Task


@dataclasses.dataclass(slots=True)
class Follow:
    """One task under way. `state` is Batch's status; `over` is also true for a task that Batch lost or this program ended."""

    task: Task
    stem: Path
    job_id: str = ""
    state: str = "UNSUBMITTED"
    over: bool = False
    reason: str = ""
    stream: tuple[str, str] | None = None
    missing_since: float = 0.0

    @property
    def succeeded(self) -> bool:
        return self.state == "SUCCEEDED"

    @property
    def stdout(self) -> Path:
        return Path(f"{self.stem}.out")

    @property
    def stderr(self) -> Path:
        return Path(f"{self.stem}.err")


def _value(text: str) -> str:
    return re.sub(r'["\[\]\s]', "_", text)


def task_record(follow: Follow) -> str:
    """The line behind a task's stdout."""
    fields = {
        "id": str(follow.task.number),
        "name": f'"{_value(follow.task.name)}"',
        "aws-job-id": f'"{_value(follow.job_id or "none")}"',
        "state": follow.state.lower(),
        "status": "0" if follow.succeeded else "1",
        "app": f'"{_value(follow.task.executable)}"',
    }
    return f"[cluster-task {', '.join(f'{key}={value}' for key, value in fields.items())}]"


def summary_record(follows: Iterable[Follow], started: float, ended: float) -> str:
    """The line behind the stdout of all tasks; times in seconds since the epoch."""
    good = [follow.succeeded for follow in follows]
    start = datetime.datetime.fromtimestamp(started).astimezone().isoformat(timespec="milliseconds")
    return (
        f"[cluster-summary tasks={len(good)}, succeeded={sum(good)}, failed={len(good) - sum(good)}, "
        f'duration={ended - started:.3f}, start="{start}", app="pegasus-aws-batch"]'
    )


def write_task(follow: Follow, stdout: str, stderr: str) -> None:
    """Put a task's output into its own files. Raises Refused."""
    for path, text in ((follow.stdout, f"{stdout}{task_record(follow)}\n"), (follow.stderr, stderr)):
        with _replacing(path) as file:
            file.write(text.encode("utf-8", "surrogateescape"))


def merge(follows: Iterable[Follow], prefix: str, last: str, problems: Iterable[str]) -> None:
    """Join the tasks' files into PREFIX.out and PREFIX.err, in the order of the job file, and remove them. Raises Refused."""
    follows = list(follows)
    with _replacing(Path(f"{prefix}.out")) as out, _replacing(Path(f"{prefix}.err")) as err:
        for follow in follows:
            for path, target in ((follow.stdout, out), (follow.stderr, err)):
                with contextlib.suppress(FileNotFoundError), open(path, "rb") as source:
                    shutil.copyfileobj(source, target)
        out.write(f"{last}\n".encode())
        err.writelines(f"pegasus-aws-batch: {problem}\n".encode("utf-8", "replace") for problem in problems)
    for follow in follows:
        follow.stdout.unlink(missing_ok=True)
        follow.stderr.unlink(missing_ok=True)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when it is whole. What is no regular file, as a pipe, is written into."""
    try:
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                yield file
            return
        beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
        try:
            with open(beside, "xb") as file:
                yield file
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Refused(f"The output file {path} cannot be written: {error.strerror}.") from error


class JobstateLog:
    """PREFIX.jobstate.log: a line `epoch_ms jobName STATE awsJobId` for each change."""

    def __init__(self, path: Path, *, add: bool) -> None:
        try:
            self._file = open(path, "a" if add else "w", buffering=1, encoding="utf-8")  # noqa: SIM115  as long as the run
        except OSError as error:
            raise Refused(f"The jobstate log {path} cannot be written: {error.strerror}.") from error

    def write(self, follow: Follow, state: str, when: float = 0.0) -> None:
        """`when` in seconds since the epoch; 0: now."""
        name = re.sub(r"\s", "_", follow.task.name)
        self._file.write(f"{int((when or time.time()) * 1000)} {name} {state} {follow.job_id}\n")

    def close(self) -> None:
        self._file.close()
