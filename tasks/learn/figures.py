"""Figures with their number of items and 95 % interval, from what single items gave: no score without its doubt.

A metric is a ratio of sums over items, `sum(amount) / sum(weight)`: nats per token, nats per byte, hits per question. Items are kept
as ITEMS, so that two models can be compared item by item later. Costs a few milliseconds a metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from expectations.schemas import ITEMS, SCORES
from infra import storage
from infra.dataset import Counts, Receipt, write_table
from tasks.learn import config

Floats = npt.NDArray[np.float64]
Form = Literal["mean", "exp", "rate", "gap"]
"""mean: the ratio itself. exp: its exponential (perplexity). rate: the part of items with amount 1, the others have 0. gap: the sum over
the items' groups of |sum(amount)|, by the sum of all weights (calibration error, whose groups are bins)."""
Better = Literal["higher", "lower", "zero", "none"]

MIN_ITEMS = 30
"""Fewer items do not decide anything: the figure is shown, marked as too small to tell."""
NUM_RESAMPLES = 1000
MAX_RESAMPLED_ITEMS = 5000
"""Above it the bootstrap and the linearised interval agree to a percent of their width, and the bootstrap takes seconds."""
Z_95 = 1.959964
"""Normal quantile of a two-sided interval of 95 %."""
GROUPED = frozenset({"source", "language", "half", "group", "level", "type", "copies"})
"""A name with one of these between its second part and its last, which is the group's, is of one group."""


class StepOutput(Protocol):
    """What of `infra.steps.Output` is used."""

    folder: str
    receipts: list[Receipt]
    counts: Counts | None
    facts: dict[str, Any]

    def keep_file(self, name: str) -> None:
        """Count a file as part of the version."""


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation."""

    name: str
    """Dotted, the most general part first: `heldout.perplexity`, `bias.gender.gap`, `heldout.perplexity.source.web`."""
    value: float | None
    """None: there was nothing to measure."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end of it."""
    n: int
    """Items measured: documents, questions, pairs; not tokens."""
    better: Better
    """Which way is better; zero: the nearer to 0; none: neither."""
    unit: str = ""
    """What the value counts in, "" for a share."""
    form: Form = "mean"
    """How it follows from its items, so that two models' can be compared item by item."""

    @property
    def small(self) -> bool:
        """Whether it is too small to tell."""
        return self.value is None or self.n < MIN_ITEMS

    def as_json(self) -> dict[str, Any]:
        """All fields, and `small`."""
        return asdict(self) | {"small": self.small}


@dataclass
class Measured:
    """What a part of an evaluation gave."""

    figures: list[Figure] = field(default_factory=list)
    items: list[pa.Table] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """What a reader of the figures needs besides: how often a guess is right, what was left out, examples."""

    def take(self, made: Figure, table: pa.Table | None = None) -> None:
        """One more figure, with its items where it has any."""
        self.figures.append(made)
        if table is not None:
            self.items.append(table)

    def add(self, other: Measured) -> None:
        """Take in another part."""
        self.figures += other.figures
        self.items += other.items
        self.settings |= other.settings


def of_all(name: str) -> bool:
    """Whether a figure of this name is one of all items, and not of a single group."""
    return not GROUPED & set(name.split(".")[2:-1])


def headline(figures: Iterable[Figure]) -> list[Figure]:
    """Figures of all items, without those of single groups."""
    return [one for one in figures if of_all(one.name)]


def table(figures: Iterable[Figure]) -> pa.Table:
    """SCORES: the figures as rows."""
    rows = [
        one.as_json()
        | {
            "below": None if one.value is None or one.low is None else one.value - one.low,
            "above": None if one.value is None or one.high is None else one.high - one.value,
        }
        for one in figures
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


def write(folder: str, figures: Iterable[Figure], items: Iterable[pa.Table], told: Mapping[str, Any]) -> list[str]:
    """Write what comparison, registry and report read of a version of scores: `told` with the figures, and ITEMS; gives the names."""
    storage.write_json(storage.join(folder, config.SCORES), {"figures": [one.as_json() for one in figures], **told})
    write_table(storage.join(folder, config.ITEMS), pa.concat_tables([ITEMS.empty_table(), *items]).combine_chunks())
    return [config.SCORES, config.ITEMS]


def items(
    metric: str, names: Sequence[str], amounts: Floats, weights: Floats | None = None, group: Sequence[str] | str = ""
) -> pa.Table:
    """ITEMS (N rows) of one metric; without weights each item counts once."""
    count = len(names)
    return pa.table(
        {
            "metric": [metric] * count,
            "item": list(names),
            "group": [group] * count if isinstance(group, str) else list(group),
            "amount": np.asarray(amounts, np.float64),
            "weight": np.ones(count) if weights is None else np.asarray(weights, np.float64),
        },
        schema=ITEMS,
    )


def figure(
    name: str,
    amounts: Floats,
    weights: Floats | None = None,
    *,
    form: Form = "mean",
    better: Better,
    unit: str = "",
    seed: int = 0,
) -> Figure:
    """The figure of items (N,): value and 95 % interval; items of no weight and no amount say nothing and are not counted."""
    weights = np.ones(len(amounts)) if weights is None else weights
    counted = (weights != 0) | (amounts != 0)
    amounts, weights = np.asarray(amounts, np.float64)[counted], np.asarray(weights, np.float64)[counted]
    n = len(amounts)
    if not n or weights.sum() <= 0:
        return Figure(name, None, None, None, n, better, unit, form)
    ratio = float(amounts.sum() / weights.sum())
    low, high = _wilson(ratio, n) if form == "rate" else _interval(amounts, weights, ratio, seed)
    low, high = min(low, ratio), max(high, ratio)  # where all items are equal the ends are the value, but for rounding
    if form == "exp":
        ratio, low, high = math.exp(ratio), math.exp(low), math.exp(high)
    return Figure(name, ratio, low, high, n, better, unit, form)


def _wilson(rate: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a rate (1927): right for few items and for rates of 0 and 1, where a bootstrap has no width."""
    z2 = Z_95**2
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # the ends are 0 and 1 for rates of 0 and 1, but for a rounding
    return max(0.0, min(rate, middle - half)), min(1.0, max(rate, middle + half))


def _interval(amounts: Floats, weights: Floats, ratio: float, seed: int) -> tuple[float, float]:
    n = len(amounts)
    if n > MAX_RESAMPLED_ITEMS:
        error = math.sqrt(n / (n - 1) * float(((amounts - ratio * weights) ** 2).sum())) / float(weights.sum())
        return ratio - Z_95 * error, ratio + Z_95 * error
    ratios = resampled(amounts, weights, seed)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def resampled(amounts: Floats, weights: Floats, seed: int) -> Floats:
    """(NUM_RESAMPLES,) ratios of items drawn with replacement (Efron 1979); equal seeds and lengths draw the same items."""
    n = len(amounts)
    chance = np.random.default_rng(seed)
    ratios = np.empty(NUM_RESAMPLES)
    for number in range(NUM_RESAMPLES):
        drawn = chance.integers(0, n, n)
        total = weights[drawn].sum()
        ratios[number] = amounts[drawn].sum() / total if total else np.nan
    return ratios[~np.isnan(ratios)]
