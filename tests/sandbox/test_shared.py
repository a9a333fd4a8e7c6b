"""Directories that submit host and container share: what lies there is not uploaded, and what lies nowhere is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gahp.model import JobRequest, Refused
from gahp.sandbox import Sandbox, check
from gahp.sandbox.inputs import mounted, walk

if TYPE_CHECKING:
    from conftest import Site

BUCKET = "jobs"  # of conftest.py


@pytest.fixture
def efs(tmp_path: Path) -> Path:
    """A directory that, as the container of these tests is a local process, is at the same path in it."""
    directory = tmp_path / "efs"
    (directory / "run").mkdir(parents=True)
    return directory


@pytest.fixture
def shared(site: Site, efs: Path, client: object, request: pytest.FixtureRequest) -> Site:
    """The site, with the directory shared."""
    site.sandbox = Sandbox(client, BUCKET, site.prefix, threads=4, shared=(str(efs),))
    request.addfinalizer(site.sandbox.close)
    return site


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(mode)
    return path


def test_a_shared_input_is_not_uploaded_and_is_a_copy_in_the_scratch_directory(shared: Site, efs: Path) -> None:
    large = efs / "large"
    large.write_bytes(b"x" * 200_000)
    (efs / "tree" / "below").mkdir(parents=True)
    (efs / "tree" / "below" / "leaf").write_text("leaf\n")
    (efs / "in").write_text("from standard input\n")
    request = shared.request(
        "cat; cat tree/below/leaf; wc -c < large; echo changed > large; ls -A",
        inputs=(str(large), str(efs / "tree")),
        stdin=str(efs / "in"),
        outputs=(),
    )
    check(request, (str(efs),))
    shared.execute(request)
    assert (shared.iwd / "job.out").read_text().split("\n") == [
        *("from standard input", "leaf", "200000", "large", "program", "tree", ""),
    ]
    assert large.read_bytes() == b"x" * 200_000
    assert shared.keys("blobs/") == []
    assert b"from standard input" not in shared.object("manifest")


def test_a_job_that_transfers_nothing_starts_in_its_shared_directory(shared: Site, efs: Path) -> None:
    program = script(efs / "program", 'echo "$PWD"; echo made > made')
    request = shared.request(executable=str(program), iwd=str(efs / "run"), stdout=str(efs / "out"), stderr="")
    outcome, _ = shared.execute(request)
    assert outcome.exit_code == 0
    assert (efs / "out").read_text() == f"{efs}/run\n"
    assert (efs / "run" / "made").read_text() == "made\n"


@pytest.mark.parametrize("fields", [{"inputs": ("data",)}, {"outputs": ("made",)}])
def test_a_job_that_transfers_anything_starts_in_a_scratch_directory(shared: Site, efs: Path, fields: dict) -> None:
    program = script(efs / "program", '[ "$PWD" = "$_CONDOR_SCRATCH_DIR" ]; echo $?; echo made > made')
    (efs / "run" / "data").write_text("data")
    outcome, _ = shared.execute(shared.request(executable=str(program), iwd=str(efs / "run"), stdout="out", stderr="", **fields))
    assert outcome.exit_code == 0
    assert (efs / "run" / "out").read_text() == "0\n"


def test_a_shared_program_is_executed_where_it_is_unless_it_is_not_executable_there_or_goes_by_another_name(efs: Path) -> None:
    program = script(efs / "program", "true")
    (efs / "alias").symlink_to(program)
    plain = script(efs / "plain", "true", 0o644)

    def named(path: Path) -> tuple[str, bool]:
        found = walk(JobRequest(executable=str(path), iwd=str(efs)), (str(efs),))
        return found.program, found.staged

    assert named(program) == (str(program), False)
    assert named(efs / "alias") == ("alias", True)
    assert named(plain) == ("plain", True)


def test_links_are_followed_to_where_the_container_has_them(tmp_path: Path, efs: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    (efs / "to-outside").symlink_to(outside)
    (tmp_path / "to-inside").symlink_to(efs / "run")
    (tmp_path / "mnt").symlink_to(efs)
    assert mounted(str(tmp_path / "to-inside"), (str(efs),)) == f"{efs}/run"
    assert mounted(str(efs / "to-outside"), (str(efs),)) is None
    assert mounted(f"{efs}x", (str(efs),)) is None
    assert mounted(f"{efs}//run/../run", (str(efs),)) == f"{efs}/run"
    assert mounted(str(efs / "run"), (str(tmp_path / "mnt"),)) == f"{tmp_path}/mnt/run"


def test_a_mount_that_the_container_does_not_have_is_named(shared: Site, efs: Path) -> None:
    data = efs / "data"
    data.write_text("x")
    request = shared.request("true", inputs=(str(data),))
    shared.sandbox.stage(shared.run, request)
    data.rename(efs / "away")
    shared.wait(shared.start())
    outcome = shared.sandbox.collect(shared.run, 0, request)
    assert outcome.phase == "stage_in"
    assert f"{data} could not be copied from its mount: No such file" in outcome.message

    gone = shared.request(executable="/bin/true", transfer_executable=False, iwd=str(efs / "run"), stdout=str(efs / "out"))
    shared.sandbox.stage(shared.run, gone)
    (efs / "run").rename(efs / "elsewhere")
    shared.wait(shared.start(submission=1))
    (efs / "elsewhere").rename(efs / "run")
    outcome = shared.sandbox.collect(shared.run, 1, gone)
    assert outcome.phase == "start"
    assert f"directory {efs}/run does not exist in the container" in outcome.message


def test_a_program_that_is_neither_transferred_nor_mounted_is_refused_with_its_path(site: Site, efs: Path) -> None:
    program = script(site.iwd / "kickstart", "true")
    request = site.request(executable=str(program), transfer_executable=False)
    with pytest.raises(Refused, match=f"The executable {program} is neither transferred nor below .*{efs}"):
        check(request, (str(efs),))
    check(request)  # nothing is said of mounts: it may be in the image
    for path in ("/bin/sh", "/app/only/in/the/image"):
        check(site.request(executable=path, transfer_executable=False), (str(efs),))


def test_a_program_that_is_not_transferred_is_called_as_the_container_has_it(tmp_path: Path, efs: Path) -> None:
    """Links to a mount are the submit host's alone; those below it are the container's to follow, into its image too."""
    script(efs / "run" / "program", "true")
    (tmp_path / "home").symlink_to(efs / "run")
    (tmp_path / "program").symlink_to(efs / "run" / "program")
    (tmp_path / "alias").symlink_to(efs / "run" / "program")
    (efs / "run" / "python").symlink_to("/bin/sh")
    (efs / "run" / "other").symlink_to("program")

    def called(path: Path) -> str:
        request = JobRequest(executable=str(path), iwd=str(efs), transfer_executable=False, outputs=())
        check(request, (str(efs),))
        return walk(request, (str(efs),)).program

    assert called(tmp_path / "home" / "program") == f"{efs}/run/program"
    assert called(tmp_path / "home" / "other") == f"{efs}/run/other"
    assert called(tmp_path / "program") == f"{efs}/run/program"
    assert called(efs / "run" / "python") == f"{efs}/run/python"
    with pytest.raises(Refused, match=f"The executable {tmp_path}/alias is neither transferred nor below"):
        called(tmp_path / "alias")


def test_the_directory_that_pegasus_says_the_job_works_in_is_refused_unless_it_is_mounted(
    site: Site, efs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(directory: str):
        return site.request(executable="/bin/true", transfer_executable=False, environment=(("PEGASUS_SCRATCH_DIR", directory),))

    for good in (str(efs / "not/made/yet"), "/tmp", "relative"):
        check(job(good), (str(efs),))
    # The program is told the path as it is written, so a link to the mount is none.
    link = efs.with_name("link")
    link.symlink_to(efs)
    monkeypatch.setattr("gahp.sandbox.checks._OF_THE_CONTAINER", ())  # /tmp, where this test is
    for bad in ("/scratch/alice", str(link / "run")):
        with pytest.raises(Refused, match=rf"The directory {bad} \(PEGASUS_SCRATCH_DIR\) is not below"):
            check(job(bad), (str(efs),))
