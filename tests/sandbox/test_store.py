"""Blobs are stored once, S3's errors become what they mean, and nothing else below the prefix is touched."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import datetime
import hashlib
import io
import os
import tempfile
import threading
import time
import tracemalloc
from typing import IO, TYPE_CHECKING

import boto3
import botocore.exceptions
import pytest
from botocore.awsrequest import AWSResponse

from gahp.model import Refused, Transient
from gahp.sandbox import blobs as blobs_module
from gahp.sandbox.blobs import RENEW, TRUST_S, Blobs
from gahp.sandbox.inputs import walk
from gahp.sandbox.manifest import open_unchanged
from gahp.sandbox.store import MULTIPART, Store

if TYPE_CHECKING:
    from conftest import Site


class Watched:
    """A client that counts its calls, and can do something in the middle of one."""

    def __init__(self, client: object) -> None:
        self._client = client
        self.calls: list[tuple[str, str]] = []
        self.during: dict[str, object] = {}

    def __getattr__(self, name: str):
        real = getattr(self._client, name)

        def call(*arguments: object, **options: object):
            key = str(options.get("Key") or (arguments[-1] if arguments else ""))
            self.calls.append((name, key.rpartition("/")[2]))
            if name in self.during:
                self.during[name]()
            return real(*arguments, **options)

        return call

    def count(self, name: str) -> int:
        return sum(call == name for call, _ in self.calls)


def in_pages(client, size: int, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A client whose lists come in pages of so many keys; each counts as a call of "list"."""
    real = client.list_objects_v2
    monkeypatch.setattr(
        Watched,
        "list_objects_v2",
        lambda self, **options: (self.calls.append(("list", "")), real(**options, MaxKeys=size))[1],
        raising=False,
    )
    return Watched(client)


@pytest.fixture
def watched(client) -> Watched:
    return Watched(client)


def test_a_large_input_of_many_jobs_is_uploaded_once(site: Site, watched: Watched, new_sandbox) -> None:
    (site.iwd / "large").write_bytes(os.urandom(300_000))
    request = site.request("true", inputs=("large",))
    gate = threading.Barrier(4, timeout=20)
    sandbox = new_sandbox(site.prefix, other=watched)

    def stage(number: int) -> None:
        gate.wait()
        sandbox.stage(f"run-{number}", request)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(stage, range(4)))
    assert watched.count("head_object") == 1
    assert watched.count("put_object") == 1 + 4
    sandbox.stage("run-5", request)
    assert (watched.count("head_object"), watched.count("put_object")) == (1, 6)


def test_a_file_version_is_read_once_for_its_digest_however_many_jobs_come_together(
    site: Site, new_sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site.iwd / "large"
    path.write_bytes(os.urandom(300_000))
    os.utime(path, (1e9, 1e9))
    request = site.request("true", inputs=("large",))
    hashed, real = [], blobs_module._digest

    def slowly(content: IO[bytes]) -> str:
        hashed.append(content.name)
        time.sleep(0.2)  # so that the others come meanwhile
        return real(content)

    monkeypatch.setattr(blobs_module, "_digest", slowly)
    sandbox = new_sandbox(site.prefix)

    def stage(number: int) -> None:
        sandbox.stage(f"run-{number}", request)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(stage, range(32)))
    assert hashed == [str(path)]
    path.write_bytes(os.urandom(300_000))
    os.utime(path, (1.1e9, 1.1e9))
    stage(32)
    stage(33)
    assert hashed == [str(path)] * 2
    assert len(site.keys("blobs/")) == 2


