"""`create` makes what it is asked for, once, and says what is in its way."""

from __future__ import annotations

import json
import re

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from gahp.model import Refused, Transient
from gahp.provision import create, delete, entities, settings
from gahp.provision.settings import CONTENT_TAG, PREFIX_TAG, Kind
from tests.provision.conftest import Hooked

ACCOUNT, REGION = "123456789012", "us-west-2"


def test_the_samples_become_entities_with_the_names_of_the_prefix(bench):
    made = bench.create()
    assert made.compute_environment.name == f"{bench.prefix}-compute-env"
    assert made.job_queue.name == f"{bench.prefix}-job-queue"
    assert made.job_definition.arn.endswith(f"job-definition/{bench.prefix}-job-definition:1")
    assert made.bucket == f"{bench.prefix}-bucket"
    assert made.s3_url == f"s3://{bench.prefix}-bucket/{bench.prefix}"
    order = bench.queue()["computeEnvironmentOrder"]
    assert order == [{"order": 1, "computeEnvironment": made.compute_environment.arn}]
    assert bench.environment()["computeResources"]["maxvCpus"] == 2


def test_everything_that_is_made_carries_the_prefix_as_a_tag(bench):
    bench.create()
    tagged = [bench.queue(), bench.environment(), *bench.definitions()]
    assert [found["tags"][PREFIX_TAG] for found in tagged] == [bench.prefix] * 3
    bucket = bench.clients("s3").get_bucket_tagging(Bucket=f"{bench.prefix}-bucket")["TagSet"]
    assert bucket == [{"Key": PREFIX_TAG, "Value": bench.prefix}]
    for role in ("batchJobRole", "AWSBatchServiceRole", "ecsInstanceRole"):
        tags = bench.clients("iam").list_role_tags(RoleName=role)["Tags"]
        assert tags == [{"Key": PREFIX_TAG, "Value": bench.prefix}]


def test_what_a_dead_machine_leaves_in_the_bucket_expires_below_its_own_prefix(bench):
    bench.create()
    rules = bench.clients("s3").get_bucket_lifecycle_configuration(Bucket=f"{bench.prefix}-bucket")["Rules"]
    expiring = {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule}
    assert expiring == {f"{bench.prefix}/runs/": 60, f"{bench.prefix}/blobs/": 67}
    assert [rule["Filter"]["Prefix"] for rule in rules if "AbortIncompleteMultipartUpload" in rule] == [f"{bench.prefix}/"]


def test_a_second_run_changes_nothing_and_says_so(bench):
    bench.create()
    again = bench.create()
    assert again.changes == 0
    assert [line for line in bench.said.lines if not line.startswith("Unchanged: ")] == []
    assert len(bench.said.lines) == 4


def test_the_job_role_reaches_its_own_prefix_of_its_own_bucket_only(bench):
    bench.create(s3=f"s3://{bench.prefix}-data/some/key")
    policy = bench.clients("iam").get_role_policy(RoleName="batchJobRole", PolicyName="awsbatch-gahp")["PolicyDocument"]
    resources = [statement["Resource"] for statement in policy["Statement"]]
    assert resources == [f"arn:aws:s3:::{bench.prefix}-data/some/key/*", f"arn:aws:s3:::{bench.prefix}-data"]
    bench.delete(s3=f"s3://{bench.prefix}-data/some/key")


def test_a_changed_definition_becomes_a_new_revision(bench):
    bench.create()
    bench.edit("sample-job-definition.json", lambda document: document["containerProperties"].update(memory=1000))
    made = bench.create()
    assert made.job_definition.arn.endswith(":2")
    assert bench.definitions()[-1]["containerProperties"]["memory"] == 1000
    assert bench.create().changes == 0


def test_a_changed_environment_and_queue_are_updated_where_aws_lets_them(bench):
    bench.create()
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].update(maxvCpus=16))
    bench.edit("sample-job-queue.json", lambda document: document.update(priority=3))
    bench.create()
    assert bench.environment()["computeResources"]["maxvCpus"] == 16
    assert bench.queue()["priority"] == 3
    assert bench.create().changes == 0


