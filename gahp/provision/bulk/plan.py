"""What is submitted to AWS Batch for the tasks of a run: decisions by value, without any call.

Tasks of one shape that an image on the fetch-and-run contract can run become the children of one array job; what they differ in
(executable, arguments, environment) waits for them in S3. Sources: "Array jobs" in the AWS Batch User Guide (2 to 10,000
children), the bounds of a job's name in botocore's service model.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from gahp.provision.bulk.jobfile import BUCKET, FILE_TYPE, FILE_URL, INPUTS, JOB_NAME, Shape, Task
from gahp.provision.bulk.tasklist import SCRIPT_KEY, TASKS_URL, tasks_key

MOST_CHILDREN = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """One SubmitJob: an array job of several tasks, or a job of one. `name` is the only one of its kind in AWS Batch."""

    name: str
    tasks: tuple[Task, ...]

    @property
    def fetched(self) -> bool:
        """Whether its tasks are run by run_task.sh, and so wait for it in S3."""
        return self.tasks[0].fetched

    def job_id(self, batch_id: str, place: int) -> str:
        """Batch's id of the task at `place` in it."""
        return f"{batch_id}:{place}" if len(self.tasks) > 1 else batch_id


def completed(task: Task, bucket_url: str, common: Iterable[str]) -> Task:
    """The task with the variables that this program adds; its inputs are named as they lie in S3, by base name."""
    names = [path.rpartition("/")[2] for path in (*task.inputs, *common)]
    added = {BUCKET: bucket_url, JOB_NAME: task.name, **({INPUTS: ",".join(names)} if names else {})}
    return dataclasses.replace(task, environment=tuple({**dict(task.environment), **added}.items()))


def submissions(tasks: Sequence[Task], prefix: str, run: str) -> list[Submission]:
    """What to submit, in a fixed order: the same tasks of the same run always give the same names."""
    groups: dict[tuple[Shape, int], list[Task]] = {}
    for task in tasks:
        # A task that run_task.sh cannot run has a group of its own.
        groups.setdefault((task.shape, 0 if task.fetched else task.number), []).append(task)
    found: list[Submission] = []
    for group in groups.values():
        for start in range(0, len(group), MOST_CHILDREN):
            part = tuple(group[start : start + MOST_CHILDREN])
            name = batch_name(part[0].name if len(part) == 1 else prefix, f"{run}-{len(found)}")
            found.append(Submission(name, part))
    return found


def batch_name(text: str, ending: str) -> str:
    """A job name that AWS Batch takes: up to 128 letters, digits, `-` and `_`, the first of them a letter or digit."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", text)[: 127 - len(ending)]
    if not re.match(r"[A-Za-z0-9]", clean):
        clean = f"j{clean[1:]}"
    return f"{clean}-{ending}"


def parameters(submission: Submission, *, definition: str, queue: str, share: str, base_url: str) -> dict[str, Any]:
    """The keyword arguments of SubmitJob. `base_url` is that of the run in S3; `share` goes to a fair-share queue."""
    task, shape = submission.tasks[0], submission.tasks[0].shape
    if submission.fetched:
        # The entry point of the fetch-and-run example drops the first word, ours hands it on: run_task.sh looks at none.
        command = [submission.name]
        environment = {
            FILE_TYPE: "script",
            FILE_URL: f"{base_url}/{SCRIPT_KEY}",
            TASKS_URL: f"{base_url}/{tasks_key(submission.name)}",
        }
    else:
        command = [task.executable, *task.arguments]
        environment = dict(task.environment)
    overrides: dict[str, Any] = {
        "command": command,
        "environment": [{"name": name, "value": value} for name, value in environment.items()],
    }
    asked = (("VCPU", shape.vcpus), ("MEMORY", shape.memory_mib), ("GPU", shape.gpus))
    if requirements := [{"type": kind, "value": str(amount)} for kind, amount in asked if amount]:
        overrides["resourceRequirements"] = requirements
    found: dict[str, Any] = {
        "jobName": submission.name,
        "jobQueue": shape.queue or queue,
        "jobDefinition": shape.definition or definition,
        "containerOverrides": overrides,
    }
    if len(submission.tasks) > 1:
        found["arrayProperties"] = {"size": len(submission.tasks)}
    if shape.timeout_s:
        found["timeout"] = {"attemptDurationSeconds": shape.timeout_s}
    if shape.retry:
        found["retryStrategy"] = json.loads(shape.retry)
    if share:
        found["shareIdentifier"] = share
    return found
