"""The job file of pegasus-aws-batch: `{"SubmitJob": [task, ...]}`. Knows JSON and what a task may say; nothing of AWS calls.

Pegasus writes jobName, executable, arguments and environment. jobDefinition, jobQueue, memory, vcpus, gpus, timeout and retry are
this program's additions; their forms are those of AWS Batch's SubmitJob, and plain numbers.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from gahp.model import Refused, one_line

log = logging.getLogger(__name__)

INPUTS = "TRANSFER_INPUT_FILES"
BUCKET = "PEGASUS_AWS_BATCH_BUCKET"
JOB_NAME = "PEGASUS_JOB_NAME"
FILE_TYPE = "BATCH_FILE_TYPE"
FILE_URL = "BATCH_FILE_S3_URL"
_KEYS = (
    *("jobName", "executable", "arguments", "environment", "jobDefinition", "jobQueue"),
    *("memory", "vcpus", "gpus", "timeout", "retry", "retryStrategy"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What tasks must have in common to be children of one array job. Empty and None leave it to the options or the definition.

    `memory_mib` in MiB, `timeout_s` in seconds for each attempt, `retry` as SubmitJob's retryStrategy in JSON.
    """

    definition: str = ""
    queue: str = ""
    memory_mib: int | None = None
    vcpus: str = ""
    gpus: int | None = None
    timeout_s: int | None = None
    retry: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One task. `number` counts from 1 through all job files; `executable` is its name in logs, and the command inside a zip."""

    number: int
    name: str
    executable: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    shape: Shape = Shape()

    def variable(self, name: str) -> str:
        """The value of an environment variable, "" if it is not set."""
        return dict(self.environment).get(name, "")

    @property
    def fetched(self) -> bool:
        """Whether it is for an image on the fetch-and-run contract, and so can be run by run_task.sh."""
        return self.variable(FILE_TYPE) in ("script", "zip") and bool(self.variable(FILE_URL))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The local files that have to be in S3 before it starts."""
        return split_files(self.variable(INPUTS))


def split_files(text: str) -> tuple[str, ...]:
    """The paths of a list with commas."""
    return tuple(path for path in (part.strip() for part in text.split(",")) if path)


