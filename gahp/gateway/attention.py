"""Which runs HTCondor asks about, and which it passes over although it asks about others: those it may have forgotten.

Counted in periods in which a GAHP serves, not by a clock: that machine or HTCondor was down, or that a clock jumped, says nothing
of what is wanted. And only a schedd that asks about one of its jobs passes its others over: a GAHP may have taken over the runs
of another schedd, which is down just now.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

PERIOD_S = 600.0
"""Longer than the gridmanager's polls are apart (60 s), short enough that the GAHPs of small bursts of jobs come to count it."""


def passed_over(asked: Set[str], before: Set[str], live: Mapping[str, str]) -> list[str]:
    """The names of runs that have been live for a whole period and were not asked about in it, though their schedd did ask.

    `asked`: about whom in the period; `before`: who was live when it began; `live`: who is now, with the JobDirectory of each.
    """
    schedds = {_schedd(live[name]) for name in asked if name in live}
    return [name for name, directory in live.items() if name in before and name not in asked and _schedd(directory) in schedds]


def _schedd(directory: str) -> str:
    """What the JobDirectories of one schedd have in common: home_bl_COLLECTOR_SCHEDD, without _CLUSTER.PROC_TIME behind it."""
    return re.sub(r"_[0-9]+\.[0-9]+_[0-9]+$", "", directory)
