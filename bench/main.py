"""Measures the GAHP beside its peers: prints a table, writes bench/results/latest.json and draws the curves as SVG.

    python -m bench.main [--only a,c] [--quick] [--output DIR] [--readme]

    a  commands of the protocol against HTCondor's blahpd       d  growth and account limits, simulated
    b  jobs through the real gridmanager                        e  bytes of sandboxes against s5cmd
    c  calls a job, simulated                                   f  budgets: memory, start-up, threads, q
    g  part d with 1,000,000 jobs: over an hour by itself, and measured only when it is named

With --only the rows of other parts stay as they were last measured. --quick takes tiny sizes, whose figures mean nothing: for
seeing that all of it runs; nothing is written, and no goal is said to be met or not. --output DIR keeps the results there and not
in bench/results. --readme only puts the latest table into README.md. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a program, it finds its neighbours from here
    sys.path.insert(0, str(SOURCE))

from bench import budgets, commands, gridmanager, report, scale, transfer  # noqa: E402
from bench.peers import SUITE  # noqa: E402
from tests.condor.prefix import cache_folder  # noqa: E402

PARTS: dict[str, Callable[[], report.Found]] = {
    "a": commands.measure,
    "b": gridmanager.measure,
    "c": scale.measure_calls,
    "d": scale.measure_scale,
    "e": transfer.measure,
    "f": budgets.measure,
    "g": scale.measure_million,
}
LONG = "g"
QUICK: dict[str, Callable[[], report.Found]] = {
    "a": lambda: commands.measure(((1, 3), (50, 60)), ((1, 2), (50, 60))),
    "b": lambda: gridmanager.measure(((20, "best"),)),
    "c": lambda: scale.measure_calls((20,)),
    "d": lambda: scale.measure_scale((30,), 60),
    "e": lambda: transfer.measure(1 << 20, 5),
    "f": lambda: budgets.measure(300, 600, 1000, 1000),
    "g": lambda: scale.measure_million(40),
}


def about() -> dict[str, Any]:
    """The machine, the versions, the moment."""
    cpu = platform.machine()
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // 1024
    cpu = f"{names[0]} ({cpu})" if names else cpu
    packages = ("awsbatch-gahp", "boto3", "botocore", "htcondor", "moto", "s5cmd")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["python"] = platform.python_version()
    master = cache_folder() / SUITE / "usr/share/doc/condor/changelog.Debian.gz"
    versions["blahpd"] = f"of Debian {SUITE}" + ("" if master.exists() else ", not there")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "memory_mb": memory,
            "kernel": platform.release(),
            "load": round(os.getloadavg()[0], 1),
        },
        "versions": versions,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the GAHP beside its peers.")
    parser.add_argument("--only", default="", metavar="PARTS", help="comma-separated letters of parts")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR", help="folder of the results: bench/results")
    parser.add_argument("--readme", action="store_true", help="only put the latest table into README.md")
    options = parser.parse_args(arguments)
    wanted = [part for part in options.only.split(",") if part] or [part for part in PARTS if options.quick or part != LONG]
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.readme:
        report.put_into(SOURCE / "README.md", report.load(options.output))
        return 0
    facts, earlier = about(), report.NOTHING if options.quick else report.load(options.output)
    machine = facts["machine"]
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()), flush=True)
    results = earlier
    # Of parts that were not asked for something is missing only where results of others are kept.
    expected = PARTS if earlier["rows"] else wanted
    for part in wanted:
        begin = time.monotonic()
        try:
            found = (QUICK if options.quick else PARTS)[part]()
        except Exception as error:  # one part that fails must not take the figures of the others with it
            found = report.Found(missing=[f"{part}: not measured: {type(error).__name__}: {error}"])
            if options.quick:
                raise
        if options.quick:
            found = dataclasses.replace(found, rows=[dataclasses.replace(row, met=None) for row in found.rows])
        results = report.merge(found, part, facts, results)
        print(f"\npart {part}, {time.monotonic() - begin:.0f} s", flush=True)
        print(report.as_text(row for row in results["rows"] if row["part"] == part), flush=True)
        if not options.quick:
            report.save(results, options.output)
    told = {row["part"] for row in results["rows"]} | {line.partition(":")[0] for line in results["missing"]}
    for line in [*results["missing"], *(f"{part}: never measured" for part in expected if part not in told)]:
        print(f"missing: {line}")
    if not options.quick:
        written = report.save(results, options.output)
        print(f"\nwritten into {options.output}: {', '.join(path.name for path in written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
