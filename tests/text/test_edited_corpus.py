"""The corpus that deduplication is measured on, and what is taken to be true of it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import dedup, dedup_truth, edited_corpus
from benchmarks.dedup_truth import Truth
from benchmarks.edited_corpus import EditedCorpusConfig, Kind, Plan, Sentences
from expectations.schemas import DOCUMENTS
from infra.dataset import open_version
from tasks.text import clusters, minhash
from tasks.text.minhash import SketchConfig
from tasks.web import demo

SERVICES = ("ec2", "iam", "rds", "s3", "sagemaker")


@pytest.fixture(scope="module")
def sentence_list() -> list[str]:
    pytest.importorskip("botocore")
    return edited_corpus.split_sentences(
        text for name in SERVICES for text in edited_corpus.documentation_of(demo._read_service(name))
    )


@pytest.fixture(scope="module")
def sentences(sentence_list: list[str]) -> Sentences:
    return edited_corpus.sentences_of(pa.array(sentence_list))


def plan_of(num_documents: int = 1500, **changes: object) -> Plan:
    return edited_corpus.make_plan(
        EditedCorpusConfig(num_documents=num_documents, median_words=300, sentences="", **changes)  # type: ignore[arg-type]
    )


def similarities(rows: Plan, sentences: Sentences) -> dict[tuple[int, int], float]:
    """Of each pair of rows that share a shingle, by plain sets."""
    sets = [plain_shingles(text) for text in edited_corpus.texts_of_plan(rows, sentences).to_pylist()]
    return {
        (left, right): len(sets[left] & sets[right]) / len(sets[left] | sets[right])
        for left, right in combinations(range(len(sets)), 2)
        if sets[left] & sets[right]
    }


def plain_shingles(text: str) -> set[str]:
    words = minhash.normalise(text, SketchConfig()).split()
    return {" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))} if words else set()


def test_sentences_are_split_at_their_ends_and_kept_once() -> None:
    texts = [
        "One two three four five six. one two three four five\nsix seven.",
        "ONE two three  four five six.",
        "a b c d e f\tg",
    ]
    assert edited_corpus.split_sentences(texts) == ["One two three four five six.", "a b c d e f g"]


def test_words_of_sentences_are_found_in_their_bytes() -> None:
    found = edited_corpus.sentences_of(pa.array(["left out", "été a b", "word"]).slice(1))
    words = [bytes(found.data[start:end]).decode() for start, end in zip(found.starts, found.ends, strict=True)]
    assert words == ["été", "a", "b", "word"]
    assert found.first.tolist() == [0, 3, 4]


def test_a_text_follows_from_its_row_alone(sentences: Sentences) -> None:
    rows = plan_of(200)
    whole = edited_corpus.texts_of_plan(rows, sentences).to_pylist()
    parts = [edited_corpus.texts_of_plan(part, sentences).to_pylist() for part in (rows[:7], rows[7:150], rows[150:])]
    assert [text for part in parts for text in part] == whole
    assert edited_corpus.texts_of_plan(rows[::-1], sentences).to_pylist() == whole[::-1]


def test_a_text_that_is_not_edited_is_whole_sentences(sentences: Sentences, sentence_list: list[str]) -> None:
    [text] = edited_corpus.texts_of_plan(plan_of(1, shares={"single": 1.0}), sentences).to_pylist()
    known = sorted(sentence_list, key=len, reverse=True)
    left = text.replace("\n", " ")
    while left:
        sentence = next(one for one in known if left.startswith(one))
        left = left[len(sentence) :].removeprefix(" ")


def test_kinds_have_their_shares_and_families_their_sizes() -> None:
    rows = plan_of(10_000)
    sizes = {kind: np.unique(rows["family"][rows["kind"] == kind], return_counts=True)[1] for kind in Kind}
    assert [int(sizes[kind].sum()) for kind in Kind] == [2500, 3000, 1500, 500, 1000, 500, 1000]
    assert set(sizes[Kind.SINGLE]) == {1}
    assert set(sizes[Kind.PAIR]) == {2}
    assert set(sizes[Kind.SITE]) == {200}
    assert sizes[Kind.BUCKET].tolist() == [1000]
    assert sizes[Kind.STAR].max() == 10
    assert len(set(edited_corpus.document_ids(rows, 0))) == len(rows)


@pytest.mark.soak
def test_copies_are_equal_and_unrelated_documents_share_next_to_nothing(sentences: Sentences) -> None:
    rows = plan_of(300)
    texts = edited_corpus.texts_of_plan(rows, sentences).to_pylist()
    equal = [
        family for family in np.unique(rows["family"]) if len({texts[at] for at in np.flatnonzero(rows["family"] == family)}) == 1
    ]
    assert {Kind(kind) for kind in rows["kind"][np.isin(rows["family"], equal)]} >= {Kind.COPY, Kind.BUCKET}
    unlike = [
        one for (left, right), one in similarities(rows, sentences).items() if rows["family"][left] != rows["family"][right]
    ]
    assert max(unlike) < 0.3


@pytest.mark.soak
def test_edits_are_planted_at_the_rate_of_their_similarity(sentences: Sentences) -> None:
    rows = np.sort(plan_of(400, shares={"pair": 1.0}), order=["family", "copy"])
    wanted = (lambda unchanged: unchanged / (2 - unchanged))((1 - rows["edit_rate"][1::2, 0]) ** 5)
    exact = dedup.pairs_of(rows, sentences, SketchConfig()).jaccard
    assert np.abs(exact - wanted).mean() < 0.07  # a text of 300 words has few edits
    assert abs((exact - wanted).mean()) < 0.04
    assert wanted.min() < 0.1
    assert wanted.max() > 0.9


def test_the_ends_of_a_chain_are_further_apart_than_its_neighbours(sentences: Sentences) -> None:
    rows = np.sort(plan_of(150, shares={"chain": 1.0}), order=["family", "copy"])
    found = similarities(rows, sentences)
    steps, ends = [], []
    for first in range(0, len(rows), 3):
        steps += [found[first, first + 1], found[first + 1, first + 2]]
        ends.append(found[first, first + 2])
    assert abs(np.mean(steps) - 0.84) < 0.03
    assert abs(np.mean(ends) - 0.72) < 0.04


@pytest.mark.soak
def test_pages_of_a_site_are_alike_but_no_duplicates(sentences: Sentences) -> None:
    found = similarities(plan_of(200, shares={"site": 1.0}), sentences)
    assert 0.1 < np.mean(list(found.values())) < 0.5
    assert max(found.values()) < 0.75


def test_the_corpus_is_a_version_of_documents(tmp_path: Path, sentence_list: list[str]) -> None:
    path = tmp_path / "sentences.parquet"
    pq.write_table(pa.table({"sentence": sentence_list}), path)
    config = EditedCorpusConfig(num_documents=50, sentences=str(path), shard_documents=20)
    made = edited_corpus.make(tmp_path / "corpus", config, workers=1)
    tables = [shard.read() for shard in open_version(str(tmp_path / "corpus")).shards()]
    assert [table.num_rows for table in tables] == [20, 20, 10]
    assert all(table.schema.equals(DOCUMENTS) for table in tables)
    texts = [text for table in tables for text in table["text"].to_pylist()]
    assert made.manifest().facts["num_text_bytes"] == sum(len(text.encode()) for text in texts)
    ids = sorted(edited_corpus.document_ids(edited_corpus.make_plan(config), config.seed))
    assert ids == sorted(one for table in tables for one in table["doc_id"].to_pylist())


WORDS = st.lists(st.sampled_from(["a", "b", "c", "Mill", "mill", "12"]), max_size=12).map(" ".join)


@settings(deadline=None, max_examples=50)
@given(st.lists(WORDS, max_size=8), st.sampled_from([0.0, 0.3, 0.8]))
def test_truth_is_that_of_plain_sets(texts: list[str], least: float) -> None:
    config = SketchConfig(shingle_length=2)
    sets = []
    for text in texts:
        words = minhash.normalise(text, config).split()
        sets.append(frozenset(" ".join(words[at : at + 2]) for at in range(max(1, len(words) - 1)) if words))
    truth = dedup_truth.truth_of(pa.array(texts, pa.string()), config, least)
    assert len(set(sets)) == truth.num_nodes
    assert all((sets[i] == sets[j]) == (truth.node[i] == truth.node[j]) for i, j in combinations(range(len(texts)), 2))
    by_node = dict(zip(truth.node.tolist(), sets, strict=True))
    expected = {
        (i, j): len(by_node[i] & by_node[j]) / len(by_node[i] | by_node[j])
        for i, j in combinations(range(truth.num_nodes), 2)
        if by_node[i] & by_node[j]
    }
    found = {(int(i), int(j)): one for (i, j), one in zip(truth.pairs, truth.jaccard, strict=True)}
    assert found == {pair: one for pair, one in expected.items() if one >= least}


def test_a_tool_is_scored_by_pairs_removals_and_copies() -> None:
    # contents 0 (twice), 1, 2, 3: 0-1 are duplicates, 1-2 nearly, 3 is alone
    truth = Truth(np.array([0, 0, 1, 2, 3]), np.array([[0, 1], [1, 2]]), np.array([0.9, 0.7]))
    ours = dedup_truth.score(truth, np.array([True, False, False, True, True]))
    assert ours == (1.0, 1.0, 1.0, 1, 1)
    chained = dedup_truth.score(truth, np.array([True, False, False, False, True]))  # 2 goes for 1, which is gone
    assert chained == (1.0, 0.5, 1.0, 1, 2)
    blind = dedup_truth.score(truth, np.array([True, True, True, True, False]))
    assert blind == (0.0, 0.0, 0.0, 1, 1)


def test_datasketch_and_our_bands_propose_the_same_planted_pairs(sentences: Sentences) -> None:
    config = SketchConfig()
    texts = edited_corpus.texts_of_plan(plan_of(400, shares={"pair": 1.0}), sentences)
    index = MinHashLSH(num_perm=config.num_hashes, params=(config.num_bands, config.rows_per_band))
    sets = [[shingle.encode() for shingle in plain_shingles(text)] for text in texts.to_pylist()]
    sketches = list(MinHash.generator(sets, num_perm=config.num_hashes, seed=config.seed, hashfunc=minhash.element_hash))
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch)
    theirs = {(other, number) for number, sketch in enumerate(sketches) for other in index.query(sketch) if other < number}
    keys = minhash.band_keys(minhash.signatures(texts, config), config)
    bands = [clusters.propose(np.ascontiguousarray(column), np.arange(len(texts))).pairs for column in keys.T]
    assert {(int(left), int(right)) for left, right in clusters.unique_pairs(*bands)} == theirs
    assert len(theirs) > 50


@pytest.mark.soak
def test_datasketch_with_hashes_of_its_own_agrees_where_pairs_are_alike_or_apart(sentences: Sentences) -> None:
    config = SketchConfig()
    rows = np.sort(plan_of(1000, shares={"pair": 1.0}), order=["family", "copy"])
    pairs = dedup.pairs_of(rows, sentences, config)
    how = {"num_perm": config.num_hashes, "seed": 7}
    left, right = (
        MinHash.bulk([[one.encode() for one in plain_shingles(text)] for text in texts.to_pylist()], **how)
        for texts in (pairs.left_text, pairs.right_text)
    )
    shape = (config.num_bands, config.rows_per_band)
    found = np.array(
        [(a.hashvalues.reshape(shape) == b.hashvalues.reshape(shape)).all(axis=1).any() for a, b in zip(left, right, strict=True)]
    )
    ours = dedup.proposed(pairs, config)
    for group in dedup.sure_pairs(pairs.jaccard, pairs.jaccard):
        assert group.sum() > 20
        num_differing = int((group & (found != ours)).sum())
        assert dedup.chance_of(num_differing, pairs.jaccard[group], pairs.jaccard[group], config) >= dedup.MIN_CHANCE


def test_differences_count_by_how_likely_chance_makes_them() -> None:
    config, alike, apart = SketchConfig(), np.full(100, 0.97), np.full(500, 0.25)
    assert dedup.chance_of(0, alike, alike, config) == 1
    assert dedup.chance_of(1, alike, alike, config) < dedup.MIN_CHANCE
    assert dedup.chance_of(1, apart, apart, config) > 0.01
    assert dedup.chance_of(5, apart, apart, config) < dedup.MIN_CHANCE
