"""`condor_awsbatch install`: put 50-awsbatch.conf, with this site's values, among HTCondor's configuration files, and check it.

Knows the text of that file: the knobs' part comes from the table in gahp.config, so that it cannot differ from it. The first line
holds a digest of the rest, by which a change made by hand is seen. Root's installation has all users of the host share limits as
well. Knows nothing of AWS.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gahp import limits
from gahp.config import KNOBS, htcondor_lookup, missing_config
from gahp.model import Refused

SUMMARY = "put 50-awsbatch.conf into HTCondor's configuration and check it"
EXAMPLE = "condor_awsbatch install --queue lab-queue --definition lab-job --s3 s3://lab-bucket/condor --region us-west-2"

FILE_NAME = "50-awsbatch.conf"
TRANSFORM = "AwsBatch"
LIMITS = "AWSBATCH_LIMITS_DIR"
_USUAL_DIRECTORY = "/etc/condor/config.d"
_USUAL_LOCAL_DIR = "/var"
_FIRST_LINE = "# 50-awsbatch.conf of the AWS Batch GAHP; as installed: sha256 "

# Attributes that the gridmanager leaves behind, and the one (UserLog) that keeps an output from being written over the user log.
_PASSED_ON = (
    "RequestCpus",
    "RequestDisk",
    "TransferExecutable",
    "GlobalJobId",
    "DAGNodeName",
    "DAGManJobId",
    "JobBatchName",
    "JobPrio",
    "Owner",
    "UserLog",
)

# Measured with 1,000 to 10,000 jobs on HTCondor 23.9.6 and 25.14.1.
_SCALING = (
    (
        "GRIDMANAGER_JOB_PROBE_RATE_BATCH",
        "1000",
        "Status questions a second. The default of 5 stretches the time between two looks at a job to a fifth of a second for\n"
        "each job there is: 200 s with 1,000 jobs. The GAHP answers from memory, so many questions cost nothing. This and the\n"
        "next two count for every `batch` grid type of this host, so for pbs, slurm and the like as well, whose status is a\n"
        "program that is started: a host that has such jobs too may want less.",
    ),
    ("GRIDMANAGER_JOB_PROBE_INTERVAL_BATCH", "5", "Seconds between two looks at a job; the default of 60 is what jobs wait."),
    (
        "GRIDMANAGER_MAX_SUBMITTED_JOBS_PER_RESOURCE_BATCH",
        "100000",
        "Jobs of one user that AWS Batch has at a time. With the default of 1,000, job 1,001 waits until another one has ended.",
    ),
    (
        "GRIDMANAGER_MAX_PENDING_REQUESTS",
        "1000",
        "Requests on their way to one GAHP, of whatever grid type. The default of 50 makes a burst of submits wait in line.",
    ),
    (
        "GRIDMANAGER_CONTACT_SCHEDD_DELAY",
        "1",
        "Seconds until changes of jobs are told to the schedd; a job has four of them, and the default is 5.",
    ),
    ("SCHEDD_MIN_INTERVAL", "1", "Seconds until the schedd starts a gridmanager for a user's first job; the default is 5."),
    (
        "GRIDMANAGER_RESOURCE_PROBE_INTERVAL",
        "60",
        "Seconds until a GAHP that could not work (event 026 in the user log) is tried again; the default is 300.",
    ),
)


def render(gahp: str, values: Mapping[str, str]) -> str:
    """The whole file. `values` maps names of knobs to what is set here; the others stand there as comments with their default."""
    lines = [
        "# Jobs with `grid_resource = batch awsbatch` run on AWS Batch. The manual is docs/admin.md.",
        "# A comment has a line of its own: behind a value it would become part of the value.",
        "",
        "# The program that the gridmanager starts, once for each user who has such jobs.",
        f"AWSBATCH_GAHP = {gahp}",
        "",
    ]
    for knob in KNOBS:
        lines.append(f"# {knob.sentence} ({knob.unit}{_default(knob.default)})")
        value = values.get(knob.name)
        lines += [f"{knob.name} = {value}" if value is not None else f"#{knob.name} = {knob.default or ''}".rstrip(), ""]
    lines += ["# How many jobs HTCondor itself carries, and how fast.", ""]
    for name, setting, why in _SCALING:
        lines += [*(f"# {line}" for line in why.splitlines()), f"{name} = {setting}", ""]
    lines += [
        "# What a submit file says and the gridmanager does not pass on by itself: attribute remote_X of the job becomes the X",
        "# that the GAHP gets. Evaluated here, for there it could not be.",
        f"JOB_TRANSFORM_NAMES = $(JOB_TRANSFORM_NAMES) {TRANSFORM}",
        f"JOB_TRANSFORM_{TRANSFORM} @=end",
        f"   NAME {TRANSFORM}",
        '   REQUIREMENTS JobUniverse == 9 && regexp("^batch +awsbatch( |$)", GridResource, "i")',
    ]
    for name in _PASSED_ON:
        lines += [f"   if defined MY.{name}", f"      EVALSET remote_{name} {name}", "   endif"]
    body = "\n".join([*lines, "@end", ""])
    return f"{_FIRST_LINE}{_digest(body)}\n{body}"


def _digest(body: str) -> str:
    # What a person has written by hand may be in any encoding.
    return hashlib.sha256(body.encode("utf-8", "surrogateescape")).hexdigest()


def _default(default: str | None) -> str:
    if default is None:
        return "; has to be set"
    return f"; {default} unless set" if default else ""


def as_installed(text: str) -> bool:
    """Whether `text` is what `render` once gave, of whatever version."""
    first, _, body = text.partition("\n")
    return first == _FIRST_LINE + _digest(body)


def values_of(text: str) -> dict[str, str]:
    """The knobs that are set in a file of an earlier installation."""
    known = {knob.name for knob in KNOBS}
    return {name: value for name, value in _settings(text) if name in known}


def _settings(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^(AWSBATCH_\w+) *=[ \t]*(.*?)[ \t]*$", text, re.M)


def add_place(parser: argparse.ArgumentParser) -> None:
    """The options that `install` and `uninstall` share."""
    parser.add_argument("--directory", metavar="DIR", help="the configuration folder (default: the last of LOCAL_CONFIG_DIR)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--force", action="store_true", help="even if the file was changed by hand; a copy stays beside it")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", metavar="NAME", help="AWSBATCH_JOB_QUEUE")
    parser.add_argument("--definition", metavar="NAME", help="AWSBATCH_JOB_DEFINITION")
    parser.add_argument("--s3", metavar="URL", help="AWSBATCH_S3_URL, s3://BUCKET/PREFIX")
    parser.add_argument("--region", metavar="NAME", help="AWSBATCH_REGION")
    parser.add_argument("--set", metavar="KNOB=VALUE", action="append", default=[], help="any knob; may be given again")
    parser.add_argument("--gahp", metavar="PATH", help="AWSBATCH_GAHP (default: the last one, else that beside this program)")
    add_place(parser)


def run(options: argparse.Namespace) -> int:
    path = Path(directory(options.directory), FILE_NAME)
    before = read(path)
    last = values_of(before or "")
    values = {**last, **_asked(options)}
    _check(values)
    program = _gahp(options.gahp, before or "")
    place = limits_place()
    common = _is_ours(place, values)
    dropped = last.get(LIMITS) == place != values.get(LIMITS)
    text = render(program, {**values, LIMITS: place} if common else values)
    if options.dry_run:
        print(text, end="")
        if dropped:
            print(f"condor_awsbatch: {place} would be removed.", file=sys.stderr)
        print(f"condor_awsbatch: this would be {path}; nothing was changed.", file=sys.stderr)
        return 0
    if before is not None and not as_installed(before):
        keep_copy(path, options.force)
    # Before anything else is made or removed, which nobody would look for where this fails.
    if text != before:
        _write(path, text)
    if common and not _provide(place) and LIMITS not in values:
        text = render(program, values)
        _write(path, text)
    print(f"{path} is up to date." if text == before else f"{path} was {'written' if before is None else 'replaced'}.")
    if dropped:
        withdraw(place)
    return _verify(path, text)


def limits_place() -> str:
    """Where all users of this host share limits, unless the administrator says otherwise. Not SPOOL, which condor_preen cleans,
    nor LOCK, which a reboot empties."""
    local = _config_val("LOCAL_DIR") or ""
    return os.path.join(local if os.path.isabs(local) else _USUAL_LOCAL_DIR, "lib", "awsbatch_gahp", "limits")


def _is_ours(place: str, values: Mapping[str, str]) -> bool:
    """Whether `place` is for this installation to make: by root, and nobody has chosen anything else."""
    if os.geteuid() != 0:
        return False
    chosen = values[LIMITS] if LIMITS in values else _config_val(LIMITS)
    return chosen in (None, place)


def _provide(place: str) -> bool:
    """Make `place`. False where it cannot be, which keeps nobody from running jobs."""
    try:
        limits.provide(place)
    except OSError as error:
        print(
            f"condor_awsbatch: {place} cannot be made for all users ({error.strerror}), so each learns AWS's limits alone: mend"
            f" that and install again, or give --set {LIMITS}=DIR.",
            file=sys.stderr,
        )
        return False
    print(f"All users of this host share in {place} what is learnt of AWS's limits.")
    return True


def withdraw(place: str) -> None:
    """Remove what `_provide` has made, and nothing else."""
    try:
        limits.withdraw(place)
    except OSError as error:
        print(f"condor_awsbatch: {place} stays: {error.strerror}. Look what is in it, and remove it by hand.", file=sys.stderr)
    else:
        print(f"{place} was removed.")


def directory(asked: str | None) -> str:
    """The folder among HTCondor's configuration that the file belongs into."""
    if asked:
        return os.path.abspath(asked)
    if missing := missing_config():
        raise Refused(missing)
    folders = [folder for folder in re.split(r"[\s,]+", _config_val("LOCAL_CONFIG_DIR") or "") if folder]
    return folders[-1] if folders else _USUAL_DIRECTORY


