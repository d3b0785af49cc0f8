"""Signals that datatrove 0.10 compares, counted as its four filters count them: a group of signals, for the profile datatrove-0.10.

Of GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter and FineWebQualityFilter with their defaults, each on the text as it is.
Words are spaCy's English tokens (`spacy_words.py`), punctuation marks among them; lengths are code points; lines are those of
`splitlines()` (Gopher's quality, C4) or of "\\n" (the others). Lines, paragraphs and n-grams are told apart by 64-bit hashes.
Texts are counted in batches of BATCH_BYTES or one text; memory is at most 130 bytes per byte of a batch, touched as far as there are words.
Its kernels and those of spacy_words.py have no signatures, unlike others: with them whoever imports the signals would compile (37 s on one
busy core) what is not measured by default. `compile_kernels` calls them, so that `gristmill setup` compiles them all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tasks.text import spacy_words
from tasks.text.buffers import string_buffers
from tasks.text.groups import COUNT, FLAG, SHARE, Columns, Signal, ratio
from tasks.text.spacy_words import Bytes, Classes, Flags, Hashes, Ints, Smalls, Tokens, english, tokenize

FILES = (spacy_words.DATA,)
BATCH_BYTES = 1 << 20
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # gopher_quality_filter.py, in this case only
SHORT_LINE_CHARS = 30  # fineweb_quality_filter.py: short_line_length, itself still short
MAX_WORD_CHARS, MIN_LINE_WORDS = 1000, 3  # c4_filters.py: max_word_length, min_words_per_line
C4_ENDS = b".?!\"'"  # c4_filters.py: END_PUNCTUATION
PHRASES = (  # c4_filters.py, in any ASCII case
    *("javascript", "lorem ipsum"),
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
)
_JAVASCRIPT, _LOREM_IPSUM, _POLICY, _CURLY = (1 << bit for bit in range(4))
_TOP_N, _DUP_N = (2, 3, 4), (5, 6, 7, 8, 9, 10)

COUNTS = (
    *("chars", "newlines", "hashes", "ellipses", "lines", "bullet_lines", "ellipsis_lines"),
    *("tokens", "words", "word_chars", "alpha_tokens", "stop_words"),
    *("paragraphs", "repeat_paragraphs", "repeat_paragraph_chars", "parts", "repeat_parts", "repeat_part_chars"),
    *("lorem_ipsum", "curly_bracket", "sentences"),
    *("full_lines", "terminal_lines", "short_lines", "repeat_line_chars"),
    *(f"{n}gram_chars" for n in range(2, 11)),
)
"""Columns of the matrix that `_count_all` fills; a part is what stands between runs of newlines, a full line one that is not blank."""
K_CHARS, K_NEWLINES, K_HASHES, K_ELLIPSES, K_LINES, K_BULLETS, K_ELLIPSIS_LINES = range(7)
K_TOKENS, K_WORDS, K_WORD_CHARS, K_ALPHA, K_STOP_WORDS = range(7, 12)
K_PARAGRAPHS, K_REPEAT_PARAGRAPHS, K_REPEAT_PARAGRAPH_CHARS, K_PARTS, K_REPEAT_PARTS, K_REPEAT_PART_CHARS = range(12, 18)
K_LOREM_IPSUM, K_CURLY, K_SENTENCES = range(18, 21)
K_FULL_LINES, K_TERMINAL_LINES, K_SHORT_LINES, K_REPEAT_LINE_CHARS = range(21, 25)
K_2GRAM = 25

# Bits of the class table of spacy_words.py, once more: numba's cache of a kernel notices a change in its own file only.
SPACE, LETTER, PUNCTUATION, SENTENCE_END, SYMBOL, TERMINAL, DECIMAL = (1 << bit for bit in (0, 2, 3, 13, 14, 15, 16))
_CLASS_BITS = ("SPACE", "LETTER", "PUNCTUATION", "SENTENCE_END", "SYMBOL", "TERMINAL", "DECIMAL")
assert [globals()[name] for name in _CLASS_BITS] == [getattr(spacy_words, name) for name in _CLASS_BITS]

_NEWLINE, _RETURN, _DOT, _HASH_SIGN, _HYPHEN, _OPEN, _CLOSE, _OPEN_CURLY = b"\n\r.#-[]{"
_REPLACEMENT = np.int64(0xFFFD)
_BULLET, _ELLIPSIS = ord("•"), ord("…")
_MIX, _GOLDEN, _SEED = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0x9E3779B97F4A7C15), np.uint64(0xCBF29CE484222325)
# A base of polynomials modulo 2^64 and its inverse: hashes of joined words follow from those of the words.
_BASE = 0xD1342543DE82EF95
_INVERSE = np.uint64(pow(_BASE, -1, 1 << 64))
_POWER = np.uint64(_BASE)
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_STOP_KEYS = np.array([int.from_bytes(word.encode("ascii"), "big") for word in STOP_WORDS], np.int64)
_PHRASE_BYTES = np.frombuffer("".join(PHRASES).encode("ascii"), np.uint8)
_PHRASE_OFFSETS = np.cumsum([0, *map(len, PHRASES)], dtype=np.int64)
_PHRASE_FLAGS = np.array([_JAVASCRIPT, _LOREM_IPSUM, *[_POLICY] * 6], np.int64)
_PHRASE_ANCHORS = np.array([phrase.index(rare) for phrase, rare in zip(PHRASES, "vmfvkkkk", strict=True)], np.int64)
_IS_ANCHOR = np.isin(_LOWER, np.frombuffer(b"vmfk", np.uint8))
_MARK_BYTES = np.frombuffer(b"[edit][citation needed]", np.uint8)
_MARK_OFFSETS = np.array([0, 6, 23], np.int64)
_C4_END = np.isin(np.arange(256), np.frombuffer(C4_ENDS, np.uint8))


class Kept(NamedTuple):
    """The lines that the C4 filter keeps, of several texts."""

    offsets: Ints
    """(texts + 1,): those of text n are offsets[n] to offsets[n + 1]."""
    starts: Ints
    ends: Ints
    """Where they stand in the text, without the white space around them."""
    cleaned: Smalls
    """The number of the line without its citation marks among `cleaned_offsets`, or -1 where it has none."""
    cleaned_offsets: Ints
    clean: Bytes


class _Scratch(NamedTuple):
    """Room for the words and lines of a batch's longest text."""

    token_hash: Hashes
    prefix_hash: Hashes
    inverse: Hashes
    prefix_chars: Ints
    gram_hash: Hashes
    keys: Hashes
    counts: Smalls
    firsts: Smalls
    slots: Smalls


