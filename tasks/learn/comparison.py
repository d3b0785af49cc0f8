"""Two models metric by metric, over the items that both were measured on, and whether one may take the place of the other.

The same resampled items are taken for both (paired bootstrap: Efron 1979; Koehn 2004), so what is hard for either model is no noise
between them. Above MAX_RESAMPLED_ITEMS the interval is that of the linearised difference. A p-value is two-sided and of one metric: of
forty metrics of two equal models one is called worse by chance, so look at few. Figures that other settings decided are not compared
(tasks/learn/conditions.py). Costs some 50 ms a metric of 5,000 items.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.schemas import ITEMS as ITEMS_SCHEMA
from infra.dataset import ShardSet
from infra.errors import InputError
from tasks.learn.conditions import Conditions, conditions_of, differing
from tasks.learn.config import ITEMS, SCORES, GateConfig
from tasks.learn.figures import MAX_RESAMPLED_ITEMS, MIN_ITEMS, NUM_RESAMPLES, Z_95, Better, Figure, Form

Floats = npt.NDArray[np.float64]
Verdict = Literal[
    "better", "worse", "differs", "no difference beyond noise", "too small to tell", "other tokens", "other settings"
]

TOLD_NAMES = 5
"""Figures that an error names."""
ROUNDING = 1e-6
"""A difference below this part of the value is one of rounding: other threads, another batch."""
PER_TOKEN = (
    *("heldout.perplexity", "heldout.pseudo_perplexity", "heldout.accuracy", "heldout.masked_accuracy", "calibration."),
    *("memorisation.extraction.", "memorisation.copied.", "privacy.pii."),
)
"""Metrics whose unit is a token: they do not compare across tokenisers."""
OF_TEXTS = ("heldout.", "calibration.", "robustness.")
"""Metrics whose items are documents and weigh as much as their texts: where a document weighs otherwise, its text is another one."""
OF_ALL_TEXTS = ("fairness.", "contamination.")
"""Metrics of all documents together: they do not compare where the documents are not the same."""
WHOLE = ("heldout.bits_per_byte", "heldout.pseudo_bits_per_byte")
"""Metrics whose items are all documents that were scored."""
UNDECIDED = ("too small to tell", "other tokens")
"""Verdicts that say nothing of the two models."""


@dataclass(frozen=True)
class Cells:
    """What each of I items gave: `amounts` (I, G) by group (one, but for the form `gap`) and `weights` (I,)."""

    amounts: Floats
    weights: Floats

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Scored:
    """What an evaluation left of one model."""

    name: str
    figures: Mapping[str, Figure]
    items: pa.Table
    """ITEMS, whose `metric` is the name of a figure."""
    tokeniser: str = ""
    """Digest of its tokeniser; empty where it is not known."""
    conditions: Conditions = field(default_factory=dict)
    """By which settings it was measured."""


@dataclass(frozen=True)
class Comparison:
    """One metric of a challenger beside that of the champion, over the items that both have."""

    name: str
    challenger: float | None
    champion: float | None
    difference: float | None
    """challenger - champion; where the nearer to 0 is better, of their distances from 0."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    p: float | None
    """Chance of a difference as large, either way, if there were none."""
    n: int
    """Items that both have."""
    better: Better
    unit: str
    paired: bool
    """Whether it is item by item; else only the two intervals are compared, which sees less."""
    verdict: Verdict
    why: str = ""
    """Of other settings, which ones: the challenger's beside the champion's."""

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @property
    def damage(self) -> tuple[float, float] | None:
        """By how much the challenger is worse: the ends of the interval; None where neither way is better."""
        if self.low is None or self.high is None or self.better == "none":
            return None
        return (-self.high, -self.low) if self.better == "higher" else (self.low, self.high)


def measured(versions: Sequence[ShardSet]) -> Scored:
    """What these versions of scores say together of one model.

    Raises:
        InputError: one has no scores with figures.
    """
    figures: dict[str, Figure] = {}
    conditions: dict[str, Any] = {}
    tables, tokeniser = [ITEMS_SCHEMA.empty_table()], ""
    for version in versions:
        manifest = version.manifest()
        names = {entry.name for entry in manifest.files}
        told = json.loads(version.read_file(SCORES)) if SCORES in names else {}
        if "figures" not in told:
            raise InputError(f"{version.step}/{version.version}: has no figures to compare; evaluate the model again")
        figures |= {one["name"]: figure_of(one) for one in told["figures"]}
        tokeniser = told.get("tokeniser", tokeniser)
        conditions |= conditions_of(manifest, told.get("kind"))
        if ITEMS in names:
            tables.append(pq.read_table(pa.BufferReader(version.read_file(ITEMS))).cast(ITEMS_SCHEMA))
    name = " + ".join(f"{one.step}/{one.version}" for one in versions)
    return Scored(name, figures, pa.concat_tables(tables), tokeniser, conditions)


