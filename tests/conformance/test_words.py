"""Our word boundaries against Unicode's own cases, and our table against Unicode's files and another implementation of them."""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path

import pytest
import regex  # comes with transformers; has its own tables, of a later Unicode

from tasks.text.words import COMPLEX, LETTER, NUMBER, PICTOGRAPH, WORD_BREAKS, boundaries, word_table

CASES = Path(__file__).parent / "unicode" / "WordBreakTest.txt"
UNICODE_DATA = Path("/usr/share/unicode")  # Debian's package unicode-data
ROOT = Path(__file__).parents[2]


CHANGED_LATER = {
    0xB8: "Other",  # cedilla; now ALetter
    **dict.fromkeys(
        (0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD), "Format"
    ),  # now Numeric
    0x70F: "Format",  # Syriac abbreviation mark; now ALetter
    0x19DA: "SA",  # New Tai Lue Tham digit one, and Other; now Numeric
    **dict.fromkeys((0xFE10, 0xFE14), "MidNum"),  # vertical comma and semicolon; now Other
}


def cases() -> list[tuple[str, list[int]]]:
    """(text, where its boundaries are) of every line."""
    found = []
    for line in CASES.read_text(encoding="utf-8").splitlines():
        text, ends = "", []
        for word in line.partition("#")[0].split():
            if word == "÷":
                ends.append(len(text))
            elif word != "×":
                text += chr(int(word, 16))
        if text:
            found.append((text, ends))
    return found


def test_every_case_of_unicode_has_its_boundaries() -> None:
    found = cases()
    assert len(found) == 1823
    wrong = {text: (boundaries(text), ends) for text, ends in found if boundaries(text) != ends}
    assert not wrong


def facts() -> list[int]:
    """The fact of every code point."""
    table = word_table()
    blocks = table.blocks.reshape(-1, 128)
    return [int(fact) for block in table.stage for fact in blocks[block]]


def test_the_table_is_that_of_another_implementation_but_for_what_later_versions_changed() -> None:
    kinds = [regex.compile(rf"\p{{WB={name}}}") for name in WORD_BREAKS]
    pictograph, complex_script = regex.compile(r"\p{Extended_Pictographic}"), regex.compile(r"\p{LB=SA}")
    otherwise = {}
    for point, fact in enumerate(facts()):
        char = chr(point)
        if unicodedata.category(char) in ("Cn", "Cs", "Co"):
            continue
        if not kinds[fact & 31].match(char):
            otherwise[point] = WORD_BREAKS[fact & 31]
        assert fact & PICTOGRAPH or not pictograph.match(char), hex(point)  # later versions only took some away
        if bool(fact & COMPLEX) != bool(complex_script.match(char)):
            otherwise[point] = "SA"
    assert otherwise == CHANGED_LATER


def test_letters_and_numbers_are_those_of_python_as_far_as_it_knows_them() -> None:
    for point, fact in enumerate(facts()):
        category = unicodedata.category(chr(point))
        if category != "Cn":
            assert bool(fact & LETTER) == (category[0] == "L") and bool(fact & NUMBER) == (category[0] == "N"), hex(point)


def test_the_table_that_ships_is_what_the_script_makes_of_the_files_of_unicode() -> None:
    if not (UNICODE_DATA / "auxiliary" / "WordBreakProperty.txt").exists():
        pytest.skip(f"{UNICODE_DATA} has no files: apt-get install unicode-data")
    spec = importlib.util.spec_from_file_location("word_table", ROOT / "docs" / "word_table.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.table(UNICODE_DATA)
    if "of Unicode 15.0.0;" not in made:
        pytest.skip(f"{UNICODE_DATA} is of another version of Unicode")
    assert script.TARGET.read_text(encoding="utf-8") == made