def test_who_waits_for_the_digest_of_another_job_hears_of_its_failure_and_the_next_one_reads_again(
    site: Site, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site.iwd / "large"
    path.write_bytes(b"x" * 300_000)
    os.utime(path, (1e9, 1e9))
    (file,) = [file for file in walk(site.request("true", inputs=("large",))).files if file.place.endswith("large")]
    real, faults = blobs_module._digest, [Transient("an input/output error")]

    def fail(content: IO[bytes]) -> str:
        time.sleep(0.2)
        if faults:
            raise faults.pop()
        return real(content)

    monkeypatch.setattr(blobs_module, "_digest", fail)
    with contextlib.closing(Blobs(Store(client, "jobs", site.prefix), 4)) as blobs:
        with pytest.raises(Transient, match="input/output"):
            blobs.store([file] * 4, [])
        assert len(blobs.store([file] * 4, [])) == 4
    assert len(site.keys("blobs/")) == 1


def test_a_blob_that_another_process_stored_is_not_uploaded_again(site: Site, watched: Watched, new_sandbox) -> None:
    (site.iwd / "large").write_bytes(os.urandom(300_000))
    request = site.request("true", inputs=("large",))
    site.sandbox.stage("run-1", request)
    new_sandbox(site.prefix, other=watched).stage("run-2", request)
    assert [name for name, _ in watched.calls] == ["head_object", "put_object"]


def test_a_blob_of_the_wrong_length_is_uploaded_again(site: Site, new_sandbox) -> None:
    (site.iwd / "large").write_bytes(b"x" * 300_000)
    request = site.request("true", inputs=("large",))
    site.sandbox.stage("run-1", request)
    (blob,) = site.keys("blobs/")
    site.client.put_object(Bucket="jobs", Key=f"{site.prefix}/{blob}", Body=b"short")
    new_sandbox(site.prefix).stage("run-2", request)
    assert site.client.head_object(Bucket="jobs", Key=f"{site.prefix}/{blob}")["ContentLength"] == 300_000


def test_a_blob_is_looked_for_again_after_a_while_and_written_again_when_it_is_old(site: Site, watched: Watched) -> None:
    (site.iwd / "large").write_bytes(b"x" * 300_000)
    (file,) = [file for file in walk(site.request("true", inputs=("large",))).files if file.place.endswith("large")]
    monotonic, wall = 0.0, datetime.datetime.now(datetime.timezone.utc).timestamp()
    with contextlib.closing(Blobs(Store(watched, "jobs", site.prefix), 2, lambda: monotonic, lambda: wall)) as blobs:
        blobs.store([file], [])
        blobs.store([file], [])
        assert (watched.count("head_object"), watched.count("put_object")) == (1, 1)
        monotonic += TRUST_S + 1
        blobs.store([file], [])
        assert (watched.count("head_object"), watched.count("put_object")) == (2, 1)
        monotonic += TRUST_S + 1
        wall += RENEW.total_seconds() + 60
        blobs.store([file], [])
        assert (watched.count("head_object"), watched.count("put_object")) == (3, 2)


def test_a_digest_is_remembered_only_of_a_file_that_has_settled(site: Site, client) -> None:
    path = site.iwd / "large"
    path.write_bytes(b"x" * 300_000)
    with contextlib.closing(Blobs(Store(client, "jobs", site.prefix), 2)) as blobs:
        for content in (b"y", b"z"):
            status = path.stat()
            (file,) = [file for file in walk(site.request("true", inputs=("large",))).files if file.place.endswith("large")]
            blobs.store([file], [])
            path.write_bytes(content * 300_000)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(site.keys("blobs/")) == 2


def test_a_file_above_sixteen_mebibytes_goes_in_parts(site: Site, watched: Watched, new_sandbox) -> None:
    content = os.urandom(17 * 1024 * 1024)
    (site.iwd / "large").write_bytes(content)
    new_sandbox(site.prefix, other=watched).stage(site.run, site.request("true", inputs=("large",)))
    assert watched.count("upload_file") == 1
    (blob,) = site.keys("blobs/")
    answer = site.client.get_object(Bucket="jobs", Key=f"{site.prefix}/{blob}")
    assert answer["ETag"].endswith('-2"')
    assert answer["Body"].read() == content


class Sink:
    """AWS's end of a boto3 client that keeps nothing: how much came and went in which requests."""

    def __init__(self, size: int) -> None:
        self.size, self.taken, self.parts, self.ranges = size, 0, 0, []
        self._lock = threading.Lock()

    def __call__(self, request, **_: object) -> AWSResponse:
        answer, headers, status = b"", {}, 200
        if request.method == "HEAD" and "blobs" in request.url:
            status = 404
        elif request.method == "HEAD":
            headers = {"Content-Length": str(self.size), "ETag": '"e"'}
        elif request.method == "POST" and request.url.endswith("?uploads"):
            answer = b"<R><UploadId>u</UploadId></R>"
        elif request.method == "POST":
            answer = b"<R><ETag>e</ETag></R>"
        elif request.method == "PUT":
            count = 0
            while piece := request.body.read(65536):
                count += len(piece)
            with self._lock:
                self.parts, self.taken = self.parts + 1, self.taken + count
            headers = {"ETag": '"e"'}
        elif request.method == "GET":
            begin, _, end = request.headers["Range"].decode().removeprefix("bytes=").partition("-")
            first, last = int(begin), int(end or self.size - 1)
            with self._lock:
                self.ranges.append((first, last))
            headers = {"Content-Length": str(last + 1 - first), "Content-Range": f"bytes {first}-{last}/{self.size}"}
            return AWSResponse(request.url, 206, headers, Zeroes(last + 1 - first))
        return AWSResponse(request.url, status, headers, Raw(answer))


class Raw(io.BytesIO):
    """What botocore reads an answer from."""

    def stream(self, **_: object):
        yield self.getvalue()


class Zeroes:
    """So many zeroes, as they are read."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, amount: int | None = None) -> bytes:
        count = self._left if amount is None else min(amount, self._left)
        self._left -= count
        return bytes(count)

    def close(self) -> None:
        pass

    release_conn = close


LARGE, MEMORY = 192 * 1024 * 1024, 48 * 1024 * 1024


@pytest.fixture
def sink():
    """A store whose other end is a Sink."""
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    sink = Sink(LARGE)
    client.meta.events.register("before-send.s3", sink)
    return sink, Store(client, "jobs", "p")


def test_a_large_input_goes_in_parts_and_takes_no_memory(site: Site, sink) -> None:
    at, store = sink
    (site.iwd / "large").touch()
    os.truncate(site.iwd / "large", LARGE)
    (file,) = [file for file in walk(site.request("true", inputs=("large",))).files if file.place.endswith("large")]
    with contextlib.closing(Blobs(store, 2)) as blobs:
        tracemalloc.start()
        try:
            blobs.store([file], [])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert at.parts == LARGE // MULTIPART
    assert LARGE <= at.taken < LARGE + at.parts * 1024  # a checksum behind each
    assert peak < MEMORY


def test_a_large_output_comes_in_parts_and_takes_no_memory(sink) -> None:
    at, store = sink
    with tempfile.TemporaryFile() as target:
        tracemalloc.start()
        try:
            store.download("runs/r/0/out/1", target)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert os.fstat(target.fileno()).st_size == LARGE
    assert len(at.ranges) == LARGE // MULTIPART
    assert peak < MEMORY


class Checking:
    """A store that looks at checksums, as S3 does and the one here does not."""

    def __init__(self, client: object) -> None:
        self._client = client

    def __getattr__(self, name: str):
        return getattr(self._client, name)

    def put_object(self, *, Body: bytes | IO[bytes], **arguments: object):
        self._client.during.get("put_object", lambda: None)()
        content = Body if isinstance(Body, bytes) else Body.read()
        found = base64.b64encode(hashlib.sha256(content).digest()).decode()
        if arguments.get("ChecksumSHA256", found) != found:
            raise refusal_of("BadDigest", 400)
        return self._client.put_object(Body=content, **arguments)


@pytest.mark.parametrize(("size", "call"), [(300_000, "put_object"), (17 * 1024 * 1024, "upload_file")])
def test_a_file_that_changes_while_it_is_uploaded_is_no_blob(
    site: Site, watched: Watched, new_sandbox, size: int, call: str
) -> None:
    path = site.iwd / "large"
    path.write_bytes(bytes(size))
    watched.during[call] = lambda: path.write_bytes(b"y" * size)
    sandbox = new_sandbox(site.prefix, other=Checking(watched))
    with pytest.raises(Transient, match=r"large changed while it was being read|S3 could not write"):
        sandbox.stage(site.run, site.request("true", inputs=("large",)))
    assert site.keys() == []
    watched.during.clear()
    sandbox.stage(site.run, site.request("true", inputs=("large",)))
    assert len(site.keys("blobs/")) == 1


@pytest.mark.parametrize(("call", "size"), [("upload_file", 17 << 20), ("upload_file", 1), ("upload_part", 17 << 20)])
def test_a_file_that_changes_while_its_blob_is_written_anew_leaves_the_old_one_to_those_that_need_it(
    site: Site, client, new_sandbox, call: str, size: int
) -> None:
    path = site.iwd / "large"
    path.write_bytes(bytes(17 * 1024 * 1024))
    request = site.request("true", inputs=("large",))
    new_sandbox(site.prefix).stage(site.run, request)
    (blob,) = site.keys("blobs/")
    now = time.time() + RENEW.total_seconds() + 60
    watched = Watched(client)
    store = Store(watched, "jobs", site.prefix)

    def change() -> None:
        path.write_bytes(b"y" * size)

    blobs = Blobs(store, 2, wall=lambda: now)
    if call == "upload_file":
        watched.during[call] = change
    else:
        client.meta.events.register("before-send.s3.UploadPart", lambda **_: change(), unique_id="change")
    try:
        (file,) = [file for file in walk(request).files if file.place.endswith("large")]
        with pytest.raises(Transient):
            blobs.store([file], [])
    finally:
        client.meta.events.unregister("before-send.s3.UploadPart", unique_id="change")
        blobs.close()
    assert client.get_object(Bucket="jobs", Key=f"{site.prefix}/{blob}")["Body"].read() == bytes(17 * 1024 * 1024)
    assert "Uploads" not in client.list_multipart_uploads(Bucket="jobs", Prefix=site.prefix)


def test_a_small_file_that_changes_between_walk_and_reading_is_read_again_later(site: Site) -> None:
    (site.iwd / "small").write_text("before")
    (file,) = [file for file in walk(site.request("true", inputs=("small",))).files if file.place.endswith("small")]
    (site.iwd / "small").write_text("after it")
    with pytest.raises(Transient, match="changed while"):
        open_unchanged(file)


def test_discard_deletes_all_of_a_run_and_nothing_else(site: Site, client, new_sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("runs/a/manifest", "runs/a/0/result", *(f"runs/a/0/out/{n}" for n in range(20)), "runs/ab/manifest", "blobs/x"):
        client.put_object(Bucket="jobs", Key=f"{site.prefix}/{key}", Body=b"")
    paged = in_pages(client, 9, monkeypatch)
    new_sandbox(site.prefix, other=paged).discard("a")
    assert site.keys() == ["blobs/x", "runs/ab/manifest"]
    assert paged.count("list") == 3


class Unconditional:
    """A store that knows no conditional write."""

    def __init__(self, client: object) -> None:
        self._client = client

    def __getattr__(self, name: str):
        return getattr(self._client, name)

    def put_object(self, **arguments: object):
        if "IfNoneMatch" in arguments:
            raise refusal_of("NotImplemented", 501)
        return self._client.put_object(**arguments)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_submission_can_be_claimed_for_nobody_but_not_taken_from_who_has_it(
    site: Site, client, new_sandbox, conditional: bool
) -> None:
    sandbox = site.sandbox if conditional else new_sandbox(site.prefix, other=Unconditional(client))
    site.put("1/claim", b"first:7")
    assert sandbox.revoke(site.run, 1) == sandbox.claimant(site.run, 1) == "first:7"
    assert sandbox.revoke(site.run, 0) == sandbox.revoke(site.run, 0) == sandbox.claimant(site.run, 0) == ""
    assert site.object("0/claim") == b"revoked"


@pytest.mark.parametrize("page", [1000, 4], ids=["one list", "more pages than runs"])
def test_runs_of_a_cluster_are_discarded_together_and_no_other_run_with_them(
    site: Site, client, new_sandbox, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    runs = [f"7-{number}-r" for number in range(12)]
    for key in (
        f"runs/{run}/{name}" for run in (*runs, "70-0-r", "7-1-rr") for name in ("manifest", "0/claim", "0/out/1", "0/result")
    ):
        client.put_object(Bucket="jobs", Key=f"{site.prefix}/{key}", Body=b"")
    paged = in_pages(client, page, monkeypatch)
    gone = ["7-0-r", "7-1-r", "7-3-r", "7-10-r", "7-11-r"]
    new_sandbox(site.prefix, other=paged).discard(*gone)
    assert {key.split("/")[1] for key in site.keys("runs/")} == {*runs, "70-0-r", "7-1-rr"} - set(gone)
    if page == 1000:
        assert (paged.count("list"), paged.count("delete_objects")) == (1, 1)


def test_a_probe_leaves_nothing(site: Site) -> None:
    site.sandbox.probe()
    assert site.keys() == []


def test_an_empty_prefix_is_the_bucket_itself(client, site: Site, new_sandbox) -> None:
    client.create_bucket(Bucket=(bucket := f"b{os.urandom(8).hex()}"))
    sandbox = new_sandbox("", bucket)
    assert sandbox.run_url("r") == f"s3://{bucket}/runs/r"
    sandbox.stage("r", site.request("true"))
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["runs/r/manifest"]


def test_a_missing_bucket_is_named(new_sandbox) -> None:
    sandbox = new_sandbox("p", "no-such-bucket-here")
    for call in (sandbox.probe, lambda: sandbox.discard("x"), lambda: sandbox.refresh_proxy("x", __file__)):
        with pytest.raises(Refused, match=r"bucket no-such-bucket-here does not exist: create it, or correct AWSBATCH_S3_URL"):
            call()


def test_a_run_name_that_could_be_a_path_is_an_error(site: Site) -> None:
    for run in ("", "../x", "a/b", "x" * 101):
        with pytest.raises(ValueError):
            site.sandbox.discard(run)


class Failing:
    """A client whose every call raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str):
        def call(*_: object, **__: object) -> None:
            raise self._error

        return call


