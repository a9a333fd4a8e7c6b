"""Every knob in one table: its name, default, unit, check, and the sentence that explains it.

Knobs are HTCondor configuration macros, `AWSBATCH_JOB_QUEUE` and so on, read through htcondor2.param with macros expanded.
HTCondor itself lets the environment override them: `_CONDOR_AWSBATCH_JOB_QUEUE=...`. Without any HTCondor,
CONDOR_CONFIG=ONLY_ENV leaves the environment alone. Knows nothing of AWS; a value is checked here for its form only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

from gahp.model import Refused

Lookup = Callable[[str], "str | None"]


def _text(value: str) -> str:
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:/-]{1,256}", value):
        raise ValueError("is not the name or ARN of an AWS Batch entity")
    return value


def _names(value: str) -> tuple[str, ...]:
    return tuple(_name(part) for part in re.split(r"[\s,]+", value) if part)


def _s3_url(value: str) -> str:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()/=+@-]*)?", value):
        raise ValueError("is not of the form s3://BUCKET/PREFIX")
    return value.rstrip("/")


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError("is not an http or https URL")
    return value


def _path(value: str) -> str:
    path = os.path.expanduser(value)
    if not os.path.isabs(path):
        raise ValueError("is not an absolute path")
    return path


def _directories(value: str) -> tuple[str, ...]:
    found = tuple(os.path.normpath(part.strip()) for part in value.split(",") if part.strip())
    for directory in found:
        if not re.fullmatch(r"/[^\x00-\x1f\x7f]+", directory) or directory.startswith("//"):
            raise ValueError("is not a list of absolute directories, other than /")
    return found


def _number(low: float, high: float) -> Callable[[str], float]:
    def check(value: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= (number := float(value)) <= high:
                return number
        raise ValueError(f"is not a number from {low:g} to {high:g}")

    return check


def _whole(low: int, high: int) -> Callable[[str], int]:
    def check(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not low <= int(value) <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return int(value)

    return check


def _flag(value: str) -> bool:
    word = value.lower()
    if word in ("true", "yes", "t", "1"):
        return True
    if word in ("false", "no", "f", "0"):
        return False
    raise ValueError("is neither True nor False")


def _level(value: str) -> str:
    if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("is none of DEBUG, INFO, WARNING, ERROR")
    return value.upper()


@dataclasses.dataclass(frozen=True, slots=True)
class Knob:
    """One row of the table. `default` is the text an administrator would write; None means that the knob has to be set."""

    name: str
    default: str | None
    unit: str
    check: Callable[[str], Any]
    sentence: str

    @property
    def field(self) -> str:
        return self.name.removeprefix("AWSBATCH_").lower()


KNOBS = (
    Knob("AWSBATCH_JOB_QUEUE", None, "name or ARN", _name, "The job queue that jobs go to."),
    Knob("AWSBATCH_JOB_DEFINITION", None, "name[:revision] or ARN", _name, "The one job definition that every job runs with."),
    Knob(
        "AWSBATCH_S3_URL", None, "s3://BUCKET/PREFIX", _s3_url, "Where sandboxes travel; the container's role must reach it too."
    ),
    Knob("AWSBATCH_REGION", "", "AWS Region", _text, "The Region; empty: what the AWS profile or environment says."),
    Knob(
        "AWSBATCH_PROFILE",
        "",
        "name",
        _text,
        "The profile in ~/.aws to take credentials from; empty: the usual AWS search order.",
    ),
    Knob("AWSBATCH_ENDPOINT_URL", "", "URL", lambda v: _url(v) if v else "", "Another endpoint than AWS's own, for tests."),
    Knob(
        "AWSBATCH_ALLOWED_QUEUES",
        "",
        "names",
        _names,
        "Queues that a user may name with batch_queue, besides AWSBATCH_JOB_QUEUE.",
    ),
    Knob(
        "AWSBATCH_SHARED_DIRECTORIES",
        "",
        "directories",
        _directories,
        "Directories, with commas between them, that the job definition mounts at the same path (EFS, FSx): what lies below them "
        "is not uploaded, and a job that transfers nothing starts in its own directory there.",
    ),
    Knob(
        "AWSBATCH_STATE_DIR",
        "~/.local/state/awsbatch_gahp",
        "directory",
        _path,
        "Where the journal is kept; one directory for each user.",
    ),
    Knob(
        "AWSBATCH_LOG",
        "~/.local/state/awsbatch_gahp/gahp.log",
        "file",
        lambda v: "" if v.lower() == "none" else _path(v),
        "The log file; none: no log.",
    ),
    Knob("AWSBATCH_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR", _level, "How much is logged."),
    Knob("AWSBATCH_MAX_LOG", "10", "MiB", _number(0.01, 10000), "The size at which the log is rotated; one old file is kept."),
    Knob(
        "AWSBATCH_METRICS_FILE",
        "",
        "file or directory",
        lambda v: _path(v) if v else "",
        "Where numbers for node_exporter's textfile collector go, NAME.prom or a directory; empty: nowhere.",
    ),
    Knob("AWSBATCH_METRICS_INTERVAL", "15", "seconds", _number(1, 3600), "How often they are written."),
    Knob("AWSBATCH_POLL_INTERVAL", "5", "seconds", _number(0.05, 3600), "How often AWS Batch is asked how all jobs stand."),
    Knob(
        "AWSBATCH_ATTEMPTS",
        "3",
        "attempts",
        _whole(1, 10),
        "How often a job is started when its host goes away; a program's own exit is final.",
    ),
    Knob(
        "AWSBATCH_DEFAULT_RUNTIME",
        "0",
        "seconds",
        _whole(0, 10**9),
        "Time limit of a job that names none with batch_runtime; 0: the definition's.",
    ),
    Knob("AWSBATCH_TRANSFER_THREADS", "8", "threads", _whole(1, 64), "Sandboxes that are staged or collected at the same time."),
    Knob("AWSBATCH_SUBMIT_THREADS", "8", "threads", _whole(1, 64), "SubmitJob calls under way at the same time."),
    Knob(
        "AWSBATCH_PACK_SIZE",
        "4000",
        "jobs",
        _whole(1, 10000),
        "How many jobs that ask for the same and come together may become one array job; 1: each is submitted by itself.",
    ),
    Knob(
        "AWSBATCH_PACK_QUIET",
        "25",
        "milliseconds",
        _number(0, 60000),
        "How long an array job waits for one more job before it is submitted.",
    ),
    Knob("AWSBATCH_PACK_WAIT", "2000", "milliseconds", _number(0, 60000), "How long it waits in all, when a burst begins."),
    Knob(
        "AWSBATCH_PACK_LONGEST",
        "5000",
        "milliseconds",
        _number(0, 60000),
        "While ten and more a second keep coming it waits twice as long as they have come before, up to this; 0: never longer.",
    ),
    Knob(
        "AWSBATCH_LOOKUP_SETTLE",
        "10",
        "seconds",
        _number(1, 600),
        "How long a job may stay unlisted after a lost SubmitJob reply before it counts as not made.",
    ),
    Knob("AWSBATCH_SUBMIT_RATE", "50", "calls a second", _number(1, 10000), "The most SubmitJob calls of this host's GAHPs."),
    Knob("AWSBATCH_STATUS_RATE", "50", "calls a second", _number(1, 10000), "The most calls that ask and list."),
    Knob("AWSBATCH_TERMINATE_RATE", "50", "calls a second", _number(1, 10000), "The most calls that end jobs."),
    Knob(
        "AWSBATCH_CALL_RATE",
        "120",
        "calls a second",
        _number(1, 100000),
        "The most calls of all kinds; where they meet it, ends go before submits and submits before status.",
    ),
    Knob(
        "AWSBATCH_START_RATE",
        "50",
        "percent",
        _number(1, 100),
        "The part of these rates to begin with; a 429 lowers a rate, and use without one raises it.",
    ),
    Knob(
        "AWSBATCH_LIMITS_DIR",
        "",
        "directory",
        lambda v: _path(v) if v else "",
        "Where GAHPs share what they have learnt of AWS's limits; empty: AWSBATCH_STATE_DIR/limits, for one user.",
    ),
    Knob(
        "AWSBATCH_EVENTS_QUEUE_URL",
        "",
        "URL",
        lambda v: _url(v) if v else "",
        "An SQS queue with AWS Batch's job state changes (create --with-events makes one); empty: jobs are only asked about.",
    ),
    Knob("AWSBATCH_KEEP_RUNS", "30", "days", _number(0.01, 10000), "How long the journal remembers a finished run."),
    Knob(
        "AWSBATCH_KEEP_SANDBOX",
        "1",
        "hours",
        _number(0, 100000),
        "How long a finished run's objects stay in S3; its outputs are in place by then.",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """The knobs' values, checked. Field names are the knobs' names without AWSBATCH_, in lower case."""

    job_queue: str
    job_definition: str
    s3_url: str
    region: str
    profile: str
    endpoint_url: str
    allowed_queues: tuple[str, ...]
    shared_directories: tuple[str, ...]
    state_dir: str
    log: str
    log_level: str
    max_log: float
    metrics_file: str
    metrics_interval: float
    poll_interval: float
    attempts: int
    default_runtime: int
    transfer_threads: int
    submit_threads: int
    pack_size: int
    pack_quiet: float
    pack_wait: float
    pack_longest: float
    lookup_settle: float
    submit_rate: float
    status_rate: float
    terminate_rate: float
    call_rate: float
    start_rate: float
    limits_dir: str
    events_queue_url: str
    keep_runs: float
    keep_sandbox: float
    problems: tuple[str, ...] = ()

    @property
    def bucket(self) -> str:
        return self.s3_url.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """The key prefix, without slashes at its ends; may be empty."""
        return self.s3_url.removeprefix("s3://").partition("/")[2].strip("/")

    def require(self) -> None:
        """Raise Refused with the first thing that an administrator has to set or mend."""
        if self.problems:
            raise Refused(self.problems[0])


def htcondor_lookup() -> Lookup:
    """A lookup in HTCondor's configuration and `_CONDOR_` environment as they are now, macros expanded; None: not set."""
    os.environ.setdefault("CONDOR_CONFIG", _default_condor_config())
    if missing_config():
        # htcondor2 would say so in lines of its own at every import; the environment alone counts.
        return lambda name: os.environ.get(f"_CONDOR_{name}")
    import htcondor2  # noqa: PLC0415  loaded late: the greeting goes first

    htcondor2.reload_config()

    def lookup(name: str) -> str | None:
        value = htcondor2.param.get(name)
        return None if value is None else str(value).strip()

    return lookup


