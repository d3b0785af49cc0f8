import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.schemas import ITEMS
from tasks.learn import calibration, comparison
from tasks.learn.comparison import Cells, Comparison, Scored, compare, refusals, undecided
from tasks.learn.config import GateConfig
from tasks.learn.figures import Better, Figure, Form, figure, items

BITS = "heldout.bits_per_byte"


def measured(
    name: str,
    amounts: Any,
    *,
    metric: str = BITS,
    weights: Any = None,
    form: Form = "mean",
    better: Better = "lower",
    names: Any = None,
    tokeniser: str = "t",
) -> Scored:
    amounts = np.asarray(amounts, float)
    weights = np.ones(len(amounts)) if weights is None else np.asarray(weights, float)
    made = figure(metric, amounts, weights, form=form, better=better)
    names = [f"{number:04d}" for number in range(len(amounts))] if names is None else names
    return Scored(name, {metric: made}, items(metric, names, amounts, weights), tokeniser)


def one(challenger: Scored, champion: Scored) -> Comparison:
    [row] = compare(challenger, champion)
    return row


def hard(n: int, seed: int = 1) -> np.ndarray:
    """Items of which some are much harder than others: what pairing takes out."""
    return np.random.default_rng(seed).lognormal(1.0, 1.0, n)


def test_what_two_intervals_cannot_tell_the_same_items_can() -> None:
    base, noise = hard(200), np.random.default_rng(2).normal(0, 0.05, 200)
    champion, challenger = measured("champion", base), measured("challenger", base + 0.1 + noise)
    assert challenger.figures[BITS].low < champion.figures[BITS].high  # type: ignore[operator]
    row = one(challenger, champion)
    assert (row.verdict, row.paired, row.n) == ("worse", True, 200)
    assert row.difference == pytest.approx(0.1 + noise.mean()) and row.p is not None and row.p < 0.01
    # the paired interval of a mean, by hand
    half = 1.96 * noise.std() / math.sqrt(200)
    assert (row.low, row.high) == (pytest.approx(row.difference - half, rel=0.1), pytest.approx(row.difference + half, rel=0.1))
    assert one(champion, challenger).verdict == "better"
    alone = Scored("challenger", challenger.figures, ITEMS.empty_table(), "t")
    assert (one(alone, champion).verdict, one(alone, champion).paired) == ("no difference beyond noise", False)


