"""`condor_awsbatch q`: the jobs of the journal as condor_q lists HTCondor's, with what AWS Batch says of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gahp.cli import screen, views
from gahp.cli.explain import printable
from gahp.history import History, read
from gahp.model import JobState, Refused
from gahp.run import RunState

SUMMARY = "list jobs: HTCondor's id, DAG node, state and since when, attempt, resources, queue, host"

_HELD_FOR_S = 86400.0
_HEADINGS = ("ID", "NODE", "STATE", "IN STATE", "TRY", "CPUS", "MEM", "USED", "QUEUE", "AWS ID", "WHERE")
_RIGHT = ("ID", "IN STATE", "TRY", "CPUS", "MEM", "USED")
_SHRINK = ("WHERE", "QUEUE", "NODE", "AWS ID")
_STATUS = {
    RunState.COMPLETED: JobState.COMPLETED,
    RunState.HELD: JobState.HELD,
    RunState.SUSPENDED: JobState.HELD,
    RunState.REMOVED: JobState.REMOVED,
}

# HTCondor's own names where it has one for the thing.
ATTRIBUTES: dict[str, Callable[[History], Any]] = {
    "ClusterId": lambda run: run.cluster if run.condor_id else None,
    "ProcId": lambda run: run.proc if run.condor_id else None,
    "GlobalJobId": lambda run: run.global_job_id,
    "Owner": lambda run: run.owner or run.user,
    "User": lambda run: run.user,
    "Cmd": lambda run: run.executable,
    "JobBatchName": lambda run: run.condor_batch_name,
    "DAGManJobId": lambda run: run.dag,
    "DAGNodeName": lambda run: run.dag_node,
    "JobStatus": lambda run: int(_status(run)),
    "State": views.state_of,
    "EnteredCurrentStatus": views.since_of,
    "QDate": lambda run: run.accepted,
    "StagedDate": lambda run: run.staged,
    "SubmittedDate": lambda run: run.submitted,
    "JobCurrentStartDate": lambda run: run.started,
    "StoppedDate": lambda run: run.stopped,
    "CompletionDate": lambda run: run.over,
    "Attempt": lambda run: len(run.attempts),
    "NumRestarts": lambda run: run.restarts,
    "RequestCpus": lambda run: run.cpus,
    "RequestGPUs": lambda run: run.gpus,
    "RequestMemory": lambda run: run.memory_mib,
    "MemoryUsage": lambda run: run.peak_memory_mib,
    "RemoteUserCpu": lambda run: run.user_cpu_s,
    "RemoteSysCpu": lambda run: run.system_cpu_s,
    "BytesSent": lambda run: run.bytes_sent,
    "BytesRecvd": lambda run: run.bytes_received,
    "ExitCode": lambda run: run.exit_code,
    "ExitSignal": lambda run: run.exit_signal,
    "HoldReason": lambda run: run.hold_reason,
    "HoldReasonCode": lambda run: run.hold_code or None,
    "RemoteHost": lambda run: run.worker,
    "GahpJobId": lambda run: run.job_id,
    "RunName": lambda run: run.name,
    "BatchJobId": lambda run: run.native_id,
    "BatchJobName": lambda run: run.batch_name,
    "BatchQueue": lambda run: run.queue,
    "BatchStatus": lambda run: run.status,
    "BatchStatusReason": lambda run: run.status_reason,
    "ContainerReason": lambda run: run.container_reason,
    "LogStream": lambda run: run.log_stream,
    "Trouble": lambda run: run.trouble,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: condor_awsbatch q 120 -af ClusterId ProcId State HoldReason"
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"all of a CLUSTER, or {views.IDENTIFIERS}")
    which = parser.add_argument_group("which jobs (default: those that are not over, and those held within a day)")
    which.add_argument("-dag", "--dag", metavar="DAG", help="the nodes of a DAG: DAGMan's cluster, the DAG's file or batch name")
    which.add_argument("-all", "--all", action="store_true", help="of all users whose journals can be read here")
    which.add_argument("-history", "--history", action="store_true", help="jobs that are over, the latest first")
    which.add_argument("-limit", "--limit", type=_count, metavar="N", help="no more than so many")
    how = parser.add_argument_group("how")
    how.add_argument("-wide", "--wide", action="store_true", help="nothing cut to the terminal's width, AWS ids in full")
    how.add_argument("-af", "--af", nargs="+", metavar="ATTR", help=f"values only, of: {', '.join(ATTRIBUTES)}")
    how.add_argument("-json", "--json", action="store_true", help="all attributes of each job (or those of -af), as JSON")
    how.add_argument("-journal", "--journal", action="store_true", help="what the journal has; no call to AWS")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def run(options: argparse.Namespace) -> int:
    names = _names(options.af) if options.af else list(ATTRIBUTES)
    site = views.Site()
    runs = list(chosen(site, options))
    if options.limit:
        runs = runs[: options.limit]
    problem = views.Problem("")
    if not options.journal:
        runs, problem = views.refresh(site, runs)
    now = time.time()
    if options.json:
        print(json.dumps([{name: ATTRIBUTES[name](run) for name in names} for run in runs], indent=2))
    elif options.af:
        for run in runs:
            print(*(_value(ATTRIBUTES[name](run)) for name in names))
    else:
        for line in listing(runs, now, wide=options.wide, everybody=options.all):
            print(line)
    sys.stdout.flush()
    if problem:
        views.note(problem)
    return 0


def chosen(site: views.Site, options: argparse.Namespace) -> Iterator[History]:
    """The runs that the options mean, in the order of condor_q, or of condor_history."""
    if options.ids:
        found = views.pick(site.settings, options.ids, options.all)
    else:
        live = not options.history and options.dag is None
        places = views.journals(site.settings, options.all)
        lately = time.time() - _HELD_FOR_S if live else 0.0
        found = [run for user, directory in places for run in read(directory, user=user, live=live, since=lately)]
        if live:
            # What went well counts too: it may be a later run of a job that was held.
            old = views.superseded(found)
            found = [run for run in found if not run.final or (run.state is RunState.HELD and run.name not in old)]
    if options.dag is not None:
        found = [run for run in found if in_dag(run, options.dag)]
    if options.history:
        yield from sorted((run for run in found if run.final), key=lambda run: run.over, reverse=True)
    else:
        yield from sorted(found, key=lambda run: (run.user, run.cluster, run.proc, run.accepted))


def in_dag(run: History, dag: str) -> bool:
    """Whether `dag`, a cluster, a file, or a batch name such as d.dag or d.dag+101, names the DAG that the run is a node of."""
    name, dag = run.condor_batch_name, os.path.basename(dag)
    return bool(dag) and (dag == str(run.dag) or dag in (name, name.rpartition("+")[0]))


def listing(runs: Sequence[History], now: float, *, wide: bool = False, everybody: bool = False) -> list[str]:
    """The table and its summary, for standard output as it is."""
    width = None if wide else screen.columns(sys.stdout)
    colour = screen.has_colours(sys.stdout)
    headings, rows = list(_HEADINGS), [_row(run, now, short=width is not None) for run in runs]
    # Columns in which nobody has anything are left out where there is little room.
    if width is not None:
        for name in ("NODE", "USED", "WHERE"):
            number = headings.index(name)
            if not any(row[number] not in ("", "-") for row in rows):
                headings.pop(number)
                for row in rows:
                    row.pop(number)
    if everybody:
        headings.insert(0, "USER")
        for row, each in zip(rows, runs, strict=True):
            row.insert(0, each.owner or each.user)
    lines = screen.table(
        headings,
        rows,
        right=_RIGHT,
        width=width,
        shrink=[name for name in _SHRINK if name in headings],
        drop=("WHERE", "USED", "QUEUE", "NODE", "USER", "TRY", "CPUS"),
        styles=[views.style_of(views.state_of(run)) for run in runs],
        styled="STATE",
        colour=colour,
    )
    return [*lines, "", summary(runs)] if runs else [summary(runs)]


def summary(runs: Sequence[History]) -> str:
    """The last line, in condor_q's words."""
    counts = Counter(_status(run) for run in runs)
    words = ", ".join(f"{counts[state]} {state.name.lower()}" for state in (4, 3, 1, 2, 5) for state in (JobState(state),))
    return f"{len(runs)} job{'' if len(runs) == 1 else 's'}; {words}"


