"""robots.txt as RFC 9309 reads it, on top of Protego: what one origin lets one agent fetch, and how slowly.

A missing file (4xx) allows everything; an origin that cannot answer (5xx, no connection, 429) allows nothing. Values are plain,
so that a frontier can keep them and a restart decides as the first run did. A check costs about 10 microseconds.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

from protego import Protego

from tasks.web.consent import TRAINING_AGENTS, Consent, Reservations, content_signal

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309 section 2.5: a crawler must parse at least 500 KiB
_USER_AGENT = re.compile(r"^\s*user-agent\s*:\s*([^\s#]+)", re.IGNORECASE | re.MULTILINE)
_SIGNAL = "content-signal"
_TOO_MANY_REQUESTS = 429  # says "not now", not "no rules": Google's documented reading too


@dataclass(frozen=True)
class Robots:
    """The answer of one origin to GET /robots.txt, read for the product token `agent`."""

    agent: str
    status: int | None
    """HTTP status of the file after redirects; None when the origin could not be reached."""
    text: str = ""
    failure: str | None = None
    """The rule of the fetch that failed (`unreachable`, `private_address`, ...) where status is None."""
    detail: str = ""
    tdmrep: str = ""
    """The origin's /.well-known/tdmrep.json; empty where it has none."""

    @classmethod
    def parse(cls, text: str, agent: str) -> Self:
        """The rules of a robots.txt that was found."""
        return cls(agent, 200, text)

    @classmethod
    def from_response(cls, status: int | None, body: bytes, agent: str) -> Self:
        """From the raw answer; what lies beyond 500 KiB is not read, nor is the line that the limit cuts."""
        found = status is not None and 200 <= status < 300
        kept = body if len(body) <= MAX_ROBOTS_BYTES else body[:MAX_ROBOTS_BYTES].rpartition(b"\n")[0]
        return cls(agent, status, kept.decode("utf-8-sig", "replace") if found else "")

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready value."""
        return asdict(self)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the file could not be had, which says nothing about what it holds."""
        return self.status is None or self.status >= 500 or self.status == _TOO_MANY_REQUESTS

    def allows(self, url: str) -> bool:
        """Whether `agent` may fetch `url`."""
        if self.is_out_of_reach:
            return False
        return _rules(self.text).can_fetch(url, self.agent) if self.text else True

    def consent(self, url: str) -> Consent:
        """What the origin says about collecting `url`, beside whether `agent` may fetch it."""
        return Consent(
            robots_denies=self._denied(url),
            content_signal=content_signal(self.text, self.agent, url) if _SIGNAL in self.text.lower() else None,
            tdm_reserved=_reservations(self.tdmrep).of_page(url) if self.tdmrep else None,
        )

    def _denied(self, url: str) -> tuple[str, ...]:
        """Those of TRAINING_AGENTS that may not fetch `url`; the many that have no group of their own are judged once."""
        if not self.text:
            return ()
        named = _with_a_group(self.text)
        others = [agent for agent in TRAINING_AGENTS if agent not in named]
        denied = {agent for agent in named if not _rules(self.text).can_fetch(url, agent)}
        if others and not _rules(self.text).can_fetch(url, others[0]):
            denied.update(others)
        return tuple(agent for agent in TRAINING_AGENTS if agent in denied)

    @property
    def crawl_delay_s(self) -> float | None:
        """The Crawl-delay asked of this agent; None when none was."""
        return _rules(self.text).crawl_delay(self.agent) if self.text else None

    @property
    def sitemaps(self) -> tuple[str, ...]:
        """The sitemap URLs as written, in file order."""
        return tuple(_rules(self.text).sitemaps) if self.text else ()


@lru_cache(maxsize=1024)
def _with_a_group(text: str) -> frozenset[str]:
    """Those of TRAINING_AGENTS that a group of the file could be meant for."""
    tokens = [token.lower() for token in _USER_AGENT.findall(text) if token != "*"]
    return frozenset(
        agent for agent in TRAINING_AGENTS if any(token in agent.lower() or agent.lower() in token for token in tokens)
    )


@lru_cache(maxsize=1024)
def _reservations(text: str) -> Reservations:
    return Reservations.of(text)


@lru_cache(maxsize=1024)
def _rules(text: str) -> Protego:
    return Protego.parse(text)
