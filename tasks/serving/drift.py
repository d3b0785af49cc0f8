"""Whether served traffic is as it was: what is asked and answered in the last hours, against the days before them.

Each feature of a request (length and language of question and answer, repetition, why the answer ended, rules of the guardrails that
fired, the status) is counted in both spans. Their distance is the total variation distance: the share (0 to 1) of requests that would
have to be of another kind to make the two equal. It is never 0 between two samples, so beside it stands how often requests that were
dealt out to the two spans by chance are as far apart (a permutation test, 1,999 draws from the multivariate hypergeometric distribution).
A feature has drifted when the distance is large enough to matter and chance is no explanation.

The request log is read by DuckDB, streaming: 200,000 lines in 0.6 s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from expectations.drift import distance
from infra.errors import InputError
from infra.relations import SqlError, connected
from tasks.serving.config import DriftConfig
from tasks.serving.metrics import Metrics

logger = logging.getLogger("gristmill")
NUM_DRAWS = 1999
NUM_MOVED = 3
FEATURES = {
    "asked.chars": "length of the question's last message",
    "asked.language": "language of the question",
    "said.chars": "length of the answer",
    "said.language": "language of the answer",
    "said.repeated": "share of its runs of three words that stood there before",
    "said.ended": "why it ended",
    "guard": "rules of the guardrails that fired",
    "status": "HTTP status",
}
# lengths in doublings, as "64-127": a histogram of exact ones would differ in every request
_DOUBLING = """CASE WHEN {0} < 2 THEN {0}::VARCHAR ELSE
    (1 << floor(log2({0}))::INT)::VARCHAR || '-' || ((2 << floor(log2({0}))::INT) - 1)::VARCHAR END"""
_VALUES = {
    "asked.chars": _DOUBLING.format("asked.chars"),
    "asked.language": "asked.language",
    # of a request that got no answer only how it ended is known
    "said.chars": f"CASE WHEN said.ended != '' THEN {_DOUBLING.format('said.chars')} END",
    "said.language": "CASE WHEN said.ended != '' THEN said.language END",
    "said.repeated": """CASE WHEN said.ended != '' AND said.repeated IS NOT NULL
        THEN (floor(least(said.repeated, 0.999) * 10) / 10)::DECIMAL(2, 1)::VARCHAR END""",
    "said.ended": "CASE WHEN said.ended = '' THEN 'cut off' ELSE said.ended END",
    "guard": """coalesce(nullif(array_to_string(list_sort(list_distinct(flatten(
        list_transform(decisions, lambda one: list_transform(one.rules, lambda fired: fired.rule))))), ', '), ''), 'none')""",
    "status": "status::VARCHAR",
}
_COLUMNS = """{"at": 'VARCHAR', model: 'VARCHAR', version: 'VARCHAR', status: 'INTEGER',
    asked: 'STRUCT(chars BIGINT, language VARCHAR)',
    said: 'STRUCT(chars BIGINT, language VARCHAR, repeated DOUBLE, ended VARCHAR)',
    decisions: 'STRUCT(rules STRUCT("rule" VARCHAR)[])[]'}"""
_COUNTED = """
WITH lines AS (
    SELECT *, try_cast("at" AS TIMESTAMPTZ) AS moment
    FROM read_json($path, format = 'newline_delimited', ignore_errors = true, columns = %s)
),
spanned AS (
    SELECT *, moment >= $since AS lately FROM lines
    WHERE moment IS NULL OR (model IS NOT NULL AND moment >= $before AND moment < $until)
)
SELECT model, lately, feature.name, feature.value, count(*) FROM (
    SELECT model, lately, unnest([%s]) AS feature FROM spanned WHERE moment IS NOT NULL
) WHERE feature.value IS NOT NULL GROUP BY ALL
UNION ALL SELECT '', NULL, 'unreadable', '', count(*) FROM spanned WHERE moment IS NULL
UNION ALL SELECT model, lately, 'version', coalesce(version, ''), count(*) FROM spanned WHERE moment IS NOT NULL GROUP BY ALL
"""


@dataclass(frozen=True)
class Moved:
    """A value of a feature whose share changed."""

    value: str
    before: float
    now: float


@dataclass(frozen=True)
class Feature:
    """One feature of a model's requests in both spans."""

    name: str
    before: dict[str, int]
    now: dict[str, int]
    distance: float | None
    """Total variation distance, 0 to 1; None: too few requests to say."""
    p: float | None
    """How often chance alone gives as much."""
    drifted: bool

    @property
    def moved(self) -> list[Moved]:
        """What changed most, first."""
        totals = [max(sum(counts.values()), 1) for counts in (self.before, self.now)]
        shares = [
            Moved(value, self.before.get(value, 0) / totals[0], self.now.get(value, 0) / totals[1])
            for value in sorted({*self.before, *self.now})
        ]
        return sorted(shares, key=lambda one: -abs(one.now - one.before))[:NUM_MOVED]

    @property
    def told(self) -> str:
        """What it is, how far it is away, and what moved, in words."""
        moved = ", ".join(f"{one.value} {one.before:.1%} → {one.now:.1%}" for one in self.moved)
        return f"{self.name} ({FEATURES[self.name]}), distance {self.distance:.2f}: {moved}"


