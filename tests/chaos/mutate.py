"""Takes one journal write out after the other, and looks whether a crash-point case notices.

    python tests/chaos/mutate.py

A mutant is a GAHP in which a write never gets to the disk although the program believes so (DROP in dying_gahp.py). It is
caught when one of the cases in cases.py goes wrong with it: first the one that WRITES names, then the others. Prints each write
with the case that caught it and what went wrong there; ends with 1 if a mutant survives all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gahp.local import LocalAws
from tests.chaos.cases import CASES, Case, name
from tests.chaos.lives import NOT_THERE, live_through

# What is written where, and a case that goes wrong without it. A test holds this against the source and against what is met.
WRITES: dict[str, Case] = {
    "new run in gateway._accepted": ("", ["write new run after"]),
    "confirmed in gateway.status": ("release", ["write confirmed after"]),
    "confirmed in gateway._known": ("late", ["write confirmed before"]),
    "asked in gateway._try_want": ("asked to end", ["write asked after"]),
    "wanted REMOVE in wishes.want": ("remove early", ["write REMOVED before"]),
    "wanted HOLD in wishes.want": ("suspend", ["write wanted HOLD after"]),
    "SUBMITTING in wishes._revive": ("damaged", ["write SUBMITTED after", "write SUBMITTING after"]),
    "STAGED in wishes._resume": ("suspend", ["SubmitJob 2 after"]),
    "ACCEPTED in wishes._resume": ("suspend early", ["write STAGED after"]),
    "wanted RUN in news.not_held": ("refused hold", ["DescribeJobs 20 after"]),
    "STAGED in work._stage": ("", ["write STAGED after"]),
    "pack SUBMITTING in packs._try_to_send": ("pack", ["SubmitJob after"]),
    "pack ACCEPTED in packs._submit 1": ("throttled pack", ["write pack ACCEPTED after"]),
    "pack SUBMITTED in packs._submit 2": ("pack", ["write pack SUBMITTED after"]),
    "SUBMITTING in work._submit 1": ("", ["SubmitJob after"]),
    "STAGED in work._submit 2": ("throttled", ["write STAGED 2 after"]),
    "ACCEPTED in work._look_up 1": ("pack", ["write pack SUBMITTING after", "write ACCEPTED 2 after"]),
    "STAGED in work._look_up 2": ("", ["write SUBMITTING after", "write STAGED after"]),
    "SUBMITTED in work._submitted": ("", ["write SUBMITTED after"]),
    "SUBMITTED in work._collect": ("twice", ["write SUBMITTED 2 after"]),
    "SUBMITTED in work._described": ("false end", ["write SUBMITTED 2 after"]),
    "SUSPENDED in work._suspend": ("suspend early", ["write SUSPENDED after"]),
    "SUSPENDED in news._suspended": ("suspend", ["write SUSPENDED after"]),
    "COMPLETED in work.finish": ("", ["write COMPLETED after"]),
    "HELD in work.finish": ("misfit", ["write HELD after"]),
    "REMOVED in work.finish": ("remove", ["write REMOVED after"]),
    "asked in journal.__init__": ("noted", ["write started after", "write asked before"]),
    "asked in runs._end": ("asked to make room", ["write asked after"]),
    "adoption in upkeep._take_over": ("", ["write SUBMITTED before", "write adoption after"]),
    "passed over in upkeep._heed": ("passed over", ["write passed over before"]),
    "heeded in upkeep._heed": ("passed over", ["write heeded before"]),
    "forgotten in upkeep._adopt": ("forgotten", ["write COMPLETED after", "write discarded after", "write forgotten after"]),
    "discarded in upkeep._clean": ("cleaned", ["write COMPLETED after", "write discarded after"]),
    "started in news._take_in 1": ("", ["write started after"]),
    "COLLECTING in news._ended": ("remove", ["write COLLECTING after"]),
    "COLLECTING in news.not_held": ("", ["write COLLECTING after"]),
}
# What no case can notice, and why that is right.
HARMLESS = {
    "nothing in gateway._look_around": "It tries whether the disk takes a write, and changes nothing.",
    "news in runs._tell_trouble": "For people who ask why; the program never reads the story of a run.",
    "news in news._take_in 2": "The same.",
    "heeded in upkeep._adopt": "It makes room: of a run that is over nobody asks what was counted (test_orphans.py).",
}
# What is no write of a GAHP's, and the test that notices.
ELSEWHERE = {
    "orphans.end": "tests/cli/test_orphans.py::test_ending_one_tells_its_run_first_and_leaves_the_run_of_a_second_copy_alone",
    "orphans.run": "tests/cli/test_orphans.py::test_a_removal_that_is_noted_beside_the_journal_is_recorded_before_it_looks",
}


def suspects(write: str) -> list[Case]:
    """All cases, first the one that is known to notice, then those that die beside such a write."""
    beside = f"write {write.partition(' in ')[0]} "
    return sorted(CASES, key=lambda case: (case != WRITES.get(write), not any(point.startswith(beside) for point in case[1])))


def goes_wrong(aws: LocalAws, home: Path, write: str, case: Case, number: int) -> str:
    """What goes wrong in a case without `write`; "" if nothing does. Rather what became of the job than what the journal says."""
    folder = home / str(number)
    folder.mkdir()
    try:
        problems = live_through(aws, folder, number, *case, drop=write, limit_s=30)
    except TimeoutError as error:
        return str(error)
    return next(iter(sorted(problems, key=lambda problem: NOT_THERE in problem)), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("writes", nargs="*", default=list(WRITES), help="such as 'SUBMITTED in work._submitted' (default: all)")
    survivors, began, writes = 0, time.monotonic(), parser.parse_args().writes
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gahp-mutate-", ignore_cleanup_errors=True)))
        aws = stack.enter_context(LocalAws(folder / "aws", vcpus=32, memory_mib=64 * 1024, time_scale=0.05))
        for number, write in enumerate(writes, 1):
            for tried, case in enumerate(suspects(write), 1):
                if problem := goes_wrong(aws, folder, write, case, 5 * (1_000 * number + tried)):
                    print(f"{write:42} caught by case {tried}, {name(case)}: {problem[:200]}", flush=True)
                    break
            else:
                survivors += 1
                print(f"{write:42} SURVIVES", flush=True)
    print(f"{len(writes)} writes left out, {survivors} not noticed, {time.monotonic() - began:.0f} s")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
