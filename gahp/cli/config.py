"""`condor_awsbatch config`: every knob with its value, where it differs from the default, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys

from gahp import config

SUMMARY = "print every knob: its value here, its default, what it is for"
EXAMPLE = "condor_awsbatch config | grep POLL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="values and problems as JSON")
    form.add_argument("--manual", action="store_true", help="the table of the manual, in Markdown, without values")


def run(options: argparse.Namespace) -> int:
    if options.manual:
        print(manual())
        return 0
    lookup = config.htcondor_lookup()
    values = {knob.name: lookup(knob.name) for knob in config.KNOBS}
    problems = config.load().problems
    if options.json:
        print(json.dumps({"values": values, "problems": problems}, indent=2))
    else:
        for knob in config.KNOBS:
            print(f"# {knob.sentence} ({knob.unit})")
            value = values[knob.name]
            if value is not None:
                print(f"{knob.name} = {value}")
            else:
                print(f"# {knob.name} = {knob.default if knob.default is not None else '  (has to be set)'}")
            print()
        for problem in problems:
            print(f"condor_awsbatch: {problem}", file=sys.stderr)
    return 1 if problems else 0


def manual() -> str:
    """All knobs as a Markdown table."""
    rows = []
    for knob in config.KNOBS:
        default = "**has to be set**" if knob.default is None else knob.default or "(empty)"
        rows.append(f"| {knob.name} | {default} | {knob.unit} | {knob.sentence} |")
    return "\n".join(["| knob | default | unit or form | what it is for |", "| --- | --- | --- | --- |", *rows])
