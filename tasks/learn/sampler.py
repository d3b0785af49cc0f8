"""Samples for training: rows of tokens in an order that is computed and never stored.

Sample i of a training, its masks too, follows from (seed, i), the shards and the configuration. So the whole state of the data is one
integer; any sample can be asked for at any time, on any number of ranks, and its tokens are known for ever.
Costs: the plan of `packing`, and for 16 rows of 256 tokens about 0.1 ms, 0.2 ms with a mixture (benchmarks/tokens.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.errors import InputError
from infra.ids import digest_of
from models import tokeniser
from tasks.learn import order, packing
from tasks.learn.config import TrainConfig
from tasks.learn.data_config import DataConfig
from tasks.learn.masking import Masking
from tasks.learn.mixing import Mixture
from tasks.learn.packing import Flags, Ints, Ints32
from tasks.learn.tokens import Tokens, TokenShard

IGNORED = -100
"""Label of what is not learned from, as torch's cross-entropy has it."""
SPANS = pa.schema(
    [
        ("sample", pa.int64()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("first_token", pa.int32()),  # counted from the document's first
        ("num_tokens", pa.int32()),
        ("num_targets", pa.int32()),  # how many of them are learned from: all; of a masked model those that are to be guessed
    ]
)
ORDER = "order"
"""Fact of a training: the fingerprint of the order in which it read its samples."""
COUNTED_SAMPLES = 1 << 16
"""At a time, when what was read is counted."""
PROBED_SAMPLES = 64
"""Samples by which the order of a training is told from another one."""


@dataclass(frozen=True)
class Batch:
    """B samples of C tokens."""

    inputs: Ints
    """(B, C)"""
    labels: Ints
    """(B, C) the target of inputs[b, t] itself: for a causal model already the next token, for a masked one the token that was there;
    IGNORED: it is not learned from."""
    documents: Ints32 | None
    """(B, C) which document of the row a position belongs to (0, 1, …; -1 fills up): attention stays inside; None: attention crosses
    documents. A masked model's rows of `stream` have them where a row of the batch is filled up."""
    positions: Ints | None
    """(B, C) place inside the document's part in the row; None: 0 … C - 1."""
    sources: npt.NDArray[np.int16]
    """(B,) index into `Sampler.sources`; every sample is of one source."""


class Sampler:
    """The samples of one training, by number; one after another they are as many passes over the shards as it takes.

    Every token of every document is a target (masked: can be one) in exactly one sample of a pass, whatever the packing. A causal model
    reads before the first token of a document the token that closes documents, as it does when documents are scored.
    """

    def __init__(
        self,
        shards: Sequence[TokenShard],
        context_length: int,
        config: DataConfig,
        *,
        roles: tokeniser.Roles,
        masked: bool,
        seed: int,
        max_samples: int,
        in_order: bool = False,
    ) -> None:
        """Plan the samples.

        Args:
            masked: for a masked model; else for a causal one.
            max_samples: samples that the whole training reads; stages of the curriculum are shares of it.
            in_order: not shuffled and not mixed, but source by source as they come.

        Raises:
            InputError: there is no token, or the configuration does not fit the shards or the tokeniser.
        """
        if context_length < 1 or max_samples < 1:
            raise InputError(
                f"data: a sample has at least one token, a training one sample (got {context_length}, {max_samples})"
            )
        self._shards, self._context, self._roles, self._max_samples = list(shards), context_length, roles, max_samples
        self._tokens = [_read_only(shard.tokens) for shard in shards]
        self._starts = packing.token_starts(shards)
        self.streams = packing.streams(shards)
        """The documents, source by source."""
        self.sources = self.streams.sources
        self.num_tokens = int(self.streams.begin[-1])
        if not self.num_tokens:
            raise InputError("data: the shards have no token")
        self.rows = (packing.Bins if config.packing == "best_fit" else packing.Windows)(self.streams, context_length)
        """What is in a row."""
        self._crosses = config.packing == "stream"
        self.num_samples = int(self.rows.first_row[-1])
        masks_seed = int(digest_of("masks", str(seed))[:16], 16)
        self._masking = Masking(roles, config.mask_share, masks_seed, whole_words=config.mask_whole_words) if masked else None
        sizes = np.diff(self.rows.first_row).tolist()
        self._order, num_read = self._ordered(config, sizes, seed, max_samples, in_order)
        self._packing = config.packing
        self.facts = self._told(sizes, num_read)
        """Of one pass: tokens and samples by source, documents in several samples, share of the places that are filled up; of the
        training: share of its samples by source, and times that it reads each."""

    def batch(self, first: int, count: int) -> Batch:
        """Samples first … first + count - 1, counted from 0 over the whole training."""
        rows = self.rows_of(first, count)
        pieces = self.rows.pieces(rows)
        shape = (count, self._context)
        filler = self._roles.end if self._roles.padding is None else self._roles.padding
        inputs, labels = np.full(shape, filler, np.int64), np.full(shape, IGNORED, np.int64)
        causal = self._masking is None
        packing.fill(self._tokens, self._starts, self.streams, pieces, inputs, labels, self._roles.end, causal=causal)
        if self._masking:
            self._masking.apply(first, inputs, labels)
        documents, positions = None, None
        if not self._crosses:
            documents, positions = packing.inside(pieces, shape)
        elif not causal and int(pieces.length.sum()) < inputs.size:
            documents = np.minimum(packing.inside(pieces, shape)[0], 0)
        return Batch(inputs, labels, documents, positions, self._source_of(rows))

    def documents_of(self, first: int, count: int) -> list[str]:
        """The doc_ids of what these samples learn from, each once, in reading order."""
        return list(dict.fromkeys(self._doc_ids(self.rows.pieces(self.rows_of(first, count))).to_pylist()))

    def spans_of(self, first: int, count: int) -> pa.Table:
        """Which tokens of which documents these samples learn from, as SPANS, in reading order.

        A causal model reads, besides, the token before each span: the document's own, or the one that closes documents.
        """
        return self.spans_at(np.arange(first, first + count, dtype=np.int64), self.rows_of(first, count))

    def spans_at(self, samples: Ints, rows: Ints, documents: Flags | None = None) -> pa.Table:
        """The same of any samples (N,), whose rows (N,) are known.

        Args:
            documents: (D,) which of `streams` are told; None: all.
        """
        pieces = self.rows.pieces(rows)
        num_targets = self._num_targets(samples, pieces) if self._masking else pieces.length
        if documents is not None:
            told = documents[pieces.document]
            pieces, num_targets = packing.Pieces(*(column[told] for column in pieces)), num_targets[told]
        columns = [
            samples[pieces.row],
            self._doc_ids(pieces),
            pa.array(self.sources, pa.string()).take(pa.array(self._source_of(rows)[pieces.row])),
            pieces.start,
            pieces.length,
            num_targets,
        ]
        return pa.table(columns, schema=SPANS)

    def rows_of(self, first: int, count: int) -> Ints:
        """Which row (count,) of all, those of one source after those of another, each of these samples is."""
        if first < 0 or count < 0:
            raise ValueError(f"samples count from 0 (got {count} from {first} on)")
        return self._order(first, count)

    def facts_of(self, num_samples: int) -> Mapping[str, float | int | str]:
        """`facts` of a training that ended with its sample `num_samples`, which may be before it was planned to."""
        if num_samples == self._max_samples:
            return self.facts
        num_read = np.zeros(len(self.sources), np.int64)
        for first in range(0, num_samples, COUNTED_SAMPLES):
            rows = self.rows_of(first, min(COUNTED_SAMPLES, num_samples - first))
            num_read += np.bincount(self._source_of(rows), minlength=len(self.sources))
        return self._told(np.diff(self.rows.first_row).tolist(), num_read.tolist())

    def fingerprint(self) -> str:
        """32 hex characters over what some samples of the training learn from: equal where another code gives the same order."""
        probed = np.unique(np.linspace(0, self._max_samples - 1, PROBED_SAMPLES).round().astype(np.int64))
        rows = np.concatenate([self.rows_of(one, 1) for one in probed.tolist()])
        return digest_of("order", json.dumps(self.spans_at(probed, rows).to_pylist()))

    def _ordered(
        self, config: DataConfig, sizes: list[int], seed: int, max_samples: int, in_order: bool
    ) -> tuple[Callable[[int, int], Ints], Sequence[float]]:
        """What gives the rows of samples, and how many samples of each source the training reads."""
        first_row = self.rows.first_row
        if in_order:
            return lambda first, count: np.arange(first, first + count, dtype=np.int64) % self.num_samples, sizes
        if not config.mixes:
            pooled = [max_samples * size / self.num_samples for size in sizes]
            _check_epochs(self.sources, sizes, pooled, config)
            return lambda first, count: order.shuffled(first, count, self.num_samples, seed), pooled
        mixture = Mixture(self.sources, sizes, config, seed, max_samples)
        _check_epochs(self.sources, sizes, mixture.num_read.tolist(), config)

        def mixed(first: int, count: int) -> Ints:
            source, item = mixture.samples(first, count)
            return first_row[source] + item

        return mixed, mixture.num_read.tolist()

    def _told(self, sizes: Sequence[int], num_read: Sequence[float]) -> dict[str, float | int | str]:
        return {
            "packing": self._packing,
            "context_length": self._context,
            "num_samples": self.num_samples,
            "num_documents": len(self.streams.number),
            "documents_cut": self.rows.num_cut(),
            "padding_share": 1 - self.num_tokens / (self.num_samples * self._context),
            **{f"tokens.{name}": int(size) for name, size in zip(self.sources, self.streams.num_tokens, strict=True)},
            **{f"samples.{name}": size for name, size in zip(self.sources, sizes, strict=True)},
            **{f"epochs.{name}": read / size for name, size, read in zip(self.sources, sizes, num_read, strict=True)},
            **{f"share.{name}": read / sum(num_read) for name, read in zip(self.sources, num_read, strict=True)},
        }

    def _source_of(self, rows: Ints) -> npt.NDArray[np.int16]:
        return (np.searchsorted(self.rows.first_row, rows, side="right") - 1).astype(np.int16)

    def _num_targets(self, samples: Ints, pieces: packing.Pieces) -> Ints32:
        """(P,) how many tokens of each piece are to be guessed."""
        guessed = [self.batch(one, 1).labels[0] != IGNORED for one in samples.tolist()]
        before = np.zeros((len(samples), self._context + 1), np.int32)
        before[:, 1:] = np.cumsum(guessed, axis=1) if guessed else 0
        return before[pieces.row, pieces.column + pieces.length] - before[pieces.row, pieces.column]

    def _doc_ids(self, pieces: packing.Pieces) -> pa.ChunkedArray:
        ids = pa.chunked_array([chunk for shard in self._shards for chunk in shard.docs["doc_id"].chunks], pa.string())
        return ids.take(pa.array(self.streams.number[pieces.document]))


def of_training(
    shards: Sequence[TokenShard], config: TrainConfig, *, roles: tokeniser.Roles, context_length: int, masked: bool
) -> Sampler:
    """The samples that a training reads: those of step n, counted from 1, begin at (n - 1) x samples_per_step."""
    num_samples = config.max_steps * config.samples_per_step
    return Sampler(shards, context_length, config.data, roles=roles, masked=masked, seed=config.seed, max_samples=num_samples)


def fixed(
    shards: Sequence[TokenShard], context_length: int, config: DataConfig, *, roles: tokeniser.Roles, masked: bool, seed: int
) -> Sampler:
    """For validation: every sample once, source by source as they come, without mixing; its masks are the same at each look."""
    return Sampler(shards, context_length, config, roles=roles, masked=masked, seed=seed, max_samples=1, in_order=True)


def _check_epochs(sources: Sequence[str], sizes: Sequence[int], num_read: Sequence[float], config: DataConfig) -> None:
    for name, size, read in zip(sources, sizes, num_read, strict=True):
        if config.max_epochs is not None and read > config.max_epochs * size + 1:
            raise InputError(
                f"data.max_epochs: the training would read source {name!r} {read / size:.2f} times ({read:,.0f} samples of "
                f"{size:,}), more than {config.max_epochs:g}; train less, lower its weight, give more of it, or allow more"
            )


def _read_only(tokens: Tokens) -> Tokens:
    """The same tokens as kernels take them: a plain array, and none that could be written."""
    view = np.asarray(tokens).view()
    view.flags.writeable = False
    return view
