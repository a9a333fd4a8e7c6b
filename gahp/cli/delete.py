"""`condor_awsbatch delete`: take away what `create` made for a prefix, after asking."""

from __future__ import annotations

import argparse
import sys

from gahp.cli import create
from gahp.model import Refused

SUMMARY = "remove what create made for a prefix, after asking"
EXAMPLE = "condor_awsbatch delete --prefix lab --region us-west-2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    create.add_common(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> int:
    from gahp.provision import delete, settings  # noqa: PLC0415  help need not wait for boto3
    from gahp.provision.aws import clients_for  # noqa: PLC0415

    asked = settings.load(options.conf, **create.fields_of(options))
    clients = clients_for(asked)
    console = create.Console()
    try:
        found = delete.survey(asked, clients, console)
        for line in found.kept():
            print(line)
        if not found.lines():
            print(f"There is nothing of the prefix {asked.prefix} in {clients.region}.")
            return 0
        print(f"Of the prefix {asked.prefix} in {clients.region} there is:")
        for line in found.lines():
            print(f"  {line}")
        if not (options.yes or options.dry_run) and not _agreed():
            print("Nothing was deleted.")
            return 1
        delete.delete(asked, clients, console, found)
    except KeyboardInterrupt:
        console.progress("")
        print("condor_awsbatch: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        console.progress("")
    return 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise Refused("Nobody is there to ask: give --yes to delete all of this.")
    try:
        return input("Delete all of this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
