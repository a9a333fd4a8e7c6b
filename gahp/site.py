"""Puts the rooms together for one site: from the knobs to a Gateway that is ready to start.

The only place that makes boto3 clients, and so the only one that knows where credentials, Region and endpoint come from.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError

from gahp import credentials
from gahp.batch import Batch, EventQueue
from gahp.config import Config
from gahp.gateway import Gateway, rebuild
from gahp.journal import Damaged, Journal
from gahp.limits import Limiter, Tops
from gahp.meter import tell, watch
from gahp.metrics import outcome
from gahp.model import Refused, Transient, one_line
from gahp.sandbox import Sandbox, Shortcut
from gahp.statedir import trouble

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60


class Clients(NamedTuple):
    """boto3 clients, and what gets objects with less work than the one for S3."""

    batch: Any
    s3: Any
    shortcut: Shortcut | None = None


def clients(config: Config) -> Clients:
    """What calls Batch and S3. Raises Refused when Region or profile are not to be had."""
    try:
        session = credentials.session(config.profile, config.region)
        if session.region_name is None:
            raise Refused("No AWS Region is known: set AWSBATCH_REGION.")
        endpoint = config.endpoint_url or None
        # Nothing is retried by botocore: a SubmitJob must not be, and a wait of a minute belongs into a lane that can show it.
        once = ClientConfig(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            max_pool_connections=config.submit_threads + 8,
        )
        # S3's calls can all be repeated without harm.
        again = ClientConfig(
            retries={"mode": "standard", "total_max_attempts": 4},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            max_pool_connections=4 * config.transfer_threads,
        )
        batch = session.client("batch", endpoint_url=endpoint, config=once)
        s3 = session.client("s3", endpoint_url=endpoint, config=again)
        watch(batch, "batch")
        watch(s3, "s3")
        return Clients(batch, s3, Shortcut(s3, session.get_credentials(), _tell_get))
    except BotoCoreError as error:
        raise Refused(
            one_line(f"AWS cannot be used: {str(error).rstrip('.')}. See AWSBATCH_PROFILE and AWSBATCH_REGION.")
        ) from error


def _tell_get(status: int, seconds: float) -> None:
    # Of S3's 503 the reason, in the body, is not read.
    how = outcome(status, "SlowDown" if status == 503 else "") if status else "lost"
    tell("s3", "GetObject", how, seconds)


def other_client(config: Config, service: str, attempts: int = 3) -> Any:
    """A boto3 client for what is asked beside Batch and S3: logs, events. Raises Refused as `clients` does."""
    try:
        session = credentials.session(config.profile, config.region)
        if session.region_name is None:
            raise Refused("No AWS Region is known: set AWSBATCH_REGION.")
        settings = ClientConfig(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
        )
        client = session.client(service, endpoint_url=config.endpoint_url or None, config=settings)
        watch(client, service)
        return client
    except BotoCoreError as error:
        raise Refused(
            one_line(f"AWS cannot be used: {str(error).rstrip('.')}. See AWSBATCH_PROFILE and AWSBATCH_REGION.")
        ) from error


def events_client(config: Config) -> Any:
    """A boto3 client for SQS. Raises Refused when Region or profile are not to be had."""
    return other_client(config, "sqs", attempts=1)


def limiter(config: Config, patience_s: float = 0.0) -> Limiter:
    """The pace of all calls to Batch, in step with the other GAHPs of this host."""
    tops = Tops(config.terminate_rate, config.submit_rate, config.status_rate, config.call_rate, config.start_rate / 100)
    return Limiter(config.limits_dir or os.path.join(config.state_dir, "limits"), tops, patience_s=patience_s)


def open_gateway(config: Config, on_damage: Callable[[str], None] = lambda _: None) -> Gateway:
    """A Gateway for this site, not yet started. Raises Refused with what has to be set or mended first. `on_damage`: as Journal
    has it."""
    config.require()
    batch_client, s3, shortcut = clients(config)
    sandbox = Sandbox(
        s3,
        config.bucket,
        config.prefix,
        config.transfer_threads,
        config.shared_directories,
        region=config.region or s3.meta.region_name,
        shortcut=shortcut,
    )
    batch = Batch(
        batch_client,
        definition=config.job_definition,
        attempts=config.attempts,
        default_runtime_s=config.default_runtime,
        limiter=limiter(config),
    )
    events = EventQueue(events_client(config), config.events_queue_url) if config.events_queue_url else None
    return Gateway(config, open_journal(config, sandbox, batch, on_damage), sandbox, batch, events=events)


def open_journal(config: Config, sandbox: Sandbox, batch: Batch, on_damage: Callable[[str], None]) -> Journal:
    """The user's journal; a damaged one is set aside and made anew first."""
    try:
        return Journal(config.state_dir, on_damage=on_damage)
    except Damaged as damage:
        try:
            rebuild(config.state_dir, sandbox, batch)
        except (Refused, Transient) as error:
            raise Refused(f"{damage} It cannot be made anew yet: {error}") from error
        except (OSError, sqlite3.Error) as error:
            why = trouble(config.state_dir, error) if isinstance(error, OSError) else error
            raise Refused(f"{damage} It cannot be made anew yet: {why}.") from error
        return Journal(config.state_dir, on_damage=on_damage)