@pytest.mark.parametrize("n", [400, 6000])
@pytest.mark.parametrize(("form", "better"), [("mean", "higher"), ("exp", "lower"), ("mean", "zero"), ("gap", "lower")])
def test_bootstrap_and_linearised_intervals_agree_with_each_other_and_with_a_plain_resampling(
    n: int, form: Form, better: Better, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(5)
    weights = chance.integers(1, 20, n).astype(float)
    groups = 4 if form == "gap" else 1
    tables = []
    for shift in (0.3, 0.2):
        amounts = chance.normal(shift, 0.4, (n, groups)) * weights[:, None] / groups
        tables.append(Cells(amounts, weights))
    found = {}
    for limit in (100, 100_000):
        monkeypatch.setattr(comparison, "MAX_RESAMPLED_ITEMS", limit)
        shown = Figure("x.y", 0.0, 0.0, 0.0, n, better, "", form)
        found[limit] = comparison._paired(shown, shown, *tables, 0)
    drawn = []
    for _ in range(300):
        rows = chance.integers(0, n, n)
        values = []
        for cells in tables:
            sums, total = cells.amounts[rows].sum(0), cells.weights[rows].sum()
            value = (
                np.abs(sums).sum() / total
                if form == "gap"
                else math.exp(sums.sum() / total)
                if form == "exp"
                else sums.sum() / total
            )
            values.append(abs(value) if better == "zero" else value)
        drawn.append(values[0] - values[1])
    linear, resampled = found[100], found[100_000]
    width = 2 * 1.96 * float(np.std(drawn))
    for row in (linear, resampled):
        assert row.low is not None and row.high is not None
        assert row.high - row.low == pytest.approx(width, rel=0.2)
    assert linear.difference == pytest.approx(resampled.difference)
    assert linear.verdict == resampled.verdict


@settings(max_examples=20, deadline=None)
@given(st.integers(30, 80), st.integers(0, 10_000))
def test_a_comparison_turned_round_says_the_opposite(n: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    a, b = measured("a", chance.normal(1, 1, n)), measured("b", chance.normal(1.3, 1, n))
    there, back = one(a, b), one(b, a)
    assert there.difference == pytest.approx(-(back.difference or 0)) and there.low == pytest.approx(-(back.high or 0))
    assert {"better": "worse", "worse": "better"}.get(there.verdict, there.verdict) == back.verdict


def test_equal_models_are_called_worse_about_as_often_as_chance_would() -> None:
    chance, found = np.random.default_rng(0), []
    for _ in range(60):
        base = chance.lognormal(1, 1, 60)
        found.append(one(measured("a", base + chance.normal(0, 1, 60)), measured("b", base + chance.normal(0, 1, 60))).verdict)
    assert found.count("no difference beyond noise") >= 50  # 57 expected; 50 is 4 standard deviations below


def test_the_same_scores_and_differences_of_rounding_are_no_difference() -> None:
    base = hard(100)
    for other in (base, base * (1 + 1e-9)):
        row = one(measured("a", other), measured("b", base))
        assert (row.verdict, row.p) == ("no difference beyond noise", 1.0)


def test_only_items_of_both_count_and_few_of_them_decide_nothing() -> None:
    names = [f"{number:04d}" for number in range(100)]
    champion = measured("champion", np.ones(100), names=names)
    row = one(
        measured("challenger", np.full(100, 9.0), names=[*names[:29], *(f"other {number}" for number in range(71))]), champion
    )
    assert (row.verdict, row.n, row.difference) == ("too small to tell", 29, None)
    shuffled = np.random.default_rng(1).permutation(100)
    base = hard(100)
    again = measured("challenger", base[shuffled], names=[names[place] for place in shuffled])
    assert one(again, measured("champion", base, names=names)).difference == 0


def test_per_token_scores_do_not_compare_across_tokenisers() -> None:
    rows = [
        one(measured("a", hard(50), metric=name, tokeniser=mine), measured("b", hard(50) + 1, metric=name, tokeniser="one"))
        for name, mine in (("heldout.perplexity", "two"), (BITS, "two"), ("heldout.perplexity", "one"))
    ]
    assert [row.verdict for row in rows] == ["other tokens", "better", "better"]


def test_a_metric_of_which_neither_way_is_better_only_differs_and_one_near_zero_is_better_by_its_distance() -> None:
    row = one(measured("a", hard(50) + 5, better="none"), measured("b", hard(50), better="none"))
    assert row.verdict == "differs" and row.damage is None
    minus = -0.5 + np.random.default_rng(3).normal(0, 0.1, 80)
    row = one(measured("a", minus, better="zero"), measured("b", minus + 0.8, better="zero"))
    assert row.verdict == "worse" and row.difference == pytest.approx(-minus.mean() - (minus.mean() + 0.8))


# --- the gate ------------------------------------------------------------------------------------------------------------------


def gate(challenger: Scored, champion: Scored, **config: Any) -> list[str]:
    return refusals(challenger, champion, compare(challenger, champion), GateConfig(**config))


def test_a_worse_challenger_is_refused_and_an_equal_better_or_untold_one_is_not() -> None:
    base = hard(200)
    noise = np.random.default_rng(4).normal(0, 0.05, 200)
    champion = measured("champion", base)
    [refused] = gate(measured("challenger", base + 0.2 + noise), champion)
    assert refused.startswith(f"{BITS}: worse, ") and "95 % interval +0.1" in refused and "200 items" in refused
    for fine in (base, base + noise, base - 0.2 + noise):
        assert gate(measured("challenger", fine), champion) == []
    few = (base[:20] + 9, base[:20])
    assert gate(measured("challenger", few[0]), measured("champion", few[1])) == []
    assert one(measured("challenger", few[0]), measured("champion", few[1])).verdict == "too small to tell"


def test_the_tolerance_is_a_part_of_the_champions_value_and_only_listed_metrics_count() -> None:
    base = np.full(200, 2.0) + np.random.default_rng(1).normal(0, 0.001, 200)
    worse = measured("challenger", base * 1.01)
    assert gate(worse, measured("champion", base)) and not gate(worse, measured("champion", base), tolerance=0.02)
    [why] = gate(worse, measured("champion", base), metrics=("tasks.*", "heldout.bits"))
    assert why == f"gate.metrics: tasks.*, heldout.bits: no figure of such a name was measured of either (there is {BITS} …)"
    assert gate(worse, measured("champion", base), metrics=("held*",))


def test_what_the_champion_has_and_the_challenger_has_not_is_refused() -> None:
    champion = measured("champion", hard(50))
    blind = Scored("challenger", {}, ITEMS.empty_table(), "t")
    assert gate(blind, champion) == [
        f"{BITS}: not measured for challenger, though it is for champion; evaluate it in the same way"
    ]
    assert gate(champion, blind) == []
    assert undecided(blind, [], GateConfig())[0].endswith("not measured for challenger")


def test_what_too_few_common_items_leave_open_is_named() -> None:
    base = hard(200)
    elsewhere = measured("challenger", base + 9, names=[f"other {number}" for number in range(200)])
    champion = measured("champion", base)
    rows = compare(elsewhere, champion)
    assert gate(elsewhere, champion) == []
    assert undecided(champion, rows, GateConfig()) == [f"{BITS}: too small to tell (0 items in common)"]
    assert undecided(champion, compare(measured("challenger", base), champion), GateConfig()) == []


PSEUDO = "heldout.pseudo_bits_per_byte"


@pytest.mark.parametrize(
    ("metric", "key", "mine", "theirs"),
    [
        (PSEUDO, "evaluate.mask_every", 4, 7),
        ("calibration.brier", "evaluate.kind", "masked", "causal"),
        ("bias.swaps.gender", "evaluate.kind", "masked", "causal"),
        (f"{BITS}.half.dirty", "evaluate.overlap_words", 8, 13),
        ("tasks.quiz.acc", "benchmark.tasks.quiz.num_fewshot", 0, 5),
        ("reasoning.cot.accuracy", "benchmark.reasoning.num_shots", 0, 2),
    ],
)
def test_what_was_measured_with_other_settings_is_not_compared_and_the_gate_says_with_which(
    metric: str, key: str, mine: Any, theirs: Any
) -> None:
    challenger, champion = (
        replace(measured(name, hard(50), metric=metric), conditions={key: value, "evaluate.max_documents": value})
        for name, value in (("challenger", mine), ("champion", theirs))
    )
    row = one(challenger, champion)
    assert (row.verdict, row.difference, row.why) == ("other settings", None, f"{key} {mine} beside {theirs}")
    [why] = gate(challenger, champion, metrics=(metric,))
    assert why == f"{metric}: other settings ({key} {mine} beside {theirs}); evaluate both in the same way"
    assert undecided(champion, [row], GateConfig(metrics=(metric,))) == []
    # how many documents were scored decides nothing, and neither does a setting that is not known of both
    for conditions in ({key: theirs, "evaluate.max_documents": mine}, {}):
        assert one(replace(challenger, conditions=conditions), champion).verdict == "no difference beyond noise"


def test_a_document_with_another_text_is_another_document() -> None:
    base, sizes = hard(100), np.full(100, 50.0)
    sizes[60:] = 51
    row = one(measured("a", base, weights=sizes), measured("b", base + 9 * (sizes > 50), weights=np.full(100, 50.0)))
    assert (row.n, row.difference) == (60, 0)


# --- calibration ---------------------------------------------------------------------------------------------------------------


def told(confidence: np.ndarray, hits: np.ndarray, documents: np.ndarray, count: int) -> np.ndarray:
    gaps = np.zeros((count, calibration.NUM_BINS))
    np.add.at(gaps, (documents, calibration.bin_of(confidence)), hits - confidence)
    return gaps


def test_the_calibration_error_is_the_mean_gap_of_the_bins_by_hand() -> None:
    # 6 tokens at 0.9, 3 of them right; 4 at 0.35, 2 of them right: (6 * 0.4 + 4 * 0.15) / 10 = 0.3
    confidence, hits = np.array([0.9] * 6 + [0.35] * 4), np.array([1, 1, 1, 0, 0, 0, 1, 1, 0, 0])
    gaps = told(confidence, hits, np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 1]), 2)
    found = calibration.ece("calibration.ece", gaps, np.array([5, 5]))
    assert found.value == pytest.approx(0.3) and found.small
    assert calibration.bin_of(np.array([0.0, 1 / 15, 0.999, 1.0])).tolist() == [0, 1, 14, 14]


