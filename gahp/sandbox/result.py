"""The result object of a run: how it ended and the list of what came out. Pure but for reading the stream it is given.

A tar: exit.json, `files` (NUL-ended items, seven a record), then the small files. Everything in it is a stranger's word: types,
ranges and names are checked here, and place.py checks the names against what the job declared.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from gahp.model import to_bytes, to_text
from gahp.sandbox.outcome import Outcome, parse
from gahp.sandbox.tarstream import Member, Readable, damaged, members

MAX_OBJECT = 128 * 1024 * 1024
MAX_RECORDS = 200_000
_MAX_EXIT = 64 * 1024
_MAX_LIST = 64 * 1024 * 1024
_FIELDS = 7
_PLACE = re.compile(r"r|p0|s3|-|o[0-9]{1,7}")
_NUMBER = re.compile(r"[0-9]{1,16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"[0-7]{1,4}")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One line of the list.

    `kind`: f a file, d a directory, m missing, o standard output, e standard error. `declaration`: which of the job's outputs
    asked for it, None for those nobody asked for by name. `place`: r in the result, p0 in the pack out/p0, oN the object out/N,
    s3 at the URL that the user mapped it to, - no content. `name` is relative to the scratch directory.
    """

    kind: str
    declaration: int | None
    place: str
    size: int
    digest: str
    mode: int
    name: str

    @property
    def member(self) -> str:
        """Its name inside a tar of the runner's."""
        return self.name if self.kind in "oe" else "scratch/" + self.name


def read(stream: Readable) -> tuple[Outcome, list[Record], Iterator[Member]]:
    """How the run ended, what came out, and the small files themselves, to be read once and in order."""
    files = members(stream)
    outcome = parse(_text(files, "exit.json", _MAX_EXIT))
    return outcome, records(_text(files, "files", _MAX_LIST)), files


def _text(files: Iterator[Member], name: str, limit: int) -> bytes:
    member = next(files, None)
    if member is None or member.name != name:
        raise damaged(f"it has no {name}")
    if member.size > limit:
        raise damaged(f"its {name} is larger than {limit} bytes")
    parts = []
    while part := member.read(65536):
        parts.append(part)
    return b"".join(parts)


def records(data: bytes) -> list[Record]:
    """The records in the list `data`. Raises Refused when any of them is not what the runner writes."""
    items = data.split(b"\0")
    if items.pop() or len(items) % _FIELDS or len(items) > MAX_RECORDS * _FIELDS:
        raise damaged("its list of files has no sense or no end")
    return [_record([to_text(item) for item in items[i : i + _FIELDS]]) for i in range(0, len(items), _FIELDS)]


def _record(fields: Sequence[str]) -> Record:
    kind, declaration, place, size, digest, mode, name = fields
    has_content = kind in ("f", "o", "e")
    sound = (
        kind in ("f", "d", "m", "o", "e")
        and (declaration == "-" or (len(declaration) <= 7 and _NUMBER.fullmatch(declaration)))
        and _PLACE.fullmatch(place)
        and (place == "-") != has_content
        and _NUMBER.fullmatch(size)
        and (_DIGEST.fullmatch(digest) or not has_content)
        and _MODE.fullmatch(mode)
        and (kind not in ("o", "e") or (name == {"o": "stdout", "e": "stderr"}[kind] and place != "s3"))
    )
    if not sound:
        raise damaged("its list of files has no sense")
    if not (name == "" and kind == "d") and not _is_plain(name):
        raise damaged(f"its list names the file {name}, which is no name inside the job's scratch directory")
    return Record(kind, None if declaration == "-" else int(declaration), place, int(size), digest, int(mode, 8) & 0o777, name)


def _is_plain(name: str) -> bool:
    """Whether `name` is relative, without empty, `.` and `..` parts, and of a length that a file system takes."""
    data = to_bytes(name)
    parts = data.split(b"/")
    return len(data) <= 4096 and all(part not in (b"", b".", b"..") and len(part) <= 255 for part in parts)
