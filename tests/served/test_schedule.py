"""Flows that run by themselves: deployments, schedules that fire, and training after a new dataset version."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from served_mill import PROJECT, Mill, free_port, wait_until

FLOWS = {"pipeline": "cpu", "curate": "cpu", "recrawl": "cpu", "train": "gpu", "evaluate": "gpu"}


def deployment(mill: Mill, flow: str) -> dict[str, Any]:
    return dict(mill.ask(f"/deployments/name/{flow}/gristmill"))


@pytest.mark.soak
def test_every_flow_is_a_deployment_with_a_schedule_that_is_off(mill: Mill, undisturbed: str) -> None:
    for flow, queue in FLOWS.items():
        found = deployment(mill, flow)
        assert found["description"] and "gristmill" in found["tags"] and found["work_queue_name"] == queue
        assert found["parameters"]["config"]["name"] == "botocore-docs"
        assert "config" in found["parameter_openapi_schema"]["properties"]
        [schedule] = found["schedules"]
        assert schedule["slug"] == "nightly" and not schedule["active"] and schedule["schedule"]["cron"]


@pytest.mark.soak
def test_a_schedule_is_made_listed_and_removed_and_outlives_a_new_deployment(
    mill: Mill, undisturbed: str, tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"name": "mine", "ingest": {"sources": [{"kind": "folder", "path": str(tmp_path)}]}}))
    words = (
        "schedule",
        "curate",
        "--name",
        "weekly",
        "--cron",
        "30 2 * * 1",
        "--timezone",
        "Europe/Berlin",
        "--config",
        str(config),
    )
    said = mill.cli(*words, "--set", "dask.workers=1")
    assert said.returncode == 0, said.stderr
    [line] = [line for line in said.stdout.splitlines() if "weekly" in line]
    assert "30 2 * * 1" in line and "Europe/Berlin" in line and " on " in line and "mine" in line
    assert mill.cli("up").returncode == 0  # which deploys again
    [kept] = [one for one in deployment(mill, "curate")["schedules"] if one["slug"] == "weekly"]
    assert kept["active"] and kept["parameters"]["config"]["dask"]["workers"] == 1
    assert mill.cli("schedule", "curate", "--name", "weekly", "--off").returncode == 0
    shown = mill.cli("schedule", "curate")  # looks, and changes nothing
    assert shown.returncode == 0 and "weekly" in shown.stdout and "recrawl" not in shown.stdout
    for wrong, words in (
        (("train", "--name", "other", "--off"), "has no schedule 'other'"),
        (("--off",), "Name a flow"),
        (("curate", "--cron", "0 3 * * *", "--remove"), "exclude each other"),
        (("curate", "--on", "--off"), "exclude each other"),
    ):
        said = mill.cli("schedule", *wrong)
        assert said.returncode == 2 and words in said.stderr, said.stderr
    [kept] = [one for one in deployment(mill, "curate")["schedules"] if one["slug"] == "weekly"]
    assert not kept["active"] and kept["schedule"]["cron"] == "30 2 * * 1" and kept["parameters"]["config"]["name"] == "mine"
    assert mill.cli("schedule", "curate", "--name", "weekly", "--remove").returncode == 0
    assert [one["slug"] for one in deployment(mill, "curate")["schedules"]] == ["nightly"]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("curate", "--cron", "every night"), "cron 'every night': not an expression"),
        (("curate", "--timezone", "Mars/Olympus"), "time zone 'Mars/Olympus': none of that name"),
        (("curat",), "flow 'curat': there is none of that name"),
        (("curate", "--name", "weekly", "--remove"), "no schedule 'weekly'; there are: nightly"),
        (("curate", "--set", "dask.workers=1"), "--set needs --config"),
    ],
)
def test_a_schedule_that_cannot_be_says_why(mill: Mill, undisturbed: str, words: tuple[str, ...], said: str) -> None:
    done = mill.cli("schedule", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.soak
def test_automations_are_there_switched_off_and_can_be_switched(mill: Mill, undisturbed: str) -> None:
    def state() -> dict[str, bool]:
        return {one["name"]: one["enabled"] for one in mill.ask("/automations/filter", limit=50)}

    assert state() == {"gristmill: train-on-publish": False, "gristmill: crash-the-silent": False}
    assert mill.cli("automate", "crash-the-silent").returncode == 0
    assert mill.cli("up").returncode == 0
    assert state()["gristmill: crash-the-silent"]  # a new deployment leaves it on
    assert mill.cli("automate", "crash-the-silent", "--off").returncode == 0
    assert not state()["gristmill: crash-the-silent"]
    said = mill.cli("automate", "train")
    assert said.returncode == 2 and "train-on-publish" in said.stderr


@pytest.mark.soak
@pytest.mark.timeout(420, func_only=True)
def test_a_run_that_falls_silent_is_crashed_by_the_automation(mill: Mill, undisturbed: str) -> None:
    """Worker and flow end together and no command of ours is given; only the time without a heartbeat is shorter than it ships."""
    [found] = [one for one in mill.ask("/automations/filter", limit=50) if one["name"] == "gristmill: crash-the-silent"]
    shipped = {name: found[name] for name in ("name", "description", "enabled", "trigger", "actions")}
    assert not shipped["enabled"] and shipped["trigger"]["within"] == 300
    put(mill, found["id"], {**shipped, "enabled": True, "trigger": {**shipped["trigger"], "within": 80}})
    try:
        mill.forget(undisturbed, "dedup", "publish")
        run_id = mill.submit(flow="curate")
        flow, worker = mill.flow_process(run_id), mill.server("worker-cpu")
        folder = mill.folder(undisturbed, "dedup")
        wait_until(lambda: any(folder.glob("**/shards/*.json")), 120, f"dedup at work; {mill.logs()}")
        for process in (worker, *worker.children(recursive=True), *flow.children(recursive=True), flow):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert mill.flow_run(run_id)["state_type"] == "RUNNING"
        ended = mill.ended(run_id, 200)
        assert ended["state_type"] == "CRASHED" and "heartbeat" in ended["state"]["message"]
    finally:
        put(mill, found["id"], shipped)
        assert mill.cli("up").returncode == 0
    said = mill.cli("rerun", run_id)
    assert said.returncode == 0, said.stdout + said.stderr
    assert mill.digests(run_id)["publish"] == mill.digests(undisturbed)["publish"]


def put(mill: Mill, automation: str, body: dict[str, Any]) -> None:
    httpx.put(f"{mill.api}/automations/{automation}", json=body, trust_env=False, timeout=30).raise_for_status()


@pytest.mark.soak
@pytest.mark.timeout(600, func_only=True)
def test_a_recrawl_fires_by_its_schedule_and_its_new_version_is_trained_on(mill: Mill, undisturbed: str) -> None:
    began = time.time()
    assert mill.cli("automate", "train-on-publish").returncode == 0
    said = mill.cli("schedule", "recrawl", "--name", "each-minute", "--cron", "* * * * *", "--config", str(mill.config))
    assert said.returncode == 0, said.stderr
    try:
        fired = wait_until(lambda: runs_of(mill, "recrawl"), 150, f"a scheduled run; {mill.logs()}")[0]
    finally:
        assert mill.cli("schedule", "recrawl", "--name", "each-minute", "--remove").returncode == 0
    assert fired["auto_scheduled"] and fired["created_by"]["display_value"] == "each-minute"
    run_id = str(fired["id"])
    assert mill.ended(run_id)["state_name"] == "Completed", mill.logs()
    crawl = mill.manifest(mill.entries(run_id)["crawl"])
    assert crawl["recipe"]["config"]["snapshot"] == fired["expected_start_time"][:19].replace(":", "") + "Z"
    published = mill.entries(run_id)["publish"]
    # the site has not changed: every page is as before, and keeps its id
    assert crawl["digest"] == mill.manifest(mill.entries(undisturbed)["crawl"])["digest"]

    def trained() -> dict[str, Any] | None:
        for run in runs_of(mill, "train"):
            if run["parameters"].get("dataset") == published["path"] and run["created_by"]["type"] == "AUTOMATION":
                return dict(run)
        return None

    training = wait_until(trained, 90, f"training by the automation; {mill.logs()}")
    assert mill.ended(str(training["id"]))["state_name"] == "Completed", mill.logs()
    assert training["parameters"]["config"]["crawl"]["snapshot"] == crawl["recipe"]["config"]["snapshot"]
    made = mill.entries(str(training["id"]))
    assert any(published["version"] in name for name in mill.manifest(made["tokenise"])["recipe"]["inputs"].values())
    assert mill.cli("automate", "train-on-publish", "--off").returncode == 0
    assert time.time() - began < 600


def runs_of(mill: Mill, flow: str) -> list[dict[str, Any]]:
    """Runs of a flow that have begun and that no other flow asked for."""
    asked = mill.ask(
        "/flow_runs/filter",
        flows={"name": {"any_": [flow]}},
        flow_runs={"parent_task_run_id": {"is_null_": True}, "state": {"type": {"not_any_": ["SCHEDULED"]}}},
    )
    return sorted((dict(run) for run in asked if run["created_by"]), key=lambda run: run["expected_start_time"])


@pytest.mark.soak
@pytest.mark.timeout(420, func_only=True)
def test_of_two_trainings_the_second_waits_for_the_first(mill: Mill, undisturbed: str) -> None:
    for seed in (11, 12):
        said = mill.cli(
            "run", "train", "--config", str(mill.config), "--from", undisturbed, "--set", f"pretrain.seed={seed}", "--detach"
        )
        assert said.returncode == 0, said.stderr
    wanted = lambda: [run for run in all_runs(mill, "train") if run["parameters"]["config"]["pretrain"]["seed"] in (11, 12)]  # noqa: E731
    most, waited = 0, False
    while {run["state_type"] for run in wanted()} != {"COMPLETED"}:
        states = [run["state_name"] for run in wanted()]
        assert not {"Failed", "Crashed"} & set(states), mill.logs()
        most, waited = max(most, states.count("Running")), waited or "AwaitingConcurrencySlot" in states
        time.sleep(0.5)
    assert most == 1 and waited


def all_runs(mill: Mill, flow: str) -> list[dict[str, Any]]:
    return [dict(run) for run in mill.ask("/flow_runs/filter", flows={"name": {"any_": [flow]}})]


@pytest.mark.soak
@pytest.mark.timeout(420, func_only=True)
def test_prefect_yaml_deploys_all_flows_for_a_team_on_a_server_of_its_own(mill: Mill, tmp_path: Path) -> None:
    """A bare Prefect server, a work pool, `prefect deploy`, a worker and a run by Prefect's own words alone."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = mill.env | {"PREFECT_HOME": str(tmp_path / "prefect"), "GRISTMILL_HOME": str(tmp_path / "home")}
    client = environment | {"PREFECT_API_URL": api, "GRISTMILL_PREFECT_API_URL": api, "GRISTMILL_CHECKOUT": str(PROJECT)}

    def prefect(*words: str) -> str:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        done = subprocess.run(command, cwd=PROJECT, env=client, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(path: str) -> Any:
        return httpx.get(f"{api}{path}", trust_env=False, timeout=30).raise_for_status().json()

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return bool(ask("/health"))
        return False

    server = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (tmp_path / "log").open("ab") as log:
        started = [subprocess.Popen(server, env=environment, stdout=log, stderr=log)]
        try:
            wait_until(answers, 120, "a bare Prefect server")
            prefect("work-pool", "create", "gristmill", "--type", "process")
            prefect("deploy", "--all")
            for flow, queue in FLOWS.items():
                found = ask(f"/deployments/name/{flow}/gristmill")
                assert found["work_queue_name"] == queue and found["work_pool_name"] == "gristmill" and found["description"]
                assert found["parameters"] == {"config": "demo"} and not found["schedules"]
                one_at_a_time = (found["concurrency_options"] or {}).get("collision_strategy") == "ENQUEUE"
                assert one_at_a_time == (flow in ("train", "recrawl"))
            prefect("deployment", "schedule", "create", "curate/gristmill", "--cron", "0 5 * * *")
            prefect("deploy", "--all")
            [kept] = ask("/deployments/name/curate/gristmill")["schedules"]
            assert kept["active"] and kept["schedule"]["cron"] == "0 5 * * *"  # as somebody has set it
            worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gristmill", "--work-queue", "cpu"]
            started.append(subprocess.Popen(worker, env=client, stdout=log, stderr=log))
            said = prefect("deployment", "run", "curate/gristmill", "--param", f"config={mill.config}", "--watch")
            assert "Completed" in said, said + (tmp_path / "log").read_text()[-3000:]
        finally:
            for process in reversed(started):
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()  # Prefect's own worker once outlived SIGTERM by a minute; what it ran had completed
                    process.wait()
