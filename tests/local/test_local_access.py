"""Who may use the endpoint, and how it speaks HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from gahp.local import site


def refusal(account: Any, service: str, call: str, *, access_key: str = "", secret_key: str = "", **parameters: Any) -> str:
    state = account.aws.state
    client = site.client(service, state.endpoint, access_key or state.access_key, secret_key or state.secret_key)
    with pytest.raises(ClientError) as caught:
        getattr(client, call)(**parameters)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    ("service", "call", "parameters", "code"),
    [
        ("batch", "list_jobs", {"jobQueue": "q"}, "UnrecognizedClientException"),
        ("s3", "list_buckets", {}, "InvalidAccessKeyId"),
        ("iam", "list_roles", {}, "InvalidClientTokenId"),
        ("logs", "describe_log_groups", {}, "UnrecognizedClientException"),
    ],
)
def test_another_access_key_is_refused_as_the_service_words_it(
    account: Any, service: str, call: str, parameters: dict[str, str], code: str
) -> None:
    assert refusal(account, service, call, access_key="AKIAAAAAAAAAAAAAAAAA", **parameters) == code


@pytest.mark.parametrize(
    ("service", "call", "parameters", "code"),
    [
        ("batch", "list_jobs", {"jobQueue": "q"}, "InvalidSignatureException"),
        ("s3", "list_buckets", {}, "SignatureDoesNotMatch"),
    ],
)
def test_a_signature_with_another_secret_is_refused(
    account: Any, service: str, call: str, parameters: dict[str, str], code: str
) -> None:
    assert refusal(account, service, call, secret_key="wrong", **parameters) == code


@pytest.mark.parametrize("path", ["/", "/awsbatch-local/x", "/v1/submitjob", "/moto-api/reset", "/latest/meta-data/"])
def test_an_unsigned_request_is_refused(account: Any, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(account.aws.endpoint + path, data=b"{}", timeout=20)
    assert caught.value.code == 403


@pytest.mark.parametrize("key", ["plain", "with space", "ä+b/c&d=e?f", "a%20b", "dots/../x"])
def test_any_key_can_be_signed_for(account: Any, key: str) -> None:
    account.s3.put_object(Bucket="awsbatch-local", Key=key, Body=b"data", Metadata={"under_score": "x"})
    answer = account.s3.get_object(Bucket="awsbatch-local", Key=key)
    assert (answer["Body"].read(), answer["Metadata"]) == (b"data", {"under_score": "x"})
    listed = account.s3.list_objects_v2(Bucket="awsbatch-local", Prefix=key)["Contents"]
    assert key in [entry["Key"] for entry in listed]


def test_a_presigned_url_works_and_a_changed_one_does_not(account: Any) -> None:
    account.s3.put_object(Bucket="awsbatch-local", Key="shared", Body=b"data")
    import boto3
    from botocore.config import Config

    state = account.aws.state
    signer = boto3.client(
        "s3",
        endpoint_url=state.endpoint,
        region_name="us-east-1",
        aws_access_key_id=state.access_key,
        aws_secret_access_key=state.secret_key,
        config=Config(signature_version="s3v4"),
    )
    url = signer.generate_presigned_url("get_object", Params={"Bucket": "awsbatch-local", "Key": "shared"})
    assert urllib.request.urlopen(url, timeout=20).read() == b"data"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("/shared?", "/secret?"), timeout=20)
    assert caught.value.code == 403


def test_a_connection_serves_many_requests(account: Any) -> None:
    connection = http.client.HTTPConnection(account.aws.endpoint.removeprefix("http://"), timeout=20)
    sockets = []
    for _ in range(3):
        connection.request("GET", "/_local/status", headers={"X-Local-Secret": account.aws.state.secret_key})
        assert connection.getresponse().read().startswith(b"{")
        sockets.append(connection.sock)
    assert sockets[0] is not None
    assert len(set(map(id, sockets))) == 1
    connection.close()


def test_the_control_endpoint_demands_the_secret(account: Any) -> None:
    for headers in ({}, {"X-Local-Secret": "wrong"}):
        request = urllib.request.Request(account.aws.endpoint + "/_local/calls", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        assert caught.value.code == 403


def test_an_object_in_parts_and_conditional_writes_work(account: Any) -> None:
    upload = account.s3.create_multipart_upload(Bucket="awsbatch-local", Key="parts")["UploadId"]
    parts = []
    for number, data in enumerate((b"a" * (5 << 20), b"b"), 1):
        tag = account.s3.upload_part(Bucket="awsbatch-local", Key="parts", UploadId=upload, PartNumber=number, Body=data)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    account.s3.complete_multipart_upload(Bucket="awsbatch-local", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    assert account.s3.head_object(Bucket="awsbatch-local", Key="parts")["ContentLength"] == (5 << 20) + 1
    with pytest.raises(ClientError, match="PreconditionFailed"):
        account.s3.put_object(Bucket="awsbatch-local", Key="parts", Body=b"", IfNoneMatch="*")


def test_bodies_in_chunks_are_taken(account: Any) -> None:
    connection = http.client.HTTPConnection(account.aws.endpoint.removeprefix("http://"), timeout=20)
    chunks = (piece for piece in (b'{"kind": "list_lag", ', b'"seconds": 0}'))
    headers = {"X-Local-Secret": account.aws.state.secret_key}
    connection.request("POST", "/_local/faults", body=chunks, headers=headers, encode_chunked=True)
    assert json.loads(connection.getresponse().read()) == {}
    connection.close()
    assert [fault["kind"] for fault in account.aws.faults.listed()] == ["list_lag"]
