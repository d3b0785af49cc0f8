"""`gristmill gc` and `gristmill pin`: remove what nothing refers to, and keep what somebody wants kept.

Prefect is asked which flow runs are unfinished and MLflow which models have an alias. Who cannot be asked is told, and the answer is then
the careful one: everything newer than a day stays, and every registered model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from rich.console import Console
from rich.table import Table

from flows.deployments import FINAL
from infra import ledger, lineage, retention, tracking
from infra.errors import InputError
from infra.lineage import Record
from infra.retention import DAY_S, Unneeded
from infra.settings import settings

QUIET_DAYS = 7.0
"""Unfinished work that nothing was written to for so long is nobody's, unless another number is given: what failed may be tried again."""
PAGE = 200


@dataclass(frozen=True)
class AtWork:
    """Flow runs that have not ended."""

    runs: frozenset[str]
    versions: frozenset[str]
    """Ids of versions that were given to them."""
    since: float
    """When the first of them began; what was made since may be theirs. Seconds since 1970."""


def unneeded(keep_runs: int | None, older_than_days: float | None, warn: Callable[[str], None]) -> list[Unneeded]:
    """What no run, alias or pin refers to, directly or through what was made from it; biggest last."""
    paths = lineage.version_paths()  # before anybody is asked: what is made from now on is not among them
    versions = [one for one in map(lineage.record, paths) if one is not None]
    graph = lineage.graph_of(versions, ())
    at_work = _at_work(warn)
    runs = retention.counting_runs(keep_runs, older_than_days, at_work.runs)
    referred = retention.of_runs(runs) | retention.of_corpora(versions) | at_work.versions
    referred |= {str(one["id"]) for one in retention.pins()} | _aliased(versions, warn)
    found = retention.unneeded(referred, graph, versions, paths, at_work.since)
    quiet_s = (QUIET_DAYS if older_than_days is None else older_than_days) * DAY_S
    found = [one for one in found if one.complete or one.written <= time.time() - quiet_s]
    return sorted(found, key=lambda one: (not one.complete, one.num_bytes, one.path))


def show(found: list[Unneeded], console: Console) -> None:
    """The list as a table, unfinished work apart, with bytes of each and of all."""
    for complete, title in ((True, "Versions that nothing refers to"), (False, "Unfinished work of nobody")):
        rows = [one for one in found if one.complete == complete]
        if not rows:
            continue
        table = Table(title=title, title_justify="left")
        table.add_column("version", overflow="fold")
        table.add_column("bytes", justify="right")
        table.add_column("last written (UTC)")
        for one in rows:
            table.add_row(one.path, f"{one.num_bytes:,}", time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.written)))
        console.print(table)
    console.print(f"{len(found):,} to remove, {sum(one.num_bytes for one in found):,} bytes in all", highlight=False)


def pin(what: str, *, why: str, remove: bool) -> Iterator[str]:
    """Pin or unpin what a version or model name means; gives a line for each.

    Raises:
        InputError: it names no version.
    """
    versions = {one.id: one for one in lineage.records()}
    graph = lineage.graph_of(versions.values(), ledger.runs())
    if tracking.enabled() and tracking.reachable():
        graph = lineage.with_registry(graph, tracking.registered_models())
    nodes = [graph.nodes[name] for name in lineage.find(graph, what)]
    # a model is kept by what registered it, from which all else follows
    ids = [name for node in nodes for name in ([node.id] if node.kind == "version" else graph.parents(node.id))]
    if not (known := [name for name in ids if name in versions]):
        raise InputError(
            f"{what}: no version or model of that name in {settings().store}; `gristmill lineage {what}` may tell more"
        )
    for name in known:
        if remove:
            yield f"{name}: {'no longer pinned' if retention.unpin(name) else 'was not pinned'}"
        else:
            retention.pin(versions[name], why)
            yield f"{name}: pinned, with all it came from"


def _at_work(warn: Callable[[str], None]) -> AtWork:
    """What Prefect says is unfinished; without an answer everything of the last day counts as theirs."""
    careful = AtWork(frozenset(), frozenset(), time.time() - DAY_S)
    if not settings().prefect_api_url:
        warn("No Prefect server is known here, so nobody can say what is running: everything newer than a day is kept")
        return careful
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=FINAL)))
    found: list[Any] = []
    try:
        with get_client(sync_client=True) as client:
            while page := client.read_flow_runs(flow_run_filter=unfinished, limit=PAGE, offset=len(found)):
                found += page
    except httpx.HTTPError as error:
        warn(f"Prefect does not answer at {settings().prefect_api_url} ({error}): everything newer than a day is kept")
        return careful
    begun = [run.start_time.timestamp() for run in found if run.start_time]
    given = {name for run in found for name in _versions_in(run.parameters)}
    roots = {str(run.id) for run in found} | {
        tag.removeprefix("run:") for run in found for tag in run.tags if tag.startswith("run:")
    }
    return AtWork(frozenset(roots), frozenset(given), min(begun, default=time.time()))


def _versions_in(value: Any) -> Iterator[str]:
    """Ids of the versions somewhere in a flow run's parameters, where they are whole or named by their path."""
    if isinstance(value, str):
        yield value  # one that names no version names nothing
    elif isinstance(value, dict):
        if {"step", "version", "digest"} <= value.keys():
            yield f"{value['step']}/{value['version']}"
        for one in value.values():
            yield from _versions_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from _versions_in(one)


def _aliased(versions: list[Record], warn: Callable[[str], None]) -> set[str]:
    """Versions whose model has an alias; every registered one where MLflow cannot be asked."""
    registrations = {one.id: one for one in versions if one.made.get("registered")}
    if not tracking.reachable():
        if registrations:
            where = (
                f"MLflow does not answer at {settings().mlflow_url}" if tracking.enabled() else "No MLflow server is known here"
            )
            warn(f"{where}, so nobody can say which models have an alias: every registered model is kept")
        return set(registrations)
    rows = [row for row in tracking.registered_models() if row["aliases"]]
    named = {(row["name"], row["version"]) for row in rows}
    weights = {row["digest"] for row in rows}
    facts = {name: one.made["registered"] for name, one in registrations.items()}
    return {name for name, one in facts.items() if (one["name"], one["version"]) in named} | {
        one.id for one in versions if one.manifest["digest"] in weights
    }
