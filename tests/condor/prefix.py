"""HTCondor's programs from Debian's packages, below a folder: fetched without root, patched to run where they lie, kept there.

Knows apt and patchelf; nothing of pools.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

# Debian releases, and how the version of HTCondor in each begins.
SUITES = {"trixie": "23.9.", "forky": "25."}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NoPool(Exception):
    """A pool cannot be had on this machine. The text is one line: what is missing."""


def cache_folder() -> Path:
    """Where prefixes are kept. Root's must be readable by the account that its pools run as."""
    default = "/var/cache/awsbatch-gahp/condor" if os.geteuid() == 0 else "~/.cache/awsbatch-gahp/condor"
    return Path(os.environ.get("AWSBATCH_POOL_CACHE") or default).expanduser().absolute()


def build(suite: str) -> Path:
    """The prefix with HTCondor of `suite`, made unless it is there. Two processes may ask at once. Raises NoPool."""
    prefix = cache_folder() / suite
    if (prefix / "complete").exists():
        return prefix
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NoPool(f"no HTCondor pool: {tool} is missing (Debian or one of its kin is needed)")
    if not os.path.exists(KEYRING):
        raise NoPool(f"no HTCondor pool: {KEYRING} is missing (apt-get install debian-archive-keyring)")
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with open(cache_folder() / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (prefix / "complete").exists():
                _build(suite, prefix)
    except OSError as error:
        raise NoPool(f"no HTCondor pool: {error}") from error
    return prefix


def _build(suite: str, prefix: Path) -> None:
    shutil.rmtree(prefix, ignore_errors=True)
    work = prefix.with_name(f"{suite}.apt")
    shutil.rmtree(work, ignore_errors=True)
    try:
        for package in _download(suite, work):
            call("dpkg-deb", "--extract", str(package), str(prefix))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    patched = _patch(prefix)
    commands = prefix / "bin"
    commands.mkdir()
    # A folder for PATH: what else lies in usr/bin wants a newer libc than this machine may have.
    for program in (prefix / "usr/bin").glob("condor_*"):
        (commands / program.name).symlink_to(program)
    call("chmod", "-R", "a+rX,u+w", str(prefix))
    (prefix / "complete").write_text(f"{patched} programs\n")


def _download(suite: str, work: Path) -> list[Path]:
    """condor, patchelf and all they depend on, fetched by an apt that believes nothing is installed and runs as anybody."""
    for folder in ("state/lists/partial", "cache/archives/partial", "parts"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
    settings = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::parts": work / "parts",
        "Dir::Etc::main": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "Acquire::Languages": "none",
        # The Release file of a testing suite is good for a week; a mirror may lag. Its signature is checked all the same.
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Retries": "2",
        "APT::Update::Error-Mode": "any",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    # This machine's way to the network, such as a proxy, counts here too; its hooks and other settings do not.
    kept = [line for line in call("apt-config", "dump").splitlines() if re.match(r"Acquire::(https?|ForceIPv[46])\b", line)]
    (work / "apt.conf").write_text("\n".join([*kept, *(f'{name} "{value}";' for name, value in settings.items())]) + "\n")
    environment = {**os.environ, "APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C"}
    for words in (["update"], ["--yes", "--download-only", "install", "condor", "patchelf"]):
        done = subprocess.run(["apt-get", "--quiet=2", *words], env=environment, capture_output=True, text=True, check=False)
        packages = sorted((work / "cache/archives").glob("*.deb"))
        if done.returncode != 0 or ("install" in words and not packages):
            why = " ".join((done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-2:])
            raise NoPool(f"no HTCondor pool: the packages of Debian {suite} cannot be had: {why}")
    return packages


def _mirror() -> str:
    if mirror := os.environ.get("AWSBATCH_POOL_MIRROR"):
        return mirror
    lines = call("apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)").splitlines()
    for uri, release in (line.split(" ", 1) for line in lines if " " in line):
        if re.fullmatch(r"[a-z]+", release) and uri.rstrip("/").endswith("/debian"):
            return uri
    raise NoPool("no HTCondor pool: this machine's apt names no Debian mirror; set AWSBATCH_POOL_MIRROR")


def _patch(prefix: Path) -> int:
    """Have every program of HTCondor use the prefix's own loader and libraries. How many there were."""
    loader = next((prefix / "usr/lib").glob("*/ld-linux-*.so.?"), None)
    if loader is None:
        raise NoPool("no HTCondor pool: Debian's packages for this machine's architecture hold no dynamic loader")
    libraries = f"{prefix}/usr/lib:{loader.parent}:{prefix}/usr/lib/condor"
    patchelf = [str(loader), "--library-path", libraries, str(prefix / "usr/bin/patchelf")]
    count = 0
    for pattern in ("usr/sbin/*", "usr/bin/condor_*", "usr/bin/classad*", "usr/bin/blahpd", "usr/libexec/condor/*"):
        for program in prefix.glob(pattern):
            if program.is_symlink() or not program.is_file() or program.read_bytes()[:4] != b"\x7fELF":
                continue
            if subprocess.run([*patchelf, "--print-interpreter", str(program)], capture_output=True, check=False).returncode == 0:
                # RPATH, not RUNPATH: it also holds for the libraries' own libraries.
                options = ["--set-interpreter", str(loader), "--force-rpath", "--set-rpath", libraries]
                call(*patchelf, *options, str(program))
                count += 1
    return count


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoPool(f"no HTCondor pool: {command[0]} failed: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout
