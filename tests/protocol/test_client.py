"""The client's side: every line of a server is put beside the request that it answers."""

import datetime

from gahp.protocol import Result, Session, done, failed, status, submitted, version_text
from gahp.protocol.client import Announcement, Client, Greeting, Noise, Outcome, Reply, greeting_text


def conversation() -> tuple[Client, Session]:
    client, session = Client(), Session(version_text("1.2.3", datetime.date(2026, 11, 23)))
    (greeting,) = client.receive(session.greeting())
    assert isinstance(greeting, Greeting) and greeting_text(greeting) == "1.2.3 Nov 23 2026 awsbatch gahp"
    return client, session


def test_a_whole_conversation_with_our_own_server_is_understood():
    client, session = conversation()
    for line in (client.send("RESPONSE_PREFIX", "GAHP:"), client.send("ASYNC_MODE_ON")):
        (reply,) = client.receive(session.receive(line)[0])
        assert isinstance(reply, Reply) and reply.verdict == "S"
    ids, requests = [], []
    for command, argument in (("BLAH_PING", "awsbatch"), ("BLAH_JOB_SUBMIT", "[ a b ]"), ("blah_job_status", "x y")):
        request_id, line = client.request(command, argument)
        out, accepted = session.receive(line)
        (reply,) = client.receive(out)
        assert (reply.command, reply.arguments) == (command.upper(), (request_id, argument))
        ids.append(request_id)
        requests += accepted
    assert ids == ["2", "3", "4"]
    results = [done(), failed("no Cmd"), status(2, "[ JobStatus = 2 ]")]
    out = b"".join(session.finish(request, result) for request, result in zip(requests, results, strict=True))
    assert [type(event) for event in client.receive(out)] == [Announcement]
    reply, *outcomes = client.receive(session.receive(client.send("RESULTS"))[0])
    assert reply.tokens == ("3",)
    assert [(outcome.request_id, outcome.command, outcome.arguments) for outcome in outcomes] == [
        ("2", "BLAH_PING", ("awsbatch",)),
        ("3", "BLAH_JOB_SUBMIT", ("[ a b ]",)),
        ("4", "BLAH_JOB_STATUS", ("x y",)),
    ]
    assert [outcome.result for outcome in outcomes] == [done(), Result(1, "no Cmd", ("N/A",)), results[2]]


def test_lines_in_pieces_make_one_event():
    client, _ = conversation()
    client.send("BLAH_PING", "2", "x")
    assert client.receive(b"S") == [] == client.receive(b"\r")
    assert len(client.receive(b"\n")) == 1


def test_noise_before_the_greeting_without_the_prefix_or_unasked_is_told_apart():
    client = Client()
    noise, greeting = client.receive(b"warning: x\n$GahpVersion: 1 $\n")
    assert isinstance(noise, Noise) and isinstance(greeting, Greeting)
    assert isinstance(client.receive(b"S\n")[0], Noise)
    client.send("RESPONSE_PREFIX", "GAHP:")
    client.receive(b"S\n")
    client.send("VERSION")
    events = client.receive(b"S plain\nR\nGAHP:R\nGAHP:S $v$\n")
    assert [type(event) for event in events] == [Noise, Noise, Announcement, Reply]


def test_a_result_that_nobody_asked_for_or_of_the_wrong_shape_is_an_outcome_without_a_result():
    client, _ = conversation()
    client.send("BLAH_JOB_STATUS", "2", "x")
    client.send("BLAH_JOB_STATUS", "3", "x")
    client.send("RESULTS")
    *_, unasked, short, no_number = client.receive(b"S\r\nS\r\nS 3\r\n9 0 a\r\n2 0 No\\ error\r\n3 x No\\ error 2 []\r\n")
    assert isinstance(unasked, Outcome) and (unasked.command, unasked.result) == ("", None)
    assert (short.command, short.result) == ("BLAH_JOB_STATUS", None)
    assert (no_number.command, no_number.result) == ("BLAH_JOB_STATUS", None)


def test_after_an_id_of_the_users_own_the_next_one_is_higher():
    client, session = conversation()
    session.receive(client.send("BLAH_PING", "40", "x"))
    request_id, line = client.request("BLAH_JOB_SUBMIT", "[]")
    out, requests = session.receive(line)
    assert request_id == "41" and out == b"S\r\n"
    assert session.finish(requests[0], submitted("a/b/c")) == b""
