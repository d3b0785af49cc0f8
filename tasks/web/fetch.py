"""The one door of the HTTP client: one request, one answer, and what is to be thought of it.

Promises: an address outside the public internet is refused unless its host is allowed by name, checked on the address that is really
connected to; redirects are results, not followed, so that scope, robots and address checks hold for their targets; time and bytes are
bounded whatever a server does; no fault of a server raises: it becomes `error`. When to ask is the frontier's to say.
Connections are kept and used again (HTTP/1.1), names are asked for every five minutes. Costs about 0.25 ms of CPU an exchange.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from time import monotonic

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.web import urls
from tasks.web.coding import CodingError
from tasks.web.connection import Answer, Bound, Connection, Failure, Headers
from tasks.web.exchange import Fetched

DNS_CACHE_S = 300
_MAX_IDLE = 256  # connections kept open without use, over all hosts
_MAX_IDLE_S = 60
_NAME_THREADS = 64
_ERROR_PAGE_BYTES = 64 * 1024  # of the body of an answer that is no page; read so that the connection can be used again
_CONTACT = re.compile(r"https?://\S+|[^\s@]+@[^\s@]+\.[^\s@]+")
_NO_BODY = -1


class FetchConfig(BaseModel):
    """How the crawler presents itself and how gently it knocks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: str = "gristmill/0.1 (+https://example.org/set-crawl.fetch.agent-to-your-contact)"
    """The User-Agent; begins with the product token that robots.txt rules address and holds a contact (URL or e-mail)."""
    delay_s: float = Field(default=1.0, ge=0)
    """Seconds between an answer of a host and the next request to it; a longer Crawl-delay wins. 0 waits never."""
    concurrency_per_host: int = Field(default=1, ge=1)
    """Requests in flight to one host. With a delay there is never more than one."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight of one worker, over all hosts."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds for one whole request, connection and body included."""
    max_bytes: int = Field(default=5_000_000, ge=1)
    """Bytes of a body, as sent and when decompressed; a larger one is cut off and rejected (rule `too_large`)."""
    accepted_types: tuple[str, ...] = (
        "text/",
        "application/xhtml+xml",
        "application/xml",
        "application/rss+xml",
        "application/atom+xml",
        "application/pdf",
        "application/gzip",
        "application/x-gzip",
    )
    """Beginnings of Content-Type worth a body; others are rejected (rule `content_type`) before it is read."""
    allowed_private_hosts: tuple[str, ...] = ()
    """Host names or addresses (`name` or `name:port`) that may be fetched although they are not on the public internet."""
    retries: int = Field(default=2, ge=0)
    """Further attempts after 429, 503, a timeout or a broken connection."""
    backoff_s: float = Field(default=1.0, ge=0)
    """Pause of the whole host before the first retry; doubles with each."""
    max_retry_after_s: float = Field(default=120.0, ge=0)
    """A host that asks for a longer Retry-After is not asked again."""
    robots_max_age_s: float = Field(default=86_400.0, gt=0)
    """After this a robots.txt is asked for again (RFC 9309 section 2.4: within 24 hours)."""

    @field_validator("agent")
    @classmethod
    def _must_name_a_contact(cls, agent: str) -> str:
        if not _CONTACT.search(agent) or not re.match(r"[A-Za-z_-]+", agent) or not agent.isprintable():
            raise ValueError("must begin with a product token and hold a contact, as in 'mybot/1.0 (+https://example.org/bot)'")
        return agent

    @property
    def product_token(self) -> str:
        """The name that robots.txt groups address (RFC 9309 section 2.2.1: letters, `_` and `-`)."""
        return re.match(r"[A-Za-z_-]+", self.agent)[0]  # type: ignore[index]


class PrivateAddress(OSError):
    """A name or an address that leads outside the public internet."""


@dataclass(frozen=True)
class _Server:
    """Where a URL is fetched from."""

    scheme: str
    host: str
    port: int


