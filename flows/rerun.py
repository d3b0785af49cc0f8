"""An earlier run once more: what is finished and whole is loaded, what failed goes on, what follows is made.

The flow run keeps its id, and so its runs in MLflow and its entries in the ledger. From its second try on, a run reads all files of what it
loads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry

from flows.config import RunConfig
from infra import ledger, mending, storage
from infra.dataset import folder_of
from infra.errors import InputError
from infra.steps import RECIPE
from infra.storage import StorageError

CRASH_SETTLES_S = 15.0


def find(run: str) -> FlowRun:
    """The Prefect flow run of a run's id, its beginning, its Prefect name, or `latest`.

    Raises:
        InputError: this Prefect server knows none, or several of that name.
    """
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ValueError, ObjectNotFound):
            return client.read_flow_run(UUID(run))
        problem = ""
        try:
            return client.read_flow_run(UUID(ledger.find_run(run)))
        except (StorageError, ObjectNotFound) as error:
            problem = str(error)
        # the ledger does not know of runs that failed before their first line, nor of those whose storage is elsewhere
        recent = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200)
        named = [one for one in recent if one.name == run or str(one.id).startswith(run)]
        if len(named) != 1:
            raise InputError(f"run {run!r}: this Prefect server knows no run of that id or name ({problem})")
    return named[0]


def rerun(run: FlowRun, first_step: str, skip_poisoned: bool, tell: Callable[[str], None]) -> None:
    """Have a finished run tried again by a worker; returns at once.

    Args:
        run: of a deployment, in whatever final state.
        first_step: step that is made again with all that follow from it, though it is whole; empty: what failed.
        skip_poisoned: leave out documents that end their workers.
        tell: called with a line for each version that is going to be made again.

    Raises:
        InputError: the run is still at work, waits for an answer, or has no such step.
    """
    _require_final(run)
    if first_step:
        for entry in _from(str(run.id), first_step):
            mending.forget(folder_of(entry.path), entry.step)
            ledger.strike(str(run.id), entry.step)
            tell(f"{entry.step}: version {entry.version} is going to be made again")
    _let_settle(run, tell)
    with get_client(sync_client=True) as client:
        if skip_poisoned:
            config = RunConfig.model_validate(run.parameters["config"])
            dask = config.dask.model_copy(update={"skip_poisoned": True})
            told = config.model_copy(update={"dask": dask}).model_dump(mode="json", by_alias=True)
            client.update_flow_run(run.id, parameters=run.parameters | {"config": told})
        client.set_flow_run_state(run.id, AwaitingRetry(message="asked for by `gristmill rerun`"), force=True)


def _let_settle(run: FlowRun, tell: Callable[[str], None]) -> None:
    """Wait until a crash is some seconds old: a worker reports one twice, and what was asked for in between would be undone."""
    if run.state is not None and run.state.is_crashed():
        left_s = CRASH_SETTLES_S - (datetime.now(UTC) - run.state.timestamp).total_seconds()
        if left_s > 0:
            tell(f"waits {left_s:.0f} s, until its worker has said all about the crash")
            time.sleep(left_s)


def _require_final(run: FlowRun) -> None:
    state = run.state
    if run.deployment_id is None:
        raise InputError(f"run {run.name}: it runs for another one and has no deployment; rerun the run above it")
    if state is not None and state.is_paused():
        raise InputError(f"run {run.name}: waits for an answer; give it with `gristmill approve {str(run.id)[:8]}`")
    if state is None or not state.is_final():
        raise InputError(
            f"run {run.name}: is {state.name if state else 'new'}; only a finished run can be tried again. "
            "If its process is gone, `gristmill doctor` finds out"
        )


def _from(run: str, first_step: str) -> list[ledger.Entry]:
    """The entries of a run whose versions are the step's or follow from it, in the order of their making."""
    entries = ledger.entries(run)
    if first_step not in {entry.step for entry in entries}:
        raise InputError(f"--from {first_step}: run {run} has no such step; it has {', '.join(entry.step for entry in entries)}")
    stale: list[ledger.Entry] = []
    for entry in entries:
        inputs = str(storage.read_json(storage.join(folder_of(entry.path), RECIPE))["inputs"])
        if entry.step == first_step or any(f"{one.step}/{one.version}@" in inputs for one in stale):
            stale.append(entry)
    return stale