@njit(cache=True, nogil=True)
def _point(data: Bytes, pos: int, end: int) -> tuple[np.int64, int]:
    """(code point, width in bytes) at `pos`; of a broken sequence U+FFFD and one byte."""
    lead = np.int64(data[pos])
    if lead < 0x80:
        return lead, 1
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
def _kind(point: int, classes: Classes) -> np.int64:
    return np.int64(classes[point]) if point < classes.size else np.int64(0)


@njit(cache=True, nogil=True)
def _last_point(data: Bytes, start: int, end: int) -> tuple[np.int64, int]:
    """(code point, width) of the last character of data[start:end], which is not empty."""
    pos = end - 1
    while pos > start and end - pos < 4 and data[pos] & 0xC0 == 0x80:
        pos -= 1
    point, width = _point(data, pos, end)
    return (point, width) if pos + width == end else (_REPLACEMENT, 1)


@njit(cache=True, nogil=True)
def _strip(data: Bytes, start: int, end: int, classes: Classes) -> tuple[int, int]:
    """data[start:end] without the white space around it."""
    while start < end:
        point, width = _point(data, start, end)
        if not _kind(point, classes) & SPACE:
            break
        start += width
    while end > start:
        point, width = _last_point(data, start, end)
        if not _kind(point, classes) & SPACE:
            break
        end -= width
    return start, end


@njit(cache=True, nogil=True)
def _num_chars(data: Bytes, start: int, end: int) -> int:
    """Code points."""
    chars = 0
    for pos in range(start, end):
        chars += data[pos] & 0xC0 != 0x80
    return chars


