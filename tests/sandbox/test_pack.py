"""Packs: one manifest for all children of an array job, of which each finds its own part by its index."""

from __future__ import annotations

import base64
import dataclasses
import gc
import gzip
import io
import random
import re
import tarfile
import threading
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest

from gahp.journal import Journal
from gahp.model import Transient, to_bytes
from gahp.run import Run
from gahp.sandbox import Outcome, inputs, manifest
from gahp.seal import opened

if TYPE_CHECKING:
    from conftest import Ended, Site

PACK = "77-pack-abc"


RECORDS = f"runs/{PACK}/records"


class Packed:
    """A pack as S3 has it, read as docs and manifest.py say and with nothing of theirs."""

    def __init__(self, script: bytes, shards: dict[int, bytes]) -> None:
        begin = int(re.search(rb"^PAYLOAD=([0-9]{10}) ", script, re.MULTILINE)[1]) - 1
        size = int(re.search(rb"^PACK=([0-9]{10}) ", script, re.MULTILINE)[1])
        self.payload = script[begin:]
        self.rows = [tuple(map(int, line.split())) for line in self.payload[:size].splitlines()]
        assert size == 43 * len(self.rows)
        self.shards = shards

    @property
    def size(self) -> int:
        return self.rows[-1][0] + self.rows[-1][1]

    def part(self, index: int) -> dict[str, bytes]:
        """The files of a child's tar."""
        first, count, number, begin, length = next(row for row in self.rows if row[0] <= index < row[0] + row[1])
        block = gzip.decompress((self.shards[number] if number else self.payload)[begin - 1 : begin - 1 + length])
        lengths = [int(line) for line in block[: 11 * count].splitlines()]
        assert len(block) == 11 * count + sum(lengths)
        begin = 11 * count + sum(lengths[: index - first])
        with tarfile.open(fileobj=io.BytesIO(block[begin : begin + lengths[index - first]])) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}


def packed(site: Site) -> Packed:
    pack = dataclasses.replace(site, run=PACK)
    found = {int(key.rpartition("/")[2]): pack.object(key.partition(f"{PACK}/")[2]) for key in shards(site)}
    return Packed(pack.object("manifest"), found)


def put_pack(site: Site, requests: list, submission: int = 0) -> list[str]:
    """A pack of runs 77-0-r, 77-1-r and so on; their names."""
    names = [f"77-{number}-r" for number in range(len(requests))]
    bodies = [
        site.sandbox.prepare(name, request, f"record of {name}", submission=submission)
        for name, request in zip(names, requests, strict=True)
    ]
    site.sandbox.put_pack(PACK, bodies)
    return names


