"""`delete` removes what `create` made for a prefix, and nothing else; `update` changes it."""

from __future__ import annotations

import re

import pytest

from gahp.model import Refused
from gahp.provision import update
from gahp.provision.settings import PREFIX_TAG


def change(bench, **fields):
    return update.update(bench.settings(), bench.clients, bench.said, pause=lambda seconds: None, **fields)


def test_all_that_was_made_goes_and_what_was_there_stays(bench):
    batch, iam = bench.clients("batch"), bench.clients("iam")
    queues = len(batch.describe_job_queues()["jobQueues"])
    roles = {role["RoleName"] for role in iam.list_roles()["Roles"]}
    bench.create()
    bench.clients("s3").put_object(Bucket=f"{bench.prefix}-bucket", Key=f"{bench.prefix}/runs/1/manifest", Body=b"x")
    assert bench.delete() == 8
    assert bench.survey().lines() == []
    assert len(batch.describe_job_queues()["jobQueues"]) == queues
    assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == roles
    assert f"{bench.prefix}-bucket" not in {bucket["Name"] for bucket in bench.clients("s3").list_buckets()["Buckets"]}


def test_deleting_twice_removes_nothing_the_second_time(bench):
    bench.create()
    bench.delete()
    assert bench.delete() == 0


def test_what_does_not_carry_the_tag_stays(bench):
    bench.create()
    batch = bench.clients("batch")
    arn = bench.queue()["jobQueueArn"]
    batch.untag_resource(resourceArn=arn, tagKeys=[PREFIX_TAG])
    with pytest.raises(Refused, match=r"found existing JobQueue relationship.* run this again when that is mended"):
        bench.delete()
    assert bench.queue()["state"] == "ENABLED"
    batch.tag_resource(resourceArn=arn, tags={PREFIX_TAG: bench.prefix})


def test_what_hangs_on_something_that_cannot_be_deleted_is_left_alone_till_it_can(bench):
    bench.create()
    bench.aws.faults.fail("batch:DeleteJobQueue", status=403, code="AccessDeniedException", message="not you")
    with pytest.raises(Refused, match=r"No permission.* What does not hang on that is deleted; run this again"):
        bench.delete()
    found = bench.survey()
    assert (len(found.compute_environments), len(found.profiles), len(found.roles)) == (1, 1, 3)
    assert not found.job_definitions and not found.bucket.exists
    assert bench.environment()["state"] == "ENABLED"
    assert "Kept the role AWSBatchServiceRole: what has it could not be deleted" in bench.said.lines
    bench.aws.faults.clear()
    bench.delete()
    assert bench.survey().lines() == []


def test_a_role_that_a_definition_of_another_prefix_has_stays_and_that_is_said(bench):
    made = bench.create()
    role = bench.definitions()[0]["containerProperties"]["jobRoleArn"]
    name = f"{bench.prefix}-other"
    shared = {"image": "x", "vcpus": 1, "memory": 64, "jobRoleArn": role}
    batch = bench.clients("batch")
    arn = batch.register_job_definition(jobDefinitionName=name, type="container", containerProperties=shared)["jobDefinitionArn"]
    said = f"The role batchJobRole stays: the job definition {name} of another prefix has it."
    assert bench.survey().kept() == [said]
    bench.delete()
    assert bench.clients("iam").get_role(RoleName="batchJobRole")["Role"]["Arn"] == role
    batch.deregister_job_definition(jobDefinition=arn)
    assert made and bench.survey().roles == ("batchJobRole",)


def test_a_bucket_that_cannot_be_looked_at_keeps_delete_from_guessing(bench):
    bench.create()
    bench.aws.faults.fail("s3:HeadBucket", status=400, code="InvalidRequest", message="what?")
    with pytest.raises(Refused, match="AWS refuses s3:HeadBucket for the bucket"):
        bench.survey()


def test_a_bucket_that_holds_other_things_stays_with_all_it_holds(bench):
    bench.create()
    s3, bucket = bench.clients("s3"), f"{bench.prefix}-bucket"
    for key in (f"{bench.prefix}/runs/1/manifest", "thesis.tex"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    found = bench.survey()
    assert found.kept() == [f"The bucket {bucket} stays: it holds other things, such as thesis.tex."]
    bench.delete()
    assert {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]} == {
        f"{bench.prefix}/runs/1/manifest",
        "thesis.tex",
    }
    s3.delete_object(Bucket=bucket, Key="thesis.tex")


def test_a_key_that_only_begins_like_the_prefix_is_another_thing(bench):
    bench.create()
    bench.clients("s3").put_object(Bucket=f"{bench.prefix}-bucket", Key=f"{bench.prefix}2/x", Body=b"x")
    assert bench.survey().bucket.other == f"{bench.prefix}2/x"
    bench.clients("s3").delete_object(Bucket=f"{bench.prefix}-bucket", Key=f"{bench.prefix}2/x")


