"""Detectors: where in a text a rule's signs are, decided piece by piece as if the text had been read as a whole.

`find(text, pos, final)` looks at a view's text from `pos` on and gives what it found and how far it has decided: no more text changes what
begins before. Each detector knows why: a pattern has a widest match, a phrase a longest one, a line an end. Before `pos` stand up to
KEPT_BEHIND signs of context; nothing longer may be looked back at. Patterns of ours run in `re` and are bounded (`Pattern`), patterns of a
policy in RE2, which takes linear time whatever they are (`LinearPattern`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

MAX_WORD = 64
"""A longer run of word characters is in no phrase."""
MAX_GAP = 5
"""Other characters between two words of a phrase, at most."""
MAX_WIDTH = 16_384
"""Of a pattern's widest match: so much may be held back."""
MAX_LINE = 400
"""Characters of a line that is scored; a longer one is scored in parts, and so much is held back of an answer that streams."""
_WORD = re.compile(r"\w+")
_LINE = re.compile(rf"[^\n]{{0,{MAX_LINE}}}\n{{0,8}}")
_MARK = "\uffff"  # in no view (views.py)


class Match(NamedTuple):
    """Signs text[start:end] of a view."""

    start: int
    end: int
    kind: str
    score: float = 1.0


class Detector(Protocol):
    """See the module's words."""

    def find(self, text: str, pos: int, final: bool) -> tuple[list[Match], int]: ...


def widths(pattern: str) -> tuple[int, int]:
    """(narrowest match, widest match with what is looked at behind it), in characters."""
    parsed = parser.parse(pattern)
    low, high = parsed.getwidth()
    return int(low), int(high) + _ahead(parsed)


def _ahead(parsed: Any) -> int:
    """Characters that the look-aheads of a parsed pattern see, at most, and all they hold."""
    widest = 0
    for operation, given in parsed:
        name = str(operation)
        if name in ("ASSERT", "ASSERT_NOT") and given[0] > 0:
            widest = max(widest, int(given[1].getwidth()[1]))
        elif name == "AT":
            widest = max(widest, 1)
        for part in given if isinstance(given, tuple | list) else ():
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, parser.SubPattern):
                    widest = max(widest, _ahead(inner))
    return widest


class Pattern:
    """A bounded pattern of ours, and what its matches must be besides.

    With a group `it` that group is what was found, and the rest its context.
    """

    def __init__(
        self,
        kind: str,
        pattern: str,
        *,
        score: float = 1.0,
        alphabet: str = "",
        begins: Sequence[str] = (),
        opens: str = "",
        needs: Sequence[str] = (),
        check: Callable[[str], bool] | None = None,
    ) -> None:
        """Make one.

        Args:
            alphabet: all characters of a match, and all that it looks at behind itself but the last one; so a match that is still open
                lies in the run of them at the text's end. "": unknown.
            begins: strings in lower case, one of which every match begins with, in any case; so no match is open before the first of them.
            opens: a regular expression that matches wherever a match begins; likewise.
            needs: strings, one of which is in every match; where there is none the pattern is not tried.
        """
        low, high = widths(pattern)
        if low < 1 or high > MAX_WIDTH:
            raise ValueError(f"{kind}: a match has {low} to {high} characters; it must have one at least, {MAX_WIDTH} at most")
        self._kind, self._score, self._check = kind, score, check
        self._pattern = re.compile(pattern)
        self._width = high
        self._alphabet, self._begins, self._needs = alphabet, tuple(begins), tuple(needs)
        self._opens = re.compile(opens) if opens else None
        self._opening = widths(opens)[1] if opens else 0
        self._named = "it" in self._pattern.groupindex

    def find(self, text: str, pos: int, final: bool) -> tuple[list[Match], int]:
        """See the module's words."""
        decided = len(text) if final else self._decided(text, pos)
        found: list[Match] = []
        if self._needs and not any(text.find(one, pos) >= 0 for one in self._needs):
            return found, max(pos, decided)
        for match in self._matches(text, pos):
            if match.start() >= decided:
                break
            start, end = match.span("it" if self._named else 0)
            if self._check is None or self._check(text[start:end]):
                found.append(Match(start, end, self._kind, self._score))
            pos = match.end()
        return found, max(pos, decided)

    def _matches(self, text: str, pos: int) -> Iterator[re.Match[str]]:
        """As `finditer` from `pos` on; where it is known how matches begin, by asking there alone."""
        lowered = text.lower() if self._begins else ""
        if not self._begins or len(lowered) != len(text):
            yield from self._pattern.finditer(text, pos)
            return
        for start in sorted({at for one in self._begins for at in _places(lowered, one, pos)}):
            if start >= pos and (match := self._pattern.match(text, start)):
                yield match
                pos = match.end()

    def _decided(self, text: str, pos: int) -> int:
        """The first place where a match may begin that more text could change."""
        first = max(pos, len(text) - self._width + 1)
        if self._alphabet:
            tail = text[first:]
            return first + len(tail.rstrip(self._alphabet))
        if self._begins:
            tail = text[first:].lower()
            return first + min(_open_literal(tail, one) for one in self._begins) if len(tail) == len(text) - first else first
        if self._opens is not None:
            match = self._opens.search(text, first)
            return min(match.start() if match else len(text), max(first, len(text) - self._opening + 1))
        return first


