"""GETs beside boto3: the same requests, and whatever goes wrong is boto3's again."""

from __future__ import annotations

import collections
import dataclasses
import http.server
import re
import threading

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import CredentialRetrievalError

from gahp.model import Transient
from gahp.sandbox import Shortcut
from gahp.sandbox.store import Store

KEYS = "AKIDEXAMPLE", "secret", "token"


class S3(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the next of `answers` (status, body, length that is said), or with BODY; keeps what was asked."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]]
    answers: collections.deque[tuple[int, bytes, int]]

    def do_GET(self):
        self.seen.append((self.path, dict(self.headers)))
        status, body, length = self.answers.popleft() if self.answers else (200, b"content", 7)
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length != len(body)

    def log_message(self, *_):
        pass


class Site:
    """A store on such a server; `by_boto3` counts the calls of the client, `told` what the shortcut tells."""

    def __init__(self, port):
        self.by_boto3, self.told = 0, []
        key, secret, token = KEYS
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}/below",
            region_name="eu-west-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=Config(retries={"total_max_attempts": 2, "mode": "standard"}, s3={"addressing_style": "path"}),
        )
        client.meta.events.register("before-call", self._count)
        shortcut = Shortcut(client, Credentials(*KEYS), lambda *what: self.told.append(what))
        self.store = Store(client, "bucket", "condor", shortcut)

    def _count(self, **_):
        self.by_boto3 += 1

    def read(self, key="a"):
        with self.store.reading(key) as found:
            return found and (found[0], found[1].read())

    @property
    def statuses(self):
        return [status for status, _ in self.told]


@pytest.fixture
def handler():
    return type("Handler", (S3,), {"seen": [], "answers": collections.deque()})


@pytest.fixture
def site(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(server.server_port)
        server.shutdown()


def scope(headers):
    """For whom a request is signed, and which headers are."""
    credential, signed = re.search(
        "Credential=([^,]+), SignedHeaders=([^,]+), Signature=[0-9a-f]{64}$", headers["Authorization"]
    ).groups()
    return credential, set(signed.split(";"))


def test_a_get_is_what_boto3_has_sent_before(site, handler):
    key = "runs/ü b+c~d/%41=&/0"
    assert [site.read(key) for _ in range(3)] == [(7, b"content")] * 3
    assert (site.by_boto3, site.statuses) == (1, [200, 200])
    (path, by_boto3), *others = handler.seen
    assert [other for other, _ in others] == [path] * 2
    for _, headers in others:
        assert scope(headers)[0] == scope(by_boto3)[0]
        assert (
            {"host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"}
            <= scope(headers)[1]
            <= {name.lower() for name in headers}
        )
        assert headers["X-Amz-Security-Token"] == by_boto3["X-Amz-Security-Token"]
        assert headers["User-Agent"].startswith("Boto3/")


def test_its_signature_is_the_one_that_boto3_makes(site, handler):
    """That one goes by more headers: so it is made again for what was sent."""
    site.read("x y")
    site.read("x y")
    path, headers = handler.seen[1]
    request = AWSRequest(
        "GET", f"http://{headers['Host']}{path}", headers={"X-Amz-Content-SHA256": headers["X-Amz-Content-SHA256"]}
    )
    request.headers["X-Amz-Security-Token"] = headers["X-Amz-Security-Token"]
    request.headers["X-Amz-Date"] = headers["X-Amz-Date"]
    request.context["timestamp"] = headers["X-Amz-Date"]
    auth = S3SigV4Auth(Credentials(*KEYS), "s3", "eu-west-1")
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert headers["Authorization"].endswith(f"Signature={expected}")


def test_an_object_that_is_not_there_is_found_missing_by_boto3(site, handler):
    site.read()
    handler.answers.extend([(404, b"", 0), (404, b"<Error><Code>NoSuchKey</Code></Error>", 37)])
    assert site.read("b") is None
    assert (site.by_boto3, site.statuses) == (2, [404])
    # and the next that boto3 finds shows the way again
    site.read()
    site.read()
    assert (site.by_boto3, site.statuses) == (3, [404, 200])


@pytest.mark.parametrize("status", [301, 403, 500, 503])
def test_what_is_refused_or_fails_is_asked_again_by_boto3(site, handler, status):
    site.read()
    handler.answers.append((status, b"", 0))
    assert site.read() == (7, b"content")
    assert (site.by_boto3, site.statuses) == (2, [status])


def test_a_connection_that_breaks_is_boto3s_to_mend(site, handler):
    site.read()
    handler.answers.append((200, b"", 7))
    with pytest.raises(Transient, match="cannot be reached"):
        site.read()
    assert site.read() == (7, b"content")


def test_keys_that_cannot_be_had_are_boto3s_to_tell(site, monkeypatch):
    site.read()

    def none():
        raise CredentialRetrievalError(provider="sso", error_msg="logged out")

    monkeypatch.setattr(site.store._shortcut._credentials, "get_frozen_credentials", none)
    assert site.read() == (7, b"content")
    assert (site.by_boto3, site.statuses) == (2, [0])


def test_where_nothing_answers_it_says_so(site):
    site.read()
    ways = site.store._shortcut._ways
    ways["bucket"] = dataclasses.replace(ways["bucket"], url="http://127.0.0.1:1/")
    assert site.read() == (7, b"content")
    assert site.statuses == [0]
