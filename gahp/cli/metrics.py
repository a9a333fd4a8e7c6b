"""`condor_awsbatch metrics`: numbers for monitoring as OpenMetrics text, from the journal and from what the GAHP counted last."""

from __future__ import annotations

import argparse
import sys
import time

from gahp import config, meter
from gahp.metrics import render

SUMMARY = "print numbers for monitoring (OpenMetrics): jobs by state, calls to AWS, errors, limits"
EXAMPLE = "condor_awsbatch metrics | grep jobs"
DESCRIPTION = """\
Prints this user's numbers as OpenMetrics text. Jobs by state, the journal's size and the limits of calls are read off now;
counters and call times are those that the GAHP wrote last, every AWSBATCH_METRICS_INTERVAL seconds:
awsbatch_gahp_written_time_seconds says when, and awsbatch_gahp_up whether it is still at work. Nothing is asked of AWS.

With AWSBATCH_METRICS_FILE, the GAHP writes the same text for the textfile collector of node_exporter by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(_: argparse.Namespace) -> int:
    settings = config.load()
    counts, started, written, up = meter.last(settings.state_dir)
    found = meter.gauges(settings, started, written or time.time(), up)
    sys.stdout.write(render(counts, found, meter.user_name()))
    return 0
