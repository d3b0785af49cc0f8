"""The one door of the HTTP client: fetches batches of URLs the way a webmaster would want it, and says what came of each.

Promises: between the answer to one request and the next request to the same host lie at least `delay_s` (or the longer
Crawl-delay), also across batches; never more than `concurrency_per_host` in flight; an address outside the public internet is
refused unless its host is allowed by name, checked on the address that is really connected to; redirects are results, not
followed, so that scope, robots and address checks hold for their targets. No fault of a server raises: it becomes `error`.
Costs about 0.4 ms of CPU per page; memory is that of the bodies of one batch.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import BaseModel, ConfigDict, Field, field_validator
from yarl import URL

from tasks.web import urls
from tasks.web.coding import CodingError, decoded
from tasks.web.frontier import FetchOrder
from tasks.web.robots import MAX_ROBOTS_BYTES, Robots

_CHUNK_BYTES = 64 * 1024
_ROBOTS_REDIRECTS = 5  # RFC 9309 section 2.3.1.2: at least five consecutive redirects
TDMREP = "/.well-known/tdmrep.json"
_TRY_AGAIN = frozenset({"unreachable", "timeout", "bad_response"})
_CONTACT = re.compile(r"https?://\S+|[^\s@]+@[^\s@]+\.[^\s@]+")


class FetchConfig(BaseModel):
    """How the crawler presents itself and how gently it knocks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: str = "gristmill/0.1 (+https://example.org/set-crawl.fetch.agent-to-your-contact)"
    """The User-Agent; begins with the product token that robots.txt rules address and holds a contact (URL or e-mail)."""
    delay_s: float = Field(default=1.0, ge=0)
    """Seconds between an answer of a host and the next request to it; a longer Crawl-delay wins. 0 waits never."""
    concurrency_per_host: int = Field(default=1, ge=1)
    """Requests in flight to one host. With a delay they overlap only while bodies are read."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds for one whole request, connection and body included."""
    max_bytes: int = Field(default=5_000_000, ge=1)
    """Bytes of a body, as sent and when decompressed; a larger one is cut off and rejected (rule `too_large`)."""
    accepted_types: tuple[str, ...] = (
        "text/",
        "application/xhtml+xml",
        "application/xml",
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

    @field_validator("agent")
    @classmethod
    def _must_name_a_contact(cls, agent: str) -> str:
        if not _CONTACT.search(agent) or not re.match(r"[A-Za-z_-]+", agent):
            raise ValueError("must begin with a product token and hold a contact, as in 'mybot/1.0 (+https://example.org/bot)'")
        return agent

    @property
    def product_token(self) -> str:
        """The name that robots.txt groups address (RFC 9309 section 2.2.1: letters, `_` and `-`)."""
        return re.match(r"[A-Za-z_-]+", self.agent)[0]  # type: ignore[index]


@dataclass(frozen=True)
class Fetched:
    """What came of one order. `error` is None for a page (status 2xx, complete body), else a rule: redirect, bad_status,
    too_large, content_type, bad_coding, timeout, unreachable, bad_response, private_address, robots; `detail` is for people."""

    url: str
    date: datetime
    status: int | None = None
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    """As received after transfer decoding: still under its Content-Encoding, see `content`."""
    redirect_to: str | None = None
    """The Location of a 3xx as sent."""
    error: str | None = None
    detail: str | None = None

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def values(self, name: str) -> list[str]:
        """All headers of that name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def content(self, max_bytes: int) -> bytes:
        """The body without its Content-Encoding; raises CodingError."""
        return decoded(self.body, self.header("Content-Encoding"), max_bytes)


def crawl_batch(orders: Sequence[FetchOrder], robots: Mapping[str, Robots], config: FetchConfig) -> list[Fetched]:
    """Fetches `orders`, hosts side by side, and returns one result each, in the order given. `robots` is keyed by origin; an
    order without it is refused. Blocks; brings an event loop of its own. No two calls at a time may share a host."""
    return asyncio.run(_crawl([order.url for order in orders], robots, config))


def fetch_robots(origins: Iterable[str], config: FetchConfig) -> dict[str, Robots]:
    """robots.txt of every origin (`https://host`), following up to five redirects; an unreachable one allows nothing. Of origins that
    answered, also /.well-known/tdmrep.json."""
    return asyncio.run(_crawl_robots(sorted(set(origins)), config))


async def _crawl(pages: list[str], robots: Mapping[str, Robots], config: FetchConfig) -> list[Fetched]:
    queues: defaultdict[str, deque[int]] = defaultdict(deque)
    for place, page in enumerate(pages):
        queues[urls.host_of(page)].append(place)
    results: list[Fetched | None] = [None] * len(pages)

    async def work(host: _Host, queue: deque[int]) -> None:
        while queue:
            place = queue.popleft()
            rules = robots.get(urls.origin_of(pages[place]))
            if rules is None or not rules.allows(pages[place]):
                results[place] = _failed(pages[place], "robots", "disallowed by robots.txt, or its robots.txt is not known")
            else:
                results[place] = await host.fetch(pages[place])

    async with _session(config) as session, asyncio.TaskGroup() as group:
        for queue in queues.values():
            rules = robots.get(urls.origin_of(pages[queue[0]]))
            host = _Host(session, config, max(config.delay_s, (rules.crawl_delay_s if rules else None) or 0.0))
            for _ in range(min(config.concurrency_per_host, len(queue))):
                group.create_task(work(host, queue))
    return [result for result in results if result is not None]


async def _crawl_robots(origins: list[str], config: FetchConfig) -> dict[str, Robots]:
    limited = config.model_copy(update={"max_bytes": MAX_ROBOTS_BYTES + 1, "accepted_types": ("",)})
    async with _session(limited, coding="identity") as session:
        hosts = [_Host(session, limited, config.delay_s, cuts_bodies=True) for _ in origins]
        found = await asyncio.gather(*(_rules_of(o, host, config) for o, host in zip(origins, hosts, strict=True)))
    return dict(zip(origins, found, strict=True))


async def _rules_of(origin: str, host: _Host, config: FetchConfig) -> Robots:
    robots = _as_robots(await _robots_of(origin, host), config.product_token)
    if robots.status is None or not robots.allows(origin + TDMREP):
        return robots
    got = await host.fetch(origin + TDMREP)
    try:
        text = got.content(MAX_ROBOTS_BYTES).decode("utf-8-sig", "replace") if got.error is None else ""
    except CodingError:
        text = ""
    return replace(robots, tdmrep=text if text.lstrip().startswith("[") else "")


async def _robots_of(origin: str, host: _Host) -> Fetched:
    got = await host.fetch(f"{origin}/robots.txt")
    for _ in range(_ROBOTS_REDIRECTS):
        target = urls.resolve(got.url, got.redirect_to) if got.redirect_to is not None else None
        if target is None:
            break
        got = await host.fetch(target)
    return got


def _as_robots(got: Fetched, agent: str) -> Robots:
    if got.error == "redirect":
        # RFC 9309 section 2.3.1.2: after too many redirects the file counts as unavailable, which allows
        return Robots(agent, HTTPStatus.NOT_FOUND)
    if got.error not in (None, "bad_status"):
        return Robots(agent, None, failure=got.error, detail=got.detail or "")
    try:
        return Robots.from_response(got.status, got.content(2 * MAX_ROBOTS_BYTES), agent)
    except CodingError as error:
        return Robots(agent, None, failure=error.rule, detail=f"robots.txt: {error}")


class _Host:
    """The manners towards one host: turns, pauses and retries."""

    def __init__(self, session: aiohttp.ClientSession, config: FetchConfig, delay_s: float, *, cuts_bodies: bool = False) -> None:
        self._session, self._config, self._delay_s, self._cuts_bodies = session, config, delay_s, cuts_bodies
        self._turn = asyncio.Lock()
        # the last batch may have ended on another worker a moment ago: the first request waits too
        self._free_at_s = _now_s() + delay_s

    async def fetch(self, url: str) -> Fetched:
        """One URL with its retries."""
        refusal = _refusal(url, self._config)
        if refusal:
            return _failed(url, "private_address", refusal)
        for attempt in range(self._config.retries + 1):
            got = await self._attempt(url)
            pause_s = self._pause_s(got, attempt)
            if pause_s is None:
                break
            self._free_at_s = max(self._free_at_s, _now_s() + pause_s)
        return got

    def _pause_s(self, got: Fetched, attempt: int) -> float | None:
        """Seconds to leave the host alone before the next attempt; None when there is none."""
        busy = got.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        if attempt == self._config.retries or not (busy or got.error in _TRY_AGAIN):
            return None
        asked_s = _retry_after_s(got) if busy else 0.0
        return max(asked_s, self._config.backoff_s * 2**attempt) if asked_s <= self._config.max_retry_after_s else None

    async def _attempt(self, url: str) -> Fetched:
        got = Fetched(url, datetime.now(UTC))
        try:
            async with await self._ask(url) as response:
                got = _head(got, response)
                content_type = got.header("Content-Type")
                if not got.error and not _accepts(content_type, self._config.accepted_types):
                    return replace(got, error="content_type", detail=content_type)
                return await self._with_body(got, response)
        except TimeoutError:
            return replace(got, error="timeout", detail=f"no complete answer within {self._config.timeout_s:g} s")
        except aiohttp.ClientConnectorDNSError as error:
            private = isinstance(error.os_error, _PrivateAddressError)
            return replace(got, error="private_address" if private else "unreachable", detail=str(error.os_error))
        except (aiohttp.ClientConnectionError, OSError) as error:
            return replace(got, error="unreachable", detail=f"{type(error).__name__}: {error}"[:300])
        except (aiohttp.ClientError, ValueError) as error:
            return replace(got, error="bad_response", detail=f"{type(error).__name__}: {error}"[:300])

    async def _ask(self, url: str) -> aiohttp.ClientResponse:
        """Waits for this host's turn, sends the request, returns when the head of the answer is here."""
        target = URL(url, encoded=True)
        if not self._delay_s:
            await asyncio.sleep(max(0.0, self._free_at_s - _now_s()))
            return await self._session.get(target, allow_redirects=False)
        # the turn is kept until the answer begins: only so is the delay provable at the server
        async with self._turn:
            while (wait_s := self._free_at_s - _now_s()) > 0:
                await asyncio.sleep(wait_s)
            try:
                return await self._session.get(target, allow_redirects=False)
            finally:
                self._free_at_s = max(self._free_at_s, _now_s() + self._delay_s)

    async def _with_body(self, got: Fetched, response: aiohttp.ClientResponse) -> Fetched:
        """Reads the body within its limit; the body of an error page or a redirect is not kept."""
        max_bytes = self._config.max_bytes
        parts, num_bytes = [], 0
        async for part in response.content.iter_chunked(_CHUNK_BYTES):
            parts.append(part)
            num_bytes += len(part)
            if num_bytes > max_bytes or got.error:
                break
        if got.error:
            return got
        if num_bytes > max_bytes and not self._cuts_bodies:
            return replace(got, error="too_large", detail=f"more than {max_bytes} bytes")
        got = replace(got, body=b"".join(parts))
        try:
            got.content(2 * max_bytes if self._cuts_bodies else max_bytes)
        except CodingError as error:
            return replace(got, error=error.rule, detail=str(error), body=b"")
        return got


def _head(got: Fetched, response: aiohttp.ClientResponse) -> Fetched:
    """`got` with status and headers, and with the verdict that they alone give."""
    headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in response.raw_headers)
    got = replace(got, status=response.status, reason=response.reason or "", headers=headers)
    location = got.header("Location")
    if 300 <= response.status < 400 and location is not None:
        return replace(got, error="redirect", redirect_to=location, detail=f"status {response.status} to {location}"[:300])
    if not 200 <= response.status < 300:
        return replace(got, error="bad_status", detail=f"status {response.status} {response.reason or ''}".rstrip())
    return got