def _places(text: str, literal: str, pos: int) -> Iterator[int]:
    while (pos := text.find(literal, pos)) >= 0:
        yield pos
        pos += 1


def _open_literal(text: str, literal: str) -> int:
    """Where `literal` stands first, or begins to at the text's end; the end where it does neither."""
    if (at := text.find(literal)) >= 0:
        return at
    for length in range(min(len(literal) - 1, len(text)), 0, -1):
        if text.endswith(literal[:length]):
            return len(text) - length
    return len(text)


class LinearPattern:
    """A pattern of a policy, found as whole words by RE2: no input makes it slow. It has no anchors, so that it asks for no context."""

    def __init__(self, kind: str, pattern: str, score: float = 1.0) -> None:
        """Make one. Raises ValueError that says what is wrong with it."""
        self._kind, self._score = kind, score
        self._width = _linear_width(pattern) + 1
        self._pattern = f"(?i)({pattern})"

    def find(self, text: str, pos: int, final: bool) -> tuple[list[Match], int]:
        """See the module's words."""
        decided = len(text) if final else max(pos, len(text) - self._width + 1)
        if pos >= decided:
            return [], pos
        marked = pc.replace_substring_regex(pa.array([text[pos:]]), self._pattern, f"{_MARK}\\1{_MARK}")[0].as_py()
        found, at = [], pos
        for place, piece in enumerate(marked.split(_MARK)):
            start, end = at, at + len(piece)
            if place % 2:
                if start >= decided:
                    break
                if not (_in_word(text, start) or _in_word(text, end)):
                    found.append(Match(start, end, self._kind, self._score))
                pos = end
            at = end
        return found, max(pos, decided)


def _in_word(text: str, at: int) -> bool:
    """Whether a word goes on over this place."""
    return 0 < at < len(text) and _is_word(text[at - 1]) and _is_word(text[at])


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _linear_width(pattern: str) -> int:
    try:
        pc.match_substring_regex(pa.array([""]), f"({pattern})")
        parsed = parser.parse(pattern)
    except (pa.ArrowInvalid, re.error) as error:
        raise ValueError(f"{pattern!r} is no regular expression that RE2 takes: {error}") from error
    if any(str(one) in ("AT", "ASSERT", "ASSERT_NOT") for one in _operations(parsed)):
        raise ValueError(f"{pattern!r}: no ^, $ and \\b; whole words are found anyway")
    low, high = parsed.getwidth()
    if not low or high > MAX_LINE:
        raise ValueError(
            f"{pattern!r}: a match must have 1 to {MAX_LINE} characters, for an answer that streams is held back so long; "
            "write {0,40} where there is a * or a +"
        )
    return int(high)


