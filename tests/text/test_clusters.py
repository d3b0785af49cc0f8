from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text import clusters

Edge = tuple[int, int, float]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[Edge], np.ndarray]:
    """(num_docs, distinct edges with few distinct similarities so that ties happen, rank)."""
    num_docs = draw(st.integers(1, 12))
    ends = draw(st.lists(st.sampled_from(list(combinations(range(num_docs), 2)) or [(0, 0)]), unique=True, max_size=30))
    edges = [(*pair, draw(st.sampled_from([0.5, 0.8, 0.9, 1.0]))) for pair in ends if pair[0] != pair[1]]
    rank = np.array(draw(st.permutations(range(num_docs))), np.int64) * 3 - 5
    return num_docs, edges, rank


def run(num_docs: int, edges: list[Edge], rank: np.ndarray) -> clusters.Stars:
    pairs = np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2)
    return clusters.stars(num_docs, pairs, np.array([edge[2] for edge in edges], np.float64), rank, 0.8)


def plain_stars(num_docs: int, edges: list[Edge], rank: np.ndarray) -> list[tuple[int, float | None]]:
    near = {frozenset((left, right)): value for left, right, value in edges if value >= 0.8}
    kept: list[int] = []
    result: list[tuple[int, float | None]] = [(-1, None)] * num_docs
    for doc in sorted(range(num_docs), key=lambda doc: rank[doc]):
        found = [(-near[frozenset((doc, k))], rank[k], k) for k in kept if frozenset((doc, k)) in near]
        if found:
            result[doc] = (min(found)[2], -min(found)[0])
        else:
            kept.append(doc)
    return result


@settings(deadline=None)
@given(graphs())
def test_stars_equal_the_plain_greedy_reference(graph: tuple[int, list[Edge], np.ndarray]) -> None:
    keeper, similarity = run(*graph)
    values = [None if np.isnan(value) else value for value in similarity.tolist()]
    assert list(zip(keeper.tolist(), values, strict=True)) == plain_stars(*graph)


@settings(deadline=None)
@given(graphs())
def test_every_removed_document_has_a_kept_better_ranked_near_neighbour(graph: tuple[int, list[Edge], np.ndarray]) -> None:
    _, edges, rank = graph
    keeper, similarity = run(*graph)
    near = {frozenset(edge[:2]): edge[2] for edge in edges}
    for doc in np.flatnonzero(keeper >= 0).tolist():
        assert keeper[keeper[doc]] == -1
        assert rank[keeper[doc]] < rank[doc]
        assert near[frozenset((doc, int(keeper[doc])))] == similarity[doc] >= 0.8


@settings(deadline=None)
@given(graphs())
def test_no_two_kept_documents_are_near_neighbours(graph: tuple[int, list[Edge], np.ndarray]) -> None:
    kept = run(*graph).keeper == -1
    assert not any(kept[left] and kept[right] for left, right, value in graph[1] if value >= 0.8)