@njit(cache=True, nogil=True)
def _line_end(data: Bytes, pos: int, end: int) -> tuple[int, int]:
    """(where the line from `pos` ends, where the next begins), by `str.splitlines`."""
    while pos < end:
        byte = data[pos]
        if 0x0A <= byte <= 0x0D or 0x1C <= byte <= 0x1E:
            pair = byte == _RETURN and pos + 1 < end and data[pos + 1] == _NEWLINE
            return pos, pos + (2 if pair else 1)
        if byte == 0xC2 and pos + 1 < end and data[pos + 1] == 0x85:
            return pos, pos + 2
        if byte == 0xE2 and pos + 2 < end and data[pos + 1] == 0x80 and data[pos + 2] & 0xFE == 0xA8:
            return pos, pos + 3
        pos += 1
    return end, end


@njit(cache=True, nogil=True)
def _phrases(data: Bytes, start: int, end: int) -> int:
    """Flags of the PHRASES in data[start:end], and of "{"."""
    flags = 0
    for pos in range(start, end):
        byte = data[pos]
        if byte == _OPEN_CURLY:
            flags |= _CURLY
        if not _IS_ANCHOR[byte]:
            continue
        for k in range(_PHRASE_ANCHORS.size):
            first, last = _PHRASE_OFFSETS[k], _PHRASE_OFFSETS[k + 1]
            begin = pos - _PHRASE_ANCHORS[k]
            if begin < start or begin + last - first > end:
                continue
            same = 0
            while same < last - first and _LOWER[data[begin + same]] == _PHRASE_BYTES[first + same]:
                same += 1
            if same == last - first:
                flags |= _PHRASE_FLAGS[k]
    return flags


@njit(cache=True, nogil=True)
def _citation(data: Bytes, pos: int, end: int, classes: Classes) -> int:
    """Length of the citation mark at `pos`, where "[" stands, or 0: CITATION_REGEX."""
    behind = pos + 1
    while behind < end:
        point, width = _point(data, behind, end)
        if not _kind(point, classes) & DECIMAL:
            break
        behind += width
    if behind < end and data[behind] == _CLOSE:
        return behind + 1 - pos
    for k in range(_MARK_OFFSETS.size - 1):
        first, length = _MARK_OFFSETS[k], _MARK_OFFSETS[k + 1] - _MARK_OFFSETS[k]
        if pos + length <= end and np.array_equal(data[pos : pos + length], _MARK_BYTES[first : first + length]):
            return length
    return 0


@njit(cache=True, nogil=True)
def _clean_line(data: Bytes, start: int, end: int, classes: Classes, clean: Bytes, written: int) -> int:
    """Writes the line without citation marks to `clean`; returns where it ends there, or -1 where the line has none."""
    found, pos = False, start
    while pos < end:
        length = _citation(data, pos, end, classes) if data[pos] == _OPEN else 0
        if length:
            found = True
            pos += length
        else:
            clean[written] = data[pos]
            written += 1
            pos += 1
    return written if found else -1


@njit(cache=True, nogil=True)
def _line_words(data: Bytes, start: int, end: int, classes: Classes) -> tuple[int, int]:
    """(words between white space, characters of the longest)."""
    words, chars, longest, pos = 0, 0, 0, start
    while pos < end:
        point, width = _point(data, pos, end)
        if _kind(point, classes) & SPACE:
            chars = 0
        else:
            words += chars == 0
            chars += 1
            longest = max(longest, chars)
        pos += width
    return words, longest


@njit(cache=True, nogil=True)
def _ends_well(data: Bytes, start: int, end: int) -> bool:
    """Whether a line ends with one of C4_ENDS, and not with an ellipsis."""
    if start == end or not _C4_END[data[end - 1]]:
        return False
    return not (end - start > 2 and data[end - 1] == _DOT and data[end - 2] == _DOT and data[end - 3] == _DOT)


