"""Draws are even and the same for any cut; shares are met exactly by the largest sample that can have them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ids import digest_of
from tasks.text.sampling import ShareError, draws, hashes, rates_for_shares

IDS = pa.array([digest_of("doc", str(n)) for n in range(20_000)])


def test_draws_are_even_and_of_each_seed_and_purpose_independent() -> None:
    one, other, apart = draws(IDS, 0, "a"), draws(IDS, 1, "a"), draws(IDS, 0, "b")
    for drawn in (one, other, apart):
        assert drawn.min() >= 0 and drawn.max() < 1
        counts, _ = np.histogram(drawn, 20, (0, 1))
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square of 19 degrees, 0.1 %
    for drawn in (other, apart):
        assert abs(np.corrcoef(one, drawn)[0, 1]) < 0.03
    assert len(np.unique(hashes(IDS, 0, "a"))) == len(IDS)


def test_a_document_has_the_same_number_in_any_cut_order_and_type() -> None:
    whole = draws(IDS, 3, "x")
    order = np.random.default_rng(1).permutation(len(IDS))
    assert (draws(IDS.take(pa.array(order)), 3, "x") == whole[order]).all()
    assert (draws(IDS.slice(700, 11).cast(pa.large_string()), 3, "x") == whole[700:711]).all()
    assert (draws(pa.chunked_array([IDS.slice(0, 5), IDS.slice(5, 5)]), 3, "x") == whole[:10]).all()


def test_a_lower_rate_keeps_a_subset() -> None:
    drawn = draws(IDS, 0, "a")
    assert set(np.flatnonzero(drawn < 0.2)) < set(np.flatnonzero(drawn < 0.3))


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**9), min_size=2),
    st.lists(st.floats(0.01, 1), min_size=6, max_size=6),
    st.booleans(),
)
def test_the_rates_give_the_shares_and_no_larger_sample_does(sizes: dict[str, int], weights: list[float], rest: bool) -> None:
    named = sorted(sizes)[1:] if rest else sorted(sizes)
    total = sum(weights[: len(named)]) * (1.3 if rest else 1)
    shares = {name: weight / total for name, weight in zip(named, weights, strict=False)}
    rates = rates_for_shares(sizes, shares)
    kept = {name: sizes[name] * rates[name] for name in sizes}
    for name, share in shares.items():
        assert kept[name] / sum(kept.values()) == pytest.approx(share)
    assert all(0 < rate <= 1 for rate in rates.values()) and max(rates.values()) == pytest.approx(1)


def test_shares_by_hand_and_those_that_cannot_be() -> None:
    assert rates_for_shares({"web": 900, "books": 100}, {"web": 0.5, "books": 0.5}) == pytest.approx({"web": 1 / 9, "books": 1})
    # a fifth for one, the rest as they are to each other: 300 and 100 stay as they are, of 400 a quarter
    assert rates_for_shares({"a": 400, "b": 300, "c": 100}, {"a": 0.2}) == pytest.approx({"a": 0.25, "b": 1, "c": 1})
    for sizes, shares, said in (
        ({"a": 1, "b": 2}, {"x": 0.5}, r"x: there is none \(there are: a, b\)"),
        ({"a": 1, "b": 0}, {"b": 0.5}, r"b: there is none \(there are: a\)"),
        ({"a": 1, "b": 2}, {"a": 0.8, "b": 0.4}, "the shares add up to 1.2; at most 1 is possible"),
        ({"a": 1}, {"a": 0.8}, "the shares add up to 0.8 and there is nothing beside them"),
        ({"a": 1, "b": 2}, {"a": 1.0}, "so nothing would be left of b; lower them, or give these a share too"),
    ):
        with pytest.raises(ShareError, match=said):
            rates_for_shares(sizes, shares)
