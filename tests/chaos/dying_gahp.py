"""Starts the GAHP so that it dies by SIGKILL at a named point: before or after a journal write, an AWS call, a rename, an answer.

    DIE_AT   the point, such as "SubmitJob after"; empty: it lives
    DIE_PASS at which passing of it, from 1
    DIE_HOW  "memory": there it finds no memory instead; then the points of FRAIL count as well
    TRACE    a file that gets a line for each point passed
    WRITES   a file that gets a line for each kind of journal write that is met, such as "STAGED in work._stage"
    PERIOD   how long a period is, in which HTCondor asks about a run or passes it over, in seconds
    DROP     one of these, that never gets to the disk although the program believes it did: a mutant, which must not go
             unnoticed (see mutate.py)

The program itself knows nothing of this: its methods are wrapped here, and then its own `main` is called.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import botocore.client

from gahp import journal, server
from gahp.gateway import upkeep
from gahp.gateway.follow import Follower
from gahp.gateway.gateway import Gateway
from gahp.gateway.news import News
from gahp.gateway.runs import Runs
from gahp.gateway.wishes import Wishes
from gahp.gateway.work import Work
from gahp.journal import Journal
from gahp.lanes import Lane
from gahp.protocol import Session
from gahp.sandbox import Sandbox, place
from tests.chaos import writes

# Where memory is asked for that is no write, call or answer: in lanes, other threads, and what follows a future.
FRAIL: dict[str, tuple[Any, str]] = {
    "reading": (Session, "receive"),
    "accepting": (Gateway, "_accepted"),
    "beginning": (Gateway, "_begin"),
    "staging": (Sandbox, "prepare"),
    "packing": (Sandbox, "put_pack"),
    "recording": (journal, "_update"),
    "submitted": (Work, "_submitted"),
    "going on": (Runs, "_go_on"),
    "letting go": (Runs, "_let_go"),
    "queuing": (Lane, "put"),
    "sweeping": (Follower, "round"),
    "hearing": (News, "look_at"),
    "collecting": (Sandbox, "collect"),
    "finishing": (Work, "finish"),
    "removing": (Wishes, "_recorded"),
}
MEMORY = os.environ.get("DIE_HOW") == "memory"
AT, PASS, TRACE = os.environ.get("DIE_AT", ""), int(os.environ.get("DIE_PASS", "1")), os.environ.get("TRACE", "")
DROP, WRITES = os.environ.get("DROP", ""), os.environ.get("WRITES", "")
_lock = threading.Lock()
_passed = 0


def pass_by(point: str) -> None:
    global _passed  # noqa: PLW0603
    with _lock:
        if TRACE:
            with open(TRACE, "a") as trace:
                trace.write(point + "\n")
        if point == AT:
            _passed += 1
            if _passed == PASS and MEMORY:
                raise MemoryError(point)
            if _passed == PASS:
                os.kill(os.getpid(), signal.SIGKILL)


def around(function: Callable[..., Any], names: Callable[..., Iterable[str]]) -> Callable[..., Any]:
    """`function` with a point before and one after each of the things that `names` says it does."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        todo = list(names(*arguments, **keywords))
        for name in todo:
            pass_by(f"{name} before")
        try:
            return function(*arguments, **keywords)
        finally:
            for name in todo:
                pass_by(f"{name} after")

    return wrapped


def written(_: Journal, group: Iterable[Any]) -> Iterable[str]:
    return [f"write {writes.what(write)}" for write in group]


def noting(transact: Callable[..., None]) -> Callable[..., None]:
    """A `_transact` that tells WRITES what is written where, once for each."""
    noted: set[str] = set()

    def note(journal: Journal, group: Iterable[Any]) -> None:
        if new := {writes.where(write) for write in group} - noted:
            with open(WRITES, "a") as file:
                file.writelines(f"{name}\n" for name in sorted(new))
            noted.update(new)
        transact(journal, group)

    return note


def forgetful(transact: Callable[..., None]) -> Callable[..., None]:
    """A `_transact` that leaves out what DROP names."""
    return lambda journal, group: transact(journal, [write for write in group if writes.where(write) != DROP])


def main() -> int:
    journal._Write = writes.placed
    upkeep.PERIOD_S = float(os.environ.get("PERIOD") or upkeep.PERIOD_S)
    if DROP:
        Journal._transact = forgetful(Journal._transact)
    if WRITES:
        Journal._transact = noting(Journal._transact)
    Journal._transact = around(Journal._transact, written)
    calls = botocore.client.BaseClient
    calls._make_api_call = around(calls._make_api_call, lambda client, name, parameters: [name])
    place.Placement.commit = around(place.Placement.commit, lambda placement: ["placing"])
    place.os.replace = around(os.replace, lambda *paths: ["rename"])
    server.Server._finish = around(server.Server._finish, lambda server, request, result: [f"answer {request.command}"])
    if MEMORY and (frail := AT.rpartition(" ")[0]) in FRAIL:
        owner, name = FRAIL[frail]
        setattr(owner, name, around(getattr(owner, name), lambda *_, **__: [frail]))
    sys.argv[1:] = []
    return server.main()


if __name__ == "__main__":
    sys.exit(main())