def test_what_aws_does_not_let_be_changed_is_refused_with_what_to_do(bench):
    bench.create()
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].update(instanceTypes=["m5.large"]))
    text = bench.refused()
    assert "does not let computeResources.instanceTypes" in text
    assert '["optimal"] -> ["m5.large"]' in text
    assert "another computeEnvironmentName" in text


def _environment_role(bench, name):
    """A role for AWS Batch that somebody has made."""
    return bench.clients("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]


def test_another_service_role_of_the_account_takes_the_place_of_a_wrong_one(bench):
    bench.create()
    right = _environment_role(bench, "RightRole")
    bench.edit("sample-compute-env.json", lambda document: document.update(serviceRole=right))
    bench.create()
    assert bench.environment()["serviceRole"] == right
    bench.delete()
    bench.clients("iam").delete_role(RoleName="RightRole")


def test_aws_own_service_role_cannot_be_changed_for_another(bench):
    def modern(document):
        del document["serviceRole"], document["computeResources"]["bidPercentage"]

    bench.edit("sample-compute-env.json", modern)
    bench.create()
    role = _environment_role(bench, "OtherRole")
    bench.edit("sample-compute-env.json", lambda document: document.update(serviceRole=role))
    assert "does not let serviceRole of the compute environment" in bench.refused()
    bench.clients("iam").delete_role(RoleName="OtherRole")


def test_what_the_file_no_longer_names_stays_and_that_is_said(bench):
    bench.create()
    bench.edit("sample-job-queue.json", lambda document: document.pop("state"))
    bench.create()
    said = f"Noted that the file of the job queue {bench.prefix}-job-queue is another one: what it no longer names stays as it is"
    assert said in bench.said.lines
    assert bench.queue()["state"] == "ENABLED"
    assert bench.create().changes == 0


@pytest.mark.parametrize("name", ["sample-job-definition", "sample-compute-env", "sample-job-queue"])
def test_tags_that_the_file_has_now_are_set_and_others_stay(bench, name):
    bench.edit(f"{name}.json", lambda document: document.update(tags={"kept": "1"}))
    bench.create()
    bench.edit(f"{name}.json", lambda document: document.update(tags={"team": "lab"}))
    assert bench.create().changes == 1
    assert any(line.startswith("Changed the tags of the ") and line.endswith(": team") for line in bench.said.lines)
    found = {"definition": lambda: bench.definitions()[-1], "env": bench.environment, "queue": bench.queue}
    tags = found[name.rpartition("-")[2]]()["tags"]
    assert (tags["team"], tags["kept"], tags[PREFIX_TAG]) == ("lab", "1", bench.prefix)
    assert bench.create().changes == 0


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        (
            "job-queue",
            {"computeEnvironmentOrder": [{"order": 1, "computeEnvironment": f"arn:aws:batch:eu-west-1:{ACCOUNT}:any/x"}]},
            "computeEnvironmentOrder[0].computeEnvironment",
        ),
        ("compute-env", {"serviceRole": "arn:aws:iam::210987654321:role/x"}, "serviceRole"),
        ("compute-env", {"serviceRole": f"arn:aws-cn:iam::{ACCOUNT}:role/x"}, "serviceRole"),
    ],
)
def test_an_arn_in_a_file_that_is_of_another_region_account_or_partition_is_refused(bench, name, change, where):
    path = bench.edit(f"sample-{name}.json", lambda document: document.update(change))
    text = bench.refused()
    assert text.startswith(f"{path}: {where} is arn:aws") and f"is not of {REGION} of account {ACCOUNT}" in text
    assert bench.survey().lines() == []


def test_an_arn_that_a_job_gets_as_a_variable_may_be_of_anywhere(bench):
    variables = [{"name": "QUEUE", "value": "arn:aws:batch:eu-west-1:210987654321:job-queue/x"}]
    bench.edit("sample-job-definition.json", lambda document: document["containerProperties"].update(environment=variables))
    assert bench.create().job_definition.made


def test_an_environment_of_aws_own_role_and_a_newer_strategy_takes_other_instance_types(bench):
    def modern(document):
        del document["serviceRole"], document["computeResources"]["bidPercentage"]
        document["computeResources"]["allocationStrategy"] = "BEST_FIT_PROGRESSIVE"

    bench.edit("sample-compute-env.json", modern)
    bench.create()
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].update(instanceTypes=["m5.large"]))
    bench.create()
    assert bench.environment()["computeResources"]["instanceTypes"] == ["m5.large"]