def refusal_of(code: str, status: int) -> botocore.exceptions.ClientError:
    return botocore.exceptions.ClientError(
        {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


@pytest.mark.parametrize(
    ("error", "meaning", "sentence"),
    [
        (refusal_of("AccessDenied", 403), Refused, "S3 refuses to write in s3://bucket/pre .* s3:PutObject"),
        (refusal_of("403", 403), Refused, "s3:ListBucket on bucket"),
        (refusal_of("NoSuchBucket", 404), Refused, "bucket does not exist"),
        (refusal_of("PermanentRedirect", 301), Refused, "another Region .* AWSBATCH_REGION"),
        (refusal_of("InvalidAccessKeyId", 403), Transient, "does not take these AWS credentials .* AWSBATCH_PROFILE"),
        (refusal_of("SignatureDoesNotMatch", 403), Transient, "does not take these AWS credentials"),
        (refusal_of("InvalidToken", 400), Transient, "does not take these AWS credentials"),
        (refusal_of("EntityTooLarge", 400), Refused, "EntityTooLarge why"),
        (refusal_of("SlowDown", 503), Transient, "SlowDown"),
        (refusal_of("InternalError", 500), Transient, "InternalError"),
        (refusal_of("Odd", 502), Transient, "Odd"),
        (refusal_of("TooMany", 429), Transient, "TooMany"),
        (refusal_of("ExpiredToken", 400), Transient, "ExpiredToken"),
        (refusal_of("RequestTimeout", 400), Transient, "RequestTimeout"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), Transient, "cannot be reached"),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), Transient, "cannot be reached"),
        (botocore.exceptions.CredentialRetrievalError(provider="role", error_msg="x"), Transient, "not asked to write: .* role"),
        (ConnectionResetError("reset"), Transient, "cannot be reached"),
        (botocore.exceptions.NoCredentialsError(), Transient, "AWSBATCH_PROFILE"),
        (botocore.exceptions.ParamValidationError(report="x"), Refused, "AWSBATCH_S3_URL"),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception) else None,
)
def test_what_errors_of_s3_mean(error: Exception, meaning: type[Exception], sentence: str) -> None:
    with pytest.raises(meaning, match=sentence):
        Store(Failing(error), "bucket", "pre").put("key", b"")


