"""Packing: which tokens of which documents are in a row of C positions. A plan is made once, from lengths alone; rows are then asked for.

The documents of a source, in the order of the shards, are its stream. Every token of every document is learned from in exactly one row,
whatever the packing; a causal model reads before the first token of a document the token that closes documents.
`Windows` cuts streams every C tokens. `Bins` puts whole documents into rows by best-fit decreasing, and cuts only those longer than C.
Costs per document beside the shards' own tables: 20 bytes, and 8 more with `Bins`; planning a million documents takes less than a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit, types

from tasks.learn.tokens import Tokens, TokenShard

Ints = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


class Streams(NamedTuple):
    """The documents of all shards, source by source; within a source as they come in the shards. They are called by their place here."""

    sources: tuple[str, ...]
    """(S,) in alphabetical order."""
    first: Ints
    """(S + 1,) the documents of source s are first[s] to first[s + 1]."""
    number: Ints32
    """(D,) which document of all shards, one after another, it is."""
    place: Ints
    """(D,) its first token among those of all shards, one after another."""
    begin: Ints
    """(D + 1,) its first token among those of all streams, one after another; and the end of all."""

    @property
    def num_tokens(self) -> Ints:
        """(S,) tokens of each source."""
        return np.diff(self.begin[self.first])


class Pieces(NamedTuple):
    """What is in some rows: consecutive tokens of a document each, in order of row and column."""

    row: Ints32
    """(P,) which of the rows that were asked for."""
    column: Ints32
    """(P,) where in the row it begins."""
    document: Ints32
    """(P,) whose tokens they are, by place in the streams."""
    start: Ints32
    """(P,) the first of them, counted from the document's first."""
    length: Ints32
    """(P,) how many."""


def streams(shards: Sequence[TokenShard]) -> Streams:
    """Put the documents of shards in order."""
    source = pa.chunked_array([chunk for shard in shards for chunk in shard.docs["source"].chunks], pa.string())
    coded = pc.fill_null(source, "").cast(pa.large_string()).combine_chunks().dictionary_encode()
    names = coded.dictionary.to_pylist()
    rank = np.argsort(np.argsort(np.array(names, object))) if names else np.empty(0, np.int64)
    code = rank[coded.indices.to_numpy()].astype(np.int32)
    order = np.argsort(code, kind="stable")
    starts = token_starts(shards)[:-1].tolist()
    place = np.concatenate([np.empty(0, np.int64), *(shard.offsets + start for shard, start in zip(shards, starts, strict=True))])
    lengths = np.concatenate([np.empty(0, np.int32), *(shard.lengths for shard in shards)])
    return Streams(
        sources=tuple(sorted(names)),
        first=_ends(np.bincount(code, minlength=len(names))),
        number=order.astype(np.int32),
        place=place[order],
        begin=_ends(lengths[order]),
    )


def token_starts(shards: Sequence[TokenShard]) -> Ints:
    """(shards + 1,) tokens before each shard, and of all."""
    return _ends(np.array([len(shard.tokens) for shard in shards], np.int64))


