"""The embedded AWS: an AWS-compatible endpoint on 127.0.0.1 whose Batch jobs are local processes.

For trying out, demonstrations and tests; the GAHP server never imports it. `LocalAws` is the way in.
"""

from gahp.local.handle import Faults, LocalAws

__all__ = ["Faults", "LocalAws"]
