"""What all tests need of the process that they run in."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

# A shell that runs `make test` in the background has everything below it ignore SIGINT, which tests send to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def group_of(nodeid: str) -> str:
    """The tests with HTCondor of one version share a pool and the jobs in it, so they stay together; any other goes by itself."""
    found = re.match(r"tests/condor/[^\[]*\[(?:.*-)?(trixie|forky)(?:-.*)?\]", nodeid)
    return f"condor-{found[1]}" if found else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How tests are dealt out to several processes: as `--dist loadgroup` would, which pytest 9.2 leaves without effect."""
    from xdist.scheduler import LoadScopeScheduling  # only where it is used

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason why there was no HTCondor to test with."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "tests/condor/" in report.nodeid]
    for reason in sorted({str(report.longrepr[2]) for report in skipped if isinstance(report.longrepr, tuple)}):
        terminalreporter.write_line(reason.removeprefix("Skipped: "))
