"""What the tags of a page say about it: its links, what it tells robots, and who wrote it, when, in which language, under which licence.

One pass of an exact HTML5 tag grammar over the decoded page: walking Resiliparse's tree from Python costs ten times as much (measured: 6
microseconds an element, and iterating its node lists is quadratic). Read are HTML's own elements, Open Graph, Dublin Core, the names that
Google Scholar reads (citation_*), and JSON-LD of schema.org. Nothing is guessed from the text. Costs about 0.5 ms for 100 kB.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any

from tasks.web import urls

MAX_FIELD_CHARS = 500
"""A title or an author that is longer is cut here: it is then no title."""
_ATTRIBUTE = r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>]*+))?+"""
_RAW = ("script", "style", "textarea", "title", "template", "iframe", "noembed", "noframes", "xmp")
# what lies between a tag and the next `</name`, without a step back: a lazy `.*?` needs ten times as long
_CONTENT = r"([^<]*+(?:<(?!/\1(?=[\s/>]))[^<]*+)*+)"
_TAGS = re.compile(
    r"<!--[^-]*+(?:-(?!->)[^-]*+)*+"
    rf"|<({'|'.join(_RAW)})(?=[\s/>])((?:[\s/]++|{_ATTRIBUTE})*+)>?{_CONTENT}"
    rf"|<(a|area|base|meta|link|html|time)(?=[\s/])((?:[\s/]++|{_ATTRIBUTE})*+)(>?)",
    re.IGNORECASE,
)
_ATTRIBUTES = re.compile(r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)|'([^']*+)|([^\s>]*+)))?+["']?+""")
_SPACE = re.compile(r"\s+")
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")
_ISO_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?!\d)")
_CREATIVE_COMMONS = re.compile(
    r"^https?://(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/(\d\.\d)?", re.IGNORECASE
)
# names of `meta` in the order of trust
_TITLES = ("og:title", "citation_title", "dc.title", "dcterms.title", "twitter:title")
_AUTHORS = ("author", "citation_author", "dc.creator", "dcterms.creator", "article:author", "parsely-author", "byl")
_DATES = (
    *("article:published_time", "citation_publication_date", "dcterms.issued", "dc.date.issued", "dcterms.created"),
    *("dc.date", "dcterms.date", "parsely-pub-date", "date", "pubdate", "publishdate", "og:published_time"),
)
_LICENCES = ("dcterms.license", "dc.rights.license", "license", "dcterms.rights", "dc.rights")
_SITES = ("og:site_name", "application-name", "al:android:app_name")
_ARTICLES = frozenset(
    {"article", "newsarticle", "blogposting", "techarticle", "scholarlyarticle", "report", "webpage", "recipe", "book"}
)


@dataclass(frozen=True)
class Metadata:
    """What a page says of itself; None where it says nothing that can be read."""

    title: str | None = None
    author: str | None = None
    """Names, joined by `; `."""
    date: str | None = None
    """Of publication, YYYY-MM-DD."""
    language_tag: str | None = None
    """BCP 47, as declared."""
    canonical_url: str | None = None
    licence: str | None = None
    """URL of a licence, else the words that the page has for it."""
    site_name: str | None = None


@dataclass(frozen=True)
class Head:
    """The tags of one page."""

    links: tuple[str, ...] = ()
    """Distinct canonical targets of `a` and `area`, in page order, without those marked nofollow."""
    robots: frozenset[str] = frozenset()
    """What `meta robots` asks, in lower case."""
    metadata: Metadata = field(default_factory=Metadata)
    tdm_reservation: str | None = None
    """As the meta tag has it."""

    @classmethod
    def of(cls, text: str, url: str) -> Head:
        """The head of a decoded page at the canonical `url`."""
        found = _Found()
        for match in _TAGS.finditer(text):
            found.take(match)
        base = (urls.resolve(url, found.base) if found.base else None) or url
        targets: tuple[str, ...] = ()
        if not found.robots & {"nofollow", "none"}:
            resolved = (urls.resolve(base, href) for href in dict.fromkeys(found.hrefs))
            targets = tuple(dict.fromkeys(target for target in resolved if target))
        return cls(targets, frozenset(found.robots), found.metadata(base), found.first("tdm-reservation"))


