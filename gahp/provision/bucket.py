"""The bucket: found or made, and removed again with what is below its key prefix. Knows S3; nothing of Batch."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from gahp.model import Refused, Transient
from gahp.provision.aws import AlreadyThere, Aws, NotThere
from gahp.provision.settings import PREFIX_TAG, Settings

_DELETE_AT_ONCE = 1000
# Days. Longer than the longest wait and the longest job together, blobs seven more (docs/reliability.md).
_KEEP_RUNS, _KEEP_BLOBS, _KEEP_UPLOADS = 60, 67, 7


def ensure(aws: Aws, settings: Settings) -> bool:
    """Have the bucket, tagged and not public if this program made it. Whether it was made in this run."""
    name, thing = settings.bucket, f"the bucket {settings.bucket}"
    if not _exists(aws, settings):
        try:
            _make(aws, settings)
            aws.persist(lambda: _close_and_tag(aws, settings))
        except _NotMadeRefused:
            raise
        except BaseException:
            # Whatever ends it between making and tagging would leave a bucket that `delete` does not know for ours.
            _take_back(aws, name)
            raise
        aws.did(f"Created {thing}")
        return True
    tags = _tags(aws, name)
    # A bucket of the default name that carries no tags and holds nothing was left by a run that was killed.
    if not tags and name == settings.default_bucket and not _holds_anything(aws, name):
        aws.persist(lambda: _close_and_tag(aws, settings))
        aws.did(f"Created {thing}")
        return True
    used = "Unchanged" if tags.get(PREFIX_TAG) == settings.prefix else "Using what was there before"
    aws.report.say(f"{used}: {thing}")
    return False


class _NotMadeRefused(Refused):
    """S3 has refused to make the bucket."""


class _ElsewhereRefused(Refused):
    """There is a bucket of that name, and it is not ours to use: of another account or Region."""


def _make(aws: Aws, settings: Settings) -> None:
    """Make the bucket, which was not there. One that is there after a reply was lost is the one that was asked for."""
    place = {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    lost = False

    def step() -> None:
        nonlocal lost
        if lost and _exists(aws, settings):
            return
        try:
            aws.change("s3", "CreateBucket", f"the bucket {settings.bucket}", Bucket=settings.bucket, **place)
        except Transient:
            lost = True
            raise
        except AlreadyThere as error:
            raise _NotMadeRefused(f"The bucket name {settings.bucket} is taken: give another with --s3 s3://BUCKET.") from error
        except Refused as error:
            raise _NotMadeRefused(str(error)) from error

    aws.persist(step)


def _close_and_tag(aws: Aws, settings: Settings) -> None:
    """Nothing in it is public, what nobody cleans up expires, it is ours: the tag comes last, and says that it is finished."""
    name, thing = settings.bucket, f"the bucket {settings.bucket}"
    closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    aws.change("s3", "PutPublicAccessBlock", thing, Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(closed, True))
    rules = {"Rules": _rules(settings.key)}
    aws.change("s3", "PutBucketLifecycleConfiguration", thing, Bucket=name, LifecycleConfiguration=rules)
    tags = [{"Key": PREFIX_TAG, "Value": settings.prefix}]
    aws.change("s3", "PutBucketTagging", thing, Bucket=name, Tagging={"TagSet": tags})


def _rules(key: str) -> list[dict[str, Any]]:
    """What becomes of the objects that a machine which is gone has left."""

    def rule(name: str, below: str, **what: Any) -> dict[str, Any]:
        return {"ID": name, "Status": "Enabled", "Filter": {"Prefix": below}, **what}

    return [
        rule("runs", f"{key}/runs/", Expiration={"Days": _KEEP_RUNS}),
        rule("blobs", f"{key}/blobs/", Expiration={"Days": _KEEP_BLOBS}),
        rule("unfinished-uploads", f"{key}/", AbortIncompleteMultipartUpload={"DaysAfterInitiation": _KEEP_UPLOADS}),
    ]


def _take_back(aws: Aws, name: str) -> None:
    """Delete a bucket that was made a moment ago; S3 does so only if it is empty."""
    with contextlib.suppress(Refused, Transient):
        aws.persist(lambda: aws.change("s3", "DeleteBucket", f"the bucket {name}", Bucket=name))


def _exists(aws: Aws, settings: Settings) -> bool:
    thing = f"the bucket {settings.bucket}"
    try:
        found = aws.ask("s3", "HeadBucket", thing, Bucket=settings.bucket)
    except NotThere:
        return False
    except Refused as error:
        if "PermanentRedirect" in str(error) or ": 301" in str(error):
            raise _ElsewhereRefused(
                f"The bucket {settings.bucket} is in another Region than {aws.region}: give another with --s3."
            ) from error
        if "No permission" in str(error):
            raise _ElsewhereRefused(
                f"The bucket {settings.bucket} belongs to another account, or these credentials may not reach it "
                "(s3:ListBucket): give another with --s3 s3://BUCKET."
            ) from error
        raise
    where = found.get("BucketRegion")
    if where and where != aws.region:
        raise _ElsewhereRefused(f"The bucket {settings.bucket} is in {where} and not in {aws.region}: give another with --s3.")
    return True


def _tags(aws: Aws, name: str) -> dict[str, str]:
    try:
        tags = aws.ask("s3", "GetBucketTagging", f"the bucket {name}", Bucket=name)["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in tags}
    except NotThere:
        return {}


def _holds_anything(aws: Aws, name: str) -> bool:
    """Old versions count."""
    found = aws.ask("s3", "ListObjectVersions", f"the bucket {name}", Bucket=name, MaxKeys=1)
    return bool(found.get("Versions") or found.get("DeleteMarkers"))


@dataclasses.dataclass(frozen=True, slots=True)
class Holding:
    """What is known of a bucket before it is removed. `other` is a key that is not the prefix's, if there is one."""

    exists: bool
    ours: bool = False
    objects: int = 0
    other: str = ""


