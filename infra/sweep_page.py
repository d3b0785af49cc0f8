"""The page of a sweep: its trials beside one another, what mattered, and how each training went. One HTML file that loads nothing.

Plain facts, drawn by `sweep.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra import plots
from infra.report import page_environment

FINISHED, PRUNED = "finished", "ended early"


@dataclass(frozen=True)
class Axis:
    """How the values of a key are drawn."""

    numbers: bool
    """Whether they are numbers; else names, one place each."""
    log: bool


@dataclass(frozen=True)
class Row:
    """A trial."""

    number: int
    params: Mapping[str, Any]
    state: str
    """complete, pruned, failed, running."""
    value: float | None
    """The objective."""
    losses: Mapping[int, float]
    """Validation loss by step."""
    why: str = ""

    @property
    def step(self) -> int:
        """How far it went."""
        return max(self.losses, default=0)


@dataclass(frozen=True)
class Sweep:
    """What the page tells."""

    name: str
    objective: str
    higher_is_better: bool
    facts: Mapping[str, str]
    """Label → data, sampler …"""
    space: Mapping[str, Axis]
    rows: Sequence[Row]
    best: int | None
    """Number of the best trial."""
    sets: str
    """The best values, to paste."""
    importances: Mapping[str, float]
    whole_loss: bool
    """Whether the objective is the validation loss: then trials that were ended early have a place in its figures, too."""

    def shown(self, row: Row) -> float | None:
        """The height at which a trial is drawn: the objective, or the last loss of one that was ended early."""
        if row.value is not None or not (self.whole_loss and row.losses):
            return row.value
        return row.losses[row.step]

    def groups(self) -> dict[str, list[Row]]:
        """Finished and pruned trials that can be drawn."""
        states = {FINISHED: "complete", PRUNED: "pruned"}
        found = {
            name: [row for row in self.rows if row.state == state and self.shown(row) is not None]
            for name, state in states.items()
        }
        return {name: rows for name, rows in found.items() if rows}


@dataclass(frozen=True)
class Plot:
    """A figure with its caption."""

    caption: str
    svg: str


def render(sweep: Sweep) -> str:
    """The page as text; equal facts give equal text."""
    states = [row.state for row in sweep.rows]
    return (
        page_environment()
        .get_template("sweep.html")
        .render(
            sweep=sweep,
            best=next((row for row in sweep.rows if row.number == sweep.best), None),
            counts={name: states.count(name) for name in ("complete", "pruned", "failed", "running") if name in states},
            by_trial=_by_trial(sweep),
            by_key=[_by_key(sweep, key) for key in sweep.space] if sweep.groups() else [],
            curves=_curves(sweep),
            importances=_importances(sweep),
        )
    )


def _by_trial(sweep: Sweep) -> Plot | None:
    groups = sweep.groups()
    if not groups:
        return None
    drawn = {name: ([row.number for row in rows], [sweep.shown(row) or 0.0 for row in rows]) for name, rows in groups.items()}
    numbers: list[int] = []
    best: list[float] = []
    for row in groups.get(FINISHED, ()):
        assert row.value is not None
        better = max if sweep.higher_is_better else min
        best.append(better([*best[-1:], row.value]))
        numbers.append(row.number)
    numbers, best = [*numbers, len(sweep.rows) - 1], [*best, *best[-1:]]
    early = "; trials that were ended early at their last validation loss" if PRUNED in groups else ""
    svg = plots.points(
        drawn, "Objective by trial", "trial", sweep.objective, line=("best so far", numbers, best) if len(best) > 1 else None
    )
    return Plot(f"{sweep.objective} by trial, and the best so far{early}", svg)


def _by_key(sweep: Sweep, key: str) -> Plot:
    axis, groups = sweep.space[key], sweep.groups()
    names = [] if axis.numbers else list(dict.fromkeys(str(row.params[key]) for rows in groups.values() for row in rows))
    names.sort()
    drawn = {
        name: (
            [float(row.params[key]) if axis.numbers else float(names.index(str(row.params[key]))) for row in rows],
            [sweep.shown(row) or 0.0 for row in rows],
        )
        for name, rows in groups.items()
    }
    svg = plots.points(drawn, f"Objective by {key}", key, sweep.objective, log=axis.log, names=names)
    return Plot(f"{sweep.objective} by {key}", svg)


def _curves(sweep: Sweep) -> Plot | None:
    rows = [row for row in sweep.rows if row.losses]
    best = [row for row in rows if row.number == sweep.best]
    groups = {
        "best": best,
        PRUNED: [row for row in rows if row.state == "pruned"],
        FINISHED: [row for row in rows if row.state == "complete" and row not in best],
        "failed": [row for row in rows if row.state in ("failed", "running")],
    }
    drawn = {name: [(list(row.losses), list(row.losses.values())) for row in some] for name, some in groups.items()}
    if not rows:
        return None
    svg = plots.bundle(drawn, "Validation loss of all trials by step", "step", "nats per token")
    return Plot("Validation loss of every trial by optimiser step, in nats per token; a sign at each end", svg)


def _importances(sweep: Sweep) -> Plot | None:
    if not sweep.importances:
        return None
    shares = {key: round(100 * share, 1) for key, share in sweep.importances.items()}
    return Plot(
        "Percent of the objective’s variance that a key explains, over the finished trials (fANOVA); with few trials this is a rough guess",
        plots.bars(list(shares), list(shares.values()), "Importance of keys, percent"),
    )