def parse(data: bytes, source: str, first: int = 1) -> list[Task]:
    """The tasks of a job file; `first` is the first one's number. Raises Refused with the place of what is wrong."""
    try:
        root = json.loads(data)
    except json.JSONDecodeError as error:
        raise Refused(f"The job file {source} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from error
    except UnicodeDecodeError as error:
        raise Refused(f"The job file {source} is not text in UTF-8 (byte {error.start}).") from error
    entries = root.get("SubmitJob") if isinstance(root, dict) else None
    if not isinstance(entries, list):
        raise Refused(f'The job file {source} has no list "SubmitJob": it has to be {{"SubmitJob": [task, ...]}}.')
    return [_Reader(source, number, entry).task() for number, entry in enumerate(entries, first)]


class _Reader:
    """Reads one task, and knows where it is for the sake of errors."""

    def __init__(self, source: str, number: int, entry: Any) -> None:
        self._source, self._number = source, number
        self._where = f"task {number}"
        if not isinstance(entry, dict):
            raise self._wrong("it is not an object")
        self._entry: Mapping[str, Any] = entry
        self._where = f"task {number} ({one_line(str(entry.get('jobName', 'no jobName')), 80)})"

    def task(self) -> Task:
        self._warn_of_unknown_keys()
        name = self._text("jobName")
        # The name becomes that of a local file, so it must not lead anywhere else.
        if not re.fullmatch(r"[^/\x00-\x1f.][^/\x00-\x1f]{0,199}", name):
            raise self._wrong("jobName has to be a file name of up to 200 characters that does not begin with a dot")
        task = Task(
            number=self._number,
            name=name,
            executable=self._text("executable"),
            arguments=self._arguments(),
            environment=self._environment(),
            shape=Shape(
                definition=self._text("jobDefinition", required=False),
                queue=self._text("jobQueue", required=False),
                memory_mib=self._whole("memory", 4),
                vcpus=self._vcpus(),
                gpus=self._whole("gpus", 1),
                timeout_s=self._timeout(),
                retry=self._retry(),
            ),
        )
        _check_text(self._wrong, [task.executable, *task.arguments, *(word for pair in task.environment for word in pair)])
        return task

    def _wrong(self, what: str) -> Refused:
        return Refused(f"The job file {self._source}, {self._where}: {what}.")

    def _warn_of_unknown_keys(self) -> None:
        for key in self._entry:
            if key not in _KEYS:
                near = difflib.get_close_matches(key, _KEYS, 1)
                hint = f": is {near[0]} meant?" if near else ""
                log.warning("The job file %s, %s: the key %s is not known and ignored%s", self._source, self._where, key, hint)

    def _text(self, key: str, *, required: bool = True) -> str:
        value = self._entry.get(key)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or not value:
            raise self._wrong(f"{key} has to be a text that is not empty")
        return value

    def _arguments(self) -> tuple[str, ...]:
        """A text is split as a shell does, without expanding anything; a list is taken as written."""
        value = self._entry.get("arguments")
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(value)
        if not isinstance(value, str):
            raise self._wrong("arguments has to be a text or a list of texts")
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise self._wrong(f"arguments cannot be split as a shell does ({error}); a JSON list is taken as written") from error

    def _environment(self) -> tuple[tuple[str, str], ...]:
        value = self._entry.get("environment") or []
        if not isinstance(value, list):
            raise self._wrong('environment has to be a list of {"name": ..., "value": ...}')
        found: dict[str, str] = {}
        for pair in value:
            name, text = (pair.get("name"), pair.get("value", "")) if isinstance(pair, dict) else (None, None)
            if not isinstance(name, str) or not isinstance(text, str) or not name or "=" in name:
                raise self._wrong(f'environment: {json.dumps(pair)[:80]} is not {{"name": text, "value": text}}')
            if name.startswith("AWS_BATCH"):
                raise self._wrong(f"environment: AWS Batch keeps names such as {name} for itself")
            found[name] = text
        return tuple(found.items())

    def _whole(self, key: str, least: int) -> int | None:
        value = self._entry.get(key)
        if value is None:
            return None
        number = _number(value)
        if number is None or number < least:
            raise self._wrong(f"{key} has to be a whole number, at least {least}")
        return number

    def _vcpus(self) -> str:
        value = self._entry.get("vcpus")
        if value is None:
            return ""
        try:
            amount = 0.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            amount = 0.0
        if not 0.25 <= amount <= 10000:
            raise self._wrong("vcpus has to be a number, at least 0.25")
        return f"{amount:g}"

    def _timeout(self) -> int | None:
        value = self._entry.get("timeout")
        if isinstance(value, dict):
            value = value.get("attemptDurationSeconds")
        if value is None:
            return None
        seconds = _number(value)
        if seconds is None or seconds < 60:
            raise self._wrong("timeout has to be a whole number of seconds; AWS Batch takes no less than 60")
        return seconds

    def _retry(self) -> str:
        value = self._entry.get("retryStrategy", self._entry.get("retry"))
        if value is None:
            return ""
        strategy = value if isinstance(value, dict) else {"attempts": value}
        attempts = _number(strategy.get("attempts"))
        if attempts is None or not 1 <= attempts <= 10:
            raise self._wrong("retry has to be the number of attempts, 1 to 10, or a retryStrategy of AWS Batch with one")
        return json.dumps({**strategy, "attempts": attempts}, sort_keys=True)


def _number(value: Any) -> int | None:
    """A whole number, which may be written as text; None for anything else."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _check_text(wrong: Any, words: Iterable[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise wrong(f"{one_line(ascii(word), 60)} is not text that can be written in UTF-8") from None
        if "\0" in word:
            raise wrong(f"{one_line(word, 60)} has a NUL in it, which no program can be given")
