"""What AWS Batch does with calls about compute environments and job queues, and moto does not.

Knows moto's Batch and IAM backends. Sources: CreateComputeEnvironment (`serviceRole`), DeleteComputeEnvironment and
DeleteJobQueue in the API Reference; the words of the refusals: likely.
"""

from __future__ import annotations

import json
from typing import Any

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID

from gahp.local.submission import ClientError


def prepared(region: str, action: str, request: dict[str, Any]) -> bytes:
    """The body that moto gets: with what AWS fills in. Raises ClientError for what moto would take and AWS refuses."""
    backend = get_backend("batch")[DEFAULT_ACCOUNT_ID][region]
    if action == "CreateComputeEnvironment" and not request.get("serviceRole"):
        request = {**request, "serviceRole": _service_linked_role(backend)}
    if action == "DeleteComputeEnvironment":
        found = backend.get_compute_environment(request["computeEnvironment"])
        if found is not None and found.state != "DISABLED":
            raise ClientError("Cannot delete, compute environment must be in the DISABLED state")
        if found is not None and any(found in queue.environments for queue in backend._job_queues.values()):
            raise ClientError("Cannot delete, found existing JobQueue relationship")
    if action == "DeleteJobQueue":
        queue = backend.get_job_queue(request["jobQueue"])
        if queue is not None and queue.state != "DISABLED":
            raise ClientError("Cannot delete, job queue must be in the DISABLED state")
    return json.dumps(request).encode()


def _service_linked_role(backend: Any) -> str:
    """The ARN of the role that AWS Batch uses where none is named; made when it is first needed, as AWS does."""
    iam = backend.iam_backend
    path, name = "/aws-service-role/batch.amazonaws.com/", "AWSServiceRoleForBatch"
    if name not in {role.name for role in iam.roles.values()}:
        iam.create_role(
            role_name=name,
            assume_role_policy_document="{}",
            path=path,
            permissions_boundary=None,
            description="",
            tags=[],
            max_session_duration="3600",
            linked_service="batch.amazonaws.com",
        )
    return f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role{path}{name}"
