"""What a job's input consists of: local files and directories walked and checked, contents unread; URLs by name; what the
container has already because a directory is mounted in it.

Knows the local file system and what HTCondor means by TransferInput: `dir` is the directory itself, `dir/` its contents, anything
else its base name. Symbolic links are followed wherever they lead: they are the user's own. Nothing here opens a file.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence

from gahp.model import JobRequest, Refused
from gahp.sandbox import names

MAX_FILES = 100_000
SCRATCH = "scratch/"


@dataclasses.dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of the submit host. `place` is where the runner puts it, relative to its work directory; `mode` the permission bits
    it gets there. The rest is what stat says, to see whether the file changes."""

    path: str
    place: str
    mode: int
    size: int
    mtime_ns: int
    device: int
    inode: int

    @property
    def identity(self) -> tuple[int, int, int, int]:
        return (self.device, self.inode, self.size, self.mtime_ns)


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    """All that the runner needs: files, directories (place to mode; parents before children), URLs (place to URL), and files
    that the container copies from a mount, with their path there.

    `program` is the executable as the runner names it: its base name when it is `staged`. `directory` is where the program
    starts; "" is the scratch directory.
    """

    files: tuple[LocalFile, ...]
    directories: tuple[tuple[str, int], ...]
    urls: tuple[tuple[str, str], ...]
    mounted: tuple[tuple[str, LocalFile], ...] = ()
    program: str = ""
    staged: bool = True
    directory: str = ""


def mounted(path: str, shared: Sequence[str]) -> str | None:
    """The path in the container of a file or directory that lies below one of `shared`, symbolic links followed; else None."""
    if not shared:
        return None  # without a look at the disk, several for each job
    real = os.path.realpath(path)
    for directory in shared:
        top = os.path.realpath(directory)
        if real == top or real.startswith(top + "/"):
            return directory + real[len(top) :]
    return None


def below(path: str, directories: Sequence[str]) -> bool:
    """Whether a path, as it is written, is one of `directories` or below one."""
    normal = os.path.normpath(path)
    return any(normal == directory or normal.startswith(directory + "/") for directory in directories)


def shared_program(path: str, shared: Sequence[str]) -> str | None:
    """The path in the container of a program below one of `shared`, under the name that it has here; else None.

    What is written below one of them stays as it is: the container follows the links there, into its image too. Links to them,
    which only the submit host has, are followed here. A link's own name may tell a program what to do, so it has to be kept.
    """
    if not os.path.isabs(path):
        return None
    if below(path, shared):
        return path
    name = os.path.basename(path)
    directory, there = mounted(os.path.dirname(path), shared), mounted(path, shared)
    if directory is not None:
        return f"{directory}/{name}"
    return there if there is not None and os.path.basename(there) == name else None


def walk(request: JobRequest, shared: Sequence[str] = ()) -> Inputs:
    """Find everything that has to be transferred, and what lies below the directories `shared` with the container.

    Raises Refused, naming the first thing that is missing or cannot be read.
    """
    found = _Found()
    program, staged = _program(request, shared)
    for entry in request.inputs:
        if not entry:
            continue
        if names.is_url(entry):
            url = names.plain_url(entry)
            found.add_url(SCRATCH + names.url_name(url), url)
        else:
            _add_entry(found, os.path.join(request.iwd, entry))
    if staged:
        path = os.path.join(request.iwd, request.executable)
        found.add_file(_file(path, SCRATCH + os.path.basename(path), "executable", extra_mode=0o500), replace=True)
    if request.stdin not in names.DISCARD:
        found.add_file(_file(os.path.join(request.iwd, request.stdin), "stdin", "standard input"))
    if request.proxy:
        proxy = _file(os.path.join(request.iwd, request.proxy), "proxy", "X.509 proxy")
        found.add_file(dataclasses.replace(proxy, mode=0o600))
    # A job that has nothing transferred means the directory that it shares; any other needs its inputs in the one it starts in.
    transfers = staged or any(request.inputs) or bool(request.outputs)
    directory = "" if transfers else mounted(request.iwd, shared) or ""
    return found.inputs(shared, program=program, staged=staged, directory=directory)


def _program(request: JobRequest, shared: Sequence[str]) -> tuple[str, bool]:
    """The executable as the runner names it, and whether it is transferred. A shared one is executed where it is."""
    if not request.transfer_executable:
        return shared_program(request.executable, shared) or request.executable, False
    name = os.path.basename(request.executable)
    path = os.path.join(request.iwd, request.executable)
    there = mounted(path, shared)
    # A link's name may tell a program what to do; and only what is transferred is made executable on the way.
    if there is not None and os.path.basename(there) == name and os.path.isfile(path) and os.access(path, os.X_OK):
        return there, False
    return name, True


