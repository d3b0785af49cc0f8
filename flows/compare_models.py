"""`gristmill compare-models`: what two models' evaluations say beside one another, over the items that both were measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import ledger, lineage, tracking
from infra.dataset import ShardSet, named
from infra.errors import InputError
from infra.lineage import Record
from infra.settings import settings
from tasks.learn.comparison import Comparison, Scored, compare, measured
from tasks.learn.config import SCORES

COLOURS = {"better": "green", "worse": "red", "differs": "yellow"}


def evaluated(what: str) -> Scored:
    """What was measured of a model, under the name `what`.

    Args:
        what: a version of scores or of a trained model or its digest, a registered model (`name`, `name:version`, `name@alias`), or a run.

    Raises:
        InputError: nothing of that name, several models, or it was never evaluated.
    """
    records = {one.id: one for one in lineage.records()}
    graph = lineage.graph_of(records.values(), ledger.runs())
    if tracking.enabled() and tracking.reachable():
        graph = lineage.with_registry(graph, tracking.registered_models())
    names = lineage.find(graph, what)
    nodes = [graph.nodes[name] for name in names]
    ids = [name for node in nodes for name in ([node.id] if node.kind == "version" else graph.parents(node.id))]
    if nodes and nodes[0].kind == "run":
        ids = [f"{entry.step}/{entry.version}" for name in names for entry in ledger.entries(name.partition(":")[2])]
    found = _scores_of([records[name] for name in dict.fromkeys(ids) if name in records], records)
    if not found:
        raise InputError(
            f"{what}: no scores of a model of that name in {settings().store}; give a version that `evaluate` wrote, a registered model "
            "(name:version, name@alias) or a run, or evaluate the model first"
        )
    steps = [one.step for one in found]
    if twice := sorted({step for step in steps if steps.count(step) > 1}):
        some = ", ".join(f"{one.step}/{one.version}" for one in found if one.step in twice)
        raise InputError(f"{what}: means several evaluations ({some}); name one of them, or one model as name:version")
    made = measured(found)
    return replace(made, name=what)


def _scores_of(given: Sequence[Record], records: dict[str, Record]) -> list[ShardSet]:
    """The versions of scores among these, those that a registration among them has, and those of the trained models among them."""
    chosen: dict[str, Record] = {}
    for one in given:
        chosen |= {name: records[name] for name in one.inputs.get("scores", ()) if name in records}
        chosen |= {one.id: one} if _has_scores(one) else {}
    if not chosen:
        models = {one.id for one in given}
        chosen = {one.id: one for one in records.values() if _has_scores(one) and models & set(one.inputs.get("model", ()))}
    return [named(one.path) for _, one in sorted(chosen.items())]


def _has_scores(one: Record) -> bool:
    return any(entry["name"] == SCORES for entry in one.manifest["files"])


def show(first: Scored, second: Scored, rows: Sequence[Comparison], console: Console) -> None:
    """The comparison as a table, the first model beside the second, and what only one of them has."""
    table = Table(title=f"{first.name} beside {second.name}", title_justify="left")
    for heading in ("metric", first.name, second.name, "difference (95 % interval)", "p", "items", "verdict"):
        table.add_column(heading, justify="left" if heading in ("metric", "verdict") else "right", overflow="fold")
    for row in rows:
        colour = COLOURS.get(row.verdict)
        said = f"[{colour}]{row.verdict}[/]" if colour else row.verdict
        table.add_row(
            escape(row.name), _number(row.challenger), _number(row.champion), _interval(row), _number(row.p), f"{row.n:,}", said
        )
    console.print(table)
    for why in dict.fromkeys(row.why for row in rows if row.why):
        names = ", ".join(row.name for row in rows if row.why == why)
        console.print(
            f"not compared, measured with other settings: {why}: {names}", highlight=False, markup=False, soft_wrap=True
        )
    for one, other in ((first, second), (second, first)):
        if alone := sorted(one.figures.keys() - other.figures.keys()):
            console.print(f"only measured for {one.name}: {', '.join(alone)}", highlight=False, markup=False, soft_wrap=True)


def as_json(first: Scored, second: Scored, rows: Sequence[Comparison]) -> dict[str, Any]:
    """The same as plain data."""
    return {"first": first.name, "second": second.name, "rows": [row.as_json() for row in rows]}


def compared(first: str, second: str, tell: Callable[[Scored, Scored, Sequence[Comparison]], None]) -> None:
    """Compare what two words on the command line mean, and tell it."""
    one, other = evaluated(first), evaluated(second)
    tell(one, other, compare(one, other))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _interval(row: Comparison) -> str:
    if row.difference is None or row.low is None or row.high is None:
        return "–"
    return f"{row.difference:+.4g} ({row.low:+.4g} to {row.high:+.4g})"
