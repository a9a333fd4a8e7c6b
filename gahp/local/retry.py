"""Whether Batch starts a failed attempt again: a decision without any I/O.

Source: "Automated job retries" in the AWS Batch User Guide, and EvaluateOnExit in botocore's service model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def matches(pattern: str, text: str) -> bool:
    """Batch's glob: exact, or up to a `*` at the end. Case does not count."""
    pattern, text = pattern.lower(), text.lower()
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _applies(rule: Mapping[str, Any], status_reason: str, reason: str, exit_code: str) -> bool:
    conditions = (("onStatusReason", status_reason), ("onReason", reason), ("onExitCode", exit_code))
    return all(matches(rule[key], text) for key, text in conditions if key in rule)


def retried(strategy: Mapping[str, Any], *, attempts_made: int, status_reason: str, reason: str, exit_code: int | None) -> bool:
    """True if the job goes back to RUNNABLE. The first rule that matches decides; if there is none, it is retried."""
    if attempts_made >= int(strategy.get("attempts") or 1):
        return False
    rules: Sequence[Mapping[str, Any]] = strategy.get("evaluateOnExit") or ()
    for rule in rules:
        if _applies(rule, status_reason, reason, "" if exit_code is None else str(exit_code)):
            return bool(str(rule["action"]).upper() == "RETRY")
    return True
