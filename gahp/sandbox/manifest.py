"""The manifest: one object with the runner and, behind it, all that one job needs. Pure but for reading the small files.

    runner.sh         a bash script; its second line says where the payload begins, its third what the payload is
    tar (GNU format)  job/record, of a single job: what the submit host needs to know the run again, nothing for the runner
                      job/settings job/arguments job/environment job/inputs job/outputs job/remaps: lists, each item ended by NUL
                      scratch/...  small inputs and all directories, with their names and modes
                      stdin, proxy  when they are there and small

What one job needs is made as a *part*, which is that tar gzipped, with the record before it. The manifest of a single job holds
both in one tar; the one of a pack, an array job, holds the gzipped tars of all its children, or says where they are:

    a shard           a table, 22 bytes a child ("BEGIN LENGTH" and a newline, ten digits each, bytes from 1), then the tars, then
                      the records, a line each, gzipped together: alike as they are, they take a quarter of what they would alone
    PACK=1            the payload is a shard with all children
    PACK=2            the payload is a line for each shard, the index of its first child; they are objects beside the manifest

Items of job/settings are `name=value`; of job/inputs six items make a record: kind (blob, pack, url, mount), source (the
SHA-256 of a blob, the URL, or the path below a mount), size, SHA-256, mode (octal or empty), place; of job/remaps two: name, and
an s3 URL or "-".
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import itertools
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import IO

from gahp.model import JobRequest, Refused, Transient, to_bytes, to_text
from gahp.sandbox import names
from gahp.sandbox.inputs import Inputs, LocalFile
from gahp.sandbox.tarstream import Readable, members

SMALL_FILE = 64 * 1024
SMALL_TOTAL = 256 * 1024
PACK_TOTAL = 64 * 1024 * 1024
SHARD = 256 * 1024
"""The most bytes that a child reads to find its part, unless that alone is larger; the script itself is not counted."""
_HEADER = b"PAYLOAD=0000000000"
_PACK = b"\nPACK=0"
_ENTRY = 22
_RECORD = 128  # about what a record takes among others like it
_LENGTH = 10
_BLOCK = 512
_HEAD = 400
_MAX_SCRIPT = 1024 * 1024
_MAX_RECORD = 4 * 1024 * 1024
_MAX_RECORDS = 256 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A file or a pack of files that lies in S3 by content."""

    kind: str
    digest: str
    size: int
    mode: int | None = None
    place: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Which way each file travels: inside the manifest, in packs of small ones, or as a blob of its own."""

    inside: tuple[LocalFile, ...]
    packs: tuple[tuple[LocalFile, ...], ...]
    blobs: tuple[LocalFile, ...]


def split(files: Iterable[LocalFile]) -> Split:
    """Small files go inside until SMALL_TOTAL is full (headers counted), then into packs; larger ones are blobs. The order is
    kept, so that the same files make the same packs and are stored once."""
    inside: list[LocalFile] = []
    packs: list[list[LocalFile]] = []
    blobs: list[LocalFile] = []
    inside_total = pack_total = 0
    for file in files:
        cost = 2 * _BLOCK + file.size
        if file.size > SMALL_FILE:
            blobs.append(file)
        elif file.place == "proxy" or inside_total + cost <= SMALL_TOTAL:
            inside.append(file)
            inside_total += cost
        else:
            if not packs or pack_total + cost > PACK_TOTAL:
                packs.append([])
                pack_total = 0
            packs[-1].append(file)
            pack_total += cost
    return Split(tuple(inside), tuple(map(tuple, packs)), tuple(blobs))


def write_pack(files: Iterable[LocalFile], target: IO[bytes]) -> None:
    """Write `files` as a tar that depends on their places, modes and contents only."""
    with _tar(target) as tar:
        for file in files:
            _add_file(tar, file)


def part(
    request: JobRequest,
    inputs: Inputs,
    inside: Iterable[LocalFile],
    stored: Iterable[Stored],
    *,
    record: str = "",
    identity: Mapping[str, str | int] | None = None,
) -> bytes:
    """What the job of `request` needs, as `single` and `pack` take it. Raises Refused or Transient when a file cannot be read as
    it was found.

    `record`: one line. `identity`: the run, submission and sends that a child of a pack finds here; a single job has them in its
    environment.
    """
    # By hand: tarfile takes most of the time that a job takes here.
    pieces: list[bytes] = []
    for name, items in _lists(request, inputs, stored, identity or {}).items():
        pieces += _member(f"job/{name}", 0o600, b"".join([to_bytes(item) + b"\0" for item in items]))
    pieces += [_head(place, mode, 0, tarfile.DIRTYPE) for place, mode in inputs.directories]
    for file in inside:
        pieces += _member(file.place, file.mode, _content(file))
    kept = to_bytes(record)
    return b"%010d%b%b" % (len(kept), kept, gzip.compress(b"".join([*pieces, b"\0" * (2 * _BLOCK)]), 6, mtime=0))


def _apart(part: bytes) -> tuple[bytes, bytes]:
    """The record and the gzipped tar of a part."""
    end = _LENGTH + int(part[:_LENGTH])
    return part[_LENGTH:end], part[end:]


def single(part: bytes) -> bytes:
    """The manifest of a job with this part."""
    record, body = _apart(part)
    return b"".join([_script(0), *_member("job/record", 0o600, record), gzip.decompress(body)])


def pack(parts: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The manifest of an array job whose children have these parts, and the shards that lie beside it (none if all fits)."""
    groups: list[list[tuple[bytes, bytes]]] = [[]]
    size = 0
    for entry in map(_apart, parts):
        cost = _ENTRY + len(entry[1]) + _RECORD
        if size and size + cost > SHARD:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += cost
    made = [shard for group in groups for shard in _shards(group)]
    if len(made) == 1:
        return _script(1) + made[0][1], []
    firsts = itertools.accumulate((count for count, _ in made), initial=0)
    return _script(2) + b"".join(b"%d\n" % first for first, _ in zip(firsts, made, strict=False)), [shard for _, shard in made]


