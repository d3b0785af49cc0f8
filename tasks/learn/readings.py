"""What a training has read of some documents, asked from their side: in which samples, how often, and how many of their tokens.

The order is gone through as training goes through it, by rows alone, so there is no second copy of it that could differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tasks.learn.packing import Flags, Ints
from tasks.learn.sampler import SPANS, Sampler

PART_SAMPLES = 1 << 14
PART_ROWS = 1 << 16


@dataclass(frozen=True)
class Read:
    """How much of some documents was learned from."""

    documents: int
    """Those of which at least a token was."""
    tokens: int
    """With repeats. Of a masked model: those that could be chosen to be guessed."""
    different_tokens: int
    samples: int
    first_sample: int | None
    last_sample: int | None


def spans_among(sampler: Sampler, documents: Flags, num_samples: int) -> pa.Table:
    """The spans of some documents alone that the first `num_samples` samples learn from, as SPANS, in reading order.

    Args:
        documents: (D,) which of those of all shards, one after another.
    """
    wanted = documents[sampler.streams.number]
    holding = sampler.rows.holding(wanted)
    found = [SPANS.empty_table()]
    for samples, rows in _parts(sampler, num_samples):
        if (hit := holding[rows]).any():
            found.append(sampler.spans_at(samples[hit], rows[hit], wanted))
    return pa.concat_tables(found).combine_chunks()


def read_of(sampler: Sampler, documents: Flags, num_samples: int, left_out: Ints) -> Read:
    """How much of some documents the first `num_samples` samples learn from, but for those `left_out`.

    Args:
        documents: (D,) which of those of all shards, one after another.
    """
    wanted = documents[sampler.streams.number]
    holding = sampler.rows.holding(wanted)
    times = np.zeros(len(holding), np.int64)
    ends: list[int] = []
    for samples, rows in _parts(sampler, num_samples):
        hit = holding[rows]
        if len(left_out):
            hit &= ~np.isin(samples, left_out)
        if hit.any():
            np.add.at(times, rows[hit], 1)
            ends += samples[hit][[0, -1]].tolist()
    seen, tokens, different = np.zeros(len(wanted), np.bool_), 0, 0
    read = np.flatnonzero(times)
    for start in range(0, len(read), PART_ROWS):
        rows = read[start : start + PART_ROWS]
        pieces = sampler.rows.pieces(rows)
        told = wanted[pieces.document]
        lengths = pieces.length[told].astype(np.int64)
        seen[pieces.document[told]] = True
        tokens += int((lengths * times[rows[pieces.row[told]]]).sum())
        different += int(lengths.sum())
    first, last = (min(ends), max(ends)) if ends else (None, None)
    return Read(int(seen.sum()), tokens, different, int(times.sum()), first, last)


def _parts(sampler: Sampler, num_samples: int) -> Iterator[tuple[Ints, Ints]]:
    """Numbers and rows of the samples, part by part."""
    for first in range(0, num_samples, PART_SAMPLES):
        count = min(PART_SAMPLES, num_samples - first)
        yield np.arange(first, first + count, dtype=np.int64), sampler.rows_of(first, count)
