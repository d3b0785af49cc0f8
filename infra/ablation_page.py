"""The page of an ablation: verdicts, a dot with its interval per variant and metric, validation losses; one file that loads nothing.

Everything on it is in the ablation's own JSON. Equal facts give equal bytes. Costs about 0.2 s a metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from infra import plots
from infra.report import page_environment

MAX_PLOTTED = 8
"""Metrics that are drawn; the tables have all."""
CLASSES = {"better": "passed", "worse": "failed", "differs": "warning"}


@dataclass(frozen=True)
class Drawn:
    """A metric: its rows, the baseline first, and two figures where it is drawn."""

    name: str
    unit: str
    better: str
    rows: Sequence[Mapping[str, Any]]
    values: str
    differences: str


def render(told: Mapping[str, Any]) -> str:
    """The page as text."""
    return (
        page_environment()
        .get_template("ablation.html")
        .render(told=told, metrics=list(_metrics(told)), curves=list(_curves(told)), lines=list(verdicts(told)), classes=CLASSES)
    )


def verdicts(told: Mapping[str, Any]) -> Iterator[str]:
    """What the first metric says of each variant, in a sentence."""
    first = told["effects"][0]["metric"]
    for row in told["effects"]:
        if row["metric"] == first and row["verdict"] is not None:
            yield f"{row['variant']}: {_said(row)}"


def _said(row: Mapping[str, Any]) -> str:
    """`worse than the baseline, +0.0312 bits per byte (95 % interval +0.0201 to +0.0423)`."""
    what = f"{row['verdict']} than the baseline" if row["verdict"] in ("better", "worse") else row["verdict"]
    ends = f"{row['difference_low']:+.4g} to {row['difference_high']:+.4g}"
    return f"{what}, {row['difference']:+.4g} {row['unit'] or row['metric']} (95 % interval {ends})"


def _metrics(told: Mapping[str, Any]) -> Iterator[Drawn]:
    for number, (name, some) in enumerate(groupby(told["effects"], key=lambda row: row["metric"])):
        rows = list(some)
        unit, better = (
            rows[0]["unit"],
            {"higher": "higher is better", "lower": "lower is better", "zero": "nearer to 0 is better"},
        )
        values = differences = ""
        if number < MAX_PLOTTED:
            axis = unit or name.rpartition(".")[2]
            labels = [row["variant"] for row in rows]
            values = plots.intervals(
                labels,
                [row["mean"] for row in rows],
                [(row["low"], row["high"]) for row in rows],
                f"{name} by variant",
                axis,
                reference=None,
                logarithmic=False,
            )
            others = rows[1:]
            differences = plots.intervals(
                labels[1:],
                [row["difference"] for row in others],
                [(row["difference_low"], row["difference_high"]) for row in others],
                f"{name}: difference from {labels[0]}",
                f"{axis}, minus {labels[0]}",
                strong=[row["verdict"] in CLASSES for row in others],
                reference=0.0,
                logarithmic=False,
            )
        yield Drawn(name, unit, better.get(rows[0]["better"], ""), rows, values, differences)


def _curves(told: Mapping[str, Any]) -> Iterator[str]:
    """The baseline's validation loss beside that of the others, as many in one figure as can be told apart."""
    steps, losses = told["curves"]["steps"], told["curves"]["valid_loss"]
    (baseline, of_baseline), *others = losses.items()
    size = len(plots.SERIES) - 1
    for at in range(0, len(others), size):
        some = {baseline: (steps, of_baseline), **{name: (steps, y) for name, y in others[at : at + size]}}
        names = ", ".join(some)
        yield plots.lines(some, f"Validation loss by step: {names}", "step", "nats per token")
