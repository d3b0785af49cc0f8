"""HTML decoded as browsers do, and where it leads: the links of a page.

A body gives either text or a Rejected with a rule and a detail; nothing raises. Limits are deterministic (bytes, tags, nesting), because
Resiliparse needs quadratic time for deep nesting.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import DOMContext, HTMLTree, traverse_dom

from tasks.web.head import Head

# WHATWG encoding names mean the larger sets that Windows uses; Python's codecs of these names are the narrow ones
_WIDER_CODEC = {"euc_kr": "cp949", "shift_jis": "cp932", "gbk": "gb18030", "gb2312": "gb18030", "big5": "big5hkscs"}
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META_BYTES = 4096  # browsers look for a meta charset in the first 1,024 bytes; some pages put scripts before it
_META_CHARSET = re.compile(rb"<meta\b[^>]{0,500}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:\-]{1,40})", re.IGNORECASE)
_TWO_BYTE_CODECS = frozenset(_WIDER_CODEC.values())
_UTF8_LEAD = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
_FEW_SEQUENCES = 8
_MAX_DAMAGE = 0.005  # share of characters a declared encoding may fail on before detection is asked
_HTML_TYPES = ("text/html", "application/xhtml+xml", "application/xml", "text/xml")
_NUM_TAGS_HARMLESS = 3_000  # measured: even all of them nested cost 0.3 s


class HtmlConfig(BaseModel):
    """What a page may be and still be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=5_000_000, ge=1)
    """Bytes of a decompressed page; a larger one is rejected (rule `too_large`)."""
    max_tags: int = Field(default=250_000, ge=1)
    """Tags of a page (rule `too_many_tags`)."""
    max_nesting: int = Field(default=500, ge=1)
    """Elements within elements (rule `too_nested`)."""


@dataclass(frozen=True)
class Rejected:
    """Why a body gave no text; rules: too_large, too_many_tags, too_nested, binary, not_html, encoding, empty."""

    rule: str
    detail: str


def links(body: bytes, content_type: str | None, base_url: str, config: HtmlConfig | None = None) -> tuple[str, ...]:
    """The distinct canonical targets of `a` and `area`, in page order; those marked nofollow are left out."""
    source = readable(body, content_type, config or HtmlConfig())
    if isinstance(source, Rejected) or not is_html(content_type, source[0]):
        return ()
    return Head.of(source[0], base_url).links


def decode(body: bytes, content_type: str | None) -> tuple[str, str] | Rejected:
    """(text, encoding) by byte order mark, header, meta tag, then detection; a declaration that fails is not believed."""
    bom = next(((mark, name) for mark, name in _BOMS if body.startswith(mark)), None)
    if bom:
        return body[len(bom[0]) :].decode(bom[1], "replace"), bom[1]
    header = re.search(r"charset\s*=\s*[\"']?([^\s;\"']+)", content_type or "", re.IGNORECASE)
    meta = _META_CHARSET.search(body, 0, _META_BYTES)
    # a meta tag that can be read as ASCII cannot itself be UTF-16 (WHATWG: then UTF-8 is meant)
    declared = [header[1] if header else "", meta[1].decode("ascii").lower().replace("utf-16", "utf-8") if meta else ""]
    if _is_surely_utf8(body, declared):
        return body.decode(), "utf-8"
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


def _is_surely_utf8(body: bytes, declared: Sequence[str]) -> bool:
    """Whether the bytes are UTF-8 whatever is declared: servers that add `charset=iso-8859-1` to everything are many, texts of another
    character set whose every byte beyond ASCII happens to fit UTF-8's grammar are not (short ones in two-byte sets excepted)."""
    if body.isascii():
        return False
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    two_bytes = any(_codec(name) in _TWO_BYTE_CODECS for name in declared if name)
    return not two_bytes or len(_UTF8_LEAD.findall(body)) >= _FEW_SEQUENCES


def _codec(name: str) -> str | None:
    mapped = map_encoding_to_html5(name, fallback_utf8=False) if name else None
    if mapped is None and name.lower().replace("-", "").replace("_", "") in ("latin1", "iso88591"):
        mapped = "cp1252"
    return _WIDER_CODEC.get(mapped, mapped) if mapped else None


def readable(body: bytes, content_type: str | None, config: HtmlConfig) -> tuple[str, str] | Rejected:
    """(text, encoding) of a body within its limits."""
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


def is_html(content_type: str | None, text: str) -> bool:
    """Whether a decoded body is to be read as HTML."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") or (kind != "text/plain" and "<html" in text[:4096].lower())


def too_nested(tree: HTMLTree, text: str, max_nesting: int) -> bool:
    """Whether elements of the page lie more than `max_nesting` within each other."""
    return text.count("<") > _NUM_TAGS_HARMLESS and _maybe_nested(text) > max_nesting and _is_nested(tree, max_nesting)


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
