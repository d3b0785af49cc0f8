"""The main text of a page, by a cascade: a fast extractor for all pages, an exact one for those where the fast one is in doubt.

Resiliparse finds the main text in about 3 ms a page, and tasks/web/boilerplate.py takes out the lines that do not belong to it;
trafilatura needs ten times as long and is more exact. How far the fast text is to be believed is measured from itself: how much of it lies
in lines that do not look like text, and how long its lines are. `balanced` asks trafilatura where that speaks against it, `exact` always,
`fast` never. Both thresholds were chosen by five-fold cross-validation on pages made by others (docs/extraction.md); nothing is trained.

A page gives either an Extracted or a Rejected; nothing raises but MemoryError. PDF, plain text and Markdown are read too. The time and
memory of a page are limited where it is extracted in a process of its own (tasks/web/extractor.py).
"""

from __future__ import annotations

import io
import logging
import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree
from resiliparse.parse.html.exception import HTMLParserException

from tasks.web import boilerplate
from tasks.web.consent import ConsentPolicy
from tasks.web.head import MAX_FIELD_CHARS, Head, Metadata
from tasks.web.html import HtmlConfig, Rejected, is_html, readable, too_nested

BESIDE_THE_TEXT = [
    *("aside", "footer", "nav", "form", "button", ".tags"),
    *(f'[class*="{part}" i]' for part in ("related", "disclaimer", "signup", "author-bio", "byline", "-tags")),
    '[id*="related" i]',
]
"""Elements that hold no main text, as CSS selectors. Others that one would think of (sidebar, teaser, share) cost more text than they save:
whole pages lie in elements of such names."""
_TRAILING_SPACE = re.compile(r"[ \t\r]+$", re.MULTILINE)
# what the first two bytes of a UTF-8 sequence look like when they are read as windows-1252
_MOJIBAKE = re.compile("[ÂÃâÐÑ][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]")
_FEW_MOJIBAKE = 3
# what else ftfy would change is no mistake of character sets
_LEFT_ALONE = (
    *("unescape_html", "remove_terminal_escapes", "fix_latin_ligatures", "fix_character_width", "uncurl_quotes"),
    *("fix_line_breaks", "remove_control_chars"),
)


class ExtractConfig(HtmlConfig):
    """How the text of pages is found, and what a page may cost."""

    mode: Literal["fast", "balanced", "exact"] = "balanced"
    """`fast`: Resiliparse alone; `balanced`: trafilatura for doubtful pages; `exact`: trafilatura for all. See docs/extraction.md."""
    doubt_share: float = Field(default=0.4, ge=0)
    """A page is doubtful if at least this share of its fast text, 0 to 1, lies in lines that do not look like text,"""
    doubt_line_chars: float = Field(default=80, ge=0)
    """or if its lines have fewer characters than this on average."""
    consent: ConsentPolicy = ConsentPolicy()
    """Which pages are left out because of what their site or they themselves say about being collected."""
    guarded: bool = True
    """Whether pages are extracted in a process of their own, whose end by the two limits below costs one page. Off, a page that needs too
    much ends its worker and is found as a poisoned document."""
    page_cpu_s: float = Field(default=20, gt=0)
    """Processor seconds of one page; one that needs more is a reject (rule `extractor_time`)."""
    page_memory_mb: int = Field(default=2048, ge=64)
    """Memory beyond the extractor's own, in MB of 2**20 bytes; a page that needs more is a reject (rule `extractor_memory`)."""


class Doubt(NamedTuple):
    """What speaks against the fast text of a page."""

    share: float
    """Share of its characters, before lines were taken out, in lines that do not look like text: 0 to 1."""
    line_chars: float
    """Mean characters of the lines that are left."""


@dataclass(frozen=True)
class Extracted:
    """What a page gave."""

    text: str
    encoding: str
    """Name of the character set; `pdf` for a PDF file."""
    extractor: str
    """Which extractor the text is of: resiliparse, trafilatura, pypdf or none (plain text)."""
    doubt: float | None = None
    """Share of the fast text in lines that do not look like text; None where none was judged."""
    links: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=Metadata)
    robots_orders: tuple[str, ...] = ()
    """What its meta tag asks of robots."""
    tdm_reservation: str | None = None
    """What its meta tag says of text and data mining."""


