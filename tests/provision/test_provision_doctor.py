"""The doctor finds each thing that is wrong, says how to mend it, and runs a real job when nothing is."""

from __future__ import annotations

import concurrent.futures
import json
import re
import time

import pytest

from gahp import config
from gahp.provision import checks, doctor, probe
from gahp.provision.checks import Failed
from gahp.provision.doctor import Status

NAMES = [test.name for test in checks.CHECKS]


class Site:
    """A configuration for entities that `create` made, and findings by name."""

    def __init__(self, bench, tmp_path):
        self.bench = bench
        gahp = tmp_path / "awsbatch_gahp"
        gahp.write_text("#!/bin/sh\n")
        gahp.chmod(0o755)
        self.knobs = {
            "AWSBATCH_GAHP": str(gahp),
            "AWSBATCH_JOB_QUEUE": f"{bench.prefix}-job-queue",
            "AWSBATCH_JOB_DEFINITION": f"{bench.prefix}-job-definition",
            "AWSBATCH_S3_URL": f"s3://{bench.prefix}-bucket/{bench.prefix}",
            "AWSBATCH_REGION": "us-west-2",
            "AWSBATCH_ENDPOINT_URL": bench.aws.endpoint,
            "AWSBATCH_STATE_DIR": str(tmp_path / "state"),
        }

    def examine(self, probe_limit_s=None, **knobs):
        lookup = {**self.knobs, **knobs}.get
        found = doctor.examine(
            config.load(lookup), lookup, probe_limit_s=probe_limit_s, make_clients=lambda config: self.bench.clients
        )
        return {finding.name: finding for finding in found}

    def only(self, name, status, **knobs):
        """The finding of `name`, which has `status`; all others are well."""
        found = self.examine(**knobs)
        finding = found.pop(name)
        assert finding.status is status, finding
        assert {other.name: other.text for other in found.values() if other.status is not Status.OK} == {}
        return finding


@pytest.fixture
def site(bench, tmp_path, monkeypatch):
    for name, value in bench.aws.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    bench.create()
    return Site(bench, tmp_path)


def test_all_is_well_after_create_and_a_real_job_runs(site):
    found = site.examine(probe_limit_s=60)
    assert list(found) == [*NAMES, "probe job"]
    assert {finding.name: finding.text for finding in found.values() if finding.status is not Status.OK} == {}
    assert "all its output came back after" in found["probe job"].text
    phases = found["probe job"].phases
    assert list(phases) == ["staged in", "waited", "ran", "staged out"]
    assert all(f"{word} {seconds:.1f} s" in found["probe job"].text for word, seconds in phases.items())
    assert re.search(r"; the image has bash [0-9]+\.[0-9.]+", found["probe job"].text)
    assert "2 vCPUs at a time" in found["compute environments"].text
    assert "1 vCPUs, 500 MiB" in found["job definition"].text
    s3 = site.bench.clients("s3")
    assert "Contents" not in s3.list_objects_v2(Bucket=f"{site.bench.prefix}-bucket", Prefix=f"{site.bench.prefix}/runs/")


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"AWSBATCH_S3_URL": None}, "AWSBATCH_S3_URL is not set"),
        ({"AWSBATCH_GAHP": "/nowhere/awsbatch_gahp"}, "is not a program that can be run"),
    ],
)
def test_a_configuration_that_cannot_work_is_the_first_line(site, knobs, text):
    finding = site.examine(**knobs)["configuration"]
    assert finding.status is Status.FAILED and text in finding.text and finding.mend


def test_without_a_gahp_in_htcondor_it_advises_to_install(site):
    assert "condor_awsbatch install" in site.only("configuration", Status.ADVICE, AWSBATCH_GAHP=None).mend


def test_an_events_queue_that_cannot_be_read_is_told_and_one_that_can_keeps_its_messages(site):
    sqs = site.bench.clients("sqs")
    url = sqs.create_queue(QueueName=f"{site.bench.prefix}-doctor")["QueueUrl"]
    try:
        sqs.send_message(QueueUrl=url, MessageBody="an event")
        assert site.only("events", Status.OK, AWSBATCH_EVENTS_QUEUE_URL=url).text == f"{url} can be read"
        assert len(sqs.receive_message(QueueUrl=url).get("Messages", [])) == 1
    finally:
        sqs.delete_queue(QueueUrl=url)
    gone = site.only("events", Status.ADVICE, AWSBATCH_EVENTS_QUEUE_URL=url)
    assert gone.text.startswith(f"AWSBATCH_EVENTS_QUEUE_URL = {url} cannot be read, so jobs are asked about more often: ")
    assert "create --with-events" in gone.mend