def _operations(parsed: Any) -> Iterable[Any]:
    for operation, given in parsed:
        yield operation
        for part in given if isinstance(given, tuple | list) else ():
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, parser.SubPattern):
                    yield from _operations(inner)


class Phrases:
    """Words and phrases, as whole words of the folded view with at most MAX_GAP other characters between two of them.

    The longest phrase that begins at a word is found, whatever others lie across it.
    """

    def __init__(self, phrases: Mapping[str, str], score: float = 1.0) -> None:
        """Make one of {phrase as the folded view has it: kind}. Raises ValueError for a phrase without words."""
        self._score = score
        self._tree: dict[str, Any] = {}
        for phrase, kind in phrases.items():
            words = _WORD.findall(phrase)
            if not words or max(map(len, words)) > MAX_WORD:
                raise ValueError(f"{phrase!r}: a phrase has words, of at most {MAX_WORD} letters each")
            node = self._tree
            for word in words:
                node = node.setdefault(word, {})
            node[""] = kind

    def find(self, text: str, pos: int, final: bool) -> tuple[list[Match], int]:
        """See the module's words."""
        if self._tree.keys().isdisjoint(_WORD.findall(text, pos)):  # as usual: asked in a quarter of the time
            return [], max(pos, len(text) if final else _open_word(text))
        words = [(*match.span(), match.group()) for match in _WORD.finditer(text, pos)]
        if words and words[0][0] == pos and pos and _is_word(text[pos - 1]):
            words = words[1:]  # the rest of a word that is too long
        decided = len(text)
        if not final:
            decided = _open_word(text)
            if words and words[-1][1] == len(text):
                words.pop()
        found, in_tree = [], self._tree
        for at, (start, _, word) in enumerate(words):
            if word not in in_tree:
                continue
            end, kind, is_open = self._longest(text, words, at, final)
            if is_open:
                decided = min(decided, start)
                break
            if kind:
                found.append(Match(start, end, kind, self._score))
        return found, max(pos, decided)

    def _longest(self, text: str, words: list[tuple[int, int, str]], at: int, final: bool) -> tuple[int, str, bool]:
        """(end, kind or "", whether more text could change it) of the longest phrase from word `at` on."""
        node, end, kind = self._tree, 0, ""
        for place in range(at, len(words)):
            start, stop, word = words[place]
            if place > at and start - words[place - 1][1] > MAX_GAP:
                return end, kind, False
            if word not in node:
                return end, kind, False
            node = node[word]
            if "" in node:
                end, kind = stop, node[""]
            if len(node) == ("" in node):
                return end, kind, False
        return end, kind, not final and _open_word(text) - words[-1][1] <= MAX_GAP


def _open_word(text: str) -> int:
    """Where the word begins that the text breaks off in; its end where there is none, or one too long for any phrase."""
    at = len(text)
    while at > 0 and len(text) - at <= MAX_WORD and _is_word(text[at - 1]):
        at -= 1
    return at if len(text) - at <= MAX_WORD else len(text)


class Lines:
    """Lines that a scorer says are above a threshold. Not sentences: a classifier of messages calls many of their parts toxic."""

    def __init__(self, kind: str, scores: Callable[[list[str]], Sequence[float]], threshold: float) -> None:
        self._kind, self._scores, self._threshold = kind, scores, threshold

    def find(self, text: str, pos: int, final: bool) -> tuple[list[Match], int]:
        """See the module's words."""
        spans = []
        while pos < len(text):
            end = _LINE.match(text, pos).end()  # type: ignore[union-attr]
            if end == len(text) and not final:
                break
            spans.append((pos, end))
            pos = end
        spans = [(start, end) for start, end in spans if any(map(str.isalnum, text[start:end]))]
        if not spans:
            return [], pos
        scores = self._scores([text[start:end] for start, end in spans])
        found = [
            Match(start, end, self._kind, float(score))
            for (start, end), score in zip(spans, scores, strict=True)
            if score >= self._threshold
        ]
        return found, pos
