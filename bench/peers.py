"""Who is measured, each as a command and an environment: ours, HTCondor's own blahpd, the instant GAHP; and their endpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.simulated import BUCKET, DEFINITION, QUEUE, REGION

SOURCE = Path(__file__).resolve().parents[1]
SUITE = "trixie"  # Debian's release whose HTCondor, and blahpd, is measured


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A running simulated AWS."""

    url: str
    pid: int

    def order(self, name: str, **words: Any) -> Any:
        """An order to it, or a question: see endpoint.py."""
        request = urllib.request.Request(f"{self.url}/bench/{name}", json.dumps(words).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.loads(reply.read())

    def environment(self) -> dict[str, str]:
        """What makes a program use it: knobs of ours, and AWS's own variables."""
        return {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "S3_ENDPOINT_URL": self.url,
            "CONDOR_CONFIG": "ONLY_ENV",
            "_CONDOR_AWSBATCH_ENDPOINT_URL": self.url,
            "_CONDOR_AWSBATCH_JOB_QUEUE": QUEUE,
            "_CONDOR_AWSBATCH_JOB_DEFINITION": DEFINITION,
            "_CONDOR_AWSBATCH_S3_URL": f"s3://{BUCKET}/condor",
            "_CONDOR_AWSBATCH_LOG": "none",
        }


@contextlib.contextmanager
def endpoint(*words: str) -> Iterator[Endpoint]:
    """A simulated AWS for as long as the block; `words` as endpoint.py takes them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.endpoint", *words], cwd=SOURCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        yield Endpoint(process.stdout.readline().strip(), process.pid)
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def ours() -> list[str]:
    """Our program, as it is installed beside this Python."""
    return [os.path.join(os.path.dirname(sys.executable), "awsbatch_gahp")]


def looks() -> list[str]:
    """What people look with, installed beside it."""
    return [os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")]


def our_environment(endpoint: Endpoint, folder: Path, **knobs: str) -> dict[str, str]:
    """A plain environment with the journal below `folder`."""
    more = {f"_CONDOR_AWSBATCH_{name}": value for name, value in knobs.items()}
    base = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    return {**base, **endpoint.environment(), "_CONDOR_AWSBATCH_STATE_DIR": str(folder / "state"), **more}


# A batch system that does nothing, in the form of the scripts that blahpd runs for Slurm, PBS and the others.
_NOOP = {
    "submit": 'echo "BLAHP_JOBID_PREFIX{lrms}/20261122/$$"',
    "status": "echo '0[BatchJobId=\"1\";JobStatus=2;]'",
    "cancel": "echo ' 0 No\\ error'",
    "ping": "exit 0",
}
# The same, with jobs that have ended when they are asked about a second time.
_TWO_LOOKS = (
    'if mkdir "{folder}/seen/${{1##*/}}" 2>/dev/null; then s=2; else s="4;ExitCode=0"; fi; '
    'echo "0[BatchJobId=\\"1\\";JobStatus=$s;]"'
)


def blahpd(prefix: Path, folder: Path, lrms: str = "noop") -> tuple[list[str], dict[str, str]]:
    """HTCondor's blahpd from Debian's package with a batch system that does nothing: command and environment.

    `folder` becomes its BLAHPD_LOCATION; whoever runs it must be able to read it.
    """
    for name in ("bin", "sbin", "etc", "libexec/blahp", "seen"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "seen").chmod(0o1777)
    for script in (prefix / "usr/libexec/blahp").iterdir():
        with contextlib.suppress(FileExistsError):
            (folder / "libexec/blahp" / script.name).symlink_to(script)
    scripts = dict(_NOOP) if lrms == "noop" else {**_NOOP, "status": _TWO_LOOKS.format(folder=folder)}
    for verb, text in scripts.items():
        path = folder / "libexec/blahp" / f"{lrms}_{verb}.sh"
        path.write_text(f"#!/bin/sh\n{text.replace('{lrms}', lrms)}\n")
        path.chmod(0o755)
    config = (prefix / "etc/blah.config").read_text()
    (folder / "etc/blah.config").write_text(f"{config}\nsupported_lrms={lrms}\nblah_max_threaded_cmds=1000\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "BLAHPD_LOCATION": str(folder),
        "BLAHPD_CONFIG_LOCATION": str(folder / "etc/blah.config"),
        "GLITE_LOCATION": str(folder),
    }
    return [str(prefix / "usr/bin/blahpd")], environment