@njit(cache=True, nogil=True)
def _keep_lines(data: Bytes, offsets: Ints, classes: Classes, kept: Kept, counts: Ints) -> tuple[int, int, int]:
    """Fills `kept` and the flags of `counts`; returns the numbers of lines, cleaned lines and their bytes.

    As C4QualityFilter asks, in its order: the first "lorem ipsum" or "{" in a line that stands until then ends the text.
    """
    num, num_clean, written = 0, 0, 0
    for d in range(offsets.size - 1):
        kept.offsets[d] = num
        pos, end = offsets[d], offsets[d + 1]
        while pos < end:
            line_end, following = _line_end(data, pos, end)
            start, stop = _strip(data, pos, line_end, classes)
            pos = following
            words, longest = _line_words(data, start, stop, classes)
            if words < MIN_LINE_WORDS or longest > MAX_WORD_CHARS:
                continue
            clean_end = _clean_line(data, start, stop, classes, kept.clean, written)
            cleaned = clean_end >= 0
            source, first, last = (kept.clean, written, clean_end) if cleaned else (data, start, stop)
            if not _ends_well(source, first, last):
                continue
            flags = _phrases(source, first, last)
            if flags & _LOREM_IPSUM or (flags & _CURLY and not flags & _JAVASCRIPT):
                counts[d, K_LOREM_IPSUM] = flags & _LOREM_IPSUM != 0
                counts[d, K_CURLY] = not flags & _LOREM_IPSUM
                break
            if flags & (_JAVASCRIPT | _POLICY):
                continue
            kept.starts[num], kept.ends[num], kept.cleaned[num] = start, stop, num_clean if cleaned else -1
            num += 1
            if cleaned:
                written = clean_end
                num_clean += 1
                kept.cleaned_offsets[num_clean] = written
    kept.offsets[offsets.size - 1] = num
    return num, num_clean, written


@njit(cache=True, nogil=True)
def num_sentences(data: Bytes, first: int, last: int, starts: Ints, ends: Ints, after_white: Flags, classes: Classes) -> int:
    """Sentences of a line with these tokens, as spaCy's Sentencizer sees them."""
    sentences, ended = 1, False
    for token in range(first, last):
        if ended and token > first and after_white[token]:  # white space is no punctuation: it begins the sentence
            sentences += 1
            ended = False
        pos, end = starts[token], ends[token]
        point, width = _point(data, pos, end)
        marks = _kind(point, classes) & SENTENCE_END != 0 and pos + width == end
        punctuation = True
        while punctuation and pos < end:
            point, width = _point(data, pos, end)
            punctuation = _kind(point, classes) & PUNCTUATION != 0
            pos += width
        if ended and not punctuation and not marks:
            sentences += 1
            ended = False
        elif marks:
            ended = True
    return sentences


@njit(cache=True, nogil=True)
def _count_text_lines(data: Bytes, start: int, end: int, classes: Classes, row: Ints) -> None:
    """What GopherQualityFilter counts of the text and its lines."""
    pos = start
    while pos < end:
        byte = data[pos]
        row[K_CHARS] += byte & 0xC0 != 0x80
        row[K_NEWLINES] += byte == _NEWLINE
        row[K_HASHES] += byte == _HASH_SIGN
        if byte == _DOT and pos + 2 < end and data[pos + 1] == _DOT and data[pos + 2] == _DOT:
            row[K_ELLIPSES] += 1
            row[K_CHARS] += 2
            pos += 2
        elif byte == 0xE2 and pos + 2 < end and data[pos + 1] == 0x80 and data[pos + 2] == 0xA6:
            row[K_ELLIPSES] += 1
        pos += 1
    pos = start
    while pos < end:
        line_end, following = _line_end(data, pos, end)
        first, last = _strip(data, pos, line_end, classes)
        pos = following
        row[K_LINES] += 1
        if first == last:
            continue
        begins, _ = _point(data, first, last)
        ends, _ = _last_point(data, first, last)
        row[K_BULLETS] += begins in (_BULLET, _HYPHEN)
        dots = last - first > 2 and data[last - 1] == _DOT and data[last - 2] == _DOT and data[last - 3] == _DOT
        row[K_ELLIPSIS_LINES] += ends == _ELLIPSIS or dots


@njit(cache=True, nogil=True)
def _hash_range(data: Bytes, start: int, end: int) -> np.uint64:
    value = _SEED
    for pos in range(start, end):
        value = (value ^ np.uint64(data[pos])) * np.uint64(0x100000001B3)
    return value


