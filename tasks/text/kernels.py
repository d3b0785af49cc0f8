"""Compiled kernels that read the UTF-8 bytes of a whole shard: one pass, no Python object per document or word.

They count, nothing else: every number is an integer, and `signals.py` divides. A line runs to the next "\\n", a word is what
`str.split()` gives, sizes are code points. Words and lines are told apart by 64-bit hashes: two different words of one
document collide with about 2^-64 (texts made to collide aside), and the price would be one line or n-gram wrongly called
repeated. Above words nothing is hashed: an n-gram is numbered as a pair of (n-1)-grams, exactly.
One file, long as it is: numba's cache of a kernel notices a change in its own file only.
Scratch memory is at most 56 bytes per byte of the longest document, reserved once per call and touched only as far as used.
"""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit, types

from tasks.text.buffers import Bytes, Ints, string_buffers

Smalls = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Classes = npt.NDArray[np.uint16]

SENTENCE_ENDS = ".?!"
CLOSERS = "\"')]}”’»"  # may stand between the end mark of a sentence and the white space
C4_ENDS = '.?!"”'  # Raffel et al. 2020, 2.2: "a period, exclamation mark, question mark, or end quotation mark"
LINE_ENDS = C4_ENDS + "'’…。！？"  # FineWeb's released filter: . ' " ! ?; the rest is the same in typeset and CJK text
BULLETS = "•‣⁃◦▪●-*"  # Gopher says "bullet point"; datatrove takes • and -, dolma takes * and -
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, A.1.1
PHRASES = (  # the public C4 code; ASCII, compared without regard to case
    *("javascript", "lorem ipsum"),
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
)
MAX_WORD_CHARS = 1000  # the public C4 code: a longer word removes its line
SHORT_LINE_CHARS = 30  # FineWeb, 3.6: lines shorter than this
LONG_LINE_CHARS = 200  # mC4 (Xue et al. 2021, arXiv 2010.11934, 3.1): "three lines of text with 200 or more characters"
DOLMA_SYMBOLS, DOLMA_BULLETS = "#…", "*-"  # dolma 1.2, taggers/gopher.py
SCRIPTS = {  # a letter is of the script whose words begin its Unicode name; Python has no table of the property Script
    "latin": ("LATIN ", "FULLWIDTH LATIN "),
    "cyrillic": ("CYRILLIC ",),
    "greek": ("GREEK ",),
    "arabic": ("ARABIC ",),
    "hebrew": ("HEBREW ",),
    "devanagari": ("DEVANAGARI ",),
    "han": ("CJK UNIFIED ", "CJK COMPATIBILITY "),
    "kana": ("HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "HENTAIGANA "),
    "hangul": ("HANGUL ", "HALFWIDTH HANGUL "),
}
CODE_MARKS = "{}[]()<>=;_|&*+/\\$^~@#%"  # more usual in code than in prose; our choice, as are the next three
CODE_MARK_PERCENT = 10
CODE_ENDS = ";{}"
CODE_STARTS = (
    *("def ", "import ", "return ", "function ", "const ", "var ", "static ", "public ", "private ", "struct ", "elif "),
    *(">>> ", "$ ", "//", "/*", "</", "#!"),
)
MAX_CLASSED = 0x40000  # no letter, digit, punctuation mark or space lies above; a test looks

# What a code point is: bits of the class table.
SPACE, ALPHA, UPPER, DIGIT, PUNCTUATION = (1 << bit for bit in range(5))
SENTENCE_END, CLOSER, C4_END, LINE_END, BULLET, SPECIAL, SYMBOL = (1 << bit for bit in range(5, 12))
SCRIPT_SHIFT = 12  # the four highest bits: 0, or 1 + the place of a letter's script in SCRIPTS
# What holds of a line: bits of L_FLAGS.
JAVASCRIPT, LOREM_IPSUM, POLICY, CURLY, SQUARE, HAS_BULLET, ELLIPSIS_END, HAS_C4_END, HAS_LINE_END, LIST_ITEM = (
    1 << bit for bit in range(10)
)
# What is counted of a line. L_END is the byte behind it; TRIM means without the white space around it.
L_END, L_CHARS, L_LEADING_CHARS, L_TRIM_START, L_TRIM_END, L_TRIM_CHARS, L_HASH, L_FLAGS = range(8)
L_WORDS, L_WORD_CHARS, L_LONGEST_WORD, L_ALPHA_WORDS, L_STOP_WORDS, L_SENTENCES, L_ELLIPSES = range(8, 15)
L_UPPER, L_DIGITS, L_PUNCTUATION, L_NON_ASCII = range(15, 19)  # only those outside ASCII: see `_tally_ascii`
L_SYMBOL_WORDS, L_STOP_OCCURRENCES = range(19, 21)
NUM_LINE_FACTS = 21

# Verdicts on a line, in the order in which the public C4 code asks: the first that holds against it names the line.
LINE_VERDICTS = (
    *("keep", "long_word", "ellipsis_end", "no_terminal_punctuation", "too_few_words", "javascript", "policy", "blank"),
)
KEEP, LONG_WORD, BAD_ELLIPSIS, NO_TERMINAL, TOO_FEW_WORDS, BAD_JAVASCRIPT, BAD_POLICY, BLANK = range(8)
CITATION_MARKS = len(LINE_VERDICTS)  # the slot behind the verdicts counts citation marks

# C4 views that are measured: (fewest words of a line, terminal punctuation asked for).
VIEWS = {"c4": (5, True), "c4_paper": (3, True), "c4_np": (3, False)}
_NUM_VIEWS = len(VIEWS)
_NP = list(VIEWS).index("c4_np")
_VIEW_MIN_WORDS = np.array([words for words, _ in VIEWS.values()], dtype=np.int64)
_VIEW_TERMINAL = np.array([terminal for _, terminal in VIEWS.values()])

# What is counted of a document: columns of the matrix that `count_documents` fills.
COUNTS = (
    *("chars", "words", "newlines", "lines", "sentences", "word_chars", "alpha_words", "stop_words", "hashes"),
    *("ellipses", "upper", "digits", "punctuation", "non_ascii", "bullet_lines", "ellipsis_lines", "end_mark_lines"),
    *("short_lines", "javascript_lines", "policy_lines", "lorem_ipsum", "curly_bracket"),
    *("repeat_lines", "repeat_line_chars", "paragraphs", "repeat_paragraphs", "repeat_paragraph_chars"),
    *(f"{n}gram_chars" for n in range(2, 11)),
    *(f"{view}_lines" for view in VIEWS),
    *(f"{view}_sentences" for view in VIEWS),
    *("np_words", "np_chars", "np_end_mark_lines", "np_short_lines", "np_repeat_line_chars"),
    *("long_lines", "list_lines", "distinct_words", "symbol_words", "stop_occurrences"),
    # from here on as dolma counts, if asked to; a raw line is the bytes between two newlines, if there are any
    *("double_median", "raw_lines", "edge_blanks", "raw_bullet_lines", "raw_ellipsis_lines", "raw_copies", "raw_copy_chars"),
    *(f"dolma_top_{n}gram_chars" for n in range(2, 5)),
    *(f"dolma_dup_{n}gram_chars" for n in range(5, 11)),
    *(f"dolma_all_{n}gram_chars" for n in range(5, 11)),
)
K_CHARS, K_WORDS, K_NEWLINES, K_LINES, K_SENTENCES, K_WORD_CHARS, K_ALPHA_WORDS, K_STOP_WORDS, K_HASHES = range(9)
K_ELLIPSES, K_UPPER, K_DIGITS, K_PUNCTUATION, K_NON_ASCII, K_BULLETS, K_ELLIPSIS_LINES, K_END_MARK_LINES = range(9, 17)
K_SHORT_LINES, K_JAVASCRIPT, K_POLICY, K_LOREM_IPSUM, K_CURLY = range(17, 22)
K_REPEAT_LINES, K_REPEAT_LINE_CHARS, K_PARAGRAPHS, K_REPEAT_PARAGRAPHS, K_REPEAT_PARAGRAPH_CHARS = range(22, 27)
K_2GRAM = COUNTS.index("2gram_chars")
K_VIEW_LINES = COUNTS.index("c4_lines")
K_VIEW_SENTENCES = COUNTS.index("c4_sentences")
K_NP_WORDS, K_NP_CHARS, K_NP_END_MARK_LINES, K_NP_SHORT_LINES, K_NP_REPEAT_LINE_CHARS = (
    COUNTS.index("np_words") + k for k in range(5)
)
K_LONG_LINES, K_LIST_LINES, K_DISTINCT_WORDS, K_SYMBOL_WORDS, K_STOP_OCCURRENCES = (
    COUNTS.index("long_lines") + k for k in range(5)
)
K_DOUBLE_MEDIAN, K_RAW_LINES, K_EDGE_BLANKS, K_RAW_BULLETS, K_RAW_ELLIPSIS, K_RAW_COPIES, K_RAW_COPY_CHARS = (
    COUNTS.index("double_median") + k for k in range(7)
)
K_TOP_2GRAM, K_DUP_5GRAM, K_ALL_5GRAM = (COUNTS.index(f"dolma_{name}gram_chars") for name in ("top_2", "dup_5", "all_5"))

# What `count_characters` counts of a document: letters by script, those of no script above, and lines that look like code.
CHARACTER_COUNTS = (*SCRIPTS, "other", "code_lines")
C_LATIN, C_OTHER, C_CODE_LINES = 0, len(SCRIPTS), len(SCRIPTS) + 1

_NEWLINE, _DOT, _CURLY, _OPEN, _CLOSE, _ELLIPSIS, _PARENTHESIS = (ord(char) for char in "\n.{[]…)")
_REPLACEMENT = np.int64(0xFFFD)
_HASH_SEED, _HASH_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits
_MIX, _GOLDEN = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0x9E3779B97F4A7C15)  # MurmurHash3's finaliser; 2^64 / phi
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += 32


