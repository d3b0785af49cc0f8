"""The slow reference of deduplication, worked by hand where that is possible, and what the design promises of it whatever the corpus."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.minhash import SketchConfig

from . import edits
from .reference_dedup import (
    Edge,
    Fate,
    Record,
    candidates,
    copies,
    copies_seen,
    edges_of,
    edges_of_all_pairs,
    fates,
    measured,
    numbered,
    stars,
    without,
)

CAREFUL = SketchConfig()
# one word a shingle, one hash a band: whatever shares a word or two meets somewhere
SMALL = SketchConfig(shingle_length=1, num_bands=4, rows_per_band=1)
SEEDS = st.integers(0, 10_000)


def jaccard(one: str, other: str) -> float:
    left, right = measured(one, CAREFUL).shingles, measured(other, CAREFUL).shingles
    return len(left & right) / len(left | right)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 30), st.integers(0, 30))
def test_planted_pairs_have_the_similarity_they_are_planted_with(seed: int, shared: int, left: int, right: int) -> None:
    assert jaccard(*edits.pair(seed, shared, left, right)) == shared / (shared + left + right)


def test_planted_chains_and_loops_have_the_similarity_they_are_planted_with() -> None:
    links = edits.chain(3, 4, 80, 7)
    for (i, one), (j, other) in combinations(enumerate(links), 2):
        assert jaccard(one, other) == (80 - 7 * (j - i)) / (80 + 7 * (j - i))
    twice, often = edits.loops(4, 30, 2), edits.loops(4, 30, 5)
    assert jaccard(twice, often) == 1 and measured(twice, CAREFUL).content != measured(often, CAREFUL).content


def test_numbers_follow_crawl_quality_length_and_id() -> None:
    first = [
        Record("d", "long text"),
        Record("c", "text", quality=0.1),
        Record("b", "texts", quality=0.1),
        Record("a", "texts", quality=0.1),
    ]
    second = [Record("0", "the longest of all texts", quality=0.9), Record("a", "texts", quality=1.0)]
    assert [one.doc_id for one in numbered([first, second])] == ["a", "b", "c", "d", "0"]


def test_a_chain_loses_every_second_link_and_no_more() -> None:
    texts = edits.chain(1, 5, 80, 8)  # neighbours 72/88 = 0.818, one further 64/96
    found = fates([[Record(str(place), text, quality=-place) for place, text in enumerate(texts)]], CAREFUL, every_pair=True)
    assert [found[str(place)].keeper for place in range(5)] == ["0", "0", "2", "2", "4"]
    assert found["1"] == Fate("0", 72 / 88, "near", "0")
    assert {one.cluster for one in found.values()} == {"0"}


def test_copies_go_to_their_node_or_to_its_keeper() -> None:
    one, other = edits.pair(1, 90, 0, 10)
    crawl = [Record("a", other), Record("b", other.upper()), Record("c", one), Record("d", one + "!")]
    assert fates([crawl], CAREFUL, every_pair=True) == {
        "a": Fate("a", None, "kept", "a"),
        "b": Fate("a", 1.0, "exact", "a"),
        "d": Fate("a", 0.9, "near", "a"),  # a character longer than c, so it is the node
        "c": Fate("a", 0.9, "exact", "a"),
    }
    alone = fates(without([crawl], doc_ids={"a", "b"}), CAREFUL)
    assert alone == {"d": Fate("d", None, "kept", "d"), "c": Fate("d", 1.0, "exact", "d")}


def test_the_most_similar_kept_document_is_named_and_ties_go_to_the_better() -> None:
    edge = {(0, 2): Edge(8, 10, 9), (1, 2): Edge(9, 10, 10), (0, 3): Edge(9, 10, 10), (1, 3): Edge(9, 10, 10)}
    near = {pair: one.similarity("jaccard") for pair, one in edge.items()}
    assert stars(range(4), near, 0.7) == {0: None, 1: None, 2: (1, 9 / 11), 3: (0, 9 / 11)}
    assert Edge(5, 5, 50).similarity("containment") == 1 and Edge(5, 5, 50).similarity("jaccard") == 0.1
    assert Edge(0, 0, 0).similarity("containment") == Edge(0, 0, 0).similarity("jaccard") == 0


def test_a_full_bucket_pairs_with_its_first_and_a_node_below_the_cap_with_all_before_it() -> None:
    config = SketchConfig(shingle_length=1, num_bands=1, rows_per_band=1)
    order = numbered([[Record(f"{place:02d}", f"mill wheel turns {place:02d}", quality=-place) for place in range(10)]])
    keys = [measured(one.text, config).bands[0] for one in order]
    bucket = [number for number, key in enumerate(keys) if key == max(keys, key=keys.count)]
    assert len(bucket) >= 7
    found = candidates(order, range(10), config, 4, 2)
    place = {number: at for at, number in enumerate(bucket)}
    expected = {(left, right) for left, right in combinations(bucket, 2) if place[right] < 4 or place[left] < 2}
    assert {pair for pair in found if pair[0] in place and pair[1] in place} == expected
    assert all(keys[left] == keys[right] for left, right in found)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(2, 6), st.integers(1, 3), st.sampled_from(["jaccard", "containment"]))
def test_what_is_added_later_changes_no_fate_of_before(seed: int, cap: int, heads: int, measure: str) -> None:
    dealt = edits.crawls(edits.crowded(seed), 4, seed)
    before: dict[str, Fate] = {}
    for upto in range(1, 5):
        now = fates(dealt[:upto], SMALL, 0.6, measure, cap, heads)  # type: ignore[arg-type]
        assert {one: now[one][:3] for one in before} == {one: fate[:3] for one, fate in before.items()}
        before = now


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.sampled_from([0.5, 0.6, 0.75, 1.0]), st.sampled_from(["jaccard", "containment"]))
def test_every_removal_names_a_kept_and_better_document(seed: int, least: float, measure: str) -> None:
    dealt = edits.crawls(edits.crowded(seed), 2, seed)
    found = fates(dealt, SMALL, least, measure)  # type: ignore[arg-type]
    place = {one.doc_id: number for number, one in enumerate(numbered(dealt))}
    for doc_id, fate in found.items():
        assert found[fate.keeper].level == "kept"
        assert fate.level == "kept" or (
            place[fate.keeper] < place[doc_id] and fate.similarity is not None and fate.similarity >= least
        )
        assert found[fate.keeper].cluster == fate.cluster or measure == "containment"


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.sampled_from([0.6, 0.75]))
def test_where_every_url_is_another_the_url_level_changes_nothing(seed: int, least: float) -> None:
    crawl = [replace(one, url=f"http://{place}.example/") for place, one in enumerate(edits.crowded(seed))]
    assert fates([crawl], SMALL, least, urls=True) == fates([crawl], SMALL, least)


def test_of_one_url_the_best_stays_and_a_content_that_is_elsewhere_too_is_not_lost() -> None:
    texts = [edits.passage(seed, 0, 40) for seed in range(3)]
    crawl = [
        Record("a", texts[0], "http://a.example/1", quality=0.9),
        Record("b", texts[1], "http://a.example/1", quality=0.8),
        Record("c", texts[1], "http://a.example/2", quality=0.7),
        Record("d", texts[1], "http://a.example/1", quality=0.6),
        Record("e", texts[2], "http://a.example/2", quality=0.5),
    ]
    found = fates([crawl], CAREFUL, urls=True)
    assert {one: fate[:3] for one, fate in found.items()} == {
        "a": ("a", None, "kept"),
        "b": ("a", None, "url"),
        "c": ("c", None, "kept"),
        "d": ("c", 1.0, "exact"),
        "e": ("c", None, "url"),
    }


@pytest.mark.soak
def test_planted_duplicates_are_found_and_others_are_left_alone() -> None:
    documents = [one for seed in range(6) for one in edits.mixed(seed, 40)]
    order = numbered([documents])
    truth = {pair: edge.similarity("jaccard") for pair, edge in edges_of_all_pairs(order, CAREFUL).items()}
    found = edges_of(order, candidates(order, copies(order, CAREFUL), CAREFUL), CAREFUL)
    near = {pair for pair, similarity in truth.items() if similarity >= 0.85}
    assert len(near) > 200
    assert len(near & found.keys()) / len(near) >= 0.97
    assert all(edge.similarity("jaccard") == truth[pair] for pair, edge in found.items())


def test_texts_without_words_are_copies_only_of_equal_signs() -> None:
    crawl = [Record("a", "…!", quality=1), Record("b", "🎉"), Record("c", " …!\n"), Record("d", "")]
    found = fates([crawl], CAREFUL, every_pair=True)
    assert {one: fate.level for one, fate in found.items()} == {"a": "kept", "b": "kept", "c": "exact", "d": "kept"}
    assert edges_of_all_pairs(numbered([crawl]), CAREFUL) == {}


def test_copies_are_counted_over_all_crawls() -> None:
    one, again = Record("a", "A mill."), Record("b", "a mill")
    assert copies_seen([[one], [one, again], [Record("c", "a river")]], CAREFUL) == {"a": 3, "b": 3, "c": 1}


@pytest.mark.parametrize("seed", range(3))
def test_mixed_corpora_hold_what_they_are_made_for(seed: int) -> None:
    found = fates(edits.crawls(edits.mixed(seed), 3, seed), CAREFUL)
    levels = [fate.level for fate in found.values()]
    assert min(map(levels.count, ("kept", "exact", "near"))) >= 5
