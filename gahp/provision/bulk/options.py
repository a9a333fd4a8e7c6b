"""The command line of pegasus-aws-batch, joined with a properties file. Knows words and files; nothing of AWS calls.

Options are those of Pegasus's own program, so that what pegasus-plan writes into a submit file works as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
from pathlib import Path
from typing import NoReturn

from gahp import __version__
from gahp.model import Refused
from gahp.provision import pegasusrc
from gahp.provision.bulk.jobfile import Task, parse, split_files
from gahp.provision.settings import PROPERTIES

LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. Empty: not given. `job_files` is empty for --create and --delete."""

    prefix: str
    account: str = ""
    region: str = ""
    job_definition: str = ""
    compute_environment: str = ""
    job_queue: str = ""
    s3: str = ""
    files: tuple[str, ...] = ()
    create: bool = False
    delete: bool = False
    merge_logs: str = ""
    log_file: str = ""
    log_level: int = logging.INFO
    job_files: tuple[str, ...] = ()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; pegasus-aws-batch --help shows the options")


def parser() -> argparse.ArgumentParser:
    """The parser; the manual page and completion are made from it."""
    parser = _Parser(
        prog="pegasus-aws-batch",
        description="Run the tasks of a job file on AWS Batch.",
        epilog="example:\n  pegasus-aws-batch --conf pegasusrc --prefix merge_analyze-1 --job-queue lab-queue tasks.in",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-p", "--prefix", metavar="NAME", help="what the names of jobs, logs and entities that are made begin with")
    add("-a", "--account", metavar="NUMBER", help="the AWS account")
    add("-r", "--region", metavar="REGION", help="the AWS Region")
    add("-C", "--conf", metavar="FILE", help="a properties file; what the command line says wins")
    add("-j", "--job-definition", metavar="ARN|FILE|NAME", help="job definition; a JSON file is registered")
    add("--ce", "--compute-environment", metavar="ARN|FILE|NAME", help="compute environment; a JSON file is created")
    add("-q", "--job-queue", metavar="ARN|FILE|NAME", help="job queue; a JSON file is created")
    add("-s", "--s3", metavar="s3://BUCKET/KEY", help="where files and tasks go")
    add("-f", "--files", metavar="FILE,FILE", help="files that all tasks need, put into S3 once")
    add("-c", "--create", action="store_true", help="only make the entities; run no jobs")
    add("-d", "--delete", action="store_true", help="only remove the entities; run no jobs")
    add("-m", "--merge-logs", metavar="PREFIX", help="join the output of all tasks in PREFIX.out and PREFIX.err")
    add("-l", "--log-file", metavar="FILE", help="log to the first free one of FILE.000 to FILE.999")
    add("-L", "--log-level", metavar="LEVEL", help=f"one of {', '.join(LEVELS)} (default: info)")
    add("--version", action="version", version=f"pegasus-aws-batch of awsbatch-gahp {__version__}")
    add("job_files", metavar="JOBFILE", nargs="*", help='{"SubmitJob": [task, ...]}')
    return parser


def read(words: list[str]) -> Options:
    """The options of a command line. Raises Refused with what is wrong; exits for --help and --version."""
    given = parser().parse_args(words)
    properties = pegasusrc.read(given.conf) if given.conf else {}
    asked = {name: getattr(given, "ce" if name == "compute_environment" else name) or "" for name in PROPERTIES}
    values = {name: text or properties.get(PROPERTIES[name], "").strip() for name, text in asked.items()}
    level = (given.log_level or "info").lower()
    if level not in LEVELS:
        raise Refused(f"--log-level {given.log_level}: use one of {', '.join(LEVELS)}")
    if not values["prefix"]:
        raise Refused("No prefix is given: --prefix NAME")
    if "/" in values["prefix"] or values["prefix"].startswith("."):
        raise Refused(f"--prefix {values['prefix']}: it becomes the name of a file, so use no / and no dot at the beginning")
    if given.merge_logs and not Path(given.merge_logs).absolute().parent.is_dir():
        raise Refused(f"--merge-logs {given.merge_logs}: its folder is not there")
    if given.create and given.delete:
        raise Refused("--create and --delete cannot go together")
    if given.create and given.job_files:
        raise Refused("--create runs no jobs: leave the job file away, or --create")
    if not given.job_files and not given.create and not given.delete:
        raise Refused("No job file is given")
    return Options(
        **values,
        files=split_files(given.files or ""),
        create=given.create,
        delete=given.delete,
        merge_logs=given.merge_logs or "",
        log_file=given.log_file or "",
        log_level=LEVELS[level],
        job_files=() if given.delete else tuple(given.job_files),
    )


def read_tasks(paths: tuple[str, ...]) -> tuple[list[Task], bytes]:
    """The tasks of all job files, numbered through, and the files' bytes. Raises Refused."""
    tasks: list[Task] = []
    content = b""
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise Refused(f"The job file {path} cannot be read: {error.strerror}.") from error
        tasks += parse(data, path, len(tasks) + 1)
        content += data
    return tasks, content


class Format(logging.Formatter):
    """The lines of Pegasus's program: `2018-01-18 15:16:00.771 INFO  [Module] text`."""

    def format(self, record: logging.LogRecord) -> str:
        level = {"WARNING": "WARN", "CRITICAL": "FATAL"}.get(record.levelname, record.levelname)
        time = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        module = record.name.rpartition(".")[2]
        # What came out of AWS or a file must not look like a line of its own.
        text = re.sub(r"[\r\n]+", " ", record.getMessage())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{time}.{int(record.msecs):03d} {level:<5} [{module}] {text}{trace}"


def log_path(path: str) -> Path:
    """The first of PATH.000 to PATH.999 that is not there; when all are, the last."""
    return next((found for n in range(999) if not (found := Path(f"{path}.{n:03d}")).exists()), Path(f"{path}.999"))
