"""What a crawl may enter: the hosts it stays on, the patterns it keeps to, and the traps it walks past.

A trap is a part of a site that has no end: links that lengthen their own path, a calendar that knows every year, a page that is
spelled anew for each session. Every rule judges one URL by its text alone, so the same URLs give the same verdicts in any order.
Domains are those of the Public Suffix List that tldextract carries: nothing is asked of the network or kept on disk.
A verdict costs about 2 microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Literal

import tldextract
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.web import urls

_NOT_ON_A_HOST = ("out_of_scope", "not on an allowed host")
_NOT_ALLOWED = ("out_of_scope", "no pattern of allow is found in it")
_MAX_HOSTS_KNOWN = 100_000  # decisions kept; pages link to more hosts than a crawl enters
_MAX_SEQUENCE = 10  # segments in a repeated sequence: what keeps the search linear in the length of a path

_MAYBE_SESSION = re.compile(r"/\(|[;?&](?:[a-z]*sess(?:ion)?_?id|(?:osc)?sid=|zenid=|cftoken=)", re.IGNORECASE)
_SESSION_SEGMENT = re.compile(r"/\((?:[AFSX]\([\w\-]+\))+\)(?=/)")  # ASP.NET without cookies: /(S(…))/, /(X(1)F(…)S(…))/
_SESSION_SUFFIX = re.compile(r";jsessionid=[^/;?&]*", re.IGNORECASE)
_SESSION_PARAMETER = re.compile(
    r"(?:phpsessid|jsessionid|aspsessionid[a-z]{8})=.*"
    # a lone `sid` may be the id of a story: only what looks drawn at random, of 16 and more letters and digits, is a session
    r"|(?:sid|sessid|session_?id|oscsid|zenid)=(?=[^a-z]*[a-z])(?=[^0-9]*[0-9])[0-9a-z]{16,}",
    re.IGNORECASE | re.DOTALL,
)
_COLD_FUSION = ("cfid", "cftoken")

_YEAR = r"(1\d\d\d|2[01]\d\d)"
_MONTH = r"(0?[1-9]|1[0-2])"
_DAY = r"(0?[1-9]|[12]\d|3[01])"
_MAYBE_YEAR = re.compile(rf"[/=]{_YEAR}")
_DATE_IN_PATH = re.compile(rf"/{_YEAR}([-/]){_MONTH}(?:\2{_DAY})?(?=/|$)")
_DATE_NAME = re.compile(r"(?:date|day|month|week|datum)$|^(?:d|start|from)$", re.IGNORECASE)
_DATE_VALUE = re.compile(rf"{_YEAR}(?:([-/.]|%2F){_MONTH}(?:\2{_DAY})?|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?=[T+%]|$)")
_YEAR_NAME = re.compile(r"(?:year|yr|jahr|annee)$|^(?:y|ano|anno)$", re.IGNORECASE)
_YEAR_VALUE = re.compile(_YEAR)
_MONTH_NAME = re.compile(r"(?:month|monat|mois|mes|mese)$|^(?:m|mo|mon)$", re.IGNORECASE)
_CALENDAR_WORD = re.compile(r"calend|kalend|event|evenem|agenda|termine|veranstalt|schedule", re.IGNORECASE)


def _host(text: str) -> str:
    """The canonical spelling of `name` or `name:port`; a port is kept whichever it is."""
    origin = urls.canonical(f"{'https' if text.endswith(':80') else 'http'}://{text}/").removesuffix("/")
    host = origin.partition("://")[2]
    if "*" in host or "/" in host or "?" in host:
        raise ValueError(f"{text!r} is no host (a domain includes the hosts below it and is written without a star)")
    return host


def _domain(text: str) -> str:
    domain = _host(text.removesuffix("."))
    if ":" in domain and not domain.endswith("]"):
        raise ValueError(f"{text!r} is no domain: a domain has no port")
    return domain


class ScopeConfig(BaseModel):
    """What a crawl may not leave, and what it may not enter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    """Hosts to stay on: `name` with all its ports, or `name:port` alone."""
    allowed_domains: tuple[Annotated[str, AfterValidator(_domain)], ...] = ()
    """Domains to stay on: the host of this name and all below it; they add to `allowed_hosts`."""
    stay_on: Literal["host", "domain"] = "host"
    """Where neither is given, the hosts of the seeds, or all hosts below the registrable domains of the seeds. By the Public Suffix
    List `docs.a.co.uk` has the domain `a.co.uk`, and `a.github.io` and `b.github.io` are two domains."""
    allow: tuple[urls.Pattern, ...] = ()
    """Regular expressions searched in the URL (`^https://host/docs/` is a prefix); where given, one must be found."""
    deny: tuple[urls.Pattern, ...] = ()
    """Regular expressions searched in the URL; where one is found the URL is out of scope."""
    strip_session_ids: bool = True
    """Takes the session out of URLs before they are judged or kept: `;jsessionid=`, the parameters PHPSESSID, ASPSESSIONID…,
    CFID with CFTOKEN, and sid, sessionid, osCsid or zenid with a random value, and the path segment `(S(…))` of ASP.NET."""
    max_path_segments: int = Field(default=20, ge=0)
    """Slashes in a path (rule `trap`); 0 switches it off. 20 as in Heritrix's TooManyPathSegmentsDecideRule."""
    max_repeats: int = Field(default=2, ge=0)
    """Times in a row that a path segment or a sequence of them may occur (rule `trap`): `/a/a/a/page` and `/a/b/a/b/a/b` come from
    broken relative links and from folders that link to themselves. A page's own name counts in sequences only, so that
    `/luxembourg/luxembourg/luxembourg` passes. 0 switches it off. 2 as in Heritrix's PathologicalPathDecideRule."""
    calendar_from: int = Field(default=1990, ge=0)
    """Years before this one are a trap in a calendar; 0 switches it off. As newspapers have pages of `/1850/05/03`, it takes a
    date that ends the path or lies in the query, and a word such as calendar or event in the URL."""
    calendar_years_ahead: int | None = Field(default=1, ge=0)
    """Years after the current one that a date may have (rule `trap`); null switches it off. A date is a year (up to 2199) with a
    month or a month and day, in path segments (`/2031/05/`, `/2031-05-12`) or in parameters (`date=2031-05`, `year=2031&month=5`);
    the month has two digits or the URL a word as above, lest `/thread/2031/5` pass for one. A year alone is no date."""