class _Found:
    """Collects by place, so that duplicates are harmless: of two inputs with one name the later counts, as in HTCondor."""

    def __init__(self) -> None:
        self._files: dict[str, LocalFile] = {}
        self._directories: dict[str, int] = {}
        self._urls: dict[str, str] = {}

    def add_file(self, file: LocalFile, replace: bool = False) -> None:
        self._refuse_directory(file.place)
        self._urls.pop(file.place, None)
        self._files[file.place] = file
        if len(self._files) > MAX_FILES:
            raise Refused(f"The job has more than {MAX_FILES} input files: pack them into an archive.")

    def add_url(self, place: str, url: str) -> None:
        self._refuse_directory(place)
        self._files.pop(place, None)
        self._urls[place] = url

    def add_directory(self, place: str, mode: int) -> None:
        if place in self._files or place in self._urls:
            raise Refused(f"Two inputs are called {place.removeprefix(SCRATCH)}, a file and a directory: rename one.")
        self._directories.setdefault(place, mode)
        if len(self._directories) > MAX_FILES:
            raise Refused(f"The job has more than {MAX_FILES} input directories: pack them into an archive.")

    def _refuse_directory(self, place: str) -> None:
        if place in self._directories:
            raise Refused(f"Two inputs are called {place.removeprefix(SCRATCH)}, a file and a directory: rename one.")

    def inputs(self, shared: Sequence[str], *, program: str, staged: bool, directory: str) -> Inputs:
        sharable = self._files.values() if shared else ()
        there = {file.place: mounted(file.path, shared) for file in sharable if file.place != "proxy"}
        return Inputs(
            files=tuple(file for file in self._files.values() if there.get(file.place) is None),
            directories=tuple(self._directories.items()),
            urls=tuple(self._urls.items()),
            mounted=tuple((path, self._files[place]) for place, path in there.items() if path is not None),
            program=program,
            staged=staged,
            directory=directory,
        )


def _add_entry(found: _Found, path: str) -> None:
    status = _stat(path, "input")
    if not stat.S_ISDIR(status.st_mode):
        found.add_file(_file(path, SCRATCH + os.path.basename(path), "input", status))
        return
    base = os.path.basename(os.path.normpath(path))
    if path.endswith(("/", "/.", "/..")):
        base = ""
    for item in _tree(path, SCRATCH + base if base else "scratch", status):
        if isinstance(item, LocalFile):
            found.add_file(item)
        else:
            found.add_directory(*item)


def _tree(top: str, place: str, status: os.stat_result) -> Iterator[LocalFile | tuple[str, int]]:
    """Everything below `top`, parents first, in the order of names. A directory that is reached through itself is a loop."""
    pending = [(top, place, status, frozenset[tuple[int, int]]())]
    while pending:
        path, place, status, above = pending.pop()
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise Refused(f"The input directory {path} is a symbolic link to a directory above it, a loop: remove the link.")
        if place != "scratch":
            yield place, stat.S_IMODE(status.st_mode) & 0o777 | 0o700
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise _refused(path, "input directory", error) from None
        below = []
        for entry in entries:
            status = _stat(entry.path, "input")
            if stat.S_ISDIR(status.st_mode):
                below.append((entry.path, f"{place}/{entry.name}", status, above | {here}))
            else:
                yield _file(entry.path, f"{place}/{entry.name}", "input", status)
        pending.extend(reversed(below))


def _stat(path: str, what: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise _refused(path, what, error) from None
    except ValueError:
        raise Refused(f"The {what} {path} has a NUL byte in its name: no file can.") from None


def _file(path: str, place: str, what: str, status: os.stat_result | None = None, extra_mode: int = 0) -> LocalFile:
    status = status or _stat(path, what)
    if stat.S_ISDIR(status.st_mode):
        raise Refused(f"The {what} {path} is a directory: name a file.")
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"The {what} {path} is a pipe, a socket or a device: only files and directories can be transferred.")
    if not os.access(path, os.R_OK):
        raise Refused(f"The {what} {path} cannot be read: give the job's owner permission to read it.")
    mode = stat.S_IMODE(status.st_mode) & 0o777 | extra_mode
    return LocalFile(path, place, mode, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)


def _refused(path: str, what: str, error: OSError) -> Refused:
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            target = os.readlink(path)
            return Refused(f"The {what} {path} is a symbolic link to {target}, which does not exist: mend or remove the link.")
        return Refused(f"The {what} {path} does not exist: correct its name in the submit file.")
    if isinstance(error, PermissionError):
        return Refused(f"The {what} {path} cannot be reached or read: give the job's owner permission to read it.")
    return Refused(f"The {what} {path} cannot be used: {error.strerror}.")