@dataclass(frozen=True)
class Traffic:
    """What became of one model's requests."""

    model: str
    num_before: int
    num_now: int
    versions_before: list[str]
    versions_now: list[str]
    features: list[Feature]


@dataclass(frozen=True)
class Drift:
    """Both spans of all models."""

    before: datetime
    since: datetime
    until: datetime
    models: list[Traffic]
    num_unreadable: int
    """Lines of the log that are none: half a line of a machine that lost power."""

    @property
    def drifted(self) -> list[tuple[str, Feature]]:
        """Model and feature of all that is no longer as it was."""
        return [(one.model, feature) for one in self.models for feature in one.features if feature.drifted]


def judged(log: Path, config: DriftConfig, until: datetime) -> Drift:
    """What the log tells of the last `window_hours` before `until`, against the `reference_days` before them.

    Raises:
        InputError: there is no such log, or it cannot be read.
    """
    if not log.is_file():
        raise InputError(f"{log}: no such log of requests; `gristmill serve` writes one (--log names another)")
    since = until - timedelta(hours=config.window_hours)
    before = since - timedelta(days=config.reference_days)
    try:
        rows = _counted(log, before, since, until)
    except SqlError as error:
        raise InputError(f"{log}: cannot be read as lines of JSON ({error})") from error
    names = sorted({model for model, *_ in rows if model})
    lost = sum(count for *_, feature, _, count in rows if feature == "unreadable")
    return Drift(before, since, until, [_of_model(name, rows, config) for name in names], lost)


async def follow(log: Path, config: DriftConfig, metrics: Metrics) -> None:
    """Look at the log again and again, for the metrics; what has drifted stands in the server's own log, once each time it begins to."""
    known = set[tuple[str, str]]()
    while config.every_s:
        await asyncio.sleep(config.every_s)
        try:
            found = await asyncio.to_thread(judged, log, config, datetime.now(UTC))
        except (InputError, OSError) as error:
            logger.warning("traffic: %s", error)
            continue
        known = tell(found, metrics, known)


def tell(found: Drift, metrics: Metrics, known: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Set the gauges, of what can be judged, and warn of what is not in `known`; gives what has drifted now."""
    metrics.drift.clear()
    metrics.drifted.clear()
    for model in found.models:
        for feature in model.features:
            if feature.distance is not None:
                metrics.drift.labels(model.model, feature.name).set(feature.distance)
                metrics.drifted.labels(model.model, feature.name).set(feature.drifted)
    for name, feature in found.drifted:
        if (name, feature.name) not in known:
            logger.warning("traffic of %s has drifted: %s", name, feature.told)
    return {(name, feature.name) for name, feature in found.drifted}


Row = tuple[str, bool, str, str, int]
"""Model, whether lately, feature, value, number of requests."""


def _counted(log: Path, before: datetime, since: datetime, until: datetime) -> list[Row]:
    listed = ", ".join(f"{{'name': '{name}', 'value': {value}}}" for name, value in _VALUES.items())
    with connected() as connection:
        given = {"path": str(log), "before": before, "since": since, "until": until}
        return list(connection.execute(_COUNTED % (_COLUMNS, listed), given).fetchall())


def _of_model(model: str, rows: Sequence[Row], config: DriftConfig) -> Traffic:
    def counts(feature: str, lately: bool) -> dict[str, int]:
        return {value: count for of, when, name, value, count in rows if (of, when, name) == (model, lately, feature)}

    features = [_feature(name, counts(name, lately=False), counts(name, lately=True), config) for name in FEATURES]
    before, now = counts("version", lately=False), counts("version", lately=True)
    return Traffic(
        model, sum(before.values()), sum(now.values()), sorted(filter(None, before)), sorted(filter(None, now)), features
    )


def _feature(name: str, before: dict[str, int], now: dict[str, int], config: DriftConfig) -> Feature:
    if min(sum(before.values()), sum(now.values())) < config.min_requests:
        return Feature(name, before, now, None, None, drifted=False)
    far = distance(now, before)
    p = chance(before, now)
    return Feature(name, before, now, far, p, drifted=far >= config.min_distance and p <= config.max_p)


def chance(before: dict[str, int], now: dict[str, int]) -> float:
    """How often two histograms of these sizes are as far apart when all their requests were dealt out by chance; the same every time."""
    values = sorted({*before, *now})
    counts = np.array([[side.get(value, 0) for value in values] for side in (before, now)], np.int64)
    totals = counts.sum(axis=1)
    drawn = np.random.default_rng(0).multivariate_hypergeometric(
        counts.sum(axis=0), int(totals[1]), size=NUM_DRAWS, method="marginals"
    )
    rest = counts.sum(axis=0) - drawn
    far = np.abs(drawn / totals[1] - rest / totals[0]).sum(axis=1) / 2
    found = np.abs(counts[1] / totals[1] - counts[0] / totals[0]).sum() / 2
    return float((1 + np.count_nonzero(far >= found - 1e-12)) / (1 + NUM_DRAWS))