def test_what_was_updated_since_stays_so_while_the_file_is_the_same(bench):
    bench.create()
    bench.clients("batch").update_job_queue(jobQueue=f"{bench.prefix}-job-queue", priority=7)
    assert bench.create().changes == 0
    assert any("priority is 7" in line for line in bench.said.lines)
    assert bench.queue()["priority"] == 7


def test_names_inside_the_files_win(bench):
    bench.edit("sample-compute-env.json", lambda document: document.update(computeEnvironmentName=f"{bench.prefix}-own-env"))
    bench.edit("sample-job-queue.json", lambda document: document.update(jobQueueName=f"{bench.prefix}-own-queue"))
    bench.edit("sample-job-definition.json", lambda document: document.update(jobDefinitionName=f"{bench.prefix}-own-job"))
    made = bench.create()
    names = [made.compute_environment.name, made.job_queue.name, made.job_definition.name]
    assert names == [f"{bench.prefix}-own-env", f"{bench.prefix}-own-queue", f"{bench.prefix}-own-job"]


def test_arns_and_names_are_used_as_they_are(bench):
    first = bench.create()
    again = bench.create(
        job_definition=first.job_definition.arn,
        compute_environment=first.compute_environment.arn,
        job_queue=first.job_queue.name,
    )
    assert again.changes == 0
    assert [again.job_definition.arn, again.compute_environment.arn] == [first.job_definition.arn, first.compute_environment.arn]
    assert again.job_queue.arn == first.job_queue.arn


def test_the_places_of_account_and_region_in_the_sample_image_are_filled_in(bench):
    bench.create()
    image = bench.definitions()[0]["containerProperties"]["image"]
    assert image == f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/awsbatch/fetch_and_run"


def _roles_of(bench, name="batchJobRole"):
    iam = bench.clients("iam")
    policy = iam.get_role_policy(RoleName=name, PolicyName="awsbatch-gahp")["PolicyDocument"]
    return policy["Statement"][0]["Resource"], iam.get_role(RoleName=name)["Role"]["Arn"]


def test_a_role_that_was_made_for_another_prefix_is_neither_taken_nor_changed(bench):
    bench.create()
    resource, arn = _roles_of(bench)
    text = bench.refused(prefix=f"{bench.prefix}-b", s3=f"s3://{bench.prefix}-b-data")
    assert "The role batchJobRole, which containerProperties.jobRoleArn names, was made for another" in text and arn in text
    assert "write another name there, or that ARN to share it" in text
    assert bench.survey(prefix=f"{bench.prefix}-b").lines() == []
    assert _roles_of(bench) == (resource, arn)


def test_a_role_that_was_made_for_another_region_is_neither_taken_nor_changed_nor_deleted(bench):
    bench.create()
    before = _roles_of(bench)
    elsewhere = Hooked(
        region="us-east-1",
        endpoint_url=bench.aws.endpoint,
        aws_access_key_id=bench.aws.environment()["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=bench.aws.environment()["AWS_SECRET_ACCESS_KEY"],
    )
    there = bench.settings(region="us-east-1", s3=f"s3://{bench.prefix}-east", default_vpc=True)
    with pytest.raises(Refused, match=f"was made for another prefix or Region, {before[1]}"):
        create.create(there, elsewhere, bench.said, pause=lambda seconds: None)
    assert not delete.survey(there, elsewhere, bench.said).roles
    delete.delete(there, elsewhere, bench.said, pause=lambda seconds: None)
    assert _roles_of(bench) == before


def test_a_role_that_was_there_before_is_used_and_named(bench):
    iam = bench.clients("iam")
    arn = iam.create_role(RoleName="batchJobRole", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    bench.create()
    assert f"Using the role batchJobRole, which was there before: {arn}" in bench.said.lines
    assert bench.definitions()[0]["containerProperties"]["jobRoleArn"] == arn
    assert iam.list_role_policies(RoleName="batchJobRole")["PolicyNames"] == []
    bench.delete()
    iam.delete_role(RoleName="batchJobRole")


def test_another_bucket_for_the_same_prefix_changes_the_policy_and_says_so(bench):
    bench.create()
    bench.create(s3=f"s3://{bench.prefix}-other/k")
    assert "Changed the policy of the role batchJobRole" in bench.said.lines
    assert _roles_of(bench)[0] == f"arn:aws:s3:::{bench.prefix}-other/k/*"
    bench.clients("s3").delete_bucket(Bucket=f"{bench.prefix}-other")


def test_subnets_that_somebody_has_added_to_the_default_vpc_are_not_taken(bench):
    ec2 = bench.clients("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    own = ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.240.0/24")["Subnet"]["SubnetId"]
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].pop("subnets"))
    bench.create(default_vpc=True)
    taken = bench.environment()["computeResources"]["subnets"]
    assert taken and own not in taken
    ec2.delete_subnet(SubnetId=own)