def _ascii_tally() -> Hashes:
    """What one byte adds to the counters of `_tally_ascii`."""
    tally = np.zeros(256, np.uint64)
    for byte, char in enumerate(map(chr, range(128))):
        kinds = (char.isupper(), char.isdigit(), unicodedata.category(char)[0] == "P", char == "#")
        tally[byte] = sum(1 << (16 * quarter) for quarter, holds in enumerate(kinds) if holds)
    return tally


_ASCII_TALLY = _ascii_tally()


def _code_tally() -> Hashes:
    """What one byte adds to the two counters of `count_characters`: characters but white space, and marks of code above."""
    tally = np.zeros(128, np.uint64)
    for byte, char in enumerate(map(chr, range(128))):
        tally[byte] = (not char.isspace()) + ((char in CODE_MARKS) << 32)
    return tally


_CODE_TALLY = _code_tally()
_CODE_ENDS = np.frombuffer(CODE_ENDS.encode("ascii"), np.uint8)
_DOLMA_BULLETS = np.frombuffer(DOLMA_BULLETS.encode("ascii"), np.uint8)


def _concatenated(parts: tuple[str, ...]) -> tuple[Bytes, Ints]:
    """ASCII `parts` as one byte array and the len(parts) + 1 offsets of the parts in it."""
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return np.frombuffer("".join(parts).encode("ascii"), np.uint8), offsets


_PHRASE_BYTES, _PHRASE_OFFSETS = _concatenated(PHRASES)
_PHRASE_FLAGS = np.array([JAVASCRIPT, LOREM_IPSUM, *[POLICY] * 6], dtype=np.int64)
# Phrases are looked for at their rarest letters: v, m, f, v, k.
_PHRASE_ANCHORS = np.array([phrase.index(rare) for phrase, rare in zip(PHRASES, "vmfvkkkk", strict=True)], np.int64)
_STOP_KEYS = np.array([int.from_bytes(word.encode("ascii"), "big") for word in STOP_WORDS], dtype=np.int64)
_CODE_BYTES, _CODE_OFFSETS = _concatenated(CODE_STARTS)
_MARK_BYTES, _MARK_OFFSETS = _concatenated(("[edit]", "[citation needed]"))  # and [digits]: the public C4 code


