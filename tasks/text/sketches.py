"""What an index keeps of documents before any two are compared: their sketches, and band keys in the order in which buckets are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from infra.dataset import GUARD, Outcome
from tasks.text import clusters, minhash
from tasks.text.minhash import SketchConfig

Ints = NDArray[np.int64]

SKETCH_FORMAT = 1
"""To be raised when equal settings give other band keys or content hashes than before."""
CONTENT = ("content_high", "content_low")
SKETCH_HASHES = (*CONTENT, "keys.list.element", "doc_id", "content_id")
"""What is not worth compressing in the files of sketches, which are read once or twice; of an index it is CONTENT alone."""
BAND = pa.schema([("band", pa.uint8()), ("key", pa.uint64()), ("node", pa.int64())])
ROWS_PER_GROUP = 4_096
"""Of files that are read in parts: of band keys 64 kB."""


class IndexConfig(SketchConfig):
    """How documents are compared: by default in FineWeb's shingles and bands, but numbers and accents count."""

    base: str = ""
    """An earlier index that this crawl is added to, as its path below the storage root (`index/0123456789abcdef`), or `earlier`: that of
    what the corpus published last. Empty: documents are compared among themselves only."""
    quality: str = "quality_percentile"
    """Column by which the better of two duplicates is chosen, before length; where there is none, length decides."""
    bucket_cap: int = Field(64, ge=2)
    """A document in a bucket is compared with all better ones of it up to this number …"""
    bucket_heads: int = Field(8, ge=1)
    """… and beyond it with the best so many only. What is held back is counted, and told when it is much."""
    max_bucket_entries: int = Field(2_000_000, ge=1)
    """Documents of one bucket range that a worker sorts at a time, up to 80 bytes each: the memory of the candidates' pass."""
    max_unit_shingles: int = Field(8_000_000, ge=1)
    """Shingles that a worker holds at a time to count overlaps, 16 bytes each; it may be twice as many."""
    check_room: bool = Field(True, json_schema_extra=GUARD)
    """Whether the step first estimates what it needs from a sample, refuses to begin where the disk has too little room, and warns of
    too little memory. No part of the recipe."""

    def sketches(self) -> dict[str, Any]:
        """The settings that two crawls must share to be compared."""
        names = {*SketchConfig.model_fields, "bucket_cap", "bucket_heads"} - {"preset"}
        return {"format": SKETCH_FORMAT, **self.model_dump(mode="json", include=names)}


def sketched_columns(config: IndexConfig) -> tuple[str, ...]:
    """What `sketch_table` asks of documents; of these they may lack the quality."""
    return ("doc_id", "content_id", "url", "host", "source", "text", config.quality)


def sketch_table(table: pa.Table, position: int, config: IndexConfig) -> pa.Table:
    """Band keys, content hash and rank facts of documents; `position` is the place of their shard."""
    text = table["text"].combine_chunks()
    found = minhash.sketch(text, config)
    content = _told_apart(found, table["content_id"])
    quality = (
        table[config.quality].cast(pa.float32()) if config.quality in table.column_names else pa.nulls(len(text), pa.float32())
    )
    keys = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(found.keys).reshape(-1)), config.num_bands)
    columns = {name: table[name] for name in ("doc_id", "content_id", "url", "host", "source")}
    return pa.table(
        {
            **columns,
            "quality": pc.fill_null(pc.if_else(pc.is_finite(quality), quality, None), -1.0),
            "num_chars": pc.utf8_length(text).cast(pa.int32()),
            "num_shingles": pa.array(found.num_shingles),
            "content_high": pa.array(np.ascontiguousarray(content[:, 0])),
            "content_low": pa.array(np.ascontiguousarray(content[:, 1])),
            "shard": pa.repeat(pa.scalar(position, pa.int32()), len(text)),
            "row": pa.array(np.arange(len(text), dtype=np.int32)),
            "keys": keys,
        }
    )


def _told_apart(found: minhash.Sketch, content_id: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Content hashes; documents without a word have no normal form that could tell them apart, and are told by their content_id."""
    wordless = np.flatnonzero(found.num_shingles == 0)
    if not len(wordless):
        return found.content
    content = found.content.copy()
    for row, name in zip(wordless.tolist(), content_id.take(pa.array(wordless)).to_pylist(), strict=True):
        content[row] = int(name[:16], 16), int(name[16:], 16)
    return content


def band_table(entries: Mapping[int, tuple[NDArray[np.uint64], Ints]]) -> Outcome:
    """The (keys, nodes) of each band as they are stored: sorted, in small row groups, so that a bucket range is read alone."""
    tables = [BAND.empty_table()]
    for band, (keys, nodes) in sorted(entries.items()):
        order = clusters.by_key(keys, nodes)
        columns = np.full(len(order), band, np.uint8), keys[order], nodes[order]
        tables.append(pa.table([pa.array(column) for column in columns], schema=BAND))
    largest = max((len(keys) for keys, _ in entries.values()), default=1)
    num_groups = -(-largest // ROWS_PER_GROUP)  # of a band, so that a row group is mostly of one
    return Outcome(pa.concat_tables(tables), rows_per_group=max(1, -(-largest // max(1, num_groups))), hashes=("key",))
