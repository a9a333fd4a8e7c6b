"""The server process of the embedded AWS: `python -m gahp.local.server`, started by handle.py.

Puts the parts together, writes down how to reach them, and takes everything away again at the end. It ends with SIGTERM or
SIGINT, and, if told to watch its standard input, with the end of that: a parent that was killed leaves nothing behind.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import secrets
import shutil
import signal
import string
import sys
import threading
from pathlib import Path
from typing import Any

# Before moto is imported: it reads these once. Path-style buckets only, no browsers, no machine images.
os.environ.update(
    MOTO_DISABLE_GLOBAL_CORS="true",
    S3_IGNORE_SUBDOMAIN_BUCKETNAME="true",
    MOTO_EC2_LOAD_DEFAULT_AMIS="false",
    AWS_EC2_METADATA_DISABLED="true",
)

import psutil
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from gahp.local import faults, site
from gahp.local.batch_api import BatchApi
from gahp.local.container import GRACE_S, Containers, Host
from gahp.local.engine import Engine
from gahp.local.entities import Entities
from gahp.local.events import Bus
from gahp.local.front import Front, Wsgi
from gahp.local.httpd import Server

STATE, ENVIRONMENT, LOCK = "server.json", "env", "lock"


def main() -> int:
    options = _options()
    directory: Path = options.directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _tell(options.ready_fd, f"an embedded AWS runs already in {directory}")
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    if options.watch_stdin:
        threading.Thread(target=_watch_parent, args=(os.getppid(), over), daemon=True).start()
    try:
        server = Server(options.port)
    except OSError as error:
        return _tell(options.ready_fd, f"port {options.port} is not to be had: {error.strerror}")
    engine = _assemble(server, options)
    try:
        if not over.is_set():
            _tell(options.ready_fd, "")
        over.wait()
    finally:
        for name in (STATE, ENVIRONMENT):
            (directory / name).unlink(missing_ok=True)
        engine.stop()
        server.shutdown()
        for folder in ("scratch", "bin"):
            shutil.rmtree(directory / folder, ignore_errors=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gahp.local.server")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--vcpus", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--grace", type=float)
    parser.add_argument("--no-isolation", action="store_true")
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--watch-stdin", action="store_true")
    return parser.parse_args()


def _tell(descriptor: int, trouble: str) -> int:
    """One line to whoever started us: empty when all is well."""
    with os.fdopen(descriptor, "w") as file:
        file.write(trouble + "\n")
    return 1 if trouble else 0


def _watch_parent(parent: int, over: threading.Event) -> None:
    """Standard input ends with the parent; should a process that it forked keep the other end, its number tells."""

    def read() -> None:
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=read, daemon=True).start()
    while not over.wait(1.0):
        if os.getppid() != parent:
            over.set()


def _assemble(server: Server, options: argparse.Namespace) -> Engine:
    """Everything in its place and running, the site made, the files written."""
    directory: Path = options.directory.absolute()
    letters = string.ascii_uppercase + string.digits
    access_key = "AKIA" + "".join(secrets.choice(letters) for _ in range(16))
    secret_key = secrets.token_urlsafe(30)
    grace = GRACE_S * options.time_scale if options.grace is None else options.grace
    host = Host(directory, server.endpoint, access_key, secret_key, options.time_scale, grace, not options.no_isolation)
    host.prepare()
    moto: Wsgi = DomainDispatcherApplication(create_backend_app)
    entities, weather = Entities(), faults.Faults()
    engine = Engine(entities, Containers(host), weather, memory_mib=options.memory, notice=Bus().notice)

    def make_site() -> None:
        site.create(server.endpoint, access_key, secret_key, vcpus=options.vcpus)

    def forget_all() -> None:
        _reset_moto(moto)
        make_site()

    server.application = Front(
        moto,
        BatchApi(engine, entities, weather),
        engine,
        entities,
        weather,
        access_key=access_key,
        secret_key=secret_key,
        forget_all=forget_all,
    )
    server.start()
    make_site()
    variables = site.environment(server.endpoint, access_key, secret_key)
    _write(directory / ENVIRONMENT, site.as_script(variables))
    state = {
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
        "endpoint": server.endpoint,
        "access_key": access_key,
        "secret_key": secret_key,
    }
    _write(directory / STATE, json.dumps(state))
    return engine


def _reset_moto(moto: Wsgi) -> None:
    """moto's own way to forget everything; from outside it cannot be reached."""

    def start_response(_status: str, _headers: Any, _error: object = None) -> None:
        pass

    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/moto-api/reset",
        "RAW_URI": "/moto-api/reset",
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }
    b"".join(moto(environ, start_response))


def _write(path: Path, text: str) -> None:
    """A file that only its owner can read, complete from the moment it is there."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


if __name__ == "__main__":
    code = main()
    # Everything is put away; taking a whole AWS apart object by object would only cost time.
    sys.stdout.flush()
    os._exit(code)
