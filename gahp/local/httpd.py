"""An HTTP/1.1 server for one WSGI application, with connections that stay open and a thread for each.

werkzeug's own server closes every connection after one answer; a client that makes thousands of small calls would spend most of
its time on connecting. Request headers reach the application as they came, in `gahp.headers`.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import struct
import sys
import threading
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

from moto.core.request import (
    PRESERVED_HEADER_NAMES_ENVIRON_KEY,
    environ_key_for_header,
    should_preserve_original_header_name,
)

from gahp.local.front import Drop, Wsgi

_LARGEST_CHUNK = 1 << 30


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    _bodyless: ClassVar[tuple[int, ...]] = (204, 304)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _serve(self) -> None:
        try:
            body = self._body()
        except ValueError:
            self.send_error(400)
            self.close_connection = True
            return
        answer: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
            answer[:] = [int(status[:3]), headers]

        try:
            content = b"".join(self.server.application(self._environ(body), start_response))
        except Drop as drop:
            self._drop(reset=drop.reset)
            return
        self._reply(answer[0], answer[1], content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = _serve

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(1000).split(b";")[0], 16):
            if size > _LARGEST_CHUNK:
                raise ValueError(size)
            parts.append(self.rfile.read(size))
            self.rfile.readline(10)
        while self.rfile.readline(65536).strip():
            pass
        return b"".join(parts)

    def _environ(self, body: bytes) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        host, port = self.server.server_address[:2]
        environ: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "REQUEST_URI": self.path,
            "RAW_URI": self.path,
            "REMOTE_ADDR": self.client_address[0],
            "SERVER_NAME": str(host),
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": self.request_version,
            "CONTENT_LENGTH": str(len(body)),
        }
        sent: dict[str, list[str]] = {}
        preserved: dict[str, str] = {}
        for name, value in self.headers.items():
            sent.setdefault(name.lower(), []).append(value)
            if "_" in name and should_preserve_original_header_name(name):
                preserved[environ_key_for_header(name)] = name
        for name, values in sent.items():
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
                environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = ",".join(values)
        environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = preserved
        environ["gahp.headers"] = sent
        return environ

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        given = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding") and (
                name.lower() != "content-length" or self.command == "HEAD"
            ):
                self.send_header(name, value)
        if "date" not in given:
            self.send_header("Date", self.date_time_string())
        empty = self.command == "HEAD" or status in self._bodyless
        if not empty or (self.command == "HEAD" and "content-length" not in given):
            self.send_header("Content-Length", str(len(content)))
        self._headers_buffer.append(b"\r\n")  # type: ignore[attr-defined]  # one packet for all of a small answer
        if not empty:
            self._headers_buffer.append(content)  # type: ignore[attr-defined]
        self.flush_headers()

    def _drop(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # Lingering for no time at all makes the kernel send a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            if not reset:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are kept by the front, and a line for each would fill the disk."""


class Server(http.server.ThreadingHTTPServer):
    """Serves `application` on 127.0.0.1; port 0 picks a free one."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, application: Wsgi | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._application = application

    @property
    def application(self) -> Wsgi:
        assert self._application is not None
        return self._application

    @application.setter
    def application(self, application: Wsgi) -> None:
        self._application = application

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to tell; anything else is a bug of this program, and goes into its log."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, ValueError, OSError)):
            super().handle_error(request, client_address)
