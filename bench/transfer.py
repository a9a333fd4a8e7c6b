"""Part e: bytes of sandboxes a second, up and down, against s5cmd with the same files at the same endpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import peers
from bench.report import Found, Row
from bench.simulated import BUCKET, REGION
from gahp.local.container import s5cmd_program
from gahp.model import JobRequest
from gahp.sandbox import Sandbox

LARGE, SMALL = 4, 200
LARGE_BYTES, SMALL_BYTES = 128 << 20, 300_000
THREADS = 8


def measure(large_bytes: int = LARGE_BYTES, small: int = SMALL) -> Found:
    """Some large files, and many that are too large to travel in the manifest; sandbox and s5cmd alternate, the best of three."""
    program = s5cmd_program()
    if program is None:
        return Found(missing=["e: s5cmd is not installed"])
    rows = []
    for name, count, size in (("large files", LARGE, large_bytes), ("small files", small, SMALL_BYTES)):
        with tempfile.TemporaryDirectory(prefix="awsbatch-bench-") as folder:
            found = _compare(Path(folder), count, size, str(program))
        for way, (ours, theirs) in found.items():
            what = f"{way}, {count} {name} of {size / 1e6:.1f} MB"
            mb = count * size / 1e6
            rows.append(Row("e", what, mb / min(ours), "MB/s", mb / min(theirs), "s5cmd"))
    return Found(rows)


def _compare(folder: Path, count: int, size: int, program: str) -> dict[str, tuple[list[float], list[float]]]:
    files, back = folder / "files", folder / "back"
    files.mkdir()
    names = tuple(f"f{number}" for number in range(count))
    found: dict[str, tuple[list[float], list[float]]] = {"up": ([], []), "down": ([], [])}
    for _ in range(3):
        for name in names:
            # Other bytes each time: what is in S3 already would not be sent again.
            (files / name).write_bytes(os.urandom(size))
        with peers.endpoint() as aws:
            sandbox, client = _sandbox(aws)
            with contextlib.closing(sandbox):
                up = JobRequest("/bin/true", str(files), transfer_executable=False, inputs=names)
                found["up"][0].append(_timed(sandbox.stage, "job-1", up))
                there = f"s3://{BUCKET}/s5cmd/"
                found["up"][1].append(_timed(_s5cmd, program, aws, f"{files}/*", there))
                _put_result(client, "job-1", files, names)
                down = JobRequest("/bin/true", str(back), transfer_executable=False, outputs=names)
                ways = ((sandbox.collect, "job-1", 0, down), (_s5cmd, program, aws, f"{there}*", f"{back}/"))
                for number, fetch in enumerate(ways):
                    back.mkdir()
                    found["down"][number].append(_timed(*fetch))
                    _require_same(files, back, names)
                    shutil.rmtree(back)
    return found


def _sandbox(aws: peers.Endpoint) -> tuple[Sandbox, Any]:
    """A sandbox as the server makes it."""
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    session = boto3.Session("bench", "bench", region_name=REGION)
    settings = Config(retries={"mode": "standard", "total_max_attempts": 4}, max_pool_connections=4 * THREADS)
    client = session.client("s3", endpoint_url=aws.url, config=settings)
    return Sandbox(client, BUCKET, "condor", THREADS), client


def _put_result(client: Any, run: str, files: Path, names: Sequence[str]) -> None:
    """What a runner leaves that has sent each file as an object of its own."""
    import hashlib  # noqa: PLC0415
    import io  # noqa: PLC0415
    import tarfile  # noqa: PLC0415

    fields: list[str] = []
    for number, name in enumerate(names):
        data = (files / name).read_bytes()
        client.put_object(Bucket=BUCKET, Key=f"condor/runs/{run}/0/out/{number}", Body=data)
        fields += ["f", str(number), f"o{number}", str(len(data)), hashlib.sha256(data).hexdigest(), "644", name]
    ending = b'{"version": 1, "exit_code": 0, "phase": "", "message": "", "oom": false, "terminated": false, "attempt": 1}'
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("exit.json", ending), ("files", "".join(item + "\0" for item in fields).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    client.put_object(Bucket=BUCKET, Key=f"condor/runs/{run}/0/result", Body=target.getvalue())


def _timed(work: Callable[..., object], *arguments: Any) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def _s5cmd(program: str, aws: peers.Endpoint, source: str, target: str) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **aws.environment()}
    words = [program, "--log", "error", "--numworkers", str(4 * THREADS), "cp", source, target]
    subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def _require_same(files: Path, back: Path, names: Sequence[str]) -> None:
    for name in names:
        if (files / name).read_bytes() != (back / name).read_bytes():
            raise RuntimeError(f"{name} came back changed")
