"""What goes wrong around a job: processes killed, a GAHP that does not start, an AWS that is away. Each job still runs once."""

import os
import signal
import time

import psutil
import pytest

from gahp.run import RunState
from tests.condor.jobs import (
    EXECUTING,
    GRID_SUBMITTED,
    RESOURCE_DOWN,
    RESOURCE_UP,
    Case,
    until,
)

BASH = "#!/bin/bash\n"
VICTIMS = {"gahp": "awsbatch_gahp", "gridmanager": "condor_gridmanager", "schedd": "condor_schedd"}


def kill(site, name):
    """kill -9 of every process of that name, which must be there; returns their ids."""
    processes = until(lambda: processes_of(site, name), f"no {name} runs")
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=10)
    return [process.pid for process in processes]


def processes_of(site, name):
    words = ("gahp.server", "awsbatch_gahp") if name == "gahp" else (VICTIMS[name],)
    return [process for word in words for process in site.pool.processes(word)]


def pause(seconds):
    """How long a fault lasts: nothing is waited for but that it does harm."""
    time.sleep(seconds)


@pytest.mark.parametrize("victim", VICTIMS)
def test_jobs_survive_kill_9_while_handed_over_idle_running_and_finishing_and_each_runs_once(site, victim):
    """Each state lasts until the kill has come; every job has one Batch job in the end, which ran once."""
    go = site.folder(f"kill-{victim}-go") / "go"
    program = BASH + f'echo ran >> {go.parent}/$1; until [ -e {go} ]; do sleep 0.2; done; echo "$1"'
    # They ask for what nobody else does, so that no array job but their own has them: the fault knows its name.
    submit = f"output = out.$(Process)\narguments = $(Process)\nhold = True\nrequest_memory = {900 + len(victim)}"
    jobs = site.submit(Case(program, submit, queue="queue 3"), f"kill-{victim}")
    cluster = jobs[0].id.partition(".")[0]
    site.aws.faults.stuck(name=f"{cluster}-*")
    site.pool.run("condor_release", cluster)
    until(lambda: any("GridJobId" in job.ad for job in jobs), "no submit begins")
    kill(site, victim)

    until(lambda: statuses(jobs) == ["RUNNABLE"] * 3, lambda: f"the jobs do not come to Batch: {statuses(jobs)}")
    kill(site, victim)
    site.aws.faults.clear("stuck")

    for job in jobs:
        job.wait(EXECUTING)
    assert statuses(jobs) == ["RUNNING"] * 3
    kill(site, victim)

    site.aws.faults.delay("s3:GetObject", 20)
    site.write(go, "")
    until(lambda: {run.state for job in jobs for run in job.runs()} == {RunState.COLLECTING}, "the jobs are not collected")
    kill(site, victim)
    site.aws.faults.clear("delay")

    for number, job in enumerate(jobs):
        assert job.finish().text(f"out.{number}") == f"{number}\n"
        assert (go.parent / str(number)).read_text() == "ran\n"
        (batch,) = job.batch_over()
        assert batch["status"] == "SUCCEEDED"


def statuses(jobs):
    return [batch["status"] for job in jobs for batch in job.batch()]


def test_a_gahp_ends_by_itself_when_its_gridmanager_is_gone_and_another_takes_over_its_jobs(site):
    go = site.folder("orphaned-go") / "go"
    (job,) = site.submit(Case(BASH + f"until [ -e {go} ]; do sleep 0.2; done; echo done"), "orphaned")
    job.wait(EXECUTING)
    gahps = processes_of(site, "gahp")
    assert gahps
    kill(site, "gridmanager")
    _, alive = psutil.wait_procs(gahps, timeout=30)
    assert alive == []
    site.write(go, "")
    assert job.finish().text() == "done\n"
    assert len(job.batch()) == 1


def test_a_gahp_that_cannot_start_shows_as_event_026_and_recovers_without_help(site):
    program = site.pool.folder / "bin" / "awsbatch_gahp"
    away = program.with_name("away")
    program.rename(away)
    try:
        (job,) = site.submit(Case(BASH + "echo at last"), "no-gahp")
        for process in processes_of(site, "gahp"):
            process.kill()
        job.wait(RESOURCE_DOWN)
        assert job.count(GRID_SUBMITTED) == 0
    finally:
        away.rename(program)
    assert job.finish().text() == "at last\n"
    assert job.count(RESOURCE_UP) >= 1
    assert len(job.batch()) == 1


def test_an_aws_that_cannot_be_reached_for_a_while_is_no_failure_of_any_job(site):
    """Jobs in every phase: one submitted meanwhile, one that ends meanwhile, one that runs on."""
    ending, running = (site.submit(Case(BASH + f"sleep {seconds}; echo done"), f"away-{seconds}")[0] for seconds in (4, 25))
    for job in (ending, running):
        job.wait(EXECUTING)
    with site.gate.closed():
        (new,) = site.submit(Case(BASH + "echo done"), "away-new")
        until(lambda: site.gate.refused >= 10, "nobody asked for AWS meanwhile")
        pause(60)
        for job in (ending, running, new):
            assert job.attribute("JobStatus") in (1, 2)
    for job in (ending, running, new):
        assert job.finish().text() == "done\n"
        assert len(job.batch_over()) == 1


def test_credentials_that_expire_and_come_back_are_no_failure_of_any_job(site):
    (running,) = site.submit(Case(BASH + "sleep 25; echo done"), "expired-running")
    running.wait(EXECUTING)
    site.aws.faults.expire_credentials()
    try:
        (new,) = site.submit(Case(BASH + "echo done"), "expired-new")
        until(lambda: "GridJobId" in new.ad, "the submit does not begin")
        pause(8)
        for job in (running, new):
            assert job.attribute("JobStatus") in (1, 2)
    finally:
        site.aws.faults.clear("expired")
    for job in (running, new):
        assert job.finish().text() == "done\n"
        assert len(job.batch_over()) == 1


def test_a_host_that_goes_away_costs_a_job_its_progress_and_nothing_else(site):
    folder = site.folder("ran")
    (job,) = site.submit(Case(BASH + f"[ -e {folder}/once ] && echo again && exit; touch {folder}/once; sleep 600"), "vanished")
    job.wait(EXECUTING)
    until((folder / "once").exists, "the program does not start")
    (batch,) = job.batch()
    assert site.aws.faults.vanish(batch["jobId"])
    assert job.finish().text() == "again\n"
    (batch,) = job.batch()
    assert len(batch["attempts"]) == 2
    assert job.attribute("NumRestarts") == 1


def test_a_submit_whose_reply_is_lost_makes_one_batch_job(site):
    # One: the four may be children of one array job.
    site.aws.faults.lose_reply("SubmitJob", count=1)
    jobs = site.submit(Case(BASH + "echo once", "output = out.$(Process)", queue="queue 4"), "lost-reply")
    for number, job in enumerate(jobs):
        assert job.finish().text(f"out.{number}") == "once\n"
        assert len(job.batch_over()) == 1
    assert [fault["count"] for fault in site.aws.faults.listed() if fault["kind"] == "lost_reply"] == [0]
    site.aws.faults.clear("lost_reply")
