"""`condor_awsbatch update`: more or less room, states, and another image, for what `create` made."""

from __future__ import annotations

import argparse
import sys

from gahp.cli import create
from gahp.model import Refused

SUMMARY = "change room, state or image of what create made"
EXAMPLE = "condor_awsbatch update --prefix lab --max-vcpus 256"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    create.add_common(parser)
    states = ("ENABLED", "DISABLED")
    parser.add_argument("--max-vcpus", metavar="N", type=int, help="how many vCPUs the compute environment may have")
    parser.add_argument("--state", choices=states, default="", help="of the job queue: whether it takes new jobs")
    parser.add_argument("--environment-state", choices=states, default="", help="of the compute environment")
    parser.add_argument("--image", metavar="NAME", default="", help="the container image: a new revision of the job definition")


def run(options: argparse.Namespace) -> int:
    from gahp.provision import settings, update  # noqa: PLC0415  help need not wait for boto3
    from gahp.provision.aws import clients_for  # noqa: PLC0415

    asked = settings.load(options.conf, **create.fields_of(options))
    if options.max_vcpus is None and not (options.state or options.environment_state or options.image):
        raise Refused("Nothing is asked for: give --max-vcpus, --state, --environment-state or --image.")
    if options.max_vcpus is not None and not 0 <= options.max_vcpus <= 1000000:
        raise Refused(f"--max-vcpus {options.max_vcpus}: give a number from 0 on.")
    console = create.Console()
    try:
        update.update(
            asked,
            clients_for(asked),
            console,
            max_vcpus=options.max_vcpus,
            state=options.state,
            environment_state=options.environment_state,
            image=options.image,
        )
    except KeyboardInterrupt:
        print("condor_awsbatch: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        console.progress("")
    return 0
