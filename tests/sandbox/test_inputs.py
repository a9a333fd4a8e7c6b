"""Inputs: what HTCondor means by them, what is refused before anything is uploaded, and what the runner makes of them."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gahp.model import Refused, to_text
from gahp.sandbox import check
from gahp.sandbox.inputs import walk

if TYPE_CHECKING:
    from conftest import Site


def test_files_and_directories_arrive_as_htcondor_places_them(site: Site) -> None:
    for name in ("plain", "d/inner", "d/deep/deeper", "e/first", "e/sub/second"):
        (site.iwd / name).parent.mkdir(parents=True, exist_ok=True)
        (site.iwd / name).write_text(name)
    (site.iwd / "d/empty").mkdir()
    elsewhere = site.iwd.parent / "elsewhere"
    elsewhere.write_text("elsewhere")
    inputs = ("plain", "d", "e/", str(elsewhere), "d/inner")
    script = 'shopt -s globstar dotglob; for f in **; do [ -d "$f" ] && echo "$f/" || echo "$f: $(cat "$f")"; done'
    site.execute(site.request(script, inputs=inputs))
    assert (site.iwd / "job.out").read_text().splitlines() == [
        "d/",
        "d/deep/",
        "d/deep/deeper: d/deep/deeper",
        "d/empty/",
        "d/inner: d/inner",
        "elsewhere: elsewhere",
        "first: e/first",
        "inner: d/inner",
        "plain: plain",
        "program: #!/bin/bash",
        script,
        "sub/",
        "sub/second: e/sub/second",
    ]


def test_modes_are_kept(site: Site) -> None:
    script = "stat -c '%a %n' small large packed* dir dir/* | sort -k2"
    for name, mode, size in (("small", 0o640, 5), ("large", 0o755, 70_000), ("dir/in", 0o444, 70_001), ("dir/at", 0o600, 1)):
        path = site.iwd / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(size))
        path.chmod(mode)
    for number in range(6):
        (site.iwd / f"packed{number}").write_bytes(bytes(60_000))
        (site.iwd / f"packed{number}").chmod(0o604)
    (site.iwd / "dir").chmod(0o750)
    site.execute(site.request(script, inputs=("small", "large", "dir", *(f"packed{n}" for n in range(6)))))
    lines = (site.iwd / "job.out").read_text().splitlines()
    assert lines == ["750 dir", "600 dir/at", "444 dir/in", "755 large", *(f"604 packed{n}" for n in range(6)), "640 small"]


@pytest.mark.parametrize("size", [0, 5, 70_000], ids=["empty", "small", "large"])
@pytest.mark.parametrize(
    "name", ["with space", "ünï/日本", "new\nline", "-dash", "quote'\"$(x)*[", to_text(b"\xff\xfe"), "x" * 255]
)
def test_any_name_of_any_size_arrives(site: Site, name: str, size: int) -> None:
    path = site.iwd / "d" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * size)
    outcome, _ = site.execute(site.request(f'[ "$(stat -c %s -- "$1")" = {size} ]', inputs=("d",), arguments=(f"d/{name}",)))
    assert outcome.exit_code == 0


def test_five_thousand_inputs_arrive_in_a_few_objects(site: Site) -> None:
    many = site.iwd / "many"
    many.mkdir()
    for number in range(5000):
        (many / f"file {number}").write_bytes(b"%d" % number * 20)
    script = "set -- many/*; echo $# ; cat 'many/file 0' 'many/file 4999'"
    check(site.request(script, inputs=("many",)))
    outcome, _ = site.execute(site.request(script, inputs=("many",)))
    assert (site.iwd / "job.out").read_text() == "5000\n" + "0" * 20 + "4999" * 20
    assert len(site.keys()) == 4  # blob, manifest, claim, result
    assert outcome.bytes_received > 5000 * 20


def test_duplicates_are_harmless_and_stored_once(site: Site) -> None:
    (site.iwd / "one").write_bytes(b"same" * 50_000)
    (site.iwd / "two").write_bytes(b"same" * 50_000)
    (site.iwd / "d").mkdir()
    (site.iwd / "d/one").write_bytes(b"same" * 50_000)
    site.execute(
        site.request("cmp one two && cmp one d/one && echo equal", inputs=("one", "two", "one", str(site.iwd / "one"), "d"))
    )
    assert (site.iwd / "job.out").read_text() == "equal\n"
    assert len(site.keys("blobs/")) == 1


def test_a_link_to_a_file_outside_is_the_users_own_and_is_followed(site: Site) -> None:
    outside = site.iwd.parent / "outside"
    outside.write_text("mine")
    (site.iwd / "d").mkdir()
    (site.iwd / "d/link").symlink_to(outside)
    site.execute(site.request("cat d/link; [ -L d/link ] || echo ' a file'", inputs=("d",)))
    assert (site.iwd / "job.out").read_text() == "mine a file\n"


def test_the_executable_wins_over_an_input_of_its_name(site: Site) -> None:
    other = site.iwd / "other"
    other.mkdir()
    (other / "program").write_text("not a program")
    outcome, _ = site.execute(site.request("exit 5", inputs=("other/program",)))
    assert outcome.exit_code == 5


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = not self.path.startswith("/absent")
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(f"path {self.path}".encode() if found else b"no")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_fetched_by_the_container_under_their_base_names(site: Site, web: str) -> None:
    site.client.put_object(Bucket="jobs", Key=f"{site.prefix}/it's[a]*key", Body=b"from s3")
    inputs = (f"{web}/a/data%20set.txt?version=2#top", f"{web}/b/[x]{{y}}", f"s3://jobs/{site.prefix}/it's[a]*key")
    outcome, ended = site.execute(site.request("cat 'data set.txt' '[x]{y}' it*", inputs=inputs))
    assert (site.iwd / "job.out").read_text() == "path /a/data%20set.txt?version=2path /b/[x]{y}from s3", ended.errors
    assert outcome.bytes_received == os.path.getsize(site.iwd / "program") + 53


@pytest.mark.parametrize("tool", ["s5cmd", "aws"])
def test_s3_inputs_are_written_in_both_of_htcondors_forms_and_with_blanks(site: Site, tool: str) -> None:
    site.client.put_object(Bucket="jobs", Key=f"{site.prefix}/my set/a b", Body=b"from s3\n")
    site.client.put_object(Bucket="jobs", Key=f"{site.prefix}/c%20d", Body=b"as it is\n")
    inputs = (f"s3://jobs.s3.us-west-2.amazonaws.com/{site.prefix}/my set/a b", f"S3://jobs/{site.prefix}/c%20d")
    _, ended = site.execute(site.request("cat 'a b' c%20d", inputs=inputs), tool=tool)
    assert (site.iwd / "job.out").read_text() == "from s3\nas it is\n", ended.errors


def test_many_urls_are_fetched(site: Site, web: str) -> None:
    site.execute(site.request("cat {1..30}", inputs=tuple(f"{web}/{n}" for n in range(1, 31))))
    assert (site.iwd / "job.out").read_text() == "".join(f"path /{n}" for n in range(1, 31))


def test_wget_serves_where_there_is_no_curl(site: Site, web: str, tmp_path: Path) -> None:
    path = site.bare_path(tmp_path / "bare", "wget")
    site.execute(site.request("cat x", inputs=(f"{web}/x",)), PATH=path)
    assert (site.iwd / "job.out").read_text() == "path /x"
    outcome, _ = site.execute(site.request("cat x", inputs=(f"{web}/absent/x",)), submission=1, PATH=path)
    assert outcome.phase == "stage_in" and f"{web}/absent/x" in outcome.message and "404" in outcome.message


def test_an_input_url_that_is_not_there_is_named(site: Site, web: str) -> None:
    outcome, ended = site.execute(site.request("true", inputs=(f"{web}/absent/file",)))
    assert (outcome.phase, outcome.exit_code, ended.code) == ("stage_in", None, 125)
    assert f"{web}/absent/file" in outcome.message and "404" in outcome.message


@pytest.mark.parametrize("tool", ["s5cmd", "aws"])
def test_an_s3_input_that_is_not_there_is_named(site: Site, tool: str) -> None:
    outcome, _ = site.execute(site.request("true", inputs=(f"s3://jobs/{site.prefix}/absent",)), tool=tool)
    assert outcome.phase == "stage_in"
    assert f"s3://jobs/{site.prefix}/absent" in outcome.message and "404" in outcome.message


def test_a_container_without_curl_or_wget_says_which_url_it_cannot_fetch(site: Site, tmp_path: Path) -> None:
    outcome, _ = site.execute(site.request("true", inputs=("http://127.0.0.1/data",)), PATH=site.bare_path(tmp_path / "bare"))
    assert outcome.phase == "stage_in"
    assert outcome.message == "cannot fetch the input http://127.0.0.1/data: the container has neither curl nor wget"


def test_bash_coreutils_and_tar_are_all_that_the_runner_needs(site: Site, tmp_path: Path) -> None:
    (site.iwd / "large").write_bytes(os.urandom(200_000))
    script = "cat large; head -c 2000000 /dev/zero > big; mkdir d; echo x > d/y"
    request = site.request(script, inputs=("large",), outputs=("big", "d"))
    outcome, ended = site.execute(request, PATH=site.bare_path(tmp_path / "bare"))
    assert (outcome.exit_code, outcome.missing) == (0, ())
    assert ended.errors == b""


def test_a_blob_that_is_not_what_its_name_says_is_not_used(site: Site) -> None:
    (site.iwd / "large").write_bytes(b"true" * 50_000)
    request = site.request("cat large", inputs=("large",))
    site.sandbox.stage(site.run, request)
    (blob,) = site.keys("blobs/")
    site.client.put_object(Bucket="jobs", Key=f"{site.prefix}/{blob}", Body=b"fake" * 50_000)
    ended = site.wait(site.start())
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None and outcome.phase == "stage_in" and ended.code == 125
    assert "the input large did not arrive whole" in outcome.message
    assert (site.iwd / "job.out").read_bytes() == b""


def test_a_blob_that_is_gone_is_named(site: Site) -> None:
    (site.iwd / "large").write_bytes(b"true" * 50_000)
    request = site.request("cat large", inputs=("large",))
    site.sandbox.stage(site.run, request)
    (blob,) = site.keys("blobs/")
    site.client.delete_object(Bucket="jobs", Key=f"{site.prefix}/{blob}")
    site.wait(site.start())
    outcome = site.sandbox.collect(site.run, 0, request)
    assert outcome is not None and outcome.phase == "stage_in"
    assert outcome.message.startswith(f"cannot fetch the input large from s3://jobs/{site.prefix}/{blob}: ")
    assert "404" in outcome.message


# What is refused before anything is uploaded


def refusal(site: Site, **fields: object) -> str:
    with pytest.raises(Refused) as refused:
        check(site.request(**({"script": "true"} | fields)))
    return str(refused.value)


def test_a_missing_input_is_named(site: Site) -> None:
    assert (
        refusal(site, inputs=("absent",)) == f"The input {site.iwd}/absent does not exist: correct its name in the submit file."
    )


def test_a_missing_executable_is_named(site: Site) -> None:
    assert (
        refusal(site, executable="absent")
        == f"The executable {site.iwd}/absent does not exist: correct its name in the submit file."
    )


def test_a_missing_standard_input_is_named(site: Site) -> None:
    assert (
        refusal(site, stdin="absent")
        == f"The standard input {site.iwd}/absent does not exist: correct its name in the submit file."
    )


def test_an_executable_that_is_not_transferred_is_not_looked_for(site: Site) -> None:
    check(site.request(executable="/only/in/the/image", transfer_executable=False))


def test_a_directory_is_no_executable(site: Site) -> None:
    (site.iwd / "d").mkdir()
    assert "is a directory" in refusal(site, executable="d")


def test_a_broken_link_is_named_with_its_target(site: Site) -> None:
    (site.iwd / "d").mkdir()
    (site.iwd / "d/link").symlink_to("nowhere")
    assert f"{site.iwd}/d/link is a symbolic link to nowhere, which does not exist" in refusal(site, inputs=("d",))


def test_a_loop_of_links_is_named(site: Site) -> None:
    (site.iwd / "d/e").mkdir(parents=True)
    (site.iwd / "d/e/back").symlink_to("..")
    assert f"{site.iwd}/d/e/back is a symbolic link to a directory above it" in refusal(site, inputs=("d/",))


def test_a_link_to_itself_is_named(site: Site) -> None:
    (site.iwd / "self").symlink_to("self")
    assert f"{site.iwd}/self cannot be used" in refusal(site, inputs=("self",))


def test_two_links_to_one_directory_are_no_loop(site: Site) -> None:
    (site.iwd / "d/e").mkdir(parents=True)
    (site.iwd / "d/e/file").write_text("x")
    (site.iwd / "d/again").symlink_to("e")
    check(site.request("true", inputs=("d",)))
    assert {file.place for file in walk(site.request("true", inputs=("d",))).files} == {
        "scratch/d/e/file",
        "scratch/d/again/file",
        "scratch/program",
    }


def test_pipes_sockets_and_devices_are_refused(site: Site) -> None:
    os.mkfifo(site.iwd / "fifo")
    (site.iwd / "d").mkdir()
    os.mkfifo(site.iwd / "d/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(site.iwd / "socket"))
        for name in ("fifo", "d", "socket", "/dev/zero"):
            assert "is a pipe, a socket or a device" in refusal(site, inputs=(name,))


def test_a_file_and_a_directory_of_one_name_are_refused(site: Site) -> None:
    (site.iwd / "a").write_text("file")
    (site.iwd / "d/a").mkdir(parents=True)
    for inputs in (("a", "d/a"), ("d/a", "a")):
        assert "Two inputs are called a, a file and a directory" in refusal(site, inputs=inputs)


def test_a_file_with_a_slash_behind_it_is_refused(site: Site) -> None:
    (site.iwd / "a").write_text("file")
    assert f"{site.iwd}/a/ cannot be used: Not a directory" in refusal(site, inputs=("a/",))


def test_files_that_cannot_be_read_are_named() -> None:
    """As another user where the tests run as root, who can read everything."""
    code = (
        "import os\n"
        "from gahp.model import JobRequest, Refused\nfrom gahp.sandbox import check\n"
        "os.getuid() or os.setuid(65534)\n"
        "for name in ('secret', 'd', 'd/in'):\n"
        "    try: check(JobRequest(executable='program', iwd=os.getcwd(), inputs=(name,)))\n"
        "    except Refused as reason: print(reason)\n"
    )
    with tempfile.TemporaryDirectory() as name:
        iwd = Path(name).resolve()
        (iwd / "d").mkdir()
        for file in ("program", "secret", "d/in"):
            (iwd / file).write_text("x")
        for path, mode in ((iwd / "secret", 0), (iwd / "d", 0), (iwd, 0o755)):
            path.chmod(mode)
        told = subprocess.run([sys.executable, "-c", code], cwd=iwd, capture_output=True, text=True, check=True).stdout
        (iwd / "d").chmod(0o700)
    assert told.splitlines() == [
        f"The input {iwd}/secret cannot be read: give the job's owner permission to read it.",
        f"The input directory {iwd}/d cannot be reached or read: give the job's owner permission to read it.",
        f"The input {iwd}/d/in cannot be reached or read: give the job's owner permission to read it.",
    ]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://host/file", "only http, https and s3 URLs can"),
        ("http://host/", "has no file name at its end"),
        ("http://host/a/..", "has no file name at its end"),
        ("http://host/a b", "percent-encoded"),
        ("s3://bucket", "names no S3 object"),
        ("s3://bucket/dir/", "names no S3 object"),
        ("s3://bucket/a\nrm -rf x", "percent-encoded"),
        ("s3://bucket/a/..", "has no file name at its end"),
        ("s3://bucket.s3.us-west-2.amazonaws.com/", "names no S3 object"),
    ],
)
def test_a_url_that_cannot_be_fetched_is_refused(site: Site, url: str, sentence: str) -> None:
    assert sentence in refusal(site, inputs=(url,))


def test_what_no_kernel_could_start_is_refused(site: Site) -> None:
    assert "Argument 2 is 131072 bytes long" in refusal(site, arguments=("a", "x" * 131_072))
    assert "Argument 1 has a NUL byte" in refusal(site, arguments=("a\0b",))
    assert "variable V is 131072 bytes long" in refusal(site, environment=(("V", "é" * 65_535),))
    assert "more than 1572864" in refusal(site, arguments=("x" * 131_000,) * 13)
    assert "called ''" in refusal(site, environment=(("", "x"),))
    assert "called 'a=b'" in refusal(site, environment=(("a=b", "x"),))


def test_a_missing_iwd_is_named(site: Site) -> None:
    assert "/no/such/place does not exist" in refusal(site, iwd="/no/such/place", executable="/bin/true")
    assert "is not an absolute path" in refusal(site, iwd="relative", executable="/bin/true")


def test_a_file_that_has_gone_when_it_is_staged_is_named(site: Site) -> None:
    (site.iwd / "data").write_text("x")
    request = site.request("true", inputs=("data",))
    check(request)
    (site.iwd / "data").unlink()
    with pytest.raises(Refused, match="data does not exist"):
        site.sandbox.stage(site.run, request)
    assert site.keys() == []
