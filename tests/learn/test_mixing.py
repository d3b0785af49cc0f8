"""Shares hold to within one sample, epochs of a source are whole, stages come when they should, and what cannot be is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import InputError
from tasks.learn.data_config import DataConfig
from tasks.learn.mixing import BLOCK_SAMPLES, Mixture

from .samples import Document, sampler

NAMES = ("a", "b", "c", "d", "e")


def mixture(sizes: list[int], max_samples: int = 10**6, seed: int = 1, **config: Any) -> Mixture:
    return Mixture(NAMES[: len(sizes)], sizes, DataConfig(**config), seed, max_samples)


@settings(max_examples=40)
@given(
    parts=st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any),
    block=st.integers(0, 10**8),
    num_blocks=st.integers(1, 4),
)
def test_after_whole_blocks_every_source_has_its_share_to_within_one(parts: list[int], block: int, num_blocks: int) -> None:
    shares = [part / sum(parts) for part in parts]
    mixed = mixture([7] * len(parts), 10**12, weights=dict(zip(NAMES, shares, strict=False)))
    # the rarest of these has at least one sample in a block of the usual size
    source, _ = mixed.samples(block * BLOCK_SAMPLES, num_blocks * BLOCK_SAMPLES)
    for number, share in enumerate(shares):
        count = int((source == number).sum())
        # within one before and behind, so less than two in between; from the first sample on, less than one
        assert abs(count - share * len(source)) < (2 if block else 1) + 1e-3, (count, share)
        assert count == 0 or share > 0


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_a_source_is_read_in_whole_epochs_each_in_its_own_order(sizes: list[int], seed: int) -> None:
    mixed = mixture(sizes, seed=seed, epochs={"a": 2.5})
    source, item = mixed.samples(0, 4 * BLOCK_SAMPLES)
    for number, size in enumerate(sizes):
        # within a block samples are shuffled, so only what whole epochs lie before can be told
        read = Counter(item[source == number].tolist())
        times = int((source == number).sum()) / size
        assert set(read) <= set(range(size)) and max(read.values()) <= np.ceil(times) and min(read.values()) >= np.floor(times)
        assert len(read) == size or times < 1


@settings(max_examples=40)
@given(until=st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True), max_samples=st.integers(1, 5000))
def test_stages_end_at_their_share_of_the_training_with_their_own_weights(until: list[int], max_samples: int) -> None:
    weights = [{"a": 0.9, "b": 0.1, "c": 0.0}, {"a": 0.0, "b": 0.35}, {"c": 1.0, "a": 0.0, "b": 0.0}]
    curriculum = [{"until": share / 100, "weights": one} for share, one in zip(sorted(until), weights, strict=False)]
    mixed = mixture([30, 20, 10], max_samples, curriculum=curriculum)
    source, item = mixed.samples(0, max_samples)
    wanted = [*[[0.9, 0.1, 0.0], [0.0, 0.35, 0.65], [0.0, 0.0, 1.0]][: len(until)], [1 / 2, 1 / 3, 1 / 6]]
    ends = [0, *(round(share / 100 * max_samples) for share in sorted(until)), max_samples]
    for number, shares in enumerate(wanted):
        part = source[ends[number] : ends[number + 1]]
        counts = np.bincount(part, minlength=3)
        assert (np.abs(counts - np.array(shares) * len(part)) < 1 + 1e-3).all(), (counts, shares)
    assert mixed.num_read.tolist() == np.bincount(source, minlength=3).tolist()
    # what one stage has read of a source the next one does not read again
    for number, size in enumerate((30, 20, 10)):
        read = Counter(item[source == number].tolist())
        times = int((source == number).sum()) / size
        assert not read or (max(read.values()) == np.ceil(times) and (len(read) == size or times < 1))


def test_sources_not_named_have_the_rest_as_they_are_to_each_other() -> None:
    assert mixture([1, 1], weights={"a": 0.3}).num_read.tolist() == [300_000, 700_000]
    assert mixture([50, 10, 30], weights={"a": 0.2}).num_read.tolist() == [200_000, 200_000, 600_000]
    assert mixture([50, 10, 30], weights={"a": 0.2}, epochs={"b": 3}).num_read.tolist() == [200_000, 400_000, 400_000]
    assert mixture([50, 10, 40], epochs={"b": 5, "c": 0}).num_read.tolist() == [500_000, 500_000, 0]


def test_a_source_rarer_than_one_in_a_block_still_comes() -> None:
    source, item = mixture([9, 9], weights={"a": 1023 / 1024}).samples(0, 10 * 1024)
    assert (source == 1).sum() == 10 and len(set(item[source == 1].tolist())) == 9


def test_no_block_is_ordered_as_another_and_none_by_source() -> None:
    source, _ = mixture([9, 9], weights={"a": 0.5}).samples(0, 2 * BLOCK_SAMPLES)
    first, second = np.split(source, 2)
    assert first.sum() == second.sum() == BLOCK_SAMPLES // 2
    # half of the places agree by chance, give or take 8
    assert 90 < (first == second).sum() < 166 and 90 < (first[1:] == first[:-1]).sum() < 166


def test_the_example_of_the_guide_is_a_configuration() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "data_order.md").read_text()
    example = yaml.safe_load(guide.split("```yaml\n")[1].split("```")[0])["pretrain"]["data"]
    made = Mixture(("books", "code", "forum", "web"), [100, 100, 50, 1000], DataConfig(**example), 1, 1000)
    # 0.2 of the first 900, then 0.6 of the last 100; forum and web share the rest, forum counting twice
    assert made.num_read.tolist() == [180 + 60, 180 + 15, 49 + 2, 491 + 23]


DOCUMENTS: list[Document] = [("web", 40), ("books", 20), ("code", 8)]


def test_the_sampler_mixes_and_tells_shares_and_epochs() -> None:
    made = sampler(DOCUMENTS, 4, DataConfig(weights={"code": 0.5}, max_epochs=300), max_samples=1024)
    assert made.sources == ("books", "code", "web")
    counts = np.bincount(made.batch(0, 1024).sources, minlength=3)
    assert abs(counts - np.array([1024 / 6, 512, 1024 / 3])).max() < 1
    assert [made.facts[f"share.{name}"] for name in made.sources] == (counts / 1024).tolist()
    assert made.facts["epochs.code"] == 256 and made.facts["samples.code"] == 2 and made.facts["tokens.code"] == 8
    spans = made.spans_of(0, 1024)
    assert Counter(spans["source"].to_pylist())["code"] == 512
    assert Counter(spans["doc_id"].to_pylist())["2"] == 512


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"weights": {"bokos": 0.5}}, r"data\.weights: unknown source 'bokos'; nearest: books"),
        ({"epochs": {"x": 0.5}}, r"data\.epochs: unknown source 'x'; there are: books, code, web"),
        ({"curriculum": [{"until": 0.5, "weights": {"wob": 1}}]}, r"data\.curriculum\.0\.weights: unknown source 'wob'; nearest: web"),
        ({"weights": {"web": 1}}, "the weights add up to 1, so nothing would be left of books, code; lower them, or give these 0"),
        ({"weights": {"web": 0.5, "books": 0.2, "code": 0.2}}, "the weights add up to 0.9 and there is nothing beside them"),
        ({"epochs": {"web": 0, "books": 0, "code": 0}}, "the weights add up to 0 and there is nothing beside them"),
        ({"max_epochs": 3}, r"would read source 'books' 58\.82 times \(294 samples of 5\), more than 3;"),
        ({"weights": {"code": 0.1}, "max_epochs": 49}, r"source 'books' 60\.00 times \(300 samples of 5\), more than 49;"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_shards_is_refused(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        sampler(DOCUMENTS, 4, DataConfig(**config), max_samples=1000)


def test_just_as_many_epochs_as_allowed_are_read() -> None:
    sampler(DOCUMENTS, 4, DataConfig(max_epochs=3), max_samples=3 * 17)
    sampler(DOCUMENTS, 4, DataConfig(weights={"code": 0.5}, max_epochs=250), max_samples=1000)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"weights": {"a": 0.7, "b": 0.4}}, "the weights add up to 1.1; at most 1"),
        ({"weights": {"a": -0.1}}, "a: a weight is a share of the samples, from 0 to 1"),
        ({"weights": {"a": 0.5}, "epochs": {"a": 2}}, "a: has a share in `weights` and times in `epochs`"),
        ({"epochs": {"a": float("nan")}}, "a: a source is read 0 times or more"),
        ({"curriculum": [{"until": 0.5, "weights": {}}, {"until": 0.5, "weights": {}}]}, "stages end one after another"),
    ],
)
def test_a_config_that_cannot_be_is_refused(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        DataConfig(**config)
