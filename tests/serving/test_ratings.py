"""Scores and agreement beside values worked out by hand, slow plain references, and votes that say nothing."""

from __future__ import annotations

import math
import random
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from tasks.serving.ratings import EFFECT_SD, OUTCOMES, SCORE_SD, Choice, agreement, bradley_terry, share

FLAT = {"score_sd": 1e4, "effect_sd": 1e4}


def choices(left: str, right: str, wins: int, losses: int, ties: int = 0) -> list[Choice]:
    said = ["left"] * wins + ["right"] * losses + ["tie"] * ties
    return [Choice(left, right, outcome, f"rater {number}") for number, outcome in enumerate(said)]  # type: ignore[arg-type]


def drawn(
    strengths: dict[str, float], number: int, seed: int, pull: float = 0.0, ease: float = -0.5, num_raters: int = 30
) -> list[Choice]:
    """Choices as the model says that they come about, drawn in plain Python."""
    chance, found = random.Random(seed), []
    for _ in range(number):
        left, right = chance.sample(sorted(strengths), 2)
        a, b = strengths[left] + pull, strengths[right]
        weights = [math.exp(a), math.exp(b), math.exp((a + b) / 2 + ease)]
        [outcome] = chance.choices(OUTCOMES, weights)
        found.append(Choice(left, right, outcome, f"rater {chance.randrange(num_raters)}"))  # type: ignore[arg-type]
    return found


def test_three_of_four_wins_are_log_3_apart() -> None:
    ratings = bradley_terry([*choices("a", "b", 15, 5), *choices("b", "a", 5, 15)], **FLAT)
    assert ratings is not None
    [apart] = ratings.differences
    assert (apart.better, apart.worse, apart.compared) == ("a", "b", True)
    assert apart.value == pytest.approx(math.log(3), abs=1e-6)
    # the variance of a log-odds is 1/30 + 1/10
    assert apart.high - apart.value == pytest.approx(1.959964 * math.sqrt(1 / 30 + 1 / 10), rel=0.02)
    assert ratings.scores["a"].value == pytest.approx(math.log(3) / 2, abs=1e-6)
    assert ratings.left_share.value == pytest.approx(0.5, abs=1e-6)


def test_ties_are_davidsons() -> None:
    """Two models saturate it: the chances are those observed, so difference = log(30/10), ties = 20 / sqrt(30 * 10)."""
    ratings = bradley_terry([*choices("a", "b", 15, 5, 10), *choices("b", "a", 5, 15, 10)], **FLAT)
    assert ratings is not None
    assert ratings.differences[0].value == pytest.approx(math.log(3), abs=1e-6)
    ease = 20 / math.sqrt(300)
    assert ratings.tie_share == pytest.approx(ease / (2 + ease), abs=1e-6)


def test_the_pull_of_the_left_side_is_told_from_strength() -> None:
    """On the left a wins 30 of 40, on the right 20 of 40: strength + pull = log 3, strength - pull = 0."""
    ratings = bradley_terry([*choices("a", "b", 30, 10), *choices("b", "a", 20, 20)], **FLAT)
    assert ratings is not None
    assert ratings.differences[0].value == pytest.approx(math.log(3) / 2, abs=1e-6)
    assert ratings.left_share.value == pytest.approx(math.sqrt(3) / (1 + math.sqrt(3)), abs=1e-6)


def reference(said: list[Choice]) -> tuple[list[str], np.ndarray]:
    """The maximum of the posterior, written out vote by vote and found without derivatives of ours."""
    names = sorted({name for one in said for name in (one.left, one.right)})

    def loss(theta: np.ndarray) -> float:
        total = sum(value**2 / (2 * SCORE_SD**2) for value in theta[: len(names)])
        total += sum(value**2 / (2 * EFFECT_SD**2) for value in theta[len(names) :])
        for one in said:
            a, b = theta[names.index(one.left)] + theta[-2], theta[names.index(one.right)]
            weights = dict(zip(OUTCOMES, (math.exp(a), math.exp(b), math.exp((a + b) / 2 + theta[-1])), strict=True))
            total -= math.log(weights[one.outcome] / sum(weights.values()))
        return total

    found = optimize.minimize(loss, np.zeros(len(names) + 2), method="BFGS", options={"gtol": 1e-7})
    return names, found.x