def _status(run: History) -> JobState:
    """HTCondor's JobStatus, as BLAH_JOB_STATUS would have it."""
    if run.state in _STATUS:
        return _STATUS[run.state]
    return JobState.RUNNING if run.status in ("RUNNING", "SUCCEEDED", "FAILED") and run.started else JobState.IDLE


def _row(run: History, now: float, *, short: bool) -> list[str]:
    state = views.state_of(run)
    aws = run.native_id
    if short and aws:
        # Its beginning names it to why and logs too; of an array's child the index counts.
        parent, colon, child = aws.partition(":")
        aws = parent[:8] + colon + child
    return [
        run.condor_id or run.name,
        run.dag_node,
        state,
        screen.span(now - views.since_of(run)),
        str(len(run.attempts) or "-"),
        views.figure(run.cpus),
        views.figure(run.memory_mib),
        views.figure(run.peak_memory_mib),
        run.queue,
        aws or "-",
        run.worker[:8] if short else run.worker,
    ]


def _names(asked: Sequence[str]) -> list[str]:
    known = {name.lower(): name for name in ATTRIBUTES}
    unknown = [name for name in asked if name.lower() not in known]
    if unknown:
        raise Refused(f"There is no attribute {unknown[0]}: condor_awsbatch q -help lists them.")
    return [known[name.lower()] for name in asked]


def _value(value: Any) -> str:
    if value is None or value == "":
        return "undefined"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return printable(str(value)) if sys.stdout.isatty() else str(value)