def run_child(site: Site, index: int | str, tool: str = "s5cmd", **more: str) -> Ended:
    """The runner as the container of a child has it: nothing of the run in its environment."""
    pack = dataclasses.replace(site, run=PACK)
    environment = {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ID": f"5b1d6ad5-94dd-4be2-a6e8-b4cbfb0a4d4d:{index}"}
    return pack.wait(
        pack.start(
            tool=tool,
            **{
                "GAHP_RUN_URL": "",
                "GAHP_SUBMISSION": "",
                "GAHP_PACK_URL": site.sandbox.run_url(PACK),
                **environment,
                **more,
            },
        )
    )


def collect(site: Site, name: str, request, submission: int = 0) -> Outcome:
    outcome = site.sandbox.collect(name, submission, request)
    assert outcome is not None
    return outcome


def shards(site: Site) -> list[str]:
    return site.keys(f"runs/{PACK}/shard/")


@pytest.mark.parametrize("tool", ["s5cmd", "aws"])
def test_each_child_runs_its_own_job(site: Site, tool: str) -> None:
    (site.iwd / "in1").write_text("first")
    (site.iwd / "in2").write_text("second")
    requests = [
        site.request('echo "$1 $V"; cat in1; exit 3', arguments=("a",), environment=(("V", "x"),), inputs=("in1",)),
        site.request(stdout="job.out2", executable="/bin/cat", transfer_executable=False, arguments=("in2",), inputs=("in2",)),
    ]
    names = put_pack(site, requests)
    assert shards(site) == []
    ended = [run_child(site, index, tool) for index in (1, 0)]
    assert [end.code for end in ended] == [0, 3]
    assert [collect(site, name, request).exit_code for name, request in zip(names, requests, strict=True)] == [3, 0]
    assert (site.iwd / "job.out").read_text() == "a x\nfirst"
    assert (site.iwd / "job.out2").read_text() == "second"
    assert site.keys("runs/") == sorted(
        [f"runs/{PACK}/manifest", RECORDS, *(f"runs/{name}/0/{what}" for name in names for what in ("claim", "result"))]
    )


@pytest.mark.parametrize("tool", ["s5cmd", "aws"])
def test_a_pack_that_is_too_large_for_its_script_is_cut_into_shards_and_a_child_reads_one(site: Site, tool: str) -> None:
    request = site.request(executable="/bin/echo", transfer_executable=False, arguments=("%",))
    bodies = []
    for number in range(12):
        noise = "".join(f"{(number * 7919 + n) * 2654435761 % 2**32:08x}" for n in range(18_000))
        own = dataclasses.replace(request, arguments=(str(number),), environment=(("NOISE", noise[:100_000]),))
        bodies.append(site.sandbox.prepare(f"77-{number}-r", own))
    site.sandbox.put_pack(PACK, bodies)
    assert len(shards(site)) > 2
    for key in shards(site):
        size = site.client.head_object(Bucket="jobs", Key=f"{site.prefix}/{key}")["ContentLength"]
        assert size <= manifest.SHARD
    for index in (0, 5, 11):
        assert run_child(site, index, tool).code == 0
        collect(site, f"77-{index}-r", request)
        assert (site.iwd / "job.out").read_text() == f"{index}\n"


def test_a_child_with_large_small_files_has_a_shard_of_its_own_and_blobs_are_fetched_as_ever(site: Site) -> None:
    for number in range(5):
        (site.iwd / f"noise{number}").write_bytes(bytes((n * n * 31 + number * n) % 256 for n in range(60_000)))
    (site.iwd / "large").write_bytes(b"x" * 300_000)
    small = site.request(executable="/bin/echo", transfer_executable=False, arguments=("small",))
    big = site.request(
        executable="/bin/cat",
        transfer_executable=False,
        arguments=("large", *(f"noise{n}" for n in range(4))),
        inputs=("large", *(f"noise{n}" for n in range(5))),
        stdout="big.out",
    )
    names = put_pack(site, [small, big, small])
    assert [run_child(site, index).code for index in range(3)] == [0, 0, 0]
    collect(site, names[1], big)
    expected = b"".join((site.iwd / name).read_bytes() for name in ("large", "noise0", "noise1", "noise2", "noise3"))
    assert (site.iwd / "big.out").read_bytes() == expected
    collect(site, names[2], small)
    assert (site.iwd / "job.out").read_text() == "small\n"


def test_every_one_of_10000_children_finds_its_part(site: Site) -> None:
    request = site.request(executable="/bin/echo", transfer_executable=False)
    bodies = [
        site.sandbox.prepare(f"77-{number}-r", dataclasses.replace(request, arguments=(str(number),)), f"record {number}")
        for number in range(10_000)
    ]
    site.sandbox.put_pack(PACK, bodies)
    told = [(record.text, record.pack, record.child) for record in site.sandbox.records()]
    assert told == [(f"record {number}", PACK, number) for number in range(10_000)]
    found = packed(site)
    assert found.size == 10_000
    begins = {row[2]: row[0] for row in reversed(found.rows)}  # of every shard the first child
    assert len(begins) > 1
    for index in (0, manifest.CHILDREN - 1, manifest.CHILDREN, begins[2] - 1, begins[2], 9_999):
        assert run_child(site, index).code == 0
        collect(site, f"77-{index}-r", request)
        assert (site.iwd / "job.out").read_text() == f"{index}\n"


def test_hostile_names_and_arguments_arrive_as_they_are(site: Site) -> None:
    name = "$(touch pwned) 'x'\n\";*"
    (site.iwd / name).write_text("content")
    request = site.request('printf "%s|" "$@"; cat -- "$1"', arguments=(name, "`id`", "\\"), inputs=(name,))
    names = put_pack(site, [request, request])
    assert run_child(site, 1).code == 0
    collect(site, names[1], request)
    assert (site.iwd / "job.out").read_text() == f"{name}|`id`|\\|content"


@pytest.mark.parametrize("index", ["2", "-1", "", "1; echo x", "00001", "99999"])
def test_an_index_that_the_pack_does_not_have_runs_nothing(site: Site, index: str) -> None:
    put_pack(site, [site.request("echo ran")] * 2)
    ended = run_child(site, index)
    assert ended.code == 125
    assert ended.log == b""
    assert re.search(rb"has no child|AWS_BATCH_JOB_ARRAY_INDEX is", ended.errors)
    assert site.keys("runs/") == [f"runs/{PACK}/manifest", RECORDS]


def test_a_second_copy_of_a_child_ends_without_running(site: Site) -> None:
    request = site.request("echo ran")
    names = put_pack(site, [request] * 2)
    assert run_child(site, 0).code == 0
    other = run_child(site, 0, AWS_BATCH_JOB_ID="other:0")
    assert other.code == 125
    assert b"not run: the Batch job 5b1d6ad5-94dd-4be2-a6e8-b4cbfb0a4d4d:0 has this submission" in other.errors
    assert site.sandbox.claimant(names[0], 0) == "5b1d6ad5-94dd-4be2-a6e8-b4cbfb0a4d4d:0"


def test_a_retried_attempt_finds_the_result_of_the_one_before(site: Site) -> None:
    request = site.request("echo ran; exit 4")
    put_pack(site, [request] * 2, submission=2)
    assert run_child(site, 1).code == 4
    again = run_child(site, 1, AWS_BATCH_JOB_ATTEMPT="2")
    assert (again.code, again.log) == (4, b"")
    assert collect(site, "77-1-r", request, 2).exit_code == 4


def test_a_shard_that_is_gone_ends_the_child_without_a_result(site: Site) -> None:
    request = site.request(executable="/bin/true", transfer_executable=False)
    noise = random.Random(7)
    count = 30
    parts = [
        site.sandbox.prepare(f"77-{number}-r", dataclasses.replace(request, arguments=(noise.randbytes(20_000).hex(),)))
        for number in range(count)
    ]
    site.sandbox.put_pack(PACK, parts)
    key = f"{site.prefix}/{shards(site)[-1]}"
    site.client.delete_object(Bucket="jobs", Key=key)
    ended = run_child(site, count - 1)
    assert ended.code == 125
    assert b"part of the manifest cannot be fetched from" in ended.errors
    assert run_child(site, 0).code == 0


def test_records_of_packs_and_of_single_jobs_come_back_for_who_knows_their_seal(site: Site, tmp_path) -> None:
    journal = Journal(str(tmp_path / "state"))
    try:
        request = site.request("true")
        runs = [Run(name=f"77-{n}-r", directory=f"d{n}", digest="x", generation=0, submission=n, sends=n) for n in range(3)]
        bodies = [site.sandbox.prepare(run.name, request, journal.sealed(run, request)) for run in runs]
        site.sandbox.put_pack(PACK, bodies[:2])
        site.sandbox.put("77-2-r", bodies[2])
        found = {}
        for record in site.sandbox.records():
            run, asked = opened(record.text, journal._secret)
            assert asked == request
            found[run.name] = (run.submission, run.sends, record.pack, record.child)
        assert found == {"77-0-r": (0, 0, PACK, 0), "77-1-r": (1, 1, PACK, 1), "77-2-r": (2, 2, "", 0)}
    finally:
        journal.close()


def test_a_pack_is_discarded_as_a_run_is(site: Site) -> None:
    put_pack(site, [site.request("true")] * 2)
    site.sandbox.discard(PACK)
    assert site.keys("runs/") == []


def tiny_parts(site: Site, count: int) -> list[manifest.JobPart]:
    """As they come from a submit of `count` jobs that differ in an argument, under names as runs have them."""
    noise = random.Random(count)
    common = site.request(executable="/bin/echo", transfer_executable=False)
    requests = [dataclasses.replace(common, arguments=(str(number),), stdout=f"out.{number}") for number in range(count)]
    names = [f"77-{n}-{base64.b32encode(noise.randbytes(10)).decode().lower()}" for n in range(count)]
    found = inputs.walk(common, ())
    return [
        manifest.part(request, found, (), (), record=f"record of {name}", identity={"run": name, "submission": 0, "sends": 1})
        for name, request in zip(names, requests, strict=True)
    ]


def test_four_thousand_tiny_children_are_in_one_object(site: Site) -> None:
    site.sandbox.put_pack(PACK, tiny_parts(site, 4000))
    assert site.keys("runs/") == [f"runs/{PACK}/manifest", RECORDS]
    found = packed(site)
    assert found.size == 4000
    assert len(found.payload) <= manifest.SHARD
    for index in (0, 2047, 3999):
        assert run_child(site, index).code == 0
        name = found.part(index)["job/settings"].partition(b"\0run=")[2].partition(b"\0")[0].decode()
        collect(site, name, site.request(stdout="job.out"))
        assert (site.iwd / "job.out").read_text() == f"{index}\n"


def test_what_a_part_says_that_it_holds_is_what_it_holds(site: Site) -> None:
    tiny_parts(site, 10)
    gc.collect()  # and with it the tuples that Python keeps for the next one who needs some: those would not be seen
    tracemalloc.start(20)
    try:
        parts = tiny_parts(site, 1000)
        # Only what was allocated under this test: the store's threads and pytest's live in this process, too.
        here = tracemalloc.Filter(inclusive=True, filename_pattern=__file__, all_frames=True)
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([here]).traces)
    finally:
        tracemalloc.stop()
    assert held < 1_500 * 1000
    assert sum(map(len, parts)) == pytest.approx(held, rel=0.25)