class Client:
    """Connections to many servers; of one event loop."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._idle: OrderedDict[Connection, tuple[_Server, float]] = OrderedDict()
        self._addresses: dict[str, tuple[float, list[str]]] = {}
        self._names = ThreadPoolExecutor(_NAME_THREADS)  # of its own: dead names take many seconds, and hold up nothing else
        self._tls: ssl.SSLContext | None = None

    def close(self) -> None:
        """Close what is kept open."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self._names.shutdown(wait=False, cancel_futures=True)

    async def get(self, url: str, conditions: Mapping[str, str] | None = None) -> Fetched:
        """Ask for a canonical URL once.

        Args:
            conditions: further header fields, such as If-None-Match.
        """
        return await self._get(url, conditions or {}, self._config.max_bytes, self._config.accepted_types)

    async def get_beginning(self, url: str, max_bytes: int) -> Fetched:
        """Ask for a canonical URL of any content type, uncompressed; of a larger body only the beginning is kept."""
        got = await self._get(url, {"Accept-Encoding": "identity"}, max_bytes, ("",))
        return replace(got, error=None) if got.error == "too_large" and got.status == 200 else got

    async def _get(self, url: str, conditions: Mapping[str, str], max_bytes: int, accepted: tuple[str, ...]) -> Fetched:
        request = self._request(url, conditions)
        began, opened = monotonic(), list[Connection]()

        def bound(status: int, headers: Headers) -> int:
            if not 200 <= status < 300:
                return min(max_bytes, _ERROR_PAGE_BYTES)
            kind = next((value for name, value in headers if name.lower() == "content-type"), None)
            return max_bytes if _accepts(kind, accepted) else _NO_BODY

        got = Fetched(url, datetime.now(UTC), request=request)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                answer = await self._exchange(_server(url), request, bound, opened)
            got = _judged(replace(got, address=opened[-1].address), answer)
        except TimeoutError:
            got = replace(got, error="timeout", detail=f"no complete answer within {self._config.timeout_s:g} s")
        except PrivateAddress as error:
            got = replace(got, error="private_address", detail=str(error))
        except Failure as error:
            got = replace(got, error="unheard" if error.unused else "bad_response", detail=str(error))
        except (OSError, ssl.SSLError, UnicodeError) as error:
            got = replace(got, error="unreachable", detail=f"{type(error).__name__}: {error}"[:300])
        received = sum(connection.num_received_bytes for connection in opened)
        return replace(got, num_wire_bytes=received, seconds=monotonic() - began)

    def _request(self, url: str, conditions: Mapping[str, str]) -> bytes:
        origin = urls.origin_of(url)
        fields = {
            "Host": origin.partition("://")[2],
            "User-Agent": self._config.agent,
            "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.1",
            "Accept-Encoding": "gzip",
            **conditions,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"GET {url.removeprefix(origin)} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace")

    async def _exchange(self, server: _Server, request: bytes, bound: Bound, opened: list[Connection]) -> Answer:
        """Over a kept connection if there is one, else over a new one, which is noted in `opened`."""
        connection = self._kept(server) or await self._connected(server)
        opened.append(connection)
        try:
            answer = await connection.exchange(request, bound)
        except Failure as failure:
            if failure.unused:  # its other connections are as old
                for one in [one for one, (whose, _) in self._idle.items() if whose == server]:
                    del self._idle[one]
                    one.close()
            raise
        if connection.is_reusable:
            self._keep(server, connection)
        return answer

    def _kept(self, server: _Server) -> Connection | None:
        for found in [one for one, (whose, _) in self._idle.items() if whose == server]:
            del self._idle[found]
            if found.is_reusable:
                return found
        return None

    def _keep(self, server: _Server, connection: Connection) -> None:
        now = monotonic()
        self._idle[connection] = (server, now)
        while self._idle:
            oldest, (_, since) = next(iter(self._idle.items()))
            if len(self._idle) <= _MAX_IDLE and now - since < _MAX_IDLE_S and oldest.is_reusable:
                return
            del self._idle[oldest]
            oldest.close()

    async def _connected(self, server: _Server) -> Connection:
        loop = asyncio.get_running_loop()
        if server.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        tls = self._tls if server.scheme == "https" else None
        failed: OSError | None = None
        addresses = await self._addresses_of(server)
        for address in addresses:
            try:
                # one that swallows packets must leave time for the others
                async with asyncio.timeout(self._config.timeout_s / (1 + len(addresses))):
                    _, connection = await loop.create_connection(
                        Connection, address, server.port, ssl=tls, server_hostname=server.host if tls else None
                    )
            except OSError as error:
                failed = error
            else:
                return connection
        assert failed is not None
        raise failed

    async def _addresses_of(self, server: _Server) -> list[str]:
        """The addresses that may be connected to; what is returned here is what is connected to, so rebinding gains nothing."""
        until, found = self._addresses.get(server.host, (0.0, []))
        if monotonic() >= until:
            ask = partial(socket.getaddrinfo, server.host, server.port, type=socket.SOCK_STREAM)
            answers = await asyncio.get_running_loop().run_in_executor(self._names, ask)
            found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
            self._addresses[server.host] = (monotonic() + DNS_CACHE_S, found)
        if self._is_allowed(server):
            return found
        public = [address for address in found if not urls.forbidden_address(address)]
        if not public:
            raise PrivateAddress(
                f"{server.host} leads to {found[0] if found else 'no address'}, which is not on the public internet, and is not allowed by "
                "name (crawl.fetch.allowed_private_hosts)"
            )
        return public

    def _is_allowed(self, server: _Server) -> bool:
        bracketed = f"[{server.host}]" if ":" in server.host else server.host
        return not {server.host, bracketed, f"{bracketed}:{server.port}"}.isdisjoint(self._config.allowed_private_hosts)


