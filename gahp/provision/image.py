"""The container image: the steps from image/ to Amazon ECR, as commands to read or to run. Knows docker's and ECR's words."""

from __future__ import annotations

import dataclasses
import re

from gahp.model import Refused

DEFAULT_NAME = "awsbatch/fetch_and_run"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One command. `stdin`: a command whose output it reads; `may_fail_with`: its error text when there is nothing to do."""

    words: tuple[str, ...]
    stdin: tuple[str, ...] = ()
    may_fail_with: str = ""


def registry(account: str, region: str) -> str:
    """Where images of an account are."""
    end = ".cn" if region.startswith("cn-") else ""
    return f"{account}.dkr.ecr.{region}.amazonaws.com{end}"


def check_name(name: str) -> str:
    """The name of a repository, perhaps with a tag. Raises Refused."""
    if not re.fullmatch(r"[a-z0-9]+([._/-][a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?", name):
        raise Refused(f"--name {name}: an image's name is made of a-z, 0-9 and . _ - / between them, and perhaps :TAG.")
    return name


def build(name: str, folder: str, platform: str = "") -> list[Step]:
    """Build the image of a Dockerfile's folder."""
    return [Step(("docker", "build", *(("--platform", platform) if platform else ()), "--tag", name, folder))]


def push(name: str, account: str, region: str) -> list[Step]:
    """Have the repository, log in, push."""
    repository, _, tag = name.partition(":")
    target = f"{registry(account, region)}/{repository}:{tag or 'latest'}"
    in_region = ("--region", region)
    return [
        Step(
            ("aws", "ecr", "create-repository", *in_region, "--repository-name", repository),
            may_fail_with="RepositoryAlreadyExistsException",
        ),
        Step(
            ("docker", "login", "--username", "AWS", "--password-stdin", registry(account, region)),
            stdin=("aws", "ecr", "get-login-password", *in_region),
        ),
        Step(("docker", "tag", name, target)),
        Step(("docker", "push", target)),
    ]
