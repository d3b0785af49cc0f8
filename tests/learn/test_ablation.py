"""The statistics of ablations: golden values by hand, coverage by simulation, and verdicts that follow from the interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.schemas import ITEMS
from tasks.learn.ablation import chosen, crossed, effects, mean_interval, t_quantile, t_tails
from tasks.learn.comparison import Scored
from tasks.learn.figures import Better, Figure, Form, figure, items

BITS = "heldout.bits_per_byte"


def scored(
    amounts: Any,
    weights: Any = None,
    *,
    form: Form = "mean",
    better: Better = "lower",
    names: Sequence[str] = (),
    with_items: bool = True,
) -> Scored:
    amounts = np.asarray(amounts, float)
    weights = np.ones(len(amounts)) if weights is None else np.asarray(weights, float)
    made = figure(BITS, amounts, weights, form=form, better=better)
    names = names or [f"{number:04d}" for number in range(len(amounts))]
    return Scored("", {BITS: made}, items(BITS, names, amounts, weights) if with_items else ITEMS.empty_table(), "t")


def drawn(rng: np.random.Generator, num_seeds: int, n: int, effect: float, seed_sd: float, item_sd: float) -> np.ndarray:
    """(2, S, I) scores of a baseline and a variant: items are hard for both, seeds and items change the difference by themselves."""
    hard = rng.lognormal(0, 0.6, n)
    noise = rng.normal(0, 0.05, (2, num_seeds, n))
    moved = effect + rng.normal(0, seed_sd, (num_seeds, 1)) + rng.normal(0, item_sd, n)
    return np.stack([hard + noise[0], hard + noise[1] + moved])


# Student's table, two-sided 95 %
@pytest.mark.parametrize(
    ("freedom", "end"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (120, 1.97993), (1e9, 1.95996)]
)
def test_the_ends_of_students_interval_are_those_of_the_table(freedom: float, end: float) -> None:
    assert t_quantile(freedom) == pytest.approx(end, abs=1e-4)
    assert t_tails(end, freedom) == pytest.approx(0.05, abs=1e-5)
    assert t_tails(-end, freedom) == t_tails(end, freedom)


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 500), st.floats(0, 50))
def test_students_tails_are_the_integral_of_its_density(freedom: float, t: float) -> None:
    places = np.linspace(0, t, 20_001)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    density = np.exp(log - (freedom + 1) / 2 * np.log1p(places**2 / freedom))
    inside = 2 * float(((density[1:] + density[:-1]) / 2 * np.diff(places)).sum())
    assert t_tails(t, freedom) == pytest.approx(1 - inside, abs=1e-4)


def test_the_interval_of_a_mean_over_seeds_by_hand() -> None:
    # mean 2, standard deviation 1, so 4.30265 / sqrt(3)
    assert mean_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_the_error_of_a_difference_over_seeds_and_items_by_hand() -> None:
    # seeds: variance 0.01 / 2 = 0.005; items: moves by mean 1/4 (-0.2, 0.2, -0.2, 0.2), 4 / 3 x 4 x 0.0025 = 0.013333
    moves = np.array([[-0.2, 0.2, -0.2, 0.2], [-0.2, 0.2, -0.2, 0.2]]) / 4
    differences = np.array([0.4, 0.4 + math.sqrt(0.02)])
    error, freedom, p, share = crossed(differences, moves)
    assert error == pytest.approx(math.sqrt(0.005 + 0.0133333), rel=1e-5)
    assert freedom == pytest.approx((0.005 + 0.0133333) ** 2 / (0.005**2 / 1 + 0.0133333**2 / 3), rel=1e-5)
    assert share == pytest.approx(0.005 / 0.0183333, rel=1e-5)
    assert p == pytest.approx(t_tails(differences.mean() / error, freedom))


@pytest.mark.parametrize(("seed_sd", "item_sd"), [(0.3, 0.0), (0.0, 1.0), (0.1, 0.7)])
def test_of_equal_variants_about_one_in_twenty_lies_beyond_noise_whatever_the_noise_is_of(seed_sd: float, item_sd: float) -> None:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(400):
        scores = drawn(rng, 3, 60, 0.0, seed_sd, item_sd)
        differences = scores[1].mean(1) - scores[0].mean(1)
        moves = (scores[1] - scores[0] - differences[:, None]) / scores.shape[2]
        error, freedom, _, _ = crossed(differences, moves)
        wrong += abs(differences.mean()) > t_quantile(freedom) * error
    assert 0.005 <= wrong / 400 <= 0.08
    # what looks at the items alone, as a comparison of two models does, or takes seeds for many, is wrong far more often
    if seed_sd == 0.3:
        alone = [
            abs((d := drawn(rng, 3, 60, 0.0, seed_sd, item_sd))[1].mean() - d[0].mean())
            > 1.96 * (d[1] - d[0]).mean(0).std(ddof=1) / math.sqrt(60)
            for _ in range(100)
        ]
        assert np.mean(alone) > 0.5


@pytest.mark.parametrize(
    ("better", "effect", "verdict"),
    [
        ("lower", 0.5, "worse"),
        ("higher", 0.5, "better"),
        ("none", 0.5, "differs"),
        ("lower", -0.5, "better"),
        ("lower", 0.0, "no difference beyond noise"),
    ],
)
def test_an_effect_is_found_and_its_direction_told(better: Better, effect: float, verdict: str) -> None:
    scores = drawn(np.random.default_rng(3), 3, 80, effect, 0.02, 0.1)
    base, variant = effects(["base", "mine"], [[scored(s, better=better) for s in some] for some in scores], [BITS])
    assert (base.verdict, variant.verdict, variant.n) == (None, verdict, 80)
    assert base.values == pytest.approx(scores[0].mean(1).tolist())
    assert variant.difference == pytest.approx(scores[1].mean() - scores[0].mean())
    assert variant.difference_low is not None and variant.difference_high is not None and variant.p is not None
    assert variant.difference_low < variant.difference < variant.difference_high  # type: ignore[operator]
    assert (variant.p < 0.05) == (verdict != "no difference beyond noise")


@pytest.mark.parametrize("form", ["mean", "exp"])
def test_only_items_that_all_models_have_count_in_any_order(form: Form) -> None:
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 9, 50).astype(float)
    amounts = rng.normal(1, 0.2, (2, 2, 50)) * weights
    names = [f"{number:04d}" for number in range(50)]
    whole = [[scored(s, weights, form=form) for s in some] for some in amounts]
    order = rng.permutation(50)
    # the last model lacks ten items, and tells the others in another order
    part = [one for one in order if one >= 10]
    whole[1][1] = scored(amounts[1, 1][part], weights[part], form=form, names=[names[one] for one in part])
    _, variant = effects(["base", "mine"], whole, [BITS])
    ratios = amounts[:, :, 10:].sum(2) / weights[10:].sum()
    expected = np.exp(ratios) if form == "exp" else ratios
    assert variant.n == 40
    assert variant.values == pytest.approx(expected[1].tolist())
    assert variant.difference == pytest.approx((expected[1] - expected[0]).mean())


def test_few_items_decide_nothing_and_without_items_the_seeds_alone_do() -> None:
    scores = drawn(np.random.default_rng(3), 3, 20, 5.0, 0.02, 0.1)
    [_, few] = effects(["base", "mine"], [[scored(s) for s in some] for some in scores], [BITS])
    assert few.verdict == "too small to tell" and few.n == 20
    [_, alone] = effects(["base", "mine"], [[scored(s, with_items=False) for s in some] for some in scores], [BITS])
    assert (alone.verdict, alone.n, alone.seed_share) == ("worse", 0, 1.0)
    differences = scores[1].mean(1) - scores[0].mean(1)
    assert alone.difference_low == pytest.approx(mean_interval(differences)[1])


def test_metrics_are_chosen_by_pattern_in_their_order_and_only_if_all_have_them() -> None:
    def figures(*names: str) -> dict[str, Figure]:
        return {name: Figure(name, 1.0, None, None, 1, "lower") for name in names}

    have = [figures("b", "a.x", "a.y", "c"), figures("a.y", "b", "a.x")]
    assert chosen(have, ["b", "a.*", "*"]) == ["b", "a.x", "a.y"]
