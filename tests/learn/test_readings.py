"""What was read of documents, asked from their side, is what all samples told one after another say of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.learn import readings
from tasks.learn.config import TrainConfig
from tasks.learn.data_config import DataConfig, Packing
from tasks.learn.readings import Read, read_of, spans_among
from tasks.learn.sampler import IGNORED, Sampler, of_training
from tasks.learn.tokens import TokenShard

from .samples import ROLES, Document, sampler, shards

PACKINGS: tuple[Packing, ...] = get_args(Packing)
DOCUMENTS = st.lists(st.tuples(st.sampled_from(["books", "code", "web"]), st.integers(1, 40)), min_size=1, max_size=30)
MIXED = [("web", 7), ("books", 30), ("web", 1), ("code", 12), ("web", 19), ("books", 3), ("web", 33), ("code", 8)]


@settings(max_examples=60)
@given(
    documents=DOCUMENTS,
    chosen=st.sets(st.integers(0, 29)),
    left_out=st.sets(st.integers(0, 70)),
    packing=st.sampled_from(PACKINGS),
    masked=st.booleans(),
    mixed=st.booleans(),
    part=st.sampled_from([7, 100]),
)
def test_documents_are_read_where_the_samples_say_so(
    documents: list[Document], chosen: set[int], left_out: set[int], packing: Packing, masked: bool, mixed: bool, part: int
) -> None:
    config = DataConfig(packing=packing, epochs={documents[0][0]: 2.5} if mixed else {})
    made = Sampler(shards(documents, [min(9, len(documents))]), 8, config, roles=ROLES, masked=masked, seed=3, max_samples=70)
    wanted = np.isin(np.arange(len(documents)), sorted(chosen))
    every = [one for number in range(70) for one in made.spans_of(number, 1).to_pylist()]
    told = [one for one in every if int(one["doc_id"]) in chosen]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "PART_SAMPLES", part)
        patch.setattr(readings, "PART_ROWS", part)
        assert spans_among(made, wanted, 70).to_pylist() == told
        found = read_of(made, wanted, 70, np.array(sorted(left_out), np.int64))
    assert found == plainly([one for one in told if one["sample"] not in left_out])


def plainly(spans: Sequence[dict[str, Any]]) -> Read:
    samples = [one["sample"] for one in spans]
    tokens = [(one["doc_id"], one["first_token"] + at) for one in spans for at in range(one["num_tokens"])]
    ends = (min(samples), max(samples)) if samples else (None, None)
    return Read(len({one["doc_id"] for one in spans}), len(tokens), len(set(tokens)), len(set(samples)), *ends)


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_targets_of_a_masked_model_are_the_tokens_that_are_to_be_guessed(packing: Packing) -> None:
    made = sampler(MIXED, 9, DataConfig(packing=packing), masked=True)
    for number in range(made.num_samples):
        guessed = made.batch(number, 1).labels[0] != IGNORED
        spans = made.spans_of(number, 1)
        ends = np.cumsum(spans["num_tokens"].to_numpy())
        parts = np.split(guessed[: ends[-1]], ends[:-1])
        assert spans["num_targets"].to_pylist() == [int(part.sum()) for part in parts] and not guessed[ends[-1] :].any()
    causal = sampler(MIXED, 9, DataConfig(packing=packing)).spans_of(0, 50)
    assert causal["num_targets"].equals(causal["num_tokens"])


@pytest.mark.parametrize("masked", [False, True])
def test_the_fingerprint_is_that_of_the_order_and_of_nothing_else(masked: bool) -> None:
    def print_of(cuts: Sequence[int] = (), documents: Sequence[Document] = MIXED, **changed: Any) -> str:
        config = TrainConfig(max_steps=40, warmup_steps=0, batch_size=3).model_copy(update=changed)
        return of_training(shards(documents, cuts), config, roles=ROLES, context_length=9, masked=masked).fingerprint()

    same = print_of()
    assert print_of(cuts=[3, 5]) == same == print_of(learning_rate=1.0, gradient_accumulation=1)
    others = [
        print_of(seed=2),
        print_of(max_steps=41),
        print_of(documents=[*MIXED[:-1], ("code", 9)]),
        *(print_of(data=DataConfig(**one)) for one in ({"packing": "best_fit"}, {"epochs": {"web": 2}})),
        *([print_of(data=DataConfig(mask_share=0.5))] if masked else []),
    ]
    assert same not in others and len(set(others)) == len(others)


def test_a_million_samples_are_gone_through_in_seconds() -> None:
    chance = np.random.default_rng(1)
    lengths = chance.integers(1, 1000, 200_000)
    names = np.array(["web", "books"])[np.arange(len(lengths)) % 2]
    columns = [np.arange(len(lengths)).astype(str), names, np.cumsum(lengths) - lengths, lengths, lengths]
    docs = shards([("a", 1)])[0].docs
    docs = type(docs).from_arrays(columns, names=docs.schema.names).cast(docs.schema)
    big = TokenShard(np.broadcast_to(np.uint16(0), lengths.sum()), docs)
    config = DataConfig(packing="best_fit", epochs={"web": 3})
    made = Sampler([big], 256, config, roles=ROLES, masked=False, seed=1, max_samples=10**6)
    started = time.process_time()
    one = spans_among(made, np.arange(len(lengths)) == 12_346, 10**6)
    books = read_of(made, names == "books", 10**6, np.empty(0, np.int64))
    # measured: 0.9 s together on an idle core; the machine of a test may be busy
    assert time.process_time() - started < 8
    assert one.num_rows >= 3 and books.documents == 100_000
    assert books.samples == round(float(made.facts["share.books"]) * 10**6)
