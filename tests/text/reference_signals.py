"""Every signal in plain, slow Python on `str`, from FILTERS.md and the definitions in `signals.py`; shares no code with them."""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections import Counter

GOPHER_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
POLICY = ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"]
ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]")


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def sentences(line: str) -> int:
    count, open_words = 0, 0
    for word in line.split():
        open_words += 1
        if word.rstrip("\"')]}”’»").endswith((".", "?", "!")):
            count, open_words = count + 1, 0
    return count + (open_words > 0)


def repeats(items: list[tuple[object, int]]) -> tuple[int, int]:
    """(number, characters) of the (key, characters) whose key came before."""
    seen: set[object] = set()
    number = chars = 0
    for key, length in items:
        if key in seen:
            number, chars = number + 1, chars + length
        seen.add(key)
    return number, chars


def ngrams(words: list[str], n: int) -> list[str]:
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def top_ngram_fraction(words: list[str], n: int, num_chars: int) -> float:
    counts = Counter(ngrams(words, n))
    if not counts:
        return 0.0
    most = max(counts.values())
    return min(1.0, ratio(max(most * len(gram) for gram, count in counts.items() if count == most), num_chars))


def dup_ngram_fraction(words: list[str], n: int, num_chars: int) -> float:
    """Marks the characters of the words joined by one space that lie in an n-gram occurring more than once."""
    grams = ngrams(words, n)
    counts = Counter(grams)
    covered = [False] * len(" ".join(words))
    starts, at = [], 0
    for word in words:
        starts.append(at)
        at += len(word) + 1
    for i, gram in enumerate(grams):
        if counts[gram] > 1:
            covered[starts[i] : starts[i] + len(gram)] = [True] * len(gram)
    return ratio(sum(covered), num_chars)


def line_verdict(line: str, min_words: int, terminal: bool) -> str:
    if not line.split():
        return "blank"
    line = CITATION.sub("", line).strip()
    words, lower = line.split(), line.translate(ASCII_LOWER)
    if any(len(word) > 1000 for word in words):
        return "long_word"
    if terminal and line.endswith(("...", "…")):
        return "ellipsis_end"
    if terminal and not line.endswith((".", "?", "!", '"', "”")):
        return "no_terminal_punctuation"
    if len(words) < min_words:
        return "too_few_words"
    if "javascript" in lower:
        return "javascript"
    return "policy" if any(phrase in lower for phrase in POLICY) else "keep"


def rewritten(text: str, min_words: int, terminal: bool) -> str:
    out, gap = "", False
    for line in text.split("\n"):
        verdict = line_verdict(line, min_words, terminal)
        gap = gap or verdict == "blank"
        if verdict == "keep":
            out += ("\n\n" if gap else "\n") if out else ""
            out += CITATION.sub("", line).strip()
            gap = False
    return out


def end_marked(lines: list[str]) -> int:
    return sum(line.endswith(tuple(".?!\"”'’…。！？")) for line in lines)


def dolma(text: str) -> dict[str, float]:
    """As dolma 1.2's taggers gopher_v1 and gopher_v2 are described in `signals.py`."""
    words = text.split()
    num_word_chars = sum(map(len, words))
    found: dict[str, float] = {
        "median_word_length": statistics.median(map(len, words)) if words else 0,
        "stop_word_occurrences": sum(word in GOPHER_WORDS for word in words),
        "symbol_word_fraction": ratio(sum("#" in word or "…" in word for word in words), len(words)),
    }
    for version, lines in (("dolma", text.split("\n")), ("dolma_v2", re.split(r"\n+", text))):
        copies = [line for line, count in Counter(lines).items() for _ in range(count) if count > 1] if text else []
        found[f"{version}_bullet_line_fraction"] = sum(line.startswith(("*", "-")) for line in lines) / len(lines)
        found[f"{version}_ellipsis_line_fraction"] = sum(line.endswith("…") for line in lines) / len(lines)
        found[f"{version}_dup_line_fraction"] = len(copies) / len(lines)
        if version == "dolma":
            found["dolma_dup_line_char_fraction"] = sum(map(len, copies)) / max(num_word_chars, 1)
    for n in range(2, 11):
        grams = Counter("\0".join(words[i : i + n]) for i in range(len(words) - n + 1))
        chars = {gram: count * (len(gram) - n + 1) for gram, count in grams.items()}
        if n < 5:
            first = next((chars[gram] for gram, count in grams.items() if count == max(grams.values())), 0)
            found[f"dolma_top_{n}gram_char_fraction"] = ratio(first, num_word_chars)
        else:
            repeated = sum(chars[gram] for gram, count in grams.items() if count > 1)
            found[f"dolma_dup_{n}gram_char_fraction"] = ratio(repeated, sum(chars.values()))
    return found


SCRIPT_NAMES = {
    "latin": "(FULLWIDTH )?LATIN ",
    "cyrillic": "CYRILLIC ",
    "greek": "GREEK ",
    "arabic": "ARABIC ",
    "hebrew": "HEBREW ",
    "devanagari": "DEVANAGARI ",
    "han": "CJK (UNIFIED|COMPATIBILITY) ",
    "kana": "HIRAGANA |(HALFWIDTH )?KATAKANA|HENTAIGANA ",
    "hangul": "(HALFWIDTH )?HANGUL ",
}
CODE_MARKS = "{}[]()<>=;_|&*+/\\$^~@#%"
CODE_STARTS = "def |import |return |function |const |var |static |public |private |struct |elif |>>> |\\$ |//|/\\*|</|#!"