@njit(cache=True, nogil=True)
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(33))) * _MIX
    return value ^ (value >> np.uint64(29))


@njit(cache=True, nogil=True)
def _seen_before(key: np.uint64, mask: int, num: int, s: _Scratch) -> int:
    """The number of `key` among those in the table; `num` if it was not there and is now."""
    slot = np.int64(_mixed(key) & np.uint64(mask))
    while s.slots[slot] >= 0:
        if s.keys[s.slots[slot]] == key:
            return s.slots[slot]
        slot = (slot + 1) & mask
    s.slots[slot] = num
    s.keys[num] = key
    return num


@njit(cache=True, nogil=True)
def _mask_for(most: int, s: _Scratch) -> int:
    """Empties a table for `most` keys; returns its mask."""
    size = 16
    while size < 2 * most:
        size *= 2
    for slot in range(size):
        s.slots[slot] = -1
    return size - 1


@njit(cache=True, nogil=True)
def _count_paragraphs(data: Bytes, start: int, end: int, classes: Classes, s: _Scratch, row: Ints) -> None:
    """GopherRepetitionFilter: what stands between two or more newlines of the stripped text."""
    start, end = _strip(data, start, end, classes)
    mask = _mask_for((end - start) // 3 + 2 if row[K_NEWLINES] > 1 else 2, s)
    num, pos = 0, start
    while True:
        stop = pos
        while stop < end and not (data[stop] == _NEWLINE and data[stop + 1] == _NEWLINE):
            stop += 1
        row[K_PARAGRAPHS] += 1
        if _seen_before(_hash_range(data, pos, stop), mask, num, s) < num:
            row[K_REPEAT_PARAGRAPHS] += 1
            row[K_REPEAT_PARAGRAPH_CHARS] += _num_chars(data, pos, stop)
        else:
            num += 1
        if stop >= end:
            break
        pos = stop
        while data[pos] == _NEWLINE:
            pos += 1


@njit(cache=True, nogil=True)
def _count_lines(data: Bytes, start: int, end: int, classes: Classes, s: _Scratch, row: Ints) -> None:
    """The lines of GopherRepetitionFilter, by runs of newlines, and of FineWebQualityFilter, those that are not blank."""
    mask = _mask_for(row[K_NEWLINES] + 1, s)
    num, pos = 0, start
    while pos < end:
        stop = pos
        while stop < end and data[stop] != _NEWLINE:
            stop += 1
        if stop > pos:
            chars = _num_chars(data, pos, stop)
            repeats = _seen_before(_hash_range(data, pos, stop), mask, num, s) < num
            num += not repeats
            row[K_PARTS] += 1
            row[K_REPEAT_PARTS] += repeats
            row[K_REPEAT_PART_CHARS] += chars if repeats else 0
            first, last = _strip(data, pos, stop, classes)
            if first < last:
                row[K_FULL_LINES] += 1
                point, _ = _last_point(data, pos, stop)
                row[K_TERMINAL_LINES] += _kind(point, classes) & TERMINAL != 0
                row[K_SHORT_LINES] += chars <= SHORT_LINE_CHARS
                row[K_REPEAT_LINE_CHARS] += chars if repeats else 0
        pos = stop + 1
    if end > start:  # a newline at an edge leaves an empty part there, and the second one is a repeat
        edges = (data[start] == _NEWLINE) + (data[end - 1] == _NEWLINE)
        row[K_PARTS] += edges
        row[K_REPEAT_PARTS] += edges == 2


@njit(cache=True, nogil=True)
def _count_words(data: Bytes, first: int, last: int, starts: Ints, ends: Ints, classes: Classes, s: _Scratch, row: Ints) -> None:
    """GopherQualityFilter's words; and, for the n-grams, hashes and characters up to every word."""
    prefix, power, inverse, chars = np.uint64(0), np.uint64(1), np.uint64(1), 0
    for token in range(first, last):
        k = token - first
        s.prefix_hash[k], s.inverse[k], s.prefix_chars[k] = prefix, inverse, chars
        before, only_symbols, any_letter, key = chars, True, False, np.int64(0)
        pos, end = starts[token], ends[token]
        width = end - pos
        while pos < end:
            point, size = _point(data, pos, end)
            kind = _kind(point, classes)
            only_symbols = only_symbols and kind & SYMBOL != 0
            any_letter = any_letter or kind & LETTER != 0
            chars += 1
            for _ in range(size):
                byte = np.uint64(data[pos])
                key = (key << 8) | np.int64(byte)
                prefix += (byte + np.uint64(1)) * power
                power *= _POWER
                inverse *= _INVERSE
                pos += 1
        s.token_hash[k] = _mixed((prefix - s.prefix_hash[k]) * s.inverse[k])
        row[K_ALPHA] += any_letter
        if not only_symbols:
            row[K_WORDS] += 1
            row[K_WORD_CHARS] += chars - before
        if width <= 4:
            for word in range(_STOP_KEYS.size):
                if key == _STOP_KEYS[word]:
                    row[K_STOP_WORDS] |= 1 << word
    row[K_TOKENS] = last - first
    s.prefix_hash[last - first], s.prefix_chars[last - first] = prefix, chars


@njit(cache=True, nogil=True)
def _count_top_ngrams(num_tokens: int, s: _Scratch, row: Ints) -> None:
    """Occurrences × characters, spaces included, of the first of the most common n-grams: 2, 3, 4."""
    for k in range(num_tokens):
        s.gram_hash[k] = s.token_hash[k]
    for n in range(2, 5):
        num_grams = num_tokens - n + 1
        if num_grams < 1:
            return
        mask = _mask_for(num_grams, s)
        num, most, top = 0, 0, 0
        for k in range(num_grams):
            s.gram_hash[k] = _mixed(s.gram_hash[k] * _GOLDEN + s.token_hash[k + n - 1])
            gram = _seen_before(s.gram_hash[k], mask, num, s)
            if gram == num:
                s.counts[num], s.firsts[num] = 0, k
                num += 1
            s.counts[gram] += 1
        for gram in range(num):
            if s.counts[gram] > most:
                most, top = s.counts[gram], s.firsts[gram]
        row[K_2GRAM + n - 2] = most * (s.prefix_chars[top + n] - s.prefix_chars[top] + n - 1)


@njit(cache=True, nogil=True)
def _count_dup_ngrams(num_tokens: int, s: _Scratch, row: Ints) -> None:
    """Characters of repeated n-grams, from left to right and not overlapping: 5 to 10.

    An n-gram is its words written together, as in datatrove: "a bc" is "ab c".
    """
    for n in range(5, 11):
        if num_tokens < n:
            return
        mask = _mask_for(num_tokens - n + 1, s)
        num, k = 0, 0
        while k < num_tokens - n + 1:
            key = (s.prefix_hash[k + n] - s.prefix_hash[k]) * s.inverse[k]
            if _seen_before(key, mask, num, s) < num:
                row[K_2GRAM + n - 2] += s.prefix_chars[k + n] - s.prefix_chars[k]
                k += n
            else:
                num += 1
                k += 1


@njit(cache=True, nogil=True)
def _count_all(data: Bytes, offsets: Ints, classes: Classes, t: Tokens, kept: Kept, of_clean: Tokens, counts: Ints) -> None:
    """Fills counts[d, k] for text d and column COUNTS[k], but for the flags, which `_keep_lines` has set."""
    longest = 0
    for d in range(offsets.size - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    room, slots = longest + 2, 16
    while slots < 2 * room:
        slots *= 2
    s = _Scratch(
        *(np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(room, np.int64)),
        *(np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(room, np.int32), np.empty(room, np.int32)),
        np.empty(slots, np.int32),
    )
    for d in range(offsets.size - 1):
        start, end, row = offsets[d], offsets[d + 1], counts[d]
        first, last = t.offsets[d], t.offsets[d + 1]
        _count_text_lines(data, start, end, classes, row)
        _count_paragraphs(data, start, end, classes, s, row)
        _count_lines(data, start, end, classes, s, row)
        _count_words(data, first, last, t.starts, t.ends, classes, s, row)
        _count_top_ngrams(last - first, s, row)
        _count_dup_ngrams(last - first, s, row)
        token = first
        for line in range(kept.offsets[d], kept.offsets[d + 1]):
            clean = kept.cleaned[line]
            if clean >= 0:
                a, b = of_clean.offsets[clean], of_clean.offsets[clean + 1]
                row[K_SENTENCES] += num_sentences(kept.clean, a, b, of_clean.starts, of_clean.ends, of_clean.after_white, classes)
                continue
            while token < last and t.starts[token] < kept.starts[line]:
                token += 1
            begin = token
            while token < last and t.starts[token] < kept.ends[line]:
                token += 1
            row[K_SENTENCES] += num_sentences(data, begin, token, t.starts, t.ends, t.after_white, classes)


def _readonly(data: Bytes) -> Bytes:
    """So that one compiled kernel serves all."""
    data = data.view()
    data.flags.writeable = False
    return data


def _count_batch(data: Bytes, offsets: Ints, counts: Ints) -> None:
    """Fills the rows of `counts`, zeros before, for the texts data[offsets[d]:offsets[d + 1]]."""
    classes, num_bytes = english().classes, int(offsets[-1] - offsets[0])
    room = num_bytes // (2 * MIN_LINE_WORDS - 1) + 1  # a kept line has three words and the white space between them
    kept = Kept(
        np.zeros(len(offsets), np.int64),
        *(np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int32)),
        *(np.zeros(room + 1, np.int64), np.empty(num_bytes, np.uint8)),
    )
    _, num_clean, _ = _keep_lines(data, offsets, classes, kept, counts)
    clean = _readonly(kept.clean)
    kept = kept._replace(clean=clean, cleaned_offsets=kept.cleaned_offsets[: num_clean + 1])
    _count_all(data, offsets, classes, tokenize(data, offsets), kept, tokenize(clean, kept.cleaned_offsets), counts)


def _batches(offsets: Ints) -> Iterator[tuple[int, int]]:
    """Runs of texts of at most BATCH_BYTES, or of one text."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + BATCH_BYTES, side="right")) - 1
        yield first, (last := max(last, first + 1))
        first = last


def count(text: pa.Array) -> dict[str, npt.NDArray[np.int64]]:
    """COUNTS of every text of a string array."""
    data, offsets = string_buffers(text)
    counts = np.zeros((len(text), len(COUNTS)), np.int64)
    for first, last in _batches(offsets):
        _count_batch(_readonly(data), offsets[first : last + 1], counts[first:last])
    return dict(zip(COUNTS, counts.T, strict=True))


def measure(text: pa.Array, language: pa.Array | None) -> Columns:
    """The columns of SIGNALS; the words are English whatever `language` says."""
    n = count(text)
    return {
        "datatrove_num_tokens": n["tokens"],
        "datatrove_num_words": n["words"],
        "datatrove_mean_word_length": ratio(n["word_chars"], n["words"]),
        "datatrove_hash_per_token": ratio(n["hashes"], n["tokens"]),
        "datatrove_ellipsis_per_token": ratio(n["ellipses"], n["tokens"]),
        "datatrove_bullet_line_fraction": ratio(n["bullet_lines"], n["lines"]),
        "datatrove_ellipsis_line_fraction": ratio(n["ellipsis_lines"], n["lines"]),
        "datatrove_alpha_token_fraction": ratio(n["alpha_tokens"], n["tokens"]),
        "datatrove_num_stop_words": np.bitwise_count(n["stop_words"]).astype(np.int64),
        "datatrove_dup_paragraph_fraction": ratio(n["repeat_paragraphs"], n["paragraphs"]),
        "datatrove_dup_paragraph_char_fraction": ratio(n["repeat_paragraph_chars"], n["chars"]),
        "datatrove_dup_line_fraction": ratio(n["repeat_parts"], n["parts"]),
        "datatrove_dup_line_char_fraction": ratio(n["repeat_part_chars"], n["chars"]),
        **{f"datatrove_top_{k}gram_char_fraction": ratio(n[f"{k}gram_chars"], n["chars"]) for k in _TOP_N},
        **{f"datatrove_dup_{k}gram_char_fraction": ratio(n[f"{k}gram_chars"], n["chars"]) for k in _DUP_N},
        "datatrove_c4_lorem_ipsum": n["lorem_ipsum"].astype(np.bool_),
        "datatrove_c4_curly_bracket": n["curly_bracket"].astype(np.bool_),
        "datatrove_c4_num_sentences": n["sentences"],
        "datatrove_fineweb_num_lines": n["full_lines"],
        "datatrove_fineweb_line_punctuation_fraction": ratio(n["terminal_lines"], n["full_lines"]),
        "datatrove_fineweb_short_line_fraction": ratio(n["short_lines"], n["full_lines"]),
        "datatrove_fineweb_dup_line_char_fraction": ratio(n["repeat_line_chars"], n["chars"] - n["newlines"]),
        "datatrove_fineweb_newline_per_token": ratio(n["newlines"], n["tokens"]),
    }


_C4_LINES = "lines that C4QualityFilter keeps (3 words, terminal punctuation)"
SIGNALS = (
    Signal("datatrove_num_tokens", COUNT, "spaCy's English tokens that are not white space"),
    Signal("datatrove_num_words", COUNT, "tokens that are not made of datatrove's punctuation marks alone"),
    Signal("datatrove_mean_word_length", SHARE, "characters per such token"),
    Signal("datatrove_hash_per_token", SHARE, "'#' per token"),
    Signal("datatrove_ellipsis_per_token", SHARE, "'...' (not overlapping) and '…' per token"),
    Signal("datatrove_bullet_line_fraction", SHARE, "lines (splitlines) that begin with • or - ÷ lines, blank ones too"),
    Signal("datatrove_ellipsis_line_fraction", SHARE, "lines (splitlines) that end with '...' or '…' ÷ lines, blank ones too"),
    Signal("datatrove_alpha_token_fraction", SHARE, "tokens with a letter ÷ tokens"),
    Signal("datatrove_num_stop_words", COUNT, f"different tokens, in this case, of {', '.join(STOP_WORDS)}"),
    Signal("datatrove_dup_paragraph_fraction", SHARE, "paragraphs that repeat an earlier one, byte by byte ÷ paragraphs"),
    Signal("datatrove_dup_paragraph_char_fraction", SHARE, "characters of such paragraphs ÷ characters"),
    Signal("datatrove_dup_line_fraction", SHARE, "parts between runs of newlines that repeat an earlier one ÷ parts"),
    Signal("datatrove_dup_line_char_fraction", SHARE, "characters of such parts ÷ characters"),
    *(
        Signal(
            f"datatrove_top_{n}gram_char_fraction",
            SHARE,
            f"first of the most common {n}-grams: occurrences × characters ÷ all",
        )
        for n in _TOP_N
    ),
    *(
        Signal(
            f"datatrove_dup_{n}gram_char_fraction",
            SHARE,
            f"characters of {n}-grams, written together, that repeat an earlier one, not overlapping ÷ characters",
        )
        for n in _DUP_N
    ),
    Signal("datatrove_c4_lorem_ipsum", FLAG, "'lorem ipsum' ends C4QualityFilter's reading"),
    Signal("datatrove_c4_curly_bracket", FLAG, "'{' ends C4QualityFilter's reading"),
    Signal("datatrove_c4_num_sentences", COUNT, f"spaCy's sentences in the {_C4_LINES}"),
    Signal("datatrove_fineweb_num_lines", COUNT, "lines that are not blank"),
    Signal(
        "datatrove_fineweb_line_punctuation_fraction",
        SHARE,
        "those that end with a terminal mark of datatrove's ÷ those lines",
    ),
    Signal("datatrove_fineweb_short_line_fraction", SHARE, f"those of at most {SHORT_LINE_CHARS} characters ÷ those lines"),
    Signal("datatrove_fineweb_dup_line_char_fraction", SHARE, "characters of those that repeat ÷ characters but newlines"),
    Signal("datatrove_fineweb_newline_per_token", SHARE, "newline characters per token"),
)


def compile_kernels() -> None:
    """Compiles every kernel into numba's cache beside this file and its neighbour, and runs each once."""
    count(pa.array(["One line [1] of a few words.\n\nAnd another one, e.g. this."]))
