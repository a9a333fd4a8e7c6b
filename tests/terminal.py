"""A program on a terminal, for tests of what people see there."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

PROGRAM = os.path.join(os.path.dirname(sys.executable), "condor_awsbatch")
WAIT_S = 60.0


class Terminal:
    """condor_awsbatch on a terminal of its own, 80 by 24."""

    def __init__(self, environment, *words):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.execve(PROGRAM, [PROGRAM, *words], {**environment, "TERM": "xterm-256color"})
        self.text = b""

    def read(self, done=lambda text: False):
        """What it writes until `done`, or its end."""
        until = time.monotonic() + WAIT_S
        while not done(self.text):
            assert time.monotonic() < until, self.text
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                self.text += data
        return self.text

    def write(self, data):
        os.write(self.fd, data)

    def end(self):
        """Its exit code, after its last words; negative for a signal."""
        self.read()
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)
