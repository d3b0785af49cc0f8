"""`gristmill leaderboard`: the versions of a registered model beside one another, with intervals, from the MLflow registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import leaderboard, tracking
from infra.errors import InputError
from infra.leaderboard import Row, Shown
from infra.settings import settings
from tasks.learn.figures import MIN_ITEMS


def board(name: str) -> list[Row]:
    """The versions of a model name, or of all, the newest first.

    Raises:
        InputError: no MLflow server, or nothing of that name is registered.
    """
    if not tracking.reachable():
        where = f"no answer at {settings().mlflow_url}" if tracking.enabled() else "none is known here"
        raise InputError(
            f"leaderboard: needs the MLflow registry, and {where}; start it with `gristmill up` or set GRISTMILL_MLFLOW_URL"
        )
    found = [row for row in leaderboard.rows(tracking.registered_models(name)) if row.figures]
    if not found:
        raise InputError(
            f"{name or 'leaderboard'}: no registered model with scores; `gristmill run` registers one under register.name"
        )
    return found


def show(found: Sequence[Row], wanted: Sequence[str], console: Console) -> None:
    """A table for each model name: figures down, versions across; the best of each line is marked."""
    for name in dict.fromkeys(row.name for row in found):
        mine = [row for row in found if row.name == name]
        table = Table(title=name, title_justify="left")
        table.add_column("figure", overflow="fold")
        for row in mine:
            table.add_column(" ".join([f"version {row.version}", *row.aliases]), justify="right", overflow="fold")
        for figure in leaderboard.columns(mine, wanted):
            best = leaderboard.best(mine, figure) if len(mine) > 1 else set()
            table.add_row(escape(figure), *(_cell(row.figures.get(figure), row.version in best) for row in mine))
        console.print(table)


def _cell(one: Shown | None, is_best: bool) -> str:
    if one is None:
        return "–"
    interval = "" if one.low is None or one.high is None else f" ({one.low:,.4g} to {one.high:,.4g})"
    few = " too small to tell" if 0 < one.n < MIN_ITEMS else ""
    return f"{'[bold]' if is_best else ''}{one.value:,.4g}{'[/]' if is_best else ''}{interval}{few}"


def as_json(found: Sequence[Row]) -> list[dict[str, Any]]:
    """The same as plain data."""
    return [dataclasses.asdict(row) for row in found]
