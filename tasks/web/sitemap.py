"""What sitemaps and feeds list: the pages of a site as its owner names them, and further sitemaps.

Reads XML sitemaps and their indexes, RSS, Atom, and lists in plain text, gzipped or not, in whatever encoding. Markup is scanned,
not parsed: a document type is passed over and no entity is defined, so nothing unfolds, and what is broken costs the entry it is in.
Nothing raises. Time is linear in the length; 50,000 locations take half a second, mostly for their spelling.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

from tasks.web import urls
from tasks.web.coding import CodingError, gunzipped
from tasks.web.html import Rejected, decode

# sitemaps.org protocol: a sitemap has no more than 50,000 URLs and no more than 50 MB (52,428,800 bytes) when uncompressed
MAX_LOCATIONS = 50_000
MAX_BYTES = 52_428_800
_SITEMAPS = ("urlset", "sitemapindex")
_FEEDS = ("rss", "RDF", "feed")
_PROLOG_BYTES = 16_384  # in which the first element must begin
_ROOT = re.compile(
    r"\ufeff?(?:\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^<>\[]*(?:\[.*?\]\s*)?>)*+(?=<(?:[\w.\-]+:)?([\w.\-]+))",
    re.DOTALL | re.IGNORECASE,
)
_UTF_16 = ((b"\xff\xfe", "utf-16-le"), (b"<\0", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\0<", "utf-16-be"))
_DECLARED = re.compile(rb"\s*<\?xml[^<>]{1,100}?encoding\s*=\s*[\"']([A-Za-z0-9_.:\-]{1,40})")

# one alternative at most matches at a `<`, and an end that is missing is the end of the text: hence the linear time
_SKIPPED = r"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)"
_ATTRIBUTES = r"((?:\s(?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*)?)"
_SITEMAP_TAG = re.compile(rf"{_SKIPPED}|<(/?)((?:[\w.\-]+:)?)(url|sitemap|loc){_ATTRIBUTES}/?>", re.DOTALL)
_FEED_TAG = re.compile(
    rf"{_SKIPPED}|<(/?)((?:[\w.\-]+:)?)(feed|item|entry|link|guid|content|summary|description|source){_ATTRIBUTES}/?>", re.DOTALL
)
_INNER = ("content", "summary", "description", "source")  # of an entry: may hold markup, whose links are not the entry's
_ATTRIBUTE = re.compile(r"([\w.:\-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_PIECE = re.compile(r"([^<]+)|<!\[CDATA\[(.*?)\]\]>|<!--.*?-->", re.DOTALL)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});")
_ROOTED = re.compile(r"https?:|/", re.IGNORECASE)
_MAX_PIECES = 9  # a text, a CDATA section or a comment each
_LINE = re.compile(r"^[ \t\ufeff]*(https?://\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Listing:
    """The locations in a sitemap or a feed: canonical, distinct, in file order; of the first MAX_LOCATIONS and MAX_BYTES."""

    pages: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()
    """Those that a sitemap index names."""


def listed(body: bytes, content_type: str | None, base_url: str, *, named: bool) -> Listing | None:
    """What a body lists, or None where it is no sitemap and no feed.

    `named` says that robots.txt or a sitemap index calls it a sitemap: only then is text taken for a list of URLs. `base_url` is
    the canonical URL the body came from. Whether a location may be entered is for the scope of the crawl to say."""
    if body.startswith(b"\x1f\x8b"):
        try:
            body = gunzipped(body, MAX_BYTES)
        except CodingError:
            return None
    wide = next((codec for mark, codec in _UTF_16 if body.startswith(mark)), None)
    found = _ROOT.match(body[:_PROLOG_BYTES].decode(wide or "utf-8", "replace"))
    root = found[1] if found else None
    if root in _SITEMAPS:
        locations = _distinct(_locations(_text(body, content_type, wide), base_url))
        pages = tuple(url for kind, url in locations if kind == "url")
        return Listing(pages, sitemaps=tuple(url for kind, url in locations if kind == "sitemap"))
    if root in _FEEDS:
        pages = _distinct(_entries(_text(body, content_type, wide), base_url))
        return Listing(pages) if pages or root != "RDF" else None  # RDF states anything, news among it
    if root is None and named:
        lines = (match[1] for match in _LINE.finditer(_text(body, content_type, wide)))
        pages = _distinct(url for line in lines if (url := _rooted(line, base_url)))
        return Listing(pages) if pages else None
    return None


def _text(body: bytes, content_type: str | None, wide: str | None) -> str:
    """The decoded body from its first element on; empty where no encoding explains it."""
    declared = _DECLARED.match(body)
    charset = wide or (declared[1].decode("ascii") if declared else None)
    said = f"charset={charset}" if charset else content_type or ""
    # what can be read as ASCII is not UTF-16, whatever it says of itself: .NET writes that declaration over UTF-8
    source = decode(body[:MAX_BYTES], said if wide else said.lower().replace("utf-16", "utf-8"))
    text = "" if isinstance(source, Rejected) else source[0]
    prolog = _ROOT.match(text)
    return text[prolog.end() :] if prolog else text


def _locations(text: str, base: str) -> Iterator[tuple[str, str]]:
    """(`url` or `sitemap`, location) of each entry: its own `loc`, not that of an image in it."""
    entry: tuple[str, str] | None = None
    for match in _SITEMAP_TAG.finditer(text):
        closing, prefix, name, _ = match.groups()
        if name in ("url", "sitemap"):
            entry = None if closing else (prefix, name)
        elif name and entry and not closing and prefix == entry[0]:
            if url := _rooted(_value(text, match.end()), base):
                yield entry[1], url
            entry = None


def _entries(text: str, base: str) -> Iterator[str]:
    """The pages of each entry: its links, or else its guid where that is one."""
    for _, tags in groupby(_feed_tags(text, base), key=lambda tag: tag.entry):
        links: list[str] = []
        guids: list[str] = []
        for tag in tags:
            if tag.name == "guid":
                is_page = tag.attributes.get("ispermalink", "true").lower() == "true"
                url = _rooted(tag.value, tag.base) if is_page else None
            elif "href" in tag.attributes:
                is_page = tag.attributes.get("rel", "alternate") == "alternate" and "html" in tag.attributes.get("type", "html")
                url = urls.resolve(_based(tag.attributes, tag.base), tag.attributes["href"]) if is_page else None
            else:
                url = _rooted(tag.value, tag.base)
            if url:
                (guids if tag.name == "guid" else links).append(url)
        yield from links or guids[:1]


@dataclass(frozen=True)
class _FeedTag:
    """A `link` or `guid` that stands in the entry of this number, not in something the entry quotes."""

    entry: int
    name: str
    attributes: dict[str, str]
    value: str
    base: str


def _feed_tags(text: str, base: str) -> Iterator[_FeedTag]:
    number, prefix, inner, entry_base = 0, None, None, base
    for match in _FEED_TAG.finditer(text):
        closing, of_tag, name, markup = match.groups()
        if name == "feed":
            base = base if closing else _based(_attributes(markup), base)
        elif name in ("item", "entry"):
            number, inner = number + 1, None
            prefix, entry_base = (None, base) if closing else (of_tag, _based(_attributes(markup), base))
        elif name is None or of_tag != prefix:
            continue
        elif name in _INNER:
            opens = not closing and not inner and not match[0].endswith("/>")
            inner = name if opens else None if closing and name == inner else inner
        elif not inner and not closing:
            yield _FeedTag(number, name, _attributes(markup), _value(text, match.end()), entry_base)


def _attributes(markup: str) -> dict[str, str]:
    """By name in lower case."""
    return {found[1].lower(): _unescaped(found[2] or found[3] or "") for found in _ATTRIBUTE.finditer(markup)}


def _value(text: str, begin: int) -> str:
    """The characters from `begin` to the next tag; empty where they are too many for a URL."""
    pieces: list[str] = []
    while len(pieces) < _MAX_PIECES and (piece := _PIECE.match(text, begin)):
        pieces.append(_unescaped(piece[1]) if piece[1] else piece[2] or "")
        begin = piece.end()
    value = "".join(pieces).strip()
    return value if len(value) <= urls.MAX_URL_CHARS else ""


def _unescaped(text: str) -> str:
    """Only what XML defines: `?a=1&copy=2`, which many forget to escape, stays as it is."""
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text) if "&" in text else text


def _based(attributes: dict[str, str], base: str) -> str:
    return urls.resolve(base, attributes.get("xml:base", "")) or base


def _rooted(text: str, base: str) -> str | None:
    """The canonical URL of a location that is absolute or begins with a slash; others are mostly names without their scheme."""
    return urls.resolve(base, text) if _ROOTED.match(text) else None


_T = TypeVar("_T")


def _distinct(found: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(islice(found, MAX_LOCATIONS)))
