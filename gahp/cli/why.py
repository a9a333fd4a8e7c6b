"""`condor_awsbatch why`: one paragraph on why a job waits, was held or failed, and what to do. Asks; diagnosis decides."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gahp.cli import diagnosis, screen, views
from gahp.cli.explain import printable
from gahp.history import History
from gahp.model import Refused, Transient
from gahp.run import RunState

if TYPE_CHECKING:
    from gahp.batch import Batch
    from gahp.batch.insight import Line, Queue

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
    now_runs, problem = views.refresh(site, runs[:_ASKED])
    asked = Asked(site)
    width = screen.columns(sys.stdout)
    for number, each in enumerate(now_runs):
        text = printable(" ".join(filter(None, diagnosis.explain(facts_of(asked, each, problem.partition(": ")[2])))))
        if number:
            print()
        print(textwrap.fill(text, max(_LEAST, width - 1), break_long_words=False, break_on_hyphens=False) if width else text)
        sys.stdout.flush()
    if len(runs) > _ASKED:
        views.note(f"these were {_ASKED} of {len(runs)} jobs: condor_awsbatch q {' '.join(options.ids)} lists them")
    return 0


class Asked:
    """What AWS has behind the queues, each thing asked once: the jobs of a cluster wait for the same."""

    def __init__(self, site: views.Site) -> None:
        self._site = site
        self._known: dict[tuple[Any, ...], Any] = {}

    def queue(self, name: str) -> Queue | None:
        """Raises Refused or Transient, as `crowd` does."""
        from gahp.batch import insight  # noqa: PLC0415  boto3 is slow to load, and many a job needs no AWS

        found: Queue | None = self._once(insight.queue, name)
        return found

    def line(self, name: str, job_id: str, created: float) -> Line:
        from gahp.batch import insight  # noqa: PLC0415

        return insight.line(self._once(insight.crowd, name), job_id, created)

    def hosts(self, types: tuple[str, ...]) -> tuple[diagnosis.Size, ...]:
        """What an environment of these types may have for hosts; () if EC2 does not tell."""
        key = (hosts, types)
        if key not in self._known:
            self._known[key] = hosts(self._site, types)
        found: tuple[diagnosis.Size, ...] = self._known[key]
        return found

    def _once(self, ask: Callable[[Batch, str], Any], name: str) -> Any:
        if (ask, name) not in self._known:
            try:
                self._known[ask, name] = ask(self._site.batch, name)
            except (Refused, Transient) as error:
                self._known[ask, name] = error
        if isinstance(answer := self._known[ask, name], Exception):
            raise answer
        return answer


def facts_of(asked: Asked, run: History, problem: str) -> diagnosis.Facts:
    """What journal and AWS know about the run now; what cannot be asked is left out. `problem`: why Batch was not asked."""
    facts: dict[str, Any] = {"run": run, "now": time.time(), "problem": problem}
    if diagnosis.needs_queue(run) and not (problem and run.state is RunState.SUBMITTED):
        name = run.queue_arn or run.queue
        try:
            queue = asked.queue(name)
            facts.update(asked=True, queue=queue)
            if queue is not None and run.state is RunState.SUBMITTED:
                facts["line"] = asked.line(name, run.native_id, run.created or run.submitted)
                facts["hosts"] = {
                    environment.name: found
                    for environment in queue.environments
                    if environment.types and (found := asked.hosts(environment.types))
                }
        except (Refused, Transient) as error:
            facts["unasked"] = str(error)
    return diagnosis.Facts(**facts)


def hosts(site: views.Site, types: tuple[str, ...]) -> tuple[diagnosis.Size, ...]:
    """The hosts that these instance types are; () if EC2 does not tell."""
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
        return ()
    return tuple(
        diagnosis.Size(
            type=entry["InstanceType"],
            vcpus=int(entry["VCpuInfo"]["DefaultVCpus"]),
            memory_mib=int(entry["MemoryInfo"]["SizeInMiB"]),
            gpus=sum(int(gpu["Count"]) for gpu in (entry.get("GpuInfo") or {}).get("Gpus", ())),
        )
        for entry in found
    )
