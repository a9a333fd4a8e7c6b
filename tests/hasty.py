"""`condor_awsbatch orphans` for tests that cannot wait an hour: --unasked may be less."""

import sys

_PROGRAM = "import sys; from gahp.cli import main, orphans; orphans.LEAST_H = 0; sys.exit(main.main(['orphans', *sys.argv[1:]]))"
ORPHANS = [sys.executable, "-c", _PROGRAM]
