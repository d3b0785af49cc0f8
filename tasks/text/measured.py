"""Signals beside the documents they were measured of, for steps that need both: a row of signals without its document is an error.

The other way round is none: a document that ended its worker has no signals.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset import ShardRef, ShardSet
from infra.errors import InputError

_HINT = "give the documents that the signals were measured of"


def pairs(signals: ShardSet, documents: Sequence[ShardSet]) -> list[tuple[ShardRef, ShardRef]]:
    """(documents, signals) shard by shard.

    Raises:
        InputError: they are not equally many.
    """
    texts, rows = [shard for version in documents for shard in version.shards()], signals.shards()
    if len(rows) != len(texts):
        raise InputError(f"{signals.folder}: {len(rows)} shards of signals, and {len(texts)} of documents; {_HINT}")
    return list(zip(texts, rows, strict=True))


def texts_of(measured: pa.Table, signals: ShardRef, documents: ShardRef) -> pa.StringArray:
    """The text of every row of `measured`, which is read from `signals`, in the order of its rows.

    Raises:
        InputError: there are rows whose document is not among `documents`.
    """
    texts = documents.read(["doc_id", "text"])
    at = pc.index_in(measured["doc_id"].combine_chunks(), texts["doc_id"].combine_chunks())
    if at.null_count:
        raise InputError(f"{signals.path}: {at.null_count} of {len(at)} rows have no document in {documents.path}; {_HINT}")
    return texts["text"].combine_chunks().take(at)
