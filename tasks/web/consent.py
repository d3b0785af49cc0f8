"""The consent ledger: what a site and a page say about being collected, and what follows from it by the policy of the configuration.

Read are robots.txt for the known collectors of training data, X-Robots-Tag and meta robots (noindex, noai), the TDM Reservation Protocol
(https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/: header, meta tag, /.well-known/tdmrep.json), Content-Signal lines of
robots.txt (https://contentsignals.org), and the licence that the page states. Everything is recorded with the document; the policy decides
what excludes it, and each exclusion is a reject with its rule: noindex, noai, tdm_reserved, content_signal, robots_ai, licence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.web import urls

TRAINING_AGENTS = (
    *(
        "AI2Bot",
        "Amazonbot",
        "anthropic-ai",
        "Applebot-Extended",
        "Bytespider",
        "CCBot",
        "ClaudeBot",
        "cohere-training-data-crawler",
    ),
    *(
        "Diffbot",
        "FacebookBot",
        "Google-Extended",
        "GPTBot",
        "ImagesiftBot",
        "meta-externalagent",
        "omgili",
        "PanguBot",
        "Timpibot",
    ),
)
"""Product tokens of agents that collect text to train models, as their makers document them."""
_NO_TRAINING = frozenset({"noai"})
# orders with a value, whose colon names no agent
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class ConsentPolicy(BaseModel):
    """What keeps a page out of the corpus. All that is found is recorded either way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noindex: bool = True
    """Whether `noindex` or `none` of meta robots or X-Robots-Tag does (rule `noindex`)."""
    noai: bool = True
    """Whether `noai` there does (rule `noai`)."""
    tdm_reserved: bool = True
    """Whether a reservation of text and data mining does (rule `tdm_reserved`)."""
    content_signal: bool = True
    """Whether `ai-train=no` of a Content-Signal does (rule `content_signal`)."""
    agents: tuple[str, ...] = TRAINING_AGENTS
    """Whether robots.txt forbids the page to one of these agents, though not to ours, does (rule `robots_ai`); empty: it does not."""
    licences: tuple[urls.Pattern, ...] = ()
    """Regular expressions; where given, only pages that state a licence in which one is found stay (rule `licence`)."""

    @field_validator("agents")
    @classmethod
    def _must_be_known(cls, agents: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [agent for agent in agents if agent not in TRAINING_AGENTS]:
            raise ValueError(f"robots.txt is not read for {', '.join(unknown)}; it is for {', '.join(TRAINING_AGENTS)}")
        return agents


class Consent(BaseModel):
    """What was said about one page; None where nobody could be asked."""

    model_config = ConfigDict(frozen=True)

    robots_denies: tuple[str, ...] | None = None
    """Those of TRAINING_AGENTS that robots.txt forbids the page to."""
    robots_orders: tuple[str, ...] = Field(default=())
    """Orders to robots by header and meta tag, in lower case, sorted."""
    tdm_reserved: bool | None = None
    content_signal: str | None = None
    """As robots.txt has it: `search=yes, ai-train=no`."""

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """From the columns of a table."""
        return cls(**{name: row[name] for name in cls.model_fields if row.get(name) is not None})

    def row(self) -> dict[str, Any]:
        """As columns of a table."""
        return self.model_dump()

    def and_page(self, orders: Iterable[str], tdm_reserved: bool | None) -> Self:
        """With what the page itself says, which goes before what its site says."""
        together = tuple(sorted({*self.robots_orders, *orders} - {""}))
        reserved = self.tdm_reserved if tdm_reserved is None else tdm_reserved
        return self.model_copy(update={"robots_orders": together, "tdm_reserved": reserved})

    def refusal(self, policy: ConsentPolicy, licence: str | None = None, *, page_known: bool = True) -> tuple[str, str] | None:
        """(rule, detail) of what keeps the page out; without the page itself only what it cannot take back is looked at."""
        orders = set(self.robots_orders)
        if policy.noindex and orders & {"noindex", "none"}:
            return "noindex", ", ".join(self.robots_orders)
        if policy.noai and orders & _NO_TRAINING:
            return "noai", ", ".join(self.robots_orders)
        if policy.content_signal and self.content_signal and "ai-train=no" in self.content_signal.replace(" ", "").lower():
            return "content_signal", self.content_signal
        denied = [agent for agent in self.robots_denies or () if agent in policy.agents]
        if denied:
            return "robots_ai", f"robots.txt forbids it to {', '.join(denied)}"
        if page_known and policy.tdm_reserved and self.tdm_reserved:
            return "tdm_reserved", "text and data mining is reserved (TDMRep)"
        if page_known and policy.licences and not any(re.search(one, licence or "", re.IGNORECASE) for one in policy.licences):
            return "licence", licence or "the page states none"
        return None


def robots_tag(values: Iterable[str], agent: str) -> tuple[str, ...]:
    """The orders of X-Robots-Tag headers that are for `agent` (a product token) or for all, in lower case, sorted."""
    found = set()
    for value in values:
        addressed = True
        for part in value.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name.strip() not in _WITH_VALUE:
                addressed = name.strip() == agent.lower()
                found |= {rest.strip()} if addressed else set()
            elif addressed:
                found.add(name.strip())
    return tuple(sorted(found - {""}))


def tdm_header(value: str | None) -> bool | None:
    """What a `tdm-reservation` header or meta tag says: `1` reserves, `0` does not, anything else says nothing."""
    return {"1": True, "0": False}.get((value or "").strip())


@dataclass(frozen=True)
class Reservations:
    """A /.well-known/tdmrep.json: (pattern of paths, whether reserved), in the order of the file."""

    rules: tuple[tuple[str, bool], ...] = ()

    @classmethod
    def of(cls, text: str) -> Reservations:
        """From the file; what is no valid entry says nothing."""
        try:
            raw = json.loads(text) if text else []
        except (ValueError, RecursionError):
            return cls()
        entries = [one for one in (raw if isinstance(raw, list) else []) if isinstance(one, dict)]
        found = ((one.get("location"), one.get("tdm-reservation")) for one in entries)
        return cls(tuple((where, mark == 1) for where, mark in found if isinstance(where, str) and mark in (0, 1)))

    def of_page(self, url: str) -> bool | None:
        """By the longest pattern that fits the path of a canonical URL; None where none does."""
        path = url.removeprefix(urls.origin_of(url))
        fitting = [(len(pattern), reserved) for pattern, reserved in self.rules if _path_pattern(pattern).match(path)]
        return max(fitting)[1] if fitting else None


def _path_pattern(pattern: str) -> re.Pattern[str]:
    """As in robots.txt: `*` is anything, `$` at the end is the end, else it is a beginning."""
    begins = pattern if pattern.startswith(("/", "*")) else f"/{pattern}"
    end = r"\Z" if begins.endswith("$") else ""
    return re.compile(".*".join(map(re.escape, begins.removesuffix("$").split("*"))) + end)


def content_signal(robots_text: str, agent: str, url: str) -> str | None:
    """The Content-Signal for a page: of the group of `agent` if robots.txt has one, else of `*`; by the longest path that fits."""
    signals: dict[str, list[tuple[str, str]]] = {}
    group: list[str] = []
    within_names = False
    for line in robots_text.splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            group = [*(group if within_names else []), value.lower()]
            within_names = True
            for one in group:
                signals.setdefault(one, [])
            continue
        within_names = False
        if name == "content-signal" and value:
            path, space, words = value.partition(" ") if value.startswith("/") else ("/", " ", value)
            for one in group or ["*"]:
                signals.setdefault(one, []).append((path, words.strip() if space else ""))
    path_of_page = url.removeprefix(urls.origin_of(url))
    chosen = signals.get(agent.lower(), signals.get("*", []))
    fitting = [(len(path), words) for path, words in chosen if words and _path_pattern(path).match(path_of_page)]
    return max(fitting)[1] if fitting else None
