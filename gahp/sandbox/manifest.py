"""The manifest: one object with the runner and, behind it, all that one job needs. Pure but for reading the small files.

    runner.sh         a bash script; its second line says where the payload begins, its third what the payload is
    tar (GNU format)  job/record, of a single job: what the submit host needs to know the run again, nothing for the runner
                      job/settings job/arguments job/environment job/inputs job/outputs job/remaps: lists, each item ended by NUL
                      scratch/...  small inputs and all directories, with their names and modes
                      stdin, proxy  when they are there and small

What one job needs is made as a *part*: its record, and the rest of that tar. The manifest of a single job holds both in one tar.
The one of a pack, an array job, holds the tars of all its children, or says where they are; neighbours are gzipped together,
because alike as they are they take a fifth of what they would alone:

    a block           up to 64 children, gzipped: the lengths of their tars, ten digits and a newline each; then the tars, without
                      the zeroes that end one, which cost a third more
    the payload       a directory, 43 bytes a block ("FIRST COUNT SHARD BEGIN LENGTH" and a newline): the index of its first child
                      and how many it has; in which shard it is, 0 for the payload itself; where it begins in that, from 1, and
                      how long it is. Then all the blocks, or none
    a shard           an object beside the manifest: as many blocks as fit, when they are too many for the manifest
    the records       another: a line a child, gzipped; the runner never reads it

Items of job/settings are `name=value`; of job/inputs six items make a record: kind (blob, pack, url, mount), source (the
SHA-256 of a blob, the URL, or the path below a mount), size, SHA-256, mode (octal or empty), place; of job/remaps two: name, and
an s3 URL or "-".
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
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
"""The most bytes of a manifest or shard that a child reads to find its part, unless its block alone is larger; the script, and
the directory of a manifest with shards, are not counted."""
CHILDREN = 64
_RAW = 1024 * 1024  # of the tars in a block, unless one alone is larger
_LEVEL = 1  # an eighth larger than at 6, in less than half the time
_HEADER = b"PAYLOAD=0000000000"
_PACK = b"\nPACK=0000000000"
_ROW = b"%06d %06d %06d %010d %010d\n"
_ROW_BYTES = 43
_OBJECT = 64  # what Python takes for a piece beside its bytes, about
_PART = 240  # and for a part: itself, its tuple of pieces, its record beside the bytes
_TAR_BLOCK = 512
_PADDING = tuple(b"\0" * count for count in range(_TAR_BLOCK))
_HEAD = 400
_MAX_SCRIPT = 1024 * 1024
_MAX_RECORD = 4 * 1024 * 1024
_MAX_RECORDS = 128 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A file or a pack of files that lies in S3 by content."""

    kind: str
    digest: str
    size: int
    mode: int | None = None
    place: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class JobPart:
    """What one job needs: its record, and the pieces of its tar but for the zeroes at the end. Its length is what it takes in
    memory: the heads of the lists and all padding, which the parts of other jobs share, are not counted."""

    record: bytes
    pieces: tuple[bytes, ...]
    held: int

    def __len__(self) -> int:
        return self.held

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


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
        cost = 2 * _TAR_BLOCK + file.size
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
) -> JobPart:
    """What the job of `request` needs, as `single` and `pack` take it. Raises Refused or Transient when a file cannot be read as
    it was found.

    `record`: one line. `identity`: the run, submission and sends that a child of a pack finds here; a single job has them in its
    environment.
    """
    # By hand: tarfile takes most of the time that a job takes here. Compressed with others, which takes less time, and less room.
    kept = to_bytes(record)
    pieces: list[bytes] = []
    held = len(kept) + _PART
    for name, items in _lists(request, inputs, stored, identity or {}).items():
        data = b"".join([to_bytes(item) + b"\0" for item in items])
        pieces += _member(f"job/{name}", 0o600, data)
        held += len(data) + _OBJECT if data else 0
    for place, mode in inputs.directories:
        pieces.append(_head(place, mode, 0, tarfile.DIRTYPE))
        held += len(pieces[-1])
    for file in inside:
        member = _member(file.place, file.mode, _content(file))
        pieces += member
        held += len(member[0]) + file.size + _OBJECT
    return JobPart(kept, tuple(pieces), held)


def single(part: JobPart) -> bytes:
    """The manifest of a job with this part."""
    return b"".join([_script(0), *_member("job/record", 0o600, part.record), *part.pieces, b"\0" * (2 * _TAR_BLOCK)])


