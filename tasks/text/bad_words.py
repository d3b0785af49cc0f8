"""Bad words: how often the entries of a list occur in every text, found as the public C4 code finds them, and near whom.

The lists that ship are those the code names (tensorflow_datasets 4.9.10, text/c4.py): the List of Dirty, Naughty, Obscene, and
Otherwise Bad Words at the revisions it pins, one file per language code of lid.176 (its `fil` is `tl` here, its `fr-CA` is in `fr`; for
its `kab` and `tlh` lid.176 has no name), less the entries it allows (`ALLOWED`). As in its c4_utils.py an entry occurs where
`(?:\\W|^)entry(?:\\W|$)` matches the lower-cased text; Japanese, Thai and Chinese need nothing around it. A place counts once, whatever
begins there. The final sigma is a sigma. A list knows no context: health, law, quotation and reclaimed words count like abuse, and what is
meant without a listed word does not; `num_bad_words_near_identity` says where to look, not what was meant.
Cost: RATE; memory follows the longest document, 13 bytes for each of its bytes, and 4 for each bad word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit, types

from tasks.text import terms
from tasks.text.buffers import string_buffers
from tasks.text.groups import COUNT, Columns, Signal
from tasks.text.lines import LineRules, rewrite_lines
from tasks.text.tables import open_table

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Smalls = npt.NDArray[np.int32]
Points = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
OwnLists = Mapping[str, tuple[str, ...]]
"""Entries by language: a user's own, instead of those that ship or where none do."""

LISTS = Path(__file__).with_name("bad_words_data")
FILES = (*sorted(LISTS.glob("*.txt")), *terms.FILES)  # terms: near which there are some
UNSPACED = ("ja", "th", "zh")
"""Languages whose entries need nothing around them (c4_utils.py, get_badwords_filter_fn)."""
ALLOWED = {"ja": {"sm", "グロ", "女の子"}, "zh": {"性"}}
"""Entries that are not asked: each is within a tenth of the documents of its language (c4.py, _BADWORDS_ALLOWLIST)."""
NEAR_WORDS = 5
"""A bad word is near a term when so many words, as `terms.py` counts them, or fewer lie from its first word to the term. Ours."""
RATE = "60 to 90 MB/s (Japanese, Thai, Chinese: 39 MB/s)"

SIGNALS = (
    Signal(
        "num_bad_words", COUNT, "places where an entry of the bad-word list of the document's language begins; 0 without a list"
    ),
    Signal("c4_num_bad_words", COUNT, "num_bad_words of the lines the C4 line rules keep (5 words, terminal punctuation)"),
    Signal("num_bad_words_en", COUNT, "num_bad_words by the English list, whatever the language"),
    Signal(
        "num_bad_words_near_identity",
        COUNT,
        f"num_bad_words within {NEAR_WORDS} words of an identity term; 0 without a term list of the language",
    ),
)

_CITATION_MARK = r"\[([0-9]*|edit|citation needed)\]"  # what `rewrite_lines` takes out of a line
_MAX_POINT = 0x40000  # as in kernels.py: nothing above is a letter
_WORD = 1 << 30  # flag of a lowered code point that \w matches
_DOTTED_I = 0x130  # the one character whose lower case is two: "i" and the dot above
_DOT_ABOVE = 0x307
_OWN, _OWN_UNSPACED, _ENGLISH = 1, 2, 4  # whose entry ends at a node
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / phi


def shipped_lists() -> list[str]:
    """The languages of which a list ships."""
    return sorted(path.stem for path in LISTS.glob("*.txt"))


def read_entries(path: Path) -> tuple[str, ...]:
    """The entries of a list: a line each, in UTF-8, with or without a byte order mark. Raises OSError, UnicodeDecodeError."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return tuple(sorted({line.strip() for line in lines} - {""}))


def entries_of(language: str, own: OwnLists | None = None) -> tuple[str, ...]:
    """The entries for a language: the user's own, where there are some, else those that ship; or none."""
    if own and language in own:
        return own[language]
    return _shipped_entries(language) if language in shipped_lists() else ()


@lru_cache(maxsize=32)
def _shipped_entries(language: str) -> tuple[str, ...]:
    allowed = ALLOWED.get(language, set())
    return tuple(entry for entry in read_entries(LISTS / f"{language}.txt") if entry not in allowed)


def measure(text: pa.Array, language: pa.Array | None, own: OwnLists | None = None) -> Columns:
    """SIGNALS of every text, int32. `language` as in `groups.SignalGroup.measure`; `own` as in `entries_of`."""
    assert language is not None
    counts = count_bad_words(text, language, own)
    # in the lines that stay there can be bad words only where the text has some, or where a citation mark taken out makes one
    has_marks = pc.match_substring_regex(text, _CITATION_MARK).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero((counts[:, 0] > 0) | has_marks)
    kept_lines, _ = rewrite_lines(text.take(pa.array(rows)), LineRules())
    in_kept_lines = np.zeros(len(text), np.int32)
    in_kept_lines[rows] = count_bad_words(kept_lines, language.take(pa.array(rows)), own)[:, 0]
    columns = (counts[:, 0], in_kept_lines, counts[:, 1], counts[:, 2])
    return {signal.name: np.ascontiguousarray(column) for signal, column in zip(SIGNALS, columns, strict=True)}


