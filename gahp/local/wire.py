"""What AWS's protocols look like on the wire: whose call it is, which action, and what an error looks like.

Pure functions over a WSGI environment and a body. Knows the protocols of Batch (rest-json), S3 (rest-xml), CloudWatch Logs and
ECR (json), IAM and STS (query), EC2; nothing of what the calls do.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from gahp.local import validate

Answer = tuple[int, list[tuple[str, str]], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """What a signed request says about itself; `date`, `region` and what follows are empty for the old version 2."""

    access_key: str
    date: str = ""
    region: str = "us-east-1"
    service: str = "s3"
    headers: tuple[str, ...] = ()
    value: str = ""
    time: str = ""
    in_query: bool = False


def signature(environ: Mapping[str, Any]) -> Signature | None:
    """The signature of a request, from its Authorization header or its query; None if it has none that can be read."""
    header = environ.get("HTTP_AUTHORIZATION", "")
    if header.startswith("AWS4-HMAC-SHA256 "):
        fields = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", header))
        time = environ.get("HTTP_X_AMZ_DATE", "")
        return _version_4(fields.get("Credential", ""), fields.get("SignedHeaders", ""), fields.get("Signature", ""), time)
    if header.startswith("AWS "):
        return Signature(header[4:].partition(":")[0])
    query = {key: values[0] for key, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    if "X-Amz-Credential" in query:
        credential, headers, value, moment = (
            query.get(f"X-Amz-{name}", "") for name in ("Credential", "SignedHeaders", "Signature", "Date")
        )
        return _version_4(credential, headers, value, moment, in_query=True)
    if "AWSAccessKeyId" in query:
        return Signature(query["AWSAccessKeyId"])
    return None


def _version_4(credential: str, headers: str, value: str, time: str, in_query: bool = False) -> Signature | None:
    parts = credential.split("/")
    if len(parts) != 5:
        return None
    access_key, date, region, service = parts[:4]
    return Signature(access_key, date, region, service, tuple(headers.split(";")), value, time, in_query)


def is_genuine(signed: Signature, secret_key: str, environ: Mapping[str, Any], body: bytes) -> bool:
    """Whether the owner of `secret_key` signed this very request (Signature Version 4; version 2 is taken on its key alone)."""
    if not signed.date:
        return True
    path, _, query = str(environ["RAW_URI"]).partition("?")
    # S3 signs the path as it is; the others sign the encoded path encoded once more.
    path = quote(unquote(path), safe="/-_.~") if signed.service == "s3" else quote(path, safe="/-_.~")
    pairs = [(key, value) for key, _, value in (pair.partition("=") for pair in query.split("&") if pair)]
    canonical = sorted(
        f"{quote(unquote(key), safe='-_.~')}={quote(unquote(value), safe='-_.~')}"
        for key, value in pairs
        if key != "X-Amz-Signature"
    )
    sent: Mapping[str, list[str]] = environ["gahp.headers"]
    values = {name: ",".join(" ".join(value.split()) for value in sent.get(name, [""])) for name in signed.headers}
    headers = "".join(f"{name}:{value}\n" for name, value in values.items())
    payload = environ.get("HTTP_X_AMZ_CONTENT_SHA256") or ("UNSIGNED-PAYLOAD" if signed.in_query else _hash(body))
    request = "\n".join((environ["REQUEST_METHOD"], path, "&".join(canonical), headers, ";".join(signed.headers), payload))
    scope = f"{signed.date}/{signed.region}/{signed.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{signed.time}\n{scope}\n{_hash(request.encode())}"
    key = _signing_key(secret_key, signed.date, signed.region, signed.service)
    return hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), signed.value)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=64)
def _signing_key(secret_key: str, *scope: str) -> bytes:
    key = b"AWS4" + secret_key.encode()
    for word in (*scope, "aws4_request"):
        key = hmac.new(key, word.encode(), "sha256").digest()
    return key


@functools.cache
def _batch_operations() -> dict[str, str]:
    model = validate.service("batch")
    return {model.operation_model(name).http["requestUri"]: name for name in model.operation_names}


_S3_BUCKET = {"GET": "ListObjectsV2", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket", "POST": "PostBucket"}
_S3_OBJECT = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject", "POST": "PostObject"}
_TAG_CALLS = {"GET": "ListTagsForResource", "POST": "TagResource", "DELETE": "UntagResource"}


def action(service: str, environ: Mapping[str, Any], body: bytes) -> str:
    """The name of the operation, as botocore calls it; for the rarer ones of S3 a description."""
    method, path = environ["REQUEST_METHOD"], str(environ["RAW_URI"]).partition("?")[0]
    if service == "batch":
        return _TAG_CALLS.get(method, "") if path.startswith("/v1/tags/") else _batch_operations().get(path, "")
    if service == "s3":
        return _s3_action(method, path, dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)), environ)
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return str(target).rpartition(".")[2]
    form = parse_qs(body[:65536].decode("utf-8", "replace"))
    return form.get("Action", [""])[0]


def _s3_action(method: str, path: str, query: Mapping[str, str], environ: Mapping[str, Any]) -> str:
    bucket, _, key = path.lstrip("/").partition("/")
    if not bucket:
        return "ListBuckets"
    if not key:
        if "delete" in query:
            return "DeleteObjects"
        return "ListMultipartUploads" if "uploads" in query else _S3_BUCKET.get(method, method)
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(method, "ListParts")
    if "uploads" in query:
        return "CreateMultipartUpload"
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "CopyObject"
    return _S3_OBJECT.get(method, method)


def error(service: str, status: int, code: str, message: str) -> Answer:
    """An error as the service's protocol has it."""
    request_id = str(uuid.uuid4())
    if service == "batch" or service in ("logs", "ecr", "ecs"):
        headers = [("Content-Type", "application/json"), ("x-amzn-RequestId", request_id), ("x-amzn-errortype", code)]
        return status, headers, json.dumps({"__type": code, "message": message}).encode()
    inner = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if service == "s3":
        text = f"<Error>{inner}<RequestId>{request_id}</RequestId></Error>"
    elif service == "ec2":
        text = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    else:
        text = f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    headers = [("Content-Type", "application/xml"), ("x-amz-request-id", request_id)]
    return status, headers, b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode()
