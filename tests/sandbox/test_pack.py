"""Packs: one manifest for all children of an array job, of which each finds its own part by its index."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from gahp.journal import Journal, Run, opened
from gahp.sandbox import Outcome, manifest

if TYPE_CHECKING:
    from conftest import Ended, Site

PACK = "77-pack-abc"


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
        [f"runs/{PACK}/manifest", *(f"runs/{name}/0/{what}" for name in names for what in ("claim", "result"))]
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
    script = dataclasses.replace(site, run=PACK).object("manifest")
    firsts = [int(line) for line in script.rpartition(b"exit 125\n")[2].split()]
    for index in (0, firsts[1] - 1, firsts[1], firsts[-1], 9_999):
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
    assert site.keys("runs/") == [f"runs/{PACK}/manifest"]


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
    body = site.sandbox.prepare("77-0-r", dataclasses.replace(request, environment=(("N", "x" * 100),)))
    count = 3 * manifest.SHARD // (2 * len(body))
    site.sandbox.put_pack(PACK, [body] * count)
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