some_choices = st.lists(
    st.builds(
        lambda pair, outcome, who: Choice(*pair, outcome, who),
        st.sampled_from(list(product("abcd", repeat=2))).filter(lambda pair: pair[0] != pair[1]),
        st.sampled_from(OUTCOMES),
        st.sampled_from(["x", "y", "z"]),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(some_choices)
def test_the_maximum_is_that_of_a_slow_reference(said: list[Choice]) -> None:
    ratings = bradley_terry(said)
    assert ratings is not None
    names, theta = reference(said)
    for name, value in zip(names, theta[: len(names)], strict=True):
        assert ratings.scores[name].value == pytest.approx(value - theta[: len(names)].mean(), abs=2e-3)
    assert ratings.left_share.value == pytest.approx(1 / (1 + math.exp(-theta[-2])), abs=1e-3)
    values = [one.value for one in ratings.scores.values()]
    assert all(first >= second - 1e-9 for first, second in pairwise(values))  # best first, but for rounding


@settings(max_examples=30, deadline=None)
@given(some_choices, st.randoms(use_true_random=False))
def test_order_of_votes_and_mirrored_sides_change_no_score(said: list[Choice], chance: random.Random) -> None:
    mixed = chance.sample(said, len(said))
    other = {"left": "right", "right": "left", "tie": "tie"}
    mirrored = [Choice(one.right, one.left, other[one.outcome], one.rater) for one in said]  # type: ignore[arg-type]
    first, second, third = (bradley_terry(some) for some in (said, mixed, [*said, *mirrored]))
    assert first and second and third
    for name, score in first.scores.items():
        assert second.scores[name].value == pytest.approx(score.value, abs=1e-5)
        assert second.scores[name].low == pytest.approx(score.low, abs=1e-5)
    assert third.left_share.value == pytest.approx(0.5, abs=1e-6)


def test_who_wins_always_has_a_finite_score_and_interval() -> None:
    ratings = bradley_terry(choices("a", "b", 200, 0))
    assert ratings is not None
    score = ratings.scores["a"]
    assert 1 < score.value < 10 and math.isfinite(score.low) and math.isfinite(score.high)
    assert ratings.differences[0].is_significant


def test_random_votes_tell_no_model_from_another() -> None:
    """Four equal models, 150 votes, a strong pull to the left: at most 5 % may be wrong for any pair (of 1,000 draws 3.0 % are)."""
    wrong = 0
    for seed in range(100):
        ratings = bradley_terry(drawn(dict.fromkeys("abcd", 0.0), 150, seed, pull=0.8))
        assert ratings is not None
        wrong += any(one.is_significant for one in ratings.differences)
    assert wrong <= 11  # of 100 at 5 %, 12 or more come once in 230 times


def test_intervals_hold_the_truth_nineteen_of_twenty_times() -> None:
    """Of 500 draws 95.5 % do."""
    truth = {"a": 0.9, "b": 0.1, "c": -1.0}
    held, total = 0, 0
    for seed in range(80):
        ratings = bradley_terry(drawn(truth, 300, 1000 + seed, pull=0.4))
        assert ratings is not None
        for name, score in ratings.scores.items():
            held += score.low <= truth[name] <= score.high
            total += 1
        assert ratings.left_share.value == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.2)
    assert 0.92 <= held / total <= 0.99


def of_one_taste(taste: float, rater: str, chance: random.Random) -> list[Choice]:
    """Fifteen choices between a and b by one who prefers a by `taste`."""
    found = []
    for _ in range(15):
        left, right = chance.sample("ab", 2)
        a, b = (taste if name == "a" else 0.0 for name in (left, right))
        [outcome] = chance.choices(OUTCOMES, [math.exp(a), math.exp(b), math.exp((a + b) / 2 - 0.5)])
        found.append(Choice(left, right, outcome, rater))  # type: ignore[arg-type]
    return found


def test_raters_with_tastes_of_their_own_make_no_difference_where_they_have_none_in_common() -> None:
    """Twenty raters: of 500 draws 3.4 % call the models different; 22 % would, if each vote were another person's."""
    wrong = {"as they are": 0, "as if all were others": 0}
    for seed in range(60):
        chance = random.Random(seed)
        said = [one for number in range(20) for one in of_one_taste(chance.gauss(0, 1), str(number), chance)]
        others = [one._replace(rater=str(number)) for number, one in enumerate(said)]
        for name, some in zip(wrong, (said, others), strict=True):
            ratings = bradley_terry(some)
            assert ratings is not None
            wrong[name] += ratings.differences[0].is_significant
    assert wrong["as they are"] <= 7 < wrong["as if all were others"]


def test_fifty_votes_of_each_of_four_people_are_not_two_hundred_opinions() -> None:
    said = [*choices("a", "b", 75, 0), *choices("b", "a", 0, 75), *choices("a", "b", 0, 25), *choices("b", "a", 25, 0)]
    few, many = (
        bradley_terry([one._replace(rater=f"rater {number // size}") for number, one in enumerate(said)]) for size in (50, 1)
    )
    assert few and many
    assert few.differences[0].value == pytest.approx(many.differences[0].value)
    assert few.differences[0].high - few.differences[0].low > 1.5 * (many.differences[0].high - many.differences[0].low)


def test_models_that_nothing_links_are_not_told_apart() -> None:
    ratings = bradley_terry([*choices("a", "b", 40, 2), *choices("c", "d", 40, 2)])
    assert ratings is not None
    linked = {frozenset((one.better, one.worse)): one.compared for one in ratings.differences}
    assert linked == {frozenset(pair): set(pair) in ({"a", "b"}, {"c", "d"}) for pair in combinations("abcd", 2)}
    assert not [one for one in ratings.differences if not one.compared and one.is_significant]
    assert bradley_terry([]) is None


def krippendorffs_example() -> list[tuple[str, str, str]]:
    """Computing Krippendorff's Alpha-Reliability (2011), section C: twelve units, four observers, gaps."""
    rows = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")
    return [
        (str(unit), str(observer), label)
        for observer, row in enumerate(rows)
        for unit, label in enumerate(row.split())
        if label != "."
    ]


def test_alpha_is_that_of_krippendorffs_example() -> None:
    found = agreement(krippendorffs_example())
    assert found.alpha is not None
    assert found.alpha.value == pytest.approx(0.743, abs=5e-4)
    assert (found.items, found.raters) == (11, 4)  # the twelfth unit was judged once
    assert found.alpha.low < 0.743 < found.alpha.high


FLEISS = (
    "0 0 0 0 14",
    "0 2 6 4 2",
    "0 0 3 5 6",
    "0 3 9 2 0",
    "2 2 8 1 1",
    "7 7 0 0 0",
    "3 2 6 3 0",
    "2 5 3 2 2",
    "6 5 2 1 0",
    "0 2 2 3 7",
)


def test_alpha_is_fleiss_kappa_corrected_for_few_labels() -> None:
    """Fleiss (1971): fourteen raters, ten items, five labels, kappa 0.210; alpha = kappa + (1 - kappa) / labels given."""
    table = [[int(count) for count in row.split()] for row in FLEISS]
    judged = []
    for item, counts in enumerate(table):
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        judged += [(str(item), str(number), str(label)) for number, label in enumerate(labels)]
    found = agreement(judged)
    assert found.alpha is not None and found.raw is not None
    assert found.raw == pytest.approx(0.378, abs=5e-4)
    assert found.alpha.value == pytest.approx(0.210 + 0.790 / 140, abs=1e-3)


some_labels = st.dictionaries(st.tuples(st.sampled_from("pqrstu"), st.sampled_from("wxyz")), st.sampled_from("ABC"), max_size=24)


@settings(max_examples=100, deadline=None)
@given(some_labels)
def test_agreement_is_that_of_counting_pairs_one_by_one(labels: dict[tuple[str, str], str]) -> None:
    judged = [(item, who, label) for (item, who), label in labels.items()]
    found = agreement(judged)
    by_item: dict[str, list[str]] = {}
    for item, _, label in judged:
        by_item.setdefault(item, []).append(label)
    pairs: list[tuple[Any, float]] = []  # each label of an item beside each other one, weighing 1 / (labels - 1)
    for given_labels in by_item.values():
        for one, other in product(range(len(given_labels)), repeat=2):
            if one != other:
                pairs.append(((given_labels[one], given_labels[other]), 1 / (len(given_labels) - 1)))
    if not pairs:
        assert (found.items, found.raw, found.alpha) == (0, None, None)
        return
    total = sum(weight for _, weight in pairs)
    disagreeing = sum(weight for (one, other), weight in pairs if one != other) / total
    assert found.raw == pytest.approx(1 - disagreeing)
    all_labels = [label for given_labels in by_item.values() if len(given_labels) > 1 for label in given_labels]
    by_chance = [one != other for one, other in combinations(all_labels, 2)]
    if not any(by_chance):
        assert found.alpha is None
    else:
        assert found.alpha is not None
        assert found.alpha.value == pytest.approx(1 - disagreeing / (sum(by_chance) / len(by_chance)))


def test_raters_who_toss_coins_agree_as_by_chance_and_their_interval_says_so() -> None:
    chance = random.Random(7)
    found = agreement((str(item), str(who), chance.choice("AB")) for item in range(200) for who in range(3))
    assert found.alpha is not None and found.alpha.low < 0 < found.alpha.high
    assert found.raw == pytest.approx(0.5, abs=0.08)


def test_a_share_has_wilsons_interval_and_none_of_nothing() -> None:
    found = share(8, 10)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert share(0, 0) is None
