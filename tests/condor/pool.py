#!/usr/bin/env python3
"""A real HTCondor pool on this machine, from Debian's packages alone: 23.9 of trixie, 25.x of forky.

    pool.py build|up|down|remove [trixie|forky ...]

`build` fetches the packages with an apt of its own (no root, nothing is installed) and unpacks them below a cache folder; the
programs are told (patchelf) to use the loader and libraries that lie beside them, so they run on any Debian or Ubuntu without a
chroot or a mount. `up` starts a pool to try things out in, with the knobs (`_CONDOR_AWSBATCH_...`) and the AWS credentials of its
environment, as `condor_awsbatch local start` gives them; `down` stops it; `remove` deletes what was fetched as well.

The daemons listen on 127.0.0.1 only. They run as the calling user; root's pool runs as `nobody`, and what that account cannot
read (a checkout or a Python below /root) is copied for it. Knows nothing of AWS: knobs and credentials are handed in.

AWSBATCH_POOL_CACHE    where prefixes and pools of `up` lie (~/.cache/awsbatch-gahp/condor; root: /var/cache/awsbatch-gahp/condor)
AWSBATCH_POOL_MIRROR   the Debian mirror (default: the one this machine's apt uses)
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

SOURCE = Path(__file__).resolve().parents[2]
if __name__ == "__main__":  # run as a program, it finds its neighbour from here
    sys.path.insert(0, str(SOURCE))

from tests.condor.prefix import SUITES, NoPool, build, cache_folder, call  # noqa: E402

UP_LIMIT_S = 60
DOWN_LIMIT_S = 15


# The pool

CONFIG = """\
RELEASE_DIR = {prefix}/usr
BIN = {prefix}/usr/bin
SBIN = {prefix}/usr/sbin
LIB = {prefix}/usr/lib/condor
LIBEXEC = {prefix}/usr/libexec/condor
SHARE = {prefix}/usr/share/condor
ETC = {folder}
LOCAL_DIR = {folder}
LOG = {folder}/log
SPOOL = {folder}/spool
EXECUTE = {folder}/execute
LOCK = {folder}/lock
RUN = {folder}/run
LOCAL_CONFIG_DIR = {folder}/config.d
LOCAL_CONFIG_FILE =
USER_CONFIG_FILE =
DAEMON_LIST = MASTER, COLLECTOR, SCHEDD, NEGOTIATOR, STARTD

# This machine only, and no name service.
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:{port}
SHARED_PORT_PORT = {port}
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
NO_DNS = True
DEFAULT_DOMAIN_NAME = local
UID_DOMAIN = local
FILESYSTEM_DOMAIN = local
TRUST_UID_DOMAIN = True
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
SEC_CLIENT_AUTHENTICATION_METHODS = FS
SEC_DEFAULT_ENCRYPTION = OPTIONAL
SEC_DEFAULT_INTEGRITY = OPTIONAL
ALLOW_READ = {people}
ALLOW_WRITE = {people}
ALLOW_DAEMON = {people}
ALLOW_NEGOTIATOR = {people}
ALLOW_ADMINISTRATOR = {people}
ALLOW_CLIENT = *
SEC_PASSWORD_DIRECTORY = {folder}/passwords.d
SEC_TOKEN_SYSTEM_DIRECTORY = {folder}/tokens.d