def test_the_default_network_is_filled_in_when_asked_for(bench):
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].pop("subnets"))
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].update(securityGroupIds=["sg-XXXXXXXX"]))
    bench.create(default_vpc=True)
    resources = bench.environment()["computeResources"]
    known = {subnet["SubnetId"] for subnet in bench.clients("ec2").describe_subnets()["Subnets"]}
    assert set(resources["subnets"]) == known
    assert re.fullmatch("sg-[0-9a-f]+", resources["securityGroupIds"][0])


def test_a_dry_run_prints_the_calls_and_makes_none(bench):
    made = bench.create(dry_run=True)
    names = [call.split()[0] for call in bench.said.calls]
    assert names[-7:] == [
        "batch:RegisterJobDefinition",
        "batch:CreateComputeEnvironment",
        "batch:CreateJobQueue",
        "s3:CreateBucket",
        "s3:PutPublicAccessBlock",
        "s3:PutBucketLifecycleConfiguration",
        "s3:PutBucketTagging",
    ]
    assert made.changes == len(names)
    assert bench.survey().lines() == []
    arns = json.loads(bench.said.calls[-5].partition(" ")[2])["computeEnvironmentOrder"]
    bench.create()
    assert bench.queue()["computeEnvironmentOrder"] == arns


def test_creating_is_waited_for_with_a_display(bench):
    bench.aws.faults.entity_status(f"{bench.prefix}-compute-env", "CREATING", count=3)
    bench.create()
    assert any(f"the compute environment {bench.prefix}-compute-env is CREATING" in text for text in bench.said.waited)


def test_what_stays_creating_is_given_up_after_the_limit(bench):
    bench.aws.faults.entity_status(f"{bench.prefix}-compute-env", "CREATING")
    assert "is still CREATING after 0.1 s. Run this again to go on" in bench.refused(wait_s=0.1, with_roles=True)
    bench.aws.faults.clear()
    assert bench.create().job_queue.made


def test_invalid_is_told_with_the_reason_of_aws_and_what_to_do_and_mended_by_another_run(bench):
    bench.create(job_queue="")
    reason = f"CLIENT_ERROR - User: batch.amazonaws.com is not authorized to perform: sts:AssumeRole on role/{bench.prefix}"
    bench.aws.faults.entity_status(f"{bench.prefix}-compute-env", "INVALID", reason)
    text = bench.refused()
    assert f"AWS says: {reason}. The role's trust policy has to name batch.amazonaws.com" in text
    assert "Then run this again" in text
    bench.aws.faults.clear()
    # Seen INVALID once, the environment is sent an update that has AWS look at it again.
    bench.aws.faults.entity_status(f"{bench.prefix}-compute-env", "INVALID", reason, count=1)
    bench.aws.forget_calls()
    bench.create()
    assert bench.aws.calls()["batch:UpdateComputeEnvironment"] == 1


def test_an_environment_is_given_time_while_new_roles_spread(bench):
    bench.aws.faults.entity_status(f"{bench.prefix}-compute-env", "INVALID", "cannot assume role", count=3)
    bench.create()
    assert bench.survey().compute_environments == (f"{bench.prefix}-compute-env",)


