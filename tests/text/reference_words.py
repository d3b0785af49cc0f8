"""Signals of words, stop words, boilerplate and compression in plain, slow Python; the rules of UAX #29 one by one, as it has them."""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import lru_cache
from pathlib import Path

import yaml

TEXT = Path(__file__).parents[2] / "tasks" / "text"
IGNORED = {"Extend", "Format", "ZWJ"}
LINE_ENDS = {"CR", "LF", "Newline"}
LINES = r"(?<=[\n\x0b\x0c\x85\u2028\u2029])|(?<=\r)(?!\n)"
AH_LETTER = {"ALetter", "Hebrew_Letter"}
MID_NUM_LET_Q = {"MidNumLet", "Single_Quote"}


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@lru_cache(maxsize=1)
def table() -> dict[int, tuple[str, str]]:
    """(Word_Break, marks) of every code point that has any."""
    found = {}
    for line in (TEXT / "words_data" / "word_break.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            points, name, marks = line.split("; ")
            first, last = points.split("..")
            found |= dict.fromkeys(range(int(first, 16), int(last, 16) + 1), (name, marks))
    return found


def facts(char: str) -> tuple[str, str]:
    return table().get(ord(char), ("Other", "-"))


def is_boundary(kinds: list[str], at: int, past: list[str], pictograph: bool) -> bool:
    """Whether UAX #29 has a boundary before kinds[at], which is not the first and may be a pictograph.

    `past` are the kinds before it without those that WB4 ignores.
    """
    before, behind = kinds[at - 1], kinds[at]
    if before == "CR" and behind == "LF":  # WB3
        return False
    if before in LINE_ENDS or behind in LINE_ENDS:  # WB3a, WB3b
        return True
    if before == "ZWJ" and pictograph:  # WB3c
        return False
    if before == behind == "WSegSpace":  # WB3d
        return False
    if behind in IGNORED:  # WB4
        return False
    before, older = past[-1], past[-2] if len(past) > 1 else ""
    next_one = next((kind for kind in kinds[at + 1 :] if kind not in IGNORED), "")
    joins = [
        before in AH_LETTER and behind in AH_LETTER,  # WB5
        before in AH_LETTER and behind in {"MidLetter", *MID_NUM_LET_Q} and next_one in AH_LETTER,  # WB6
        older in AH_LETTER and before in {"MidLetter", *MID_NUM_LET_Q} and behind in AH_LETTER,  # WB7
        before == "Hebrew_Letter" and behind == "Single_Quote",  # WB7a
        before == "Hebrew_Letter" and behind == "Double_Quote" and next_one == "Hebrew_Letter",  # WB7b
        older == "Hebrew_Letter" and before == "Double_Quote" and behind == "Hebrew_Letter",  # WB7c
        before == "Numeric" and behind == "Numeric",  # WB8
        before in AH_LETTER and behind == "Numeric",  # WB9
        before == "Numeric" and behind in AH_LETTER,  # WB10
        older == "Numeric" and before in {"MidNum", *MID_NUM_LET_Q} and behind == "Numeric",  # WB11
        before == "Numeric" and behind in {"MidNum", *MID_NUM_LET_Q} and next_one == "Numeric",  # WB12
        before == "Katakana" and behind == "Katakana",  # WB13
        before in {*AH_LETTER, "Numeric", "Katakana", "ExtendNumLet"} and behind == "ExtendNumLet",  # WB13a
        before == "ExtendNumLet" and behind in {*AH_LETTER, "Numeric", "Katakana"},  # WB13b
        behind == "Regional_Indicator" and num_regional_at_the_end(past) % 2 == 1,  # WB15, WB16
    ]
    return not any(joins)


def num_regional_at_the_end(kinds: list[str]) -> int:
    number = 0
    while number < len(kinds) and kinds[-1 - number] == "Regional_Indicator":
        number += 1
    return number


def segments(text: str) -> list[str]:
    found: list[str] = []
    for line in filter(None, re.split(LINES, text)):  # to save time: nothing joins what stands before and behind a line end
        kinds, past, start = [facts(char)[0] for char in line], [], 0
        for at, char in enumerate(line):
            if at > 0 and is_boundary(kinds, at, past, "P" in facts(char)[1]):
                found.append(line[start:at])
                start = at
            if kinds[at] not in IGNORED or at == 0:
                past.append(kinds[at])
        found.append(line[start:])
    return found


def is_word(segment: str) -> bool:
    return any(set("LN") & set(facts(char)[1]) for char in segment)


def words(text: str) -> list[str]:
    return [segment for segment in segments(text) if is_word(segment)]


def as_compared(word: str) -> str:
    chars = ["" if unicodedata.category(char) == "Cf" else char.lower() if len(char.lower()) == 1 else char for char in word]
    return "".join(chars).replace("’", "'")


@lru_cache(maxsize=1)
def stop_lists() -> dict[str, set[str]]:
    lists = yaml.safe_load((TEXT / "stop_words.yaml").read_text(encoding="utf-8"))["lists"]
    return {language: {as_compared(word) for word in some} for language, some in lists.items()}


@lru_cache(maxsize=1)
def phrases() -> list[list[str]]:
    by_language = yaml.safe_load((TEXT / "boilerplate_phrases.yaml").read_text(encoding="utf-8"))
    return [[as_compared(word) for word in words(phrase)] for some in by_language.values() for phrase in some]


def is_boilerplate(line: str) -> bool:
    own = [as_compared(word) for word in words(line)]
    return any(own[at : at + len(phrase)] == phrase for phrase in phrases() for at in range(len(own)))


def signals(text: str, language: str) -> dict[str, float | None]:
    found = words(text)
    compared = [as_compared(word) for word in found]
    letters = [char for char in text if "L" in facts(char)[1]]
    lines = [line for line in text.split("\n") if line.strip()]
    own = stop_lists().get(language)
    return {
        "uax29_num_words": len(found),
        "uax29_mean_word_length": ratio(sum(map(len, found)), len(found)),
        "uax29_alpha_word_fraction": ratio(sum(any("L" in facts(char)[1] for char in word) for word in found), len(found)),
        "uax29_type_token_ratio": ratio(len(set(found)), len(found)),
        "uax29_hash_per_word": ratio(text.count("#"), len(found)),
        "uax29_ellipsis_per_word": ratio(text.count("...") + text.count("…"), len(found)),
        "complex_letter_fraction": ratio(sum("S" in facts(char)[1] for char in letters), len(letters)),
        **{f"stop_words_{name}": sum(word in some for word in compared) for name, some in stop_lists().items()},
        "num_stop_words_own": None if own is None else len(own & set(compared)),
        "stop_word_fraction_own": None if own is None else ratio(sum(word in own for word in compared), len(compared)),
        "boilerplate_line_fraction": ratio(sum(map(is_boilerplate, lines)), len(lines)),
        "zlib_ratio": ratio(len(zlib.compress(text.encode(), 1)), len(text.encode())),
    }