@settings(deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_stars_and_components_do_not_depend_on_order_direction_or_repeats(graph, rng) -> None:  # type: ignore[no-untyped-def]
    num_docs, edges, rank = graph
    other = [(right, left, value) if rng.random() < 0.5 else (left, right, value) for left, right, value in edges * 2]
    rng.shuffle(other)
    for ours, theirs in zip(run(num_docs, edges, rank), run(num_docs, other, rank), strict=True):
        assert np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")
    labels = [clusters.components(num_docs, np.array([e[:2] for e in es]).reshape(-1, 2)) for es in (edges, other)]
    assert np.array_equal(*labels)


def test_a_chain_loses_its_middle_and_keeps_both_ends() -> None:
    keeper = run(3, [(0, 1, 0.9), (1, 2, 0.9)], np.arange(3)).keeper
    assert keeper.tolist() == [-1, 0, -1]


def test_the_most_similar_keeper_is_named_and_ties_go_to_the_better_rank() -> None:
    rank = np.array([2, 1, 3])
    assert run(3, [(0, 2, 0.9), (1, 2, 0.8)], rank).keeper.tolist() == [-1, -1, 0]
    assert run(3, [(0, 2, 0.9), (1, 2, 0.9)], rank).keeper.tolist() == [-1, -1, 1]


def test_similarity_counts_from_the_threshold_on() -> None:
    below = np.nextafter(0.8, 0)
    assert run(2, [(0, 1, 0.8)], np.arange(2)).keeper.tolist() == [-1, 0]
    assert run(2, [(0, 1, float(below))], np.arange(2)).keeper.tolist() == [-1, -1]


def test_malformed_input_is_refused() -> None:
    pair, one = np.array([[0, 1]]), np.ones(1)
    with pytest.raises(ValueError, match="2 distinct ranks expected"):
        clusters.stars(2, pair, one, np.zeros(2, np.int64), 0.8)
    with pytest.raises(ValueError, match="there are 1"):
        clusters.components(1, pair)
    with pytest.raises(ValueError, match="1 pairs but 2 similarities"):
        clusters.stars(2, pair, np.ones(2), np.arange(2), 0.8)
    with pytest.raises(ValueError, match="one each expected"):
        clusters.candidate_pairs(np.zeros(2, np.uint64), np.arange(3))


@settings(deadline=None)
@given(graphs())
def test_components_are_labelled_by_their_smallest_document(graph: tuple[int, list[Edge], np.ndarray]) -> None:
    num_docs, edges, _ = graph
    expected = list(range(num_docs))
    for _ in range(num_docs):  # relaxation until nothing changes
        for left, right, _value in edges:
            expected[left] = expected[right] = min(expected[left], expected[right])
    assert clusters.components(num_docs, np.array([e[:2] for e in edges]).reshape(-1, 2)).tolist() == expected


KEYS = st.lists(st.sampled_from([1, 2, 3, 2**64 - 1]), max_size=20)


@settings(deadline=None)
@given(KEYS, st.randoms(use_true_random=False))
def test_buckets_under_the_cap_propose_exactly_the_pairs_of_equal_keys(keys: list[int], rng) -> None:  # type: ignore[no-untyped-def]
    docs = rng.sample(range(100), len(keys))
    found = clusters.candidate_pairs(np.array(keys, np.uint64), np.array(docs, np.int64))
    expected = {tuple(sorted((docs[i], docs[j]))) for i, j in combinations(range(len(keys)), 2) if keys[i] == keys[j]}
    assert sorted(map(tuple, found.pairs.tolist())) == sorted(expected)
    assert (found.num_capped_buckets, found.num_skipped_pairs) == (0, 0)


@settings(deadline=None)
@given(KEYS, st.integers(1, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_candidates_do_not_depend_on_row_order_and_account_for_every_pair(keys, cap, heads, rng) -> None:  # type: ignore[no-untyped-def]
    rows = [(key, doc, rank) for (doc, key), rank in zip(enumerate(keys), rng.sample(range(99), len(keys)), strict=True)]
    results = []
    for _ in range(2):
        columns = np.array(rows, np.uint64).reshape(-1, 3)
        docs, ranks = columns[:, 1].astype(np.int64), columns[:, 2].astype(np.int64)
        results.append(clusters.candidate_pairs(columns[:, 0], docs, ranks, bucket_cap=cap, bucket_heads=heads))
        rng.shuffle(rows)
    assert np.array_equal(results[0].pairs, results[1].pairs)
    num_equal = sum(a == b for a, b in combinations(keys, 2))
    assert len(clusters.unique_pairs(results[0].pairs)) == len(results[0].pairs) == num_equal - results[0].num_skipped_pairs
    assert results[0].num_capped_buckets == sum(keys.count(key) > cap for key in set(keys))


def test_a_bucket_of_identical_pages_stays_linear_and_still_finds_its_best_ranked() -> None:
    num_docs = 100_000
    rank = np.arange(num_docs)[::-1].copy()
    found = clusters.candidate_pairs(np.zeros(num_docs, np.uint64), np.arange(num_docs), rank)
    assert len(found.pairs) < 8 * num_docs
    assert len(found.pairs) + found.num_skipped_pairs == num_docs * (num_docs - 1) // 2
    keeper = clusters.stars(num_docs, found.pairs, np.ones(len(found.pairs)), rank, 0.8).keeper
    assert keeper[-1] == -1
    assert (keeper[:-1] == num_docs - 1).all()


def test_the_union_of_bands_holds_each_pair_once_in_one_form() -> None:
    bands = [np.array([[3, 1], [1, 2]]), np.array([[1, 3], [2, 2]]), np.empty((0, 2), np.int64)]
    assert clusters.unique_pairs(*bands).tolist() == [[1, 2], [1, 3]]
    assert clusters.unique_pairs().shape == (0, 2)
