"""A conversation: return lines, results, R, the prefix, refusals, and what no line can stop."""

import datetime
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gahp.protocol import Request, Session, done, failed, status, submitted, version_text
from gahp.protocol.commands import COMMANDS
from gahp.protocol.lines import MAX_LINE, LineSplitter, join, split

VERSION = "$GahpVersion: 1.2.3 Nov 23 2026 awsbatch\\ gahp $"


def replies(session: Session, *lines: bytes) -> list[bytes]:
    out, _ = session.receive(b"".join(line + b"\r\n" for line in lines))
    assert out.endswith(b"\r\n") or not out
    return out.split(b"\r\n")[:-1]


def test_the_greeting_is_one_short_line_that_begins_with_a_dollar(session):
    assert session.greeting() == VERSION.encode() + b"\r\n"
    assert len(session.greeting()) < 150


@pytest.mark.parametrize("version", ["GahpVersion", "", "$" + "x" * 148, "$a\nb$"])
def test_a_greeting_that_would_put_the_gridmanager_into_a_loop_cannot_be_made(version):
    with pytest.raises(ValueError, match="greeting"):
        Session(version)


def test_version_answers_with_the_greeting(session):
    assert replies(session, b"VERSION") == [b"S " + VERSION.encode()]


def test_the_day_of_the_version_is_english_in_every_locale():
    assert version_text("0.1.0", datetime.date(2026, 3, 5)) == "$GahpVersion: 0.1.0 Mar 5 2026 awsbatch\\ gahp $"


def test_a_request_is_handed_on_and_its_result_fetched(session):
    out, requests = session.receive(b"BLAH_JOB_STATUS 4 awsbatch/20261123/a\\ b\r\n")
    assert (out, requests) == (b"S\r\n", [Request("4", "BLAH_JOB_STATUS", ("awsbatch/20261123/a b",))])
    assert session.pending == 1
    assert session.finish(requests[0], status(2, "[ JobStatus = 2 ]")) == b""
    assert session.pending == 0
    assert replies(session, b"RESULTS", b"RESULTS") == [b"S 1", b"4 0 No\\ error 2 [\\ JobStatus\\ =\\ 2\\ ]", b"S 0"]


def test_requests_arrive_in_pieces(session):
    for piece in (b"BLAH_JOB_STATUS", b" 4 ", b"awsbatch/20261123/x"):
        assert session.receive(piece) == (b"", [])
    out, requests = session.receive(b"\r\n")
    assert out == b"S\r\n" and requests[0].arguments == ("awsbatch/20261123/x",)


def test_command_names_are_case_insensitive_and_arguments_are_not(session):
    _, requests = session.receive(b"blah_Ping 2 AwsBatch\n")
    assert requests == [Request("2", "BLAH_PING", ("AwsBatch",))]


def test_results_come_in_the_order_in_which_they_were_finished(session):
    session.receive(b"BLAH_PING 2 a\nBLAH_PING 3 a\nBLAH_PING 4 a\n")
    for request_id in ("3", "4", "2"):
        session.finish(request_id, done())
    assert [line.split()[0] for line in replies(session, b"RESULTS")] == [b"S", b"3", b"4", b"2"]


def test_in_async_mode_one_r_announces_a_batch_until_results_is_asked(session):
    assert replies(session, b"ASYNC_MODE_ON") == [b"S Async\\ mode\\ on"]
    session.receive(b"".join(b"BLAH_PING %d a\n" % number for number in range(1, 6)))
    assert session.finish("1", done()) == b"R\r\n"
    assert session.finish("2", done()) == b""
    assert replies(session, b"RESULTS") == [b"S 2", b"1 0 No\\ error", b"2 0 No\\ error"]
    assert session.finish("3", done()) == b"R\r\n"
    assert session.finish("4", done()) == b""
    assert replies(session, b"ASYNC_MODE_OFF", b"RESULTS")[1] == b"S 2"
    assert session.finish("5", done()) == b""


