"""`condor_awsbatch create`: job definition, compute environment, job queue and bucket in one command, which may be repeated."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gahp.model import Refused

if TYPE_CHECKING:
    from gahp.provision.entities import Entity

SUMMARY = "make what AWS Batch needs: job definition, compute environment, job queue, bucket"
EXAMPLE = (
    "condor_awsbatch create --prefix lab --region us-west-2 --with-roles --default-vpc --ce conf/fargate-compute-env.json \\\n"
    "      -j conf/fargate-job-definition.json -q conf/sample-job-queue.json --write-config lab.conf"
)

_MARK = "# Written by condor_awsbatch create"


class Console:
    """A Report on a terminal: what is waited for stands on the last line of standard error and is replaced."""

    def __init__(self, *, quiet: bool = False) -> None:
        # `quiet`: progress is for a terminal only.
        self._live, self._quiet = sys.stderr.isatty(), quiet
        self._shown = ""

    def say(self, text: str) -> None:
        self.progress("")
        print(text, flush=True)

    def progress(self, text: str) -> None:
        if self._live:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # some terminals do not know theirs
            print(f"\r\033[K{text[: width - 1]}", end="", file=sys.stderr, flush=True)
        elif text and not self._quiet and text != self._shown and not text.startswith(self._shown.partition(",")[0] or "\0"):
            # Without a terminal, a line whenever something else is waited for.
            print(text, file=sys.stderr, flush=True)
        self._shown = text

    def call(self, text: str) -> None:
        self.say(f"would call {text}")


def add_common(parser: argparse.ArgumentParser) -> None:
    """What `create`, `delete` and `update` share."""
    parser.add_argument("-C", "--conf", metavar="FILE", default="", help="a properties file of Pegasus")
    parser.add_argument(
        "-p", "--prefix", metavar="NAME", default="", help="what all names begin with; what is made is tagged with it"
    )
    parser.add_argument("-a", "--account", metavar="DIGITS", default="", help="the account that the credentials have to be of")
    parser.add_argument("-r", "--region", metavar="NAME", default="", help="the AWS Region")
    parser.add_argument("--profile", metavar="NAME", default="", help="the profile in ~/.aws to take credentials from")
    parser.add_argument("-s", "--s3", metavar="URL", default="", help="s3://BUCKET/KEY (default: s3://PREFIX-bucket/PREFIX)")
    parser.add_argument("--wait", metavar="SECONDS", type=float, default=900.0, help="how long to wait (default: %(default)g)")
    parser.add_argument("--dry-run", action="store_true", help="print the calls that would change something, and make none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    entity = "an ARN or a name that is there, or a JSON file to make it from"
    parser.add_argument("-j", "--job-definition", metavar="VALUE", default="", help=entity)
    parser.add_argument("--ce", "--compute-environment", dest="compute_environment", metavar="VALUE", default="", help=entity)
    parser.add_argument("-q", "--job-queue", metavar="VALUE", default="", help=entity)
    parser.add_argument("--with-roles", action="store_true", help="make the roles that the files name and the account lacks")
    parser.add_argument("--default-vpc", action="store_true", help="take subnets and security group of the default VPC")
    parser.add_argument(
        "--with-events", action="store_true", help="have job state changes put into an SQS queue (AWSBATCH_EVENTS_QUEUE_URL)"
    )
    parser.add_argument("--write-config", metavar="FILE", help="write the knobs for HTCondor's configuration folder")
    # pegasus-aws-batch has it as an option.
    parser.add_argument("-c", "--create", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    from gahp.provision import create, settings  # noqa: PLC0415  help need not wait for boto3
    from gahp.provision.aws import clients_for  # noqa: PLC0415

    begun = time.monotonic()
    asked = settings.load(options.conf, **fields_of(options))
    if options.write_config:
        _check_config(Path(options.write_config))
    console = Console()
    try:
        made = create.create(asked, clients_for(asked), console)
    except KeyboardInterrupt:
        console.progress("")
        print("condor_awsbatch: interrupted; the same command goes on from here, delete undoes it.", file=sys.stderr)
        return 130
    except BaseException:
        console.progress("")
        raise
    if not made.changes:
        print("Nothing had to be changed.")
    if options.write_config:
        text = config_text(
            {
                "AWSBATCH_JOB_QUEUE": made.job_queue.name if made.job_queue else "",
                "AWSBATCH_JOB_DEFINITION": _definition(asked.job_definition, made.job_definition),
                "AWSBATCH_S3_URL": made.s3_url,
                "AWSBATCH_REGION": made.region,
                **({"AWSBATCH_EVENTS_QUEUE_URL": made.events_url} if made.events_url else {}),
            }
        )
        if options.dry_run:
            print(f"would write {options.write_config}:\n{text}", end="")
        else:
            _write_config(Path(options.write_config), text)
    print(f"Time taken is {time.monotonic() - begun:.3f} seconds")
    return 0


def _definition(asked: str, made: Entity | None) -> str:
    """The knob's value: with a revision only if that was asked for; without one it is always the newest."""
    if made is None:
        return ""
    return made.arn.rpartition("/")[2] if re.search(r":[0-9]+$", asked) else made.name


def fields_of(options: argparse.Namespace) -> dict[str, object]:
    """The options that are fields of Settings."""
    from gahp.provision.settings import Settings  # noqa: PLC0415

    names = [field.name for field in dataclasses.fields(Settings)]
    return {**{name: getattr(options, name) for name in names if hasattr(options, name)}, "wait_s": options.wait}


def config_text(knobs: dict[str, str]) -> str:
    """The knobs as a file of condor_config.d; those that are not known stand there as comments."""
    lines = [f"{name} = {value}" if value else f"#{name} =" for name, value in knobs.items()]
    return "\n".join([_MARK, *lines, ""])


def _check_config(path: Path) -> None:
    """Raise Refused before anything is made if the file is somebody else's, or cannot be written."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
        raise Refused(f"--write-config {path}: there is such a file, which this command has not written: give another name.")
    if not os.access(path.parent, os.W_OK):
        raise Refused(f"--write-config {path}: the folder is not there, or may not be written to.")


def _write_config(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") == text:
        print(f"Unchanged: {path}")
        return
    try:
        descriptor, beside = tempfile.mkstemp(prefix=".", dir=path.parent)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(beside, path)
    except OSError as error:
        raise Refused(f"--write-config {path} cannot be written: {error.strerror}. In AWS all is made.") from error
    print(f"Wrote {path}")
