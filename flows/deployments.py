"""Flows as deployments: registered on the work pool, each on the queue where it belongs, and run from one another.

`cpu` takes what curates, `gpu` what trains and evaluates; a worker on any machine that shares storage and servers may take either.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from typing import Any

from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Cancelling
from prefect.types.entrypoint import EntrypointType

from flows.automations import ready_automations
from flows.config import RunConfig, load
from flows.schedules import DEPLOYMENT, ready_schedules
from infra import ledger
from infra.dataset import ShardSet
from infra.errors import GristmillError
from infra.orchestration import Lineage
from infra.servers import QUEUES
from infra.settings import settings
from infra.versions import code_version

FINAL = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
FLOW_QUEUES = {
    **dict.fromkeys(("pipeline", "curate", "recrawl", "improve"), "cpu"),
    **dict.fromkeys(("train", "align", "evaluate"), "gpu"),
}
MOST_AT_ONCE = {"train": 1, "align": 1, "recrawl": 1}  # two recrawls would visit the same hosts at the same time
"""Runs of a deployment that go on at the same time; further ones wait in state AwaitingConcurrencySlot."""
POLL_INTERVAL_S = 2.0


class FlowRunFailed(GristmillError):
    """A flow run that did not complete; the message names it and its last words."""


def deploy(default_config: str = "demo") -> None:
    """Create the work pool, its queues, the deployments, their schedules and the automations.

    What is there already is brought up to date; schedules and automations stay as somebody has set them.
    """
    pool = settings().work_pool
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", description="Gristmill's own workers"))
        for queue in QUEUES:
            try:
                client.read_work_queue_by_name(queue, pool)
            except ObjectNotFound:
                client.create_work_queue(queue, work_pool_name=pool)
    config = load(default_config).model_dump(mode="json", by_alias=True)
    for name, queue in FLOW_QUEUES.items():
        flow = _flow(name)
        deployment = flow.to_deployment(
            DEPLOYMENT,
            parameters={"config": config},
            description=flow.description,
            tags=["gristmill", f"queue:{queue}"],
            version=code_version(),
            work_pool_name=pool,
            work_queue_name=queue,
            concurrency_limit=_limit(name),
            entrypoint_type=EntrypointType.MODULE_PATH,
            # the interface validates against the flow's own parameter types when the run starts
            enforce_parameter_schema=False,
        )
        deployment.apply()
    ready_schedules()
    ready_automations()


def _limit(name: str) -> ConcurrencyLimitConfig | None:
    if name not in MOST_AT_ONCE:
        return None
    return ConcurrencyLimitConfig(limit=MOST_AT_ONCE[name], collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def submit(name: str, config: RunConfig, **inputs: ShardSet) -> FlowRun:
    """Ask a worker to run a deployed flow; returns at once."""
    parameters = {"config": config.model_dump(mode="json", by_alias=True)}
    parameters |= {key: value.model_dump(mode="json") for key, value in inputs.items()}
    return run_deployment(f"{name}/{DEPLOYMENT}", parameters=parameters, timeout=0, as_subflow=False)  # type: ignore[return-value]


def run_elsewhere(name: str, config: RunConfig, lineage: Lineage, **inputs: ShardSet) -> dict[str, ShardSet]:
    """Run a deployed flow on its queue and wait; gives the versions of the run's steps so far, by step, from the shared storage.

    Raises:
        FlowRunFailed: it ended otherwise than completed.
    """
    parameters = {
        "config": config.model_dump(mode="json", by_alias=True),
        "lineage": lineage.model_dump(mode="json"),
        **{key: value.model_dump(mode="json") for key, value in inputs.items()},
    }
    tags = [f"run:{lineage.root}", f"flow:{name}"]
    with get_client(sync_client=True) as client:
        run: Any = _still_at_work(client, tags, parameters)
        run = run or run_deployment(f"{name}/{DEPLOYMENT}", parameters=parameters, timeout=0, tags=tags)
        run = _ended(client, run)
    if not run.state.is_completed():
        raise FlowRunFailed(f"{name}: flow run {run.name} ended {run.state.name}: {run.state.message}")
    # what an earlier try made, and has lost since, its own flow makes again
    return {entry.step: entry.shards() for entry in ledger.entries(lineage.root) if entry.is_made}


def _still_at_work(client: Any, tags: list[str], parameters: dict[str, Any]) -> FlowRun | None:
    """What an earlier try of this flow had started, if it still does the same work; what does other work is cancelled first."""
    live = FlowRunFilter(tags=FlowRunFilterTags(all_=tags), state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=FINAL)))
    same = None
    for run in client.read_flow_runs(flow_run_filter=live):
        asked = {name: run.parameters.get(name) for name in parameters if name != "lineage"}
        if asked.items() <= parameters.items() and not run.state.is_cancelling():
            same = run
            continue
        client.set_flow_run_state(run.id, Cancelling(message="Its flow was tried again with other data or settings."))
        _ended(client, run)
    return same


def _ended(client: Any, run: FlowRun) -> FlowRun:
    """A flow run when it has ended."""
    while run.state is None or not run.state.is_final():
        time.sleep(POLL_INTERVAL_S)
        run = client.read_flow_run(run.id)
    return run


def _flow(name: str) -> Any:
    return getattr(importlib.import_module(f"flows.{name}"), name)