def figures_of(versions: Sequence[ShardSet]) -> list[Figure]:
    """The figures of versions of scores, in their order; none of one from before there were any."""
    told = [json.loads(version.read_file(SCORES)).get("figures", ()) for version in versions]
    return [figure_of(one) for figures in told for one in figures]


def figure_of(told: Mapping[str, Any]) -> Figure:
    """A figure as `Figure.as_json` told it."""
    return Figure(**{field.name: told[field.name] for field in fields(Figure) if field.name in told})


def compare(challenger: Scored, champion: Scored, seed: int = 0) -> list[Comparison]:
    """Every metric that both have, in order of their names."""
    same_tokens = challenger.tokeniser == champion.tokeniser
    mine, theirs = dict(by_metric(challenger.items)), dict(by_metric(champion.items))
    same_texts = all(_documents(mine.get(name)) == _documents(theirs.get(name)) for name in WHOLE)
    rows = []
    for name in sorted(challenger.figures.keys() & champion.figures.keys()):
        one, other = challenger.figures[name], champion.figures[name]
        others = differing(name, challenger.conditions, champion.conditions)
        if not same_texts and name.startswith(OF_ALL_TEXTS):
            others.append("the documents")
        if not same_tokens and name.startswith(PER_TOKEN):
            rows.append(_row(one, other, None, 0, paired=False, verdict="other tokens"))
        elif others:
            row = _row(one, other, None, 0, paired=False, verdict="other settings")
            rows.append(replace(row, why=", ".join(others)))
        elif name in mine and name in theirs and gives(one, mine[name]) and gives(other, theirs[name]):
            rows.append(_paired(one, other, *_common(mine[name], theirs[name], one), seed))
        else:
            rows.append(_unpaired(one, other))
    return rows


def refusals(challenger: Scored, champion: Scored, rows: Sequence[Comparison], config: GateConfig) -> list[str]:
    """Why the challenger may not take the champion's place, one line for each metric; empty where it may."""
    if not listed({**challenger.figures, **champion.figures}, config):
        there = ", ".join(sorted(champion.figures)[:TOLD_NAMES])
        return [
            f"gate.metrics: {', '.join(config.metrics)}: no figure of such a name was measured of either (there is {there} …)"
        ]
    found = []
    compared = {row.name: row for row in rows}
    for name in listed(champion.figures, config):
        if name not in challenger.figures:
            found.append(
                f"{name}: not measured for {challenger.name}, though it is for {champion.name}; evaluate it in the same way"
            )
            continue
        row = compared[name]
        if row.verdict == "other settings":
            found.append(f"{told(row)}; evaluate both in the same way")
            continue
        accepted = config.tolerance * abs(row.champion or 0.0)
        if row.verdict == "worse" and row.damage and row.damage[0] > accepted:
            found.append(told(row))
    return found


def undecided(champion: Scored, rows: Sequence[Comparison], config: GateConfig) -> list[str]:
    """What of the listed metrics says nothing of the two models, one line each: a gate that lets pass what it could not look at says so."""
    names = listed(champion.figures, config)
    if not names:
        return [f"{', '.join(config.metrics)}: not measured for {champion.name}"]
    return [told(row) for row in rows if row.name in names and row.verdict in UNDECIDED]


def listed(figures: Mapping[str, Figure], config: GateConfig) -> list[str]:
    """The figures that the gate looks at: those of a name or pattern, without those of single groups unless these are named."""
    return sorted(name for name in figures if any(fnmatchcase(name, pattern) for pattern in config.metrics))