def missing_config() -> str:
    """A sentence if CONDOR_CONFIG names a file that cannot be read; else ""."""
    path = os.environ.get("CONDOR_CONFIG", "")
    if path in ("", "ONLY_ENV") or path.endswith("|") or os.access(path, os.R_OK):
        return ""
    what = "cannot be read" if os.path.exists(path) else "does not exist"
    return f"HTCondor's configuration {path}, which CONDOR_CONFIG names, {what}: correct CONDOR_CONFIG, or unset it."


def _default_condor_config() -> str:
    """Without any HTCondor on the machine the environment alone counts; htcondor2 would refuse to start."""
    places = ("/etc/condor/condor_config", "/usr/local/etc/condor_config", os.path.expanduser("~/.condor/condor_config"))
    return next((place for place in places if os.path.exists(place)), "ONLY_ENV")


def load(lookup: Lookup | None = None) -> Config:
    """Read and check every knob, in HTCondor's configuration or by `lookup`.

    What is missing or wrong becomes a sentence in `problems`, and its value the default.
    """
    problems: list[str] = []
    if lookup is None:
        lookup = htcondor_lookup()
        problems += filter(None, [missing_config()])
    values: dict[str, Any] = {}
    for knob in KNOBS:
        text = lookup(knob.name)
        if text is None or (text == "" and knob.default is None):
            if knob.default is None:
                problems.append(f"{knob.name} is not set: give it in HTCondor's configuration ({knob.unit}). {knob.sentence}")
            text = knob.default or ""
            values[knob.field] = knob.check(text) if knob.default is not None else ""
            continue
        try:
            values[knob.field] = knob.check(text)
        except ValueError as reason:
            problems.append(f"{knob.name} = {text!r} {reason}: correct it ({knob.unit}). {knob.sentence}")
            values[knob.field] = knob.check(knob.default) if knob.default is not None else ""
    return Config(**values, problems=tuple(problems))
