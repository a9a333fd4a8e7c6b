"""Recorded conversations of real gridmanagers (HTCondor 23.9.6 and 25.14.1), played to a session in the recorded pieces.

Each `<<` is fed as it came, each `==` finishes a request with the recorded outcome, and each `>>` must be what the session
says: the same lines, the same prefix, the same `R`, the same number of tokens. Only texts that are our own may differ.
"""

import ast
import re
from pathlib import Path

import pytest

from gahp.protocol import Result, Session, done
from gahp.protocol.lines import LineSplitter, split

TRANSCRIPTS = Path(__file__).parents[1] / "data" / "transcripts"
CASES = sorted(TRANSCRIPTS.glob("*/*.txt"))
EVENT = re.compile(r" *[\d.]+ (<<|>>|==) (b?['\"].*)")


def conversations(path: Path) -> list[list[tuple[str, bytes]]]:
    """The events of each GAHP of a transcript, up to where the record was cut."""
    text = path.read_text(encoding="utf-8").split("=== GAHP conversation", 1)[1].split("\n=== user log", 1)[0]
    found = []
    for part in re.split(r"^--- GAHP pid.*\n", text, flags=re.M)[1:]:
        events = []
        for line in part.splitlines():
            if line.startswith("…"):
                break
            match = EVENT.fullmatch(line)
            if match is None:
                continue
            try:
                value = ast.literal_eval(match[2])
            except SyntaxError:
                break
            if value == "EOF":
                break
            events.append((match[1], value if isinstance(value, bytes) else value.encode()))
        if events:
            found.append(events)
    return found


def recorded_result(line: bytes) -> tuple[str, Result]:
    request_id, code, message, *values = split(line)
    return request_id, Result(int(code), message, tuple(values) if code == "0" else ())


def same_form(ours: bytes, recorded: bytes) -> bool:
    """Whether the two lines are alike, apart from texts that each server writes in its own words."""
    our_tokens, recorded_tokens = split(ours), split(recorded)
    if our_tokens == recorded_tokens:
        return True
    head = our_tokens[0]
    if head != recorded_tokens[0]:
        return False
    if "ASYNC_MODE_ON" in our_tokens:
        return {name.upper() for name in recorded_tokens} <= set(our_tokens)
    if our_tokens[1].startswith("$CondorVersion:"):
        return len(our_tokens) == len(recorded_tokens) == 2
    if head.endswith("S"):
        return our_tokens[1:] == ["Async mode on"] and len(recorded_tokens) == 1
    return len(our_tokens) == len(recorded_tokens) and our_tokens[1] == recorded_tokens[1]


def test_there_are_transcripts_of_both_versions():
    assert len({path.name for path in CASES}) * 2 == len(CASES) >= 30


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recorded_conversation_is_answered_in_the_recorded_form(path):
    compared = 0
    for events in conversations(path):
        session = Session("$GahpVersion: 1.2.3 Nov 23 2026 awsbatch\\ gahp $")
        said, heard = LineSplitter(), LineSplitter()
        ours = said.feed(session.greeting())
        recorded = []
        for direction, data in events:
            if direction == ">>":
                recorded += heard.feed(data)
            elif direction == "<<":
                ours += said.feed(session.receive(data)[0])
            else:
                request_id, result = recorded_result(data)
                ours += said.feed(session.finish(request_id, result))
        assert ours[0].startswith(b"$GahpVersion:") and recorded[0].startswith(b"$GahpVersion:")
        for our_line, recorded_line in zip(ours[1:], recorded[1:], strict=False):
            assert same_form(our_line, recorded_line), (our_line, recorded_line)
            compared += 1
        assert 0 <= len(ours) - len(recorded) <= 1  # the last line may have been lost when the gridmanager was killed
    assert compared >= 10


def test_a_replay_does_not_pass_by_itself():
    assert not same_form(b"GAHP:S", b"GAHP:R")
    assert not same_form(b"GAHP:4 0 No\\ error", b"GAHP:4 0 No\\ error 2 []")
    assert not same_form(b"S 2", b"S 1")
    session = Session("$v$")
    session.receive(b"BLAH_PING 2 a\n")
    assert session.finish("2", done()) == b""
