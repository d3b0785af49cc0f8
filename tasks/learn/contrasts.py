"""Two samples beside each other: differences of means and rates, AUC, and the largest gap among several groups, with 95 % intervals.

A difference is kept as items too, one for each item of either sample, whose mean is the difference and whose spread is that of two
samples: pseudo-values, value + influence (for AUC DeLong et al. 1988). So `figures.figure` gives the right interval, and models can be
compared item by item. Costs nothing to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from tasks.learn.figures import Floats
from tasks.text.disparity import newcombe


def difference(one: Floats, other: Floats) -> Floats:
    """(M + N,) items whose mean is mean(one) - mean(other), those of `one` first; both must have some."""
    return _two_samples(float(one.mean() - other.mean()), one, -other)


def auc(lower: Floats, higher: Floats) -> Floats:
    """(M + N,) items whose mean is the chance that one of `lower` is below one of `higher`, ties half; those of `lower` first."""
    below = _share_above(lower, higher)
    return _two_samples(float(below.mean()), below, 1 - _share_above(higher, lower))


def _two_samples(value: float, one: Floats, other: Floats) -> Floats:
    total = len(one) + len(other)
    return value + np.concatenate([total / len(one) * (one - one.mean()), total / len(other) * (other - other.mean())])


def _share_above(values: Floats, among: Floats) -> Floats:
    """Of each value: the part of `among` that is above it, ties half."""
    ordered = np.sort(among)
    left, right = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (2 * len(among) - left - right) / (2 * len(among))


class Gap(NamedTuple):
    """The two groups that lie farthest apart."""

    high_group: str
    low_group: str
    value: float
    """Mean of the first less that of the second: not below 0."""
    low: float
    high: float
    n: int
    """Items of both."""


def largest_gap(groups: Mapping[str, Floats], *, rates: bool) -> Gap | None:
    """The largest difference of means between two of some groups; None for fewer than two that have items.

    The interval is one of 95 % for all pairs together (Bonferroni), since the largest of many is large by chance alone: Newcombe's for
    `rates` of values 0 and 1, else Welch's with normal quantiles.
    """
    some = {name: values for name, values in groups.items() if len(values)}
    if len(some) < 2:
        return None
    z = NormalDist().inv_cdf(1 - 0.025 / math.comb(len(some), 2))
    pairs = (sorted(pair, key=lambda name: -some[name].mean()) for pair in combinations(sorted(some), 2))
    first, second = max(pairs, key=lambda pair: some[pair[0]].mean() - some[pair[1]].mean())
    one, other = some[first], some[second]
    value = float(one.mean() - other.mean())
    low, high = rate_difference(one, other, z) if rates else _welch(one, other, z)
    return Gap(first, second, value, low, high, len(one) + len(other))


def rate_difference(one: Floats, other: Floats, z: float) -> tuple[float, float]:
    """Newcombe's interval (1998, method 10) of the difference of two rates, from values 0 and 1."""
    sizes = [np.array([len(part)], float) for part in (one, other)]
    hits = [np.array([part.sum()]) for part in (one, other)]
    low, high = newcombe(sizes[0], hits[0], sizes[1], hits[1], z)
    return float(low[0]), float(high[0])


def _welch(one: Floats, other: Floats, z: float) -> tuple[float, float]:
    error = math.sqrt(sum(part.var(ddof=1) / len(part) if len(part) > 1 else math.inf for part in (one, other)))
    value = float(one.mean() - other.mean())
    return value - z * error, value + z * error
