"""Documents of token shards, drawn by a hash of (seed, purpose, doc_id): the same for any shards and order.

Of each shard only places and hashes are held, of the drawn documents their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.learn.tokens import TokenShard
from tasks.text.sampling import hashes


class Passage(NamedTuple):
    """A document, or the beginning of one."""

    doc_id: str
    source: str
    tokens: list[int]
    """Without the token that closes the document."""


def draw(
    shards: Sequence[TokenShard], num: int | None, *, seed: int, purpose: str, min_tokens: int = 1, max_tokens: int | None = None
) -> list[Passage]:
    """Up to `num` documents (None: all) of at least `min_tokens` tokens, in the order of their hashes, cut to their first `max_tokens`."""
    found: list[tuple[int, int, int]] = []
    for number, shard in enumerate(shards):
        # the closing token is counted in the lengths
        rows = np.flatnonzero(shard.lengths > min_tokens)
        order = hashes(shard.docs["doc_id"], seed, purpose)[rows]
        first = np.argsort(order, kind="stable")[:num]
        found += zip(order[first].tolist(), [number] * len(first), rows[first].tolist(), strict=True)
    return [_read(shards[number], row, max_tokens) for _, number, row in sorted(found)[:num]]


def _read(shard: TokenShard, row: int, max_tokens: int | None) -> Passage:
    start, size = int(shard.offsets[row]), int(shard.lengths[row]) - 1
    tokens = shard.tokens[start : start + (size if max_tokens is None else min(size, max_tokens))]
    return Passage(shard.docs["doc_id"][row].as_py(), shard.docs["source"][row].as_py(), tokens.tolist())