def _shards(entries: list[tuple[bytes, bytes]]) -> Iterator[tuple[int, bytes]]:
    """One shard of these children, with their number; of two halves if it is too large after all."""
    table, begin = [], 1 + _ENTRY * len(entries)
    for _, body in entries:
        table.append(b"%010d %010d\n" % (begin, len(body)))
        begin += len(body)
    records = gzip.compress(b"\n".join([record for record, _ in entries]), 6, mtime=0)
    shard = b"".join((*table, *(body for _, body in entries), records))
    if len(shard) <= SHARD or len(entries) == 1:
        yield len(entries), shard
    else:
        half = len(entries) // 2
        yield from _shards(entries[:half])
        yield from _shards(entries[half:])


def _script(kind: int) -> bytes:
    script = runner()
    script = script.replace(_PACK, b"\nPACK=%d" % kind, 1)
    return script.replace(_HEADER, b"PAYLOAD=%010d" % (len(script) + 1), 1)


def read_head(stream: Readable) -> int | None:
    """Read over the script of a manifest: what is behind it, as its PACK says; None when this is no manifest."""
    head = stream.read(_HEAD)
    found = re.search(rb"^PAYLOAD=([0-9]{10})", head, re.MULTILINE)
    offset = int(found[1]) - 1 if found else 0
    if not len(head) <= offset <= _MAX_SCRIPT:
        return None
    left = offset - len(head)
    while left and (data := stream.read(left)):
        left -= len(data)
    kind = re.search(rb"^PACK=([012])", head, re.MULTILINE)
    return int(kind[1]) if kind else 0


def read_shard(shard: bytes) -> list[str]:
    """The record of every child of a shard, in order; "" where there is none."""
    count = (int(shard[:10]) - 1) // _ENTRY if shard[:10].isdigit() else 0
    if count < 1:
        return []
    try:
        begin, length = map(int, shard[_ENTRY * (count - 1) : _ENTRY * count].split())
        with gzip.GzipFile(fileobj=io.BytesIO(shard[begin - 1 + length :])) as file:
            records = file.read(_MAX_RECORDS).split(b"\n")
    except (ValueError, OSError, EOFError, zlib.error):
        records = []
    return [to_text(record) for record in records] if len(records) == count else [""] * count