def _accepts(content_type: str | None, accepted: tuple[str, ...]) -> bool:
    return content_type is None or content_type.strip().lower().startswith(accepted)


def _retry_after_s(got: Fetched) -> float:
    """Seconds asked for by Retry-After, as a number or a date (RFC 9110 section 10.2.3); 0 when absent or unreadable."""
    value = (got.header("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


class _PrivateAddressError(OSError):
    """A name that leads outside the public internet."""


class _PublicResolver(AbstractResolver):
    """DNS whose answers are refused unless public; what it returns is what is connected to, so rebinding gains nothing."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._dns = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._dns.resolve(host, port, family)
        if _is_allowed(host, port, self._config):
            return found
        public = [answer for answer in found if not urls.forbidden_address(answer["host"])]
        if not public:
            raise _PrivateAddressError(f"{host} leads to {found[0]['host'] if found else 'no address'}, which is not public")
        return public

    async def close(self) -> None:
        await self._dns.close()


def _is_allowed(host: str, port: int | None, config: FetchConfig) -> bool:
    bracketed = f"[{host}]" if ":" in host else host
    return not {host, bracketed, f"{bracketed}:{port}"}.isdisjoint(config.allowed_private_hosts)


def _refusal(url: str, config: FetchConfig) -> str | None:
    """Why a URL with an address instead of a name may not be fetched; names are judged when they are resolved."""
    host = urls.hostname_of(url)
    is_address = ":" in host or host.rpartition(".")[2].isdigit()
    if is_address and urls.forbidden_address(host) and not _is_allowed(host, URL(url).port, config):
        return f"{host} is not on the public internet and not allowed by name (allowed_private_hosts)"
    return None


def _session(config: FetchConfig, coding: str = "gzip") -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=_PublicResolver(config), limit=0, limit_per_host=config.concurrency_per_host, ttl_dns_cache=300
        ),
        headers={
            "User-Agent": config.agent,
            "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.1",
            "Accept-Encoding": coding,
        },
        timeout=aiohttp.ClientTimeout(total=config.timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


def _failed(url: str, rule: str, detail: str) -> Fetched:
    return Fetched(url, datetime.now(UTC), error=rule, detail=detail)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
