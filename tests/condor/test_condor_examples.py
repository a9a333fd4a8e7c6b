"""The examples, as a user runs them: the black diamond with plain DAGMan, and many short tasks."""

import shutil
from pathlib import Path

import pytest

from gahp.cli.demo import compare, run_directly
from tests.condor.jobs import HELD, TERMINATED, read_log, until
from tests.condor.test_condor_dags import finish_dag, submit_dag

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = "gahp/cli/blackdiamond"


def copied(site, example):
    """The example's folder, with the programs where it looks for them, for the pool's account."""
    top = site.folder(example)
    for part in (f"examples/{example}", PROGRAMS):
        shutil.copytree(ROOT / part, top / part)
    for path in (top, *top.rglob("*")):
        site.pool.own(path)
    return top / "examples" / example


def copy_programs(folder):
    shutil.copytree(ROOT / PROGRAMS, folder, dirs_exist_ok=True)


@pytest.mark.together
def test_the_black_diamond_of_plain_dagman_gives_what_its_programs_give_directly(site):
    folder, direct = copied(site, "blackdiamond-dag"), site.folder("example-directly")
    copy_programs(direct)
    assert finish_dag(site, submit_dag(site, folder, "diamond.dag"), folder, "diamond.dag") == 0
    run_directly(direct)
    assert compare(folder, direct) == []


@pytest.mark.together
def test_many_tasks_travel_as_a_few_array_jobs_and_each_has_its_own_output(site):
    folder = copied(site, "many-tasks")
    said = site.pool.run("condor_submit", "-terse", "TASKS=25", "tasks.sub", folder=folder).stdout

    def ended():
        events = read_log(folder / "tasks.log")
        assert [event for event in events if event.number == HELD] == []
        return sum(event.number == TERMINATED for event in events) == 25

    until(ended, lambda: f"not all tasks end: {site.pool.run('condor_q', '-nobatch', check=False).stdout}")
    assert [(folder / f"task.{number}.out").read_text() for number in range(25)] == [f"{n * n}\n" for n in range(25)]
    jobs = site.batch_jobs(f"{said.partition('.')[0]}-")
    sent = {job["jobId"].partition(":")[0] for job in jobs}  # children of an array job have its id before their index
    assert len(jobs) == 25
    assert len(sent) < 10
