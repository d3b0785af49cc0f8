"""The door of Prefect for steps: a step's call inside a flow becomes one task run, with progress, lineage, energy and its counts.

A step whose version is complete ends as `Cached`, so the Prefect page shows what a retry or a second run really did. The
task keeps no result of its own: the dataset version is the result, and its manifest the proof.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from infra import ledger, lineage_page, openlineage_events, scratch, storage, tracking
from infra import lineage as lineage_graph
from infra.dataset import RUN, ShardSet, flattened
from infra.mending import verified_loads
from infra.progress import watched
from infra.settings import settings

if TYPE_CHECKING:
    from infra.steps import Result, Step

log = logging.getLogger("gristmill")

PROGRESS_INTERVAL_S = 1.0
PUBLISHED_EVENT = "gristmill.dataset.published"
TASK_RUN_TAG = "prefect.task_run_id"
HOST_TAG = f"host:{socket.gethostname()}"
"""Prefect tag of the flow runs that this machine executes."""
STEP_KEY = "gristmill_step"
"""With this begins the task key of the task runs that are steps; the others only stand for flows that run below. No tag says it, because
Prefect asks its server for the concurrency limits of a task's tags, which takes 2 to 3 s at each step that is 5 s after the last."""


def in_flow() -> bool:
    """Whether a Prefect flow run is the caller; no flow can be running where Prefect was never imported."""
    import sys

    if "prefect.context" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def flow_run_id() -> str:
    """The id of the running flow, empty outside one."""
    if not in_flow():
        return ""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else ""


class Lineage(BaseModel):
    """What a flow hands to a flow that runs for it elsewhere, so that both are one tree in MLflow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    """Prefect id of the outermost flow run; a retry keeps it, so MLflow runs are taken up again and not doubled."""
    mlflow_run_id: str = ""
    """MLflow run to nest below; empty when nothing is tracked."""
    verify: bool = False
    """Whether files are compared with their digests when they are loaded: in every try but the first."""


@contextlib.contextmanager
def tracked_flow(name: str, config: BaseModel, lineage: Lineage | None = None) -> Iterator[Lineage]:
    """Track the current flow run in MLflow, linked both ways; gives what its own child flows need.

    Outside a Prefect flow run this does nothing, so that a flow's function can be called directly.
    """
    run_id = flow_run_id()
    if not run_id:
        yield Lineage(root="")
        return
    from prefect.exceptions import Pause

    _tag_with_host()
    if _attempt() > 1:
        _end_earlier_tries(run_id)
    root = lineage.root if lineage else ledger.current_run() or run_id
    verify = lineage.verify if lineage else _attempt() > 1
    page = flow_run_url(run_id)
    tags = {
        tracking.FLOW_RUN_TAG: run_id,
        "flow": name,
        "corpus": str(getattr(config, "name", "")),
        "mlflow.note.content": f"Prefect run: [{run_id}]({page})",
    }
    for logger in ("gristmill", "tasks"):  # their words go to the run's page, as PREFECT_LOGGING_EXTRA_LOGGERS asks
        logging.getLogger(logger).setLevel(logging.INFO)
    above = lineage.mlflow_run_id if lineage else ""
    key = {"gristmill.root": root}
    with (
        ledger.run(root),
        verified_loads(verify),
        tracking.run(f"flow {name}", tags=tags, key=key, parent_run_id=above, waits=(Pause,)) as track,
    ):
        if track is not None:
            from prefect.artifacts import create_link_artifact

            track.params(_flat(config))
            create_link_artifact(
                track.url, link_text=f"MLflow run of {name}", key="mlflow-run", description="Lineage and metrics"
            )
        if root == run_id:
            ledger.forgive(root)
            ledger.begin(root, name, tags["corpus"], config.model_dump(mode="json", by_alias=True))
        try:
            yield Lineage(root=root, mlflow_run_id=track.run_id if track else "", verify=verify)
        except Exception as error:
            ledger.fail(root, f"{name}: {error}")
            raise
        finally:
            if track is not None and root == run_id:
                _leave_lineage(track, root)
        if track is not None:
            _sum_up(track, [entry for entry in ledger.entries(root) if run_id in (root, entry.flow_run_id)])


def _attempt() -> int:
    """The number of the current flow run's try, from 1; to go on after an approval is no new one."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return context.flow_run.run_count if context and context.flow_run else 1


def _end_earlier_tries(run_id: str) -> None:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        crash_inside(client, UUID(run_id))


def crash_inside(client: Any, run_id: UUID) -> int:
    """Mark as Crashed what is still said to run inside a flow run whose process is gone; gives how many runs that were.

    That are its steps, and the flows that ran in its process with theirs. Flows on a queue have processes of their own.
    """
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    gone: Any = Crashed(message="Its process is gone.")
    steps = client.read_task_runs(
        flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run_id])),
        task_run_filter=filters.TaskRunFilter(
            state=filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=[StateType.RUNNING])),
        ),
    )
    steps = [step for step in steps if is_step(step)]
    for step in steps:
        client.set_task_run_state(step.id, gone, force=True)
    parent = filters.FlowRunFilterParentFlowRunId(any_=[run_id])
    below = client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(parent_flow_run_id=parent))
    inside = [one for one in below if one.deployment_id is None and one.state_type == StateType.RUNNING]
    for flow in inside:
        client.set_flow_run_state(flow.id, gone, force=True)
    return len(steps) + len(inside) + sum(crash_inside(client, flow.id) for flow in inside)