def test_every_one_of_1000_children_reads_exactly_its_own_part(site: Site) -> None:
    noise = random.Random(3)
    request = site.request('echo "$1 $V"; cat in', inputs=("in",))
    contents, requests, parts = [], [], []
    for number in range(1000):
        contents.append(noise.randbytes(noise.choice((0, 1, 511, 512, 513, 3000))))
        (site.iwd / "in").write_bytes(contents[-1])
        own = {"arguments": (f"argument {number}",), "environment": (("V", noise.randbytes(noise.randrange(300)).hex()),)}
        requests.append(dataclasses.replace(request, **own))
        parts.append(site.sandbox.prepare(f"77-{number}-r", requests[-1], f"record {number}", submission=number % 3, sends=1))
    site.sandbox.put_pack(PACK, parts)
    found = packed(site)
    assert found.size == 1000
    assert len(found.shards) > 1
    for number in range(1000):
        files = found.part(number)
        assert f"\0run=77-{number}-r\0submission={number % 3}\0sends=1\0".encode() in files["job/settings"]
        assert files["job/arguments"] == f"argument {number}\0".encode()
        assert files["job/environment"] == f"V={requests[number].environment[0][1]}\0".encode()
        assert files["scratch/in"] == contents[number]
        assert "job/record" not in files
    for number in (0, found.rows[1][0] - 1, found.rows[1][0], 500, 999):
        assert run_child(site, number).code == 0
        collect(site, f"77-{number}-r", requests[number], number % 3)
        said = f"argument {number} {requests[number].environment[0][1]}\n".encode()
        assert (site.iwd / "job.out").read_bytes() == said + contents[number]


