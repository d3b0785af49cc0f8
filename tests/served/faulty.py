"""A proxy before an S3 server that does to requests what networks and busy stores do; which one when follows from a seed."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BUSY = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>told by the test</Message></Error>"
FAULTS = {
    "busy": "503 SlowDown, nothing done",
    "broken": "500 InternalError, nothing done",
    "unthanked": "done, but answered 500",
    "hung up": "connection closed without an answer",
    "cut up": "connection closed in the middle of what is sent, on both sides",
    "cut down": "connection closed in the middle of the answer",
    "slow": "half a second late",
    "silent": "no answer for longer than anybody waits",
}


class Faulty(ThreadingHTTPServer):
    """The proxy; `happened` counts what it did."""

    daemon_threads = True

    def __init__(self, upstream: str, shares: Mapping[str, float], seed: int, max_silent: int = 1, silence_s: float = 20) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.shares, self.silent_left, self.silence_s = dict(shares), max_silent, silence_s
        self.happened: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self, has_body: bool, is_read: bool) -> str:
        """What happens to the next request; "" for nothing."""
        with self._lock:
            (fault,) = self._random.choices([*self.shares, ""], [*self.shares.values(), 1 - sum(self.shares.values())])
            fits = {"cut up": has_body, "cut down": is_read, "silent": self.silent_left > 0}
            fault = fault if fits.get(fault, True) else ""
            self.silent_left -= fault == "silent"
            self.happened[fault or "well"] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    server: Faulty
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.server.next_fault(length > 1, self.command == "GET")
        if fault == "cut up":
            self._forward_half(self.rfile.read(length // 2))
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault == "slow":
            time.sleep(0.5)
        if fault == "silent":
            time.sleep(self.server.silence_s)
        if fault in ("silent", "hung up"):
            self._hang_up()
        elif fault == "busy":
            self._answer(503, {}, BUSY % b"SlowDown")
        elif fault == "broken":
            self._answer(500, {}, BUSY % b"InternalError")
        else:
            status, headers, answer = self._forward(body)
            if fault == "unthanked":
                self._answer(500, {}, BUSY % b"InternalError")
            elif fault == "cut down" and len(answer) > 1:
                self._answer(status, headers, answer, cut=len(answer) // 2)
                self._hang_up()
            else:
                self._answer(status, headers, answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.request(self.command, self.path, body or None, self._headers())
        found = connection.getresponse()
        answer, headers = found.read(), dict(found.getheaders())
        connection.close()
        return found.status, headers, answer

    def _forward_half(self, half: bytes) -> None:
        host, _, port = self.server.upstream.partition(":")
        lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self._headers().items())]
        with socket.create_connection((host, int(port))) as upstream:
            upstream.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + half)

    def _headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        size = headers.get("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(size or 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the client's errors tell."""


@contextmanager
def faulty(upstream: str, shares: Mapping[str, float], seed: int = 0, **more: float) -> Iterator[Faulty]:
    """A proxy that serves until the block ends."""
    with Faulty(upstream, shares, seed, **more) as proxy:  # type: ignore[arg-type]
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