class Scope:
    """The verdicts of one configuration, for canonical URLs."""

    def __init__(self, config: ScopeConfig, seeds: Sequence[str]) -> None:
        self._config = config
        self._hosts, self._domains = set(config.allowed_hosts), set(config.allowed_domains)
        for seed in () if self._hosts or self._domains else seeds:
            domain = _registrable(urls.hostname_of(seed)) if config.stay_on == "domain" else ""
            (self._domains if domain else self._hosts).add(domain or urls.host_of(seed))
        self._admitted: dict[str, bool] = {}
        self._allow = [re.compile(pattern) for pattern in config.allow]
        self._deny = [re.compile(pattern) for pattern in config.deny]
        again = f"{{{config.max_repeats}}}"
        # searched in a path with one more slash, behind which nothing follows: hence the last segment repeats in a sequence only
        self._repeats = re.compile(rf"(?<=/)(?:([^/]*/)\1{again}(?=.)|((?:[^/]*/){{2,{_MAX_SEQUENCE}}}?)\2{again})", re.DOTALL)

    def cleaned(self, url: str) -> str:
        """`url` without session ids, canonical again."""
        may_hold = self._config.strip_session_ids and ("?" in url or ";" in url or "(" in url)
        if not may_hold or not _MAYBE_SESSION.search(url, 8):
            return url
        scheme, _, rest = url.partition("://")
        host, _, location = rest.partition("/")
        path, _, query = _SESSION_SUFFIX.sub("", "/" + location).partition("?")
        return urls.canonical(f"{scheme}://{host}{_SESSION_SEGMENT.sub('', path)}?{_without_session(query)}")

    def refusal(self, url: str, year_now: int) -> tuple[str, str] | None:
        """(rule, detail) where `url` may not be entered: `out_of_scope`, or `trap` with the key of the configuration that says so."""
        begin = url.index("/", 8)
        origin = url[:begin]
        admitted = self._admitted.get(origin)
        if admitted is None:
            admitted = self._admit(origin)
        if not admitted:
            return _NOT_ON_A_HOST
        if self._allow and not any(pattern.search(url) for pattern in self._allow):
            return _NOT_ALLOWED
        for pattern in self._deny:
            if pattern.search(url):
                return "out_of_scope", f"deny {pattern.pattern!r}"
        trap = self._path_trap(url[begin:].partition("?")[0]) or self._calendar_trap(url, begin, year_now)
        return ("trap", trap) if trap else None

    def _admit(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        name, colon, port = host.rpartition(":")
        if not colon or port.endswith("]"):
            name, port = host, "443" if scheme == "https" else "80"
        admitted = not self._hosts.isdisjoint((host, name, f"{name}:{port}")) or (
            bool(self._domains) and not self._domains.isdisjoint(_and_parents(name.removesuffix(".")))
        )
        if len(self._admitted) >= _MAX_HOSTS_KNOWN:
            self._admitted.clear()
        self._admitted[origin] = admitted
        return admitted

    def _path_trap(self, path: str) -> str | None:
        config = self._config
        segments = path.split("/")[1:]
        if 0 < config.max_path_segments < len(segments):
            return f"path: {len(segments)} segments, more than max_path_segments {config.max_path_segments}"
        if config.max_repeats and len(set(segments)) < len(segments) and (found := self._repeats.search(path + "/")):
            repeated = (found[1] or found[2])[:-1]
            return f"path: /{repeated} repeats more than max_repeats {config.max_repeats} times in a row"
        return None

    def _calendar_trap(self, url: str, begin: int, year_now: int) -> str | None:
        ahead, first = self._config.calendar_years_ahead, self._config.calendar_from
        last = 9999 if ahead is None else year_now + ahead
        if all(first <= int(year) <= last for year in _MAYBE_YEAR.findall(url, begin)):
            return None
        in_calendar = _CALENDAR_WORD.search(url) is not None
        for year, is_sure, is_view in _dates(url[begin:]):
            if year > last and (is_sure or in_calendar):
                return f"calendar: {year} is more than calendar_years_ahead {ahead} after {year_now}"
            if year < first and in_calendar and is_view:
                return f"calendar: {year} is before calendar_from {first}"
        return None


def _dates(location: str) -> Iterator[tuple[int, bool, bool]]:
    """(year, whether it is surely a date, whether the page shows this time rather than a thing of this time) of each date."""
    path, _, query = location.partition("?")
    for found in _DATE_IN_PATH.finditer(path):
        year, _, month, day = found.groups()
        yield int(year), len(month) == 2 or day is not None, path[found.end() :] in ("", "/")
    parameters = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&")) if value]
    has_month = any(_MONTH_NAME.search(name) for name, _ in parameters)
    for name, value in parameters:
        if _DATE_NAME.search(name) and (found_date := _DATE_VALUE.match(value)):
            yield int(found_date[1]), True, True
        elif _YEAR_NAME.search(name) and _YEAR_VALUE.fullmatch(value):
            yield int(value), has_month, True


def _without_session(query: str) -> str:
    pairs = [pair for pair in query.split("&") if not _SESSION_PARAMETER.fullmatch(pair)]
    names = [pair.partition("=")[0].lower() for pair in pairs]
    if all(name in names for name in _COLD_FUSION):
        pairs = [pair for pair, name in zip(pairs, names, strict=True) if name not in _COLD_FUSION]
    return "&".join(pairs)


def _and_parents(name: str) -> Iterator[str]:
    """`a.b.c`, `b.c`, `c`."""
    while name:
        yield name
        name = name.partition(".")[2]


@lru_cache(maxsize=1)
def _suffixes() -> tldextract.TLDExtract:
    return tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)


def _registrable(name: str) -> str:
    """The registrable domain of a host name; empty where it has none, as an IP address, `localhost` or `github.io` itself."""
    return _suffixes().extract_str(name).top_domain_under_public_suffix