class _Scratch(NamedTuple):
    """Working arrays of one call, each as long as the longest document could have words (`slots`: 2 to 4 times that)."""

    word_hash: Hashes
    word_chars: Smalls
    line_hash: Hashes
    line_chars: Smalls
    view_hash: Hashes
    view_chars: Smalls
    paragraph_hash: Hashes
    paragraph_chars: Smalls
    keys: Hashes
    grams: Smalls
    positions: Smalls
    ids: Smalls
    id_keys: Hashes
    id_counts: Smalls
    slots: Smalls
    clean: Bytes
    raw_hash: Hashes
    raw_chars: Smalls
    histogram: Smalls


def _script(char: str, category: str) -> int:
    """1 + the place of a letter's script in SCRIPTS, or 0."""
    if category[0] == "L":
        name = unicodedata.name(char, "")
        for place, beginnings in enumerate(SCRIPTS.values(), 1):
            if name.startswith(beginnings):
                return place
    return 0


@lru_cache(maxsize=1)
def character_classes() -> Classes:
    """The class bits of every code point below MAX_CLASSED (uint16), from this Python's Unicode tables; built in 0.1 s."""
    classes = np.zeros(MAX_CLASSED, np.uint16)
    by_category = {"Nd": DIGIT, "Lu": ALPHA | UPPER, "Ll": ALPHA, "Lt": ALPHA, "Lm": ALPHA, "Lo": ALPHA}
    for point, char in enumerate(map(chr, range(MAX_CLASSED))):
        category = unicodedata.category(char)
        bits = PUNCTUATION if category[0] == "P" else by_category.get(category, 0)
        classes[point] = bits | (SPACE if char.isspace() else 0) | _script(char, category) << SCRIPT_SHIFT
    anchors = "".join({phrase[at] for phrase, at in zip(PHRASES, _PHRASE_ANCHORS, strict=True)})
    marks = {
        SENTENCE_END: SENTENCE_ENDS,
        CLOSER: CLOSERS,
        C4_END: C4_ENDS,
        LINE_END: LINE_ENDS,
        BULLET: BULLETS,
        SYMBOL: DOLMA_SYMBOLS,
    }
    for bit, chars in {**marks, SPECIAL: ".{[" + anchors + anchors.upper()}.items():
        classes[[ord(char) for char in chars]] |= bit
    return classes


@njit(cache=True, nogil=True)
def _decode(data: Bytes, pos: int, end: int) -> tuple[np.int64, int]:
    """(code point, width in bytes) at `pos`, where a byte >= 0x80 stands; a broken sequence is U+FFFD of one byte."""
    lead = np.int64(data[pos])
    if lead < 0xC2 or lead > 0xF4:
        return _REPLACEMENT, 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if pos + width > end:
        return _REPLACEMENT, 1
    point = lead & (0x7F >> width)
    for k in range(1, width):
        point = (point << 6) | (np.int64(data[pos + k]) & 0x3F)
    return point, width


@njit(cache=True, nogil=True)
def _matches(data: Bytes, pos: int, end: int, phrases: Bytes, start: int, stop: int) -> bool:
    """Whether data[pos:end] begins with phrases[start:stop], without regard to ASCII case."""
    if pos + stop - start > end:
        return False
    for k in range(stop - start):  # noqa: SIM110 - numba compiles the loop, not the generator
        if _LOWER[data[pos + k]] != phrases[start + k]:
            return False
    return True


@njit(cache=True, nogil=True)
def _phrase_flags(data: Bytes, start: int, pos: int, end: int) -> int:
    """The flags of the phrases in data[start:end] whose anchor letter stands at `pos`."""
    flags, letter = 0, _LOWER[data[pos]]
    for k in range(_PHRASE_ANCHORS.size):
        first, anchor = _PHRASE_OFFSETS[k], _PHRASE_ANCHORS[k]
        if (
            letter == _PHRASE_BYTES[first + anchor]
            and pos - anchor >= start
            and _matches(data, pos - anchor, end, _PHRASE_BYTES, first, _PHRASE_OFFSETS[k + 1])
        ):
            flags |= _PHRASE_FLAGS[k]
    return flags


@njit(cache=True, nogil=True)
def _stop_word(data: Bytes, start: int, end: int) -> int:
    """The bit of the stop word that data[start:end], of at most 4 bytes, is, and bit 8 if it is in lower case; or 0."""
    key, as_written = 0, 0
    for pos in range(start, end):
        key = (key << 8) | _LOWER[data[pos]]
        as_written = (as_written << 8) | data[pos]
    for k in range(_STOP_KEYS.size):
        if key == _STOP_KEYS[k]:
            return 1 << k | (256 if key == as_written else 0)
    return 0


@njit(cache=True, nogil=True)
def _last_kind(data: Bytes, start: int, end: int, classes: Classes) -> tuple[np.int64, int]:
    """(class bits, first byte) of the last code point of data[start:end], which is not empty."""
    pos = end - 1
    while pos > start and data[pos] & 0xC0 == 0x80:
        pos -= 1
    point = np.int64(data[pos])
    if point >= 128:
        point, _ = _decode(data, pos, end)
    return (np.int64(classes[point]) if point < MAX_CLASSED else np.int64(0)), pos


@njit(cache=True, nogil=True)
def _ends_sentence(data: Bytes, start: int, end: int, classes: Classes) -> int:
    """1 when the word data[start:end] ends with . ? or !, quotation marks and brackets behind it aside."""
    while end > start:
        kind, end = _last_kind(data, start, end, classes)
        if kind & SENTENCE_END:
            return 1
        if not kind & CLOSER:
            return 0
    return 0


@njit(cache=True, nogil=True)
def _bullet_flag(data: Bytes, start: int, end: int, classes: Classes) -> int:
    """HAS_BULLET and LIST_ITEM when a bullet stands at `start`, else 0."""
    point = np.int64(data[start])
    if point >= 128:
        point, _ = _decode(data, start, end)
    return HAS_BULLET | LIST_ITEM if point < MAX_CLASSED and classes[point] & BULLET else 0


@njit(cache=True, nogil=True)
def _item_flag(data: Bytes, start: int, end: int) -> int:
    """LIST_ITEM when the word data[start:end] numbers an item: one to three digits and '.' or ')'; else 0."""
    if not 2 <= end - start <= 4 or (data[end - 1] != _DOT and data[end - 1] != _PARENTHESIS):
        return 0
    for pos in range(start, end - 1):
        if data[pos] < 48 or data[pos] > 57:
            return 0
    return LIST_ITEM


