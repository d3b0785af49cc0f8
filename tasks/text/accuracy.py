"""How good a classifier is on texts it has not seen: precision and recall with intervals, ranking, calibration; for all and for groups.

Labels and scores in, plain numbers out. Rates have Wilson's 95 % intervals; one without a denominator is None, never 0. Everything is
invariant to the order of the texts. Average precision and ROC AUC are those of scikit-learn, which the tests hold them against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.text.disparity import wilson

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

CONFIDENCE = 0.95
NUM_BINS = 10
"""Of the reliability table and the calibration error: scores of equal width, as in Guo et al. 2017."""
EVERYBODY, NOBODY = "all texts", "no group named"
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_DIGITS = 6


def rate(part: float, whole: float) -> dict[str, float | None]:
    """part ÷ whole as {value, low, high}: Wilson's interval; None throughout where `whole` is 0."""
    if not whole:
        return {"value": None, "low": None, "high": None}
    low, high = wilson(np.array([float(part)]), np.array([float(whole)]), _Z)
    return {"value": _rounded(part / whole), "low": _rounded(low[0]), "high": _rounded(high[0])}


def class_figures(labels: Sequence[str], actual: Ints, predicted: Ints, probabilities: Floats) -> list[dict[str, Any]]:
    """Of every class: support, precision, recall, F1, and the average precision of its own probability against the rest.

    Args:
        actual, predicted: numbers of labels, one per text.
        probabilities: texts × labels.
    """
    made = []
    for code, label in enumerate(labels):
        own, said = actual == code, predicted == code
        hit = float(np.sum(own & said))
        made.append(
            {
                "label": label,
                "texts": int(own.sum()),
                "precision": rate(hit, float(said.sum())),
                "recall": rate(hit, float(own.sum())),
                "f1": _rounded(2 * hit / (own.sum() + said.sum())) if own.any() or said.any() else None,
                "average_precision": average_precision(own, probabilities[:, code]),
            }
        )
    return made


def flag_figures(actual: Bools, flagged: Bools) -> dict[str, Any]:
    """Of texts that are flagged or not: how many, precision, recall, and the share of others that is flagged with them."""
    hit = float(np.sum(actual & flagged))
    return {
        "texts": len(actual),
        "positives": int(actual.sum()),
        "flagged": int(flagged.sum()),
        "precision": rate(hit, float(flagged.sum())),
        "recall": rate(hit, float(actual.sum())),
        "false_positive_rate": rate(float(np.sum(flagged & ~actual)), float(np.sum(~actual))),
    }


def group_figures(actual: Bools, flagged: Bools, members: Mapping[str, Bools], min_texts: int) -> list[dict[str, Any]]:
    """`flag_figures` of all texts, of those that name no group, and of each group; rates are left out below `min_texts` texts.

    Args:
        members: which texts name a group, by its name.
    """
    anyone = np.logical_or.reduce([np.zeros(len(actual), bool), *members.values()])
    rows = []
    for group, own in {EVERYBODY: np.ones(len(actual), bool), NOBODY: ~anyone, **members}.items():
        row = {"group": group, "enough": bool(own.sum() >= min_texts), **flag_figures(actual[own], flagged[own])}
        if not row["enough"]:
            row |= dict.fromkeys(("precision", "recall", "false_positive_rate"), None)
        rows.append(row)
    return rows


def ranking_figures(actual: Bools, raw: Floats, calibrated: Floats) -> dict[str, Any]:
    """How well scores rank and how true they are as probabilities, before and after calibration."""
    return {
        "average_precision": average_precision(actual, calibrated),
        "positive_share": _rounded(float(actual.mean())),
        "roc_auc": roc_auc(actual, calibrated),
        "brier_raw": brier(actual, raw),
        "brier": brier(actual, calibrated),
        "calibration_error_raw": calibration_error(actual, raw),
        "calibration_error": calibration_error(actual, calibrated),
        "reliability_raw": reliability(actual, raw),
        "reliability": reliability(actual, calibrated),
    }


def average_precision(actual: Bools, score: Floats) -> float | None:
    """Σ (recall step × precision) over falling thresholds; None without positives. A score that says nothing has the positive share."""
    if not actual.any():
        return None
    hits, flagged = _by_threshold(actual, score)
    steps = np.diff(hits, prepend=0) / actual.sum()
    return _rounded(float(np.sum(steps * hits / flagged)))


def roc_auc(actual: Bools, score: Floats) -> float | None:
    """Chance that a positive scores above a negative, ties half; None where one of them is missing."""
    positives, negatives = int(actual.sum()), int((~actual).sum())
    if not positives or not negatives:
        return None
    hits, flagged = _by_threshold(actual, score)
    recall = np.concatenate([[0.0], hits / positives])
    false = np.concatenate([[0.0], (flagged - hits) / negatives])
    return _rounded(float(np.sum(np.diff(false) * (recall[1:] + recall[:-1]) / 2)))


def brier(actual: Bools, score: Floats) -> float:
    """Mean squared difference of probability and outcome (Brier 1950): 0 is best."""
    return _rounded(float(np.mean((score - actual) ** 2)))


def calibration_error(actual: Bools, score: Floats) -> float:
    """Expected calibration error: |share of positives - mean score| of the bins, weighted by their texts."""
    rows = reliability(actual, score)
    return _rounded(sum(row["texts"] * abs(row["positive_share"] - row["mean_score"]) for row in rows) / len(actual))


def reliability(actual: Bools, score: Floats) -> list[dict[str, float]]:
    """Of each bin that has texts: its lower edge, texts, mean score, share of positives."""
    bins = np.minimum((score * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    texts = np.bincount(bins, minlength=NUM_BINS)
    scores, positives = np.bincount(bins, score, NUM_BINS), np.bincount(bins, actual, NUM_BINS)
    return [
        {
            "from": _rounded(at / NUM_BINS),
            "texts": int(texts[at]),
            "mean_score": _rounded(scores[at] / texts[at]),
            "positive_share": _rounded(positives[at] / texts[at]),
        }
        for at in np.flatnonzero(texts).tolist()
    ]


def _by_threshold(actual: Bools, score: Floats) -> tuple[Floats, Floats]:
    """(positives, texts) at or above each different score, from the highest on."""
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    return np.cumsum(actual[order])[last].astype(np.float64), (last + 1).astype(np.float64)


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
