"""Part e: bytes of sandboxes a second, up and down, against s5cmd with the same files at the same endpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
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
    files = folder / "files"
    files.mkdir()
    found: dict[str, tuple[list[float], list[float]]] = {"up": ([], []), "down": ([], [])}
    for attempt in range(3):
        for number in range(count):
            # Other bytes each time: what is in S3 already would not be sent again.
            (files / f"f{number}").write_bytes(os.urandom(size))
        with peers.endpoint() as aws:
            environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **aws.environment()}
            sandbox, client = _sandbox(aws)
            names = tuple(f"f{number}" for number in range(count))
            with contextlib.closing(sandbox):
                request = JobRequest("/bin/true", str(files), transfer_executable=False, inputs=names)
                found["up"][0].append(_timed(lambda: sandbox.stage(f"job-{attempt}", request)))
                words = [program, "--log", "error", "--numworkers", str(4 * THREADS)]
                target = f"s3://{BUCKET}/s5cmd/"
                found["up"][1].append(_timed(lambda: _call([*words, "cp", f"{files}/*", target], environment)))
                back = folder / "back"
                back.mkdir()
                _put_result(client, f"job-{attempt}", files, names)
                request = JobRequest("/bin/true", str(back), transfer_executable=False, outputs=names)
                found["down"][0].append(_timed(lambda: sandbox.collect(f"job-{attempt}", 0, request)))
                _require_same(files, back, names)
                shutil.rmtree(back)
                back.mkdir()
                found["down"][1].append(_timed(lambda: _call([*words, "cp", f"{target}*", f"{back}/"], environment)))
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


def _timed(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _call(words: list[str], environment: dict[str, str]) -> None:
    subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def _require_same(files: Path, back: Path, names: Sequence[str]) -> None:
    for name in names:
        if (files / name).read_bytes() != (back / name).read_bytes():
            raise RuntimeError(f"{name} came back changed")
