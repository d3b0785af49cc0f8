"""Words as UAX #29 divides a text (Unicode 15.0), in compiled kernels over the UTF-8 bytes of a whole shard.

A word is what lies between two word boundaries and holds a letter (General_Category L*) or a number (N*): "don't", "3.14" and "e_mail"
are one word each, "!" and "_" none. Ideographs and hiragana are words one by one, katakana and hangul as they are written together.
Scripts that are written without spaces and need a dictionary (Line_Break=SA: Thai, Lao, Khmer, Myanmar and their like) fall into
characters with their marks; `complex_letter_fraction` says how much of a text that is. All rules of UAX #29 hold, tailored by none, and
every case of Unicode's WordBreakTest. `TABLE`, 31 KB, is made by docs/word_table.py.
Also here, since numba's cache of a kernel notices a change in its own file only: `count_stop_words` (see `stop_words.py`) and
`count_phrase_lines` (see `boilerplate.py`). For them words are equal in any case, ’ is ', and format characters (soft hyphens, joiners)
vanish; nothing is normalised, so NFD "é" is not NFC "é".
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit, types

from tasks.text.buffers import string_buffers
from tasks.text.groups import COUNT, SHARE, Columns, Signal, ratio

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Smalls = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Facts = npt.NDArray[np.uint16]
Folds = npt.NDArray[np.uint32]

SIGNALS = (
    Signal("uax29_num_words", COUNT, "words as UAX #29 divides them: with a letter or a number"),
    Signal("uax29_mean_word_length", SHARE, "characters per UAX #29 word, its marks among them"),
    Signal("uax29_alpha_word_fraction", SHARE, "UAX #29 words with a letter ÷ UAX #29 words"),
    Signal("uax29_type_token_ratio", SHARE, "different UAX #29 words, as they are written ÷ UAX #29 words"),
    Signal("uax29_hash_per_word", SHARE, "'#' per UAX #29 word"),
    Signal("uax29_ellipsis_per_word", SHARE, "'...' (not overlapping) and '…' per UAX #29 word"),
    Signal(
        "complex_letter_fraction",
        SHARE,
        "letters of scripts whose words only a dictionary tells (Line_Break=SA: Thai …) ÷ letters",
    ),
)

TABLE = Path(__file__).with_name("words_data") / "word_break.txt"
# The values of the property Word_Break, in the low bits of a fact.
WORD_BREAKS = (
    *("Other", "CR", "LF", "Newline", "Extend", "ZWJ", "Format", "Regional_Indicator", "Katakana", "Hebrew_Letter", "ALetter"),
    *("Single_Quote", "Double_Quote", "MidNumLet", "MidLetter", "MidNum", "Numeric", "ExtendNumLet", "WSegSpace"),
)
_CR, _LF, _NEWLINE, _EXTEND, _ZWJ, _FORMAT, _REGIONAL, _KATAKANA, _HEBREW, _LETTER = range(1, 11)
_SINGLE, _DOUBLE, _MID_NUM_LET, _MID_LETTER, _MID_NUM, _NUMERIC, _EXTEND_NUM_LET, _SPACE = range(11, 19)
_BREAK = 31
LETTER, NUMBER, PICTOGRAPH, COMPLEX = (1 << bit for bit in range(5, 9))
"""Other bits of a fact: L*, N*, Extended_Pictographic, Line_Break=SA."""
_COMPLEX_LETTER = COMPLEX | LETTER
_RUN, _MIDDLE, _COUNTED, _HIGH = (1 << bit for bit in range(9, 13))
"""Of bytes: letters, digits and "_", which no boundary parts; marks that may stand within a word; "#" and "."; no ASCII."""
_MARKS = {"L": LETTER, "N": NUMBER, "P": PICTOGRAPH, "S": COMPLEX}
_NUM_POINTS, _BLOCK_BITS = 0x110000, 7
_MAX_FOLDED = 0x20000  # no letter above has a case; a test looks

MAX_PHRASE_WORDS = 16

COUNTS = ("words", "word_chars", "alpha_words", "distinct_words", "letters", "complex_letters", "hashes", "ellipses")
_K_WORDS, _K_WORD_CHARS, _K_ALPHA, _K_DISTINCT, _K_LETTERS, _K_COMPLEX, _K_HASHES, _K_ELLIPSES = range(len(COUNTS))

_HASH, _DOT, _ELLIPSIS, _LINE_FEED = ord("#"), ord("."), ord("…"), ord("\n")
_REPLACEMENT = np.int64(0xFFFD)
_SEED, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits
_MIX, _GOLDEN = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0x9E3779B97F4A7C15)  # MurmurHash3's finaliser; 2^64 / phi

# What stands between two characters that are neither ignored nor line ends, by their Word_Break: [before, behind].
_PARTED, _JOINED, _PAIRED, _IF_LETTER, _IF_NUMBER, _IF_HEBREW = range(6)


def _joins() -> Bytes:
    """The rules WB5 to WB16; those that ask what comes next say for what."""
    joins = np.full((32, 32), _PARTED, np.uint8)
    letters, numbers = [_LETTER, _HEBREW], [_NUMERIC]
    for before in (*letters, *numbers):
        joins[before, [*letters, *numbers]] = _JOINED  # WB5, WB8, WB9, WB10
    joins[np.ix_(letters, [_MID_LETTER, _MID_NUM_LET, _SINGLE])] = _IF_LETTER  # WB6, WB7
    joins[_HEBREW, _SINGLE] = _JOINED  # WB7a
    joins[_HEBREW, _DOUBLE] = _IF_HEBREW  # WB7b, WB7c
    joins[_NUMERIC, [_MID_NUM, _MID_NUM_LET, _SINGLE]] = _IF_NUMBER  # WB11, WB12
    joins[_KATAKANA, _KATAKANA] = _JOINED  # WB13
    joins[[*letters, *numbers, _KATAKANA, _EXTEND_NUM_LET], _EXTEND_NUM_LET] = _JOINED  # WB13a
    joins[_EXTEND_NUM_LET, [*letters, *numbers, _KATAKANA]] = _JOINED  # WB13b
    joins[_REGIONAL, _REGIONAL] = _PAIRED  # WB15, WB16
    return joins


_JOINS = _joins()


class WordTable(NamedTuple):
    """Facts of every code point in two stages: blocks[stage[point >> 7], point & 127], and those of the 256 bytes."""

    bytes: Facts
    stage: Facts
    blocks: Facts


@lru_cache(maxsize=1)
def word_table() -> WordTable:
    """The table that ships; read in 20 ms."""
    facts = np.zeros(_NUM_POINTS, np.uint16)
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        points, name, marks = line.split("; ")
        first, last = (int(point, 16) for point in points.split(".."))
        facts[first : last + 1] = WORD_BREAKS.index(name) | sum(_MARKS[mark] for mark in marks if mark != "-")
    of_bytes = np.full(256, _HIGH, np.uint16)
    of_bytes[:128] = facts[:128]
    kinds = of_bytes & _BREAK
    of_bytes[np.isin(kinds, [_LETTER, _NUMERIC, _EXTEND_NUM_LET])] |= _RUN
    of_bytes[(kinds >= _SINGLE) & (kinds <= _MID_NUM)] |= _MIDDLE
    of_bytes[[_HASH, _DOT]] |= _COUNTED
    blocks, stage = np.unique(facts.reshape(-1, 1 << _BLOCK_BITS), axis=0, return_inverse=True)
    return WordTable(of_bytes, stage.ravel().astype(np.uint16), np.ascontiguousarray(blocks.ravel()))


@lru_cache(maxsize=1)
def folds() -> Folds:
    """What stands for every code point below _MAX_FOLDED where words are compared: lower case, ' for ’, 0 for what vanishes."""
    table = np.arange(_MAX_FOLDED, dtype=np.uint32)
    for point, char in enumerate(map(chr, range(_MAX_FOLDED))):
        lower = char.lower()
        if unicodedata.category(char) == "Cf":
            table[point] = 0
        elif len(lower) == 1:
            table[point] = ord(lower)
    table[ord("’")] = ord("'")
    return table