def test_a_name_that_somebody_elses_entity_has_is_refused_if_it_is_otherwise(bench):
    batch = bench.clients("batch")
    bench.create()
    arn = bench.queue()["jobQueueArn"]
    batch.untag_resource(resourceArn=arn, tagKeys=[PREFIX_TAG])
    assert bench.create().changes == 0  # the same, so it is used
    batch.update_job_queue(jobQueue=arn, priority=5)
    text = bench.refused()
    assert f"There is a job queue {bench.prefix}-job-queue that was not made for the prefix {bench.prefix}" in text
    assert "priority 5 -> 10" in text
    batch.tag_resource(resourceArn=arn, tags={PREFIX_TAG: bench.prefix})


def test_a_bucket_of_another_account_is_named(bench):
    bench.aws.faults.fail("s3:HeadBucket", status=403, code="AccessDenied", message="Forbidden")
    assert f"The bucket {bench.prefix}-bucket belongs to another account" in bench.refused()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("job-queue", '{"priority": 1,\n  "state": ENABLED}', "is not JSON: line 2, column 12: Expecting value."),
        ("job-queue", '{"priority": 1, "priority": 2}', "the key priority is there twice"),
        ("job-queue", "[]", "the file has to be an object"),
        ("job-queue", '{"priorty": 1}', "there is no priorty: did you mean priority?; priority is missing"),
        ("job-queue", '{"priority": "1"}', "priority has to be a whole number"),
        ("job-queue", '{"priority": true}', "priority has to be a whole number"),
        ("job-queue", '{"priority": 1, "state": "ON"}', "state is 'ON' and has to be one of ENABLED, DISABLED"),
        (
            "compute-env",
            '{"type": "MANAGED", "computeResources": {"type": "EC2", "maxvcpus": 4, "subnets": "a"}}',
            "there is no computeResources.maxvcpus: did you mean computeResources.maxvCpus?; computeResources.subnets has to be "
            "a list; computeResources.maxvCpus is missing",
        ),
        (
            "compute-env",
            '{"type": "MANAGED", "computeResources": {"type": "EC2", "maxvCpus": 4, "securityGroupIds": ["sg-1"]}}',
            "computeResources.subnets is not filled in",
        ),
        (
            "compute-env",
            '{"type": "MANAGED", "computeResources": {"type": "EC2", "maxvCpus": 4, "subnets": ["subnet-XXXXXXXX"]}}',
            "computeResources.subnets and computeResources.securityGroupIds are not filled in",
        ),
        (
            "job-definition",
            '{"type": "container", "containerProperties": {"resourceRequirements": [{"type": "CPU", "value": "1"}]}}',
            "containerProperties.resourceRequirements[0].type is 'CPU' and has to be one of GPU, VCPU, MEMORY",
        ),
        ("job-definition", '{"type": "container", "containerProperties": {"imgae": "x"}}', "mean containerProperties.image?"),
    ],
)
def test_a_file_with_a_mistake_is_refused_before_any_call(bench, name, text, sentence):
    path = bench.conf / f"sample-{name}.json"
    path.write_text(text)
    bench.clients.arm(0)
    said = bench.refused()
    assert said.startswith(str(path)) and sentence in said
    assert bench.clients.names == []


def test_what_is_refused_does_not_keep_the_rest_from_being_made_and_all_refusals_are_told(bench):
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].update(subnets=["subnet-0123abcd"]))
    said = bench.refused(job_definition="no-such-definition")
    assert "There is no job definition no-such-definition" in said and "subnet-0123abcd" in said
    assert f"The job queue {bench.prefix}-job-queue waits for that compute environment: see what keeps it" in said
    assert said.endswith("The rest is there; run this again when that is mended.")
    found = bench.survey()
    assert (found.bucket.exists, found.job_queues, found.compute_environments) == (True, (), ())


