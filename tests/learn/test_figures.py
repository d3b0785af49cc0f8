import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.learn import figures


def test_a_rate_has_wilsons_interval_and_few_items_are_too_few() -> None:
    # Wilson 1927, by hand: 8 of 10
    got = figures.figure("x", np.array([1.0] * 8 + [0.0] * 2), form="rate", better="higher")
    assert (got.value, got.n, got.small) == (0.8, 10, True)
    assert (got.low, got.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    always = figures.figure("x", np.ones(40), form="rate", better="higher")
    assert always.high == 1.0 and always.low is not None and 0.9 < always.low < 1.0 and not always.small


def test_perplexity_is_the_exponential_of_all_nats_over_all_tokens() -> None:
    nats, tokens = np.array([2.0, 10.0, 0.0]), np.array([1.0, 4.0, 0.0])
    got = figures.figure("ppl", nats, tokens, form="exp", better="lower")
    assert got.value == pytest.approx(math.exp(12 / 5)) and got.n == 2
    assert got.low is not None and got.high is not None and got.low <= got.value <= got.high


def test_nothing_to_measure_is_no_figure() -> None:
    got = figures.figure("x", np.zeros(3), np.zeros(3), better="none")
    assert (got.value, got.low, got.n, got.small) == (None, None, 0, True)


@pytest.mark.parametrize("n", [200, 6000])
def test_the_interval_holds_the_truth_as_often_as_it_says(n: int) -> None:
    chance = np.random.default_rng(7)
    held = 0
    for trial in range(100):
        weights = chance.integers(1, 50, n).astype(float)
        amounts = weights * chance.gamma(2.0, 1.5, n)
        got = figures.figure("x", amounts, weights, better="lower", seed=trial)
        assert got.low is not None and got.high is not None
        held += got.low <= 3.0 <= got.high
    # binomial(100, 0.95): below 88 once in 1,000
    assert held >= 88


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 9)), min_size=1, max_size=60))
def test_the_value_is_the_ratio_of_sums_and_lies_in_its_interval(rows: list[tuple[float, int]]) -> None:
    amounts, weights = np.array([a for a, _ in rows]), np.array([w for _, w in rows], float)
    got = figures.figure("x", amounts, weights, better="lower")
    assert got.value == pytest.approx(amounts.sum() / weights.sum())
    assert got.low is not None and got.high is not None and got.low - 1e-9 <= got.high
