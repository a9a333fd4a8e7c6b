"""A GAHP that answers everything at once and does nothing: HTCondor's own ceiling. One thread, no disk, standard library only.

The first BLAH_JOB_STATUS of a job says RUNNING, every later one COMPLETED.
"""

from __future__ import annotations

import os

_COMMANDS = (
    b"ASYNC_MODE_OFF ASYNC_MODE_ON BLAH_JOB_CANCEL BLAH_JOB_REFRESH_PROXY BLAH_JOB_STATUS BLAH_JOB_SUBMIT BLAH_PING COMMANDS "
    b"CONDOR_VERSION QUIT RESPONSE_PREFIX RESULTS VERSION"
)
_CONDOR = b"$CondorVersion:\\ 25.0.0\\ 2026-01-01\\ $"
_VERSION = b"$GahpVersion: 1.0.0 Nov 22 2026 instant\\ gahp $"


class Instant:
    """One conversation: bytes in, bytes out."""

    def __init__(self) -> None:
        self._unfinished = b""
        self._prefix = b""
        self._asynchronous = self._announced = self.over = False
        self._results: list[bytes] = []
        self._seen: dict[bytes, bool] = {}

    def receive(self, data: bytes) -> bytes:
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        out: list[bytes] = []
        for line in lines:
            self._take(line.rstrip(b"\r").split(b" ", 2), out)
        return b"".join(out)

    def _take(self, words: list[bytes], out: list[bytes]) -> None:
        result = b""
        prefix, reply = self._prefix, b"S"
        match words[0]:
            case b"BLAH_JOB_SUBMIT":
                job = b"instant/20261122/%d" % len(self._seen)
                self._seen[job] = False
                result = words[1] + b" 0 No\\ error " + job
            case b"BLAH_JOB_STATUS":
                result = words[1] + self._status(words[2])
            case b"BLAH_PING" | b"BLAH_JOB_CANCEL" | b"BLAH_JOB_REFRESH_PROXY":
                result = words[1] + b" 0 No\\ error"
            case b"RESULTS":
                reply = b"\r\n".join([b"S %d" % len(self._results), *(prefix + each for each in self._results)])
                self._results.clear()
                self._announced = False
            case b"RESPONSE_PREFIX":
                self._prefix = words[1]
            case b"ASYNC_MODE_ON" | b"ASYNC_MODE_OFF":
                self._asynchronous, self._announced = words[0] == b"ASYNC_MODE_ON", False
            case b"COMMANDS":
                reply = b"S " + _COMMANDS
            case b"CONDOR_VERSION":
                reply = b"S " + _CONDOR
            case b"VERSION":
                reply = b"S " + _VERSION
            case b"QUIT":
                self.over = True
            case _:
                reply = b"E"
        out.append(prefix + reply + b"\r\n")
        if result:
            self._results.append(result)
            if self._asynchronous and not self._announced:
                self._announced = True
                out.append(self._prefix + b"R\r\n")

    def _status(self, job: bytes) -> bytes:
        over, self._seen[job] = self._seen.get(job, True), True
        ending = b";\\ ExitBySignal\\ =\\ false;\\ ExitCode\\ =\\ 0" if over else b""
        state = b"4" if over else b"2"
        return b' 0 No\\ error %s [\\ BatchJobId\\ =\\ "%s";\\ JobStatus\\ =\\ %s%s\\ ]' % (state, job, state, ending)


def main() -> None:
    talk = Instant()
    os.write(1, _VERSION + b"\r\n")
    while not talk.over and (data := os.read(0, 1 << 20)):
        out = talk.receive(data)
        while out:
            out = out[os.write(1, out) :]


if __name__ == "__main__":
    main()
