"""How tasks travel to their containers: pages of lines in S3, which run_task.sh reads. Knows the form; nothing of calls.

A page has PAGE lines, one for each task, so that the child of a large array job fetches little. A line is base64 of fields that
each end with NUL: the number of variables, the variables as NAME=VALUE, BATCH_FILE_TYPE, BATCH_FILE_S3_URL, the executable, and
the arguments. run_task.sh never evaluates any of them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from gahp.provision.bulk.jobfile import FILE_TYPE, FILE_URL, Task

PAGE = 100
# Must be what run_task.sh has.
TASKS_URL = "PEGASUS_AWS_BATCH_TASKS"
SCRIPT = Path(__file__).with_name("run_task.sh")
SCRIPT_KEY = "run_task.sh"


def tasks_key(name: str) -> str:
    """Where the pages of a submission are, below the run's own key."""
    return f"tasks/{name}"


def line(task: Task) -> bytes:
    """One task as a line."""
    pairs = [f"{name}={value}" for name, value in task.environment]
    fields = [str(len(pairs)), *pairs, task.variable(FILE_TYPE), task.variable(FILE_URL), task.executable, *task.arguments]
    return base64.b64encode(b"".join(field.encode() + b"\0" for field in fields)) + b"\n"


def pages(tasks: Sequence[Task]) -> list[bytes]:
    """The tasks of one submission, page by page."""
    return [b"".join(map(line, tasks[start : start + PAGE])) for start in range(0, len(tasks), PAGE)]