def test_tiny_children_and_large_ones_mixed(site: Site) -> None:
    noise = random.Random(5)
    requests, parts = [], []
    for number in range(60):
        names = [f"in{n}" for n in range(4 if number % 9 == 4 else 0)]
        for name in names:
            (site.iwd / name).write_bytes(noise.randbytes(50_000))
        requests.append(site.request('echo "$1"; cat in* < /dev/null', arguments=(str(number),), inputs=tuple(names)))
        parts.append(site.sandbox.prepare(f"77-{number}-r", requests[-1]))
    site.sandbox.put_pack(PACK, parts)
    found = packed(site)
    assert found.size == 60
    assert len(found.rows) < 20
    # Who is tiny and beside a large one reads no more than the others.
    assert all(len(shard) <= manifest.SHARD for shard in found.shards.values())
    for number in range(60):
        files = found.part(number)
        assert files["job/arguments"] == f"{number}\0".encode()
        assert sum(name.startswith("scratch/in") for name in files) == (4 if number % 9 == 4 else 0)
    (site.iwd / "expected").write_bytes(b"".join(found.part(49)[f"scratch/in{n}"] for n in range(4)))
    for number in (48, 49, 50):
        assert run_child(site, number).code == (0 if number == 49 else 1)
        collect(site, f"77-{number}-r", requests[number])
        said = (site.iwd / "job.out").read_bytes()
        assert said == f"{number}\n".encode() + ((site.iwd / "expected").read_bytes() if number == 49 else b"")


