"""A sample of a corpus' texts of a given size, drawn by a hash of (seed, doc_id): the same for any shards, order and workers.

Documents stand in the order of their hashes, and the first ones are taken until `max_bytes` are reached. A first pass keeps of each shard
the places and sizes of those that could be among them (16 bytes each), a second one reads the texts of those that are. Both go shard by
shard.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset import Outcome, ShardRef
from tasks.text.sampling import hashes

PURPOSE = "tokeniser"
PLACES = pa.schema([("place", pa.uint64()), ("num_bytes", pa.int64())])
Places = npt.NDArray[np.uint64]
Sizes = npt.NDArray[np.int64]


def front(places: Places, num_bytes: Sizes, max_bytes: int) -> tuple[Places, Sizes]:
    """Of documents (D,) each, those with the lowest places, up to and with the one that makes `max_bytes` full; in order."""
    order = np.argsort(places, kind="stable")
    places, num_bytes = places[order], num_bytes[order]
    last = min(int(np.searchsorted(np.cumsum(num_bytes), max_bytes)), len(places) - 1)
    # documents of one place go together, or their order would decide
    stop = int(np.searchsorted(places, places[last], side="right")) if len(places) else 0
    return places[:stop], num_bytes[:stop]


def places_in_shard(shard: ShardRef, seed: int, max_bytes: int) -> Outcome:
    """PLACES of the documents of a shard that can be in the sample; those without text cannot."""
    table = shard.read(["doc_id", "text"])
    places = hashes(table["doc_id"], seed, PURPOSE)
    num_bytes = pc.fill_null(pc.binary_length(table["text"]), 0).to_numpy().astype(np.int64)
    some = num_bytes > 0
    return Outcome(pa.table(list(front(places[some], num_bytes[some], max_bytes)), schema=PLACES))


def last_place(shards: Sequence[ShardRef], max_bytes: int) -> int | None:
    """The highest place in the sample, from the PLACES of all shards, read one by one; None where there is no text."""
    places, num_bytes = np.empty(0, np.uint64), np.empty(0, np.int64)
    for shard in shards:
        table = shard.read()
        both = [np.concatenate([old, table[name].to_numpy()]) for old, name in ((places, "place"), (num_bytes, "num_bytes"))]
        places, num_bytes = front(both[0], both[1], max_bytes)
    return int(places[-1]) if len(places) else None


def texts_in_shard(shard: ShardRef, seed: int, last: int) -> Outcome:
    """The sample's texts of a shard, in a column `text`."""
    table = shard.read(["doc_id", "text"])
    taken = pa.array(hashes(table["doc_id"], seed, PURPOSE) <= np.uint64(last))
    kept = table.filter(taken).select(["text"])
    return Outcome(kept.filter(pc.greater(pc.fill_null(pc.binary_length(kept["text"]), 0), 0)))