def test_a_directory_of_limits_that_cannot_be_used_is_told(site, tmp_path):
    assert "this user's GAHPs only" in site.only("limits", Status.OK).text
    missing = site.only("limits", Status.ADVICE, AWSBATCH_LIMITS_DIR=str(tmp_path / "missing"))
    assert f"AWSBATCH_LIMITS_DIR = {tmp_path}/missing cannot be used (No such file or directory)" in missing.text
    assert "condor_awsbatch install" in missing.mend
    assert site.only("limits", Status.OK, AWSBATCH_LIMITS_DIR=str(tmp_path)).text == f"shared in {tmp_path}"


def test_credentials_that_aws_does_not_take_are_told_and_what_needs_them_is_skipped(site):
    site.bench.aws.faults.expire_credentials()
    found = site.examine(probe_limit_s=60)
    assert found["credentials"].status is Status.FAILED
    assert "AWS does not take the credentials (ExpiredToken" in found["credentials"].text
    assert found["job queue"].status is Status.SKIPPED and found["probe job"].status is Status.SKIPPED
    # AWS's refusal has the time, too.
    assert found["clock"].status is Status.OK


@pytest.mark.parametrize(("ahead", "status"), [(0, Status.OK), (60, Status.ADVICE), (-400, Status.FAILED)])
def test_a_clock_that_is_off_is_noticed(site, monkeypatch, ahead, status):
    now = time.time
    patient = checks.Patient(config.load(site.knobs.get), site.knobs.get, lambda config: site.bench.clients)
    checks.credentials(patient)
    monkeypatch.setattr(checks.time, "time", lambda: now() + ahead)
    assert doctor._look(checks.Test("clock", checks.clock), patient).status is status


def test_a_region_that_does_not_match_an_arn_is_told(site):
    arn = "arn:aws:batch:eu-west-1:123456789012:job-queue/q"
    finding = site.examine(AWSBATCH_JOB_QUEUE=arn)["region"]
    assert finding.status is Status.FAILED and f"AWSBATCH_JOB_QUEUE = {arn} is not in us-west-2." in finding.text


def test_a_queue_that_is_not_there_disabled_or_invalid_is_told(site):
    batch, name = site.bench.clients("batch"), f"{site.bench.prefix}-job-queue"
    assert "There is no job queue none in us-west-2." in site.examine(AWSBATCH_JOB_QUEUE="none")["job queue"].text
    batch.update_job_queue(jobQueue=name, state="DISABLED")
    assert site.only("job queue", Status.FAILED).text == f"{name} is DISABLED."
    batch.update_job_queue(jobQueue=name, state="ENABLED")
    site.bench.aws.faults.entity_status(name, "INVALID", "no environment")
    assert site.only("job queue", Status.FAILED).text == f"{name} is INVALID: no environment."


def test_environments_that_cannot_take_jobs_are_told(site):
    batch, name = site.bench.clients("batch"), f"{site.bench.prefix}-compute-env"
    batch.update_compute_environment(computeEnvironment=name, computeResources={"maxvCpus": 0})
    assert "none of them has room" in site.examine()["compute environments"].text
    batch.update_compute_environment(computeEnvironment=name, state="DISABLED")
    found = site.examine()["compute environments"]
    assert found.status is Status.FAILED and f"{name} is VALID and DISABLED" in found.text


def test_a_definition_that_asks_for_more_than_there_is_or_is_gone_is_told(site):
    site.bench.edit("sample-job-definition.json", lambda document: document["containerProperties"].update(vcpus=4))
    site.bench.create()
    found = site.examine()
    assert "asks for 4 vCPUs, and no environment has more than 2" in found["job definition"].text
    gone = site.examine(AWSBATCH_JOB_DEFINITION="none")
    assert "There is no ACTIVE job definition none" in gone["job definition"].text
    assert gone["policy"].text == "not looked at, because of job definition"


def test_a_definition_for_fargate_on_hosts_is_told(site):
    name = f"{site.bench.prefix}-fargate"
    path = site.bench.edit("fargate-job-definition.json", lambda document: document.update(jobDefinitionName=name))
    made = site.bench.create(job_definition=str(path))
    finding = site.examine(AWSBATCH_JOB_DEFINITION=made.job_definition.name)["job definition"]
    assert "is for FARGATE, and the queue's environments are EC2" in finding.text


