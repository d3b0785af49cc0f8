"""The lines of a page's main text, and which of them do not belong to it: link lists, headings of nothing, what trails behind the text.

Resiliparse leaves out whole elements that it knows for menus and footers; what still slips in is known by its lines. The text of an article
ends in sentences, menus and teasers do not: so judge jusText and boilerpipe too, by link density and length, with the lines around. The
rules are few and the numbers round. Costs about 0.5 ms a page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Kind = Literal["heading", "paragraph", "item", "row", "code", "bare"]

SENTENCE_CHARS = 40
"""A line that ends like a sentence is one from this length on."""
LAST_SENTENCE_CHARS = 20
"""The last line of a text may be a sentence as short as this: the definition of the last term."""
LONG_CHARS = 120
"""A line of this length is text however it ends."""
LINK_SHARE = 0.5
LINK_LINE_CHARS = 100
"""A shorter line of which at least LINK_SHARE is links belongs to a menu."""
ITEM_LINK_SHARE = 0.3
"""Items with fewer links may follow the last sentence of a text: it ends with a list."""
_ENDS_A_SENTENCE = frozenset(".!?…。！？:;»”\"')")
_CODE = re.compile(r"(<pre>.*?</pre>)", re.DOTALL)
_TAG = re.compile(r"</?(?:p|a|h[1-6]|li|ul|ol|br|pre)\b[^>]*>")
_LINK = re.compile(r"<a\b[^>]*>(.*?)</a>")
_OPENS = re.compile(r"\s*<(p|h[1-6]|li|ul|ol)\b")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page's text."""

    kind: Kind
    text: str
    link_share: float = 0.0
    """Share of its characters that are links."""
    level: int = 0
    """1 to 6 of a heading."""
    begins: bool = True
    """Whether it begins its paragraph; a line behind `<br>` does not."""

    @property
    def is_text(self) -> bool:
        """Whether the line alone shows that it is of a text: a sentence, or long, or code."""
        if self.kind == "code":
            return True
        finished = len(self.text) >= SENTENCE_CHARS and _ends(self)
        return self.link_share < LINK_SHARE and (finished or len(self.text) >= LONG_CHARS)


_NOTHING = Line("bare", "")


def lines_of(markup: str) -> list[Line]:
    """The lines of what Resiliparse calls minimal HTML: p, h1 to h6, ul, ol, li, pre, br, a; text without a tag is bare, and a row of a
    table has tabs."""
    found = []
    for part in _CODE.split(markup):
        if part.startswith("<pre>"):
            if code := html.unescape(_TAG.sub("", part)).strip("\n"):
                found.append(Line("code", code))
            continue
        within = False
        for raw in part.split("\n"):
            opened = _OPENS.match(raw)
            tag = opened[1] if opened else ""
            text = html.unescape(_TAG.sub("", raw)).strip()
            if text:
                num_linked = sum(len(html.unescape(_TAG.sub("", link))) for link in _LINK.findall(raw)) if "<a" in raw else 0
                kind = _kind(tag, within, text)
                level = int(tag[1]) if kind == "heading" else 0
                found.append(Line(kind, text, num_linked / len(text), level, begins=bool(tag) or not within))
            within = (within or "<p>" in raw) and "</p>" not in raw
    return found


def _kind(tag: str, within: bool, text: str) -> Kind:
    if tag.startswith("h"):
        return "heading"
    if tag in ("li", "ul", "ol"):
        return "item"
    if tag == "p" or within:
        return "paragraph"
    return "row" if "\t" in text else "bare"


def without_boilerplate(lines: Sequence[Line]) -> list[Line]:
    """The lines of the text; all of them if nothing would be left."""
    kept = [line for line in lines if not _is_menu(line)]
    # what a sentence follows is a term with its definition
    kept = [line for line, behind in pairwise([*kept, _NOTHING]) if not _is_label(line) or _ends(behind)]
    return _without_idle_headings(_without_trailer(kept)) or list(lines)


def share_of_text(lines: Sequence[Line]) -> float:
    """Share of the characters in lines that alone show that they are text; 0 for none."""
    num_chars = sum(len(line.text) for line in lines)
    return sum(len(line.text) for line in lines if line.is_text) / num_chars if num_chars else 0.0


def rendered(lines: Sequence[Line]) -> str:
    """Plain text: a blank line between paragraphs, none within lists, tables and broken lines; items begin with `- `."""
    parts: list[str] = []
    before: Line | None = None
    for line in lines:
        together = before is not None and (not line.begins or (line.kind == before.kind and line.kind in ("item", "row", "bare")))
        parts.append("" if before is None else "\n" if together else "\n\n")
        parts.append(f"- {line.text}" if line.kind == "item" and line.begins else line.text)
        before = line
    return "".join(parts)


def _is_menu(line: Line) -> bool:
    return line.link_share >= LINK_SHARE and len(line.text) < LINK_LINE_CHARS


def _is_label(line: Line) -> bool:
    """A few words in no element of a text: a button, a category, a date."""
    return line.kind == "bare" and len(line.text) < SENTENCE_CHARS and not _ends(line)


def _ends(line: Line) -> bool:
    """Whether it ends like a sentence."""
    return line.text[-1:] in _ENDS_A_SENTENCE


def _without_trailer(lines: list[Line]) -> list[Line]:
    """Without what follows the last line of text, except a list or a table that ends it."""
    end = len(lines)
    while end and not (lines[end - 1].is_text or _is_last_sentence(lines[end - 1])):
        end -= 1
    if not end:
        return lines
    while end < len(lines) and lines[end].kind in ("item", "row") and lines[end].link_share < ITEM_LINK_SHARE:
        end += 1
    return lines[:end]


def _is_last_sentence(line: Line) -> bool:
    return line.link_share < LINK_SHARE and len(line.text) >= LAST_SENTENCE_CHARS and _ends(line)


def _without_idle_headings(lines: list[Line]) -> list[Line]:
    """Without headings that nothing follows before the next of their level; the first line may be one, as the title of the page."""
    kept: list[Line] = []
    next_level = 0  # the highest of the headings between here and the next line that is none; 7: there is no heading between
    for line in reversed(lines):
        if line.kind != "heading":
            next_level = 7
        if line.kind != "heading" or next_level > line.level or line is lines[0]:
            kept.append(line)
        if line.kind == "heading":
            next_level = min(next_level, line.level)
    return kept[::-1]