def test_a_file_that_is_not_there_is_named(bench):
    assert "--job-queue: ./none.json cannot be read: No such file or directory" in bench.refused(job_queue="./none.json")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"job_queue": "arn:aws:batch:us-west-2:123456789012:compute-environment/x"}, "is not the ARN of a job queue, such as"),
        ({"job_queue": "arn:aws:batch:eu-west-1:123456789012:job-queue/x"}, "is in the Region eu-west-1"),
        ({"job_queue": "arn:aws:batch:us-west-2:210987654321:job-queue/x"}, "is of the account 210987654321"),
        ({"job_queue": "arn:aws:batch:us-west-2:123456789012:job-queue/none"}, "There is no job queue arn:"),
        ({"job_queue": "none"}, "There is no job queue none in us-west-2"),
        ({"job_definition": "none:3"}, "There is no job definition none:3 in us-west-2"),
        ({"account": "210987654321"}, "The account is to be 210987654321, and the credentials"),
        ({"with_roles": False}, "There is no role batchJobRole in the account, which containerProperties.jobRoleArn names"),
        ({"compute_environment": ""}, "There is no compute environment"),
    ],
)
def test_what_does_not_fit_together_is_refused(bench, fields, sentence):
    assert sentence in bench.refused(**fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prefix": ""}, "No prefix is given"),
        ({"prefix": "a b"}, "--prefix a b: use up to 100 letters"),
        ({"account": "[your aws account id - digits]"}, "is not a number of 12 digits: edit pegasus.aws.account"),
        ({"region": "Oregon"}, "The Region 'Oregon' does not look like one"),
        ({"s3": "s3://a"}, "a bucket's name has 3 to 63"),
        ({"s3": "s3://abc/k?y"}, "the key may have"),
        ({"prefix": "p" * 80}, "cannot be a bucket's name"),
        ({"job_queue": "a b"}, "this is no ARN, no file and no name"),
        ({"wait_s": -1.0}, "--wait -1: give a number of seconds"),
        ({"wait_s": float("nan")}, "--wait nan: give a number of seconds"),
    ],
)
def test_settings_of_a_wrong_form_are_refused(bench, fields, sentence):
    with pytest.raises(Refused, match=re.escape(sentence)):
        bench.settings(**fields).value(Kind.JOB_QUEUE)


def test_options_win_over_the_properties_file(tmp_path):
    conf = tmp_path / "pegasusrc"
    conf.write_text(
        "pegasus.aws.region=us-west-2\npegasus.aws.account 123456789012\npegasus.aws.batch.s3_bucket=s3\\://data/key\n"
    )
    found = settings.load(str(conf), prefix="p", region="eu-west-1", account=None)
    assert (found.region, found.account, found.s3_url) == ("eu-west-1", "123456789012", "s3://data/key")


def test_a_misspelt_property_is_named_with_the_nearest(tmp_path):
    conf = tmp_path / "pegasusrc"
    conf.write_text("pegasus.dir.useTimestamp=true\npegasus.aws.regoin=us-west-2\n")
    with pytest.raises(Refused, match=r"pegasus\.aws\.regoin, which means nothing here: did you mean pegasus\.aws\.region\?"):
        settings.load(str(conf), prefix="p")


def test_a_subnet_that_is_not_there_is_named(bench):
    bench.edit("sample-compute-env.json", lambda document: document["computeResources"].update(subnets=["subnet-12345678"]))
    text = bench.refused()
    assert "subnet-12345678" in text and "--default-vpc` takes the usual ones" in text


@pytest.mark.parametrize("action", ["RegisterJobDefinition", "CreateComputeEnvironment", "CreateJobQueue"])
def test_a_missing_permission_is_told_with_who_what_and_on_what(bench, action):
    message = f"User: arn:aws:iam::{ACCOUNT}:user/jo is not authorized to perform: batch:{action} on resource: arn:aws:batch:x/y"
    bench.aws.faults.fail(f"batch:{action}", status=403, code="AccessDeniedException", message=message)
    text = bench.refused()
    assert f"No permission: arn:aws:iam::{ACCOUNT}:user/jo may not do batch:{action} on arn:aws:batch:x/y" in text


@pytest.mark.parametrize(
    ("action", "status", "code", "message"),
    [
        ("batch:CreateComputeEnvironment", 400, "ClientException", "You have the maximum number of compute environments (50)"),
        ("batch:CreateJobQueue", 400, "ClientException", "Job queue limit exceeded"),
        ("iam:CreateRole", 409, "LimitExceeded", "Cannot exceed quota for RolesPerAccount: 1000"),
        ("s3:CreateBucket", 400, "TooManyBuckets", "You have attempted to create more buckets than allowed"),
    ],
)
def test_a_quota_that_is_reached_is_told_as_such(bench, action, status, code, message):
    bench.aws.faults.fail(action, status=status, code=code, message=message)
    text = bench.refused()
    assert text.startswith("A quota of the AWS account is reached with the") and message in text


