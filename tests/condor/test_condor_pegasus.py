"""Workflows that pegasus-plan 5.1.2 and 5.1.3 planned, through DAGMan, gridmanager, GAHP and the embedded AWS: every data
configuration ends with all nodes done, and every task has run once."""

import pytest

from tests.condor import workflows
from tests.condor.workflows import Planned, Workflow

# What the resources of the recorded profiles mean: VCPU, MEMORY, GPU, and seconds.
RESOURCES = {
    "5.1.2-sharedfs-resources": ("2", "4096", "1", 1800),  # 2048 MB for each of two processes
    "5.1.2-condorio-resources": ("2", "4096", "1", 1800),
    "5.1.3-sharedfs-resources": ("2", "2048", "1", 1800),
    "5.1.3-condorio-resources": ("2", "2048", "1", 1800),
}


@pytest.mark.together
@pytest.mark.parametrize("planned", [pytest.param(each, id=each.name) for each in workflows.everything_planned()])
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
