"""The GAHP protocol without I/O: bytes in, bytes and requests out.

Knows lines, commands and results; nothing of ClassAds, AWS, threads or files. docs/protocol.md says the same in prose.
"""

from gahp.protocol.results import Result, done, failed, status, submitted
from gahp.protocol.session import Request, Session, version_text

__all__ = ["Request", "Result", "Session", "done", "failed", "status", "submitted", "version_text"]
