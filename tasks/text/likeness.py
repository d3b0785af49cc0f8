"""How much of a corpus is alike, from a sample: how many pairs and candidates an index will find, and how fast the kernels find them.

Documents are drawn by a hash of their id from some shards, so the sample is the same every time; only seconds differ. A pair is in a sample
of share p with the chance p², so what is counted there weighs 1/p²: the fewer groups of duplicates a sample has, the wider is the range
told. Bands and overlaps are computed as the index does it; nothing is assumed about how similar documents are.
Costs: reading MIN_SHARDS shards or more, and sketching MIN_DOCUMENTS to MAX_DOCUMENTS documents.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra import storage
from infra.dataset import ShardRef
from tasks.text import clusters, minhash
from tasks.text.minhash import SketchConfig
from tasks.text.sampling import draws

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]

SHARE = 0.01
"""Of the documents …"""
MIN_DOCUMENTS, MAX_DOCUMENTS = 2_000, 20_000
"""… but at least and at most so many: below, a sample has hardly a pair; beyond, its texts weigh more than a shard."""
MIN_SHARDS = 8
"""Shards that a sample comes from, where there are so many: neighbours in one shard may be of one site."""
ROWS_PER_DRAWN = 4
"""Documents read for one that is drawn, at least."""
FEW = 4
"""From so many alike in a sample on they are taken for a share of their group; fewer may be all of a small one."""
EM_ROUNDS = 300
"""Of the iteration that finds groups by size; after 500 the sum of members was another by 16 % at most, over simulated mixtures."""
MAX_VERIFIED = 50_000
"""Candidate pairs of a sample that are verified."""


@dataclass(frozen=True)
class Sample:
    """Documents drawn from shards."""

    rows: pa.Table
    num_documents: int
    """Of all shards."""
    num_shards: int
    most_in_shard: int
    """Documents of the largest shard."""
    read_seconds: float
    """For one document."""

    @property
    def share(self) -> float:
        """Drawn documents among all."""
        return self.rows.num_rows / max(1, self.num_documents)


def drawn(shards: Sequence[ShardRef], columns: Sequence[str], seed: int = 0) -> Sample:
    """Draw documents; `columns` are those to have, as far as the shards have them, `doc_id` among them."""
    began = time.perf_counter()
    total = sum(shard.num_rows for shard in shards)
    wanted = min(total, MAX_DOCUMENTS, max(MIN_DOCUMENTS, int(SHARE * total)))
    order = np.argsort(
        draws(pa.array([shard.digest for shard in shards], pa.string()), seed, "shards of a sample"), kind="stable"
    )
    chosen: list[ShardRef] = []
    num_read = 0
    for place in order:
        if num_read >= min(total, ROWS_PER_DRAWN * wanted) and len(chosen) >= MIN_SHARDS:
            break
        chosen.append(shards[place])
        num_read += shards[place].num_rows
    parts = [part for shard in chosen for part in _drawn_of(shard, columns, wanted / max(1, num_read), seed)]
    rows = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    seconds = (time.perf_counter() - began) / max(1, num_read)
    return Sample(rows, total, len(shards), max((shard.num_rows for shard in shards), default=0), seconds)


def _drawn_of(shard: ShardRef, columns: Sequence[str], rate: float, seed: int) -> list[pa.Table]:
    """Drawn rows of one shard, one row group in memory at a time."""
    parts = []
    with storage.open_read(shard.path) as handle:
        opened = pq.ParquetFile(handle)
        there = [name for name in columns if name in opened.schema_arrow.names]
        for group in range(opened.num_row_groups):
            table = opened.read_row_group(group, columns=there)
            parts.append(table.filter(pa.array(draws(table["doc_id"], seed, "sample") < rate)))
    return parts


class Groups(NamedTuple):
    """Groups in a whole corpus."""

    members: float
    groups: float


def groups_behind(seen: Ints, share: float, least: int = 2) -> Groups:
    """The groups of which a sample of this share has seen so many members each (`seen`: `least` or more, what is below being unseen).

    A group of s members is seen with k of them by the binomial chance; the numbers of groups by size are those of the greatest
    likelihood, found by expectation maximisation from equal ones (Richardson and Lucy's iteration), on sizes that grow ever faster.
    """
    if share >= 1 or not len(seen):
        return Groups(float(seen.sum()), float(len(seen)))
    counted, often = np.unique(seen, return_counts=True)
    most = 2 * counted[-1] / share
    sizes = np.unique(np.concatenate([np.arange(least, 10), np.geomspace(10, max(11, most), 60)]).astype(np.int64))
    chances = _binomial(sizes[:, None], counted[None, :], share)
    seen_at_all = 1 - _binomial(sizes[:, None], np.arange(least)[None, :], share).sum(axis=1)
    groups = np.full(len(sizes), len(seen) / len(sizes))
    for _ in range(EM_ROUNDS):
        groups *= (chances @ (often / np.maximum(groups @ chances, 1e-300))) / seen_at_all
    return Groups(float(groups @ sizes), float(groups.sum()))


def _binomial(trials: Ints, hits: Ints, chance: float) -> Floats:
    """P(hits of trials), of all combinations."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(trials.max()) + 1)))])
    rest = np.maximum(0, trials - hits)
    ways = log_factorial[trials] - log_factorial[np.minimum(hits, trials)] - log_factorial[rest]
    found: Floats = np.where(trials >= hits, np.exp(ways + hits * np.log(chance) + rest * np.log1p(-chance)), 0.0)
    return found


@dataclass(frozen=True)
class Likeness:
    """What an index will find, as a sample tells: `low` to `high` holds the number of pairs in some 95 of 100 samples."""

    num_documents: int
    sampled: int
    contents: float
    """Different contents: the nodes."""
    text_bytes: float
    longest_bytes: int
    """Of a sampled text."""
    proposals: float
    """Pairs as the bands propose them, the same pair once for each band."""
    pairs: float
    low: float
    high: float
    edges: float
    """Pairs that share enough to be kept."""
    candidates: float
    """Contents that are in a pair: those shingled again."""
    shingles: float
    """Distinct shingles of all these together."""
    seconds_sketching: float
    """Of one core, for all documents."""
    seconds_verifying: float
    """Of one core: shingling the candidates, and comparing their sets."""


def likeness(
    sample: Sample,
    found: minhash.Sketch,
    seconds_sketching: float,
    config: SketchConfig,
    *,
    bucket_cap: int,
    bucket_heads: int,
    fresh: NDArray[np.bool_] | None = None,
    earlier: tuple[NDArray[np.uint8], Hashes, Ints] | None = None,
    num_earlier: int = 0,
) -> Likeness:
    """Sketch-side estimates of a whole corpus.

    Args:
        found: the sketch of the sample's texts.
        seconds_sketching: how long that took.
        fresh: of each text, whether no earlier index has its content; by default of all.
        earlier: band, key and node of those entries of an earlier index whose keys the sample has.
        num_earlier: numbers given in it; nodes are below that.
    """
    share = sample.share
    fresh = np.ones(sample.rows.num_rows, np.bool_) if fresh is None else fresh
    rows, copies = _contents(found, fresh)
    seen = copies[copies >= 2]
    behind = groups_behind(seen, share)
    chance = np.where(copies >= FEW, 1 - (1 - share) ** (copies / share), share) if share < 1 else np.ones(len(rows))
    proposed = _proposed(found.keys[rows], chance, share, bucket_cap, bucket_heads, earlier, num_earlier)
    inside = proposed.pairs[:, 0] >= num_earlier
    ends = proposed.pairs[inside] - num_earlier
    known, label = clusters.components(ends)
    partners = np.unique(ends, return_counts=True)[1]
    met = np.setdiff1d(np.unique(proposed.pairs[~inside, 1]) - num_earlier, known)
    of_earlier = np.unique(proposed.pairs[~inside, 0])
    text = sample.rows["text"].combine_chunks()
    verified = _verified(text, rows, ends, proposed.weight[inside], config)
    contents = max(float(len(rows)), fresh.sum() / max(share, 1e-12) - behind.members + behind.groups)
    # of a content that is drawn, its partners are drawn as the members of a group are
    alike = groups_behind(partners, share, least=1).groups / max(share, 1e-12)
    candidates = min(contents, alike + float((1 / chance[met]).sum())) + min(
        float(num_earlier), len(of_earlier) / max(share, 1e-12)
    )
    total = float(proposed.weight.sum())
    spread = _spread(proposed, num_earlier, known, label, share)
    bytes_of = pc.sum(pc.binary_length(text)).as_py() or 0
    scale = sample.num_documents / max(1, sample.rows.num_rows)
    return Likeness(
        num_documents=sample.num_documents,
        sampled=sample.rows.num_rows,
        contents=contents,
        text_bytes=bytes_of * scale,
        longest_bytes=pc.max(pc.binary_length(text)).as_py() or 0,
        proposals=proposed.proposals,
        pairs=total,
        low=max(float(len(proposed.pairs)), total - spread),
        high=total + spread,
        edges=total * verified.share,
        candidates=candidates,
        shingles=candidates * verified.shingles,
        seconds_sketching=seconds_sketching * scale,
        seconds_verifying=candidates * verified.seconds_shingling + total * verified.seconds_comparing,
    )


def _contents(found: minhash.Sketch, fresh: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """(the row of the first document of each fresh content, how many documents it has) in the sample."""
    of_fresh = np.flatnonzero(fresh)
    if not len(of_fresh):
        return of_fresh, of_fresh
    _, first, copies = np.unique(found.content[of_fresh], axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return of_fresh[first[order]], copies[order]


class _Proposed(NamedTuple):
    pairs: Ints
    """Different pairs; nodes of the sample are counted from `num_earlier` on."""
    weight: Floats
    """For how many pairs of the whole each stands."""
    proposals: float


def _proposed(
    keys: Hashes,
    chance: Floats,
    share: float,
    cap: int,
    heads: int,
    earlier: tuple[NDArray[np.uint8], Hashes, Ints] | None,
    num_earlier: int,
) -> _Proposed:
    """What the bands propose for contents that are in the sample with these chances."""
    numbers = np.arange(len(keys)) + num_earlier
    pairs, weights = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for band in range(keys.shape[1] if len(keys) else 0):
        own = np.ascontiguousarray(keys[:, band])
        old = earlier[0] == band if earlier else np.zeros(0, np.bool_)
        old_keys, old_nodes = (earlier[1][old], earlier[2][old]) if earlier else (np.empty(0, np.uint64), np.empty(0, np.int64))
        wanted = np.concatenate([np.zeros(len(old_keys), np.bool_), np.ones(len(own), np.bool_)])
        found = clusters.propose(
            np.concatenate([old_keys, own]), np.concatenate([old_nodes, numbers]), wanted, bucket_cap=cap, bucket_heads=heads
        )
        worse = found.pairs[:, 1] - num_earlier
        better = found.pairs[:, 0] - num_earlier
        inside = better >= 0
        weight = np.where(inside, 1 / (chance[np.maximum(better, 0)] * chance[worse]), 1 / chance[worse])
        _, bucket, count = np.unique(own, return_inverse=True, return_counts=True)
        size = np.bincount(bucket, 1 / chance, len(count)).astype(np.float64)
        # a bucket that is full in the corpus proposes fewer pairs than its documents have
        few = count < FEW
        most = np.where(few, np.inf, _pairs_of(size, cap, heads) / np.maximum(1, _pairs_of(count.astype(np.float64), cap, heads)))
        pairs.append(found.pairs)
        weights.append(np.where(inside, np.minimum(weight, most[bucket[worse]]), weight))
    every, weight = np.concatenate(pairs), np.concatenate(weights)
    different, place = np.unique(every, axis=0, return_inverse=True)
    most = np.zeros(len(different))
    np.maximum.at(most, place.reshape(-1), weight)
    return _Proposed(different, most, float(weight.sum()))


def _pairs_of(size: Floats, cap: int, heads: int) -> Floats:
    """Pairs that a bucket of so many documents proposes."""
    full = np.minimum(size, cap)
    return full * (full - 1) / 2 + heads * np.maximum(0, size - cap)


def _spread(found: _Proposed, num_earlier: int, known: Ints, label: Ints, share: float) -> float:
    """Two standard deviations of the number of pairs, the groups in the sample being independent; three pairs, where none was seen."""
    if share >= 1:
        return 0.0
    if not len(found.pairs):
        return 3 / max(share, 1e-12) ** 2
    group = found.pairs[:, 1].copy()
    inside = found.pairs[:, 0] >= num_earlier
    group[inside] = label[np.searchsorted(known, found.pairs[inside, 1] - num_earlier)] + num_earlier
    of_group = np.bincount(np.unique(group, return_inverse=True)[1], found.weight)
    return float(2 * np.sqrt((1 - share) * (of_group**2).sum()))


class _Verified(NamedTuple):
    share: float
    """Of pairs that share at least half of the smaller one's shingles."""
    shingles: float
    """Distinct ones of a candidate."""
    seconds_shingling: float
    """For a candidate."""
    seconds_comparing: float
    """For a pair."""


def _verified(text: pa.Array, rows: Ints, pairs: Ints, weight: Floats, config: SketchConfig) -> _Verified:
    """Compare pairs of a sample as the index does; where it has none, the first documents show how many shingles one has."""
    step = max(1, -(-len(pairs) // MAX_VERIFIED))
    pairs, weight = pairs[::step], weight[::step]
    nodes = np.unique(pairs) if len(pairs) else np.arange(min(len(rows), MIN_DOCUMENTS))
    none = np.empty(0, np.int64)
    minhash.shared_counts(
        *minhash.shingle_hashes(text.slice(0, 1), config), none, none
    )  # what a process prepares once is no work
    began = time.perf_counter()
    values, offsets = minhash.shingle_hashes(text.take(pa.array(rows[nodes])), config)
    shingled = time.perf_counter()
    left, right = (np.searchsorted(nodes, pairs[:, side]) for side in (0, 1))
    shared = minhash.shared_counts(values, offsets, left, right)
    compared = time.perf_counter()
    sizes = np.diff(offsets)
    enough = 2 * shared >= np.maximum(1, np.minimum(sizes[left], sizes[right]))
    return _Verified(
        share=float(weight[enough].sum() / weight.sum()) if len(pairs) else 1.0,
        shingles=float(sizes.mean()) if len(nodes) else 0.0,
        seconds_shingling=(shingled - began) / max(1, len(nodes)),
        seconds_comparing=(compared - shingled) / max(1, len(pairs)),
    )