def test_a_part_with_special_bytes_is_as_it_was(site: Site) -> None:
    """Content that looks like a table, a directory, a tar or gzip, and a name that is no text."""
    odd = "a \udcff\n0000000001"
    rows = b"0000000512\n" * 70 + b"000000 000064 000000 0000000001 0000000100\n" * 3
    content = bytes(range(256)) + rows + b"\0" * 1500 + gzip.compress(rows) + b"no newline"
    (site.iwd / "in").write_bytes(content)
    (site.iwd / odd).write_bytes(rows)
    given = {"arguments": (odd, "\n", "~"), "environment": (("V", "\udc80 \n"),), "inputs": ("in", odd)}
    request = site.request('printf "%s|" "$@"; cat in; cat -- "$1"', **given)
    plain = site.request(executable="/bin/true", transfer_executable=False)
    names = put_pack(site, [plain, request, plain])
    files = packed(site).part(1)
    assert files["scratch/in"] == content
    assert files["job/environment"] == b"V=\x80 \n\0"
    assert [run_child(site, index).code for index in (2, 1, 0)] == [0, 0, 0]
    collect(site, names[1], request)
    assert (site.iwd / "job.out").read_bytes() == to_bytes(f"{odd}|\n|~|") + content + rows


def spoil(site: Site, change) -> None:
    """Change what is behind the script."""
    pack = dataclasses.replace(site, run=PACK)
    script = pack.object("manifest")
    begin = int(re.search(rb"^PAYLOAD=([0-9]{10})", script, re.MULTILINE)[1]) - 1
    pack.put("manifest", script[:begin] + change(script[begin:]))


def flipped(payload: bytes) -> bytes:
    middle = (43 + len(payload)) // 2
    return payload[:middle] + bytes([payload[middle] ^ 0x55]) + payload[middle + 1 :]


def row(first: int = 0, count: int = 3, shard: int = 0, begin: int = 44, length: int | None = None):
    """A directory of one row that says so."""

    def change(payload: bytes) -> bytes:
        said = len(payload) - 43 if length is None else length
        return b"%06d %06d %06d %010d %010d\n" % (first, count, shard, begin, said) + payload[43:]

    return change


def block(change):
    """A block that says something else, and is gzipped again."""

    def changed(payload: bytes) -> bytes:
        made = gzip.compress(change(gzip.decompress(payload[43:])))
        return row(length=len(made))(payload[:43] + made)

    return changed