def measure(text: pa.Array, language: pa.Array | None) -> Columns:
    """The columns of SIGNALS; the language does not matter."""
    data, offsets = string_buffers(text)
    counts = np.zeros((len(text), len(COUNTS)), np.int64)
    count_words(data, offsets, *word_table(), counts)
    count = dict(zip(COUNTS, counts.T, strict=True))
    words = count["words"]
    return {
        "uax29_num_words": words,
        "uax29_mean_word_length": ratio(count["word_chars"], words),
        "uax29_alpha_word_fraction": ratio(count["alpha_words"], words),
        "uax29_type_token_ratio": ratio(count["distinct_words"], words),
        "uax29_hash_per_word": ratio(count["hashes"], words),
        "uax29_ellipsis_per_word": ratio(count["ellipses"], words),
        "complex_letter_fraction": ratio(count["complex_letters"], count["letters"]),
    }


def boundaries(text: str) -> list[int]:
    """Where the word boundaries of `text` are, in code points from 0 to len(text); nothing for ""."""
    if not text:
        return []
    data, _ = string_buffers(pa.array([text]))
    ends = np.zeros(data.size + 1, np.int64)
    num = find_boundaries(data, *word_table(), ends)
    chars = np.concatenate(([0], np.cumsum((data & 0xC0) != 0x80)))
    return [0, *chars[ends[:num]].tolist()]


