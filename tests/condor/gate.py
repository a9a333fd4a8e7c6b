"""The way from a pool to its embedded AWS: a forwarder on 127.0.0.1 that can be closed, like a network that comes and goes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, as a connection that broke


class Gate:
    """Forwards connections to `port`. One thread carries all of them."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wake, self._woken = socket.socketpair()
        self._other: dict[socket.socket, socket.socket] = {}
        self._open = True
        self._stopped = False
        self.refused = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Break all connections and every new one; `refused` counts these."""
        self.refused = 0
        self._open = False
        self._wake.send(b"x")
        try:
            yield
        finally:
            self._open = True

    def stop(self) -> None:
        self._stopped = True
        self._wake.send(b"x")
        self._thread.join()
        for end in (self._listener, self._wake, self._woken):
            end.close()

    def _loop(self) -> None:
        while not self._stopped:
            ready, _, _ = select.select([self._listener, self._woken, *self._other], [], [])
            if self._woken in ready:
                self._woken.recv(1)
            if self._listener in ready:
                self._accept()
            if not self._open:
                self._break(*self._other)
            for end in ready:
                if end in self._other:
                    self._forward(end)
        self._break(*self._other)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if not self._open:
            self.refused += 1
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            near.close()
            return
        far = socket.create_connection(self._target)
        self._other[near], self._other[far] = far, near

    def _forward(self, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 18)
            if data:
                self._other[end].sendall(data)
                return
        except OSError:
            pass
        self._break(end)

    def _break(self, *ends: socket.socket) -> None:
        for end in ends:
            other = self._other.pop(end, None)
            for each in (end, other):
                if each is not None:
                    self._other.pop(each, None)
                    each.close()
