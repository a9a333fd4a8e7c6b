"""S3, as the sandbox uses it: the few calls, where the objects lie, and what S3's errors mean to a job.

Knows botocore's exceptions; nothing of jobs. Every method raises model.Refused for what only a person can mend and
model.Transient for what will pass.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import math
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import botocore.exceptions
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from urllib3.exceptions import HTTPError

from gahp.credentials import FAILURES
from gahp.model import Refused, Transient, one_line
from gahp.sandbox.shortcut import Shortcut

MULTIPART = 16 * 1024 * 1024
_TRANSFER = TransferConfig(multipart_threshold=MULTIPART, multipart_chunksize=MULTIPART, max_concurrency=4, max_io_queue=64)
# However short the file has become meanwhile: only parts can be given up.
_PARTS = TransferConfig(multipart_threshold=1, multipart_chunksize=MULTIPART, max_concurrency=4, max_io_queue=64)
_PASSING = {
    "RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded",
    "TooManyRequestsException", "InternalError", "ServiceUnavailable", "Busy", "OperationAborted", "BadDigest",
    "IncompleteBody", "PriorRequestNotComplete", "ConditionalRequestConflict",
}  # fmt: skip
# The credentials, not what they may do. As with Batch: better ones may come, and what has ended need not run again for them.
_CREDENTIALS = {
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken",
    "InvalidAccessKeyId", "SignatureDoesNotMatch",
}  # fmt: skip
_SEE_CREDENTIALS = "Check the credentials in ~/.aws, and AWSBATCH_PROFILE."
_ABSENT = {"NoSuchKey", "404", "NotFound"}


class Body(Protocol):
    def read(self, amt: int | None = None) -> bytes: ...
    def close(self) -> None: ...


class S3Client(Protocol):
    """The calls of a boto3 S3 client that are made here."""

    def put_object(self, **arguments: Any) -> dict[str, Any]: ...
    def get_object(self, **arguments: Any) -> dict[str, Any]: ...
    def head_object(self, **arguments: Any) -> dict[str, Any]: ...
    def delete_object(self, **arguments: Any) -> dict[str, Any]: ...
    def delete_objects(self, **arguments: Any) -> dict[str, Any]: ...
    def list_objects_v2(self, **arguments: Any) -> dict[str, Any]: ...
    def upload_file(self, *arguments: Any, **options: Any) -> None: ...
    def download_fileobj(self, *arguments: Any, **options: Any) -> None: ...


class Store:
    """The objects below s3://bucket/prefix. Keys are relative to the prefix. Threads may share it, as they may share a client."""

    def __init__(self, client: S3Client, bucket: str, prefix: str, shortcut: Shortcut | None = None) -> None:
        self._client = client
        self._shortcut = shortcut
        self._bucket = bucket
        self._prefix = prefix.strip("/")

    def url(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._key(key)}"

    def put(self, key: str, body: bytes | IO[bytes]) -> None:
        """Store `body` under `key` in one request; a reader sees all of it or nothing."""
        with self._errors("write"):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=body)

    def put_new(self, key: str, body: bytes) -> bool:
        """Store `body` under `key` if nothing is there; whether it did. Where there is no conditional write it looks first."""
        with self._errors("write"):
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=body, IfNoneMatch="*")
                return True
            except botocore.exceptions.ClientError as error:
                if _code(error) in ("PreconditionFailed", "412"):
                    return False
                if _code(error) != "NotImplemented":
                    raise
        if self.stat(key) is not None:
            return False
        self.put(key, body)
        return True

    def put_blob(
        self, key: str, content: IO[bytes], size: int, digest: str, require: Callable[[], None] = lambda: None
    ) -> None:
        """Store the file `content` of `size` bytes, in parts above MULTIPART. In one part S3 itself checks the SHA-256; parts
        become an object only if `require` does not raise; it is called when the first and when the last bytes have been read."""
        with self._errors("write"):
            if size <= MULTIPART:
                checksum = base64.b64encode(bytes.fromhex(digest)).decode()
                self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, ChecksumSHA256=checksum)
                return
        doubts: list[Exception] = []
        lock, read = threading.Lock(), 0

        def progress(count: int) -> None:
            nonlocal read
            with lock:
                first, read = read == 0, read + count
                if first or read >= size:
                    try:
                        require()
                    except Exception as error:
                        doubts.append(error)
                        raise  # out of the transfer, which gives the parts up

        try:
            with self._errors("write"):
                # by name: from a file object s3transfer would read whole parts into memory
                name = f"/proc/self/fd/{content.fileno()}"
                self._client.upload_file(name, self._bucket, self._key(key), Config=_PARTS, Callback=progress)
        except Exception:
            if doubts:
                raise doubts[0] from None
            raise

    def stat(self, key: str) -> tuple[int, datetime.datetime] | None:
        """Size and time of an object, or None."""
        with self._errors("read"):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
            except botocore.exceptions.ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
        return answer["ContentLength"], answer["LastModified"]

    @contextlib.contextmanager
    def reading(self, key: str) -> Iterator[tuple[int, Body] | None]:
        """Size and body of an object, or None when there is none. What goes wrong while the body is read is mapped too."""
        with self._errors("read"):
            answer = self._shortcut.get(self._bucket, self._key(key)) if self._shortcut else None
            try:
                answer = answer or self._client.get_object(Bucket=self._bucket, Key=self._key(key))
            except botocore.exceptions.ClientError as error:
                if _code(error) not in _ABSENT:
                    raise
                answer = None
            if answer is None:
                yield None
                return
            body: Body = answer["Body"]
            try:
                yield answer["ContentLength"], body
            finally:
                body.close()

    def download(self, key: str, target: IO[bytes]) -> None:
        """Copy a large object into `target`, several parts at a time."""
        with self._errors("read"):
            self._client.download_fileobj(self._bucket, self._key(key), target, Config=_TRANSFER)

    def folders(self, key: str) -> Iterator[str]:
        """The next parts of the keys that begin with `key` and go on behind a slash."""
        token: dict[str, str] = {}
        begin = self._key(key)
        while True:
            with self._errors("list"):
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=begin, Delimiter="/", **token)
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"][len(begin) :].rstrip("/")
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        with self._errors("delete"):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def delete_below(self, key: str, wanted: Callable[[str], bool] = lambda _: True, pages: float = math.inf) -> bool:
        """Delete every object whose key begins with `key` and is `wanted`, page by page; False if there are more than `pages`."""
        token: dict[str, str] = {}
        skip = len(self._key(""))
        while True:
            if pages <= 0:
                return False
            pages -= 1
            with self._errors("delete"):
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._key(key), **token)
                keys = [entry["Key"] for entry in page.get("Contents", ())]
                objects = [{"Key": found} for found in keys if wanted(found[skip:])]
                if objects:
                    answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
                    for error in answer.get("Errors", ())[:1]:
                        raise self._meaning("delete", error.get("Code", ""), 0, error.get("Message", ""))
            if not page.get("IsTruncated"):
                return True
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def probe(self) -> None:
        """Raise unless an object can be written and deleted below the prefix."""
        key = f"probe-{secrets.token_hex(8)}"
        self.put(key, b"")
        self.delete(key)

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """Turn what boto3 raises into Refused or Transient."""
        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise self._from_client_error(verb, error) from None
        except Boto3Error as error:  # the transfer manager wraps the real one
            inner = error.__cause__ or error.__context__
            if isinstance(inner, botocore.exceptions.ClientError):
                raise self._from_client_error(verb, inner) from None
            raise Transient(one_line(f"S3: {error}")) from None
        except FAILURES as error:
            raise Transient(one_line(f"S3 was not asked to {verb}: {str(error).rstrip('.')}. {_SEE_CREDENTIALS}")) from None
        except botocore.exceptions.ParamValidationError as error:
            raise Refused(one_line(f"S3 cannot take this request for {self.url('')}: {error}. Check AWSBATCH_S3_URL.")) from None
        except (botocore.exceptions.BotoCoreError, HTTPError, ConnectionError, TimeoutError) as error:
            raise Transient(one_line(f"S3 ({self.url('')}) cannot be reached: {error}")) from None

    def _from_client_error(self, verb: str, error: botocore.exceptions.ClientError) -> Refused | Transient:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return self._meaning(verb, _code(error), status, error.response.get("Error", {}).get("Message", ""))

    def _meaning(self, verb: str, code: str, status: int, message: str) -> Refused | Transient:
        place = f"s3://{self._bucket}/{self._prefix}"
        if code in _CREDENTIALS:
            return Transient(one_line(f"S3 does not take these AWS credentials ({code}): {message} {_SEE_CREDENTIALS}"))
        if code in _PASSING or status >= 500 or status in (408, 429):
            return Transient(one_line(f"S3 could not {verb} in {place}: {code} {message}"))
        if code in _ABSENT:
            return Refused(f"An object that is needed is gone from {place}: does a lifecycle rule delete too early?")
        if code == "NoSuchBucket":
            return Refused(f"The S3 bucket {self._bucket} does not exist: create it, or correct AWSBATCH_S3_URL.")
        # A person has to mend it, also when a job has ended. Its result cannot be waited for: without s3:ListBucket these are the
        # words for an object that is not there, too.
        if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
            return Refused(
                f"S3 refuses to {verb} in {place} ({code}): give these credentials s3:GetObject, s3:PutObject and "
                f"s3:DeleteObject on {place}/* and s3:ListBucket on {self._bucket}."
            )
        if code in ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
            return Refused(f"The S3 bucket {self._bucket} is in another Region ({code}): correct AWSBATCH_REGION.")
        return Refused(one_line(f"S3 refuses to {verb} in {place}: {code} {message}"))


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