NOT_UNPACKED = b"The job's part of the manifest cannot be unpacked in the container: "
NOT_OF = NOT_UNPACKED + b"its block is not of %d children. "
NO_CHILD = b"The array job's manifest has no child 1: release the job to run it again."
SPOILED = {
    "a byte is wrong": (flipped, NOT_UNPACKED + b"gzip: "),
    "it ends early": (lambda payload: payload[:-20], NOT_UNPACKED + b"gzip: "),
    "no block": (lambda payload: payload[:43], NOT_UNPACKED + b"gzip: "),
    "no directory": (lambda payload: b"", NO_CHILD),
    "half a row": (lambda payload: payload[:30], NO_CHILD),
    "not a row": (lambda payload: b"x[$(touch pwned)] " * 2 + b"\n" + payload[37:], NO_CHILD),
    "others' children": (row(first=2), NO_CHILD),
    "fewer children": (row(count=1), NO_CHILD),
    "no children": (row(count=0), NO_CHILD),
    "more children": (row(count=4), NOT_OF % 4),
    "far more children": (row(count=999_999), NOT_OF % 999_999),
    "begins late": (row(begin=45), NOT_UNPACKED + b"gzip: "),
    "begins nowhere": (row(begin=0), NOT_UNPACKED + b"gzip: "),
    "begins behind the end": (row(begin=9_999_999_999), NOT_UNPACKED + b"gzip: "),
    "short": (row(length=100), NOT_UNPACKED + b"gzip: "),
    "empty": (row(length=0), NOT_UNPACKED + b"gzip: "),
    "lengths that are none": (block(lambda data: b"x[$(touch pwned)]\n" * 3 + data), NOT_OF % 3),
    "a length that is not so": (block(lambda data: b"0000000100\n" + data[11:]), NOT_UNPACKED + b"tar: "),
    "too long": (block(lambda data: data[:11] + b"0000000000\n" + data[22:]), NOT_UNPACKED + b"tar: "),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_manifest_that_is_damaged_ends_the_child_with_a_sentence(site: Site, how: str) -> None:
    change, said = SPOILED[how]
    put_pack(site, [site.request("echo ran")] * 3)
    spoil(site, change)
    ended = run_child(site, 1)
    assert ended.code == 125
    assert ended.log == b""
    assert said in ended.errors
    assert b"release the job" in ended.errors
    assert site.keys("runs/") == [f"runs/{PACK}/manifest", RECORDS]


def test_a_shard_that_is_another_ends_the_child(site: Site) -> None:
    put_pack(site, [site.request("echo ran")] * 3)
    spoil(site, row(shard=1, begin=1))
    site.client.put_object(Bucket="jobs", Key=f"{site.prefix}/runs/{PACK}/shard/1", Body=b"not gzipped")
    ended = run_child(site, 1)
    assert ended.code == 125
    assert NOT_UNPACKED + b"gzip: " in ended.errors


class Watched:
    """A client that notes what is put, and fails for what ends with `fails`."""

    def __init__(self, client, fails: str = "nothing") -> None:
        self._client, self._fails, self.put = client, fails, []

    def put_object(self, **arguments):
        if arguments["Key"].endswith(self._fails):
            raise ConnectionError("no way")
        self.put.append(arguments["Key"].rpartition(f"{PACK}/")[2])
        return self._client.put_object(**arguments)

    def __getattr__(self, name: str):
        return getattr(self._client, name)


def large_parts(site: Site) -> list[manifest.JobPart]:
    noise = random.Random(1)
    request = site.request(executable="/bin/true", transfer_executable=False)
    return [
        site.sandbox.prepare(f"77-{n}-r", dataclasses.replace(request, arguments=(noise.randbytes(90_000).hex(),)), f"record {n}")
        for n in range(6)
    ]


def test_a_manifest_is_written_when_all_that_belongs_to_it_is_there(site: Site, new_sandbox) -> None:
    parts = large_parts(site)
    watched = Watched(site.client)
    new_sandbox(site.prefix, other=watched).put_pack(PACK, parts)
    assert set(watched.put[:-1]) == {"records", *(f"shard/{n}" for n in range(1, 5))}
    assert watched.put[-1] == "manifest"


@pytest.mark.parametrize("missing", ["records", "shard/2", "manifest"])
def test_a_pack_that_was_not_written_to_its_end_is_none(site: Site, new_sandbox, missing: str) -> None:
    """As after a death, which may come before any of the calls."""
    with pytest.raises(Transient):
        new_sandbox(site.prefix, other=Watched(site.client, missing)).put_pack(PACK, large_parts(site))
    assert f"runs/{PACK}/manifest" not in site.keys("runs/")
    assert list(site.sandbox.records()) == []


def test_the_records_of_a_pack_are_read_line_by_line_and_many(site: Site) -> None:
    long = "x" * 300_000
    site.sandbox.put_pack(
        PACK, [dataclasses.replace(part, record=f"{n} {long}".encode()) for n, part in enumerate(tiny_parts(site, 90))]
    )
    for index, record in enumerate(site.sandbox.records()):
        assert (record.text, record.pack, record.child) == (f"{index} {long}", PACK, index)
    assert index == 89


class Slow:
    """A client whose reads take a while, and which counts them: how many were begun, and the most at one time."""

    def __init__(self, client) -> None:
        self._client, self._lock = client, threading.Lock()
        self.begun = self.now = self.most = 0

    def get_object(self, **arguments):
        with self._lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.1)
        with self._lock:
            self.now -= 1
        return self._client.get_object(**arguments)

    def __getattr__(self, name: str):
        return getattr(self._client, name)


