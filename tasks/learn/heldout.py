"""Figures of held-out documents, with the documents they rest on: scores by source and language, calibration, fairness, dirty and clean.

The names of a masked model's scores say `pseudo`: it sees what follows, so they do not compare with those of a causal one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tasks.learn import calibration
from tasks.learn.comparison import Cells, apart
from tasks.learn.figures import MIN_ITEMS, Z_95, Better, Figure, Form, Measured, figure, items
from tasks.learn.metrics import EvalResult

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]

TOLD_GROUPS = 20
"""Sources, and as many languages, that have figures of their own: those with the most text."""
NOT_KNOWN = "not known"
BITS = "bits per byte"


@dataclass(frozen=True)
class _Metric:
    """One score as amounts and weights of documents (D,)."""

    name: str
    amounts: Floats
    weights: Floats
    form: Form
    better: Better
    unit: str


def held_out(result: EvalResult, *, masked: bool, languages: Mapping[str, str], dirty: Mask | None) -> Measured:
    """All figures of the scored documents.

    Args:
        masked: whether the model is a masked one.
        languages: doc_id → language; without any there are no figures by language.
        dirty: (D,) which documents overlap with the training split; None: nobody looked.
    """
    report, metrics = Measured(), _metrics(result, masked=masked)
    names = result.documents.doc_id
    everything = np.ones(len(names), bool)
    for metric in metrics:
        _add(report, metric, metric.name, names, everything)
    told = result.told
    tokens = result.documents.num_tokens
    report.take(
        calibration.ece("calibration.ece", told.gaps, tokens),
        calibration.ece_items("calibration.ece", names.tolist(), told.gaps, tokens),
    )
    kinds = {"source": result.documents.source}
    if languages:
        kinds["language"] = np.array([languages.get(name) or NOT_KNOWN for name in names.tolist()], object)
    bits = next(metric for metric in metrics if metric.unit == BITS)
    for kind, groups in kinds.items():
        chosen = _largest(groups, bits.weights)
        for metric in metrics:
            if metric.name.startswith("heldout."):
                for group in chosen:
                    _add(report, metric, f"{metric.name}.{kind}.{group}", names, groups == group, group)
        if len(chosen) > 1:
            report.take(_unfair(f"fairness.bits_per_byte.{kind}", bits, groups, chosen))
    if dirty is not None:
        for half, mine in (("dirty", dirty), ("clean", ~dirty)):
            _add(report, bits, f"{bits.name}.half.{half}", names, mine, half)
        report.take(_difference("contamination.bits_per_byte", bits, dirty, ~dirty, "none"))
    return report


def _metrics(result: EvalResult, *, masked: bool) -> list[_Metric]:
    told = result.told
    tokens, size = result.documents.num_tokens.astype(np.float64), result.documents.num_bytes.astype(np.float64)
    pseudo, accuracy = ("pseudo_", "masked_accuracy") if masked else ("", "accuracy")
    return [
        _Metric(f"heldout.{pseudo}perplexity", told.nats, tokens, "exp", "lower", "per token"),
        _Metric(f"heldout.{pseudo}bits_per_byte", told.nats / math.log(2), size, "mean", "lower", BITS),
        _Metric(f"heldout.{accuracy}", told.hits, tokens, "mean", "higher", ""),
        _Metric("calibration.brier", told.brier, tokens, "mean", "lower", "squared distance"),
    ]


def _add(report: Measured, metric: _Metric, name: str, names: Names, mine: Mask, group: str = "") -> None:
    amounts, weights = metric.amounts[mine], metric.weights[mine]
    made = figure(name, amounts, weights, form=metric.form, better=metric.better, unit=metric.unit)
    report.take(made, items(name, names[mine].tolist(), amounts, weights, group))


def _largest(groups: Names, weights: Floats) -> list[str]:
    """The groups with the most text, from the most to the least."""
    found, code = np.unique(groups.astype(str), return_inverse=True)
    sizes = np.bincount(code, weights, len(found))
    return [str(found[place]) for place in np.lexsort((found, -sizes))[:TOLD_GROUPS]]


def _unfair(name: str, metric: _Metric, groups: Names, chosen: Sequence[str]) -> Figure:
    """How much worse the worst group is than the best, of those that are big enough.

    The interval is one of 95 % for all pairs of these together (Bonferroni), since the largest of many gaps is large by chance alone.
    """
    able = [group for group in chosen if group != NOT_KNOWN and _size(metric, groups == group) >= MIN_ITEMS]
    if len(able) < 2:
        return Figure(name, None, None, None, max((_size(metric, groups == one) for one in chosen), default=0), "zero", BITS)
    ratio = {group: metric.amounts[groups == group].sum() / metric.weights[groups == group].sum() for group in able}
    worst, best = max(able, key=ratio.__getitem__), min(able, key=ratio.__getitem__)
    made = _difference(name, metric, groups == worst, groups == best, "zero")
    wider = NormalDist().inv_cdf(1 - 0.025 / math.comb(len(able), 2)) / Z_95
    assert made.value is not None and made.low is not None and made.high is not None  # both groups have documents
    low, high = (made.value + wider * (end - made.value) for end in (made.low, made.high))
    return replace(made, low=low, high=high)


def _size(metric: _Metric, mine: Mask) -> int:
    return int((metric.weights[mine] > 0).sum())


def _difference(name: str, metric: _Metric, one: Mask, other: Mask, better: Better) -> Figure:
    """The first documents' score minus that of the others; n is that of the fewer."""
    n = min(_size(metric, one), _size(metric, other))
    if not n:
        return Figure(name, None, None, None, 0, better, metric.unit)
    first, second = (Cells(metric.amounts[mine][:, None], metric.weights[mine]) for mine in (one, other))
    return Figure(name, *apart(first, second, 0), n, better, metric.unit)
