"""Evaluation items found in the texts of a shard, word by word: n-grams, and whole passages.

Both sides are the words of `minhash.normalise`: lower-cased, punctuation separates, lines do not matter. What is looked for is a *needle*:
a run of words that is an n-gram of a passage, or a whole one. A rolling 64-bit hash of each place of a text asks a bit filter and then a
hash table; what these propose is compared word by word, so that no hash decides. The longer n-grams are asked for only where the shortest
was found. Cost on one core: 5 to 9 ns per byte of text (docs/contamination.md); memory: 20 bytes per byte of the longest text, and of the
passages some 200 a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tasks.text.buffers import string_buffers
from tasks.text.minhash import normalise

Bytes = npt.NDArray[np.uint8]
Points = npt.NDArray[np.int32]
Small = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Actions = npt.NDArray[np.int32]

FILTER_BITS = 32
NONE = -1
"""The needle of a place where none begins."""

# --- words -----------------------------------------------------------------------------------------------------------
# words of a text: word w is points[word_at[w]:word_at[w + 1]], folded code points; prefix[w] is the rolling hash of the words before w

_TABLE_SIZE = 0x20000
_SEPARATES, _VANISHES, _ALONE = -1, -2, 1 << 21
_BASE, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD)
_FNV = np.uint64(0x100000001B3)
_32, _1, _63 = np.uint64(32), np.uint64(1), np.uint64(63)


@lru_cache(maxsize=1)
def fold_table() -> Actions:
    """What `normalise` does with every code point below U+20000: the folded one, flagged where it is a word of its own, or an action."""
    table = np.full(_TABLE_SIZE, _SEPARATES, np.int32)
    for code in range(_TABLE_SIZE):
        if 0xD800 <= code < 0xE000:
            continue  # half a surrogate pair: no UTF-8 holds one
        words = normalise(f"a{chr(code)}a").split()  # by default one code point gives one at most
        if len(words) == 3:
            table[code] = ord(words[1]) | _ALONE
        elif len(words) == 1:
            table[code] = ord(words[0][1]) if len(words[0]) == 3 else _VANISHES
    return table


@njit(cache=True, nogil=True)
def _decode(data: Bytes, at: int) -> tuple[int, int]:
    """(code point, position after it) at a lead byte of valid UTF-8, which Arrow strings are."""
    lead = np.int64(data[at])
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (data[at + 1] & 0x3F), at + 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | np.int64(data[at + 1] & 0x3F) << 6 | (data[at + 2] & 0x3F), at + 3
    tail = np.int64(data[at + 1] & 0x3F) << 12 | np.int64(data[at + 2] & 0x3F) << 6 | (data[at + 3] & 0x3F)
    return (lead & 0x07) << 18 | tail, at + 4


@njit(cache=True, nogil=True)
def _fold_words(
    data: Bytes, start: int, end: int, table: Actions, points: Points, word_at: Ints, prefix: Hashes, first_word: int
) -> int:
    """Appends the words of data[start:end] to those before `first_word`; gives the number of words then."""
    at, size, num_words, in_word, value = start, word_at[first_word], first_word, False, np.uint64(0)
    while at < end:
        code = np.int64(data[np.uint64(at)])
        if code < 128:
            at += 1
        else:
            code, at = _decode(data, at)
        action = np.int64(_SEPARATES)
        if code < _TABLE_SIZE:
            action = np.int64(table[np.uint64(code)])
        elif code < 0x40000:  # planes 2 and 3 are ideographs
            action = code | _ALONE
        if action == _VANISHES:
            continue
        alone = action >= _ALONE
        if in_word and (action < 0 or alone):
            prefix[num_words] = prefix[num_words - 1] * _BASE + (value ^ (value >> _32)) * _MIX
            in_word = False
        if action < 0:
            continue
        if not in_word:
            word_at[num_words] = size
            num_words += 1
            in_word, value = True, np.uint64(0)
        point = action & (_ALONE - 1)
        points[np.uint64(size)] = point
        size += 1
        value = (value ^ np.uint64(point + 1)) * _FNV
        if alone:
            prefix[num_words] = prefix[num_words - 1] * _BASE + (value ^ (value >> _32)) * _MIX
            in_word = False
    if in_word:
        prefix[num_words] = prefix[num_words - 1] * _BASE + (value ^ (value >> _32)) * _MIX
    word_at[num_words] = size
    return num_words


@njit(cache=True, nogil=True)
def _key(prefix: Hashes, power: Any, at: int, num_words: int) -> Any:
    """The hash of words[at:at + num_words], whatever stands before them; never 0."""
    value = prefix[at + num_words] - prefix[at] * power
    value = (value ^ (value >> _32)) * _MIX + np.uint64(num_words)
    return (value ^ (value >> np.uint64(29))) * _BASE | _1


@njit(cache=True, nogil=True)
def _same_words(points: Points, word_at: Ints, at: int, others: Points, other_at: Ints, there: int, num_words: int) -> bool:
    """Whether words[at:at + num_words] are others[there:there + num_words]."""
    first, first_there = word_at[at], other_at[there]
    size = word_at[at + num_words] - first
    if size != other_at[there + num_words] - first_there:
        return False
    for k in range(size):
        if points[first + k] != others[first_there + k]:
            return False
    for k in range(1, num_words):  # noqa: SIM110 -- compiled: no generators
        if word_at[at + k] - first != other_at[there + k] - first_there:
            return False
    return True


# --- needles ---------------------------------------------------------------------------------------------------------


class Needles(NamedTuple):
    """What is looked for, as arrays that kernels take. Word numbers count through all passages."""

    points: Points
    word_at: Ints
    prefix: Hashes
    passage_at: Ints
    """First word of each passage, and the number of all words."""
    lengths: Ints
    """Words of the n-grams, ascending."""
    roots: Ints
    """Lengths that a text is asked for at every word, ascending: those of short whole passages, and the shortest n-gram."""
    powers: Hashes
    """_BASE to the power of every length up to the longest n-gram."""
    at: Ints
    """First word of each needle, where it occurs first."""
    num_words: Small
    chain: Small
    """The next needle of the same hash, or NONE."""
    gram_of: npt.NDArray[np.int32]
    """(lengths, words): the n-gram that begins at a word, or NONE."""
    whole_of: Small
    """The needle that is a whole passage, or NONE where it is too short to look for."""
    wholes_at: Ints
    wholes: Small
    """wholes[wholes_at[g]:wholes_at[g + 1]]: whole passages that begin with the shortest n-gram g and are longer."""
    filter: Hashes
    """A bit for each needle of a length in `roots`: FILTER_BITS for each are there, which fit a core's cache where a table would not."""
    slots: Hashes
    first: Small
    """first[s]: the first needle of the hash slots[s]."""

    @property
    def size(self) -> int:
        """Number of needles."""
        return len(self.at)

    def words(self, at: int, num_words: int) -> str:
        """Words in their normal form."""
        bounds = self.word_at[at : at + num_words + 1].tolist()
        points = self.points[bounds[0] : bounds[-1]].tolist()
        return " ".join("".join(map(chr, points[start - bounds[0] : end - bounds[0]])) for start, end in pairwise(bounds))

    def passage_words(self) -> Ints:
        """Words of each passage."""
        return np.diff(self.passage_at)


