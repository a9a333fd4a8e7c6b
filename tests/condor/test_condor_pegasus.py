"""Workflows that pegasus-plan 5.1.2 and 5.1.3 planned, through DAGMan, gridmanager, GAHP and the embedded AWS: every data
configuration ends with all nodes done, and every task has run once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gahp.cli.demo import run_directly
from tests.condor import workflows
from tests.condor.jobs import ABORTED, HELD, TERMINATED, case, open_site, read_log, until
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
    if planned.shared:
        assert [path.name for path in workflow.programs() if workflows.uploads_of(site, path.read_bytes())] == []
    else:
        assert workflows.uploads_of(site, workflows.worker_package()) == 1
    if planned.name in RESOURCES:
        check_resources(workflow, *RESOURCES[planned.name])
    if planned.configuration == "sharedfs-cluster":
        check_directories(workflow)


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
    until(lambda: log.exists() and "EXITING WITH STATUS" in log.read_text(), lambda: f"{dag} does not end", workflows.WAIT_S)
    assert "EXITING WITH STATUS 0" in log.read_text()
    copy_programs(direct)
    run_directly(direct)
    assert (run / "output" / "f.d").read_bytes() == (direct / "f.d").read_bytes()


def check_directories(workflow: Workflow) -> None:
    """Where pegasus-cluster started, and where the tasks ran: submit files of both versions have +remote_iwd."""
    texts = [text for _, text in workflow.records()]
    started = {line.partition('cwd="')[2][:-2] for text in texts for line in text.splitlines() if "summary" in line}
    ran = {line for text in texts for line in text.splitlines() if line.startswith("  cwd: ")}
    shared = f"{workflow.data}/scratch/alice/pegasus/diamond/run0001"
    assert ran == {f'  cwd: "{shared}"'}
    if workflow.planned.version == "5.1.2":  # nothing is transferred: the job starts where its files are
        assert started == {shared}
    else:  # lists of files are: each starts in a directory of its own, and Pegasus's -w leads its tasks to their files
        assert len(started) == len(texts)
        assert not any(directory.startswith(str(workflow.data)) for directory in started)


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
    """All three go on in one pool of their own, so each meets every trouble. Tasks are kept, so that a trouble hits what it is
    meant to. AWSBATCH_TEST_THROTTLE: for how many seconds Batch refuses every call."""
    throttled_s = float(os.environ.get("AWSBATCH_TEST_THROTTLE", "120"))
    with open_site(site.pool.prefix, "troubled") as troubled:
        lost, throttled, rebooted = three = [
            Workflow(troubled, Planned("5.1.3", configuration)).keep("findrange")
            for configuration in ("nonsharedfs", "condorio-glite", "sharedfs")
        ]
        lost.keep("preprocess")
        throttled.keep("preprocess")
        for workflow in three:
            workflow.submit()

        workflows.wait_until_begun(lost, "preprocess")
        (running,) = lost.batch_jobs_of("preprocess_ID0000001")
        assert troubled.aws.faults.vanish(running["jobId"])
        workflows.wait_until_begun(lost, "preprocess", times=2)
        lost.let_go("preprocess")

        # One task ends, and what comes after it waits, while Batch refuses every call.
        workflows.wait_until_begun(throttled, "preprocess")
        troubled.aws.forget_calls()
        troubled.aws.faults.throttle("batch:*", 0)
        throttled.let_go("preprocess")
        workflows.wait_until_ended(throttled, "preprocess")
        workflows.pause(throttled_s)
        refused = sum(count for name, count in troubled.aws.calls().items() if name.startswith("batch:"))
        assert refused, "no call was made meanwhile"
        assert throttled.tasks_ended() == throttled.tasks_begun() == ["preprocess f.b1 f.b2"]
        troubled.aws.faults.clear("throttle")

        # The reboot comes when findrange runs and no POST script does: the next try of a node whose script is cut short is
        # Pegasus's doing. Nor any job of the submit host: HTCondor itself runs it again when it dies between its end in the user
        # log and in the queue, and DAGMan then gives up.
        for workflow in three:
            workflows.wait_until_quiet(workflow, "findrange")
            assert troubled.pool.ads("condor_q", workflow.id)
            assert workflow.tasks_ended() == ["preprocess f.b1 f.b2"]
        troubled.pool.kill()
        # Some end while the submit host is down, the others after it.
        for workflow in (lost, throttled):
            workflow.let_go("findrange")
            workflows.wait_until_ended(workflow, "findrange", times=2)
        troubled.pool.up()
        rebooted.let_go("findrange")

        lost.finish().check(begun_again=1)
        throttled.finish().check()
        rebooted.finish().check()


@pytest.mark.together
def test_a_task_of_condorio_that_fails_is_held_for_its_output_and_removed_and_its_node_is_tried_again(site):
    planned = Planned("5.1.3", "condorio-glite")
    workflow = Workflow(site, planned, f"{planned.name}-failing").fail_once("preprocess").remove_soon_without_output()
    with workflows.A_FEW_AT_ONCE:
        workflow.submit().finish()
    events = read_log(workflow.submit_dir / workflows.NODES_LOG)
    (held,) = [event for event in events if event.number == HELD]
    assert "The job ended (exit code 1) without making its output f.b2, f.b1" in held.text
    # A schedd with very much to do has been seen to write the same removal twice.
    assert {event.number for event in events if event.job == held.job and event.number in (TERMINATED, ABORTED)} == {ABORTED}
    # DAGMan's -1002 is a job that was removed. The streams of the failed try are there to be read.
    node = "preprocess_ID0000001"
    assert [line.rpartition("/")[2] for line in workflow.verdicts() if node in line] == [
        f"{node}: the job returned -1002",
        f"{node}: well",
    ]
    assert "\n  exitcode: 1\n" in workflow.output(node)
    assert workflow.tasks_begun().count("preprocess f.b1 f.b2") == 2
    assert workflow.tasks_ended().count("preprocess f.b1 f.b2") == 1
    assert (workflow.data / "output" / "f.d").read_text() == workflows.expected_output()


@case("#!/bin/bash\necho not run", "transfer_executable = false")
def test_a_job_whose_program_is_neither_transferred_nor_mounted_is_held_with_its_path(job):
    job.wait(HELD)
    assert f"The executable {job.folder}/program is neither transferred nor below" in job.attribute("HoldReason")
    assert job.batch() == []
