"""What became of many jobs: where their time, memory and money went, as figures, and as one page that needs nothing else."""

from gahp.report.figures import Job, Report, examine
from gahp.report.page import render
from gahp.report.prices import Price, Prices, read_prices
from gahp.report.tables import as_csv, as_json

__all__ = ["Job", "Price", "Prices", "Report", "as_csv", "as_json", "examine", "read_prices", "render"]
