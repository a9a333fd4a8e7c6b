"""`condor_awsbatch uninstall`: take 50-awsbatch.conf out of HTCondor's configuration again."""

from __future__ import annotations

import argparse
import os
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
    # Another directory is the administrator's.
    place = install.limits_place()
    shared = install.values_of(text or "").get(install.LIMITS) == place
    if not shared and os.geteuid() == 0 and os.path.lexists(os.path.join(place, limits.FILE)):
        print(
            f"condor_awsbatch: {place} stays, for {path} does not name it: remove it by hand if no other file does.",
            file=sys.stderr,
        )
    if text is None:
        print(f"{path} is not there; nothing was changed.")
        return 0
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
        install.withdraw(place)
    print("Jobs that are still in the queue wait from now on; what AWS Batch runs of them runs on until it is installed again.")
    return 0
