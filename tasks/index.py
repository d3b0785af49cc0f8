"""index: measure which documents resemble which, within a crawl and with all crawls before it; `dedup` decides who goes.

Passes: sketch (per shard: band keys, hash of the content, facts for the rank) → numbers (the total rank, and the first document of each
content) → bands (per shard, sorted) → candidates (per bucket range) → shingles of the candidates (per shard) → exact overlaps (per unit).
Every pass is resumed at the parts that are missing.

A document's number is its place in the rank: first crawl first, then by quality, length and id. Numbers never change, and a pair is
proposed because of better documents only; so adding a crawl gives what all crawls together would give, and costs what the new one costs.
In the flow's process are 16 bytes per candidate pair, some 95 more at the peak, and DuckDB's capped memory; in a worker one shard,
bucket range or unit.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from expectations.schemas import EDGE, INDEXED
from infra import dataset, ledger, relations, storage
from infra.cluster import Pool, current
from infra.dataset import Outcome, ShardRef, ShardSet, write_table
from infra.errors import GristmillError, InputError
from infra.steps import GUARD, Output, step
from infra.storage import byte_words
from tasks.text import clusters, likeness, minhash, room
from tasks.text.generations import BANDS, EDGES, FORGET, INDEX, Chain
from tasks.text.likeness import Sample
from tasks.text.minhash import SketchConfig
from tasks.text.room import FileBytes, Forecast

log = logging.getLogger("gristmill")

Ints = NDArray[np.int64]

EARLIER = "earlier"
SKETCH_FORMAT = 1
"""To be raised when equal settings give other band keys or content hashes than before."""
MIN_CONTAINMENT = 0.5
"""Edges are kept from this share of the smaller document's shingles on: at it lies every pair of Jaccard similarity 0.5, which may not
straddle a train/test split, and no threshold of a removal should be lower."""
CONTENT = ("content_high", "content_low")
SKETCH_HASHES = (*CONTENT, "keys.list.element")
"""Columns of hashes in the files of sketches; those of an index have CONTENT alone."""
ROWS_PER_GROUP = 4_096
"""Of files that are read in parts: of band keys 64 kB."""
SHINGLED_PER_GROUP = 64
"""Documents in a row group of shingles: some 250 kB."""
SIMILARITY_BINS = 20


class NoRoom(GristmillError):
    """A disk on which an index would not find room."""


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
    max_bucket_entries: int = Field(4_000_000, ge=1)
    """Documents of one bucket range that a worker sorts at a time, 40 bytes each: the memory of the candidates' pass."""
    max_unit_shingles: int = Field(16_000_000, ge=1)
    """Shingles that a worker holds at a time to count overlaps, 16 bytes each; it may be twice as many."""
    check_room: bool = Field(True, json_schema_extra=GUARD)
    """Whether the step first estimates what it needs from a sample, refuses to begin where the disk has too little room, and warns of
    too little memory. No part of the recipe."""

    def sketches(self) -> dict[str, Any]:
        """The settings that two crawls must share to be compared."""
        names = {*SketchConfig.model_fields, "bucket_cap", "bucket_heads"} - {"preset"}
        return {"format": SKETCH_FORMAT, **self.model_dump(mode="json", include=names)}


def sketch_shard(job: tuple[ShardRef, int], config: IndexConfig) -> Outcome:
    """Band keys, content hash and rank facts of one shard's documents."""
    shard, position = job
    return Outcome(sketch_table(shard.read(), position, config), hashes=SKETCH_HASHES)


def sketch_table(table: pa.Table, position: int, config: IndexConfig) -> pa.Table:
    """The same of documents that are in memory; `position` is the place of their shard."""
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


