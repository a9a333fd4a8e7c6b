"""`condor_awsbatch why`: one paragraph on why a job waits, was held or failed, and what to do. Asks; diagnosis decides."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from typing import Any

from gahp.cli import diagnosis, screen, views
from gahp.cli.explain import printable
from gahp.history import History
from gahp.journal import RunState
from gahp.model import Refused, Transient

SUMMARY = "say why a job waits, was held or failed, and what to do about it"

# "optimal" in an environment's instance types. AWS Batch API Reference, ComputeResource: families C4, M4 and R4 or newer ones.
_OPTIMAL = ("c4.*", "m4.*", "r4.*", "c5.*", "m5.*", "r5.*")
_ASKED = 20  # jobs in one call of why
_LEAST = 20  # columns: words are not broken further for a narrower terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: condor_awsbatch why 120.3"
    parser.add_argument("ids", nargs="+", metavar="ID", help=f"all of a CLUSTER, or {views.IDENTIFIERS}")


def run(options: argparse.Namespace) -> int:
    site = views.Site()
    found = views.pick(site.settings, options.ids)
    old = views.superseded(found)
    runs = [run for run in found if run.name not in old]
    width = screen.columns(sys.stdout)
    for number, each in enumerate(runs[:_ASKED]):
        text = printable(" ".join(filter(None, diagnosis.explain(facts_of(site, each)))))
        if number:
            print()
        print(textwrap.fill(text, max(_LEAST, width - 1), break_long_words=False, break_on_hyphens=False) if width else text)
        sys.stdout.flush()
    if len(runs) > _ASKED:
        views.note(f"these were {_ASKED} of {len(runs)} jobs: condor_awsbatch q {' '.join(options.ids)} lists them")
    return 0


def facts_of(site: views.Site, run: History) -> diagnosis.Facts:
    """What journal and AWS know about the run now; what cannot be asked is left out."""
    [now_run], problem = views.refresh(site, [run])
    facts: dict[str, Any] = {"run": now_run, "now": time.time(), "problem": problem.partition(": ")[2]}
    if not problem and diagnosis.needs_queue(now_run):
        from gahp.batch import insight  # noqa: PLC0415  boto3 is slow to load, and many a job needs no AWS

        try:
            queue = insight.queue(site.batch, run.queue_arn or run.queue)
            facts.update(asked=True, queue=queue)
            if queue is not None and now_run.state is RunState.SUBMITTED:
                facts["line"] = insight.line(site.batch, run.queue_arn or run.queue, now_run.created or now_run.submitted)
                facts["largest"] = {
                    environment.name: size
                    for environment in queue.environments
                    if environment.types and (size := largest(site, environment.types)) is not None
                }
        except (Refused, Transient) as error:
            facts["problem"] = str(error)
    return diagnosis.Facts(**facts)


def largest(site: views.Site, types: tuple[str, ...]) -> diagnosis.Size | None:
    """The host with the most vCPUs among the instance types, and the most memory and GPUs of any; None if EC2 does not tell."""
    patterns: list[str] = []
    for name in types:
        patterns += _OPTIMAL if name.startswith("optimal") else [name if "." in name else f"{name}.*"]
    try:
        pages = (
            site.client("ec2")
            .get_paginator("describe_instance_types")
            .paginate(Filters=[{"Name": "instance-type", "Values": patterns}])
        )
        found = [entry for page in pages for entry in page["InstanceTypes"]]
    except Exception:
        # It only helps: a user's role need not allow it, and without it the other sentences are as good.
        return None
    if not found:
        return None
    biggest = max(found, key=lambda entry: (entry["VCpuInfo"]["DefaultVCpus"], entry["MemoryInfo"]["SizeInMiB"]))
    return diagnosis.Size(
        type=biggest["InstanceType"],
        vcpus=int(biggest["VCpuInfo"]["DefaultVCpus"]),
        memory_mib=max(int(entry["MemoryInfo"]["SizeInMiB"]) for entry in found),
        gpus=max(sum(int(gpu["Count"]) for gpu in (entry.get("GpuInfo") or {}).get("Gpus", ())) for entry in found),
    )
