"""The human at the gate: a corpus with warnings waits, holding neither worker nor cluster, until somebody says yes or no.

The outermost flow run is suspended: its process ends, and the answer, given in the form on its Prefect page or by `gristmill approve`,
starts it again on its queue, where the finished steps are loaded. A yes is kept beside the version that was judged, so that nobody is asked
twice about the same data; who answered, what and why is in MLflow. Outside Prefect nobody can be asked, and the warnings are only logged.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from prefect import get_client, suspend_flow_run
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.input import RunInput
from pydantic import Field, ValidationError

from flows.config import RunConfig
from infra import ledger, storage, tracking
from infra.dataset import ShardSet
from infra.errors import GristmillError, InputError
from infra.orchestration import flow_run_id

log = logging.getLogger("gristmill")

APPROVAL = "approval.json"
RESUME_TRIES, RESUME_PAUSE_S = 5, 1.0


class Approval(RunInput):
    """What the gate asks."""

    approve: bool = Field(description="Publish this corpus in spite of its warnings?")
    reason: str = Field("", description="Why; kept in MLflow.")
    by: str = Field("", description="Your name; kept in MLflow.")


class GateRefused(GristmillError):
    """Somebody looked at the warnings and said no, or nobody is to be asked."""


def approve(checks: ShardSet, config: RunConfig) -> None:
    """Let a corpus through the gate, if need be by asking a human; must be called by the outermost flow, outside any pool.

    Args:
        checks: the version of the step `validate`.
        config: `approval` says whether to ask.

    Raises:
        GateRefused: the answer was no, or `approval.on_warning` is `stop`.
        Pause: of Prefect, which ends this process until the answer is there.
    """
    warnings = describe(checks)
    if not warnings:
        return
    path = checks.file(APPROVAL)
    if config.approval.on_warning == "stop":
        raise GateRefused(f"{warnings}\nThe configuration says that warnings stop a run (approval.on_warning)")
    if config.approval.on_warning == "go" or not flow_run_id():
        why = "approval.on_warning=go" if config.approval.on_warning == "go" else "there is no flow run to wait in"
        log.warning("%s\nNobody is asked: %s", warnings, why)
        _record({"decision": "not asked", "by": why, "reason": "", "warnings": warnings})
        return
    if storage.exists(path):
        said = storage.read_json(path)
        log.info("%s\nApproved already, by %s: %s", warnings, said["by"], said["reason"])
        _record(said)
        return
    answer = _ask(checks, warnings, config)
    said = {
        "decision": "approved" if answer.approve else "refused",
        "by": answer.by or "somebody on the Prefect page",
        "reason": answer.reason,
        "warnings": warnings,
        "run": ledger.current_run(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _record(said)
    ledger.decide(ledger.current_run(), said)
    if not answer.approve:
        raise GateRefused(f"{said['by']} refused this corpus: {answer.reason or 'no reason given'}\n{warnings}")
    storage.write_json(path, said)


def answer(run: FlowRun, said: Approval) -> str:
    """Give a waiting run its answer; returns the warnings it is about.

    Raises:
        InputError: the run does not wait for one.
    """
    if run.state is None or not run.state.is_paused():
        state = run.state.name if run.state else "new"
        raise InputError(f"run {run.name}: is {state} and waits for no answer; {_who_waits()}")
    checks = next((entry.shards() for entry in ledger.entries(str(run.id)) if entry.step == "validate"), None)
    with get_client(sync_client=True) as client:
        for _ in range(RESUME_TRIES):
            result = client.resume_flow_run(run.id, run_input=said.model_dump())
            if result.status == SetStateStatus.ACCEPT:
                break
            time.sleep(RESUME_PAUSE_S)  # the run is suspended a moment before its question is there
        else:
            reason = getattr(result.details, "reason", None) or result.status.value
            raise InputError(f"run {run.name}: Prefect did not take the answer: {reason}; look at its page, or try again")
    return describe(checks) if checks else ""


def _who_waits() -> str:
    """The runs that wait for an answer, in words."""
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=paused, limit=20)
    named = [f"{one.name} ({str(one.id)[:8]})" for one in runs if one.parent_task_run_id is None]
    return f"these wait for one: {', '.join(named)}" if named else "no run does"


def describe(checks: ShardSet) -> str:
    """The warnings of a corpus that the gate let through, for people; empty if there are none."""
    from expectations import verdict

    lines = [
        f"  {dataset}: {one.expectation} on {one.column!r}: {verdict.describe(one)}"
        for dataset, results in verdict.read_sections(checks.file("validation.json"))
        for one in results
        if not one.success and one.severity == "warning"
    ]
    return (
        "\n".join([f"The gate has {len(lines)} warnings:", *lines, f"The page: {checks.file('validation.html')}"])
        if lines
        else ""
    )


def _ask(checks: ShardSet, warnings: str, config: RunConfig) -> Approval:
    """Suspend this run until there is an answer, or give the answer if this is the run going on after it."""
    # the same question has the same key, so that its answer is found; after a no, a retry asks anew
    key = f"{checks.version}-{len(ledger.decisions(ledger.current_run()))}"
    form = Approval.with_initial_data(description=f"```\n{warnings}\n```")
    log.warning(
        "%s\nThis run waits for an answer: on its Prefect page (Resume), or gristmill approve %s", warnings, flow_run_id()[:8]
    )
    try:
        return suspend_flow_run(wait_for_input=form, timeout=int(config.approval.timeout_hours * 3600), key=key)
    except ValidationError:  # asked before, and tried again after the time for an answer had run out
        ledger.decide(ledger.current_run(), {"decision": "unanswered", "by": "nobody", "reason": "", "warnings": warnings})
        return _ask(checks, warnings, config)


def _record(said: dict[str, str]) -> None:
    if track := tracking.current():
        track.tags({f"approval.{name}": value for name, value in said.items()})