def number_documents(out: Output, chain: Chain, sketched: Sequence[ShardRef]) -> list[str]:
    """Give every new document its number, and find the first document of its id and of its content; one file per shard.

    Returns:
        Files with the columns number, first and node, row by row beside the sketches.
    """
    paths = [out.aside("numbers", dataset.part_name(position)) for position in range(len(sketched))]
    new = dataset.of_files([shard.path for shard in sketched])
    if new is None:
        return paths
    with chain.relations(sketched=new) as sql:
        sql.execute(f"""CREATE TEMP TABLE ranked AS SELECT shard, "row", doc_id, content_high, content_low, {chain.num_numbers} - 1
            + row_number() OVER (ORDER BY quality DESC, num_chars DESC, doc_id, shard, "row") AS number FROM sketched""")
        sql.execute("""CREATE TEMP VIEW known AS SELECT number, doc_id, content_high, content_low FROM ranked
            UNION ALL SELECT number, doc_id, content_high, content_low FROM living""")
        sql.execute("CREATE TEMP TABLE firsts AS SELECT min(number) AS first FROM known GROUP BY doc_id")
        # a document that was seen before under another text is no document of that text
        sql.execute("""CREATE TEMP TABLE contents AS SELECT doc_id, number AS first, content_high, content_low
            FROM known SEMI JOIN firsts ON known.number = firsts.first""")
        sql.execute("""CREATE TEMP TABLE nodes AS SELECT content_high, content_low, min(first) AS node
            FROM contents GROUP BY content_high, content_low""")
        numbered = relations.batches(
            sql,
            """SELECT r.shard, r.number, c.first, n.node FROM ranked r JOIN contents c USING (doc_id)
            JOIN nodes n ON n.content_high = c.content_high AND n.content_low = c.content_low ORDER BY r.shard, r."row" """,
        )
        for position, table in by_shard(numbered, len(sketched)):
            write_table(paths[position], table)
    return paths


def by_shard(rows: Iterator[pa.Table], num_shards: int) -> Iterator[tuple[int, pa.Table]]:
    """(shard, its rows without that column) of tables that come in order of their column `shard`, as `relations.batches` gives them."""
    waiting = [next(rows)]
    empty, position = waiting[0], 0
    for table in rows:
        while table.num_rows:
            end = int(np.searchsorted(table["shard"].to_numpy(), position, side="right"))
            waiting.append(table.slice(0, end))
            table = table.slice(end)
            if table.num_rows:
                yield position, pa.concat_tables(waiting).drop_columns("shard")
                waiting, position = [empty], position + 1
    for last in range(position, num_shards):
        yield last, pa.concat_tables(waiting).drop_columns("shard")
        waiting = [empty]


def index_shard(job: tuple[ShardRef, str]) -> Outcome:
    """The index's rows of one shard."""
    sketched, numbers = job
    table = _numbered(sketched, numbers, [name for name in INDEXED.names if name not in ("number", "first", "node")])
    return Outcome(table, hashes=CONTENT)


def band_shard(job: tuple[ShardRef, str], num_bands: int) -> Outcome:
    """Band keys of one shard's nodes, by band and key."""
    sketched, numbers = job
    table = _numbered(sketched, numbers, ["keys"])
    table = table.filter(pc.equal(table["number"], table["node"]))
    keys = table["keys"].combine_chunks().flatten().to_numpy().reshape(-1, num_bands)
    return band_table(
        np.tile(np.arange(num_bands, dtype=np.uint8), len(keys)), keys.reshape(-1), np.repeat(table["node"], num_bands)
    )


def band_table(band: NDArray[np.uint8], key: NDArray[np.uint64], node: Ints) -> Outcome:
    """Band keys as they are stored: sorted, in small row groups, so that a bucket range is read alone."""
    order = np.lexsort((node, key, band))
    table = pa.table({"band": pa.array(band[order]), "key": pa.array(key[order]), "node": pa.array(node[order], pa.int64())})
    return Outcome(table, rows_per_group=ROWS_PER_GROUP, hashes=("key",))


def _numbered(sketched: ShardRef, numbers: str, columns: list[str]) -> pa.Table:
    rows = dataset.of_files([numbers])
    assert rows is not None
    table, beside = sketched.read(columns), rows.to_table()
    for name in reversed(("number", "first", "node")):
        table = table.add_column(0, name, beside[name])
    return table


