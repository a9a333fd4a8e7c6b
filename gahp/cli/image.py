"""`condor_awsbatch image build` and `image push`: the docker and ECR steps, printed or run."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from gahp.model import Refused
from gahp.provision import image

SUMMARY = "build the container image, or push it to Amazon ECR: print the steps, or run them"
EXAMPLE = "condor_awsbatch image push --name awsbatch/condor-job --region us-west-2 --run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("build", "push"), help="build: from image/; push: to Amazon ECR")
    parser.add_argument("--name", metavar="NAME", default=image.DEFAULT_NAME, help="the image's name (default: %(default)s)")
    parser.add_argument("--folder", metavar="DIR", default="image", help="where the Dockerfile is (default: %(default)s)")
    parser.add_argument("--platform", metavar="NAME", default="", help="such as linux/arm64; default: this machine's")
    parser.add_argument("-C", "--conf", metavar="FILE", default="", help="a properties file of Pegasus")
    parser.add_argument("-a", "--account", metavar="DIGITS", default="", help="default: that of the credentials")
    parser.add_argument("-r", "--region", metavar="NAME", default="", help="the AWS Region")
    parser.add_argument("--profile", metavar="NAME", default="", help="the profile in ~/.aws to take credentials from")
    parser.add_argument("--run", action="store_true", help="run the steps")


def run(options: argparse.Namespace) -> int:
    name = image.check_name(options.name)
    if options.what == "build":
        if options.run and not Path(options.folder, "Dockerfile").is_file():
            raise Refused(f"--folder {options.folder}: there is no Dockerfile in it.")
        steps = image.build(name, options.folder, options.platform)
    else:
        account, region = _place(options)
        steps = image.push(name, account, region)
        print(f"# The image will be {image.registry(account, region)}/{name}", flush=True)
    for step in steps:
        line = shlex.join(step.words)
        print(f"{shlex.join(step.stdin)} | {line}" if step.stdin else line, flush=True)
        if options.run:
            _run(step)
    return 0


def _place(options: argparse.Namespace) -> tuple[str, str]:
    """Account and Region: as given, as the properties file says, or those of the credentials."""
    from gahp.provision import settings  # noqa: PLC0415  `build` need not wait for boto3
    from gahp.provision.aws import Aws, clients_for  # noqa: PLC0415

    asked = settings.load(options.conf, prefix="image", account=options.account, region=options.region, profile=options.profile)
    if asked.account and asked.region:
        return asked.account, asked.region
    from gahp.cli.create import Console  # noqa: PLC0415

    clients = clients_for(asked)
    return asked.account or Aws(clients, Console()).account, clients.region


def _run(step: image.Step) -> None:
    """Raises Refused with what went wrong."""
    try:
        secret = subprocess.run(step.stdin, capture_output=True, check=True).stdout if step.stdin else None
        done = subprocess.run(step.words, input=secret, stderr=subprocess.PIPE, check=False)
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} is not installed here: run the steps where it is.") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise Refused(f"{shlex.join(error.cmd)} failed: {reason}") from error
    text = done.stderr.decode(errors="replace")
    if done.returncode != 0 and not (step.may_fail_with and step.may_fail_with in text):
        last = text.strip().splitlines()[-1] if text.strip() else f"exit code {done.returncode}"
        raise Refused(f"{shlex.join(step.words)} failed: {last}")
    if done.returncode == 0:
        sys.stderr.write(text)
