"""What making an index needs, told from a sample of its documents before anything is made: sketched, banded, written and compared.

No part of a step's recipe (`infra.versions.ESTIMATES`): whatever is told, the index is the same.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import dataset, scratch, storage
from infra.storage import byte_words
from tasks.text import likeness, minhash, room
from tasks.text.generations import Chain, sql_bytes
from tasks.text.likeness import Sample
from tasks.text.room import FileBytes, Forecast
from tasks.text.sketches import CONTENT, SKETCH_HASHES, IndexConfig, band_table, sketch_table

Ints = NDArray[np.int64]

PROBE_ROWS = 10_000
"""Of numbers made up to be written, as a large index has them."""
PROBE_FILES = 4
"""Written to a disk to see how long one takes."""


def need_of(sample: Sample, before: Chain, config: IndexConfig, workers: int) -> Forecast:
    """What an index of the documents behind a sample needs, if they are added to the chain `before`."""
    sketch_table(sample.rows.slice(0, 1), 0, config)  # what a process prepares once is not taken for work
    began = time.perf_counter()
    rows = sketch_table(sample.rows, 0, config)
    seconds = time.perf_counter() - began
    keys = rows["keys"].combine_chunks().flatten().to_numpy().reshape(-1, config.num_bands)
    content = np.stack([rows["content_high"].to_numpy(), rows["content_low"].to_numpy()], axis=1)
    fresh, earlier = _met_earlier(rows, keys, before)
    found = likeness.likeness(
        sample,
        minhash.Sketch(content, rows["num_shingles"].to_numpy(), keys),
        seconds,
        config,
        bucket_cap=config.bucket_cap,
        bucket_heads=config.bucket_heads,
        fresh=fresh,
        earlier=earlier,
        num_earlier=before.num_numbers,
    )
    return room.forecast(
        sample,
        found,
        _file_bytes(rows, keys, config),
        workers,
        num_bands=config.num_bands,
        num_earlier=before.num_numbers,
        max_bucket_entries=config.max_bucket_entries,
        max_unit_shingles=config.max_unit_shingles,
        sql_bytes=sql_bytes(sample.num_documents + before.num_numbers),
    )


def _met_earlier(
    rows: pa.Table, keys: NDArray[np.uint64], before: Chain
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.uint8], NDArray[np.uint64], Ints]]:
    """(whether no earlier document has the id or the content of a row; band, key and node of the earlier entries in their buckets)."""
    fresh = np.ones(rows.num_rows, bool)
    bands = dataset.of_files(before.bands())
    if bands is None or not rows.num_rows:
        return fresh, (np.empty(0, np.uint8), np.empty(0, np.uint64), np.empty(0, np.int64))
    with before.relations(drawn=rows.select(["row", "doc_id", "content_high", "content_low"])) as sql:
        known = sql.sql("""SELECT "row" FROM drawn WHERE doc_id IN (SELECT doc_id FROM living)
            OR (content_high, content_low) IN (SELECT (content_high, content_low) FROM living)""").to_arrow_table()
    fresh[known["row"].to_numpy()] = False
    wanted, parts = np.unique(keys[fresh]), []
    for batch in bands.to_batches():
        inside = np.isin(batch["key"].to_numpy(), wanted) & ~np.isin(batch["node"].to_numpy(), before.dead)
        parts.append(pa.table(batch).filter(pa.array(inside)))
    met = pa.concat_tables(parts)
    return fresh, (met["band"].to_numpy(), met["key"].to_numpy(), met["node"].to_numpy())


def _file_bytes(rows: pa.Table, keys: NDArray[np.uint64], config: IndexConfig) -> FileBytes:
    """What the rows of an index take on disk: those of a sample, written to memory."""
    num, draw = max(1, rows.num_rows), np.random.default_rng(0)
    began = time.perf_counter()
    sketch = len(dataset.encoded(rows, hashes=SKETCH_HASHES))
    numbers = pa.table({name: np.arange(rows.num_rows) for name in ("number", "first", "node")})
    row = len(dataset.encoded(rows.drop_columns("keys"), hashes=CONTENT))
    band = band_table({at: (column, np.arange(len(keys))) for at, column in enumerate(np.ascontiguousarray(keys.T))})
    bands = len(dataset.encoded(band.kept, band.rows_per_group, band.hashes))
    seconds = time.perf_counter() - began
    beside = len(dataset.encoded(numbers))
    began = time.perf_counter()
    with scratch.folder("probe") as folder:
        for file in range(PROBE_FILES):
            storage.write_bytes(storage.join(folder, str(file)), b"probe")
    seconds_per_file = (time.perf_counter() - began) / PROBE_FILES
    # pairs as they are in a large index: any numbers, which hardly compress
    pairs = draw.integers(0, 1 << 24, (PROBE_ROWS, 2))
    edges = pa.table({"a": pairs[:, 0], "b": pairs[:, 1], **{name: draw.integers(0, 1000, PROBE_ROWS) for name in "cde"}})
    return FileBytes(
        sketch=sketch / num,
        row=(row + beside) / num,
        numbers=beside / num,
        bands=bands / num,
        proposal=len(dataset.encoded(pa.table({"better": pairs[:, 0], "worse": pairs[:, 1]}))) / PROBE_ROWS,
        edge=len(dataset.encoded(edges)) / PROBE_ROWS,
        seconds=seconds / num,
        seconds_per_file=seconds_per_file,
    )


def memory_told(need: Forecast, free_bytes: int, worker_bytes: int | None) -> list[str]:
    """What to say of memory that an index would exceed: nothing, where it is enough."""
    told = []
    if need.flow_bytes > free_bytes:
        told.append(
            f"index: about {need.likeness.pairs:,.0f} candidate pairs need some {byte_words(need.flow_bytes)} in the flow's process, and "
            f"{byte_words(free_bytes)} are free: raise index.rows_per_band, or give the machine more"
        )
    if worker_bytes is not None and need.worker_bytes > worker_bytes:
        told.append(
            f"index: a worker needs some {byte_words(need.worker_bytes)} and is ended at {byte_words(worker_bytes)}: raise "
            "dask.memory_limit, use fewer workers (dask.workers), or lower index.max_bucket_entries and index.max_unit_shingles"
        )
    return told
