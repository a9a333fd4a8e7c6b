"""What BLAH means: a submit ad becomes a JobRequest, a JobReport becomes a status ad. No I/O, nothing of AWS."""

from gahp.blah.attributes import BadAd
from gahp.blah.status_ad import format_status
from gahp.blah.submit_ad import parse_submit

__all__ = ["BadAd", "format_status", "parse_submit"]