def read_range(files: Sequence[str], dead: Ints, bucket: tuple[int, int, int]) -> tuple[NDArray[np.uint64], Ints]:
    """(keys, nodes) of a bucket range (band, least key, greatest key), without forgotten nodes."""
    rows = dataset.of_files(files)
    if rows is None:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    band, low, high = bucket
    inside = (pc.field("key") >= pa.scalar(low, pa.uint64())) & (pc.field("key") <= pa.scalar(high, pa.uint64()))
    table = rows.to_table(["key", "node"], filter=(pc.field("band") == pa.scalar(band, pa.uint8())) & inside)
    keys, nodes = table["key"].to_numpy(), table["node"].to_numpy()
    alive = ~np.isin(nodes, dead)
    return keys[alive], nodes[alive]


def bucket_ranges(num_nodes: int, config: IndexConfig) -> list[tuple[int, int, int]]:
    """(band, least key, greatest key) of ranges that a worker can sort; keys are hashes, so equal ranges hold about equally many."""
    parts = 1
    while num_nodes > parts * config.max_bucket_entries:
        parts *= 2
    width = 2**64 // parts
    return [(band, part * width, (part + 1) * width - 1) for band in range(config.num_bands) for part in range(parts)]


def propose_range(bucket: tuple[int, int, int], files: Sequence[str], dead: Ints, first_new: int, config: IndexConfig) -> Outcome:
    """Candidate pairs of one bucket range of which the worse document is new."""
    keys, nodes = read_range(files, dead, bucket)
    found = clusters.propose(keys, nodes, nodes >= first_new, bucket_cap=config.bucket_cap, bucket_heads=config.bucket_heads)
    facts = {f"buckets.{size}": float(count) for size, count in zip(clusters.BUCKET_SIZES, found.buckets, strict=True)}
    return pair_table(found.pairs, facts | {"skipped_pairs": float(found.num_skipped)})


def pair_table(pairs: Ints, facts: dict[str, float]) -> Outcome:
    """Candidate pairs as they are stored."""
    return Outcome(pa.table({"better": pairs[:, 0], "worse": pairs[:, 1]}), facts=facts)


def distinct_pairs(proposals: Sequence[ShardRef], known: pa.Table | None = None) -> Ints:
    """The pairs of all buckets that are not known, each once, by worse, then better; DuckDB makes those of many bands one, and spills."""
    rows = dataset.of_files([one.path for one in proposals])
    if rows is None:
        return np.empty((0, 2), np.int64)
    known = EDGE.empty_table() if known is None else known
    with relations.connected(proposed=rows, known=known.select(["better", "worse"])) as sql:
        new = "SELECT DISTINCT better, worse FROM proposed ANTI JOIN known USING (better, worse)"
        table = sql.sql(f"SELECT * FROM ({new}) ORDER BY worse, better").to_arrow_table()
    return np.stack([table["better"].to_numpy(), table["worse"].to_numpy()], axis=1)


def shingle_shard(job: tuple[ShardRef, NDArray[np.int32], Ints, NDArray[np.int32]], config: IndexConfig) -> Outcome:
    """Shingle sets of one shard's candidates; `job` is the shard, and row, number and unit of each, by unit and number."""
    shard, rows, nodes, units = job
    text = shard.read(["text"])["text"].combine_chunks()
    taken, back = np.unique(rows, return_inverse=True)
    values, offsets = minhash.shingle_hashes(text.take(pa.array(taken)), config)
    # as bytes, because Parquet counts the members of lists one by one
    sets = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(taken), [None, pa.py_buffer(8 * offsets), pa.py_buffer(values)]
    )
    sets = sets.take(pa.array(back))
    table = pa.table({"unit": units, "node": nodes, "shingles": sets})
    return Outcome(table, rows_per_group=SHINGLED_PER_GROUP, hashes=("shingles",))


