"""compare: a challenger beside the champion, metric by metric over the items that both were measured on, and what the gate says."""

from __future__ import annotations

from typing import Any

from infra import storage
from infra.dataset import Counts, ShardSet
from infra.orchestration import show_table
from infra.steps import Output, step
from tasks.learn.config import GateConfig

COMPARISON = "comparison.json"


@step(schema="comparison")
def compare(challenger: list[ShardSet], champion: list[ShardSet], config: GateConfig, out: Output) -> None:
    """Differences with their intervals, and whether the challenger is worse in what the gate lists.

    `challenger` and `champion` are what evaluations left of each: versions with `scores.json` and `items.parquet`.
    """
    from tasks.learn.comparison import compare as compare_models
    from tasks.learn.comparison import listed, measured, refusals, undecided

    one, other = measured(challenger), measured(champion)
    rows = compare_models(one, other)
    refused, left = refusals(one, other, rows, config), undecided(other, rows, config)
    passed = "passed" if len(left) < len(listed(other.figures, config)) else "undecided"
    told: dict[str, Any] = {
        "challenger": one.name,
        "champion": other.name,
        "rows": [row.as_json() for row in rows],
        "refusals": refused,
        "undecided": left,
        "alone": {
            "challenger": sorted(one.figures.keys() - other.figures.keys()),
            "champion": sorted(other.figures.keys() - one.figures.keys()),
        },
    }
    storage.write_json(storage.join(out.folder, COMPARISON), told)
    out.keep_file(COMPARISON)
    out.counts = Counts(total=len(rows), kept=len(rows))
    verdicts = [row.verdict for row in rows]
    out.facts = {
        "num_compared": len(rows),
        **{f"num_{verdict.replace(' ', '_')}": verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "gate": "refused" if refused else passed,
    }
    shown = [
        {"metric": row.name, "verdict": row.verdict, "difference": _interval(row.difference, row.low, row.high)} for row in rows
    ]
    show_table("comparison", shown, f"{one.name} beside {other.name}")


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "–" if value is None or low is None or high is None else f"{value:+.4g} ({low:+.4g} to {high:+.4g})"
