"""The command table: arguments, result lines with exactly the tokens that the gridmanager counts."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gahp.protocol
from gahp.protocol import Result, done, failed, status, submitted
from gahp.protocol.commands import COMMANDS, LISTED, MAX_TOKEN, is_request_id
from gahp.protocol.lines import LineSplitter, split

# facts: gahp-protocol.md, the table of commands: (arguments with the request id, tokens of the result line or None).
MEASURED = {
    "BLAH_PING": (2, 3),
    "BLAH_JOB_SUBMIT": (2, 4),
    "BLAH_JOB_STATUS": (2, 5),
    "BLAH_JOB_CANCEL": (2, 3),
    "BLAH_JOB_REFRESH_PROXY": (3, 3),
    "BLAH_JOB_HOLD": (2, 3),
    "BLAH_JOB_RESUME": (2, 3),
    "BLAH_JOB_SEND_PROXY_TO_WORKER_NODE": (4, 3),
    "BLAH_GET_HOSTPORT": (1, 3),
    "BLAH_SET_GLEXEC_DN": (3, None),
    "BLAH_SET_GLEXEC_OFF": (0, None),
    "BLAH_SET_SUDO_ID": (1, None),
    "BLAH_SET_SUDO_OFF": (0, None),
    "ASYNC_MODE_ON": (0, None),
    "ASYNC_MODE_OFF": (0, None),
    "COMMANDS": (0, None),
    "QUIT": (0, None),
    "RESULTS": (0, None),
    "VERSION": (0, None),
    "RESPONSE_PREFIX": (1, None),
    "CONDOR_VERSION": (1, None),
}
SUCCESS = {"BLAH_JOB_SUBMIT": submitted("awsbatch/20261123/1.0-x"), "BLAH_JOB_STATUS": status(2, "[ JobStatus = 2 ]")}
WITH_RESULT = [name for name, (_, tokens) in MEASURED.items() if tokens]


@pytest.mark.parametrize("name", MEASURED)
def test_the_table_has_the_measured_numbers_of_arguments_and_result_tokens(name):
    arguments, tokens = MEASURED[name]
    command = COMMANDS[name]
    assert len(command.parameters) == arguments
    assert (3 + len(command.values) if command.has_result else None) == tokens


@pytest.mark.parametrize("name", WITH_RESULT)
@given(message=st.text(max_size=40), code=st.integers(1, 200))
def test_a_failure_with_any_message_is_one_line_of_exactly_the_counted_tokens(name, message, code):
    line = COMMANDS[name].result_line("7", failed(message, code))
    tokens = split(line)
    assert b"\n" not in line and b"\r" not in line
    assert len(tokens) == MEASURED[name][1]
    assert tokens[:2] == ["7", str(code)] and tokens[2].isprintable()


@pytest.mark.parametrize("name", WITH_RESULT)
def test_a_success_is_one_line_of_exactly_the_counted_tokens(name):
    tokens = split(COMMANDS[name].result_line("7", SUCCESS.get(name, done())))
    assert len(tokens) == MEASURED[name][1]
    assert tokens[:3] == ["7", "0", "No error"]


def test_a_failed_submit_and_status_carry_the_words_for_no_value():
    assert COMMANDS["BLAH_JOB_SUBMIT"].result_line("3", failed("no Cmd")) == b"3 1 no\\ Cmd N/A"
    assert COMMANDS["BLAH_JOB_STATUS"].result_line("4", failed("lost", 2)) == b"4 2 lost 0 N/A"


@given(st.binary(min_size=1, max_size=60).map(lambda data: "[" + data.decode("utf-8", "surrogateescape") + "]"))
def test_a_status_ad_of_any_bytes_reaches_the_client_unchanged(ad):
    line = COMMANDS["BLAH_JOB_STATUS"].result_line("4", status(4, ad))
    (received,) = LineSplitter().feed(line + b"\r\n")
    assert split(received) == ["4", "0", "No error", "4", ad]


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("BLAH_JOB_SUBMIT", done()),
        ("BLAH_JOB_SUBMIT", submitted("")),
        ("BLAH_JOB_SUBMIT", submitted("N/A")),
        ("BLAH_PING", submitted("x")),
        ("BLAH_JOB_STATUS", status(2, "")),
        ("BLAH_JOB_STATUS", status(2, "NULL")),
        ("BLAH_JOB_STATUS", status(0, "[]")),
        ("BLAH_JOB_STATUS", status(6, "[]")),
        ("BLAH_JOB_STATUS", status(2, "x" * (MAX_TOKEN + 1))),
        ("BLAH_JOB_STATUS", status(2, "\u00e9" * (MAX_TOKEN // 2 + 1))),
        ("BLAH_JOB_STATUS", Result(0, "No error", ("2",))),
    ],
)
def test_a_result_that_would_kill_the_gridmanager_or_leave_a_job_stuck_is_refused(name, result):
    with pytest.raises(ValueError, match=name):
        COMMANDS[name].result_line("2", result)


def test_a_message_is_never_empty_and_has_at_most_a_thousand_characters():
    assert split(COMMANDS["BLAH_PING"].result_line("2", done("\n \0")))[2] == "No error"
    assert split(COMMANDS["BLAH_PING"].result_line("2", failed("")))[2] == "Failed without a message"
    assert len(split(COMMANDS["BLAH_PING"].result_line("2", failed("y" * 5000)))[2]) == 1000


@pytest.mark.parametrize("text", ["1", "2", "990000000", "123456789012345678"])
def test_positive_decimal_integers_are_request_ids(text):
    assert is_request_id(text)


@pytest.mark.parametrize("text", ["0", "-1", "+1", "2.5", "abc", "01", "1e3", "\u0663", "\u00b2", "1" * 19, "1 ", "NULL"])
def test_anything_else_is_not_a_request_id(text):
    assert not is_request_id(text)


def test_only_what_this_server_has_is_listed_and_in_alphabetical_order():
    assert LISTED == (
        "ASYNC_MODE_OFF",
        "ASYNC_MODE_ON",
        "BLAH_JOB_CANCEL",
        "BLAH_JOB_HOLD",
        "BLAH_JOB_REFRESH_PROXY",
        "BLAH_JOB_RESUME",
        "BLAH_JOB_STATUS",
        "BLAH_JOB_SUBMIT",
        "BLAH_PING",
        "COMMANDS",
        "CONDOR_VERSION",
        "QUIT",
        "RESPONSE_PREFIX",
        "RESULTS",
        "VERSION",
    )
    assert not [name for name in LISTED if COMMANDS[name].refusal]


def test_nothing_in_the_room_can_do_io():
    allowed = {"__future__", "collections", "collections.abc", "dataclasses", "datetime", "gahp.model"}
    for path in Path(gahp.protocol.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert {name for name in names if not name.startswith("gahp.protocol")} <= allowed, path.name
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not called & {"open", "print", "input", "eval", "exec", "__import__"}, path.name
