"""Intervals and tests against published examples, their properties, and a planted bias beside a fair draw of the same size."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.disparity import COUNTS, DISPARITY, DisparityBounds, disparity, holm, more_often, newcombe, wilson, worst_first

Z = NormalDist().inv_cdf(0.975)
BOUNDS = DisparityBounds()
# R's UCBAdmissions (Bickel et al. 1975): (women, women refused, men, men refused) by department
BERKELEY = [
    (108, 19, 825, 313),
    (25, 8, 560, 207),
    (593, 391, 325, 205),
    (375, 244, 417, 279),
    (393, 299, 191, 138),
    (341, 317, 373, 351),
]


def table(*rows: tuple[int, int, int, int], group: str = "g", rule: str = "r") -> pa.Table:
    columns = dict(zip(COUNTS, np.array(rows, np.int64).reshape(-1, 4).T, strict=True))
    return pa.table({"kind": ["k"] * len(rows), "group": [group] * len(rows), "rule": [rule] * len(rows), **columns})


def judged(*rows: tuple[int, int, int, int], bounds: DisparityBounds = BOUNDS) -> dict[str, float]:
    [row] = disparity(table(*rows), bounds).to_pylist()
    return dict(row)


def floats(*values: float) -> list[np.ndarray]:
    return [np.array([value], np.float64) for value in values]


# --- published examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(  # Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10
    ("r1", "n1", "r0", "n0", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0000),
        (10, 10, 0, 10, 0.6075, 1.0000),
    ],
)
def test_the_interval_of_a_difference_is_that_of_newcombes_examples(
    r1: int, n1: int, r0: int, n0: int, low: float, high: float
) -> None:
    [found_low], [found_high] = newcombe(*floats(n1, r1, n0, r0), Z)
    assert (found_low, found_high) == (pytest.approx(low, abs=5.1e-5), pytest.approx(high, abs=5.1e-5))


@pytest.mark.parametrize(  # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
    ("r", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)]
)
def test_the_interval_of_a_rate_is_wilsons(r: int, n: int, low: float, high: float) -> None:
    [found_low], [found_high] = wilson(*floats(r, n), Z)
    assert (found_low, found_high) == (pytest.approx(low, abs=5.1e-5), pytest.approx(high, abs=5.1e-5))


def test_the_interval_of_a_ratio_is_that_of_scipys_example() -> None:
    row = judged((122, 27, 487, 44))  # scipy.stats.contingency.relative_risk(27, 122, 44, 487)
    assert row["ratio"] == row["adjusted_ratio"] == pytest.approx(2.4495156482861398)
    for name in ("ratio", "adjusted_ratio"):
        assert (row[f"{name}_low"], row[f"{name}_high"]) == (pytest.approx(1.5836990926700116), pytest.approx(3.7886786315466354))


def test_strata_resolve_simpsons_paradox_of_berkeleys_admissions() -> None:
    row = judged(*BERKELEY)
    assert row["ratio"] == pytest.approx((1278 / 1835) / (1493 / 2691)) and row["ratio_low"] > 1  # women seem refused more often
    assert row["adjusted_ratio_low"] < 1 < row["adjusted_ratio_high"] and not row["flagged"]
    assert row["p_value"] == pytest.approx(
        0.2169, abs=5e-5
    )  # R: mantelhaen.test(UCBAdmissions, correct = FALSE), X-squared 1.5246


def test_holms_correction_is_that_of_r() -> None:
    found = holm(np.array([0.01, 0.02, 0.03, 0.04, 0.05]))  # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert found.tolist() == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm(np.array([0.9, 0.001, 0.4])).tolist() == pytest.approx([0.9, 0.003, 0.8])
    assert holm(np.array([])).tolist() == []


def test_rates_that_lie_next_to_each_other_are_not_flagged_whatever_their_ratio() -> None:
    near, apart = judged((20_000, 300, 20_000, 101)), judged((20_000, 300, 20_000, 99))
    assert near["difference"] < 0.01 < apart["difference"]
    assert near["ratio"] > 2.9 and near["p_value"] < 1e-10 and near["tested"]
    assert (near["flagged"], apart["flagged"]) == (False, True)


# --- what is said at zero ------------------------------------------------------------------------------------------------------


def test_zero_counts_have_the_ratio_they_have_and_the_interval_of_half_a_document_more() -> None:
    none_of_others, none_of_group, none_at_all = judged((200, 20, 300, 0)), judged((200, 0, 300, 30)), judged((200, 0, 300, 0))
    assert none_of_others["ratio"] == math.inf and none_of_others["flagged"]
    reach = Z * math.sqrt(1 / 20.5 - 1 / 201 + 1 / 0.5 - 1 / 301)
    middle = math.log((20.5 / 201) / (0.5 / 301))
    assert none_of_others["ratio_low"] == pytest.approx(math.exp(middle - reach))
    assert none_of_others["ratio_high"] == pytest.approx(math.exp(middle + reach))
    assert none_of_group["ratio"] == 0 and 0 < none_of_group["ratio_low"] < none_of_group["ratio_high"] < 1
    assert none_at_all["ratio"] is None and none_at_all["ratio_low"] < 1 < none_at_all["ratio_high"]
    assert none_at_all["difference"] == 0 and not none_at_all["tested"] and none_at_all["p_value"] is None


def test_of_too_few_documents_nothing_is_said() -> None:
    few, few_others, nobody = judged((99, 99, 1000, 0)), judged((1000, 1000, 99, 0)), judged((0, 0, 500, 5))
    assert (
        [row["tested"] for row in (few, few_others, nobody)]
        == [False] * 3
        == [row["flagged"] for row in (few, few_others, nobody)]
    )
    assert nobody["removal_rate"] is None and nobody["ratio"] is None and nobody["other_removal_rate"] == 0.01
    assert judged((100, 100, 1000, 0))["flagged"]


def test_no_counts_are_no_rows_and_impossible_ones_are_refused() -> None:
    assert disparity(table(), BOUNDS).schema == DISPARITY and disparity(table(), BOUNDS).num_rows == 0
    with pytest.raises(ValueError, match="more documents removed than there are"):
        disparity(table((5, 6, 10, 1)), BOUNDS)


def test_a_handful_of_documents_is_not_evidence_but_a_small_group_that_is_gone_is() -> None:
    """By the normal approximation the first has p = 0.006 and, in the last of two strata, 1e-9."""
    assert judged((1254, 1, 22527, 2))["p_value"] > 0.2
    handful = judged((1250, 0, 20000, 2), (4, 1, 2527, 0))
    assert handful["p_value"] > 1e-3 and handful["adjusted_ratio"] > 2
    gone = judged((150, 20, 300_000, 0))
    assert gone["flagged"] and gone["p_value"] < 1e-30


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 400), st.data())
def test_p_values_of_few_documents_are_not_below_the_exact_ones(n1: int, n0: int, data: st.DataObject) -> None:
    r1, r0 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n0))
    gone, total = r1 + r0, n1 + n0

    def chance(k: int) -> float:
        return math.comb(n1, k) * math.comb(n0, gone - k) / math.comb(total, gone)

    possible = range(max(0, gone - n0), min(n1, gone) + 1)
    tails = sum(chance(k) for k in possible if k <= r1), sum(chance(k) for k in possible if k >= r1)
    [row] = disparity(table((n1, r1, n0, r0)), BOUNDS).to_pylist()
    assert (row["p_value"] is None) == (gone in (0, total) or total == 1)
    assert row["p_value"] is None or row["p_value"] >= min(1, 2 * min(tails)) * (1 - 1e-9)


# --- properties ----------------------------------------------------------------------------------------------------------------

SIDES = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES)
def test_sides_exchanged_turn_everything_round(one: tuple[int, int], other: tuple[int, int]) -> None:
    there, back = judged((*one, *other)), judged((*other, *one))
    for there_end, back_end in (("", ""), ("_low", "_high"), ("_high", "_low")):
        assert there[f"difference{there_end}"] == pytest.approx(-back[f"difference{back_end}"], abs=1e-12)
        ratio, turned = there[f"ratio{there_end}"], back[f"ratio{back_end}"]
        assert (ratio is None) == (turned is None)
        if ratio is not None:
            assert ratio == pytest.approx(math.inf if turned == 0 else 1 / turned)
    assert there["p_value"] == (None if back["p_value"] is None else pytest.approx(back["p_value"]))
    assert not (there["flagged"] and back["flagged"])
    assert -1 <= there["difference_low"] <= there["difference"] <= there["difference_high"] <= 1


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES)
def test_one_more_removed_of_a_group_raises_every_measure(one: tuple[int, int], other: tuple[int, int]) -> None:
    documents, removed = one
    if removed == documents:
        return
    less, more = judged((documents, removed, *other)), judged((documents, removed + 1, *other))
    assert more["removal_rate"] > less["removal_rate"]
    for name in ("difference", "difference_low", "difference_high"):
        assert more[name] >= less[name] - 1e-12
    if less["ratio"] is not None and other[1]:
        assert more["ratio"] > less["ratio"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5), st.randoms())
def test_strata_in_any_order_and_other_rows_beside_them_change_nothing(
    strata: list[tuple[tuple[int, int], tuple[int, int]]], random: object
) -> None:
    rows = [(*one, *other) for one, other in strata]
    alone = disparity(table(*rows), DisparityBounds(holm=False)).to_pylist()
    beside = pa.concat_tables([table((500, 50, 500, 50), rule="other"), table(*rows[::-1]), table((9, 1, 9, 1), group="h")])
    found = [
        row for row in disparity(beside, DisparityBounds(holm=False)).to_pylist() if (row["group"], row["rule"]) == ("g", "r")
    ]
    for name, value in alone[0].items():
        assert found[0][name] == (pytest.approx(value) if isinstance(value, float) else value)


def test_every_stratum_alike_is_the_same_as_none() -> None:
    row = judged((100, 20, 200, 25), (200, 40, 400, 50))
    assert row["adjusted_ratio"] == pytest.approx(row["ratio"])


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw, trials = np.random.default_rng(7), 2000
    removed, others = draw.binomial(400, 0.1, trials), draw.binomial(900, 0.08, trials)
    rows = pa.concat_tables(
        [table((400, int(r1), 900, int(r0)), group=f"{n:04}") for n, (r1, r0) in enumerate(zip(removed, others, strict=True))]
    )
    found = disparity(rows, BOUNDS).to_pandas()
    for name, truth in (("difference", 0.02), ("ratio", 1.25)):
        held = ((found[f"{name}_low"] <= truth) & (truth <= found[f"{name}_high"])).mean()
        assert 0.94 <= held <= 0.965, (name, held)


# --- a planted bias and a fair draw --------------------------------------------------------------------------------------------

NUM_DOCUMENTS, NUM_GROUPS, NUM_RULES = 40_000, 20, 30


def drawn(seed: int, planted: float) -> pa.Table:
    """Counts of a corpus in which each of 20 groups is in 5 % and each of 30 rules drops 4 %; rule 3 group 7 `planted` more often."""
    draw = np.random.default_rng(seed)
    member = draw.random((NUM_GROUPS, NUM_DOCUMENTS)) < 0.05
    rows = []
    for rule in range(NUM_RULES):
        rate = np.full(NUM_DOCUMENTS, 0.04)
        if rule == 3:
            rate[member[7]] *= planted
        removed = draw.random(NUM_DOCUMENTS) < rate
        for group in range(NUM_GROUPS):
            n1, r1 = int(member[group].sum()), int((member[group] & removed).sum())
            counted = (n1, r1, NUM_DOCUMENTS - n1, int(removed.sum()) - r1)
            rows.append(table(counted, group=f"group{group}", rule=f"rule{rule}"))
    return pa.concat_tables(rows)


def flags(counts: pa.Table) -> list[tuple[str, str]]:
    found = disparity(counts, BOUNDS)
    return [(row["group"], row["rule"]) for row in found.filter(found["flagged"]).to_pylist()]


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_planted_bias_is_found_and_a_fair_draw_of_the_same_size_is_not(seed: int) -> None:
    assert flags(drawn(seed, 2.0)) == [("group7", "rule3")] and flags(drawn(seed, 1.0)) == []


def test_fair_draws_are_flagged_no_oftener_than_the_confidence_says() -> None:
    assert sum(bool(flags(drawn(seed, 1.0))) for seed in range(10)) <= 1


def test_without_holms_correction_chance_is_flagged_among_many() -> None:
    assert any(disparity(drawn(1, 1.0), DisparityBounds(holm=False))["flagged"].to_pylist())


def test_a_rule_on_length_is_not_taken_for_one_on_people() -> None:
    """Long texts name the group more often, and are dropped more often: within one length nothing is different."""
    short, long = (200, 10, 4000, 200), (2000, 1000, 1000, 500)
    row, crude = judged(short, long), judged(tuple(a + b for a, b in zip(short, long, strict=True)))  # type: ignore[arg-type]
    assert row["ratio"] == crude["ratio"] > 3 and crude["flagged"]
    assert row["adjusted_ratio"] == pytest.approx(1) and not row["flagged"]


def test_rows_are_shown_flagged_ones_first_people_before_hosts_and_by_what_is_sure() -> None:
    names = [*COUNTS]
    rows = {
        ("domain", "big.example", "a"): (4_000, 2_000, 4_000, 200),  # flagged, ten times as often
        ("identity", "en/x", "a"): (4_000, 600, 4_000, 200),  # flagged, three times
        ("identity", "en/y", "a"): (4_000, 900, 4_000, 200),  # flagged, four and a half
        ("domain", "small.example", "a"): (400, 22, 4_000, 200),  # hardly more
        ("identity", "en/none", "a"): (4_000, 0, 4_000, 1),  # its interval reaches far, but nothing was dropped
        ("dialect", "en/few", "a"): (3, 3, 4_000, 1),  # too few to say
    }
    counts = pa.table(
        {
            **{name: [key[at] for key in rows] for at, name in enumerate(("kind", "group", "rule"))},
            **{name: [one[at] for one in rows.values()] for at, name in enumerate(names)},
        }
    )
    found = worst_first(disparity(counts, BOUNDS))
    assert found["group"].to_pylist() == ["en/y", "en/x", "big.example", "en/none", "small.example", "en/few"]
    assert found.column_names == DISPARITY.names
    assert more_often(found).to_pylist() == [True, True, True, False, True, True]
