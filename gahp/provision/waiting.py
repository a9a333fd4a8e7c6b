"""Waiting for an entity of AWS Batch: with a display, a limit, and AWS's own reason when it says INVALID.

Decides by what a describe call answers; the call and the pause are passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gahp.model import Refused
from gahp.provision.aws import Aws, hint

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


def until(
    aws: Aws,
    thing: str,
    look: Callable[[], Mapping[str, Any] | None],
    good: Callable[[Mapping[str, Any] | None], bool],
    *,
    limit_s: float,
    invalid_ok: bool = False,
) -> Mapping[str, Any] | None:
    """The first answer of `look` that is `good`. Raises Refused: INVALID (unless `invalid_ok`), or longer than `limit_s`."""
    begun = time.monotonic()
    pause = _FIRST_PAUSE_S
    while True:
        answer = look()
        if good(answer):
            aws.report.progress("")
            return answer
        status = str((answer or {}).get("status", "gone"))
        reason = str((answer or {}).get("statusReason", ""))
        if status == "INVALID" and not invalid_ok:
            aws.report.progress("")
            raise Refused(
                f"{thing} is INVALID. AWS says: {reason or 'nothing'}. {hint(reason)} Then run this again: it goes on from here."
            )
        spent = time.monotonic() - begun
        if spent >= limit_s:
            aws.report.progress("")
            raise Refused(
                f"{thing} is still {status} after {limit_s:g} s{': ' + reason if reason else ''}. Run this again to go on, "
                "or give a longer --wait."
            )
        aws.report.progress(f"{thing} is {status}, {spent:.0f} s{': ' + reason if reason else ''}")
        aws.pause(min(pause, max(0.01, limit_s - spent)))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
