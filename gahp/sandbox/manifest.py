"""The manifest: one object with the runner and, behind it, all that one job needs. Pure but for reading the small files.

    runner.sh         a bash script; its second line says where the payload begins
    tar (GNU format)  job/record: what the submit host needs to know the run again; the runner does not look at it
                      job/settings job/arguments job/environment job/inputs job/outputs job/remaps: lists, each item ended by NUL
                      scratch/...  small inputs and all directories, with their names and modes
                      stdin, proxy  when they are there and small

Items of job/settings are `name=value`; of job/inputs six items make a record: kind (blob, pack, url, mount), source (the
SHA-256 of a blob, the URL, or the path below a mount), size, SHA-256, mode (octal or empty), place; of job/remaps two: name, and
an s3 URL or "-".
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import tarfile
from collections.abc import Iterable
from importlib import resources
from typing import IO

from gahp.model import JobRequest, Refused, Transient, to_bytes, to_text
from gahp.sandbox import names
from gahp.sandbox.inputs import Inputs, LocalFile
from gahp.sandbox.tarstream import Readable, members

SMALL_FILE = 64 * 1024
SMALL_TOTAL = 256 * 1024
PACK_TOTAL = 64 * 1024 * 1024
_HEADER = b"PAYLOAD=0000000000"
_BLOCK = 512
_HEAD = 200
_MAX_SCRIPT = 1024 * 1024
_MAX_RECORD = 4 * 1024 * 1024


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


def build(
    request: JobRequest, inputs: Inputs, inside: Iterable[LocalFile], stored: Iterable[Stored], record: str = ""
) -> bytes:
    """The manifest of `request`. Raises Refused or Transient when a file cannot be read as it was found."""
    payload = io.BytesIO()
    with _tar(payload) as tar:
        data = to_bytes(record)
        tar.addfile(_entry("job/record", 0o600, len(data)), io.BytesIO(data))
        for name, items in _lists(request, inputs, stored).items():
            data = b"".join(to_bytes(item) + b"\0" for item in items)
            tar.addfile(_entry(f"job/{name}", 0o600, len(data)), io.BytesIO(data))
        for place, mode in inputs.directories:
            directory = _entry(place, mode, 0)
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
        for file in inside:
            _add_file(tar, file)
    script = runner()
    return script.replace(_HEADER, b"PAYLOAD=%010d" % (len(script) + 1), 1) + payload.getvalue()


def read_record(stream: Readable) -> str:
    """The record in a manifest that is read from its beginning; "" when it has none or is no manifest."""
    head = stream.read(_HEAD)
    found = re.search(rb"^PAYLOAD=([0-9]{10})", head, re.MULTILINE)
    offset = int(found[1]) - 1 if found else 0
    if not len(head) <= offset <= _MAX_SCRIPT:
        return ""
    left = offset - len(head)
    while left and (data := stream.read(left)):
        left -= len(data)
    try:
        first = next(members(stream), None)
        if first is None or first.name != "job/record" or first.size > _MAX_RECORD:
            return ""
        parts = []
        while part := first.read(65536):
            parts.append(part)
    except Refused:
        return ""
    return to_text(b"".join(parts))


def runner() -> bytes:
    """The runner as it is packaged, without a payload."""
    return resources.files("gahp.sandbox").joinpath("runner.sh").read_bytes()


def _lists(request: JobRequest, inputs: Inputs, stored: Iterable[Stored]) -> dict[str, list[str]]:
    records: list[str] = []
    for item in stored:
        mode = "" if item.mode is None else f"{item.mode:o}"
        records += [item.kind, item.digest, str(item.size), item.digest, mode, item.place]
    for place, url in inputs.urls:
        records += ["url", url, "", "", "", place]
    for path, file in inputs.mounted:
        records += ["mount", path, str(file.size), "", f"{file.mode:o}", file.place]
    return {
        "settings": [f"{key}={value}" for key, value in _settings(request, inputs).items()],
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