def looks_like_code(line: str) -> bool:
    chars = "".join(line.split())
    marks = sum(char in CODE_MARKS for char in chars)
    return 10 * marks >= len(chars) or line.endswith((";", "{", "}")) or re.match(CODE_STARTS, line) is not None


def characters(text: str) -> dict[str, float]:
    letters = [unicodedata.name(char, "") for char in text if unicodedata.category(char)[0] == "L"]
    scripts = Counter(
        next((script for script, names in SCRIPT_NAMES.items() if re.match(names, name)), "other") for name in letters
    )
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    counts, num_bytes = Counter(text.encode()), len(text.encode())
    return {
        "byte_entropy": -sum(counts[byte] / num_bytes * math.log2(counts[byte] / num_bytes) for byte in sorted(counts)),
        "code_likelihood": ratio(sum(map(looks_like_code, lines)), len(lines)),
        **{f"{script}_letter_fraction": ratio(scripts[script], len(letters)) for script in (*SCRIPT_NAMES, "other")},
    }


def signals(text: str) -> dict[str, float]:
    words = text.split()
    raw_lines = text.split("\n")
    lines = [line.strip() for line in raw_lines if line.strip()]
    paragraphs = [part.strip() for part in re.split(r"\n{2,}", text.strip()) if part.strip()]
    same_lines = repeats([(tuple(line.split()), len(line)) for line in lines])
    same_paragraphs = repeats(
        [(tuple(tuple(line.split()) for line in part.split("\n") if line.split()), len(part.strip())) for part in paragraphs]
    )
    cleaned = [CITATION.sub("", line).translate(ASCII_LOWER) for line in lines]
    categories = Counter(unicodedata.category(char) for char in text)
    num_chars, num_words, num_lines = len(text), len(words), len(lines)
    found: dict[str, float] = {
        "num_chars": num_chars,
        "num_words": num_words,
        "num_lines": num_lines,
        "num_sentences": sum(map(sentences, lines)),
        "mean_word_length": ratio(sum(map(len, words)), num_words),
        "hash_per_word": ratio(text.count("#"), num_words),
        "ellipsis_per_word": ratio(text.count("...") + text.count("…"), num_words),
        "bullet_line_fraction": ratio(sum(line.startswith(tuple("•‣⁃◦▪●-*")) for line in lines), num_lines),
        "ellipsis_line_fraction": ratio(sum(line.endswith(("...", "…")) for line in lines), num_lines),
        "alpha_word_fraction": ratio(sum(any(char.isalpha() for char in word) for word in words), num_words),
        "num_stop_words": len(GOPHER_WORDS & {word.lower() for word in words}),
        "dup_line_fraction": ratio(same_lines[0], num_lines),
        "dup_line_char_fraction": ratio(same_lines[1], num_chars),
        "dup_paragraph_fraction": ratio(same_paragraphs[0], len(paragraphs)),
        "dup_paragraph_char_fraction": ratio(same_paragraphs[1], num_chars),
        "line_punctuation_fraction": ratio(end_marked(lines), num_lines),
        "short_line_fraction": ratio(sum(len(line) < 30 for line in lines), num_lines),
        "newline_per_word": ratio(text.count("\n"), num_words),
        "has_lorem_ipsum": "lorem ipsum" in text.translate(ASCII_LOWER),
        "has_curly_bracket": "{" in text,
        "num_javascript_lines": sum("javascript" in line for line in cleaned),
        "num_policy_lines": sum(any(phrase in line for phrase in POLICY) for line in cleaned),
        "upper_case_fraction": ratio(categories["Lu"], num_chars),
        "digit_fraction": ratio(categories["Nd"], num_chars),
        "punctuation_fraction": ratio(sum(n for kind, n in categories.items() if kind[0] == "P"), num_chars),
        "non_ascii_fraction": ratio(sum(char > "\x7f" for char in text), num_chars),
        "num_lines_200_chars": sum(len(line) >= 200 for line in lines),
        "list_line_fraction": ratio(
            sum(re.match(r"[•‣⁃◦▪●\-*]|[0-9]{1,3}[.)](\s|$)", line) is not None for line in lines), num_lines
        ),
        "type_token_ratio": ratio(len(set(words)), num_words),
    }
    found |= dolma(text) | characters(text)
    found |= {f"top_{n}gram_char_fraction": top_ngram_fraction(words, n, num_chars) for n in (2, 3, 4)}
    found |= {f"dup_{n}gram_char_fraction": dup_ngram_fraction(words, n, num_chars) for n in range(5, 11)}
    for view, min_words, terminal in (("c4", 5, True), ("c4_paper", 3, True), ("c4_np", 3, False)):
        kept = [line for line in rewritten(text, min_words, terminal).split("\n") if line]
        found[f"{view}_num_lines_kept"] = len(kept)
        found[f"{view}_num_sentences"] = sum(map(sentences, kept))
    found["c4_np_line_punctuation_fraction"] = ratio(end_marked(kept), len(kept))
    found["c4_np_short_line_fraction"] = ratio(sum(len(line) < 30 for line in kept), len(kept))
    same_kept = repeats([(tuple(line.split()), len(line)) for line in kept])
    found["c4_np_dup_line_char_fraction"] = ratio(same_kept[1], sum(map(len, kept)))
    found["c4_np_newline_per_word"] = ratio(max(len(kept) - 1, 0), sum(len(line.split()) for line in kept))
    return found
