"""A price list that the user gives, as JSON or CSV, and what a job costs by it. Knows no price itself: AWS's change.

JSON: {"currency": "USD", "queues": {"fargate": {"vcpu_hour": 0.04048, "gb_hour": 0.004445}, "*": {"vcpu_hour": 0.03}}}
CSV:  queue,vcpu_hour,gb_hour,gpu_hour,currency   with one line a queue; the last two columns may be left out

A queue's name may hold * and ?; the first one that fits counts. A GB is 2^30 bytes, as in AWS's lists.
"""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from gahp.model import Refused, one_line

_FIELDS = ("vcpu_hour", "gb_hour", "gpu_hour")
_FORM = 'write {"currency": "USD", "queues": {"*": {"vcpu_hour": 0.04, "gb_hour": 0.004}}}, or CSV with queue,vcpu_hour,gb_hour'
_MOST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """Of one hour, in the list's currency."""

    vcpu_hour: float = 0.0
    gb_hour: float = 0.0
    gpu_hour: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """Prices by patterns of queue names, in the order of the list."""

    queues: tuple[tuple[str, Price], ...]
    currency: str = "USD"

    def of(self, queue: str) -> Price | None:
        """The price in a queue; None if the list has none."""
        return next((price for pattern, price in self.queues if fnmatch.fnmatchcase(queue, pattern)), None)


def cost(price: Price, hours: float, cpus: float | None, memory_mib: float | None, gpus: float | None) -> float:
    """What so many hours cost with what a job asked for."""
    return hours * (price.vcpu_hour * (cpus or 0) + price.gb_hour * (memory_mib or 0) / 1024 + price.gpu_hour * (gpus or 0))


def read_prices(path: str) -> Prices:
    """The price list in a file. Raises Refused with what is wrong in it."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise Refused(f"The price list {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Refused(f"The price list {path} is not text in UTF-8 (byte {error.start}).") from error
    if len(text) > _MOST_BYTES:
        raise Refused(f"The price list {path} is larger than 1 MiB: {_FORM}.")
    try:
        found = _from_json(text) if text.lstrip().startswith(("{", "[")) else _from_csv(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise Refused(one_line(f"The price list {path} cannot be understood: {error}; {_FORM}.")) from error
    if not found.queues:
        raise Refused(f"The price list {path} has no queue: {_FORM}.")
    return found


def _from_json(text: str) -> Prices:
    value = json.loads(text)
    queues = value.get("queues") if isinstance(value, dict) else None
    if not isinstance(queues, dict):
        raise ValueError('it has no object "queues"')
    rows = []
    for name, fields in queues.items():
        if not isinstance(fields, dict):
            raise ValueError(f"{name} is no object")
        rows.append((str(name), _price(name, fields)))
    return Prices(tuple(rows), _currency(value.get("currency")))


def _from_csv(text: str) -> Prices:
    rows: list[tuple[str, Price]] = []
    currency = ""
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    if "queue" not in (reader.fieldnames or ()):
        raise ValueError("its first line has no column queue")
    for fields in reader:
        name = (fields.get("queue") or "").strip()
        if name:
            rows.append((name, _price(name, {key: text for key in _FIELDS if (text := (fields.get(key) or "").strip())})))
            currency = currency or (fields.get("currency") or "").strip()
    return Prices(tuple(rows), _currency(currency))


def _price(name: str, fields: Mapping[str, Any]) -> Price:
    unknown = sorted(set(map(str, fields)) - set(_FIELDS))
    if unknown:
        raise ValueError(f"{name} has {unknown[0]}, which is none of {', '.join(_FIELDS)}")
    values = {}
    for key, given in fields.items():
        try:
            values[key] = float(given)
        except (TypeError, ValueError):
            raise ValueError(f"{key} of {name} is {given!r} and no number") from None
        if not 0 <= values[key] < 1e6 or not math.isfinite(values[key]):
            raise ValueError(f"{key} of {name} is {given!r}, which is no price")
    return Price(**values)


def _currency(given: Any) -> str:
    return one_line(str(given), 12) if given else "USD"
