"""Starts the GAHP so that it dies by SIGKILL at a named point: before or after a journal write, an AWS call, a rename, an answer.

    DIE_AT   the point, such as "SubmitJob after"; empty: it lives
    DIE_PASS at which passing of it, from 1
    TRACE    a file that gets a line for each point passed

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

from gahp import server
from gahp.journal import Journal
from gahp.sandbox import place

AT, PASS, TRACE = os.environ.get("DIE_AT", ""), int(os.environ.get("DIE_PASS", "1")), os.environ.get("TRACE", "")
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
    for write in group:
        verb, values = write.sql.split()[0], write.values
        if isinstance(values, list):
            yield f"write pack {values[0]['state']}"
        elif verb == "INSERT":
            yield "write new run"
        elif "state" in values:
            yield f"write {values['state']}"
        elif "wanted" in values:
            yield f"write wanted {values['wanted']}"
        elif "dead" in values:
            yield "write adoption"
        else:
            yield "write " + " ".join(sorted(values.keys() - {"name", "changed"}))


def main() -> int:
    Journal._transact = around(Journal._transact, written)
    calls = botocore.client.BaseClient
    calls._make_api_call = around(calls._make_api_call, lambda client, name, parameters: [name])
    place.Placement.commit = around(place.Placement.commit, lambda placement: ["placing"])
    place.os.replace = around(os.replace, lambda *paths: ["rename"])
    server.Server._finish = around(server.Server._finish, lambda server, request, result: [f"answer {request.command}"])
    sys.argv[1:] = []
    return server.main()


if __name__ == "__main__":
    sys.exit(main())
