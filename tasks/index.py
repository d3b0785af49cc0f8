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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from expectations.schemas import EDGE, INDEXED, REWRITTEN
from infra import dataset, ledger, relations, storage
from infra.batches import read_batch, write_batches
from infra.cluster import Pool, current
from infra.dataset import Outcome, ShardCorrupt, ShardRef, ShardSet, write_table
from infra.errors import GristmillError, InputError
from infra.relations import Files
from infra.steps import Output, step
from infra.storage import byte_words
from tasks.text import clusters, likeness, minhash
from tasks.text.generations import BANDS, EDGES, FORGET, INDEX, SQL_BYTES, Chain
from tasks.text.need import memory_told, need_of
from tasks.text.sketches import CONTENT, SKETCH_HASHES, IndexConfig, band_table, sketch_table, sketched_columns

log = logging.getLogger("gristmill")

Ints = NDArray[np.int64]

EARLIER = "earlier"
MIN_CONTAINMENT = 0.5
"""Edges are kept from this share of the smaller document's shingles on: at it lies every pair of Jaccard similarity 0.5, which may not
straddle a train/test split, and no threshold of a removal should be lower."""
SHINGLES = pa.schema([("node", pa.int64()), ("shingles", pa.large_list(pa.uint64()))])
SIMILARITY_BINS = 20


class NoRoom(GristmillError):
    """A disk on which an index would not find room."""


def sketch_shard(job: tuple[ShardRef, int], config: IndexConfig) -> Outcome:
    """Band keys, content hash and rank facts of one shard's documents."""
    shard, position = job
    unread = set(REWRITTEN.names) - set(sketched_columns(config))
    return Outcome(sketch_table(shard.read(without=unread), position, config), hashes=SKETCH_HASHES)


def number_documents(out: Output, chain: Chain, sketched: Sequence[ShardRef]) -> list[str]:
    """Give every new document its number, and find the first document of its id and of its content; one file per shard.

    Returns:
        Files with the columns number, first and node, row by row beside the sketches.
    """
    paths = [out.aside("numbers", dataset.part_name(position)) for position in range(len(sketched))]
    if not sketched:
        return paths
    num_new = sum(shard.num_rows for shard in sketched)
    with chain.relations(num_new, sketched=Files([shard.path for shard in sketched])) as sql:
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
    keys, nodes = table["keys"].combine_chunks().flatten().to_numpy().reshape(-1, num_bands), table["node"].to_numpy()
    return band_table({band: (column, nodes) for band, column in enumerate(np.ascontiguousarray(keys.T))})


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
    return pair_table(found.pairs, found, facts)


def pair_table(pairs: Ints, found: clusters.Candidates, facts: Mapping[str, float] | None = None) -> Outcome:
    """Candidate pairs as they are stored, with what the buckets that they were found in propose and hold back."""
    counted = {"proposed_pairs": float(len(found.pairs)), "skipped_pairs": float(found.num_skipped)}
    return Outcome(pa.table({"better": pairs[:, 0], "worse": pairs[:, 1]}), facts={**counted, **(facts or {})})


def distinct_pairs(proposals: Sequence[ShardRef], known: pa.Table | None = None) -> Ints:
    """The pairs of all buckets that are not known, each once, by worse, then better; DuckDB makes those of many bands one, and spills."""
    if not proposals:
        return np.empty((0, 2), np.int64)
    rows = Files([one.path for one in proposals])
    known = EDGE.empty_table() if known is None else known
    with relations.connected(SQL_BYTES, proposed=rows, known=known.select(["better", "worse"])) as sql:
        new = "SELECT DISTINCT better, worse FROM proposed ANTI JOIN known USING (better, worse)"
        table = sql.sql(f"SELECT * FROM ({new}) ORDER BY worse, better").to_arrow_table()
    return np.stack([table["better"].to_numpy(), table["worse"].to_numpy()], axis=1)


class Shingled(NamedTuple):
    """What of one shard has to be shingled, row by row: in order of unit, then of node."""

    shard: ShardRef
    row: NDArray[np.int32]
    node: Ints
    unit: NDArray[np.int32]
    path: str
    """Of the file that its shingle sets go to, with a batch for each unit."""


