"""EventBridge's part for Batch: job state changes of the engine go to the targets of the account's rules.

Rules, patterns and queues are moto's; nothing of HTTP.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
import uuid
from typing import Any

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID

from gahp.local import jobs
from gahp.local.jobs import Job


class Bus:
    """Takes state changes at once and passes them on from a thread of its own, in their order."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._deliver, name="events", daemon=True).start()

    def notice(self, job: Job) -> None:
        """A job has changed its state. Called under the engine's lock."""
        region = job.spec.region
        if not _rules(region):
            return
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Batch Job State Change",
            "source": "aws.batch",
            "account": job.spec.account,
            "time": time.time(),
            "region": region,
            "resources": [job.arn],
            "detail": jobs.detail(job),
        }
        self._events.put((region, event))

    def _deliver(self) -> None:
        while True:
            region, event = self._events.get()
            for rule in _rules(region):
                try:
                    if rule.state == "ENABLED":
                        # Input transformers would need jsonpath-ng; nobody here has one.
                        rule.send_to_targets(event, transform_input=False)
                except Exception:
                    traceback.print_exc()


def _rules(region: str) -> list[Any]:
    bus = get_backend("events")[DEFAULT_ACCOUNT_ID][region].event_buses.get("default")
    return list(bus.rules.values()) if bus else []
