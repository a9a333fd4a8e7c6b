"""DAGs through condor_submit_dag: the black diamond, a node that fails and its rescue, a retry, a local node among them."""

import importlib.resources
import re

import pytest

from gahp.cli.demo import compare, diamond, run_directly
from tests.condor.jobs import GRID, HELD, TERMINATED, read_log, until

BASH = "#!/bin/bash\n"


def submit_dag(site, folder, name="nodes.dag"):
    site.pool.run("condor_submit_dag", "-no_submit", "-f", name, folder=folder)
    return site.pool.run("condor_submit", "-terse", f"{name}.condor.sub", folder=folder).stdout.split()[0]


def finish_dag(site, id, folder, name="nodes.dag"):
    """Wait for DAGMan's own end: its exit code."""
    ads = until(
        lambda: site.pool.ads("condor_history", id, "-limit", "1"),
        lambda: f"DAG {id} does not end\n{(folder / f'{name}.dagman.out').read_text()[-3000:]}",
    )
    assert ads[0]["JobStatus"] == 4, ads
    return ads[0]["ExitCode"]


def write_node(site, folder, name, program, submit="", universe=GRID):
    site.write(folder / f"{name}.sh", BASH + program, 0o755)
    text = f"{universe}executable = {name}.sh\noutput = {name}.out\nerror = {name}.err\nlog = nodes.log\n{submit}\nqueue\n"
    site.write(folder / f"{name}.sub", text)


@pytest.mark.together
def test_the_black_diamond_gives_what_its_programs_give_directly(site):
    folder, direct = site.folder("diamond"), site.folder("diamond-directly")
    source = importlib.resources.files("gahp.cli") / "blackdiamond"
    for name in ("f.a", "preprocess", "findrange", "analyze"):
        content = (source / name).read_bytes()
        site.write(folder / name, content, 0o644 if name == "f.a" else 0o755)
        (direct / name).write_bytes(content)
        (direct / name).chmod(0o755)
    lines = []
    for job in diamond():
        name = job.name.replace(" ", "")
        text = (
            f"{GRID}executable = {job.program}\narguments = {' '.join(job.arguments)}\noutput = {name}.out\nerror = {name}.err\n"
            f"log = nodes.log\ntransfer_input_files = {', '.join(job.inputs)}\n"
            f"transfer_output_files = {', '.join(job.outputs)}\nqueue\n"
        )
        site.write(folder / f"{name}.sub", text)
        lines.append(f"JOB {name} {name}.sub")
        lines += [f"PARENT {parent.replace(' ', '')} CHILD {name}" for parent in job.parents]
    site.write(folder / "nodes.dag", "\n".join([*sorted(lines), ""]))
    id = submit_dag(site, folder)
    assert finish_dag(site, id, folder) == 0
    run_directly(direct)
    assert compare(folder, direct) == []
    constraint = f"DAGManJobId == {id.partition('.')[0]}"
    until(lambda: len(site.pool.ads("condor_history", "-constraint", constraint)) == 4, "the history does not have four nodes")
    nodes = site.pool.ads("condor_history", "-constraint", constraint)
    for ad in nodes:
        (batch,) = site.batch_jobs(f"{ad['ClusterId']}-0-")
        # A child has the tags of its array job, which other tests' jobs may be in as well.
        if "arrayProperties" not in batch:
            assert batch["tags"]["HTCondorDAGNode"] == ad["DAGNodeName"]
    assert {ad["DAGNodeName"] for ad in nodes} == {"preprocess", "findrange1", "findrange2", "analyze"}


@pytest.mark.together
def test_a_failing_node_leaves_a_rescue_dag_that_runs_only_what_is_missing(site):
    folder = site.folder("rescue")
    write_node(site, folder, "A", "echo A")
    write_node(site, folder, "B", f"echo B; [ -e {folder}/mended ]")
    write_node(site, folder, "C", "echo C")
    site.write(folder / "nodes.dag", "JOB A A.sub\nJOB B B.sub\nJOB C C.sub\nPARENT A CHILD B\nPARENT B CHILD C\n")
    assert finish_dag(site, submit_dag(site, folder), folder) == 1
    assert (folder / "nodes.dag.rescue001").exists()
    assert not (folder / "C.out").exists()
    site.write(folder / "mended", "")
    said = site.pool.run("condor_submit_dag", "nodes.dag", folder=folder).stdout
    assert finish_dag(site, re.search(r"submitted to cluster (\d+)", said)[1] + ".0", folder) == 0
    ended = [event.job for event in read_log(folder / "nodes.log") if event.number == TERMINATED]
    assert len(ended) == 4, "A once, B twice, C once"
    assert (folder / "C.out").read_text() == "C\n"


@pytest.mark.together
def test_a_retry_and_a_node_of_the_local_universe_work_in_one_dag(site):
    folder = site.folder("retry")
    write_node(site, folder, "flaky", f'n=$(cat {folder}/count); echo $((n + 1)) > {folder}/count; [ "$n" -ge 1 ]')
    write_node(site, folder, "here", "cat nodes.log | grep -c terminated > /dev/null; echo here", universe="universe = local\n")
    write_node(site, folder, "last", "echo last")
    site.write(folder / "count", "0", 0o666)
    lines = ["JOB flaky flaky.sub", "JOB here here.sub", "JOB last last.sub", "RETRY flaky 2", "PARENT flaky CHILD here"]
    site.write(folder / "nodes.dag", "\n".join([*lines, "PARENT here CHILD last", ""]))
    id = submit_dag(site, folder)
    assert finish_dag(site, id, folder) == 0
    assert (folder / "count").read_text() == "2\n"
    assert ((folder / "here.out").read_text(), (folder / "last.out").read_text()) == ("here\n", "last\n")
    assert not [event for event in read_log(folder / "nodes.log") if event.number == HELD]
