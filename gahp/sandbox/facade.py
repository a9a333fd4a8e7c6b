"""The sandbox as the gateway sees it: stage a job's input, collect its output.

Joins inputs, manifest, blobs, result and place; decides nothing that they decide.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import logging
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import IO

from gahp.model import JobRequest, Refused
from gahp.sandbox import inputs, manifest, place, result
from gahp.sandbox.blobs import Blobs
from gahp.sandbox.manifest import JobPart
from gahp.sandbox.outcome import Outcome
from gahp.sandbox.place import Placement, Target
from gahp.sandbox.shortcut import Shortcut
from gahp.sandbox.store import MULTIPART, S3Client, Store
from gahp.sandbox.tarstream import DamagedResult, Member, Readable, damaged, members

log = logging.getLogger(__name__)

_RUN = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NOBODY = "revoked"  # in place of a job's id in a claim
_IN_MEMORY = 1024 * 1024
_CHUNK = 1024 * 1024
_TOGETHER = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a manifest in S3 has to tell the submit host of a run, and in which pack it is, as which child ("" and 0: in none)."""

    text: str
    pack: str = ""
    child: int = 0


class Sandbox:
    """The sandboxes of one site, in s3://bucket/prefix. Threads may share it. Every method may raise Refused or Transient."""

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str,
        threads: int = 8,
        shared: Sequence[str] = (),
        *,
        region: str = "",
        shortcut: Shortcut | None = None,
    ) -> None:
        self.region = region
        """The bucket's, for GAHP_REGION of the container; "" if that is not known."""
        self._shared = tuple(shared)
        self._store = Store(client, bucket, prefix, shortcut)
        self._blobs = Blobs(self._store, threads)
        self._threads = threads
        self._transfers = concurrent.futures.ThreadPoolExecutor(threads, "transfer")

    def close(self) -> None:
        """End the threads; what is under way is finished."""
        self._blobs.close()
        self._transfers.shutdown(wait=True, cancel_futures=True)

    def run_url(self, run: str) -> str:
        """GAHP_RUN_URL of the container."""
        return self._store.url(_key(run))

    def manifest_url(self, run: str) -> str:
        """BATCH_FILE_S3_URL of the container; `run` may be a pack."""
        return self._store.url(f"{_key(run)}/manifest")

    def prepare(self, run: str, request: JobRequest, record: str = "", *, submission: int = 0, sends: int = 1) -> JobPart:
        """Have the job's large input in S3; everything else as a part for `put` or `put_pack`. May be repeated.

        `record` comes back with `records`; `submission` and `sends` are what the runner has to know of a child of a pack.
        """
        found = inputs.walk(request, self._shared)
        parts = manifest.split(found.files)
        stored = self._blobs.store(parts.blobs, parts.packs)
        identity: dict[str, str | int] = {"run": run, "submission": submission, "sends": sends}
        return manifest.part(request, found, parts.inside, stored, record=record, identity=identity)

    def put(self, run: str, part: JobPart) -> None:
        """Have the manifest of a single job in S3: it can be submitted now. May be repeated."""
        self._store.put(f"{_key(run)}/manifest", manifest.single(part))

    def put_pack(self, pack: str, parts: Sequence[JobPart]) -> None:
        """Have the manifest of an array job in S3, whose child number n has `parts[n]`. May be repeated until it is submitted."""
        script, shards = manifest.pack(parts)
        beside = {"records": manifest.pack_records(parts)} | {f"shard/{number}": shard for number, shard in enumerate(shards, 1)}
        work = [self._transfers.submit(self._store.put, f"{_key(pack)}/{name}", data) for name, data in beside.items()]
        concurrent.futures.wait(work)
        for future in work:
            future.result()
        # Last: where there is a manifest, all that belongs to it is there, and is of the same children once it is submitted.
        self._store.put(f"{_key(pack)}/manifest", script)

    def stage(self, run: str, request: JobRequest, record: str = "") -> None:
        """`prepare` and `put`."""
        self.put(run, self.prepare(run, request, record))

    def records(self) -> Iterator[Record]:
        """The records of all runs that have a manifest in S3, of their own or in a pack; a run may have several.

        The manifests are read several at a time, and not further ahead than that; the records of packs, which may be large, one
        pack after the other.
        """
        ahead: collections.deque[tuple[str, Future[str | None]]] = collections.deque()
        for name in filter(_RUN.fullmatch, self._store.folders("runs/")):
            ahead.append((name, self._transfers.submit(self._own_record, name)))
            if len(ahead) >= self._threads:
                first, own = ahead.popleft()
                yield from self._told(first, own.result())
        for last, own in ahead:
            yield from self._told(last, own.result())

    def records_of(self, name: str) -> Iterator[Record]:
        """Those in one manifest, of a run or a pack; of a pack in the order of its children."""
        yield from self._told(name, self._own_record(name))

    def _own_record(self, name: str) -> str | None:
        """The record in the manifest of a single job; "" if there is none, None if this is a pack's."""
        with self._store.reading(f"{_key(name)}/manifest") as found:
            directory = None if found is None else manifest.read_head(found[1])
            if found is None or directory is None:
                return ""
            return None if directory else manifest.read_record(found[1])

    def _told(self, name: str, own: str | None) -> Iterator[Record]:
        if own is not None:
            if own:
                yield Record(own)
            return
        with self._store.reading(f"{_key(name)}/records") as found:
            texts = None if found is None else manifest.read_records(found[1])
        if texts is None:
            log.warning("%s: the records of this pack are gone or damaged: its jobs are not known again", name)
            return
        for index, text in enumerate(texts):
            yield Record(text, name, index)

    def claimant(self, run: str, submission: int) -> str:
        """The id of the Batch job that has claimed this submission, before it ran anything; "" if none has."""
        with self._store.reading(f"{_key(run)}/{submission:d}/claim") as found:
            text = "" if found is None else found[1].read(200).decode("ascii", "replace")
        return text if re.fullmatch(r"[A-Za-z0-9:-]{1,128}", text) and text != _NOBODY else ""

    def revoke(self, run: str, submission: int) -> str:
        """Claim a submission for nobody, so that a job of it that comes late ends without running; the id of the Batch job that
        had claimed it before, "" if none had."""
        self._store.put_new(f"{_key(run)}/{submission:d}/claim", _NOBODY.encode())
        return self.claimant(run, submission)

    def refresh_proxy(self, run: str, path: str) -> None:
        """Give the running job the X.509 proxy at `path`; its runner looks for it every minute."""
        try:
            with open(path, "rb") as proxy:
                data = proxy.read(64 * 1024 + 1)
        except OSError as error:
            raise Refused(f"The X.509 proxy {path} cannot be read: {error.strerror}.") from None
        if not 0 < len(data) <= 64 * 1024:
            raise Refused(f"The file {path} is no X.509 proxy: it is empty or larger than 64 KiB.")
        self._store.put(f"{_key(run)}/proxy", data)

    def discard(self, *runs: str) -> None:
        """Delete all objects of these runs and packs; the blobs, which others may use, stay.

        Those of one cluster are looked for together: a list and a call to delete for a thousand objects, not two for each run.
        """
        clusters: dict[str, set[str]] = defaultdict(set)
        for run in runs:
            key, dash, _ = _key(run).partition("-")
            clusters[key + dash].add(run)
        for begin, names in clusters.items():
            if len(names) < _TOGETHER or not self._store.delete_below(begin, partial(_is_of, names), pages=len(names)):
                for run in names:
                    self._store.delete_below(f"{_key(run)}/")

    def probe(self) -> None:
        """Raise unless the bucket can be reached and written to."""
        self._store.probe()

    def collect(
        self, run: str, submission: int, request: JobRequest, believe: Callable[[Outcome], bool] = lambda _: True
    ) -> Outcome | None:
        """Bring the output of a run back and say how it ended; None when it has no result yet, or none that `believe` takes.

        Returns only when everything that came out is in its place, whole and on disk. May be repeated. What arrives damaged is
        fetched once more before it is believed.
        """
        try:
            return self._collect(run, submission, request, believe)
        except DamagedResult as error:
            log.warning("%s: fetched once more: %s", run, error)
            return self._collect(run, submission, request, believe)

    def _collect(self, run: str, submission: int, request: JobRequest, believe: Callable[[Outcome], bool]) -> Outcome | None:
        key = f"{_key(run)}/{submission:d}"
        with self._store.reading(f"{key}/result") as found, tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
            if found is None:
                return None
            size, body = found
            if size > result.MAX_OBJECT:
                raise damaged(f"it is {size} bytes long, which no runner makes it")
            _copy(body, [copy], size)
            copy.seek(0)
            outcome, records, small = result.read(copy)
            if not believe(outcome):
                return None
            planned = place.plan(request, records)
            try:
                with Placement(planned, f"{run}-{submission}") as placement:
                    self._fill(placement, planned.files, key, small)
                    placement.commit()
            except OSError as error:
                where = os.fsdecode(error.filename2 or error.filename) if error.filename else request.iwd
                raise Refused(
                    f"The output cannot be written at {where}: {error.strerror}; mend it and release the job."
                ) from None
        return dataclasses.replace(outcome, missing=planned.missing)

    def stream(self, run: str, submission: int, *, error: bool = False) -> Iterator[bytes] | None:
        """What the job wrote to its standard output (or error), in pieces; None if S3 has no result of it (any more) or not that.

        To be read to its end or closed.
        """
        pieces = self._pieces(f"{_key(run)}/{submission:d}", "e" if error else "o")
        # The first step, an empty piece, finds out whether it is there.
        return pieces if next(pieces, None) is not None else None

    def _pieces(self, key: str, kind: str) -> Iterator[bytes]:
        with self._store.reading(f"{key}/result") as found:
            if found is None:
                return
            _, records, small = result.read(found[1])
            record = next((record for record in records if record.kind == kind), None)
            if record is None:
                return
            yield b""
            if record.place == "r":
                yield from _member(small, record)
                return
        with self._store.reading(f"{key}/out/{record.place if record.place == 'p0' else record.place[1:]}") as found:
            if found is None:
                raise damaged(f"its {record.name} is gone from S3")
            if record.place == "p0":
                yield from _member(members(found[1]), record)
                return
            while part := found[1].read(_CHUNK):
                yield part

    def _fill(self, placement: Placement, targets: Sequence[Target], key: str, small: Iterable[Member]) -> None:
        """Fill every target from the result, the pack, or its own object."""
        by_place: dict[str, dict[str, list[Target]]] = defaultdict(lambda: defaultdict(list))
        for target in targets:
            if target.record is not None:
                by_place[target.record.place][target.record.member].append(target)
        _fill_from_tar(placement, small, by_place.pop("r", {}))
        if "p0" in by_place:
            with self._store.reading(f"{key}/out/p0") as found:
                if found is None:
                    raise damaged("a pack of its files is gone from S3")
                _fill_from_tar(placement, members(found[1]), by_place.pop("p0"))
        work = [
            self._transfers.submit(self._fetch, placement, f"{key}/out/{where[1:]}", target)
            for where, by_member in by_place.items()
            for same in by_member.values()
            for target in same
        ]
        concurrent.futures.wait(work)
        for future in work:
            future.result()

    def _fetch(self, placement: Placement, key: str, target: Target) -> None:
        """Fill `target` from an object of its own; what arrives wrong is fetched once more."""
        assert target.record is not None
        if target.record.size > MULTIPART:
            # Before a byte is fetched: an object of another length could fill the disk.
            there = self._store.stat(key)
            if there is None:
                raise damaged(f"the output {target.record.name} is gone from S3")
            if there[0] != target.record.size:
                raise _wrong(target.record)
        for _ in range(2):
            with placement.open(target) as file:
                if target.record.size > MULTIPART:
                    self._store.download(key, file)
                else:
                    with self._store.reading(key) as found:
                        if found is None:
                            raise damaged(f"the output {target.record.name} is gone from S3")
                        _copy(found[1], [file], target.record.size + 1)
                if _is_whole(file, target.record):
                    placement.finish(target, file)
                    return
        raise _wrong(target.record)


