"""Where a GAHP dies, in which life of a job: what test_crash_points.py goes through, and mutate.py looks for.

A point is called as in `dying_gahp.py`; "SubmitJob 2 after" is the second passing of "SubmitJob after". The lives: lives.py.
"""

from __future__ import annotations

Case = tuple[str, list[str]]
"""A life, and the point of each death in it: one GAHP dies there, then the next."""


def parse(point: str) -> tuple[str, int]:
    """The point's name, and at which passing."""
    *words, side = point.split()
    number = int(words.pop()) if words[-1].isdigit() else 1
    return f"{' '.join(words)} {side}", number


# Before and after each of these.
POINTS = {
    "": [
        *("write new run", "answer BLAH_JOB_SUBMIT", "HeadObject", "PutObject", "PutObject 2", "write STAGED"),
        *("write SUBMITTING", "DescribeJobQueues", "SubmitJob", "write SUBMITTED", "DescribeJobs", "write started"),
        *("write confirmed", "answer BLAH_JOB_STATUS", "write COLLECTING", "GetObject", "placing", "rename", "rename 2"),
        "write COMPLETED",
    ],
    "remove": ["write wanted REMOVE", "TerminateJob", "answer BLAH_JOB_CANCEL", "write COLLECTING", "write REMOVED"],
    "hold": ["write wanted REMOVE", "TerminateJob", "write REMOVED", "write new run 2", "SubmitJob 2"],
    "remove early": ["write REMOVED"],
    "late": ["write confirmed"],
    "suspend": [
        *("write wanted HOLD", "CancelJob", "write SUSPENDED", "answer BLAH_JOB_HOLD", "write STAGED 2"),
        *("answer BLAH_JOB_RESUME", "SubmitJob 2"),
    ],
    "suspend early": ["write SUSPENDED", "write ACCEPTED", "write STAGED"],
    "refused hold": ["write wanted RUN"],
    "started hold": ["write wanted RUN"],
    "throttled": ["write STAGED 2"],
    "misfit": ["TerminateJob", "write HELD"],
    "unmade": ["write HELD"],
    "release": ["write confirmed", "write HELD"],
    "twice": ["write SUBMITTED 2"],
    "false end": ["write SUBMITTED 2"],
    # Three jobs that become one array job. A pack that was never seen in Batch is given up, and another one is made.
    "pack": [
        *("PutObject", "PutObject 2", "write pack SUBMITTING", "SubmitJob", "write pack SUBMITTED", "DescribeJobs"),
        "GetObject",
    ],
    "throttled pack": ["write pack ACCEPTED"],
    # HTCondor asks about one job, has forgotten another, and passes a third over for a while; then what is forgotten is ended.
    "passed over": ["write passed over", "write heeded"],
    # Two GAHPs, of which one dies.
    "asked to end": ["write asked", "write wanted REMOVE"],
    "asked to make room": ["write asked"],
}
# Behind the first death another one: what is done only by a GAHP that takes over.
CHAINS = [
    ("", ["SubmitJob before", "ListJobs before"]),
    ("", ["SubmitJob after", "ListJobs after"]),
    ("", ["write SUBMITTING after", "write adoption before"]),
    ("", ["write SUBMITTED before", "write adoption after"]),
    ("", ["write SUBMITTING after", "write STAGED before"]),
    ("", ["write SUBMITTING after", "write STAGED after"]),
    ("", ["SubmitJob after", "write SUBMITTED before", "write SUBMITTED after", "rename before", "rename after"]),
    ("", ["write new run before", "answer BLAH_JOB_SUBMIT before", "answer BLAH_JOB_SUBMIT before"]),
    ("pack", ["write pack SUBMITTING after", "ListJobs before"]),
    ("pack", ["write pack SUBMITTING after", "ListJobs after"]),
    ("pack", ["SubmitJob after", "ListJobs before"]),
    ("pack", ["SubmitJob after", "write SUBMITTED before"]),
    ("pack", ["SubmitJob after", "write SUBMITTED 2 after"]),
    ("pack", ["write pack SUBMITTING after", "write ACCEPTED before"]),
    ("pack", ["write pack SUBMITTING after", "write ACCEPTED 2 after"]),
    ("pack", ["write pack SUBMITTING after", "write ACCEPTED 3 after", "write pack SUBMITTING after", "SubmitJob after"]),
    ("refused hold", ["DescribeJobs 20 after"]),
    # The removal that came while no GAHP could begin is recorded by the next.
    ("noted", ["write started after", "write asked before"]),
    ("noted", ["write started after", "write asked after"]),
    # What is cleaned up some seconds after the start of a GAHP.
    ("cleaned", ["write COMPLETED after", "DeleteObjects before"]),
    ("cleaned", ["write COMPLETED after", "DeleteObjects after"]),
    ("cleaned", ["write COMPLETED after", "write discarded after"]),
    ("forgotten", ["write COMPLETED after", "write discarded after", "write forgotten before"]),
    ("forgotten", ["write COMPLETED after", "write discarded after", "write forgotten after"]),
    # The journal is damaged when the first has died, and made anew by the next.
    ("damaged", ["write SUBMITTED after", "rename before"]),
    ("damaged", ["write SUBMITTED after", "rename after"]),
    ("damaged", ["write SUBMITTED after", "write SUBMITTING before"]),
    ("damaged", ["write SUBMITTED after", "write SUBMITTING after"]),
    ("damaged", ["write SUBMITTING after", "write SUBMITTING after", "write STAGED after"]),
]
CASES: list[Case] = [
    *((life, [f"{point} {side}"]) for life, points in POINTS.items() for point in points for side in ("before", "after")),
    *CHAINS,
]


def name(case: Case) -> str:
    life, points = case
    return f"{life or 'plain'}: {', '.join(points)}"
