"""With an auth file both servers ask for the password, and everything of ours answers with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow.exceptions import MlflowException
from served_mill import CURATED, Mill, free_port, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600, func_only=True)]


def test_both_servers_refuse_who_has_no_password_and_serve_who_has(
    new_mill: Callable[..., Mill], auth_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill = new_mill({"GRISTMILL_AUTH_FILE": str(auth_file)})
    user, password = mill.login or ("", "")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    said = mill.run(flow="curate")
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    states = mill.states(mill.newest_run())
    assert {states[step] for step in CURATED} == {"Completed"}
    assert {run.data.tags.get("step") for run in mill.tracked(mill.newest_run())} >= set(CURATED)
    assert user in said.stdout and password not in said.stdout + said.stderr

    for url in (f"{mill.api}/admin/version", f"{mill.api}/flow_runs/count", f"{mill.mlflow_url}/api/2.0/mlflow/experiments/get"):
        post = url.endswith("count")
        for login in (None, (user, "another password"), ("another", password)):
            answer = httpx.request("POST" if post else "GET", url, auth=login, json={} if post else None, trust_env=False)
            assert answer.status_code == 401, f"{url} {login}"
    assert mill.ask("/admin/version")
    for url in (f"{mill.api}/health", f"{mill.mlflow_url}/health"):
        assert httpx.get(url, trust_env=False).status_code == 200

    for words in (("status",), ("doctor",), ("up",)):
        done = mill.cli(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "healthy" in done.stdout
    assert not [process for process in psutil.process_iter(["cmdline"]) if password in " ".join(process.info["cmdline"] or ())]

    port = free_port()
    elsewhere = {
        "GRISTMILL_PREFECT_API_URL": mill.api,
        "GRISTMILL_MLFLOW_URL": mill.mlflow_url,
        "GRISTMILL_WORKER_HEALTH_PORT": str(port),
    }
    command = [str(Path(sys.executable).with_name("gristmill")), "host", "cpu"]
    with subprocess.Popen(command, env=mill.env | elsewhere, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_until(lambda: _well(f"http://127.0.0.1:{port}/health") or worker.poll() is not None, 90, "a worker's health")
            assert worker.poll() is None and "worker" in psutil.Process(worker.pid).cmdline()
        finally:
            worker.terminate()

    tracked = len(mill.tracked(mill.newest_run()))
    experiment = mill.mlflow.get_experiment_by_name("gristmill")
    old = mill.mlflow.create_run(experiment.experiment_id, start_time=1_000).info.run_id
    mill.mlflow.set_terminated(old, end_time=2_000)
    mill.extra["GRISTMILL_KEEP_RUNS_DAYS"] = "1"
    tidied = mill.cli("tidy")
    assert tidied.returncode == 0 and tidied.stdout == "mlflow: runs removed that ended more than 1 days ago: 1\n", tidied.stderr
    with pytest.raises(MlflowException, match="not found"):
        mill.mlflow.get_run(old)
    assert len(mill.tracked(mill.newest_run())) == tracked > 0

    stranger = Mill(mill.home, mill.config, mill.prefect_port, mill.mlflow_port)
    refused = stranger.cli("up")
    assert refused.returncode == 2 and "GRISTMILL_AUTH_FILE" in refused.stderr and "Traceback" not in refused.stderr


def _well(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
