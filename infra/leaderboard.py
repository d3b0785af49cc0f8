"""The versions of a registered model beside one another, by the figures that their registration kept as a tag.

So the table needs the registry alone, not the store. Figures are packed into one tag, most general first, as far as there is room.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCORES_TAG, FIGURES_TAG = "scores.versions", "scores.figures"
"""Tags of a model version: paths of the versions that have its scores; its figures, packed."""
MAX_TAG_CHARS = 5000  # MLflow's own limit for the value of a tag
DIGITS = 5


@dataclass(frozen=True)
class Shown:
    """One figure of one version."""

    value: float
    low: float | None
    high: float | None
    n: int
    better: str


@dataclass(frozen=True)
class Row:
    """One version of a model."""

    name: str
    version: str
    aliases: Sequence[str]
    figures: Mapping[str, Shown]
    url: str


def packed(figures: Iterable[Mapping[str, Any]]) -> str:
    """Figures (name, value, low, high, n, better) that have a value, as the value of a tag."""
    kept: list[str] = []
    length = 2
    for one in figures:
        if one["value"] is None:
            continue
        numbers = [None if end is None else float(f"{end:.{DIGITS}g}") for end in (one["value"], one["low"], one["high"])]
        entry = f"{json.dumps(one['name'])}:{json.dumps([*numbers, one['n'], one['better']], separators=(',', ':'))}"
        length += len(entry) + 1
        if length > MAX_TAG_CHARS:
            break
        kept.append(entry)
    return "{" + ",".join(kept) + "}"


def rows(registered: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The versions that `tracking.registered_models` gave, the newest first; one from before there were figures has its scores alone."""
    found = []
    for one in registered:
        told = json.loads(one["tags"].get(FIGURES_TAG, "{}"))
        figures = {name: Shown(*numbers) for name, numbers in told.items()}
        figures = figures or {name: Shown(value, None, None, 0, "none") for name, value in one["scores"].items()}
        found.append(Row(one["name"], one["version"], one["aliases"], figures, one["url"]))
    return found[::-1]


def columns(board: Sequence[Row], wanted: Sequence[str] = ()) -> list[str]:
    """The figures that a table shows: those wanted, else all, in the order in which the versions name them."""
    names = list(dict.fromkeys(name for row in board for name in row.figures))
    return [name for name in names if name in wanted] if wanted else names


def best(board: Sequence[Row], name: str) -> set[str]:
    """Versions whose figure no other's is better than."""
    there = {row.version: row.figures[name] for row in board if name in row.figures}
    order = {"lower": lambda one: one.value, "higher": lambda one: -one.value, "zero": lambda one: abs(one.value)}
    keys = {version: order[one.better](one) for version, one in there.items() if one.better in order}
    return {version for version, key in keys.items() if key == min(keys.values())}


def as_csv(board: Sequence[Row]) -> str:
    """The table for MLflow: a line for each version and figure; empty where there is none."""
    if not any(row.figures for row in board):
        return ""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(("model", "version", "aliases", "figure", "value", "low", "high", "n", "better"))
    for row in board:
        for name, one in row.figures.items():
            writer.writerow((row.name, row.version, " ".join(row.aliases), name, one.value, one.low, one.high, one.n, one.better))
    return sink.getvalue()
