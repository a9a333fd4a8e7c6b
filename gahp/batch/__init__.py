"""AWS Batch: submit, find, describe, terminate. Knows Batch and the model; nothing of S3."""

from gahp.batch.errors import CredentialsProblem, Throttled, Unsure
from gahp.batch.events import EventQueue
from gahp.batch.jobs import BatchJob
from gahp.batch.overrides import check_resources, choose_queue, shape
from gahp.batch.service import BULK, DESCRIBE_PAGE, LIST_PAGE, Batch, BatchClient

__all__ = [
    "BULK",
    "DESCRIBE_PAGE",
    "LIST_PAGE",
    "Batch",
    "BatchClient",
    "BatchJob",
    "CredentialsProblem",
    "EventQueue",
    "Throttled",
    "Unsure",
    "check_resources",
    "choose_queue",
    "shape",
]
