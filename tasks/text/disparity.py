"""Disparity of removal: whether a rule drops the documents of one group more often than all others. Counts in, a table out.

For each (kind, group, rule): both removal rates, their difference with Newcombe's interval (1998, method 10: Wilson's score intervals
combined), their ratio with the interval of the log method (Katz et al. 1978), the ratio adjusted by strata (Mantel-Haenszel, with the
variance of Greenland and Robins 1985), and a p-value within strata that few documents do not make too small. Strata here are lengths:
a longer text is likelier to name anybody, and many rules ask for a length, so without them a rule on length looks like one on people.

Zero counts. Where a removed count is 0 the log method has no value: the *intervals* of the ratios are then those of 0.5 more removed and
0.5 more kept documents on both sides (Walter 1975); the ratios stay what they are (0, infinite, or null where nothing was removed at all).
Flagged is a ratio above `max_ratio` that is also significant, of rates that lie `min_difference` apart; a disparity says neither why nor
that the rule is wrong, and one that is not flagged may be too small for this corpus to show.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import AUDITED

Floats = npt.NDArray[np.float64]
Interval = tuple[Floats, Floats]

MIN_EXPECTED = 100
"""Documents that must be expected on either side for the normal approximation. Mantel and Fleiss 1980 ask for 5, at 0.05; among thousands
of rows Holm's correction asks for p about 1e-5, where at 5 expected ones the approximation is about 1/20 of the truth, at 100 1/2."""
KEYS = ("kind", "group", "rule")
COUNTS = ("documents", "removed", "other_documents", "other_removed")
DISPARITY = AUDITED
PEOPLE_FIRST = ("identity", "dialect", "language", "domain")
"""Kinds in the order in which rows are shown: of a hundred hosts some always differ."""


class DisparityBounds(BaseModel):
    """What is flagged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_ratio: float = Field(1.25, ge=1)
    """Removal rate of a group ÷ that of all others, above which it is flagged. 1.25 is 1 ÷ 0.8: the four-fifths rule (29 CFR 1607.4 D)
    turned from being chosen to being dropped."""
    min_difference: float = Field(0.01, ge=0, le=1)
    """Removal rate of a group less that of all others, below which nothing is flagged, whatever the ratio: of rules that drop next to
    nothing, one repeated passage can make it any number."""
    min_documents: int = Field(100, ge=1)
    """Of a group with fewer documents, or with fewer others, nothing is said: the row is there, not tested and never flagged. So is
    that of a rule that removed nothing or everything."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of the intervals, each for itself; 1 minus it is the chance that a flag is due to chance."""
    holm: bool = True
    """Correct p-values for the number of rows tested (Holm 1979): the chance then holds for the first wrong flag of the whole table."""


def disparity(counts: pa.Table, bounds: DisparityBounds) -> pa.Table:
    """The table of DISPARITY for `counts`: rows of (kind, group, rule, documents, removed, other_documents, other_removed).

    Several rows of one (kind, group, rule) are its strata. Raises ValueError for counts that cannot be: more removed than there are.
    """
    keys, row_of = _rows(counts)
    columns = [np.asarray(counts[name].to_numpy(), np.float64) for name in COUNTS]
    order = np.lexsort((*columns, row_of))  # sums of fractions depend on it in their last bit
    row_of, (n1, r1, n0, r0) = row_of[order], (column[order] for column in columns)
    if np.any((r1 < 0) | (r0 < 0) | (r1 > n1) | (r0 > n0)):
        raise ValueError("counts: more documents removed than there are, or fewer than none")
    num = keys.num_rows
    all1, gone1, all0, gone0 = (_summed(row_of, one, num) for one in (n1, r1, n0, r0))
    z = NormalDist().inv_cdf(0.5 + bounds.confidence / 2)
    enough = (all1 >= bounds.min_documents) & (all0 >= bounds.min_documents)
    adjusted, adjusted_interval = mantel_haenszel(n1, r1, n0, r0, row_of, num, z)
    p_value = p_values(n1, r1, n0, r0, row_of, num)
    tested = enough & ~np.isnan(p_value)
    p_adjusted = np.where(tested, p_value, np.nan)
    if bounds.holm:
        p_adjusted[tested] = holm(p_value[tested])
    rate, other_rate = _share(gone1, all1), _share(gone0, all0)
    with np.errstate(invalid="ignore"):
        beyond = (adjusted > bounds.max_ratio) & (rate - other_rate >= bounds.min_difference)
        flagged = tested & beyond & (p_adjusted < 1 - bounds.confidence)
    ratio, ratio_interval = mantel_haenszel(all1, gone1, all0, gone0, np.arange(num), num, z)
    made: list[Any] = [
        *(keys[name] for name in KEYS),
        *(one.astype(np.int64) for one in (all1, gone1, all0, gone0)),
        *(rate, other_rate, rate - other_rate, *newcombe(all1, gone1, all0, gone0, z)),
        *(ratio, *ratio_interval),
        *(adjusted, *adjusted_interval),
        *(p_value, p_adjusted),
    ]
    arrays = [pa.array(one, from_pandas=True) if isinstance(one, np.ndarray) else one for one in made]
    return pa.table([*arrays, pa.array(tested), pa.array(flagged)], schema=DISPARITY)


