"""What happens by itself when something else has happened: Prefect automations, off until somebody switches them on.

`train-on-publish` trains whenever `curate` or `recrawl` has published a new version; `crash-the-silent` marks runs Crashed that send no
heartbeat. They can be switched here and in the Prefect UI, and stay as they are set.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture

from flows.schedules import DEPLOYMENT
from infra.errors import InputError
from infra.orchestration import PUBLISHED_EVENT

PREFIX = "gristmill: "
SILENCE = timedelta(minutes=5)
"""Five missed heartbeats, of which our runs send one a minute."""


@dataclass(frozen=True)
class Switch:
    """An automation as it stands."""

    name: str
    description: str
    on: bool


def ready_automations() -> None:
    """Create the automations that are not there yet, switched off."""
    with get_client(sync_client=True) as client:
        there = {one.name for one in client.read_automations()}
        train = client.read_deployment_by_name(f"train/{DEPLOYMENT}").id
        for wanted in (_train_on_publish(train), _crash_the_silent()):
            if wanted.name not in there:
                client.create_automation(wanted)


def switches() -> list[Switch]:
    """Our automations, by name."""
    with get_client(sync_client=True) as client:
        ours = [one for one in client.read_automations() if one.name.startswith(PREFIX)]
    return sorted((Switch(one.name.removeprefix(PREFIX), one.description, one.enabled) for one in ours), key=lambda one: one.name)


def switch(name: str, on: bool) -> None:
    """Switch an automation on or off.

    Raises:
        InputError: there is none of that name.
    """
    with get_client(sync_client=True) as client:
        found: list[Automation] = client.read_automations_by_name(PREFIX + name)
        if not found:
            names = ", ".join(one.name for one in switches())
            raise InputError(f"automation {name!r}: there is none of that name; these are: {names}")
        for one in found:
            (client.resume_automation if on else client.pause_automation)(one.id)


def _train_on_publish(train: Any) -> AutomationCore:
    event = "{{ event.payload.%s }}"
    return AutomationCore(
        name=f"{PREFIX}train-on-publish",
        description="Trains on every new dataset version that curate or recrawl publishes; pipeline trains by itself.",
        enabled=False,
        trigger=EventTrigger(
            expect={PUBLISHED_EVENT},
            match={"gristmill.flow": ["curate", "recrawl"]},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                deployment_id=train,
                parameters={
                    "dataset": {"__prefect_kind": "jinja", "template": event % "dataset"},
                    "config": {
                        "__prefect_kind": "json",
                        "value": {"__prefect_kind": "jinja", "template": event % "config | tojson"},
                    },
                },
            )
        ],
    )


def _crash_the_silent() -> AutomationCore:
    beat = "prefect.flow-run.heartbeat"
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")}
    return AutomationCore(
        name=f"{PREFIX}crash-the-silent",
        description="Marks a flow run Crashed that sent no heartbeat for five minutes, so that it can be retried. For runs on machines "
        "that may never come back; `gristmill doctor` does the same for its own machine, at once and by looking.",
        enabled=False,
        trigger=EventTrigger(
            after={beat},
            expect={beat, *ends},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="No heartbeat for five minutes")],
    )
