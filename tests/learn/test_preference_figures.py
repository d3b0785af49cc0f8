"""Held-out preference accuracy: right on made pairs, at chance on random ones, and a model that only likes length is seen."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.learn.figures import Figure, Measured
from tasks.learn.preference_figures import of_likelihoods, of_rewards

N = 400
NAMES = [str(number) for number in range(N)]


def by_name(measured: Measured) -> dict[str, Figure]:
    assert len(measured.figures) == len(measured.items)
    return {one.name: one for one in measured.figures}


def test_margins_are_beta_times_what_training_added() -> None:
    before = np.array([[-4.0, -2.0], [-3.0, -3.0]])
    after = np.array([[-2.0, -6.0], [-3.0, -1.0]])
    lengths = np.array([[2.0, 4.0], [4.0, 2.0]])
    found = by_name(of_likelihoods(before, after, lengths, 0.5, ["a", "b"]))
    assert found["before.preference.likelier"].value == 0.0
    assert found["after.preference.likelier"].value == 0.5
    assert found["after.preference.accuracy"].value == 0.5
    assert found["after.preference.margin"].value == pytest.approx(((1 + 2) + (0 - 1)) / 2)
    assert found["after.preference.margin_per_token"].value == pytest.approx(((0.5 + 0.5) + (0 - 0.5)) / 2)
    assert found["preference.longer"].value == 0.5


def test_random_rewards_are_right_about_half_the_time_and_the_interval_says_so() -> None:
    chance = np.random.default_rng(1)
    found = by_name(of_rewards(chance.normal(size=(N, 2)), chance.integers(5, 50, (N, 2)).astype(float), NAMES))
    accuracy = found["after.preference.accuracy"]
    assert accuracy.low is not None and accuracy.high is not None
    assert accuracy.low < 0.5 < accuracy.high
    assert accuracy.high - accuracy.low == pytest.approx(0.098, abs=0.005)  # Wilson, 400 items
    assert abs(found["after.preference.length_correlation"].value or 0) < 0.2


def test_a_reward_of_length_alone_is_seen_in_sums_and_not_per_token() -> None:
    chance = np.random.default_rng(1)
    lengths = chance.integers(5, 50, (N, 2)).astype(float)
    before = -lengths
    after = before + lengths * (0.1 + 0.001 * chance.normal(size=(N, 2)))  # every token became likelier by the same
    found = by_name(of_likelihoods(before, after, lengths, 1.0, NAMES))
    followed = found["after.preference.length_correlation"]
    assert followed.value == pytest.approx(1.0, abs=0.01)
    assert followed.low is not None and followed.high is not None and 0.9 < followed.low <= followed.value <= followed.high <= 1
    assert found["after.preference.accuracy"].value == pytest.approx(found["preference.longer"].value, abs=0.03)
    assert found["after.preference.accuracy_per_token"].value == pytest.approx(0.5, abs=0.08)


def test_no_pairs_give_no_value() -> None:
    empty = np.zeros((0, 2))
    assert all(one.value is None for one in of_likelihoods(empty, empty, empty, 0.1, []).figures)
