"""What a person sees while a flow runs, and the table at its end.

Asks the Prefect API once a second for the run, the runs below it and their tasks. On a terminal it redraws one table; elsewhere it
prints a line whenever a step changes its state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.sorting import ArtifactSort
from rich.console import Console
from rich.live import Live
from rich.table import Table

from flows.reconcile import tree
from infra import ledger, storage, tracking
from infra.dataset import RUN
from infra.orchestration import flow_run_url, is_step
from tasks.learn import training_told, tuning_told
from tasks.learn.config import MODEL
from tasks.report import UNITS

POLL_INTERVAL_S = 1.0
# what a person takes away: (what it is, file or folder in the step's version)
MADE = {"publish": ("Dataset", ""), "report": ("Report page", "report.html")}
STYLES = {"Completed": "green", "Cached": "cyan", "Running": "yellow", "Failed": "red", "Crashed": "red"}


@dataclass(frozen=True)
class Line:
    """One step as it stands."""

    step: str
    state: str
    seconds: float
    note: str


def follow(run_id: UUID, console: Console, since: datetime | None = None) -> Any:
    """Show a flow run until it ends, without what had ended before `since`; returns the run in its final state."""
    with get_client(sync_client=True) as client:
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4) as live:
                for run, lines, late in _snapshots(client, run_id, since):
                    live.update(_progress_table(run, lines, late))
            return run
        shown: dict[str, str] = {}
        told = ""
        for last, lines, late in _snapshots(client, run_id, since):
            run = last
            if late != told:
                told = late
                console.print(late or "nothing is waited for any more", highlight=False, soft_wrap=True)
            for line in lines:
                if shown.get(line.step) != line.state:
                    shown[line.step] = line.state
                    console.print(f"{line.step:<10} {line.state:<10} {line.seconds:6.1f} s", highlight=False)
        return run


def summary(run: Any, console: Console) -> None:
    """The closing table of a run and the links to look further."""
    entries = ledger.entries(str(run.id))
    table = Table(title=f"Run {run.name} ({str(run.id)[:8]})", title_justify="left")
    for name, justify in (
        ("step", "left"),
        ("in", "right"),
        ("kept", "right"),
        ("dropped", "right"),
        ("by rule", "left"),
        ("s", "right"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    facts: dict[str, Any] = {}
    manifests = []
    for entry in entries:
        if not entry.is_made:
            table.add_row(entry.step, "", "", "", "its version is gone", "")
            continue
        manifest = entry.shards().manifest()
        facts[entry.step] = manifest.facts
        manifests.append(manifest)
        counts = manifest.counts
        rules = sorted(counts.dropped.items(), key=lambda pair: -pair[1])
        words = ", ".join(f"{rule} {count:,}" for rule, count in rules[:4]) + (
            f", {len(rules) - 4} more" if len(rules) > 4 else ""
        )
        words = words or (f"({UNITS[entry.step]})" if entry.step in UNITS else "")
        seconds = "loaded" if entry.loaded else f"{entry.seconds:.1f}"
        table.add_row(entry.step, f"{counts.total:,}", f"{counts.kept:,}", f"{counts.total - counts.kept:,}", words, seconds)
    console.print(table)
    minutes = run.total_run_time.total_seconds() / 60 if run.total_run_time else 0.0
    scores = facts.get("evaluate", {})
    if "pretrain" not in facts and scores:
        console.print(f"perplexity {scores['perplexity']:.1f} · bits per byte {scores['bits_per_byte']:.3f}", highlight=False)
    if "pretrain" in facts:
        trained = facts["pretrain"]
        console.print(
            f"tokens {facts['tokenise']['num_tokens.train']:,} · train loss {trained['train_loss']:.3f} · "
            f"held-out loss {trained['valid_loss']:.3f}"
            + (f" · perplexity {scores['perplexity']:.1f} · bits per byte {scores['bits_per_byte']:.3f}" if scores else "")
            + f" · {minutes:.1f} minutes",
            highlight=False,
        )
        model = next(entry for entry in entries if entry.step == "pretrain").shards()
        console.print(training_told.line(trained, storage.read_json(model.file(RUN))), highlight=False, soft_wrap=True)
    for one in tuning_told.changes(manifests):
        told = f"{one.step}: {one.name} {one.was} → {tuning_told.number(one.after)}"
        console.print(f"{told} ({one.interval})" if one.interval else told, highlight=False)
    console.print(f"Prefect run  {flow_run_url(str(run.id))}", soft_wrap=True, highlight=False)
    if track := tracking.find_run(str(run.id)):
        console.print(f"MLflow run   {track.url}", soft_wrap=True, highlight=False)
    for entry in (one for one in entries if one.is_made):
        version = entry.shards()
        is_model = version.schema_name == "model"
        if is_model or entry.step in MADE:
            what, name = ("Model", MODEL) if is_model else MADE[entry.step]
            console.print(f"{what:<12} {storage.join(version.folder, name)}", soft_wrap=True, highlight=False)


def _snapshots(client: Any, run_id: UUID, since: datetime | None) -> Iterator[tuple[Any, list[Line], str]]:
    """The run, its steps, and what it waits for, once a second until it ends."""
    while True:
        run, *below = tree(client, run_id)
        yield run, list(_lines(client, [run, *below], since)), _lateness([run, *below])
        if run.state is not None and run.state.is_final():
            return
        time.sleep(POLL_INTERVAL_S)


def _lateness(runs: list[Any]) -> str:
    """What is waited for, and what to do: an answer, or a worker."""
    for run in runs:
        if run.state_name == "Suspended":
            command = f"gristmill approve {str(run.id)[:8]} --reason WHY"
            return f"{run.name} waits for an answer to the gate's warnings: {command}, or Resume on its page"
    queued = [run.name for run in runs if run.state_name == "AwaitingConcurrencySlot"]
    if queued:
        return f"{', '.join(queued)} waits until another run of its kind has ended"
    late = [f"{run.name} waits for a worker on queue `{run.work_queue_name}`" for run in runs if run.state_name == "Late"]
    return "; ".join(late) + "; is one alive? `gristmill status` tells, `gristmill up` starts it" if late else ""


def _lines(client: Any, runs: list[Any], since: datetime | None) -> Iterator[Line]:
    """The steps of a run and of the runs below it, in the order in which they began; of several tries the last."""
    tasks: dict[str, Any] = {}
    for flow_run in runs:
        found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])))
        for task in sorted(found, key=lambda one: one.start_time.timestamp() if one.start_time else float("inf")):
            if is_step(task) and (since is None or task.end_time is None or task.end_time > since):
                tasks[task.name] = task
    notes = _progress_notes(client, runs) if any(task.state_name == "Running" for task in tasks.values()) else {}
    for name, task in tasks.items():
        if task.state is not None and not task.state.is_pending():
            seconds = task.estimated_run_time.total_seconds()
            yield Line(name, task.state.name, seconds, notes.get(name, "") if task.state.name == "Running" else "")


def _progress_notes(client: Any, runs: list[Any]) -> dict[str, str]:
    """The newest progress note of each step, by step."""
    artifacts = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id for run in runs]), type=ArtifactFilterType(any_=["progress"])
        ),
        sort=ArtifactSort.UPDATED_DESC,
        limit=5,
    )
    notes: dict[str, str] = {}
    for artifact in artifacts:
        notes.setdefault((artifact.key or "").removeprefix("progress-"), (artifact.description or "").partition(": ")[2])
    return notes


def _progress_table(run: Any, lines: list[Line], late: str) -> Table:
    title = f"{run.name}: {run.state.name if run.state else 'waiting'}"
    table = Table(title=title, title_justify="left", caption=late, caption_justify="left", box=None)
    for name in ("step", "state", "seconds", ""):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for line in lines:
        style = STYLES.get(line.state, "")
        table.add_row(line.step, f"[{style}]{line.state}[/]" if style else line.state, f"{line.seconds:.0f}", line.note)
    return table
