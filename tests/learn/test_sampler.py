"""Every row is what plain Python makes of the documents, every token comes once in a pass, and any sample can be asked for alone."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from tasks.learn.data_config import DataConfig, Packing
from tasks.learn.sampler import IGNORED, SPANS, Batch, Sampler, fixed
from tasks.learn.tokens import TokenShard

from .samples import END, ROLES, Document, plain_row, plain_rows, sampler, shards

PACKINGS: tuple[Packing, ...] = get_args(Packing)
DOCUMENTS = st.lists(st.tuples(st.sampled_from(["books", "code", "web"]), st.integers(1, 40)), min_size=1, max_size=30)
MIXED = [("web", 7), ("books", 30), ("web", 1), ("code", 12), ("web", 19), ("books", 3), ("web", 33), ("code", 8)]


def same(one: Batch, other: Batch) -> bool:
    fields = ("inputs", "labels", "documents", "positions", "sources")
    pairs = [(getattr(one, name), getattr(other, name)) for name in fields]
    return all((left is None and right is None) or np.array_equal(left, right) for left, right in pairs)


def joined(parts: list[Batch]) -> list[list[list[int]]]:
    return [np.concatenate([getattr(part, name) for part in parts]).tolist() for name in ("inputs", "labels", "sources")]


@settings(max_examples=60)
@given(documents=DOCUMENTS, context=st.integers(1, 25), packing=st.sampled_from(PACKINGS))
def test_a_pass_is_what_plain_python_packs(documents: list[Document], context: int, packing: Packing) -> None:
    rows = plain_rows(documents, context, packing)
    made = fixed(shards(documents), context, DataConfig(packing=packing), roles=ROLES, masked=False, seed=1)
    assert made.num_samples == len(rows) and made.num_tokens == sum(length for _, length in documents)
    batch = made.batch(0, len(rows))
    for number, row in enumerate(rows):
        inputs, labels, numbers, positions = plain_row(row, documents, context)
        assert batch.inputs[number].tolist() == inputs and batch.labels[number].tolist() == labels
        if packing == "stream":
            assert batch.documents is None and batch.positions is None
        else:
            assert batch.documents is not None and batch.positions is not None
            assert batch.documents[number].tolist() == numbers and batch.positions[number].tolist() == positions
        assert made.sources[batch.sources[number]] == documents[row[0][0]][0]
    # every token of every document is a target once; the lineage says so too
    assert int((batch.labels != IGNORED).sum()) == made.num_tokens
    spans = made.spans_of(0, len(rows))
    assert spans.schema == SPANS
    found = [(one["sample"], int(one["doc_id"]), one["first_token"], one["num_tokens"]) for one in spans.to_pylist()]
    assert found == [(number, *piece) for number, row in enumerate(rows) for piece in row]
    covered = sorted((document, at) for _, document, first, length in found for at in range(first, first + length))
    assert covered == [(number, at) for number, (_, length) in enumerate(documents) for at in range(length)]
    cut = sum(len([1 for row in rows for piece in row if piece[0] == number]) > 1 for number in range(len(documents)))
    assert made.facts["documents_cut"] == cut
    assert [made.facts[f"epochs.{name}"] for name in made.sources] == [1] * len(made.sources)
    assert sum(float(made.facts[f"share.{name}"]) for name in made.sources) == pytest.approx(1)
    assert made.facts["padding_share"] == pytest.approx(1 - made.num_tokens / (len(rows) * context))


@settings(max_examples=40)
@given(
    documents=DOCUMENTS,
    splits=st.lists(st.integers(0, 30), max_size=4),
    packing=st.sampled_from(PACKINGS),
    masked=st.booleans(),
    mixed=st.booleans(),
)
def test_samples_do_not_depend_on_the_shards(
    documents: list[Document], splits: list[int], packing: Packing, masked: bool, mixed: bool
) -> None:
    config = DataConfig(packing=packing, epochs={documents[0][0]: 2.5} if mixed else {})
    cuts = [min(one, len(documents)) for one in splits]
    made = [
        Sampler(some, 8, config, roles=ROLES, masked=masked, seed=3, max_samples=50)
        for some in (shards(documents), shards(documents, cuts))
    ]
    assert same(made[0].batch(5, 40), made[1].batch(5, 40)) and made[0].facts == made[1].facts
    assert made[0].spans_of(5, 40).equals(made[1].spans_of(5, 40))


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    first=st.integers(0, 10**9),
    packing=st.sampled_from(PACKINGS),
    masked=st.booleans(),
    mixed=st.booleans(),
)
def test_samples_asked_for_apart_at_any_time_are_those_asked_for_together(
    sizes: list[int], first: int, packing: Packing, masked: bool, mixed: bool
) -> None:
    config = DataConfig(packing=packing, weights={"books": 0.5} if mixed else {})
    one, other = (sampler(MIXED, 8, config, masked=masked, max_samples=10**6) for _ in range(2))
    starts = [first + sum(sizes[:number]) for number in range(len(sizes))]
    parts = [one.batch(start, size) for start, size in reversed(list(zip(starts, sizes, strict=True)))]
    assert joined(parts[::-1]) == joined([other.batch(first, sum(sizes))])


@pytest.mark.parametrize("weights", [{}, {"books": 0.5}])
def test_of_a_training_that_ended_early_what_it_read_is_told(weights: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.learn.sampler.COUNTED_SAMPLES", 7)
    made = sampler(MIXED, 8, DataConfig(weights=weights), max_samples=50)
    read = np.bincount(made.batch(0, 23).sources, minlength=3)
    told = made.facts_of(23)
    assert [told[f"epochs.{name}"] * told[f"samples.{name}"] for name in made.sources] == pytest.approx(read)  # type: ignore[operator]
    assert [told[f"share.{name}"] for name in made.sources] == pytest.approx(read / 23)
    assert made.facts_of(50) == made.facts and told["num_samples"] == made.num_samples


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_epoch_has_every_sample_once_and_the_next_in_another_order(packing: Packing) -> None:
    documents = [("web" if number % 3 else "books", 1 + number * 7 % 23) for number in range(200)]
    made = sampler(documents, 16, DataConfig(packing=packing))
    size = made.num_samples
    every = fixed(shards(documents), 16, DataConfig(packing=packing), roles=ROLES, masked=False, seed=1).batch(0, size)
    epochs = [made.batch(start, size).labels.tolist() for start in (0, size)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(every.labels.tolist())
    assert epochs[0] != epochs[1] and epochs[0] != every.labels.tolist()
    assert sampler(documents, 16, DataConfig(packing=packing), seed=2).batch(0, size).labels.tolist() != epochs[0]


@given(first=st.integers(0, 10**6), packing=st.sampled_from(PACKINGS))
def test_the_documents_told_are_those_of_the_tokens(first: int, packing: Packing) -> None:
    # closing tokens that say whose they are, too
    (shard,) = shards(MIXED)
    numbered = TokenShard(np.arange(len(shard.tokens), dtype=np.uint32), shard.docs)
    owner = np.repeat(shard.docs["doc_id"].to_numpy(), shard.lengths)
    made = Sampler([numbered], 9, DataConfig(packing=packing), roles=ROLES, masked=False, seed=1, max_samples=1000)
    batch, told = made.batch(first, 3), made.documents_of(first, 3)
    assert list(dict.fromkeys(owner[batch.labels[batch.labels != IGNORED]].tolist())) == told
    spans = made.spans_of(first, 3).to_pylist()
    assert list(dict.fromkeys(one["doc_id"] for one in spans)) == told
    assert sum(one["num_tokens"] for one in spans) == int((batch.labels != IGNORED).sum())
    for one in spans:
        begin = int(shard.offsets[int(one["doc_id"])]) + one["first_token"]
        tokens = range(begin, begin + one["num_tokens"])
        assert set(tokens) <= set(batch.labels[one["sample"] - first].tolist())


def test_best_fit_cuts_only_what_is_longer_than_a_window() -> None:
    made = fixed(shards([("a", 5), ("a", 4), ("a", 4), ("a", 3), ("a", 19)]), 8, DataConfig(packing="best_fit"), roles=ROLES,
                 masked=False, seed=1)  # fmt: skip
    # 19 = 8 + 8 + 3; then 5, 4, 4, 3, 3: longest first, each into the fullest row that has room
    spans = [(one["sample"], one["doc_id"], one["first_token"], one["num_tokens"]) for one in made.spans_of(0, 5).to_pylist()]
    assert spans == [
        (0, "4", 0, 8), (1, "4", 8, 8), (2, "0", 0, 5), (2, "3", 0, 3), (3, "1", 0, 4), (3, "2", 0, 4), (4, "4", 16, 3),
    ]  # fmt: skip
    assert (made.facts["documents_cut"], made.facts["padding_share"]) == (1, pytest.approx(5 / 40))


def test_without_a_padding_token_rows_are_filled_up_with_the_closing_one() -> None:
    made = sampler([("a", 3)], 5, roles=ROLES._replace(padding=None))
    batch = made.batch(0, 1)
    assert batch.inputs.tolist() == [[END, 3, 4, END, END]] and batch.labels.tolist() == [[3, 4, END, IGNORED, IGNORED]]


def test_a_masked_models_stream_is_crossed_but_for_what_fills_up() -> None:
    made = fixed(shards([("a", 6), ("a", 5)]), 8, DataConfig(packing="stream"), roles=ROLES, masked=True, seed=1)
    assert made.batch(0, 1).documents is None
    found = made.batch(0, 2).documents
    assert found is not None and found.tolist() == [[0] * 8, [0] * 3 + [-1] * 5]


def test_no_token_no_context_and_numbers_below_0_are_refused() -> None:
    empty: list[list[TokenShard]] = [[], shards([])]
    for some in empty:
        with pytest.raises(InputError, match="data: the shards have no token"):
            fixed(some, 8, DataConfig(), roles=ROLES, masked=False, seed=1)
    with pytest.raises(InputError, match="at least one token"):
        sampler(MIXED, 0)
    with pytest.raises(InputError, match=r"a training one sample \(got 8, 0\)"):
        sampler(MIXED, 8, max_samples=0)
    with pytest.raises(ValueError, match="count from 0"):
        sampler(MIXED, 8).batch(-1, 1)


def test_half_a_million_documents_are_planned_in_a_second_and_batches_cost_next_to_nothing() -> None:
    chance = np.random.default_rng(1)
    lengths = chance.integers(1, 100, 500_000)
    big = shards([("a", 1)])[0]
    tokens = np.full(int(lengths.sum()), 7, np.uint16)
    offsets = np.cumsum(lengths) - lengths
    names = np.array(["web", "books"])[np.arange(len(lengths)) % 2]
    columns = [np.arange(len(lengths)).astype(str), names, offsets, lengths, lengths]
    big = TokenShard(tokens, type(big.docs).from_arrays(columns, names=big.docs.schema.names).cast(big.docs.schema))
    started = time.process_time()
    made = Sampler([big], 256, DataConfig(packing="best_fit"), roles=ROLES, masked=True, seed=1, max_samples=10**6)
    planned = time.process_time() - started
    assert made.facts["documents_cut"] == 0 and float(made.facts["padding_share"]) < 0.001
    made.batch(0, 16)
    started = time.process_time()
    for number in range(100):
        made.batch(number * 16, 16)
    each = (time.process_time() - started) / 100
    # measured: 0.1 s and 0.12 ms on an idle core; the machine of a test may be busy
    assert planned < 2 and each < 0.003