def compare_unit(job: tuple[int, Ints, list[str]]) -> Outcome:
    """Exact overlaps of one unit's pairs; `job` is the unit, its pairs and the files with their shingles."""
    unit, pairs, files = job
    rows = dataset.of_files(files)
    assert rows is not None
    table = rows.to_table(["node", "shingles"], filter=pc.field("unit") == pa.scalar(unit, pa.int32())).combine_chunks()
    nodes, sets = table["node"].to_numpy(), table["shingles"].combine_chunks()
    _, places, data = sets.buffers()
    ends = np.frombuffer(places, np.int64)[sets.offset : sets.offset + len(sets) + 1] // 8
    values, offsets = np.frombuffer(data, np.uint64)[ends[0] : ends[-1]], ends - ends[0]
    order = np.argsort(nodes)
    left, right = (order[np.searchsorted(nodes[order], pairs[:, side])] for side in (0, 1))
    shared = minhash.shared_counts(values, offsets, left, right)
    sizes = np.diff(offsets)
    edges = {
        "better": pairs[:, 0],
        "worse": pairs[:, 1],
        "shared": shared,
        "size_better": sizes[left],
        "size_worse": sizes[right],
    }
    table = pa.table(edges).cast(EDGE)
    smaller = np.minimum(sizes[left], sizes[right])
    return Outcome(table.filter(pa.array(shared >= MIN_CONTAINMENT * np.maximum(smaller, 1))), facts=_histogram(table))


def similarities(edges: pa.Table, measure: str = "jaccard") -> NDArray[np.float64]:
    """Jaccard similarity of each edge, or `containment`: the share of the smaller document's shingles that the other one has."""
    shared, better, worse = (edges[name].to_numpy().astype(np.float64) for name in ("shared", "size_better", "size_worse"))
    whole = better + worse - shared if measure == "jaccard" else np.minimum(better, worse)
    return shared / np.maximum(whole, 1)


def _histogram(edges: pa.Table) -> dict[str, float]:
    bins = np.minimum((similarities(edges) * SIMILARITY_BINS).astype(int), SIMILARITY_BINS - 1)
    counts = np.bincount(bins, minlength=SIMILARITY_BINS)
    return {f"similarity.{place / SIMILARITY_BINS:.2f}": float(count) for place, count in enumerate(counts)}


def compare(out: Output, chain: Chain, pairs: Ints, config: IndexConfig) -> None:
    """Write the edges of these pairs of living nodes of the chain."""
    nodes = np.unique(pairs)
    with chain.relations(candidates=pa.table({"number": nodes})) as sql:
        found = sql.sql("""SELECT number, generation, shard, "row", num_shingles FROM living SEMI JOIN candidates USING (number)
            ORDER BY number""").to_arrow_table()
    divided = clusters.units(pairs, nodes, found["num_shingles"].to_numpy(), config.max_unit_shingles)
    member_of, place = divided.member_of, divided.member
    generation, shard, row = (found[name].to_numpy()[place] for name in ("generation", "shard", "row"))
    order = np.lexsort((place, member_of, shard, generation))
    firsts = np.flatnonzero(np.diff(generation[order], prepend=-1) | np.diff(shard[order], prepend=-1))
    texts = [one.texts() for one in chain.generations]
    jobs = []
    for rows in np.split(order, firsts[1:]) if len(order) else []:
        shard_of_text = texts[generation[rows[0]]][shard[rows[0]]]
        jobs.append((shard_of_text, row[rows], nodes[place[rows]], member_of[rows].astype(np.int32)))
    shingled = out.map_aside("shingles", partial(shingle_shard, config=config), jobs)
    files: list[list[str]] = [[] for _ in range(divided.num_units)]
    for job, made in zip(jobs, shingled, strict=True):
        for unit in np.unique(job[3]).tolist():
            files[unit].append(made.path)
    by_unit = np.argsort(divided.unit, kind="stable")
    cuts = np.searchsorted(divided.unit[by_unit], np.arange(1, divided.num_units))
    parts = np.split(by_unit, cuts) if divided.num_units else []
    out.map_files(EDGES, compare_unit, [(unit, pairs[rows], files[unit]) for unit, rows in enumerate(parts)])
    out.facts["candidate_pairs"] = len(pairs)