def test_an_error_in_a_multipart_upload_means_the_same(client) -> None:
    with tempfile.TemporaryFile() as content, pytest.raises(Refused, match="does not exist"):
        content.truncate(17_000_000)
        Store(client, "no-such-bucket-here", "p").put_blob("k", content, 17_000_000, "00" * 32)


def test_a_connection_that_breaks_while_a_result_is_read_is_transient(site: Site, client, new_sandbox) -> None:
    class Breaking(Watched):
        def get_object(self, **options: object):
            class Body:
                def read(self, amount: int | None = None) -> bytes:
                    raise botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2)

                def close(self) -> None:
                    pass

            return {"ContentLength": 2000, "Body": Body()}

    with pytest.raises(Transient, match="cannot be reached"):
        new_sandbox(site.prefix, other=Breaking(client)).collect(site.run, 0, site.request("true"))


def test_a_large_output_of_another_length_than_its_list_says_is_not_fetched(site: Site, watched: Watched, new_sandbox) -> None:
    request = site.request("truncate -s 17000000 large", outputs=("large",))
    site.execute(request)
    (site.iwd / "large").unlink()
    (key,) = site.keys(f"runs/{site.run}/0/out/")
    site.client.put_object(Bucket="jobs", Key=f"{site.prefix}/{key}", Body=bytes(17_000_001))
    with pytest.raises(Refused, match="the output large is not what the list says"):
        new_sandbox(site.prefix, other=watched).collect(site.run, 0, request)
    assert watched.count("download_fileobj") == 0
    assert not (site.iwd / "large").exists()