def _ends(sizes: npt.NDArray[Any]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


class Windows:
    """Rows of C consecutive tokens of a stream; the last one of each stream may be short."""

    def __init__(self, documents: Streams, context_length: int) -> None:
        self._streams, self._context = documents, context_length
        self.first_row = _ends(-(-documents.num_tokens // context_length))
        """(S + 1,) rows before each source, and of all."""

    def pieces(self, rows: Ints) -> Pieces:
        """What is in these rows."""
        return Pieces(*_window_pieces(rows, self.first_row, self._streams.first, self._streams.begin, self._context))

    def holding(self, documents: Flags) -> Flags:
        """(R,) which rows hold tokens of these documents (D,) of the streams."""
        begin, first = self._streams.begin, self._streams.first
        some = np.flatnonzero(documents & (np.diff(begin) > 0))
        source = np.searchsorted(first, some, side="right") - 1
        opens = begin[first[source]]
        changes = np.zeros(self.first_row[-1] + 1, np.int64)
        np.add.at(changes, self.first_row[source] + (begin[some] - opens) // self._context, 1)
        np.add.at(changes, self.first_row[source] + (begin[some + 1] - opens - 1) // self._context + 1, -1)
        return np.cumsum(changes[:-1]) > 0

    def num_cut(self) -> int:
        """Documents that lie in more than one row."""
        begin, first = self._streams.begin, self._streams.first
        of_stream = np.repeat(begin[first[:-1]], np.diff(first))
        rows = (begin[:-1] - of_stream) // self._context, (begin[1:] - of_stream - 1) // self._context
        return int(np.count_nonzero(rows[0] != rows[1]))


class Bins:
    """Rows that hold documents whole, longest first; of a document longer than C the first parts fill rows of their own."""

    def __init__(self, documents: Streams, context_length: int) -> None:
        self._streams, self._context = documents, context_length
        lengths = np.diff(documents.begin)
        plans = [
            _best_fit(lengths[documents.first[one] : documents.first[one + 1]], context_length)
            for one in range(len(documents.sources))
        ]
        self.first_row = _ends(np.array([len(sizes) for sizes, _, _ in plans], np.int64))
        """(S + 1,) rows before each source, and of all."""
        # (rows + 1,) pieces before each row, and of all; (P,) the document of each piece, and its part of C tokens
        self._first_piece = _ends(np.concatenate([np.empty(0, np.int64), *(sizes for sizes, _, _ in plans)]))
        self._document = np.concatenate(
            [
                np.empty(0, np.int32),
                *(one + np.int32(at) for (_, one, _), at in zip(plans, documents.first.tolist(), strict=False)),
            ]
        )
        self._part = np.concatenate([np.empty(0, np.int32), *(part for _, _, part in plans)])

    def pieces(self, rows: Ints) -> Pieces:
        """What is in these rows."""
        return Pieces(*_bin_pieces(rows, self._first_piece, self._document, self._part, self._streams.begin, self._context))

    def holding(self, documents: Flags) -> Flags:
        """(R,) which rows hold tokens of these documents (D,) of the streams."""
        held = np.zeros(self.first_row[-1], np.bool_)
        pieces = np.flatnonzero(documents[self._document])
        held[np.searchsorted(self._first_piece, pieces, side="right") - 1] = True
        return held

    def num_cut(self) -> int:
        """Documents that lie in more than one row."""
        return int(np.count_nonzero(np.diff(self._streams.begin) > self._context))


def fill(
    tokens: Sequence[Tokens],
    starts: Ints,
    documents: Streams,
    pieces: Pieces,
    inputs: Ints,
    labels: Ints,
    end: int,
    *,
    causal: bool,
) -> None:
    """Write the tokens of pieces into `inputs` (B, C), and for a causal model the next ones into `labels` (B, C).

    Args:
        tokens: of each shard; they must be read-only.
        starts: as `token_starts`.
        end: stands before the first token of a document.
    """
    place = documents.place[pieces.document] + pieces.start
    shard = np.searchsorted(starts, place, side="right") - 1
    for one in np.unique(shard).tolist():
        _copy(tokens[one], one, shard, place - starts[one], *pieces, end, causal, inputs, labels)


def inside(pieces: Pieces, shape: tuple[int, int]) -> tuple[Ints32, Ints]:
    """Which document of its row each position belongs to (B, C), -1 where none is; and its place in the piece (B, C), else 0."""
    which, position = np.full(shape, -1, np.int32), np.zeros(shape, np.int64)
    _inside(pieces.row, pieces.column, pieces.length, which, position)
    return which, position


_I64, _I32 = types.int64[::1], types.int32[::1]
_PIECES = types.int32[:, ::1]
_U16, _U32 = (types.Array(kind, 1, "C", readonly=True) for kind in (types.uint16, types.uint32))
_ROWS = types.int64[:, ::1]


@njit(_PIECES(_I64, _I64, _I64, _I64, types.int64), cache=True, nogil=True)
def _window_pieces(rows: Ints, first_row: Ints, first: Ints, begin: Ints, context: int) -> Ints32:
    """The columns of Pieces (5, P). Runs twice: counts the pieces, then writes them."""
    num_pieces = 0
    found = np.empty((5, 0), np.int32)
    for writing in range(2):
        if writing:
            found = np.empty((5, num_pieces), np.int32)
        num_pieces = 0
        for asked in range(rows.size):
            source = np.searchsorted(first_row, rows[asked], side="right") - 1
            at = begin[first[source]] + (rows[asked] - first_row[source]) * context
            opens, end = at, min(at + context, begin[first[source + 1]])
            document = np.searchsorted(begin, at, side="right") - 1
            while at < end:
                until = min(end, begin[document + 1])
                if writing:
                    found[0, num_pieces], found[1, num_pieces], found[2, num_pieces] = asked, at - opens, document
                    found[3, num_pieces], found[4, num_pieces] = at - begin[document], until - at
                num_pieces += 1
                at, document = until, document + 1
    return found


@njit(_PIECES(_I64, _I64, _I32, _I32, _I64, types.int64), cache=True, nogil=True)
def _bin_pieces(rows: Ints, first_piece: Ints, documents: Ints32, parts: Ints32, begin: Ints, context: int) -> Ints32:
    """The columns of Pieces (5, P)."""
    num_pieces = 0
    for row in rows:
        num_pieces += first_piece[row + 1] - first_piece[row]
    found = np.empty((5, num_pieces), np.int32)
    to = 0
    for asked in range(rows.size):
        filled = 0
        for piece in range(first_piece[rows[asked]], first_piece[rows[asked] + 1]):
            document, start = documents[piece], parts[piece] * context
            length = min(context, begin[document + 1] - begin[document] - start)
            found[0, to], found[1, to], found[2, to], found[3, to], found[4, to] = asked, filled, document, start, length
            filled += length
            to += 1
    return found


@njit(types.Tuple((_I64, _I32, _I32))(_I64, types.int64), cache=True, nogil=True)
def _best_fit(lengths: Ints, context: int) -> tuple[Ints, Ints32, Ints32]:
    """Pieces of each row (rows,), and the document and part of each piece in order of rows.

    Parts of C tokens come first, one a row. The rests, longest first, go each into the fullest row in which they have room; rows are
    found by their room in a binary tree over 0 … C, whose leaf says whether there is a row with just so much.
    """
    num_full = 0
    of_size = np.zeros(context + 1, np.int64)
    for length in lengths:
        num_full += length // context
        of_size[length % context] += 1
    num_rests = lengths.size - of_size[0]
    # (rests,) documents by the length of their rest, longest first
    to_place = np.zeros(context + 1, np.int64)
    for size in range(context - 2, 0, -1):
        to_place[size] = to_place[size + 1] + of_size[size + 1]
    ordered = np.empty(num_rests, np.int32)
    for document in range(lengths.size):
        size = lengths[document] % context
        if size:
            ordered[to_place[size]] = document
            to_place[size] += 1

    num_leaves = 1
    while num_leaves <= context:
        num_leaves *= 2
    there = np.zeros(2 * num_leaves, np.bool_)
    # rows with the same room are a stack: its top, and below each row the next
    top, below = np.full(context + 1, -1, np.int32), np.empty(num_rests, np.int32)
    bin_of, num_bins = np.empty(num_rests, np.int32), 0
    in_bin = np.zeros(num_rests, np.int64)
    for rest in range(num_rests):
        size = lengths[ordered[rest]] % context
        node = num_leaves + size
        if not there[node]:
            # up, until there is something to the right of it, then down to the leftmost of that
            while node > 1 and not (node % 2 == 0 and there[node + 1]):
                node //= 2
            if node > 1:
                node += 1
                while node < num_leaves:
                    node *= 2
                    if not there[node]:
                        node += 1
        if node > 1:
            room = node - num_leaves
            chosen = top[room]
            top[room] = below[chosen]
            if top[room] < 0:
                there[node] = False
                while node > 1:
                    node //= 2
                    there[node] = there[2 * node] or there[2 * node + 1]
        else:
            room, chosen = context, num_bins
            num_bins += 1
        bin_of[rest] = chosen
        in_bin[chosen] += 1
        room -= size
        if room:
            below[chosen] = top[room]
            top[room] = chosen
            node = num_leaves + room
            while node >= 1 and not there[node]:
                there[node] = True
                node //= 2

    sizes = np.ones(num_full + num_bins, np.int64)
    document_of, part_of = np.empty(num_full + num_rests, np.int32), np.empty(num_full + num_rests, np.int32)
    to = 0
    for document in range(lengths.size):
        for part in range(lengths[document] // context):
            document_of[to], part_of[to] = document, part
            to += 1
    place = np.empty(num_bins, np.int64)
    for one in range(num_bins):
        sizes[num_full + one] = in_bin[one]
        place[one] = to
        to += in_bin[one]
    for rest in range(num_rests):
        at = place[bin_of[rest]]
        document_of[at], part_of[at] = ordered[rest], lengths[ordered[rest]] // context
        place[bin_of[rest]] += 1
    return sizes, document_of, part_of


@njit(
    [
        types.void(stream, types.int64, _I64, _I64, _I32, _I32, _I32, _I32, _I32, types.int64, types.boolean, _ROWS, _ROWS)
        for stream in (_U16, _U32)
    ],
    cache=True,
    nogil=True,
)
def _copy(
    tokens: Tokens,
    wanted: int,
    shard: Ints,
    place: Ints,
    row: Ints32,
    column: Ints32,
    document: Ints32,
    start: Ints32,
    length: Ints32,
    end: int,
    causal: bool,
    inputs: Ints,
    labels: Ints,
) -> None:
    """Writes the pieces that are in one shard; `place` counts from its first token."""
    for piece in range(row.size):
        if shard[piece] != wanted:
            continue
        to, before = row[piece], end if start[piece] == 0 else np.int64(tokens[place[piece] - 1])
        for number in range(length[piece]):
            token = np.int64(tokens[place[piece] + number])
            if causal:
                labels[to, column[piece] + number] = token
                inputs[to, column[piece] + number] = before
                before = token
            else:
                inputs[to, column[piece] + number] = token


@njit(types.void(_I32, _I32, _I32, types.int32[:, ::1], _ROWS), cache=True, nogil=True)
def _inside(row: Ints32, column: Ints32, length: Ints32, which: Ints32, position: Ints) -> None:
    number = 0
    for piece in range(row.size):
        number = number + 1 if column[piece] else 0
        for place in range(length[piece]):
            which[row[piece], column[piece] + place] = number
            position[row[piece], column[piece] + place] = place


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file (importing does most of it) and runs them once."""
    one = np.zeros(1, np.int64)
    documents = Streams(("",), np.arange(2), np.zeros(1, np.int32), one, np.arange(2))
    tokens = np.zeros(1, np.uint16)
    tokens.flags.writeable = False
    for rows in (Windows(documents, 1), Bins(documents, 1)):
        pieces = rows.pieces(one)
        fill([tokens], np.arange(2), documents, pieces, one[None], one[None], 0, causal=True)
        inside(pieces, (1, 1))
