"""Which variant of a corpus makes the better model: the same model trained on each with the same seeds, scored on the same items.

A variant's difference from the baseline is a mean over seeds and items, and both are drawn: other seeds and other held-out documents would
have given another one. Its error is that of two crossed random effects: the variance over seeds of the paired differences, by the number
of seeds, plus the variance over items of the differences (each the mean over seeds), by the number of items, with Satterthwaite's degrees
of freedom (1946). What seed and item have only together is counted in both, so the interval is rather too wide than too narrow (Clark
1973, min F'). An interval is of one metric of one variant: of forty equal ones two lie beyond noise by chance, so look at few.
Costs some milliseconds a metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.learn.comparison import ROUNDING, Cells, Scored, Verdict, by_metric, cells_of, gives, influence, metric_values
from tasks.learn.figures import MIN_ITEMS, Better, Figure

Floats = npt.NDArray[np.float64]

GRID = 20_000
MANY = 1e5
"""Degrees of freedom from which Student's t is the normal distribution."""


@dataclass(frozen=True)
class Effect:
    """One metric of one variant, and beside the baseline."""

    metric: str
    variant: str
    values: Sequence[float]
    """Of each seed, over the items that all models were measured on."""
    mean: float
    low: float
    """Lower end of the 95 % interval of the mean, over seeds: other seeds on the same items."""
    high: float
    difference: float | None
    """variant - baseline, where the nearer to 0 is better, of their distances from 0; None of the baseline itself."""
    difference_low: float | None
    """Lower end of its 95 % interval, over seeds and items."""
    difference_high: float | None
    p: float | None
    """Chance of a difference as large, either way, if there were none."""
    seed_share: float | None
    """Part of the difference's variance that is one of seeds: where it is large more seeds help, where it is small more items."""
    n: int
    """Items that all models were measured on; 0: the metric has none, and the interval is over seeds alone."""
    better: Better
    unit: str
    verdict: Verdict | None
    """None of the baseline."""

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class _Metric:
    """One metric of V variants and S seeds: `values` (V, S), and what each of I items moves them by, (V, S, I)."""

    values: Floats
    moves: Floats
    n: int
    shown: Figure


def effects(names: Sequence[str], scores: Sequence[Sequence[Scored]], patterns: Sequence[str]) -> list[Effect]:
    """Every chosen metric that all models have, in order of the patterns, variant by variant, the baseline first.

    Args:
        names: of the variants (V,); the first is the baseline.
        scores: (V, S) what was measured of the models, by variant and seed; the same seeds in the same order, two at least.
        patterns: names of metrics, or patterns with `*`.
    """
    assert len({len(some) for some in scores}) == 1 and len(scores) == len(names)
    tables = [[dict(by_metric(one.items)) for one in some] for some in scores]
    found = []
    for name in chosen([one.figures for some in scores for one in some], patterns):
        figures = [[one.figures[name] for one in some] for some in scores]
        items = [[one.get(name) for one in some] for some in tables]
        if (metric := _metric(figures, items)) is not None:
            found += [_effect(name, variant, metric, number) for number, variant in enumerate(names)]
    return found


def chosen(figures: Sequence[Mapping[str, Figure]], patterns: Sequence[str]) -> list[str]:
    """The metrics that all have, by the first pattern that each fits."""
    common = reduce(lambda one, other: one & other, (set(some) for some in figures))
    return list(dict.fromkeys(name for pattern in patterns for name in sorted(common) if fnmatchcase(name, pattern)))


def t_quantile(freedom: float) -> float:
    """The end of Student's two-sided interval of 95 % for `freedom` >= 1 degrees of freedom, which need not be whole."""
    angles, shares = _student(min(freedom, MANY))
    return math.sqrt(min(freedom, MANY)) * math.tan(float(np.interp(0.95, shares, angles)))


def t_tails(t: float, freedom: float) -> float:
    """The part of Student's distribution that lies beyond t on both sides."""
    angles, shares = _student(min(freedom, MANY))
    return 1 - float(np.interp(math.atan(abs(t) / math.sqrt(min(freedom, MANY))), angles, shares))


def _student(freedom: float) -> tuple[Floats, Floats]:
    """Angles a from 0 to pi/2, and the share of |t| <= sqrt(freedom) tan(a): the integral of cos(a)^(freedom - 1)."""
    # nearly all of the mass of many degrees of freedom is near 0
    angles = np.linspace(0, 1, GRID) ** 2 * (math.pi / 2)
    density = np.cos(angles) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(angles))])
    return angles, area / area[-1]