@njit(cache=True, nogil=True)
def _fold_passages(data: Bytes, starts: Ints, table: Actions, points: Points, word_at: Ints, prefix: Hashes, out: Ints) -> None:
    num_words, word_at[0], prefix[0] = 0, 0, np.uint64(0)
    for passage in range(starts.size - 1):
        num_words = _fold_words(data, starts[passage], starts[passage + 1], table, points, word_at, prefix, num_words)
        out[passage + 1] = num_words


@njit(cache=True, nogil=True)
def _slot(slots: Hashes, key: Any) -> Any:
    """Where `key` stands, or the free slot where it would."""
    mask = slots.size - 1
    slot = np.int64(key >> np.uint64(8)) & mask
    while slots[slot] != key and slots[slot] != 0:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _bit(filter: Hashes, key: Any) -> tuple[Any, Any]:
    """(word of the filter, bit in it) of a key."""
    bit = np.int64(key >> np.uint64(32)) & (64 * filter.size - 1)
    return bit >> 6, _1 << np.uint64(bit & 63)


@njit(cache=True, nogil=True)
def _find(needles: Needles, points: Points, word_at: Ints, at: int, num_words: int, key: Any) -> Any:
    """The needle that is words[at:at + num_words], or NONE."""
    slot = _slot(needles.slots, key)
    found = np.int64(needles.first[slot]) if needles.slots[slot] == key else np.int64(NONE)
    while found != NONE:
        if needles.num_words[found] == num_words and _same_words(
            points, word_at, at, needles.points, needles.word_at, needles.at[found], num_words
        ):
            return found
        found = np.int64(needles.chain[found])
    return NONE


