"""The GAHP dies at one point after the other, before and after each journal write, AWS call, rename and answer; another goes on.

What has to be so in the end is in lives.py. That each of these writes is needed shows mutate.py, which leaves them out.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos import mutate, writes
from tests.chaos.cases import CASES, name, parse
from tests.chaos.gridmanager import Gridmanager, Job
from tests.chaos.lives import PACK, live_through


def known(written):
    return written in mutate.WRITES or written in mutate.HARMLESS


@pytest.mark.parametrize(("number", "case"), [(5 * number, case) for number, case in enumerate(CASES, 1)], ids=map(name, CASES))
def test_dying_at(chaos_aws, tmp_path, number, case):
    assert live_through(chaos_aws, tmp_path, number, *case) == []
    # So that no write is added, or done elsewhere, without being left out once.
    assert [line for line in (tmp_path / "writes").read_text().splitlines() if not known(line)] == []


def test_every_write_in_the_source_is_left_out_by_mutate():
    left_out = {write.partition(" in ")[2] for write in (*mutate.WRITES, *mutate.HARMLESS)}
    assert left_out | set(mutate.ELSEWHERE) == writes.sites()
    assert [case for case in mutate.WRITES.values() if case not in CASES] == []
    for proof in mutate.ELSEWHERE.values():
        path, _, test = proof.partition("::")
        assert f"\ndef {test}(" in (Path(__file__).parents[2] / path).read_text()


@pytest.mark.parametrize("write", ["SUBMITTING in work._submit 1"])
def test_a_write_that_is_left_out_is_noticed(chaos_aws, tmp_path, write):
    assert mutate.goes_wrong(chaos_aws, tmp_path, write, mutate.WRITES[write], 1020)


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
    gridmanager = Gridmanager(chaos_aws, home, jobs, **PACK)
    gridmanager.environment["TRACE"] = str(home / "trace")
    gridmanager.run(limit_s=60)
    passed.update((home / "trace").read_text().splitlines())
    covered = {parse(point)[0] for _, points in CASES for point in points}
    # News by itself is for people to read: nothing is done or left for it.
    assert set(passed) - covered - {"write news before", "write news after"} == set()
