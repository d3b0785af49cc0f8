"""From band keys to decisions: candidate pairs, stars around kept documents, loose components for the split.

Documents are numbers 0 … num_docs - 1 and pairs are int64 (num_pairs, 2). A removed document always has a kept neighbour of
sufficient verified similarity and no two kept documents are such neighbours: `stars` is the lexicographically first maximal
independent set under the rank, so chains cannot form. Every result depends on the set of pairs only, never on
their order. Costs: sorting one band's keys; then time and memory linear in documents and pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

__all__ = ["Candidates", "Stars", "candidate_pairs", "compile_kernels", "components", "stars", "unique_pairs"]

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]


class Candidates(NamedTuple):
    """What one band proposes, and what it held back: buckets above the cap cost recall, never a wrong removal."""

    pairs: Ints
    """(num_pairs, 2) document numbers, the better-ranked document first; unverified."""
    num_capped_buckets: int
    """Buckets with more documents than the cap."""
    num_skipped_pairs: int
    """Pairs of capped buckets that were not proposed."""


class Stars(NamedTuple):
    """Who stays and, for each removed document, on whose account it goes."""

    keeper: Ints
    """(num_docs,) the kept document that stands for this one, -1 where the document itself is kept."""
    similarity: Floats
    """(num_docs,) verified similarity to the keeper, NaN where the document is kept."""


def _frozen(dtype: types.Type, ndim: int = 1) -> types.Array:
    return types.Array(dtype, ndim, "C", readonly=True)


_I64, _U64, _F64, _PAIRS = _frozen(types.int64), _frozen(types.uint64), _frozen(types.float64), _frozen(types.int64, 2)
_PAIRS_AND_COUNTS = types.Tuple((types.int64[:, ::1], types.int64, types.int64))
_STARS = types.Tuple((types.int64[::1], types.float64[::1]))


@njit(_PAIRS_AND_COUNTS(_U64, _I64, types.int64, types.int64), cache=True, nogil=True)
def _pair_kernel(keys: Hashes, docs: Ints, bucket_cap: int, bucket_heads: int) -> tuple[Ints, int, int]:
    """keys u64[n] ascending, docs i64[n] by rank within a key. Runs twice: counts the pairs, then writes them."""
    pairs = np.empty((0, 2), np.int64)
    num_pairs, num_capped, num_skipped = 0, 0, 0
    for writing in range(2):
        num_pairs, num_capped, num_skipped, start = 0, 0, 0, 0
        while start < keys.size:
            end = start + 1
            while end < keys.size and keys[end] == keys[start]:
                end += 1
            size, capped = end - start, end - start > bucket_cap
            heads = bucket_heads if capped else size
            for head in range(start, start + min(heads, size)):
                if writing:
                    for other in range(head + 1, end):
                        pairs[num_pairs + other - head - 1, 0] = docs[head]
                        pairs[num_pairs + other - head - 1, 1] = docs[other]
                num_pairs += end - head - 1
            if capped:
                tail = size - min(heads, size)
                num_capped += 1
                num_skipped += tail * (tail - 1) // 2
            start = end
        if not writing:
            pairs = np.empty((num_pairs, 2), np.int64)
    return pairs, num_capped, num_skipped


@njit(_STARS(types.int64, _PAIRS, _F64, _I64, _I64), cache=True, nogil=True)
def _star_kernel(num_docs: int, pairs: Ints, similarity: Floats, order: Ints, rank: Ints) -> tuple[Ints, Floats]:
    # Compressed adjacency, both directions: neighbours of d are neighbour[first[d]:first[d + 1]].
    first = np.zeros(num_docs + 2, np.int64)
    for pair in range(pairs.shape[0]):
        first[pairs[pair, 0] + 2] += 1
        first[pairs[pair, 1] + 2] += 1
    first = np.cumsum(first)
    neighbour = np.empty(2 * pairs.shape[0], np.int64)
    weight = np.empty(2 * pairs.shape[0], np.float64)
    for pair in range(pairs.shape[0]):
        for side in range(2):
            slot = first[pairs[pair, side] + 1]
            neighbour[slot], weight[slot] = pairs[pair, 1 - side], similarity[pair]
            first[pairs[pair, side] + 1] = slot + 1
    keeper = np.full(num_docs, -1, np.int64)
    best = np.full(num_docs, np.nan)
    kept = np.zeros(num_docs, np.bool_)
    for doc in order:
        for slot in range(first[doc], first[doc + 1]):
            other, value = neighbour[slot], weight[slot]
            if not kept[other]:
                continue
            if keeper[doc] < 0 or value > best[doc] or (value == best[doc] and rank[other] < rank[keeper[doc]]):
                keeper[doc], best[doc] = other, value
        kept[doc] = keeper[doc] < 0
    return keeper, best


@njit(types.int64[::1](types.int64, _PAIRS), cache=True, nogil=True)
def _component_kernel(num_docs: int, pairs: Ints) -> Ints:
    label = np.arange(num_docs)
    for pair in range(pairs.shape[0]):
        left, right = pairs[pair, 0], pairs[pair, 1]
        while label[left] != left:  # path halving
            label[left] = label[label[left]]
            left = label[left]
        while label[right] != right:
            label[right] = label[label[right]]
            right = label[right]
        label[max(left, right)] = min(left, right)
    for doc in range(num_docs):  # a parent is never larger than its child, so it is already final
        label[doc] = label[label[doc]]
    return label


def candidate_pairs(
    band_keys_column: Hashes,
    row_index: Ints,
    rank: Ints | None = None,
    *,
    bucket_cap: int = 64,
    bucket_heads: int = 8,
) -> Candidates:
    """The pairs that one band proposes: documents `row_index[r]` whose keys `band_keys_column[r]` are equal.

    `rank[r]` orders the rows (smaller is better; by default the document number). It must be the order that `stars` is
    given: else the heads of a large bucket may all be removed, and the rest of it would stay for want of a pair.

    A bucket of up to `bucket_cap` documents proposes all its pairs; a larger one pairs each document with the bucket's
    `bucket_heads` best-ranked only, so 100,000 identical pages make 800,000 pairs and not 5 billion. That suffices
    where the bucket is one group of duplicates, since the best-ranked is the one that stays; a pair missed in a mixed
    bucket can still be proposed by another band, and the number of pairs held back is returned. Raises ValueError for
    columns of unequal length.
    """
    rank = row_index if rank is None else rank
    if not len(band_keys_column) == len(row_index) == len(rank):
        raise ValueError(f"{len(band_keys_column)} keys, {len(row_index)} documents, {len(rank)} ranks: one each expected")
    order = np.lexsort((row_index, rank, band_keys_column))
    keys = np.ascontiguousarray(band_keys_column[order], np.uint64)
    docs = np.ascontiguousarray(row_index[order], np.int64)
    return Candidates(*_pair_kernel(keys, docs, bucket_cap, bucket_heads))


def unique_pairs(*bands: Ints) -> Ints:
    """The union of the bands' pairs: each pair once, smaller document first, ascending; pairs of one document with
    itself are left out. The one form in which pairs are verified, stored and compared."""
    pairs = np.sort(np.concatenate([np.empty((0, 2), np.int64), *bands]), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    fresh = np.ones(len(pairs), np.bool_)
    fresh[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return np.ascontiguousarray(pairs[fresh])


def stars(num_docs: int, pairs: Ints, similarity: Floats, rank: Ints, min_similarity: float) -> Stars:
    """Goes through the documents in rank order and removes one exactly when it has an already kept neighbour.

    Neighbours are pairs with verified `similarity` of at least `min_similarity`. `rank` (num_docs,) is a total order:
    smaller stays first. The keeper is the most similar kept neighbour, ties go to the better rank. Pairs may repeat
    and come in any order and direction. Raises ValueError when ranks repeat, lengths differ or a pair is out of range.
    """
    pairs = _checked(num_docs, pairs)
    order = np.argsort(rank, kind="stable")
    if len(rank) != num_docs or (rank[order][1:] == rank[order][:-1]).any():
        raise ValueError(f"{num_docs} distinct ranks expected, got {len(np.unique(rank))} among {len(rank)}")
    if len(similarity) != len(pairs):
        raise ValueError(f"{len(pairs)} pairs but {len(similarity)} similarities")
    near = np.asarray(similarity) >= min_similarity
    chosen, weights = np.ascontiguousarray(pairs[near]), np.ascontiguousarray(similarity[near], np.float64)
    return Stars(*_star_kernel(num_docs, chosen, weights, order, np.ascontiguousarray(rank, np.int64)))


def components(num_docs: int, pairs: Ints) -> Ints:
    """(num_docs,) the smallest document of each document's connected component: loose clusters, chained on purpose.

    For keeping relatives on one side of a split; never for removal. Raises ValueError when a pair is out of range.
    """
    return _component_kernel(num_docs, _checked(num_docs, pairs))


def _checked(num_docs: int, pairs: Ints) -> Ints:
    pairs = np.ascontiguousarray(pairs, np.int64).reshape(-1, 2)
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < num_docs:
        raise ValueError(f"pairs name documents {pairs.min()} to {pairs.max()}, there are {num_docs}")
    return pairs


def compile_kernels() -> None:
    """Runs every kernel once, so that later processes load them from numba's cache (import alone compiles them)."""
    docs = np.arange(2)
    pairs = candidate_pairs(np.zeros(2, np.uint64), docs).pairs
    stars(2, pairs, np.ones(len(pairs)), docs, 0.5)
    components(2, pairs)
