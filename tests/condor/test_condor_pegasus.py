"""Workflows that pegasus-plan 5.1.2 and 5.1.3 planned, through DAGMan, gridmanager, GAHP and the embedded AWS: every data
configuration ends with all nodes done, and every task has run once."""

import os

import pytest

from tests.condor import workflows
from tests.condor.jobs import open_site
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
    workflow = Workflow(site, planned).submit().finish()
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
        lost, throttled, rebooted = (
            Workflow(troubled, Planned("5.1.3", configuration), seconds=6).submit()
            for configuration in ("nonsharedfs", "condorio-glite", "sharedfs")
        )

        workflows.wait_until_program_runs(lost, "preprocess")
        (running,) = (job for job in running_jobs(troubled) if lost.node_of(job) == "preprocess_ID0000001")
        assert troubled.aws.faults.vanish(running["jobId"])

        workflows.wait_until_program_runs(throttled, "preprocess")
        troubled.aws.forget_calls()
        troubled.aws.faults.throttle("batch:*", 0)
        workflows.pause(throttled_s)
        refused = sum(count for name, count in troubled.aws.calls().items() if name.startswith("batch:"))
        troubled.aws.faults.clear("throttle")
        assert refused > 2

        workflows.wait_until_program_runs(rebooted, "findrange")
        troubled.pool.kill()
        troubled.pool.up()

        lost.finish().check(begun_again=1)
        throttled.finish().check()
        rebooted.finish().check()


def running_jobs(site):
    """The jobs that Batch has running, with all that it says of them."""
    rows = site.batch.list_jobs(jobQueue="pegasus-queue", jobStatus="RUNNING")["jobSummaryList"]
    return site.batch.describe_jobs(jobs=[row["jobId"] for row in rows])["jobs"] if rows else []