@njit(cache=True, nogil=True)
def _enter(needles: Needles, size: int, at: int, num_words: int, power: Any) -> int:
    """The needle that is words[at:at + num_words] of the passages; a new one has the number `size`."""
    key = _key(needles.prefix, power, at, num_words)
    found = _find(needles, needles.points, needles.word_at, at, num_words, key)
    if found != NONE:
        return found
    needles.at[size], needles.num_words[size] = at, num_words
    slot = _slot(needles.slots, key)
    needles.chain[size] = needles.first[slot] if needles.slots[slot] == key else NONE
    needles.slots[slot], needles.first[slot] = key, size
    if num_words <= needles.lengths[0]:
        place, bit = _bit(needles.filter, key)
        needles.filter[place] |= bit
    return size


@njit(cache=True, nogil=True)
def _enter_all(needles: Needles, min_words: int) -> int:
    """Enters every n-gram and every whole passage of at least `min_words`; gives the number of needles."""
    size = 0
    for passage in range(needles.passage_at.size - 1):
        start, end = needles.passage_at[passage], needles.passage_at[passage + 1]
        for k in range(needles.lengths.size):
            num_words = needles.lengths[k]
            for at in range(start, end - num_words + 1):
                found = _enter(needles, size, at, num_words, needles.powers[num_words])
                size = max(size, found + 1)
                needles.gram_of[k, at] = found
        if end - start >= min_words:
            power = _1
            for _ in range(end - start):
                power *= _BASE
            found = _enter(needles, size, start, end - start, power)
            size = max(size, found + 1)
            needles.whole_of[passage] = found
    return size


