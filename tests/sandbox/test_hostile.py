"""Results that a container made up: nothing is written but what the job declared, and nonsense is refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gahp.model import Refused, to_bytes
from gahp.sandbox import result
from gahp.sandbox.outcome import parse
from gahp.sandbox.tarstream import members

if TYPE_CHECKING:
    from conftest import Site

EXIT = {
    "version": 1, "runner_exit": 0, "terminated": False, "phase": "", "exit_code": 0, "exit_signal": None, "oom": False,
    "attempt": 1, "started": 1.5, "finished": 2.5, "user_cpu_s": 0.1, "system_cpu_s": 0, "peak_memory_mib": None, "disk_kib": 4,
    "bytes_sent": 1, "bytes_received": 2, "message": "",
}  # fmt: skip


def record(name: str, data: bytes = b"", kind: str = "f", declaration: str = "0", place: str = "r", **given: str) -> list[str]:
    fields = {"size": str(len(data)), "digest": hashlib.sha256(data).hexdigest(), "mode": "644"} | given
    return [kind, declaration, place, fields["size"], fields["digest"], fields["mode"], name]


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def tar(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def made_up(records: list[list[str]], *entries: tuple[tarfile.TarInfo, bytes], how: object = EXIT) -> bytes:
    listing = b"".join(to_bytes(item) + b"\0" for fields in records for item in fields)
    return tar(entry("exit.json", json.dumps(how).encode()), entry("files", listing), *entries)


def collect(site: Site, data: bytes, **fields: object):
    site.put("0/result", data)
    return site.sandbox.collect(site.run, 0, site.request("true", **fields))


def refused(site: Site, data: bytes, **fields: object) -> str:
    before = {path: path.read_bytes() for path in site.iwd.rglob("*") if path.is_file()}
    with pytest.raises(Refused) as reason:
        collect(site, data, **({"outputs": ("a", "d")} | fields))
    after = {path: path.read_bytes() for path in site.iwd.rglob("*") if path.is_file() and path.name != "program"}
    assert after.keys() <= before.keys()
    assert not (site.iwd.parent / "evil").exists()
    return str(reason.value)


def test_what_the_runner_writes_is_what_these_tests_make_up(site: Site) -> None:
    data = made_up(
        [record("a", b"text"), record("stdout", b"said", kind="o", declaration="-")],
        entry("scratch/a", b"text"),
        entry("stdout", b"said"),
    )
    outcome = collect(site, data, outputs=("a",))
    assert outcome is not None and (outcome.exit_code, outcome.missing, outcome.started) == (0, (), 1.5)
    assert ((site.iwd / "a").read_text(), (site.iwd / "job.out").read_text()) == ("text", "said")


@pytest.mark.parametrize(
    "name", ["../evil", "d/../../evil", "/evil", "a//b", "./a", "a/", "", "d/" + "x" * 256, "d/" * 3000 + "x", ".."]
)
def test_names_that_lead_elsewhere_are_refused(site: Site, name: str) -> None:
    assert "no name inside the job's scratch directory" in refused(
        site, made_up([record(name, b"x")], entry("scratch/" + name[:200], b"x"))
    )


def test_undeclared_names_are_ignored_with_a_line_in_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    records = [record("evil", b"x"), record("a", b"y"), record("b", b"z", declaration="1"), record("c", b"z", declaration="-")]
    records.append(record("dd/e", b"x", declaration="7"))
    outcome = collect(
        site,
        made_up(records, *(entry(f"scratch/{n}", b"x") for n in ("evil", "dd/e", "job.log")), entry("scratch/a", b"y")),
        outputs=("a", "d"),
    )
    assert outcome is not None and outcome.missing == ("d",)
    assert sorted(path.name for path in site.iwd.iterdir()) == ["a", "job.err", "job.out", "program"]
    assert sum("did not declare" in line for line in caplog.messages) == 4


def test_without_a_list_only_the_top_comes_back(site: Site) -> None:
    records = [
        record("d/a", b"x", declaration="-"),
        record("d", kind="d", declaration="-", place="-"),
        record("a", b"y", declaration="-"),
    ]
    collect(site, made_up(records, entry("scratch/d/a", b"x"), entry("scratch/a", b"y")))
    assert sorted(path.name for path in site.iwd.iterdir()) == ["a", "job.err", "job.out", "program"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_devices_and_directories_in_the_tar_are_refused(site: Site, kind: bytes) -> None:
    data = made_up([record("a", b"x")], entry("scratch/a", b"", kind, "../evil"), entry("scratch/a", b"x"))
    assert "something else than regular files" in refused(site, data)


def test_extended_headers_and_compressed_tars_are_refused(site: Site) -> None:
    info, data = entry("scratch/a", b"x")
    info.pax_headers = {"path": "../evil"}
    assert "damaged" in refused(site, tar((info, data), form=tarfile.PAX_FORMAT))
    assert "damaged" in refused(site, gzip.compress(made_up([])))


def test_a_tar_that_ends_early_or_late_or_is_nothing_is_refused(site: Site) -> None:
    whole = made_up([record("a", b"x" * 5000)], entry("scratch/a", b"x" * 5000))
    for data in (b"", b"\0" * 1024, b"x" * 2000, whole[:100], whole[:512], whole[:1100], whole[:5000], whole[1024:]):
        assert "The job's result is damaged" in refused(site, data)


def test_content_that_is_not_what_the_list_says_is_refused(site: Site) -> None:
    for wrong in (record("a", b"y"), record("a", b"xx"), record("a", b"x", size="0")):
        assert "the output a is not what the list says" in refused(site, made_up([wrong], entry("scratch/a", b"x")))


def test_content_that_is_listed_but_not_there_is_refused(site: Site) -> None:
    assert "lists the output a but does not hold it" in refused(site, made_up([record("a", b"x")]))
    assert "a pack of its files is gone" in refused(site, made_up([record("a", b"x", place="p0")]))
    assert "the output a is gone from S3" in refused(site, made_up([record("a", b"x", place="o3")]))
    site.put("0/out/3", b"other")
    assert "the output a is not what the list says" in refused(site, made_up([record("a", b"x", place="o3")]))
    large = record("a", b"x", place="o4", size="99999999")
    assert "is gone from" in refused(site, made_up([large]))


def test_an_object_that_is_longer_than_its_list_says_is_not_copied_whole(site: Site) -> None:
    site.put("0/out/3", b"x" * 5_000_000)
    assert "the output a is not what the list says" in refused(site, made_up([record("a", b"x", place="o3")]))


def test_a_place_that_the_job_did_not_ask_for_is_refused(site: Site) -> None:
    assert "not where the job wanted it" in refused(site, made_up([record("a", b"x", place="s3")]))
    remaps = (("a", "s3://bucket/key"),)
    assert "not where the job wanted it" in refused(site, made_up([record("a", b"x")], entry("scratch/a", b"x")), remaps=remaps)


@pytest.mark.parametrize(
    "fields",
    [
        ["x", "0", "r", "1", "0" * 64, "644", "a"],
        ["f", "-1", "r", "1", "0" * 64, "644", "a"],
        ["f", "99999999", "r", "1", "0" * 64, "644", "a"],
        ["f", "0", "o-1", "1", "0" * 64, "644", "a"],
        ["f", "0", "../../x", "1", "0" * 64, "644", "a"],
        ["f", "0", "r", "-1", "0" * 64, "644", "a"],
        ["f", "0", "r", "9" * 17, "0" * 64, "644", "a"],
        ["f", "0", "r", "1", "0" * 63, "644", "a"],
        ["f", "0", "r", "1", "0" * 64, "99", "a"],
        ["f", "0", "-", "1", "0" * 64, "644", "a"],
        ["d", "0", "r", "1", "0" * 64, "644", "a"],
        ["o", "-", "r", "1", "0" * 64, "644", "a"],
        ["e", "-", "s3", "1", "0" * 64, "644", "stderr"],
        ["f", "٣", "r", "1", "0" * 64, "644", "a"],
    ],
)
def test_a_list_without_sense_is_refused(site: Site, fields: list[str]) -> None:
    assert "its list of files has no sense" in refused(site, made_up([fields]))


def test_a_list_that_is_cut_off_is_refused() -> None:
    whole = b"".join(item.encode() + b"\0" for item in record("a"))
    for data in (whole[:-1], whole[:-2], whole + b"f\0"):
        with pytest.raises(Refused, match="no sense or no end"):
            result.records(data)


def test_bombs_are_refused_before_they_grow(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "MAX_RECORDS", 3)
    assert "no sense or no end" in refused(site, made_up([record(f"d/{n}") for n in range(4)]))
    big = tar(entry("exit.json", b" " * 70_000))
    assert "larger than 65536 bytes" in refused(site, big)
    monkeypatch.setattr(result, "MAX_OBJECT", 4096)
    assert "bytes long, which no runner makes it" in refused(site, made_up([], entry("x", b"x" * 5000)))


def test_a_file_name_that_claims_gigabytes_is_refused() -> None:
    info, _ = entry("x")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"77777777777\0"
    header[156:157] = b"L"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(Refused, match="impossible length"):
        next(members(io.BytesIO(bytes(header) + b"x" * 4096)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exit_code", 256), ("exit_code", -1), ("exit_code", "0"), ("exit_code", True), ("exit_code", 1.0), ("exit_signal", 0),
        ("exit_signal", 65), ("exit_signal", 9), ("phase", "elsewhere"), ("phase", 1), ("oom", 1), ("terminated", "no"),
        ("attempt", 0), ("started", -1), ("started", float("inf")), ("started", float("nan")), ("finished", "now"),
        ("user_cpu_s", [1]), ("disk_kib", -5), ("message", None),
        ("bytes_sent", 2**70), ("peak_memory_mib", 1.5), ("version", 2), ("exit_code", None),
    ],
)  # fmt: skip
def test_lies_in_exit_json_are_refused(site: Site, field: str, value: object) -> None:
    assert "exit.json is damaged" in refused(site, made_up([], how=EXIT | {field: value}))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"[" * 50_000, b'{"version": 1}', b"\xff\xfe", b"1" * 10_000])
def test_an_exit_json_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(Refused, match=r"exit.json is damaged"):
        parse(text)


def test_a_message_is_one_printable_line() -> None:
    message = parse(json.dumps(EXIT | {"phase": "start", "message": "a\nb\x1b[31m\ud800" + "x" * 5000}).encode()).message
    assert message.startswith("a b [31m") and message.isprintable() and len(message) <= 1000


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=300),
        st.binary(max_size=2000),
        max_size=5,
    )
)
def test_every_tar_of_regular_files_is_read_as_it_was_written(files: dict[str, bytes]) -> None:
    data = tar(*(entry(name, content) for name, content in files.items()))
    assert {member.name: member.read(10_000) for member in members(io.BytesIO(data))} == files


@given(st.binary(max_size=3000))
def test_no_bytes_make_the_reader_fail_otherwise_than_by_refusing(data: bytes) -> None:
    for start in (b"", tar(entry("exit.json", json.dumps(EXIT).encode()))[:1024]):
        with contextlib.suppress(Refused):
            list(result.read(io.BytesIO(start + data))[2])