@pytest.mark.parametrize("spoil", [lambda data: data[:700], lambda data: data.replace(b"said", b"sald"), lambda data: b""])
def test_a_result_that_arrives_with_a_wrong_length_or_checksum_is_fetched_again(site: Site, client, new_sandbox, spoil) -> None:
    request = site.request("echo said")
    site.execute(request)
    (site.iwd / "job.out").unlink()

    class Spoiling(Watched):
        fetched = 0

        def get_object(self, **options: object):
            answer = client.get_object(**options)
            self.fetched += 1
            if self.fetched == 1:
                data = spoil(answer["Body"].read())
                answer.update(ContentLength=len(data), Body=io.BytesIO(data))
            return answer

    spoiling = Spoiling(client)
    outcome = new_sandbox(site.prefix, other=spoiling).collect(site.run, 0, request)
    assert (outcome.exit_code, spoiling.fetched) == (0, 2)
    assert (site.iwd / "job.out").read_text() == "said\n"
    assert not list(site.iwd.glob(".awsbatch-*"))


def test_a_proxy_that_is_none_is_refused(site: Site) -> None:
    (site.iwd / "empty").touch()
    (site.iwd / "huge").write_bytes(bytes(70_000))
    for name in ("empty", "huge"):
        with pytest.raises(Refused, match=r"is no X\.509 proxy"):
            site.sandbox.refresh_proxy(site.run, str(site.iwd / name))
    with pytest.raises(Refused, match="cannot be read: No such file"):
        site.sandbox.refresh_proxy(site.run, str(site.iwd / "absent"))