@njit(cache=True, nogil=True)
def _end_flags(data: Bytes, start: int, end: int, classes: Classes) -> int:
    """What the end of the line data[start:end], stripped and not empty, says: bits of L_FLAGS."""
    kind, pos = _last_kind(data, start, end, classes)
    flags = (HAS_C4_END if kind & C4_END else 0) | (HAS_LINE_END if kind & LINE_END else 0)
    three_dots = data[pos] == _DOT and pos - start >= 2 and data[pos - 1] == _DOT and data[pos - 2] == _DOT
    typeset = end - pos == 3 and data[pos] == 0xE2 and data[pos + 1] == 0x80 and data[pos + 2] == 0xA6  # …
    return flags | (ELLIPSIS_END if three_dots or typeset else 0)


@njit(cache=True, nogil=True)
def _scan_line(
    data: Bytes, start: int, end: int, classes: Classes, first: int, word_hash: Hashes, word_chars: Smalls, facts: Ints
) -> None:
    """Counts one line, from `start` to the next newline or `end`, into `facts`, and writes its words from index `first`.

    The loop over the bytes of a word does the least it can: whatever can be asked once per word, per line or of the rare
    characters is asked there. Indices are cast to unsigned because numba else compiles a test for negative ones.
    """
    facts[:] = 0
    pos, extra_bytes, flags, words = start, 0, 0, 0  # a code point of n bytes has n - 1 extra bytes
    trim_end, trim_end_extra, dots, last_dot, open_sentence = start, 0, 0, -1, 0
    line_hash = _HASH_SEED
    while True:
        while pos < end:  # white space
            point = np.int64(data[np.uint64(pos)])
            if point < 128:
                if point == _NEWLINE or not classes[np.uint64(point)] & SPACE:
                    break
                pos += 1
            else:
                point, width = _decode(data, pos, end)
                if point >= MAX_CLASSED or not classes[np.uint64(point)] & SPACE:
                    break
                facts[L_NON_ASCII] += 1
                extra_bytes += width - 1
                pos += width
        if pos >= end or data[pos] == _NEWLINE:
            break
        word_start, word_extra, all_kinds = pos, extra_bytes, np.int64(0)
        fingerprint = _HASH_SEED
        while pos < end:  # a word
            point = np.int64(data[np.uint64(pos)])
            if point < 128:
                kind = np.int64(classes[np.uint64(point)])
                if kind & (SPACE | SPECIAL):
                    if kind & SPACE:
                        break
                    if point == _DOT:
                        dots = dots + 1 if last_dot == pos - 1 else 1
                        last_dot = pos
                        if dots == 3:
                            facts[L_ELLIPSES] += 1
                            dots = 0
                    elif point == _CURLY:
                        flags |= CURLY
                    elif point == _OPEN:
                        flags |= SQUARE
                    else:
                        flags |= _phrase_flags(data, start, pos, end)
                pos += 1
            else:
                point, width = _decode(data, pos, end)
                kind = np.int64(classes[np.uint64(point)]) if point < MAX_CLASSED else np.int64(0)
                if kind & SPACE:
                    break
                facts[L_NON_ASCII] += 1
                facts[L_UPPER] += (kind & UPPER) != 0
                facts[L_DIGITS] += (kind & DIGIT) != 0
                facts[L_PUNCTUATION] += (kind & PUNCTUATION) != 0
                facts[L_ELLIPSES] += point == _ELLIPSIS
                extra_bytes += width - 1
                pos += width
            fingerprint = (fingerprint ^ np.uint64(point)) * _HASH_PRIME
            all_kinds |= kind
        if words == 0:
            facts[L_TRIM_START] = word_start
            facts[L_LEADING_CHARS] = word_start - start - word_extra
            flags |= _bullet_flag(data, word_start, end, classes) | _item_flag(data, word_start, pos)
        length = pos - word_start - (extra_bytes - word_extra)
        fingerprint = (fingerprint ^ (fingerprint >> np.uint64(33))) * _MIX
        fingerprint ^= fingerprint >> np.uint64(33)
        word_hash[first + words] = fingerprint
        word_chars[first + words] = length
        line_hash = (line_hash ^ fingerprint) * _MIX
        line_hash ^= line_hash >> np.uint64(32)
        words += 1
        facts[L_WORD_CHARS] += length
        facts[L_LONGEST_WORD] = max(facts[L_LONGEST_WORD], length)
        facts[L_ALPHA_WORDS] += (all_kinds & ALPHA) != 0
        facts[L_SYMBOL_WORDS] += (all_kinds & SYMBOL) != 0
        ends = _ends_sentence(data, word_start, pos, classes)
        facts[L_SENTENCES] += ends
        open_sentence = 1 - ends
        if pos - word_start <= 4:
            stop_word = _stop_word(data, word_start, pos)
            facts[L_STOP_WORDS] |= stop_word & 0xFF
            facts[L_STOP_OCCURRENCES] += stop_word >> 8
        trim_end, trim_end_extra = pos, extra_bytes
    facts[L_END] = pos
    facts[L_CHARS] = pos - start - extra_bytes
    if words > 0:
        flags |= _end_flags(data, facts[L_TRIM_START], trim_end, classes)
        facts[L_TRIM_END] = trim_end
        facts[L_TRIM_CHARS] = trim_end - start - trim_end_extra - facts[L_LEADING_CHARS]
    facts[L_SENTENCES] += open_sentence
    facts[L_HASH] = np.int64(line_hash)
    facts[L_FLAGS] = flags
    facts[L_WORDS] = words


@njit(cache=True, nogil=True)
def _citation_mark(data: Bytes, pos: int, end: int) -> int:
    """Bytes of the citation mark that begins at `pos` (`[12]`, `[]`, `[edit]`, `[citation needed]`), or 0."""
    close = pos + 1
    while close < end and 48 <= data[close] <= 57:
        close += 1
    if close < end and data[close] == _CLOSE:
        return close + 1 - pos
    for k in range(_MARK_OFFSETS.size - 1):
        length = _MARK_OFFSETS[k + 1] - _MARK_OFFSETS[k]
        if pos + length <= end and np.array_equal(data[pos : pos + length], _MARK_BYTES[_MARK_OFFSETS[k] : _MARK_OFFSETS[k + 1]]):
            return length
    return 0


