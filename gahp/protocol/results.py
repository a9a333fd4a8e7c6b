"""What a finished request came to: the tokens of a result line behind the request id.

Knows the shapes that commands.py declares; nothing of who asked. A message may be any text: it becomes one line in the
end, and is never empty.
"""

from __future__ import annotations

import dataclasses

NO_ERROR = "No error"


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """`code` 0 is success. `values` are the tokens behind the message; a failure needs none, the command table has them."""

    code: int
    message: str
    values: tuple[str, ...] = ()


def done(message: str = NO_ERROR) -> Result:
    """Success of a command that answers with a message only: ping, cancel, refresh, hold, resume."""
    return Result(0, message)


def submitted(job_id: str) -> Result:
    """A BLAH_JOB_SUBMIT was accepted as `job_id`."""
    return Result(0, NO_ERROR, (job_id,))


def status(state: int, ad: str) -> Result:
    """How a job stands: 1 idle, 2 running, 3 removed, 4 completed, 5 held, and the status ad as text."""
    return Result(0, NO_ERROR, (str(int(state)), ad))


def failed(message: str, code: int = 1) -> Result:
    """Failure of any command; `message` is what a user reads as the hold reason."""
    return Result(code, message)