def needles_of(passages: pa.Array, ngram_words: Sequence[int], min_words: int) -> Needles:
    """Everything to look for of these passages.

    Args:
        passages: their texts.
        ngram_words: words of the n-grams.
        min_words: whole passages of fewer words are not looked for; at most the shortest n-gram.
    """
    data, starts = _buffers(passages)
    room = int(starts[-1] - starts[0])
    points, word_at, prefix = np.empty(room, np.int32), np.empty(room + 1, np.int64), np.empty(room + 1, np.uint64)
    passage_at = np.zeros(len(passages) + 1, np.int64)
    _fold_passages(data, starts, fold_table(), points, word_at, prefix, passage_at)
    total = int(passage_at[-1])
    lengths = np.array(sorted(set(ngram_words)), np.int64)
    sizes = np.diff(passage_at)
    short = np.unique(sizes[(sizes >= min_words) & (sizes < lengths[0])])
    most = int(sum(np.maximum(sizes - n + 1, 0).sum() for n in lengths.tolist()) + len(passages))
    shortest = int(np.maximum(sizes - lengths[0] + 1, 0).sum()) + len(passages)
    powers = np.cumprod(np.concatenate([[np.uint64(1)], np.repeat(_BASE, lengths[-1])]), dtype=np.uint64)
    needles = Needles(
        points=points[: word_at[total]].copy() if total else points[:0].copy(),
        word_at=word_at[: total + 1].copy(),
        prefix=prefix[: total + 1].copy(),
        passage_at=passage_at,
        lengths=lengths,
        roots=np.concatenate([short, lengths[:1]]),
        powers=powers,
        at=np.zeros(most, np.int64),
        num_words=np.zeros(most, np.int32),
        chain=np.full(most, NONE, np.int32),
        gram_of=np.full((len(lengths), total), NONE, np.int32),
        whole_of=np.full(len(passages), NONE, np.int32),
        wholes_at=np.zeros(1, np.int64),
        wholes=np.zeros(0, np.int32),
        filter=np.zeros(_power_of_2(FILTER_BITS * shortest // 64), np.uint64),
        slots=np.zeros(_power_of_2(4 * most), np.uint64),
        first=np.zeros(_power_of_2(4 * most), np.int32),
    )
    size = int(_enter_all(needles, min_words))
    needles = needles._replace(
        at=needles.at[:size].copy(), num_words=needles.num_words[:size].copy(), chain=needles.chain[:size].copy()
    )
    wholes_at, wholes = _by_first_gram(needles)
    return needles._replace(wholes_at=wholes_at, wholes=wholes)


def _buffers(text: pa.Array) -> tuple[Bytes, Ints]:
    """The bytes of texts, read-only also where there are none, for which a kernel would else be compiled once more."""
    data, starts = string_buffers(text)
    data = data.view()
    data.flags.writeable = False
    return data, starts


def _power_of_2(at_least: int) -> int:
    return 1 << max(4, (at_least - 1).bit_length())


def _by_first_gram(needles: Needles) -> tuple[Ints, Small]:
    """(wholes_at, wholes): distinct whole passages that are longer than the shortest n-gram, by that with which they begin."""
    longer = np.unique(needles.whole_of[needles.passage_words() > needles.lengths[0]])
    longer = longer[longer != NONE]
    grams = needles.gram_of[0, needles.at[longer]]
    order = np.lexsort((longer, grams))
    return np.searchsorted(grams[order], np.arange(needles.size + 1)).astype(np.int64), longer[order]


# --- the search ------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _found_at(needles: Needles, points: Points, word_at: Ints, prefix: Hashes, at: int, num_words: int, out: Small) -> int:
    """Writes the needles that begin at word `at` of a text into `out`; gives their number."""
    count, shortest = 0, needles.lengths[0]
    for root in needles.roots:
        if at + root > num_words:
            break
        first = _find(needles, points, word_at, at, root, _key(prefix, needles.powers[root], at, root))
        if first == NONE:
            continue
        out[count] = first
        count += 1
        if root < shortest:
            continue
        for length in needles.lengths[1:]:  # a longer n-gram begins with a shorter one
            if at + length > num_words:
                break
            longer = _find(needles, points, word_at, at, length, _key(prefix, needles.powers[length], at, length))
            if longer == NONE:
                break
            out[count] = longer
            count += 1
        for k in range(needles.wholes_at[first], needles.wholes_at[first + 1]):
            whole = np.int64(needles.wholes[k])
            size = np.int64(needles.num_words[whole])
            if at + size <= num_words and _same_words(
                points, word_at, at, needles.points, needles.word_at, needles.at[whole], size
            ):
                out[count] = whole
                count += 1
    return count


@njit(cache=True, nogil=True)
def _may_begin(filter: Hashes, slots: Hashes, roots: Ints, powers: Hashes, prefix: Hashes, at: int, num_words: int) -> bool:
    """Whether a needle with the hash of what begins at a word is known. It takes no tuple: to count its references would cost more."""
    for k in range(roots.size):
        root = roots[k]
        if at + root > num_words:
            return False
        key = _key(prefix, powers[root], at, root)
        place, bit = _bit(filter, key)
        if filter[place] & bit != 0 and slots[_slot(slots, key)] == key:
            return True
    return False


@njit(cache=True, nogil=True)
def _search(data: Bytes, starts: Ints, table: Actions, needles: Needles) -> tuple[Small, Small]:
    longest, most = 0, 0
    for doc in range(starts.size - 1):
        longest = max(longest, starts[doc + 1] - starts[doc])
    for gram in range(needles.wholes_at.size - 1):
        most = max(most, needles.wholes_at[gram + 1] - needles.wholes_at[gram])
    points, word_at, prefix = np.empty(longest, np.int32), np.empty(longest + 1, np.int64), np.empty(longest + 1, np.uint64)
    here = np.empty(needles.roots.size + needles.lengths.size + most, np.int32)
    last = np.full(needles.at.size, -1, np.int32)
    docs, found, used = np.empty(1024, np.int32), np.empty(1024, np.int32), 0
    word_at[0], prefix[0] = 0, np.uint64(0)
    filter, slots, roots, powers = needles.filter, needles.slots, needles.roots, needles.powers
    for doc in range(starts.size - 1):
        num_words = _fold_words(data, starts[doc], starts[doc + 1], table, points, word_at, prefix, 0)
        for at in range(num_words):
            if not _may_begin(filter, slots, roots, powers, prefix, at, num_words):
                continue
            for k in range(_found_at(needles, points, word_at, prefix, at, num_words, here)):
                needle = here[k]
                if last[needle] == doc:
                    continue
                last[needle] = doc
                if used == docs.size:
                    docs, found = _doubled(docs), _doubled(found)
                docs[used], found[used] = doc, needle
                used += 1
    return docs[:used].copy(), found[:used].copy()


@njit(cache=True, nogil=True)
def _doubled(values: Small) -> Small:
    larger = np.empty(2 * values.size, np.int32)
    larger[: values.size] = values
    return larger


def search(text: pa.Array, needles: Needles) -> tuple[Small, Small]:
    """(documents, needles): which needles each text has, every pair once, in order of the texts."""
    data, starts = _buffers(text)
    return _search(data, starts, fold_table(), needles)


def compile_kernels() -> None:
    """Runs every kernel once, on Arrow's own bytes, so that later processes load them from numba's cache."""
    text = pa.array(["Two words, and then eight more of them: nine."])
    search(text, needles_of(text, (8, 10), 2))