def test_credentials_that_have_expired_are_told_as_such(bench):
    bench.aws.faults.expire_credentials()
    text = bench.refused()
    bench.aws.faults.clear()
    assert "AWS does not take the credentials (ExpiredToken" in text


@pytest.mark.parametrize("kind", ["throttle", "reset", "lost_reply", "error"])
def test_what_passes_is_waited_out_and_nothing_is_made_twice(bench, kind):
    """Every call goes wrong once and then works; of all that is made there is one."""
    for action in ("batch:*", "s3:*", "iam:*", "sts:*"):
        if kind == "throttle":
            bench.aws.faults.throttle(action, per_second=8)
        else:
            bench.aws.faults.add(kind, action=action, count=2)
    real = []
    # The real pause, for a rate limit passes with time only.
    create.create(bench.settings(), bench.clients, bench.said, pause=lambda seconds: real.append(seconds) or _sleep(seconds))
    bench.aws.faults.clear()
    assert real
    assert bench.create().changes == 0


def _sleep(seconds):
    import time

    time.sleep(min(seconds, 0.3))


def test_what_does_not_pass_ends_with_a_sentence(bench):
    bench.aws.faults.fail("batch:CreateJobQueue", status=500)
    with pytest.raises(Transient, match=r"batch:CreateJobQueue about the job queue .* failed inside AWS"):
        bench.create()
    bench.aws.faults.clear()
    bench.create()


class Stop(BaseException):
    """In the place of KeyboardInterrupt, which pytest would take for itself."""


def _raise(error):
    raise error


