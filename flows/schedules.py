"""When deployments run by themselves: cron schedules, each with a configuration of its own, to be switched on and off.

Every deployment has one schedule from the start, `nightly`, which is off. What somebody changes, here or in the Prefect UI, stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from pydantic import ValidationError

from flows.config import RunConfig
from infra.errors import InputError

DEPLOYMENT = "gristmill"
"""Name of every deployment of ours; it is called `<flow>/gristmill`."""
NIGHTLY = "nightly"
# curate and recrawl are two ways to the same corpus; what trains and evaluates on it comes hours later
NIGHTLY_CRON = {
    "curate": "0 1 * * *",
    "recrawl": "0 1 * * *",
    "pipeline": "0 2 * * *",
    "train": "0 4 * * *",
    "align": "0 5 * * *",
    "evaluate": "0 6 * * *",
    "improve": "0 7 * * *",
}


@dataclass(frozen=True)
class Planned:
    """A schedule of a deployment as it stands."""

    flow: str
    name: str
    cron: str
    timezone: str
    active: bool
    corpus: str
    """Name of the corpus that its configuration makes; empty: the deployment's own configuration."""
    next_run: datetime | None


def ready_schedules() -> None:
    """Give every deployment that has no schedule the one that is off."""
    with get_client(sync_client=True) as client:
        for flow, deployment in _deployments(client):
            if not deployment.schedules:
                cron = CronSchedule(cron=NIGHTLY_CRON[flow], timezone="UTC")
                client.create_deployment_schedules(
                    deployment.id, [DeploymentScheduleCreate(schedule=cron, active=False, slug=NIGHTLY)]
                )


def plan(
    flow: str, name: str, cron: str | None, timezone: str | None, config: RunConfig | None, active: bool, new: bool = True
) -> None:
    """Make or change one schedule of a flow's deployment; what is None stays as it is, or as the default has it.

    Args:
        new: whether one of a name that is not there yet is made.

    Raises:
        InputError: the cron expression or the time zone is none, or there is no schedule of that name to change.
    """
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"{flow}/{DEPLOYMENT}")
        there = next((one for one in deployment.schedules if _name(one) == name), None)
        if there is None and not new:
            raise _unknown(flow, name, deployment)
        old = there.schedule if there and isinstance(there.schedule, CronSchedule) else None
        when = _cron(
            cron or (old.cron if old else NIGHTLY_CRON[flow]), timezone or (old.timezone if old and old.timezone else "UTC")
        )
        parameters = (
            {"config": config.model_dump(mode="json", by_alias=True)} if config else dict(there.parameters) if there else {}
        )
        if there:
            client.delete_deployment_schedule(deployment.id, there.id)
        client.create_deployment_schedules(
            deployment.id, [DeploymentScheduleCreate(schedule=when, active=active, parameters=parameters, slug=name)]
        )


def remove(flow: str, name: str) -> None:
    """Remove one schedule of a flow's deployment.

    Raises:
        InputError: it has none of that name.
    """
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"{flow}/{DEPLOYMENT}")
        for one in deployment.schedules:
            if _name(one) == name:
                client.delete_deployment_schedule(deployment.id, one.id)
                return
        raise _unknown(flow, name, deployment)


def _unknown(flow: str, name: str, deployment: Any) -> InputError:
    names = ", ".join(_name(one) for one in deployment.schedules) or "none"
    return InputError(f"{flow}: has no schedule {name!r}; there are: {names}")


def planned() -> list[Planned]:
    """All schedules, by flow and name."""
    found = []
    with get_client(sync_client=True) as client:
        for flow, deployment in _deployments(client):
            waiting = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                ),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=200,
            )
            for one in deployment.schedules:
                cron = one.schedule if isinstance(one.schedule, CronSchedule) else None
                by_it = [run for run in waiting if run.created_by and run.created_by.id == one.id]
                found.append(
                    Planned(
                        flow=flow,
                        name=_name(one),
                        cron=cron.cron if cron else str(one.schedule),
                        timezone=(cron.timezone if cron else None) or "UTC",
                        active=one.active,
                        corpus=str((one.parameters.get("config") or {}).get("name", "")),
                        next_run=by_it[0].expected_start_time if one.active and by_it else None,
                    )
                )
    return sorted(found, key=lambda one: (one.flow, one.name))


def _deployments(client: Any) -> Iterator[tuple[str, Any]]:
    """(flow, deployment) of all deployments of ours."""
    found = client.read_deployments(
        deployment_filter=DeploymentFilter(
            name=DeploymentFilterName(any_=[DEPLOYMENT]), tags=DeploymentFilterTags(all_=["gristmill"])
        )
    )
    for deployment in found:
        flow = client.read_flow(deployment.flow_id).name
        if flow in NIGHTLY_CRON:
            yield flow, deployment


def _name(schedule: Any) -> str:
    return schedule.slug or str(schedule.id)[:8]


def _cron(cron: str, timezone: str) -> CronSchedule:
    try:
        ZoneInfo(timezone)
        return CronSchedule(cron=cron, timezone=timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        what = (
            f"time zone {timezone!r}: none of that name, write for example Europe/Berlin"
            if not isinstance(error, ValidationError)
            else f"cron {cron!r}: not an expression of minute, hour, day, month and weekday, as in '0 3 * * *'"
        )
        raise InputError(what) from error