@njit(cache=True, nogil=True)
def _drop_citations(data: Bytes, start: int, end: int, clean: Bytes) -> tuple[int, int]:
    """Copies data[start:end] without its citation marks into `clean`; (bytes written, marks left out)."""
    length, marks, pos = 0, 0, start
    while pos < end:
        skip = _citation_mark(data, pos, end) if data[pos] == _OPEN else 0
        if skip:
            marks += 1
            pos += skip
        else:
            clean[length] = data[pos]
            length += 1
            pos += 1
    return length, marks


@njit(cache=True, nogil=True)
def _line_verdict(facts: Ints, min_words: int, terminal: bool) -> int:
    """The verdict on a line that is not blank, of which `facts` were taken without its citation marks."""
    flags = facts[L_FLAGS]
    if facts[L_LONGEST_WORD] > MAX_WORD_CHARS:
        return LONG_WORD
    if terminal and flags & ELLIPSIS_END:
        return BAD_ELLIPSIS
    if terminal and not flags & HAS_C4_END:
        return NO_TERMINAL
    if facts[L_WORDS] < min_words:
        return TOO_FEW_WORDS
    if flags & JAVASCRIPT:
        return BAD_JAVASCRIPT
    return BAD_POLICY if flags & POLICY else KEEP


@njit(cache=True, nogil=True)
def _intern(keys: Hashes, num: int, s: _Scratch) -> int:
    """Numbers keys[:num] by first occurrence: s.ids[i] for each, s.id_counts[id] for each number; how many there are."""
    bits = 4  # open addressing
    while (1 << bits) < 2 * num:
        bits += 1
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    s.slots[: mask + 1] = -1
    known = 0
    for i in range(num):
        key = keys[i]
        slot = np.int64(((key ^ (key >> np.uint64(32))) * _GOLDEN) >> shift)
        while s.slots[slot] >= 0 and s.id_keys[s.slots[slot]] != key:
            slot = (slot + 1) & mask
        number = s.slots[slot]
        if number < 0:
            number = np.int32(known)
            s.slots[slot] = number
            s.id_keys[known] = key
            s.id_counts[known] = 0
            known += 1
        s.ids[i] = number
        s.id_counts[number] += 1
    return known


@njit(cache=True, nogil=True)
def _repeats(keys: Hashes, chars: Smalls, num: int, s: _Scratch) -> tuple[int, int]:
    """(how many, of how many characters) of keys[:num] occurred before in it."""
    _intern(keys, num, s)
    known, repeats, repeat_chars = 0, 0, 0
    for i in range(num):
        if s.ids[i] == known:
            known += 1
        else:
            repeats += 1
            repeat_chars += chars[i]
    return repeats, repeat_chars


@njit(cache=True, nogil=True)
def _gram_chars(s: _Scratch, start: int, n: int) -> int:
    """Characters of the n words from `start`, joined by one space."""
    total = n - 1
    for i in range(start, start + n):
        total += s.word_chars[i]
    return total


@njit(cache=True, nogil=True)
def _top_gram_chars(s: _Scratch, num_repeated: int, num_words: int, n: int) -> int:
    """Occurrences times characters of the most common n-gram; among equally common ones, of the largest product."""
    best_count, best_chars = 1, 0
    for j in range(num_repeated):
        count = s.id_counts[s.grams[j]]
        if count >= best_count:
            chars = count * _gram_chars(s, s.positions[j], n)
            best_chars = chars if count > best_count else max(chars, best_chars)
            best_count = count
    if num_repeated == 0:
        for start in range(num_words - n + 1):
            best_chars = max(best_chars, _gram_chars(s, start, n))
    return best_chars


@njit(cache=True, nogil=True)
def _covered_chars(s: _Scratch, num_repeated: int, n: int) -> int:
    """Characters that lie in at least one repeated n-gram; a gap between two words of one n-gram is one character."""
    total, covered_to = 0, 0  # words before `covered_to` are done
    for j in range(num_repeated):
        start = s.positions[j]
        if start >= covered_to:
            total -= 1  # an n-gram that touches nothing counted has one gap less than words
        for i in range(max(start, covered_to), start + n):
            total += s.word_chars[i] + 1
        covered_to = start + n
    return total


@njit(cache=True, nogil=True)
def _add_dolma_ngrams(s: _Scratch, num_repeated: int, num_words: int, n: int, row: Ints) -> None:
    """Fills dolma's columns of the n-grams, which have the characters of their words but not the spaces between these."""
    if num_words < n:
        return
    if n < 5:  # occurrences times characters of the most common; among equally common ones, of the first
        best_count, best_chars = 1, _gram_chars(s, 0, n) - (n - 1)
        for j in range(num_repeated):
            count = s.id_counts[s.grams[j]]
            if count > best_count:
                best_count, best_chars = count, count * (_gram_chars(s, s.positions[j], n) - (n - 1))
        row[K_TOP_2GRAM + n - 2] = best_chars
        return
    for j in range(num_repeated):
        row[K_DUP_5GRAM + n - 5] += _gram_chars(s, s.positions[j], n) - (n - 1)
    # Of all n-grams: each word counts n times, less what the ends of the text cut off.
    missing, before, behind = 0, 0, 0
    for k in range(n - 1):
        before += s.word_chars[k]
        behind += s.word_chars[num_words - 1 - k]
        missing += before + behind
    row[K_ALL_5GRAM + n - 5] = n * row[K_WORD_CHARS] - missing


