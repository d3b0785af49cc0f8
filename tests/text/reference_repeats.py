"""What `trim` promises, in plain slow Python over strings: no hashes, no buckets, no bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.text.repeats import _UNSPACED

GONE = "\0"
"""Stands for a character that went; no text of a test has it."""


class Word(NamedTuple):
    """A word of a text: its folded characters, its place, line breaks before it, and whether it ends a sentence."""

    chars: str
    start: int
    end: int
    breaks: int
    closes: bool


class Piece(NamedTuple):
    """A run of words that may be repeated, and its place."""

    name: tuple[str, ...]
    start: int
    end: int


class Document(NamedTuple):
    """One text of a corpus and what it is called by."""

    generation: int
    doc_id: str
    text: str


class Repeat(NamedTuple):
    """A stretch that is one too many, and the first occurrence of it."""

    doc_id: str
    level: str
    start: int
    end: int
    first_doc_id: str
    first_start: int
    first_end: int


def _alone(char: str) -> bool:
    return ord(char) in _UNSPACED or char in "「『（【《" or 0x20000 <= ord(char) < 0x40000


def words(text: str, fold_case: bool) -> list[Word]:
    found: list[Word] = []
    newlines, at = 2, 0
    while at < len(text):
        if text[at].isspace():
            newlines += text[at] == "\n"
            at += 1
            continue
        end = at + 1
        while not _alone(text[at]) and end < len(text) and not text[end].isspace() and not _alone(text[end]):
            end += 1
        written = text[at:end]
        folded = "".join(char.lower()[0] if fold_case and ord(char) < 0x20000 else char for char in written)
        closes = written.rstrip("\"')]}”’»」』）】》")[-1:] in tuple(".?!。！？")
        found.append(Word(folded, at, end, min(newlines, 2), closes))
        newlines, at = 0, end
    return found


def pieces(text: str, level: str, given: Mapping[str, Any], fold_case: bool) -> list[Piece]:
    all_words = words(text, fold_case)
    starts = [
        k
        for k, word in enumerate(all_words)
        if level == "spans"
        or word.breaks == 2
        or (word.breaks == 1 and level != "paragraphs")
        or (level == "three_sentences" and all_words[k - 1].closes)
    ]
    window = {"three_sentences": 3, "spans": given.get("min_words", 0)}.get(level, 1)
    bounds = [*starts, len(all_words)]
    found = []
    for k in range(len(starts) - window + 1):
        inside = all_words[bounds[k] : bounds[k + window]]
        if level == "spans" or sum(word.end - word.start for word in inside) >= given["min_chars"]:
            found.append(Piece(tuple(word.chars for word in inside), inside[0].start, inside[-1].end))
    return found


def repeated(corpus: Sequence[Document], level: str, given: Mapping[str, Any], fold_case: bool) -> list[Repeat]:
    """Stretches that are one too many; `corpus` in any order, without two documents of one id and generation."""
    kept: dict[tuple[str, ...], list[tuple[Document, Piece]]] = {}
    late: list[tuple[Document, Piece, Document, Piece]] = []
    for document in sorted(corpus):
        for piece in pieces(document.text, level, given, fold_case):
            stays = kept.setdefault(piece.name, [])
            if stays and stays[-1][0] == document and piece.start < stays[-1][1].end:
                continue
            if len(stays) < given.get("max_copies", 1):
                stays.append((document, piece))
            else:
                late.append((document, piece, *stays[0]))
    found: list[tuple[Document, list[int], Document, list[int]]] = []
    for document, piece, first, at in late:
        if found and found[-1][0] == document and found[-1][2] == first:
            here, there = found[-1][1], found[-1][3]
            if piece.start <= here[1] and there[0] <= at.start <= there[1]:
                here[1], there[1] = max(here[1], piece.end), max(there[1], at.end)
                continue
        found.append((document, [piece.start, piece.end], first, [at.start, at.end]))
    return [Repeat(one.doc_id, level, *here, first.doc_id, *there) for one, here, first, there in found]


def without(text: str, ranges: Sequence[tuple[int, int]]) -> str:
    """The text without these; of the white space around what went one run stays: that with most line breaks, the last of equal ones."""
    chars = list(text)
    for start, end in ranges:
        chars[start:end] = GONE * (end - start)
    marked = "".join(chars)

    def joint(found: re.Match[str]) -> str:
        if found.start() == 0 or found.end() == len(marked):
            return ""
        runs = [run for run in found.group().split(GONE) if run]
        return max(reversed(runs), key=lambda run: run.count("\n"), default="")

    return re.sub(rf"\s*{GONE}[\s{GONE}]*", joint, marked)
