"""Pieces of text that a corpus may hold again and again: lines, paragraphs, spans of three sentences, long spans of words.

A text becomes words with 64 + 64 bits of hash each; every piece is a run of words, called by the 128-bit hash of their hashes and by its
place: row, first character, character behind its last. White space between the words is of no account, and case is not unless asked.
Two different pieces have one name with about 2^-128 (texts made to collide aside), so the 10^9 pieces of a large corpus with about 10^-21.
Windows of words would be as many as there are words. So they are looked for in two passes: every window is stood for by its anchor, the
least of the hashes of its shorter runs (winnowing, Schleimer et al. 2003), and only windows whose anchor occurs again are hashed; equal
windows have equal anchors, so none is missed. Cost on one core: docs/repeats.md. Scratch memory: 38 bytes per byte of the longest text,
touched only as far as used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit, types

from tasks.text.buffers import Bytes, Ints, string_buffers

__all__ = ["KINDS", "Kind", "anchors", "compile_kernels", "folding", "spans", "units"]

Smalls = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Kind = Literal["lines", "paragraphs", "three_sentences"]
KINDS: tuple[Kind, ...] = ("lines", "paragraphs", "three_sentences")
SENTENCES = 3
"""Sentences of a span, as C4 has it (Raffel et al. 2020, 2.2)."""

SENTENCE_ENDS = ".?!。！？"
CLOSERS = "\"')]}”’»」』）】》"  # may stand between the end mark of a sentence and the next one
OPENERS = "「『（【《"  # a word each: what they follow, without a space, may be the end of a sentence
_TABLE_SIZE = 0x20000
_MAX_ALONE = 0x40000  # planes 2 and 3 are ideographs throughout
_POINT = (1 << 21) - 1
_SPACE, _ALONE, _END, _CLOSER = (1 << bit for bit in range(21, 25))
# Scripts written without spaces, of which each character is a word, as minhash.py has them
_UNSPACED = frozenset(
    point
    for first, last in (
        (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
        (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    )
    for point in range(first, last + 1)
)  # fmt: skip
_NEWLINE = np.int64(10)
_REPLACEMENT = np.int64(0xFFFD)
# odd factors: xxHash's first two primes, and those of MurmurHash3's finaliser
_FACTOR, _FACTOR_2 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_MIX, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


@lru_cache(maxsize=2)
def folding(fold_case: bool) -> Smalls:
    """What a code point below U+20000 is: its lower-case one (simple mapping, as minhash.py has it) or itself, and flags."""
    table = np.arange(_TABLE_SIZE, dtype=np.int32)
    for code in range(_TABLE_SIZE):
        char = chr(code)
        if char.isspace():
            table[code] |= _SPACE
        elif fold_case and char.lower() != char:
            table[code] = ord(char.lower()[0])
    table[[*sorted(_UNSPACED), *map(ord, OPENERS)]] |= _ALONE
    for chars, flag in ((SENTENCE_ENDS, _END), (CLOSERS, _CLOSER)):
        table[[ord(char) for char in chars]] |= flag
    return table


class _Words(NamedTuple):
    """Scratch for the words of one text: hashes, first character, character behind the last, and what stands around them."""

    high: Hashes
    low: Hashes
    start: Smalls
    end: Smalls
    breaks: npt.NDArray[np.int8]
    """Line breaks before the word: none, one, or 2 for more; 2 for the first word."""
    closes: npt.NDArray[np.bool_]
    """Whether it ends a sentence."""


@njit(cache=True, nogil=True)
def _scratch(offsets: Ints) -> _Words:
    size = 1
    for doc in range(offsets.size - 1):
        size = max(size, offsets[doc + 1] - offsets[doc] + 1)
    return _Words(
        np.empty(size, np.uint64),
        np.empty(size, np.uint64),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int8),
        np.empty(size, np.bool_),
    )


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
def _mixed(value: np.uint64) -> np.uint64:
    """MurmurHash3's finaliser, which is one to one."""
    value = (value ^ (value >> np.uint64(33))) * _MIX
    value = (value ^ (value >> np.uint64(33))) * _MIX_2
    return value ^ (value >> np.uint64(33))


@njit(cache=True, nogil=True)
def _split(data: Bytes, pos: int, stop: int, table: Smalls, words: _Words) -> int:
    """Writes the words of data[pos:stop]; their number."""
    num, chars, newlines, inside, closes = 0, 0, 2, False, False
    high = low = np.uint64(0)
    while pos < stop:
        code, width = np.int64(data[pos]), 1
        if code >= 128:
            code, width = _decode(data, pos, stop)
        entry = np.int64(table[code]) if code < _TABLE_SIZE else code | _ALONE if code < _MAX_ALONE else code
        pos += width
        if inside and entry & (_SPACE | _ALONE):
            words.high[num], words.low[num], words.end[num], words.closes[num] = high, low, chars, closes
            num, inside = num + 1, False
        if entry & _SPACE:
            newlines = min(2, newlines + (code == _NEWLINE))
        else:
            if not inside:
                words.start[num], words.breaks[num] = chars, newlines
                inside, newlines, closes, high, low = True, 0, False, _FACTOR, _FACTOR_2
            point = np.uint64(entry & _POINT)
            high = (high ^ point) * _FACTOR
            low = (low + point) * _FACTOR_2
            low ^= low >> np.uint64(31)
            closes = entry & _END != 0 or (closes and entry & _CLOSER != 0)
        chars += 1
        if inside and entry & _ALONE:
            words.high[num], words.low[num], words.end[num], words.closes[num] = high, low, chars, closes
            num, inside = num + 1, False
    if inside:
        words.high[num], words.low[num], words.end[num], words.closes[num] = high, low, chars, closes
        num += 1
    for word in range(num):
        words.high[word] = _mixed(words.high[word])
    return num


