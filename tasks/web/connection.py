"""One HTTP/1.1 connection, which remembers the bytes on the wire: a request goes out, an answer comes back, whole or with what is wrong.

llhttp (through httptools) reads the answers, as forgiving as browsers are about line ends and stray blanks. Nothing is decoded but the
transfer coding. What a server does wrong is a `Failure`, never another exception; how long it may take is the caller's to limit.
Costs about 0.1 ms an exchange; memory is that of one answer, whose size the caller bounds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD_BYTES = 64 * 1024
"""Status line and headers of an answer, interim answers included; nginx and Apache send at most 8 and 64 KiB."""
_MAX_CHUNK_OVERHEAD = 8  # times a body's bound that its chunks may take on the wire: chunks of one byte take six
_HEAD_END = re.compile(rb"\n\r?\n")
Headers = tuple[tuple[str, str], ...]
Bound = Callable[[int, Headers], int]
"""How many bytes of a body are worth having, by its status and headers."""


class Failure(Exception):
    """What a server did wrong; `unused` when a kept connection was closed before it was used again, which is nobody's fault."""

    def __init__(self, what: str, *, unused: bool = False) -> None:
        super().__init__(what)
        self.unused = unused


@dataclass
class Answer:
    """What has come of an answer so far."""

    bound: Bound
    wire: list[bytes] = field(default_factory=list)
    status: int = 0
    reason: bytes = b""
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    headers: Headers | None = None
    """None until the head is complete."""
    body: list[bytes] = field(default_factory=list)
    num_wire_bytes: int = 0
    num_body_bytes: int = 0
    max_body_bytes: int = 0
    is_whole: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether the body was larger than its bound."""
        return self.num_body_bytes > self.max_body_bytes

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body has no length of its own (RFC 9112 section 6.3)."""
        names = {name.lower() for name, _ in self.headers or ()}
        return self.headers is not None and names.isdisjoint(("content-length", "transfer-encoding"))


class Connection(asyncio.Protocol):
    """A connection to one server; one exchange at a time."""

    def __init__(self) -> None:
        self.is_reusable = False
        self.num_exchanges = 0
        self.num_received_bytes = 0
        """Of the exchange that goes on or was the last."""
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._ended: asyncio.Future[None] | None = None
        self._parser: HttpResponseParser | None = None

    @property
    def address(self) -> str | None:
        """IP address of the server."""
        peer = self._transport.get_extra_info("peername") if self._transport else None
        return peer[0] if peer else None

    async def exchange(self, request: bytes, bound: Bound) -> Answer:
        """Send a request and wait for its answer; afterwards `is_reusable` tells whether another may follow.

        Raises:
            Failure: no answer that can be read came of it.
        """
        assert self._transport is not None and self._ended is None
        if self._transport.is_closing():
            raise Failure("the connection was closed", unused=self.num_exchanges > 0)
        self.is_reusable = False
        self.num_received_bytes = 0
        self._answer = answer = Answer(bound)
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_optional_lf_after_cr=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_data_after_close=True,
            lenient_version=True,
        )
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._ended
        finally:
            self._answer = self._ended = self._parser = None
            self.num_exchanges += 1
            if not self.is_reusable:
                self.close()
        return answer

    def close(self) -> None:
        """Close it without waiting for what may still come."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or self._parser is None or self._is_over:
            self.is_reusable = False  # bytes that nobody asked for
            self.close()
            return
        answer.wire.append(data)
        answer.num_wire_bytes += len(data)
        self.num_received_bytes = answer.num_wire_bytes
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._end(Failure("the server wants another protocol"))
        except HttpParserCallbackError as error:
            raise error.__context__ or error from None  # a mistake of ours
        except HttpParserError as error:
            self.is_reusable = False  # also where it comes behind a whole answer
            self._end(Failure(f"not HTTP as we know it: {error}"))
        else:
            if answer.headers is None and answer.num_wire_bytes > MAX_HEAD_BYTES:
                self._end(Failure(f"more than {MAX_HEAD_BYTES} bytes of headers"))
            elif answer.num_wire_bytes > MAX_HEAD_BYTES + _MAX_CHUNK_OVERHEAD * max(answer.max_body_bytes, MAX_HEAD_BYTES):
                self._end(Failure(f"{answer.num_wire_bytes} bytes on the wire for {answer.num_body_bytes} of a body"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_reusable = False
        answer = self._answer
        if answer is None:
            return
        if exc is None and answer.ends_with_connection:
            answer.is_whole = True
            self._end(None)
        elif answer.num_wire_bytes:
            self._end(
                Failure(f"the connection ended after {answer.num_wire_bytes} bytes of an unfinished answer ({exc or 'closed'})")
            )
        else:
            self._end(Failure(f"the connection ended before an answer ({exc or 'closed'})", unused=self.num_exchanges > 0))

    @property
    def _is_over(self) -> bool:
        """Whether what comes now belongs to no answer that anybody waits for."""
        return self._ended is None or self._ended.done()

    def on_message_begin(self) -> None:
        if self._is_over:
            self.is_reusable = False  # a second answer where one was asked for

    def on_status(self, status: bytes) -> None:
        if self._answer and not self._is_over:
            self._answer.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer and self._answer.headers is None:  # those after a chunked body are trailers
            self._answer.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None or self._parser is None or self._is_over:
            return
        answer.status = self._parser.get_status_code()
        answer.headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers)
        answer.max_body_bytes = answer.bound(answer.status, answer.headers)
        if answer.max_body_bytes < 0:
            answer.num_body_bytes = 0
            self._end(None)

    def on_body(self, body: bytes) -> None:
        answer = self._answer
        if answer is None or self._is_over:
            return
        answer.body.append(body)
        answer.num_body_bytes += len(body)
        if answer.is_cut:
            self._end(None)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None or self._parser is None or self._is_over:
            return
        if HTTPStatus.CONTINUE <= answer.status < HTTPStatus.OK:  # an interim answer, which is no part of what is kept
            rest = _HEAD_END.split(b"".join(answer.wire), maxsplit=1)[-1]
            answer.wire, answer.raw_headers, answer.headers, answer.reason = [rest], [], None, b""
            return
        answer.is_whole = True
        self.is_reusable = self._parser.should_keep_alive() and not answer.ends_with_connection
        self._end(None)

    def _end(self, failure: Failure | None) -> None:
        if self._ended is not None and not self._ended.done():
            if failure is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(failure)