def retry_after_s(got: Fetched) -> float:
    """Seconds asked for by Retry-After, as a number or a date (RFC 9110 section 10.2.3); 0 when absent or unreadable."""
    value = (got.header("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _server(url: str) -> _Server:
    scheme, _, host = urls.origin_of(url).partition("://")
    port = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    return _Server(scheme, urls.hostname_of(url), int(port) if port else 443 if scheme == "https" else 80)


def _accepts(content_type: str | None, accepted: tuple[str, ...]) -> bool:
    return content_type is None or content_type.strip().lower().startswith(accepted)


def _judged(got: Fetched, answer: Answer) -> Fetched:
    """`got` with the answer, and what is to be thought of it."""
    got = replace(
        got,
        status=answer.status,
        reason=answer.reason.decode("latin-1"),
        headers=answer.headers or (),
        is_cut=answer.is_cut,
        body=b"".join(answer.body),
        wire=b"".join(answer.wire),
    )
    location = got.header("Location")
    if answer.status == 304:
        return replace(got, error="not_modified", detail="status 304")
    if 300 <= answer.status < 400 and location is not None:
        return replace(got, error="redirect", redirect_to=location, detail=f"status {got.status} to {location}"[:300])
    if not 200 <= answer.status < 300:
        return replace(got, error="bad_status", detail=f"status {got.status} {got.reason}".rstrip())
    if answer.max_body_bytes == _NO_BODY:
        return replace(got, error="content_type", detail=got.header("Content-Type"))
    if answer.is_cut:
        return replace(got, error="too_large", detail=f"more than {answer.max_body_bytes} bytes")
    return got


def checked(got: Fetched, max_bytes: int) -> tuple[Fetched, bytes]:
    """`got` and its content; where the content cannot be decoded within the limit, `got` says so and the content is empty."""
    if got.error is not None:
        return got, b""
    try:
        return got, got.content(max_bytes)
    except CodingError as error:
        return replace(got, error=error.rule, detail=str(error), body=b""), b""
