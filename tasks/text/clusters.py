"""From band keys to decisions: candidate pairs, units of work, stars around kept documents, loose components for the split.

Documents are called by their numbers, int64, of which the smaller is the better (`tasks/index.py`); they need not be dense. A pair is
(better, worse). A removed document always has a kept neighbour of sufficient verified similarity and no two kept documents are such
neighbours: `stars` is the lexicographically first maximal independent set in order of number, so chains cannot form. Every result depends
on the set of pairs only, never on their order. Costs: sorting one bucket's keys; then time and memory linear in pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

__all__ = ["Candidates", "Stars", "Units", "by_key", "compile_kernels", "components", "propose", "stars", "unique_pairs", "units"]

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BUCKET_SIZES = (2, 8, 64, 1_000, 10_000, 100_000)
"""Least sizes of the classes in which buckets are counted."""


class Candidates(NamedTuple):
    """What buckets propose, and what they hold back: a full bucket costs recall, never a wrong removal."""

    pairs: Ints
    """(num_pairs, 2) numbers, the better document first; unverified."""
    num_skipped: int
    """Pairs of full buckets that were not proposed."""
    buckets: Ints
    """Buckets by size: entry i counts those of at least BUCKET_SIZES[i] documents and fewer than the next."""


class Stars(NamedTuple):
    """Which contents stay, and on whose account the others go."""

    content: Ints
    """The contents that were judged, ascending."""
    stays: Ints
    """For each the document that stays of it, or -1."""
    keeper: Ints
    """For each that goes, the kept document that stands for it, else -1."""
    similarity: Floats
    """For each that goes, its verified similarity to that; else NaN."""
    crowded: Ints
    """Documents that go because a kept one is of their group; they say nothing about their content."""
    crowded_by: Ints
    """For each of them, that one."""


class Units(NamedTuple):
    """Pairs in units of work whose documents fit in memory together."""

    unit: NDArray[np.int32]
    """(num_pairs,) the unit of each pair."""
    num_units: int
    """Each of them has pairs."""
    member_of: Ints
    """Units with their documents, each once, ascending: the unit …"""
    member: Ints
    """… and the place of the document among all."""


def _frozen(dtype: types.Type, ndim: int = 1) -> types.Array:
    return types.Array(dtype, ndim, "C", readonly=True)


_I64, _U64, _F64, _PAIRS = _frozen(types.int64), _frozen(types.uint64), _frozen(types.float64), _frozen(types.int64, 2)
_FLAGS = _frozen(types.boolean)
_PROPOSED = types.Tuple((types.int64[:, ::1], types.int64, types.int64[::1]))
_STARS = types.Tuple((types.int64[::1], types.int64[::1], types.float64[::1], types.int64[::1]))


@njit(_PROPOSED(_U64, _I64, _FLAGS, types.int64, types.int64, _I64), cache=True, nogil=True)
def _pair_kernel(
    keys: Hashes, docs: Ints, wanted: Flags, bucket_cap: int, bucket_heads: int, sizes: Ints
) -> tuple[Ints, int, Ints]:
    """keys u64[n] ascending, docs i64[n] ascending within a key. Runs twice: counts the pairs, then writes them."""
    pairs = np.empty((0, 2), np.int64)
    buckets = np.zeros(sizes.size, np.int64)
    num_pairs, num_skipped = 0, 0
    for writing in range(2):
        num_pairs, num_skipped, start = 0, 0, 0
        while start < keys.size:
            end = start + 1
            while end < keys.size and keys[end] == keys[start]:
                if wanted[end]:
                    before = end - start
                    partners = before if before < bucket_cap else min(bucket_heads, before)
                    num_skipped += before - partners
                    if writing:
                        for partner in range(partners):
                            pairs[num_pairs + partner, 0] = docs[start + partner]
                            pairs[num_pairs + partner, 1] = docs[end]
                    num_pairs += partners
                end += 1
            if writing:
                for size_class in range(sizes.size - 1, -1, -1):
                    if end - start >= sizes[size_class]:
                        buckets[size_class] += 1
                        break
            start = end
        if not writing:
            pairs = np.empty((num_pairs, 2), np.int64)
    return pairs, num_skipped, buckets


@njit(_STARS(_I64, _I64, _I64, _I64, _I64, _F64, types.int64), cache=True, nogil=True)
def _star_kernel(
    content: Ints, group: Ints, first: Ints, neighbour: Ints, number: Ints, similarity: Floats, num_groups: int
) -> tuple[Ints, Ints, Floats, Ints]:
    """Documents in order of number, each with its dense content and its group or -1; neighbours of content c are at first[c]:first[c + 1].

    Returns positions of documents: what stays of each content, its keeper, the similarity; and who crowds each document out.
    """
    num_contents = first.size - 1
    stays, keeper = np.full(num_contents, -1, np.int64), np.full(num_contents, -1, np.int64)
    best = np.full(num_contents, np.nan)
    kept_of_group, crowded_by = np.full(num_groups, -1, np.int64), np.full(content.size, -1, np.int64)
    for doc in range(content.size):
        own = content[doc]
        if stays[own] >= 0 or keeper[own] >= 0:
            continue
        for slot in range(first[own], first[own + 1]):
            kept, value = stays[neighbour[slot]], similarity[slot]
            if kept < 0:
                continue
            if keeper[own] < 0 or value > best[own] or (value == best[own] and number[kept] < number[keeper[own]]):
                keeper[own], best[own] = kept, value
        if keeper[own] >= 0:
            continue
        if group[doc] >= 0 and kept_of_group[group[doc]] >= 0:
            crowded_by[doc] = kept_of_group[group[doc]]
            continue
        stays[own] = doc
        if group[doc] >= 0:
            kept_of_group[group[doc]] = doc
    return stays, keeper, best, crowded_by


@njit(types.int64[::1](types.int64, _I64, _I64), cache=True, nogil=True)
def _component_kernel(num_docs: int, lefts: Ints, rights: Ints) -> Ints:
    label = np.arange(num_docs)
    for pair in range(lefts.size):
        left, right = lefts[pair], rights[pair]
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


def propose(keys: Hashes, docs: Ints, wanted: Flags | None = None, *, bucket_cap: int = 64, bucket_heads: int = 8) -> Candidates:
    """The pairs that one band proposes: documents `docs[r]` whose keys `keys[r]` are equal share a bucket.

    In a bucket a document is paired with all better ones while they are fewer than `bucket_cap`, else with the best `bucket_heads` of
    them, so 100,000 identical keys make 800,000 pairs and not 5 billion. That depends on better documents only: documents that come
    later, with larger numbers, propose just what all of them together would. The best of a bucket that is one group of duplicates is
    the one that stays; a pair held back in a mixed bucket can still be proposed by another band, and those held back are counted.

    Args:
        wanted: whether to propose the pairs in which this document is the worse one; by default all.

    Raises:
        ValueError: columns of unequal length.
    """
    wanted = np.ones(len(keys), np.bool_) if wanted is None else wanted
    if not len(keys) == len(docs) == len(wanted):
        raise ValueError(f"{len(keys)} keys, {len(docs)} documents, {len(wanted)} flags: one each expected")
    order = by_key(keys, docs)
    sizes = np.array(BUCKET_SIZES, np.int64)
    return Candidates(*_pair_kernel(keys[order], docs[order], wanted[order], bucket_cap, bucket_heads, sizes))


def by_key(keys: Hashes, docs: Ints) -> Ints:
    """The order of (key, document): as `np.lexsort((docs, keys))`, but 3 to 4 times as fast where few keys are equal, and still faster
    where the keys are sorted runs put together."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    tied = np.zeros(len(keys), np.bool_)
    tied[1:] = ranked[1:] == ranked[:-1]
    tied[:-1] |= tied[1:]
    rows = np.flatnonzero(tied)
    order[rows] = order[rows[np.lexsort((docs[order[rows]], ranked[rows]))]]
    return order