def word_hashes(texts: list[str]) -> tuple[Hashes, list[int]]:
    """The hashes of the words of all texts, as they are compared, and for each text where its words end in them."""
    data, offsets = string_buffers(pa.array(texts, pa.string()))
    hashes, ends = np.zeros(data.size + 1, np.uint64), np.zeros(len(texts), np.int64)
    hash_words(data, offsets, *word_table(), folds(), hashes, ends)
    return hashes, ends.tolist()


# --- the kernels ---------------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def _decode(data: Bytes, pos: int, end: int) -> tuple[np.int64, int]:
    """(code point, width in bytes) at `pos`, where a byte >= 0x80 stands; what cannot be one is U+FFFD of one byte."""
    lead = np.int64(data[np.uint64(pos)])
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or pos + width > end:
        return _REPLACEMENT, 1
    point = lead & (0x7F >> width)
    for k in range(1, width):
        point = (point << 6) | (np.int64(data[np.uint64(pos + k)]) & 0x3F)
    return (point, width) if point < _NUM_POINTS else (_REPLACEMENT, 1)


@njit(cache=True, nogil=True)
def _fact(data: Bytes, pos: int, end: int, of_bytes: Facts, stage: Facts, blocks: Facts) -> tuple[np.int64, int]:
    """(fact, width in bytes) of the code point at `pos`."""
    lead = data[np.uint64(pos)]
    if lead < 128:
        return np.int64(of_bytes[np.uint64(lead)]), 1
    point, width = _decode(data, pos, end)
    block = np.int64(stage[np.uint64(point >> _BLOCK_BITS)])
    return np.int64(blocks[np.uint64((block << _BLOCK_BITS) | (point & ((1 << _BLOCK_BITS) - 1)))]), width


@njit(cache=True, nogil=True, inline="always")
def _wanted(join: int, ahead: np.int64) -> bool:
    """Whether what is ahead is what `join` asks for."""
    if join == _IF_NUMBER:
        return ahead == _NUMERIC
    return ahead == _HEBREW or (join == _IF_LETTER and ahead == _LETTER)


@njit(cache=True, nogil=True)
def _kind_ahead(data: Bytes, pos: int, end: int, of_bytes: Facts, stage: Facts, blocks: Facts) -> np.int64:
    """Word_Break of the first code point from `pos` on that WB4 does not ignore; Other where there is none."""
    while pos < end:
        fact, width = _fact(data, pos, end, of_bytes, stage, blocks)
        kind = fact & _BREAK
        if kind != _EXTEND and kind != _FORMAT and kind != _ZWJ:
            return kind
        pos += width
    return np.int64(0)


