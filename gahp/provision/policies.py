"""The IAM documents of the set-up as data: who may assume a role, and what it may do. conf/iam has the same as files.

Knows IAM's language; makes no calls. The service's and the instance's policies are those of AWS's managed policies
AWSBatchServiceRole (v14), AmazonEC2ContainerServiceforEC2Role (v10) and AmazonECSTaskExecutionRolePolicy (v1), less what
jobs of this project have no use for; what AWS Batch itself demands is not to be had for less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Policy = dict[str, Any]


def trust(service: str) -> Policy:
    """Who may assume a role: one AWS service."""
    return _policy([{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}])


def job_role(bucket: str, key: str, partition: str = "aws") -> Policy:
    """What a job may do: read and write below one key prefix of one bucket, and nothing else."""
    return _policy(
        [
            _allow(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], f"arn:{partition}:s3:::{bucket}/{key}/*"),
            _list(bucket, key, partition),
        ]
    )


def submit_host(
    *, region: str, account: str, queue: str, definition: str, bucket: str, key: str, events: str, partition: str = "aws"
) -> Policy:
    """What a user of the submit host may do: submit to one queue, watch, end jobs, carry sandboxes, read logs and events."""
    batch = f"arn:{partition}:batch:{region}:{account}"
    jobs = [f"{batch}:job-queue/{queue}", f"{batch}:job-definition/{definition}", f"{batch}:job-definition/{definition}:*"]
    watch = ["ListJobs", "DescribeJobs", "DescribeJobQueues", "DescribeJobDefinitions", "DescribeComputeEnvironments"]
    # For `condor_awsbatch why`, which does without if need be.
    explain = ["batch:DescribeSchedulingPolicies", "ec2:DescribeInstanceTypes"]
    objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return _policy(
        [
            _allow(["batch:SubmitJob", "batch:TagResource"], [*jobs, f"{batch}:job/*"]),
            _allow(["batch:TerminateJob", "batch:CancelJob"], f"{batch}:job/*"),
            _allow([*(f"batch:{name}" for name in watch), *explain], "*"),
            _allow(objects, f"arn:{partition}:s3:::{bucket}/{key}/*"),
            _list(bucket, key, partition),
            _allow(
                ["logs:GetLogEvents", "logs:DescribeLogStreams"],
                f"arn:{partition}:logs:{region}:{account}:log-group:/aws/batch/job:*",
            ),
            _allow(
                ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"],
                f"arn:{partition}:sqs:{region}:{account}:{events}",
            ),
        ]
    )


def administrator(region: str, account: str, prefix: str, bucket: str, partition: str = "aws") -> Policy:
    """What `condor_awsbatch create`, `update`, `delete` and `image push` may do, for one prefix."""
    batch, iam = f"arn:{partition}:batch:{region}:{account}", f"arn:{partition}:iam::{account}"
    entities = [f"{batch}:{kind}/{prefix}-*" for kind in ("job-definition", "compute-environment", "job-queue")]
    described = ["ComputeEnvironments", "JobQueues", "JobDefinitions", "Jobs"]
    made = [
        "CreateComputeEnvironment",
        "UpdateComputeEnvironment",
        "DeleteComputeEnvironment",
        "CreateJobQueue",
        "UpdateJobQueue",
    ]
    more = ["DeleteJobQueue", "RegisterJobDefinition", "DeregisterJobDefinition", "TagResource"]
    buckets = ["CreateBucket", "ListBucket", "ListBucketVersions", "DeleteBucket", "GetBucketTagging", "PutBucketTagging"]
    buckets += ["PutBucketPublicAccessBlock", "PutLifecycleConfiguration"]
    roles = ["GetRole", "CreateRole", "DeleteRole", "TagRole", "GetRolePolicy", "PutRolePolicy", "DeleteRolePolicy"]
    roles += ["ListRolePolicies"]
    roles += ["ListAttachedRolePolicies", "DetachRolePolicy", "ListRoleTags", "GetInstanceProfile", "CreateInstanceProfile"]
    roles += ["TagInstanceProfile", "AddRoleToInstanceProfile", "RemoveRoleFromInstanceProfile", "DeleteInstanceProfile"]
    passed = ["batch.amazonaws.com", "ec2.amazonaws.com", "ecs-tasks.amazonaws.com", "spotfleet.amazonaws.com"]
    repositories = ["CreateRepository", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage"]
    repositories += ["BatchCheckLayerAvailability", "BatchGetImage"]
    queues = ["CreateQueue", "DeleteQueue", "GetQueueUrl", "GetQueueAttributes", "SetQueueAttributes"]
    queues += ["ListQueueTags", "TagQueue"]
    rules = ["PutRule", "DeleteRule", "DescribeRule", "PutTargets", "RemoveTargets", "ListTargetsByRule", "TagResource"]
    rules += ["ListTagsForResource"]
    return _policy(
        [
            _allow([f"batch:Describe{name}" for name in described] + ["batch:ListJobs"], "*"),
            _allow([f"batch:{name}" for name in made + more], [*entities, f"{batch}:scheduling-policy/*"]),
            _allow([f"s3:{name}" for name in buckets], f"arn:{partition}:s3:::{bucket}"),
            _allow(["s3:DeleteObject", "s3:DeleteObjectVersion"], f"arn:{partition}:s3:::{bucket}/*"),
            _allow(
                [f"iam:{name}" for name in roles],
                [f"{iam}:role/awsbatch-gahp/{prefix}/*", f"{iam}:instance-profile/awsbatch-gahp/{prefix}/*"],
            ),
            _allow(["iam:GetRole", "iam:GetInstanceProfile", "iam:ListRoles", "iam:ListInstanceProfiles"], "*"),
            {**_allow(["iam:PassRole"], f"{iam}:role/*"), "Condition": {"StringEquals": {"iam:PassedToService": passed}}},
            {
                **_allow(["iam:CreateServiceLinkedRole"], f"{iam}:role/aws-service-role/batch.amazonaws.com/*"),
                "Condition": {"StringEquals": {"iam:AWSServiceName": "batch.amazonaws.com"}},
            },
            _allow(["ec2:DescribeVpcs", "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups", "ecr:GetAuthorizationToken"], "*"),
            _allow([f"ecr:{name}" for name in repositories], f"arn:{partition}:ecr:{region}:{account}:repository/awsbatch/*"),
            _allow([f"sqs:{name}" for name in queues], f"arn:{partition}:sqs:{region}:{account}:{prefix}-events"),
            _allow([f"events:{name}" for name in rules], f"arn:{partition}:events:{region}:{account}:rule/{prefix}-events"),
        ]
    )


def instance_role() -> Policy:
    """What the hosts of an EC2 compute environment may do: join their cluster, pull images, write jobs' logs."""
    cluster = ["ec2:DescribeTags", "ecs:CreateCluster", "ecs:DeregisterContainerInstance", "ecs:DiscoverPollEndpoint", "ecs:Poll"]
    cluster += ["ecs:RegisterContainerInstance", "ecs:StartTelemetrySession", "ecs:UpdateContainerInstancesState", "ecs:Submit*"]
    made = {"StringEquals": {"ecs:CreateAction": ["CreateCluster", "RegisterContainerInstance"]}}
    return _policy(
        [
            _allow(cluster, "*"),
            {**_allow(["ecs:TagResource"], "*"), "Condition": made},
            _allow([*_PULL, "logs:CreateLogStream", "logs:PutLogEvents"], "*"),
        ]
    )


