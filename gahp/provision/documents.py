"""The JSON files of compute environment, job queue and job definition: read, and checked against botocore's service model.

Everything that can be known without a call is said at once, each problem with the place it is at. Knows shapes; makes no calls.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import botocore.session
from botocore.model import ServiceModel, Shape

from gahp.model import Refused
from gahp.provision.settings import Kind, nearest

Document = dict[str, Any]

_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "string": ("a text", (str,)),
    "integer": ("a whole number", (int,)),
    "long": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "double": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "list": ("a list", (list,)),
    "map": ("an object", (dict,)),
    "structure": ("an object", (dict,)),
}
# Given by this program where a file leaves them out.
_FILLED_IN = {"computeEnvironment", *(kind.name_member for kind in Kind)}
_SHOWN = 5


@functools.cache
def _service() -> ServiceModel:
    return botocore.session.get_session().get_service_model("batch")


def shape_of(operation: str) -> Shape:
    """What a call of AWS Batch takes."""
    shape = _service().operation_model(operation).input_shape
    assert shape is not None
    return shape


def read(path: str, kind: Kind) -> Document:
    """The document of `kind` in a file. Raises Refused: unreadable, not JSON (line and column), or what is wrong in it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"--{kind.value}: {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Refused(f"--{kind.value}: {path} is not text in UTF-8 (byte {error.start}).") from error
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise Refused(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except ValueError as error:
        raise Refused(f"{path}: {error}.") from error
    except RecursionError:
        raise Refused(f"{path}: this is nested too deeply.") from None
    found = problems(shape_of(kind.operation), document)
    if found:
        more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
        text = f"{path}: {'; '.join(found[:_SHOWN])}{more}"
        raise Refused(text if text.endswith("?") else f"{text}.")
    return dict(document)


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    found: Document = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key} is there twice")
        found[key] = value
    return found


def problems(shape: Any, value: Any, where: str = "") -> list[str]:
    """What is wrong with `value`, a sentence's part each."""
    word, types = _TYPES.get(shape.type_name, ("", (object,)))
    fits: bool = isinstance(value, types)
    if not fits or (isinstance(value, bool) and shape.type_name != "boolean"):
        return [f"{where or 'the file'} has to be {word}"]
    if shape.type_name == "structure":
        return _structure(shape, value, where)
    if shape.type_name == "list":
        inner = (problems(shape.member, entry, f"{where}[{number}]") for number, entry in enumerate(value))
        return [text for texts in inner for text in texts]
    if shape.type_name == "map":
        inner = (problems(shape.value, entry, f"{where}.{key}") for key, entry in value.items())
        return [text for texts in inner for text in texts]
    words = getattr(shape, "enum", None)
    if words and value not in words:
        return [f"{where} is {value!r} and has to be one of {', '.join(words)}"]
    return []


def _structure(shape: Any, value: Document, where: str) -> list[str]:
    dot = f"{where}." if where else ""
    found = []
    for name, entry in value.items():
        if name in shape.members:
            found += problems(shape.members[name], entry, dot + name)
        else:
            found.append(f"there is no {dot}{name}: did you mean {dot}{nearest(name, list(shape.members))}?")
    missing = (name for name in shape.required_members if name not in value and name not in _FILLED_IN)
    return found + [f"{dot}{name} is missing" for name in missing]
