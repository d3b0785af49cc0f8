"""Training on another machine: two installations that share only the storage and the servers' addresses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served_mill import STEPS, Mill, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900, func_only=True)]


def test_a_gpu_worker_with_a_home_of_its_own_takes_the_training(new_mill: Callable[..., Mill], tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    here = new_mill({"GRISTMILL_STORAGE": shared, "GRISTMILL_QUEUES": "cpu"})
    assert here.cli("up").returncode == 0, here.logs()
    there = new_mill(
        {
            "GRISTMILL_STORAGE": shared,
            "GRISTMILL_QUEUES": "gpu",
            "GRISTMILL_PREFECT_API_URL": here.api,
            "GRISTMILL_MLFLOW_URL": here.mlflow_url,
        }
    )
    with ThreadPoolExecutor(1) as one_more:
        running = one_more.submit(here.run)
        late = {"state": {"name": {"any_": ["Late"]}}}
        wait_until(lambda: here.ask("/flow_runs/filter", flow_runs=late), 150, f"training that nobody takes; {here.logs()}")
        time.sleep(3)  # the command looks once a second
        started = there.cli("up")
        assert started.returncode == 0, started.stdout + started.stderr
        said = running.result()
    assert said.returncode == 0, said.stdout + said.stderr + here.logs() + there.logs()
    assert "waits for a worker on queue `gpu`" in said.stdout
    assert set(json.loads((here.home / "servers.json").read_text())) == {"prefect", "mlflow", "worker-cpu"}
    assert set(json.loads((there.home / "servers.json").read_text())) == {"worker-gpu"}

    run_id = here.newest_run()
    assert here.states(run_id) == dict.fromkeys(STEPS, "Completed")
    by_flow = {here.ask(f"/flows/{run['flow_id']}")["name"]: run for run in here.below(run_id)}
    here_log, there_log = (
        (one.home / "logs" / f"worker-{queue}.log").read_text() for one, queue in ((here, "cpu"), (there, "gpu"))
    )
    for flow, mine, other in (
        ("pipeline", here_log, there_log),
        ("train", there_log, here_log),
        ("evaluate", there_log, here_log),
    ):
        submitted = f"submitting flow run '{by_flow[flow]['id']}'"
        assert submitted in mine and submitted not in other
    tracked = {run.info.run_name: run.data.tags for run in here.tracked(run_id)}
    host = here.entries(run_id)["pretrain"]["host"]
    assert tracked["pretrain"]["process"] == f"{host}:{by_flow['train']['infrastructure_pid']}"
    assert tracked["crawl"]["process"] == f"{host}:{by_flow['pipeline']['infrastructure_pid']}" != tracked["pretrain"]["process"]
    assert tracked["pretrain"]["made.device"] in ("cpu", "cuda") and tracked["pretrain"]["made.device_reason"]
    assert tracked["pretrain"]["made.host"] == host
    assert not (there.home / "store").exists() and not (here.home / "store").exists()
    assert not (there.home / "demo-site").exists() and (here.home / "demo-site").exists()
