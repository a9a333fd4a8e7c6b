"""Each kind of error is told apart by whether the request may have been carried out."""

import botocore.exceptions as aws
import pytest

from gahp.batch.errors import CredentialsProblem, Throttled, Unsure, translate
from gahp.model import Refused, Transient


def answer(status, code, message="why"):
    return aws.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "SubmitJob"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answer(400, "ClientException"), Refused),
        (answer(403, "AccessDeniedException"), Refused),
        (answer(429, "TooManyRequestsException"), Throttled),
        (answer(400, "ThrottlingException"), Throttled),
        (answer(403, "ExpiredTokenException"), CredentialsProblem),
        (answer(403, "UnrecognizedClientException"), CredentialsProblem),
        (answer(500, "ServerException"), Unsure),
        (answer(503, "ServiceUnavailable"), Unsure),
        (aws.NoCredentialsError(), CredentialsProblem),
        (aws.CredentialRetrievalError(provider="custom-process", error_msg="exit code 1"), CredentialsProblem),
        (aws.UnauthorizedSSOTokenError(), CredentialsProblem),
        (aws.SSOTokenLoadError(error_msg="no token"), CredentialsProblem),
        (aws.TokenRetrievalError(provider="sso", error_msg="expired"), CredentialsProblem),
        (aws.RefreshWithMFAUnsupportedError(), CredentialsProblem),
        (aws.EndpointConnectionError(endpoint_url="http://x"), Transient),
        (aws.ConnectTimeoutError(endpoint_url="http://x"), Transient),
        (aws.ReadTimeoutError(endpoint_url="http://x"), Unsure),
        (aws.ConnectionClosedError(endpoint_url="http://x"), Unsure),
        (ConnectionResetError(104, "reset"), Unsure),
        (answer(408, "RequestTimeout"), Unsure),
        (answer(302, "302"), Unsure),
        # What botocore makes of a reply that something on the way has mangled, and what ends any call when memory is short.
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), Unsure),
        (AttributeError("'list' object has no attribute 'get'"), Unsure),
        (TypeError("'NoneType' object is not iterable"), Unsure),
        (RuntimeError("can't start new thread"), Unsure),
        (MemoryError(), Unsure),
        (aws.ParamValidationError(report="bad"), Refused),
    ],
)
def test_an_error_means_refused_not_done_or_perhaps_done(error, kind):
    assert type(translate(error, "SubmitJob")) is kind


def test_the_sentence_names_the_service_the_call_and_the_reason_in_one_line():
    assert str(translate(answer(400, "ClientException", "no\nsuch queue"), "SubmitJob")) == (
        "AWS Batch, SubmitJob: ClientException: no such queue"
    )
