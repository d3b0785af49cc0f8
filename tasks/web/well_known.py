"""What an origin says about itself: its robots.txt, and its /.well-known/tdmrep.json, asked for with the manners that pages are.

A robots.txt may redirect (five times, RFC 9309 section 2.3.1.2); what it says holds for the origin that was asked. Every answer is
handed to `keep`, so that the archive shows what was allowed. Costs two requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
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
PASSING = frozenset({"unreachable", "timeout", "bad_response"})
"""Errors that may be gone a moment later."""


Keep = Callable[[Fetched], None]


async def robots_of(origin: str, client: Client, config: FetchConfig, delay_s: float, keep: Keep) -> Robots:
    """The rules of an origin (`https://host`); where it cannot be reached they allow nothing."""
    got = await _patiently(f"{origin}/robots.txt", client, config, delay_s, keep)
    for _ in range(_MAX_REDIRECTS):
        target = urls.resolve(got.url, got.redirect_to) if got.redirect_to is not None else None
        if target is None:
            break
        await asyncio.sleep(delay_s)
        got = await _patiently(target, client, config, delay_s, keep)
    robots = _as_robots(got, config.product_token)
    if robots.status is None or not robots.allows(origin + TDMREP):
        return robots
    await asyncio.sleep(max(delay_s, robots.crawl_delay_s or 0.0))
    got = await client.get_beginning(origin + TDMREP, MAX_ROBOTS_BYTES)
    keep(got)
    text = _text(got) if got.error is None else ""
    return replace(robots, tdmrep=text if text.lstrip().startswith("[") else "")


async def _patiently(url: str, client: Client, config: FetchConfig, delay_s: float, keep: Keep) -> Fetched:
    """Ask again, after a pause, where the trouble may pass."""
    for attempt in range(config.retries + 1):
        got = await client.get_beginning(url, MAX_ROBOTS_BYTES + 1)
        keep(got)
        asked_s = retry_after_s(got) if got.status in BUSY else 0.0
        is_passing = got.status in BUSY or got.error in PASSING
        if not is_passing or asked_s > config.max_retry_after_s or attempt == config.retries:
            break
        await asyncio.sleep(max(delay_s, asked_s, config.backoff_s * 2**attempt))
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
