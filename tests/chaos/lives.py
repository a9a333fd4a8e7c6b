"""Lives of jobs under GAHPs that die at given points, and the account of each: all that went wrong.

In each life exactly one Batch job is made for each submission, the program runs once for it, the output is complete, nothing is
left running, and what a GAHP has written before it died is in the journal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gahp.cli.client import Client
from gahp.local import LocalAws
from gahp.model import Refused
from gahp.statedir import note_removal
from tests.chaos.cases import parse
from tests.chaos.gridmanager import DYING_GAHP, PROGRAM, Gridmanager, Job, batch_jobs, doubles, unfinished
from tests.hasty import ORPHANS

NOT_THERE = "it is not in the journal"
FINAL = ("COMPLETED", "REMOVED", "HELD")
COLUMNS = ("state", "wanted", "started", "confirmed", "owner", "discarded", "asked")
PERIOD_S = 1.0  # longer than STATUS requests are apart


@dataclasses.dataclass
class World:
    """What a life is lived in."""

    aws: LocalAws
    home: Path
    number: int
    jobs: list[Job] = dataclasses.field(default_factory=list)
    deaths: int = 0
    let_go_at: float = 0.0
    done: set[str] = dataclasses.field(default_factory=set)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    said: list[str] = dataclasses.field(default_factory=list)

    def once(self, what: str) -> bool:
        new = what not in self.done
        self.done.add(what)
        return new

    @property
    def numbers(self) -> list[int]:
        return [job.number for job in self.jobs]

    @property
    def journal(self) -> Path:
        return self.home / "state" / "journal.sqlite"

    @property
    def first_submission(self) -> str:
        """A pattern for the name of the first Batch job; of a second submission it has `-1` at its end."""
        return f"{self.number}-0-" + "?" * 16


def nothing(_: World) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Life:
    """What a job does and suffers. `job`: of its Job; `begin` is called first, `tend` all the time, `died` after each death,
    `end` when all is over: it says what is wrong."""

    fate: str = ""
    job: dict[str, Any] = dataclasses.field(default_factory=dict)
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)
    jobs: int = 1
    period_s: float = 0.0
    begin: Callable[[World], None] = nothing
    tend: Callable[[World], None] = nothing
    died: Callable[[World], None] = nothing
    end: Callable[[World], list[str]] = lambda _: []


def stuck(world: World) -> None:
    world.aws.faults.stuck(name=world.first_submission)


def slow_staging(world: World) -> None:
    """So that what is asked for at once is asked for while the inputs are on their way."""
    world.aws.faults.delay("PutObject", 0.7)


def cancel_refused(world: World) -> None:
    stuck(world)
    world.aws.faults.fail("CancelJob", 403, "AccessDeniedException", "not now", count=1)


def let_go_when_refused(world: World) -> None:
    """And one has died since, who must not have left the wish to the next."""
    if world.jobs[0].acted and world.deaths:
        world.let_go_at = world.let_go_at or time.monotonic() + 1.5
        if time.monotonic() > world.let_go_at and world.once("let go"):
            world.aws.faults.clear("stuck")


def cancel_slow(world: World) -> None:
    stuck(world)
    world.aws.faults.delay("CancelJob", 1.0)


def start_when_asked_to_hold(world: World) -> None:
    """CancelJob comes too late."""
    if any(row["wanted"] == "HOLD" for row in table(world.journal).values()) and world.once("start"):
        world.aws.faults.clear("stuck")


def throttled(world: World) -> None:
    world.aws.faults.fail("SubmitJob", 429, "TooManyRequestsException", "too fast", count=1)


def have_it_twice(world: World) -> None:
    """Another copy runs, while the one that the GAHP knows is kept waiting until that has begun."""
    (job,) = world.jobs
    if job.in_batch and not job.attempts and world.once("copy"):
        (row,) = batch_jobs(world.aws, world.numbers)
        batch = world.aws.client("batch")
        (first,) = batch.describe_jobs(jobs=[row["jobId"]])["jobs"]
        environment = [pair for pair in first["container"]["environment"] if not pair["name"].startswith("AWS_")]
        batch.submit_job(
            jobName=f"copy-{world.number}",
            jobQueue=first["jobQueue"],
            jobDefinition=first["jobDefinition"],
            containerOverrides={"command": first["container"]["command"], "environment": environment},
        )
    if job.attempts and world.once("let go"):
        world.aws.faults.clear("stuck")


def queue_name(world: World) -> str:
    return f"events-{world.number}"


def events_queue(world: World) -> None:
    world.aws.client("sqs").create_queue(QueueName=queue_name(world))


def tell_a_false_end(world: World) -> None:
    (job,) = world.jobs
    if job.attempts and world.once("event"):
        sqs = world.aws.client("sqs")
        detail = {"jobId": job.attempts[0][0], "jobName": "x", "status": "SUCCEEDED"}
        event = {"source": "aws.batch", "detail-type": "Batch Job State Change", "detail": detail}
        sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=queue_name(world))["QueueUrl"], MessageBody=json.dumps(event))


def damage(world: World) -> None:
    """Overwrite the journal's pages, once."""
    for path in world.journal.parent.glob("journal.sqlite*") if world.deaths == 1 else ():
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.write((b"no database " * (size // 12 + 1))[:size])


def note_the_removal(world: World) -> None:
    """As a GAHP does that cannot begin. HTCondor is done with the job."""
    (job,) = world.jobs
    if world.once("note"):
        note_removal(str(world.journal.parent), job.ids[0].rpartition("/")[2])
        job.ended = "removed"


def pass_over(world: World) -> None:
    """About the first job HTCondor asks all the time, about the second never, about the third after three periods and from then
    on. When the second has been passed over for three more, what is forgotten for three is ended."""
    asked, forgotten, late = world.jobs
    if world.once("run on"):
        for job in world.jobs:
            run_until(job, Path(f"{job.ran}.go"))
        forgotten.fate = "remove"
    counted = [table(world.journal).get(job.job_id.rpartition("/")[2], {}).get("passed_over", 0.0) for job in (forgotten, late)]
    forgotten.poll_at = float("inf")
    if "ask again" not in world.done:
        late.poll_at = float("inf")
        if counted[1] >= 3 * PERIOD_S and world.once("ask again"):
            late.poll_at = 0.0
    elif counted[0] >= 6 * PERIOD_S and forgotten.attempts and world.once("end"):
        words = [*ORPHANS, "--end", "--unasked", f"{3 * PERIOD_S / 3600}"]
        ran = subprocess.run(words, env=world.environment, capture_output=True, text=True, timeout=60, check=False)
        world.said = [*ran.stdout.splitlines(), *ran.stderr.splitlines()]
        forgotten.ended = "removed"
        for job in (asked, late):
            Path(f"{job.ran}.go").touch()


def not_one_orphan(world: World) -> list[str]:
    return [] if world.said[-1:] == ["1 orphan, 0 in doubt, 1 ended"] else [f"orphans said {world.said}"]


def age(world: World) -> None:
    """What is cleaned up was over long ago."""
    with contextlib.closing(sqlite3.connect(world.journal)) as connection, connection:
        connection.execute("UPDATE runs SET changed = changed - 10000 WHERE discarded = 1")


def not_cleaned(world: World) -> list[str]:
    (run,) = {job_id.rpartition("/")[2] for job_id in world.jobs[0].ids}
    s3 = world.aws.client("s3")
    bucket, _, prefix = world.aws.environment()["_CONDOR_AWSBATCH_S3_URL"].removeprefix("s3://").partition("/")
    until = time.monotonic() + 10
    while True:
        left = s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/runs/{run}/".lstrip("/")).get("Contents", [])
        known = [row["discarded"] for row in table(world.journal).values()]
        if (not left and all(known)) or time.monotonic() > until:
            break
        time.sleep(0.1)
    return [f"left in S3: {entry['Key']}" for entry in left] + ["not marked as cleaned up"] * (not all(known))


PACK: dict[str, Any] = {"pack_quiet": 700, "pack_wait": 3000}
LIVES = {
    "": Life(),
    "remove": Life("remove", {"sleep_s": 30}),
    "remove early": Life("remove", {"sleep_s": 30, "act_after_s": 0.0}, begin=slow_staging),
    "hold": Life("hold", {"sleep_s": 3}),
    "late": Life("late"),
    "suspend": Life("suspend", begin=stuck),
    "suspend early": Life("suspend", {"act_after_s": 0.0}, begin=slow_staging),
    "refused hold": Life("suspend", begin=cancel_refused, tend=let_go_when_refused),
    "started hold": Life("suspend", {"sleep_s": 3}, begin=cancel_slow, tend=start_when_asked_to_hold),
    "throttled": Life(begin=throttled),
    "misfit": Life(job={"memory": 90_000_000, "held_for": "can never start the job"}),
    "unmade": Life(job={"output": "missing.dat", "held_for": "without making its output missing.dat"}),
    "release": Life("release", {"output": "missing.dat", "held_for": "without making its output missing.dat"}),
    "twice": Life(job={"sleep_s": 3}, begin=stuck, tend=have_it_twice),
    "false end": Life(job={"sleep_s": 2}, begin=events_queue, tend=tell_a_false_end),
    "damaged": Life(job={"sleep_s": 1}, died=damage),
    "cleaned": Life(knobs={"keep_sandbox": 0}, end=not_cleaned),
    "forgotten": Life(knobs={"keep_sandbox": 0, "keep_runs": 0.01}, died=age),
    "pack": Life(jobs=3, knobs=PACK),
    "throttled pack": Life(jobs=3, knobs=PACK, begin=throttled),
    "noted": Life("remove", {"sleep_s": 30, "act_after_s": 1000}, died=note_the_removal),
    "passed over": Life(jobs=3, period_s=PERIOD_S, tend=pass_over, end=not_one_orphan),
}


def live_through(aws: LocalAws, home: Path, number: int, life: str, points: list[str], drop: str = "", limit_s: float = 180):
    """A life under GAHPs that die at `points`; all that went wrong. `drop`: a journal write that is left out.

    Raises TimeoutError when it does not come to its end. The numbers of its jobs begin with `number`.
    """
    world = World(aws, home, number)
    try:
        if life in ASKED:
            return two_gahps(world, life, points, drop, limit_s)
        return one_after_the_other(world, LIVES[life], points, drop, limit_s)
    finally:
        aws.faults.clear()


def one_after_the_other(world: World, life: Life, points: list[str], drop: str, limit_s: float) -> list[str]:
    aws, home = world.aws, world.home
    life.begin(world)
    world.jobs = [Job(home, world.number + index, life.fate, **life.job) for index in range(life.jobs)]
    gridmanager = Gridmanager(aws, home, world.jobs, **life.knobs)
    world.environment = gridmanager.environment
    gridmanager.environment |= {"DROP": drop, "WRITES": str(home / "writes"), "PERIOD": str(life.period_s or "")}
    if life.begin is events_queue:
        url = aws.client("sqs").get_queue_url(QueueName=queue_name(world))["QueueUrl"]
        gridmanager.environment["_CONDOR_AWSBATCH_EVENTS_QUEUE_URL"] = url
    gridmanager.tend = lambda: life.tend(world)
    until, problems = time.monotonic() + limit_s, []
    for point in points:
        before = table(world.journal)
        gridmanager.serve_until_death(until, *parse(point))
        problems += unwritten(before, table(world.journal), point)
        world.deaths = gridmanager.deaths
        life.died(world)
    gridmanager.run(limit_s=until - time.monotonic())
    runs = {job_id.rpartition("/")[2] for job in world.jobs for job_id in job.ids}
    names = {name for run in runs for name in (run, f"{run}-1")}
    with gridmanager.one_more():  # what was asked for and not done yet is done by the next one
        left = unfinished(aws, names, numbers=world.numbers)
        states = journal_states(world.journal, runs)
        problems += life.end(world)
    rows = batch_jobs(aws, world.numbers)
    problems += [what for job in world.jobs for what in job.wrong()]
    known = len(runs) - points.count("write forgotten after")
    if len(states) != known or not set(states) <= set(FINAL):
        problems.append(f"the journal knows {len(states)} of {len(runs)} runs, as {states}")
    problems += [f"a Batch job of no run: {row['jobName']}" for row in rows if row["jobName"] not in names]
    problems += [f"left running: {name}" for name in left] + [f"made twice: {name}" for name in doubles(rows)]
    if gridmanager.deaths != len(points):
        problems.append(f"died {gridmanager.deaths} times instead of {len(points)}: the point was not passed")
    return problems


ASKED = ("asked to end", "asked to make room")


def two_gahps(world: World, life: str, points: list[str], drop: str, limit_s: float) -> list[str]:
    """One GAHP has the job; another is asked to end it, or gets the next submit of the same JobDirectory. One of them dies."""
    (point,) = points
    job = Job(world.home, world.number)
    go = Path(f"{job.ran}.go")
    run_until(job, go)
    gridmanager = Gridmanager(world.aws, world.home, [job])
    usual = {**gridmanager.environment, "DROP": drop, "WRITES": str(world.home / "writes")}
    dying = {**usual, "DIE_AT": parse(point)[0]}
    first_dies, until, problems = "wanted REMOVE" in point, time.monotonic() + limit_s, []
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Client(DYING_GAHP, dying if first_dies else usual))
        first_id = first.perform("BLAH_JOB_SUBMIT", job.text)[2]
        wait_for(lambda: first.perform("BLAH_JOB_STATUS", first_id)[2] == "2", until)
        second = stack.enter_context(Client(DYING_GAHP, usual if first_dies else dying))
        second.perform("BLAH_PING", "awsbatch")  # it has begun: what comes earlier is noted beside the journal
        asked = ("BLAH_JOB_CANCEL", first_id) if life == "asked to end" else ("BLAH_JOB_SUBMIT", job.text)
        before = table(world.journal)
        request, died, outcome = second.request(*asked), False, ()
        try:  # it answers or dies, and so may the first
            while not died and (not outcome or not first_dies) and time.monotonic() < until:
                outcome = next((found.tokens for found in second.results(0.2) if found.request_id == request), outcome)
                died = first_dies and first.process.poll() is not None
        except Refused as error:
            if str(error) != "The GAHP has ended.":
                raise
            died = True
        if not died:
            return [*problems, f"{point} was not passed"]
        problems += unwritten(before, table(world.journal), point)
        last = second if first_dies else stack.enter_context(Client(DYING_GAHP, usual))
        if point == "write asked before" and life == "asked to end":
            last.perform(*asked)  # it was not answered
        ids = [first_id]
        if life == "asked to make room":
            ids.append(last.perform(*asked)[2])
            journal_states(world.journal, {first_id.rpartition("/")[2]}, wait_s=15)
            go.touch()
            wait_for(lambda: last.perform("BLAH_JOB_STATUS", ids[1])[2] == "4", until)
        runs = {job_id.rpartition("/")[2] for job_id in ids}
        left = unfinished(world.aws, runs, numbers=[world.number])
        states = journal_states(world.journal, runs)
    problems += [f"left running: {name}" for name in left]
    if sorted(states) != ["COMPLETED", "REMOVED"][2 - len(ids) :]:
        problems.append(f"the journal knows the runs as {states}")
    if len(job.attempts) != len(ids) or len(set(job.attempts)) != len(ids):
        problems.append(f"{len(ids)} submissions ran as {job.attempts}")
    return problems


def run_until(job: Job, go: Path) -> None:
    """Its program runs until that file is there."""
    (job.directory / "job.sh").write_text(PROGRAM.replace('sleep "$2"', f'until [ -e "{go}" ]; do sleep 0.1; done'))


def wait_for(condition: Callable[[], bool], until: float) -> None:
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("a job has not come so far")
        time.sleep(0.1)


def table(path: Path) -> dict[str, dict[str, Any]]:
    """The journal as it lies on the disk: some columns of each run, by its name; {} if it is damaged."""
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection, contextlib.suppress(sqlite3.DatabaseError):
        passed_over = "coalesce((SELECT seconds FROM unasked WHERE unasked.name = runs.name), 0.0)"
        rows = connection.execute(f"SELECT name, {', '.join(COLUMNS)}, {passed_over} FROM runs")
        return {name: dict(zip((*COLUMNS, "passed_over"), row, strict=True)) for name, *row in rows}
    return {}


def unwritten(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], point: str) -> list[str]:
    """What the disk must hold because the GAHP died behind that write, and does not."""
    if not point.startswith("write ") or point.endswith(" before"):
        return []
    what = parse(point)[0].removeprefix("write ").removesuffix(" after")
    rows = after.values()
    if what == "new run":
        there = len(after) > len(before)
    elif what == "forgotten":
        there = len(after) < len(before)
    elif what == "adoption":
        there = any(after[name]["owner"] != row["owner"] for name, row in before.items())
    elif what == "passed over":
        there = any(row["passed_over"] for row in rows)
    elif what == "heeded":  # of two that were passed over
        there = sum(bool(row["passed_over"]) for row in rows) < 2
    elif what.startswith("wanted "):
        there = any(row["wanted"] == what.removeprefix("wanted ") for row in rows)
    elif what.startswith("pack "):
        there = all(row["state"] == what.removeprefix("pack ") for row in rows)
    elif what == "COLLECTING":  # and perhaps, in the same commit, what came of it
        there = any(row["state"] in (what, *FINAL) for row in rows)
    elif what.isupper():
        there = any(row["state"] == what for row in rows)
    else:
        there = any(row[what] for row in rows)
    return [] if there else [f"{point}: {NOT_THERE}: {after}"]


def journal_states(path: Path, runs: set[str], wait_s: float = 5) -> list[str]:
    """What the journal says of each run in the end; a removal may come some moments after its answer."""
    until = time.monotonic() + wait_s
    while True:
        states = [row["state"] for name, row in table(path).items() if name in runs]
        if all(state in FINAL for state in states) or time.monotonic() > until:
            return states
        time.sleep(0.1)