def shingle_shard(job: Shingled, config: IndexConfig) -> Outcome:
    """Write the shingle sets of one shard's candidates; the units that have some, in the order of their batches."""
    text = job.shard.read(["text"])["text"].combine_chunks()
    taken, back = np.unique(job.row, return_inverse=True)
    again = len(taken) < len(job.row)
    values, offsets = minhash.shingle_hashes(text.take(pa.array(taken if again else job.row)), config)
    sets = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    whole = pa.record_batch([pa.array(job.node), sets.take(pa.array(back)) if again else sets], schema=SHINGLES)
    units, firsts = np.unique(job.unit, return_index=True)
    ends = np.append(firsts[1:], len(job.unit))
    write_batches(job.path, SHINGLES, [whole.slice(first, end - first) for first, end in zip(firsts, ends, strict=True)])
    return Outcome(pa.table({"unit": units}))


class Sets(NamedTuple):
    """Where shingle sets lie."""

    path: str
    place: int
    """Of their batch in that file."""
    receipt: str
    """The shard that tells of them: made again, it makes them again."""

    def read(self) -> pa.RecordBatch:
        """The batch.

        Raises:
            ShardCorrupt: the file is gone or not whole.
        """
        try:
            return read_batch(self.path, self.place)
        except storage.StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError | pa.ArrowInvalid):
                raise
            raise ShardCorrupt(self.receipt, str(error)) from error


def compare_unit(job: tuple[Ints, list[Sets]]) -> Outcome:
    """Exact overlaps of one unit's pairs; `job` is these, and where the shingle sets of their documents are."""
    pairs, sets = job
    batches = [one.read() for one in sets]
    nodes = np.concatenate([batch["node"].to_numpy() for batch in batches])
    sizes = np.concatenate([pc.list_value_length(batch["shingles"]).to_numpy() for batch in batches])
    values = np.concatenate([batch["shingles"].flatten().to_numpy() for batch in batches])
    order = np.argsort(nodes)
    left, right = (order[np.searchsorted(nodes[order], pairs[:, side])] for side in (0, 1))
    shared = minhash.shared_counts(values, np.concatenate([[0], np.cumsum(sizes)]), left, right)
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
    jobs: list[Shingled] = []
    for rows in np.split(order, firsts[1:]) if len(order) else []:
        text = texts[generation[rows[0]]][shard[rows[0]]]
        path = out.aside("sets", f"{len(jobs):05d}.arrow")
        jobs.append(Shingled(text, row[rows], nodes[place[rows]], member_of[rows].astype(np.int32), path))
    sets: list[list[Sets]] = [[] for _ in range(divided.num_units)]
    for job, made in zip(jobs, out.map_aside("shingles", partial(shingle_shard, config=config), jobs), strict=True):
        for at, unit in enumerate(made.read()["unit"].to_pylist()):
            sets[unit].append(Sets(job.path, at, made.path))
    by_unit = np.argsort(divided.unit, kind="stable")
    cuts = np.searchsorted(divided.unit[by_unit], np.arange(1, divided.num_units))
    parts = np.split(by_unit, cuts) if divided.num_units else []
    out.map_files(EDGES, compare_unit, [(pairs[rows], sets[unit]) for unit, rows in enumerate(parts)])
    out.facts["candidate_pairs"] = len(pairs)


def gather_facts(out: Output) -> None:
    """Put the counts of buckets by size and of pairs by similarity together, and tell which share of their pairs full buckets held back:
    counted bucket by bucket, so a pair counts once for each that its two are in."""
    for kind in ("buckets", "similarity"):
        names = sorted(
            (name for name in out.facts if name.startswith(f"{kind}.")), key=lambda name: float(name.partition(".")[2])
        )
        out.facts[kind] = {name.partition(".")[2]: int(out.facts.pop(name)) for name in names}
    skipped, proposed = (out.facts.get(name, 0) for name in ("skipped_pairs", "proposed_pairs"))
    out.facts["skipped_pair_share"] = skipped / max(1, skipped + proposed)


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
            found = [one for one in dataset.inputs_there(published.shards()) if one.step in (INDEX, FORGET)][-1:]
            if found and names & {dataset.name_of(one) for one in Chain.of(found[0]).generations[-1].documents}:
                break
            before += found
    return before[-1:]


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


def require_room(out: Output, before: Chain, shards: Sequence[ShardRef], config: IndexConfig) -> None:
    """Estimate what the step needs, keep that with the run, and refuse to begin where the disk has too little room for it.

    Raises:
        NoRoom: it has.
    """
    if not any(shard.num_rows for shard in shards):
        return
    pool = current()
    need = need_of(likeness.drawn(shards, sketched_columns(config)), before, config, pool.num_workers)
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
            f"{folder}: its documents were sketched otherwise: {', '.join(differ)}; set these alike, or make the index without that one"
        )
