"""Samples for training: rows of tokens in an order that is computed and never stored.

Sample i of a training, its masks too, follows from (seed, i), the shards and the configuration. So the whole state of the data is one
integer; any sample can be asked for at any time, on any number of ranks, and its tokens are known for ever.
Costs: the plan of `packing`, and about 3 us for a row of 256 tokens in documents of 50.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.errors import InputError
from infra.ids import digest_of
from models import tokeniser
from tasks.learn import order, packing
from tasks.learn.data_config import DataConfig
from tasks.learn.masking import Masking
from tasks.learn.mixing import Mixture
from tasks.learn.packing import Ints, Ints32
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
    ]
)


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
        if context_length < 1:
            raise InputError(f"data: a sample has at least one token (got a context of {context_length})")
        self._shards, self._context, self._roles = list(shards), context_length, roles
        self._tokens = [_read_only(shard.tokens) for shard in shards]
        self._starts = packing.token_starts(shards)
        self._streams = packing.streams(shards)
        self.sources = self._streams.sources
        self.num_tokens = int(self._streams.begin[-1])
        if not self.num_tokens:
            raise InputError("data: the shards have no token")
        self._rows = (packing.Bins if config.packing == "best_fit" else packing.Windows)(self._streams, context_length)
        self._crosses = config.packing == "stream"
        self.num_samples = int(self._rows.first_row[-1])
        masks_seed = int(digest_of("masks", str(seed))[:16], 16)
        self._masking = Masking(roles, config.mask_share, masks_seed, whole_words=config.mask_whole_words) if masked else None
        sizes = np.diff(self._rows.first_row).tolist()
        self._order, num_read = self._ordered(config, sizes, seed, max_samples, in_order)
        self.facts: dict[str, float | int | str] = {
            "packing": config.packing,
            "context_length": context_length,
            "num_samples": self.num_samples,
            "num_documents": len(self._streams.number),
            "documents_cut": self._rows.num_cut(),
            "padding_share": 1 - self.num_tokens / (self.num_samples * context_length),
            **{f"tokens.{name}": int(size) for name, size in zip(self.sources, self._streams.num_tokens, strict=True)},
            **{f"samples.{name}": size for name, size in zip(self.sources, sizes, strict=True)},
            **{f"epochs.{name}": read / size for name, size, read in zip(self.sources, sizes, num_read, strict=True)},
            **{f"share.{name}": read / max_samples for name, read in zip(self.sources, num_read, strict=True)},
        }

    def batch(self, first: int, count: int) -> Batch:
        """Samples first … first + count - 1, counted from 0 over the whole training."""
        rows = self._rows_of(first, count)
        pieces = self._rows.pieces(rows)
        shape = (count, self._context)
        filler = self._roles.end if self._roles.padding is None else self._roles.padding
        inputs, labels = np.full(shape, filler, np.int64), np.full(shape, IGNORED, np.int64)
        causal = self._masking is None
        packing.fill(self._tokens, self._starts, self._streams, pieces, inputs, labels, self._roles.end, causal=causal)
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
        return list(dict.fromkeys(self._doc_ids(self._rows.pieces(self._rows_of(first, count))).to_pylist()))

    def spans_of(self, first: int, count: int) -> pa.Table:
        """Which tokens of which documents these samples learn from, as SPANS, in reading order.

        A causal model reads, besides, the token before each span: the document's own, or the one that closes documents.
        """
        rows = self._rows_of(first, count)
        pieces = self._rows.pieces(rows)
        columns = [
            pieces.row.astype(np.int64) + first,
            self._doc_ids(pieces),
            pa.array(self.sources, pa.string()).take(pa.array(self._source_of(rows)[pieces.row])),
            pieces.start,
            pieces.length,
        ]
        return pa.table(columns, schema=SPANS)

    def _ordered(
        self, config: DataConfig, sizes: list[int], seed: int, max_samples: int, in_order: bool
    ) -> tuple[Callable[[int, int], Ints], Sequence[float]]:
        """What gives the rows of samples, and how many samples of each source the training reads."""
        first_row = self._rows.first_row
        pooled = [max_samples * size / self.num_samples for size in sizes]
        if in_order:
            return lambda first, count: np.arange(first, first + count, dtype=np.int64) % self.num_samples, pooled
        if not config.mixes:
            _check_epochs(self.sources, sizes, pooled, config)
            return lambda first, count: order.shuffled(first, count, self.num_samples, seed), pooled
        mixture = Mixture(self.sources, sizes, config, seed, max_samples)
        _check_epochs(self.sources, sizes, mixture.num_read.tolist(), config)

        def mixed(first: int, count: int) -> Ints:
            source, item = mixture.samples(first, count)
            return first_row[source] + item

        return mixed, mixture.num_read.tolist()

    def _rows_of(self, first: int, count: int) -> Ints:
        if first < 0 or count < 0:
            raise ValueError(f"samples count from 0 (got {count} from {first} on)")
        return self._order(first, count)

    def _source_of(self, rows: Ints) -> npt.NDArray[np.int16]:
        return (np.searchsorted(self._rows.first_row, rows, side="right") - 1).astype(np.int16)

    def _doc_ids(self, pieces: packing.Pieces) -> pa.ChunkedArray:
        ids = pa.chunked_array([chunk for shard in self._shards for chunk in shard.docs["doc_id"].chunks], pa.string())
        return ids.take(pa.array(self._streams.number[pieces.document]))


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
