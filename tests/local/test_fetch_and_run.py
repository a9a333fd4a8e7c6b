"""The image's entry point on the fetch-and-run contract, with stand-ins for s5cmd and aws that copy from a directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ENTRY_POINT = Path(__file__).parents[2] / "image" / "fetch_and_run.sh"
COPY = """#!/bin/bash
# usage: ... s3://bucket/key target
if [[ $* == *presign* ]]; then # only where a test says what to sign with
    [[ -e $STORE/signs ]] && echo "http://signed/${@: -1}?secret"
    exit
fi
echo "${0##*/}" >> "$STORE/calls"
source=${@: -2:1} target=${@: -1}
left=$(cat "$STORE/failures" 2>/dev/null || echo 0)
if ((left > 0)); then echo $((left - 1)) > "$STORE/failures"; exit 1; fi
cp "$STORE/${source#s3://bucket/}" "$target"
"""
CURL = """#!/bin/bash
echo curl >> "$STORE/calls"
printf '%s ' "$@" >> "$STORE/arguments"
read -r line
[[ $line == 'url = "http://signed/s3://bucket/job?secret"' ]] && cp "$STORE/job" "${@: -1}"
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path, store: Path) -> Run:
    def start(
        *arguments: str,
        kind: str | None = "script",
        url: str | None = "s3://bucket/job",
        tools: tuple[str, ...] = ("s5cmd", "aws"),
    ) -> subprocess.CompletedProcess[str]:
        commands, scratch = tmp_path / "bin", tmp_path / "tmp"
        for folder in (commands, scratch):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for tool in tools:
            (commands / tool).write_text(COPY)
            (commands / tool).chmod(0o755)
        (commands / "curl").write_text(CURL)
        (commands / "curl").chmod(0o755)
        # Retries without their waits.
        (commands / "sleep").symlink_to("/bin/true")
        if shutil.which("unzip") is None:
            (commands / "unzip").write_text('#!/bin/bash\nexec python3 -m zipfile -e "${@: -1}" .\n')
            (commands / "unzip").chmod(0o755)
        environment = {"PATH": f"{commands}:/usr/bin:/bin", "TMPDIR": str(scratch), "STORE": str(store), "HOME": str(tmp_path)}
        settings = {"BATCH_FILE_TYPE": kind, "BATCH_FILE_S3_URL": url}
        environment.update({name: value for name, value in settings.items() if value is not None})
        command = ["bash", str(ENTRY_POINT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return start


def script(store: Path, text: str) -> None:
    (store / "job").write_text(f"#!/bin/bash\n{text}\n")


def test_a_script_gets_its_arguments_and_its_exit_code_is_the_containers(run: Run, store: Path) -> None:
    script(store, 'printf "<%s>" "$@"; exit 7')
    done = run("one two", "", "*")
    assert (done.stdout, done.stderr, done.returncode) == ("<one two><><*>", "", 7)


def test_the_script_takes_the_place_of_the_entry_point(run: Run, store: Path) -> None:
    script(store, "kill -TERM $$")
    assert run().returncode == -15


def test_the_downloaded_file_is_the_scripts_own_name(run: Run, store: Path) -> None:
    script(store, 'tail -1 "$0"')
    assert run().stdout == 'tail -1 "$0"\n'


def test_s5cmd_is_preferred_and_aws_steps_in(run: Run, store: Path) -> None:
    script(store, "exit 0")
    assert run().returncode == 0
    (store / "failures").write_text("1")
    assert run().returncode == 0
    assert run(tools=("aws",)).returncode == 0
    assert (store / "calls").read_text().split() == ["s5cmd", "s5cmd", "aws", "aws"]


def test_where_s5cmd_can_sign_and_curl_is_there_one_request_fetches_it_and_no_argument_shows_the_signature(
    run: Run, store: Path
) -> None:
    script(store, "exit 5")
    (store / "signs").touch()
    assert run().returncode == 5
    assert (store / "calls").read_text().split() == ["curl"]
    assert "secret" not in (store / "arguments").read_text()


def test_a_download_that_fails_is_tried_again(run: Run, store: Path) -> None:
    script(store, "exit 0")
    (store / "failures").write_text("3")
    assert run(tools=("s5cmd",)).returncode == 0


def test_what_cannot_be_fetched_is_named_and_ends_with_69(run: Run, store: Path) -> None:
    done = run(tools=("s5cmd",))
    assert done.returncode == 69
    assert "cannot fetch s3://bucket/job (tried 4 times)" in done.stderr


def test_a_command_of_an_archive_is_run_inside_it(run: Run, store: Path) -> None:
    with zipfile.ZipFile(store / "job", "w") as archive:
        archive.writestr("bin/tool", '#!/bin/bash\ncat data; echo "$1"\n')
        archive.writestr("data", "from the archive\n")
    done = run("bin/tool", "an argument", kind="zip")
    assert (done.stdout, done.returncode) == ("from the archive\nan argument\n", 0)


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "text"),
    [
        ((), {"kind": None}, 64, "BATCH_FILE_TYPE is not set"),
        ((), {"kind": "tar"}, 64, 'BATCH_FILE_TYPE is "tar"'),
        ((), {"url": None}, 64, "BATCH_FILE_S3_URL is not set"),
        ((), {"url": "https://example.org/x"}, 64, 'BATCH_FILE_S3_URL is "https://example.org/x"'),
        ((), {"url": "s3://bucket"}, 64, "s3://BUCKET/KEY"),
        ((), {"kind": "zip"}, 64, "needs the name of a command"),
        (("tool",), {"kind": "zip"}, 65, "is not a zip archive"),
        ((), {"tools": ()}, 69, "neither s5cmd nor aws"),
    ],
)
def test_wrong_use_is_one_clear_line(
    run: Run, store: Path, arguments: tuple[str, ...], settings: dict[str, object], code: int, text: str
) -> None:
    script(store, "exit 0")
    done = run(*arguments, **settings)
    assert done.returncode == code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fetch_and_run: ")]
    assert text in line


def test_a_command_that_is_not_in_the_archive_is_named(run: Run, store: Path) -> None:
    with zipfile.ZipFile(store / "job", "w") as archive:
        archive.writestr("data", "x")
    done = run("tool", kind="zip")
    assert (done.returncode, 'there is no file "tool"' in done.stderr) == (65, True)


def test_the_package_carries_the_images_own_entry_point() -> None:
    packaged = Path(__file__).parents[2] / "gahp" / "local" / "fetch_and_run.sh"
    assert packaged.read_bytes() == ENTRY_POINT.read_bytes()
    assert os.access(ENTRY_POINT, os.X_OK)


def test_the_image_has_what_jobs_are_promised_and_starts_with_the_entry_point() -> None:
    text = (ENTRY_POINT.parent / "Dockerfile").read_text()
    for program in ("perl", "findutils", "tar", "gzip", "unzip", "curl", "python3", "awscli", "s5cmd"):
        assert program in text.split() or f"/{program}" in text
    assert f"COPY {ENTRY_POINT.name} /usr/local/bin/{ENTRY_POINT.name}" in text
    assert f'ENTRYPOINT ["/usr/local/bin/{ENTRY_POINT.name}"]' in text
