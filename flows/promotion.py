"""`gristmill promote`: let the alias `champion` of a registered model mean another version, unless that one is worse than the present one.

What is compared are the items that the evaluations of both kept, found by the tags of their registration. Who says otherwise says why, and
the registry keeps it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from infra import storage, tracking
from infra.dataset import ShardSet, named
from infra.errors import InputError
from infra.leaderboard import SCORES_TAG
from infra.settings import settings
from infra.storage import StorageError
from tasks.compare import COMPARISON, compare
from tasks.learn.config import GateConfig

log = logging.getLogger("gristmill")
MAX_REASON_CHARS = 5000  # MLflow's own limit for the value of a tag


@dataclass(frozen=True)
class Beside:
    """What the gate says of a challenger beside the champion."""

    refusals: Sequence[str] = ()
    note: str = ""
    """What was not compared or not decided, and why."""
    version: str = ""
    """The version that has the comparison."""
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)


def promote(what: str, console: Console, gate: GateConfig, *, force: bool = False, reason: str = "", by: str = "") -> bool:
    """Move `champion` to `NAME:VERSION`; of a name alone, to its challenger. False: the gate refused it.

    Raises:
        InputError: no MLflow server, no such model or version; or `force` without a reason.
    """
    if force and not reason:
        raise InputError("promote: --force needs --reason: it is kept in the registry beside the version")
    name, _, version = what.partition(":")
    rows = _versions(name)
    version = version or _with_alias(rows, tracking.CHALLENGER)
    if version not in rows:
        raise InputError(f"{what}: the model {name} has no such version; it has {', '.join(rows)}: give one as {name}:VERSION")
    before = _with_alias(rows, tracking.CHAMPION)
    if before == version:
        console.print(f"{name}:{version} is the champion already", highlight=False)
        return True
    beside = held_beside(rows[version], rows[before], gate) if before else Beside()
    if beside.note:
        console.print(beside.note, highlight=False, markup=False, soft_wrap=True)
    if beside.refusals and not force:
        lines = [f"{name}:{version} is not promoted: it is worse than {name}:{before}, the champion", *beside.refusals]
        lines.append("To promote it all the same: --force --reason WHY")
        console.print("\n  ".join(lines), highlight=False, markup=False, soft_wrap=True)
        return False
    _keep(name, version, beside, reason if force else "", by)
    tracking.set_alias(name, tracking.CHAMPION, version)
    replaced = f", in place of {name}:{before}" if before else ", the first one"
    console.print(f"{name}:{version} is the champion now{replaced}", highlight=False)
    console.print(_side_by_side(rows[version], rows.get(before)))
    console.print(rows[version]["url"], highlight=False, soft_wrap=True)
    return True


def held_beside(challenger: Mapping[str, Any], champion: Mapping[str, Any], gate: GateConfig) -> Beside:
    """The challenger held beside the champion, by the step `compare`; both as rows of the registry."""
    theirs = champion["tags"].get(SCORES_TAG, "")
    if not theirs:
        return Beside(note=f"not compared: the registration of {_named(champion)} names no kept scores")
    if not challenger["tags"].get(SCORES_TAG):
        return Beside([f"{_named(challenger)} has no kept scores to compare: evaluate and register it again"])
    try:
        mine, theirs = (_opened(one) for one in (challenger, champion))
    except StorageError as error:
        return Beside([f"the kept scores are not all in the store {settings().store}, so nobody can compare: {error}"])
    made = compare.run([mine, theirs], gate).shards
    told = _told(made)
    note = "\n".join(f"not decided: {line}" for line in told["undecided"])
    return Beside(told["refusals"], note, f"{made.step}/{made.version}", told["rows"])


def scores_of_champion(name: str, own: Sequence[ShardSet]) -> list[ShardSet]:
    """The kept scores of the champion of a model name; none where there is no registry, no champion, or these scores are its own."""
    if not tracking.enabled():
        return []
    rows = {row["version"]: row for row in tracking.registered_models(name)}
    champion = rows.get(_with_alias(rows, tracking.CHAMPION), {"tags": {}})
    if champion["tags"].get(SCORES_TAG, "") in ("", ",".join(one.path for one in own)):
        return []
    try:
        return _opened(champion)
    except StorageError as error:  # removed since, or in another store
        log.warning("%s is not compared with the champion, whose scores are not in this store: %s", name, error)
        return []


def _versions(name: str) -> dict[str, dict[str, Any]]:
    """The registered versions of a model name.

    Raises:
        InputError: no MLflow server, or no such model.
    """
    if not tracking.reachable():
        where = f"no answer at {settings().mlflow_url}" if tracking.enabled() else "none is known here"
        raise InputError(
            f"promote: needs the MLflow registry, and {where}; start it with `gristmill up` or set GRISTMILL_MLFLOW_URL"
        )
    rows = {row["version"]: row for row in tracking.registered_models(name)}
    if not rows:
        raise InputError(f"{name}: no model of that name is registered; `gristmill run` registers one under register.name")
    return rows


def _opened(row: Mapping[str, Any]) -> list[ShardSet]:
    return [named(path) for path in row["tags"][SCORES_TAG].split(",")]


def _told(made: ShardSet) -> dict[str, Any]:
    told: dict[str, Any] = storage.read_json(made.file(COMPARISON))
    return told


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['name']}:{row['version']}"


def _keep(name: str, version: str, beside: Beside, reason: str, by: str) -> None:
    """What was compared and what was not, and who went against it and why, beside the version."""
    tags = {"promotion.comparison": beside.version} if beside.version else {}
    tags |= {"promotion.note": beside.note} if beside.note else {}
    if reason:
        tags |= {"promotion.forced": reason, "promotion.by": by, "promotion.refused": "\n".join(beside.refusals)}
    tracking.tag_version(name, version, {key: value[:MAX_REASON_CHARS] for key, value in tags.items()})


def _with_alias(rows: Mapping[str, Mapping[str, Any]], alias: str) -> str:
    return next((version for version, row in rows.items() if alias in row["aliases"]), "")


def _side_by_side(now: dict[str, Any], before: dict[str, Any] | None) -> Table:
    table = Table(title="Scores", title_justify="left")
    for heading in ("measure", f"now: version {now['version']}", f"before: version {before['version'] if before else '–'}"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    scores = before["scores"] if before else {}
    for measure in sorted(now["scores"].keys() | scores.keys()):
        table.add_row(measure, *(f"{one[measure]:,.4g}" if measure in one else "–" for one in (now["scores"], scores)))
    return table