@njit(cache=True, nogil=True)
def _name(words: _Words, first: int, behind: int) -> tuple[np.uint64, np.uint64]:
    """The hash of words first … behind - 1, in their order."""
    high = low = np.uint64(behind - first)
    for word in range(first, behind):
        high = (high ^ words.high[word]) * _FACTOR
        high ^= high >> np.uint64(32)
        low = (low + words.low[word]) * _FACTOR_2
        low ^= low >> np.uint64(29)
    return _mixed(high), _mixed(low)


@njit(cache=True, nogil=True)
def _bounds(words: _Words, num: int, kind: int, bounds: Smalls) -> int:
    """Writes the first word of each line (kind 0), paragraph (1) or sentence (2), and `num` behind the last; the number of these."""
    count = 0
    for word in range(num):
        breaks = words.breaks[word]
        if breaks == 2 or (breaks == 1 and kind != 1) or (kind == 2 and words.closes[word - 1]):
            bounds[count] = word
            count += 1
    bounds[count] = num
    return count


@njit(cache=True, nogil=True)
def _room(names: Hashes, places: Smalls, used: int) -> tuple[Hashes, Smalls]:
    """The same arrays, or twice as large ones with what is in them."""
    if used < names.shape[0]:
        return names, places
    more_names, more_places = np.empty((2 * used, 2), np.uint64), np.empty((2 * used, 3), np.int32)
    more_names[:used], more_places[:used] = names, places
    return more_names, more_places


@njit(cache=True, nogil=True)
def _num_chars(words: _Words, first: int, behind: int) -> int:
    """Characters of these words, white space aside."""
    chars = 0
    for word in range(first, behind):
        chars += words.end[word] - words.start[word]
    return chars


_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_TABLE = types.int32[::1]
_FOUND = types.Tuple((types.uint64[:, ::1], types.int32[:, ::1]))


@njit(_FOUND(_DATA, types.int64[::1], _TABLE, types.int64, types.int64, types.int64), cache=True, nogil=True)
def _find_units(data: Bytes, offsets: Ints, table: Smalls, kind: int, window: int, min_chars: int) -> tuple[Hashes, Smalls]:
    """(names u64[n, 2], places i32[n, 3]: row, first character, character behind the last) of every run of `window` units."""
    words = _scratch(offsets)
    bounds = np.empty(words.start.size + 1, np.int32)
    names, places, used = np.empty((1024, 2), np.uint64), np.empty((1024, 3), np.int32), 0
    for row in range(offsets.size - 1):
        num = _split(data, offsets[row], offsets[row + 1], table, words)
        count = _bounds(words, num, kind, bounds)
        for unit in range(count - window + 1):
            first, behind = bounds[unit], bounds[unit + window]
            if _num_chars(words, first, behind) < min_chars:
                continue
            names, places = _room(names, places, used)
            names[used, 0], names[used, 1] = _name(words, first, behind)
            places[used, 0], places[used, 1], places[used, 2] = row, words.start[first], words.end[behind - 1]
            used += 1
    return names[:used].copy(), places[:used].copy()


@njit(cache=True, nogil=True)
def _anchor_words(words: _Words, num: int, min_words: int, grams: Hashes, chosen: Smalls) -> int:
    """Writes for every window of `min_words` words the first word of its anchor into `chosen`; the number of windows.

    The anchor is the run of (min_words + 1) // 2 words in it with the least hash, the last of equal ones; so equal windows have it at the
    same place, and from window to window it never goes back.
    """
    gram = (min_words + 1) // 2
    ahead = min_words - gram
    factor = np.uint64(1)
    for _ in range(gram - 1):
        factor *= _FACTOR_2
    state = np.uint64(0)
    for word in range(num):
        if word >= gram:
            state -= words.high[word - gram] * factor
        state = state * _FACTOR_2 + words.high[word]
        if word >= gram - 1:
            grams[word - gram + 1] = _mixed(state)
    least = -1
    for window in range(num - min_words + 1):
        if least < window:
            least = window
            for other in range(window + 1, window + ahead + 1):
                if grams[other] <= grams[least]:
                    least = other
        elif grams[window + ahead] <= grams[least]:
            least = window + ahead
        chosen[window] = least
    return max(0, num - min_words + 1)