def scheduled_label() -> str:
    """The time for which the current flow run was scheduled, as a snapshot's label; a retry has the same."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    at = (context.flow_run.expected_start_time if context and context.flow_run else None) or datetime.now(UTC)
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def announce(corpus: str, dataset: ShardSet, config: BaseModel) -> None:
    """Tell the world once that a corpus has a new version, by a Prefect event that automations can wait for.

    The event is sent before it is noted that it was: a kill between the two sends it twice rather than never.
    """
    if ledger.announced(corpus, dataset):
        return
    if in_flow():
        _emit_published(corpus, dataset, config)
    ledger.announce(corpus, dataset)


def _emit_published(corpus: str, dataset: ShardSet, config: BaseModel) -> None:
    """Send the event and wait until the server has it: `prefect.events.emit_event` only queues, and a kill would lose it."""
    from prefect import get_client
    from prefect.events import Event, RelatedResource, Resource

    about = ledger.about(ledger.current_run())
    event = Event(
        event=PUBLISHED_EVENT,
        resource=Resource(
            {
                "prefect.resource.id": f"gristmill.dataset.{dataset.version}",
                "prefect.resource.name": f"{corpus} {dataset.version}",
                "gristmill.corpus": corpus,
                "gristmill.flow": about.flow if about else "",
            }
        ),
        related=[
            RelatedResource({"prefect.resource.id": f"prefect.flow-run.{flow_run_id()}", "prefect.resource.role": "flow-run"})
        ],
        payload={
            "corpus": corpus,
            "dataset": dataset.path,
            "version": dataset.version,
            "digest": dataset.digest,
            "documents": dataset.counts.kept,
            "run": ledger.current_run(),
            "config": config.model_dump(mode="json", by_alias=True),
        },
    )
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")])


def _leave_lineage(track: tracking.Track, root: str) -> None:
    """Draw what the run made, also of one that failed; a drawing that cannot be kept does not decide how a run ends."""
    try:
        graph = lineage_graph.of_run(root)
        with scratch.folder("lineage") as folder:
            page, data = Path(folder, "lineage.html"), Path(folder, "lineage.json")
            page.write_text(lineage_page.render(graph, f"Run {root}"), encoding="utf-8")
            data.write_text(json.dumps(graph.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
            track.file(page)
            track.file(data)
    except tracking.failures() as error:
        log.warning("lineage of run %s is not on its MLflow page: %s", root, error)


def _sum_up(track: tracking.Track, entries: Sequence[ledger.Entry]) -> None:
    """Put the figures of a flow's steps and the corpus they published on the flow's own run, so that whole runs can be compared."""
    for entry in entries:
        version = entry.shards()
        track.metrics({f"{entry.step}.{name}": value for name, value in _figures(version).items()})
        if entry.step == "publish":
            track.dataset(version, "output")


def _figures(version: ShardSet) -> dict[str, float]:
    """Counts and numeric facts of a version."""
    facts = {name: value for name, value in version.manifest().facts.items() if isinstance(value, int | float)}
    return {"rows_total": version.counts.total, "rows_kept": version.counts.kept, **facts}


def _tag_with_host() -> None:
    """Say on the current flow run where it is executed; of a run that was tried elsewhere before, that machine's tag goes."""
    from prefect import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        tags = {tag for tag in context.flow_run.tags if not tag.startswith("host:")} | {HOST_TAG}
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, tags=sorted(tags))


def flow_run_url(run_id: str) -> str:
    """The page of a flow run in the Prefect UI."""
    return f"{settings().prefect_api_url.removesuffix('/api')}/runs/flow-run/{run_id}"