def test_a_results_that_returns_nothing_leaves_the_next_result_to_be_announced(session):
    assert replies(session, b"ASYNC_MODE_ON", b"BLAH_PING 2 a", b"RESULTS")[1:] == [b"S", b"S 0"]
    assert session.finish("2", done()) == b"R\r\n"


def test_results_queued_before_async_mode_are_not_announced(session):
    session.receive(b"BLAH_PING 2 a\nBLAH_PING 3 a\n")
    assert session.finish("2", done()) == b""
    assert replies(session, b"ASYNC_MODE_ON") == [b"S Async\\ mode\\ on"]
    assert session.finish("3", done()) == b"R\r\n"


def test_async_mode_on_again_announces_the_next_result_again(session):
    session.receive(b"ASYNC_MODE_ON\nBLAH_PING 2 a\nBLAH_PING 3 a\n")
    assert session.finish("2", done()) == b"R\r\n"
    session.receive(b"ASYNC_MODE_ON\n")
    assert session.finish("3", done()) == b"R\r\n"


def test_every_line_after_the_reply_to_response_prefix_has_the_prefix_r_and_results_too(session):
    session.receive(b"BLAH_PING 2 a\n")
    session.finish("2", done())
    assert replies(session, b"RESPONSE_PREFIX GAHP:", b"ASYNC_MODE_ON", b"BLAH_PING 3 a", b"nonsense") == [
        b"S",
        b"GAHP:S Async\\ mode\\ on",
        b"GAHP:S",
        b'GAHP:E Unknown\\ command\\ "nonsense"',
    ]
    assert session.finish("3", done()) == b"GAHP:R\r\n"
    assert replies(session, b"RESULTS") == [b"GAHP:S 2", b"GAHP:2 0 No\\ error", b"GAHP:3 0 No\\ error"]
    assert replies(session, b"RESPONSE_PREFIX X\\ Y:", b"VERSION") == [b"GAHP:S", b"X\\ Y:S " + VERSION.encode()]


def test_condor_version_answers_with_exactly_two_tokens(session):
    (reply,) = replies(session, b"CONDOR_VERSION $CondorVersion:\\ 25.14.1\\ 2026-10-16\\ $")
    tokens = split(reply)
    assert len(tokens) == 2 and tokens[0] == "S"
    assert tokens[1].startswith("$CondorVersion: ") and tokens[1].endswith(" $")


def test_commands_lists_what_is_there_and_nothing_else(session):
    (reply,) = replies(session, b"COMMANDS")
    verdict, *names = split(reply)
    assert verdict == "S" and names == sorted(names)
    assert {"BLAH_PING", "BLAH_JOB_HOLD", "RESPONSE_PREFIX", "CONDOR_VERSION"} <= set(names)
    assert not {"CACHE_PROXY_FROM_FILE", "BLAH_SET_SUDO_ID", "BLAH_GET_HOSTPORT"} & set(names)


def test_quit_is_answered_and_everything_behind_it_is_not(session):
    session.receive(b"ASYNC_MODE_ON\nBLAH_PING 2 a\n")
    out, requests = session.receive(b"QUIT\r\nBLAH_PING 3 a\r\n")
    assert (out, requests, session.closed) == (b"S Server\\ exiting\r\n", [], True)
    assert session.receive(b"VERSION\r\n") == (b"", [])
    assert session.finish("2", done()) == b""


@pytest.mark.parametrize("request_id", ["0", "-1", "2.5", "abc", "007", "9" * 30])
def test_a_bad_request_id_is_named_in_an_e_line_and_nothing_is_performed(session, request_id):
    out, requests = session.receive(join(["BLAH_PING", request_id, "awsbatch"]) + b"\n")
    verdict, text = split(out.rstrip(b"\r\n"))
    assert (verdict, requests) == ("E", [])
    assert request_id in text and "positive decimal integer" in text