def _deny(name):
    answer = {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    raise ClientError(answer, name)


def test_interrupted_after_any_change_a_second_run_finishes_and_delete_removes_all(bench):
    expected = None
    for number in range(1, 100):
        bench.clients.arm(number, after=lambda name: _raise(Stop(name)), only_changes=True)
        try:
            bench.create()
            break
        except Stop:
            bench.clients.disarm()
            bench.create()
            whole = _shape(bench.survey())
            expected = expected or whole
            assert whole == expected
            assert bench.delete() and bench.survey().lines() == []
    assert number > 10
    assert _shape(bench.survey()) == expected


def _shape(found: delete.Survey) -> list[str]:
    """Everything there is, revisions aside: a definition whose earlier ones were deregistered goes on counting."""
    return sorted({re.sub(r":[0-9]+$", "", line) for line in found.lines()})


def test_refused_at_any_call_it_says_which_action_and_another_run_goes_on_from_there(bench):
    for number in range(1, 100):
        bench.clients.arm(number, before=_deny)
        try:
            bench.create()
            break
        except Refused as error:
            action = bench.clients.names[number - 1].partition(":")
            bench.clients.disarm()
            said = str(error)
            assert "No permission" in said or "belongs to another account" in said, said
            assert f"{action[0]}:{action[2].title().replace('_', '')}" in said or action[2] == "head_bucket", said
            # What there is so far is taken up by the next round.
    bench.clients.disarm()
    assert number > 15
    assert len(_shape(bench.survey())) == 8


def test_interrupted_after_any_change_of_delete_a_second_run_removes_the_rest(bench):
    for number in range(1, 100):
        bench.create()
        bench.clients("s3").put_object(Bucket=f"{bench.prefix}-bucket", Key=f"{bench.prefix}/runs/1/manifest", Body=b"x")
        bench.clients.arm(number, after=lambda name: _raise(Stop(name)), only_changes=True)
        try:
            bench.delete()
            break
        except Stop:
            bench.clients.disarm()
            bench.delete()
            assert bench.survey().lines() == []
    assert number > 10


@pytest.mark.parametrize("call", ["create_bucket", "put_public_access_block", "put_bucket_lifecycle_configuration"])
def test_interrupted_with_a_bucket_half_made_it_is_taken_back(bench, call):
    number = _number_of(bench, call)
    bench.clients.arm(number, after=lambda name: _raise(Stop(name)), only_changes=True)
    with pytest.raises(Stop, match=f"s3:{call}"):
        bench.create()
    bench.clients.disarm()
    assert not bench.survey().bucket.exists


def _number_of(bench, call, **fields):
    """Which of the changes of `create` that call is."""
    bench.clients.arm(0, only_changes=True)
    bench.create(**fields)
    number = bench.clients.names.index(f"s3:{call}") + 1
    bench.delete(**fields)
    return number


@pytest.mark.parametrize("call", ["put_public_access_block", "put_bucket_lifecycle_configuration", "put_bucket_tagging"])
def test_a_bucket_that_cannot_be_closed_and_tagged_is_taken_back_and_made_by_the_next_run(bench, call):
    named = {"s3": f"s3://{bench.prefix}-data/key"}
    number = _number_of(bench, call, **named)
    bench.clients.arm(number, before=_deny, only_changes=True)
    assert "No permission" in bench.refused(**named)
    bench.clients.disarm()
    assert not bench.survey(**named).bucket.exists
    assert bench.create(**named).bucket_made
    assert bench.survey(**named).bucket.ours
    bench.delete(**named)


@pytest.mark.parametrize("call", ["create_bucket", "put_public_access_block", "put_bucket_tagging"])
def test_a_bucket_of_any_name_whose_making_lost_a_reply_is_ours_and_closed(bench, call):
    named = {"s3": f"s3://{bench.prefix}-data/key"}
    number = _number_of(bench, call, **named)
    bench.clients.arm(number, after=lambda name: _raise(ConnectionClosedError(endpoint_url=name)), only_changes=True)
    assert bench.create(**named).bucket_made
    bench.clients.disarm()
    assert bench.survey(**named).bucket.ours
    closed = bench.clients("s3").get_public_access_block(Bucket=f"{bench.prefix}-data")["PublicAccessBlockConfiguration"]
    assert all(closed.values())
    bench.delete(**named)


def test_a_bucket_name_that_s3_is_still_busy_with_is_waited_for(bench):
    bench.aws.faults.fail("s3:CreateBucket", status=409, code="OperationAborted", message="A conflicting operation", count=2)
    assert bench.create().bucket_made
    assert any("s3:CreateBucket about the bucket" in text and "has to wait" in text for text in bench.said.waited)


def test_a_bucket_name_that_is_taken_is_told_as_such(bench):
    bench.aws.faults.fail("s3:CreateBucket", status=409, code="BucketAlreadyExists", message="It is not available")
    assert f"The bucket name {bench.prefix}-bucket is taken: give another" in bench.refused()


def test_a_bucket_that_a_killed_run_left_untagged_is_adopted_if_it_is_empty(bench):
    where = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
    bench.clients("s3").create_bucket(Bucket=f"{bench.prefix}-bucket", **where)
    bench.create()
    assert bench.survey().bucket.ours


def test_the_content_tag_does_not_depend_on_tags(bench):
    request = {"jobQueueName": "q", "priority": 1}
    assert entities.digest(request) == entities.digest({**request, "tags": {"a": "b"}})
    tags = entities.tags_for(bench.settings(), {**request, "tags": {"a": "b"}})
    assert tags == {"a": "b", PREFIX_TAG: bench.prefix, CONTENT_TAG: entities.digest(request)}


@pytest.mark.parametrize(
    ("asked", "has", "different"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, {}),
        ({"a": 1}, {"a": 2}, {"a": (2, 1)}),
        ({"a": []}, {}, {}),
        ({"a": False}, {}, {"a": (None, False)}),
        ({"r": {"a": 1, "b": 2}}, {"r": {"a": 1, "b": 3}}, {"r.b": (3, 2)}),
        ({"computeResources": {"desiredvCpus": 0}}, {"computeResources": {"desiredvCpus": 4}}, {}),
        ({"computeResources": {"subnets": ["b", "a"]}}, {"computeResources": {"subnets": ["a", "b"]}}, {}),
        ({"computeResources": {"instanceRole": "r"}}, {"computeResources": {"instanceRole": "arn:aws:iam::1:x/p/r"}}, {}),
        ({"order": [{"a": 1}]}, {"order": [{"a": 1, "b": 2}]}, {}),
        ({"order": [{"a": 1}]}, {"order": [{"a": 2}]}, {"order": ([{"a": 2}], [{"a": 1}])}),
        ({"tags": {"a": "b"}}, {}, {}),
    ],
)
def test_differences_are_what_is_asked_for_and_stands_otherwise(asked, has, different):
    assert entities.differences(asked, has) == different