@njit(cache=True, nogil=True, inline="always")
def _segment(
    data: Bytes, pos: int, end: int, of_bytes: Facts, stage: Facts, blocks: Facts
) -> tuple[int, int, np.int64, int, int]:
    """(next boundary, characters up to it, facts of them together, letters and complex letters outside ASCII), from the boundary `pos`.

    Inlined, for numba counts references to every array that a call takes.
    """
    before = last = facts = np.int64(0)  # `before` is the last character that WB4 does not ignore
    chars, letters, complex_letters = 0, 0, 0
    wanted, paired = False, False  # that the next is of this word is known; that a regional indicator has its other half
    while pos < end:
        lead = np.uint64(data[np.uint64(pos)])
        fact, width = np.int64(of_bytes[lead]), 1
        if lead >= 128:
            point, width = _decode(data, pos, end)
            block = np.int64(stage[np.uint64(point >> _BLOCK_BITS)])
            fact = np.int64(blocks[np.uint64((block << _BLOCK_BITS) | (point & ((1 << _BLOCK_BITS) - 1)))])
        kind = fact & _BREAK
        if chars == 0:
            before = kind
        elif before == _LETTER and kind == _LETTER:
            pass  # WB5, and the most of all text
        elif before <= _NEWLINE and before >= _CR:
            if last == _CR and kind == _LF:  # WB3
                chars += 1
                pos += 1
            break  # WB3a
        elif _CR <= kind <= _NEWLINE:
            break  # WB3b
        elif (last == _ZWJ and fact & PICTOGRAPH) or (last == _SPACE and kind == _SPACE):
            before, wanted = kind, False  # WB3c, WB3d
        elif _EXTEND <= kind <= _FORMAT:
            pass  # WB4
        elif wanted:
            before, wanted = kind, False
        else:
            join = _JOINS[np.uint64(before), np.uint64(kind)]
            if join == _PARTED or (join == _PAIRED and paired):
                break
            paired = join == _PAIRED
            if join >= _IF_LETTER:
                ahead = _kind_ahead(data, pos + width, end, of_bytes, stage, blocks)
                wanted = _wanted(join, ahead)
                if not wanted:
                    break
            before = kind
        if lead >= 128:
            letters += fact & LETTER != 0
            complex_letters += fact & _COMPLEX_LETTER == _COMPLEX_LETTER
        facts |= fact
        last = kind
        chars += 1
        pos += width
    return pos, chars, facts, letters, complex_letters


@njit(cache=True, nogil=True, inline="always")
def _parts(data: Bytes, pos: int, end: int, of_bytes: Facts) -> bool:
    """Whether there is a boundary at `pos` behind letters, digits or "_" of ASCII, and none of these there, by this byte and the next."""
    if pos >= end:
        return True
    fact = of_bytes[np.uint64(data[np.uint64(pos)])]
    if not fact & (_MIDDLE | _HIGH):
        return True
    return not fact & _HIGH and (pos + 1 >= end or not of_bytes[np.uint64(data[np.uint64(pos + 1)])] & (_RUN | _HIGH))


@njit(cache=True, nogil=True, inline="always")
def _mixed(fingerprint: np.uint64) -> np.uint64:
    fingerprint = (fingerprint ^ (fingerprint >> np.uint64(33))) * _MIX
    return max(fingerprint ^ (fingerprint >> np.uint64(33)), np.uint64(1))


@njit(cache=True, nogil=True, inline="always")
def _folded_hash(data: Bytes, pos: int, end: int, folds: Folds) -> np.uint64:
    """The hash of data[pos:end] as words are compared, not mixed yet."""
    fingerprint = _SEED
    while pos < end:
        point, width = np.int64(data[np.uint64(pos)]), 1
        if point >= 128:
            point, width = _decode(data, pos, end)
        folded = np.uint64(folds[np.uint64(point)]) if point < _MAX_FOLDED else np.uint64(point)
        if folded != np.uint64(0):
            fingerprint = (fingerprint ^ folded) * _PRIME
        pos += width
    return fingerprint


