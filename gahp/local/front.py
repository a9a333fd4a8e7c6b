"""The WSGI application: credentials, faults and bookkeeping for every call; job calls to the engine, all others to moto.

Also the control endpoint /_local/, for this project's own tools and tests: it takes the secret key in the header X-Local-Secret.
"""

from __future__ import annotations

import collections
import hmac
import io
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gahp.local import faults, rules, wire
from gahp.local.batch_api import BatchApi, parse, tidy
from gahp.local.engine import Engine
from gahp.local.entities import Entities
from gahp.local.submission import ClientError
from gahp.local.wire import Answer, Signature

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_RECENT = 10000


class Drop(Exception):
    """Close the connection without an answer; with a reset if asked for."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


class Front:
    """The endpoint as one application."""

    def __init__(
        self,
        moto: Wsgi,
        api: BatchApi,
        engine: Engine,
        entities: Entities,
        weather: faults.Faults,
        *,
        access_key: str,
        secret_key: str,
        forget_all: Callable[[], None],
    ) -> None:
        self._moto, self._api, self._engine, self._entities, self._faults = moto, api, engine, entities, weather
        self._access_key, self._secret_key = access_key, secret_key
        self._forget_all = forget_all
        self._calls: collections.Counter[str] = collections.Counter()
        self._requests: collections.deque[dict[str, Any]] = collections.deque(maxlen=_RECENT)
        self._since = time.time()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        path = str(environ["RAW_URI"]).partition("?")[0]
        if path.startswith("/_local/"):
            status, headers, content = self._control(environ, path.removeprefix("/_local/"), body)
        else:
            try:
                status, headers, content = self._serve(environ, body)
            except Drop:
                raise
            except Exception:
                # A bug of ours or of moto: the client gets what AWS would give, the log the whole story.
                traceback.print_exc()
                self._api.violations.append(f"{environ['REQUEST_METHOD']} {path}: {traceback.format_exc(limit=-1)}")
                signed = wire.signature(environ)
                status, headers, content = wire.error(
                    signed.service if signed else "s3", 500, "InternalError", "An internal error occurred."
                )
        start_response(f"{status} {'OK' if status < 300 else 'Error'}", headers)
        return [content]

    def _serve(self, environ: dict[str, Any], body: bytes) -> Answer:
        signed = wire.signature(environ)
        service = signed.service if signed else "s3"
        if refused := self._refuse(signed, environ, body):
            return refused
        assert signed is not None
        action = wire.action(service, environ, body)
        name = f"{service}:{action}"
        self._calls[name] += 1
        verdict = self._faults.judge(service, action)
        if verdict.delay_s:
            time.sleep(verdict.delay_s)
        if verdict.reset:
            self._note(name, environ, body, "reset")
            raise Drop(reset=True)
        answer = _fault_answer(service, verdict) or self._answer(signed, action, environ, body)
        self._note(name, environ, body, "lost" if verdict.lose_reply else answer[0])
        if verdict.lose_reply:
            raise Drop(reset=False)
        return answer

    def _note(self, name: str, environ: Mapping[str, Any], body: bytes, outcome: object) -> None:
        entry: dict[str, Any] = {"time": time.time(), "action": name, "path": environ["RAW_URI"], "outcome": outcome}
        if name.startswith("batch:"):
            entry["body"] = body.decode("utf-8", "replace")
        self._requests.append(entry)

    def _refuse(self, signed: Signature | None, environ: Mapping[str, Any], body: bytes) -> Answer | None:
        """The answer to a request that nobody with our keys has signed."""
        if signed is None:
            return wire.error("s3", 403, "AccessDenied", "Access Denied")
        s3 = signed.service == "s3"
        if not hmac.compare_digest(signed.access_key.encode(), self._access_key.encode()):
            if s3:
                text = "The AWS Access Key Id you provided does not exist in our records."
                return wire.error("s3", 403, "InvalidAccessKeyId", text)
            code = "UnrecognizedClientException" if signed.service in ("batch", "logs", "ecr", "ecs") else "InvalidClientTokenId"
            return wire.error(signed.service, 403, code, "The security token included in the request is invalid.")
        if not wire.is_genuine(signed, self._secret_key, environ, body):
            code = "InvalidSignatureException" if signed.service in ("batch", "logs", "ecr", "ecs") else "SignatureDoesNotMatch"
            text = "The request signature we calculated does not match the signature you provided. Check your key."
            return wire.error(signed.service, 403, code, text)
        return None

    def _answer(self, signed: Signature, action: str, environ: dict[str, Any], body: bytes) -> Answer:
        if signed.service != "batch":
            return self._ask_moto(environ, body)
        if not action:
            return wire.error("batch", 404, "UnknownOperationException", "There is no such operation.")
        try:
            if self._api.handles(action):
                return _json(self._api.call(action, signed.region, body))
            if environ["REQUEST_METHOD"] == "POST" and action != "TagResource":
                body = rules.prepared(signed.region, action, parse(action, body))
            answer = self._ask_moto(environ, body)
        except ClientError as error:
            return wire.error("batch", error.status, error.code, str(error))
        if action == "UpdateComputeEnvironment" and answer[0] == 200:
            request = parse(action, body)
            self._entities.resize(signed.region, request["computeEnvironment"], request.get("computeResources") or {})
        if not action.startswith(("Describe", "List", "Get")):
            self._entities.forget()
            self._engine.reconsider()
        if answer[0] != 200 or not answer[2]:
            return answer
        content = tidy(json.loads(answer[2]))
        for entry in [*content.get("computeEnvironments", []), *content.get("jobQueues", [])]:
            if shown := self._faults.entity_status(entry.get("computeEnvironmentName") or entry["jobQueueName"]):
                entry["status"], entry["statusReason"] = shown
        self._api.check_answer(action, content)
        return _json(content)

    def _ask_moto(self, environ: dict[str, Any], body: bytes) -> Answer:
        path = str(environ["PATH_INFO"])
        if path.startswith(("/moto-api", "/latest/")):
            return wire.error("s3", 404, "NoSuchBucket", "The specified bucket does not exist")
        answer: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
            answer[:] = [int(status[:3]), headers]

        content = self._moto({**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}, start_response)
        try:
            return answer[0], answer[1], b"".join(content)
        finally:
            if close := getattr(content, "close", None):
                close()

    # -- the control endpoint

    def _control(self, environ: Mapping[str, Any], path: str, body: bytes) -> Answer:
        if not hmac.compare_digest(environ.get("HTTP_X_LOCAL_SECRET", "").encode(), self._secret_key.encode()):
            return _json({"error": "X-Local-Secret is missing or wrong"}, 403)
        try:
            given = json.loads(body or b"{}")
            return self._order(f"{environ['REQUEST_METHOD']} {path}", given)
        except (KeyError, TypeError, ValueError) as error:
            return _json({"error": str(error)}, 400)

    def _order(self, order: str, given: dict[str, Any]) -> Answer:
        if order == "GET status":
            return _json({"since": self._since, "jobs": self._engine.counts()})
        if order == "GET calls":
            return _json(dict(self._calls))
        if order == "GET requests":
            return _json(list(self._requests))
        if order == "GET violations":
            return _json(self._api.violations)
        if order == "GET faults":
            return _json(self._faults.listed())
        if order == "POST faults":
            self._faults.add(faults.parse(given))
        elif order == "POST seed":
            self._faults.seed(int(given["seed"]))
        elif order == "DELETE faults":
            self._faults.clear(given.get("kind", ""))
        elif order == "DELETE calls":
            self._calls.clear()
            self._requests.clear()
        elif order == "POST vanish":
            return _json({"found": self._engine.vanish(given["jobId"])})
        elif order == "POST reset":
            self._reset()
        else:
            return _json({"error": f"no such order: {order}"}, 404)
        # A job that was held back may go now.
        self._engine.reconsider()
        return _json({})

    def _reset(self) -> None:
        self._faults.clear()
        self._engine.reset()
        self._forget_all()
        self._entities.forget()
        self._calls.clear()
        self._requests.clear()
        self._api.violations.clear()


def _json(content: object, status: int = 200) -> Answer:
    return status, [("Content-Type", "application/json")], json.dumps(content).encode()


def _fault_answer(service: str, verdict: faults.Verdict) -> Answer | None:
    """What the client gets instead of its call; the words are those of the service."""
    json_service = service in ("batch", "logs", "ecr", "ecs")
    if verdict.expired:
        code = "ExpiredTokenException" if json_service else "ExpiredToken"
        return wire.error(service, 400 if service == "s3" else 403, code, "The security token included in the request is expired")
    if verdict.throttled:
        if service == "s3":
            return wire.error(service, 503, "SlowDown", "Please reduce your request rate.")
        if service == "batch":
            return wire.error(service, 429, "TooManyRequestsException", "Too Many Requests")
        return wire.error(service, 400, "ThrottlingException" if json_service else "Throttling", "Rate exceeded")
    if verdict.refusal:
        status, code, message = verdict.refusal
        usual = "InternalError" if service == "s3" else "ServerException" if status >= 500 else "ClientException"
        return wire.error(service, status, code or usual, message)
    return None