def test_a_calibrated_model_has_a_small_error_and_the_same_one_made_surer_a_larger_one_beyond_noise() -> None:
    chance = np.random.default_rng(7)
    documents = np.repeat(np.arange(100), 50)
    confidence = chance.uniform(0.2, 0.9, 5000)
    hits = (chance.random(5000) < confidence).astype(float)
    sure = confidence**0.3
    made = {}
    for name, of in (("calibrated", confidence), ("sure", sure)):
        gaps = told(of, hits, documents, 100)
        shown = calibration.ece("calibration.ece", gaps, np.full(100, 50))
        table = calibration.ece_items("calibration.ece", [f"{number}" for number in range(100)], gaps, np.full(100, 50))
        made[name] = Scored(name, {shown.name: shown}, table, "t")
        assert shown.low is not None and shown.value is not None and shown.high is not None
        assert shown.low <= shown.value <= shown.high and shown.n == 100
        # the items give the figure back
        sums = table.group_by("group").aggregate([("amount", "sum")])["amount_sum"].to_numpy()
        assert np.abs(sums).sum() / pa.compute.sum(table["weight"]).as_py() == pytest.approx(shown.value)
    values = {name: one.figures["calibration.ece"] for name, one in made.items()}
    assert values["calibrated"].value < 0.03 < 0.1 < values["sure"].value  # type: ignore[operator]
    row = one(made["sure"], made["calibrated"])
    assert (row.verdict, row.paired) == ("worse", True)


def test_items_that_do_not_give_their_figure_are_not_compared_item_by_item() -> None:
    """Some figures, as corpus BLEU, are no ratio of sums: what their items say is another number."""
    base = hard(100)
    other = {}
    for name, amounts in (("a", base + 3), ("b", base)):
        made = measured(name, amounts, better="higher")
        value = float(amounts.mean() ** 2)
        shown = Figure(BITS, value, value - 5, value + 5, 100, "higher")
        other[name] = Scored(name, {BITS: shown}, made.items, "t")
    row = one(other["a"], other["b"])
    assert not row.paired and row.difference == pytest.approx((base.mean() + 3) ** 2 - base.mean() ** 2)
    assert row.verdict == "better"
    without = Scored("a", {BITS: Figure(BITS, 9.0, None, None, 100, "higher")}, ITEMS.empty_table(), "t")
    assert one(without, other["b"]).verdict == "too small to tell"
