"""Writes tasks/text/words_data/word_break.txt from Unicode's data files: what UAX #29 and a word count ask of every code point.

    python docs/word_table.py FOLDER

FOLDER holds auxiliary/WordBreakProperty.txt, emoji/emoji-data.txt, extracted/DerivedGeneralCategory.txt and LineBreak.txt of one version
of Unicode: /usr/share/unicode of Debian's package unicode-data, or the files of https://www.unicode.org/Public/15.0.0/ucd/.
Standard library only. `tasks/text/words.py` reads the result; a test makes it anew where the folder is there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "tasks" / "text" / "words_data" / "word_break.txt"
NUM_POINTS = 0x110000
HEAD = """# Word_Break of every code point and what a count of words asks besides, of Unicode {version}; made by docs/word_table.py.
# first..last; Word_Break; L a letter (General_Category L*), N a number (N*), P Extended_Pictographic, S Line_Break=SA
# All others: Other, none of these.
# Changed from Unicode's files WordBreakProperty.txt, emoji-data.txt, DerivedGeneralCategory.txt and LineBreak.txt: joined, and made short.
# © 2022 Unicode®, Inc. For terms of use, see https://www.unicode.org/terms_of_use.html and NOTICE
"""


def table(folder: Path) -> str:
    """The text of the table."""
    breaks, marks = ["Other"] * NUM_POINTS, [""] * NUM_POINTS
    for first, last, value in _ranges(folder / "auxiliary" / "WordBreakProperty.txt"):
        breaks[first : last + 1] = [value] * (last + 1 - first)
    for first, last, value in _ranges(folder / "extracted" / "DerivedGeneralCategory.txt"):
        if value[0] in "LN":
            marks[first : last + 1] = [value[0]] * (last + 1 - first)
    for first, last, value in _ranges(folder / "emoji" / "emoji-data.txt"):
        if value == "Extended_Pictographic":
            marks[first : last + 1] = [mark + "P" for mark in marks[first : last + 1]]
    for first, last, value in _ranges(folder / "LineBreak.txt"):
        if value == "SA":
            marks[first : last + 1] = [mark + "S" for mark in marks[first : last + 1]]
    facts = [f"{name}; {mark or '-'}" for name, mark in zip(breaks, marks, strict=True)]
    version = re.search(r"-(\d+\.\d+\.\d+)\.txt", (folder / "auxiliary" / "WordBreakProperty.txt").read_text(encoding="utf-8"))
    if version is None:
        raise ValueError(f"{folder}: WordBreakProperty.txt does not say of which version of Unicode it is")
    return HEAD.format(version=version[1]) + "".join(f"{line}\n" for line in _lines(facts))


def _ranges(path: Path) -> Iterator[tuple[int, int, str]]:
    """(first, last, value) of every line of a property file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = [field.strip() for field in line.partition("#")[0].split(";")]
        if len(fields) == 2:
            first, _, last = fields[0].partition("..")
            yield int(first, 16), int(last or first, 16), fields[1]


def _lines(facts: list[str]) -> Iterator[str]:
    """One line for every run of code points of equal facts, those of nothing left out."""
    start = 0
    for point in range(1, NUM_POINTS + 1):
        if point == NUM_POINTS or facts[point] != facts[start]:
            if facts[start] != "Other; -":
                yield f"{start:04X}..{point - 1:04X}; {facts[start]}"
            start = point


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/word_table.py FOLDER, that of Unicode's data files")
    TARGET.write_text(table(Path(sys.argv[1])), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