def run_as_task(step: Step, inputs: Sequence[ShardSet | Sequence[ShardSet]], config: BaseModel) -> ShardSet:
    """Run a step as one Prefect task of the current flow; what the task run shows as parameters are its inputs and config."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Completed

    made: list[ShardSet] = []  # a task that names its own state returns that state to its caller, so the version goes this way

    @task(
        name=step.name,
        task_run_name=step.name,
        cache_policy=NO_CACHE,
        persist_result=False,
        description=step.__doc__,
    )
    def gristmill_step(inputs: Any, config: BaseModel) -> Any:
        tags = {"step": step.name, TASK_RUN_TAG: _task_run_id(), "process": f"{socket.gethostname()}:{os.getpid()}"}
        key = {"gristmill.root": ledger.current_run() or flow_run_id()}
        given = list(flattened(inputs))
        events = openlineage_events.told(step.name, tags[TASK_RUN_TAG], key["gristmill.root"], given)
        with _progress_artifact(step.name), events as outputs, tracking.run(step.name, tags=tags, key=key) as track:
            result = _metered(step, inputs, config)
            outputs.append(result.shards)
            _tell(step, inputs, config, result, track)
            page = track.url if track else ""
            entry = ledger.Entry.of(result.shards, loaded=result.loaded, seconds=result.seconds)
            ledger.enter(entry.model_copy(update={"flow_run_id": flow_run_id(), "mlflow_url": page}))
        made.append(result.shards)
        if result.loaded:
            return Completed(name="Cached", message=f"version {result.shards.version} found complete")
        return Completed(message=f"version {result.shards.version} made")

    _: Any = gristmill_step(list(inputs), config)  # typed as possibly awaitable; in a sync flow it is done
    return made[-1]


def is_step(task_run: Any) -> bool:
    """Whether a Prefect task run is a step."""
    return str(task_run.task_key).startswith(STEP_KEY)


def _task_run_id() -> str:
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return str(context.task_run.id) if context else ""


def _metered(step: Step, inputs: Sequence[ShardSet | Sequence[ShardSet]], config: BaseModel) -> Result:
    from infra import energy

    with energy.metered(f"{step.name}-{time.monotonic_ns()}") as electricity:
        result = step.run(inputs, config)
    if not result.loaded:
        path = storage.join(result.shards.folder, RUN)
        storage.write_json(path, {**storage.read_json(path), "energy_joules_estimated": round(electricity.joules, 1)})
    return result


def _tell(step: Step, inputs: Sequence[Any], config: BaseModel, result: Result, track: tracking.Track | None) -> None:
    """Put what the step did where people look: the Prefect run's artifacts and the MLflow run."""
    from prefect.artifacts import create_markdown_artifact

    counts = result.shards.counts
    rows = "\n".join(f"| {rule} | {count:,} | {count / max(counts.total, 1):.1%} |" for rule, count in counts.dropped.items())
    lines = [
        f"**{step.name}** version `{result.shards.version}`, digest `{result.shards.digest}`"
        + (", found complete" if result.loaded else f", {result.seconds:.1f} s")
        + (f", {result.resumed_shards} shards were there from an earlier try" if result.resumed_shards else ""),
        f"{counts.total:,} in, {counts.kept:,} kept, {counts.total - counts.kept:,} dropped",
    ]
    if rows:
        lines.append(f"| dropped by | documents | share |\n| --- | ---: | ---: |\n{rows}")
    if track is not None:
        lines.append(f"[MLflow run]({track.url})")
        track.params(_flat(config))
        track.metrics(
            {
                **_figures(result.shards),
                "seconds": result.seconds,
                **{f"dropped.{rule}": count for rule, count in counts.dropped.items()},
            }
        )
        made, manifest = storage.read_json(result.shards.file(RUN)), result.shards.manifest()
        where = {f"made.{name}": made[name] for name in ("host", "device", "device_reason") if name in made}
        state = "loaded" if result.loaded else "made"
        # tags and not parameters, which MLflow never changes: a retry may make another version
        words = {name: value for name, value in manifest.facts.items() if isinstance(value, str) and len(value) < 500}
        track.tags({"step.state": state, "version": result.shards.version, "digest": result.shards.digest, **where, **words})
        for page in (entry.name for entry in manifest.files if entry.name.endswith((".html", ".csv", ".md"))):
            track.page(page, storage.read_bytes(result.shards.file(page)).decode())
        for shards in flattened(inputs):
            track.dataset(shards, "input")
        track.dataset(result.shards, "output")
    create_markdown_artifact("\n\n".join(lines), key=f"step-{step.name}", description=f"What {step.name} did")


def _flat(config: BaseModel) -> dict[str, Any]:
    """The configuration as MLflow parameters, one level deep."""
    return {f"config.{name}": value for name, value in config.model_dump(mode="json").items()}


@contextlib.contextmanager
def _progress_artifact(name: str) -> Iterator[None]:
    """Show progress reports of this block as a Prefect progress artifact, at most one update a second."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    # Prefect's sync_compatible wrappers are typed as possibly awaitable; in a sync task they return the value
    artifact: Any = create_progress_artifact(progress=0.0, key=f"progress-{name}", description=name)
    last, began = 0.0, time.monotonic()
    at_first: dict[str, int] = {}

    def watcher(done: int, total: int, what: str, note: str) -> None:
        nonlocal last
        first = at_first.setdefault(what, done)
        if time.monotonic() - last >= PROGRESS_INTERVAL_S or done == total:
            last = time.monotonic()
            left = (last - began) / (done - first) * (total - done) if first < done < total else 0.0
            words = [f"{name}: {done} of {total} {what}", *([f"{left:,.0f} s left"] if left else []), *([note] if note else [])]
            update_progress_artifact(artifact, progress=100.0 * done / max(total, 1), description=" · ".join(words))

    with watched(watcher):
        yield


def show_table(key: str, rows: Sequence[Mapping[str, str]], description: str) -> None:
    """Show rows as a table artifact of the current Prefect run; nothing happens outside a flow."""
    if in_flow():
        from prefect.artifacts import create_table_artifact

        create_table_artifact([dict(row) for row in rows], key=key, description=description)
