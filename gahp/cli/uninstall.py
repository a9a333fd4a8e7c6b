"""`condor_awsbatch uninstall`: take 50-awsbatch.conf out of HTCondor's configuration again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gahp import limits
from gahp.cli import install
from gahp.model import Refused

SUMMARY = "take 50-awsbatch.conf out of HTCondor's configuration"
EXAMPLE = "condor_awsbatch uninstall --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    install.add_place(parser)


def run(options: argparse.Namespace) -> int:
    path = Path(install.directory(options.directory), install.FILE_NAME)
    text = install.read(path)
    if text is None:
        print(f"{path} is not there; nothing was changed.")
        return 0
    # Another directory is the administrator's.
    place = install.limits_place()
    shared = install.values_of(text).get(install.LIMITS) == place
    if options.dry_run:
        what = f"{path} and {place}" if shared else path
        print(f"{what} would be removed; nothing was changed.")
        return 0
    if not install.as_installed(text):
        install.keep_copy(path, options.force)
    try:
        path.unlink()
    except OSError as error:
        raise Refused(f"{path} cannot be removed: {error.strerror}.") from error
    print(f"{path} was removed. For running daemons: condor_reconfig. Journals and logs of users stay where they are.")
    if shared:
        _withdraw(place)
    print("Jobs that are still in the queue wait from now on; what AWS Batch runs of them runs on until it is installed again.")
    return 0


def _withdraw(place: str) -> None:
    try:
        limits.withdraw(place)
    except OSError as error:
        print(f"condor_awsbatch: {place} stays: {error.strerror}. Look what is in it, and remove it by hand.", file=sys.stderr)
    else:
        print(f"{place} was removed.")