def read(path: Path) -> str | None:
    """The text of the file that is there; None without one."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from error


def keep_copy(path: Path, force: bool) -> None:
    """Before a file that was changed by hand goes: Refused without `force`, else a copy that HTCondor does not read."""
    if not force:
        raise Refused(f"{path} was changed by hand and stays as it is: --force goes on, and keeps a copy as {path.name}~.")
    try:
        shutil.copy2(path, f"{path}~")
    except OSError as error:
        raise Refused(f"{path}~ cannot be written: {error.strerror}.") from error
    print(f"{path}~ keeps what was changed by hand.")


def _asked(options: argparse.Namespace) -> dict[str, str]:
    named = {
        "AWSBATCH_JOB_QUEUE": options.queue,
        "AWSBATCH_JOB_DEFINITION": options.definition,
        "AWSBATCH_S3_URL": options.s3,
        "AWSBATCH_REGION": options.region,
    }
    asked = {name: value for name, value in named.items() if value is not None}
    for entry in options.set:
        name, sign, value = entry.partition("=")
        if not sign:
            raise Refused(f"--set {entry}: give KNOB=VALUE.")
        asked[name.strip().upper()] = value
    return {name: value.strip() for name, value in asked.items()}


def _check(values: Mapping[str, str]) -> None:
    knobs = {knob.name: knob for knob in KNOBS}
    for name, value in values.items():
        if name not in knobs:
            raise Refused(f"There is no knob {name}: `condor_awsbatch config` lists them.")
        try:
            if not value.isprintable() or value.endswith("\\"):
                raise ValueError("is not one line of plain text")
            if "$(" not in value:  # a macro is HTCondor's to expand
                knobs[name].check(value)
        except ValueError as reason:
            raise Refused(f"{name} = {value!r} {reason}: give {knobs[name].unit}. {knobs[name].sentence}") from None
    options = {"AWSBATCH_JOB_QUEUE": "--queue", "AWSBATCH_JOB_DEFINITION": "--definition", "AWSBATCH_S3_URL": "--s3"}
    for name, option in options.items():
        if not values.get(name) and not _config_val(name):
            raise Refused(f"{name} is not set: give {option} ({knobs[name].unit}). {knobs[name].sentence}")


def _gahp(asked: str | None, before: str) -> str:
    """The program: the one that is asked for, else that of the file `before`, else the one that lies beside this program."""
    beside = shutil.which("awsbatch_gahp", path=os.path.dirname(sys.executable)) or shutil.which("awsbatch_gahp")
    last = dict(_settings(before)).get("AWSBATCH_GAHP")
    if asked is None and last and ("$(" in last or _is_program(last)):
        if beside and last != beside:
            print(f"AWSBATCH_GAHP stays {last}: --gahp {beside} would have it run that one.", file=sys.stderr)
        return last
    place = asked or beside
    if place is None:
        raise Refused("awsbatch_gahp was not found: give its place with --gahp.")
    place = os.path.abspath(place)
    if not _is_program(place):
        raise Refused(f"{place} is not a program that can be run: give the place of awsbatch_gahp with --gahp.")
    return place


def _is_program(path: str) -> bool:
    return os.access(path, os.X_OK) and os.path.isfile(path)


def _write(path: Path, text: str) -> None:
    try:
        descriptor, beside = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            os.replace(beside, path)
        except OSError:
            os.unlink(beside)
            raise
    except FileNotFoundError as error:
        raise Refused(f"The folder {path.parent} does not exist: make it, or give another one with --directory.") from error
    except OSError as error:
        raise Refused(
            f"{path} cannot be written: {error.strerror}. Mend that, be the administrator, or give another with --directory."
        ) from error


def _verify(path: Path, text: str) -> int:
    """Ask HTCondor what it makes of the file. Exit code 1 when another file has the last word."""
    if shutil.which("condor_config_val") is None:
        print("condor_config_val was not found, so the file was not checked.")
        return 0
    overruled = []
    transform = f"JOB_TRANSFORM_{TRANSFORM}"
    if _lines(_config_val(transform) or "") != _lines(text.partition(f"{transform} @=end\n")[2].removesuffix("@end\n")):
        overruled.append(transform)
        print(f"condor_awsbatch: {transform} is not the one of this file: {_origin(transform)}", file=sys.stderr)
    for name, value in re.findall(r"^([A-Z]\w+) = (.*)$", text, re.M):
        has = _config_val(name) or ""
        words = re.split(r"[\s,]+", has)
        if not (TRANSFORM in words if name == "JOB_TRANSFORM_NAMES" else "$(" in value or has == value):
            overruled.append(name)
            print(f"condor_awsbatch: {name} is {has or 'not set'} and not {value}: {_origin(name)}", file=sys.stderr)
    if any(name.startswith(("AWSBATCH_", "JOB_TRANSFORM_")) for name in overruled):
        print(f"condor_awsbatch: {path} does not have the last word, so jobs may not run as it says.", file=sys.stderr)
        return 1
    how_many = "every setting" if not overruled else "all other settings"
    print(f"HTCondor has {how_many} of it (condor_config_val). For running daemons: condor_reconfig.")
    return 0


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def _config_val(name: str) -> str | None:
    """What HTCondor has for a macro; None when it has none or is not there. Without its programs on PATH its Python says."""
    try:
        done = subprocess.run(["condor_config_val", name], capture_output=True, text=True, check=False)
    except OSError:
        return htcondor_lookup()(name)
    return done.stdout.strip() if done.returncode == 0 else None


def _origin(name: str) -> str:
    done = subprocess.run(["condor_config_val", "-verbose", name], capture_output=True, text=True, check=False)
    found = re.search(r"^ *# at: (.*)$", done.stdout, re.M)
    return f"see {found[1]}" if found else "no file that HTCondor reads sets it"
