"""The simulated AWS over HTTP, for GAHPs that are processes of their own: one process, one thread, no signatures checked.

    python -m bench.endpoint [--start S] [--run S] [--spread S] [--submit-limit N]

Prints its URL on one line and serves on 127.0.0.1 until its standard input ends. Under /bench/ it tells what it has seen and
takes orders. It answers five to ten thousand small requests a second on one core, an order more than any GAHP asks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from bench.simulated import S3, ApiError, Batch, Pace

_OPERATIONS: dict[bytes, str] = {
    b"/v1/submitjob": "submit_job",
    b"/v1/describejobs": "describe_jobs",
    b"/v1/listjobs": "list_jobs",
    b"/v1/terminatejob": "terminate_job",
    b"/v1/canceljob": "cancel_job",
    b"/v1/terminatejobs": "terminate_jobs",
    b"/v1/canceljobs": "cancel_jobs",
    b"/v1/describejobqueues": "describe_job_queues",
    b"/v1/describejobdefinitions": "describe_job_definitions",
}
_REASONS = {200: b"OK", 204: b"No Content", 206: b"Partial Content"}
_RANGE = re.compile(rb"^range: *bytes=([0-9]+-[0-9]*)", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length: *([0-9]+)", re.IGNORECASE | re.MULTILINE)
_DATE = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())

Reply = tuple[int, bytes, "bytes | memoryview"]


class Account:
    """The account, and which request means what."""

    def __init__(self, pace: Pace, submit_limit: float) -> None:
        self.s3 = S3(time.time)
        self.batch = Batch(self.s3, time.time, pace, submit_limit)

    def answer(self, method: bytes, target: bytes, head: bytes, body: bytes) -> Reply:
        """Status, further header lines, body."""
        path, _, query = target.partition(b"?")
        if operation := _OPERATIONS.get(path):
            try:
                answer = getattr(self.batch, operation)(**json.loads(body or b"{}"))
            except ApiError as error:
                headers = b"x-amzn-errortype: %s\r\n" % error.code.encode()
                return error.status, headers, json.dumps({"message": str(error)}).encode()
            return 200, b"", json.dumps(answer).encode()
        if path.startswith(b"/bench/"):
            return 200, b"", json.dumps(self._control(path[7:].decode(), json.loads(body or b"{}"))).encode()
        try:
            return self._s3(method, urllib.parse.unquote(path.decode()), query.decode(), head, body)
        except ApiError as error:
            text = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
            return error.status, b"", b"" if method == b"HEAD" else text.encode()

    def _control(self, order: str, words: dict[str, Any]) -> Any:
        match order:
            case "seen":
                calls = {f"batch:{name}": count for name, count in self.batch.calls.items()}
                calls |= {f"s3:{name}": count for name, count in self.s3.calls.items()}
                return {"taken": self.batch.taken, "throttled": self.batch.throttled, "calls": calls, "log": self.batch.log[-1:]}
            case "taken":
                return {"taken": self.batch.taken, "at": self.batch.log[-1][0] if self.batch.log else 0.0}
            case "forget":
                self.batch.calls.clear()
                self.s3.calls.clear()
                self.s3.objects.clear()
                return {}
            case "pace":
                self.batch.pace = Pace(**words)
                return {}
            case "jobs":
                return [self.batch.add(f"preset-{number}", words.get("size", 0), {}) for number in range(words["count"])]
        raise ApiError(404, "NoSuchOrder", order)

    def _s3(self, method: bytes, path: str, query: str, head: bytes, body: bytes) -> Reply:
        bucket, _, key = path.lstrip("/").partition("/")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        etag = b'ETag: "simulated"\r\n'
        if not key:
            if method == b"POST" and "delete" in asked:
                keys = [{"Key": found} for found in re.findall(r"<Key>(.*?)</Key>", body.decode())]
                self.s3.delete_objects(bucket, {"Objects": keys})
                return 200, b"", b"<DeleteResult/>"
            if method == b"GET" and "location" not in asked:
                return 200, b"", self._listing(bucket, asked)
            self.s3.head_bucket(bucket)
            return 200, b"", b"<LocationConstraint/>" if method == b"GET" else b""
        match method:
            case b"PUT" if "uploadId" in asked:
                self.s3.upload_part(bucket, key, asked["uploadId"], int(asked["partNumber"]), body)
                return 200, etag, b""
            case b"PUT":
                self.s3.put_object(bucket, key, body)
                return 200, etag, b""
            case b"POST" if "uploads" in asked:
                upload = self.s3.create_multipart_upload(bucket, key)["UploadId"]
                names = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
                return 200, b"", f"<InitiateMultipartUploadResult>{names}</InitiateMultipartUploadResult>".encode()
            case b"POST":
                self.s3.complete_multipart_upload(bucket, key, asked["uploadId"])
                names = f"<Key>{escape(key)}</Key><ETag>simulated</ETag>"
                return 200, b"", f"<CompleteMultipartUploadResult>{names}</CompleteMultipartUploadResult>".encode()
            case b"DELETE":
                self.s3.delete_object(bucket, key)
                return 204, b"", b""
            case b"HEAD":
                length = self.s3.head_object(bucket, key)["ContentLength"]
                return 200, etag + b"Accept-Ranges: bytes\r\nContent-Length: %d\r\n%s" % (length, _modified()), b""
        self.s3.calls["GetObject"] += 1
        try:
            data = self.s3.objects[key]
        except KeyError:
            raise ApiError(404, "NoSuchKey", "The specified key does not exist.") from None
        if part := _RANGE.search(head):
            first, _, last = part[1].decode().partition("-")
            begin, end = int(first), min(int(last) + 1 if last else len(data), len(data))
            headers = b"Content-Range: bytes %d-%d/%d\r\n" % (begin, end - 1, len(data))
            return 206, etag + headers + _modified(), memoryview(data)[begin:end]
        return 200, etag + _modified(), data

    def _listing(self, bucket: str, asked: dict[str, str]) -> bytes:
        found = self.s3.list_objects_v2(bucket, asked.get("prefix", ""), asked.get("delimiter", ""))
        rows = [
            f"<Contents><Key>{escape(row['Key'])}</Key><Size>{row['Size']}</Size><LastModified>{_DATE}</LastModified>"
            "<ETag>simulated</ETag><StorageClass>STANDARD</StorageClass></Contents>"
            for row in found["Contents"]
        ]
        folders = [row["Prefix"] for row in found.get("CommonPrefixes", ())]
        rows += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        text = f"<IsTruncated>false</IsTruncated><Name>{bucket}</Name><KeyCount>{len(rows)}</KeyCount>{''.join(rows)}"
        return f"<ListBucketResult>{text}</ListBucketResult>".encode()


def _modified() -> bytes:
    return b"Last-Modified: %s\r\n" % time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()


class Connection(asyncio.Protocol):
    """HTTP/1.1 as boto3 and s5cmd speak it: lengths given, chunks and pipelining not."""

    def __init__(self, answer: Callable[[bytes, bytes, bytes, bytes], Reply]) -> None:
        self._answer = answer
        self._received = bytearray()
        self._head: tuple[bytes, bytes, bytes] | None = None
        self._length = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._head is not None or self._take_head():
            if len(self._received) < self._length:
                return
            body = bytes(memoryview(self._received)[: self._length])
            del self._received[: self._length]
            (method, target, head), self._head = self._head, None  # type: ignore[misc]
            self._reply(method, *self._answer(method, target, head, body))

    def _take_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end])
        del self._received[: end + 4]
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        found = _LENGTH.search(head)
        self._head, self._length = (method, target, head), int(found[1]) if found else 0
        if b"100-continue" in head and len(self._received) < self._length:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _reply(self, method: bytes, status: int, headers: bytes, body: bytes | memoryview) -> None:
        length = b"" if b"Content-Length" in headers or status == 204 else b"Content-Length: %d\r\n" % len(body)
        begin = b"HTTP/1.1 %d %s\r\n%s%s\r\n" % (status, _REASONS.get(status, b"Error"), length, headers)
        if len(body) < 65536:
            self._transport.write(begin + bytes(body))
        else:
            self._transport.write(begin)
            self._transport.write(body)


async def serve(account: Account) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(account.answer), "127.0.0.1", 0, backlog=512)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A simulated AWS over HTTP.")
    for name in ("start", "run", "spread", "submit-limit"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    words = parser.parse_args()
    asyncio.run(serve(Account(Pace(words.start, words.run, words.spread), words.submit_limit)))


if __name__ == "__main__":
    main()
