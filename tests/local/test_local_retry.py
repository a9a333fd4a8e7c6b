"""The decision whether an attempt is retried, by value."""

from __future__ import annotations

from typing import Any

import pytest

from gahp.local.retry import matches, retried


def decide(strategy: dict[str, Any], **how: Any) -> bool:
    facts = {"attempts_made": 1, "status_reason": "Essential container in task exited", "reason": "", "exit_code": 1, **how}
    return retried(strategy, **facts)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("Host EC2*", "Host EC2 (instance i-0123) terminated.", True),
        ("host ec2*", "Host EC2 (instance i-0123) terminated.", True),
        ("Host EC2", "Host EC2 (instance i-0123) terminated.", False),
        ("*", "", True),
        ("13*", "137", True),
        ("13", "137", False),
    ],
)
def test_a_pattern_is_exact_or_a_beginning_before_an_asterisk(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


def test_there_is_one_attempt_unless_more_are_asked_for() -> None:
    assert not decide({})


def test_without_rules_any_failure_is_retried_while_attempts_are_left() -> None:
    assert decide({"attempts": 2})
    assert not decide({"attempts": 2}, attempts_made=2)


def test_no_match_means_retried() -> None:
    assert decide({"attempts": 2, "evaluateOnExit": [{"onExitCode": "5", "action": "EXIT"}]})


def test_the_first_rule_that_matches_decides() -> None:
    rules = [{"onExitCode": "1", "action": "exit"}, {"onExitCode": "*", "action": "RETRY"}]
    assert not decide({"attempts": 2, "evaluateOnExit": rules})


def test_all_conditions_of_a_rule_must_hold() -> None:
    rules = [{"onExitCode": "1", "onReason": "OutOfMemory*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}]
    assert not decide({"attempts": 2, "evaluateOnExit": rules})
    assert decide({"attempts": 2, "evaluateOnExit": rules}, reason="OutOfMemoryError: Container killed due to memory usage")


def test_a_host_that_goes_away_has_no_reason_and_no_exit_code_and_still_matches_an_asterisk() -> None:
    rules = [{"onReason": "*", "action": "EXIT"}]
    gone = {"exit_code": None, "status_reason": "Host EC2 (instance i-1) terminated."}
    assert not decide({"attempts": 2, "evaluateOnExit": rules}, **gone)
