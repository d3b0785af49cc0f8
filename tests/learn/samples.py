"""Token shards made of given lengths, every token but the closing ones another number; and packing as plain Python has it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from expectations.schemas import TOKEN_DOCS
from models.tokeniser import Roles
from tasks.learn.data_config import DataConfig, Packing
from tasks.learn.sampler import IGNORED, Sampler
from tasks.learn.tokens import TokenShard

Document = tuple[str, int]  # source, tokens with the closing one
END, PADDING, MASK = 0, 1, 2
ROLES = Roles(vocab_size=60_000, end=END, padding=PADDING, unknown=None, mask=MASK)


def contents(documents: Sequence[Document]) -> list[list[int]]:
    """The tokens of each document."""
    number = iter(range(3, 60_000))
    return [[*(next(number) for _ in range(length - 1)), END] for _, length in documents]


def shards(documents: Sequence[Document], splits: Sequence[int] = ()) -> list[TokenShard]:
    """The documents, which are called by their number, in shards cut before these of them."""
    bounds = [0, *sorted(splits), len(documents)]
    tokens = contents(documents)
    return [
        TokenShard(
            np.array([token for one in tokens[first:last] for token in one], np.uint16 if first % 2 else np.uint32),
            pa.table(
                {
                    "doc_id": [str(number) for number in range(first, last)],
                    "source": [source for source, _ in documents[first:last]],
                    "offset": np.cumsum([0, *(len(one) for one in tokens[first:last])])[:-1],
                    "num_tokens": [len(one) for one in tokens[first:last]],
                    "num_bytes": [0] * (last - first),
                }
            ).cast(TOKEN_DOCS),
        )
        for first, last in pairwise(bounds)
    ]


def sampler(documents: Sequence[Document], context: int, config: DataConfig | None = None, **more: Any) -> Sampler:
    """A sampler over one shard."""
    given = {"roles": ROLES, "masked": False, "seed": 1, "max_samples": 1000} | more
    return Sampler(shards(documents), context, config or DataConfig(), **given)


Piece = tuple[int, int, int]  # document, first token, tokens


def plain_rows(documents: Sequence[Document], context: int, packing: Packing) -> list[list[Piece]]:
    """All rows of one pass, source by source."""
    rows: list[list[Piece]] = []
    for source in sorted({source for source, _ in documents}):
        own = [(number, length) for number, (one, length) in enumerate(documents) if one == source]
        rows += _best_fit(own, context) if packing == "best_fit" else _windows(own, context)
    return rows


def _windows(own: list[tuple[int, int]], context: int) -> list[list[Piece]]:
    stream = [(number, place) for number, length in own for place in range(length)]
    rows = []
    for begin in range(0, len(stream), context):
        window = stream[begin : begin + context]
        named = list(dict.fromkeys(number for number, _ in window))
        places = [[place for number, place in window if number == one] for one in named]
        rows.append([(one, at[0], len(at)) for one, at in zip(named, places, strict=True)])
    return rows


def _best_fit(own: list[tuple[int, int]], context: int) -> list[list[Piece]]:
    whole = [[(number, at, context)] for number, length in own for at in range(0, length - context + 1, context)]
    rests = [(number, length // context * context, length % context) for number, length in own if length % context]
    bins: list[list[Piece]] = []
    rooms: list[tuple[int, int]] = []  # room, and minus the time of the last change: of equal room the one changed last
    for time, rest in enumerate(sorted(rests, key=lambda rest: -rest[2])):
        fitting = [(room, number) for number, room in enumerate(rooms) if room[0] >= rest[2]]
        if fitting:
            room, chosen = min(fitting)
        else:
            room, chosen = (context, 0), len(bins)
            bins.append([])
            rooms.append(room)
        bins[chosen].append(rest)
        rooms[chosen] = (room[0] - rest[2], -time)
    return [*whole, *bins]


def plain_row(row: list[Piece], documents: Sequence[Document], context: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Inputs, labels, documents and positions of a causal model's row."""
    tokens = contents(documents)
    inputs: list[int] = []
    labels: list[int] = []
    numbers: list[int] = []
    positions: list[int] = []
    for number, (document, first, length) in enumerate(row):
        closed = [END, *tokens[document]]
        inputs += closed[first : first + length]
        labels += closed[first + 1 : first + length + 1]
        numbers += [number] * length
        positions += range(length)
    rest = context - len(inputs)
    return inputs + [PADDING] * rest, labels + [IGNORED] * rest, numbers + [-1] * rest, positions + [0] * rest