def test_a_request_id_is_in_use_until_its_result_is_fetched(session):
    session.receive(b"BLAH_PING 5 a\n")
    assert replies(session, b"BLAH_JOB_STATUS 5 x") == [b"E BLAH_JOB_STATUS:\\ request\\ id\\ 5\\ is\\ in\\ use\\ already"]
    session.finish("5", done())
    assert replies(session, b"BLAH_PING 5 a")[0].startswith(b"E ")
    assert replies(session, b"RESULTS", b"BLAH_PING 5 a") == [b"S 1", b"5 0 No\\ error", b"S"]


def test_a_wrong_number_of_arguments_is_told_with_their_names(session):
    assert replies(session, b"BLAH_PING 2", b"RESULTS now") == [
        b"E BLAH_PING\\ expected\\ 2\\ parameters\\ (reqid\\ lrms),\\ 1\\ found",
        b"E RESULTS\\ expected\\ 0\\ parameters,\\ 1\\ found",
    ]


def test_finishing_what_is_not_pending_is_an_error_of_the_caller(session):
    with pytest.raises(ValueError, match='"9"'):
        session.finish("9", done())
    session.receive(b"BLAH_PING 9 a\n")
    session.finish("9", done())
    with pytest.raises(ValueError, match="waiting"):
        session.finish("9", done())


def test_a_result_that_does_not_fit_leaves_the_request_pending(session):
    session.receive(b"BLAH_JOB_SUBMIT 2 []\n")
    with pytest.raises(ValueError, match="BLAH_JOB_SUBMIT"):
        session.finish("2", done())
    session.finish("2", submitted("awsbatch/20261123/1.0-x"))
    assert replies(session, b"RESULTS")[1] == b"2 0 No\\ error awsbatch/20261123/1.0-x"


@pytest.mark.parametrize(
    "line",
    [
        b"BLAH_SET_GLEXEC_DN /p /c 0",
        b"BLAH_SET_SUDO_ID alice",
        b"CACHE_PROXY_FROM_FILE 1 /p",
        b"USE_CACHED_PROXY 1",
        b"UNCACHE_PROXY 1",
        b"INITIALIZE_FROM_FILE /p",
        b"REFRESH_PROXY_FROM_FILE /p",
        b"UPDATE_TOKEN /t",
    ],
)
def test_what_this_server_has_not_and_has_no_result_line_is_refused_in_the_return_line(session, line):
    (reply,) = replies(session, line)
    verdict, sentence = split(reply)
    assert verdict == "F" and sentence.startswith("This GAHP ")


@pytest.mark.parametrize("line", [b"BLAH_GET_HOSTPORT 2", b"BLAH_JOB_SEND_PROXY_TO_WORKER_NODE 2 job /p host"])
def test_what_this_server_has_not_and_has_a_result_line_is_refused_in_the_result(session, line):
    out, requests = session.receive(b"ASYNC_MODE_ON\n" + line + b"\nRESULTS\n")
    _, accepted, announced, count, result = out.split(b"\r\n")[:-1]
    assert (accepted, announced, count, requests) == (b"S", b"R", b"S 1", [])
    request_id, code, sentence = split(result)
    assert (request_id, code) == ("2", "1") and sentence.startswith("This GAHP ")


