"""A human at the gate: a run with warnings waits without holding anything, and goes on as the answer says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from served_mill import CURATED, PROJECT, PUBLISHED, Mill, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(420, func_only=True)]

ASK = "approval.on_warning=ask"


def doubtful(folder: Path, number: int) -> str:
    """`--set` of a suite of its own with a warning that always comes."""
    raw = json.loads((PROJECT / "expectations" / "published.json").read_text())
    warning = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "num_rows", "min_value": 10**9 + number},
        "severity": "warning",
        "scope": "dataset",
        "note": "Nobody has so many.",
    }
    path = folder / "doubtful.json"
    path.write_text(json.dumps({**raw, "name": "doubtful", "expectations": [*raw["expectations"], warning]}))
    return f"validate.suite={path}"


def waiting(mill: Mill, run_id: str) -> dict[str, Any]:
    """The run when it waits for its answer."""

    def suspended() -> dict[str, Any] | None:
        run = mill.flow_run(run_id)
        assert run["state_type"] not in ("FAILED", "CRASHED", "COMPLETED"), run["state"]
        return run if run["state_name"] == "Suspended" else None

    return dict(wait_until(suspended, 200, f"the question of run {run_id}; {mill.logs()}"))


def processes_of(run_id: str) -> list[psutil.Process]:
    return [
        one
        for one in psutil.process_iter(["environ"])
        if (one.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == run_id.replace("-", "")
    ]


def flow_tags(mill: Mill, run_id: str) -> dict[str, str]:
    [run] = [one for one in mill.tracked(run_id) if one.info.run_name == "flow curate"]
    return dict(run.data.tags) | {"status": run.info.status}


def test_an_approved_run_publishes_and_nobody_is_asked_twice(mill: Mill, undisturbed: str, tmp_path: Path) -> None:
    suite = doubtful(tmp_path, 1)
    run_id = mill.submit(suite, ASK, flow="curate")
    waiting(mill, run_id)
    # it holds neither process nor worker nor cluster while it waits
    wait_until(lambda: not processes_of(run_id), 30, "the end of the waiting run's process")
    assert flow_tags(mill, run_id)["status"] == "SCHEDULED"
    said = mill.cli("rerun", run_id)
    assert said.returncode == 2 and "gristmill approve" in said.stderr

    said = mill.cli("approve", undisturbed)
    name = mill.flow_run(run_id)["name"]
    assert said.returncode == 2 and f"waits for no answer; these wait for one: {name}" in " ".join(said.stderr.split())

    asked = {one["id"] for one in mill.step_runs(run_id)}
    said = mill.cli("approve", run_id[:13], "--reason", "looked at it", "--by", "ada")
    assert said.returncode == 0, said.stderr
    assert "'num_rows': observed" in said.stdout and "approved by ada" in said.stdout
    assert wait_until(lambda: mill.flow_run(run_id)["state_type"] == "COMPLETED", 200, mill.logs())
    went_on = {one["name"]: one["state_name"] for one in mill.step_runs(run_id) if one["id"] not in asked}
    assert set(PUBLISHED) <= set(went_on)
    assert {step: went_on[step] for step in (*CURATED, "validate")} == dict.fromkeys((*CURATED, "validate"), "Cached")
    tags = flow_tags(mill, run_id)
    assert (tags["approval.decision"], tags["approval.by"], tags["approval.reason"]) == ("approved", "ada", "looked at it")
    assert tags["status"] == "FINISHED" and "num_rows" in tags["approval.warnings"]

    said = mill.run(suite, ASK, flow="curate")  # the same data: the answer is known
    assert said.returncode == 0, said.stdout + said.stderr
    assert flow_tags(mill, mill.newest_run())["approval.by"] == "ada"
    assert mill.cli("approve", run_id).returncode == 2


def test_a_refused_run_fails_and_its_retry_asks_again(mill: Mill, undisturbed: str, tmp_path: Path) -> None:
    run_id = mill.submit(doubtful(tmp_path, 2), ASK, flow="curate")
    waiting(mill, run_id)
    said = mill.cli("approve", run_id, "--refuse", "--reason", "too few hosts", "--by", "bob")
    assert said.returncode == 0 and "refused by bob" in said.stdout, said.stderr
    ended = mill.ended(run_id)
    assert ended["state_type"] == "FAILED" and "bob refused this corpus: too few hosts" in ended["state"]["message"]
    assert flow_tags(mill, run_id)["approval.decision"] == "refused"
    assert "publish" not in mill.entries(run_id)

    mill.retry(run_id)
    waiting(mill, run_id)
    # as the form on the run's page sends it
    schema = mill.ask(f"/flow_runs/{run_id}/input/filter", prefix="suspended", limit=10, exclude_keys=[])
    assert "approve" in json.dumps(schema) and "num_rows" in json.dumps(schema)  # what the form asks, and why
    answer = {"run_input": {"approve": True, "reason": "read again", "by": "cy"}}

    def accepted() -> bool:
        sent = httpx.post(f"{mill.api}/flow_runs/{run_id}/resume", json=answer, trust_env=False, timeout=90)
        return sent.status_code != 503 and sent.raise_for_status().json()["status"] == "ACCEPT"  # SQLite was locked: once more

    wait_until(accepted, 30, "the answer taken")
    assert wait_until(lambda: mill.flow_run(run_id)["state_type"] == "COMPLETED", 200, mill.logs())
    assert flow_tags(mill, run_id)["approval.by"] == "cy"


def test_a_question_that_nobody_answered_in_time_fails_the_run_and_its_retry_asks_again(
    mill: Mill, undisturbed: str, tmp_path: Path
) -> None:
    run_id = mill.submit(doubtful(tmp_path, 4), ASK, "approval.timeout_hours=0.012", flow="curate")
    waiting(mill, run_id)
    assert mill.ended(run_id)["state_type"] == "FAILED"
    doctor = mill.cli("doctor")
    assert "1 MLflow runs of ended flows" in doctor.stdout, doctor.stdout
    assert flow_tags(mill, run_id)["status"] == "FAILED"
    mill.retry(run_id)
    waiting(mill, run_id)
    assert mill.cli("approve", run_id, "--reason", "late", "--by", "dee").returncode == 0
    assert wait_until(lambda: mill.flow_run(run_id)["state_type"] == "COMPLETED", 200, mill.logs())
    assert flow_tags(mill, run_id)["approval.by"] == "dee"


def test_a_run_may_be_told_that_warnings_stop_it(mill: Mill, undisturbed: str, tmp_path: Path) -> None:
    said = mill.run(doubtful(tmp_path, 3), "approval.on_warning=stop", flow="curate")
    assert said.returncode == 1 and "warnings stop a run" in said.stderr and "num_rows" in said.stderr
