"""Memory runs out: at one place after the other, or everywhere. The GAHP goes on or ends with 1, and the next one goes on.

In each case exactly one Batch job is made for each submission, the program runs once, the output is complete, and nothing is left
running.
"""

import contextlib
import time

import psutil
import pytest

from gahp.cli.client import Client
from tests.chaos.gridmanager import Gridmanager, Job, batch_jobs, doubles, unfinished
from tests.chaos.test_crash_points import parse

PLAIN = [
    *("reading 4 before", "reading 4 after", "accepting before", "accepting after", "beginning before", "beginning after"),
    *("write new run before", "write new run after", "answer BLAH_JOB_SUBMIT before", "answer BLAH_JOB_STATUS after"),
    *("staging before", "staging after", "PutObject before", "PutObject after", "recording before", "recording 2 after"),
    *("write STAGED before", "write SUBMITTING after", "SubmitJob before", "SubmitJob after", "submitted before"),
    *(
        "submitted after",
        "write SUBMITTED before",
        "queuing 6 before",
        "queuing 9 after",
        "going on 2 before",
        "letting go before",
    ),
    *("sweeping before", "sweeping 2 after", "hearing before", "hearing after", "collecting before", "collecting after"),
    *("GetObject after", "placing before", "rename 2 after", "finishing before", "finishing after", "write COMPLETED before"),
]
REMOVE = ["removing before", "removing after", "write wanted REMOVE before", "TerminateJob before", "TerminateJob after"]
PACK = [
    *("packing before", "packing after", "write pack SUBMITTING before", "write pack SUBMITTING after", "SubmitJob before"),
    *("SubmitJob after", "letting go 3 before", "letting go 4 after", "write pack SUBMITTED before", "recording 4 before"),
]
CASES = [
    *[("", 1, point) for point in PLAIN],
    *[("remove", 1, point) for point in REMOVE],
    *[("", 3, point) for point in PACK],
]


def account(aws, jobs, gridmanager):
    """All that went wrong."""
    runs = {job_id.rpartition("/")[2] for job in jobs for job_id in job.ids}
    with gridmanager.one_more():  # what was asked for and not done yet is done by the next one
        left = unfinished(aws, runs)
    rows = [row for row in batch_jobs(aws) if row["jobName"] in runs]
    problems = [what for job in jobs for what in job.wrong()]
    return problems + [f"left running: {name}" for name in left] + [f"made twice: {name}" for name in doubles(rows)]


@pytest.mark.parametrize(
    ("number", "case"), list(enumerate(CASES)), ids=[f"{fate or count}: {point}" for fate, count, point in CASES]
)
def test_finding_no_memory_at(chaos_aws, tmp_path, number, case):
    fate, count, point = case
    first = 9000 + 3 * number
    jobs = [Job(tmp_path, first + index, fate, sleep_s=30 if fate == "remove" else 0.1) for index in range(count)]
    gridmanager = Gridmanager(chaos_aws, tmp_path, jobs, **({"pack_quiet": 700, "pack_wait": 3000} if count > 1 else {}))
    gridmanager.environment["TRACE"] = str(tmp_path / "trace")
    until = time.monotonic() + 60
    gridmanager.serve_without_memory(until, *parse(point))
    name, passing = parse(point)
    assert (tmp_path / "trace").read_text().splitlines().count(name) >= passing, "the point was not passed"
    gridmanager.run(limit_s=until - time.monotonic())
    assert account(chaos_aws, jobs, gridmanager) == []
    assert gridmanager.ends in ([0], [1])


@pytest.mark.parametrize("more_mib", [0, 4, 32])
def test_a_gahp_whose_address_space_may_grow_no_more(chaos_aws, tmp_path, more_mib):
    """The kernel's own limit, set when all is loaded: threads, buffers and C libraries get no more, each where it comes to it."""
    jobs = [Job(tmp_path, 9800 + 20 * more_mib + index) for index in range(12)]
    gridmanager = Gridmanager(chaos_aws, tmp_path, jobs)
    limited = Gridmanager(chaos_aws, tmp_path, jobs)

    class Poor(Client):
        def __init__(self, command, environment):
            super().__init__(command, environment)
            self.perform("BLAH_PING", "awsbatch")  # all is loaded
            kernel = psutil.Process(self.process.pid)
            kernel.rlimit(psutil.RLIMIT_AS, (kernel.memory_info().vms + more_mib * 2**20, psutil.RLIM_INFINITY))

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(TimeoutError):
        patch.setattr("tests.chaos.gridmanager.Client", Poor)
        limited._serve({"DIE_HOW": "memory"}, time.monotonic() + 15)
    assert limited.ends in ([0], [1])
    gridmanager.run(limit_s=60)
    assert account(chaos_aws, jobs, gridmanager) == []