def test_switching_off_what_is_never_on_succeeds(session):
    assert replies(session, b"BLAH_SET_GLEXEC_OFF", b"BLAH_SET_SUDO_OFF") == [b"S Glexec\\ mode\\ off", b"S Sudo\\ mode\\ off"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_answered(session, name):
    arguments = ["2" if parameter == "reqid" else "x" for parameter in COMMANDS[name].parameters]
    assert replies(session, join([name, *arguments]))[0][:1] in (b"S", b"F")


ODD_LINES = (b"", b"    ", b"\0", b"\xff\xfe", b"VERSION\0VERSION", b"VERSION\rCOMMANDS", b"x\\\\", b"BLAH_JOB_STATUS_ALL 2")


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_gets_one_e_line_and_the_conversation_goes_on(session, line):
    first, second = replies(session, line, b"VERSION")
    assert first.startswith(b"E ") and len(split(first)) == 2
    assert second.startswith(b"S $GahpVersion")


def test_an_overlong_line_gets_one_e_line(session):
    out = b"".join(session.receive(b"x" * 65536)[0] for _ in range(MAX_LINE // 65536 + 2))
    assert out == b""
    out, _ = session.receive(b"\nVERSION\n")
    first, second = out.split(b"\r\n")[:-1]
    assert first == b"E A\\ line\\ of\\ more\\ than\\ 1048576\\ bytes\\ was\\ discarded"
    assert second.startswith(b"S $GahpVersion")


def test_an_ad_of_500_kb_goes_through(session):
    ad = '[ Environment = "' + "a b\\\\c " * 70_000 + '" ]'
    line = join(["BLAH_JOB_SUBMIT", "3", ad]) + b"\r\n"
    requests = [request for start in range(0, len(line), 65536) for request in session.receive(line[start : start + 65536])[1]]
    assert requests == [Request("3", "BLAH_JOB_SUBMIT", (ad,))]


def mutated(line: bytes, chance: random.Random) -> bytes:
    """`line` with a few bytes changed, doubled or lost; never with a line end of its own."""
    data = bytearray(line)
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(data) + 1)
        byte = bytes([chance.choice([*b" \\\0\xff\r2", chance.randrange(256)])])
        data[place : place + chance.randrange(2)] = byte
    line = bytes(data).replace(b"\n", b"")
    trailing = len(line) - len(line.rstrip(b"\\"))
    return line + b"\\" if trailing % 2 else line


def test_each_of_ten_thousand_random_and_mutated_lines_gets_exactly_one_return_line(session):
    chance = random.Random(20261123)
    names = [*COMMANDS, "BLAH_JOB_STATUS_ALL", "NOISE"]
    names.remove("QUIT")
    names.remove("RESPONSE_PREFIX")  # else the lines of the reply could not be told apart
    waiting = []
    for number in range(10_000):
        if chance.random() < 0.2:
            line = mutated(chance.randbytes(chance.randrange(40)), chance)
        else:
            words = [chance.choice(names), str(number + 1), *("x" * chance.randrange(1, 5) for _ in range(chance.randrange(3)))]
            line = mutated(join(words), chance)
        if line.upper().startswith((b"QUIT", b"RESPONSE_PREFIX")):
            continue
        out, requests = session.receive(line + b"\n")
        lines = LineSplitter().feed(out)
        assert lines and not session.closed, line
        returned = [text for text in lines if text != b"R"]
        verdict, *rest = split(returned[0])
        assert verdict in ("S", "E", "F"), line
        is_results = verdict == "S" and len(rest) == 1 and rest[0].isdigit()
        assert len(returned) == 1 + (int(rest[0]) if is_results else 0), line
        assert len(lines) - len(returned) <= 1
        waiting += requests
        if chance.random() < 0.5 and waiting:
            assert session.finish(waiting.pop(chance.randrange(len(waiting))), failed("gone")) in (b"", b"R\r\n")
    assert replies(session, b"VERSION") == [b"S " + VERSION.encode()]


@given(st.lists(st.sampled_from(["on", "off", "ask", "finish", "results"]), max_size=40))
def test_r_is_sent_once_for_a_batch_and_only_in_async_mode(steps):
    session = Session(VERSION)
    asynchronous = announced = False
    asked, waiting, ready = 0, [], 0
    for step in steps:
        if step in ("on", "off"):
            session.receive(b"ASYNC_MODE_%b\n" % step.upper().encode())
            asynchronous, announced = step == "on", announced and step == "off"
        elif step == "ask":
            asked += 1
            waiting += session.receive(b"BLAH_PING %d a\n" % asked)[1]
        elif step == "finish" and waiting:
            out = session.finish(waiting.pop(), done())
            assert out == (b"R\r\n" if asynchronous and not announced else b"")
            announced, ready = announced or asynchronous, ready + 1
        elif step == "results":
            assert replies(session, b"RESULTS")[0] == b"S %d" % ready
            announced, ready = False, 0
