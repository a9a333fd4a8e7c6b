"""Takes one journal write out after the other, and looks whether a crash-point case notices.

    python tests/chaos/mutate.py

A mutant is a GAHP in which a write never gets to the disk although the program believes so (DROP in dying_gahp.py). It is
caught when one of the cases of test_crash_points.py goes wrong with it. Prints each write with the case that caught it; ends with
1 if a mutant survives all of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gahp.local import LocalAws
from tests.chaos.test_crash_points import CASES, WRITES, live_through

Case = tuple[str, list[str]]


def suspects(write: str) -> list[Case]:
    """All cases, those first that die beside the write."""
    return sorted(CASES, key=lambda case: not any(point.startswith(write) for point in case[1]))


def caught(aws: LocalAws, home: Path, write: str, number: int) -> tuple[int, Case | None, str]:
    """The number of cases tried, and the first that went wrong without `write`, and what went wrong."""
    for tried, (fate, points) in enumerate(suspects(write), 1):
        folder = home / f"{number}-{tried}"
        folder.mkdir()
        try:
            problems = live_through(aws, folder, 5 * (1_000 * number + tried), fate, points, drop=write, limit_s=20)
        except TimeoutError as error:
            problems = [str(error)]
        if problems:
            return tried, (fate, points), problems[0]
    return len(CASES), None, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("writes", nargs="*", default=WRITES, help="such as 'write SUBMITTED' (default: all)")
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="gahp-mutate-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        with LocalAws(home / "aws", vcpus=32, memory_mib=64 * 1024, time_scale=0.05) as aws:
            for number, write in enumerate(parser.parse_args().writes, 1):
                tried, case, problem = caught(aws, home, write, number)
                survivors += case is None
                how = "SURVIVES" if case is None else f"caught by case {tried}: {case[0] or 'plain'} {case[1]}: {problem}"
                print(f"{write:24} {how}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