def count_bad_words(text: pa.Array, language: pa.Array, own: OwnLists | None = None) -> Smalls:
    """int32 (texts, 3): entries of the text's own language, of English, and of its own language near an identity term."""
    data, offsets = string_buffers(text)
    counts = np.zeros((len(text), 3), np.int32)
    codes = language.dictionary_encode()
    row_codes = codes.indices.to_numpy(zero_copy_only=False)
    english = entries_of("en", own)
    for code, name in enumerate(codes.dictionary.to_pylist()):
        rows = np.flatnonzero(row_codes == code)
        table = _table(entries_of(name, own), english, name in UNSPACED)
        places = bad_words_kernel(data, offsets, rows, _lower(), *table, counts)
        near, ends = np.zeros(len(rows), np.int32), np.cumsum(counts[rows, 0], dtype=np.int64)
        terms.near_kernel(data, offsets, rows, places, ends, NEAR_WORDS, *terms.tables(name), near)
        counts[rows, 2] = near
    return counts


def passage(text: str, language: str, signal: str, num_chars: int) -> str:
    """`num_chars` characters around the first bad word that `signal`, one of SIGNALS, counts in a text; its beginning where there is none.

    For `num_bad_words_en` by the English list, else by that of the language; for `c4_num_bad_words` of the lines that C4 keeps. By the
    lists that ship: what a user's own had is not kept with the signals.
    """
    if signal == "c4_num_bad_words":
        text = rewrite_lines(pa.array([text]), LineRules())[0][0].as_py()
    name = "en" if signal == "num_bad_words_en" else language
    data = np.frombuffer(text.encode(), np.uint8)
    points, at = np.empty(data.size + 1, np.uint32), np.empty(data.size + 1, np.int32)
    found, _ = places_kernel(data, 0, data.size, _lower(), *_table(entries_of(name), (), name in UNSPACED), points, at)
    place = len(data[: at[0] if found else 0].tobytes().decode())
    start = max(0, place - num_chars // 2)
    return ("…" if start else "") + text[start : start + num_chars]


@lru_cache(maxsize=1)
def _lower() -> Points:
    """The lower case of every code point below _MAX_POINT, with _WORD where `\\w` matches it; from this Python's Unicode tables."""
    lower = np.arange(_MAX_POINT, dtype=np.uint32)
    for point in range(_MAX_POINT):
        small = chr(point).lower()[0].replace("ς", "σ")
        lower[point] = ord(small) | (_WORD if small.isalnum() or small == "_" else 0)
    return lower


@lru_cache(maxsize=64)
def _table(own: Sequence[str], english: Sequence[str], unspaced: bool) -> tuple[Hashes, Smalls, Bytes, npt.NDArray[np.bool_]]:
    """The entries as a tree of lowered code points from node 0 on.

    (key per slot or 0, node per slot, whose entry ends at each node, which low 12 bits an entry begins with).
    """
    tree: dict[int, int] = {}
    ends, first = [0], np.zeros(4096, np.bool_)
    for entries, whose in ((own, _OWN_UNSPACED if unspaced else _OWN), (english, _ENGLISH)):
        data, offsets = string_buffers(pa.array(entries, pa.string()))
        points, _ = np.zeros((2, data.size + 1), np.uint32)
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            num = lower_kernel(data, start, end, _lower(), points, np.zeros(points.size, np.int32))
            node = 0
            first[points[0] & 4095] = True
            for point in points[:num].tolist():
                node = tree.setdefault((node << 32) + point + 1, len(ends))
                if node == len(ends):
                    ends.append(0)
            ends[node] |= whose
    return *open_table(tree, _high_bits), np.array(ends, np.uint8), first


def _high_bits(key: int, bits: int) -> int:
    """Where a step of the tree stands in its table: its key is no hash."""
    return (key * _GOLDEN & (2**64 - 1)) >> (64 - bits)


_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_TREE = (types.uint64[::1], types.int32[::1], types.uint8[::1], types.boolean[::1])


@njit(
    types.int64(_DATA, types.int64, types.int64, types.uint32[::1], types.uint32[::1], types.int32[::1]), cache=True, nogil=True
)
def lower_kernel(data: Bytes, start: int, end: int, lower: Points, points: Points, at: Smalls) -> int:
    """Writes the lowered code points of data[start:end] and where each begins, in bytes from `start`; returns how many.

    A broken sequence is one code point per byte. There are never more of them than bytes.
    """
    pos, num = start, 0
    while pos < end:
        point, width = np.int64(data[np.uint64(pos)]), 1
        if point >= 0xC2 and point <= 0xF4:
            width = 2 if point < 0xE0 else 3 if point < 0xF0 else 4
            if pos + width <= end:
                point &= 0x7F >> width
                for k in range(1, width):
                    point = (point << 6) | (np.int64(data[np.uint64(pos + k)]) & 0x3F)
            else:
                point, width = np.int64(0xFFFD), 1
        elif point >= 0x80:
            point = np.int64(0xFFFD)
        points[num] = lower[np.uint64(point)] if point < _MAX_POINT else np.uint32(point)
        at[num] = pos - start
        num += 1
        if point == _DOTTED_I:
            points[num], at[num] = np.uint32(_DOT_ABOVE), pos - start
            num += 1
        pos += width
    return num


@njit(cache=True, nogil=True, inline="always")
def _whose(points: Points, start: int, num: int, keys: Hashes, shift: np.uint64, nodes: Smalls, ends: Bytes) -> np.int64:
    """Whose entries begin at `start` and have no word character behind them; unspaced ones may have one."""
    mask = np.uint64(keys.size - 1)
    node, found = np.int64(0), np.int64(0)
    for k in range(start, num):
        key = (np.uint64(node) << np.uint64(32)) + np.uint64(points[k]) + np.uint64(1)
        slot = (key * np.uint64(_GOLDEN)) >> shift
        while keys[slot] != np.uint64(0) and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == np.uint64(0):
            break
        node = np.int64(nodes[slot])
        if ends[node]:
            free = k + 1 == num or not points[k + 1] & np.uint32(_WORD)
            found |= np.int64(ends[node]) if free else np.int64(ends[node]) & _OWN_UNSPACED
    return found


@njit(
    types.UniTuple(types.int64, 2)(
        *(_DATA, types.int64, types.int64, types.uint32[::1], *_TREE, types.uint32[::1], types.int32[::1]),
    ),
    cache=True,
    nogil=True,
)
def places_kernel(
    data: Bytes,
    start: int,
    end: int,
    lower: Points,
    keys: Hashes,
    nodes: Smalls,
    ends: Bytes,
    first: npt.NDArray[np.bool_],
    points: Points,
    at: Smalls,
) -> tuple[int, int]:
    """(own, English) entries in data[start:end]; where the own ones begin, in bytes from `start`, is in at[:own]. See `_table`.

    `points` and `at` are room for a code point per byte.
    """
    unspaced, shift, slots = np.any(ends & _OWN_UNSPACED), np.uint64(64), keys.size
    while slots > 1:
        slots, shift = slots >> 1, shift - np.uint64(1)
    num = lower_kernel(data, start, end, lower, points, at)
    num_own, num_english, in_word = 0, 0, False
    for k in range(num):
        inside = in_word
        in_word = (points[k] & np.uint32(_WORD)) != 0
        if (inside and not unspaced) or not first[points[k] & np.uint32(4095)]:
            continue
        whose = _whose(points, k, num, keys, shift, nodes, ends)
        if inside:
            whose &= _OWN_UNSPACED
        if whose & (_OWN | _OWN_UNSPACED):
            at[num_own] = at[k]  # places before this one are read no more
            num_own += 1
        num_english += (whose & _ENGLISH) != 0
    return num_own, num_english


@njit(
    types.int32[::1](_DATA, types.int64[::1], types.int64[::1], types.uint32[::1], *_TREE, types.int32[:, ::1]),
    cache=True,
    nogil=True,
)
def bad_words_kernel(
    data: Bytes,
    offsets: Ints,
    rows: Ints,
    lower: Points,
    keys: Hashes,
    nodes: Smalls,
    ends: Bytes,
    first: npt.NDArray[np.bool_],
    counts: Smalls,
) -> Smalls:
    """Fills counts[d, :2] for each document d of `rows`: own, English; gives the places of the own ones, row by row; see `_table`."""
    places, used, longest = np.empty(64, np.int32), 0, 0
    for d in rows:
        longest = max(longest, offsets[d + 1] - offsets[d])
    points, at = np.empty(longest + 1, np.uint32), np.empty(longest + 1, np.int32)
    for d in rows:
        start, end = offsets[d], offsets[d + 1]
        counts[d, 0], counts[d, 1] = places_kernel(data, start, end, lower, keys, nodes, ends, first, points, at)
        num = int(counts[d, 0])
        if used + num > places.size:
            more = np.empty(2 * (used + num), np.int32)
            more[:used] = places[:used]
            places = more
        places[used : used + num] = at[:num]
        used += num
    return places[:used]


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file (importing does most of it) and runs each once."""
    count_bad_words(pa.array(["A word."]), pa.array(["en"]))
