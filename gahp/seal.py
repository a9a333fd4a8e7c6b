"""The record of a run that lies in S3: one line to make a journal anew from, with a seal that only its own journal can make."""

from __future__ import annotations

import hashlib
import hmac
import json

from gahp.model import JobRequest, decode_request
from gahp.run import Run, RunState

_RECORD = ("name", "directory", "digest", "generation", "queue", "predecessor", "created", "submission", "sends")


def seal(run: Run, request: str, secret: bytes) -> str:
    """The record of a run and its encoded request."""
    text = json.dumps({**{column: getattr(run, column) for column in _RECORD}, "request": request})
    return f"{_code(text, secret)} {text}"


def opened(record: str, secret: bytes) -> tuple[Run, JobRequest] | None:
    """Run and request from a record that was sealed with `secret`; None for anybody else's."""
    code, _, text = record.partition(" ")
    if not secret or not hmac.compare_digest(code.encode("utf-8", "replace"), _code(text, secret).encode()):
        return None
    fields = json.loads(text)
    request = decode_request(fields.pop("request"))
    return Run(**fields, state=RunState.REBUILT), request


def _code(text: str, secret: bytes) -> str:
    return hmac.new(secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