def test_a_shared_directory_that_the_definition_does_not_mount_or_only_to_read_or_that_is_not_here_is_told(site, tmp_path):
    mounted, here = tmp_path / "efs", tmp_path / "fsx"
    mounted.mkdir()
    here.mkdir()

    def mount(document):
        document["containerProperties"].update(
            volumes=[{"name": "efs", "efsVolumeConfiguration": {"fileSystemId": "fs-12345678"}}],
            mountPoints=[
                {"containerPath": f"{mounted}/", "sourceVolume": "efs"},
                {"containerPath": f"{mounted}/data", "sourceVolume": "efs", "readOnly": True},
            ],
        )

    site.bench.edit("sample-job-definition.json", mount)
    site.bench.create()
    (mounted / "home").mkdir()
    (mounted / "data").mkdir()
    good = site.only("shared directories", Status.OK, AWSBATCH_SHARED_DIRECTORIES=f"{mounted}/home, {mounted}")
    assert "mounted by the job definition" in good.text
    finding = site.only("shared directories", Status.FAILED, AWSBATCH_SHARED_DIRECTORIES=f"{mounted}, {here}")
    assert f"mounts nothing at {here}" in finding.text and "mountPoint" in finding.mend
    mounted_away = site.only("shared directories", Status.FAILED, AWSBATCH_SHARED_DIRECTORIES=f"{mounted}/away")
    assert "is not on this host" in mounted_away.text
    read_only = site.only("shared directories", Status.ADVICE, AWSBATCH_SHARED_DIRECTORIES=f"{mounted}, {mounted}/data")
    assert f"mounts {mounted}/data for reading only" in read_only.text


def test_a_bucket_that_is_not_there_or_not_writable_is_told(site):
    missing = site.examine(AWSBATCH_S3_URL="s3://none-such-bucket/x")["bucket"]
    assert "There is no the bucket" not in missing.text and "none-such-bucket" in missing.text
    assert missing.status is Status.FAILED and "create" in missing.mend
    site.bench.aws.faults.fail("s3:PutObject", status=403, code="AccessDenied", message="Access Denied")
    finding = site.only("bucket", Status.FAILED)
    assert "may not do s3:PutObject" in finding.text


def test_a_job_role_that_may_do_too_much_is_a_note(site):
    wide = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
    site.bench.clients("iam").put_role_policy(RoleName="batchJobRole", PolicyName="wide", PolicyDocument=json.dumps(wide))
    finding = site.only("policy", Status.ADVICE)
    assert "The job role batchJobRole may do more" in finding.text and "conf/iam/job-role.json" in finding.mend


@pytest.mark.parametrize(
    ("statement", "wide"),
    [
        ({"Effect": "Allow", "Action": "*", "Resource": "*"}, True),
        ({"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::*/*"]}, True),
        ({"Effect": "Deny", "Action": "*", "Resource": "*"}, False),
        ({"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::mine/*"}, False),
        ({"Effect": "Allow", "Action": "ecs:Submit*", "Resource": "*"}, False),
    ],
)
def test_wide_is_everything_on_every_bucket(statement, wide):
    assert checks.is_wide({"Version": "2012-10-17", "Statement": [statement]}) is wide


@pytest.mark.parametrize(
    ("statement", "wide"),
    [
        ({"Action": "s3:GetObject*", "Resource": "*"}, True),
        ({"Action": "s3:*Object", "Resource": "*"}, True),
        ({"Action": "S3:*", "Resource": "arn:aws:s3:::*"}, True),
        ({"Action": "s3:putobject", "Resource": "*"}, True),
        ({"NotAction": "iam:*", "Resource": "*"}, True),
        ({"NotAction": "s3:*", "Resource": "*"}, False),
        ({"Action": "s3:*", "NotResource": "arn:aws:s3:::secret/*"}, True),
        ({"Action": "s3:*", "NotResource": "arn:aws:s3:::*"}, False),
        ({"Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": "*"}, False),
        ({"Action": "s3:*", "Resource": ["arn:aws:s3:::lab-*/*", "arn:aws:s3:::lab-*"]}, False),
    ],
)
def test_wide_is_told_by_what_a_policy_allows_and_not_by_how_it_is_written(statement, wide):
    assert checks.is_wide({"Version": "2012-10-17", "Statement": {"Effect": "Allow", **statement}}) is wide


def test_an_attached_policy_of_any_name_is_looked_into(site):
    iam = site.bench.clients("iam")
    everything = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
    arn = iam.create_policy(PolicyName=f"{site.bench.prefix}-own", PolicyDocument=json.dumps(everything))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="batchJobRole", PolicyArn=arn)
    assert f"{site.bench.prefix}-own" in site.only("policy", Status.ADVICE).text
    site.bench.aws.faults.fail("iam:GetPolicy", status=403, code="AccessDenied", message="Access Denied")
    assert f"not looked at {site.bench.prefix}-own" in site.only("policy", Status.OK).text
    site.bench.aws.faults.clear()
    iam.detach_role_policy(RoleName="batchJobRole", PolicyArn=arn)
    iam.delete_policy(PolicyArn=arn)