def gather_facts(out: Output) -> None:
    """Put the counts of buckets by size and of pairs by similarity together, and tell the share of pairs that full buckets held back."""
    for kind in ("buckets", "similarity"):
        names = sorted(
            (name for name in out.facts if name.startswith(f"{kind}.")), key=lambda name: float(name.partition(".")[2])
        )
        out.facts[kind] = {name.partition(".")[2]: int(out.facts.pop(name)) for name in names}
    skipped = out.facts.get("skipped_pairs", 0)
    out.facts["skipped_pair_share"] = skipped / max(1, skipped + out.facts["candidate_pairs"])


def base_of(config: IndexConfig, corpus: str, documents: Sequence[ShardSet]) -> list[ShardSet]:
    """The index that these documents are added to: none, or one.

    Raises:
        StorageError: there is no version of that name.
    """
    if config.base == EARLIER:
        return earlier(corpus, documents)
    return [dataset.named(config.base)] if config.base else []


def earlier(corpus: str, documents: Sequence[ShardSet]) -> list[ShardSet]:
    """The index of what the corpus published before these documents were first published: one version, or none."""
    names = {dataset.name_of(one) for one in documents}
    before: list[ShardSet] = []
    for published in ledger.published(corpus):
        with contextlib.suppress(storage.StorageError):  # removed since
            for found in _indices_behind(published.shards())[-1:]:
                newest = Chain.of(found).generations[-1].documents
                if names & {dataset.name_of(one) for one in newest}:
                    return before[-1:]
                before.append(found)
    return before[-1:]


def _indices_behind(published: ShardSet) -> list[ShardSet]:
    history = dataset.flattened(list(dataset.opened_inputs(published).values()))
    return [one for one in history if one.step in (INDEX, FORGET)]


@step(schema="indexed")
def index(documents: list[ShardSet], base: list[ShardSet], config: IndexConfig, out: Output) -> None:
    """Measure which documents resemble which; `base` is none or one earlier index, whose documents come first."""
    before = Chain.of(base[0] if base else None)
    require_same_sketches(before, config)
    require_new(before, documents)
    before.check()
    shards = [shard for version in documents for shard in version.shards()]
    if config.check_room:
        require_room(out, before, shards, config)
    sketched = out.map_aside("sketches", partial(sketch_shard, config=config), [(shard, at) for at, shard in enumerate(shards)])
    numbers = number_documents(out, before, sketched)
    jobs = list(zip(sketched, numbers, strict=True))
    out.map(index_shard, jobs, "numbered shards")
    out.map_files(BANDS, partial(band_shard, num_bands=config.num_bands), jobs)
    chain = before.and_then(out.folder, tuple(documents))
    first_new = before.num_numbers
    ranges = bucket_ranges(first_new + sum(shard.num_rows for shard in shards), config)
    propose = partial(propose_range, files=chain.bands(), dead=chain.dead, first_new=first_new, config=config)
    pairs = distinct_pairs(out.map_aside("candidates", propose, ranges))
    compare(out, chain, pairs, config)
    gather_facts(out)
    out.facts |= {"generation": len(before.generations), "first_number": first_new, "sketches": config.sketches()}