def execution_role() -> Policy:
    """What Fargate may do to start a job: pull its image and write its log."""
    return _policy([_allow([*_PULL, "logs:CreateLogStream", "logs:PutLogEvents"], "*")])


def spot_fleet_role() -> Policy:
    """What a Spot fleet may do, which a Spot environment with the strategy BEST_FIT uses."""
    actions = ["DescribeImages", "DescribeSubnets", "RequestSpotInstances", "TerminateInstances", "DescribeInstanceStatus"]
    actions += ["CreateTags", "RunInstances"]
    return _policy([_allow([f"ec2:{name}" for name in actions], "*"), _pass_role(["ec2.amazonaws.com"])])


def service_role(partition: str = "aws") -> Policy:
    """What AWS Batch may do to run an environment; without a role in the file it uses its own service-linked one."""
    ec2 = [
        "AccountAttributes",
        "Instances",
        "InstanceStatus",
        "InstanceAttribute",
        "Subnets",
        "SecurityGroups",
        "KeyPairs",
        "Images",
    ]
    ec2 += ["ImageAttribute", "SpotInstanceRequests", "SpotFleetInstances", "SpotFleetRequests", "SpotPriceHistory"]
    ec2 += ["SpotFleetRequestHistory", "LaunchTemplateVersions"]
    change = [
        "CreateLaunchTemplate",
        "DeleteLaunchTemplate",
        "RequestSpotFleet",
        "CancelSpotFleetRequests",
        "ModifySpotFleetRequest",
    ]
    change += ["TerminateInstances", "RunInstances"]
    scaling = ["AccountLimits", "AutoScalingGroups", "LaunchConfigurations", "AutoScalingInstances", "ScalingActivities"]
    group = ["CreateLaunchConfiguration", "CreateAutoScalingGroup", "UpdateAutoScalingGroup", "SetDesiredCapacity"]
    group += ["DeleteLaunchConfiguration", "DeleteAutoScalingGroup", "CreateOrUpdateTags", "SuspendProcesses"]
    group += ["PutNotificationConfiguration", "TerminateInstanceInAutoScalingGroup"]
    ecs = ["DescribeClusters", "DescribeContainerInstances", "DescribeTaskDefinition", "DescribeTasks", "ListAccountSettings"]
    ecs += ["ListClusters", "ListContainerInstances", "ListTaskDefinitionFamilies", "ListTaskDefinitions", "ListTasks"]
    ecs += [
        "CreateCluster",
        "DeleteCluster",
        "RegisterTaskDefinition",
        "DeregisterTaskDefinition",
        "RunTask",
        "StartTask",
        "StopTask",
    ]
    ecs += ["UpdateCluster", "UpdateContainerAgent", "DeregisterContainerInstance"]
    logs = ["CreateLogGroup", "CreateLogStream", "PutLogEvents", "DescribeLogGroups"]
    linked = ["spot.amazonaws.com", "spotfleet.amazonaws.com", "autoscaling.amazonaws.com", "ecs.amazonaws.com"]
    return _policy(
        [
            _allow([f"ec2:Describe{name}" for name in ec2] + [f"ec2:{name}" for name in change], "*"),
            _allow([f"autoscaling:Describe{name}" for name in scaling] + [f"autoscaling:{name}" for name in group], "*"),
            _allow([f"ecs:{name}" for name in ecs], "*"),
            _allow([f"logs:{name}" for name in logs], "*"),
            _allow(["iam:GetInstanceProfile", "iam:GetRole"], "*"),
            _allow(["ecs:TagResource"], f"arn:{partition}:ecs:*:*:task/*_Batch_*"),
            _pass_role(["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"]),
            {
                **_allow(["iam:CreateServiceLinkedRole"], "*"),
                "Condition": {"StringEquals": {"iam:AWSServiceName": linked}},
            },
            {**_allow(["ec2:CreateTags"], "*"), "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}}},
        ]
    )


_PULL = ("ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")


def _allow(actions: Iterable[str], resource: str | list[str]) -> Policy:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource}


def _list(bucket: str, key: str, partition: str) -> Policy:
    return {
        **_allow(["s3:ListBucket"], f"arn:{partition}:s3:::{bucket}"),
        "Condition": {"StringLike": {"s3:prefix": f"{key}/*"}},
    }


def _pass_role(services: list[str]) -> Policy:
    return {**_allow(["iam:PassRole"], "*"), "Condition": {"StringEquals": {"iam:PassedToService": services}}}


def _policy(statements: list[Policy]) -> Policy:
    return {"Version": "2012-10-17", "Statement": statements}
