"""datatrove's numbers in plain, slow Python on `str`, given the tokens; written from its filters, sharing no code with the kernels.

A token is a (start, end) in the text. What lies between two tokens is a token of white space, unless it is nothing or one space.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tasks.text import datatrove

Spans = list[tuple[int, int]]
_CLASSES = json.loads((Path(datatrove.__file__).with_name("datatrove_data") / "english.json").read_text(encoding="utf-8"))[
    "classes"
]
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
POLICY = ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"]
ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def _chars(name: str) -> frozenset[str]:
    return frozenset(chr(point) for first, last in _CLASSES[name] for point in range(first, last + 1))


SYMBOLS, TERMINAL, SENTENCE_ENDS = _chars("punctuation"), _chars("terminal"), _chars("sentence_end")


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def find_duplicates(items: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    number = chars = 0
    for item in items:
        if item in seen:
            number, chars = number + 1, chars + len(item)
        seen.add(item)
    return number, chars


def top_ngram_chars(words: list[str], n: int) -> int:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count


def dup_ngram_chars(words: list[str], n: int) -> int:
    seen: set[str] = set()
    chars = at = 0
    while at < len(words) - n + 1:
        gram = "".join(words[at : at + n])
        if gram in seen:
            chars, at = chars + len(gram), at + n
        else:
            seen.add(gram)
            at += 1
    return chars


def num_sentences(text: str, spans: Spans) -> int:
    tokens, end = [], 0
    for start, stop in spans:
        if text[end:start] not in ("", " ") and end:
            tokens.append(text[end:start])
        tokens.append(text[start:stop])
        end = stop
    number, ended = 1, False
    for token in tokens:
        marks = token in SENTENCE_ENDS
        if ended and not marks and not all(unicodedata.category(char).startswith("P") for char in token):
            number, ended = number + 1, False
        elif marks:
            ended = True
    return number


def c4(text: str, tokenize: Callable[[str], Spans]) -> tuple[bool, bool, int]:
    """("lorem ipsum" or "{" ended the reading, sentences until then)."""
    sentences = 0
    for raw in text.splitlines():
        line = raw.strip()
        words = line.split()
        if any(len(word) > 1000 for word in words):
            continue
        line = CITATION.sub("", line)
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...") or len(words) < 3:
            continue
        lower = line.translate(ASCII_LOWER)
        if "lorem ipsum" in lower:
            return True, False, sentences
        if "javascript" in lower:
            continue
        if "{" in line:
            return False, True, sentences
        if any(phrase in lower for phrase in POLICY):
            continue
        sentences += num_sentences(line, tokenize(line))
    return False, False, sentences


def signals(text: str, tokenize: Callable[[str], Spans]) -> dict[str, float]:
    words = [text[start:end] for start, end in tokenize(text)]
    spoken = [word for word in words if not all(char in SYMBOLS for char in word)]
    lines, parts = text.splitlines(), re.split("\n+", text) if text else []
    paragraphs = re.split(r"\n{2,}", text.strip())
    full = [line for line in text.split("\n") if line.strip()]
    lorem, curly, sentences = c4(text, tokenize)
    dup_paragraphs, dup_parts = find_duplicates(paragraphs), find_duplicates(parts)
    return {
        "datatrove_num_tokens": len(words),
        "datatrove_num_words": len(spoken),
        "datatrove_mean_word_length": ratio(sum(map(len, spoken)), len(spoken)),
        "datatrove_hash_per_token": ratio(text.count("#"), len(words)),
        "datatrove_ellipsis_per_token": ratio(text.count("...") + text.count("…"), len(words)),
        "datatrove_bullet_line_fraction": ratio(sum(line.lstrip().startswith(("•", "-")) for line in lines), len(lines)),
        "datatrove_ellipsis_line_fraction": ratio(sum(line.rstrip().endswith(("...", "…")) for line in lines), len(lines)),
        "datatrove_alpha_token_fraction": ratio(sum(any(map(str.isalpha, word)) for word in words), len(words)),
        "datatrove_num_stop_words": len({"the", "be", "to", "of", "and", "that", "have", "with"}.intersection(words)),
        "datatrove_dup_paragraph_fraction": ratio(dup_paragraphs[0], len(paragraphs)),
        "datatrove_dup_paragraph_char_fraction": ratio(dup_paragraphs[1], len(text)),
        "datatrove_dup_line_fraction": ratio(dup_parts[0], len(parts)),
        "datatrove_dup_line_char_fraction": ratio(dup_parts[1], len(text)),
        **{f"datatrove_top_{n}gram_char_fraction": ratio(top_ngram_chars(words, n), len(text)) for n in (2, 3, 4)},
        **{f"datatrove_dup_{n}gram_char_fraction": ratio(dup_ngram_chars(words, n), len(text)) for n in range(5, 11)},
        "datatrove_c4_lorem_ipsum": lorem,
        "datatrove_c4_curly_bracket": curly,
        "datatrove_c4_num_sentences": sentences,
        "datatrove_fineweb_num_lines": len(full),
        "datatrove_fineweb_line_punctuation_fraction": ratio(sum(line[-1] in TERMINAL for line in full), len(full)),
        "datatrove_fineweb_short_line_fraction": ratio(sum(len(line) <= 30 for line in full), len(full)),
        "datatrove_fineweb_dup_line_char_fraction": ratio(find_duplicates(full)[1], len(text.replace("\n", ""))),
        "datatrove_fineweb_newline_per_token": ratio(text.count("\n"), len(words)),
    }