def look(aws: Aws, settings: Settings) -> Holding:
    """Whether the bucket is there, ours, and holds only what lies below the key prefix."""
    try:
        if not _exists(aws, settings):
            return Holding(False)
    except _ElsewhereRefused:
        # It is not ours to remove.
        return Holding(True)
    if _tags(aws, settings.bucket).get(PREFIX_TAG) != settings.prefix:
        return Holding(True)
    objects, other = 0, ""
    for entry in _versions(aws, settings.bucket):
        objects += 1
        if not entry["Key"].startswith(f"{settings.key}/") and not other:
            other = entry["Key"]
    return Holding(True, True, objects, other)


def _versions(aws: Aws, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    marker: dict[str, str] = {}
    while True:
        page = aws.ask("s3", "ListObjectVersions", f"the bucket {name}", Bucket=name, **marker)
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            found.append({"Key": entry["Key"], "VersionId": entry.get("VersionId") or "null"})
        if not page.get("IsTruncated"):
            return found
        marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}


def remove(aws: Aws, settings: Settings) -> None:
    """Empty the bucket of the key prefix's objects and delete it. Raises Refused, having deleted nothing, if it holds others."""
    thing = f"the bucket {settings.bucket}"
    holding = look(aws, settings)
    if not holding.exists or not holding.ours:
        return
    if holding.other:
        raise Refused(
            f"{thing} holds other things than {settings.key}/, such as {holding.other}: it stays as it is. Empty it yourself, or "
            "keep it."
        )
    objects = _versions(aws, settings.bucket)
    for start in range(0, len(objects), _DELETE_AT_ONCE):
        batch = objects[start : start + _DELETE_AT_ONCE]
        answer = aws.change("s3", "DeleteObjects", thing, Bucket=settings.bucket, Delete={"Objects": batch, "Quiet": True})
        if answer.get("Errors"):
            first = answer["Errors"][0]
            raise Refused(f"{thing}: {first.get('Key')} cannot be deleted: {first.get('Code')}: {first.get('Message')}.")
    with contextlib.suppress(NotThere):
        aws.change("s3", "DeleteBucket", thing, Bucket=settings.bucket)
