"""`condor_awsbatch doctor`: looks at everything a job needs, in order, then runs one; what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from gahp.model import Refused

SUMMARY = "check everything that a job needs, and run one"
EXAMPLE = "condor_awsbatch doctor --no-probe"

_MARKS = {"ok": "✓", "advice": "!", "failed": "✗", "skipped": "✗"}
_PLAIN = {"ok": "[ok]  ", "advice": "[note]", "failed": "[FAIL]", "skipped": "[FAIL]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument("--no-probe", action="store_true", help="run no job")
    parser.add_argument(
        "--probe-limit",
        metavar="SECONDS",
        type=float,
        default=900.0,
        help="how long that may take (default: %(default)g)",
    )
    parser.epilog = "Exit codes: 0 jobs can run (there may be notes, marked !), 1 something has to be mended first."


def run(options: argparse.Namespace) -> int:
    from gahp import config  # noqa: PLC0415  help need not wait for boto3
    from gahp.cli.create import Console  # noqa: PLC0415
    from gahp.provision import doctor  # noqa: PLC0415

    if not options.probe_limit >= 0:
        raise Refused(f"--probe-limit {options.probe_limit:g}: give a number of seconds from 0 on.")
    lookup = config.htcondor_lookup()
    limit_s = None if options.no_probe else options.probe_limit
    console = Console(quiet=True)
    findings = []
    marks = _MARKS if speaks_unicode(sys.stdout.encoding) else _PLAIN
    try:
        for finding in doctor.examine(config.load(lookup), lookup, probe_limit_s=limit_s, progress=console.progress):
            findings.append(finding)
            console.progress("")
            if not options.json:
                print(line(finding, marks), flush=True)
    finally:
        console.progress("")
    good = all(finding.status.good for finding in findings)
    if options.json:
        print(json.dumps({"ok": good, "checks": [dataclasses.asdict(finding) for finding in findings]}, indent=2))
    return 0 if good else 1


def line(finding: object, marks: dict[str, str]) -> str:
    """One finding: mark, name, reason; below it what to do."""
    from gahp.provision.doctor import Finding  # noqa: PLC0415

    assert isinstance(finding, Finding)
    text = f"{marks[finding.status.value]} {finding.name}: {finding.text}"
    text += f"\n    {finding.mend}" if finding.mend else ""
    # Words of AWS may have letters that the terminal has not.
    return text.encode(sys.stdout.encoding or "ascii", "replace").decode(sys.stdout.encoding or "ascii")


def speaks_unicode(encoding: str | None) -> bool:
    """Whether the marks can be printed in that encoding."""
    try:
        "".join(_MARKS.values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
