"""What can be refused at once: a job whose files are not there, whose output could go nowhere, or that no kernel could start.

Local and quick: no file's content is read but the first bytes of files that would be overwritten. Raises model.Refused with the
one sentence that the user sees.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Sequence

from gahp.model import JobRequest, Refused, to_bytes
from gahp.sandbox import inputs, names, place

MAX_STRING = 131_071
"""Linux: MAX_ARG_STRLEN, the longest argument or NAME=VALUE that execve takes, without its NUL."""
MAX_STRINGS = 1_572_864
"""All arguments and variables together: Linux takes a quarter of the stack limit, as a rule 2 MiB; the container has some too."""
_MAX_PROXY = 64 * 1024


# Where a container image has programs of its own: what is named there is no file of the submit host.
_OF_THE_IMAGE = ("/bin", "/sbin", "/lib", "/lib64", "/usr", "/opt")
_OF_THE_CONTAINER = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  named, not used


def check(request: JobRequest, shared: Sequence[str] = ()) -> None:
    """Raise Refused unless the job's input is there and readable, its output has places to go, and its program can be started.

    `shared`: the directories that the container mounts at the same path.
    """
    _check_iwd(request)
    _check_strings(request)
    _check_executable(request)
    _check_reachable(request, shared)
    found = inputs.walk(request, shared)
    for file in found.files:
        if file.place == "proxy" and file.size > _MAX_PROXY:
            raise Refused(f"The X.509 proxy {request.proxy} is larger than {_MAX_PROXY} bytes: it is no proxy.")
    for what, name in (("output", request.stdout), ("error", request.stderr)):
        if name not in names.DISCARD:
            _check_stream(request, what, name)
    _check_outputs(request)


def _check_iwd(request: JobRequest) -> None:
    if not os.path.isabs(request.iwd):
        raise Refused(f"The job's directory Iwd = {request.iwd!r} is not an absolute path: submit with initialdir set.")
    if not os.path.isdir(request.iwd):
        raise Refused(f"The job's directory {request.iwd} does not exist: make it, or correct initialdir.")


def _check_strings(request: JobRequest) -> None:
    total = 0
    for number, argument in enumerate(request.arguments, 1):
        total += _length(f"Argument {number}", argument)
    for name, value in request.environment:
        if not name or "=" in name or "\0" in name:
            raise Refused(f"The job's environment has a variable called {name!r}, which no program can be given: rename it.")
        total += _length(f"The environment variable {name}", f"{name}={value}")
    if total > MAX_STRINGS:
        raise Refused(f"The job's arguments and environment are {total} bytes, more than {MAX_STRINGS}: put them into a file.")


def _length(what: str, text: str) -> int:
    size = len(to_bytes(text))
    if size > MAX_STRING:
        raise Refused(f"{what} is {size} bytes long, and Linux passes {MAX_STRING} to a program: put it into an input file.")
    if "\0" in text:
        raise Refused(f"{what} has a NUL byte in it, which Linux passes to no program: put it into a file.")
    return size + 1 + 8  # the NUL behind it and the pointer to it


def _check_executable(request: JobRequest) -> None:
    if not request.executable or "\0" in request.executable:
        raise Refused("The job names no executable: set executable in the submit file.")
    if request.transfer_executable and not os.path.basename(request.executable):
        raise Refused(f"The executable {request.executable} is a directory: name a file.")


def _check_reachable(request: JobRequest, shared: Sequence[str]) -> None:
    """Refuse what is neither transferred nor mounted, as far as it can be known: arguments may be paths or not, and a program
    that is not here may be in the image. Where nothing is said to be mounted, nothing is known."""
    if not shared:
        return
    path = request.executable
    named = not request.transfer_executable and os.path.isabs(path) and os.path.isfile(path)
    if named and not inputs.below(path, _OF_THE_IMAGE) and inputs.shared_program(path, shared) is None:
        raise Refused(
            f"The executable {path} is neither transferred nor below a directory that the container mounts "
            f"({', '.join(shared)}): set transfer_executable = True, or move it there."
        )
    # What Pegasus calls the directory that a job of sharedfs works in. Its arguments name the same, and reach the container as
    # they are written: a link to a mount leads nowhere there.
    scratch = dict(request.environment).get("PEGASUS_SCRATCH_DIR", "")
    if os.path.isabs(scratch) and not inputs.below(scratch, (*_OF_THE_CONTAINER, *shared)):
        raise Refused(
            f"The directory {scratch} (PEGASUS_SCRATCH_DIR) is not below a directory that the container mounts "
            f"({', '.join(shared)}): correct the sharedScratch of the site catalog."
        )


def _check_stream(request: JobRequest, what: str, name: str) -> None:
    if "\0" in name:
        raise Refused(f"The job's {what} file has a NUL byte in its name: no file can.")
    path = place.stream_path(request, name)
    _check_directory(f"The job's {what} file {name}", os.path.dirname(path))
    _check_existing(f"The job's {what} file {name}", path)
    place.refuse_user_log(request, path)


def _check_outputs(request: JobRequest) -> None:
    table = names.rules(request.remaps)
    for source, target in table.items():
        _check_remap(request, source, target)
    landed: dict[str, str] = {}
    for written in request.outputs or ():
        name = names.output_name(written)
        lands = names.landing(name, name.rstrip("/")) or ""
        goal = names.target_of(table, name.rstrip("/"), lands) if lands else ""
        if goal and landed.setdefault(goal, name) != name:
            both = f"The outputs {landed[goal]} and {name}"
            raise Refused(f"{both} would both become {goal}: separate them with transfer_output_remaps.")
        if goal and not names.is_url(goal):
            place.refuse_user_log(request, os.path.join(request.iwd, goal))
    if (request.outputs is None or request.outputs) and not os.access(request.iwd, os.W_OK | os.X_OK):
        raise Refused(f"The job's directory {request.iwd} cannot be written to, and its output goes there: give permission.")


def _check_remap(request: JobRequest, source: str, target: str) -> None:
    if not target or "\0" in target:
        raise Refused(f"The output {source} is remapped to nothing: correct transfer_output_remaps.")
    if names.is_url(target):
        names.check_remap_url(source, target)
        return
    path = os.path.join(request.iwd, target)
    directory = path if target.endswith("/") else os.path.dirname(path)
    if posixpath.normpath(target).rpartition("/")[0] or target.endswith("/"):
        _check_directory(f"The place {target} that {source} is remapped to", directory)
    if not target.endswith("/"):
        place.refuse_user_log(request, path)


def _check_directory(what: str, directory: str) -> None:
    if not os.path.isdir(directory):
        raise Refused(f"{what} cannot be written: the directory {directory} does not exist; make it.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refused(f"{what} cannot be written: no permission to write in {directory}; give it, or name another place.")


def _check_existing(what: str, path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise Refused(f"{what} cannot be written: {path} is no regular file; name another.")
