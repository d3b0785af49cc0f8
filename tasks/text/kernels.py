"""Compiled kernels that read the UTF-8 bytes of a whole shard: one pass, no Python object per document or word.

They count, nothing else: every number is an integer, so results never depend on order or platform; `signals.py` divides.
A line runs to the next "\\n"; a word is what `str.split()` gives; sizes are code points. Words, lines and n-grams are told
apart by 64-bit hashes: two different words of one document collide with about 2^-64, and the price would be one n-gram or
line wrongly called repeated. Above words nothing is hashed: n-grams are numbered as pairs of (n-1)-grams, exactly.
Scratch memory is about 40 bytes per byte of the longest document, reserved once per call and touched only as far as used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit, types

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Smalls = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Classes = npt.NDArray[np.uint16]

# What one code point is: bits of the class table.
SPACE, ALPHA, UPPER, DIGIT, PUNCTUATION, SENTENCE_END, CLOSER, C4_END, LINE_END, BULLET, SPECIAL = (
    1 << bit for bit in range(11)
)
MAX_CLASSED = 0x40000  # no letter, digit, punctuation mark or space lies above; a test looks

SENTENCE_ENDS = ".?!"
CLOSERS = "\"')]}”’»"  # may stand between the end mark of a sentence and the white space
C4_ENDS = '.?!"”'  # Raffel et al. 2020, 2.2: "period, exclamation mark, question mark, or end quotation mark"
LINE_ENDS = C4_ENDS + "'’…。！？"  # FineWeb's released filter takes . ' \" ! ?
BULLETS = "•‣⁃◦▪●-*"  # Gopher says "bullet point"; datatrove takes • and -, dolma takes * and -
SHORT_LINE_CHARS = 30  # FineWeb, 3.6: lines shorter than this
MAX_WORD_CHARS = 1000  # the public C4 code

# What is known of one line.
IN_LAWS = ("javascript", "policy", "lorem_ipsum", "curly_bracket", "square_bracket", "bullet", "ellipsis_end")
JAVASCRIPT, POLICY, LOREM_IPSUM, CURLY, SQUARE, HAS_BULLET, ELLIPSIS_END, HAS_C4_END, HAS_LINE_END = (
    1 << bit for bit in range(9)
)
(
    L_END,  # index of the byte behind the line: its "\n", or the end of the document
    L_CHARS,
    L_LEADING_CHARS,  # white space before the first word
    L_TRIM_START,  # bytes [start, end) of the line without white space around it
    L_TRIM_END,
    L_TRIM_CHARS,
    L_WORDS,
    L_WORD_CHARS,
    L_LONGEST_WORD,
    L_ALPHA_WORDS,
    L_SENTENCES,
    L_HASH,
    L_STOP_WORDS,  # bit k: the k-th stop word occurs
    L_HASHES,
    L_ELLIPSES,
    L_UPPER,
    L_DIGITS,
    L_PUNCTUATION,
    L_NON_ASCII,
    L_FLAGS,
    NUM_LINE_FACTS,
) = range(21)

# Verdicts on a line in the order of the public C4 code; the first that fails names the line.
LINE_VERDICTS = (
    "keep",
    "long_word",
    "ellipsis_end",
    "no_terminal_punctuation",
    "too_few_words",
    "javascript",
    "policy",
    "blank",
)
KEEP, LONG_WORD, BAD_ELLIPSIS, NO_TERMINAL, TOO_FEW_WORDS, BAD_JAVASCRIPT, BAD_POLICY, BLANK = range(8)
CITATION_MARKS = len(LINE_VERDICTS)  # the slot behind the verdicts counts citation marks

# The views of C4 that are measured: (fewest words of a line, terminal punctuation asked for).
VIEWS = {"c4": (5, True), "c4_paper": (3, True), "c4_np": (3, False)}
_VIEW_MIN_WORDS = np.array([words for words, _ in VIEWS.values()])
_VIEW_TERMINAL = np.array([terminal for _, terminal in VIEWS.values()])
_NUM_VIEWS = len(VIEWS)
_NP_VIEW = list(VIEWS).index("c4_np")

# What is counted per document: the columns of the matrix that `count_documents` fills.
COUNTS = (
    *("chars", "words", "newlines", "lines", "sentences", "word_chars", "alpha_words", "stop_words", "hashes"),
    *("ellipses", "upper", "digits", "punctuation", "non_ascii", "bullet_lines", "ellipsis_lines", "end_mark_lines"),
    *("short_lines", "javascript_lines", "policy_lines", "lorem_ipsum", "curly_bracket"),
    *("repeat_lines", "repeat_line_chars", "paragraphs", "repeat_paragraphs", "repeat_paragraph_chars"),
    *(f"top_{n}gram_chars" for n in (2, 3, 4)),
    *(f"dup_{n}gram_chars" for n in range(5, 11)),
    *(f"{view}_lines" for view in VIEWS),
    *(f"{view}_sentences" for view in VIEWS),
    *("np_words", "np_chars", "np_end_mark_lines", "np_short_lines", "np_repeat_line_chars"),
)
