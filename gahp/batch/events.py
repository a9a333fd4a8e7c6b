"""Reads AWS Batch's job state changes out of an SQS queue, where an EventBridge rule puts them. Knows SQS; nothing of runs.

A queue may have several readers, and each message goes to one of them. One about a job that this reader does not follow is put
back for the others, and for itself: SubmitJob's answer may not be in yet. It is never deleted by who does not know it; the
queue's retention time ends it. What is lost, late or doubled does no harm: an event is a hint, with the sweep behind it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gahp.batch.jobs import BatchJob, from_detail
from gahp.lanes import backoff, mortal
from gahp.model import one_line

log = logging.getLogger(__name__)

DETAIL_TYPE = "Batch Job State Change"
_AT_ONCE = 10
_WAIT_S = 20  # the longest that SQS waits
_BACK_AFTER_S, _BACK_AFTER_MOST_S = 1, 30
_LONGEST = 262144  # of an SQS message


class QueueClient(Protocol):
    """The calls of boto3's SQS client that are used."""

    def receive_message(self, **parameters: Any) -> Mapping[str, Any]: ...
    def delete_message_batch(self, **parameters: Any) -> Mapping[str, Any]: ...
    def change_message_visibility_batch(self, **parameters: Any) -> Mapping[str, Any]: ...


def parse(body: str) -> BatchJob | None:
    """The job that a message is about, as it was then; None for whatever else somebody may have sent."""
    try:
        event = json.loads(body) if len(body) <= _LONGEST else None
        if not isinstance(event, dict) or event.get("source") != "aws.batch" or event.get("detail-type") != DETAIL_TYPE:
            return None
        job = from_detail(event["detail"], described=False)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError):
        return None
    return job if isinstance(job.id, str) and job.status in _STATUSES else None


_STATUSES = {"SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED"}


class EventQueue:
    """One thread that reads one queue. `hear` says whether the job is its own; `flowing` is told whether own events come in."""

    def __init__(self, client: QueueClient, url: str) -> None:
        self._client = client
        self._url = url
        self._stop = threading.Event()

    def start(self, hear: Callable[[BatchJob], bool], flowing: Callable[[bool], None]) -> None:
        threading.Thread(target=self._work, args=(hear, flowing), name="events", daemon=True).start()

    def close(self) -> None:
        """Read no more. Does not wait for a read that is under way."""
        self._stop.set()

    def read(self, hear: Callable[[BatchJob], bool], wait_s: int = _WAIT_S) -> int:
        """One read of up to ten messages; how many were about jobs of ours. Raises what boto3 raises."""
        answer = self._client.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=_AT_ONCE, WaitTimeSeconds=wait_s, AttributeNames=["All"]
        )
        done: list[dict[str, Any]] = []
        back: list[dict[str, Any]] = []
        ours = 0
        for number, message in enumerate(answer.get("Messages") or []):
            handle = {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            job = parse(message.get("Body") or "")
            if job is not None and not hear(job):
                count = str((message.get("Attributes") or {}).get("ApproximateReceiveCount", "1"))
                tries = int(count) if count.isdecimal() else 1
                back.append({**handle, "VisibilityTimeout": min(_BACK_AFTER_MOST_S, _BACK_AFTER_S * tries)})
                continue
            ours += job is not None
            done.append(handle)
        if done:
            self._client.delete_message_batch(QueueUrl=self._url, Entries=done)
        if back:
            self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=back)
        return ours

    @mortal()
    def _work(self, hear: Callable[[BatchJob], bool], flowing: Callable[[bool], None]) -> None:
        tries, told = 0, ""
        while not self._stop.is_set():
            try:
                if self.read(hear):
                    flowing(True)
                tries, told = 0, ""
            except MemoryError:
                raise  # what was heard last may be half-done: this thread dies, and with it the program
            except Exception as error:
                # None may end this thread; the sweep goes on meanwhile.
                tries += 1
                flowing(False)
                if told != (told := one_line(str(error), 300)):
                    log.warning(
                        "the events of %s cannot be read, so jobs are asked about more often: %s. See AWSBATCH_EVENTS_QUEUE_URL;"
                        " condor_awsbatch doctor looks at it.",
                        self._url,
                        told.rstrip("."),
                    )
                self._stop.wait(backoff(tries, 1.0))
