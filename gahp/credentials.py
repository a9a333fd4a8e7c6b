"""boto3 sessions whose credentials are looked for again when those in use are refused and the files of ~/.aws have changed.

boto3 reads keys from a file once and keeps them. A GAHP outlives them: a user whose keys run out writes new ones, and the jobs go
on with those. Keys that work stay in use whatever is written meanwhile: a file may change to another account's for an hour, and
the jobs are not there. What refreshes itself (a role, SSO, a process) is left to do so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import botocore.exceptions
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    import boto3

log = logging.getLogger(__name__)

# Beside every 401 and 403: so S3 answers with 400, and services that speak JSON.
_REFUSALS = {
    *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired", "TokenRefreshRequired"),
    *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException"),
}
# What botocore raises when it has no credentials for a call, which then does not leave. The last came with botocore 1.41.
FAILURES: tuple[type[Exception], ...] = tuple(
    getattr(botocore.exceptions, name)
    for name in (
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "MetadataRetrievalError"),
        *("RefreshWithMFAUnsupportedError", "SSOError", "TokenRetrievalError", "NoAuthTokenError", "LoginError"),
    )
    if hasattr(botocore.exceptions, name)
)
# Where there are none, other places than files are asked again, such as the host: that takes seconds.
_LOOK_AGAIN_S = 30.0


class Credentials:
    """What botocore asks for credentials before each call. `find` looks for them as AWS tools do, and may raise or find none."""

    def __init__(self, find: Callable[[], Any], files: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._refused = False
        self._seen = self._stamp()
        self._looked = clock()
        self._found = find()

    def get_frozen_credentials(self) -> Any:
        """The keys for one call; None when there are none."""
        with self._lock:
            if self._refused or self._found is None:
                self._look()
            found = self._found
        try:
            return found and found.get_frozen_credentials()
        except (BotoCoreError, ClientError):
            self._refused = True
            raise

    def get_deferred_property(self, name: str) -> Callable[[], Any]:
        """What else botocore wants to know of them, asked for when it is needed."""
        return lambda: getattr(self.get_frozen_credentials(), name, None)

    def heed(self, parsed: Any, **_: Any) -> None:
        """Look at the answer to a call: the keys may have been refused."""
        status = parsed.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status in (401, 403) or parsed.get("Error", {}).get("Code") in _REFUSALS:
            self._refused = True

    def _look(self) -> None:
        stamp = self._stamp()
        changed = stamp != self._seen
        self._refused = False
        if not changed and (self._found is not None or self._clock() - self._looked < _LOOK_AGAIN_S):
            return
        self._looked = self._clock()
        try:
            self._found = self._find()
        except BotoCoreError as error:  # half written, it may be: what is in use stays, and the files count as unseen
            log.warning("AWS credentials cannot be read: %s", error)
            self._refused = True
            return
        self._seen = stamp
        if changed:
            log.info("AWS credentials were read again: %s", getattr(self._found, "method", "none found"))

    def _stamp(self) -> list[tuple[int, ...] | None]:
        return [_stamp_of(file) for file in self._files]


def _stamp_of(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(os.path.expanduser(path))
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def session(profile: str, region: str) -> boto3.Session:
    """A boto3 session of a profile and a Region; empty: what the environment says. Raises BotoCoreError when there is no such
    profile."""
    import boto3  # noqa: PLC0415  slow to load, and many a command calls no AWS
    import botocore.session  # noqa: PLC0415

    def find() -> Any:
        return boto3.Session(profile_name=profile or None, region_name=region or None).get_credentials()

    class Provider:
        def load_credentials(self) -> Credentials:
            files = [str(core.get_config_variable(name)) for name in ("credentials_file", "config_file")]
            credentials = Credentials(find, files)
            core.register("after-call", credentials.heed)
            return credentials

    core = botocore.session.Session()
    made = boto3.Session(botocore_session=core, profile_name=profile or None, region_name=region or None)
    core.register_component("credential_provider", Provider())
    return made
