"""Prefect and MLflow on a real PostgreSQL instead of SQLite."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from backends import Postgres
from served_mill import STEPS, Mill, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(700, func_only=True)]
NUM_FLOWS, NUM_TASKS = 3, 300
# of a database that is too slow for its clients, and of a server that could not answer
TROUBLE = re.compile(
    r"database is locked|Traceback|TimeoutError|retryable status code|HTTP 5\d\d|\b50[0234] (Internal|Bad|Service|Gateway)"
)


def on_postgres(postgres: Postgres) -> dict[str, str]:
    """The settings of a mill whose two servers keep their state there."""
    postgres.create("prefect", "mlflow")
    return {"GRISTMILL_PREFECT_DATABASE": postgres.url("prefect"), "GRISTMILL_MLFLOW_DATABASE": postgres.url("mlflow")}


def test_the_pipeline_runs_with_both_servers_on_postgres(new_mill: Callable[..., Mill], postgres: Postgres) -> None:
    mill = new_mill(on_postgres(postgres))
    said = mill.run()
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    run_id = mill.newest_run()
    assert mill.states(run_id) == dict.fromkeys(STEPS, "Completed")
    assert not list(mill.home.rglob("*.db"))
    for name, table in (("prefect", "task_run"), ("mlflow", "runs")):
        assert postgres.ask(name, f"SELECT count(*) FROM {table}")[0][0] >= len(STEPS)
    assert mill.cli("down").returncode == 0  # before the database goes


def test_three_flows_of_three_hundred_tasks_at_once_end_without_an_error(
    new_mill: Callable[..., Mill], postgres: Postgres, tmp_path: Path
) -> None:
    mill = new_mill({**on_postgres(postgres), "GRISTMILL_QUEUES": "none"})
    started = mill.cli("up")
    assert started.returncode == 0, started.stdout + started.stderr + mill.logs()
    quiet = {
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_HOME": str(tmp_path),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment = mill.env | quiet | {"PREFECT_API_URL": mill.api, "MLFLOW_TRACKING_URI": mill.mlflow_url}
    logs = [tmp_path / f"flow-{number}.log" for number in range(NUM_FLOWS)]
    processes = []
    for log in logs:
        with log.open("w") as sink:
            command = [sys.executable, str(Path(__file__).with_name("many_tasks.py")), log.stem, str(NUM_TASKS)]
            processes.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=sink, stderr=sink))
    said = {log.stem: (process.wait(400), log.read_text()) for process, log in zip(processes, logs, strict=True)}
    print([text.splitlines()[-1] for _, text in said.values()])
    said |= {path.stem: (0, path.read_text()) for path in (mill.home / "logs").glob("*.log")}
    assert {"flow-0", "prefect", "mlflow"} <= set(said)
    for name, (code, text) in said.items():
        assert code == 0, f"{name}: {text[-2000:]}"
        assert not (found := TROUBLE.search(text)), f"{name}: {text[max(0, found.start() - 500) : found.end() + 500]}"
    # what tasks did reaches the server as events, which it writes down some time after the flows have ended
    query, whole = "SELECT state_type, count(*) FROM task_run GROUP BY 1", [("COMPLETED", NUM_FLOWS * NUM_TASKS)]
    wait_until(lambda: postgres.ask("prefect", query) == whole, 240, "every task run written down as completed")
    assert postgres.ask("prefect", "SELECT state_type, count(*) FROM flow_run GROUP BY 1") == [("COMPLETED", NUM_FLOWS)]
    assert postgres.ask("mlflow", "SELECT count(*) FROM metrics") == [(NUM_FLOWS * NUM_TASKS,)]
    assert mill.cli("down").returncode == 0  # before the database goes