def extract(body: bytes, content_type: str | None, url: str, config: ExtractConfig | None = None) -> Extracted | Rejected:
    """The text of one page at the canonical `url`; `body` is without content coding."""
    config = config or ExtractConfig()
    if body.startswith(b"%PDF-"):
        return _pdf(body, config)
    source = readable(body, content_type, config)
    if isinstance(source, Rejected):
        return source
    text, encoding = source
    if _is_plain(content_type):
        plain = _TRAILING_SPACE.sub("", repaired(text))
        return Extracted(plain, encoding, "none") if plain.strip() else Rejected("empty", "no text")
    if not is_html(content_type, text):
        return Rejected("not_html", f"content type {content_type}")
    return _html(text, encoding, url, config)


def fast_text(tree: HTMLTree) -> tuple[str, Doubt]:
    """Resiliparse's main text without the lines that do not belong to it, and how far it is to be believed."""
    markup = extract_plain_text(
        tree,
        preserve_formatting="minimal_html",
        main_content=True,
        alt_texts=False,
        comments=False,
        links=True,
        skip_elements=BESIDE_THE_TEXT,
    )
    lines = boilerplate.lines_of(markup)
    kept = boilerplate.without_boilerplate(lines)
    num_chars = sum(len(line.text) for line in kept)
    return boilerplate.rendered(kept), Doubt(1 - boilerplate.share_of_text(lines), num_chars / len(kept) if kept else 0.0)


def repaired(text: str) -> str:
    """`text`, with lines that were decoded wrongly before they were published (`Ã©` for `é`) put right by ftfy."""
    if len(_MOJIBAKE.findall(text)) < _FEW_MOJIBAKE:
        return text
    from ftfy import TextFixerConfig, fix_text  # for few pages

    return fix_text(text, TextFixerConfig(**dict.fromkeys(_LEFT_ALONE, False), normalization=None, explain=False))


def _is_plain(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind.startswith("text/") and kind not in ("text/html", "text/xml")


def _html(text: str, encoding: str, url: str, config: ExtractConfig) -> Extracted | Rejected:
    head = Head.of(text, url)
    try:
        tree = HTMLTree.parse(text)
    except HTMLParserException as error:  # the grammar of HTML takes every text, so it is memory that was missing
        raise MemoryError(f"{url}: no memory for its tree") from error
    if too_nested(tree, text, config.max_nesting):
        return Rejected("too_nested", f"more than {config.max_nesting} elements within each other")
    fast, doubt = fast_text(tree)
    doubtful = doubt.share >= config.doubt_share or doubt.line_chars < config.doubt_line_chars
    exact = _trafilatura(text) if config.mode == "exact" or (config.mode == "balanced" and doubtful) else None
    found = exact or fast or extract_plain_text(tree, main_content=False)
    found = _TRAILING_SPACE.sub("", repaired(found)).strip("\n")
    if not found.strip():
        return Rejected("empty", "no text")
    return Extracted(
        found,
        encoding,
        "trafilatura" if exact else "resiliparse",
        doubt.share,
        head.links,
        head.metadata,
        tuple(sorted(head.robots)),
        head.tdm_reservation,
    )


def _trafilatura(text: str) -> str | None:
    import trafilatura  # half a second, for pages that need it

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it has no text where it says anything: the fast one is taken
    try:
        return trafilatura.extract(text, include_comments=False)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (of lxml and others, on markup that none of them expects): the fast text is taken, and named so
        return None


def _pdf(body: bytes, config: ExtractConfig) -> Extracted | Rejected:
    if len(body) > config.max_bytes:
        return Rejected("too_large", f"{len(body)} bytes, more than {config.max_bytes}")
    import pypdf  # for few pages

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        file = pypdf.PdfReader(io.BytesIO(body))
        text = "\n\n".join(page.extract_text() for page in file.pages)
        about = file.metadata
        title, author = ((about.title or ""), (about.author or "")) if about else ("", "")
    except Exception as error:  # noqa: BLE001 (it raises what its parts raise: KeyError, struct.error, RecursionError, …)
        return Rejected("bad_pdf", f"{type(error).__name__}: {error}"[:300])
    text = _TRAILING_SPACE.sub("", text.encode("utf-8", "replace").decode()).strip("\n")
    if not text.strip():
        return Rejected("empty", "a PDF without text: scanned pages need OCR")
    said = (one.encode("utf-8", "replace").decode().strip()[:MAX_FIELD_CHARS] or None for one in (title, author))
    return Extracted(text, "pdf", "pypdf", metadata=Metadata(*said))