def sampled_columns(config: IndexConfig) -> tuple[str, ...]:
    """What `need_of` asks of documents."""
    return ("doc_id", "content_id", "url", "host", "source", "text", config.quality)


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
        sql_bytes=relations.MEMORY_BYTES,
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
    band = band_table(
        np.tile(np.arange(config.num_bands, dtype=np.uint8), len(keys)),
        keys.reshape(-1),
        np.repeat(np.arange(len(keys)), config.num_bands),
    )
    bands = len(dataset.encoded(band.kept, band.rows_per_group, band.hashes))
    seconds = time.perf_counter() - began
    beside = len(dataset.encoded(numbers))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="gristmill-probe-") as folder:
        for file in range(_FILES):
            storage.write_bytes(storage.join(folder, str(file)), b"probe")
    seconds_per_file = (time.perf_counter() - began) / _FILES
    # pairs and hashes as they are in a large index: any numbers, which hardly compress
    pairs = draw.integers(0, 1 << 24, (_PROBE, 2))
    hashes = pa.array(draw.integers(0, 1 << 63, _PROBE))
    edges = pa.table({"a": pairs[:, 0], "b": pairs[:, 1], **{name: draw.integers(0, 1000, _PROBE) for name in "cde"}})
    return FileBytes(
        sketch=sketch / num,
        row=(row + beside) / num,
        numbers=beside / num,
        bands=bands / num,
        proposal=len(dataset.encoded(pa.table({"better": pairs[:, 0], "worse": pairs[:, 1]}))) / _PROBE,
        shingle=len(dataset.encoded(pa.table({"shingles": hashes}), hashes=["shingles"])) / _PROBE,
        edge=len(dataset.encoded(edges)) / _PROBE,
        seconds=seconds / num,
        seconds_per_file=seconds_per_file,
    )


_PROBE, _FILES = 10_000, 4


def require_room(out: Output, before: Chain, shards: Sequence[ShardRef], config: IndexConfig) -> None:
    """Estimate what the step needs, keep that with the run, and refuse to begin where the disk has too little room for it.

    Raises:
        NoRoom: it has.
    """
    if not any(shard.num_rows for shard in shards):
        return
    pool = current()
    need = need_of(likeness.drawn(shards, sampled_columns(config)), before, config, pool.num_workers)
    out.volatile["estimate"] = {**asdict(need), "disk_bytes": need.disk_bytes}
    free = storage.free_bytes(out.folder)
    there = storage.used(out.folder)[0]
    if free is not None and need.disk_bytes - there > free:
        raise NoRoom(
            f"{out.folder}: the index needs about {byte_words(need.disk_bytes - there)} more on this disk "
            f"({byte_words(need.aside_bytes)} while it is made, {byte_words(need.kept_bytes)} to stay, {byte_words(there)} there "
            f"already), and {byte_words(free)} are free. Free some (gristmill gc), move the store to a larger disk "
            "(GRISTMILL_STORAGE), or begin all the same with index.check_room=false. `gristmill estimate` shows how it is estimated"
        )
    for line in memory_told(need, psutil.virtual_memory().available, bytes_of_worker(pool)):
        log.warning(line)


def bytes_of_worker(pool: Pool) -> int | None:
    """Memory that a worker of this pool may use; None for workers elsewhere, of which this machine does not know."""
    if pool.config.kind == "none":
        return psutil.virtual_memory().total
    return pool.max_worker_bytes() if pool.config.kind == "local" else None


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


def require_new(chain: Chain, documents: Sequence[ShardSet]) -> None:
    """Refuse documents that are in the index.

    Raises:
        InputError: a version is there already.
    """
    known = {dataset.name_of(one) for segment in chain.segments for one in segment.documents}
    for version in documents:
        if dataset.name_of(version) in known:
            raise InputError(
                f"{version.folder}: its documents are in the index already; give each version once, and none of the base"
            )
        known.add(dataset.name_of(version))


def require_same_sketches(chain: Chain, config: IndexConfig) -> None:
    """Refuse to compare documents that were sketched in two ways.

    Raises:
        InputError: the settings differ; the message names them.
    """
    if not chain.segments:
        return
    folder = chain.generations[-1].folder
    was, now = dataset.read_manifest(folder).facts["sketches"], config.sketches()
    differ = [
        f"index.{name} (got {now.get(name)}, there {was.get(name)})"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]
    if differ:
        raise InputError(
            f"{folder}: its documents were sketched otherwise: {', '.join(differ)}; set these alike, or leave index.base empty"
        )
