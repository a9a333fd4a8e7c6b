"""The GAHP dies at one point after the other, before and after each journal write, AWS call, rename and answer; another goes on.

In each case exactly one Batch job is made for each submission, the program runs once, the output is complete, and nothing is left
running.
"""

import contextlib
import sqlite3
import time
from collections import Counter

import pytest

from tests.chaos.gridmanager import Gridmanager, Job, batch_jobs, doubles, unfinished

PLAIN = [
    *("write new run", "answer BLAH_JOB_SUBMIT", "HeadObject", "PutObject", "PutObject 2", "write STAGED", "write SUBMITTING"),
    *("DescribeJobQueues", "SubmitJob", "write SUBMITTED", "DescribeJobs", "write started", "write confirmed"),
    *("answer BLAH_JOB_STATUS", "write COLLECTING", "GetObject", "placing", "rename", "rename 2", "write COMPLETED"),
]
REMOVE = ["write wanted REMOVE", "TerminateJob", "answer BLAH_JOB_CANCEL", "write COLLECTING", "write REMOVED"]
HOLD = ["write wanted REMOVE", "TerminateJob", "write REMOVED", "write new run 2", "SubmitJob 2"]
SUSPEND = ["write wanted HOLD", "CancelJob", "write SUSPENDED", "answer BLAH_JOB_HOLD", "answer BLAH_JOB_RESUME", "SubmitJob 2"]
# Behind the first death another one: what is done only by a GAHP that takes over.
CHAINS = [
    ["SubmitJob before", "ListJobs before"],
    ["SubmitJob after", "ListJobs after"],
    ["write SUBMITTING after", "write adoption before"],
    ["write SUBMITTED before", "write adoption after"],
    ["write SUBMITTING after", "write STAGED before"],
    ["write SUBMITTING after", "write STAGED after"],
    ["SubmitJob after", "write SUBMITTED before", "write SUBMITTED after", "rename before", "rename after"],
    ["write new run before", "answer BLAH_JOB_SUBMIT before", "answer BLAH_JOB_SUBMIT before"],
]
# Three jobs that become one array job. A pack that was never seen in Batch is given up, and another one is made.
PACK = ["PutObject", "PutObject 2", "write pack SUBMITTING", "SubmitJob", "write pack SUBMITTED", "DescribeJobs", "GetObject"]
PACK_CHAINS = [
    ["write pack SUBMITTING after", "ListJobs before"],
    ["write pack SUBMITTING after", "ListJobs after"],
    ["SubmitJob after", "ListJobs before"],
    ["SubmitJob after", "write SUBMITTED before"],
    ["SubmitJob after", "write SUBMITTED 2 after"],
    ["write pack SUBMITTING after", "write ACCEPTED before"],
    ["write pack SUBMITTING after", "write ACCEPTED 2 after"],
    ["write pack SUBMITTING after", "write ACCEPTED 3 after", "write pack SUBMITTING after", "SubmitJob after"],
]
CASES = [
    *[("", [f"{point} {side}"]) for point in PLAIN for side in ("before", "after")],
    *[("remove", [f"{point} {side}"]) for point in REMOVE for side in ("before", "after")],
    *[("hold", [f"{point} {side}"]) for point in HOLD for side in ("before", "after")],
    *[("suspend", [f"{point} {side}"]) for point in SUSPEND for side in ("before", "after")],
    *[("", chain) for chain in CHAINS],
]
PACK_CASES = [*[[f"{point} {side}"] for point in PACK for side in ("before", "after")], *PACK_CHAINS]
NUMBERS = {f"{fate or 'plain'}: {', '.join(points)}": 5 * number for number, (fate, points) in enumerate(CASES, 1)}


def parse(point):
    """ "SubmitJob 2 after" is the second passing of "SubmitJob after"."""
    *words, side = point.split()
    number = int(words.pop()) if words[-1].isdigit() else 1
    return f"{' '.join(words)} {side}", number


WRITES = sorted({parse(point)[0].rpartition(" ")[0] for _, points in CASES for point in points if point.startswith("write ")})


def live_through_packed(aws, home, number, points):
    """Three jobs that are submitted together, under GAHPs that die at `points`; all that went wrong."""
    jobs = [Job(home, number + index, sleep_s=0.1) for index in range(3)]
    gridmanager = Gridmanager(aws, home, jobs, pack_quiet=700, pack_wait=3000)
    gridmanager.run([parse(point) for point in points], limit_s=90)
    runs = {job_id.rpartition("/")[2] for job in jobs for job_id in job.ids}
    with gridmanager.one_more():
        left = unfinished(aws, runs)
    rows = [row for row in batch_jobs(aws) if row["jobName"] in runs]
    problems = [what for job in jobs for what in job.wrong()]
    problems += [f"left running: {name}" for name in left] + [f"made twice: {name}" for name in doubles(rows)]
    if len(rows) != 3:
        problems.append(f"{len(rows)} Batch jobs for 3 runs")
    if gridmanager.deaths != len(points):
        problems.append(f"died {gridmanager.deaths} times instead of {len(points)}: the point was not passed")
    return problems


@pytest.mark.parametrize(
    ("number", "points"),
    [(3000 + 5 * number, points) for number, points in enumerate(PACK_CASES)],
    ids=[", ".join(points) for points in PACK_CASES],
)
def test_dying_in_a_pack_at(chaos_aws, tmp_path, number, points):
    assert live_through_packed(chaos_aws, tmp_path, number, points) == []


