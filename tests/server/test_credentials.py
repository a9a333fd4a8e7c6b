"""Keys of ~/.aws that are refused give way to those that the file has by then, in every client; keys that work stay."""

import http.server
import threading

import pytest
from botocore.config import Config as ClientConfig
from botocore.exceptions import ClientError, NoCredentialsError

from gahp import credentials


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Writes ~/.aws/credentials, the only place that has keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    def write(key, token="a token"):
        text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = {token}\n"
        (tmp_path / "credentials").write_text(text)

    return write


@pytest.fixture
def account():
    """An endpoint that takes the keys of `takes` only, and notes which came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
            server.came.append((key, self.headers["X-Amz-Security-Token"]))
            status, body = (200, b"{}") if key in server.takes else (403, b'{"message": "expired"}')
            self.send_response(status)
            if status != 200:
                self.send_header("x-amzn-errortype", "ExpiredTokenException")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.takes, server.came = set(), []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(account):
    def client():
        session = credentials.session("", "us-east-1")
        once = ClientConfig(retries={"total_max_attempts": 1})
        return session.client("batch", endpoint_url=f"http://127.0.0.1:{account.server_port}", config=once)

    return client


def test_keys_that_are_refused_give_way_to_those_that_were_written_since(keys, account, client):
    keys("OLD", "old")
    batch = client()
    account.takes = {"OLD"}
    batch.list_jobs()
    account.takes = {"NEW"}
    with pytest.raises(ClientError, match="ExpiredToken"):
        batch.list_jobs()
    keys("NEW", "new")
    batch.list_jobs()
    assert account.came == [("OLD", "old"), ("OLD", "old"), ("NEW", "new")]


def test_keys_that_work_stay_in_use_whatever_is_written_meanwhile(keys, account, client):
    keys("MINE")
    batch = client()
    account.takes = {"MINE"}
    batch.list_jobs()
    keys("ANOTHER-ACCOUNT")
    batch.list_jobs()
    assert [key for key, _ in account.came] == ["MINE", "MINE"]


def test_keys_that_come_after_the_client_was_made_are_used(keys, account, client):
    batch = client()
    with pytest.raises(NoCredentialsError):
        batch.list_jobs()
    keys("FIRST")
    account.takes = {"FIRST"}
    batch.list_jobs()


def test_a_file_that_is_half_written_changes_nothing_and_is_read_again(keys, account, client, tmp_path):
    keys("OLD")
    batch = client()
    for text in ("[default]\naws_access_key_id = NEW\n", "[defau", "[default]\n= x\n"):
        (tmp_path / "credentials").write_text(text)
        with pytest.raises(ClientError, match="ExpiredToken"):
            batch.list_jobs()
    keys("NEW")
    account.takes = {"NEW"}
    batch.list_jobs()
    assert {key for key, _ in account.came[:-1]} == {"OLD"}


def test_where_there_are_none_other_places_are_asked_again_once_in_a_while():
    answers = [None, None, "the host's"]
    now = [0.0]

    class Found:
        def get_frozen_credentials(self):
            return "keys"

    kept = credentials.Credentials(lambda: answers.pop(0) and Found(), [], clock=lambda: now[0])
    told = []
    for now[0] in (1.0, 29.0, 31.0, 32.0, 62.0):
        told.append(kept.get_frozen_credentials())
    assert told == [None, None, None, None, "keys"]
