"""GETs from S3 as boto3 has made one before, signed and sent by botocore's own parts, without the layers between.

A job's end is one GET. boto3 takes three times the CPU for it, for what a repeated GET does not need: rules for endpoints,
hooks, models of the answer. By which URL, in which Region and how it is signed is learnt from a GET that boto3 has made. Whatever
is not answered by 200 is left to boto3, which knows redirects, retries and errors.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    """To the objects of one bucket: their URLs without the keys, and for whom a request is signed."""

    url: str
    service: str
    region: str


class Shortcut:
    """GETs of one boto3 client for S3, by its connections. Threads may share it. `credentials`: what botocore asks for keys.
    `tell`: called with the HTTP status (0: none came) and the seconds of each."""

    def __init__(self, client: Any, credentials: Any, tell: Callable[[int, float], None] = lambda *_: None) -> None:
        self._credentials = credentials
        self._tell = tell
        # With the proxies, certificates and time-outs that it has been given. One without it is never taught a way.
        self._http: Any = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._agent = client.meta.config.user_agent
        self._ways: dict[str, _Way] = {}
        client.meta.events.register("before-parameter-build.s3.GetObject", self._note)
        client.meta.events.register("after-call.s3.GetObject", self._learn)

    def get(self, bucket: str, key: str) -> dict[str, Any] | None:
        """ContentLength and Body of an object, as boto3's get_object has them; None: ask boto3."""
        way = self._ways.get(bucket)
        if way is None:
            return None
        request = AWSRequest("GET", way.url + _quoted(key), headers={"User-Agent": self._agent}, stream_output=True)
        status, begun = 0, time.perf_counter()
        try:
            keys = self._credentials.get_frozen_credentials()
            S3SigV4Auth(keys, way.service, way.region).add_auth(request)
            response = self._http.send(request.prepare())
            status = response.status_code
            if status == 200:
                length = int(response.headers["Content-Length"])
                return {"ContentLength": length, "Body": StreamingBody(response.raw, length)}
            response.raw.close()
        except (BotoCoreError, ClientError, LookupError, ValueError):
            pass
        finally:
            self._tell(status, time.perf_counter() - begun)
        # The bucket may have moved, its policy may want another way: boto3 finds out, and teaches it here.
        self._ways.pop(bucket, None)
        return None

    @staticmethod
    def _note(params: dict[str, Any], context: dict[str, Any] | None = None, **_: Any) -> None:
        if context is not None:
            context[_ASKED] = params.get("Bucket", ""), params.get("Key", "")

    def _learn(self, http_response: Any, context: dict[str, Any] | None = None, **_: Any) -> None:
        context = context or {}
        bucket, key = context.get(_ASKED, ("", ""))
        signing, tail = context.get("signing", {}), _quoted(key)
        known = http_response.status_code == 200 and context.get("auth_type") == "v4" and "region" in signing
        if self._http and known and tail and http_response.url.endswith(tail):
            url = http_response.url.removesuffix(tail)
            self._ways[bucket] = _Way(url, signing.get("signing_name", "s3"), signing["region"])


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


_ASKED = "gahp-get"
