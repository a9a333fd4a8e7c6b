"""The gateway: joins journal, sandbox and batch into the verbs of the GAHP."""

from gahp.gateway.gateway import Gateway
from gahp.gateway.rebuild import rebuild

__all__ = ["Gateway", "rebuild"]
