import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.learn.contrasts import auc, difference, largest_gap, rate_difference
from tasks.learn.figures import Z_95, figure

VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=12).map(lambda many: np.array(many, float))


@given(VALUES, VALUES)
def test_items_of_a_difference_have_its_mean_and_the_spread_of_two_samples(one: np.ndarray, other: np.ndarray) -> None:
    items = difference(one, other)
    assert items.mean() == pytest.approx(one.mean() - other.mean(), abs=1e-9)
    assert items.var() / len(items) == pytest.approx(one.var() / len(one) + other.var() / len(other), abs=1e-9)


@given(VALUES, VALUES)
def test_auc_is_the_part_of_all_pairs_in_order(lower: np.ndarray, higher: np.ndarray) -> None:
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a in lower for b in higher]
    assert auc(lower, higher).mean() == pytest.approx(np.mean(pairs), abs=1e-9)


def test_auc_has_delongs_variance() -> None:
    lower, higher = np.array([1.0, 2.0, 5.0]), np.array([3.0, 4.0])
    # by hand: placements 1, 1, 0 of the first and 2/3, 2/3 of the second; variances with n, not n - 1: 2/9 and 0
    items = auc(lower, higher)
    assert items.mean() == pytest.approx(2 / 3) and items.var() / 5 == pytest.approx(2 / 9 / 3)


def test_an_interval_of_an_auc_holds_the_truth_as_often_as_it_says() -> None:
    chance, held = np.random.default_rng(5), 0
    for trial in range(100):
        got = figure("x", auc(chance.normal(0, 1, 60), chance.normal(1, 1, 40)), better="lower", seed=trial)
        assert got.low is not None and got.high is not None
        held += got.low <= 0.7602 <= got.high  # Phi(1 / sqrt(2))
    assert held >= 88  # binomial(100, 0.95): below 88 once in 1,000


def test_the_largest_gap_of_equal_groups_covers_zero_and_that_of_others_does_not() -> None:
    chance, wrong = np.random.default_rng(2), 0
    for _ in range(100):
        groups = {str(number): (chance.random(40) < 0.3).astype(float) for number in range(6)}
        gap = largest_gap(groups, rates=True)
        assert gap is not None and gap.value >= 0
        wrong += gap.low > 0
    assert wrong <= 12  # binomial(100, 0.05): above 12 once in 500
    planted = largest_gap({"a": np.zeros(40), "b": np.ones(40), "c": np.array([0.0, 1.0] * 20)}, rates=True)
    assert planted is not None and (planted.high_group, planted.low_group, planted.value) == ("b", "a", 1.0)
    assert planted.low > 0.5 and planted.n == 80
    means = largest_gap({"a": np.array([1.0, 2.0, 3.0]), "b": np.array([4.0, 4.0, 4.0])}, rates=False)
    assert means is not None and means.value == 2 and means.low == pytest.approx(2 - Z_95 * math.sqrt(1 / 3))
    assert largest_gap({"a": np.ones(3), "b": np.zeros(0)}, rates=True) is None


def test_a_difference_of_rates_has_newcombes_interval() -> None:
    # Newcombe 1998, table II, case (a), method 10: 56/70 and 48/80
    one, other = np.array([1.0] * 56 + [0.0] * 14), np.array([1.0] * 48 + [0.0] * 32)
    assert rate_difference(one, other, Z_95) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
