"""The sample that a tokeniser learns from: what a plain loop over all documents would draw, however they are cut into shards."""

from __future__ import annotations

import tempfile
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import dataset
from infra.dataset import Outcome, ShardRef
from tasks.learn import text_sample
from tasks.text.sampling import hashes

DOCUMENTS = st.lists(st.tuples(st.integers(0, 99), st.one_of(st.none(), st.text(max_size=9))), max_size=25)


def written(tables: list[pa.Table], folder: str) -> list[ShardRef]:
    receipts = [dataset.write_shard(folder, number, Outcome(table)) for number, table in enumerate(tables)]
    return dataset.shard_refs(folder, receipts)


def drawn(documents: list[tuple[int, str | None]], cuts: list[int], seed: int, max_bytes: int) -> list[str] | None:
    with tempfile.TemporaryDirectory() as folder:
        table = pa.table(
            {"doc_id": [f"{name:032x}" for name, _ in documents], "text": pa.array([text for _, text in documents], pa.string())},
            schema=pa.schema([("doc_id", pa.string()), ("text", pa.string())]),
        )
        ends = sorted({0, len(documents), *(cut % (len(documents) + 1) for cut in cuts)})
        shards = written([table.slice(a, b - a) for a, b in pairwise(ends)] or [table], f"{folder}/all")
        places = written([text_sample.places_in_shard(one, seed, max_bytes).kept for one in shards], f"{folder}/places")
        last = text_sample.last_place(places, max_bytes)
        if last is None:
            return None
        return sorted(text for one in shards for text in text_sample.texts_in_shard(one, seed, last).kept["text"].to_pylist())


def plainly(documents: list[tuple[int, str | None]], seed: int, max_bytes: int) -> list[str] | None:
    """One document after the other in the order of their hashes, and all of one hash together."""
    names = pa.array([f"{name:032x}" for name, _ in documents], pa.string())
    ranked = sorted(
        (place, text) for place, (_, text) in zip(hashes(names, seed, "tokeniser").tolist(), documents, strict=True) if text
    )
    taken: list[str] = []
    for at, (place, text) in enumerate(ranked):
        if sum(len(one.encode()) for one in taken) >= max_bytes and place != ranked[at - 1][0]:
            break
        taken.append(text)
    return sorted(taken) or None


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, cuts=st.lists(st.integers(0, 30), max_size=4), seed=st.integers(0, 3), max_bytes=st.integers(1, 60))
def test_the_sample_is_that_of_a_plain_loop_for_any_order_and_shards(
    documents: list[tuple[int, str | None]], cuts: list[int], seed: int, max_bytes: int
) -> None:
    expected = plainly(documents, seed, max_bytes)
    assert drawn(documents, cuts, seed, max_bytes) == expected
    assert drawn(documents[::-1], cuts[:1], seed, max_bytes) == expected


def test_the_sample_is_as_large_as_asked_and_another_seed_draws_another_one() -> None:
    documents: list[tuple[int, str | None]] = [(number, f"{number:010d}") for number in range(1000)]
    one, other = drawn(documents, [300], 1, 995), drawn(documents, [300], 2, 995)
    assert one is not None and other is not None and len(one) == len(other) == 100
    assert 0 < len(set(one) & set(other)) < 40  # 10 by chance
    # of all parts of the corpus: of each tenth 10 by chance
    assert min(np.bincount([int(text) // 100 for text in one], minlength=10)) > 1


def test_what_is_kept_of_a_shard_is_no_more_than_the_sample_can_take() -> None:
    documents: list[tuple[int, str | None]] = [(number, "ten bytes.") for number in range(500)]
    table = pa.table({"doc_id": [f"{name:032x}" for name, _ in documents], "text": [text for _, text in documents]})
    with tempfile.TemporaryDirectory() as folder:
        [shard] = written([table], folder)
        assert text_sample.places_in_shard(shard, 1, 100).kept.num_rows == 10