class _Found:
    """What is gathered in page order."""

    def __init__(self) -> None:
        self.base: str | None = None
        self.hrefs: list[str] = []
        self.robots: set[str] = set()
        self._title = ""
        self._language = ""
        self._canonical = ""
        self._time = ""
        self._licences: list[str] = []
        self._commons: list[str] = []
        self._meta: dict[str, list[str]] = {}
        self._linked: list[Any] = []

    def take(self, match: re.Match[str]) -> None:
        raw, given, content, tag, attributes, closed = match.groups()
        if tag is not None and closed:
            self._take_tag(tag.lower(), attributes)
        elif raw is not None and raw.lower() == "title":
            self._title = self._title or _words(content)
        elif raw is not None and "ld+json" in given.lower():
            self._linked += _json_ld(content)

    def _take_tag(self, tag: str, attributes: str) -> None:
        values = {name.lower(): a or b or c for name, a, b, c in _ATTRIBUTES.findall(attributes)}
        if "&" in attributes:
            values = {name: html.unescape(value) for name, value in values.items()}
        if tag == "meta":
            self._take_meta(values)
        elif tag == "html":
            self._language = self._language or values.get("lang") or values.get("xml:lang", "")
        elif tag == "time":
            self._time = self._time or values.get("datetime", "")
        elif tag == "base":
            self.base = values.get("href") if self.base is None else self.base
        elif "href" in values:
            self._take_link(tag, values)

    def _take_meta(self, values: Mapping[str, str]) -> None:
        name = (values.get("name") or values.get("property") or values.get("itemprop") or values.get("http-equiv", "")).lower()
        content = values.get("content", "")
        if name == "robots":
            self.robots |= {order.strip().lower() for order in content.split(",")}
        elif name and content.strip():
            self._meta.setdefault(name, []).append(content)

    def _take_link(self, tag: str, values: Mapping[str, str]) -> None:
        rel, href = values.get("rel", "").lower().split(), values["href"]
        if "license" in rel:
            self._licences.append(href)
        elif _CREATIVE_COMMONS.match(href):
            self._commons.append(href)
        if tag == "link":
            self._canonical = self._canonical or (href if "canonical" in rel else "")
        elif "nofollow" not in rel:
            self.hrefs.append(href)

    def first(self, name: str) -> str | None:
        """The first meta tag of a name."""
        return next(iter(self._meta.get(name, ())), None)

    def metadata(self, base: str) -> Metadata:
        """What of all this is believed, in the order of trust."""
        article: Mapping[str, Any] = next((one for one in self._linked if _kinds(one) & _ARTICLES), {})
        names = dict.fromkeys([*_names(article.get("author")), *(() if article.get("author") else self._all(_AUTHORS))])
        authors = [name for name in names if name and "://" not in name]
        dates = [_text(article.get("datePublished")), *self._all(_DATES), self._time]
        languages = (self._language, *self._all(("content-language", "og:locale", "dc.language")))
        licences = [*self._licences, _text(article.get("license")), *self._all(_LICENCES), *self._commons]
        return Metadata(
            title=_first([*self._all(_TITLES), _text(article.get("headline")), self._title]),
            author="; ".join(authors)[:MAX_FIELD_CHARS] or None,
            date=next((day for text in dates if (day := _iso_day(text))), None),
            language_tag=next(
                (tag[0].replace("_", "-") for text in languages if (tag := _LANGUAGE_TAG.fullmatch(text.strip()))), None
            ),
            canonical_url=urls.resolve(base, self._canonical) if self._canonical.strip() else None,
            licence=next((known for text in licences if (known := _licence(text, base))), None),
            site_name=_first([*self._all(_SITES), *_names(article.get("publisher"))]),
        )

    def _all(self, names: tuple[str, ...]) -> Iterator[str]:
        return (_words(content) for name in names for content in self._meta.get(name, ()))


def _words(text: str) -> str:
    # JSON can hold half a surrogate pair, which no table can
    return _SPACE.sub(" ", html.unescape(text)).strip().encode("utf-8", "replace").decode()


def _first(texts: list[str]) -> str | None:
    return next((text[:MAX_FIELD_CHARS] for text in texts if text), None)


def _text(value: Any) -> str:
    """A JSON-LD value that should be a text or a URL."""
    if isinstance(value, Mapping):
        value = value.get("url") or value.get("@id") or value.get("name")
    return _words(value) if isinstance(value, str) else ""


def _names(value: Any) -> list[str]:
    """The names of JSON-LD persons or organisations."""
    if isinstance(value, list):
        return [name for one in value for name in _names(one)]
    if isinstance(value, Mapping):
        value = value.get("name")
    return _names(value) if isinstance(value, list) else [_words(value)] if isinstance(value, str) and value.strip() else []


def _kinds(thing: Any) -> set[str]:
    kinds = thing.get("@type", ())
    return {str(kind).lower() for kind in (kinds if isinstance(kinds, list) else [kinds])}


def _json_ld(script: str) -> list[Any]:
    """The things that a JSON-LD script describes, also those in its graph; a script that is no JSON describes none."""
    try:
        value = json.loads(script.strip().removeprefix("<!--").removesuffix("-->").removesuffix(";"), strict=False)
    except (ValueError, RecursionError):
        return []
    things = value if isinstance(value, list) else [value]
    found = [thing for thing in things if isinstance(thing, Mapping)]
    for thing in list(found):
        graph = thing.get("@graph")
        found += [one for one in (graph if isinstance(graph, list) else []) if isinstance(one, Mapping)]
    return found


def _iso_day(text: str) -> str | None:
    """YYYY-MM-DD from an ISO 8601 or RFC 5322 date; None from any other text, and from a day that is none."""
    try:
        if match := _ISO_DATE.match(text.strip().replace("/", "-")):
            return date(int(match[1]), int(match[2]), int(match[3])).isoformat()
        return parsedate_to_datetime(text).date().isoformat() if text and text[0].isalnum() else None
    except (ValueError, IndexError, TypeError):
        return None


def _licence(text: str, base: str) -> str | None:
    """The URL of a licence, Creative Commons' without language and `deed`; words as they are."""
    if commons := _CREATIVE_COMMONS.match(text.strip()):
        kind, name, version = commons[1].lower(), commons[2].lower(), commons[3]
        return f"https://creativecommons.org/{kind}/{name}/" + (f"{version}/" if version else "")
    if not text.strip():
        return None
    if "://" in text or text.startswith(("/", "./", "../")):
        return urls.resolve(base, text)
    return text[:MAX_FIELD_CHARS]