@njit(cache=True, nogil=True)
def _num_distinct(hashes: Hashes, num: int, slots: Hashes) -> int:
    """How many different ones there are among hashes[:num], of which none is 0; `slots` is room for twice as many and a half."""
    bits = 4
    while (1 << bits) < 2 * num:
        bits += 1
    mask, shift, distinct = np.uint64((1 << bits) - 1), np.uint64(64 - bits), 0
    slots[: 1 << bits] = 0
    for i in range(num):
        slot = (hashes[np.uint64(i)] * _GOLDEN) >> shift
        while slots[slot] != np.uint64(0) and slots[slot] != hashes[np.uint64(i)]:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] == np.uint64(0):
            slots[slot] = hashes[np.uint64(i)]
            distinct += 1
    return distinct


@njit(cache=True, nogil=True)
def _num_ascii_letters(data: Bytes, start: int, end: int) -> int:
    letters = 0
    for pos in range(start, end):
        letters += ((data[np.uint64(pos)] | np.uint8(32)) - np.uint8(97)) & 0xFF < 26
    return letters


@njit(cache=True, nogil=True)
def _longest(offsets: Ints) -> int:
    longest = 0
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return longest


_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_OFFSETS = types.int64[::1]
_FACTS = types.uint16[::1]
_TABLES = (_FACTS, _FACTS, _FACTS)
_FOLDS, _HASHES = types.uint32[::1], types.uint64[::1]


@njit(types.int64(_DATA, *_TABLES, _OFFSETS), cache=True, nogil=True)
def find_boundaries(data: Bytes, of_bytes: Facts, stage: Facts, blocks: Facts, ends: Ints) -> int:
    """Writes the byte behind every segment of `data`, one text, into `ends`; how many there are."""
    num, pos = 0, 0
    while pos < data.size:
        pos = _segment(data, pos, data.size, of_bytes, stage, blocks)[0]
        ends[num] = pos
        num += 1
    return num


@njit(types.void(_DATA, _OFFSETS, *_TABLES, types.int64[:, ::1]), cache=True, nogil=True)
def count_words(data: Bytes, offsets: Ints, of_bytes: Facts, stage: Facts, blocks: Facts, counts: Ints) -> None:
    """Fills counts[d, k], zeros before, for document d = data[offsets[d]:offsets[d + 1]] and column COUNTS[k]."""
    room = _longest(offsets) + 1  # a word has one byte at least, and nothing need be between two: "a²a" are three
    hashes, slots = np.empty(room, np.uint64), np.empty(4 * room + 16, np.uint64)
    for d in range(offsets.size - 1):
        pos, end, row = offsets[d], offsets[d + 1], counts[d]
        num_words, word_chars, alpha_words, dots, last_dot = 0, 0, 0, 0, -1
        row[_K_LETTERS] = _num_ascii_letters(data, pos, end)
        while pos < end:
            lead = np.uint64(data[np.uint64(pos)])
            fact = np.int64(of_bytes[lead])
            if fact & _COUNTED:
                if lead == _HASH:
                    row[_K_HASHES] += 1
                else:
                    dots = dots + 1 if last_dot == pos - 1 else 1
                    last_dot = pos
                    if dots == 3:
                        row[_K_ELLIPSES] += 1
                        dots = 0
            stop, facts, fingerprint = pos, np.int64(0), _SEED
            while fact & _RUN:
                facts |= fact
                fingerprint = (fingerprint ^ lead) * _PRIME
                stop += 1
                if stop >= end:
                    break
                lead = np.uint64(data[np.uint64(stop)])
                fact = np.int64(of_bytes[lead])
            chars = stop - pos
            if chars == 0 and not fact & _HIGH and (pos + 1 >= end or data[np.uint64(pos + 1)] < 128):
                pos += 1  # a space or a mark that can take nothing along
                continue
            if chars == 0 or not _parts(data, stop, end, of_bytes):
                stop, chars, facts, letters, complex_letters = _segment(data, pos, end, of_bytes, stage, blocks)
                row[_K_LETTERS] += letters
                row[_K_COMPLEX] += complex_letters
                fingerprint = _SEED
                for k in range(pos, stop):
                    fingerprint = (fingerprint ^ np.uint64(data[np.uint64(k)])) * _PRIME
                row[_K_ELLIPSES] += data[np.uint64(pos)] == 0xE2 and _decode(data, pos, end)[0] == _ELLIPSIS
            if facts & (LETTER | NUMBER):
                hashes[num_words] = _mixed(fingerprint)
                num_words += 1
                word_chars += chars
                alpha_words += facts & LETTER != 0
            pos = stop
        row[_K_WORD_CHARS], row[_K_ALPHA] = word_chars, alpha_words
        row[_K_WORDS] = num_words
        row[_K_DISTINCT] = _num_distinct(hashes, num_words, slots)