def pack(parts: Sequence[JobPart]) -> tuple[bytes, list[bytes]]:
    """The manifest of an array job whose children have these parts, and the shards that lie beside it (none if all fits), the
    first of which is number 1."""
    blocks = [each for group in _groups(parts) for each in _blocks(group)]
    size = _ROW_BYTES * len(blocks)
    fits = size + sum(len(block) for _, block in blocks) <= SHARD
    rows: list[bytes] = []
    shards: list[list[bytes]] = []
    first, begin = 0, 1 + size
    for count, block in blocks:
        if not fits and (not shards or begin - 1 + len(block) > SHARD):
            shards.append([])
            begin = 1
        if shards:
            shards[-1].append(block)
        rows.append(_ROW % (first, count, len(shards), begin, len(block)))
        first += count
        begin += len(block)
    inside = [block for _, block in blocks] if fits else []
    return b"".join([_script(size), *rows, *inside]), list(map(b"".join, shards))


def _groups(parts: Sequence[JobPart]) -> Iterator[Sequence[JobPart]]:
    """The children of every block, if it does not become too large."""
    first = total = 0
    for index, part in enumerate(parts):
        total += part.size
        if index > first and (index - first >= CHILDREN or total > _RAW):
            yield parts[first:index]
            first, total = index, part.size
    yield parts[first:]


def _blocks(parts: Sequence[JobPart]) -> Iterator[tuple[int, bytes]]:
    """One block of these children, with their number; of two halves if it is larger than a shard."""
    lengths = [b"%010d\n" % part.size for part in parts]
    block = gzip.compress(b"".join([*lengths, *(piece for part in parts for piece in part.pieces)]), _LEVEL, mtime=0)
    if len(block) <= SHARD or len(parts) == 1:
        yield len(parts), block
    else:
        half = len(parts) // 2
        yield from _blocks(parts[:half])
        yield from _blocks(parts[half:])


def pack_records(parts: Iterable[JobPart]) -> bytes:
    """The records of an array job whose children have these parts."""
    packed = zlib.compressobj(_LEVEL, wbits=16 + zlib.MAX_WBITS)
    kept = (part.record if len(part.record) < _MAX_RECORD else b"" for part in parts)
    return b"".join([*(packed.compress(record + b"\n") for record in kept), packed.flush()])


def _script(directory: int) -> bytes:
    script = runner()
    script = script.replace(_PACK, b"\nPACK=%010d" % directory, 1)
    return script.replace(_HEADER, b"PAYLOAD=%010d" % (len(script) + 1), 1)


def read_head(stream: Readable) -> int | None:
    """Read over the script of a manifest: the length of the directory behind it, 0 if that is a single job's tar; None when this
    is no manifest."""
    head = stream.read(_HEAD)
    found = re.search(rb"^PAYLOAD=([0-9]{10})", head, re.MULTILINE)
    offset = int(found[1]) - 1 if found else 0
    if not len(head) <= offset <= _MAX_SCRIPT:
        return None
    left = offset - len(head)
    while left and (data := stream.read(left)):
        left -= len(data)
    directory = re.search(rb"^PACK=([0-9]{10})", head, re.MULTILINE)
    return int(directory[1]) if directory else 0


def read_records(stream: Readable) -> Iterator[str] | None:
    """The record of every child of a pack, in order; None when these are not, to the last byte, what `pack_records` made."""
    data = io.BytesIO()
    while data.tell() <= _MAX_RECORDS and (piece := stream.read(65536)):
        data.write(piece)
    try:
        count = sum(1 for _ in _unpacked(data))
    except (OSError, EOFError, zlib.error):
        count = 0
    return map(to_text, _unpacked(data)) if count else None


def _unpacked(data: IO[bytes]) -> Iterator[bytes]:
    """The lines of gzipped `data`, one at a time in memory."""
    data.seek(0)
    left = _MAX_RECORDS
    with gzip.GzipFile(fileobj=data) as lines:
        while line := lines.readline(_MAX_RECORD):
            left -= max(len(line), 1024)  # lines take time, too: an array has no more than 10,000
            if left < 0 or not line.endswith(b"\n"):
                raise EOFError
            yield line[:-1]


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
    head = _head(name, mode, len(data))
    return [head, data, _PADDING[-len(data) % _TAR_BLOCK]] if data else [head]


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
