"""Which occurrences of repeated pieces of text are one too many, and texts without them.

Occurrences stand in the order of (generation, doc_id, place in the text); so many of them stay as may, and those that overlap one that
stays, as in "ha ha ha ha", are left alone. Later ones of neighbouring windows are joined to stretches where what they repeat is joined.
All places are characters (code points). Memory: the occurrences of one bucket, or one shard's texts once more.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit, types

from tasks.text.buffers import Bytes, Ints, string_buffers

__all__ = ["LATER", "compile_kernels", "cut", "later_copies", "more_than", "stretches"]

Hashes = npt.NDArray[np.uint64]
Levels = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]
LATER = pa.schema(
    [
        *((name, pa.int32()) for name in ("shard", "row", "start", "end")),
        ("doc_id", pa.string()),
        *((f"first_{name}", pa.int32()) for name in ("shard", "row", "start", "end")),
        ("first_doc_id", pa.string()),
    ]
)
"""An occurrence that is one too many, and the first one of its text."""

_SPACES = np.array([char for char in range(0x3001) if chr(char).isspace()], np.int64)
_NEWLINE = np.uint8(10)


@lru_cache(maxsize=1)
def _white() -> Mask:
    """Whether a code point below 0x3001, the end of all white space, is white space."""
    white = np.zeros(0x3001, np.bool_)
    white[_SPACES] = True
    return white


@njit(types.int64[::1](types.uint64[::1], types.uint64[::1], *[types.int64[::1]] * 3, types.int64), cache=True, nogil=True)
def _firsts(high: Hashes, low: Hashes, text: Ints, start: Ints, end: Ints, max_copies: int) -> Ints:
    """For every occurrence, in order of name and then of who stays, where the first of its name is, if it is one too many, else -1."""
    first = np.full(high.size, -1, np.int64)
    begin, kept, last = 0, 0, 0
    for k in range(high.size):
        if k == 0 or high[k] != high[k - 1] or low[k] != low[k - 1]:
            begin, kept, last = k, 1, k
        elif text[k] == text[last] and start[k] < end[last]:
            continue
        elif kept < max_copies:
            kept, last = kept + 1, k
        else:
            first[k] = begin
    return first


def more_than(high: Hashes, count: int) -> Ints:
    """Where in `high` there is what is there more than `count` times, in order of it."""
    order = np.argsort(high, kind="stable")
    edges = (
        np.flatnonzero(np.concatenate([[True], high[order][1:] != high[order][:-1], [True]])) if high.size else np.zeros(1, int)
    )
    lengths = np.diff(edges)
    return order[np.repeat(lengths > count, lengths)]


def later_copies(found: pa.Table, generations: Ints, max_copies: int) -> pa.Table:
    """The occurrences that are too many, with the first of each: rows of LATER, in order of shard, row and place.

    Args:
        found: `high`, `low`, `shard`, `row`, `start`, `end`, `doc_id` of all occurrences of the names in it.
        generations: int64[shards], the generation of each shard; an earlier one stays.
        max_copies: so many occurrences stay.
    """
    found = found.take(pa.array(more_than(found["high"].to_numpy(), max_copies))).combine_chunks()
    columns = {name: found[name].to_numpy() for name in ("high", "low", "shard", "row", "start", "end")}
    text = columns["shard"].astype(np.int64) << 32 | columns["row"]
    owner = generations[columns["shard"]] << 40 | _ranks(found["doc_id"])
    order = np.lexsort([columns["start"], text, owner, columns["low"], columns["high"]])
    sorted_by_name = {name: column[order] for name, column in columns.items()}
    places = [sorted_by_name[name].astype(np.int64) for name in ("start", "end")]
    first = _firsts(sorted_by_name["high"], sorted_by_name["low"], text[order], *places, max_copies)
    late = np.flatnonzero(first >= 0)
    late = late[np.lexsort([sorted_by_name["start"][late], text[order[late]]])]
    ids = found["doc_id"].combine_chunks()
    return pa.table(
        {
            prefix + name: ids.take(pa.array(order[at])) if name == "doc_id" else sorted_by_name[name][at]
            for prefix, at in (("", late), ("first_", first[late]))
            for name in ("shard", "row", "start", "end", "doc_id")
        },
        LATER,
    )


def _ranks(ids: pa.ChunkedArray) -> Ints:
    """The place of each id among all of them, in alphabetical order."""
    encoded = ids.combine_chunks().dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), np.int64)
    ranks[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(ranks))
    return ranks[encoded.indices.to_numpy()]


@njit(types.boolean[::1](types.int32[:, ::1]), cache=True, nogil=True)
def _join(late: npt.NDArray[np.int32]) -> Mask:
    """Which rows begin a stretch, and in these the ends of their stretch; columns: row, start, end, first shard, row, start, end."""
    begins = np.ones(late.shape[0], np.bool_)
    head = 0
    for k in range(1, late.shape[0]):
        same = late[k, 0] == late[head, 0] and late[k, 3] == late[head, 3] and late[k, 4] == late[head, 4]
        touches = late[k, 1] <= late[head, 2] and late[head, 5] <= late[k, 5] <= late[head, 6]
        if same and touches:
            begins[k] = False
            late[head, 2], late[head, 6] = max(late[head, 2], late[k, 2]), max(late[head, 6], late[k, 6])
        else:
            head = k
    return begins


def stretches(late: pa.Table) -> pa.Table:
    """Rows of LATER of one shard, overlapping ones joined where they repeat one stretch of one text; in order of row and place."""
    names = ("row", "start", "end", "first_shard", "first_row", "first_start", "first_end")
    columns = np.stack([late[name].to_numpy() for name in names], axis=1)
    order = np.lexsort(columns[:, [2, 1, 0]].T)
    columns = np.ascontiguousarray(columns[order])
    begins = _join(columns)
    made = {name: columns[begins, k] for k, name in enumerate(names)}
    rest = late.take(pa.array(order[begins]))
    return pa.table({name: made.get(name, rest[name]) for name in LATER.names}, LATER)


_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_INTS = types.int64[::1]


@njit(cache=True, nogil=True)
def _space_width(data: Bytes, pos: int, stop: int, white: Mask) -> tuple[int, bool]:
    """(width in bytes, whether it is white space) of the character at `pos`; a broken sequence is one of one byte."""
    lead = np.int64(data[pos])
    if lead < 128:
        return 1, bool(white[lead])
    width = 1 if lead < 0xC2 or lead > 0xF4 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if width == 1 or width == 4 or pos + width > stop:
        return (4 if width == 4 and pos + width <= stop else 1), False
    point = lead & (0x7F >> width)
    for k in range(1, width):
        point = (point << 6) | (np.int64(data[pos + k]) & 0x3F)
    return width, bool(point < white.size and white[point])


@njit(
    types.int64(
        types.Array(types.uint8, 1, "C", readonly=True),
        *[types.int64] * 2,
        types.boolean[::1],
        types.int8[::1],
        types.uint8[::1],
        types.int64,
        types.int64[::1],
    ),
    cache=True,
    nogil=True,
)
def _cut_text(data: Bytes, pos: int, stop: int, white: Mask, paint: Levels, out: Bytes, size: int, tally: Ints) -> int:
    """Writes the characters of data[pos:stop] that are not painted to out[size:]; the size after it.

    Of the runs of white space around and between what was painted one is written: that with the most line breaks, the last of equal ones,
    and none at the ends of the text. `tally` counts the painted by their paint, and under 0 the white space that went with them.
    """
    begin, char, gap = size, 0, False
    run, run_lines = -1, 0
    best, best_end, best_lines = 0, 0, -1
    while True:
        width, space = (0, False) if pos == stop else _space_width(data, pos, stop, white)
        painted = pos < stop and paint[char] > 0
        if space and not painted:
            run = pos if run < 0 else run
            run_lines += data[pos] == _NEWLINE
            tally[0] += 1
        else:
            if run >= 0 and (gap or painted) and run_lines >= best_lines:
                best, best_end, best_lines = run, pos, run_lines
            if painted:
                gap = True
                tally[paint[char]] += 1
            else:
                if not gap and run >= 0:
                    best, best_end = run, pos
                if not gap or (size > begin and pos < stop):
                    for k in range(best, best_end):
                        out[size] = data[k]
                        size += 1
                        tally[0] -= data[k] & 0xC0 != 0x80
                for k in range(pos, pos + width):
                    out[size] = data[k]
                    size += 1
                gap, best, best_end, best_lines = False, 0, 0, -1
            run, run_lines = -1, 0
        if pos == stop:
            return size
        pos += width
        char += 1


@njit(
    types.int64(_DATA, _INTS, types.boolean[::1], _INTS, types.int32[:, ::1], types.uint8[::1], _INTS, _INTS),
    cache=True,
    nogil=True,
)
def _cut_texts(
    data: Bytes, offsets: Ints, white: Mask, cuts: Ints, places: npt.NDArray[np.int32], out: Bytes, out_offsets: Ints, tally: Ints
) -> int:
    """Cuts places[cuts[d]:cuts[d + 1]] (start, end, paint of 1 and more, the smallest first) out of text d."""
    size, longest = 0, 0
    for doc in range(offsets.size - 1):
        if cuts[doc] < cuts[doc + 1]:
            longest = max(longest, offsets[doc + 1] - offsets[doc])
    paint = np.zeros(longest + 1, np.int8)
    for doc in range(offsets.size - 1):
        if cuts[doc] == cuts[doc + 1]:
            for pos in range(offsets[doc], offsets[doc + 1]):
                out[size] = data[pos]
                size += 1
        else:
            paint[: offsets[doc + 1] - offsets[doc]] = 0
            for k in range(cuts[doc + 1] - 1, cuts[doc] - 1, -1):
                paint[places[k, 0] : places[k, 1]] = places[k, 2]
            size = _cut_text(data, offsets[doc], offsets[doc + 1], white, paint, out, size, tally)
        out_offsets[doc + 1] = size
    return size


def cut(text: pa.Array, rows: Ints, places: npt.NDArray[np.int32], num_levels: int) -> tuple[pa.Array, Ints]:
    """The texts without some of their characters, of the same type, and how many went.

    Where something went, one run of white space stays of those around it: that with the most line breaks, the later of equal ones; none at
    the ends of the text.

    Args:
        text: string or large_string array; a null stays one.
        rows: int[n], in ascending order: in which text each place is.
        places: int32[n, 3]: first character, character behind the last, level (1 … num_levels); in a text in order of level.
        num_levels: a character in places of several levels is counted for the first of them.

    Returns:
        The texts, and int64[num_levels + 1]: characters by level, and under 0 the white space that went beside them.
    """
    if not len(rows):
        return text, np.zeros(num_levels + 1, np.int64)
    data, offsets = string_buffers(text)
    cuts = np.searchsorted(rows, np.arange(len(text) + 1)).astype(np.int64)
    out, out_offsets = np.empty(int(offsets[-1] - offsets[0]), np.uint8), np.zeros(len(text) + 1, np.int64)
    tally = np.zeros(num_levels + 1, np.int64)
    size = _cut_texts(data, offsets, _white(), cuts, np.ascontiguousarray(places, np.int32), out, out_offsets, tally)
    width = np.int32 if pa.types.is_string(text.type) else np.int64
    buffers = [None, pa.py_buffer(out_offsets.astype(width)), pa.py_buffer(out[:size])]
    made = pa.Array.from_buffers(text.type, len(text), buffers)
    return pc.if_else(pc.is_valid(text), made, pa.scalar(None, text.type)) if text.null_count else made, tally


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file (importing does most of it) and runs each once."""
    found = {name: pa.array([1, 1], pa.uint64()) for name in ("high", "low")}
    found |= {name: pa.array([0, 0], pa.int32()) for name in ("shard", "row")}
    found |= {"start": pa.array([0, 1], pa.int32()), "end": pa.array([1, 2], pa.int32()), "doc_id": pa.array(["a", "a"])}
    late = stretches(later_copies(pa.table(found), np.zeros(1, np.int64), 1))
    places = np.array([[0, 1, 1]], np.int32)
    cut(pa.array(["aa"]), late["row"].to_numpy(), places, 1)