def unique_pairs(*bands: Ints) -> Ints:
    """The union of the bands' pairs: each once, the better document first, ascending by worse, then better; none of a document
    with itself."""
    pairs = np.sort(np.concatenate([np.empty((0, 2), np.int64), *bands]), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    fresh = np.ones(len(pairs), np.bool_)
    fresh[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return np.ascontiguousarray(pairs[fresh])


def stars(
    pairs: Ints, similarity: Floats, documents: Ints | None = None, contents: Ints | None = None, groups: Ints | None = None
) -> Stars:
    """Goes through the documents in order of number and keeps one exactly when nothing kept before is like it: the lexicographically
    first maximal independent set.

    A document is like those of its content, those of contents that are neighbours of its own, and those of its group.

    Args:
        pairs: (num_pairs, 2) neighbouring contents, each called by its first document; in any order and direction, repeats do no harm.
        similarity: of each pair, verified.
        documents: those to judge, ascending; by default the first of each content in the pairs. A content's fate is that of its first
            document among these that is not crowded out of its group; later ones share it.
        contents: the content of each of these.
        groups: the group of each, of which one document at most is kept (such as captures of one URL), or -1.

    Returns:
        The keeper of a content is the kept document of its most similar neighbour, ties go to the better number.

    Raises:
        ValueError: lengths differ.
    """
    named = np.unique(pairs)
    documents = named if documents is None else documents
    contents = documents if contents is None else contents
    groups = np.full(len(documents), -1, np.int64) if groups is None else groups
    if len(similarity) != len(pairs) or not len(documents) == len(contents) == len(groups):
        raise ValueError(
            f"{len(pairs)} pairs but {len(similarity)} similarities, or {len(documents)} documents, {len(contents)} contents, "
            f"{len(groups)} groups: one each expected"
        )
    known = np.union1d(named, contents)
    ends = np.searchsorted(known, pairs.reshape(-1, 2))
    left, right = np.concatenate([ends[:, 0], ends[:, 1]]), np.concatenate([ends[:, 1], ends[:, 0]])
    order = np.argsort(left, kind="stable")
    codes = np.unique(groups, return_inverse=True)[1]
    columns = (
        np.searchsorted(known, contents),
        np.where(groups < 0, -1, codes),
        np.searchsorted(left[order], np.arange(len(known) + 1)),
        right[order],
        documents,
    )
    stays, keeper, best, crowded_by = _star_kernel(
        *(np.ascontiguousarray(column, np.int64) for column in columns),
        np.ascontiguousarray(np.tile(similarity, 2)[order], np.float64),
        int(codes.max(initial=0)) + 1,
    )
    of_position = np.append(documents, -1)
    crowded = np.flatnonzero(crowded_by >= 0)
    return Stars(known, of_position[stays], of_position[keeper], best, documents[crowded], documents[crowded_by[crowded]])


def components(pairs: Ints) -> tuple[Ints, Ints]:
    """(documents ascending, the smallest document of each one's connected component): loose clusters, chained on purpose.

    For keeping relatives together, in a split or in memory; never for removal.
    """
    docs = np.unique(pairs)
    ends = np.searchsorted(docs, pairs.reshape(-1, 2))
    label = _component_kernel(len(docs), np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]))
    return docs, docs[label]