def mean_interval(values: Floats) -> tuple[float, float, float]:
    """(mean, low, high) of S >= 2 seeds' values, by Student's t."""
    mean, half = float(values.mean()), t_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def crossed(differences: Floats, moves: Floats) -> tuple[float, float, float, float]:
    """(standard error, degrees of freedom, p, share of the seeds in the variance) of the mean of paired differences.

    Args:
        differences: (S,) by seed.
        moves: (S, I) what each item moves them by, with mean 0 over the items; I = 0: nothing is known of items.
    """
    num_seeds, n = moves.shape
    of_seeds = float(differences.var(ddof=1)) / num_seeds
    of_items = n / (n - 1) * float((moves.mean(0) ** 2).sum()) if n > 1 else 0.0
    variance = of_seeds + of_items
    if not variance:
        return 0.0, math.inf, float(differences.mean() == 0), 0.0
    parts = of_seeds**2 / (num_seeds - 1) + (of_items**2 / (n - 1) if n > 1 else 0.0)
    freedom, error = variance**2 / parts, math.sqrt(variance)
    return error, freedom, t_tails(float(differences.mean()) / error, freedom), of_seeds / variance


def _metric(figures: Sequence[Sequence[Figure]], items: Sequence[Sequence[pa.Table | None]]) -> _Metric | None:
    """Values and moves over the items that all have; None where a model's was not measured."""
    shown = figures[0][0]
    if any(one.value is None for some in figures for one in some):
        return None
    flat = [(one, table) for some, its in zip(figures, items, strict=True) for one, table in zip(some, its, strict=True)]
    if not all(table is not None and gives(one, table) for one, table in flat):
        values = np.array([[one.value for one in some] for some in figures], np.float64)
        return _Metric(_near(values, shown), np.zeros((*values.shape, 0)), 0, shown)
    cells = _common([table for _, table in flat if table is not None], gap=shown.form == "gap")
    if min(one.weights.sum() for one in cells) <= 0:
        return None
    shape = (len(figures), len(figures[0]))
    of_all = np.array([metric_values(one.amounts.sum(0)[None], one.weights.sum()[None], shown.form)[0] for one in cells])
    moves = np.array([influence(one, shown.form, zero=shown.better == "zero") for one in cells])
    return _Metric(_near(of_all.reshape(shape), shown), moves.reshape(*shape, -1), len(cells[0]), shown)


def _near(values: Floats, shown: Figure) -> Floats:
    return np.abs(values) if shown.better == "zero" else values


def _common(tables: Sequence[pa.Table], *, gap: bool) -> list[Cells]:
    """The items that are in all tables, in one order, without those that weigh nothing anywhere."""
    names = [table["item"].to_numpy(zero_copy_only=False).astype(object) for table in tables]
    common = reduce(np.intersect1d, names)
    groups = reduce(np.union1d, [table["group"].to_numpy(zero_copy_only=False).astype(object) for table in tables])
    cells = [cells_of(table, some, common, groups if gap else None) for table, some in zip(tables, names, strict=True)]
    says = np.any([(cell.weights != 0) | (cell.amounts != 0).any(1) for cell in cells], axis=0)
    return [Cells(cell.amounts[says], cell.weights[says]) for cell in cells]


def _effect(name: str, variant: str, metric: _Metric, number: int) -> Effect:
    mine, base = metric.values[number], metric.values[0]
    mean, low, high = mean_interval(mine)
    shown, n = metric.shown, metric.n
    told = (name, variant, mine.tolist(), mean, low, high)
    if number == 0:
        return Effect(*told, None, None, None, None, None, n, shown.better, shown.unit, None)
    differences = mine - base
    difference = float(differences.mean())
    if np.abs(differences).max() <= ROUNDING * max(abs(mean), abs(float(base.mean()))):
        return Effect(
            *told, difference, difference, difference, 1.0, None, n, shown.better, shown.unit, "no difference beyond noise"
        )
    error, freedom, p, seed_share = crossed(differences, metric.moves[number] - metric.moves[0])
    half = t_quantile(freedom) * error
    ends = (difference - half, difference + half)
    return Effect(*told, difference, *ends, p, seed_share, n, shown.better, shown.unit, _verdict(shown.better, ends, n))


def _verdict(better: Better, ends: tuple[float, float], n: int) -> Verdict:
    if 0 < n < MIN_ITEMS:
        return "too small to tell"
    if ends[0] <= 0 <= ends[1]:
        return "no difference beyond noise"
    if better == "none":
        return "differs"
    worse = ends[1] < 0 if better == "higher" else ends[0] > 0
    return "worse" if worse else "better"