def worst_first(table: pa.Table) -> pa.Table:
    """The rows flagged first, then those tested; of these people before languages and hosts, by what is sure: the ratio's lower end."""
    sure = pc.if_else(more_often(table), table["adjusted_ratio_low"], 0.0)
    ranked = table.append_column("sure", sure).append_column("rank", pc.index_in(table["kind"], pa.array(PEOPLE_FIRST)))
    keys = [("flagged", "descending"), ("tested", "descending"), ("rank", "ascending"), ("sure", "descending")]
    return ranked.sort_by([*keys, *((name, "ascending") for name in KEYS)]).drop_columns(["sure", "rank"])


def more_often(table: pa.Table) -> pa.ChunkedArray:
    """Whether a group's documents are dropped more often than others'; where none are, the interval, which is one of 0.5, may say so."""
    return pc.fill_null(pc.greater(table["adjusted_ratio"], 1.0), False)


def wilson(removed: Floats, documents: Floats, z: float) -> Interval:
    """Wilson's score interval (1927) of removed ÷ documents; NaN where there are none. z: normal quantile of the confidence."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rate, square = removed / documents, z * z
        centre = rate + square / (2 * documents)
        half = z * np.sqrt((rate * (1 - rate) + square / (4 * documents)) / documents)
        low, high = (centre - half) / (1 + square / documents), (centre + half) / (1 + square / documents)
    # exactly 0 and 1 at the ends, which rounding can miss
    return np.where(removed == 0, np.where(documents > 0, 0.0, np.nan), low), np.where(
        removed == documents, np.where(documents > 0, 1.0, np.nan), high
    )


def newcombe(n1: Floats, r1: Floats, n0: Floats, r0: Floats, z: float) -> Interval:
    """Newcombe's interval (1998, method 10) of r1 ÷ n1 - r0 ÷ n0."""
    (low1, high1), (low0, high0) = wilson(r1, n1, z), wilson(r0, n0, z)
    p1, p0 = _share(r1, n1), _share(r0, n0)
    difference = p1 - p0
    return difference - np.hypot(p1 - low1, high0 - p0), difference + np.hypot(high1 - p1, p0 - low0)


def mantel_haenszel(
    n1: Floats, r1: Floats, n0: Floats, r0: Floats, row_of: npt.NDArray[np.int64], num: int, z: float
) -> tuple[Floats, Interval]:
    """(ratio, its interval) of the removal rates per row, over the strata i with row_of[i] == row; of one stratum the log method's.

    Strata in which one side has no documents say nothing and do not count.
    """
    part, whole, spread = _mantel_haenszel_sums(n1, r1, n0, r0, row_of, num)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = part / whole
    zero = (part == 0) | (whole == 0)
    if zero.any():
        # 0.5 in all, spread over the strata of a row by their share of its documents
        weight = _share(n1 + n0, _summed(row_of, np.where((n1 > 0) & (n0 > 0), n1 + n0, 0), num)[row_of])
        half = np.where(zero[row_of] & (n1 > 0) & (n0 > 0), 0.5 * weight, 0.0)
        part, whole, spread = _mantel_haenszel_sums(n1 + 2 * half, r1 + half, n0 + 2 * half, r0 + half, row_of, num)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle, reach = np.log(part / whole), z * np.sqrt(spread / (part * whole))
        return ratio, (np.exp(middle - reach), np.exp(middle + reach))


def _mantel_haenszel_sums(
    n1: Floats, r1: Floats, n0: Floats, r0: Floats, row_of: npt.NDArray[np.int64], num: int
) -> tuple[Floats, Floats, Floats]:
    total = n1 + n0
    part, whole = _share(r1 * n0, total, 0.0), _share(r0 * n1, total, 0.0)
    spread = _share((r1 + r0) * n1 * n0 - r1 * r0 * total, total * total, 0.0)
    return _summed(row_of, part, num), _summed(row_of, whole, num), _summed(row_of, spread, num)


