"""A network for a compute environment that names none: the account's default VPC. Knows EC2; makes nothing."""

from __future__ import annotations

import re
from typing import Any

from gahp.model import Refused
from gahp.provision.aws import Aws

_PLACEHOLDER = re.compile(r"(subnet|sg)-X+")


def missing(document: dict[str, Any]) -> list[str]:
    """Which of the two network members a managed environment's document lacks, or has as in the sample."""
    resources = document.get("computeResources")
    if document.get("type") != "MANAGED" or not isinstance(resources, dict) or "managedInstancesProvider" in resources:
        return []
    # Security groups may come from a launch template instead.
    wanted = (
        ["subnets"] if "launchTemplate" in resources and "securityGroupIds" not in resources else ["subnets", "securityGroupIds"]
    )
    return [
        name for name in wanted if not resources.get(name) or any(_PLACEHOLDER.fullmatch(str(entry)) for entry in resources[name])
    ]


def demand(document: dict[str, Any], path: str) -> None:
    """Raise Refused unless the document names its network itself."""
    lacking = missing(document)
    if lacking:
        names = " and ".join(f"computeResources.{name}" for name in lacking)
        raise Refused(
            f"{path}: {names} {'is' if len(lacking) == 1 else 'are'} not filled in: give those of your VPC "
            "(`aws ec2 describe-subnets`, `aws ec2 describe-security-groups`), or `condor_awsbatch create --default-vpc`."
        )


def fill_in(aws: Aws, document: dict[str, Any]) -> None:
    """Put the default VPC's subnets and its default security group where the document has none."""
    lacking = missing(document)
    if not lacking:
        return
    vpcs = aws.ask("ec2", "DescribeVpcs", "the default VPC", Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise Refused(
            f"There is no default VPC in {aws.region}: `aws ec2 create-default-vpc` makes one; or fill in the subnets yourself."
        )
    of_vpc = {"Name": "vpc-id", "Values": [vpcs[0]["VpcId"]]}
    if "subnets" in lacking:
        # Those that somebody has added may have no way to the outside.
        usual = {"Name": "default-for-az", "Values": ["true"]}
        subnets = aws.ask("ec2", "DescribeSubnets", "the default VPC's subnets", Filters=[of_vpc, usual])["Subnets"]
        if not subnets:
            raise Refused(
                f"The default VPC in {aws.region} has no default subnet: `aws ec2 create-default-subnet` makes one; or fill in "
                "the subnets yourself."
            )
        document["computeResources"]["subnets"] = sorted(subnet["SubnetId"] for subnet in subnets)
    if "securityGroupIds" in lacking:
        named = {"Name": "group-name", "Values": ["default"]}
        groups = aws.ask("ec2", "DescribeSecurityGroups", "the default VPC's security group", Filters=[of_vpc, named])
        document["computeResources"]["securityGroupIds"] = sorted(group["GroupId"] for group in groups["SecurityGroups"])
