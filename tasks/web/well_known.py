"""What an origin says about itself: its robots.txt, and its /.well-known/tdmrep.json, asked for with the manners that pages are.

A robots.txt may redirect (five times, RFC 9309 section 2.3.1.2); what it says holds for the origin that was asked. Every answer is
handed to `keep`, so that the archive shows what was allowed. Costs two requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus

from tasks.web import urls
from tasks.web.coding import CodingError
from tasks.web.exchange import Fetched
from tasks.web.fetch import Client, FetchConfig, retry_after_s
from tasks.web.robots import MAX_ROBOTS_BYTES, Robots

_MAX_REDIRECTS = 5
TDMREP = "/.well-known/tdmrep.json"
PATHS = ("/robots.txt", TDMREP)
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
PASSING = frozenset({"unreachable", "timeout", "bad_response", "unheard"})
"""Errors that may be gone a moment later."""


Keep = Callable[[Fetched], None]


class Courtesy:
    """Turns at hosts that other origins' robots.txt lead to: one request at a time, with a delay, though beside the host's own queue."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, host: str, delay_s: float) -> AsyncIterator[None]:
        """Wait for the turn; the next one comes when the delay after this one is over."""
        async with self._locks.setdefault(host, asyncio.Lock()):
            yield
            await asyncio.sleep(delay_s)


@dataclass(frozen=True)
class Asking:
    """What it takes to ask an origin."""

    client: Client
    config: FetchConfig
    courtesy: Courtesy
    keep: Keep
    max_delay_s: float = 60.0
    """A host that asks for a longer Crawl-delay is not asked for anything more."""


async def robots_of(origin: str, asking: Asking, delay_s: float, before: Robots | None = None) -> Robots:
    """The rules of an origin (`https://host`); where it cannot be reached they allow nothing.

    Args:
        before: what was known; its reservations hold on where they cannot be had again.
    """
    got = await _patiently(f"{origin}/robots.txt", asking, delay_s)
    for _ in range(_MAX_REDIRECTS):
        target = urls.resolve(got.url, got.redirect_to) if got.redirect_to is not None else None
        if target is None:
            break
        await asyncio.sleep(delay_s)
        host = urls.host_of(target)
        if host == urls.host_of(origin + "/"):
            got = await _patiently(target, asking, delay_s)
        else:
            async with asking.courtesy.turn(host, delay_s):
                got = await _patiently(target, asking, delay_s)
    robots = _as_robots(got, asking.config.product_token)
    delay_s = max(delay_s, robots.crawl_delay_s or 0.0)
    if robots.status is None or delay_s > asking.max_delay_s or not robots.allows(origin + TDMREP):
        return robots
    await asyncio.sleep(delay_s)
    got = await _patiently(origin + TDMREP, asking, delay_s)
    if before is not None and (got.status in BUSY or got.error in PASSING):
        return replace(robots, tdmrep=before.tdmrep)
    text = _text(got) if got.error is None else ""
    return replace(robots, tdmrep=text if text.lstrip().startswith("[") else "")


async def _patiently(url: str, asking: Asking, delay_s: float) -> Fetched:
    """Ask again, after a pause, where the trouble may pass."""
    config = asking.config
    for attempt in range(config.retries + 2):
        got = await asking.client.get_beginning(url, MAX_ROBOTS_BYTES + 1)
        asking.keep(got)
        asked_s = retry_after_s(got) if got.status in BUSY else 0.0
        is_passing = got.status in BUSY or got.error in PASSING
        if not is_passing or asked_s > config.max_retry_after_s or attempt >= config.retries + (got.error == "unheard"):
            break
        await asyncio.sleep(max(delay_s, asked_s, 0.0 if got.error == "unheard" else config.backoff_s * 2**attempt))
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


def _text(got: Fetched) -> str:
    try:
        return got.content(MAX_ROBOTS_BYTES).decode("utf-8-sig", "replace")
    except CodingError:
        return ""