def test_the_manifests_of_many_runs_are_read_several_at_a_time_and_no_further_ahead(site: Site, new_sandbox) -> None:
    names = [f"77-{n:02}-r" for n in range(12)]
    for name in names:
        site.sandbox.stage(name, site.request("true"), name)
    slow = Slow(site.client)
    records = new_sandbox(site.prefix, other=slow).records()  # of four threads
    found = [next(records).text]
    time.sleep(0.3)
    assert (slow.begun, slow.most) == (4, 4)
    assert found + [record.text for record in records] == names
    assert (slow.begun, slow.most) == (12, 4)


def test_a_record_that_is_too_long_is_left_out_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_MAX_RECORD", 60)
    put_pack(site, [site.request("true")] * 3)
    parts = tiny_parts(site, 3)
    site.sandbox.put_pack(PACK, [parts[0], dataclasses.replace(parts[1], record=b"x" * 60), parts[2]])
    assert [bool(record.text) for record in site.sandbox.records()] == [True, False, True]


def records_of(lines: bytes) -> bytes:
    return gzip.compress(lines)


GARBAGE = {
    "nothing": b"",
    "not gzipped": b"record\n" * 100,
    "half": records_of(random.Random(2).randbytes(5000).hex().encode() + b"\n")[:2000],
    "no newline": records_of(b"one\ntwo"),
    "behind the end": records_of(b"one\n") + b"more",
    "no records": records_of(b""),
    "a bomb": records_of(b"\0" * 20_000_000),
    "many lines": records_of(b"\n" * 200_000),
    "a wrong sum": records_of(b"one\ntwo\n")[:-8] + b"\0" * 8,
    "a wrong block": zlib.compress(b"one\ntwo\n", wbits=-15),
}


@pytest.mark.parametrize("what", [*GARBAGE, "gone"])
def test_records_that_are_damaged_tell_of_nobody_and_hide_nobody_else(site: Site, what: str, caplog) -> None:
    put_pack(site, [site.request("true")] * 2)
    site.sandbox.stage("77-9-r", site.request("true"), "another's record")
    key = f"{site.prefix}/{RECORDS}"
    if what == "gone":
        site.client.delete_object(Bucket="jobs", Key=key)
    else:
        site.client.put_object(Bucket="jobs", Key=key, Body=GARBAGE[what])
    assert [(record.text, record.pack) for record in site.sandbox.records()] == [("another's record", "")]
    assert f"{PACK}: the records of this pack are gone or damaged" in caplog.text
