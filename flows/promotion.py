"""`gristmill promote`: let the alias `champion` of a registered model mean another version, and show what it replaced."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from infra import tracking
from infra.errors import InputError
from infra.settings import settings


def promote(what: str, console: Console) -> None:
    """Move `champion` to `NAME:VERSION`; of a name alone, to its challenger.

    Raises:
        InputError: no MLflow server, no such model or version.
    """
    if not tracking.reachable():
        where = f"no answer at {settings().mlflow_url}" if tracking.enabled() else "none is known here"
        raise InputError(
            f"promote: needs the MLflow registry, and {where}; start it with `gristmill up` or set GRISTMILL_MLFLOW_URL"
        )
    name, _, version = what.partition(":")
    rows = {row["version"]: row for row in tracking.registered_models(name)}
    if not rows:
        raise InputError(f"{name}: no model of that name is registered; `gristmill run` registers one under register.name")
    version = version or _with_alias(rows, tracking.CHALLENGER)
    if version not in rows:
        raise InputError(f"{what}: the model {name} has no such version; it has {', '.join(rows)}: give one as {name}:VERSION")
    before = _with_alias(rows, tracking.CHAMPION)
    if before == version:
        console.print(f"{name}:{version} is the champion already", highlight=False)
        return
    tracking.set_alias(name, tracking.CHAMPION, version)
    replaced = f", in place of {name}:{before}" if before else ", the first one"
    console.print(f"{name}:{version} is the champion now{replaced}", highlight=False)
    console.print(_side_by_side(rows[version], rows.get(before)))
    console.print(rows[version]["url"], highlight=False, soft_wrap=True)


def _with_alias(rows: dict[str, dict[str, Any]], alias: str) -> str:
    return next((version for version, row in rows.items() if alias in row["aliases"]), "")


def _side_by_side(now: dict[str, Any], before: dict[str, Any] | None) -> Table:
    table = Table(title="Scores", title_justify="left")
    for heading in ("measure", f"now: version {now['version']}", f"before: version {before['version'] if before else '–'}"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    scores = before["scores"] if before else {}
    for measure in sorted(now["scores"].keys() | scores.keys()):
        table.add_row(measure, *(f"{one[measure]:,.4g}" if measure in one else "–" for one in (now["scores"], scores)))
    return table
