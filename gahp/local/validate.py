"""Values against botocore's service model: shape, type, required members, bounds, pattern, enumeration.

botocore itself checks what a client sends for shape and bounds, but neither patterns nor enumerations, and answers not at all.
`violations` serves the embedded AWS; `watch_client` makes a boto3 client raise ModelViolation for anything that it sends or
receives and the model does not allow.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import re
from collections.abc import Mapping
from typing import Any

import botocore.session
from botocore.model import ServiceModel, Shape

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "character": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (float, int, decimal.Decimal),
    "double": (float, int, decimal.Decimal),
    "boolean": (bool,),
    "timestamp": (datetime.datetime, int, float, str),
}


class ModelViolation(AssertionError):
    """A request or an answer that the service model does not allow."""


@functools.cache
def service(name: str) -> ServiceModel:
    """botocore's model of a service."""
    return botocore.session.get_session().get_service_model(name)


def violations(shape: Shape | None, value: Any, where: str = "") -> list[str]:
    """What is wrong with `value`, one sentence each; [] if nothing is. null counts as absent, as it does in AWS's JSON."""
    if shape is None:
        return [f"{where or 'body'}: nothing is expected here"] if value else []
    kind = shape.type_name
    if kind == "structure":
        return _structure(shape, value, where)
    if kind == "list":
        if not isinstance(value, (list, tuple)):
            return [f"{where}: {type(value).__name__} instead of list"]
        inner = (violations(shape.member, entry, f"{where}[{index}]") for index, entry in enumerate(value))
        return [*_bounds(shape, len(value), where), *(text for texts in inner for text in texts)]
    if kind == "map":
        if not isinstance(value, Mapping):
            return [f"{where}: {type(value).__name__} instead of map"]
        found = _bounds(shape, len(value), where)
        for key, entry in value.items():
            found += violations(shape.key, key, f"{where}.{key} (key)") + violations(shape.value, entry, f"{where}.{key}")
        return found
    return _scalar(shape, value, where)


def _structure(shape: Any, value: Any, where: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{where or 'body'}: {type(value).__name__} instead of structure"]
    found = [f"{where}.{name}: is required" for name in shape.required_members if value.get(name) is None]
    for name, entry in value.items():
        if name not in shape.members:
            if not (name == "ResponseMetadata" and not where):
                found.append(f"{where}.{name}: is not in the model")
        elif entry is not None:
            found += violations(shape.members[name], entry, f"{where}.{name}")
    return found


def _scalar(shape: Any, value: Any, where: str) -> list[str]:
    kind = shape.type_name
    # A blob or a document may be anything.
    right: Any = _TYPES.get(kind, object)
    if not isinstance(value, right) or (kind != "boolean" and isinstance(value, bool)):
        return [f"{where}: {type(value).__name__} instead of {kind}"]
    found = []
    if kind == "string":
        found += _bounds(shape, len(value), where)
        pattern, words = shape.metadata.get("pattern"), getattr(shape, "enum", None)
        if pattern and not _matches(pattern, value):
            found.append(f"{where}: {value!r} does not match {pattern}")
        if words and value not in words:
            found.append(f"{where}: {value!r} is none of {', '.join(words)}")
    elif kind in ("integer", "long", "float", "double"):
        found += _bounds(shape, value, where)
        bits = {"integer": 31, "long": 63}.get(kind)
        if bits and not -(1 << bits) <= value < 1 << bits:
            found.append(f"{where}: {value} is no {kind}")
    return found


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except re.error:
        # Some patterns use Java's character classes, which Python has not.
        return None


def _matches(pattern: str, value: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is None or compiled.search(value) is not None


def _bounds(shape: Any, size: Any, where: str) -> list[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    found = []
    if low is not None and size < low:
        found.append(f"{where}: {size} is under the minimum of {low}")
    if high is not None and size > high:
        found.append(f"{where}: {size} is over the maximum of {high}")
    return found


def watch_client(client: Any) -> Any:
    """Make a boto3 client check every request it sends and every answer it gets. Returns the client."""
    name = client.meta.service_model.service_name

    def sent(params: Mapping[str, Any], model: Any, **_: Any) -> None:
        _demand(f"request {model.name}", violations(model.input_shape, params))

    def received(http_response: Any, parsed: Mapping[str, Any], model: Any, **_: Any) -> None:
        if http_response.status_code < 300:
            answer = {key: value for key, value in parsed.items() if key != "ResponseMetadata"}
            _demand(f"answer to {model.name}", violations(model.output_shape, answer))

    # `provide-client-params` comes before botocore changes anything; it may return None to leave the parameters alone.
    client.meta.events.register(f"provide-client-params.{name}", sent)
    client.meta.events.register(f"after-call.{name}", received)
    return client


def _demand(what: str, found: list[str]) -> None:
    if found:
        raise ModelViolation(f"{what}: {'; '.join(found)}")
