"""`gristmill estimate`: what deduplicating documents will need in memory, disk and time, told from a sample before anything is made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from flows.config import RunConfig, load_or_default
from flows.rejects import versions_of
from infra import dataset, storage
from infra.cluster import Pool
from infra.dataset import ShardSet
from infra.errors import InputError
from infra.settings import settings
from infra.storage import byte_words
from tasks.index import base_of, bytes_of_worker, require_same_sketches
from tasks.text import likeness
from tasks.text.generations import Chain
from tasks.text.likeness import Sample
from tasks.text.need import memory_told, need_of
from tasks.text.readers import FolderSource, IngestConfig, plan, read_piece
from tasks.text.room import Forecast
from tasks.text.sampling import draws
from tasks.text.sketches import sketched_columns

MAKERS = ("rewrite", "ingest", "extract")
"""Steps whose documents are compared; the first of these that a run has is meant."""


PIECE_BYTES = 4_000_000
"""Of files that are read for a sample, at a time."""


@dataclass(frozen=True)
class Estimate:
    """What is needed, beside what is there."""

    need: Forecast
    copied_bytes: int
    """What `dedup` writes, at most: all documents, if nothing goes."""
    store: str
    free_disk_bytes: int | None
    free_memory_bytes: int
    max_worker_bytes: int | None

    def short(self) -> list[str]:
        """What there is too little of, in words."""
        told = memory_told(self.need, self.free_memory_bytes, self.max_worker_bytes)
        total = self.need.disk_bytes + self.copied_bytes
        if self.free_disk_bytes is not None and total > self.free_disk_bytes:
            told.append(
                f"{self.store}: index and dedup need about {byte_words(total)}, and {byte_words(self.free_disk_bytes)} are free: free some "
                "(gristmill gc) or move the store (GRISTMILL_STORAGE)"
            )
        return told

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return {**asdict(self), "short": self.short()}


def estimate(given: str, config_file: str, overrides: Sequence[str]) -> Estimate:
    """Estimate what index and dedup need for documents.

    Args:
        given: a version's folder or name, a run (`latest` too), files of text, or a configuration whose folders are meant.
        config_file: the configuration with the parts `index` and `dask`; empty: `given` if that is one, else the defaults.

    Raises:
        InputError: there are no documents.
    """
    versions: list[ShardSet] = []
    is_config = not config_file and Path(given).suffix in (".yaml", ".yml")
    config = load_or_default(given if is_config else config_file, overrides)
    if is_config:
        sample = _of_files(config.ingest, config, given)
    elif Path(given).exists() and not storage.exists(storage.join(given, dataset.MANIFEST)):
        source = FolderSource(kind="folder", path=str(Path(given).resolve()))
        sample = _of_files(IngestConfig(sources=(source,)), config, given)
    else:
        versions = _documents(given)
        sample = likeness.drawn([shard for one in versions for shard in one.shards()], sketched_columns(config.index))
    if not sample.rows.num_rows:
        raise InputError(f"{given}: has no documents, so there is nothing to estimate")
    before = Chain.of(next(iter(base_of(config.index, config.name, versions)), None))
    require_same_sketches(before, config.index)
    pool = Pool(config.dask)
    return Estimate(
        need=need_of(sample, before, config.index, pool.num_workers),
        copied_bytes=int(len(dataset.encoded(sample.rows)) / sample.rows.num_rows * sample.num_documents),
        store=settings().store,
        free_disk_bytes=storage.free_bytes(settings().store),
        free_memory_bytes=psutil.virtual_memory().available,
        max_worker_bytes=bytes_of_worker(pool),
    )


def show(found: Estimate, console: Console) -> None:
    """A table of what is needed and what there is, and what is short below it."""
    need, like = found.need, found.need.likeness
    free = "" if found.free_disk_bytes is None else f"{byte_words(found.free_disk_bytes)} free at {found.store}"
    spread = "exactly" if like.low == like.high else f"{like.low:,.0f} to {like.high:,.0f} in 95 of 100 samples"
    table = Table("what", "about", "")
    rows = [
        ("documents", f"{like.num_documents:,}", f"{like.sampled:,} of them sampled"),
        ("text", byte_words(like.text_bytes), f"in {like.contents:,.0f} different contents"),
        ("candidate pairs", f"{like.pairs:,.0f}", spread),
        ("similar pairs", f"{like.edges:,.0f}", "share at least half of the smaller one's shingles"),
        ("memory, the flow's process", byte_words(need.flow_bytes), f"{byte_words(found.free_memory_bytes)} free"),
        (
            "memory, a worker",
            byte_words(need.worker_bytes),
            "" if found.max_worker_bytes is None else f"ended at {byte_words(found.max_worker_bytes)}",
        ),
        ("disk, while it works", byte_words(need.aside_bytes), free),
        ("disk, the index", byte_words(need.kept_bytes), "kept"),
        ("disk, dedup", byte_words(found.copied_bytes), "kept; at most, if nothing goes"),
        ("temporary files", byte_words(need.spilled_bytes), "at most, in the system's folder for them"),
        ("time of index", f"{need.seconds:,.0f} s", f"with {need.workers} workers, each on a core of its own"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in found.short():
        console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)


def _of_files(given: IngestConfig, config: RunConfig, name: str) -> Sample:
    if not given.sources:
        raise InputError(f"{name}: its documents come from a crawl, and are not there before; name a run, a version or files")
    return _drawn(given.model_copy(update={"shard_bytes": config.ingest.shard_bytes}), sketched_columns(config.index))


def _drawn(config: IngestConfig, columns: Sequence[str]) -> Sample:
    """A sample of files that are no version yet, read in pieces; how many documents there are follows from the bytes read."""
    began = time.perf_counter()
    pieces = plan(config.model_copy(update={"shard_bytes": min(config.shard_bytes, PIECE_BYTES)}))
    num_bytes = np.array([sum(piece.num_bytes for piece in some) for some in pieces], np.int64)
    names = pa.array([f"{some[0].path} {some[0].start}" for some in pieces], pa.string())
    tables: list[pa.Table] = []
    num_read = bytes_read = total = wanted = 0
    for place in np.argsort(draws(names, 0, "shards of a sample"), kind="stable"):
        if len(tables) >= likeness.MIN_SHARDS and num_read >= min(total, likeness.ROWS_PER_DRAWN * wanted):
            break
        table = read_piece(pieces[place], config)[0]
        tables.append(table.select([name for name in columns if name in table.column_names]))
        num_read, bytes_read = num_read + table.num_rows, bytes_read + int(num_bytes[place])
        total = max(num_read, round(num_read * int(num_bytes.sum()) / max(1, bytes_read)))
        wanted = min(total, likeness.MAX_DOCUMENTS, max(likeness.MIN_DOCUMENTS, int(likeness.SHARE * total)))
        # texts that are too many to be drawn are not kept until then
        tables[-1] = tables[-1].filter(
            pa.array(draws(tables[-1]["doc_id"], 0, "sample") < likeness.MAX_DOCUMENTS / max(1, num_read))
        )
    rows = pa.concat_tables(tables) if tables else pa.table({})
    if rows.num_rows:
        rows = rows.filter(pa.array(draws(rows["doc_id"], 0, "sample") < wanted / max(1, num_read)))
    seconds = (time.perf_counter() - began) / max(1, num_read)
    num_shards = max(1, -(-int(num_bytes.sum()) // config.shard_bytes))
    return Sample(rows, total, num_shards, -(-total // num_shards), seconds)


def _documents(given: str) -> list[ShardSet]:
    """The versions of documents that a word names: itself, or what a run compared.

    Raises:
        InputError: none has texts.
    """
    versions = versions_of(given)
    if len(versions) > 1:
        by_step = {one.step: one for one in versions}
        versions = [by_step[name] for name in MAKERS if name in by_step][:1] or versions
    for version in versions:
        rows = dataset.dataset(version.folder)
        if rows is None or not {"doc_id", "content_id", "text"} <= set(rows.schema.names):
            raise InputError(f"{given}: {version.step} has no texts to compare; name a version of documents, or files")
    return versions
