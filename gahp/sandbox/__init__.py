"""A job's sandbox: its input into S3, its output out of S3, and the runner that executes in the container.

Knows S3 (a boto3 client that is handed in) and the model; nothing of AWS Batch, nothing of ClassAds.

    check(request)                    local files and names only, in milliseconds; raises model.Refused
    Sandbox(client, bucket, prefix)   stage, collect, refresh_proxy, discard, probe; raise model.Refused or model.Transient
    JobPart                           what one job needs of a manifest, between `prepare` and `put` or `put_pack`
    Shortcut                          gets objects as the boto3 client does, with less work
    Outcome                           how a run ended, as its runner recorded it
"""

from gahp.sandbox.checks import check
from gahp.sandbox.facade import Sandbox
from gahp.sandbox.manifest import JobPart
from gahp.sandbox.outcome import Outcome
from gahp.sandbox.shortcut import Shortcut

__all__ = ["JobPart", "Outcome", "Sandbox", "Shortcut", "check"]