# Small, quick, and quiet.
BASE_CGROUP =
CREATE_CORE_FILES = False
NUM_CPUS = 2
MEMORY = 2048
RUNBENCHMARKS = False
STARTER_ALLOW_RUNAS_OWNER = True
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 5
SCHEDD_CRON_JOBLIST =
DAGMAN_USER_LOG_SCAN_INTERVAL = 1
DAGMAN_USE_STRICT = 0
MASTER_BACKOFF_CONSTANT = 1
MASTER_BACKOFF_FACTOR = 1.0
GRIDMANAGER_DEBUG = D_FULLDEBUG D_CAT
MAX_GRIDMANAGER_LOG = 100000000
"""

# What makes tests quick. Read after the administrator's own files, whose values a real site keeps.
TEST_KNOBS = {
    "SCHEDD_MIN_INTERVAL": "1",
    "GRIDMANAGER_CHECKPROXY_INTERVAL": "2",
    "GRIDMANAGER_MINIMUM_PROXY_TIME": "1",
    "GRIDMANAGER_CONTACT_SCHEDD_DELAY": "1",
    "GRIDMANAGER_JOB_PROBE_INTERVAL_BATCH": "1",
    "GRIDMANAGER_RESOURCE_PROBE_INTERVAL": "3",
    "PERIODIC_EXPR_INTERVAL": "2",
}


@dataclasses.dataclass(frozen=True)
class Account:
    """Whom a pool's processes belong to."""

    name: str
    uid: int
    gid: int

    def popen(self) -> dict[str, object]:
        """The arguments for subprocess that start a program as this account."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def own_account() -> Account:
    """HTCondor refuses root's jobs, so root's pool belongs to nobody."""
    entry = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


class Pool:
    """One pool: its folder, its processes. `folder`, where the account can reach it, is made here; who gave it deletes it.

    With `users` it is a site's pool, which only root can start: daemons of an account of their own, jobs of several people.
    """

    def __init__(self, prefix: Path, folder: Path, users: Sequence[Account] = ()) -> None:
        self.prefix = prefix
        self.folder = folder
        self.users = users
        self.account = own_account()
        if users and os.geteuid() != 0:
            raise NoPool("no HTCondor pool of several users: only root can start one")
        self.home = self.home_of(self.account)
        self.config = folder / "condor_config"
        self.environment = {
            "CONDOR_CONFIG": str(self.config),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PATH": f"{prefix}/bin:{prefix}/usr/sbin:/usr/local/bin:/usr/bin:/bin",
        }

    def home_of(self, account: Account) -> Path:
        return self.folder / "home" / account.name

    def prepare(self) -> None:
        """Make the folders and the configuration."""
        for name in ("", "log", "spool", "execute", "lock", "run", "passwords.d", "tokens.d", "config.d", "home", "work"):
            self.own(self.folder / name)
        for account in (self.account, *self.users):
            self.own(self.home_of(account), account).chmod(0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        people = ", ".join(f"{name}@local" for name in ("condor", "root", *(user.name for user in (self.account, *self.users))))
        self.config.write_text(CONFIG.format(prefix=self.prefix, folder=self.folder, port=port, people=people))
        if self.users:
            self.set({"CONDOR_IDS": f"{self.account.uid}.{self.account.gid}"}, "10-ids.conf")

    def own(self, path: Path, account: Account | None = None) -> Path:
        """Make a folder, or take a file, and give it to an account: the pool's own unless another is named."""
        if not path.exists():
            path.mkdir(mode=0o755, parents=True)
        if os.geteuid() == 0:
            owner = account or self.account
            os.chown(path, owner.uid, owner.gid)
        return path

    def set(self, knobs: Mapping[str, str], file: str = "90-pool.conf") -> None:
        """Write knobs into a file of the pool's configuration, in place of what it held; daemons read it at their next start."""
        (self.folder / "config.d" / file).write_text("".join(f"{name} = {value}\n" for name, value in knobs.items()))

    def credentials(self, environment: Mapping[str, str], account: Account | None = None, **settings: str) -> None:
        """Put the AWS credentials of `environment`, and settings, where a user of the pool has them: into ~/.aws."""
        folder = self.own(self.home_of(account or self.account) / ".aws", account)
        keys = {name.lower(): value for name, value in environment.items() if name.startswith(("AWS_ACCESS", "AWS_S"))}
        for name, values in (("credentials", keys), ("config", settings)):
            path = folder / name
            path.unlink(missing_ok=True)
            with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write("\n".join(["[default]", *(f"{key} = {value}" for key, value in values.items()), ""]))
            self.own(path, account)

    def up(self) -> None:
        """Start the master and wait until the schedd answers and could start a job. Raises NoPool with the log's last words."""
        with open(self.folder / "log" / "master.out", "ab") as out:
            master = subprocess.Popen(
                [str(self.prefix / "usr/sbin/condor_master"), "-f"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
                umask=0o022,
                **({} if self.users else self.account.popen()),
            )
        (self.folder / "master.pid").write_text(str(master.pid))
        end = time.monotonic() + UP_LIMIT_S
        while time.monotonic() < end and master.poll() is None:
            if self.run("condor_q", "-totals", check=False).returncode == 0:
                return
            time.sleep(0.1)
        said = [(self.folder / "log" / name) for name in ("master.out", "MasterLog")]
        words = " ".join(" ".join(path.read_text(errors="replace").splitlines()[-3:]) for path in said if path.exists())
        self.down()
        raise NoPool(f"no HTCondor pool: the one in {self.folder} does not come up: {words}")

    def down(self) -> list[str]:
        """Stop every process of this pool, the master's way first. Nothing of it runs afterwards. What that way did not end, as
        command lines."""
        left: list[str] = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((self.folder / "master.pid").read_text())
            if any(process.pid == pid for process in self.processes()):
                os.kill(pid, signal.SIGQUIT)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            for process in self.processes() if number else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if number is signal.SIGTERM:
                        left.append(" ".join(process.cmdline()))
                    process.send_signal(number)
            end = time.monotonic() + DOWN_LIMIT_S
            while self.processes() and time.monotonic() < end:
                time.sleep(0.1)
                self._reap()
            if not self.processes():
                break
        (self.folder / "master.pid").unlink(missing_ok=True)
        return left

    def kill(self) -> None:
        """End every process of this pool, and all that they started, as a power cut does."""
        while alive := self.processes():  # one may start another before it ends itself
            families = [each for process in alive for each in (process, *_descendants(process))]
            for process in families:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(families, DOWN_LIMIT_S)
            self._reap()
        (self.folder / "master.pid").unlink(missing_ok=True)

    def _reap(self) -> None:
        with contextlib.suppress(FileNotFoundError, ChildProcessError, ValueError):
            os.waitpid(int((self.folder / "master.pid").read_text()), os.WNOHANG)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The pool's processes: those whose environment names its configuration; with `name`, those called so."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("CONDOR_CONFIG") == str(self.config) and process.pid != os.getpid():
                    words = process.cmdline()
                    if process.status() != psutil.STATUS_ZOMBIE and (not name or any(name in word for word in words[:4])):
                        found.append(process)
        return found

    def run(
        self, *command: str, check: bool = True, folder: Path | None = None, account: Account | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of the pool. With `check`, RuntimeError with what it said when it fails."""
        done = subprocess.run(
            command,
            cwd=folder or self.folder / "work",
            env={**self.environment, "HOME": str(self.home_of(account or self.account))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            umask=0o022,
            check=False,
            **(account or self.account).popen(),
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def ads(self, *command: str) -> list[dict[str, object]]:
        """What `condor_q` or `condor_history` prints as JSON."""
        text = self.run(*command, "-json").stdout.strip()
        return list(json.loads(text)) if text else []

    def gahp(self) -> Path:
        """The program for AWSBATCH_GAHP, in a folder of this pool: it runs this environment's, or a copy where it has to."""
        wrapper = self.folder / "bin" / "awsbatch_gahp"
        if not wrapper.exists():
            program = self._program()
            wrapper.parent.mkdir(exist_ok=True)
            # The gridmanager sets HOME to what the password file says: a pool for tests keeps away from that.
            wrapper.write_text(f'#!/bin/sh\nHOME={self.folder}/home/$(id -un) exec {program} "$@"\n')
            wrapper.chmod(0o755)
        return wrapper

    def _program(self) -> Path:
        installed = Path(sys.executable).with_name("awsbatch_gahp")
        question = [sys.executable, "-c", "import boto3, classad2, psutil, gahp.server"]
        with contextlib.suppress(OSError):
            done = subprocess.run(
                question, cwd="/", env=self.environment, capture_output=True, check=False, **self.account.popen()
            )
            if done.returncode == 0 and installed.exists():
                return installed
        return copy_program(self.folder / "program")


def copy_program(folder: Path) -> Path:
    """A copy of gahp, of what it needs, and of this Python, for an account that cannot read them where they are.

    Compiled as pip leaves it: else each start of a GAHP would compile all of botocore anew.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted try has left
    wrapper = folder / "awsbatch_gahp"
    site = folder / "site"
    site.mkdir(parents=True)
    for name in sorted(_needed("awsbatch-gahp") - {"awsbatch-gahp"}):
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # of what was compiled there may be less than is listed
                    shutil.copy2(str(file.locate()), target)
    not_needed = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "config-*")
    ignore = shutil.ignore_patterns(*not_needed)
    shutil.copytree(SOURCE / "gahp", site / "gahp", ignore=ignore)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "python"
    shutil.copytree(Path(os.__file__).parent, python / "lib" / version, ignore=ignore)
    for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy2(library, python / "lib")
    (python / "bin").mkdir()
    shutil.copy2(os.path.realpath(sys.executable), python / "bin" / version)
    wrapper.write_text(
        f"#!/bin/sh\nexport LD_LIBRARY_PATH={python}/lib PYTHONPATH={site} PYTHONDONTWRITEBYTECODE=1\n"
        f'exec {python}/bin/{version} -m gahp.server "$@"\n'
    )
    wrapper.chmod(0o755)
    call(sys.executable, "-m", "compileall", "-q", str(site / "gahp"))
    call("chmod", "-R", "a+rX", str(folder))
    return wrapper


def is_gahp(words: str) -> bool:
    """Whether a command line is that of a GAHP, or of the wrapper that becomes one."""
    return "awsbatch_gahp" in words or "gahp.server" in words


def _needed(name: str) -> set[str]:
    """A distribution and all that it needs without extras."""
    names, found = [name], set()
    while names:
        name = names.pop()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            requires = importlib.metadata.requires(name) or []
            found.add(name)
            names += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in requires if "extra ==" not in line]
            names = [each for each in names if each not in found]
    return found


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


# By hand


def _pools(suites: list[str]) -> Iterator[tuple[str, Pool]]:
    for suite in suites:
        yield suite, Pool(cache_folder() / suite, cache_folder() / f"{suite}.pool")


def _up(suite: str) -> None:
    prefix = build(suite)
    pool = Pool(prefix, cache_folder() / f"{suite}.pool")
    if pool.processes():
        print(f"{suite}: is up already")
    else:
        pool.prepare()
        (pool.folder / "bin" / "awsbatch_gahp").unlink(missing_ok=True)  # of an older program, where a reboot left the folder
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        pool.credentials(os.environ, **({"endpoint_url": endpoint} if endpoint else {}))
        install(pool, os.environ)
        pool.set(TEST_KNOBS)
        pool.up()
        print(f"{suite}: up, as {pool.account.name}")
    print(f"  export CONDOR_CONFIG={pool.config} PATH={prefix}/bin:{prefix}/usr/sbin:$PATH")
    if os.geteuid() == 0:
        who = pool.account
        print(f"  and, as HTCondor takes no jobs from root, in a folder of {who.name}'s:")
        print(f"  setpriv --reuid={who.uid} --regid={who.gid} --clear-groups env HOME={pool.home_of(who)} bash")


def install(pool: Pool, environment: Mapping[str, str], **more: str) -> None:
    """Have `condor_awsbatch install` put the administrator's file into the pool, with the knobs of `_CONDOR_AWSBATCH_*`."""
    knobs = {"AWSBATCH_JOB_QUEUE": "queue", "AWSBATCH_JOB_DEFINITION": "definition", "AWSBATCH_S3_URL": "s3://bucket/prefix"}
    knobs |= {name.removeprefix("_CONDOR_"): text for name, text in environment.items() if name.startswith("_CONDOR_AWSBATCH_")}
    if "AWS_DEFAULT_REGION" in environment:
        knobs["AWSBATCH_REGION"] = environment["AWS_DEFAULT_REGION"]
    knobs |= more
    words = [word for name, value in knobs.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "gahp.cli.main",
            "install",
            "--directory",
            f"{pool.folder}/config.d",
            "--gahp",
            str(pool.gahp()),
            *words,
        ],
        env=pool.environment,
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NoPool(f"condor_awsbatch install: {done.stderr.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(description="A real HTCondor pool on this machine, from Debian's packages.")
    parser.add_argument("verb", choices=("build", "up", "down", "remove"))
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{' and '.join(SUITES)} (default: all)")
    options = parser.parse_args()
    suites = options.suites or list(SUITES)
    if unknown := set(suites) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    try:
        for suite, pool in _pools(suites):
            if options.verb == "build":
                print(f"{suite}: {build(suite)}")
            elif options.verb == "up":
                _up(suite)
            else:
                pool.down()
                shutil.rmtree(pool.folder, ignore_errors=True)
                if options.verb == "remove":
                    shutil.rmtree(pool.prefix, ignore_errors=True)
                print(f"{suite}: {'down' if options.verb == 'down' else 'removed'}")
    except NoPool as error:
        print(f"pool.py: {error}", file=sys.stderr)
        return 1
    if options.verb == "remove" and not any((cache_folder() / suite).exists() for suite in SUITES):
        shutil.rmtree(cache_folder(), ignore_errors=True)
        if not os.environ.get("AWSBATCH_POOL_CACHE"):
            with contextlib.suppress(OSError):
                cache_folder().parent.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