def live_through(aws, home, number, fate, points, drop="", limit_s=60):
    """One job of that fate under GAHPs that die at `points`; all that went wrong. `drop`: a journal write that is left out."""
    if fate == "suspend":
        aws.faults.stuck(name=f"{number}-0-" + "?" * 16)  # the first submission only
    job = Job(home, number, fate, sleep_s=30 if fate == "remove" else 3 if fate == "hold" else 0.1)
    gridmanager = Gridmanager(aws, home, [job])
    gridmanager.environment["DROP"] = drop
    until, problems = time.monotonic() + limit_s, []
    for point in points:
        before = table(home)
        gridmanager.serve_until_death(until, *parse(point))
        problems += unwritten(before, table(home), point)
    gridmanager.run(limit_s=until - time.monotonic())
    runs = {job_id.rpartition("/")[2] for job_id in job.ids}
    names = {name for run in runs for name in (run, f"{run}-1")}
    with gridmanager.one_more():  # what was asked for and not done yet is done by the next one
        left = unfinished(aws, names)
        states = journal_states(home / "state" / "journal.sqlite", runs)
    rows = [row for row in batch_jobs(aws) if row["jobName"].startswith(f"{number}-0-")]
    problems += job.wrong()
    if len(states) != len(runs) or not set(states) <= {"COMPLETED", "REMOVED", "HELD"}:
        problems.append(f"the journal knows {len(states)} of {len(runs)} runs, as {states}")
    problems += [f"a Batch job of no run: {row['jobName']}" for row in rows if row["jobName"] not in names]
    problems += [f"left running: {name}" for name in left] + [f"made twice: {name}" for name in doubles(rows)]
    if gridmanager.deaths != len(points):
        problems.append(f"died {gridmanager.deaths} times instead of {len(points)}: the point was not passed")
    return problems


def table(home):
    """The journal as it lies on the disk: state, wanted, started, confirmed, owner of each run, by name."""
    path = home / "state" / "journal.sqlite"
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, state, wanted, started, confirmed, owner FROM runs")
        return {name: dict(zip(("state", "wanted", "started", "confirmed", "owner"), row, strict=True)) for name, *row in rows}


def unwritten(before, after, point):
    """What the disk must hold because the GAHP died behind that write, and does not."""
    if not point.startswith("write ") or point.endswith(" before"):
        return []
    what = point.removeprefix("write ").removesuffix(" after").removesuffix(" 2")
    if what == "new run":
        there = len(after) > len(before)
    elif what == "adoption":
        there = any(after[name]["owner"] != row["owner"] for name, row in before.items())
    elif what.startswith("wanted "):
        there = any(row["wanted"] == what.removeprefix("wanted ") for row in after.values())
    elif what.isupper():
        there = any(row["state"] == what for row in after.values())
    else:
        there = any(row[what] for row in after.values())
    return [] if there else [f"{point}: it is not in the journal: {after}"]


def journal_states(path, runs):
    """What the journal says of each run in the end; a removal may come some moments after its answer."""
    connection = sqlite3.connect(path)
    until = time.monotonic() + 5
    try:
        while True:
            marks = ", ".join("?" * len(runs))
            rows = connection.execute(f"SELECT name, state FROM runs WHERE name IN ({marks})", sorted(runs)).fetchall()
            states = [state for _, state in rows]
            if all(state in ("COMPLETED", "REMOVED", "HELD") for state in states) or time.monotonic() > until:
                return states
            time.sleep(0.1)
    finally:
        connection.close()


@pytest.mark.parametrize(("fate", "points"), CASES, ids=list(NUMBERS))
def test_dying_at(chaos_aws, tmp_path, fate, points, request):
    assert live_through(chaos_aws, tmp_path, NUMBERS[request.node.callspec.id], fate, points) == []


def test_every_point_that_is_passed_has_its_case(chaos_aws, tmp_path):
    """So that no write and no call is added without being died at."""
    passed = Counter()
    for number, fate in zip((1000, 1005, 1010), ("", "remove", "suspend"), strict=True):
        if fate == "suspend":
            chaos_aws.faults.stuck(name=f"{number}-0-" + "?" * 16)
        home = tmp_path / str(number)
        home.mkdir()
        job = Job(home, number, fate, sleep_s=30 if fate == "remove" else 0.1)
        gridmanager = Gridmanager(chaos_aws, home, [job])
        gridmanager.environment["TRACE"] = str(home / "trace")
        gridmanager.run(limit_s=60)
        assert job.wrong() == []
        passed.update((home / "trace").read_text().splitlines())
    home = tmp_path / "pack"
    home.mkdir()
    jobs = [Job(home, 1015 + index) for index in range(3)]
    gridmanager = Gridmanager(chaos_aws, home, jobs, pack_quiet=700, pack_wait=3000)
    gridmanager.environment["TRACE"] = str(home / "trace")
    gridmanager.run(limit_s=60)
    passed.update((home / "trace").read_text().splitlines())
    covered = {parse(point)[0] for points in [*(points for _, points in CASES), *PACK_CASES] for point in points}
    # News by itself is for people to read: nothing is done or left for it.
    assert set(passed) - covered - {"write news before", "write news after"} == set()
