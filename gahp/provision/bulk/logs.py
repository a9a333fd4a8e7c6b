"""A task's output out of its log stream: stdout and stderr apart, and whether all of it has arrived.

Pegasus's launcher writes stderr to stdout's end, behind a separator; run_task.sh writes a last line behind both. Knows the lines;
nothing of calls. Source of the piece length: Docker hands lines to its log drivers in pieces of 16 KiB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

SEPARATOR = "########################[AWS BATCH] TASK STDERR ########################"
ENDED = "########################[AWS BATCH] TASK ENDED ########################"
_PIECE = 16384


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """What a task wrote. `complete`: its last line has been seen, so nothing can be missing."""

    stdout: str = ""
    stderr: str = ""
    complete: bool = False


def split(messages: Iterable[str]) -> Output:
    """The output in the events of a log stream, oldest first."""
    parts: list[list[str]] = [[]]
    complete = False
    for line in _lines(messages):
        # Output without an end of line has the marker on its last line.
        if line.endswith(ENDED):
            complete = True
            rest = line.removesuffix(ENDED)
            if rest:
                parts[-1].append(rest)
        elif line.endswith(SEPARATOR):
            rest = line.removesuffix(SEPARATOR)
            if rest:
                parts[-1].append(rest)
            parts.append([])
        else:
            parts[-1].append(line)
    stdout, *others = parts
    stderr: list[str] = []
    last: list[str] = []
    for part in others:
        # The same file written out twice: by the launcher as it was stopped, and by its own end or run_task.sh.
        twice = last and part[: len(last)] == last
        stderr += part[len(last) :] if twice else part
        last = part
    return Output(_text(stdout), _text(stderr), complete)


def _lines(messages: Iterable[str]) -> Iterable[str]:
    pieces: list[str] = []
    for message in messages:
        pieces.append(message)
        if len(message.encode()) != _PIECE:
            yield "".join(pieces)
            pieces = []
    if pieces:
        yield "".join(pieces)


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
