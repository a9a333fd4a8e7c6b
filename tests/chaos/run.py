"""Many jobs, an AWS full of faults, and GAHPs that are killed all the time; then the account.

    python tests/chaos/run.py --jobs 2000 --kills 500 --seed 1
    python tests/chaos/run.py --submits 200        # the other measure: 5 % of SubmitJob's replies are lost, and nothing else

Half of the deaths come at a random moment, half at a random crash point. The fates of the jobs, the kills and the faults follow
from the seed; how threads and processes interleave does not, so that a seed repeats the plan and not the very run. Ends with 1
when anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gahp.local import LocalAws
from tests.chaos.gridmanager import Gridmanager, Job, batch_jobs, doubles, unfinished

FATES = {"": 80, "remove": 8, "hold": 8, "vanish": 4}
POINTS = [
    *("write new run", "answer BLAH_JOB_SUBMIT", "HeadObject", "PutObject", "write STAGED", "write SUBMITTING", "SubmitJob"),
    *("write SUBMITTED", "DescribeJobs", "write started", "write confirmed", "answer BLAH_JOB_STATUS", "write COLLECTING"),
    *("GetObject", "placing", "rename", "write COMPLETED", "ListJobs", "write wanted REMOVE", "TerminateJob", "write REMOVED"),
    *("answer BLAH_JOB_CANCEL", "write adoption", "write pack SUBMITTING", "write pack SUBMITTED", "write pack ACCEPTED"),
    "write ACCEPTED",
]


def set_faults(aws: LocalAws, seed: int) -> None:
    """Throttling at 50 calls a second, 5 % lost replies, 5 % server errors, 2 % resets, and latency; in Batch and in S3."""
    faults = aws.faults
    faults.seed(seed)
    faults.throttle("batch:*", 50)
    faults.lose_reply("*", probability=0.05)
    faults.fail("*", 500, probability=0.05)
    faults.reset_connection("*", probability=0.02)
    faults.delay("*", 0.05, probability=0.2)


def chaos(
    aws: LocalAws,
    home: Path,
    *,
    jobs: int,
    kills: int,
    seed: int,
    live_s: float,
    limit_s: float,
    pack_size: int = 10_000,
    say: bool = False,
) -> dict[str, object]:
    """Run it; the account, whose `problems` are empty if all is well."""
    dice = random.Random(seed)
    fates = dice.choices(list(FATES), list(FATES.values()), k=jobs)
    all_jobs = [
        Job(home, number, fate, sleep_s=dice.choice((0.1, 0.3, 1.0)) if fate == "" else 3.0, act_after_s=dice.uniform(0, 3))
        for number, fate in enumerate(fates)
    ]
    for job in all_jobs:
        job.not_before = kills * job.number // jobs  # so that the deaths are spread over all jobs, to the last
    gridmanager = Gridmanager(aws, home, all_jobs, seed=seed, save_s=0.5, pack_size=pack_size)
    began, until = time.monotonic(), time.monotonic() + limit_s
    set_faults(aws, seed)
    while not gridmanager.over() and gridmanager.deaths < kills:
        if dice.random() < 0.5:
            point = f"{dice.choice(POINTS)} {dice.choice(('before', 'after'))}"
            gridmanager.serve_until_death(until, point, dice.randint(1, 20), longest_s=3 * live_s)
        else:
            gridmanager.serve_until_death(until, longest_s=dice.expovariate(1 / live_s))
        if say and gridmanager.deaths % 25 == 0:
            done = sum(bool(job.ended) for job in all_jobs)
            print(f"{time.monotonic() - began:6.0f} s  {gridmanager.deaths} kills, {done} of {jobs} jobs over", flush=True)
    gridmanager.run(limit_s=until - time.monotonic())
    aws.faults.clear()
    return account(aws, gridmanager, seconds=time.monotonic() - began)


def lost_replies(aws: LocalAws, home: Path, *, submits: int, seed: int, limit_s: float) -> dict[str, int]:
    """So many submits, each a SubmitJob of its own, while 5 % of its replies are lost; how many Batch jobs they became."""
    aws.faults.stuck()
    aws.faults.seed(seed)
    aws.faults.lose_reply("SubmitJob", probability=0.05)
    gridmanager = Gridmanager(aws, home, [Job(home, number) for number in range(submits)], submit_only=True, pack_size=1)
    gridmanager.run(limit_s=limit_s)
    with gridmanager.one_more():
        until = time.monotonic() + limit_s
        while len(batch_jobs(aws)) < submits and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(2)  # time for one too many
    lost = sum(request["outcome"] == "lost" for request in aws.requests())
    return {"submits": submits, "SubmitJob replies lost": lost, "Batch jobs made": len(batch_jobs(aws))}


def account(aws: LocalAws, gridmanager: Gridmanager, seconds: float) -> dict[str, object]:
    jobs = gridmanager.jobs
    with gridmanager.one_more():  # what was asked for is still carried out by whoever comes last
        left = unfinished(aws, {row["jobName"] for row in batch_jobs(aws)}, wait_s=60)
    rows = batch_jobs(aws)
    runs = {job_id.rpartition("/")[2] for job in jobs for job_id in job.ids}
    problems = [what for job in jobs for what in job.wrong()]
    problems += [f"a Batch job of no run: {row['jobName']}" for row in rows if row["jobName"] not in runs]
    return {
        "jobs wanted": len(jobs),
        "of them removed, held and released, on a host that went away": tuple(
            sum(job.fate == fate for job in jobs) for fate in ("remove", "hold", "vanish")
        ),
        "GAHPs killed": gridmanager.deaths,
        "submits sent again that got the same id": gridmanager.repeated_submits,
        "runs": len(runs),
        "Batch jobs made": len(rows),
        "of them children of array jobs": sum("arrayJobId" in row for row in rows),
        "Batch jobs made twice": len(doubles(rows)),
        "jobs whose program ran": sum(bool(job.attempts) for job in jobs),
        "programs run more than once for a submission": sum("copies ran" in what for what in problems),
        "outputs complete": sum(job.complete() for job in jobs),
        "jobs lost": sum(job.ended != "completed" for job in jobs if job.fate != "remove"),
        "orphans at the end": len(left),
        "seconds": round(seconds),
        "problems": problems + [f"an orphan: {name}" for name in left] + [f"made twice: {name}" for name in doubles(rows)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--life", type=float, default=1.0, help="seconds that a GAHP lives in the mean")
    parser.add_argument("--limit", type=float, default=7200, help="seconds after which it is given up")
    parser.add_argument("--submits", type=int, default=0, help="measure lost replies of so many submits instead")
    parser.add_argument("--pack-size", type=int, default=10_000, help="AWSBATCH_PACK_SIZE; 1: without packing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gahp-chaos-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        with LocalAws(home / "aws", vcpus=32, memory_mib=64 * 1024, time_scale=0.05) as aws:
            if options.submits:
                counted = lost_replies(aws, home, submits=options.submits, seed=options.seed, limit_s=options.limit)
                for what, count in counted.items():
                    print(f"{what:65} {count}")
                return int(counted["Batch jobs made"] != options.submits)
            size = {"jobs": options.jobs, "kills": options.kills, "seed": options.seed, "pack_size": options.pack_size}
            result = chaos(aws, home, **size, live_s=options.life, limit_s=options.limit, say=True)
    problems = result.pop("problems")
    assert isinstance(problems, list)
    for what, count in result.items():
        print(f"{what:65} {count}")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
