"""HTML in, text and links out: decodes a page as browsers do, then extracts its main text with Resiliparse.

A page gives either a Page or a Rejected with a rule and a detail; nothing raises. Limits are deterministic (bytes, tags,
nesting), because Resiliparse needs quadratic time for deep nesting. Links and meta tags are found in one pass of an exact
HTML5 tag grammar: walking Resiliparse's tree from Python costs ten times as much (measured: 6 microseconds an element, and
iterating its node lists is quadratic). Costs about 1 ms for 20 kB.
"""

from __future__ import annotations

import codecs
import html
import re
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import DOMContext, HTMLTree, traverse_dom

from tasks.web import urls
from tasks.web.coding import CodingError, gunzipped

# WHATWG encoding names mean the larger sets that Windows uses; Python's codecs of these names are the narrow ones
_WIDER_CODEC = {"euc_kr": "cp949", "shift_jis": "cp932", "gbk": "gb18030", "gb2312": "gb18030", "big5": "big5hkscs"}
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META_BYTES = 4096  # browsers look for a meta charset in the first 1,024 bytes; some pages put scripts before it
_META_CHARSET = re.compile(rb"<meta\b[^>]{0,500}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:\-]{1,40})", re.IGNORECASE)
_MAX_DAMAGE = 0.005  # share of characters a declared encoding may fail on before detection is asked
_HTML_TYPES = ("text/html", "application/xhtml+xml", "application/xml", "text/xml")
_NUM_TAGS_HARMLESS = 3_000  # measured: even all of them nested cost 0.3 s
_ATTRIBUTE = r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>]*+))?+"""
_TAGS = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|textarea|title|template|iframe|noembed|noframes|xmp)(?=[\s/>]).*?(?:</\1(?=[\s/>])|\Z)"
    rf"|<(a|area|base|meta)(?=[\s/])((?:[\s/]++|{_ATTRIBUTE})*+)(>?)",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTES = re.compile(r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)|'([^']*+)|([^\s>]*+)))?+["']?+""")
_LOCATION = re.compile(rb"<(?:[a-z]{1,20}:)?loc\s*>\s*(?:<!\[CDATA\[)?\s*([^<\]]+?)\s*(?:\]\]>)?\s*</", re.IGNORECASE)
_TRAILING_SPACE = re.compile(r"[ \t\r]+$", re.MULTILINE)