def test_a_bucket_that_was_there_before_is_used_and_stays(bench):
    s3, name = bench.clients("s3"), f"{bench.prefix}-before"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    bench.create(s3=f"s3://{name}/key")
    assert bench.survey(s3=f"s3://{name}/key").kept() == [f"The bucket {name} stays: it does not carry this prefix's tag."]
    bench.delete(s3=f"s3://{name}/key")
    assert name in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    s3.delete_bucket(Bucket=name)


def test_old_versions_and_delete_markers_go_with_the_bucket(bench):
    bench.create()
    s3, name = bench.clients("s3"), f"{bench.prefix}-bucket"
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(2):
        s3.put_object(Bucket=name, Key=f"{bench.prefix}/x", Body=b"x")
    s3.delete_object(Bucket=name, Key=f"{bench.prefix}/x")
    assert bench.survey().bucket.objects == 3
    bench.delete()
    assert not bench.survey().bucket.exists


def test_only_what_is_named_goes_when_asked_so(bench):
    from gahp.provision import delete

    bench.create()
    names = {f"{bench.prefix}-job-queue", f"{bench.prefix}-compute-env"}
    assert delete.delete(bench.settings(), bench.clients, bench.said, only=names) == 2
    found = bench.survey()
    assert not found.job_queues and not found.compute_environments and len(found.job_definitions) == 1


def test_a_dry_run_removes_nothing(bench):
    bench.create()
    before = bench.survey()
    bench.delete(dry_run=True)
    assert bench.survey() == before
    assert [call.split()[0] for call in bench.said.calls][:2] == ["batch:UpdateJobQueue", "batch:DeleteJobQueue"]


def test_what_stays_in_deleting_is_waited_for_up_to_the_limit(bench):
    bench.create()
    bench.aws.faults.entity_status(f"{bench.prefix}-job-queue", "DELETING")
    with pytest.raises(Refused, match=r"the job queue \S+ is still DELETING after 0.1 s"):
        bench.delete(wait_s=0.1)
    bench.aws.faults.clear()
    bench.delete()
    assert bench.survey().lines() == []


def test_another_account_is_not_touched(bench):
    bench.create()
    with pytest.raises(Refused, match="The account is to be 210987654321"):
        bench.delete(account="210987654321")


def test_unfinished_jobs_are_counted(bench):
    bench.create()
    bench.aws.faults.stuck(f"{bench.prefix}-job-queue")
    name = f"{bench.prefix}-job-definition"
    bench.clients("batch").submit_job(jobName="one", jobQueue=f"{bench.prefix}-job-queue", jobDefinition=name)
    assert "  with 1 unfinished jobs, which end" in bench.survey().lines()


def test_update_changes_room_states_and_image(bench):
    bench.create()
    change(bench, max_vcpus=32, state="DISABLED", environment_state="DISABLED", image="other/image:2")
    assert bench.environment()["computeResources"]["maxvCpus"] == 32
    assert (bench.queue()["state"], bench.environment()["state"]) == ("DISABLED", "DISABLED")
    first, second = bench.definitions()
    assert second["containerProperties"].pop("image") == "other/image:2"
    assert first["containerProperties"].pop("image") != "other/image:2"
    assert first["containerProperties"] == second["containerProperties"] and first["tags"] == second["tags"]
    bench.said.lines.clear()
    assert change(bench, max_vcpus=32, state="DISABLED", image="other/image:2") == 0
    assert all(line.startswith("Unchanged: ") for line in bench.said.lines)


def test_an_update_survives_another_create_with_the_same_files(bench):
    bench.create()
    change(bench, max_vcpus=32, image="other/image:2")
    assert bench.create().changes == 0
    assert bench.definitions()[-1]["containerProperties"]["image"] == "other/image:2"


@pytest.mark.parametrize("fields", [{"max_vcpus": 4}, {"state": "DISABLED"}, {"image": "x"}])
def test_there_has_to_be_something_to_update(bench, fields):
    with pytest.raises(Refused, match=rf"tag of the prefix {re.escape(bench.prefix)}"):
        change(bench, **fields)


def test_a_definition_without_an_image_is_told(bench, monkeypatch):
    several = {"jobDefinitionName": "d", "revision": 2, "jobDefinitionArn": "d:2", "tags": {PREFIX_TAG: bench.prefix}}
    monkeypatch.setattr(update.entities, "all_of", lambda *_: [{**several, "nodeProperties": {}}])
    with pytest.raises(Refused, match="d:2 has no containerProperties, and so no image to change"):
        change(bench, image="x")
    monkeypatch.undo()