def test_what_the_doctor_wrote_into_the_bucket_goes_also_when_it_cannot_be_read(site):
    site.bench.aws.faults.fail("s3:GetObject", status=403, code="AccessDenied", message="Access Denied")
    assert "may not do s3:GetObject" in site.only("bucket", Status.FAILED).text
    assert "Contents" not in site.bench.clients("s3").list_objects_v2(Bucket=f"{site.bench.prefix}-bucket")


@pytest.mark.parametrize(("said", "text"), [("25.0.2", "HTCondor 25.0.2"), ("22.8.1", "Too old: HTCondor 22.8.1.")])
def test_the_version_of_the_pool_is_told_beside_that_of_its_python(site, tmp_path, said, text):
    program = tmp_path / "condor_version"
    program.write_text(f"#!/bin/sh\necho '$CondorVersion: {said} 2026-01-01 BuildID: 1 $'\n")
    program.chmod(0o755)
    assert text in site.examine(BIN=str(tmp_path))["versions"].text


def test_an_htcondor_that_does_not_tell_its_version_is_no_fault(site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no condor_version here" in site.only("versions", Status.OK).text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bash 5.2.1\ns5cmd\ngzip\nfind\nperl\nunzip\n", "the image has bash 5.2.1, s5cmd, gzip, and what Pegasus needs"),
        ("bash 5.2.1\naws\ngzip\nfind\n", "the image has bash 5.2.1, aws, gzip, and no perl (Pegasus), no unzip (zip archives)"),
    ],
)
def test_the_tools_of_the_image_are_told(text, said):
    assert probe.tools(text) == said


def test_an_image_without_gzip_is_told():
    with pytest.raises(Failed, match="no gzip"):
        probe.tools("bash 5.2.1\ns5cmd\n")


def test_a_check_that_breaks_is_a_line_like_any_other_and_the_rest_is_looked_at(site, monkeypatch):
    def fall(patient):
        raise concurrent.futures.TimeoutError

    broken = [checks.Test("region", fall) if test.name == "region" else test for test in checks.CHECKS]
    monkeypatch.setattr(checks, "CHECKS", broken)
    finding = site.only("region", Status.FAILED)
    assert finding.text == "it could not be looked at: TimeoutError"


def test_a_gateway_that_does_not_answer_is_told(site, monkeypatch):
    monkeypatch.setattr(probe, "_SUBMIT_LIMIT_S", 0.0)
    site.bench.aws.faults.delay("batch:SubmitJob", seconds=1.0, count=1)
    assert "AWS did not take the probe job within 0 s" in site.examine(probe_limit_s=60)["probe job"].text


def test_logs_that_may_not_be_read_are_a_note(site):
    message = "User: arn:aws:iam::1:user/jo is not authorized to perform: logs:DescribeLogStreams on resource: x"
    site.bench.aws.faults.fail("logs:*", status=400, code="AccessDeniedException", message=message)
    assert "may not do logs:DescribeLogStreams on x" in site.only("logs", Status.ADVICE).text


def test_a_probe_job_that_does_not_start_is_ended_and_told_with_its_state(site):
    site.bench.aws.faults.stuck(f"{site.bench.prefix}-job-queue")
    finding = site.examine(probe_limit_s=1.5)["probe job"]
    assert finding.status is Status.FAILED
    assert "The probe job is still RUNNABLE after 1.5 s" in finding.text
    batch = site.bench.clients("batch")
    left = batch.list_jobs(jobQueue=f"{site.bench.prefix}-job-queue", jobStatus="RUNNABLE")["jobSummaryList"]
    assert left == []


def test_a_probe_job_whose_image_cannot_be_pulled_is_told_with_the_reason(site):
    site.bench.aws.faults.pull_error(message="CannotPullContainerError: manifest unknown")
    finding = site.examine(probe_limit_s=60)["probe job"]
    assert finding.status is Status.FAILED and "CannotPullContainerError: manifest unknown" in finding.text


def test_a_check_that_fails_is_a_finding_and_never_an_exception(site):
    patient = checks.Patient(config.load(site.knobs.get), site.knobs.get, lambda config: site.bench.clients)

    def fail(patient):
        raise Failed("so it is", "mend it")

    finding = doctor._look(checks.Test("x", fail), patient)
    assert (finding.status, finding.text, finding.mend) == (Status.FAILED, "so it is", "mend it")