def _fill_from_tar(placement: Placement, files: Iterable[Member], wanted: Mapping[str, Sequence[Target]]) -> None:
    left = len(wanted)
    for member in files:
        targets = wanted.get(member.name)
        if not targets:
            continue
        outs = [placement.open(target) for target in targets]
        try:
            size, digest = _copy(member, outs, member.size)
            for target in targets:
                assert target.record is not None
                if (size, digest) != (target.record.size, target.record.digest):
                    raise _wrong(target.record)
            for target, out in zip(targets, outs, strict=True):
                placement.finish(target, out)
        finally:
            for out in outs:
                out.close()
        left -= 1
        if not left:
            return


def _member(files: Iterable[Member], record: result.Record) -> Iterator[bytes]:
    for member in files:
        if member.name == record.member:
            while part := member.read(_CHUNK):
                yield part
            return


def _copy(source: Readable, targets: Sequence[IO[bytes]], limit: int) -> tuple[int, str]:
    """Copy at most `limit` bytes; how many they were, and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    while size < limit and (data := source.read(min(_CHUNK, limit - size))):
        digest.update(data)
        size += len(data)
        for target in targets:
            target.write(data)
    return size, digest.hexdigest()


def _is_whole(file: IO[bytes], record: result.Record) -> bool:
    file.seek(0)
    return _copy(file, [], record.size + 1) == (record.size, record.digest)


def _wrong(record: result.Record) -> Refused:
    return damaged(f"the output {record.name} is not what the list says, as if it had changed while it was sent")


def _is_of(runs: Collection[str], key: str) -> bool:
    return key.split("/")[1] in runs


def _key(run: str) -> str:
    if not _RUN.fullmatch(run):
        raise ValueError(f"not the name of a run: {run!r}")
    return f"runs/{run}"
