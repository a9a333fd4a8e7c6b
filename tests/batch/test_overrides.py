"""From a request to SubmitJob's parameters, checked against botocore's own service model."""

import dataclasses
import re

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from gahp.batch import check_resources, choose_queue, shape
from gahp.batch.overrides import submit_parameters
from gahp.model import JobRequest, Refused, Resources

SHAPE = botocore.session.get_session().get_service_model("batch").operation_model("SubmitJob").input_shape


def parameters(request=None, **more):
    given = {
        "name": "7-0-abc",
        "queue": "q",
        "definition": "d:1",
        "environment": {"BATCH_FILE_TYPE": "script"},
        "attempts": 3,
        "default_runtime_s": 0,
        "fair_share": False,
    }
    return submit_parameters(request or JobRequest(executable="/bin/true", iwd="/"), **{**given, **more})


def asked(**resources):
    found = parameters(JobRequest(executable="/bin/true", iwd="/", resources=Resources(**resources)))
    return {entry["type"]: entry["value"] for entry in found["containerOverrides"].get("resourceRequirements", [])}, found


def test_what_the_job_does_not_ask_for_is_left_to_the_definition():
    requirements, found = asked()
    assert requirements == {}
    assert "timeout" not in found
    assert "shareIdentifier" not in found


def test_cpus_memory_gpus_and_run_time_become_overrides():
    requirements, found = asked(cpus=4, memory_mib=2048, gpus=1, runtime_s=3600)
    assert requirements == {"VCPU": "4", "MEMORY": "2048", "GPU": "1"}
    assert found["timeout"] == {"attemptDurationSeconds": 3600}


def test_a_default_run_time_holds_for_jobs_that_name_none():
    assert parameters(default_runtime_s=120)["timeout"] == {"attemptDurationSeconds": 120}
    request = JobRequest(executable="/bin/true", iwd="/", resources=Resources(runtime_s=90))
    assert parameters(request, default_runtime_s=120)["timeout"] == {"attemptDurationSeconds": 90}


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        (Resources(memory_mib=1), "asks for 1 MB of memory: AWS Batch takes no less than 4. Raise request_memory."),
        (
            Resources(runtime_s=10**12),
            "batch_runtime = 1000000000000 is more than AWS Batch can be asked for (2147483647). Lower it.",
        ),
        (Resources(runtime_s=59), "asks for a time limit of 59 s: AWS Batch takes no less than 60. Raise batch_runtime."),
    ],
)
def test_what_aws_batch_cannot_give_is_refused_with_what_to_change(resources, sentence):
    with pytest.raises(Refused, match=re.escape(sentence)):
        check_resources(resources)


def test_hosts_that_go_away_are_retried_and_nothing_else():
    rules = parameters()["retryStrategy"]["evaluateOnExit"]
    assert [rule["action"] for rule in rules] == ["RETRY", "RETRY", "RETRY", "EXIT"]
    assert rules[-1] == {"onReason": "*", "action": "EXIT"}


def test_the_project_is_the_share_where_the_queue_has_shares_and_a_tag_elsewhere():
    request = JobRequest(executable="/bin/true", iwd="/", project="my-proj_1", priority=20)
    shared, plain = parameters(request, fair_share=True), parameters(request)
    assert (shared["shareIdentifier"], shared["schedulingPriorityOverride"]) == ("myproj1", 20)
    assert "tags" not in shared
    assert plain["tags"]["HTCondorProject"] == "my-proj_1"
    assert "shareIdentifier" not in plain
    assert parameters(fair_share=True)["shareIdentifier"] == "default"


def test_a_queue_is_the_fixed_one_or_one_of_the_allowed():
    assert choose_queue("", "fixed", ()) == "fixed"
    assert choose_queue("fixed", "fixed", ()) == "fixed"
    arn = "arn:aws:batch:us-east-1:1:job-queue/big"
    assert choose_queue("big", "fixed", (arn,)) == arn
    with pytest.raises(Refused, match="batch_queue = other is not allowed here: use one of fixed, big, or have it added"):
        choose_queue("other", "fixed", (arn,))


@given(
    st.builds(
        JobRequest,
        executable=st.text(),
        iwd=st.text(),
        project=st.text(),
        global_job_id=st.text(),
        dag_node=st.text(),
        owner=st.text(),
        priority=st.none() | st.integers(),
        resources=st.builds(
            Resources,
            cpus=st.none() | st.integers(1, 1000),
            memory_mib=st.none() | st.integers(4, 10**7),
            runtime_s=st.none() | st.integers(60, 10**7),
        ),
    ),
    st.booleans(),
)
def test_whatever_a_job_ad_holds_the_parameters_fit_the_service_model(request, fair_share):
    found = parameters(request, fair_share=fair_share)
    assert ParamValidator().validate(found, SHAPE).generate_report() == ""
    assert found.get("tags") != {}
    for key, value in found.get("tags", {}).items():
        assert re.fullmatch(r"[A-Za-z0-9 +\-=._:/@]{1,256}", value), key
    if fair_share:
        assert re.fullmatch(r"[A-Za-z0-9]{1,255}", found["shareIdentifier"])


def test_an_array_has_its_size_and_in_its_tags_what_all_have_in_common_and_the_first_job():
    request = JobRequest(executable="/bin/true", iwd="/", global_job_id="schedd#12.0#5", dag_node="A", owner="ann", project="p")
    found = parameters(request, size=50)
    assert ParamValidator().validate(found, SHAPE).generate_report() == ""
    assert found["arrayProperties"] == {"size": 50}
    assert found["tags"] == {
        "HTCondorJob": "schedd/12.0/5 and 49 more",
        "HTCondorDAGNode": "A and 49 more",
        "HTCondorOwner": "ann",
        "HTCondorProject": "p",
    }
    assert "arrayProperties" not in parameters(request)
    assert parameters(request)["tags"]["HTCondorDAGNode"] == "A"


@pytest.mark.parametrize(
    ("change", "together"),
    [
        ({"arguments": ("x",), "iwd": "/tmp", "dag_node": "B", "global_job_id": "g", "inputs": ("x",)}, True),
        ({"resources": Resources(disk_kib=5)}, True),
        ({"resources": Resources(cpus=2)}, False),
        ({"resources": Resources(memory_mib=8)}, False),
        ({"resources": Resources(gpus=1)}, False),
        ({"resources": Resources(runtime_s=60)}, False),
        ({"priority": 1}, False),
        ({"project": "p"}, False),
        ({"owner": "ann"}, False),
    ],
)
def test_what_submitjob_says_of_all_children_at_once_is_the_shape(change, together):
    request = JobRequest(executable="/bin/true", iwd="/")
    other = dataclasses.replace(request, **change)
    assert (shape(request, "q") == shape(other, "q")) is together
    assert shape(request, "q") != shape(request, "r")
    if together:
        made = [parameters(each, size=2) for each in (request, other)]
        for parts in made:
            parts.pop("tags", None)
        assert made[0] == made[1]