@njit(cache=True, nogil=True, inline="always")
def _next_word(
    data: Bytes, pos: int, end: int, of_bytes: Facts, stage: Facts, blocks: Facts, folds: Folds
) -> tuple[np.uint64, int]:
    """(hash of the first word from the boundary `pos` on as words are compared, or 0 where there is none; the boundary behind it)."""
    while pos < end:
        lead = np.uint64(data[np.uint64(pos)])
        fact = np.int64(of_bytes[lead])
        stop, facts, fingerprint = pos, np.int64(0), _SEED
        while fact & _RUN:
            facts |= fact
            fingerprint = (fingerprint ^ np.uint64(folds[lead])) * _PRIME
            stop += 1
            if stop >= end:
                break
            lead = np.uint64(data[np.uint64(stop)])
            fact = np.int64(of_bytes[lead])
        if stop == pos and not fact & _HIGH and (pos + 1 >= end or data[np.uint64(pos + 1)] < 128):
            pos += 1
            continue
        if stop == pos or not _parts(data, stop, end, of_bytes):
            stop, _, facts, _, _ = _segment(data, pos, end, of_bytes, stage, blocks)
            fingerprint = _folded_hash(data, pos, stop, folds) if facts & (LETTER | NUMBER) else _SEED
        pos = stop
        if facts & (LETTER | NUMBER):
            return _mixed(fingerprint), pos
    return np.uint64(0), pos


@njit(types.void(_DATA, _OFFSETS, *_TABLES, _FOLDS, _HASHES, types.int64[::1]), cache=True, nogil=True)
def hash_words(
    data: Bytes, offsets: Ints, of_bytes: Facts, stage: Facts, blocks: Facts, folds: Folds, hashes: Hashes, ends: Ints
) -> None:
    """Writes the hash of every word of every text, and for text d the number of words up to its end into ends[d]."""
    num = 0
    for d in range(offsets.size - 1):
        pos, end = offsets[d], offsets[d + 1]
        while pos < end:
            word, pos = _next_word(data, pos, end, of_bytes, stage, blocks, folds)
            if word != np.uint64(0):
                hashes[num] = word
                num += 1
        ends[d] = num


@njit(cache=True, nogil=True, inline="always")
def _find(keys: Hashes, values: Smalls, key: np.uint64) -> np.int64:
    """The value of `key` in an open table, or -1."""
    mask = np.uint64(keys.size - 1)
    slot = key & mask
    while keys[slot] != np.uint64(0):
        if keys[slot] == key:
            return np.int64(values[slot])
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


_SMALLS, _OPEN = types.int32[::1], (_HASHES, types.int32[::1])


