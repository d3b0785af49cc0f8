"""`gristmill drift`: whether what is asked and answered is as it was, as a table, as JSON, and as a page."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import drift_page
from tasks.serving import drift, server
from tasks.serving.config import DriftConfig, ServeConfig
from tasks.serving.drift import FEATURES, Drift, Feature


def judge(log: Path | None, config: DriftConfig) -> Drift:
    """The log of this installation, or another, up to now.

    Raises:
        InputError: there is none.
    """
    return drift.judged(log or server.log_file(ServeConfig()), config, datetime.now(UTC))


def show(found: Drift, config: DriftConfig, console: Console) -> None:
    """A row for each feature, with what moved."""
    if found.num_unreadable:
        console.print(f"lines of the log that cannot be read: {found.num_unreadable}", highlight=False)
    if not found.models:
        console.print(f"no requests from {_day(found.before)} to {_day(found.until)}", highlight=False)
    for model in found.models:
        title = f"{model.model}: {model.num_now:,} requests since {_day(found.since)}, {model.num_before:,} before"
        table = Table(box=None, title=escape(title), title_justify="left")
        for heading in ("feature", "distance", "by chance", "verdict", "what moved"):
            table.add_column(heading, justify="right" if heading in ("distance", "by chance") else "left", overflow="fold")
        for one in model.features:
            figures = ("–", "–") if one.distance is None else (f"{one.distance:.3f}", f"{one.p:.4f}")
            moved = ", ".join(f"{moved.value} {moved.before:.1%} → {moved.now:.1%}" for moved in one.moved)
            table.add_row(one.name, *figures, _verdict(one), escape(moved if one.distance is not None else ""))
        console.print(table)
        if any(one.distance is None for one in model.features):
            words = f"nothing is said of fewer than {config.min_requests} requests in each span (--set min_requests=…)"
            console.print(words, style="dim", highlight=False)
        if model.versions_before != model.versions_now:
            console.print(f"versions: {_versions(model.versions_before)} → {_versions(model.versions_now)}", highlight=False)


def as_json(found: Drift) -> dict[str, Any]:
    """All of it, for programs."""
    told = asdict(found)
    for name in ("before", "since", "until"):
        told[name] = told[name].isoformat()
    return told


def page(found: Drift, log: Path | None, config: DriftConfig) -> str:
    """All of it, to look at."""
    spans = {
        "now": f"{_day(found.since)} to {_day(found.until)}",
        "before": f"{_day(found.before)} to {_day(found.since)}",
        "drifted": f"a distance of {config.min_distance:g} or more, which chance gives in at most {config.max_p:g} of cases",
        "log": str(log or server.log_file(ServeConfig())),
    }
    if found.num_unreadable:
        spans["lines that cannot be read"] = f"{found.num_unreadable:,}"
    models = [
        drift_page.Model(
            one.model,
            one.num_before,
            one.num_now,
            f"{_versions(one.versions_before)} → {_versions(one.versions_now)}",
            [
                drift_page.Feature(
                    feature.name,
                    FEATURES[feature.name],
                    _shares(feature.before),
                    _shares(feature.now),
                    feature.distance,
                    feature.p,
                    feature.drifted,
                )
                for feature in one.features
            ],
        )
        for one in found.models
    ]
    return drift_page.render(drift_page.Page(spans, models, len(found.drifted)))


def _verdict(one: Feature) -> str:
    return "too few requests" if one.distance is None else "[bold red]drifted[/]" if one.drifted else "as it was"


def _shares(counts: dict[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {value: count / total for value, count in counts.items()}


def _versions(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
