"""Batches for training: fixed windows over a token stream, in an order that is computed and never stored.

The order is a keyed permutation of the windows, one per epoch, computed from (seed, epoch, index) by a small Feistel network. So
the whole state of the data is one integer, the number of samples read; any step can be asked for at any time, on any number
of ranks, and a step's documents are known for ever. Costs: memory for nothing but the document offsets; about 20 us a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tasks.learn.order import Indices, shuffled
from tasks.learn.tokens import TokenShard


class TokenWindows:
    """A map-style view of shards as one stream cut into windows of `context_length` + 1 tokens, `context_length` apart.

    Window i is tokens [i*C, i*C + C] of the stream, so every token but the first is predicted exactly once; what is
    left over at the end (under C + 1 tokens) is not read. A window may cross documents and shards.
    """

    def __init__(self, shards: Sequence[TokenShard], context_length: int) -> None:
        if context_length < 1:
            raise ValueError(f"windows: context_length must be at least 1 (got {context_length})")
        self.shards = list(shards)
        self.context_length = context_length
        # (shards + 1,) position in the whole stream where each shard starts, and the end
        self._starts = np.concatenate([[0], np.cumsum([len(shard.tokens) for shard in self.shards])]).astype(np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole stream."""
        return int(self._starts[-1])

    def __len__(self) -> int:
        return max(0, (self.num_tokens - 1) // self.context_length)

    def __getitem__(self, window: int) -> npt.NDArray[np.int64]:
        """Tokens (C + 1,) of one window.

        Raises:
            IndexError: there is no such window.
        """
        pieces = [self.shards[shard].tokens[start:stop] for shard, start, stop in self._parts(window)]
        return np.concatenate(pieces).astype(np.int64)

    def doc_ids(self, window: int) -> list[str]:
        """The documents that a window reads, in stream order."""
        found: list[str] = []
        for number, start, stop in self._parts(window):
            shard = self.shards[number]
            first, last = np.searchsorted(shard.offsets, [start, stop - 1], side="right") - 1
            found.extend(shard.docs["doc_id"].slice(first, last - first + 1).to_pylist())
        return found

    def _parts(self, window: int) -> list[tuple[int, int, int]]:
        """The window as (shard, first token, end) pieces, none empty."""
        if not 0 <= window < len(self):
            raise IndexError(f"window {window} of {len(self)}")
        begin = window * self.context_length
        end = begin + self.context_length + 1
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        last = int(np.searchsorted(self._starts, end, side="left")) - 1
        bounds = pairwise(self._starts[first : last + 2].tolist())
        parts = [(number, max(begin, low) - low, min(end, high) - low) for number, (low, high) in enumerate(bounds, first)]
        return [part for part in parts if part[1] < part[2]]


class Batches:
    """Windows in training order, `samples_per_step` at each optimiser step. Steps count from 1, as in the training history."""

    def __init__(self, windows: TokenWindows, samples_per_step: int, seed: int) -> None:
        if not len(windows):
            raise ValueError(
                f"batches: {windows.num_tokens} tokens do not fill one window of {windows.context_length} + 1; "
                "lower the model's context_length or give more text"
            )
        self.windows = windows
        self.samples_per_step = samples_per_step
        self.seed = seed

    def samples(self, first: int, count: int) -> Indices:
        """Windows (count,) of the samples first, first + 1, … counted over all epochs from 0."""
        return shuffled(first, count, len(self.windows), self.seed)

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Tokens (samples_per_step, C + 1) that step `step` reads."""
        return np.stack([self.windows[window] for window in self._step(step)])

    def documents_of(self, step: int) -> list[str]:
        """The doc_ids that step `step` reads, each once, in reading order."""
        return list(dict.fromkeys(doc for window in self._step(step) for doc in self.windows.doc_ids(window)))

    def _step(self, step: int) -> list[int]:
        if step < 1:
            raise ValueError(f"batches: steps count from 1 (got {step})")
        return self.samples((step - 1) * self.samples_per_step, self.samples_per_step).tolist()