def told(row: Comparison) -> str:
    """A comparison in words."""
    if row.why:
        return f"{row.name}: {row.verdict} ({row.why})"
    if row.difference is None or row.low is None or row.high is None:
        return f"{row.name}: {row.verdict} ({row.n:,} items in common)"
    how = "" if row.paired else ", by the two intervals alone"
    return (
        f"{row.name}: {row.verdict}, {_number(row.challenger)} beside {_number(row.champion)} {row.unit}".rstrip()
        + f", difference {row.difference:+.4g} (95 % interval {row.low:+.4g} to {row.high:+.4g}, {row.n:,} items{how})"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


# --- items ---------------------------------------------------------------------------------------------------------------------


def by_metric(items: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each metric."""
    coded = items["metric"].combine_chunks().dictionary_encode()
    code = coded.indices.to_numpy()
    order = np.argsort(code, kind="stable")
    bounds = np.searchsorted(code[order], np.arange(len(coded.dictionary) + 1))
    for number, name in enumerate(coded.dictionary.to_pylist()):
        yield name, items.take(pa.array(order[bounds[number] : bounds[number + 1]]))


def gives(made: Figure, items: pa.Table) -> bool:
    """Whether a figure is what its items come to; some, as BLEU of a corpus, are no ratio of sums."""
    if made.value is None:
        return True
    amounts, weights = items["amount"].to_numpy(), items["weight"].to_numpy()
    if made.form == "gap":
        groups = items["group"].combine_chunks().dictionary_encode().indices.to_numpy()
        sums: Floats = np.bincount(groups, amounts).astype(np.float64)[None]
    else:
        sums = amounts.sum(keepdims=True)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(metric_values(sums, weights.sum(keepdims=True), made.form)[0])
    return math.isclose(value, made.value, rel_tol=1e-6, abs_tol=1e-9)


def _documents(items: pa.Table | None) -> list[tuple[str, float]]:
    """(doc_id, size) of the documents that were scored, in order."""
    return [] if items is None else sorted(zip(items["item"].to_pylist(), items["weight"].to_pylist(), strict=True))


def _common(one: pa.Table, other: pa.Table, made: Figure) -> tuple[Cells, Cells]:
    """The items of both, in the same order; those of no weight in both say nothing, and a document with another text is another one."""
    names = [table["item"].to_numpy(zero_copy_only=False).astype(object) for table in (one, other)]
    common = np.intersect1d(*names)
    groups = np.union1d(*(table["group"].to_numpy(zero_copy_only=False).astype(object) for table in (one, other)))
    cells = [
        cells_of(table, some, common, groups if made.form == "gap" else None)
        for table, some in zip((one, other), names, strict=True)
    ]
    says = np.any([(cell.weights != 0) | (cell.amounts != 0).any(1) for cell in cells], axis=0)
    if made.name.startswith(OF_TEXTS):
        says &= cells[0].weights == cells[1].weights
    first, second = (Cells(cell.amounts[says], cell.weights[says]) for cell in cells)
    return first, second


def cells_of(table: pa.Table, names: npt.NDArray[Any], wanted: npt.NDArray[Any], groups: npt.NDArray[Any] | None) -> Cells:
    """What the `wanted` items (sorted) gave, from a table whose items are `names`; by group where groups (sorted) are given."""
    place = np.searchsorted(wanted, names) if len(wanted) else np.zeros(len(names), np.int64)
    known = np.zeros(len(names), bool)
    inside = place < len(wanted)
    known[inside] = wanted[place[inside]] == names[inside]
    at, some = place[known], table.filter(pa.array(known))
    group = (
        np.zeros(len(at), np.int64)
        if groups is None
        else np.searchsorted(groups, some["group"].to_numpy(zero_copy_only=False).astype(object))
    )
    amounts, weights = np.zeros((len(wanted), 1 if groups is None else len(groups))), np.zeros(len(wanted))
    np.add.at(amounts, (at, group), some["amount"].to_numpy())
    np.add.at(weights, at, some["weight"].to_numpy())
    return Cells(amounts, weights)


# --- numbers -------------------------------------------------------------------------------------------------------------------


def interval_of(cells: Cells, form: Form, seed: int) -> tuple[float, float, float]:
    """(value, low, high) of one model's metric. Resampling makes gaps larger; that is taken out again."""
    value = float(metric_values(cells.amounts.sum(0)[None], cells.weights.sum()[None], form)[0])
    if len(cells) > MAX_RESAMPLED_ITEMS:
        error = Z_95 * _error(influence(cells, form))
        return value, value - error, value + error
    found = _resampled(cells, form, seed)
    shift = float(found.mean()) - value if form == "gap" else 0.0
    low, high = (np.quantile(found, [0.025, 0.975]) - shift).tolist()
    return value, min(value, max(low, 0.0) if form == "gap" else low), max(value, high)


def apart(one: Cells, other: Cells, seed: int) -> tuple[float, float, float]:
    """(difference of the means, low, high) of items that are not the same ones."""
    value, low, high = interval_of(one, "mean", seed)
    beside, other_low, other_high = interval_of(other, "mean", seed + 1)
    error = math.hypot(high - low, other_high - other_low) / 2
    return value - beside, value - beside - error, value - beside + error


def _paired(one: Figure, other: Figure, mine: Cells, theirs: Cells, seed: int) -> Comparison:
    n, form, zero = len(mine), one.form, one.better == "zero"
    if n < MIN_ITEMS or min(mine.weights.sum(), theirs.weights.sum()) <= 0:
        return _row(one, other, None, n, paired=True, verdict="too small to tell")
    value, beside = (
        _distance(metric_values(c.amounts.sum(0)[None], c.weights.sum()[None], form), zero=zero)[0] for c in (mine, theirs)
    )
    difference = float(value - beside)
    if abs(difference) <= ROUNDING * max(abs(value), abs(beside)):
        return _row(one, other, (difference, difference, difference, 1.0), n, paired=True)
    if n > MAX_RESAMPLED_ITEMS:
        error = _error(influence(mine, form, zero=zero) - influence(theirs, form, zero=zero))
        found = _normal(difference, error)
    else:
        drawn = _distance(_resampled(mine, form, seed), zero=zero) - _distance(_resampled(theirs, form, seed), zero=zero)
        if form == "gap":  # resampling makes both gaps larger, the smaller one more
            drawn = drawn - drawn.mean() + difference
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
        found = (difference, low, high, min(1.0, 2 * (float(beyond) + 1) / (len(drawn) + 1)))
    return _row(one, other, found, n, paired=True)


def _unpaired(one: Figure, other: Figure) -> Comparison:
    """By the intervals alone, as of two independent samples."""
    n = min(one.n, other.n)
    ends = (one.value, one.low, one.high, other.value, other.low, other.high)
    if n < MIN_ITEMS or any(end is None for end in ends):
        return _row(one, other, None, n, paired=False, verdict="too small to tell")
    value, low, high, beside, other_low, other_high = (float(end) for end in ends if end is not None)
    if one.better == "zero":
        value, beside = abs(value), abs(beside)
    return _row(one, other, _normal(value - beside, math.hypot(high - low, other_high - other_low) / (2 * Z_95)), n, paired=False)


def _row(
    one: Figure,
    other: Figure,
    found: tuple[float, float, float, float] | None,
    n: int,
    *,
    paired: bool,
    verdict: Verdict | None = None,
) -> Comparison:
    """A comparison whose verdict follows from (difference, low, high, p), unless one is given."""
    difference, low, high, p = found or (None, None, None, None)
    if verdict is None:
        verdict = "no difference beyond noise"
        if low is not None and high is not None and p is not None and p < 1 and (low > 0 or high < 0):
            worse = (high < 0) if one.better == "higher" else (low > 0)
            verdict = "differs" if one.better == "none" else "worse" if worse else "better"
    return Comparison(
        one.name, one.value, other.value, difference, low, high, p, n, one.better, one.unit, paired=paired, verdict=verdict
    )


def _normal(difference: float, error: float) -> tuple[float, float, float, float]:
    """(difference, low, high, two-sided p) of a normal distribution."""
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else float(difference == 0)
    return difference, difference - Z_95 * error, difference + Z_95 * error, p


def metric_values(amounts: Floats, weights: Floats, form: Form) -> Floats:
    """(R,) the metric of (R, G) sums of amounts and (R,) of weights."""
    if form == "gap":
        return np.abs(amounts).sum(1) / weights
    ratio: Floats = amounts.sum(1) / weights
    return np.exp(ratio) if form == "exp" else ratio


def _distance(values: Floats, *, zero: bool) -> Floats:
    return np.abs(values) if zero else values


def _resampled(cells: Cells, form: Form, seed: int) -> Floats:
    """(NUM_RESAMPLES,) the metric of items drawn with replacement: the same ones for equal seeds and numbers of items."""
    counts = _counts(len(cells), seed)
    return metric_values(counts @ cells.amounts, np.maximum(counts @ cells.weights, np.finfo(float).tiny), form)


@lru_cache(maxsize=1)
def _counts(n: int, seed: int) -> Floats:
    """(NUM_RESAMPLES, n) how often each item is drawn."""
    drawn = np.random.default_rng(seed).integers(0, n, (NUM_RESAMPLES, n))
    drawn += np.arange(NUM_RESAMPLES)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=NUM_RESAMPLES * n).reshape(NUM_RESAMPLES, n).astype(np.float64)


def influence(cells: Cells, form: Form, *, zero: bool = False) -> Floats:
    """(I,) what each item moves the metric by, to first order (Efron 1982, section 6.3)."""
    total, sums = cells.weights.sum(), cells.amounts.sum(0)
    if form == "gap":
        value = np.abs(sums).sum() / total
        return (cells.amounts @ np.sign(sums) - value * cells.weights) / total
    ratio = sums.sum() / total
    found: Floats = (cells.amounts.sum(1) - ratio * cells.weights) / total
    if form == "exp":
        found = found * math.exp(ratio)
    return found * np.sign(ratio) if zero else found


def _error(influence: Floats) -> float:
    n = len(influence)
    return math.sqrt(n / (n - 1) * float((influence**2).sum()))
