"""Outputs: which come back, where they land, and what is never written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gahp.model import Refused, encode, to_text
from gahp.sandbox import check

if TYPE_CHECKING:
    from conftest import Site


def made(site: Site) -> dict[str, str]:
    """Files below the submit directory, without the program and the streams."""
    found = {}
    for path in sorted(site.iwd.rglob("*")):
        name = str(path.relative_to(site.iwd))
        if name not in ("program", "job.out", "job.err"):
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def test_declared_outputs_land_under_their_base_names(site: Site) -> None:
    script = (
        "mkdir -p b d/e/f g/h x; echo 1 > a; echo 2 > b/c.out; echo 3 > d/in; echo 4 > d/e/in; echo 5 > g/h/top; echo 6 > x/no"
    )
    outcome, _ = site.execute(site.request(script, outputs=("a", "b/c.out", "d", "g/")))
    assert made(site) == {
        "a": "1\n", "c.out": "2\n", "d": "/", "d/e": "/", "d/e/f": "/", "d/e/in": "4\n", "d/in": "3\n", "h": "/", "h/top": "5\n",
    }  # fmt: skip
    assert outcome.missing == ()


def test_an_empty_directory_is_an_output(site: Site) -> None:
    outcome, _ = site.execute(site.request("mkdir d", outputs=("d",)))
    assert (made(site), outcome.missing) == ({"d": "/"}, ())


def test_all_of_the_scratch_directory_can_be_named(site: Site) -> None:
    site.execute(site.request("mkdir d; echo x > d/y", outputs=("./",)))
    assert made(site) == {"d": "/", "d/y": "x\n"}


def test_without_a_list_new_and_changed_files_of_the_top_come_back(site: Site) -> None:
    for name in ("kept", "changed", "rewritten", "large"):
        (site.iwd / name).write_text("before" * (20_000 if name == "large" else 1))
    inputs = ("kept", "changed", "rewritten", "large")
    script = "echo more >> changed; printf before > rewritten; echo n > .new; mkdir d; echo no > d/no; ln -s changed linked"
    request = site.request(script, inputs=inputs)
    away = site.iwd.parent / "away"
    away.mkdir()
    site.sandbox.stage(site.run, request)
    for name in inputs:
        (site.iwd / name).rename(away / name)
    site.wait(site.start())
    outcome = site.sandbox.collect(site.run, 0, request)
    assert made(site) == {".new": "n\n", "changed": "beforemore\n", "linked": "beforemore\n", "rewritten": "before"}
    assert outcome is not None and outcome.missing == ()


def test_without_a_list_a_changed_executable_comes_back(site: Site) -> None:
    site.execute(site.request("echo '#' >> program"))
    assert (site.iwd / "program").read_text().endswith("#\n")


def test_an_empty_list_means_none(site: Site) -> None:
    site.execute(site.request("echo x > new", outputs=()))
    assert made(site) == {}


def test_missing_outputs_are_told_and_the_rest_is_placed(site: Site) -> None:
    script = "echo there > a; mkdir d; ln -s nowhere d/dangling; ln -s nowhere gone; mkfifo fifo; echo said"
    outcome, ended = site.execute(site.request(script, outputs=("a", "b", "d", "gone", "fifo", "e/")))
    assert outcome.missing == ("b", "d/dangling", "gone", "fifo", "e/")
    assert (outcome.exit_code, outcome.phase, ended.code) == (0, "", 0)
    assert made(site) == {"a": "there\n", "d": "/"}
    assert (site.iwd / "job.out").read_text() == "said\n"


def test_modes_are_kept_and_privileges_are_not(site: Site) -> None:
    site.execute(
        site.request("umask 0; echo x > a; chmod 4751 a; echo y > b; chmod 640 b; head -c 2000000 /dev/zero > c; chmod 600 c")
    )
    assert [stat.S_IMODE((site.iwd / name).stat().st_mode) for name in "abc"] == [0o751, 0o640, 0o600]


def test_streams_keep_the_mode_of_the_file_they_replace(site: Site) -> None:
    (site.iwd / "job.out").write_text("before")
    (site.iwd / "job.out").chmod(0o606)
    site.execute(site.request("echo after"))
    assert (site.iwd / "job.out").read_text() == "after\n"
    assert stat.S_IMODE((site.iwd / "job.out").stat().st_mode) == 0o606
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((site.iwd / "job.err").stat().st_mode) == 0o666 & ~umask


def test_links_among_the_outputs_become_what_they_lead_to(site: Site) -> None:
    script = "mkdir -p real d; echo x > real/file; ln -s ../real/file d/link; ln real/file d/hard; ln -s ../real d/away"
    site.execute(site.request(script + "; ln -s real whole", outputs=("d", "whole")))
    assert made(site) == {"d": "/", "d/link": "x\n", "d/hard": "x\n", "whole": "/", "whole/file": "x\n"}
    assert not (site.iwd / "d/link").is_symlink()


@pytest.mark.parametrize("size", [0, 5, 1_048_577])
@pytest.mark.parametrize(
    "name", ["with space", "ünï/日本", "new\nline", "-dash", "quote'\"$(x)*[\\", to_text(b"\xff\xfe"), "x" * 255]
)
def test_any_name_of_any_size_comes_back(site: Site, name: str, size: int) -> None:
    script = f'mkdir -p "$(dirname -- "./$1")"; head -c {size} /dev/zero > "./$1"'
    outcome, ended = site.execute(site.request(script, outputs=(name,), arguments=(name,)))
    assert (outcome.missing, ended.errors) == ((), b"")
    assert (site.iwd / os.path.basename(name)).stat().st_size == size


def test_thousands_of_outputs_come_back_in_a_few_objects(site: Site) -> None:
    script = "mkdir d; for ((i = 0; i < 3000; i++)); do printf %04000d $i > d/$i; done"
    outcome, _ = site.execute(site.request(script, outputs=("d", "d/7")))
    assert (len(list((site.iwd / "d").iterdir())), outcome.missing) == (3000, ())
    assert int((site.iwd / "d/2999").read_text()) == 2999
    assert (site.iwd / "7").read_text() == (site.iwd / "d/7").read_text()
    assert site.keys(f"runs/{site.run}/0") == [f"runs/{site.run}/0/{name}" for name in ("claim", "out/p0", "result")]


def test_large_outputs_are_objects_of_their_own_and_the_same_file_is_sent_once(site: Site) -> None:
    script = "mkdir d; head -c 20000000 /dev/urandom > d/big; head -c 1500000 /dev/urandom > mid; cat d/big"
    outcome, _ = site.execute(site.request(script, outputs=("d", "d/big", "mid")))
    big = (site.iwd / "big").read_bytes()
    assert len(big) == 20_000_000 and big == (site.iwd / "d/big").read_bytes() == (site.iwd / "job.out").read_bytes()
    assert (site.iwd / "mid").stat().st_size == 1_500_000
    assert len(site.keys(f"runs/{site.run}/0/out")) == 3
    assert (outcome.missing, outcome.bytes_sent) == ((), 61_500_000)


def test_more_outputs_than_can_be_listed_are_a_sentence(site: Site) -> None:
    outcome, ended = site.execute(site.request("mkdir d; touch d/{1..20}; echo said", outputs=("d",)), GAHP_MAX_FILES="15")
    assert (outcome.phase, outcome.exit_code, ended.code, outcome.missing) == ("stage_out", 0, 125, ("d",))
    assert outcome.message == "the job made more than 15 output files: let it pack them into an archive"
    assert (site.iwd / "job.out").read_text() == "said\n"


def test_a_stream_may_be_declared_as_an_output(site: Site) -> None:
    outcome, _ = site.execute(site.request("echo said", outputs=("job.out", "log.txt"), remaps=(("log.txt", "job.err"),)))
    assert (outcome.missing, (site.iwd / "job.out").read_text()) == ((), "said\n")


def test_outputs_replace_what_was_there_and_leave_nothing_else(site: Site) -> None:
    (site.iwd / "a").write_text("old")
    (site.iwd / "a").chmod(0o444)
    site.execute(site.request("echo new > a", outputs=("a",)))
    assert made(site) == {"a": "new\n"}


def test_collecting_twice_gives_the_same(site: Site) -> None:
    request = site.request("echo new > a; exit 3", outputs=("a", "b"))
    first, _ = site.execute(request)
    (site.iwd / "a").unlink()
    assert site.sandbox.collect(site.run, 0, request) == first
    assert made(site) == {"a": "new\n"}


def test_without_a_result_there_is_no_outcome(site: Site) -> None:
    assert site.sandbox.collect(site.run, 0, site.request("true")) is None
    assert not (site.iwd / "job.out").exists()


def test_each_submission_has_a_result_of_its_own(site: Site) -> None:
    request = site.request("exit $1", arguments=("3",))
    assert site.execute(request)[0].exit_code == 3
    assert site.sandbox.collect(site.run, 1, request) is None


# Remaps


def test_remaps_to_local_places(site: Site) -> None:
    other = site.iwd.parent / "other"
    other.mkdir()
    (site.iwd / "sub").mkdir()
    remaps = (
        ("a", str(other / "renamed")), ("b/c.out", "sub/first"), ("e.out", "sub/"), ("d", "sub/dd"),
        ("f", "g"), ("g", "f"), ("h", "i"), ("i", "j"),
    )  # fmt: skip
    script = "mkdir b d; echo a > a; echo c > b/c.out; echo e > b/e.out; echo d > d/in; echo f > f; echo g > g; echo h > h"
    outcome, _ = site.execute(site.request(script, outputs=("a", "b/c.out", "b/e.out", "d", "f", "g", "h"), remaps=remaps))
    assert made(site) == {
        "f": "g\n", "g": "f\n", "j": "h\n", "sub": "/", "sub/dd": "/", "sub/dd/in": "d\n", "sub/e.out": "e\n", "sub/first": "c\n",
    }  # fmt: skip
    assert ((other / "renamed").read_text(), outcome.missing) == ("a\n", ())


def test_remaps_hold_for_outputs_that_were_not_listed(site: Site) -> None:
    site.execute(site.request("echo a > a; echo b > b", remaps=(("a", "renamed"),)))
    assert made(site) == {"b": "b\n", "renamed": "a\n"}


def test_remaps_to_s3_are_uploaded_by_the_container_and_do_not_come_back(site: Site) -> None:
    there = f"s3://jobs/{site.prefix}/mine"
    remaps = (
        ("a", f"{there}/it's a"),
        ("d", f"{there}/dir"),
        ("d/local", "here"),
        ("c", f"{there}/into/"),
        ("big", f"s3://jobs.s3.us-west-2.amazonaws.com/{site.prefix}/mine/big"),  # HTCondor's other form
    )
    script = (
        "mkdir b d; echo a > a; echo c > b/c; echo in > d/in; echo loc > d/local; echo n > n; head -c 2000000 /dev/zero > big"
    )
    outcome, ended = site.execute(site.request(script, outputs=("a", "b/c", "d", "n", "big"), remaps=remaps))
    assert made(site) == {"here": "loc\n", "n": "n\n"}, ended.errors
    assert outcome.missing == ()
    assert site.keys("mine") == ["mine/big", "mine/dir/in", "mine/into/c", "mine/it's a"]
    assert site.client.get_object(Bucket="jobs", Key=f"{site.prefix}/mine/it's a")["Body"].read() == b"a\n"


def test_an_s3_remap_that_cannot_be_written_is_named_and_the_rest_is_placed(site: Site) -> None:
    request = site.request("echo a > a; echo b > b", outputs=("a", "b"), remaps=(("a", "s3://no-such-bucket-here/a"),))
    outcome, ended = site.execute(request)
    assert (outcome.phase, outcome.exit_code, ended.code, outcome.missing) == ("stage_out", 0, 125, ("a",))
    assert "could not upload the output a to s3://no-such-bucket-here/a" in outcome.message
    assert made(site) == {"b": "b\n"}


# What is refused before the job is accepted


def refusal(site: Site, **fields: object) -> str:
    with pytest.raises(Refused) as refused:
        check(site.request(**({"script": "true"} | fields)))
    return str(refused.value)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..", "./../a", "d/../.."])
def test_an_output_that_climbs_is_refused(site: Site, name: str) -> None:
    assert f"The output {name} in transfer_output_files leads out" in refusal(site, outputs=("fine", name))


def test_an_absolute_output_is_refused(site: Site) -> None:
    assert "The output /tmp/a in transfer_output_files is an absolute name" in refusal(site, outputs=("/tmp/a",))


def test_two_outputs_for_one_place_are_refused(site: Site) -> None:
    assert "The outputs a/x and b/x would both become x" in refusal(site, outputs=("a/x", "b/x"))
    check(site.request("true", outputs=("a/x", "b/x", "a/x"), remaps=(("b/x", "y"),)))


def test_streams_need_directories_that_are_there(site: Site) -> None:
    assert f"The job's output file no/out cannot be written: the directory {site.iwd}/no does not exist" in refusal(
        site, stdout="no/out"
    )
    assert f"The job's error file no/err cannot be written: the directory {site.iwd}/no does not exist" in refusal(
        site, stderr="no/err"
    )
    assert "is no regular file" in refusal(site, stdout=str(site.iwd))
    os.mkfifo(site.iwd / "fifo")
    assert "is no regular file" in refusal(site, stdout="fifo")


def test_remaps_need_directories_that_are_there(site: Site) -> None:
    assert f"the directory {site.iwd}/no does not exist" in refusal(site, remaps=(("a", "no/b"),))
    assert f"the directory {site.iwd}/no/ does not exist" in refusal(site, remaps=(("a", "no/"),))
    assert "remapped to nothing" in refusal(site, remaps=(("a", ""),))


def test_remaps_to_other_urls_are_refused(site: Site) -> None:
    assert "only local paths and s3:// URLs" in refusal(site, remaps=(("a", "https://host/a"),))
    assert "names no S3 object" in refusal(site, remaps=(("a", "s3://bucket"),))


USER_LOGS = {
    "classic": "000 (077.000.000) 2026-11-23 10:00:00 Job submitted from host: <127.0.0.1:9618>\n...\n",
    "xml": '<?xml version="1.0"?>\n<!DOCTYPE classads SYSTEM "classads.dtd">\n<classads>\n<c>\n    <a n="MyType"><s>x</s></a>\n',
    "xml bare": '<c>\n    <a n="MyType"><s>SubmitEvent</s></a>\n',
    "json": '{\n    "Cluster": 77,\n    "EventTypeNumber": 0,\n    "MyType": "SubmitEvent"\n',
}


@pytest.mark.parametrize("text", USER_LOGS.values(), ids=USER_LOGS)
def test_nothing_may_overwrite_what_looks_like_a_user_log(site: Site, text: str) -> None:
    log = site.iwd / "job.log"
    log.write_text(text)
    (site.iwd / "link").symlink_to("job.log")
    for fields in (
        {"stdout": "job.log"}, {"stderr": str(log)}, {"outputs": ("d/job.log",)}, {"remaps": (("a", "job.log"),)},
        {"stdout": "link"},
    ):  # fmt: skip
        assert "would overwrite the job's user log" in refusal(site, **fields)


def test_nothing_may_overwrite_the_user_log_that_the_job_names(site: Site) -> None:
    (site.iwd / "job.log").touch()
    assert "would overwrite the job's user log" in refusal(site, user_log="job.log", outputs=("job.log",))


def test_a_user_log_that_appears_later_is_not_overwritten_either(site: Site) -> None:
    request = site.request("echo junk > job.log")
    site.sandbox.stage(site.run, request)
    site.wait(site.start())
    (site.iwd / "job.log").write_text(USER_LOGS["classic"])
    with pytest.raises(Refused, match="would overwrite the job's user log"):
        site.sandbox.collect(site.run, 0, request)
    assert made(site) == {"job.log": USER_LOGS["classic"]}


# What the submit host's own disk can have in store


def test_an_output_directory_that_is_a_link_out_of_iwd_is_refused(site: Site) -> None:
    outside = site.iwd.parent / "outside"
    outside.mkdir()
    (site.iwd / "d").symlink_to(outside)
    with pytest.raises(Refused, match=r"The output d would leave the job's directory .* through a symbolic link, to .*/outside"):
        site.execute(site.request("mkdir d; echo x > d/x", outputs=("d",)))
    assert list(outside.iterdir()) == []


def test_an_output_file_that_is_a_link_replaces_the_link(site: Site) -> None:
    outside = site.iwd.parent / "outside"
    outside.write_text("mine")
    (site.iwd / "a").symlink_to(outside)
    site.execute(site.request("echo x > a", outputs=("a",)))
    assert (outside.read_text(), (site.iwd / "a").read_text()) == ("mine", "x\n")


def test_standard_output_follows_the_users_own_link(site: Site) -> None:
    outside = site.iwd.parent / "outside"
    (site.iwd / "job.out").symlink_to(outside)
    site.execute(site.request("echo x"))
    assert (outside.read_text(), (site.iwd / "job.out").is_symlink()) == ("x\n", True)


def test_what_is_in_the_way_is_named_and_nothing_is_changed(site: Site) -> None:
    (site.iwd / "a").mkdir()
    (site.iwd / "b").write_text("old")
    with pytest.raises(Refused, match=r"/a cannot be written: a directory of that name is there"):
        site.execute(site.request("echo x > a; echo y > b", outputs=("b", "a")))
    (site.iwd / "a").rmdir()
    (site.iwd / "a").write_text("file")
    with pytest.raises(Refused, match=r"output directory a cannot be made: .*/a is a file"):
        site.execute(site.request("mkdir a; echo y > b", outputs=("b", "a")), submission=1)
    assert made(site) == {"a": "file", "b": "old"}


def test_a_directory_that_vanished_is_named(site: Site) -> None:
    (site.iwd / "sub").mkdir()
    request = site.request("true", stdout="sub/out")
    site.sandbox.stage(site.run, request)
    site.wait(site.start())
    (site.iwd / "sub").rmdir()
    (site.iwd / "sub").write_text("now a file")
    with pytest.raises(Refused, match=r"The output cannot be written at .*/sub"):
        site.sandbox.collect(site.run, 0, request)


def test_a_full_disk_on_the_submit_host_changes_nothing_and_says_so(site: Site) -> None:
    """In a process of its own, whose files may not grow beyond 1 MB."""
    request = site.request("echo new > a; head -c 3000000 /dev/zero > big", outputs=("a", "big"))
    (site.iwd / "a").write_text("old")
    site.sandbox.stage(site.run, request)
    site.wait(site.start())
    code = (
        "import resource, signal, sys, boto3\nfrom gahp.model import Refused, decode_request\nfrom gahp.sandbox import Sandbox\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))\n"
        "keys = {'aws_access_key_id': 'x', 'aws_secret_access_key': 'x', 'region_name': 'us-east-1'}\n"
        "client = boto3.client('s3', endpoint_url=sys.argv[1], **keys)\n"
        "sandbox = Sandbox(client, 'jobs', sys.argv[2])\n"
        "try: sandbox.collect(sys.argv[3], 0, decode_request(sys.argv[4]))\n"
        "except Refused as reason: print(reason)\nsandbox.close()\n"
    )
    command = [sys.executable, "-c", code, site.endpoint, site.prefix, site.run, encode(request)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "The output cannot be written at" in told.stdout and "File too large" in told.stdout, told.stderr
    assert made(site) == {"a": "old"}
