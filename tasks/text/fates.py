"""The fate of every document of an index: what was decided about contents and pairs, looked up row by row.

What is decided is a handful of tables of numbers, sorted for the look-up, with a row only for documents and contents that something is
to be said about; a worker maps them from local files, so it has in memory what it looks at (of a store that is elsewhere, all of them).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage
from infra.batches import read_batch, write_batches
from infra.rejects import FORGOTTEN

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

EXACT, SEEN, SAME_URL, NEAR = "exact_duplicate", "seen_before", "same_url", "near_duplicate"
_RULES = pa.array([FORGOTTEN, SEEN, SAME_URL, NEAR, EXACT])


class Decided(NamedTuple):
    """Everything that is decided, by numbers of documents; the first column of each is ascending and has no number twice."""

    stars: pa.RecordBatch
    """content, stays, keeper, similarity: as `clusters.Stars` has them."""
    crowded: pa.RecordBatch
    """document, crowded_by."""
    loose: pa.RecordBatch
    """node, label: the loose cluster of a content, called by its first document."""
    copies: pa.RecordBatch
    """node, num_copies: of contents that more than one document has."""
    dead: pa.RecordBatch
    """number, reason: of forgotten documents."""
    renamed: pa.RecordBatch
    """node, reborn: contents that go on under another number."""
    names: pa.RecordBatch
    """number, doc_id: of documents that another one's fate names."""

    def needed_names(self) -> Ints:
        """The documents that another one's fate can name, ascending."""
        content, stays, keeper = (self.stars[name].to_numpy() for name in ("content", "stays", "keeper"))
        node, label = (self.loose[name].to_numpy() for name in ("node", "label"))
        named = (
            stays[(stays >= 0) & (stays != content)],
            keeper[keeper >= 0],
            self.crowded["crowded_by"].to_numpy(),
            label[label != node],
            self.copies["node"].to_numpy(),
        )
        return np.unique(np.concatenate(named))

    def write(self, folder: str) -> None:
        """Put each table into a file of its name."""
        for name, table in self._asdict().items():
            write_batches(storage.join(folder, f"{name}.arrow"), table.schema, [table])


def read_decided(folder: str, version: str) -> Decided:
    """What `Decided.write` wrote: mapped, or from a store that is elsewhere, read once by each process; `version` tells folders apart
    that held something else before."""
    return _read(folder) if storage.is_local(folder) else _fetched(folder, version)


@lru_cache(maxsize=1)
def _fetched(folder: str, _version: str) -> Decided:
    return _read(folder)


def _read(folder: str) -> Decided:
    return Decided(*(read_batch(storage.join(folder, f"{name}.arrow"), 0) for name in Decided._fields))


def fate_of(rows: pa.Table, decided: Decided) -> pa.Table:
    """The fate of documents, given number, first, node and doc_id.

    Returns:
        rule (null: it stays), keeper (for a forgotten one the reason), similarity, cluster, num_copies.
    """
    number, first, node = (rows[name].to_numpy() for name in ("number", "first", "node"))
    again = _row(decided.renamed, node)
    node = np.where(again >= 0, _at(decided.renamed, "reborn", again), node)
    star, grave = _row(decided.stars, node), _row(decided.dead, number)
    stays, keeper = _at(decided.stars, "stays", star), _at(decided.stars, "keeper", star)
    crowded_by = _at(decided.crowded, "crowded_by", _row(decided.crowded, first))
    label = _at(decided.loose, "label", _row(decided.loose, node))
    dead, seen, crowded = grave >= 0, number != first, crowded_by >= 0
    instead = np.where(crowded, crowded_by, np.where(keeper >= 0, keeper, np.where(stays >= 0, stays, node)))
    cluster = np.where(label >= 0, label, node)
    rules = np.select([dead, seen, crowded, keeper >= 0, instead != number], range(len(_RULES)), -1)
    sure = pa.array(np.where(keeper >= 0, _at(decided.stars, "similarity", star), 1.0), mask=dead | seen | crowded)
    num_copies = _at(decided.copies, "num_copies", _row(decided.copies, node))
    return pa.table(
        {
            "rule": _RULES.take(pa.array(rules, mask=rules < 0)),
            "keeper": pc.coalesce(
                decided.dead["reason"].take(pa.array(grave, mask=~dead)), _named(decided, instead, number, ~dead)
            ),
            "similarity": sure,
            "cluster": pc.coalesce(_named(decided, cluster, number, ~dead), rows["doc_id"].combine_chunks()),
            "num_copies": pa.array(np.maximum(num_copies, 1), pa.int32()),
        }
    )


def _row(table: pa.RecordBatch, asked: Ints) -> Ints:
    """The row of each number asked, or -1 where the table does not have it."""
    numbers = table[0].to_numpy()
    if not len(numbers):
        return np.full(len(asked), -1)
    order = np.argsort(asked)  # one after another they are found three times as fast
    place = np.empty(len(asked), np.int64)
    place[order] = np.searchsorted(numbers, asked[order])
    place = np.minimum(place, len(numbers) - 1)
    return np.where(numbers[place] == asked, place, -1)


def _at(table: pa.RecordBatch, column: str, row: Ints) -> NDArray[Any]:
    """A column's values at these rows, and -1 where the row is -1."""
    values = table[column].to_numpy()
    return np.where(row < 0, -1, values[row]) if len(values) else np.full(len(row), -1, values.dtype)


def _named(decided: Decided, asked: Ints, own: Ints, alive: Flags) -> pa.Array:
    """The doc_id of each number asked; null where it is the document's own, or the document is dead."""
    row = _row(decided.names, asked)
    assert not ((row < 0) & (asked != own) & alive).any(), "a fate names a document whose name was not fetched"
    return decided.names["doc_id"].take(pa.array(row, mask=(row < 0) | (asked == own)))
