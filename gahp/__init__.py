"""The AWS Batch GAHP: HTCondor jobs on AWS Batch with `grid_resource = batch awsbatch`."""

import datetime

__version__ = "0.1.0"
RELEASE_DAY = datetime.date(2026, 11, 23)
