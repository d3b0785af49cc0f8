"""Figures against scikit-learn's, by hand where it has none, and blind to order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from tasks.text.accuracy import (
    EVERYBODY,
    NOBODY,
    average_precision,
    brier,
    calibration_error,
    class_figures,
    flag_figures,
    group_figures,
    ranking_figures,
    rate,
    reliability,
    roc_auc,
)

# few different scores, so that there are ties
SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 20).map(lambda n: n / 20)), min_size=2, max_size=80)


@given(SCORED)
def test_ranking_and_calibration_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    actual, score = np.array([one for one, _ in rows]), np.array([one for _, one in rows])
    if actual.any():
        assert average_precision(actual, score) == pytest.approx(metrics.average_precision_score(actual, score), abs=1e-6)
    else:
        assert average_precision(actual, score) is None
    if actual.any() and not actual.all():
        assert roc_auc(actual, score) == pytest.approx(metrics.roc_auc_score(actual, score), abs=1e-6)
        assert brier(actual, score) == pytest.approx(metrics.brier_score_loss(actual, score), abs=1e-6)
    else:
        assert roc_auc(actual, score) is None
    figures = [ranking_figures(a, s, s) for a, s in ((actual, score), (actual[::-1], score[::-1]))]
    assert figures[0] == figures[1]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_classes_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    actual, predicted = np.array(rows).T
    found = class_figures(["a", "b", "c"], actual, predicted, np.eye(3)[predicted])
    want = metrics.precision_recall_fscore_support(actual, predicted, labels=[0, 1, 2], zero_division=np.nan)
    for row, precision, recall, f1, support in zip(found, *want, strict=True):
        for name, value in (("precision", precision), ("recall", recall)):
            assert row[name]["value"] == (None if np.isnan(value) else pytest.approx(value, abs=1e-6))
        assert row["texts"] == support
        if row["f1"] is not None and not np.isnan(f1):
            assert row["f1"] == pytest.approx(f1, abs=1e-6)


def test_an_interval_is_wilsons_and_no_rate_has_none() -> None:
    # Newcombe 1998, table I: 81 of 263
    assert rate(81, 263) == {
        "value": pytest.approx(0.3080, abs=1e-4),
        "low": pytest.approx(0.2553, abs=1e-4),
        "high": pytest.approx(0.3662, abs=1e-4),
    }
    assert rate(0, 0) == {"value": None, "low": None, "high": None}
    assert rate(0, 20)["low"] == 0 and rate(20, 20)["high"] == 1


def test_a_flag_is_counted_on_both_sides() -> None:
    found = flag_figures(np.array([True, True, True, False, False]), np.array([True, True, False, True, False]))
    assert (found["texts"], found["positives"], found["flagged"]) == (5, 3, 3)
    values = [found[name]["value"] for name in ("precision", "recall", "false_positive_rate")]
    assert values == pytest.approx([2 / 3, 2 / 3, 1 / 2], abs=1e-6)


def test_of_a_group_with_too_few_texts_no_rate_is_given() -> None:
    actual, flagged = np.arange(40) % 2 == 0, np.arange(40) % 4 == 0
    members = {"many": np.arange(40) < 20, "few": np.arange(40) >= 37}
    rows = {row["group"]: row for row in group_figures(actual, flagged, members, 10)}
    assert list(rows) == [EVERYBODY, NOBODY, "many", "few"]
    assert [rows[name]["texts"] for name in rows] == [40, 17, 20, 3]
    assert rows["many"] == {"group": "many", "enough": True, **flag_figures(actual[:20], flagged[:20])}
    assert not rows["few"]["enough"] and rows["few"]["recall"] is None and rows["few"]["positives"] == 1


def test_the_calibration_error_is_the_distance_of_score_and_outcome_in_each_bin() -> None:
    actual, score = np.array([True, False, True, True]), np.array([0.25, 0.25, 0.95, 1.0])
    assert [(row["from"], row["texts"], row["positive_share"]) for row in reliability(actual, score)] == [
        (0.2, 2, 0.5),
        (0.9, 2, 1.0),
    ]
    assert calibration_error(actual, score) == pytest.approx((2 * 0.25 + 2 * 0.025) / 4)
