"""What an error of an AWS Batch call means: refused for good, not done and worth another try, or perhaps done.

Sources: botocore's service model (ClientException 400, ServerException 500), AWS's common errors (throttling arrives as HTTP 429
TooManyRequestsException, which the model does not name), botocore.exceptions.
"""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoRegionError,
    ParamValidationError,
    ProfileNotFound,
    ProxyConnectionError,
)

from gahp.credentials import FAILURES
from gahp.model import Refused, Transient, one_line

_THROTTLING = {"TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded", "SlowDown"}
_CREDENTIALS = {
    "ExpiredTokenException",
    "ExpiredToken",
    "RequestExpired",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
}


_SEE_CREDENTIALS = "Check the credentials in ~/.aws, and AWSBATCH_PROFILE."


class Throttled(Transient):
    """The account's call rate is used up; nothing was done."""


class Unsure(Transient):
    """The request may have been carried out although its reply was lost."""


class CredentialsProblem(Transient):
    """The credentials are missing, expired or wrong; nothing was done. They may come back."""


def translate(error: Exception, action: str) -> Refused | Transient:
    """The exception to raise in place of `error`, which came out of a call of `action`."""
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        code = str(details.get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        text = one_line(f"AWS Batch, {action}: {code}: {details.get('Message', '')}", 600)
        if status == 429 or code in _THROTTLING:
            return Throttled(text)
        if code in _CREDENTIALS:
            return CredentialsProblem(f"{text} {_SEE_CREDENTIALS}")
        return Refused(text) if 400 <= status < 500 and status != 408 else Unsure(text)
    text = one_line(f"AWS Batch, {action}: {error}", 600)
    if isinstance(error, FAILURES):
        return CredentialsProblem(f"{text.rstrip('.')}. {_SEE_CREDENTIALS}")
    if isinstance(error, (NoRegionError, ProfileNotFound, ParamValidationError)):
        return Refused(text)
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)):
        return Transient(f"{text}. Check the network, AWSBATCH_REGION and AWSBATCH_ENDPOINT_URL.")
    # Lost on the way, a reply that cannot be read, no memory left to read it: the request may have been carried out all the same.
    return Unsure(text if isinstance(error, (BotoCoreError, OSError)) else f"{text} ({type(error).__name__})")