def read_record(stream: Readable) -> str:
    """The record in the tar of a job; "" when it has none."""
    try:
        first = next(members(stream), None)
        if first is None or first.name != "job/record" or first.size > _MAX_RECORD:
            return ""
        pieces = []
        while piece := first.read(65536):
            pieces.append(piece)
    except Refused:
        return ""
    return to_text(b"".join(pieces))


@functools.cache
def runner() -> bytes:
    """The runner as it is packaged, without a payload."""
    return resources.files("gahp.sandbox").joinpath("runner.sh").read_bytes()


def _lists(
    request: JobRequest, inputs: Inputs, stored: Iterable[Stored], identity: Mapping[str, str | int]
) -> dict[str, list[str]]:
    records: list[str] = []
    for item in stored:
        mode = "" if item.mode is None else f"{item.mode:o}"
        records += [item.kind, item.digest, str(item.size), item.digest, mode, item.place]
    for place, url in inputs.urls:
        records += ["url", url, "", "", "", place]
    for path, file in inputs.mounted:
        records += ["mount", path, str(file.size), "", f"{file.mode:o}", file.place]
    return {
        "settings": [f"{key}={value}" for key, value in {**_settings(request, inputs), **identity}.items()],
        "arguments": list(request.arguments),
        "environment": [f"{key}={value}" for key, value in request.environment],
        "inputs": records,
        "outputs": [names.output_name(name) for name in request.outputs or ()],
        "remaps": [text for pair in names.runner_remaps(request.remaps) for text in pair],
    }


def _settings(request: JobRequest, inputs: Inputs) -> dict[str, str]:
    places = {file.place for file in inputs.files} | {file.place for _, file in inputs.mounted}
    return {
        "executable": inputs.program,
        "staged": "1" if inputs.staged else "0",
        "directory": inputs.directory,
        "stdin": "1" if "stdin" in places else "0",
        "stdout": "discard" if request.stdout in names.DISCARD else "keep",
        "stderr": _stderr(request),
        "outputs": "auto" if request.outputs is None else "listed",
        "proxy": "1" if "proxy" in places else "0",
        "input_bytes": str(sum(file.size for file in inputs.files)),
    }


def merged(request: JobRequest) -> bool:
    """Whether standard output and standard error go to one file of the submit host."""
    if request.stdout in names.DISCARD or request.stderr in names.DISCARD:
        return False
    paths = [os.path.realpath(os.path.join(request.iwd, name)) for name in (request.stdout, request.stderr)]
    return paths[0] == paths[1]


def _stderr(request: JobRequest) -> str:
    if request.stderr in names.DISCARD:
        return "discard"
    return "stdout" if merged(request) else "keep"


def _tar(target: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape")


def _entry(name: str, mode: int, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, size
    return entry


def _member(name: str, mode: int, data: bytes) -> list[bytes]:
    """A regular file as a tar has it."""
    return [_head(name, mode, len(data)), data, b"\0" * (-len(data) % _BLOCK)]


@functools.lru_cache(maxsize=4096)
def _head(name: str, mode: int, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member, with those for a long name before it."""
    entry = _entry(name, mode, size)
    entry.type = kind
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _content(file: LocalFile) -> bytes:
    with open_unchanged(file) as content:
        data = content.read(file.size + 1)
        require_unchanged(file, content)
    if len(data) != file.size:
        raise Transient(f"The input {file.path} changed while it was being read; it is read again.")
    return data


def _add_file(tar: tarfile.TarFile, file: LocalFile) -> None:
    with open_unchanged(file) as content:
        tar.addfile(_entry(file.place, file.mode, file.size), content)
        require_unchanged(file, content)


def open_unchanged(file: LocalFile) -> IO[bytes]:
    """Open `file` for reading, or raise: Refused when it has gone, Transient when it is no longer the file that was found."""
    try:
        content = open(file.path, "rb")  # noqa: SIM115  handed to the caller
    except OSError as error:
        raise Refused(f"The input {file.path} can no longer be read ({error.strerror}): mend it and release the job.") from None
    try:
        require_unchanged(file, content)
    except BaseException:
        content.close()
        raise
    return content


def require_unchanged(file: LocalFile, content: IO[bytes]) -> None:
    """Raise Transient when the open `content` is not, or no longer, what `file` says."""
    status = os.fstat(content.fileno())
    if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != file.identity:
        raise Transient(f"The input {file.path} changed while it was being read; it is read again.")
