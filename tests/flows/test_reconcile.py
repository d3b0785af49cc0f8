"""Runs that were given to a worker and never came to life, on a Prefect server of this test's own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.states import Pending, Scheduled

from flows import reconcile


@flow
def nothing() -> None:
    """What is never begun."""


def state_of(client: Any, run: Any) -> str:
    return str(client.read_flow_run(run.id).state_name)


@pytest.mark.soak
def test_a_run_that_stays_pending_is_crashed_after_a_while_and_one_that_is_new_or_scheduled_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.testing.utilities import prefect_test_harness  # brings the whole server: seconds, for this test alone

    monkeypatch.setenv("GRISTMILL_MLFLOW_URL", "")
    with prefect_test_harness(), get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(nothing), "nothing")
        stuck = client.create_flow_run_from_deployment(deployment, state=Scheduled())
        waiting = client.create_flow_run_from_deployment(deployment, state=Scheduled())
        inside = client.create_flow_run(nothing, state=Pending())  # shares the fate of the process it is in
        client.set_flow_run_state(stuck.id, Pending(), force=True)

        assert reconcile.reconcile().words == ""
        assert state_of(client, stuck) == "Pending"

        monkeypatch.setattr(reconcile, "NEVER_STARTED", timedelta(0))
        found = reconcile.reconcile()
        assert found.lost == [stuck.name] and f"{stuck.name} had lost process and worker" in found.words
        assert [state_of(client, run) for run in (stuck, waiting, inside)] == ["Crashed", "Scheduled", "Pending"]
        assert reconcile.reconcile().words == ""
