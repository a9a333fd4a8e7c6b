import dataclasses

import pytest

from gahp.history import Attempt, History
from gahp.run import RunState

T = 1_795_000_000.0


@pytest.fixture
def made():
    """Makes a history: accepted at T, RUNNABLE 10 s later, STARTING 40, running 60 to 160, over at 170; or as is given."""

    def make(number=0, **changes):
        base = History(
            name=f"12-{number}-aaaa",
            job_id=f"awsbatch/20261118/12-{number}-aaaa",
            condor_id=f"12.{number}",
            state=RunState.COMPLETED,
            native_id=f"id-{number}",
            queue="q",
            sends=1,
            executable="/bin/sim",
            accepted=T,
            created=T + 10,
            submitted=T + 11,
            stopped=T + 160,
            collecting=T + 161,
            over=T + 170,
            status="SUCCEEDED",
            attempts=(Attempt(started=T + 60, stopped=T + 160, waited=T + 12, starting=T + 40, exit_code=0),),
            cpus=2,
            memory_mib=4096,
            peak_memory_mib=1000,
            exit_code=0,
        )
        return dataclasses.replace(base, **changes)

    return make