@njit(types.Tuple((types.uint64[::1], types.int32[:, ::1]))(_DATA, types.int64[::1], _TABLE, types.int64), cache=True, nogil=True)
def _find_anchors(data: Bytes, offsets: Ints, table: Smalls, min_words: int) -> tuple[Hashes, Smalls]:
    """(hashes u64[n], places i32[n, 2]: row, first word) of every anchor; hashes are spread evenly, though anchors are least ones."""
    words = _scratch(offsets)
    grams, chosen = np.empty(words.start.size, np.uint64), np.empty(words.start.size, np.int32)
    names, places, used = np.empty((1024, 2), np.uint64), np.empty((1024, 3), np.int32), 0
    for row in range(offsets.size - 1):
        num = _split(data, offsets[row], offsets[row + 1], table, words)
        count = _anchor_words(words, num, min_words, grams, chosen)
        for window in range(count):
            if window == 0 or chosen[window] != chosen[window - 1]:
                names, places = _room(names, places, used)
                names[used, 0] = grams[chosen[window]] * _FACTOR
                places[used, 0], places[used, 1] = row, chosen[window]
                used += 1
    return names[:used, 0].copy(), places[:used, :2].copy()


@njit(_FOUND(_DATA, types.int64[::1], _TABLE, types.int64, types.int32[:, ::1]), cache=True, nogil=True)
def _find_spans(data: Bytes, offsets: Ints, table: Smalls, min_words: int, repeated: Smalls) -> tuple[Hashes, Smalls]:
    """As `_find_units`, of the windows of `min_words` words whose anchor is in `repeated` i32[m, 2]: row, first word; sorted."""
    words = _scratch(offsets)
    grams, chosen = np.empty(words.start.size, np.uint64), np.empty(words.start.size, np.int32)
    names, places, used = np.empty((1024, 2), np.uint64), np.empty((1024, 3), np.int32), 0
    at = 0
    while at < repeated.shape[0]:
        row = repeated[at, 0]
        num = _split(data, offsets[row], offsets[row + 1], table, words)
        count = _anchor_words(words, num, min_words, grams, chosen)
        for window in range(count):
            while at < repeated.shape[0] and repeated[at, 0] == row and repeated[at, 1] < chosen[window]:
                at += 1
            if at == repeated.shape[0] or repeated[at, 0] != row:
                break
            if repeated[at, 1] != chosen[window]:
                continue
            names, places = _room(names, places, used)
            names[used, 0], names[used, 1] = _name(words, window, window + min_words)
            places[used, 0], places[used, 1], places[used, 2] = row, words.start[window], words.end[window + min_words - 1]
            used += 1
        while at < repeated.shape[0] and repeated[at, 0] == row:
            at += 1
    return names[:used].copy(), places[:used].copy()


def units(text: pa.Array, kind: Kind, *, min_chars: int, fold_case: bool) -> pa.Table:
    """Every line, paragraph or span of three sentences of a shard: `high`, `low`, `row`, `start`, `end`, in order of `high`.

    A line runs to the next "\\n", a paragraph to the next line of nothing but white space; a sentence ends with its line, and behind a word
    with one of . ? ! 。 ！ ？ at its end, closing quotation marks and brackets aside. Spans of sentences go on over lines and paragraphs; a
    text of fewer than three sentences has none.

    Args:
        text: string or large_string array.
        min_chars: pieces of fewer characters, white space aside, are left out.
        fold_case: whether case is of no account.
    """
    data, offsets = string_buffers(text)
    window = SENTENCES if kind == "three_sentences" else 1
    return _table(*_find_units(data, offsets, folding(fold_case), KINDS.index(kind), window, min_chars))


def anchors(text: pa.Array, *, min_words: int, fold_case: bool) -> pa.Table:
    """The anchors of every window of `min_words` words of a shard: `high`, `row`, `word`, in order of `high`."""
    hashes, places = _find_anchors(*string_buffers(text), folding(fold_case), min_words)
    order = np.argsort(hashes, kind="stable")
    return pa.table({"high": hashes[order], "row": places[order, 0], "word": places[order, 1]})


def spans(text: pa.Array, repeated: Smalls, *, min_words: int, fold_case: bool) -> pa.Table:
    """Every window of `min_words` words whose anchor occurs again, as `units`.

    Args:
        repeated: int32[n, 2], row and first word of those anchors, as `anchors` gave them, in this order.
    """
    data, offsets = string_buffers(text)
    return _table(*_find_spans(data, offsets, folding(fold_case), min_words, np.ascontiguousarray(repeated, np.int32)))


def _table(names: Hashes, places: Smalls) -> pa.Table:
    order = np.argsort(names[:, 0], kind="stable")
    columns = {"high": names[order, 0], "low": names[order, 1]}
    return pa.table({**columns, **{name: places[order, k] for k, name in enumerate(("row", "start", "end"))}})


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file (importing does most of it) and runs each once."""
    text = pa.array(["one document"])
    units(text, "lines", min_chars=1, fold_case=True)
    found = anchors(text, min_words=2, fold_case=True)
    spans(text, np.stack([found["row"], found["word"]], axis=1), min_words=2, fold_case=True)
