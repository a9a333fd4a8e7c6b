"""Workflows that pegasus-plan 5.1.2 and 5.1.3 planned, through DAGMan, gridmanager, GAHP and the embedded AWS: every data
configuration ends with all nodes done, and every task has run once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gahp.cli.demo import run_directly
from tests.condor import workflows
from tests.condor.jobs import HELD, case, open_site, until
from tests.condor.test_condor_examples import copied, copy_programs
from tests.condor.workflows import Planned, Workflow

# What the resources of the recorded profiles mean: VCPU, MEMORY, GPU, and seconds.
RESOURCES = {
    "5.1.2-sharedfs-resources": ("2", "4096", "1", 1800),  # 2048 MB for each of two processes
    "5.1.2-condorio-resources": ("2", "4096", "1", 1800),
    "5.1.3-sharedfs-resources": ("2", "2048", "1", 1800),
    "5.1.3-condorio-resources": ("2", "2048", "1", 1800),
}


@pytest.mark.together
@pytest.mark.parametrize("planned", [pytest.param(each, id=each.name) for each in workflows.to_run()])
def test_a_planned_workflow_ends_with_all_nodes_done_and_each_task_run_once(site, planned: Planned):
    workflow = Workflow(site, planned)
    with workflows.A_FEW_AT_ONCE:
        workflow.submit().finish()
    workflow.check()
    if not planned.shared:
        assert workflows.uploads_of_worker_package(site) == 1
    if planned.name in RESOURCES:
        check_resources(workflow, *RESOURCES[planned.name])
    if planned.name == "5.1.2-sharedfs-cluster":
        # Its submit files have +remote_iwd, and nothing is transferred: the job starts where its files are.
        (cwd,) = {
            line.partition('cwd="')[2][:-2] for _, text in workflow.records() for line in text.splitlines() if "summary" in line
        }
        assert cwd == f"{workflow.data}/scratch/alice/pegasus/diamond/run0001"


@pytest.mark.skipif(shutil.which("pegasus-plan") is None, reason="no pegasus-plan on PATH: recorded plans only")
@pytest.mark.parametrize("data", ["condorio", "nonsharedfs", "sharedfs"])
def test_the_example_planned_here_and_now_gives_what_its_programs_give_directly(site, data: str):
    """With the Pegasus that is installed, and its own kickstart, PegasusLite and POST script."""
    top = copied(site, "blackdiamond-pegasus")
    run, direct = site.pool.own(top / "run"), site.folder(f"{data}-directly")
    planner = Path(str(shutil.which("pegasus-plan"))).resolve()
    version = subprocess.run([str(planner), "--version"], capture_output=True, text=True, check=True).stdout
    options = ["--data", data, "--queue", "pegasus-queue", "--pegasus", "5.1.2" if version.startswith("5.1.2") else "5.1.3"]
    if data != "condorio":
        scratch = site.pool.own(site.pool.folder / "shared" / f"{data}-scratch")
        options += ["--scratch", str(scratch), "--pegasus-home", str(planner.parents[1])]
    environment = f"PATH={planner.parent}:{site.pool.environment['PATH']}"
    site.pool.run("env", environment, str(top / "plan-and-submit"), *options, folder=run)
    (dag,) = run.glob("runs/*/pegasus/blackdiamond/run0001/*.dag")
    log = dag.with_name(f"{dag.name}.dagman.out")
    until(lambda: "EXITING WITH STATUS" in log.read_text(), lambda: f"{dag} does not end", workflows.WAIT_S)
    assert "EXITING WITH STATUS 0" in log.read_text()
    copy_programs(direct)
    run_directly(direct)
    assert (run / "output" / "f.d").read_bytes() == (direct / "f.d").read_bytes()


def check_resources(workflow: Workflow, *wanted: object) -> None:
    """What Batch was asked for, and what the program found in its environment."""
    for (job,) in workflow.batch_jobs().values():
        asked = {entry["type"]: entry["value"] for entry in job["container"]["resourceRequirements"]}
        assert (asked["VCPU"], asked["MEMORY"], asked["GPU"], job["timeout"]["attemptDurationSeconds"]) == wanted
        assert job["jobQueue"].endswith("job-queue/pegasus-queue")
        assert job["tags"]["HTCondorProject"] == "myproj"
    for _, text in workflow.records():
        assert "env: MY_ENV=a value with spaces and 'quotes'\n" in text


@pytest.mark.together
def test_workflows_outlast_a_host_that_goes_away_an_api_that_is_throttled_and_a_submit_host_that_is_rebooted(site):
    """All three go on in one pool of their own, so each meets every trouble. AWSBATCH_TEST_THROTTLE: for how many seconds Batch
    refuses every call; two minutes are as well as twenty seconds, and cost more."""
    throttled_s = float(os.environ.get("AWSBATCH_TEST_THROTTLE", "20"))
    with open_site(site.pool.prefix, "troubled") as troubled:
        # The host has to go while a task runs, which is found first.
        lost, throttled, rebooted = (
            Workflow(troubled, Planned("5.1.3", configuration), seconds=seconds).submit()
            for configuration, seconds in (("nonsharedfs", 15), ("condorio-glite", 6), ("sharedfs", 6))
        )

        workflows.wait_until_program_runs(lost, "preprocess")
        (running,) = lost.batch_jobs_of("preprocess_ID0000001")
        assert troubled.aws.faults.vanish(running["jobId"])

        workflows.wait_until_program_runs(throttled, "preprocess")
        troubled.aws.forget_calls()
        troubled.aws.faults.throttle("batch:*", 0)
        workflows.pause(throttled_s)
        refused = sum(count for name, count in troubled.aws.calls().items() if name.startswith("batch:"))
        troubled.aws.faults.clear("throttle")
        assert refused, "no call was made meanwhile"

        workflows.wait_until_program_runs(rebooted, "findrange")
        # HTCondor itself runs a job of the submit host again when it dies between the end in the user log and the queue's, and
        # DAGMan ends then: that is not what is looked at here.
        until(lambda: not troubled.pool.ads("condor_q", "-constraint", "JobUniverse == 12"), "jobs of the submit host run on")
        troubled.pool.kill()
        troubled.pool.up()

        lost.finish().check(begun_again=1)
        throttled.finish().check()
        rebooted.finish().check()


@case("#!/bin/bash\necho not run", "transfer_executable = false")
def test_a_job_whose_program_is_neither_transferred_nor_mounted_is_held_with_its_path(job):
    job.wait(HELD)
    assert f"The executable {job.folder}/program is neither transferred nor below" in job.attribute("HoldReason")
    assert job.batch() == []
