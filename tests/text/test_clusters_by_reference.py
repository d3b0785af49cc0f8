"""Proposals, stars, components and units of work against the slow reference, on numbers that are not dense."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text import clusters

from . import reference_dedup as reference

NUMBERS = st.lists(st.integers(0, 10**12), unique=True, max_size=14)
CAPS, HEADS = st.integers(1, 6), st.integers(1, 8)


def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """(keys, documents) of buckets."""
    return np.array([key for key, _ in rows], np.uint64), np.array([doc for _, doc in rows], np.int64)


def as_pairs(pairs: np.ndarray) -> list[tuple[int, int]]:
    return [(left, right) for left, right in pairs.tolist()]


def in_buckets(rows: list[tuple[int, int]], cap: int, heads: int) -> list[tuple[int, int]]:
    """The bucket rule, a second time and in other words: a pair is proposed if the worse is early enough, or the better is a head."""
    buckets = defaultdict(list)
    for key, doc in rows:
        buckets[key].append(doc)
    return sorted(
        (better, worse)
        for bucket in buckets.values()
        for better in bucket
        for worse in bucket
        if better < worse and (sum(one < worse for one in bucket) < cap or sum(one < better for one in bucket) < heads)
    )


@st.composite
def bands(draw: st.DrawFn) -> list[tuple[int, int]]:
    """(key, document), each document once, of keys that repeat, the largest among them; in any order."""
    return [(draw(st.sampled_from([0, 1, 2**63, 2**64 - 1])), doc) for doc in draw(NUMBERS)]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[int], dict[tuple[int, int], float]]:
    """(documents ascending, {(better, worse): similarity}) with few distinct similarities, so that there are ties."""
    docs = sorted(draw(NUMBERS))
    edges = {}
    for place, worse in enumerate(docs):
        for better in docs[:place]:
            if draw(st.booleans()):
                edges[better, worse] = draw(st.sampled_from([0.5, 0.8, 0.9, 1.0]))
    return docs, edges


@settings(deadline=None)
@given(bands(), st.data())
def test_entries_are_ordered_by_key_then_document(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    keys, docs = columns(data.draw(st.permutations(rows)))
    order = clusters.by_key(keys, docs)
    assert list(zip(keys[order].tolist(), docs[order].tolist(), strict=True)) == sorted(rows)


@given(bands(), CAPS, HEADS)
def test_buckets_propose_by_the_rule_and_count_what_they_hold_back(rows: list[tuple[int, int]], cap: int, heads: int) -> None:
    found = clusters.propose(*columns(rows), bucket_cap=cap, bucket_heads=heads)
    assert sorted(as_pairs(found.pairs)) == in_buckets(rows, cap, heads)
    assert len(found.pairs) + found.num_skipped == len(in_buckets(rows, 99, 1))
    sizes = [sum(key == one for one, _ in rows) for key in {key for key, _ in rows}]
    least = [*clusters.BUCKET_SIZES, 10**9]
    assert found.buckets.tolist() == [sum(low <= size < high for size in sizes) for low, high in pairwise(least)]


@settings(deadline=None)
@given(bands(), CAPS, HEADS, st.data())
def test_what_comes_later_proposes_what_is_missing_of_the_whole(
    rows: list[tuple[int, int]], cap: int, heads: int, data: st.DataObject
) -> None:
    whole = as_pairs(clusters.propose(*columns(rows), bucket_cap=cap, bucket_heads=heads).pairs)
    docs = sorted(doc for _, doc in rows)
    cut = docs[data.draw(st.integers(0, len(docs) - 1))] if docs else 0
    early = clusters.propose(*columns([row for row in rows if row[1] < cut]), bucket_cap=cap, bucket_heads=heads)
    keys, named = columns(data.draw(st.permutations(rows)))
    late = clusters.propose(keys, named, named >= cut, bucket_cap=cap, bucket_heads=heads)
    assert sorted(as_pairs(early.pairs) + as_pairs(late.pairs)) == sorted(whole)


@settings(deadline=None)
@given(graphs(), st.sampled_from([0.5, 0.8, 0.85, 1.0]), st.randoms(use_true_random=False))
def test_stars_are_the_reference_in_any_order_direction_and_with_repeats(graph, least, rng) -> None:  # type: ignore[no-untyped-def]
    docs, edges = graph
    near = {pair: similarity for pair, similarity in edges.items() if similarity >= least}
    given_ = [(*(pair if rng.random() < 0.5 else pair[::-1]), similarity) for pair, similarity in list(near.items()) * 2]
    rng.shuffle(given_)
    pairs = np.array([one[:2] for one in given_], np.int64).reshape(-1, 2)
    found = clusters.stars(pairs, np.array([one[2] for one in given_], np.float64))
    named = {doc for pair in near for doc in pair}
    assert found.content.tolist() == sorted(named)
    for doc, stays, keeper, value in zip(*(column.tolist() for column in found[:4]), strict=True):
        fate = reference.stars(docs, edges, least)[doc]
        assert (stays, keeper) == ((-1, fate[0]) if fate else (doc, -1))
        assert value == fate[1] if fate else np.isnan(value)
    assert len(found.crowded) == len(found.crowded_by) == 0


@settings(deadline=None)
@given(graphs(), st.data())
def test_of_a_group_one_stays_and_a_content_is_not_lost_for_it(graph, data) -> None:  # type: ignore[no-untyped-def]
    nodes, edges = graph
    extra = data.draw(st.lists(st.integers(10**12 + 1, 10**13), unique=True, max_size=6)) if nodes else []
    node_of = {**{node: node for node in nodes}, **{copy: data.draw(st.sampled_from(nodes)) for copy in extra}}
    numbers = sorted(node_of)
    group = {number: data.draw(st.integers(-1, 3)) for number in numbers}
    order = [reference.Record(str(number), "", url=f"{group[number]}") for number in numbers]
    place = {number: at for at, number in enumerate(numbers)}
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(place[node_of[number]], []).append(place[number])
    for number in numbers:  # of no group: a URL of its own
        if group[number] < 0:
            order[place[number]] = reference.Record(str(number), "", url=f"own {number}")
    near = {(place[left], place[right]): value for (left, right), value in edges.items()}
    expected = reference.by_documents(order, groups, near, 0.0)
    found = clusters.stars(
        np.array(list(edges), np.int64).reshape(-1, 2),
        np.array(list(edges.values()), np.float64),
        np.array(numbers, np.int64),
        np.array([node_of[number] for number in numbers], np.int64),
        np.array([7 * group[number] if group[number] >= 0 else -1 for number in numbers], np.int64),
    )
    crowded = dict(zip(found.crowded.tolist(), found.crowded_by.tolist(), strict=True))
    fate_of = {one[0]: one[1:] for one in zip(*(column.tolist() for column in found[:4]), strict=True)}
    for number in numbers:
        keeper, similarity, level = expected[place[number]]
        stays, its_keeper, value = fate_of[node_of[number]]
        assert (number in crowded) == (level == "url")
        if level == "url":
            assert crowded[number] == numbers[keeper]
        elif its_keeper >= 0:
            assert (its_keeper, value) == (numbers[keeper], similarity)
        else:
            assert stays == numbers[keeper]


@settings(deadline=None)
@given(graphs())
def test_components_are_called_by_their_smallest_document(graph) -> None:  # type: ignore[no-untyped-def]
    _, edges = graph
    named = {doc for pair in edges for doc in pair}
    docs, label = clusters.components(np.array(list(edges), np.int64).reshape(-1, 2))
    assert dict(zip(docs.tolist(), label.tolist(), strict=True)) == reference.components(named, edges)


@settings(deadline=None)
@given(graphs(), st.integers(1, 40), st.data())
def test_units_hold_every_pair_and_fit_in_memory(graph, most: int, data) -> None:  # type: ignore[no-untyped-def]
    _, edges = graph
    pairs = np.array(list(edges), np.int64).reshape(-1, 2)
    docs = np.unique(pairs)
    weight = np.array([data.draw(st.integers(0, 30)) for _ in docs], np.int64)
    found = clusters.units(pairs, docs, weight, most)
    assert len(found.unit) == len(pairs) and set(found.unit.tolist()) == set(range(found.num_units))
    heavy = dict(zip(docs.tolist(), weight.tolist(), strict=True))
    for unit in range(found.num_units):
        members = sorted((heavy[doc] for doc in np.unique(pairs[found.unit == unit]).tolist()), reverse=True)
        # two blocks of half of `most`, each with one document at its end that reaches out of it
        assert sum(members) < max(2, most) + sum(members[:2]), (members, most)


def test_twenty_thousand_of_one_bucket_stay_linear_and_so_does_the_next_crawl() -> None:
    docs = np.arange(0, 60_000, 3)
    keys = np.full(len(docs), 7, np.uint64)
    found = clusters.propose(keys, docs)
    assert len(found.pairs) == 64 * 63 // 2 + 8 * (len(docs) - 64)
    late = clusters.propose(keys, docs, docs >= 30_000)
    assert len(late.pairs) == 8 * 10_000
    with pytest.raises(ValueError, match="one each expected"):
        clusters.propose(keys, docs[1:])
