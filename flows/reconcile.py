"""Runs that only seem to run, brought into line with what really runs, in Prefect and in MLflow, so that they can be tried again.

A worker reports the end of a process that it started. It cannot when both ended together, as in a power cut, and it never tells of what ran
inside that process (flows without a deployment, tasks) nor of the runs in MLflow. Other machines' runs are left to those machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psutil
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from flows.deployments import FINAL
from infra import tracking
from infra.orchestration import HOST_TAG, crash_inside

SETTLED = timedelta(minutes=1)
NEVER_STARTED = timedelta(minutes=10)
"""A worker gives a run to a process, which needs less than a minute to begin."""
MLFLOW_STATUS = {StateType.COMPLETED: "FINISHED", StateType.CANCELLED: "KILLED"}


@dataclass(frozen=True)
class Reconciled:
    """What was found."""

    lost: list[str]
    """Names of flow runs that had lost process and worker, and are marked Crashed now."""
    num_inside: int
    """Flow and task runs inside ended ones, marked Crashed."""
    num_mlflow: int
    """MLflow runs of flows that had ended, ended now."""

    @property
    def words(self) -> str:
        """For people; empty if every run was as it seemed."""
        said = [f"{', '.join(self.lost)} had lost process and worker: marked Crashed, try again what you need"] * bool(self.lost)
        said += [f"{self.num_inside} tasks and flows inside ended runs: marked Crashed"] * bool(self.num_inside)
        said += [f"{self.num_mlflow} MLflow runs of ended flows: ended"] * bool(self.num_mlflow)
        return "; ".join(said)


def reconcile() -> Reconciled:
    """Look at every run that is said to be at work; harmless beside runs that are."""
    with get_client(sync_client=True) as client:
        lost = list(_lost(client))
        for run in lost:
            client.set_flow_run_state(run.id, Crashed(message="Its process is gone, or never came to life."), force=True)
        ended = {run.id for run in lost} | _ended_with_something_inside(client)
        num_inside = sum(crash_inside(client, run_id) for run_id in ended)

        def status(flow_run_id: str) -> str:
            found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)])))
            kind = found[0].state_type if found else None  # unknown here: MLflow serves another Prefect too
            return MLFLOW_STATUS.get(kind, "FAILED") if kind in FINAL else ""

        num_mlflow = tracking.end_abandoned(status) if tracking.reachable() else 0
    return Reconciled([run.name for run in lost], num_inside, num_mlflow)


def tree(client: Any, run_id: UUID) -> Iterator[FlowRun]:
    """A flow run, then those below it in the order of their making."""
    yield client.read_flow_run(run_id)
    below = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id])))
    for child in sorted(below, key=lambda run: run.created):
        yield from tree(client, child.id)


def _lost(client: Any) -> Iterator[FlowRun]:
    """The flow runs of this machine that are said to run and of which no process does, and those that were to start and never did."""
    environments = {process.pid: process.info["environ"] for process in psutil.process_iter(["environ"])}
    at_work = {environment.get("PREFECT__FLOW_RUN_ID") for environment in environments.values() if environment}
    hidden = {str(pid) for pid, environment in environments.items() if environment is None}  # another user's
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[HOST_TAG]), state=running)):
        # a flow without a deployment runs inside another one's process, and shares its fate
        if run.deployment_id and run.infrastructure_pid not in hidden and str(run.id) not in at_work:
            yield run
    pending = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING])))
    for run in client.read_flow_runs(flow_run_filter=pending):
        # on whatever machine; should its process come to life after all, Prefect sends it away
        if run.deployment_id and run.state is not None and run.state.timestamp < datetime.now(UTC) - NEVER_STARTED:
            yield run


def _ended_with_something_inside(client: Any) -> set[UUID]:
    """Ids of flow runs that have ended while tasks in them, or flows that ran in their process, are still said to run."""
    running = [StateType.RUNNING]
    # Prefect writes down how a task ended some time after its flow has ended
    long_ago = FlowRunFilterEndTime(before_=datetime.now(UTC) - SETTLED)
    tasks = client.read_task_runs(
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=running))),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=FINAL)), end_time=long_ago),
    )
    found = {task.flow_run_id for task in tasks}
    flows = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=running)))
    )
    for flow in flows:
        if flow.deployment_id is None and flow.parent_task_run_id is not None:
            above = client.read_task_run(flow.parent_task_run_id).flow_run_id
            if client.read_flow_run(above).state_type in FINAL:
                found.add(above)
    return found