class HtmlConfig(BaseModel):
    """What a page may be and still be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=5_000_000, ge=1)
    """Bytes of a decompressed page; a larger one is rejected (rule `too_large`)."""
    max_tags: int = Field(default=250_000, ge=1)
    """Tags of a page (rule `too_many_tags`)."""
    max_nesting: int = Field(default=500, ge=1)
    """Elements within elements (rule `too_nested`)."""
    honour_noindex: bool = True
    """Whether `<meta name=robots content=noindex>` rejects the page (rule `noindex`); its links are followed all the same."""


@dataclass(frozen=True)
class Rejected:
    """Why a body gave no text; rules: too_large, too_many_tags, too_nested, binary, not_html, encoding, noindex, empty."""

    rule: str
    detail: str


@dataclass(frozen=True)
class Extracted:
    """The main text of a page."""

    text: str
    title: str
    encoding: str


@dataclass(frozen=True)
class Page:
    """Everything of one page; `text` is None with the reason in `rejected`."""

    text: str | None
    title: str
    encoding: str
    links: tuple[str, ...]
    noindex: bool
    rejected: Rejected | None


def page(body: bytes, content_type: str | None, base_url: str, config: HtmlConfig | None = None) -> Page:
    """Text and links of one page, decoded once. `body` is without content coding, `base_url` canonical."""
    config = config or HtmlConfig()
    source = _readable(body, content_type, config)
    if isinstance(source, Rejected):
        return Page(None, "", "", (), False, source)
    text, encoding = source
    found = _Head.of(text, base_url) if _is_html(content_type, text) else _Head()
    extracted = _extracted(text, encoding, content_type, config, found)
    if isinstance(extracted, Rejected):
        return Page(None, "", encoding, found.links, found.noindex, extracted)
    return Page(extracted.text, extracted.title, encoding, found.links, found.noindex, None)


def extract(body: bytes, content_type: str | None, config: HtmlConfig | None = None) -> Extracted | Rejected:
    """The main text of a page; where Resiliparse sees no main content, all its text."""
    config = config or HtmlConfig()
    source = _readable(body, content_type, config)
    if isinstance(source, Rejected):
        return source
    text, encoding = source
    return _extracted(text, encoding, content_type, config, _Head.of(text, None))


def links(body: bytes, content_type: str | None, base_url: str, config: HtmlConfig | None = None) -> tuple[str, ...]:
    """The distinct canonical targets of `a` and `area`, in page order; those marked nofollow are left out."""
    source = _readable(body, content_type, config or HtmlConfig())
    if isinstance(source, Rejected) or not _is_html(content_type, source[0]):
        return ()
    return _Head.of(source[0], base_url).links


def sitemap_urls(body: bytes, max_bytes: int = 50_000_000) -> tuple[str, ...]:
    """The distinct canonical locations of an XML sitemap or sitemap index (plain or gzip), in file order; empty when it is none.
    50 MB is the limit of the sitemaps.org protocol."""
    if body.startswith(b"\x1f\x8b"):
        try:
            body = gunzipped(body, max_bytes)
        except CodingError:
            return ()
    if not re.search(rb"<(?:[a-z]{1,20}:)?(?:urlset|sitemapindex)[\s>]", body[:4096], re.IGNORECASE):
        return ()
    found = (html.unescape(loc.decode("utf-8", "replace")) for loc in _LOCATION.findall(body[:max_bytes]))
    return tuple(dict.fromkeys(url for text in found if (url := _absolute(text)) is not None))


def decode(body: bytes, content_type: str | None) -> tuple[str, str] | Rejected:
    """(text, encoding) by byte order mark, header, meta tag, then detection; a declaration that fails is not believed."""
    bom = next(((mark, name) for mark, name in _BOMS if body.startswith(mark)), None)
    if bom:
        return body[len(bom[0]) :].decode(bom[1], "replace"), bom[1]
    header = re.search(r"charset\s*=\s*[\"']?([^\s;\"']+)", content_type or "", re.IGNORECASE)
    meta = _META_CHARSET.search(body, 0, _META_BYTES)
    # a meta tag that can be read as ASCII cannot itself be UTF-16 (WHATWG: then UTF-8 is meant)
    declared = [header[1] if header else "", meta[1].decode("ascii").lower().replace("utf-16", "utf-8") if meta else ""]
    best: tuple[float, str, str] = (2.0, "", "")
    for name in [*declared, "utf-8", detect_encoding(body, from_html_meta=False) or ""]:
        codec = _codec(name)
        if codec is None or codec == best[2]:
            continue
        text = body.decode(codec, "replace")
        damage = text.count("\ufffd") / (len(text) or 1)
        if damage <= _MAX_DAMAGE and (name in declared or damage == 0):
            return text, codec
        best = min(best, (damage, text, codec), key=lambda candidate: candidate[0])
    damage, text, codec = best
    return (text, codec) if damage <= 10 * _MAX_DAMAGE else Rejected("encoding", f"{damage:.1%} undecodable as {codec}")


def _codec(name: str) -> str | None:
    mapped = map_encoding_to_html5(name, fallback_utf8=False) if name else None
    if mapped is None and name.lower().replace("-", "").replace("_", "") in ("latin1", "iso88591"):
        mapped = "cp1252"
    return _WIDER_CODEC.get(mapped, mapped) if mapped else None


def _readable(body: bytes, content_type: str | None, config: HtmlConfig) -> tuple[str, str] | Rejected:
    if len(body) > config.max_bytes:
        return Rejected("too_large", f"{len(body)} bytes, more than {config.max_bytes}")
    if not body.startswith(tuple(mark for mark, _ in _BOMS)) and b"\0" in body[:1024]:
        return Rejected("binary", "null bytes in the first 1,024")
    if body.startswith((b"%PDF-", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b")):
        return Rejected("binary", f"begins with {body[:4]!r}")
    kind = (content_type or "text/html").partition(";")[0].strip().lower()
    if kind and not kind.startswith("text/") and kind not in _HTML_TYPES:
        return Rejected("not_html", f"content type {kind}")
    num_tags = body.count(b"<")
    if num_tags > config.max_tags:
        return Rejected("too_many_tags", f"{num_tags} tags, more than {config.max_tags}")
    return decode(body, content_type)


def _is_html(content_type: str | None, text: str) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") or (kind != "text/plain" and "<html" in text[:4096].lower())


def _extracted(text: str, encoding: str, content_type: str | None, config: HtmlConfig, found: _Head) -> Extracted | Rejected:
    if found.noindex and config.honour_noindex:
        return Rejected("noindex", "meta robots")
    if (content_type or "").lower().startswith("text/plain"):
        return Extracted(_TRAILING_SPACE.sub("", text), "", encoding) if text.strip() else Rejected("empty", "no text")
    if not _is_html(content_type, text):
        return Rejected("not_html", f"content type {content_type}")
    tree = HTMLTree.parse(text)
    suspicious = text.count("<") > _NUM_TAGS_HARMLESS and _maybe_nested(text) > config.max_nesting
    if suspicious and _is_nested(tree, config.max_nesting):
        return Rejected("too_nested", f"more than {config.max_nesting} elements within each other")
    main = extract_plain_text(tree, main_content=True) or extract_plain_text(tree, main_content=False)
    main = _TRAILING_SPACE.sub("", main).strip("\n")
    return Extracted(main, (tree.title or "").strip(), encoding) if main.strip() else Rejected("empty", "no text")


def _maybe_nested(text: str) -> int:
    """An upper bound of the nesting, in one vector pass: elements without an end tag count as never closed."""
    raw = np.frombuffer(text.encode("utf-8", "replace") + b" ", dtype=np.uint8)
    after = raw[np.flatnonzero(raw[:-1] == ord("<")) + 1]
    return int(np.where(after == ord("/"), -1, 1).cumsum().max(initial=0))


class _TooNestedError(Exception):
    """Ends the walk through a tree."""


def _is_nested(tree: HTMLTree, max_nesting: int) -> bool:
    def visit(context: DOMContext) -> None:
        if context.depth > max_nesting:
            raise _TooNestedError

    try:
        if tree.body is not None:
            traverse_dom(tree.body, visit, elements_only=True)
    except _TooNestedError:
        return True
    return False


@dataclass(frozen=True)
class _Head:
    """What the tags of a page say to a crawler."""

    links: tuple[str, ...] = ()
    noindex: bool = False

    @classmethod
    def of(cls, text: str, base_url: str | None) -> _Head:
        """Without `base_url` only `noindex` is read."""
        base, hrefs, orders = None, [], set()
        for match in _TAGS.finditer(text):
            tag = (match[2] or "").lower()
            if not tag or not match[4] or (base_url is None and tag != "meta"):
                continue
            values = {m[1].lower(): html.unescape(m[2] or m[3] or m[4] or "") for m in _ATTRIBUTES.finditer(match[3])}
            if tag == "meta" and values.get("name", "").lower() == "robots":
                orders |= {order.strip().lower() for order in values.get("content", "").split(",")}
            elif tag == "base" and base is None:
                base = values.get("href")
            elif tag in ("a", "area") and "href" in values and "nofollow" not in values.get("rel", "").lower().split():
                hrefs.append(values["href"])
        noindex = bool(orders & {"noindex", "none"})
        if base_url is None or orders & {"nofollow", "none"}:
            return cls((), noindex)
        base_url = (urls.resolve(base_url, base) if base else None) or base_url
        targets = (urls.resolve(base_url, href) for href in dict.fromkeys(hrefs))
        return cls(tuple(dict.fromkeys(target for target in targets if target)), noindex)


def _absolute(text: str) -> str | None:
    try:
        return urls.canonical(text)
    except urls.UrlError:
        return None