def p_values(n1: Floats, r1: Floats, n0: Floats, r0: Floats, row_of: npt.NDArray[np.int64], num: int) -> Floats:
    """Two-sided p, per row, of no difference in any stratum: each stratum's removed documents fall on its documents at random.

    By the normal approximation (Cochran-Mantel-Haenszel, no continuity correction; of one stratum the "N - 1" chi-square test) where
    MIN_EXPECTED lets it, else by `_bound`. NaN where there is nothing to compare: nothing or everything was removed, or no stratum
    has documents on both sides.
    """
    both = (n1 > 0) & (n0 > 0)
    n1, r1, n0, r0 = (np.where(both, one, 0.0) for one in (n1, r1, n0, r0))
    total, gone = n1 + n0, r1 + r0
    expected = _share(n1 * gone, total, 0.0)
    variance = _share(n1 * n0 * gone * (total - gone), total * total * (total - 1), 0.0)
    all1, gone1, all0, gone0, mean, spread = (_summed(row_of, one, num) for one in (n1, r1, n0, r0, expected, variance))
    # Mantel and Fleiss 1980: how far the count can go on either side of its expectation
    room = np.minimum(mean - _summed(row_of, np.maximum(gone - n0, 0), num), _summed(row_of, np.minimum(n1, gone), num) - mean)
    found = np.full(num, np.nan)
    for row in np.flatnonzero(spread > 0).tolist():
        if room[row] >= MIN_EXPECTED:
            found[row] = math.erfc(abs(gone1[row] - mean[row]) / math.sqrt(2 * spread[row]))  # the tails of a normal distribution
        else:
            found[row] = _bound(all1[row], gone1[row], all0[row], gone0[row], mean[row])
    return found


def _bound(n1: float, r1: float, n0: float, r0: float, mean: float) -> float:
    """Twice an upper bound of the chance of r1 or what is further from its `mean`; exact enough for few documents.

    r1 is a sum of hypergeometric counts, thus of independent yes-or-no ones (Vatutin and Mikhailov 1982), whose tails from 1 beside the
    mean on are below those of Poisson's distribution (Anderson and Samuels 1967). So are those of the other three counts, which say the
    same: the smallest bound holds.
    """
    if abs(r1 - mean) < 1:
        return 1.0
    mean0 = r1 + r0 - mean
    further = [(r1, mean), (n0 - r0, n0 - mean0)]  # counts and their means: above when r1 is above
    nearer = [(n1 - r1, n1 - mean), (r0, mean0)]
    above, below = (further, nearer) if r1 > mean else (nearer, further)
    views = [(_poisson_from, *one) for one in above] + [(_poisson_to, *one) for one in below]
    views.sort(key=lambda view: view[2])
    few = [view for view in views if view[2] <= 10 * MIN_EXPECTED] or views  # sums over large means take long and bound nothing
    return min(1.0, *(2 * tail(count, expected) for tail, count, expected in few))


def _poisson_from(k: float, mean: float) -> float:
    """P(X >= k) for k > mean > 0, the largest term first."""
    term = math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
    tail = 0.0
    while term > 1e-17 * tail:
        tail += term
        k += 1
        term *= mean / k
    return tail


def _poisson_to(k: float, mean: float) -> float:
    """P(X <= k) for k < mean, the largest term first."""
    term = math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
    tail = 0.0
    while k >= 0 and term > 1e-17 * tail:
        tail += term
        term *= k / mean
        k -= 1
    return tail


def holm(p_values: Floats) -> Floats:
    """Holm's step-down correction (1979) of these p-values, in their order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(steps, 1)
    return corrected


def _summed(row_of: npt.NDArray[np.int64], values: npt.ArrayLike, num: int) -> Floats:
    """The sum of `values` over the strata of each of `num` rows."""
    return np.bincount(row_of, np.asarray(values, np.float64), num).astype(np.float64)


def _share(part: Floats, whole: Floats, empty: float = np.nan) -> Floats:
    """part ÷ whole, and `empty` where whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), empty), where=whole != 0)


def _rows(counts: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The different keys of `counts` in order, and for each of its rows the number of its key."""
    given = counts.select(KEYS).cast(pa.schema([(name, pa.string()) for name in KEYS]))
    keys = given.group_by(KEYS, use_threads=False).aggregate([]).sort_by([(name, "ascending") for name in KEYS])
    known = keys.append_column("row", pa.array(np.arange(keys.num_rows)))
    joined = given.append_column("at", pa.array(np.arange(counts.num_rows))).join(known, KEYS, use_threads=False).sort_by("at")
    return keys.select(KEYS), joined["row"].to_numpy().astype(np.int64)