@njit(
    types.void(_DATA, _OFFSETS, *_TABLES, _FOLDS, *_OPEN, _SMALLS, _SMALLS, _SMALLS, types.int32[:, ::1], types.int32[:, ::1]),
    cache=True,
    nogil=True,
)
def count_stop_words(
    data: Bytes,
    offsets: Ints,
    of_bytes: Facts,
    stage: Facts,
    blocks: Facts,
    folds: Folds,
    keys: Hashes,
    values: Smalls,
    starts: Smalls,
    lists: Smalls,
    own: Smalls,
    counts: Smalls,
    totals: Smalls,
) -> None:
    """Fills counts[d, l], zeros before: the words of document d that are in list l; and totals[d]: its words, and how many different
    ones of list own[d] (-1: of none) it has.

    The word of which the hash is keys[slot] has the number values[slot] and is in the lists lists[starts[n]:starts[n + 1]].
    """
    seen = np.full(starts.size, -1, np.int64)  # the last document of which the own list had this word
    for d in range(offsets.size - 1):
        pos, end, num_words = offsets[d], offsets[d + 1], 0
        while pos < end:
            word, pos = _next_word(data, pos, end, of_bytes, stage, blocks, folds)
            if word == np.uint64(0):
                break
            num_words += 1
            number = _find(keys, values, word)
            if number >= 0:
                for k in range(starts[number], starts[number + 1]):
                    counts[d, lists[k]] += 1
                    if lists[k] == own[d] and seen[number] != d:
                        seen[number] = d
                        totals[d, 1] += 1
        totals[d, 0] = num_words


@njit(cache=True, nogil=True)
def _is_blank(data: Bytes, pos: int, end: int, classes: Facts, white: int) -> bool:
    """Whether there is nothing but white space in data[pos:end]."""
    while pos < end:
        point, width = np.int64(data[np.uint64(pos)]), 1
        if point >= 128:
            point, width = _decode(data, pos, end)
        if point >= classes.size or not classes[np.uint64(point)] & white:
            return False
        pos += width
    return True


@njit(types.uint64(types.int64, types.uint64), cache=True, nogil=True)
def branch(node: int, word: np.uint64) -> np.uint64:
    """The key of the step from `node` by `word` in a tree of phrases, never 0."""
    return max(word ^ (np.uint64(node) * _GOLDEN), np.uint64(1))


@njit(
    types.void(
        _DATA, _OFFSETS, *_TABLES, _FOLDS, types.uint16[::1], types.uint16, *_OPEN, types.boolean[::1], types.int64[:, ::1]
    ),
    cache=True,
    nogil=True,
)
def count_phrase_lines(
    data: Bytes,
    offsets: Ints,
    of_bytes: Facts,
    stage: Facts,
    blocks: Facts,
    folds: Folds,
    classes: Facts,
    white: int,
    keys: Hashes,
    nodes: Smalls,
    ends: npt.NDArray[np.bool_],
    counts: Ints,
) -> None:
    """Fills counts[d], zeros before: lines of document d that are not blank, and those of them that hold a phrase.

    The phrases are a tree of words from node 0 on: word w leads from node n to nodes[slot] where keys[slot] is `branch(n, w)`, and a
    phrase ends at node n where ends[n]. `classes` has the bit `white` where a code point is white space.
    """
    begun = np.zeros(MAX_PHRASE_WORDS + 1, np.int64)  # nodes of the phrases that the last words may be the beginning of
    for d in range(offsets.size - 1):
        line, end = offsets[d], offsets[d + 1]
        while line < end:
            line_end = line
            while line_end < end and data[np.uint64(line_end)] != _LINE_FEED:
                line_end += 1
            pos, num_begun, has_words, found = line, 0, False, False
            while pos < line_end and not found:
                word, pos = _next_word(data, pos, line_end, of_bytes, stage, blocks, folds)
                if word == np.uint64(0):
                    break
                has_words = True
                begun[num_begun] = 0
                going_on = 0
                for k in range(num_begun + 1):
                    node = _find(keys, nodes, branch(begun[k], word))
                    if node >= 0:
                        begun[going_on] = node
                        going_on += 1
                        found = found or ends[node]
                num_begun = going_on
            counts[d, 0] += has_words or not _is_blank(data, line, line_end, classes, white)
            counts[d, 1] += found
            line = line_end + 1


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file; importing it does."""
    measure(pa.array(["A word."]), None)
