"""The runner's own requests, by curl: what it claims with is signed as AWS wants it, and nothing secret shows."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import threading

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gahp.sandbox.manifest import runner
from tests.packs import curl_signs

KEY, SECRET, TOKEN = "AKIDEXAMPLE", "se/cr+et==", "to/k+en=="

pytestmark = pytest.mark.skipif(not curl_signs(), reason="no curl that can sign: jobs look for a claim before they write one")


class Store(http.server.BaseHTTPRequestHandler):
    """Takes PUTs with the status of its class, and hands out a container's credentials."""

    status = 200
    seen: list[tuple[str, dict[str, str], bytes]]

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, dict(self.headers), body))
        self.answer(self.status, b"")

    def do_GET(self):
        self.answer(200, json.dumps({"AccessKeyId": KEY, "SecretAccessKey": SECRET, "Token": TOKEN}).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def store():
    """A server's address, and what it does and has seen."""
    handler = type("Handler", (Store,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def claim(endpoint, environment):
    """Run the part of the runner that claims, alone; its exit code."""
    functions = "".join(re.findall(rf"^{name}\(\) \{{.*?^\}}\n", runner().decode(), re.M | re.S)[0] for name in WORDS)
    lines = ["set -u", "RESULT_URL=s3://bucket/condor/runs/12-0-abc/0", "JOB=0a1b:7", functions, "claim_at_once"]
    given = {"PATH": "/usr/bin:/bin", "AWS_REGION": "us-west-2", "AWS_ENDPOINT_URL": endpoint, **environment}
    return subprocess.run(["bash", "-c", "\n".join(lines)], env=given, capture_output=True, check=False).returncode


WORDS = ("credentials", "claim_at_once")
OWN = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}


@pytest.mark.parametrize("from_container", [False, True])
def test_a_claim_is_a_conditional_put_signed_as_botocore_signs_it(store, from_container):
    endpoint, handler = store
    environment = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{endpoint}/credentials"} if from_container else OWN
    assert claim(endpoint, environment) == 0
    ((path, headers, body),) = handler.seen
    assert (path, body, headers["If-None-Match"]) == ("/bucket/condor/runs/12-0-abc/0/claim", b"0a1b:7", "*")
    signed, signature = re.search("SignedHeaders=([^,]+), Signature=(.+)", headers["Authorization"]).groups()
    assert {"host", "if-none-match", "x-amz-content-sha256", "x-amz-security-token"} <= set(signed.split(";"))
    kept = {name: value for name, value in headers.items() if name.lower() in signed.split(";") and name.lower() != "host"}
    request = AWSRequest(method="PUT", url=endpoint + path, headers=kept, data=body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    auth = S3SigV4Auth(Credentials(KEY, SECRET), "s3", "us-west-2")
    assert auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request) == signature


def test_where_the_container_is_told_no_region_the_submit_host_s_is_good_enough(store):
    endpoint, handler = store
    assert claim(endpoint, {**OWN, "AWS_REGION": "", "GAHP_REGION": "eu-west-1"}) == 0
    assert "/eu-west-1/s3/aws4_request" in handler.seen[0][1]["Authorization"]


@pytest.mark.parametrize("status", [403, 409, 412, 500])
def test_a_claim_that_was_not_taken_is_not_ours(store, status):
    endpoint, handler = store
    handler.status = status
    assert claim(endpoint, OWN) != 0
    assert len(handler.seen) == 1


@pytest.mark.parametrize(
    "without", [{"AWS_REGION": ""}, {"AWS_ACCESS_KEY_ID": ""}, {"AWS_SECRET_ACCESS_KEY": 'a"\nurl = "http://x'}]
)
def test_without_what_is_needed_or_with_what_could_be_misread_nothing_is_sent(store, without):
    endpoint, handler = store
    assert claim(endpoint, {**OWN, **without}) != 0
    assert handler.seen == []