def units(pairs: Ints, docs: Ints, weight: Ints, most: int) -> Units:
    """Divide pairs into units of work, such that the documents of one weigh less than three times `most` together (more if one alone
    is heavier).

    Whole components go into a unit together, so a document is mostly in one; a component that weighs more is cut into blocks of
    documents, with a unit for each two blocks that have pairs.

    Args:
        pairs: (num_pairs, 2), each once.
        docs: every document of the pairs, ascending.
        weight: (num_docs,) what each weighs, such as its shingles.
    """
    ends = np.searchsorted(docs, pairs).astype(np.int32)
    label = _component_kernel(len(docs), *(np.ascontiguousarray(ends[:, side], np.int64) for side in (0, 1)))
    order = np.argsort(label, kind="stable")
    before = np.cumsum(weight[order]) - weight[order]
    firsts = np.flatnonzero(np.diff(label[order], prepend=-1))
    component = np.empty(len(docs), np.int32)
    component[order] = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(docs)))
    start = before[firsts]
    large = np.diff(start, append=weight.sum()) > most
    # small components share units as they come
    shared_unit = np.zeros(len(firsts), np.int32)
    names, shared_unit[~large] = np.unique(start[~large] // max(1, most), return_inverse=True)
    unit, num_units = shared_unit[component[ends[:, 0]]], len(names)
    # of a large one, the documents of about half a unit are a block
    block = np.empty(len(docs), np.int64)
    block[order] = before // max(1, most // 2)
    of_large = np.flatnonzero(large[component[ends[:, 0]]])
    two_blocks = np.stack([component[ends[of_large, 0]], block[ends[of_large, 0]], block[ends[of_large, 1]]], axis=1)
    names, own_unit = np.unique(two_blocks, axis=0, return_inverse=True)
    unit[of_large] = num_units + own_unit.reshape(-1)
    members = np.concatenate([unit * np.int64(len(docs)) + ends[:, side] for side in (0, 1)])
    members.sort()  # in place, where `np.unique` would copy
    members = members[np.diff(members, prepend=-1) > 0]
    return Units(unit, num_units + len(names), *np.divmod(members, max(1, len(docs))))


def compile_kernels() -> None:
    """Runs every kernel once, so that later processes load them from numba's cache (import alone compiles them)."""
    pairs = propose(np.zeros(2, np.uint64), np.arange(2)).pairs
    stars(pairs, np.ones(len(pairs)))
    units(pairs, np.arange(2), np.ones(2, np.int64), 1)