@njit(cache=True, nogil=True)
def _double_median(num_words: int, s: _Scratch) -> int:
    """Twice the median of the word lengths: the sum of the two in the middle, or of the middle one with itself."""
    if num_words == 0:
        return 0
    top = s.histogram.size - 1
    s.histogram[:] = 0
    for i in range(num_words):
        s.histogram[min(s.word_chars[i], top)] += 1
    lower, upper, seen, length = -1, -1, 0, 0
    while upper < 0:
        seen += s.histogram[length]
        if lower < 0 and seen > (num_words - 1) // 2:
            lower = length
        if seen > num_words // 2:
            upper = length
        length += 1
    if upper == top:  # half of the words are so long: exact, and slow
        ordered = np.sort(s.word_chars[:num_words])
        return ordered[(num_words - 1) // 2] + ordered[num_words // 2]
    return lower + upper


@njit(cache=True, nogil=True)
def _add_raw_line(data: Bytes, start: int, end: int, chars: int, s: _Scratch, row: Ints) -> None:
    """Adds the line data[start:end] as dolma sees it: white space belongs to it, and an empty one is not compared."""
    if start == end:
        return
    fingerprint = _HASH_SEED
    for pos in range(start, end):
        fingerprint = (fingerprint ^ np.uint64(data[pos])) * _HASH_PRIME
    s.raw_hash[row[K_RAW_LINES]] = fingerprint
    s.raw_chars[row[K_RAW_LINES]] = chars
    row[K_RAW_LINES] += 1
    row[K_RAW_BULLETS] += data[start] == _DOLMA_BULLETS[0] or data[start] == _DOLMA_BULLETS[1]
    row[K_RAW_ELLIPSIS] += end - start >= 3 and data[end - 3] == 0xE2 and data[end - 2] == 0x80 and data[end - 1] == 0xA6


@njit(cache=True, nogil=True)
def _add_copies(s: _Scratch, row: Ints) -> None:
    """Counts the raw lines that occur twice or more, the first as well."""
    _intern(s.raw_hash, row[K_RAW_LINES], s)
    for i in range(row[K_RAW_LINES]):
        if s.id_counts[s.ids[i]] > 1:
            row[K_RAW_COPIES] += 1
            row[K_RAW_COPY_CHARS] += s.raw_chars[i]


@njit(cache=True, nogil=True)
def _count_ngrams(num_words: int, s: _Scratch, row: Ints, dolma: bool) -> None:
    """Fills the n-gram columns. Only places where both (n-1)-grams repeat can repeat, so each level looks at fewer."""
    row[K_DISTINCT_WORDS] = _intern(s.word_hash, num_words, s)
    repeated = 0
    for i in range(num_words):
        if s.id_counts[s.ids[i]] > 1:
            s.positions[repeated] = i
            s.grams[repeated] = s.ids[i]
            repeated += 1
    for n in range(2, 11):
        num = 0
        for j in range(repeated - 1):
            if s.positions[j + 1] == s.positions[j] + 1:
                s.keys[num] = (np.uint64(s.grams[j]) << np.uint64(32)) | np.uint64(s.grams[j + 1])
                s.positions[num] = s.positions[j]
                num += 1
        _intern(s.keys, num, s)
        repeated = 0
        for j in range(num):
            if s.id_counts[s.ids[j]] > 1:
                s.positions[repeated] = s.positions[j]
                s.grams[repeated] = s.ids[j]
                repeated += 1
        row[K_2GRAM + n - 2] = _top_gram_chars(s, repeated, num_words, n) if n < 5 else _covered_chars(s, repeated, n)
        if dolma:
            _add_dolma_ngrams(s, repeated, num_words, n, row)


@njit(cache=True, nogil=True)
def _tally_ascii(data: Bytes, start: int, end: int, row: Ints) -> None:
    """Counts capitals, digits, punctuation marks and '#' of ASCII, four counters in the 16-bit quarters of one word."""
    for block in range(start, end, 0xFFFF):
        total = np.uint64(0)
        for pos in range(block, min(block + 0xFFFF, end)):
            total += _ASCII_TALLY[data[pos]]
        row[K_UPPER] += np.int64(total & np.uint64(0xFFFF))
        row[K_DIGITS] += np.int64((total >> np.uint64(16)) & np.uint64(0xFFFF))
        row[K_PUNCTUATION] += np.int64((total >> np.uint64(32)) & np.uint64(0xFFFF))
        row[K_HASHES] += np.int64(total >> np.uint64(48))


@njit(cache=True, nogil=True)
def _add_line(line: Ints, row: Ints) -> None:
    """Adds the facts of one line, as it stands in the text, to its document."""
    row[K_CHARS] += line[L_CHARS]
    row[K_NON_ASCII] += line[L_NON_ASCII]
    if line[L_WORDS] == 0:
        return
    flags = line[L_FLAGS]
    row[K_LINES] += 1
    row[K_WORDS] += line[L_WORDS]
    row[K_SENTENCES] += line[L_SENTENCES]
    row[K_WORD_CHARS] += line[L_WORD_CHARS]
    row[K_ALPHA_WORDS] += line[L_ALPHA_WORDS]
    row[K_STOP_WORDS] |= line[L_STOP_WORDS]
    row[K_STOP_OCCURRENCES] += line[L_STOP_OCCURRENCES]
    row[K_SYMBOL_WORDS] += line[L_SYMBOL_WORDS]
    row[K_ELLIPSES] += line[L_ELLIPSES]
    row[K_UPPER] += line[L_UPPER]
    row[K_DIGITS] += line[L_DIGITS]
    row[K_PUNCTUATION] += line[L_PUNCTUATION]
    row[K_BULLETS] += (flags & HAS_BULLET) != 0
    row[K_ELLIPSIS_LINES] += (flags & ELLIPSIS_END) != 0
    row[K_END_MARK_LINES] += (flags & HAS_LINE_END) != 0
    row[K_SHORT_LINES] += line[L_TRIM_CHARS] < SHORT_LINE_CHARS
    row[K_LONG_LINES] += line[L_TRIM_CHARS] >= LONG_LINE_CHARS
    row[K_LIST_LINES] += (flags & LIST_ITEM) != 0
    row[K_LOREM_IPSUM] |= (flags & LOREM_IPSUM) != 0
    row[K_CURLY] |= (flags & CURLY) != 0


@njit(cache=True, nogil=True)
def _add_views(facts: Ints, row: Ints) -> bool:
    """Adds one line, counted without its citation marks, to the C4 views; whether the view c4_np keeps it."""
    flags = facts[L_FLAGS]
    row[K_JAVASCRIPT] += (flags & JAVASCRIPT) != 0
    row[K_POLICY] += (flags & POLICY) != 0
    kept = False
    for view in range(_NUM_VIEWS):
        kept = _line_verdict(facts, _VIEW_MIN_WORDS[view], _VIEW_TERMINAL[view]) == KEEP
        if kept:
            row[K_VIEW_LINES + view] += 1
            row[K_VIEW_SENTENCES + view] += facts[L_SENTENCES]
        if kept and view == _NP:
            row[K_NP_WORDS] += facts[L_WORDS]
            row[K_NP_CHARS] += facts[L_TRIM_CHARS]
            row[K_NP_END_MARK_LINES] += (flags & HAS_LINE_END) != 0
            row[K_NP_SHORT_LINES] += facts[L_TRIM_CHARS] < SHORT_LINE_CHARS
    return kept


@njit(cache=True, nogil=True)
def _count_document(
    data: Bytes, start: int, end: int, classes: Classes, s: _Scratch, line: Ints, cleaned: Ints, row: Ints, dolma: bool
) -> None:
    """Fills the columns `row` of the document data[start:end]; `line` and `cleaned` are room for the facts of a line."""
    _tally_ascii(data, start, end, row)
    num_lines, num_kept, num_paragraphs, pos = 0, 0, 0, start
    paragraph_hash, paragraph_start, paragraph_end = _HASH_SEED, -1, 0  # start and end in characters of the text
    while True:
        _scan_line(data, pos, end, classes, row[K_WORDS], s.word_hash, s.word_chars, line)
        line_start_chars = row[K_CHARS]
        _add_line(line, row)
        if dolma:
            _add_raw_line(data, pos, line[L_END], line[L_CHARS], s, row)
        if line[L_WORDS] > 0:
            line_hash = np.uint64(line[L_HASH])
            s.line_hash[num_lines] = line_hash
            s.line_chars[num_lines] = line[L_TRIM_CHARS]
            num_lines += 1
            if paragraph_start < 0:
                paragraph_start = line_start_chars + line[L_LEADING_CHARS]
            paragraph_end = line_start_chars + line[L_LEADING_CHARS] + line[L_TRIM_CHARS]
            paragraph_hash = (paragraph_hash ^ line_hash) * _MIX
            paragraph_hash ^= paragraph_hash >> np.uint64(32)
            facts = line
            if line[L_FLAGS] & SQUARE:
                length, marks = _drop_citations(data, pos, line[L_END], s.clean)
                if marks > 0:
                    # keys and grams lie idle until the n-grams: they take the words of the cleaned line, unread
                    _scan_line(s.clean, 0, length, classes, 0, s.keys, s.grams, cleaned)
                    facts = cleaned
            if _add_views(facts, row):
                s.view_hash[num_kept] = np.uint64(facts[L_HASH])
                s.view_chars[num_kept] = facts[L_TRIM_CHARS]
                num_kept += 1
        at_end = line[L_END] >= end
        # "\n\n" ends a paragraph: the line between the two is empty, not merely white
        if paragraph_start >= 0 and (at_end or line[L_END] == pos):
            s.paragraph_hash[num_paragraphs] = paragraph_hash
            s.paragraph_chars[num_paragraphs] = paragraph_end - paragraph_start
            num_paragraphs += 1
            paragraph_hash, paragraph_start = _HASH_SEED, -1
        if at_end:
            break
        row[K_NEWLINES] += 1
        row[K_CHARS] += 1
        pos = line[L_END] + 1
    row[K_REPEAT_LINES], row[K_REPEAT_LINE_CHARS] = _repeats(s.line_hash, s.line_chars, num_lines, s)
    row[K_NP_REPEAT_LINE_CHARS] = _repeats(s.view_hash, s.view_chars, num_kept, s)[1]
    row[K_PARAGRAPHS] = num_paragraphs
    row[K_REPEAT_PARAGRAPHS], row[K_REPEAT_PARAGRAPH_CHARS] = _repeats(s.paragraph_hash, s.paragraph_chars, num_paragraphs, s)
    _count_ngrams(row[K_WORDS], s, row, dolma)
    if dolma:
        _add_copies(s, row)
        row[K_DOUBLE_MEDIAN] = _double_median(row[K_WORDS], s)
        if end > start:
            row[K_EDGE_BLANKS] = (data[start] == _NEWLINE) + (data[end - 1] == _NEWLINE)


@njit(cache=True, nogil=True)
def _longest(offsets: Ints) -> int:
    longest = 0
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return longest


_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_CLASSES = types.Array(types.uint16, 1, "C")
_OFFSETS = types.int64[::1]


@njit(types.void(_DATA, _OFFSETS, _CLASSES, types.int64[:, ::1], types.boolean), cache=True, nogil=True)
def count_documents(data: Bytes, offsets: Ints, classes: Classes, counts: Ints, dolma: bool) -> None:
    """Fills counts[d, k], zeros before, for document d = data[offsets[d]:offsets[d + 1]] and column COUNTS[k].

    Without `dolma` the columns from "double_median" on stay as they are.
    """
    longest = _longest(offsets)
    room = longest // 2 + 2
    slots = 16
    while slots < 2 * room:
        slots *= 2
    s = _Scratch(
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(room, np.int32),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(slots, np.int32),
        np.empty(longest, np.uint8),
        np.empty(room, np.uint64),
        np.empty(room, np.int32),
        np.empty(256, np.int32),
    )
    line, cleaned = np.zeros(NUM_LINE_FACTS, np.int64), np.zeros(NUM_LINE_FACTS, np.int64)
    for d in range(offsets.size - 1):
        _count_document(data, offsets[d], offsets[d + 1], classes, s, line, cleaned, counts[d], dolma)


@njit(cache=True, nogil=True)
def _looks_like_code(data: Bytes, start: int, end: int, classes: Classes, num_chars: int, num_marks: int) -> bool:
    """Whether the line data[start:end], with `num_chars` characters that are no white space, is code: see `signals.py`."""
    if num_chars == 0:
        return False
    if 100 * num_marks >= CODE_MARK_PERCENT * num_chars:
        return True
    kind, last = _last_kind(data, start, end, classes)
    while kind & SPACE and last > start:
        end = last
        kind, last = _last_kind(data, start, end, classes)
    for k in range(_CODE_ENDS.size):
        if data[last] == _CODE_ENDS[k]:
            return True
    while start < end:
        point, width = np.int64(data[start]), 1
        if point >= 128:
            point, width = _decode(data, start, end)
        if point >= MAX_CLASSED or not classes[point] & SPACE:
            break
        start += width
    for k in range(_CODE_OFFSETS.size - 1):
        length = _CODE_OFFSETS[k + 1] - _CODE_OFFSETS[k]
        if start + length <= end and np.array_equal(
            data[start : start + length], _CODE_BYTES[_CODE_OFFSETS[k] : _CODE_OFFSETS[k + 1]]
        ):
            return True
    return False


@njit(types.void(_DATA, _OFFSETS, _CLASSES, types.int64[:, ::1], types.float64[::1]), cache=True, nogil=True)
def count_characters(data: Bytes, offsets: Ints, classes: Classes, counts: Ints, entropies: npt.NDArray[np.float64]) -> None:
    """Fills counts[d, k], zeros before, for column CHARACTER_COUNTS[k], and entropies[d], in bits per byte.

    A pass of its own over the bytes, so that a shard whose letters nobody asks for does not pay for them.
    """
    histogram = np.zeros(256, np.int64)
    for d in range(offsets.size - 1):
        pos, end, row = offsets[d], offsets[d + 1], counts[d]
        histogram[:] = 0
        total, line_start = np.uint64(0), pos
        while pos < end:
            byte = data[np.uint64(pos)]
            histogram[np.uint64(byte)] += 1
            if byte < 128:
                if byte == _NEWLINE:
                    row[C_CODE_LINES] += _looks_like_code(
                        data, line_start, pos, classes, np.int64(total & np.uint64(0xFFFFFFFF)), np.int64(total >> np.uint64(32))
                    )
                    total, line_start = np.uint64(0), pos + 1
                else:
                    total += _CODE_TALLY[np.uint64(byte)]
                pos += 1
                continue
            point, width = _decode(data, pos, end)
            for k in range(1, width):
                histogram[data[pos + k]] += 1
            kind = np.int64(classes[np.uint64(point)]) if point < MAX_CLASSED else np.int64(0)
            if not kind & SPACE:
                total += np.uint64(1)
            if kind & ALPHA:
                script = kind >> SCRIPT_SHIFT
                row[script - 1 if script > 0 else C_OTHER] += 1
            pos += width
        row[C_CODE_LINES] += _looks_like_code(
            data, line_start, end, classes, np.int64(total & np.uint64(0xFFFFFFFF)), np.int64(total >> np.uint64(32))
        )
        for letter in range(26):
            row[C_LATIN] += histogram[65 + letter] + histogram[97 + letter]
        entropy, num_bytes = 0.0, end - offsets[d]
        for byte in range(256):
            if histogram[byte] > 0:
                share = histogram[byte] / num_bytes
                entropy -= share * math.log2(share)
        entropies[d] = entropy


@njit(
    types.int64(
        *(_DATA, _OFFSETS, _CLASSES, types.int64, types.boolean),
        *(types.int8[::1], types.int64[::1], types.uint8[::1], types.int64[::1], types.int64[::1]),
    ),
    cache=True,
    nogil=True,
)
def judge_lines(
    data: Bytes,
    offsets: Ints,
    classes: Classes,
    min_words: int,
    terminal: bool,
    verdicts: npt.NDArray[np.int8],
    line_offsets: Ints,
    out: Bytes,
    out_offsets: Ints,
    tally: Ints,
) -> int:
    """Writes a verdict per line and the text of the kept lines; returns the number of lines.

    verdicts[line_offsets[d]:line_offsets[d + 1]] are those of document d, out[out_offsets[d]:out_offsets[d + 1]] its new
    bytes (never more than before), tally[v] the lines with verdict v, tally[CITATION_MARKS] the marks left out of kept
    lines. Kept lines lose the white space around them; a blank line stays, once, where at least one stood between two.
    """
    longest = _longest(offsets)
    clean, word_hash, word_chars = np.empty(longest, np.uint8), np.empty(longest, np.uint64), np.empty(longest, np.int32)
    line, cleaned = np.zeros(NUM_LINE_FACTS, np.int64), np.zeros(NUM_LINE_FACTS, np.int64)
    num_lines, written = 0, 0
    for d in range(offsets.size - 1):
        pos, end, paragraph_break = offsets[d], offsets[d + 1], False
        while True:
            _scan_line(data, pos, end, classes, 0, word_hash, word_chars, line)
            facts, marks, verdict = line, 0, BLANK
            if line[L_WORDS] > 0:
                if line[L_FLAGS] & SQUARE:
                    length, marks = _drop_citations(data, pos, line[L_END], clean)
                    if marks > 0:
                        _scan_line(clean, 0, length, classes, 0, word_hash, word_chars, cleaned)
                        facts = cleaned
                verdict = _line_verdict(facts, min_words, terminal)
            verdicts[num_lines] = verdict
            num_lines += 1
            tally[verdict] += 1
            paragraph_break = paragraph_break or verdict == BLANK
            if verdict == KEEP:
                tally[CITATION_MARKS] += marks
                if written > out_offsets[d]:
                    for _ in range(2 if paragraph_break else 1):
                        out[written] = _NEWLINE
                        written += 1
                for k in range(facts[L_TRIM_START], facts[L_TRIM_END]):
                    out[written] = clean[k] if marks > 0 else data[k]
                    written += 1
                paragraph_break = False
            if line[L_END] >= end:
                break
            pos = line[L_END] + 1
        line_offsets[d + 1] = num_lines
        out_offsets[d + 1] = written
    return num_lines


def compile_kernels() -> None:
    """Compiles every kernel into numba's cache beside this file (importing does most of it) and runs each once."""
    data, offsets = string_buffers(pa.array(["One line [1] of a few words.\n\nAnd another one."]))
    count_documents(data, offsets, character_classes(), np.zeros((1, len(COUNTS)), np.int64), True)
    count_characters(data, offsets, character_classes(), np.zeros((1, len(CHARACTER_COUNTS)), np.int64), np.zeros(1))
    spans = np.zeros((2, 2), np.int64)
    verdicts, out, tally = np.zeros(3, np.int8), np.zeros(data.size, np.uint8), np.zeros(CITATION_MARKS + 1, np.int64)
    judge_lines(data, offsets, character_classes(), 3, True, verdicts, spans[0], out, spans[1], tally)
